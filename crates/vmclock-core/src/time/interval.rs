// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! Error bounds as intervals, and what they say of before and after.

use super::{Scale, Time, Timestamp};

/// Where true time is: nowhere before `earliest`, nowhere after `latest`.
///
/// ```
/// use vmclock_core::time::{Certainty, Interval, Tai, Timestamp};
///
/// let at = |earliest, latest| Interval::<Tai> {
///     earliest: Timestamp::from_nanos(earliest),
///     latest: Timestamp::from_nanos(latest),
/// };
/// assert!(at(10, 20).certainly_before(at(21, 30)));
/// assert_eq!(at(10, 20).is_before(at(15, 30)), Certainty::CannotTell);
/// assert_eq!(at(21, 30).is_before(at(10, 20)), Certainty::No);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interval<S: Scale> {
    /// True time is not before this.
    pub earliest: Timestamp<S>,
    /// True time is not after this.
    pub latest: Timestamp<S>,
}

impl<S: Scale> Interval<S> {
    /// Everything within `error` nanoseconds of `time`, rounded outwards.
    #[inline]
    pub const fn around(time: Time<S>, error: u128) -> Self {
        // An error is at most 2^94 ns: the cast keeps its value, and neither sum can wrap.
        #[allow(clippy::cast_possible_wrap)]
        let error = error as i128;
        Self {
            earliest: Timestamp::from_nanos(time.floor_nanos().wrapping_sub(error)),
            latest: Timestamp::from_nanos(time.ceil_nanos().wrapping_add(error)),
        }
    }

    /// Whether `instant` may be the true time.
    pub fn contains(self, instant: Timestamp<S>) -> bool {
        self.earliest <= instant && instant <= self.latest
    }

    /// From the earliest to the latest instant, in nanoseconds.
    pub fn width_nanos(self) -> u128 {
        self.latest.nanos().abs_diff(self.earliest.nanos())
    }

    /// Whether the two have an instant in common, so that their true times may be the same.
    pub fn overlaps(self, other: Self) -> bool {
        self.earliest <= other.latest && other.earliest <= self.latest
    }

    /// The nanoseconds between the end of the earlier and the start of the later, whichever that is; `None` where they
    /// overlap.
    ///
    /// ```
    /// # use vmclock_core::time::{Interval, Tai, Timestamp};
    /// # let at = |earliest, latest| Interval::<Tai> {
    /// #     earliest: Timestamp::from_nanos(earliest),
    /// #     latest: Timestamp::from_nanos(latest),
    /// # };
    /// assert_eq!(at(10, 20).gap(at(25, 30)), Some(5));
    /// assert_eq!(at(25, 30).gap(at(10, 20)), Some(5));
    /// assert_eq!(at(10, 20).gap(at(20, 30)), None);
    /// ```
    pub fn gap(self, other: Self) -> Option<u128> {
        if self.overlaps(other) {
            return None;
        }
        let (first, second) = if self.latest < other.earliest { (self, other) } else { (other, self) };
        Some(second.earliest.nanos().abs_diff(first.latest.nanos()))
    }

    /// Whether the true time of this is before the true time of `other`.
    pub fn is_before(self, other: Self) -> Certainty {
        if self.latest < other.earliest {
            Certainty::Yes
        } else if self.earliest >= other.latest {
            Certainty::No
        } else {
            Certainty::CannotTell
        }
    }

    /// Whether the true time of this is after the true time of `other`.
    pub fn is_after(self, other: Self) -> Certainty {
        other.is_before(self)
    }

    /// Whether the two have no instant in common, and this is the earlier.
    pub fn certainly_before(self, other: Self) -> bool {
        self.is_before(other).is_yes()
    }

    /// Whether the two have no instant in common, and this is the later.
    pub fn certainly_after(self, other: Self) -> bool {
        other.certainly_before(self)
    }
}

/// The answer to a question about uncertain times.
///
/// ```
/// use vmclock_core::time::Certainty;
/// assert!(!Certainty::CannotTell.is_certain());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[must_use = "an order that nobody asks for decides nothing"]
pub enum Certainty {
    /// It is so.
    Yes,
    /// It is not so.
    No,
    /// The intervals overlap, or are not known.
    CannotTell,
}

impl Certainty {
    /// Whether there is an answer.
    pub const fn is_certain(self) -> bool {
        !matches!(self, Self::CannotTell)
    }

    /// Whether the answer is yes.
    pub const fn is_yes(self) -> bool {
        matches!(self, Self::Yes)
    }
}
