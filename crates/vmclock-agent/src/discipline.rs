// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keeping `CLOCK_REALTIME` on the page: from how far it is ahead to the frequency that it is given.
//!
//! A proportional-integral controller. The page's own time does not wander, so what is left to follow is the kernel's
//! idea of its counter's frequency, which is constant, and the host's corrections, which are small: the gains are those
//! for a quiet reference.

use std::time::Duration;

use crate::policy::Moment;

/// Of an offset, so much is taken off in a second.
const PROPORTIONAL: f64 = 0.4;
/// Of an offset, so much goes into the frequency in each second.
const INTEGRAL: f64 = 0.06;
/// The kernel's own limit, in parts per 10^12.
const LIMIT: f64 = 500e6;
/// How far apart the first two comparisons are at least, of which the frequency is made.
const BASELINE: Duration = Duration::from_millis(500);
/// Comparisons that are wider than the usual width by this factor were interrupted.
const INTERRUPTED: f64 = 4.0;
/// How soon the usual width follows what is seen.
const WIDTH_GAIN: f64 = 0.05;

/// The controller.
///
/// ```
/// use std::time::Duration;
/// use vmclock_agent::discipline::Servo;
/// let mut servo = Servo::new(0);
/// assert_eq!(servo.sample(Duration::from_secs(1), 0.0, 100.0), None, "one comparison says nothing of the frequency");
/// let frequency = servo.sample(Duration::from_secs(2), 1_000.0, 100.0).expect("of two");
/// assert!(frequency < -1_000_000, "it gained 1 us in a second, and is ahead");
/// ```
#[derive(Clone, Debug)]
pub struct Servo {
    /// What makes the clock as fast as the page, in parts per 10^12.
    base: f64,
    /// What it is given now.
    given: f64,
    last: Option<(Moment, f64)>,
    locked: bool,
    /// Half the width of a usual comparison, in nanoseconds.
    width: Option<f64>,
}

impl Servo {
    /// For a clock that is given a frequency already, in parts per 10^12.
    #[allow(clippy::cast_precision_loss)] // at most 500 ppm
    pub const fn new(frequency: i64) -> Self {
        Self { base: frequency as f64, given: frequency as f64, last: None, locked: false, width: None }
    }

    /// The clock was stepped, or the counter disrupted: what was measured of the offset does not count. The frequency
    /// is kept, as a counter of the same kind has about the same.
    pub fn restart(&mut self) {
        (self.last, self.locked) = (None, false);
    }

    /// The clock was `ahead` of UTC by so many nanoseconds, give or take `width`. The frequency that it should be given
    /// from now on, in parts per 10^12; `None` where it is to go on as it does.
    pub fn sample(&mut self, now: Moment, ahead: f64, width: f64) -> Option<i64> {
        let usual = *self.width.get_or_insert(width);
        self.width = Some(usual + WIDTH_GAIN * (width.min(2.0 * usual) - usual));
        if width > INTERRUPTED * usual.max(1.0) && ahead.abs() < width {
            return None;
        }
        let (then, before) = *self.last.get_or_insert((now, ahead));
        let elapsed = now.saturating_sub(then);
        let seconds = elapsed.as_secs_f64();
        if !self.locked {
            if elapsed < BASELINE {
                return None;
            }
            // In a nanosecond per second there are 1,000 parts per 10^12.
            self.base = self.given - (ahead - before) / seconds * 1e3;
            self.locked = true;
        } else if seconds > 0.0 {
            self.base -= INTEGRAL * ahead * seconds.min(4.0) * 1e3;
        }
        self.last = Some((now, ahead));
        self.base = self.base.clamp(-LIMIT, LIMIT);
        self.given = (self.base - PROPORTIONAL * ahead * 1e3).clamp(-LIMIT, LIMIT);
        #[allow(clippy::cast_possible_truncation)] // within the limit
        Some(self.given as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A clock whose counter is off by `error` parts per 10^12 and that starts `ahead`. The offsets after each second,
    /// in nanoseconds, where each comparison is wrong by what `noise` says.
    fn offsets(mut ahead: f64, error: f64, seconds: usize, noise: impl Fn(usize) -> f64) -> Vec<f64> {
        let mut servo = Servo::new(0);
        let mut given = 0.0;
        (0..seconds)
            .map(|second| {
                let now = Duration::from_secs(second as u64 + 100);
                if let Some(frequency) = servo.sample(now, ahead + noise(second), 200.0) {
                    #[allow(clippy::cast_precision_loss)]
                    let frequency = frequency as f64;
                    given = frequency;
                }
                ahead += (error + given) / 1e3;
                ahead
            })
            .collect()
    }

    proptest! {
        #[test]
        fn any_clock_converges(ahead in -5e6..5e6_f64, error in -100e6..100e6_f64) {
            let offsets = offsets(ahead, error, 300, |_| 0.0);
            prop_assert!(offsets[120..].iter().all(|offset| offset.abs() < 1.0), "{:?}", &offsets[110..130]);
        }

        #[test]
        fn noise_is_not_amplified(seed in any::<u64>()) {
            let noise = |second: usize| {
                let hash = (seed ^ second as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
                #[allow(clippy::cast_precision_loss)]
                let noise = hash as f64 / f64::from(1 << 24) * 400.0 - 200.0;
                noise
            };
            let offsets = offsets(0.0, 20e6, 600, noise);
            prop_assert!(offsets[120..].iter().all(|offset| offset.abs() < 400.0), "{offsets:?}");
        }

        #[test]
        fn whatever_is_measured_the_frequency_is_one_that_the_kernel_takes(
            samples in prop::collection::vec((any::<u32>(), any::<f64>(), any::<f64>()), 1..50)
        ) {
            let mut servo = Servo::new(0);
            for (now, ahead, width) in samples {
                if let Some(frequency) = servo.sample(Duration::from_millis(now.into()), ahead, width) {
                    prop_assert!(frequency.abs() <= 500_000_000);
                }
            }
        }
    }

    #[test]
    fn a_comparison_that_was_interrupted_does_not_count() {
        let mut servo = Servo::new(0);
        for second in 0..10 {
            servo.sample(Duration::from_secs(second), 0.0, 100.0);
        }
        assert_eq!(servo.sample(Duration::from_secs(11), 9_000.0, 10_000.0), None);
        assert!(servo.sample(Duration::from_secs(12), 50_000.0, 10_000.0).is_some(), "so far off it tells something");
    }
}
