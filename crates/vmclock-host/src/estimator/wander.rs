// SPDX-License-Identifier: MIT OR Apache-2.0
//! How far the counter's frequency wanders, where that is to be measured: hour by hour over the last day.

use serde::{Deserialize, Serialize};

use super::SECOND;
use crate::interval::Range;

const MINUTE: f64 = 60.0 * SECOND;
const HOURS: usize = 24;
/// In how many of the last 24 hours there must be evidence.
const EVIDENT_HOURS: usize = 20;
/// In how many of its minutes the frequency must have been measured for an hour to be evidence.
const EVIDENT_MINUTES: u32 = 30;
/// A frequency that was averaged over longer than this hides its changes: a crystal follows its temperature in minutes.
const LONGEST_AVERAGE: f64 = 300.0 * SECOND;
/// How many times the range that was seen in a day the frequency is assumed to stay within.
const EXTRAPOLATION: f64 = 3.0;

/// The frequencies that were seen in an hour, relative to the estimator's base.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Hour {
    number: u64,
    seen: Range,
    minutes: u64,
}

/// The frequencies of the last day.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Wander {
    hours: [Option<Hour>; HOURS],
    /// Nanoseconds since it began.
    age: f64,
}

impl Wander {
    /// Whether no number is beyond what can be, in one that was saved.
    pub(super) fn is_plausible(&self) -> bool {
        let latest = (self.age / MINUTE) as u64 / 60;
        self.age >= 0.0 && self.hours.iter().flatten().all(|hour| hour.number <= latest)
    }

    /// Lets time pass.
    pub(super) fn advance(&mut self, nanos: f64) {
        self.age += nanos.max(0.0);
    }

    /// Takes the frequency of now, which was averaged over so many nanoseconds.
    pub(super) fn note(&mut self, rate: f64, over: f64) {
        if over > LONGEST_AVERAGE {
            return;
        }
        let minute = (self.age / MINUTE) as u64;
        let (number, bit) = (minute / 60, 1_u64 << (minute % 60));
        let slot = &mut self.hours[(number % HOURS as u64) as usize];
        let hour = slot.filter(|hour| hour.number == number).unwrap_or(Hour {
            number,
            seen: Range::new(rate, rate),
            minutes: 0,
        });
        let seen = Range::new(hour.seen.low.min(rate), hour.seen.high.max(rate));
        *slot = Some(Hour { number, seen, minutes: hour.minutes | bit });
    }

    /// A bound of the frequency's wander, if there is evidence enough: never below `least`.
    pub(super) fn bound(&self, least: f64) -> Option<f64> {
        let now = (self.age / MINUTE) as u64 / 60;
        let recent = self.hours.iter().flatten().filter(|hour| hour.number + HOURS as u64 > now);
        let (mut evident, mut all) = (0, None::<Range>);
        for hour in recent {
            evident += usize::from(hour.minutes.count_ones() >= EVIDENT_MINUTES);
            let so_far = all.unwrap_or(hour.seen);
            all = Some(Range::new(so_far.low.min(hour.seen.low), so_far.high.max(hour.seen.high)));
        }
        all.filter(|_| evident >= EVIDENT_HOURS).map(|seen| (seen.width() * EXTRAPOLATION).max(least))
    }

    /// Lets all be relative to another base.
    pub(super) fn rebase(&mut self, relative: impl Fn(f64) -> f64) {
        for hour in self.hours.iter_mut().flatten() {
            hour.seen = Range::new(relative(hour.seen.low), relative(hour.seen.high));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: f64 = 1e-6;

    /// A day in which the frequency is measured in the first `minutes` of each hour.
    fn day(minutes: u32, rate: impl Fn(u32) -> f64) -> Wander {
        let mut wander = Wander::default();
        for minute in 0..24 * 60 {
            if minute % 60 < minutes {
                wander.note(rate(minute), MINUTE);
            }
            wander.advance(MINUTE);
        }
        wander
    }

    #[test]
    fn minutes_a_day_are_no_evidence() {
        assert_eq!(day(6, |_| 0.0).bound(LEAST), None);
        assert_eq!(day(60, |_| 0.0).bound(LEAST), Some(LEAST));
        let mut once_a_day = Wander::default();
        for _ in 0..10 {
            for _ in 0..6 {
                once_a_day.note(0.0, MINUTE);
                once_a_day.advance(MINUTE);
            }
            once_a_day.advance(24.0 * 54.0 * MINUTE);
        }
        assert_eq!(once_a_day.bound(LEAST), None);
    }

    #[test]
    fn the_bound_is_a_multiple_of_what_was_seen_and_expires() {
        let mut wander = day(60, |minute| f64::from(minute % 2) * 2e-6);
        assert!(wander.bound(LEAST).is_some_and(|bound| (bound - 6e-6).abs() < 1e-12));
        wander.rebase(|rate| rate - 7e-6);
        assert!(wander.bound(LEAST).is_some_and(|bound| (bound - 6e-6).abs() < 1e-12));
        wander.advance(5.0 * 60.0 * MINUTE);
        assert_eq!(wander.bound(LEAST), None, "only 19 of the last 24 hours have evidence");
    }

    #[test]
    fn a_long_average_shows_nothing() {
        let mut wander = day(0, |_| 0.0);
        for _ in 0..24 * 60 {
            wander.note(0.0, 2.0 * LONGEST_AVERAGE);
            wander.advance(MINUTE);
        }
        assert_eq!(wander.bound(LEAST), None);
    }
}
