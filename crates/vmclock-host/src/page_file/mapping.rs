// SPDX-License-Identifier: MIT OR Apache-2.0
//! The writable mapping of a page file, safe against its file being cut short.
//!
//! Whoever can write a page's file can cut it, a guest's monitor too; a store beyond its end is SIGBUS, which would end
//! the pages of all guests. A handler maps a page of zeros there instead, which nobody else has, and the mapping says
//! that it is lost. Faults elsewhere go to the handler that was there before.
#![allow(unsafe_code)]

use std::io;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::ptr::{null_mut, NonNull};

use rustix::mm::{mmap, munmap, MapFlags, ProtFlags};
use vmclock_core::page::Page;

use super::LEN;

/// A page mapped for writing.
#[derive(Debug)]
pub struct MappedPage {
    memory: NonNull<u8>,
    guard: sigbus::Guard,
}

// SAFETY: the mapping belongs to the process, not to a thread, and all access to it is through atomics.
unsafe impl Send for MappedPage {}
// SAFETY: a shared reference gives a `&Page` and nothing else, and a `Page` is accessed through atomics only.
unsafe impl Sync for MappedPage {}

impl MappedPage {
    /// Maps the first [`LEN`] bytes of a file.
    pub(crate) fn of(file: impl AsFd) -> io::Result<Self> {
        sigbus::install()?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice replaces no other.
        let memory = unsafe { mmap(null_mut(), LEN, access, MapFlags::SHARED, file, 0) }?;
        let memory = NonNull::new(memory.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let Some(guard) = sigbus::Guard::of(memory) else {
            // SAFETY: mapped just now with this very length, and nothing refers to it.
            let _ = unsafe { munmap(memory.as_ptr().cast(), LEN) };
            return Err(io::Error::new(io::ErrorKind::OutOfMemory, "too many pages are mapped"));
        };
        Ok(Self { memory, guard })
    }

    /// Whether its file was cut short, and what was written since is nowhere.
    pub(crate) fn is_lost(&self) -> bool {
        self.guard.is_lost()
    }
}

impl Deref for MappedPage {
    type Target = Page;

    fn deref(&self) -> &Page {
        // SAFETY: the mapping is longer than the structure, aligned to a memory page, writable, there until `self` is
        // dropped, and accessed by this process through this reference only. Where its file is cut short, the handler of
        // SIGBUS puts other memory in its place.
        unsafe { Page::from_ptr(self.memory.as_ptr()) }
    }
}

impl Drop for MappedPage {
    fn drop(&mut self) {
        // First: once it is unmapped, the address may be another thread's new mapping, which is not ours to guard.
        self.guard.release();
        // SAFETY: mapped by us with this very length, and nothing refers to it any more.
        // An error would mean that it is not mapped, which is what is wanted.
        let _ = unsafe { munmap(self.memory.as_ptr().cast(), LEN) };
    }
}

mod sigbus {
    use std::io;
    use std::ptr::NonNull;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::OnceLock;

    use rustix::mm::{mmap_anonymous, MapFlags, ProtFlags};

    use super::LEN;

    /// More pages than a service has guests.
    const MOST: usize = 32_768;
    /// Set in an entry whose page was replaced; addresses of pages are even.
    const LOST: usize = 1;

    /// Addresses of the guarded pages; 0 is a free entry. What was never used takes no memory.
    static GUARDED: [AtomicUsize; MOST] = [const { AtomicUsize::new(0) }; MOST];
    /// Where a free entry is looked for.
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    /// The handler of SIGBUS before ours.
    static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

    /// An entry of the table.
    #[derive(Debug)]
    pub(super) struct Guard(&'static AtomicUsize);

    impl Guard {
        /// Guards the page at `memory`; `None` where too many are.
        pub(super) fn of(memory: NonNull<u8>) -> Option<Self> {
            let first = NEXT.fetch_add(1, Ordering::Relaxed);
            let entries = (0..MOST).map(|index| &GUARDED[first.wrapping_add(index) % MOST]);
            let address = memory.as_ptr().expose_provenance();
            let is_free =
                |entry: &&AtomicUsize| entry.compare_exchange(0, address, Ordering::AcqRel, Ordering::Relaxed).is_ok();
            entries.into_iter().find(is_free).map(Self)
        }

        pub(super) fn is_lost(&self) -> bool {
            self.0.load(Ordering::Acquire) & LOST != 0
        }

        /// From now on the page is not guarded.
        pub(super) fn release(&self) {
            self.0.store(0, Ordering::Release);
        }
    }

    /// Installs the handler, once per process.
    pub(super) fn install() -> io::Result<()> {
        static INSTALLED: OnceLock<bool> = OnceLock::new();
        let is_installed = *INSTALLED.get_or_init(|| {
            // SAFETY: all-zero bytes are a valid `sigaction`: default action, empty mask, no flags.
            let mut previous: libc::sigaction = unsafe { std::mem::zeroed() };
            // SAFETY: only reads the current action into a place of its type.
            if unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut previous) } != 0 {
                return false;
            }
            // Before the handler can run, it must know where to pass other faults to.
            let _ = PREVIOUS.set(previous);
            let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = handle;
            // SAFETY: all-zero bytes are a valid `sigaction`.
            let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
            (action.sa_sigaction, action.sa_flags) =
                (handler as libc::sighandler_t, libc::SA_SIGINFO | libc::SA_ONSTACK);
            // SAFETY: `handle` has the signature that SA_SIGINFO asks for and does only what is async-signal-safe.
            unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) == 0 }
        });
        if is_installed {
            Ok(())
        } else {
            Err(io::Error::other("SIGBUS cannot be caught"))
        }
    }

    extern "C" fn handle(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo, which only this handler has.
        let siginfo = unsafe { &*info };
        // SAFETY: where the signal was not raised by a fault, this reads other members of a union of plain numbers.
        let fault = unsafe { siginfo.si_addr() } as usize;
        let is_fault = siginfo.si_code > 0;
        if !(is_fault && replace(fault)) {
            pass_on(signal, info, context);
        }
    }

    /// Puts zeros in the place of the guarded page that has this address. Says whether there is one.
    fn replace(fault: usize) -> bool {
        let has = |entry: &&AtomicUsize| {
            let address = entry.load(Ordering::Acquire) & !LOST;
            address != 0 && (address..address + LEN).contains(&fault)
        };
        let Some(entry) = GUARDED.iter().find(has) else { return false };
        let address = entry.fetch_or(LOST, Ordering::AcqRel) & !LOST;
        let memory = std::ptr::with_exposed_provenance_mut(address);
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::FIXED | MapFlags::PRIVATE);
        // SAFETY: the page at `address` is one of our own mappings, as it is in the table, and stays writable.
        unsafe { mmap_anonymous(memory, LEN, access, flags) }.is_ok()
    }

    fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        let Some(previous) = PREVIOUS.get() else { return };
        match previous.sa_sigaction {
            // Ours steps aside, and the fault, taken again, meets the default action. An ignored fault is fatal too.
            libc::SIG_DFL | libc::SIG_IGN => {
                // SAFETY: an action that sigaction itself gave us.
                unsafe { libc::sigaction(signal, previous, std::ptr::null_mut()) };
            }
            handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
                // SAFETY: with SA_SIGINFO, this is what the number is.
                let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                    unsafe { std::mem::transmute(handler) };
                handler(signal, info, context);
            }
            handler => {
                // SAFETY: without SA_SIGINFO, this is what the number is.
                let handler: extern "C" fn(libc::c_int) = unsafe { std::mem::transmute(handler) };
                handler(signal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use vmclock_core::abi::Snapshot;
    use vmclock_core::page::Writer;

    use super::*;

    #[test]
    fn a_file_that_is_cut_short_ends_nobody() {
        let whole = tempfile::tempfile().expect("a file");
        let cut = tempfile::tempfile().expect("a file");
        let map = |file: &std::fs::File| {
            file.set_len(LEN as u64).expect("long enough");
            MappedPage::of(file).expect("mapped")
        };
        let mut other = Writer::create(map(&whole), Snapshot::BLANK);
        for _ in 0..3 {
            let mut writer = Writer::create(map(&cut), Snapshot::BLANK);
            assert!(!writer.page().is_lost());
            cut.set_len(0).expect("cut");
            writer.update(|page| page.disruption_marker = 7);
            writer.update(|page| page.disruption_marker = 8);
            assert!(writer.page().is_lost());
        }
        other.update(|page| page.disruption_marker = 9);
        assert!(!other.page().is_lost());
        assert_eq!(other.in_memory().disruption_marker, 9);
    }
}
