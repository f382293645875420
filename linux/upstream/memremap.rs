// SPDX-License-Identifier: GPL-2.0
//! Memory that is not the kernel's own, mapped as memory.

use core::ptr::NonNull;

use kernel::bindings;

/// Whether any of a physical range is the system's RAM.
pub(crate) fn is_system_ram(start: u64, len: usize) -> bool {
    let (ram, any) = (bindings::IORESOURCE_SYSTEM_RAM as usize, bindings::IORES_DESC_NONE as usize);
    // SAFETY: it only looks at the tree of resources.
    let answer = unsafe { bindings::region_intersects(start, len, ram, any) };
    answer != bindings::REGION_DISJOINT as kernel::ffi::c_int
}

/// A mapping of a physical range.
///
/// # Invariants
///
/// `memory` is a mapping from `memremap`, which lives as long as this.
pub(crate) struct MemRemap {
    memory: NonNull<u8>,
}

// SAFETY: a mapping may be used and unmapped by any thread. What is read and written through it is for its users to
// answer for.
unsafe impl Send for MemRemap {}
// SAFETY: a shared reference gives its address only.
unsafe impl Sync for MemRemap {}

impl MemRemap {
    /// Maps a range cacheable; decrypted, where the memory of guests is encrypted, as it is the hypervisor that writes
    /// it. None if it cannot be mapped.
    ///
    /// # Safety
    ///
    /// The range must be the caller's to map: that of a device which it is bound to.
    pub(crate) unsafe fn new(start: u64, len: usize) -> Option<Self> {
        let flags = bindings::MEMREMAP_WB | bindings::MEMREMAP_DEC;
        // SAFETY: as the caller says.
        let memory = unsafe { bindings::memremap(start, len, flags as usize) };
        // INVARIANT: it was just mapped, and `Drop` unmaps it.
        NonNull::new(memory.cast::<u8>()).map(|memory| Self { memory })
    }

    /// Its first byte. Mappings keep the alignment of physical addresses, up to that of a page.
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.memory.as_ptr()
    }
}

impl Drop for MemRemap {
    fn drop(&mut self) {
        // SAFETY: by the invariants it is from `memremap`, and nobody has it any more.
        unsafe { bindings::memunmap(self.memory.as_ptr().cast()) };
    }
}
