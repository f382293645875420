// SPDX-License-Identifier: GPL-2.0
//! The memory of the page: found among a device's resources, checked, and mapped.

use core::mem::offset_of;

use kernel::page::PAGE_SIZE;
use kernel::{device::Core, platform, prelude::*};
use vmclock_core::abi::{Snapshot, STRUCTURE_LEN};
use vmclock_core::page::Page;

use crate::upstream::memremap::{is_system_ram, MemRemap};

/// The shortest region that Linux takes: it ends behind the flags.
const SHORTEST: usize = offset_of!(Snapshot, pad);

/// A mapped region.
///
/// # Invariants
///
/// `memory` has at least `len` and [`STRUCTURE_LEN`] bytes, is aligned to 8, and nothing in the kernel writes it.
pub(crate) struct Region {
    memory: MemRemap,
    start: u64,
    /// How many bytes are the device's.
    len: usize,
}

impl Region {
    /// The device's one range of memory, mapped.
    pub(crate) fn of(pdev: &platform::Device<Core<'_>>) -> Result<Self> {
        let dev = pdev.as_ref();
        let Some(resource) = pdev.resource_by_index(0) else {
            dev_err!(dev, "no memory range in its resources\n");
            return Err(ENODEV);
        };
        if pdev.resource_by_index(1).is_some() {
            dev_err!(dev, "more than one memory range in its resources\n");
            return Err(EINVAL);
        }
        let (start, size) = (resource.start(), resource.size());
        let len = usize::try_from(size).unwrap_or(0);
        if len < SHORTEST || start % 8 != 0 {
            dev_err!(dev, "{size:#x} bytes at {start:#x} cannot hold the page: {SHORTEST:#x}, aligned to 8\n");
            return Err(EINVAL);
        }
        // All of the structure is read at once, and what lies beyond the region is not made use of. Memory is mapped by
        // whole pages in any case: it must not take another one.
        let mapped = len.max(STRUCTURE_LEN);
        if mapped > len && start % PAGE_SIZE as u64 + STRUCTURE_LEN as u64 > PAGE_SIZE as u64 {
            dev_err!(dev, "{size:#x} bytes at {start:#x} are too close to the end of a page of memory\n");
            return Err(EINVAL);
        }
        // What is the kernel's own may hold anything, and must not become mappable.
        if is_system_ram(start, mapped) {
            dev_err!(dev, "{size:#x} bytes at {start:#x} are in this machine's RAM: reserve them there\n");
            return Err(EINVAL);
        }
        // SAFETY: the range is the device's, which we are bound to, and what is beyond it is in the same page, and only
        // read.
        let Some(memory) = (unsafe { MemRemap::new(start, mapped) }) else {
            dev_err!(dev, "cannot map {size:#x} bytes at {start:#x}\n");
            return Err(ENOMEM);
        };
        // INVARIANT: as was checked; and it is not the kernel's RAM.
        Ok(Self { memory, start, len })
    }

    /// The structure at its beginning.
    pub(crate) fn page(&self) -> &Page {
        // SAFETY: by the invariants it is long enough, aligned, and mapped for as long as `self`; it is read by atomics
        // only, but for `copy_to_user`, whose accesses are outside of Rust's memory model.
        unsafe { Page::from_ptr(self.memory.as_ptr()) }
    }

    /// Its bytes from an offset on, and how many there are.
    pub(crate) fn bytes_from(&self, offset: usize) -> Option<(*const u8, usize)> {
        let left = self.len().checked_sub(offset)?;
        Some((self.memory.as_ptr().wrapping_add(offset), left))
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// A copy of the structure, without the fields that are not in the region or, by the page's own size, not present.
    #[inline]
    pub(crate) fn clipped(&self, mut page: Snapshot) -> Snapshot {
        page.size = page.size.min(u32::try_from(self.len).unwrap_or(u32::MAX));
        page.clipped()
    }

    /// Its first page frame, for mappings, if it begins with one.
    pub(crate) fn frame(&self) -> Option<usize> {
        let start = usize::try_from(self.start).ok()?;
        (start % PAGE_SIZE == 0).then_some(start >> kernel::page::PAGE_SHIFT)
    }
}
