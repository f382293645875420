// SPDX-License-Identifier: GPL-2.0
//! `/dev/vmclockN`: a consistent read(2), a read-only mmap(2) of the page, and a poll(2) that reports updates.
//!
//! Each open file keeps the clock alive, so that it can outlive the device.

use kernel::bindings;
use kernel::ffi::c_uint;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::Arc;
use vmclock_core::abi::Snapshot;

use crate::attributes::ATTRIBUTES;
use crate::clock::{read_timeout, timed_out, Clock};
use crate::upstream::miscdevice::{MiscDevice, NewArea, UserBuffer, Waiter};
use crate::upstream::sysfs::Groups;

/// A sequence count that no page has.
const NEVER_READ: u64 = u64::MAX;

/// The clock as a device node.
pub(crate) struct CharDevice(pub(crate) Arc<Clock>);

impl CharDevice {
    pub(crate) fn page(&self) -> Result<Snapshot> {
        self.0.snapshot()
    }
}

/// An open file.
pub(crate) struct OpenFile {
    clock: Arc<Clock>,
    /// The sequence count of what was last read from it.
    seen: Atomic<u64>,
}

impl MiscDevice for CharDevice {
    type OpenFile = OpenFile;

    const ATTRIBUTES: &'static Groups<Self> = &ATTRIBUTES;

    fn open(&self) -> Result<OpenFile> {
        Ok(OpenFile { clock: self.0.clone(), seen: Atomic::new(NEVER_READ) })
    }

    fn read(file: &OpenFile, to: &UserBuffer) -> Result<usize> {
        let clock = &*file.clock;
        if clock.is_gone() {
            return Err(ENODEV);
        }
        let position = usize::try_from(to.position()).map_err(|_| EINVAL)?;
        if position >= PAGE_SIZE {
            return Ok(0);
        }
        let (from, left) = clock.region().bytes_from(position).ok_or(EINVAL)?;
        let count = to.len().min(PAGE_SIZE - position).min(left);
        // SAFETY: `from` has `count` bytes. They may change meanwhile, which is for the sequence count to find out.
        let copy = || unsafe { to.copy(from, count) };
        let (words, copied) = clock.page().words_with(copy, read_timeout()).map_err(timed_out)?;
        copied?;
        file.seen.store(words.seq_count.into(), Relaxed);
        Ok(count)
    }

    fn mmap(file: &OpenFile, area: &NewArea<'_>) -> Result {
        if file.clock.is_gone() {
            return Err(ENODEV);
        }
        if !area.vma().readable() || area.vma().writable() {
            return Err(EROFS);
        }
        // Nor may mprotect(2) make it writable later.
        area.vma().try_clear_maywrite()?;
        if area.len() != PAGE_SIZE || area.offset() != 0 {
            return Err(EINVAL);
        }
        let frame = file.clock.region().frame().ok_or(ENODEV)?;
        // SAFETY: the area is one page long, and the frame is the region's, which is at least as long, and not the kernel's own memory.
        unsafe { area.io_remap(frame) }
    }

    fn poll(file: &OpenFile, waiter: &Waiter<'_>) -> c_uint {
        let clock = &*file.clock;
        // First, so that what happens from here on wakes.
        waiter.wait_for(&clock.updates);
        if clock.is_gone() {
            return bindings::POLLHUP | bindings::POLLERR;
        }
        match clock.page().snapshot(|| false) {
            // There will be no notification: whoever waits would do so for ever.
            Ok(page) if !clock.notifies(&page) => bindings::POLLHUP,
            Ok(page) if u64::from(page.seq_count) == file.seen.load(Relaxed) => 0,
            // Something new, or about to be.
            _ => bindings::POLLIN | bindings::POLLRDNORM,
        }
    }
}
