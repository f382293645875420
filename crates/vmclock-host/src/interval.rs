// SPDX-License-Identifier: MIT OR Apache-2.0
//! Intervals that a true value lies in, and what several of them say together.

/// A closed interval of numbers; what they are, nanoseconds or rates, the user knows.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Range {
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Range {
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

    /// How far `value` may be from the true one.
    pub(crate) fn error_of(self, value: f64) -> f64 {
        (self.high - value).max(value - self.low)
    }

    /// What both allow; `None` if they contradict one another.
    pub(crate) fn and(self, other: Self) -> Option<Self> {
        let both = Self { low: self.low.max(other.low), high: self.high.min(other.high) };
        (both.low <= both.high).then_some(both)
    }

    /// As far as another interval is from this one: positive if above, 0 if they touch.
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
}

/// Where a true value is if fewer than half of these are wrong: from the first to the last place that all but that many
/// allow. `None` if there is none, so that at least half must be wrong. (Marzullo's and Mills's interval.)
pub(crate) fn majority(ranges: &[Range]) -> Option<Range> {
    if let [only] = ranges {
        return Some(*only);
    }
    let wrong = ranges.len().checked_sub(1)? / 2;
    let needed = ranges.len() - wrong;
    // The needed-th start from below: before it, fewer are open. But some may have ended by then: count those that hold.
    let holds = |at: f64| ranges.iter().filter(|range| range.low <= at && at <= range.high).count() >= needed;
    let low = ranges.iter().map(|range| range.low).filter(|at| holds(*at)).min_by(f64::total_cmp)?;
    let high = ranges.iter().map(|range| range.high).filter(|at| holds(*at)).max_by(f64::total_cmp)?;
    Some(Range::new(low, high))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn overlaps() {
        let range = Range::new;
        assert_eq!(majority(&[]), None);
        assert_eq!(majority(&[range(1.0, 2.0)]), Some(range(1.0, 2.0)));
        assert_eq!(majority(&[range(0.0, 1.0), range(0.5, 2.0)]), Some(range(0.5, 1.0)), "of two, none may be wrong");
        assert_eq!(majority(&[range(0.0, 1.0), range(1.5, 2.0)]), None);
        let honest = [range(0.0, 10.0), range(4.0, 12.0), range(5.0, 6.0)];
        assert_eq!(majority(&honest), Some(range(4.0, 10.0)), "of three, one may be wrong");
        let liar = [honest[0], range(100.0, 101.0), honest[1], honest[2]];
        assert_eq!(majority(&liar), Some(range(5.0, 6.0)));
        let torn = [range(0.0, 1.0), range(0.5, 2.0), range(9.0, 11.0), range(10.0, 12.0)];
        assert_eq!(majority(&torn), None, "two against two");
    }

    #[test]
    fn distances() {
        let a = Range::new(0.0, 10.0);
        assert_eq!(a.distance_to(Range::new(5.0, 30.0)).to_bits(), 0.0_f64.to_bits());
        assert!((a.distance_to(Range::new(15.0, 30.0)) - 5.0).abs() < 1e-9);
        assert!((a.distance_to(Range::new(-30.0, -15.0)) + 15.0).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn the_truth_is_inside_while_fewer_than_half_are_wrong(
            truth in -1e6..1e6_f64,
            honest in prop::collection::vec((0.0..1e3_f64, 0.0..1e3_f64), 1..6),
            lies in prop::collection::vec((-1e3..1e3_f64, 0.0..1e3_f64), 0..5),
        ) {
            let mut ranges: Vec<_> = honest.iter().map(|(below, above)| Range::new(truth - below, truth + above)).collect();
            ranges.extend(lies.iter().take(honest.len() - 1).map(|(at, width)| Range::new(truth + at, truth + at + width)));
            let found = majority(&ranges).expect("at least the truth");
            prop_assert!(found.low <= truth && truth <= found.high, "{found:?}");
        }
    }
}
