// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! The memory that the page is in.
//!
//! | memory | what it is |
//! |---|---|
//! | `VmClockPage` | an address in rust-vmm's guest memory (feature `vm-memory`) |
//! | `HostRegion` | rust-vmm's mapping of it in the monitor, owned or borrowed (feature `vm-memory`) |
//! | [`HostPage`] | any other mapping of it in the monitor |
//! | your own [`Region`] | whatever stores words: two stores, a load, and a length |

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::Ordering;

pub use vmclock_core::page::{Page, PageMemory};

#[cfg(feature = "vm-memory")]
mod rust_vmm;

#[cfg(feature = "vm-memory")]
pub use rust_vmm::{HostRegion, VmClockPage};

/// The shortest region, and what it has to be aligned to.
pub const PAGE_LEN: u64 = 0x1000;

/// The region that a page begins, for which the guest may read any word at any moment.
///
/// It has to be memory that host and guest share in the clear: where guests have encrypted memory (SEV, SEV-SNP, TDX, Arm's
/// realms), not the guest's private memory, of which the host's stores are lost or fault.
pub trait Region: PageMemory {
    /// Its length in bytes, as the page states it: 0x1000 or 0x10000.
    fn region_len(&self) -> u64;

    /// Loads four little-endian bytes at an aligned offset.
    fn load_u32(&self, offset: u64, order: Ordering) -> Result<u32, Self::Error>;
}

impl<M: Region + ?Sized> Region for &M {
    fn region_len(&self) -> u64 {
        (**self).region_len()
    }

    fn load_u32(&self, offset: u64, order: Ordering) -> Result<u32, M::Error> {
        (**self).load_u32(offset, order)
    }
}

/// Why a region cannot hold a page.
///
/// ```
/// use vmclock_vmm::memory::RegionError;
/// assert!(RegionError::Length(0x2000).to_string().contains("0x2000"));
/// ```
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
        /// Its first address.
        address: u64,
        /// Its length.
        len: u64,
    },
}

impl fmt::Display for RegionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Length(len) => {
                write!(f, "a region of {len:#x} bytes: it must be 0x1000 or, for guests with such pages, 0x10000")
            }
            Self::Unaligned { address, alignment } => {
                write!(f, "a region at {address:#x}: it must be aligned to {alignment:#x} bytes")
            }
            Self::Outside { address, len } => {
                write!(f, "a region of {len:#x} bytes at {address:#x}: not all of that is guest memory")
            }
        }
    }
}

impl Error for RegionError {}

/// Whether a region may have this length, in bytes.
pub(crate) const fn is_length(len: u64) -> bool {
    len == PAGE_LEN || len == 16 * PAGE_LEN
}

/// The region's length, if a region at this address may have it.
pub(crate) const fn checked(address: u64, len: u64, alignment: u64) -> Result<u64, RegionError> {
    if !is_length(len) {
        return Err(RegionError::Length(len));
    }
    if address % alignment != 0 {
        return Err(RegionError::Unaligned { address, alignment });
    }
    Ok(len)
}

/// A region by what leads to its mapping in the monitor, which it owns: a reference, or the owner of a mapping that
/// derefs to the [`Page`] at its start ([`Page::from_ptr`] makes one of a pointer).
///
/// ```
/// use vmclock_vmm::memory::{HostPage, Page};
///
/// let page = Box::new(Page::new()); // your mapping, really
/// assert!(HostPage::new(page, 0x1000).is_ok());
/// assert!(HostPage::new(&Page::new(), 0x800).is_err());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct HostPage<P> {
    page: P,
    len: u64,
}

impl<P: Deref<Target = Page>> HostPage<P> {
    /// The page at the start of a region of 4 KiB or 64 KiB.
    pub fn new(page: P, len: u64) -> Result<Self, RegionError> {
        Ok(Self { page, len: checked(0, len, PAGE_LEN)? })
    }

    /// What leads to the page.
    pub const fn page(&self) -> &P {
        &self.page
    }
}

impl<P: Deref<Target = Page>> PageMemory for HostPage<P> {
    type Error = Infallible;

    #[inline]
    fn store_u32(&self, offset: u64, value: u32, order: Ordering) -> Result<(), Infallible> {
        self.page.store_u32(offset, value, order)
    }

    #[inline]
    fn store_u64(&self, offset: u64, value: u64, order: Ordering) -> Result<(), Infallible> {
        self.page.store_u64(offset, value, order)
    }
}

impl<P: Deref<Target = Page>> Region for HostPage<P> {
    fn region_len(&self) -> u64 {
        self.len
    }

    fn load_u32(&self, offset: u64, order: Ordering) -> Result<u32, Infallible> {
        Ok(self.page.load_u32(offset, order))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_page_is_written_by_words() {
        let region = HostPage::new(Box::new(Page::new()), 0x1_0000).expect("a length");
        let words = [(0x00, 1), (0x04, 2), (0x08, 3), (0x0c, 4)];
        for (offset, value) in words {
            assert_eq!(region.store_u32(offset, value, Ordering::Relaxed), Ok(()));
        }
        assert_eq!(words.map(|(offset, _)| region.load_u32(offset, Ordering::Relaxed)), [Ok(1), Ok(2), Ok(3), Ok(4)]);
        assert_eq!(region.store_u64(0x10, 7 << 32 | 5, Ordering::Relaxed), Ok(()));
        assert_eq!(region.load_u32(0x14, Ordering::Relaxed), Ok(7));
        assert_eq!((region.page().sequence(), region.region_len()), (4, 0x1_0000));
        for len in [0, 0x800, 0x2000, 0x2_0000] {
            assert_eq!(HostPage::new(&Page::new(), len).err(), Some(RegionError::Length(len)));
        }
    }
}
