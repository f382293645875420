// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commit-wait: until a moment has certainly passed on every clock.

use std::fmt;
use std::hint::spin_loop;
use std::thread::sleep;
use std::time::{Duration, Instant};

use vmclock_core::event::Epoch;
use vmclock_core::time::{Tai, Timestamp};

use crate::clock::VmClock;
use crate::error::ReadError;
use crate::reading::Reading;
use crate::vanished::Vanished;

/// How long [`VmClock::wait_until_after`] waits at most.
const LIMIT: Duration = Duration::from_secs(10);

/// The last of a wait is spun: a thread that sleeps wakes up to 50 us late, by the kernel's default timer slack, and
/// more.
const SPUN: Duration = Duration::from_micros(100);

/// The longest sleep: after each, page and file are read again.
const SLEPT: Duration = Duration::from_millis(10);

/// Why a moment has not certainly passed.
///
/// ```
/// use std::time::Duration;
/// use vmclock::{mock::MockPage, WaitError};
/// let page = MockPage::new();
/// let clock = page.clock();
/// let reading = clock.now()?;
/// let error = clock.wait_until_after_within(&reading, Duration::ZERO).unwrap_err();
/// assert!(matches!(error, WaitError::TimedOut { left_nanos: 2_001.. }));
/// page.restore();
/// assert!(matches!(clock.wait_until_after(&reading), Err(WaitError::Disrupted { .. })));
/// # Ok::<(), vmclock::ReadError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum WaitError {
    /// The counter was disrupted, or the machine restored or cloned: what was to be committed may be another machine's
    /// too.
    Disrupted {
        /// The epoch before.
        from: Epoch,
        /// The epoch now.
        to: Epoch,
    },
    /// The clock gives no time any more, or cannot be read.
    Read(ReadError),
    /// The page is not published any more.
    Vanished(Vanished),
    /// The page, or the reading, has no error bounds: nothing ever passes certainly.
    NoBounds,
    /// The two cannot be compared: TAI-UTC is unknown for one of them, or one is monotonic.
    NotComparable,
    /// It takes longer than it was allowed to.
    TimedOut {
        /// So many nanoseconds were left, by the clock, at the end. Growing error bounds add to them.
        left_nanos: u128,
    },
}

impl fmt::Display for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disrupted { from, to } => {
                let (old, new) = (from.disruption_marker, to.disruption_marker);
                write!(f, "the machine was disrupted during the wait (marker {old:#x} -> {new:#x}")?;
                if let (Some(old), Some(new)) = (from.generation, to.generation) {
                    write!(f, ", generation {old:#x} -> {new:#x}")?;
                }
                f.write_str("): find out whether it is still the one to commit, then start over")
            }
            Self::Read(error) => error.fmt(f),
            Self::Vanished(error) => error.fmt(f),
            Self::NoBounds => f.write_str(
                "the page states no maximum error, so that no moment has certainly passed: use a publisher that states one",
            ),
            Self::NotComparable => {
                f.write_str("the two times are on scales that cannot be compared: the page must be on TAI, or know TAI-UTC")
            }
            Self::TimedOut { left_nanos } => {
                write!(f, "the moment had not certainly passed in time: {left_nanos} ns were left; wait longer")
            }
        }
    }
}

impl std::error::Error for WaitError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read(error) => Some(error),
            Self::Vanished(error) => Some(error),
            _ => None,
        }
    }
}

impl From<ReadError> for WaitError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

impl VmClock {
    /// Waits until every clock has certainly passed `reading`, and returns a reading that is
    /// [certainly after](Reading::certainly_after) it: from then on no clock with true bounds, here or elsewhere, gives
    /// a time that may be before it. That is a database's commit-wait. It takes about twice the maximum error; it
    /// sleeps for most of that, and spins for the last 100 us.
    ///
    /// It gives up after 10 s, and as soon as the epoch is not `reading`'s any more, or the page gives no time or no
    /// bounds.
    ///
    /// ```no_run
    /// # fn write(at: &vmclock::Reading) {}
    /// # fn acknowledge() {}
    /// let clock = vmclock::VmClock::open()?;
    /// let committed = clock.now()?; // its latest bound is the commit's timestamp
    /// write(&committed);
    /// clock.wait_until_after(&committed)?;
    /// acknowledge(); // whoever hears of it has a clock that is past the timestamp
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_until_after(&self, reading: &Reading) -> Result<Reading, WaitError> {
        self.wait_until_after_within(reading, LIMIT)
    }

    /// The same with a limit of your own, by `CLOCK_MONOTONIC`.
    pub fn wait_until_after_within(&self, reading: &Reading, limit: Duration) -> Result<Reading, WaitError> {
        if reading.max_error_nanos().is_none() {
            return Err(WaitError::NoBounds);
        }
        self.wait(reading.epoch(), limit, |now| now.earliest_minus_latest_of(reading))
    }

    /// Waits until every clock has certainly passed an instant, as that of another machine's commit. Gives up as
    /// [`wait_until_after`](Self::wait_until_after) does; the epoch is that of the call.
    pub fn wait_until_past(&self, instant: Timestamp<Tai>, limit: Duration) -> Result<Reading, WaitError> {
        self.wait(self.epoch()?, limit, |now| {
            Some(now.tai_interval()?.earliest.nanos().saturating_sub(instant.nanos()))
        })
    }

    /// Waits until `passed` is positive: the nanoseconds by which the moment has certainly passed.
    fn wait(
        &self,
        epoch: Epoch,
        limit: Duration,
        passed: impl Fn(&Reading) -> Option<i128>,
    ) -> Result<Reading, WaitError> {
        let start = Instant::now();
        loop {
            let now = match self.now() {
                Ok(now) => now,
                // A disrupted clock as a rule gives no time for a while: then that is the reason.
                Err(error) => return Err(self.disrupted_since(epoch).unwrap_or(error.into())),
            };
            if now.epoch() != epoch {
                return Err(WaitError::Disrupted { from: epoch, to: now.epoch() });
            }
            if now.max_error_nanos().is_none() {
                return Err(WaitError::NoBounds);
            }
            let passed = passed(&now).ok_or(WaitError::NotComparable)?;
            if passed > 0 {
                return Ok(now);
            }
            let left_nanos = passed.unsigned_abs().saturating_add(1);
            let time_left = limit.saturating_sub(start.elapsed());
            if time_left.is_zero() {
                return Err(WaitError::TimedOut { left_nanos });
            }
            let left = Duration::from_nanos(u64::try_from(left_nanos).unwrap_or(u64::MAX));
            let slept = left.saturating_sub(SPUN).min(SLEPT).min(time_left);
            if slept.is_zero() {
                spin_loop();
            } else {
                sleep(slept);
                self.check().map_err(WaitError::Vanished)?;
            }
        }
    }

    fn disrupted_since(&self, from: Epoch) -> Option<WaitError> {
        let to = self.epoch().ok()?;
        (from != to).then_some(WaitError::Disrupted { from, to })
    }
}
