// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest memory that the page is in.

use std::error::Error;
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::Ordering;

use vm_memory::bitmap::BitmapSlice;
use vm_memory::{Address, Bytes, GuestAddress, VolatileMemoryError, VolatileSlice};
pub use vmclock_core::page::PageMemory;

/// The shortest region, and what it has to be aligned to.
pub const PAGE_LEN: u64 = 0x1000;

/// The region that a page begins, for which the guest may read any word at any moment.
pub trait Region: PageMemory {
    /// Its length in bytes, as the page states it: 0x1000 or 0x10000.
    fn region_len(&self) -> u64;

    /// Loads four little-endian bytes at an aligned offset.
    fn load_u32(&self, offset: u64, order: Ordering) -> Result<u32, Self::Error>;
}

/// A region of any guest memory, by a pointer to that (a reference, an `Arc`): all of rust-vmm's guest memories are
/// `Bytes<GuestAddress>`.
///
/// ```
/// use vm_memory::{GuestAddress, GuestMemoryMmap};
/// use vmclock_vmm::memory::GuestRegion;
///
/// let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 1 << 20)])?;
/// assert!(GuestRegion::new(&memory, GuestAddress(0xff000), 0x1000).is_ok());
/// assert!(GuestRegion::new(&memory, GuestAddress(0xff000), 0x10000).is_err()); // it ends before
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct GuestRegion<M> {
    memory: M,
    address: GuestAddress,
    len: u64,
}

/// Why a region cannot hold a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum RegionError {
    /// Neither 4 KiB nor 64 KiB.
    Length(u64),
    /// Its address is no multiple of what it has to be.
    Unaligned {
        /// Where it begins.
        address: u64,
        /// The length, of a region of guest memory; a page's, of a mapping.
        alignment: u64,
    },
    /// Not all of it is guest memory.
    Outside {
        /// The first address that is not.
        address: u64,
    },
}

impl fmt::Display for RegionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Length(len) => {
                write!(f, "a region of {len:#x} bytes: it must be 0x1000 or, for guests with such pages, 0x10000")
            }
            Self::Unaligned { address, alignment } => {
                write!(f, "a region at {address:#x} is not aligned to {alignment:#x} bytes, as it must be")
            }
            Self::Outside { address } => {
                write!(f, "there is no guest memory at {address:#x}, where the region is to be")
            }
        }
    }
}

impl Error for RegionError {}

impl<M> GuestRegion<M>
where
    M: Deref,
    M::Target: Bytes<GuestAddress>,
{
    /// A region of 4 KiB or 64 KiB, all of which is guest memory.
    pub fn new(memory: M, address: GuestAddress, len: u64) -> Result<Self, RegionError> {
        if !is_length(len) {
            return Err(RegionError::Length(len));
        }
        if !address.raw_value().is_multiple_of(len) {
            return Err(RegionError::Unaligned { address: address.raw_value(), alignment: len });
        }
        for offset in (0..len).step_by(8) {
            let outside = RegionError::Outside { address: address.raw_value().saturating_add(offset) };
            let word = address.checked_add(offset).ok_or(outside)?;
            memory.load::<u64>(word, Ordering::Relaxed).map_err(|_| outside)?;
        }
        Ok(Self { memory, address, len })
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

    fn at(&self, offset: u64) -> GuestAddress {
        // Inside the region, all of which was checked.
        GuestAddress(self.address.raw_value() + offset)
    }
}

impl<M, E> PageMemory for GuestRegion<M>
where
    M: Deref,
    M::Target: Bytes<GuestAddress, E = E>,
    E: Error + Send + Sync + 'static,
{
    type Error = E;

    fn store_u32(&self, offset: u64, value: u32, order: Ordering) -> Result<(), E> {
        self.memory.store(value.to_le(), self.at(offset), order)
    }

    fn store_u64(&self, offset: u64, value: u64, order: Ordering) -> Result<(), E> {
        self.memory.store(value.to_le(), self.at(offset), order)
    }
}

impl<M, E> Region for GuestRegion<M>
where
    M: Deref,
    M::Target: Bytes<GuestAddress, E = E>,
    E: Error + Send + Sync + 'static,
{
    fn region_len(&self) -> u64 {
        self.len
    }

    fn load_u32(&self, offset: u64, order: Ordering) -> Result<u32, E> {
        self.memory.load(self.at(offset), order).map(u32::from_le)
    }
}

/// A region by its mapping in the monitor, for one that keeps it apart from its guest's memory: `VolatileSlice` is what
/// rust-vmm has for that, with or without a bitmap of what is dirty.
///
/// ```
/// use vm_memory::{MmapRegion, VolatileMemory};
/// use vmclock_vmm::memory::HostRegion;
///
/// let mapping = MmapRegion::<()>::new(0x1000)?;
/// assert!(HostRegion::new(mapping.as_volatile_slice()).is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct HostRegion<'a, B = ()> {
    mapping: VolatileSlice<'a, B>,
}

impl<'a, B: BitmapSlice> HostRegion<'a, B> {
    /// All of a mapping of 4 KiB or 64 KiB, which begins at a page's start.
    pub fn new(mapping: VolatileSlice<'a, B>) -> Result<Self, RegionError> {
        let address = mapping.ptr_guard().as_ptr().addr() as u64;
        match mapping.len() as u64 {
            len if !is_length(len) => Err(RegionError::Length(len)),
            _ if !address.is_multiple_of(PAGE_LEN) => Err(RegionError::Unaligned { address, alignment: PAGE_LEN }),
            _ => Ok(Self { mapping }),
        }
    }
}

/// Whether a region may have this length, in bytes.
pub(crate) const fn is_length(len: u64) -> bool {
    len == PAGE_LEN || len == 16 * PAGE_LEN
}

#[allow(clippy::cast_possible_truncation)] // offsets are below 64 KiB
impl<B: BitmapSlice> PageMemory for HostRegion<'_, B> {
    type Error = VolatileMemoryError;

    fn store_u32(&self, offset: u64, value: u32, order: Ordering) -> Result<(), VolatileMemoryError> {
        self.mapping.store(value.to_le(), offset as usize, order)
    }

    fn store_u64(&self, offset: u64, value: u64, order: Ordering) -> Result<(), VolatileMemoryError> {
        self.mapping.store(value.to_le(), offset as usize, order)
    }
}

#[allow(clippy::cast_possible_truncation)] // offsets are below 64 KiB
impl<B: BitmapSlice> Region for HostRegion<'_, B> {
    fn region_len(&self) -> u64 {
        self.mapping.len() as u64
    }

    fn load_u32(&self, offset: u64, order: Ordering) -> Result<u32, VolatileMemoryError> {
        self.mapping.load(offset as usize, order).map(u32::from_le)
    }
}

impl<M: Region + ?Sized> Region for &M {
    fn region_len(&self) -> u64 {
        (**self).region_len()
    }

    fn load_u32(&self, offset: u64, order: Ordering) -> Result<u32, M::Error> {
        (**self).load_u32(offset, order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{GuestMemoryMmap, MmapRegion, VolatileMemory};

    #[test]
    fn a_mapping_has_to_fit() {
        let mapping = MmapRegion::<()>::new(0x2_0000).expect("a mapping");
        let region = |offset, len| HostRegion::new(mapping.get_slice(offset, len).expect("inside")).map(|_| ());
        assert_eq!((region(0x1000, 0x1000), region(0, 0x1_0000)), (Ok(()), Ok(())));
        assert_eq!(region(0, 0x2000), Err(RegionError::Length(0x2000)));
        assert!(matches!(region(0x800, 0x1000), Err(RegionError::Unaligned { alignment: PAGE_LEN, .. })));

        let region = HostRegion::new(mapping.get_slice(0x1000, 0x1000).expect("inside")).expect("fits");
        region.store_u64(0x10, 0x0102_0304_0506_0708, Ordering::Relaxed).expect("inside");
        assert_eq!(region.load_u32(0x14, Ordering::Relaxed).expect("inside"), 0x0102_0304);
        assert_eq!(mapping.as_volatile_slice().load::<u8>(0x1010, Ordering::Relaxed).expect("inside"), 8);
        assert!(region.store_u32(0x1000, 0, Ordering::Relaxed).is_err());
    }

    #[test]
    fn a_region_has_to_fit() {
        // With a hole in between.
        let memory =
            GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x1_8000), (GuestAddress(0x1_c000), 0x2_4000)]);
        let memory = memory.expect("memory");
        let region =
            |address, len| GuestRegion::new(&memory, GuestAddress(address), len).map(|region| region.address().0);
        assert_eq!(region(0x1_7000, 0x1000), Ok(0x1_7000));
        assert_eq!(region(0x2_0000, 0x1_0000), Ok(0x2_0000));
        assert_eq!(region(0x1_0000, 0x1_0000), Err(RegionError::Outside { address: 0x1_8000 }));
        assert_eq!(region(0x1_8000, 0x1000), Err(RegionError::Outside { address: 0x1_8000 }));
        assert_eq!(region(0x4_0000, 0x1000), Err(RegionError::Outside { address: 0x4_0000 }));
        assert_eq!(region(0x1_0800, 0x1000), Err(RegionError::Unaligned { address: 0x1_0800, alignment: 0x1000 }));
        assert_eq!(region(0, 0x2000), Err(RegionError::Length(0x2000)));
        assert!(region(u64::MAX - 0xfff, 0x1000).is_err());
    }
}
