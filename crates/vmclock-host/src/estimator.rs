// SPDX-License-Identifier: MIT OR Apache-2.0
//! From looks at clocks to a calibration whose bounds hold. How the bounds are derived: `docs/bounds.md`.
//!
//! Set membership, not statistics: each look says that the true time lies in an interval, the counter's rate is known to
//! an interval too, and what contradicts neither is kept. So bounds are true as long as the sources' own are, and
//! the counter's rate drifts no further than assumed; and a source that is only sometimes good, as a network's best
//! packets are, counts with its best looks.
//!
//! Everything here is a function of what was passed in, bit for bit: a recorded trace gives the same calibrations again.

// Numbers of ticks and nanoseconds become floating-point ones here and back; all are far below 2^53 where it matters, and
// what is rounded is covered by the bounds.
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

mod anchors;
mod nesting;
mod track;

use vmclock_core::abi::ClockStatus;
use vmclock_core::calibration::Period;
use vmclock_core::time::{Span, Tai, Time};

use crate::interval::{majority, Range};
use anchors::{Anchors, Wander};
use nesting::Published;
use track::{Track, Verdict};

const PARTS_PER_TRILLION: f64 = 1e12;
const SECOND: f64 = 1e9;
/// For what is rounded on the way to a page: a nanosecond.
const ROUNDING: f64 = 1.0;
/// How far a clock that must not be set back may have to be moved when it is published, for the time that has gone by
/// until then: a millisecond at a rate that is off by 200 ppm.
const RESERVE: f64 = 200.0;
/// No calibration stays longer, so that a page whose publisher is gone can be told from one that needs no refresh.
const LONGEST: f64 = 60.0 * SECOND;
/// How fast a clock that must not be set back may be slowed, or run on, to get where it should be: 500 ppm.
const SLEW: f64 = 500e-6;

/// What an estimator assumes. The defaults are for a host whose sources are good to milliseconds.
///
/// ```
/// use vmclock_host::estimator::Settings;
/// assert_eq!(Settings::default().drift, 15_000_000); // 15 ppm
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// How far the counter's rate may ever go from where it was measured, in parts per 10^12, until
    /// that too has been measured. Once it has, over a day, it is three times the range that was seen, but no less than
    /// `least_drift` and no more than this.
    pub drift: u64,
    /// The least drift, however steady the counter has been, in parts per 10^12. The same as `drift`: nothing is measured.
    pub least_drift: u64,
    /// How far off the period that the estimator starts from may be, in parts per 10^12.
    pub nominal_error: u64,
    /// After so many nanoseconds without a source the status is free-running.
    pub holdover: u64,
    /// How long a source has to insist, in nanoseconds, before a time that contradicts its own earlier one is believed.
    pub probation: u64,
    /// Never let the published time go back: for `TIME_MONOTONIC`.
    pub monotonic: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            drift: 15_000_000,
            least_drift: 1_000_000,
            nominal_error: 500_000_000,
            holdover: 30_000_000_000,
            probation: 600_000_000_000,
            monotonic: false,
        }
    }
}

/// One look at a source: when the counter was between `before` and `after`, true time was within `max_error` of `time`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Evidence {
    /// Which source, counted from 0.
    pub source: usize,
    /// The counter before.
    pub before: u64,
    /// The counter after.
    pub after: u64,
    /// The source's time, in TAI.
    pub time: Time<Tai>,
    /// How far off that may be, in ± nanoseconds, by the source's own account.
    pub max_error: u64,
    /// How far off it is thought to be, in ± nanoseconds.
    pub estimated_error: u64,
    /// Whether the source is synchronised to something better.
    pub synchronized: bool,
}

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
    /// How far off the reference time is thought to be, in ± nanoseconds.
    pub time_estimated_error: u64,
    /// How far off the period may be, now and for as long as this is the last estimate, in parts per 10^12.
    pub period_max_error: u64,
    /// How far off the period is thought to be, in parts per 10^12.
    pub period_estimated_error: u64,
}

impl Estimate {
    /// The time at a counter value, or `None` beyond ±2^63 s.
    pub fn time_at(&self, counter: u64) -> Option<Time<Tai>> {
        let ticks = ticks_between(self.counter, counter);
        let product = u128::from(ticks.unsigned_abs()).checked_mul(self.period.frac().into())?;
        let shifted = product.checked_shr(self.period.shift().into())?;
        // Down, for a difference below zero too.
        let lost = u128::from(ticks < 0 && shifted << self.period.shift() != product);
        let span = i128::try_from(shifted + lost).ok()?;
        self.time.checked_add(Span::from_raw(if ticks < 0 { -span } else { span }))
    }

    /// How far off [`time_at`](Self::time_at) may be, in ± nanoseconds.
    pub fn max_error_at(&self, counter: u64) -> u64 {
        let elapsed = ticks_between(self.counter, counter).unsigned_abs() as f64 * nanos_per_tick(self.period);
        let drifted = (elapsed * self.period_max_error as f64 / PARTS_PER_TRILLION).ceil() as u64;
        self.time_max_error.saturating_add(drifted).saturating_add(1)
    }

    /// How far the line has to be moved so that at `counter` it is not before another one.
    fn lag_behind(&self, earlier: &Self, counter: u64) -> Span {
        let ahead = earlier.time_at(counter).zip(self.time_at(counter)).and_then(|(old, new)| old.since(new));
        ahead.map_or(Span::default(), |ahead| ahead.max(Span::default()))
    }
}

/// What was found out, to be told.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Finding {
    /// A source contradicts what it said before. It has no say until it says otherwise, or insists.
    Doubted {
        /// Which source.
        source: usize,
        /// How far its time is from where it may be, in nanoseconds (positive: ahead).
        ahead: f64,
    },
    /// A doubted source is again where it was.
    Vindicated {
        /// Which source.
        source: usize,
    },
    /// A doubted source insists: its new time is believed.
    Stepped {
        /// Which source.
        source: usize,
    },
    /// At least half of the sources must be wrong.
    NoMajority,
    /// What most sources say contradicts what was published.
    Contradicted {
        /// How far the time is from where it may be, in nanoseconds (positive: ahead).
        ahead: f64,
    },
    /// No calibration places what was read before inside the bounds that it was read with.
    NotNested,
    /// The counter's rate changed by more than it can.
    Unstable {
        /// By how much more, in parts per 10^12 (positive: the counter is slower).
        change: f64,
    },
    /// No source says anything: the clock runs on the counter alone.
    Holdover,
    /// Sources are heard again, and agree.
    Resumed,
}

/// What follows from the looks so far.
#[derive(Clone, PartialEq, Debug)]
pub struct Conclusion {
    /// For the page.
    pub status: ClockStatus,
    /// A calibration that is worth publishing. `None`: what was published last is as good.
    pub publish: Option<Estimate>,
    /// What was published before was, or may have been, wrong: the page needs a new disruption marker.
    pub disrupted: bool,
    /// What was found out on the way.
    pub findings: Vec<Finding>,
}

/// The states, as in the picture in `docs/bounds.md`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// No source was heard yet.
    Starting,
    /// The sources agree.
    Tracking,
    /// None is heard; the clock runs on the counter alone.
    Holdover,
    /// The sources contradict one another, or what they said before.
    Doubt,
}

/// What is known of the counter's rate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rate {
    /// Not better than what may drift, yet.
    Unmeasured,
    Measured,
    /// It is where it cannot be.
    Unstable,
}

/// Turns looks at sources into calibrations.
///
/// Each round: [`observe`](Self::observe) every look at a source, then [`conclude`](Self::conclude).
///
/// ```
/// use std::num::NonZeroU64;
/// use vmclock_core::{abi::ClockStatus, calibration::Period, time::Time};
/// use vmclock_host::estimator::{Estimator, Evidence, Settings};
///
/// let nominal = Period::from_frequency(NonZeroU64::new(1_000_000_000).unwrap());
/// let mut estimator = Estimator::new(Settings::default(), nominal, 1);
/// estimator.observe(&Evidence {
///     source: 0,
///     before: 5_000,
///     after: 5_100,
///     time: Time::from_parts(1_800_000_000, 0),
///     max_error: 1_000,
///     estimated_error: 100,
///     synchronized: true,
/// });
/// let conclusion = estimator.conclude(5_200);
/// assert_eq!(conclusion.status, ClockStatus::SYNCHRONIZED);
/// let estimate = conclusion.publish.unwrap();
/// assert!((1_050..1_100).contains(&estimate.time_max_error));
/// ```
#[derive(Clone, Debug)]
pub struct Estimator {
    settings: Settings,
    state: State,
    /// Everything below is relative to this line: times in nanoseconds from it, rates relative to its period.
    base: Option<Base>,
    tracks: Vec<Track>,
    /// Where the true time is, at the base's `now`.
    known: Range,
    /// What the counter's rate was on average, of late.
    rate: Range,
    /// Where the rate can be at all, by what the estimator was started with.
    nominal: Range,
    /// The rate was where it cannot be, and has to be measured before a time is given again.
    unproven: bool,
    anchors: Anchors,
    wander: Wander,
    published: Published,
    last: Option<Estimate>,
    /// The one before, until readers cannot have it any more.
    replaced: Option<Estimate>,
    is_broken: bool,
    last_status: ClockStatus,
    nominal_period: Period,
}

/// A line of time over the counter.
#[derive(Clone, Copy, Debug)]
struct Base {
    line: Estimate,
    nanos_per_tick: f64,
    /// The counter to which `known` belongs.
    now: u64,
}

impl Base {
    fn at(counter: u64, time: Time<Tai>, period: Period) -> Self {
        let line = Estimate {
            counter,
            time,
            period,
            time_max_error: 0,
            time_estimated_error: 0,
            period_max_error: 0,
            period_estimated_error: 0,
        };
        Self { line, nanos_per_tick: nanos_per_tick(period), now: counter }
    }

    /// The time from one counter value to another, in nanoseconds.
    fn elapsed(&self, from: u64, to: u64) -> f64 {
        ticks_between(from, to) as f64 * self.nanos_per_tick
    }

    /// How far a time is ahead of the line, in nanoseconds.
    fn ahead(&self, counter: u64, time: Time<Tai>) -> f64 {
        let span = time.raw().wrapping_sub(self.line.time.raw());
        span as f64 * NANOS_PER_RAW - self.elapsed(self.line.counter, counter)
    }
}

impl Estimator {
    /// An estimator for so many sources. `nominal`: the counter's period as it is known before any source was heard,
    /// to within [`Settings::nominal_error`].
    pub fn new(settings: Settings, nominal: Period, sources: usize) -> Self {
        let tolerance = settings.nominal_error as f64 / PARTS_PER_TRILLION;
        let nominal_range = Range::around(0.0, tolerance);
        Self {
            settings,
            state: State::Starting,
            base: None,
            tracks: vec![Track::default(); sources],
            known: Range::new(0.0, 0.0),
            rate: nominal_range,
            nominal: nominal_range,
            unproven: false,
            anchors: Anchors::default(),
            wander: Wander::default(),
            published: Published::default(),
            last: None,
            replaced: None,
            is_broken: false,
            last_status: ClockStatus::INITIALIZING,
            nominal_period: nominal,
        }
    }

    /// Starts anew: the counter is another one, or was disturbed. Nothing that was known of it is true any more.
    pub fn restart(&mut self, nominal: Period) {
        *self = Self::new(self.settings, nominal, self.tracks.len());
    }

    /// The period that the estimator was started with.
    pub const fn nominal(&self) -> Period {
        self.nominal_period
    }

    /// How far the counter's rate is assumed to go from where it was measured, in parts per 10^12.
    pub fn drift(&self) -> u64 {
        (self.drift_now() * PARTS_PER_TRILLION).ceil() as u64
    }

    /// What was last worth publishing, since the last restart.
    pub const fn last(&self) -> Option<&Estimate> {
        self.last.as_ref()
    }

    /// Uses another drift from now on.
    pub const fn set_drift(&mut self, drift: u64, least: u64) {
        self.settings.drift = drift;
        self.settings.least_drift = least;
    }

    /// How far a look's time is outside of what its source may say by what it said before, in nanoseconds (positive: ahead).
    /// 0 if it may, or if the source was never heard.
    pub fn surprise(&self, evidence: &Evidence) -> f64 {
        let (Some(base), Some(track)) = (&self.base, self.tracks.get(evidence.source)) else { return 0.0 };
        let (at, said) = said(base, evidence);
        track.expected(base.elapsed(track.at(), at), self.rates()).map_or(0.0, |expected| expected.distance_to(said))
    }

    /// Takes one look at a source.
    pub fn observe(&mut self, evidence: &Evidence) -> Option<Finding> {
        let base = *self.base.get_or_insert_with(|| {
            Base::at(middle(evidence.before, evidence.after), evidence.time, self.nominal_period)
        });
        let rates = self.rates();
        let track = self.tracks.get_mut(evidence.source)?;
        let (at, said) = said(&base, evidence);
        let source = evidence.source;
        let elapsed = |from, to| base.elapsed(from, to);
        match track.hear(at, said, elapsed, rates, evidence, self.settings.probation as f64) {
            Verdict::Fits => None,
            Verdict::Doubted { ahead } => Some(Finding::Doubted { source, ahead }),
            Verdict::Vindicated => Some(Finding::Vindicated { source }),
            Verdict::Stepped => Some(Finding::Stepped { source }),
        }
    }

    /// What follows, now that the counter is at `now` and all sources that can be heard were.
    pub fn conclude(&mut self, now: u64) -> Conclusion {
        let mut findings = Vec::new();
        let Some(base) = self.base else {
            return Conclusion { status: ClockStatus::INITIALIZING, publish: None, disrupted: false, findings };
        };
        let rates = self.rates();
        let began = self.state == State::Starting;
        let elapsed = base.elapsed(base.now, now);
        if !began {
            self.known = grown(self.known, elapsed, rates);
        }
        self.base = Some(Base { now, ..base });

        let holdover = self.settings.holdover as f64;
        let heard: Vec<&Track> =
            self.tracks.iter().filter(|track| track.is_heard_within(holdover, |at| base.elapsed(at, now))).collect();
        let votes: Vec<Range> =
            heard.iter().filter_map(|track| track.vote(base.elapsed(track.at(), now), rates)).collect();
        let synchronized = heard.iter().any(|track| track.is_synchronized());
        let mut disrupted = std::mem::take(&mut self.is_broken);
        let state = if heard.is_empty() {
            match self.state {
                // Silence settles no doubt.
                State::Starting | State::Doubt => self.state,
                State::Tracking | State::Holdover => State::Holdover,
            }
        } else if votes.len() * 2 <= heard.len() {
            State::Doubt
        } else if let Some(agreed) = majority(&votes) {
            if began {
                self.known = agreed;
            } else if let Some(both) = self.known.and(agreed) {
                self.known = both;
            } else {
                findings.push(Finding::Contradicted { ahead: self.known.distance_to(agreed) });
                disrupted = true;
                self.known = agreed;
                self.forget_rates();
            }
            State::Tracking
        } else {
            findings.push(Finding::NoMajority);
            State::Doubt
        };
        match (self.state, state) {
            (State::Tracking | State::Holdover, State::Doubt) => disrupted = true,
            (State::Tracking, State::Holdover) => findings.push(Finding::Holdover),
            (State::Holdover | State::Doubt, State::Tracking) => findings.push(Finding::Resumed),
            _ => {}
        }
        self.state = state;
        if state == State::Tracking {
            match self.learn_rate(now, &mut findings) {
                Rate::Unstable => (disrupted, self.unproven) = (true, true),
                Rate::Measured => self.unproven = false,
                Rate::Unmeasured => {}
            }
            if self.unproven {
                self.state = State::Doubt;
            }
        }
        self.conclusion(now, synchronized, disrupted, findings)
    }

    fn conclusion(
        &mut self,
        now: u64,
        synchronized: bool,
        mut disrupted: bool,
        mut findings: Vec<Finding>,
    ) -> Conclusion {
        let mut status = match self.state {
            State::Starting => ClockStatus::INITIALIZING,
            State::Doubt => ClockStatus::UNRELIABLE,
            State::Tracking if synchronized => ClockStatus::SYNCHRONIZED,
            State::Tracking | State::Holdover => ClockStatus::FREE_RUNNING,
        };
        if disrupted {
            self.published.clear();
            self.last = None;
            self.replaced = None;
        }
        let mut publish = None;
        if status.gives_time() && self.is_worth_it(now, status) {
            publish = self.publish(now);
            if publish.is_none() {
                // No line is right now, and for what was read before.
                findings.push(Finding::NotNested);
                (status, disrupted, self.state) = (ClockStatus::UNRELIABLE, true, State::Doubt);
                self.published.clear();
            }
        }
        if !status.gives_time() {
            // Nobody reads a time meanwhile, and then a new one is published.
            if let Some(base) = self.base {
                self.published.end_tenure(now, |at| base.elapsed(at, now));
            }
            self.last = None;
        }
        self.last_status = status;
        Conclusion { status, publish, disrupted, findings }
    }

    /// The counter's rate against the base, as wide as it may drift.
    fn rates(&self) -> Range {
        self.rate.wider(self.drift_now())
    }

    fn drift_now(&self) -> f64 {
        let most = self.settings.drift as f64 / PARTS_PER_TRILLION;
        let least = self.settings.least_drift as f64 / PARTS_PER_TRILLION;
        self.wander.drift(least, most)
    }

    fn forget_rates(&mut self) {
        self.anchors = Anchors::default();
        self.wander = Wander::default();
        self.rate = self.nominal;
    }

    /// Measures the rate over a time just long enough.
    fn learn_rate(&mut self, now: u64, findings: &mut Vec<Finding>) -> Rate {
        let Some(base) = self.base else { return Rate::Unmeasured };
        let floor = self.settings.least_drift as f64 / PARTS_PER_TRILLION;
        let measured = self.anchors.rate(self.known, |at| base.elapsed(at, now), floor);
        self.anchors.note(now, self.known, |from| base.elapsed(from, now));
        let Some((measured, over)) = measured else { return Rate::Unmeasured };
        let expected = self.rates();
        let Some(rate) = measured.and(self.nominal).filter(|rate| rate.and(expected).is_some()) else {
            findings.push(Finding::Unstable { change: expected.distance_to(measured) * PARTS_PER_TRILLION });
            self.forget_rates();
            return Rate::Unstable;
        };
        self.rate = rate;
        if rate.width() < floor / 2.0 && Wander::shows(over) {
            self.wander.note(rate.middle(), now, |from| base.elapsed(from, now));
        }
        let exact = self.settings.drift as f64 / PARTS_PER_TRILLION;
        if rate.width() / 2.0 <= exact {
            Rate::Measured
        } else {
            Rate::Unmeasured
        }
    }

    /// Whether the guests are to be woken: for another status, a bound that is better by a fifth, or a time that is
    /// nearer by half of its error.
    fn is_worth_it(&self, now: u64, status: ClockStatus) -> bool {
        let (Some(last), Some(base)) = (&self.last, &self.base) else { return true };
        if status != self.last_status {
            return true;
        }
        let middle = self.known.middle();
        let error = self.known.error_of(middle) + ROUNDING;
        let on_page = last.max_error_at(now) as f64;
        let off = last.time_at(now).map_or(f64::MAX, |time| (base.ahead(now, time) - middle).abs());
        if base.elapsed(last.counter, now) > LONGEST {
            return true;
        }
        self.state == State::Tracking && (on_page > 1.25 * error + ROUNDING || off > error / 2.0)
    }

    /// The best line that keeps all promises.
    fn publish(&mut self, now: u64) -> Option<Estimate> {
        let base = self.base?;
        let mut time = self.known.middle();
        let (mut times, mut slew) = (self.known, 0.0);
        if let (true, Some(last)) = (self.settings.monotonic, &self.last) {
            let shown = base.ahead(now, last.time_at(now)?);
            times = Range::new(shown, self.known.high.max(shown));
            if shown > time {
                // It is ahead, and may only wait for the truth.
                slew = ((time - shown) / (10.0 * SECOND)).max(-SLEW);
                time = shown;
            }
        }
        let age = |at| base.elapsed(at, now);
        let reserve = if self.settings.monotonic { RESERVE } else { 0.0 };
        let (time, rate) = self.published.nested(now, time, self.rate.middle() + slew, times, reserve, age)?;
        let drift = self.drift_now();
        let time_error = self.known.error_of(time) + ROUNDING;
        let rate_error = self.rate.error_of(rate) + drift;
        let thought = self.tracks.iter().map(Track::estimated_error).fold(f64::MAX, f64::min);
        let estimate = Estimate {
            counter: now,
            time: base.line.time_at(now)?.checked_add(Span::from_raw((time / NANOS_PER_RAW) as i128))?,
            period: scaled(base.line.period, rate)?,
            time_max_error: time_error.ceil() as u64,
            time_estimated_error: thought.min(time_error).ceil() as u64,
            period_max_error: (rate_error / (1.0 + rate) * PARTS_PER_TRILLION).ceil() as u64 + 1,
            period_estimated_error: (self.rate.width() / 2.0 * PARTS_PER_TRILLION).ceil() as u64,
        };
        self.rebase(now, time, rate, &estimate);
        self.published.begin_tenure(
            now,
            estimate.time_max_error as f64,
            estimate.period_max_error as f64 / PARTS_PER_TRILLION,
        );
        self.replaced = self.last.replace(estimate);
        Some(estimate)
    }

    /// For `TIME_MONOTONIC`: what was worth publishing, moved so that at `counter`, when readers have just lost the last
    /// calibration, it is not before that one. To be called while the page's sequence count is odd, and what it gives is to
    /// be written. `None` where that breaks another promise: then the page gives no time until the next conclusion.
    pub fn settle(&mut self, counter: u64) -> Option<Estimate> {
        let estimate = self.last?;
        let lag = self.replaced.take().map_or(Span::default(), |replaced| estimate.lag_behind(&replaced, counter));
        if lag == Span::default() {
            return Some(estimate);
        }
        let nanos = lag.raw() as f64 * NANOS_PER_RAW;
        if !self.published.holds(nanos) {
            // It cannot be both. That is a disruption, as soon as there is another conclusion.
            self.is_broken = true;
            return None;
        }
        let estimate = Estimate {
            time: estimate.time.checked_add(lag)?,
            time_max_error: estimate.time_max_error.saturating_add(u64::try_from(lag.ceil_nanos()).ok()?),
            ..estimate
        };
        self.rebase(estimate.counter, nanos, 0.0, &estimate);
        self.published.begin_tenure(
            estimate.counter,
            estimate.time_max_error as f64,
            estimate.period_max_error as f64 / PARTS_PER_TRILLION,
        );
        self.last = Some(estimate);
        Some(estimate)
    }

    /// Lets everything be relative to what was just published.
    fn rebase(&mut self, now: u64, time: f64, rate: f64, estimate: &Estimate) {
        let Some(old) = self.base else { return };
        let shift = |at: u64| -(time + rate * old.elapsed(now, at));
        for track in &mut self.tracks {
            track.rebase(shift);
        }
        self.anchors.rebase(shift);
        self.published.rebase(shift);
        self.known = self.known.shifted(-time);
        let factor = 1.0 / (1.0 + rate);
        let relative = |range: Range| Range::new((range.low - rate) * factor, (range.high - rate) * factor);
        self.rate = relative(self.rate);
        self.nominal = relative(self.nominal);
        self.wander.rebase(|value| (value - rate) * factor);
        self.base = Some(Base::at(now, estimate.time, estimate.period));
    }
}

/// What a look says, as nanoseconds from the base at the middle of the two counter readings.
fn said(base: &Base, evidence: &Evidence) -> (u64, Range) {
    let at = middle(evidence.before, evidence.after);
    let half = base.elapsed(evidence.before, evidence.after).abs() / 2.0;
    // Half a tick for the middle, which is rounded; a clock's own resolution, a nanosecond; 500 ppm of half the bracket.
    let error = evidence.max_error as f64 + half * (1.0 + SLEW) + base.nanos_per_tick + 1.0;
    (at, Range::around(base.ahead(at, evidence.time), error))
}

/// A time's interval after `elapsed` nanoseconds at one of these rates.
fn grown(range: Range, elapsed: f64, rates: Range) -> Range {
    let (a, b) = (rates.low * elapsed, rates.high * elapsed);
    Range::new(range.low + a.min(b), range.high + a.max(b))
}

const fn middle(before: u64, after: u64) -> u64 {
    before.wrapping_add(after.wrapping_sub(before) / 2)
}

/// The nearer direction of a wrapping counter.
#[allow(clippy::cast_possible_wrap)]
const fn ticks_between(from: u64, to: u64) -> i64 {
    to.wrapping_sub(from) as i64
}

/// Of a number in 2^-64 s.
const NANOS_PER_RAW: f64 = 1e9 / 18_446_744_073_709_551_616.0;

fn nanos_per_tick(period: Period) -> f64 {
    period.frac() as f64 * NANOS_PER_RAW / 2_f64.powi(period.shift().into())
}

/// A period times one plus a small number, with all the period's bits.
fn scaled(period: Period, by: f64) -> Option<Period> {
    let frac = i128::from(period.frac());
    let wanted = frac + (frac as f64 * by) as i128;
    let wanted = u128::try_from(wanted).ok().filter(|wanted| *wanted != 0)?;
    // 64 bits of it, again.
    let surplus = 64 - i32::try_from(wanted.leading_zeros()).ok()?;
    let shift = i32::from(period.shift()) - surplus;
    let frac = if surplus >= 0 { wanted >> surplus } else { wanted << -surplus };
    Period::from_parts(u64::try_from(frac).ok()?, u8::try_from(shift).ok()?)
}

#[cfg(test)]
mod tests;
