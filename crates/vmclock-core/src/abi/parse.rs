// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! Whether bytes are a page.

use core::fmt;

use super::{Snapshot, MAGIC, MIN_REGION_LEN, STRUCTURE_LEN, VERSION};

/// Why some bytes are not a page.
///
/// ```
/// use vmclock_core::abi::{ParseError, Snapshot};
/// assert_eq!(Snapshot::from_prefix(b"VCLK"), Err(ParseError::TooShort { len: 4 }));
/// assert_eq!(Snapshot::from_prefix(&[0; 112]), Err(ParseError::Magic { found: 0 }));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ParseError {
    /// Fewer bytes than a page's header has.
    TooShort {
        /// How many there are.
        len: usize,
    },
    /// The first four bytes are not `VCLK`.
    Magic {
        /// What they are, as a little-endian number.
        found: u32,
    },
    /// A version of the structure that we do not know.
    Version {
        /// The version.
        found: u16,
    },
    /// `size` is smaller than the header, or larger than the bytes that there are.
    Size {
        /// The page's.
        size: u32,
        /// How many bytes there are.
        len: usize,
    },
    /// The sequence count is odd: an update was in progress when these bytes were copied.
    Updating {
        /// The sequence count.
        seq_count: u32,
    },
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooShort { len } => {
                write!(f, "{len} bytes are too few for a VMClock page, whose header alone takes {MIN_REGION_LEN}")
            }
            Self::Magic { found } => {
                write!(f, "magic is {found:#010x}, not {MAGIC:#010x} (\"VCLK\"): this is not a VMClock page")
            }
            Self::Version { found } => {
                write!(f, "version is {found}; only version {VERSION} of the VMClock page is known")
            }
            Self::Size { size, len } => write!(
                f,
                "the page's size field is {size}, which is not between {MIN_REGION_LEN} and the {len} bytes there are"
            ),
            Self::Updating { seq_count } => {
                write!(f, "sequence count {seq_count} is odd: the page was copied during an update")
            }
        }
    }
}

impl core::error::Error for ParseError {}

impl Snapshot {
    /// Decodes the copy of a page that starts with `bytes`, and checks magic, version, size and that the copy was not
    /// taken during an update. For static bytes (a file, a recording); live pages are read by [`page`](crate::page).
    pub fn from_prefix(bytes: &[u8]) -> Result<Self, ParseError> {
        if bytes.len() < MIN_REGION_LEN {
            return Err(ParseError::TooShort { len: bytes.len() });
        }
        let mut structure = [0; STRUCTURE_LEN];
        structure.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        let snapshot = Self::from_bytes(&structure);
        snapshot.validate(bytes.len())?;
        if snapshot.seq_count & 1 != 0 {
            return Err(ParseError::Updating { seq_count: snapshot.seq_count });
        }
        Ok(snapshot.clipped())
    }

    /// Checks the fields that are constant for the lifetime of a device, against the `len` bytes that there really are.
    /// All fields inside `size` must be there; what follows the structure need not be.
    pub fn validate(&self, len: usize) -> Result<(), ParseError> {
        if self.magic != MAGIC {
            return Err(ParseError::Magic { found: self.magic });
        }
        if self.version != VERSION {
            return Err(ParseError::Version { found: self.version });
        }
        let size = self.region_len();
        if size < MIN_REGION_LEN || size.min(STRUCTURE_LEN) > len {
            return Err(ParseError::Size { size: self.size, len });
        }
        Ok(())
    }
}
