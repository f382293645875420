// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! A clock read between two readings of the counter.

use crate::counter;
use crate::time::{Scale, Time};

/// A clock's time, and the counter before and after it was read: at some counter value between the two, the clock
/// showed this time.
///
/// ```
/// use vmclock_core::sample::Sample;
/// use vmclock_core::time::{Tai, Time};
///
/// let sample = Sample { before: 1_000, time: Time::<Tai>::from_parts(2_000_000_000, 0), after: 1_090 };
/// assert_eq!((sample.width(), sample.middle()), (90, 1_045));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample<S: Scale> {
    /// The counter before.
    pub before: u64,
    /// The clock's time.
    pub time: Time<S>,
    /// The counter after.
    pub after: u64,
}

impl<S: Scale> Sample<S> {
    /// Reads a clock between two readings of this CPU's counter. Only then `time` makes a time of what was read.
    ///
    /// ```
    /// use vmclock_core::sample::Sample;
    /// use vmclock_core::time::{Time, Utc};
    /// let clock_gettime = || (2_000_000_000, 0);
    /// let sample = Sample::take(clock_gettime, |(seconds, nanos)| Time::<Utc>::from_timespec(seconds, nanos));
    /// assert_eq!(sample.time.seconds(), 2_000_000_000);
    /// ```
    #[inline]
    pub fn take<R>(read: impl FnOnce() -> R, time: impl FnOnce(R) -> Time<S>) -> Self {
        let before = counter::read_ordered();
        let reading = read();
        let after = counter::read_ordered();
        Self { before, time: time(reading), after }
    }

    /// The counter's difference between the two readings, in ticks.
    pub const fn width(&self) -> u64 {
        self.after.wrapping_sub(self.before)
    }

    /// The counter half way.
    pub const fn middle(&self) -> u64 {
        self.before.wrapping_add(self.width() >> 1)
    }

    /// The same with another time: what another clock, or another scale, makes of it.
    pub const fn with_time<T: Scale>(&self, time: Time<T>) -> Sample<T> {
        Sample { before: self.before, time, after: self.after }
    }

    /// The narrowest of `count` samples, at least one. A reader that is interrupted gets a wide one, and never a wrong
    /// one.
    pub fn narrowest(count: usize, mut take: impl FnMut() -> Self) -> Self {
        let first = take();
        (1..count).map(|_| take()).fold(first, |best, next| if next.width() < best.width() { next } else { best })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{Monotonic, Tai};

    #[test]
    fn counters_wrap_and_the_middle_is_between() {
        let sample = Sample { before: u64::MAX - 9, time: Time::<Tai>::from_parts(1, 0), after: 11 };
        assert_eq!((sample.width(), sample.middle()), (21, 0));
        let utc = sample.with_time(Time::<Monotonic>::from_parts(2, 0));
        assert_eq!((utc.before, utc.time.seconds(), utc.after), (sample.before, 2, sample.after));
    }

    #[test]
    fn the_first_of_the_narrowest_counts() {
        let mut widths = [7, 3, 9, 3, 1].into_iter().zip(0..);
        let mut next = || {
            let (width, turn) = widths.next().unwrap();
            Sample { before: 100, time: Time::<Tai>::from_parts(turn, 0), after: 100 + width }
        };
        assert_eq!(Sample::narrowest(4, &mut next).time.seconds(), 1);
        assert_eq!(Sample::narrowest(0, &mut next).width(), 1);
    }

    #[test]
    fn a_clock_is_read_between_the_readings_of_the_counter() {
        let mut converted = 0;
        let sample = Sample::<Tai>::take(counter::read_ordered, |inside| {
            converted = counter::read_ordered();
            Time::from_raw(inside.into())
        });
        let inside = u64::try_from(sample.time.raw()).unwrap();
        assert!(sample.before <= inside && inside <= sample.after && sample.after <= converted);
    }
}
