// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the error of a PTP clock grows after the last synchronization with its master.

use vmclock_core::time::{Monotonic, Span, Time};

use crate::kernel::KernelClock;

/// A bound of the clock's frequency error while it is not synchronized, and the last moment at which it was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holdover {
    /// In parts per 10^12.
    frequency_error: u64,
    last: Option<Synchronized>,
}

#[derive(Clone, Copy, Debug)]
struct Synchronized {
    at: Moment,
    /// The error at that moment, in ± nanoseconds.
    error: u64,
}

/// A moment, by the clocks of this machine that are never set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Moment {
    raw: Time<Monotonic>,
    boot: Time<Monotonic>,
}

impl Moment {
    pub(super) fn now() -> Self {
        Self { raw: KernelClock::monotonic_raw().time(), boot: KernelClock::boottime().time() }
    }

    /// Nanoseconds since an earlier moment, rounded up: by the raw clock, which nothing disciplines, or by that which
    /// includes a suspended machine, whichever is more.
    fn since(self, earlier: Self) -> u64 {
        let elapsed = |now: Time<Monotonic>, then| now.since(then).map_or(i128::MAX, Span::ceil_nanos);
        let longest = elapsed(self.raw, earlier.raw).max(elapsed(self.boot, earlier.boot)).max(0);
        u64::try_from(longest).unwrap_or(u64::MAX)
    }
}

impl Holdover {
    /// Of a clock that was not synchronized yet, and whose frequency error is bounded by so many parts per 10^12.
    pub(super) const fn new(frequency_error: u64) -> Self {
        Self { frequency_error, last: None }
    }

    /// The clock is synchronized: at its last synchronization, which was `age` nanoseconds before `at`, its offset from
    /// its master was `offset` nanoseconds. Gives the error at `at`, in ± nanoseconds.
    pub(super) fn synchronized(&mut self, at: Moment, offset: i64, age: u64) -> u64 {
        let error = offset.unsigned_abs().saturating_add(self.growth(age));
        self.last = Some(Synchronized { at, error });
        error
    }

    /// The clock's error against its master, in ± nanoseconds. `None` where it was never synchronized.
    pub(super) fn error(&self, now: Moment) -> Option<u64> {
        let last = self.last?;
        Some(last.error.saturating_add(self.growth(now.since(last.at))))
    }

    /// By how much the error grows in so many nanoseconds, rounded up.
    fn growth(&self, nanos: u64) -> u64 {
        let growth = (u128::from(nanos) * u128::from(self.frequency_error)).div_ceil(1_000_000_000_000);
        u64::try_from(growth).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(raw: i64, boot: i64) -> Moment {
        Moment { raw: Time::from_parts(raw, 0), boot: Time::from_parts(boot, 0) }
    }

    #[test]
    fn the_error_grows_from_the_last_synchronization() {
        let mut holdover = Holdover::new(15_000_000);
        assert_eq!(holdover.error(moment(100, 100)), None);
        // Half a second ago it was 20 ns off: 15 ppm of that, rounded up.
        holdover.synchronized(moment(100, 100), -20, 500_000_001);
        assert_eq!(holdover.error(moment(100, 100)), Some(20 + 7_501));
        assert_eq!(holdover.error(moment(110, 110)), Some(20 + 7_501 + 150_000));
        assert_eq!(holdover.error(moment(110, 3_710)), Some(20 + 7_501 + 54_150_000), "suspended for an hour");
        holdover.synchronized(moment(120, 120), 3, 0);
        assert_eq!(holdover.error(moment(120, 120)), Some(3));
    }

    #[test]
    fn numbers_without_sense_saturate() {
        let mut holdover = Holdover::new(u64::MAX);
        holdover.synchronized(moment(i64::MIN, 0), i64::MIN, u64::MAX);
        assert_eq!(holdover.error(moment(i64::MAX, 0)), Some(u64::MAX));
        assert_eq!(Moment::now().since(moment(i64::MAX, i64::MAX)), 0, "later than now");
    }
}
