// SPDX-License-Identifier: MIT OR Apache-2.0
//! What goes with a guest to another host or into a file.

use std::fmt;

use vmclock_core::abi::{ParseError, Snapshot, STRUCTURE_LEN};
use vmclock_core::calibration::Calibration;
use vmclock_core::time::{Tai, Time};

use crate::lineage::Lineage;

/// The version that is written. Older ones are read.
const VERSION: u32 = 1;

/// How markers and generations are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Identities {
    /// Never used before, and not to be guessed.
    Unpredictable(Lineage),
    /// The old value and one.
    Counting,
}

impl Identities {
    pub(crate) fn next(&mut self, old: u64, fresh: u64) -> u64 {
        match self {
            Self::Unpredictable(lineage) => lineage.next(fresh),
            Self::Counting => old.wrapping_add(1),
        }
    }
}

/// A device's saved state: plain data, with a version. With the feature `serde` it can be written by any of serde's formats; it
/// has the key of the markers and generations to come, so it is as secret as the guest's memory.
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct State {
    version: u32,
    /// The page's words. Its sequence count is even: it is what an update in progress was about to say.
    page: Vec<u64>,
    identities: Identities,
}

/// Why a state cannot be taken up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StateError {
    /// It is of a newer version of this crate.
    Version {
        /// What it says.
        found: u32,
        /// The newest that is known.
        known: u32,
    },
    /// Its page has another number of words.
    Length(usize),
    /// What is in it is no page.
    Page(ParseError),
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the saved state of the VMClock device cannot be restored: ")?;
        match self {
            Self::Version { found, known } => write!(
                f,
                "it is of version {found}, and the newest known here is {known}; restore it with a newer monitor"
            ),
            Self::Length(words) => write!(f, "its page has {words} words, not {}; it is damaged", STRUCTURE_LEN / 8),
            Self::Page(error) => write!(f, "{error}; it is damaged"),
        }
    }
}

impl std::error::Error for StateError {}

impl State {
    pub(crate) fn of(page: &Snapshot, identities: Identities) -> Self {
        let words = page
            .to_bytes()
            .chunks_exact(8)
            .map(|word| word.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
            .collect();
        Self { version: VERSION, page: words, identities }
    }

    /// Its version.
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// What the guest's counter would be at `time` had it never stopped, and how far off that may be, in ± nanoseconds of time: a
    /// destination sets the guest's offset to this minus its own counter at that moment, so that the guest's counter goes on
    /// as if nothing had happened. The destination's own error in knowing `time` comes on top. `None` where the state has no time.
    ///
    /// However well that succeeds, the page's bounds stay what they are: they are about the counter that the guest then has.
    pub fn guest_counter_at(&self, time: Time<Tai>) -> Option<(u64, u128)> {
        let (page, _) = self.open().ok()?;
        let calibration = Calibration::from_snapshot(&page, page.counter_id).ok()?;
        let counter = calibration.counter_at(Time::from_raw(time.raw()))?;
        Some((counter, calibration.max_error_at(counter)?))
    }

    pub(crate) fn open(&self) -> Result<(Snapshot, Identities), StateError> {
        if self.version != VERSION {
            return Err(StateError::Version { found: self.version, known: VERSION });
        }
        if self.page.len() != STRUCTURE_LEN / 8 {
            return Err(StateError::Length(self.page.len()));
        }
        let bytes: Vec<u8> = self.page.iter().flat_map(|word| word.to_le_bytes()).collect();
        let page = Snapshot::from_prefix(&bytes).map_err(StateError::Page)?;
        Ok((page, self.identities))
    }
}
