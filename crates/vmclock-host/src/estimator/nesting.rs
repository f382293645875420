// SPDX-License-Identifier: MIT OR Apache-2.0
//! The promise that what was published stays true: a counter value that was read while a calibration was on the page
//! is placed by the next one inside the bounds that it was read with; and by later ones as long as the counter's rate allows it.
//! One straight line cannot go through all bounds of a counter whose rate wanders, but it can always go through the last.

use std::collections::VecDeque;

use crate::interval::Range;

/// Two bounds of each calibration: where it came on the page, and where it left.
const OF_ONE: usize = 2;
/// How many bounds are kept to, if that can be.
const KEPT: usize = 8 * OF_ONE;

/// No rate is further from the best one.
const WIDEST: f64 = 1e-3;

/// The bounds that were published at a counter value, in nanoseconds from the estimator's base.
#[derive(Clone, Copy, Debug)]
struct Bound {
    counter: u64,
    range: Range,
}

/// The calibrations of late: the bounds at the beginning and at the end of the time in which each was on the page.
#[derive(Clone, Debug, Default)]
pub(super) struct Published {
    kept: VecDeque<Bound>,
    /// The one on the page now: since when, and how its error grows for each nanosecond.
    current: Option<(Bound, f64)>,
}

impl Published {
    /// The line, as its time now and its rate, that keeps the promise to the last calibration, and to as many before it as can be,
    /// and is near to (`time`, `rate`). The time is one of `times`. It can be moved up by `reserve` and keeps it still, unless
    /// bounds are closer than that. `None` where no line keeps it. Ends the time of the one on the page.
    pub(super) fn nested(
        &mut self,
        now: u64,
        time: f64,
        rate: f64,
        times: Range,
        reserve: f64,
        age: impl Fn(u64) -> f64,
    ) -> Option<(f64, f64)> {
        self.end_tenure(now, &age);
        let newest_first = self.kept.iter().rev().map(|bound| {
            let range = bound.range;
            (age(bound.counter), Range::new(range.low, range.high - reserve.min(range.width() / 4.0)))
        });
        let bounds = newest_first.filter(|(age, _)| *age > 0.0);
        let mut allowed = Range::new(f64::MIN, f64::MAX);
        let all = bounds.clone().all(|(age, range)| {
            let rates = Range::new((time - range.high) / age, (time - range.low) / age);
            allowed.and(rates).inspect(|both| allowed = *both).is_some()
        });
        if all {
            return Some((time, allowed.nearest(rate)));
        }
        // Some other time, then.
        let mut lines = Lines::new(times, Range::around(rate, WIDEST));
        for (index, (age, range)) in bounds.enumerate() {
            // low <= time - rate * age <= high
            match lines.clipped(-1.0, age, -range.low).and_then(|lines| lines.clipped(1.0, -age, range.high)) {
                Some(fewer) => lines = fewer,
                // The bound at its end is of now, and has no age.
                None if index < OF_ONE - 1 => return None,
                None => break,
            }
        }
        Some(lines.middle())
    }

    /// Whether the promise for the last calibration is kept by the estimator's base, moved by so much.
    pub(super) fn holds(&self, moved: f64) -> bool {
        self.kept.iter().rev().take(OF_ONE).all(|bound| bound.range.low <= moved && moved <= bound.range.high)
    }

    /// A calibration is on the page from now on: the estimator's base, with this error, which grows.
    pub(super) fn begin_tenure(&mut self, now: u64, error: f64, growth: f64) {
        self.current = Some((Bound { counter: now, range: Range::around(0.0, error) }, growth));
    }

    /// No calibration is on the page any more.
    pub(super) fn end_tenure(&mut self, now: u64, age: impl Fn(u64) -> f64) {
        if let Some((begin, growth)) = self.current.take() {
            // It is the base itself: at its end it is where it was, and wider.
            let range = begin.range.wider(growth * age(begin.counter));
            self.keep(begin);
            self.keep(Bound { counter: now, range });
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn keep(&mut self, bound: Bound) {
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(bound);
    }

    pub(super) fn rebase(&mut self, shift: impl Fn(u64) -> f64) {
        for bound in self.kept.iter_mut().chain(self.current.as_mut().map(|(bound, _)| bound)) {
            bound.range = bound.range.shifted(shift(bound.counter));
        }
    }
}

/// A convex set of lines: the corners of a polygon of times and rates.
#[derive(Clone, Debug)]
struct Lines {
    corners: Vec<(f64, f64)>,
}

impl Lines {
    fn new(times: Range, rates: Range) -> Self {
        let corners =
            vec![(times.low, rates.low), (times.high, rates.low), (times.high, rates.high), (times.low, rates.high)];
        Self { corners }
    }

    /// Those for which `a * time + b * rate <= c`; `None` if there are none.
    fn clipped(&self, a: f64, b: f64, c: f64) -> Option<Self> {
        let over = |(time, rate): (f64, f64)| a * time + b * rate - c;
        let mut corners = Vec::with_capacity(self.corners.len() + 1);
        for (index, corner) in self.corners.iter().enumerate() {
            let next = self.corners[(index + 1) % self.corners.len()];
            let (here, there) = (over(*corner), over(next));
            if here <= 0.0 {
                corners.push(*corner);
            }
            if here * there < 0.0 {
                let part = here / (here - there);
                corners.push((corner.0 + part * (next.0 - corner.0), corner.1 + part * (next.1 - corner.1)));
            }
        }
        (!corners.is_empty()).then_some(Self { corners })
    }

    #[allow(clippy::cast_precision_loss)]
    fn middle(&self) -> (f64, f64) {
        let count = self.corners.len() as f64;
        let sum = self.corners.iter().fold((0.0, 0.0), |sum, corner| (sum.0 + corner.0, sum.1 + corner.1));
        (sum.0 / count, sum.1 / count)
    }
}
