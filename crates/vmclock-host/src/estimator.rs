// SPDX-License-Identifier: MIT OR Apache-2.0
//! From samples to a calibration with bounds.
//!
//! A straight line through two samples: the newest, which is the reference, and the oldest of a window, which with it
//! gives the rate. Each is off by at most half its bracket (and the clock's resolution), so the rate is off by at most
//! the sum of both over the time between them. What the counter's rate may do after that is not to be measured in
//! advance: it is an allowance that the caller states.

use std::collections::VecDeque;
use std::num::NonZeroU64;

use vmclock_core::calibration::Period;
use vmclock_core::time::{Span, Tai, Time};

use crate::sample::Sample;

/// How many samples the rate is measured over.
const WINDOW: usize = 16;
/// The clocks that are sampled count in nanoseconds, rounded down.
const RESOLUTION: u64 = 1;

/// A calibration, and how far off it may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Estimate {
    /// The counter at the reference time.
    pub counter: u64,
    /// The reference time, in TAI.
    pub time: Time<Tai>,
    /// Seconds per tick.
    pub period: Period,
    /// How far off the reference time may be, in ± nanoseconds.
    pub time_max_error: u64,
    /// How far off the period may be, now and until the next estimate, in parts per 10^12.
    pub period_max_error: u64,
}

impl Estimate {
    /// The time at a counter value, or `None` beyond ±2^63 s.
    pub fn time_at(&self, counter: u64) -> Option<Time<Tai>> {
        #[allow(clippy::cast_possible_wrap)] // the nearer direction of a wrapping counter
        let ticks = counter.wrapping_sub(self.counter) as i64;
        self.time.checked_add(self.span_of(ticks)?)
    }

    /// How far off [`time_at`](Self::time_at) may be, in ± nanoseconds.
    pub fn max_error_at(&self, counter: u64) -> u64 {
        #[allow(clippy::cast_possible_wrap)] // the nearer direction of a wrapping counter
        let ticks = counter.wrapping_sub(self.counter) as i64;
        let elapsed = self.span_of(ticks).map_or(u128::MAX, |span| span.ceil_nanos().unsigned_abs());
        let drifted = elapsed.saturating_mul(self.period_max_error.into()).div_ceil(PARTS_PER_TRILLION) + 1;
        self.time_max_error.saturating_add(u64::try_from(drifted).unwrap_or(u64::MAX))
    }

    fn span_of(&self, ticks: i64) -> Option<Span> {
        let product = u128::from(ticks.unsigned_abs()).checked_mul(self.period.frac().into())?;
        let span = i128::try_from(product.checked_shr(self.period.shift().into())?).ok()?;
        Some(Span::from_raw(if ticks < 0 { -span } else { span }))
    }
}

const PARTS_PER_TRILLION: u128 = 1_000_000_000_000;

/// A new sample that cannot be true if the last estimate was: the clock was set, or the counter disturbed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Contradiction {
    /// How far the clock is from where it should be, in nanoseconds (positive: ahead).
    pub ahead: i128,
    /// How far it may be.
    pub allowed: u64,
}

/// Turns samples into estimates.
#[derive(Clone, Debug)]
pub struct Estimator {
    drift: u64,
    samples: VecDeque<Sample>,
    last: Option<Estimate>,
}

impl Estimator {
    /// An estimator for a counter whose rate, against the clock that is sampled, changes by no more than `drift` (in
    /// parts per 10^12) from one estimate to the next.
    pub const fn new(drift: u64) -> Self {
        Self { drift, samples: VecDeque::new(), last: None }
    }

    /// Whether a sample fits the last estimate.
    pub fn check(&self, sample: &Sample) -> Result<(), Contradiction> {
        let Some(last) = &self.last else { return Ok(()) };
        let counter = sample.middle();
        let allowed = last.max_error_at(counter).saturating_add(error_of(sample, last.period));
        let ahead =
            last.time_at(counter).and_then(|expected| sample.time.since(expected)).map_or(i128::MAX, Span::floor_nanos);
        if ahead.unsigned_abs() > u128::from(allowed) {
            return Err(Contradiction { ahead, allowed });
        }
        Ok(())
    }

    /// Forgets everything: the next estimate needs two samples.
    pub fn restart(&mut self) {
        self.samples.clear();
        self.last = None;
    }

    /// How far the counter's rate is allowed to change, in parts per 10^12, from the next estimate on.
    pub const fn set_drift(&mut self, drift: u64) {
        self.drift = drift;
    }

    /// Takes a sample and gives a new estimate; `None` as long as there is only one, or no time went by between them.
    pub fn add(&mut self, sample: Sample) -> Option<Estimate> {
        self.samples.push_back(sample);
        if self.samples.len() > WINDOW {
            self.samples.pop_front();
        }
        let oldest = *self.samples.front()?;
        let ticks = NonZeroU64::new(sample.middle().wrapping_sub(oldest.middle()))?;
        let span = sample.time.since(oldest.time)?;
        let period = Period::from_ratio(u128::try_from(span.raw()).ok()?, ticks)?;
        let time_max_error = error_of(&sample, period);
        let errors = u128::from(time_max_error) + u128::from(error_of(&oldest, period));
        let elapsed = u128::try_from(span.floor_nanos()).ok().filter(|nanos| *nanos > 0)?;
        let measured = u64::try_from((errors * PARTS_PER_TRILLION).div_ceil(elapsed)).unwrap_or(u64::MAX);
        let estimate = Estimate {
            counter: sample.middle(),
            time: sample.time,
            period,
            time_max_error,
            period_max_error: measured.saturating_add(self.drift),
        };
        self.last = Some(estimate);
        Some(estimate)
    }
}

/// How far off a sample's time may be from the clock's at the middle of its bracket, in ± nanoseconds.
fn error_of(sample: &Sample, period: Period) -> u64 {
    // Rounding the middle down to a tick counts too, hence not half of the width but half of it rounded up.
    let half = sample.width().div_ceil(2);
    let span = (u128::from(half) * u128::from(period.frac())) >> period.shift();
    let nanos = Span::from_raw(i128::try_from(span).unwrap_or(i128::MAX)).ceil_nanos();
    u64::try_from(nanos).unwrap_or(u64::MAX).saturating_add(RESOLUTION)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A counter of `hz` ticks a second from `origin` on, against a clock that shows `nanos` at its start.
    #[derive(Clone, Copy, Debug)]
    struct World {
        hz: f64,
        origin: u64,
        nanos: i64,
    }

    impl World {
        /// The clock is read at `at` nanoseconds, somewhere (`skew`, 0 to 1) in a bracket of `width` ticks.
        fn sample(self, at: i64, width: u64, skew: f64) -> Sample {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
            let (counter, part) = ((at as f64 * self.hz / 1e9).round() as u64, (width as f64 * skew) as u64);
            let before = self.origin.wrapping_add(counter).wrapping_sub(part);
            let time = Time::from_nanos(i128::from(self.nanos) + i128::from(at)).expect("in range");
            Sample { before, after: before.wrapping_add(width), time }
        }
    }

    fn worlds() -> impl Strategy<Value = World> {
        (1e8..5e9, any::<u64>(), 1..2_000_000_000_000_000_000i64).prop_map(|(hz, origin, nanos)| World {
            hz,
            origin,
            nanos,
        })
    }

    proptest! {
        #[test]
        fn the_clock_is_inside_the_bounds(
            world in worlds(),
            steps in prop::collection::vec((1_000_000..2_000_000_000i64, 1..100_000u64, 0.0..1.0f64), 2..40),
            ahead in 0..60_000_000_000i64,
        ) {
            let mut estimator = Estimator::new(0);
            let (mut at, mut estimate) = (0, None);
            for (step, width, skew) in steps {
                at += step;
                let sample = world.sample(at, width, skew);
                prop_assert_eq!(estimator.check(&sample), Ok(()), "an undisturbed clock contradicts nothing");
                estimate = estimator.add(sample);
            }
            let estimate = estimate.expect("two or more samples");
            let truth = world.sample(at + ahead, 0, 0.0);
            let error = estimate.time_at(truth.before).and_then(|time| time.since(truth.time)).expect("in range");
            // The world's own counter is rounded to ticks and, as an f64, to 53 bits: some nanoseconds.
            let slack = 30;
            let allowed = u128::from(estimate.max_error_at(truth.before)) + slack;
            prop_assert!(error.ceil_nanos().unsigned_abs() <= allowed, "{error:?} > {allowed}");
        }
    }

    #[test]
    fn a_step_contradicts() {
        let world = World { hz: 2.6e9, origin: 5, nanos: 1_000 };
        let mut estimator = Estimator::new(1_000_000);
        for second in 0..5 {
            estimator.add(world.sample(second * 1_000_000_000, 100, 0.5));
        }
        let stepped = World { nanos: world.nanos + 50_000, ..world }.sample(5_000_000_000, 100, 0.5);
        let contradiction = estimator.check(&stepped).expect_err("50 us are more than 1 ppm of a second");
        assert!((49_000..51_000).contains(&contradiction.ahead), "{contradiction:?}");
        estimator.restart();
        assert_eq!(estimator.check(&stepped), Ok(()));
        assert_eq!(estimator.add(stepped), None);
    }

    #[test]
    fn a_clock_that_stands_or_goes_back_gives_no_estimate() {
        let world = World { hz: 1e9, origin: 0, nanos: 0 };
        let mut estimator = Estimator::new(0);
        estimator.add(world.sample(1_000_000_000, 10, 0.5));
        let mut back = world.sample(2_000_000_000, 10, 0.5);
        back.time = Time::from_raw(0);
        assert_eq!(estimator.add(back), None);
    }
}
