// SPDX-License-Identifier: MIT OR Apache-2.0
//! The page's time beside the system's clocks.

use rustix::time::{clock_gettime, ClockId};
use vmclock_core::abi::Snapshot;
use vmclock_core::counter;
use vmclock_core::sample::Sample;
use vmclock_core::time::{Monotonic, Scale, Time, Utc};

use crate::clock::VmClock;
use crate::error::ReadError;
use crate::reading::Reading;

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
#[non_exhaustive]
pub struct CrossTimestamp {
    /// The page.
    pub page: Snapshot,
    /// The page's time, at the middle of `realtime`'s sample.
    pub reading: Reading,
    /// `CLOCK_REALTIME`: what the system believes UTC to be.
    pub realtime: Sample<Utc>,
    /// `CLOCK_MONOTONIC_RAW`: the kernel's own count of the counter, never disciplined.
    pub monotonic_raw: Sample<Monotonic>,
}

impl CrossTimestamp {
    pub(crate) fn of(clock: &VmClock) -> Result<Self, ReadError> {
        let (monotonic_raw, realtime) = (sample(ClockId::MonotonicRaw), sample(ClockId::Realtime));
        let page = clock.snapshot()?;
        Ok(Self { page, reading: Reading::new(&page, realtime.middle(), counter::ID)?, realtime, monotonic_raw })
    }

    /// Between how many nanoseconds and how many `CLOCK_REALTIME` is ahead of true UTC (negative: behind), counting
    /// in the page's error bounds and the width of the sample. `None` where the page gives no UTC or no bounds.
    pub fn realtime_ahead_nanos(&self) -> Option<(i128, i128)> {
        let utc = self.reading.utc_timestamp()?;
        let error = i128::try_from(self.reading.max_error_nanos()?).ok()?;
        let at = |counter| Reading::new(&self.page, counter, counter::ID).ok();
        let width = at(self.realtime.after)?.time().since(at(self.realtime.before)?.time())?.ceil_nanos();
        let ahead = self.realtime.time.floor_nanos() - utc.nanos();
        // Half the width on either side, and a nanosecond each for the roundings.
        let uncertainty = error + (width + 1) / 2 + 2;
        Some((ahead - uncertainty, ahead + uncertainty))
    }
}

/// One of the system's clocks, on the scale `S`: the narrowest of some samples, as the others were interrupted.
fn sample<S: Scale>(clock: ClockId) -> Sample<S> {
    Sample::narrowest(8, || Sample::take(|| clock_gettime(clock), |now| Time::from_timespec(now.tv_sec, now.tv_nsec)))
}
