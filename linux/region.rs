// SPDX-License-Identifier: GPL-2.0
//! The memory of the page: found among a device's resources, checked, and mapped.

use core::ptr::NonNull;

use kernel::bindings;
use kernel::{device::Core, platform, prelude::*};
use vmclock_core::abi::STRUCTURE_LEN;
use vmclock_core::page::Page;

/// A mapped region, at least as long as the structure.
///
/// # Invariants
///
/// `memory` is a mapping of `len` bytes from `memremap`, at least [`STRUCTURE_LEN`] of them, aligned to 8, which lives as long as this.
pub(crate) struct Region {
    memory: NonNull<u8>,
    start: u64,
    len: usize,
}

// SAFETY: it is memory that nothing here writes, and that is read by atomics.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

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
        if len < STRUCTURE_LEN || start % 8 != 0 {
            dev_err!(
                dev,
                "{size:#x} bytes at {start:#x} cannot hold the page: it needs {STRUCTURE_LEN:#x}, aligned to 8\n"
            );
            return Err(EINVAL);
        }
        // What is the kernel's own RAM may hold anything, and must not become mappable.
        // SAFETY: it only looks at the tree of resources.
        let ram = unsafe {
            bindings::region_intersects(
                start,
                len,
                bindings::IORESOURCE_SYSTEM_RAM as usize,
                bindings::IORES_DESC_NONE as usize,
            )
        };
        if ram != bindings::REGION_DISJOINT as kernel::ffi::c_int {
            dev_err!(dev, "{size:#x} bytes at {start:#x} are in this machine's RAM: its firmware must reserve them\n");
            return Err(EINVAL);
        }
        // Cacheable, as the hypervisor's memory is; decrypted, where guests' memory is encrypted, as the hypervisor writes it.
        let flags = bindings::MEMREMAP_WB | bindings::MEMREMAP_DEC;
        // SAFETY: the range is the device's, which we are bound to.
        let memory = unsafe { bindings::memremap(start, len, flags as usize) };
        let Some(memory) = NonNull::new(memory.cast::<u8>()) else {
            dev_err!(dev, "cannot map {size:#x} bytes at {start:#x}\n");
            return Err(ENOMEM);
        };
        // INVARIANT: it was just mapped, and `Drop` unmaps it; mappings keep the alignment within a page.
        Ok(Self { memory, start, len })
    }

    /// The structure at its beginning.
    pub(crate) fn page(&self) -> &Page {
        // SAFETY: by the invariants it is long enough, aligned, and mapped for as long as `self`; it is read by atomics only, but for
        // `copy_to_user`, whose accesses are outside of Rust's memory model.
        unsafe { Page::from_ptr(self.memory.as_ptr()) }
    }

    /// Its bytes from an offset on, and how many there are.
    pub(crate) fn bytes_from(&self, offset: usize) -> Option<(*const u8, usize)> {
        let left = self.len.checked_sub(offset)?;
        Some((self.memory.as_ptr().wrapping_add(offset), left))
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Its first page frame, for mappings, if it begins with one.
    pub(crate) fn frame(&self) -> Option<usize> {
        let start = usize::try_from(self.start).ok()?;
        (start % kernel::page::PAGE_SIZE == 0).then_some(start >> kernel::page::PAGE_SHIFT)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: by the invariants it is from `memremap`, and nobody has it any more.
        unsafe { bindings::memunmap(self.memory.as_ptr().cast()) };
    }
}
