// SPDX-License-Identifier: MIT OR Apache-2.0
//! Intervals that a true value lies in.

use serde::{Deserialize, Serialize};

/// A closed interval of numbers; whether they are nanoseconds or relative frequencies, the user knows.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(try_from = "(f64, f64)", into = "(f64, f64)")]
pub(crate) struct Range {
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// Of what was saved: in order, or nonsense.
impl TryFrom<(f64, f64)> for Range {
    type Error = &'static str;

    fn try_from((low, high): (f64, f64)) -> Result<Self, Self::Error> {
        (low <= high).then_some(Self { low, high }).ok_or("an interval that ends before it begins")
    }
}

impl From<Range> for (f64, f64) {
    fn from(Range { low, high }: Range) -> Self {
        (low, high)
    }
}

impl Range {
    /// Of no number at all.
    pub(crate) const EMPTY: Self = Self { low: f64::INFINITY, high: f64::NEG_INFINITY };

    pub(crate) const fn new(low: f64, high: f64) -> Self {
        Self { low, high }
    }

    pub(crate) const fn around(middle: f64, error: f64) -> Self {
        Self { low: middle - error, high: middle + error }
    }

    pub(crate) fn middle(self) -> f64 {
        f64::midpoint(self.low, self.high)
    }

    pub(crate) fn width(self) -> f64 {
        self.high - self.low
    }

    /// The largest distance of `value` from the true one.
    pub(crate) fn error_of(self, value: f64) -> f64 {
        (self.high - value).max(value - self.low)
    }

    /// The largest magnitude of the true value.
    pub(crate) fn magnitude(self) -> f64 {
        self.error_of(0.0)
    }

    /// The intersection; `None` if there is none.
    pub(crate) fn and(self, other: Self) -> Option<Self> {
        let both = Self { low: self.low.max(other.low), high: self.high.min(other.high) };
        (both.low <= both.high).then_some(both)
    }

    /// The distance of another interval from this one: positive if it is above, 0 if they intersect.
    pub(crate) fn distance_to(self, other: Self) -> f64 {
        (other.low - self.high).max(0.0) + (other.high - self.low).min(0.0)
    }

    pub(crate) fn wider(self, by: f64) -> Self {
        Self { low: self.low - by, high: self.high + by }
    }

    pub(crate) fn shifted(self, by: f64) -> Self {
        Self { low: self.low + by, high: self.high + by }
    }

    /// The value in here that is nearest to `value`.
    pub(crate) fn nearest(self, value: f64) -> f64 {
        value.max(self.low).min(self.high)
    }

    /// A time's interval after `elapsed` nanoseconds in which the frequency was one of `rates`.
    pub(crate) fn grown(self, elapsed: f64, rates: Self) -> Self {
        let (a, b) = (rates.low * elapsed, rates.high * elapsed);
        Self::new(self.low + a.min(b), self.high + a.max(b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        let a = Range::new(0.0, 10.0);
        assert_eq!(a.distance_to(Range::new(5.0, 30.0)).to_bits(), 0.0_f64.to_bits());
        assert!((a.distance_to(Range::new(15.0, 30.0)) - 5.0).abs() < 1e-9);
        assert!((a.distance_to(Range::new(-30.0, -15.0)) + 15.0).abs() < 1e-9);
    }

    #[test]
    fn growth_covers_both_ends_in_both_directions() {
        let range = Range::new(-1.0, 1.0);
        assert_eq!(range.grown(10.0, Range::new(-0.5, 0.25)), Range::new(-6.0, 3.5));
        assert_eq!(range.grown(-10.0, Range::new(-0.5, 0.25)), Range::new(-3.5, 6.0));
    }
}
