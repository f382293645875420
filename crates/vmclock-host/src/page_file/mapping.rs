// SPDX-License-Identifier: MIT OR Apache-2.0
//! The writable mapping of a page file.
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
}

// SAFETY: the mapping belongs to the process, not to a thread, and all access to it is through atomics.
unsafe impl Send for MappedPage {}
// SAFETY: a shared reference gives a `&Page` and nothing else, and a `Page` is accessed through atomics only.
unsafe impl Sync for MappedPage {}

impl MappedPage {
    /// Maps the first [`LEN`] bytes of a file, which must be there for as long as the page is accessed.
    pub(super) fn of(file: impl AsFd) -> io::Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice replaces no other.
        let memory = unsafe { mmap(null_mut(), LEN, access, MapFlags::SHARED, file, 0) }?;
        let memory = NonNull::new(memory.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { memory })
    }
}

impl Deref for MappedPage {
    type Target = Page;

    fn deref(&self) -> &Page {
        // SAFETY: the mapping is longer than the structure, aligned to a memory page, writable, there until `self` is
        // dropped, and accessed by this process through this reference only. A file that is cut short meanwhile is a
        // signal (SIGBUS), not undefined behaviour.
        unsafe { Page::from_ptr(self.memory.as_ptr()) }
    }
}

impl Drop for MappedPage {
    fn drop(&mut self) {
        // SAFETY: mapped by us with this very length, and nothing refers to it any more.
        // An error would mean that it is not mapped, which is what is wanted.
        let _ = unsafe { munmap(self.memory.as_ptr().cast(), LEN) };
    }
}
