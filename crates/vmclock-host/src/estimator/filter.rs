// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is known of the time and of the counter's frequency: two intervals, kept by set membership.

use serde::{Deserialize, Serialize};
use vmclock_core::calibration::Period;
use vmclock_core::time::{Tai, Time};

use super::anchors::Anchors;
use super::base::{scaled, Base};
use super::vote::Vote;
use super::wander::Wander;
use crate::interval::Range;

/// More nanoseconds from its base than any filter knows the time, and more of its frequency.
const FARTHEST: f64 = 1e18;
const FASTEST: f64 = 0.5;

/// The time and the frequency. All frequencies are relative to the base, and are of time against the counter.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Filter {
    pub(super) base: Base,
    /// The counter to which `known` belongs.
    now: u64,
    /// True time, in nanoseconds ahead of the base.
    known: Range,
    /// The frequency on average, of late: the frequency of any moment is within the wander of it.
    rate: Range,
    /// How far the clock that is followed was steered since `now`.
    steered: Range,
    anchors: Anchors,
    pub(super) wander: Wander,
    /// The counter when it began; and how many rounds agreed with it since, and the counter at the last of them.
    pub(super) began: u64,
    pub(super) rounds: u32,
    pub(super) agreed: u64,
}

/// The frequency is where it cannot be.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Unstable {
    /// How far outside, relative (positive: the counter is slower).
    pub(super) change: f64,
}

impl Filter {
    /// A filter that knows nothing yet but about where the time is, and the frequency to within `tolerance`.
    pub(super) fn new(now: u64, time: Time<Tai>, nominal: Period, tolerance: f64) -> Self {
        Self {
            base: Base::at(now, time, nominal),
            now,
            known: Range::new(0.0, 0.0),
            rate: Range::around(0.0, tolerance),
            steered: Range::new(0.0, 0.0),
            anchors: Anchors::default(),
            wander: Wander::default(),
            began: now,
            rounds: 0,
            agreed: now,
        }
    }

    pub(super) const fn known(&self) -> Range {
        self.known
    }

    pub(super) const fn rate(&self) -> Range {
        self.rate
    }

    /// The frequency of any moment, where it may wander so far.
    pub(super) fn rates(&self, wander: f64) -> Range {
        let Range { low, high } = wandered(self.rate, wander);
        // Before it was steered, it was where it is now without that.
        Range::new((1.0 + low) / (1.0 + self.steered.high) - 1.0, (1.0 + high) / (1.0 + self.steered.low) - 1.0)
    }

    /// Whether no number is beyond what can be, in one that was saved when the counter was `concluded`.
    pub(super) fn is_plausible(&self, concluded: u64) -> bool {
        self.now == concluded
            && self.known.magnitude() < FARTHEST
            && self.rate.magnitude() < FASTEST
            && self.steered.magnitude() < FASTEST
            && self.rounds < u32::MAX / 2
            && self.wander.is_plausible()
    }

    /// The time since it began, in nanoseconds.
    pub(super) fn age(&self, now: u64) -> f64 {
        self.base.elapsed(self.began, now)
    }

    /// Lets time pass up to a counter value.
    pub(super) fn advance(&mut self, now: u64, wander: f64) {
        let elapsed = self.base.elapsed(self.now, now);
        self.known = self.known.grown(elapsed, self.rates(wander));
        self.steered = Range::new(0.0, 0.0);
        self.wander.advance(elapsed);
        self.now = now;
    }

    /// The clock that is followed was given another frequency, by such a part more, at some moment since the last
    /// advance.
    pub(super) fn steer(&mut self, by: f64) {
        let steered = |rate: f64| (1.0 + rate) * (1.0 + by) - 1.0;
        self.rate = Range::new(steered(self.rate.low), steered(self.rate.high));
        let Range { low, high } = self.steered;
        // Between where it was in any of these moments and where it is now.
        self.steered = Range::new(steered(low).min(by).min(0.0), steered(high).max(by).max(0.0));
        self.anchors = Anchors::default();
        self.wander = Wander::default();
    }

    /// What a vote says of the time at `now`, in nanoseconds ahead of the base.
    pub(super) fn interval(&self, vote: &Vote, now: u64, wander: f64) -> Range {
        let rates = self.rates(wander);
        let at = vote.sample.middle();
        let half = self.base.elapsed(vote.sample.before, vote.sample.after).abs() / 2.0;
        // A counter is read in whole ticks, the end of the exchange and the reader's own moment up to one early, and
        // the middle is rounded by a half; and a clock shows whole nanoseconds.
        let error = vote.max_error + half * (1.0 + rates.magnitude()) + 2.5 * self.base.nanos_per_tick() + 1.0;
        Range::around(self.base.ahead(at, vote.sample.time), error).grown(self.base.elapsed(at, now), rates)
    }

    /// The distance of a vote from what is known at its moment, in nanoseconds (positive: it is ahead); 0 if they are
    /// consistent.
    pub(super) fn residual(&self, vote: &Vote, wander: f64) -> f64 {
        let known = self.known.grown(self.base.elapsed(self.now, vote.sample.middle()), self.rates(wander));
        known.distance_to(self.interval(vote, vote.sample.middle(), wander))
    }

    /// True time is also within this range. Says whether that is possible.
    pub(super) fn narrow(&mut self, proven: Range) -> bool {
        match self.known.and(proven) {
            Some(both) => self.known = both,
            None => return false,
        }
        true
    }

    /// True time is within this range, whatever was known.
    pub(super) fn begin(&mut self, proven: Range) {
        self.known = proven;
    }

    /// Measures the frequency over a time just long enough: until it is known better than `exact`.
    pub(super) fn learn(&mut self, wander: f64, exact: f64) -> Result<(), Unstable> {
        let (base, now) = (self.base, self.now);
        let measured = self.anchors.rate(self.known, |at| base.elapsed(at, now), exact);
        self.anchors.note(now, self.known, |from| base.elapsed(from, now));
        let Some((measured, over)) = measured else { return Ok(()) };
        let possible = wandered(self.rate, wander);
        self.rate = measured.and(possible).ok_or(Unstable { change: possible.distance_to(measured) })?;
        if self.rate.width() < exact / 2.0 {
            self.wander.note(self.rate.middle(), over);
        }
        Ok(())
    }

    /// Lets all be relative to another line, which is this far ahead now, at this frequency.
    pub(super) fn rebase(&mut self, ahead: f64, rate: f64) -> Option<()> {
        let time = self.base.time_at(self.now, ahead)?;
        let base = Base::at(self.now, time, scaled(self.base.period(), rate)?);
        let (old, now) = (self.base, self.now);
        self.anchors.rebase(|at| -(ahead + rate * old.elapsed(now, at)));
        let relative = |value: f64| (value - rate) / (1.0 + rate);
        self.wander.rebase(relative);
        self.known = self.known.shifted(-ahead);
        self.rate = Range::new(relative(self.rate.low), relative(self.rate.high));
        self.base = base;
        Some(())
    }
}

/// Where time against the counter is at any moment, if its average is in `rate` and the counter's frequency wanders so
/// far from its own. The wander is relative to the counter's frequency, not to the base's: far from the nominal
/// frequency, their sum would be parts per 10^8 too small.
fn wandered(rate: Range, wander: f64) -> Range {
    Range::new((1.0 + rate.low) / (1.0 + wander) - 1.0, (1.0 + rate.high) / (1.0 - wander) - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_steered_far_from_its_base_is_followed_exactly() {
        let period = Period::from_frequency(std::num::NonZeroU64::new(1_000_000_000).expect("not 0"));
        let mut filter = Filter::new(0, Time::from_parts(1_800_000_000, 0), period, 0.0);
        filter.rate = Range::new(400e-6, 400e-6);
        filter.steer(100e-6);
        let exact = 1.0004 * 1.0001 - 1.0;
        assert!((filter.rate.high - exact).abs() < 1e-15, "a sum is short by 40 ns a second: {:?}", filter.rate);
        let before = filter.rates(0.0);
        assert!((before.low - 400e-6).abs() < 1e-15 && (before.high - exact).abs() < 1e-15, "{before:?}");
    }

    #[test]
    fn a_counter_far_from_its_nominal_frequency_wanders_relative_to_its_own() {
        // A period that is longer by 4000 ppm, and a frequency that falls by 15 ppm.
        let exact = 1.004 / (1.0 - 15e-6) - 1.0;
        let rates = wandered(Range::new(-0.004, 0.004), 15e-6);
        assert!((rates.high - exact).abs() < 1e-15, "{rates:?}");
        assert!(rates.high > 0.004 + 15e-6 + 5e-8);
        assert!(rates.low < -0.004 - 14.9e-6);
    }
}
