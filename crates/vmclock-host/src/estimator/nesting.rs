// SPDX-License-Identifier: MIT OR Apache-2.0
//! Nested bounds: a counter value that was read while a calibration was on the page is placed by the next one inside
//! the bounds that it was read with; and by later ones as long as the counter's frequency allows it. One straight line
//! cannot pass through all bounds of a counter whose frequency wanders, but it can always pass through the last.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use vmclock_core::calibration::Calibration;
use vmclock_core::time::{Span, Tai, Time};

use super::base::Base;
use crate::interval::Range;

/// How many calibrations are kept to, if that can be.
const KEPT: usize = 8;
/// How many are kept of those on pages that another publisher left, and that have not returned.
const LEFT: usize = 8;
/// No frequency is further from the best one.
const WIDEST: f64 = 1e-3;
/// What a reader rounds to, in nanoseconds: bounds outwards, times either way.
const RESOLUTION: f64 = 2.0;

/// The bounds at a counter value, as readers had them.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Bound {
    counter: u64,
    #[serde(with = "crate::plain")]
    earliest: Time<Tai>,
    #[serde(with = "crate::plain")]
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
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Tenure {
    #[serde(with = "crate::plain")]
    calibration: Calibration<Tai>,
    from: Bound,
    until: Option<Bound>,
    /// How much wider than its bounds, in nanoseconds, because the clock that is followed was steered.
    allowance: f64,
}

impl Tenure {
    /// It is not on the page any more.
    fn end(&mut self, now: u64) {
        self.until = self.until.or_else(|| Bound::of(&self.calibration, now));
    }
}

/// Whether a calibration is another one that was moved when it came on the page, so that time does not go back.
fn is_moved(calibration: &Calibration<Tai>, moved: &Calibration<Tai>) -> bool {
    let lag = moved.reference_time().since(calibration.reference_time());
    let (Some(lag), Some(error)) = (lag.filter(|lag| *lag >= Span::default()), calibration.time_max_error()) else {
        return false;
    };
    let error = u64::try_from(lag.ceil_nanos()).ok().and_then(|more| error.checked_add(more));
    error.is_some_and(|error| {
        calibration.with_reference_time(moved.reference_time()).with_time_max_error(error) == *moved
    })
}

/// The calibrations of late, the newest last.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Published {
    kept: VecDeque<Tenure>,
    /// What may be on pages that another publisher left: readers have it until these pages return.
    left: Vec<Tenure>,
    /// What is on pages now may stay on some of them.
    keeps_left: bool,
}

/// A line to publish: its time at `now` ahead of the base, and its frequency.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Line {
    pub(super) ahead: f64,
    pub(super) rate: f64,
}

impl Published {
    /// Those that may be on the page, the newest first.
    fn on_page(&self) -> impl Iterator<Item = &Tenure> {
        self.kept.iter().rev().take_while(|tenure| tenure.until.is_none())
    }

    /// The bounds that readers have at a counter value by what may be on the page; `None` if nothing is. Where several
    /// may be, they are what these have in common, which there is, as all are true.
    pub(super) fn bounds_now(&self, now: u64, base: &Base) -> Option<Range> {
        let range = |tenure: &Tenure| Some(Bound::of(&tenure.calibration, now)?.range(base, tenure.allowance));
        let mut ranges = self.left.iter().chain(self.on_page()).filter_map(range);
        let first = ranges.next()?;
        Some(ranges.fold(first, |all, range| Range { low: all.low.max(range.low), high: all.high.min(range.high) }))
    }

    /// The latest time that readers have at a counter value, ahead of the base.
    pub(super) fn shown(&self, now: u64, base: &Base) -> Option<f64> {
        let times = self.on_page().filter_map(|tenure| tenure.calibration.time_at(now).ok());
        times.map(|time| base.ahead(now, time)).reduce(f64::max)
    }

    /// What may be on a page that another publisher left.
    pub(super) fn left(&self) -> impl Iterator<Item = &Calibration<Tai>> {
        let now = self.on_page().filter(|_| self.keeps_left);
        self.left.iter().chain(now).map(|tenure| &tenure.calibration)
    }

    /// Another publisher left its pages. Either of the last two may be on them where the last one may not have been seen.
    pub(super) fn resume(&mut self, is_unseen: bool) {
        self.keeps_left = true;
        if is_unseen {
            self.reopen();
        }
    }

    /// All pages that another publisher left have returned.
    pub(super) fn release(&mut self) {
        self.left.clear();
        self.keeps_left = false;
    }

    fn reopen(&mut self) {
        let count = self.kept.len();
        if self.kept.back().is_some_and(|newest| newest.until.is_none()) && count > 1 {
            self.kept[count - 2].until = None;
        }
    }

    pub(super) fn newest(&self) -> Option<&Calibration<Tai>> {
        self.kept.back().map(|newest| &newest.calibration)
    }

    /// Which of the last two is on the page, as it was found there: the newest may have been moved when it came on.
    /// `None`: the newest was never on it. Says whether it is one of them.
    pub(super) fn found(&mut self, on_page: Option<&Calibration<Tai>>) -> bool {
        let Some(newest) = self.kept.back().filter(|newest| newest.until.is_none()) else { return false };
        let from = newest.from.counter;
        if let Some(moved) = on_page.filter(|on_page| is_moved(&newest.calibration, on_page)) {
            self.replace(*moved);
            self.kept.iter_mut().rev().skip(1).for_each(|before| before.end(from));
            return true;
        }
        let before = self.kept.iter().rev().nth(1).map(|before| before.calibration);
        let is_before = on_page.is_none() || on_page == before.as_ref();
        if is_before {
            self.kept.pop_back();
        }
        is_before
    }

    /// Whether no more were saved than are kept.
    pub(super) fn is_plausible(&self) -> bool {
        self.kept.len() <= KEPT
            && self.left.len() <= LEFT
            && self.kept.iter().chain(&self.left).all(|tenure| tenure.allowance >= 0.0)
    }

    /// The line nearest to `wanted` that is nested in the last calibration's bounds, and in those of as many before it
    /// as can be. Its time at `now` is one of `times`. It can be moved up by `reserve` and stay nested, unless bounds
    /// are closer than that. `None` where there is no such line.
    pub(super) fn nested(&self, now: u64, wanted: Line, times: Range, reserve: f64, base: &Base) -> Option<Line> {
        // From the newest: the age of each bound, and its range.
        let mut bounds = [(0.0, Range::new(0.0, 0.0)); 2 * (KEPT + LEFT)];
        let mut count = 0;
        for tenure in self.left.iter().chain(self.kept.iter().rev()) {
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
        // Both of each that may be on the page, and those of the last one in any case.
        let needed = 2 * (self.left.len() + self.on_page().count().max(1));
        if let Some(rate) = rate_through(bounds, wanted, times) {
            return Some(Line { rate, ..wanted });
        }
        let mut lines = Lines::new(times, Range::around(wanted.rate, WIDEST));
        for (index, (age, range)) in bounds.iter().enumerate() {
            // low <= ahead - rate * age <= high
            match lines.clipped(-1.0, *age, -range.low).and_then(|lines| lines.clipped(1.0, -age, range.high)) {
                Some(fewer) => lines = fewer,
                None if index < needed => return None,
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
        if std::mem::take(&mut self.keeps_left) {
            let open: Vec<Tenure> = self.on_page().copied().collect();
            self.left.extend(open);
            self.left.drain(..self.left.len().saturating_sub(LEFT));
        }
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
        self.kept.iter_mut().for_each(|tenure| tenure.end(now));
    }

    /// The clock that is followed was steered: that moved it by up to so many nanoseconds, which no bounds knew.
    pub(super) fn allow(&mut self, nanos: f64) {
        for tenure in self.kept.iter_mut().chain(&mut self.left) {
            tenure.allowance += nanos;
        }
    }

    pub(super) fn clear(&mut self) {
        self.kept.clear();
        self.release();
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
