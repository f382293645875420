// SPDX-License-Identifier: MIT OR Apache-2.0
//! Time for others: daemons that discipline the clock, and programs that ask for error bounds.
//!
//! | module | what it is |
//! |---|---|
//! | [`sock`] | samples for chrony's `refclock SOCK` and the `sock` source of ntpd-rs |
//! | [`clockbound`] | ClockBound's shared memory segment, which its client library reads |
//! | [`chronyd`] | commands for chronyd: drop what was measured, step |
//! | [`daemons`] | which time daemons run |
//!
//! Nothing here blocks. A feed is given what was measured of `CLOCK_REALTIME`, at once and before the clock is set
//! again, and passes on only what is certain: see [`Feed::update`].

pub mod chronyd;
pub mod clockbound;
pub mod daemons;
pub mod sock;

use std::io;
use std::path::{Path, PathBuf};

use vmclock_core::abi::LeapIndicator;
use vmclock_core::leap::{next_month_start, LeapKind};

use crate::measure::Measured;

/// Whom measurements of `CLOCK_REALTIME` are passed on to.
pub trait Feed: std::fmt::Debug {
    /// What it is called in messages: `chrony /run/chrony.vmclock.sock`.
    fn name(&self) -> &str;

    /// Passes on a measurement, which must be of the clock as it is: not older than the clock's last step.
    ///
    /// Withheld, with the reason for an error, is what is not certain: time of a source that is not synchronized,
    /// with an error above the feed's limit, or within seconds of a leap second.
    fn update(&mut self, measured: &Measured) -> Result<(), FeedError>;

    /// The counter was disrupted, or the machine restored: what was passed on does not hold until the next
    /// [`update`](Self::update).
    fn disrupted(&mut self) -> Result<(), FeedError>;
}

/// Why a measurement was not passed on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FeedError {
    /// The source of the measurement is not synchronized.
    #[error("{name}: nothing passed on: the source of time is not synchronized; `vmclock doctor` says more of it")]
    NotSynchronized {
        /// The feed.
        name: String,
    },
    /// The measurement is less certain than the receiver was told that it would be.
    #[error(
        "{name}: nothing passed on: an error of ± {uncertainty} ns is above the limit of ± {limit} ns: raise the \
         limit, and the error in the receiver's configuration, if that is good enough"
    )]
    TooUncertain {
        /// The feed.
        name: String,
        /// The measurement's error, in ± nanoseconds.
        uncertainty: i128,
        /// The feed's limit, in ± nanoseconds.
        limit: u64,
    },
    /// Around a leap second `CLOCK_REALTIME` is ambiguous.
    #[error("{name}: nothing passed on for some seconds around a leap second")]
    LeapSecond {
        /// The feed.
        name: String,
    },
    /// The measurement is not of the clock as it is now.
    #[error(
        "{name}: nothing passed on: CLOCK_REALTIME has moved by {age} ns since it was measured: measure again, and \
         pass that on before the clock is set"
    )]
    Stale {
        /// The feed.
        name: String,
        /// What `CLOCK_REALTIME` shows less what it showed then, in nanoseconds.
        age: i128,
    },
    /// The measurement is beyond what can be passed on.
    #[error("{name}: nothing passed on: an offset of {ahead} cannot be expressed: set the clock first")]
    OutOfRange {
        /// The feed.
        name: String,
        /// How far ahead the clock is.
        ahead: crate::measure::Ahead,
    },
    /// A setting makes no sense.
    #[error("{name}: {what}")]
    Setting {
        /// The feed.
        name: String,
        /// What is wrong, and what is right.
        what: String,
    },
    /// The system refused.
    #[error("{}: cannot {doing}: {error}{hint}", path.display())]
    Io {
        /// The file or socket.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// The system's error.
        error: io::Error,
        /// What to do, after a colon; or nothing.
        hint: &'static str,
    },
}

/// A function that says what was being done to a path when the system refused.
fn io_error<E: Into<io::Error>>(path: &Path, doing: &'static str) -> impl FnOnce(E) -> FeedError {
    let path = path.to_owned();
    move |error| FeedError::Io { path, doing, error: error.into(), hint: "" }
}

/// Where a measurement is relative to a leap second.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Leap {
    /// None within a day.
    Far,
    /// At the end of this day (UTC), after so many nanoseconds.
    Today(LeapKind, i128),
    /// Within [`LEAP_GUARD`] seconds, before or after.
    Close,
}

/// How many seconds around a leap second `CLOCK_REALTIME` is not trusted. A client of ClockBound uses what it read for
/// 5 s whatever happens.
const LEAP_GUARD: i64 = 10;

impl Leap {
    /// For how many nanoseconds there is certainly none close. `None`: there may be one now.
    fn none_for(self) -> Option<i128> {
        let far = match self {
            Self::Far => 86_400_000_000_000,
            Self::Today(_, to_come) => to_come,
            Self::Close => return None,
        };
        Some(far - i128::from(LEAP_GUARD) * 1_000_000_000)
    }

    /// By the measurement's own, corrected time.
    pub(crate) fn of(measured: &Measured) -> Self {
        let utc = measured.realtime.floor_nanos().saturating_sub(measured.ahead.middle());
        Self::at(measured.leap.indicator, utc)
    }

    /// By UTC, in nanoseconds since 1970.
    fn at(indicator: LeapIndicator, utc: i128) -> Self {
        const DAY: i64 = 86_400;
        const NANOS: i128 = 1_000_000_000;
        let kind = match indicator {
            LeapIndicator::NONE => return Self::Far,
            LeapIndicator::POSITIVE => return Self::Close,
            LeapIndicator::PRE_POSITIVE => Some(LeapKind::Inserted),
            LeapIndicator::PRE_NEGATIVE => Some(LeapKind::Deleted),
            _ => None,
        };
        let Ok(seconds) = i64::try_from(utc.div_euclid(NANOS)) else { return Self::Close };
        let month = next_month_start(seconds);
        let to_come = month.saturating_sub(seconds);
        let just_over = next_month_start(seconds.saturating_sub(LEAP_GUARD)) <= seconds;
        match kind {
            _ if just_over => Self::Close,
            Some(_) if to_come <= LEAP_GUARD => Self::Close,
            Some(kind) if to_come <= DAY => {
                Self::Today(kind, i128::from(month).saturating_mul(NANOS).saturating_sub(utc))
            }
            _ => Self::Far,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::measure::Ahead;
    use vmclock_core::leap::LeapStatus;
    use vmclock_core::time::{Time, Utc};

    /// A good measurement of a clock that showed `realtime` and was so far ahead, ± 500 ns.
    pub(crate) fn measured(realtime: Time<Utc>, ahead: i128) -> Measured {
        Measured {
            ahead: Ahead { low: ahead - 500, high: ahead + 500 },
            realtime,
            max_error: 400,
            estimated_error: 100,
            synchronized: true,
            leap: LeapStatus::UNKNOWN,
            epoch: None,
        }
    }

    #[test]
    fn a_leap_second_is_announced_on_its_day_only_and_nothing_is_said_near_it() {
        const NEW_YEAR: i64 = 1_483_228_800;
        let at = |indicator, seconds: i64, ahead: i128| {
            let measured = measured(Time::from_parts(NEW_YEAR + seconds, 0), ahead);
            Leap::of(&Measured { leap: LeapStatus { indicator, ..LeapStatus::UNKNOWN }, ..measured })
        };
        let inserted = |seconds: i128| Leap::Today(LeapKind::Inserted, seconds * 1_000_000_000);
        let hour = 3_600_000_000_000;
        for (indicator, seconds, ahead, expected) in [
            (LeapIndicator::NONE, -1, 0, Leap::Far),
            (LeapIndicator::PRE_POSITIVE, -86_401, 0, Leap::Far),
            (LeapIndicator::PRE_POSITIVE, -86_400, 0, inserted(86_400)),
            (LeapIndicator::PRE_POSITIVE, -86_400 + 3_600, hour, inserted(86_400)),
            (LeapIndicator::PRE_POSITIVE, -86_400 + 3_599, hour, Leap::Far),
            (LeapIndicator::PRE_NEGATIVE, -11, 0, Leap::Today(LeapKind::Deleted, 11_000_000_000)),
            (LeapIndicator::PRE_POSITIVE, -10, 0, Leap::Close),
            (LeapIndicator::PRE_POSITIVE, 5, 0, Leap::Close),
            (LeapIndicator::POSITIVE, 0, 0, Leap::Close),
            (LeapIndicator::POST_POSITIVE, 9, 0, Leap::Close),
            (LeapIndicator::POST_POSITIVE, 10, 0, Leap::Far),
            // A page that was not refreshed since: the next month has no leap second that anybody announced.
            (LeapIndicator::PRE_POSITIVE, 11, 0, Leap::Far),
        ] {
            assert_eq!(at(indicator, seconds, ahead), expected, "{indicator:?} {seconds} {ahead}");
        }
    }
}
