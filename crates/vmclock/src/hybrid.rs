// SPDX-License-Identifier: MIT OR Apache-2.0
//! A hybrid logical clock over bounded time.
//!
//! Hybrid logical clocks (Kulkarni and others, 2014) give timestamps that are ordered as causes and effects are, and
//! are close to the time of day. Over a clock without bounds they can be dragged into the future by one bad clock. Here
//! the physical part is the *earliest* bound of the time:
//!
//! - No stamp is ahead of true time, as long as the bounds of all clocks hold.
//! - A stamp that is later than our latest bound proves that the bounds of some clock don't hold: it is refused.
//! - Of two events, one [certainly before](crate::Interval::certainly_before) the other, the first has the smaller
//!   stamp, on whichever machines they are, and whether or not these have ever talked.
//!
//! Stamps of one clock differ. Those of two machines may be equal, and so may those of two clones: add the machine's
//! number, and make that anew when the [epoch](crate::VmClock::epoch) changes.

use core::fmt;

use vmclock_core::time::{Interval, Tai, Timestamp};

/// A timestamp of a [`HybridClock`]: an earliest bound of TAI, and a count that orders what has the same.
///
/// ```
/// use vmclock::hybrid::Stamp;
/// let stamp = Stamp::from_parts(2_000_000_000_000_000_000, 3);
/// assert_eq!(Stamp::from_bytes(stamp.to_bytes()), stamp);
/// assert_eq!(stamp.to_string(), "2033-05-18T03:33:20.000000000 TAI +3");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Stamp {
    nanos: i64,
    count: u32,
}

impl Stamp {
    /// Before all others.
    pub const MIN: Self = Self { nanos: i64::MIN, count: 0 };

    /// From nanoseconds of TAI since 1970, and the count.
    pub const fn from_parts(nanos: i64, count: u32) -> Self {
        Self { nanos, count }
    }

    /// Nanoseconds of TAI since 1970-01-01 00:00:00 TAI: true time was not before it when the stamp was made.
    pub const fn nanos(self) -> i64 {
        self.nanos
    }

    /// How many stamps before this one had the same nanosecond.
    pub const fn count(self) -> u32 {
        self.count
    }

    /// The physical part.
    pub fn time(self) -> Timestamp<Tai> {
        Timestamp::from_nanos(self.nanos.into())
    }

    /// Twelve bytes whose order, byte by byte, is that of the stamps: for keys, and for other machines.
    #[allow(clippy::cast_sign_loss)] // moved to where the least is zero
    pub fn to_bytes(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        let nanos = (self.nanos ^ i64::MIN) as u64;
        bytes[..8].copy_from_slice(&nanos.to_be_bytes());
        bytes[8..].copy_from_slice(&self.count.to_be_bytes());
        bytes
    }

    /// From [`to_bytes`](Self::to_bytes).
    #[allow(clippy::cast_possible_wrap)]
    pub fn from_bytes(bytes: [u8; 12]) -> Self {
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        let (nanos, count) = bytes.split_at(8);
        #[allow(clippy::cast_possible_truncation)] // of four bytes
        let count = number(count) as u32;
        Self { nanos: number(nanos) as i64 ^ i64::MIN, count }
    }

    /// The next one of the same nanosecond; after four billion, of the next. `None` after the last of all.
    fn next(self) -> Option<Self> {
        match self.count.checked_add(1) {
            Some(count) => Some(Self { count, ..self }),
            None => Some(Self { nanos: self.nanos.checked_add(1)?, count: 0 }),
        }
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} +{}", self.time(), self.count)
    }
}

/// Why there is no stamp.
///
/// ```
/// use vmclock::hybrid::{HybridClock, StampError};
/// use vmclock::mock::MockPage;
/// let page = MockPage::new();
/// page.update(|page| page.flags = vmclock::Flags::NONE);
/// let now = page.clock().now()?;
/// assert_eq!(HybridClock::new().stamp(now.tai_interval()), Err(StampError::NoBounds));
/// # Ok::<(), vmclock::ReadError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum StampError {
    /// The reading has no TAI, or no error bounds.
    NoBounds,
    /// The time is outside the years 1678 to 2262, or all stamps are used up.
    OutOfRange,
    /// A received stamp is later than it can be now: the error bounds of its clock, of ours, or of one between them
    /// don't hold.
    Ahead {
        /// The stamp.
        stamp: Stamp,
        /// Our latest bound.
        latest: Timestamp<Tai>,
    },
}

impl fmt::Display for StampError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBounds => f.write_str("the reading has no TAI or no error bounds: a stamp needs both"),
            Self::OutOfRange => f.write_str("the time does not fit in 64 bits of nanoseconds: the clock is wrong"),
            Self::Ahead { stamp, latest } => write!(
                f,
                "the received stamp {stamp} is ahead of {latest}, the latest that it can be here: \
                 the error bounds of one of the clocks don't hold; compare them"
            ),
        }
    }
}

impl core::error::Error for StampError {}

/// A hybrid logical clock: the last stamp that was made or received. Keep one in each process, behind a lock if threads
/// share it.
///
/// ```
/// use vmclock::hybrid::HybridClock;
/// use vmclock::mock::MockPage;
///
/// let page = MockPage::new();
/// let clock = page.clock(); // in a machine with the device: VmClock::open()?
/// let (mut ours, mut theirs) = (HybridClock::new(), HybridClock::new());
/// let sent = ours.stamp(clock.now()?.tai_interval())?;
/// let received = theirs.receive(sent, clock.now()?.tai_interval())?;
/// assert!(received > sent, "the effect is after its cause, though no time went by");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HybridClock {
    last: Stamp,
}

impl HybridClock {
    /// A clock that has made no stamp.
    pub const fn new() -> Self {
        Self { last: Stamp::MIN }
    }

    /// A clock that continues behind a stamp, as a process that starts again and knows what it had stored.
    pub const fn continuing(last: Stamp) -> Self {
        Self { last }
    }

    /// The last stamp that was made or received.
    pub const fn last(&self) -> Stamp {
        self.last
    }

    /// A stamp for an event here, for a message to be sent: greater than all before. `now` is the
    /// [interval](crate::Reading::tai_interval) of a reading taken for it.
    pub fn stamp(&mut self, now: Option<Interval<Tai>>) -> Result<Stamp, StampError> {
        let now = now.ok_or(StampError::NoBounds)?;
        let earliest = i64::try_from(now.earliest.nanos()).map_err(|_| StampError::OutOfRange)?;
        let next = if earliest > self.last.nanos {
            Stamp { nanos: earliest, count: 0 }
        } else {
            self.last.next().ok_or(StampError::OutOfRange)?
        };
        self.last = next;
        Ok(next)
    }

    /// A stamp for the arrival of a message with a stamp of its own: greater than that and than all before. What is
    /// refused changes nothing.
    pub fn receive(&mut self, stamp: Stamp, now: Option<Interval<Tai>>) -> Result<Stamp, StampError> {
        let latest = now.ok_or(StampError::NoBounds)?.latest;
        if stamp.time() > latest {
            return Err(StampError::Ahead { stamp, latest });
        }
        let mut after = Self { last: self.last.max(stamp) };
        let made = after.stamp(now)?;
        *self = after;
        Ok(made)
    }
}

impl Default for HybridClock {
    fn default() -> Self {
        Self::new()
    }
}
