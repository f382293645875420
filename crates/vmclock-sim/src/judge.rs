// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest that reads the page, and a judge who knows the true time.
//!
//! All in whole nanoseconds and 2^-64 s, without tolerance: a reading's interval must contain the very nanosecond of
//! the reading. Between two updates the page's line and its bounds are straight, and true time over the counter is
//! straight between two bends of the oscillator; whoever reads at the first and the last moment of each calibration and
//! at each bend, as [`World`](crate::world::World) does, reads where it is worst.

use std::collections::VecDeque;
use std::fmt;

use vmclock_core::abi::{ClockStatus, CounterId, Flags, LeapIndicator, Snapshot, TimeType};
use vmclock_core::calibration::Calibration;
use vmclock_core::leap::{LeapKind, UtcRule};
use vmclock_core::page::Page;
use vmclock_core::time::{Interval, PageScale, Span, Time};

use crate::calendar::{Calendar, OFFSET};
use crate::units::{Nanos, SECOND};

/// The counter that the page is about.
pub(crate) const COUNTER: CounterId = CounterId::X86_TSC;
/// How many calibrations back a later one is compared with what was read. The next one must place it inside its bounds;
/// that the others do not is only counted.
const COMPARED: u64 = 8;
/// How many readings are kept for the whole of an epoch, with which all later calibrations have to overlap.
const KEPT: usize = 48;

/// What must always hold.
///
/// ```
/// assert_eq!(vmclock_sim::Rule::Bounds.to_string(), "bounds");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Rule {
    /// True time is inside the page's interval.
    Bounds,
    /// The next calibration places an earlier reading inside that reading's interval.
    Nesting,
    /// The interval of every later calibration overlaps that of an earlier reading.
    Overlap,
    /// Time does not go back where the page says so.
    Monotonic,
    /// UTC, where the page gives it, is the true one.
    Utc,
    /// Time is given again within the probation and five minutes after a majority of the clocks is right and reachable.
    Time,
    /// A disruption that a majority of the clocks shows gets a new marker.
    Marker,
    /// The page says synchronized only while a clock that is right does.
    Status,
    /// The sequence count never rests at 0.
    Sequence,
    /// The publisher gives no error.
    Publisher,
    /// A publisher that finds what another one saved continues with the same marker if the counter went on, and with a
    /// new one if that is in doubt.
    Continuity,
    /// The publisher says what changes, not the same in each round.
    Events,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Bounds => "bounds",
            Self::Nesting => "nesting",
            Self::Overlap => "overlap",
            Self::Monotonic => "monotonic",
            Self::Utc => "utc",
            Self::Time => "time",
            Self::Marker => "marker",
            Self::Status => "status",
            Self::Sequence => "sequence",
            Self::Publisher => "publisher",
            Self::Continuity => "continuity",
            Self::Events => "events",
        })
    }
}

/// All of them, in the order in which they are counted.
pub(crate) const RULES: [Rule; 12] = [
    Rule::Bounds,
    Rule::Nesting,
    Rule::Overlap,
    Rule::Monotonic,
    Rule::Utc,
    Rule::Time,
    Rule::Marker,
    Rule::Status,
    Rule::Sequence,
    Rule::Publisher,
    Rule::Continuity,
    Rule::Events,
];

/// How often which rule was violated.
///
/// ```
/// use vmclock_sim::{Rule, Violations};
/// assert_eq!(Violations::default().of(Rule::Bounds), 0);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Violations([u64; RULES.len()]);

impl Violations {
    /// How often this one was.
    pub const fn of(&self, rule: Rule) -> u64 {
        self.0[rule as usize]
    }

    /// How often any was.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum += more;
        }
    }
}

/// The first violation of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Violation {
    pub(crate) rule: Rule,
    pub(crate) at: Nanos,
    pub(crate) text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}: {}", self.rule, seconds(self.at), self.text)
    }
}

/// A moment at which somebody reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment<'a> {
    pub(crate) at: Nanos,
    /// The counter of whoever reads.
    pub(crate) counter: u64,
    pub(crate) calendar: &'a Calendar,
}

/// What may be demanded at a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(clippy::struct_excessive_bools)] // each is a question of its own
pub(crate) struct Demands {
    /// The interval contains the true time. Not while nobody can have noticed that the counter was disrupted.
    pub(crate) bounds: bool,
    /// UTC is right. Not while nobody can know of a leap second.
    pub(crate) utc: bool,
    /// TAI-UTC is on the page.
    pub(crate) offset: bool,
    /// There is a time, or has been one since this moment.
    pub(crate) time_since: Option<Nanos>,
    /// The status may be synchronized.
    pub(crate) synchronized: bool,
}

/// What a reading gave, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Reading {
    /// The time minus the true one.
    pub(crate) error: i128,
    /// Half of the interval's width.
    pub(crate) half_width: u128,
}

/// A reading that was given to somebody.
#[derive(Clone, Copy, Debug)]
struct Given {
    at: Nanos,
    counter: u64,
    /// In TAI.
    earliest: i128,
    latest: i128,
    /// Which calibration gave it, counted.
    calibration: u64,
}

/// The page as its readers see it since its last update.
#[derive(Clone, Copy, Debug)]
struct View {
    snapshot: Snapshot,
    calibration: Option<Calibration>,
    utc: Option<UtcRule>,
    /// From the page's scale to TAI, in nanoseconds.
    to_tai: i128,
}

/// The judge of one run.
#[derive(Debug)]
pub(crate) struct Judge {
    pub(crate) violations: Violations,
    pub(crate) first: Option<Violation>,
    /// How often a calibration after the next one placed a reading outside its bounds.
    pub(crate) nested_misses: u64,
    pub(crate) readings: u64,
    /// Of which no time was given.
    pub(crate) without: u64,
    pub(crate) updates: u64,
    /// How often the marker changed.
    pub(crate) markers: u64,
    /// Since when there is no time.
    without_since: Option<Nanos>,
    view: View,
    /// How many calibrations there were.
    calibrations: u64,
    /// The first and the last reading of each of the last calibrations.
    recent: VecDeque<Given>,
    /// Readings of the whole epoch: when the list is full every other one is dropped.
    kept: Vec<Given>,
    keep_every: u64,
    /// Which of them is compared next.
    turn: usize,
    last: Option<Time<PageScale>>,
}

impl Judge {
    pub(crate) fn new() -> Self {
        let view = View { snapshot: Snapshot::BLANK, calibration: None, utc: None, to_tai: 0 };
        Self {
            violations: Violations::default(),
            first: None,
            nested_misses: 0,
            readings: 0,
            without: 0,
            updates: 0,
            markers: 0,
            without_since: None,
            view,
            calibrations: 0,
            recent: VecDeque::with_capacity(2 * COMPARED as usize + 2),
            kept: Vec::with_capacity(KEPT),
            keep_every: 4,
            turn: 0,
            last: None,
        }
    }

    /// What the page said when it was last read.
    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.view.snapshot
    }

    /// Where the page places the true time at a counter value, in TAI: earliest and latest.
    pub(crate) fn interval(&self, counter: u64) -> Option<(i128, i128)> {
        let interval = self.view.calibration?.interval_at(counter).ok()??;
        Some((interval.earliest.nanos() + self.view.to_tai, interval.latest.nanos() + self.view.to_tai))
    }

    /// What was read with a counter that has been disrupted since says nothing about what follows.
    pub(crate) fn forget(&mut self) {
        self.recent.clear();
        self.kept.clear();
        self.keep_every = 4;
        self.last = None;
    }

    /// Notes a violation.
    pub(crate) fn violated(&mut self, rule: Rule, at: Nanos, text: impl FnOnce() -> String) {
        self.violations.0[rule as usize] += 1;
        if self.first.is_none() {
            self.first = Some(Violation { rule, at, text: text() });
        }
    }

    /// Reads a page that has just been updated, and compares it with what was read before.
    pub(crate) fn page_changed(&mut self, page: &Page, moment: &Moment<'_>, demands: Demands) {
        self.updates += 1;
        let Ok(snapshot) = page.snapshot(|| false) else {
            // Its writer was killed in the middle of an update.
            self.view.calibration = None;
            return;
        };
        if snapshot.seq_count == 0 {
            self.violated(Rule::Sequence, moment.at, || "the sequence count rests at 0".into());
        }
        let next = view(&snapshot, moment, demands, self.view.to_tai);
        let old = std::mem::replace(&mut self.view, next);
        if old.snapshot.disruption_marker != snapshot.disruption_marker {
            self.markers += 1;
            self.forget();
        }
        if self.view.calibration.is_none() {
            return;
        }
        if old.calibration != self.view.calibration || old.to_tai != self.view.to_tai {
            self.calibrations += 1;
            self.compare(moment.at);
        }
    }

    /// Holds a calibration to what was read with earlier ones.
    fn compare(&mut self, now: Nanos) {
        let (Some(calibration), to_tai) = (self.view.calibration, self.view.to_tai) else { return };
        while self.recent.front().is_some_and(|given| given.calibration + COMPARED < self.calibrations) {
            self.recent.pop_front();
        }
        for index in 0..self.recent.len() {
            let given = self.recent[index];
            let Ok(placed) = calibration.time_at(given.counter) else { continue };
            // Rounded to the nanosecond on its way to the guest.
            let inside =
                given.earliest <= placed.ceil_nanos() + to_tai && placed.floor_nanos() + to_tai <= given.latest;
            let is_next = given.calibration + 1 == self.calibrations;
            if !inside && is_next {
                let placed = placed.floor_nanos() + to_tai;
                self.violated(Rule::Nesting, now, || {
                    let beyond = (given.earliest - placed).max(placed - given.latest);
                    format!("a reading at {} is placed {beyond} ns outside its bounds", seconds(given.at))
                });
            }
            self.nested_misses += u64::from(!inside && !is_next);
            self.overlap(calibration, to_tai, given, now);
        }
        for _ in 0..self.kept.len().min(4) {
            self.turn = (self.turn + 1) % self.kept.len();
            self.overlap(calibration, to_tai, self.kept[self.turn], now);
        }
    }

    fn overlap(&mut self, calibration: Calibration, to_tai: i128, given: Given, now: Nanos) {
        let Some(Interval { earliest, latest }) = calibration.interval_at(given.counter).ok().flatten() else { return };
        let apart = (earliest.nanos() + to_tai - given.latest).max(given.earliest - latest.nanos() - to_tai);
        if apart > 0 {
            self.violated(Rule::Overlap, now, || {
                format!("the interval of a reading at {} is {apart} ns from the new one", seconds(given.at))
            });
        }
    }

    /// Reads the clock.
    pub(crate) fn read(&mut self, moment: &Moment<'_>, demands: Demands) -> Option<Reading> {
        let Moment { at, counter, calendar } = *moment;
        self.readings += 1;
        let Some(calibration) = self.view.calibration else {
            self.without += 1;
            let since = *self.without_since.get_or_insert(at);
            if demands.time_since.is_some_and(|limit| since < limit) {
                let status = self.view.snapshot.clock_status;
                self.violated(Rule::Time, at, || format!("no time is given: {status}"));
            }
            return None;
        };
        self.without_since = None;
        let to_tai = self.view.to_tai;
        let time = calibration.time_at(counter).ok()?;
        if !demands.bounds {
            self.last = None;
            return None;
        }
        if self.view.snapshot.clock_status == ClockStatus::SYNCHRONIZED && !demands.synchronized {
            self.violated(Rule::Status, at, || "no clock that is right is synchronized, and the page is".into());
        }
        let is_monotonic = self.view.snapshot.flags.contains(Flags::TIME_MONOTONIC);
        if let Some(last) = self.last.filter(|last| is_monotonic && time < *last) {
            self.violated(Rule::Monotonic, at, || format!("{} ns back", last.since(time).map_or(0, Span::ceil_nanos)));
        }
        self.last = is_monotonic.then_some(time);
        let truth = calendar.tai(at);
        // A page without bounds promises nothing.
        let Interval { earliest, latest } = calibration.interval_at(counter).ok()??;
        let (earliest, latest) = (earliest.nanos() + to_tai, latest.nanos() + to_tai);
        let error = time.floor_nanos() + to_tai - truth;
        if truth < earliest || latest < truth {
            self.violated(Rule::Bounds, at, || {
                let beyond = (earliest - truth).max(truth - latest);
                format!("true time is {beyond} ns outside; the error is {error} ns of {} ns", (latest - earliest) / 2)
            });
        }
        self.judge_utc(truth - to_tai, latest - earliest, moment, demands);
        self.keep(Given { at, counter, earliest, latest, calibration: self.calibrations });
        Some(Reading { error, half_width: (latest - earliest).unsigned_abs() / 2 })
    }

    fn judge_utc(&mut self, truth: i128, width: i128, moment: &Moment<'_>, demands: Demands) {
        if demands.offset && self.view.snapshot.tai_offset().is_none() {
            self.violated(Rule::Utc, moment.at, || "TAI-UTC is known, and the page does not say it".into());
        }
        let (Some(rule), true) = (self.view.utc, demands.utc) else { return };
        // What the page says of UTC holds at its reference time, which is as vague as its time.
        let leaps_at = moment.calendar.leaps_at();
        if [0, SECOND].iter().any(|more| i128::from(moment.at.abs_diff(leaps_at.saturating_add(*more))) <= width) {
            return;
        }
        let Some(expected) = moment.calendar.utc(moment.at) else { return };
        let Some(found) = Time::from_nanos(truth).and_then(|truth| rule.utc(truth)) else { return };
        if found != expected {
            self.violated(Rule::Utc, moment.at, || format!("UTC is {expected:?}, and the page makes it {found:?}"));
        }
    }

    fn keep(&mut self, given: Given) {
        // Of each calibration the first and the last: all others are between them, on straight lines.
        let of_this = self.recent.iter().rev().take_while(|other| other.calibration == given.calibration).count();
        if of_this >= 2 {
            self.recent.pop_back();
        }
        self.recent.push_back(given);
        if self.readings % self.keep_every == 0 {
            if self.kept.len() == KEPT {
                let mut index = 0;
                self.kept.retain(|_| {
                    index += 1;
                    index % 2 == 0
                });
                self.keep_every *= 2;
            }
            self.kept.push(given);
        }
    }
}

/// `before`: how far the page was from TAI, in nanoseconds.
fn view(snapshot: &Snapshot, moment: &Moment<'_>, demands: Demands, before: i128) -> View {
    let calibration = Calibration::from_snapshot(snapshot, COUNTER).ok();
    let to_tai = match (snapshot.time_type, &calibration) {
        (TimeType::UTC, Some(calibration)) if demands.utc => {
            reference_offset(snapshot, calibration, moment.calendar) * SECOND
        }
        (TimeType::UTC, Some(calibration)) => possible_offset(calibration, moment, before),
        _ => 0,
    };
    let to_tai = i128::from(to_tai);
    View { snapshot: *snapshot, calibration, utc: UtcRule::from_snapshot(snapshot), to_tai }
}

/// TAI-UTC at the reference time of a page on UTC, in seconds: the true one, at the moment that the page means.
fn reference_offset(snapshot: &Snapshot, calibration: &Calibration, calendar: &Calendar) -> i64 {
    let Some(leap) = calendar.leap else { return OFFSET };
    let utc = calibration.reference_time().seconds();
    match (leap.kind, snapshot.leap_indicator) {
        (_, LeapIndicator::PRE_POSITIVE | LeapIndicator::PRE_NEGATIVE) => OFFSET,
        // Inside 23:59:60: by the old offset it is 00:00:00, and by the new one 23:59:59.
        (LeapKind::Inserted, LeapIndicator::POSITIVE) => OFFSET + i64::from(utc < leap.month),
        (LeapKind::Inserted, _) => OFFSET + i64::from(utc >= leap.month),
        (LeapKind::Deleted, _) => OFFSET - i64::from(utc >= leap.month - 1),
    }
}

/// The same in nanoseconds as long as nobody can know of the leap second: the offset of before will do, as will the one
/// of after. A page whose bounds are wider than a second is right by both, and does not go from one to the other.
fn possible_offset(calibration: &Calibration, moment: &Moment<'_>, before: i128) -> Nanos {
    let shown = calibration.time_at(moment.counter).map_or(0, Time::floor_nanos);
    let max_error = calibration.max_error_at(moment.counter).unwrap_or(0);
    let off = |offset: &Nanos| (moment.calendar.tai(moment.at) - shown - i128::from(*offset)).abs();
    let is_kept = |offset: &Nanos| i128::from(*offset) == before && off(offset).unsigned_abs() <= max_error;
    let offsets = [OFFSET, moment.calendar.offset(Nanos::MAX)].map(|offset| offset * SECOND);
    let kept = offsets.into_iter().find(is_kept);
    kept.or_else(|| offsets.into_iter().min_by_key(off)).unwrap_or(OFFSET * SECOND)
}

/// An instant, for people.
pub(crate) fn seconds(at: Nanos) -> String {
    format!("{}.{:09} s", at / SECOND, at % SECOND)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use vmclock_core::calibration::Period;
    use vmclock_core::lifecycle::{calibrated, LeapStatus};
    use vmclock_core::page::Writer;
    use vmclock_core::tai::TaiOffset;

    use super::*;
    use crate::calendar::Leap;

    const CALENDAR: Calendar = Calendar { epoch: 1_798_588_800, leap: None };
    const ALL: Demands =
        Demands { bounds: true, utc: true, offset: true, time_since: Some(Nanos::MAX), synchronized: true };

    /// A page on TAI, and a counter of 1 GHz that is 0 when the simulation begins.
    struct Bench<'p> {
        judge: Judge,
        page: &'p Page,
        writer: Writer<&'p Page>,
        calendar: Calendar,
    }

    impl<'p> Bench<'p> {
        fn new(page: &'p Page) -> Self {
            let blank = Snapshot::BLANK.with(|page| {
                page.counter_id = COUNTER;
                page.disruption_marker = 1;
            });
            Self { judge: Judge::new(), page, writer: Writer::create(page, blank), calendar: CALENDAR }
        }

        fn moment(&self, at: Nanos) -> Moment<'_> {
            Moment { at, counter: at.unsigned_abs(), calendar: &self.calendar }
        }

        /// Publishes at an instant a time that is off by `error`, with these bounds.
        fn publish(&mut self, at: Nanos, error: i128, max_error: u64, change: impl Fn(&mut Snapshot)) {
            let period = Period::from_frequency(NonZeroU64::new(1_000_000_000).expect("not 0"));
            let time = Time::<PageScale>::from_nanos(self.calendar.tai(at) + error).expect("in range");
            let calibration = Calibration::new(at.unsigned_abs(), time, period).with_max_error(max_error, 1_000_000);
            let leap = LeapStatus {
                tai_offset: TaiOffset::from_seconds(37),
                indicator: vmclock_core::abi::LeapIndicator::NONE,
            };
            self.writer.update(|page| {
                calibrated(page, &calibration, ClockStatus::SYNCHRONIZED, leap).expect("after 1970");
                change(page);
            });
            let moment = Moment { at, counter: at.unsigned_abs(), calendar: &self.calendar };
            self.judge.page_changed(self.page, &moment, ALL);
        }

        fn read(&mut self, at: Nanos, demands: Demands) -> Option<Reading> {
            let moment = Moment { at, counter: at.unsigned_abs(), calendar: &self.calendar };
            self.judge.read(&moment, demands)
        }

        fn found(&self, rule: Rule) -> u64 {
            assert_eq!(self.judge.violations.total(), self.judge.violations.of(rule), "{:?}", self.judge.first);
            self.judge.violations.of(rule)
        }
    }

    #[test]
    fn a_bound_is_missed_by_one_nanosecond() {
        for (error, expected) in [(100, 0), (-100, 0), (102, 1), (-102, 1)] {
            let page = Page::new();
            let mut bench = Bench::new(&page);
            bench.publish(SECOND, error, 100, |_| ());
            let reading = bench.read(SECOND, ALL).expect("a time");
            assert!((reading.error - error).abs() <= 1, "{reading:?}");
            assert_eq!(bench.found(Rule::Bounds), expected, "{error}");
        }
    }

    #[test]
    fn bounds_are_not_demanded_while_nobody_can_know() {
        let page = Page::new();
        let mut bench = Bench::new(&page);
        bench.publish(SECOND, 1_000, 100, |_| ());
        assert_eq!(bench.read(SECOND, Demands { bounds: false, ..ALL }), None);
        assert_eq!(bench.found(Rule::Bounds), 0);
    }

    #[test]
    fn the_next_calibration_is_inside_and_the_others_overlap() {
        // The second is published 150 ns off, 10 s later; its own bounds hold.
        for (error, max_error, rule, expected) in
            [(90, 1_000, Rule::Nesting, 0), (150, 1_000, Rule::Nesting, 1), (-150, 1_000, Rule::Nesting, 1)]
        {
            let page = Page::new();
            let mut bench = Bench::new(&page);
            bench.publish(SECOND, 0, 100, |_| ());
            bench.read(SECOND, ALL);
            bench.publish(2 * SECOND, error, max_error, |_| ());
            assert_eq!(bench.found(rule), expected, "{error}");
        }
        let page = Page::new();
        let mut bench = Bench::new(&page);
        bench.publish(SECOND, 0, 100, |_| ());
        for _ in 0..4 {
            bench.read(SECOND, ALL);
        }
        for turn in 2..20 {
            bench.publish(turn * SECOND, 5_000 * i128::from(turn - 1), 5_000, |_| ());
        }
        assert!(bench.judge.violations.of(Rule::Overlap) > 10, "{:?}", bench.judge.violations);
    }

    #[test]
    fn another_marker_forgets() {
        let page = Page::new();
        let mut bench = Bench::new(&page);
        bench.publish(SECOND, 0, 100, |_| ());
        bench.read(SECOND, ALL);
        bench.publish(2 * SECOND, 5_000_000, 5_000_100, |page| page.disruption_marker = 2);
        bench.read(2 * SECOND, ALL);
        assert_eq!(bench.found(Rule::Nesting), 0);
    }

    #[test]
    fn time_goes_back_only_where_that_is_allowed() {
        for flags in [Flags::NONE, Flags::TIME_MONOTONIC] {
            let page = Page::new();
            let mut bench = Bench::new(&page);
            let flagged = |page: &mut Snapshot| page.flags = page.flags.with(flags);
            bench.publish(SECOND, 50, 100, flagged);
            bench.read(SECOND + 10, ALL);
            bench.publish(SECOND + 20, 0, 100, flagged);
            bench.read(SECOND + 20, ALL);
            assert_eq!(bench.found(Rule::Monotonic), u64::from(flags != Flags::NONE));
        }
    }

    #[test]
    fn a_page_without_a_time_is_a_violation_where_one_is_due() {
        let page = Page::new();
        let mut bench = Bench::new(&page);
        bench.publish(SECOND, 0, 100, |page| page.clock_status = ClockStatus::UNRELIABLE);
        assert_eq!(bench.read(SECOND, Demands { time_since: None, ..ALL }), None);
        assert_eq!(bench.found(Rule::Time), 0);
        // It was lost a second ago, which may be.
        assert_eq!(bench.read(2 * SECOND, Demands { time_since: Some(SECOND), ..ALL }), None);
        assert_eq!(bench.found(Rule::Time), 0);
        assert_eq!(bench.read(2 * SECOND, Demands { time_since: Some(SECOND + 1), ..ALL }), None);
        assert_eq!(bench.found(Rule::Time), 1);
        assert_eq!((bench.judge.readings, bench.judge.without), (3, 3));
    }

    #[test]
    fn utc_is_judged_beside_the_bounds() {
        let month = 1_798_761_600;
        for (kind, expected) in [(None, 0), (Some(LeapKind::Inserted), 1)] {
            let page = Page::new();
            let mut bench = Bench::new(&page);
            bench.calendar.leap = kind.map(|kind| Leap { month, kind });
            let after = bench.calendar.instant(month + 40);
            // The page still has the old offset.
            bench.publish(after, 0, 100, |_| ());
            bench.read(after, Demands { utc: false, ..ALL });
            assert_eq!(bench.found(Rule::Utc), 0);
            bench.read(after, ALL);
            assert_eq!(bench.found(Rule::Utc), expected);
        }
    }

    #[test]
    fn a_page_on_utc_is_compared_on_tai() {
        let month = 1_798_761_600;
        let page = Page::new();
        let mut bench = Bench::new(&page);
        bench.calendar.leap = Some(Leap { month, kind: LeapKind::Inserted });
        for second in [-10, 10, 20] {
            let at = bench.calendar.instant(month + 37) + second * SECOND;
            let offset = bench.calendar.offset(at);
            let utc = |page: &mut Snapshot| {
                page.time_type = TimeType::UTC;
                page.time_sec = page.time_sec.wrapping_add_signed(-offset);
                page.tai_offset_sec = -(offset as i16);
            };
            bench.publish(at, 10, 100, utc);
            let reading = bench.read(at, Demands { utc: false, ..ALL }).expect("a time");
            assert_eq!(reading.error, 10);
        }
        assert_eq!(bench.judge.violations.total(), 0, "{:?}", bench.judge.first);
    }

    #[test]
    fn a_status_needs_somebody_who_is_synchronized() {
        let page = Page::new();
        let mut bench = Bench::new(&page);
        bench.publish(SECOND, 0, 100, |_| ());
        bench.read(SECOND, Demands { synchronized: false, ..ALL });
        assert_eq!(bench.found(Rule::Status), 1);
        assert!(bench.moment(SECOND).counter > 0);
    }
}
