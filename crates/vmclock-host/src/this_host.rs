// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine that this program runs on.

use std::io;
use std::time::Duration;

use vmclock_core::abi::CounterId;
use vmclock_core::calibration::Period;
use vmclock_core::counter;
use vmclock_core::tai::TaiOffset;
use vmclock_core::time::{Time, Utc};

use crate::continuity::Witness;
use crate::identity::never_used;
use crate::kernel::{self, counter_is_trusted, nominal_period, KernelClock, Quality};
use crate::leap_seconds::{LeapSeconds, ListError, SYSTEM_LIST};
use crate::world::Host;

/// How long the counter is compared with the kernel's raw clock.
const COMPARISON: Duration = Duration::from_millis(10);

/// This CPU's counter, this kernel, and the system's list of leap seconds.
///
/// ```
/// use vmclock_host::{this_host::ThisHost, world::Host};
/// let mut host = ThisHost;
/// assert!(host.counter() <= host.counter());
/// assert_ne!(host.fresh_identity()?, 0);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct ThisHost;

impl Host for ThisHost {
    fn counter(&self) -> u64 {
        counter::read_ordered()
    }

    fn counter_id(&self) -> CounterId {
        counter::ID
    }

    fn nominal_period(&self) -> Option<Period> {
        nominal_period(COMPARISON)
    }

    fn counter_is_trusted(&self) -> Option<bool> {
        counter_is_trusted()
    }

    fn witness(&self) -> Option<Witness> {
        let clocksource = kernel::clocksource();
        Some(Witness {
            boot: kernel::boot_id()?,
            counter: counter::ID.0,
            is_counter: clocksource.as_deref() == Some(kernel::COUNTER_CLOCKSOURCE),
            clocksource,
            is_trusted: counter_is_trusted(),
            raw: KernelClock::monotonic_raw().sample(),
            suspended: kernel::suspended(),
        })
    }

    fn fresh_identity(&mut self) -> io::Result<u64> {
        never_used()
    }

    fn utc(&self) -> Time<Utc> {
        KernelClock::realtime().time()
    }

    fn kernel_tai_offset(&self) -> Option<TaiOffset> {
        Quality::now().ok()?.tai_offset
    }

    fn leap_seconds(&self) -> Result<LeapSeconds, ListError> {
        LeapSeconds::read(SYSTEM_LIST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmclock_core::sample::Sample;
    use vmclock_core::time::Monotonic;

    #[test]
    fn this_machine_goes_on() {
        let host = ThisHost;
        let Some(began) = host.witness() else { panic!("a kernel without a boot id") };
        host.nominal_period().expect("a counter that runs");
        let saved = host.witness().expect("as before");
        host.nominal_period().expect("a counter that runs");
        let gap = crate::continuity::compare(&began, &saved, &host.witness().expect("as before"), 15_000_000);
        assert!(gap.as_ref().is_ok_and(|gap| *gap > 5_000_000), "{gap:?}");
    }

    #[test]
    fn the_nominal_period_is_that_of_the_counter() {
        let host = ThisHost;
        let period = host.nominal_period().expect("a counter that runs");
        let raw = || KernelClock::monotonic_raw().sample();
        let (first, mut last) = (raw(), raw());
        let since_first = |last: &Sample<Monotonic>| last.time.since(first.time).expect("in range").floor_nanos();
        while since_first(&last) < 20_000_000 {
            last = raw();
        }
        let seconds = |ticks: u64| (u128::from(ticks) * u128::from(period.frac())) >> period.shift();
        let nanos = |ticks: u64| (seconds(ticks) * 1_000_000_000) >> 64;
        let shortest = nanos(last.before.wrapping_sub(first.after));
        let longest = nanos(last.after.wrapping_sub(first.before));
        let elapsed = since_first(&last).unsigned_abs();
        // 500 ppm, and as much again for the comparison.
        assert!(shortest * 999 / 1_000 <= elapsed && elapsed <= longest * 1_001 / 1_000 + 1, "{shortest} {elapsed}");
    }
}
