// SPDX-License-Identifier: MIT OR Apache-2.0
//! How far `CLOCK_REALTIME` is from UTC, with bounds.

use std::fmt;

use vmclock_core::event::Epoch;
use vmclock_core::leap::LeapStatus;
use vmclock_core::time::{Time, Utc};

/// How far `CLOCK_REALTIME` is ahead of UTC, in nanoseconds: the truth is between `low` and `high`, both included.
/// Negative: it is behind.
///
/// ```
/// use vmclock_agent::measure::Ahead;
/// let hours_behind = Ahead { low: -7_200_000_000_100, high: -7_199_999_999_900 };
/// assert!(hours_behind.certainly_off_by_more_than(10_000_000));
/// assert!(!hours_behind.may_be_right());
/// assert!(Ahead { low: -40, high: 60 }.may_be_right());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ahead {
    /// At least so far ahead.
    pub low: i128,
    /// At most so far ahead.
    pub high: i128,
}

impl Ahead {
    /// The middle of the interval.
    pub const fn middle(self) -> i128 {
        self.low.saturating_add((self.high.saturating_sub(self.low)) / 2)
    }

    /// Half the interval's width, rounded up.
    pub const fn uncertainty(self) -> i128 {
        (self.high.saturating_sub(self.low).saturating_add(1)) / 2
    }

    /// Whether the clock is off by more than so many nanoseconds, whatever the true value within the interval is.
    pub const fn certainly_off_by_more_than(self, nanos: i128) -> bool {
        self.low > nanos || self.high < -nanos
    }

    /// Whether the interval contains zero.
    pub const fn may_be_right(self) -> bool {
        self.low <= 0 && 0 <= self.high
    }
}

impl fmt::Display for Ahead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ns ± {} ns", self.middle(), self.uncertainty())
    }
}

/// One comparison of `CLOCK_REALTIME` with a source.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Measured {
    /// How far `CLOCK_REALTIME` was ahead of UTC, the source's error bounds and the width of the sample included.
    pub ahead: Ahead,
    /// What `CLOCK_REALTIME` showed, in UTC as POSIX counts it.
    pub realtime: Time<Utc>,
    /// The source's maximum error, in ± nanoseconds.
    pub max_error: u64,
    /// The source's estimated error, in ± nanoseconds; the maximum error where it states none.
    pub estimated_error: u64,
    /// Whether the source itself is synchronized.
    pub synchronized: bool,
    /// TAI-UTC and the leap second that is announced.
    pub leap: LeapStatus,
    /// The machine's epoch, where the source is a page.
    pub epoch: Option<Epoch>,
}
