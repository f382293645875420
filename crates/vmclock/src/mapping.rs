// SPDX-License-Identifier: MIT OR Apache-2.0
//! The read-only mapping of a page, safe against its file being cut short.
//!
//! A device cannot shrink. A plain file can, and an access to a mapped page beyond the file's end is SIGBUS, which
//! kills the process. For mapped plain files, and only for them, a SIGBUS handler maps a page of zeros in place of
//! the lost one: the reader then finds no page. Faults elsewhere go to the handler that was there before.
#![allow(unsafe_code)]

use std::os::fd::AsFd;
use std::ptr::{null_mut, NonNull};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::mm::{mmap, munmap, MapFlags, ProtFlags};
use vmclock_core::page::Page;

/// A mapped page. Its clones share the mapping, and the last one unmaps it.
#[derive(Clone, Debug)]
pub(crate) struct Mapping {
    /// The start of `memory`, so that a reading need not go through the `Arc`.
    page: NonNull<Page>,
    /// Keeps the page mapped.
    _memory: Arc<Memory>,
}

// SAFETY: the mapping belongs to the process, not to a thread, and all access to it is through atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first page of a device.
    pub(crate) fn of_device(fd: impl AsFd) -> rustix::io::Result<Self> {
        Ok(Self::of(Memory::map(fd)?))
    }

    /// Maps the first page of a plain file, guarded against its being cut short. `NOMEM` when too many are mapped.
    pub(crate) fn of_file(fd: impl AsFd) -> rustix::io::Result<Self> {
        if !sigbus::install() {
            return Err(rustix::io::Errno::NOTSUP);
        }
        let mut memory = Memory::map(fd)?;
        memory.guard = Some(sigbus::guard(memory.start).ok_or(rustix::io::Errno::NOMEM)?);
        Ok(Self::of(memory))
    }

    fn of(memory: Memory) -> Self {
        Self { page: memory.start.cast(), _memory: Arc::new(memory) }
    }

    /// The page.
    #[inline(always)]
    pub(crate) fn page(&self) -> &Page {
        // SAFETY: a page of memory is longer than the structure and aligned, it stays mapped as long as `self` has its
        // `Memory`, which the reference does not outlive, and this process has only this one, read-only, way to it. A
        // lost file behind it is replaced by zeros in the SIGBUS handler.
        unsafe { Page::from_ptr(self.page.as_ptr().cast()) }
    }
}

/// One page of mapped memory. Unmapped when dropped.
#[derive(Debug)]
struct Memory {
    start: NonNull<u8>,
    guard: Option<&'static AtomicUsize>,
}

// SAFETY: the mapping belongs to the process, not to a thread.
unsafe impl Send for Memory {}
// SAFETY: nothing is accessed through a shared `Memory`.
unsafe impl Sync for Memory {}

impl Memory {
    fn map(fd: impl AsFd) -> rustix::io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice replaces no other.
        let start = unsafe { mmap(null_mut(), page_size(), ProtFlags::READ, MapFlags::SHARED, fd, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(rustix::io::Errno::NOMEM)?;
        Ok(Self { start, guard: None })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // First: once it is unmapped, the address may be another thread's new mapping, which is not ours to guard.
        if let Some(guard) = self.guard {
            guard.store(0, Ordering::Release);
        }
        debug_assert!(!sigbus::is_guarded(self.start.as_ptr() as usize), "unmapped while it was guarded");
        // SAFETY: mapped by us with this very length, and nothing refers to it any more.
        // An error would mean that it is not mapped, which is what is wanted.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), page_size()) };
    }
}

fn page_size() -> usize {
    rustix::param::page_size()
}

mod sigbus {
    use super::{page_size, AtomicUsize, MapFlags, NonNull, OnceLock, Ordering, ProtFlags};

    /// Addresses of the guarded pages; 0 is a free entry.
    static GUARDED: [AtomicUsize; 256] = [const { AtomicUsize::new(0) }; 256];

    /// The handler of SIGBUS before ours.
    static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

    /// Takes a free entry for the page at `memory`.
    pub(super) fn guard(memory: NonNull<u8>) -> Option<&'static AtomicUsize> {
        let address = memory.as_ptr() as usize;
        GUARDED.iter().find(|entry| entry.compare_exchange(0, address, Ordering::AcqRel, Ordering::Relaxed).is_ok())
    }

    /// Whether the page at `address` is guarded.
    pub(super) fn is_guarded(address: usize) -> bool {
        address != 0 && GUARDED.iter().any(|entry| entry.load(Ordering::Acquire) == address)
    }

    /// Installs the handler, once per process. Says whether it is installed.
    pub(super) fn install() -> bool {
        static INSTALLED: OnceLock<bool> = OnceLock::new();
        *INSTALLED.get_or_init(|| {
            // SAFETY: all-zero bytes are a valid `sigaction`: default action, empty mask, no flags.
            let mut previous: libc::sigaction = unsafe { std::mem::zeroed() };
            // SAFETY: only reads the current action into a place of its type.
            if unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut previous) } != 0 {
                return false;
            }
            // Before the handler can run, it must know where to pass other faults to.
            let _ = PREVIOUS.set(previous);
            // SAFETY: all-zero bytes are a valid `sigaction`; what matters is set below.
            let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
            let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = handle;
            action.sa_sigaction = handler as libc::sighandler_t;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            // SAFETY: `handle` has the signature that SA_SIGINFO asks for and does only what is async-signal-safe.
            unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) == 0 }
        })
    }

    extern "C" fn handle(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo, which only this handler has.
        let siginfo = unsafe { &*info };
        // SAFETY: where the signal was not raised by a fault, this reads other members of a union of plain numbers.
        let address = unsafe { siginfo.si_addr() } as usize & !(page_size() - 1);
        let raised_by_a_fault = siginfo.si_code > 0;
        if !(raised_by_a_fault && is_guarded(address) && replace_by_zeros(address)) {
            pass_on(signal, info, context);
        }
    }

    fn replace_by_zeros(address: usize) -> bool {
        let memory = std::ptr::with_exposed_provenance_mut(address);
        let flags = MapFlags::FIXED | MapFlags::PRIVATE;
        // SAFETY: the page at `address` is one of our own mappings (it is in `GUARDED`), and stays readable.
        unsafe { rustix::mm::mmap_anonymous(memory, page_size(), ProtFlags::READ, flags) }.is_ok()
    }

    fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        let Some(previous) = PREVIOUS.get() else { return };
        match previous.sa_sigaction {
            // Ours steps aside, and the fault, taken again, meets the default action. An ignored fault is fatal too.
            libc::SIG_DFL | libc::SIG_IGN => {
                // SAFETY: an action that sigaction itself gave us.
                unsafe { libc::sigaction(signal, previous, std::ptr::null_mut()) };
                // A signal that a process sent is not raised again by itself.
                // SAFETY: reads a plain field of the siginfo that the kernel passed.
                if unsafe { (*info).si_code } <= 0 && previous.sa_sigaction == libc::SIG_DFL {
                    // SAFETY: raise is async-signal-safe; the signal is delivered when this handler returns.
                    unsafe { libc::raise(signal) };
                }
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
