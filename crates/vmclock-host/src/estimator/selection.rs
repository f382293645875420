// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the votes of several clocks prove, if fewer than half of the configured ones are wrong.

use crate::interval::Range;

/// What follows from the votes of a round.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Selection {
    /// So few clocks voted that all of them may be wrong.
    TooFew,
    /// More votes contradict one another than may be wrong.
    Contradictory,
    /// More votes contradict what was known than may be wrong: true time is so far away at least, in nanoseconds
    /// (positive: ahead).
    Contradicted { ahead: f64 },
    /// True time is within `range`. `agreed`: a majority of the configured clocks is consistent.
    Proven { range: Range, agreed: bool },
}

/// How many of so many configured clocks may be wrong: fewer than half.
const fn tolerated(configured: usize) -> usize {
    configured.saturating_sub(1) / 2
}

/// What these votes prove where so many clocks are configured, and true time is known to be within a range.
///
/// Of `m` votes at least `m` less the tolerated are right, and so true time is where that many intersect, within the
/// range: in the hull of those places (after Marzullo). That holds also while some clocks are unreachable; but then it
/// is no majority.
pub(super) fn select(votes: &[Range], configured: usize, known: Option<Range>) -> Selection {
    let Some(right) = votes.len().checked_sub(tolerated(configured)).filter(|right| *right > 0) else {
        return Selection::TooFew;
    };
    let Some(anywhere) = covered(votes, right) else { return Selection::Contradictory };
    let majority = configured / 2 + 1;
    let Some(known) = known else {
        return Selection::Proven { range: anywhere, agreed: covered(votes, majority).is_some() };
    };
    let within: Vec<Range> = votes.iter().filter_map(|vote| vote.and(known)).collect();
    if let Some(range) = covered(&within, right) {
        return Selection::Proven { range, agreed: covered(&within, majority).is_some() };
    }
    let distances = votes.iter().map(|vote| known.distance_to(*vote)).filter(|ahead| ahead.abs() > 0.0);
    let nearest = distances.min_by(|one, other| one.abs().total_cmp(&other.abs()));
    Selection::Contradicted { ahead: nearest.unwrap_or_default() }
}

/// From the first to the last place that at least `count` of the ranges cover.
fn covered(ranges: &[Range], count: usize) -> Option<Range> {
    let enough = |at: f64| ranges.iter().filter(|range| range.low <= at && at <= range.high).count() >= count;
    let low = ranges.iter().map(|range| range.low).filter(|at| enough(*at)).min_by(f64::total_cmp)?;
    let high = ranges.iter().map(|range| range.high).filter(|at| enough(*at)).max_by(f64::total_cmp)?;
    Some(Range::new(low, high))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn range(low: f64, high: f64) -> Range {
        Range::new(low, high)
    }

    const fn proven(low: f64, high: f64, agreed: bool) -> Selection {
        Selection::Proven { range: Range::new(low, high), agreed }
    }

    #[test]
    fn a_majority_is_of_the_configured_clocks() {
        assert_eq!(select(&[range(1.0, 2.0)], 1, None), proven(1.0, 2.0, true));
        assert_eq!(select(&[range(1.0, 2.0)], 2, None), proven(1.0, 2.0, false), "of two neither may be wrong");
        assert_eq!(select(&[range(1.0, 2.0)], 3, None), Selection::TooFew, "of three one may be wrong: this one");
        assert_eq!(select(&[], 1, None), Selection::TooFew);
        let apart = [range(0.0, 1.0), range(9.0, 11.0)];
        assert_eq!(select(&apart, 2, None), Selection::Contradictory);
        assert_eq!(
            select(&apart, 3, None),
            proven(0.0, 11.0, false),
            "one of them may be right, and the third unreachable"
        );
        assert_eq!(
            select(&[range(0.0, 10.0), range(5.0, 15.0)], 3, None),
            proven(0.0, 15.0, true),
            "where they intersect both may be right; but one may be wrong"
        );
    }

    #[test]
    fn one_of_three_may_be_wrong() {
        let honest = [range(0.0, 10.0), range(4.0, 12.0), range(5.0, 6.0)];
        assert_eq!(select(&honest, 3, None), proven(4.0, 10.0, true));
        let torn = [range(0.0, 1.0), range(0.5, 2.0), range(9.0, 11.0), range(10.0, 12.0)];
        assert_eq!(select(&torn, 4, None), Selection::Contradictory, "two against two");
    }

    #[test]
    fn what_is_known_is_contradicted_by_more_votes_than_may_be_wrong() {
        let known = Some(range(0.0, 1.0));
        // On either side of it, so that it is within their hull.
        let around = [range(-20.0, -10.0), range(10.0, 20.0)];
        assert_eq!(select(&around, 3, known), Selection::Contradicted { ahead: 9.0 }, "the nearest");
        assert_eq!(select(&around[..1], 1, known), Selection::Contradicted { ahead: -10.0 });
        assert_eq!(select(&[around[0], range(0.5, 9.0)], 3, known), proven(0.5, 1.0, false));
        assert_eq!(select(&[around[0], range(0.5, 9.0), range(-9.0, 0.7)], 3, known), proven(0.5, 0.7, true));
    }

    proptest! {
        #[test]
        fn true_time_is_inside_while_fewer_than_half_of_the_configured_are_wrong(
            truth in -1e6..1e6_f64,
            honest in prop::collection::vec((0.0..1e3_f64, 0.0..1e3_f64), 1..6),
            false_ones in prop::collection::vec((-1e3..1e3_f64, 0.0..1e3_f64), 0..5),
            unreachable in 0..6_usize,
        ) {
            let configured = honest.len() + false_ones.len().min(honest.len() - 1);
            let mut votes: Vec<_> =
                honest.iter().map(|(below, above)| Range::new(truth - below, truth + above)).collect();
            // Whichever are unreachable: the honest ones are the worst to lose.
            votes.drain(..unreachable.min(votes.len()));
            let wrong = false_ones.iter().take(configured - honest.len());
            votes.extend(wrong.map(|(at, width)| Range::new(truth + at, truth + at + width)));
            for known in [None, Some(Range::new(truth - 7.0, truth + 3.0))] {
                match select(&votes, configured, known) {
                    Selection::Proven { range, .. } => {
                        prop_assert!(range.low <= truth && truth <= range.high, "{range:?}");
                    }
                    Selection::TooFew => {}
                    other => prop_assert!(false, "fewer than half are wrong: {other:?}"),
                }
            }
        }
    }
}
