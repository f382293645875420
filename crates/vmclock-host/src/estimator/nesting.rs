// SPDX-License-Identifier: MIT OR Apache-2.0
//! Nested bounds: a counter value that was read while a calibration was on the page is placed by the next one inside
//! the bounds that it was read with; and by later ones as long as the counter's frequency allows it. One straight line
//! cannot pass through all bounds of a counter whose frequency wanders, but it can always pass through the last.

use std::collections::VecDeque;

use vmclock_core::calibration::Calibration;
use vmclock_core::time::{Tai, Time};

use super::base::Base;
use crate::interval::Range;

/// How many calibrations are kept to, if that can be.
const KEPT: usize = 8;
/// No frequency is further from the best one.
const WIDEST: f64 = 1e-3;
/// What a reader rounds to, in nanoseconds: bounds outwards, times either way.
const RESOLUTION: f64 = 2.0;

/// The bounds at a counter value, as readers had them.
#[derive(Clone, Copy, Debug)]
struct Bound {
    counter: u64,
    earliest: Time<Tai>,
    latest: Time<Tai>,
}

impl Bound {
    fn of(calibration: &Calibration<Tai>, counter: u64) -> Option<Self> {
        let interval = calibration.interval_at(counter).ok()??;
        let time = |nanos| Time::from_nanos(nanos);
        Some(Self { counter, earliest: time(interval.earliest.nanos())?, latest: time(interval.latest.nanos())? })
    }

    /// In nanoseconds ahead of the base, a little inside.
    fn range(&self, base: &Base, allowance: f64) -> Range {
        let range = Range::new(base.ahead(self.counter, self.earliest), base.ahead(self.counter, self.latest));
        range.wider(allowance - RESOLUTION.min(range.width() / 8.0))
    }
}

/// A calibration, and where it came on the page and left.
#[derive(Clone, Copy, Debug)]
struct Tenure {
    calibration: Calibration<Tai>,
    from: Bound,
    until: Option<Bound>,
    /// How much wider than its bounds, in nanoseconds, because the clock that is followed was steered.
    allowance: f64,
}

/// The calibrations of late, the newest last.
#[derive(Clone, Debug, Default)]
pub(super) struct Published {
    kept: VecDeque<Tenure>,
}

/// A line to publish: its time at `now` ahead of the base, and its frequency.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Line {
    pub(super) ahead: f64,
    pub(super) rate: f64,
}

impl Published {
    /// The bounds that readers have at a counter value by the calibration on the page; `None` if there is none.
    pub(super) fn bounds_now(&self, now: u64, base: &Base) -> Option<Range> {
        let newest = self.kept.back().filter(|newest| newest.until.is_none())?;
        Some(Bound::of(&newest.calibration, now)?.range(base, newest.allowance))
    }

    /// The line nearest to `wanted` that is nested in the last calibration's bounds, and in those of as many before it
    /// as can be. Its time at `now` is one of `times`. It can be moved up by `reserve` and stay nested, unless bounds
    /// are closer than that. `None` where there is no such line.
    pub(super) fn nested(&self, now: u64, wanted: Line, times: Range, reserve: f64, base: &Base) -> Option<Line> {
        // From the newest: the age of each bound, and its range.
        let mut bounds = [(0.0, Range::new(0.0, 0.0)); 2 * KEPT];
        let mut count = 0;
        for tenure in self.kept.iter().rev() {
            let until = match tenure.until {
                Some(until) => until,
                None => Bound::of(&tenure.calibration, now)?,
            };
            for bound in [until, tenure.from] {
                let range = bound.range(base, tenure.allowance);
                let range = Range::new(range.low, range.high - reserve.min(range.width() / 4.0));
                bounds[count] = (base.elapsed(bound.counter, now), range);
                count += 1;
            }
        }
        let bounds = &bounds[..count];
        if let Some(rate) = rate_through(bounds, wanted, times) {
            return Some(Line { rate, ..wanted });
        }
        let mut lines = Lines::new(times, Range::around(wanted.rate, WIDEST));
        for (index, (age, range)) in bounds.iter().enumerate() {
            // low <= ahead - rate * age <= high
            match lines.clipped(-1.0, *age, -range.low).and_then(|lines| lines.clipped(1.0, -age, range.high)) {
                Some(fewer) => lines = fewer,
                None if index < 2 => return None,
                None => break,
            }
        }
        Some(lines.middle())
    }

    /// Whether a calibration that replaces the newest one is nested in the one before, which was on the page until
    /// `until`.
    pub(super) fn allows(&self, replacement: &Calibration<Tai>, until: u64) -> bool {
        let Some(before) = self.kept.iter().rev().nth(1) else { return true };
        [before.from.counter, until].iter().all(|counter| {
            let (Ok(Some(interval)), Ok(time)) =
                (before.calibration.interval_at(*counter), replacement.time_at(*counter))
            else {
                return false;
            };
            interval.earliest.nanos() <= time.floor_nanos() && time.ceil_nanos() <= interval.latest.nanos()
        })
    }

    /// A calibration is on the page from now on; the one before is not.
    pub(super) fn begin(&mut self, calibration: Calibration<Tai>, now: u64) {
        self.end(now);
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        if let Some(from) = Bound::of(&calibration, now) {
            self.kept.push_back(Tenure { calibration, from, until: None, allowance: 0.0 });
        }
    }

    /// The newest one was moved before anybody saw it.
    pub(super) fn replace(&mut self, calibration: Calibration<Tai>) {
        if let Some(newest) = self.kept.back_mut() {
            newest.calibration = calibration;
            newest.from = Bound::of(&calibration, newest.from.counter).unwrap_or(newest.from);
        }
    }

    /// No calibration is on the page any more.
    pub(super) fn end(&mut self, now: u64) {
        if let Some(newest) = self.kept.back_mut() {
            newest.until = newest.until.or_else(|| Bound::of(&newest.calibration, now));
        }
    }

    /// The clock that is followed was steered: that moved it by up to so many nanoseconds, which no bounds knew.
    pub(super) fn allow(&mut self, nanos: f64) {
        for tenure in &mut self.kept {
            tenure.allowance += nanos;
        }
    }

    pub(super) fn clear(&mut self) {
        self.kept.clear();
    }
}

/// The frequency nearest to the wanted one at which a line from the wanted time passes through all bounds.
fn rate_through(bounds: &[(f64, Range)], wanted: Line, times: Range) -> Option<f64> {
    let is_in = |range: Range| range.low <= wanted.ahead && wanted.ahead <= range.high;
    let mut rates = Some(Range::new(f64::MIN, f64::MAX)).filter(|_| is_in(times))?;
    for (age, range) in bounds {
        if *age > 0.0 {
            let through = Range::new((wanted.ahead - range.high) / age, (wanted.ahead - range.low) / age);
            rates = rates.and(through)?;
        } else if !is_in(*range) {
            return None;
        }
    }
    Some(rates.nearest(wanted.rate))
}

/// A convex set of lines: the corners of a polygon of times and frequencies.
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

    fn middle(&self) -> Line {
        let count = self.corners.len() as f64;
        let sum = self.corners.iter().fold((0.0, 0.0), |sum, corner| (sum.0 + corner.0, sum.1 + corner.1));
        Line { ahead: sum.0 / count, rate: sum.1 / count }
    }
}
