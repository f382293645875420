// SPDX-License-Identifier: MIT OR Apache-2.0
//! The words behind the page, which the guest may write too: the region is the memory of an ivshmem device.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::ptr::null_mut;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use anyhow::{bail, Context, Result};
use rustix::mm::{mmap, MapFlags, ProtFlags};
use vmclock_core::counter;
use vmclock_e2e_guest::{BEACON, END, REGION_LEN, SECOND_PAGE};

/// QEMU's ivshmem device: the vendor is Red Hat.
const VENDOR_AND_DEVICE: [&str; 2] = ["0x1af4", "0x1110"];

/// The region, mapped for as long as the machine runs.
pub(crate) struct Region {
    words: &'static [AtomicU64; REGION_LEN / 8],
}

impl Region {
    /// Finds the device on the PCI bus and maps its memory.
    pub(crate) fn find() -> Result<Self> {
        let path = find_device()?.join("resource2");
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the address is the kernel's to choose, so nothing of ours is replaced.
        let memory = unsafe { mmap(null_mut(), REGION_LEN, protection, MapFlags::SHARED, &file, 0) };
        let memory = memory.with_context(|| format!("cannot map {}", path.display()))?;
        // SAFETY: it is a mapping of that length, never unmapped, aligned to a page; the host, too, changes it by
        // whole words only.
        let words = unsafe { &*memory.cast() };
        Ok(Self { words })
    }

    /// The word at an offset.
    pub(crate) fn word(&self, offset: usize) -> &AtomicU64 {
        &self.words[offset / 8]
    }

    /// Tells our counter to whoever has asked for it: the harness, or `vmclock qemu --second-page`.
    pub(crate) fn answer(&self) {
        for place in [BEACON, SECOND_PAGE] {
            let asked = self.word(place.ask).load(Acquire);
            if asked != self.word(place.answered).load(Relaxed) {
                self.word(place.counter).store(counter::read_ordered(), Relaxed);
                self.word(place.answered).store(asked, Release);
            }
        }
    }

    /// Whether the host has told us to end.
    pub(crate) fn ended(&self) -> bool {
        self.word(END).load(Relaxed) != 0
    }

    pub(crate) fn answer_until_end(&self) {
        while !self.ended() {
            self.answer();
        }
    }
}

fn find_device() -> Result<PathBuf> {
    let folder = "/sys/bus/pci/devices";
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot list {folder}"))?.flatten() {
        let id = |name: &str| std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        if [id("vendor").trim(), id("device").trim()] == VENDOR_AND_DEVICE {
            return Ok(entry.path());
        }
    }
    bail!("there is no ivshmem device on the PCI bus")
}
