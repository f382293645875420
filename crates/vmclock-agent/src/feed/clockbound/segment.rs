// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory of ClockBound's segment, shared with whoever reads it.
#![allow(unsafe_code)]

use std::io;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::ptr::{null_mut, NonNull};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};

use rustix::mm::{mmap, munmap, MapFlags, ProtFlags};

/// `ShmHeader`, and room for the longest `ClockErrorBound` after it: in native byte order, without holes.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) magic: [AtomicU32; 2],
    /// Bytes in all.
    pub(super) size: AtomicU32,
    /// Of the layout; 0: not usable.
    pub(super) version: AtomicU16,
    /// Odd during an update; 0: nothing was written yet.
    pub(super) generation: AtomicU16,
    pub(super) body: [AtomicU64; 11],
}

/// The size of the longest segment.
pub(super) const MAX_LEN: usize = 104;
const _: () = assert!(size_of::<Segment>() == MAX_LEN && align_of::<Segment>() <= 8);

/// A segment mapped for writing.
#[derive(Debug)]
pub(super) struct Mapped {
    memory: NonNull<Segment>,
}

// SAFETY: the mapping belongs to the process, not to a thread, and all access to it is through atomics.
unsafe impl Send for Mapped {}
// SAFETY: a shared reference gives a `&Segment` and nothing else, and that consists of atomics.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// Maps the beginning of a file. What is accessed must be there for as long as it is.
    pub(super) fn of(file: impl AsFd) -> io::Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice replaces no other.
        let memory = unsafe { mmap(null_mut(), MAX_LEN, access, MapFlags::SHARED, file, 0) }?;
        let memory = NonNull::new(memory.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { memory })
    }
}

impl Deref for Mapped {
    type Target = Segment;

    fn deref(&self) -> &Segment {
        // SAFETY: the mapping is at least as long as the structure, aligned to a memory page, writable, and there until
        // `self` is dropped; any bytes are valid for it, as it consists of atomic integers, and it is accessed as such
        // only. What is in the memory page beyond the file's end are zeros of nobody's; a file that is cut short
        // altogether is a signal (SIGBUS), not undefined behaviour.
        unsafe { self.memory.as_ref() }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: mapped by us with this very length, and nothing refers to it any more.
        // An error would mean that it is not mapped, which is what is wanted.
        let _ = unsafe { munmap(self.memory.as_ptr().cast(), MAX_LEN) };
    }
}
