// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! Regions in rust-vmm's guest memory.

use std::sync::atomic::Ordering;

use vm_memory::{
    Bytes, GuestAddress, GuestAddressSpace, GuestMemory, GuestMemoryError, Permissions, VolatileMemory,
    VolatileMemoryError,
};

use super::{checked, PageMemory, Region, RegionError, PAGE_LEN};

/// A page at an address in guest memory, by whatever leads to that: a reference, an `Arc`, or a `GuestMemoryAtomic`,
/// whose newest map is taken for each word. A bitmap of what is dirty has each word that is written.
///
/// ```
/// use vm_memory::{GuestAddress, GuestMemoryMmap};
/// use vmclock_vmm::VmClockPage;
///
/// let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 1 << 20)])?;
/// assert!(VmClockPage::new(&memory, GuestAddress(0xff000), 0x1000).is_ok());
/// assert!(VmClockPage::new(&memory, GuestAddress(0xff000), 0x10000).is_err()); // it ends before
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct VmClockPage<M> {
    memory: M,
    address: GuestAddress,
    len: u64,
}

impl<M: GuestAddressSpace> VmClockPage<M> {
    /// A region of 4 KiB or 64 KiB, aligned to its length, all of which is guest memory.
    pub fn new(memory: M, address: GuestAddress, len: u64) -> Result<Self, RegionError> {
        let len = checked(address.0, len, len.max(1))?;
        #[allow(clippy::cast_possible_truncation)] // one of two small lengths
        let is_inside = memory.memory().check_range(address, len as usize, Permissions::ReadWrite);
        if is_inside {
            Ok(Self { memory, address, len })
        } else {
            Err(RegionError::Outside { address: address.0, len })
        }
    }

    /// Where it begins.
    pub const fn address(&self) -> GuestAddress {
        self.address
    }

    /// How long it is.
    #[allow(clippy::len_without_is_empty)] // never
    pub const fn len(&self) -> u64 {
        self.len
    }

    const fn at(&self, offset: u64) -> GuestAddress {
        // Inside the region, all of which was checked.
        GuestAddress(self.address.0 + offset)
    }
}

impl<M: GuestAddressSpace> PageMemory for VmClockPage<M> {
    type Error = GuestMemoryError;

    #[inline]
    fn store_u32(&self, offset: u64, value: u32, order: Ordering) -> Result<(), GuestMemoryError> {
        self.memory.memory().store(value.to_le(), self.at(offset), order)
    }

    #[inline]
    fn store_u64(&self, offset: u64, value: u64, order: Ordering) -> Result<(), GuestMemoryError> {
        self.memory.memory().store(value.to_le(), self.at(offset), order)
    }
}

impl<M: GuestAddressSpace> Region for VmClockPage<M> {
    fn region_len(&self) -> u64 {
        self.len
    }

    fn load_u32(&self, offset: u64, order: Ordering) -> Result<u32, GuestMemoryError> {
        self.memory.memory().load(self.at(offset), order).map(u32::from_le)
    }
}

/// A region by its mapping in the monitor, for one that keeps it apart from its guest's memory: an `MmapRegion`, which it
/// owns, or a `VolatileSlice` of another's, with or without a bitmap of what is dirty.
///
/// ```
/// use vm_memory::MmapRegion;
/// use vmclock_vmm::memory::HostRegion;
///
/// let mapping = MmapRegion::<()>::new(0x1000)?;
/// assert!(HostRegion::new(mapping).is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct HostRegion<V> {
    mapping: V,
}

impl<V: VolatileMemory> HostRegion<V> {
    /// All of a mapping of 4 KiB or 64 KiB, which begins at a page's start.
    pub fn new(mapping: V) -> Result<Self, RegionError> {
        let address = mapping.as_volatile_slice().ptr_guard().as_ptr().addr() as u64;
        checked(address, mapping.len() as u64, PAGE_LEN)?;
        Ok(Self { mapping })
    }

    /// The mapping: its address is what a hypervisor's memory slot needs.
    pub const fn mapping(&self) -> &V {
        &self.mapping
    }
}

#[allow(clippy::cast_possible_truncation)] // offsets are below 64 KiB
impl<V: VolatileMemory> PageMemory for HostRegion<V> {
    type Error = VolatileMemoryError;

    #[inline]
    fn store_u32(&self, offset: u64, value: u32, order: Ordering) -> Result<(), VolatileMemoryError> {
        self.mapping.as_volatile_slice().store(value.to_le(), offset as usize, order)
    }

    #[inline]
    fn store_u64(&self, offset: u64, value: u64, order: Ordering) -> Result<(), VolatileMemoryError> {
        self.mapping.as_volatile_slice().store(value.to_le(), offset as usize, order)
    }
}

#[allow(clippy::cast_possible_truncation)] // offsets are below 64 KiB
impl<V: VolatileMemory> Region for HostRegion<V> {
    fn region_len(&self) -> u64 {
        self.mapping.len() as u64
    }

    fn load_u32(&self, offset: u64, order: Ordering) -> Result<u32, VolatileMemoryError> {
        self.mapping.as_volatile_slice().load(offset as usize, order).map(u32::from_le)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap, MmapRegion};

    #[test]
    fn a_mapping_has_to_fit() {
        let mapping = MmapRegion::<()>::new(0x2_0000).expect("a mapping");
        let region = |offset, len| HostRegion::new(mapping.get_slice(offset, len).expect("inside")).map(|_| ());
        assert_eq!((region(0x1000, 0x1000), region(0, 0x1_0000)), (Ok(()), Ok(())));
        assert_eq!(region(0, 0x2000), Err(RegionError::Length(0x2000)));
        assert!(matches!(region(0x800, 0x1000), Err(RegionError::Unaligned { alignment: PAGE_LEN, .. })));

        let region = HostRegion::new(MmapRegion::<()>::new(0x1000).expect("a mapping")).expect("fits, and is owned");
        region.store_u64(0x10, 0x0102_0304_0506_0708, Ordering::Relaxed).expect("inside");
        assert_eq!(region.load_u32(0x14, Ordering::Relaxed).expect("inside"), 0x0102_0304);
        assert_eq!(region.mapping().as_volatile_slice().load::<u8>(0x10, Ordering::Relaxed).expect("inside"), 8);
        assert!(region.store_u32(0x1000, 0, Ordering::Relaxed).is_err());
    }

    #[test]
    fn a_region_has_to_fit() {
        // With a hole in between.
        let memory =
            GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x1_8000), (GuestAddress(0x1_c000), 0x2_4000)]);
        let memory = memory.expect("memory");
        let region =
            |address, len| VmClockPage::new(&memory, GuestAddress(address), len).map(|region| region.address().0);
        let outside = |address, len| Err(RegionError::Outside { address, len });
        assert_eq!(region(0x1_7000, 0x1000), Ok(0x1_7000));
        assert_eq!(region(0x2_0000, 0x1_0000), Ok(0x2_0000));
        assert_eq!(region(0x1_0000, 0x1_0000), outside(0x1_0000, 0x1_0000));
        assert_eq!(region(0x1_8000, 0x1000), outside(0x1_8000, 0x1000));
        assert_eq!(region(0x4_0000, 0x1000), outside(0x4_0000, 0x1000));
        assert_eq!(region(0x1_0800, 0x1000), Err(RegionError::Unaligned { address: 0x1_0800, alignment: 0x1000 }));
        assert_eq!((region(0, 0x2000), region(0, 0)), (Err(RegionError::Length(0x2000)), Err(RegionError::Length(0))));
        assert!(region(u64::MAX - 0xfff, 0x1000).is_err());
    }

    #[test]
    fn a_map_that_is_replaced_is_followed() {
        let map = |len| GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), len)]).expect("memory");
        let memory = GuestMemoryAtomic::new(map(0x2000));
        let region = VmClockPage::new(memory.clone(), GuestAddress(0x1000), 0x1000).expect("inside");
        region.store_u32(0x10, 1, Ordering::Relaxed).expect("inside");
        memory.lock().expect("unlocked").replace(map(0x4000));
        assert_eq!(region.load_u32(0x10, Ordering::Relaxed).expect("inside"), 0, "other memory");
        memory.lock().expect("unlocked").replace(map(0x1000));
        assert!(region.store_u32(0x10, 1, Ordering::Relaxed).is_err(), "it was unplugged");
    }
}
