// SPDX-License-Identifier: MIT OR Apache-2.0
//! The page's time beside the system's clocks.

use rustix::time::{clock_gettime, ClockId};
use vmclock_core::abi::Snapshot;
use vmclock_core::counter;
use vmclock_core::time::{Monotonic, Scale, Timestamp, Utc};

use crate::clock::VmClock;
use crate::error::ReadError;
use crate::reading::Reading;

/// One system clock, read between two readings of the counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bracket<S: Scale> {
    /// The counter before.
    pub before: u64,
    /// The clock.
    pub time: Timestamp<S>,
    /// The counter after.
    pub after: u64,
}

impl<S: Scale> Bracket<S> {
    /// How many ticks the reading took: the clock showed its time at some counter value between the two.
    pub const fn width(&self) -> u64 {
        self.after.wrapping_sub(self.before)
    }

    fn of(clock: ClockId) -> Self {
        let before = counter::read_ordered();
        let now = clock_gettime(clock);
        let after = counter::read_ordered();
        let nanos = i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec);
        Self { before, time: Timestamp::from_nanos(nanos), after }
    }

    /// The narrowest of some: the others were interrupted.
    fn narrowest(clock: ClockId) -> Self {
        let first = Self::of(clock);
        (0..7).map(|_| Self::of(clock)).fold(first, |best, next| if next.width() < best.width() { next } else { best })
    }
}

/// The page's time, `CLOCK_REALTIME` and `CLOCK_MONOTONIC_RAW`, taken within a microsecond or two.
///
/// ```no_run
/// let clock = vmclock::VmClock::open()?;
/// let cross = clock.cross_timestamp()?;
/// if let Some((low, high)) = cross.realtime_ahead_nanos() {
///     println!("CLOCK_REALTIME is between {low} and {high} ns ahead of true UTC");
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CrossTimestamp {
    /// The page.
    pub page: Snapshot,
    /// The page's time, at the middle of `realtime`'s bracket.
    pub reading: Reading,
    /// `CLOCK_REALTIME`: what the system believes UTC to be.
    pub realtime: Bracket<Utc>,
    /// `CLOCK_MONOTONIC_RAW`: the kernel's own count of the counter, never steered.
    pub monotonic_raw: Bracket<Monotonic>,
}

impl CrossTimestamp {
    pub(crate) fn of(clock: &VmClock) -> Result<Self, ReadError> {
        let monotonic_raw = Bracket::narrowest(ClockId::MonotonicRaw);
        let realtime = Bracket::<Utc>::narrowest(ClockId::Realtime);
        let middle = realtime.before.wrapping_add(realtime.width() / 2);
        let page = clock.snapshot()?;
        Ok(Self { page, reading: Reading::new(page, middle, counter::ID)?, realtime, monotonic_raw })
    }

    /// Between how many nanoseconds and how many `CLOCK_REALTIME` is ahead of true UTC (negative: behind), counting
    /// in the page's error bounds and the width of the bracket. `None` where the page gives no UTC or no bounds.
    pub fn realtime_ahead_nanos(&self) -> Option<(i128, i128)> {
        let utc = self.reading.utc_timestamp()?;
        let error = i128::try_from(self.reading.max_error_nanos()?).ok()?;
        let at = |counter| Reading::new(self.page, counter, counter::ID).ok();
        let bracket = at(self.realtime.after)?.time().since(at(self.realtime.before)?.time())?.ceil_nanos();
        let ahead = self.realtime.time.nanos() - utc.nanos();
        // Half the bracket on either side, and a nanosecond each for the roundings.
        let uncertainty = error + (bracket + 1) / 2 + 2;
        Some((ahead - uncertainty, ahead + uncertainty))
    }
}
