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
use vmclock_core::abi::Words;
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
        let (words, copied) = patiently!(Seen::try_words_with(clock.page(), copy).ok_or(EAGAIN))?;
        copied?;
        file.seen.note(&words);
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
        match Seen::try_words_with(clock.page(), || ()) {
            // There will be no notification: whoever waits would do so for ever.
            Some((words, ())) if !clock.notifies(&words.decode()) => bindings::POLLHUP,
            Some((words, ())) if file.seen.is(&words) => 0,
            // Something new, or about to be.
            _ => bindings::POLLIN | bindings::POLLRDNORM,
        }
    }
}

/// What of a page was seen last: sequence count, marker and generation. The count alone would not do: where a machine
/// is restored, it may be the same by chance.
pub(crate) struct Seen([Atomic<u64>; 3]);

impl Seen {
    /// No page is like this.
    pub(crate) fn nothing() -> Self {
        Self([Atomic::new(u64::MAX), Atomic::new(0), Atomic::new(0)])
    }

    /// The words that this is about, with the page's flags, and what `with` gives between two loads of the sequence
    /// count. The others are zero: they need not be loaded. None while the page is being updated.
    #[inline]
    pub(crate) fn try_words_with<T>(page: &Page, with: impl FnMut() -> T) -> Option<(Words, T)> {
        page.try_some_words_with::<{ Words::OF_UPDATES }, T>(with)
    }

    pub(crate) fn note(&self, words: &Words) {
        for (place, value) in self.0.iter().zip(Self::of(words)) {
            place.store(value, Relaxed);
        }
    }

    /// What two threads note at the same time may be mixed, and is then like no page.
    pub(crate) fn is(&self, words: &Words) -> bool {
        self.0.iter().zip(Self::of(words)).all(|(place, value)| place.load(Relaxed) == value)
    }

    fn of(words: &Words) -> [u64; 3] {
        let [marker, .., generation] = words.changing;
        [words.seq_count.into(), marker, generation]
    }
}
