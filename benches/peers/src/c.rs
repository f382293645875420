// SPDX-License-Identifier: MIT OR Apache-2.0
//! libvmclock, called by loops in C (`c/rounds.c`), which `cargo xtask bench` compiles and links with it.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{ensure, Context};
use libloading::{Library, Symbol};

type Open = unsafe extern "C" fn(*const c_char, *mut *mut c_void) -> c_int;
type Round = unsafe extern "C" fn(*const c_void, u32) -> c_int;

/// The loops, and the clock that they read. It stays open.
pub(crate) struct Rounds {
    now: Round,
    now_unordered: Round,
    interval: Round,
    is_current: Round,
    clock: *mut c_void,
    /// Keeps the functions where they are.
    _library: Library,
}

impl Rounds {
    pub(crate) fn open(library: &Path, page: &Path) -> anyhow::Result<Self> {
        // SAFETY: a library of ours, whose loading runs nothing but what C's and Rust's libraries do.
        let library = unsafe { Library::new(library) }.with_context(|| format!("cannot load {}", library.display()))?;
        let round = |name: &str| -> anyhow::Result<Round> {
            // SAFETY: all of them but `rounds_open` have this type, in `c/rounds.c`.
            let symbol: Symbol<Round> = unsafe { library.get(name.as_bytes()) }?;
            Ok(*symbol)
        };
        // SAFETY: its type in `c/rounds.c`.
        let open: Open = *unsafe { library.get::<Open>(b"rounds_open") }?;
        let path = CString::new(page.as_os_str().as_bytes())?;
        let mut clock = std::ptr::null_mut();
        // SAFETY: a string with a zero at its end, and a place for a pointer.
        let result = unsafe { open(path.as_ptr(), &raw mut clock) };
        ensure!(result == 0, "libvmclock cannot open the page: result {result}");
        Ok(Self {
            now: round("rounds_now")?,
            now_unordered: round("rounds_now_unordered")?,
            interval: round("rounds_interval")?,
            is_current: round("rounds_is_current")?,
            clock,
            _library: library,
        })
    }

    pub(crate) fn now(&self, calls: u32) -> anyhow::Result<()> {
        self.run(self.now, calls)
    }

    pub(crate) fn now_unordered(&self, calls: u32) -> anyhow::Result<()> {
        self.run(self.now_unordered, calls)
    }

    pub(crate) fn interval(&self, calls: u32) -> anyhow::Result<()> {
        self.run(self.interval, calls)
    }

    pub(crate) fn is_current(&self, calls: u32) -> anyhow::Result<()> {
        self.run(self.is_current, calls)
    }

    fn run(&self, round: Round, calls: u32) -> anyhow::Result<()> {
        // SAFETY: the clock that `rounds_open` gave, which nobody closes.
        let result = unsafe { round(self.clock, calls) };
        ensure!(result == 0, "libvmclock gives no time: result {result}");
        Ok(())
    }
}
