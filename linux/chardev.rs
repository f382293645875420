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
use vmclock_core::abi::{Flags, Words};
use vmclock_core::page::Page;

use crate::attributes::ATTRIBUTES;
use crate::clock::{patiently, Clock};
use crate::device::Device;
use crate::upstream::miscdevice::{MiscDevice, NewArea, UserBuffer, Waiter};
use crate::upstream::sysfs::Groups;

/// The clock as a device node.
pub(crate) struct CharDevice(pub(crate) Arc<Device>);

/// An open file.
pub(crate) struct OpenFile {
    clock: Arc<Clock>,
    /// What was last read from it.
    seen: Seen,
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        self.clock.closed();
    }
}

impl MiscDevice for CharDevice {
    type OpenFile = OpenFile;

    const ATTRIBUTES: &'static Groups<Self> = &ATTRIBUTES;

    fn open(&self) -> Result<OpenFile> {
        let clock = self.0.clock.clone();
        clock.opened();
        let file = OpenFile { clock, seen: Seen::nothing() };
        self.0.awaited();
        Ok(file)
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
        let (update, copied) = patiently!(Update::last_of(clock.page(), copy).ok_or(EAGAIN))?;
        copied?;
        file.seen.note(&update);
        Ok(count)
    }

    fn mmap(file: &OpenFile, area: &NewArea<'_>) -> Result {
        if file.clock.is_gone() {
            return Err(ENODEV);
        }
        if !area.vma().readable() || area.vma().writable() {
            return Err(EROFS);
        }
        // As of a file system without programs.
        if area.vma().executable() {
            return Err(EPERM);
        }
        // Nor may mprotect(2) change that later.
        area.vma().try_clear_maywrite()?;
        area.vma().try_clear_mayexec()?;
        if area.len() != PAGE_SIZE || area.offset() != 0 {
            return Err(EINVAL);
        }
        let frame = file.clock.region().frame().ok_or(ENODEV)?;
        // SAFETY: the area is one page long, and the frame is the region's, which is at least as long, and not the
        // kernel's own memory.
        unsafe { area.io_remap(frame) }
    }

    fn poll(file: &OpenFile, waiter: &Waiter<'_>) -> c_uint {
        let clock = &*file.clock;
        // First, so that what happens from here on wakes.
        waiter.wait_for(&clock.updates);
        if clock.is_gone() {
            return bindings::POLLHUP | bindings::POLLERR;
        }
        match Update::last_of(clock.page(), || ()) {
            // There will be no notification: whoever waits would do so for ever.
            Some((update, ())) if !clock.notifies(update.flags) => bindings::POLLHUP,
            Some((update, ())) if file.seen.is(&update) => 0,
            // Something new, or about to be.
            _ => bindings::POLLIN | bindings::POLLRDNORM,
        }
    }
}

/// An update of a page, as it is told from all others.
#[derive(Clone, Copy)]
pub(crate) struct Update {
    /// Sequence count, marker and generation. The count alone would not do: where a machine is restored, it may be the
    /// same by chance.
    words: [u64; 3],
    flags: Flags,
}

impl Update {
    /// The page's last one, and what `with` gives between two loads of the sequence count. None while the page is being
    /// updated.
    #[inline]
    pub(crate) fn last_of<T>(page: &Page, with: impl FnMut() -> T) -> Option<(Self, T)> {
        let (words, given) = page.try_some_words_with::<{ Words::OF_UPDATES }, T>(with)?;
        let [marker, flags, .., generation] = words.changing;
        Some((Self { words: [words.seq_count.into(), marker, generation], flags: Flags(flags) }, given))
    }
}

/// The update of a page that was seen last.
pub(crate) struct Seen([Atomic<u64>; 3]);

impl Seen {
    /// No page is like this.
    pub(crate) fn nothing() -> Self {
        Self([Atomic::new(u64::MAX), Atomic::new(0), Atomic::new(0)])
    }

    #[inline]
    pub(crate) fn note(&self, update: &Update) {
        for (place, value) in self.0.iter().zip(update.words) {
            place.store(value, Relaxed);
        }
    }

    /// What two threads note at the same time may be mixed, and is then like no page.
    pub(crate) fn is(&self, update: &Update) -> bool {
        self.0.iter().zip(update.words).all(|(place, value)| place.load(Relaxed) == value)
    }
}
