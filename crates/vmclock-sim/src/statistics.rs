// SPDX-License-Identifier: MIT OR Apache-2.0
//! How good the time was, for people.

use hdrhistogram::Histogram;

use crate::judge::Reading;
use crate::units::{Nanos, DAY};

/// An hour in nanoseconds: more is counted as this.
const LARGEST: u64 = 3_600_000_000_000;

/// Errors and widths of many readings.
///
/// ```
/// use vmclock_sim::Statistics;
/// assert_eq!(Statistics::default().errors().median, 0);
/// ```
#[derive(Clone, Debug)]
pub struct Statistics {
    errors: Histogram<u64>,
    half_widths: Histogram<u64>,
    pub(crate) network_errors: Histogram<u64>,
    ratios: Vec<f64>,
    day: Day,
    points: Option<Vec<Point>>,
}

/// What is typical of many numbers of nanoseconds, and what is not.
///
/// ```
/// use vmclock_sim::Quantiles;
/// assert_eq!(Quantiles::default(), Quantiles { median: 0, p99: 0, p999: 0, worst: 0 });
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Quantiles {
    /// Half of them are no larger.
    pub median: u64,
    /// 99 % are no larger.
    pub p99: u64,
    /// 99.9 % are no larger.
    pub p999: u64,
    /// None is larger.
    pub worst: u64,
}

/// One reading, for a picture.
///
/// ```
/// use vmclock_sim::Point;
/// let point = Point { hours: 1.5, error: -120.0, bound: 16_000.0 };
/// assert!(point.error.abs() <= point.bound);
/// ```
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Point {
    /// Hours since the run began.
    pub hours: f64,
    /// The time's error, in nanoseconds.
    pub error: f64,
    /// Half of the interval's width, in nanoseconds.
    pub bound: f64,
}

/// The day that is not over yet.
#[derive(Clone, Debug)]
struct Day {
    ends: Nanos,
    half_widths: Histogram<u64>,
    worst: u64,
}

/// An empty histogram of nanoseconds.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LARGEST, 3).unwrap_or_else(|_| unreachable!("these bounds are allowed"))
}

impl Statistics {
    /// Nothing was read yet. With points for a picture, if `draws`.
    pub(crate) fn new(draws: bool) -> Self {
        Self {
            errors: histogram(),
            half_widths: histogram(),
            network_errors: histogram(),
            ratios: Vec::new(),
            day: Day { ends: DAY, half_widths: histogram(), worst: 0 },
            points: draws.then(Vec::new),
        }
    }

    pub(crate) fn read(&mut self, at: Nanos, reading: Reading) {
        let error = u64::try_from(reading.error.unsigned_abs()).unwrap_or(u64::MAX);
        let half = u64::try_from(reading.half_width).unwrap_or(u64::MAX);
        self.errors.saturating_record(error);
        self.half_widths.saturating_record(half);
        self.day.half_widths.saturating_record(half);
        self.day.worst = self.day.worst.max(error);
        if at >= self.day.ends {
            self.day.ends += DAY;
            self.ratios.push(self.day.half_widths.value_at_quantile(0.5) as f64 / self.day.worst.max(1) as f64);
            self.day.half_widths.reset();
            self.day.worst = 0;
        }
        if let Some(points) = &mut self.points {
            let hours = at as f64 / crate::units::HOUR as f64;
            points.push(Point { hours, error: reading.error as f64, bound: reading.half_width as f64 });
        }
    }

    /// Takes what was read in another run.
    pub(crate) fn add(&mut self, other: &Self) {
        let sums = [
            (&mut self.errors, &other.errors),
            (&mut self.half_widths, &other.half_widths),
            (&mut self.network_errors, &other.network_errors),
        ];
        for (sum, more) in sums {
            // Both are of the same bounds, so that any value fits.
            let _ = sum.add(more);
        }
        self.ratios.extend(&other.ratios);
        if let (Some(points), Some(more)) = (&mut self.points, &other.points) {
            points.extend(more);
        }
    }

    /// Errors of the time, in ± nanoseconds.
    pub fn errors(&self) -> Quantiles {
        quantiles(&self.errors)
    }

    /// Halves of the intervals' widths, in nanoseconds.
    pub fn half_widths(&self) -> Quantiles {
        quantiles(&self.half_widths)
    }

    /// Errors of a guest without a page, with an NTP daemon of its own, in ± nanoseconds.
    pub fn network_errors(&self) -> Quantiles {
        quantiles(&self.network_errors)
    }

    /// Of each whole day: half of the interval's width at the median, over the worst error.
    pub fn ratios(&self) -> &[f64] {
        &self.ratios
    }

    /// The median errors of the time and of a guest with an NTP daemon, where both were measured.
    pub(crate) fn draw(&self) -> Option<(u64, u64)> {
        let both = !self.errors.is_empty() && !self.network_errors.is_empty();
        both.then(|| (self.errors().median, self.network_errors().median))
    }

    /// The readings of the run, if a picture was wanted.
    pub fn points(&self) -> &[Point] {
        self.points.as_deref().unwrap_or_default()
    }
}

impl Default for Statistics {
    fn default() -> Self {
        Self::new(true)
    }
}

fn quantiles(histogram: &Histogram<u64>) -> Quantiles {
    let at = |quantile| histogram.value_at_quantile(quantile);
    Quantiles { median: at(0.5), p99: at(0.99), p999: at(0.999), worst: histogram.max() }
}
