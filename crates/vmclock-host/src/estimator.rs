// SPDX-License-Identifier: MIT OR Apache-2.0
//! From measurements of clocks to a calibration whose bounds hold. How the bounds are derived: `docs/bounds.md`.
//!
//! Set membership, not statistics: each measurement proves that true time is in an interval, the counter's frequency is
//! known to an interval too, and what is consistent with both is kept. So bounds hold as long as fewer than half of the
//! configured clocks are wrong, and the counter's frequency wanders no further than configured; and a source that is
//! good only now and then, as a network's best packets are, counts with its best measurements.
//!
//! | module | what it is |
//! |---|---|
//! | `vote` | the last measurement of a source |
//! | `selection` | what the votes of several clocks prove |
//! | `filter` | what is known of time and frequency |
//! | `anchors`, `wander` | how the frequency, and its wander, are measured |
//! | `nesting` | what was published stays true |
//! | `base` | the line to which all numbers are relative |
//!
//! Everything here is a function of what was passed in, bit for bit: a recorded trace gives the same calibrations
//! again.

// Numbers of ticks and nanoseconds become floating-point ones here and back; all are far below 2^53 where it matters,
// and what is rounded is covered by the bounds.
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

mod anchors;
mod base;
mod filter;
mod nesting;
mod selection;
mod vote;
mod wander;

use std::fmt;

use serde::{Deserialize, Serialize};
use vmclock_core::abi::ClockStatus;
use vmclock_core::calibration::{Calibration, Period};
use vmclock_core::sample::Sample;
use vmclock_core::time::{Span, Tai};

use crate::interval::Range;
use filter::{Filter, Unstable};
use nesting::{Line, Published};
use selection::{select, Selection};
use vote::Vote;

const PARTS_PER_TRILLION: f64 = 1e12;
const SECOND: f64 = 1e9;
/// For what is rounded on the way to a page: a nanosecond.
const ROUNDING: f64 = 1.0;
/// How far a clock that must not be set back may have to be moved when it is published, for the time that has gone by
/// until then: a millisecond at a frequency that is off by 200 ppm.
const RESERVE: f64 = 200.0;
/// No calibration stays longer, so that a page whose publisher is gone can be distinguished from one that needs no
/// refresh.
const LONGEST: f64 = 60.0 * SECOND;
/// How fast a clock that must not be set back may be slowed, or run on, to get where it should be: 500 ppm.
const SLEW: f64 = 500e-6;
/// How exactly the frequency is measured, in parts per 10^12: well below its wander.
const EXACT: u64 = 1_000_000;
/// Where the frequency may be after a contradiction, in parts per 10^12 from the nominal one: also where that was
/// measured while the counter was disrupted.
const ANY_FREQUENCY: u64 = 10_000_000_000;
/// No wander, and no error of the nominal frequency, is as large, in parts per 10^12.
const MOST_WANDER: u64 = 500_000_000_000;
/// So many rounds in a row must agree, each with new measurements, before what was rejected is accepted again, or
/// something else in its place.
const ROUNDS: u32 = 3;

/// What an estimator assumes. The defaults are for a host whose sources are good to milliseconds.
///
/// ```
/// use vmclock_host::estimator::Settings;
/// let mut settings = Settings::default();
/// assert_eq!(settings.wander, 15_000_000); // 15 ppm
/// settings.monotonic = true;
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Settings {
    /// The frequency wander: how far the counter's frequency at any moment may be from its average over any time, in
    /// parts per 10^12, less than 10^11. It is in the page's error bounds, and in holdover, always; unless
    /// `measured_wander` is set.
    pub wander: u64,
    /// Measure the frequency wander, and assume that it stays within three times the range that was seen in a day, but
    /// no less than this, in parts per 10^12. It takes evidence in 20 of the last 24 hours, and in holdover `wander`
    /// applies. `None`: it is not measured.
    pub measured_wander: Option<u64>,
    /// How far off the period may be that the estimator starts from, in parts per 10^12.
    pub nominal_error: u64,
    /// For so many nanoseconds a source's last measurement is its vote: the source timeout.
    pub source_timeout: u64,
    /// How long a single clock must persist, in nanoseconds, before a time is accepted that contradicts what was known.
    pub probation: u64,
    /// Never let the published time go back: for `TIME_MONOTONIC`.
    pub monotonic: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            wander: 15_000_000,
            measured_wander: None,
            nominal_error: 500_000_000,
            source_timeout: 30_000_000_000,
            probation: 600_000_000_000,
            monotonic: false,
        }
    }
}

impl Settings {
    /// Which assumption is weaker than an earlier one, if one is: what followed from that may be wrong.
    pub(crate) fn assume_less_than(&self, before: &Self) -> Option<&'static str> {
        let measured_less = match (before.measured_wander, self.measured_wander) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(before), Some(now)) => now > before,
        };
        if self.wander > before.wander {
            Some("a larger frequency wander (drift_ppm)")
        } else if measured_less {
            Some("a larger measured frequency wander (drift, least_drift_ppm)")
        } else if self.nominal_error > before.nominal_error {
            Some("a larger error of the nominal frequency (nominal_error_ppm)")
        } else {
            None
        }
    }
}

/// One measurement of a source: at some counter value within the sample's bracket, true time was within `max_error` of
/// the sample's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Evidence {
    /// Which source, counted from 0.
    pub source: usize,
    /// The source's time, in TAI.
    pub sample: Sample<Tai>,
    /// Maximum error of that, in ± nanoseconds, as the source states it.
    pub max_error: u64,
    /// Estimated error of that, in ± nanoseconds.
    pub estimated_error: u64,
    /// Whether the source is synchronized to something better.
    pub synchronized: bool,
    /// The frequency that somebody gives to the clock on purpose, in parts per 10^12; for a disciplined clock that is
    /// itself assumed exact.
    pub steering: Option<i64>,
}

impl Evidence {
    /// Of a source that is synchronized, and disciplined by nobody. `max_error` is its estimated error too, until that
    /// is set.
    pub const fn new(source: usize, sample: Sample<Tai>, max_error: u64) -> Self {
        Self { source, sample, max_error, estimated_error: max_error, synchronized: true, steering: None }
    }
}

/// What was found out, to be reported.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub enum Finding {
    /// A source contradicts what a majority proves: it is excluded from selection.
    Falseticker {
        /// Which source.
        source: usize,
        /// How far its time is from where true time can be, in nanoseconds (positive: ahead).
        ahead: f64,
    },
    /// A falseticker is consistent again.
    ReAccepted {
        /// Which source.
        source: usize,
    },
    /// The sources contradict one another more than they may: no majority of the configured clocks is consistent.
    NoMajority,
    /// What the sources prove contradicts what was published.
    Contradicted {
        /// How far the time is from where it can be, in nanoseconds (positive: ahead).
        ahead: f64,
    },
    /// No calibration places what was read before inside the bounds that it was read with.
    NotNested,
    /// The counter was set back: all starts anew.
    SetBack,
    /// The counter's frequency changed by more than it may.
    Unstable {
        /// By how much more, in parts per 10^12 (positive: the counter is slower).
        change: f64,
    },
    /// Too few sources are reachable: the clock runs on the counter alone.
    Holdover,
    /// A majority agrees, with what was known before.
    Resumed,
    /// A majority agrees on another time, or a single clock persisted: the step is accepted.
    StepAccepted,
}

/// How a source is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Standing {
    /// It has not been measured within the source timeout.
    #[default]
    Unreachable,
    /// It is consistent with what is published.
    Selected,
    /// It is not: it is excluded from selection.
    Falseticker,
    /// It is reachable, but nothing is proven to compare it with.
    Candidate,
}

impl Standing {
    /// Whether it is consistent with what is published.
    pub const fn is_selected(self) -> bool {
        matches!(self, Self::Selected)
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreachable => "unreachable",
            Self::Selected => "selected",
            Self::Falseticker => "falseticker",
            Self::Candidate => "candidate",
        })
    }
}

/// What follows from the measurements so far.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Conclusion {
    /// For the page.
    pub status: ClockStatus,
    /// A calibration that is worth publishing. `None`: what was published last is as good.
    pub publish: Option<Calibration<Tai>>,
    /// What was published before was, or may have been, wrong: the page needs a new disruption marker.
    pub disrupted: bool,
    /// What was found out on the way.
    pub findings: Vec<Finding>,
}

/// The states, as in the picture in `docs/bounds.md`.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum State {
    /// No majority agreed yet.
    Starting,
    /// A majority of the configured clocks agrees.
    Tracking(Filter),
    /// Too few are reachable for that; the clock runs on the counter.
    Holdover(Filter),
    /// The sources contradict one another, or what was known.
    Doubt(Box<Doubt>),
}

impl State {
    /// All that is followed now.
    fn filters(&mut self) -> impl Iterator<Item = &mut Filter> {
        let (one, other) = match self {
            Self::Starting => (None, None),
            Self::Tracking(filter) | Self::Holdover(filter) => (Some(filter), None),
            Self::Doubt(doubt) => (doubt.before.as_mut(), doubt.candidate.as_mut()),
        };
        one.into_iter().chain(other)
    }
}

/// What is to be decided before there is a time again.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Doubt {
    /// What was known before; and in how many rounds in a row the clock agreed with it, where there is but one, and
    /// the counter at the last of them. It may have been wrong itself; of several clocks a majority is right, and so
    /// what was known is not.
    before: Option<Filter>,
    agreeing: u32,
    agreed: u64,
    /// Another time that contradicts it, and that a majority has.
    candidate: Option<Filter>,
    /// A candidate was contradicted as well: the counter may have been disrupted again since the marker is new.
    is_repeated: bool,
    /// The single clock has just been synchronized, and what it showed before needs no probation to be dropped.
    is_improved: bool,
}

/// What is known of a source.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Track {
    /// Which clock it reads: sources of one clock have one vote.
    clock: usize,
    vote: Option<Vote>,
    steering: Option<i64>,
    /// It was not synchronized before, and is now.
    is_improved: bool,
    standing: Standing,
    /// It was a falseticker when it was last compared; and how many measurements in a row were consistent, and whether
    /// the last one is among them already.
    is_false: bool,
    consistent: u32,
    is_counted: bool,
}

impl Track {
    const fn of(clock: usize) -> Self {
        Self {
            clock,
            vote: None,
            steering: None,
            is_improved: false,
            standing: Standing::Unreachable,
            is_false: false,
            consistent: 0,
            is_counted: false,
        }
    }
}

/// Turns measurements of sources into calibrations.
///
/// Each round: [`observe`](Self::observe) every measurement, then [`conclude`](Self::conclude).
///
/// ```
/// use std::num::NonZeroU64;
/// use vmclock_core::{abi::ClockStatus, calibration::Period, sample::Sample, time::Time};
/// use vmclock_host::estimator::{Estimator, Evidence, Settings};
///
/// let nominal = Period::from_frequency(NonZeroU64::new(1_000_000_000).unwrap());
/// let mut estimator = Estimator::new(Settings::default(), nominal, &[0]);
/// let sample = Sample { before: 5_000, time: Time::from_parts(1_800_000_000, 0), after: 5_100 };
/// estimator.observe(&Evidence::new(0, sample, 1_000));
/// let conclusion = estimator.conclude(5_200);
/// assert_eq!(conclusion.status, ClockStatus::SYNCHRONIZED);
/// let calibration = conclusion.publish.unwrap();
/// assert!((1_050..1_100).contains(&calibration.time_max_error().unwrap()));
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Estimator {
    settings: Settings,
    #[serde(with = "crate::plain")]
    nominal: Period,
    /// How far off that may be, in parts per 10^12.
    nominal_error: u64,
    tracks: Vec<Track>,
    /// How many clocks are configured.
    clocks: usize,
    state: State,
    published: Published,
    #[serde(with = "crate::plain::option")]
    last: Option<Calibration<Tai>>,
    /// The one before, until readers cannot have it any more.
    #[serde(with = "crate::plain::option")]
    replaced: Option<Calibration<Tai>>,
    is_broken: bool,
    #[serde(with = "crate::plain")]
    last_status: ClockStatus,
    /// The counter at the last conclusion, and at the last one before the sources contradicted what was known: what was
    /// measured before that counts no more.
    concluded: Option<u64>,
    since: Option<u64>,
    /// No agreement at the start was reported.
    is_reported: bool,
    /// What is on the page may be older than `last`: it needs another one in any case.
    must_renew: bool,
    /// The frequency wander that is configured from the next conclusion on, where it was larger before.
    next_wander: Option<u64>,
}

impl Estimator {
    /// An estimator for as many sources as `clocks` has items: each is the number of the clock that the source reads,
    /// counted from 0. `nominal`: the counter's period as it is known before anything was measured, to within
    /// [`Settings::nominal_error`].
    pub fn new(settings: Settings, nominal: Period, clocks: &[usize]) -> Self {
        Self {
            settings,
            nominal,
            nominal_error: settings.nominal_error,
            tracks: clocks.iter().map(|clock| Track::of(*clock)).collect(),
            clocks: count_of(clocks),
            state: State::Starting,
            published: Published::default(),
            last: None,
            replaced: None,
            is_broken: false,
            last_status: ClockStatus::INITIALIZING,
            concluded: None,
            since: None,
            is_reported: false,
            must_renew: false,
            next_wander: None,
        }
    }

    /// Continues after another process saved what it knew, as if the rounds in between had had no answers.
    ///
    /// `clocks` are the sources where these are others than before: what is known of time and frequency stays, and what
    /// is known of each source does not. `is_unseen`: what it published last may not have reached all readers, so that
    /// they have either that or what it published before.
    pub(crate) fn resume(&mut self, settings: Settings, clocks: Option<&[usize]>, is_unseen: bool) {
        let before = std::mem::replace(&mut self.settings, settings);
        if before.wander > settings.wander {
            // What readers have had meanwhile, and what was known, is bridged with what was assumed then.
            self.settings.wander = before.wander;
            self.next_wander = Some(settings.wander);
        }
        if let Some(clocks) = clocks {
            self.tracks = clocks.iter().map(|clock| Track::of(*clock)).collect();
            self.clocks = count_of(clocks);
            if let State::Doubt(doubt) = &mut self.state {
                (doubt.agreeing, doubt.candidate, doubt.is_improved) = (0, None, false);
            }
        }
        self.must_renew |= is_unseen;
        self.published.resume(is_unseen);
    }

    /// What the one page of the publisher before had last: what was published last, which may have been moved when it
    /// came on the page, or what was published before. `None`: readers never saw what was published last.
    pub(crate) fn found(&mut self, on_page: Option<&Calibration<Tai>>) {
        if self.published.found(on_page) {
            self.last = self.published.newest().copied();
        }
    }

    /// What may be on a page that another publisher left.
    pub(crate) fn left(&self) -> impl Iterator<Item = &Calibration<Tai>> {
        self.published.left()
    }

    /// A page that another publisher left returns, and is to get another calibration with the next conclusion.
    pub(crate) const fn renew(&mut self) {
        self.must_renew = true;
    }

    /// All pages that another publisher left have returned: what was on them binds no more.
    pub(crate) fn release(&mut self) {
        self.published.release();
    }

    /// Nobody measures from now on. Bounds with a measured wander hold only while it is measured: then there are others
    /// from now on, with the configured one. Says whether; where there are none, what was published is given up.
    pub(crate) fn rest(&mut self, now: u64) -> bool {
        self.state = match std::mem::replace(&mut self.state, State::Starting) {
            State::Tracking(mut filter) if self.settings.measured_wander.is_some() => {
                filter.advance(now, self.wander_of(&filter));
                State::Holdover(filter)
            }
            state => {
                self.state = state;
                return false;
            }
        };
        (self.concluded, self.last_status) = (Some(now), ClockStatus::FREE_RUNNING);
        if self.publish(now).is_none() {
            self.published.end(now);
            (self.last, self.is_broken) = (None, true);
        }
        true
    }

    /// Whether no number is beyond what can be, in one that was saved.
    pub(crate) fn is_plausible(&self, sources: usize) -> bool {
        let Self { settings, tracks, clocks, state, published, concluded, nominal_error, .. } = self;
        let is_known = |filter: &Filter| concluded.is_some_and(|concluded| filter.is_plausible(concluded));
        let mut filters = match state {
            State::Starting => [None, None],
            State::Tracking(filter) | State::Holdover(filter) => [Some(filter), None],
            State::Doubt(doubt) => [doubt.before.as_ref(), doubt.candidate.as_ref()],
        }
        .into_iter()
        .flatten();
        settings.wander < MOST_WANDER
            && *nominal_error < MOST_WANDER
            && tracks.len() == sources
            && tracks.iter().all(|track| track.steering.is_none_or(|by| by.unsigned_abs() < MOST_WANDER))
            && *clocks == count_of(&tracks.iter().map(|track| track.clock).collect::<Vec<_>>())
            && *clocks <= sources
            && filters.all(is_known)
            && published.is_plausible()
            && !matches!(state, State::Doubt(doubt) if doubt.agreeing > ROUNDS)
    }

    /// Starts anew: the counter is another one, or was disrupted. Nothing that was known of it is true any more.
    pub fn restart(&mut self, nominal: Period) {
        let clocks: Vec<usize> = self.tracks.iter().map(|track| track.clock).collect();
        let wander = self.next_wander.unwrap_or(self.settings.wander);
        *self = Self::new(Settings { wander, ..self.settings }, nominal, &clocks);
    }

    /// The frequency wander that is assumed now, in parts per 10^12.
    pub fn wander(&self) -> u64 {
        (self.wander_now() * PARTS_PER_TRILLION).ceil() as u64
    }

    /// What was last worth publishing, since the last restart.
    pub const fn last(&self) -> Option<&Calibration<Tai>> {
        self.last.as_ref()
    }

    /// How a source is used since the last conclusion.
    pub fn standing(&self, source: usize) -> Standing {
        self.tracks.get(source).map_or(Standing::Unreachable, |track| track.standing)
    }

    /// The distance of a measurement's time from where it can be by what is known, in nanoseconds (positive: ahead): 0
    /// if it is consistent. `None` while nothing is known.
    pub fn residual(&self, evidence: &Evidence) -> Option<f64> {
        let filter = match &self.state {
            State::Starting => return None,
            State::Tracking(filter) | State::Holdover(filter) => filter,
            State::Doubt(doubt) => doubt.before.as_ref()?,
        };
        Some(filter.residual(&vote_of(evidence), self.wander_now()))
    }

    /// Takes one measurement of a source.
    pub fn observe(&mut self, evidence: &Evidence) {
        let Some(track) = self.tracks.get_mut(evidence.source) else { return };
        let before = track.vote.replace(vote_of(evidence));
        track.is_counted = false;
        track.is_improved = before.is_some_and(|before| evidence.synchronized && !before.synchronized);
        let steered = match (std::mem::replace(&mut track.steering, evidence.steering), evidence.steering) {
            // Each is against the raw counter, and so is multiplied with its frequency.
            (Some(before), Some(now)) if before != now => (now - before) as f64 / (PARTS_PER_TRILLION + before as f64),
            _ => return,
        };
        let since = before.map_or(evidence.sample.before, |before| before.sample.before);
        for filter in self.state.filters() {
            filter.steer(steered);
            self.published.allow(filter.base.elapsed(since, evidence.sample.after).abs() * steered.abs());
        }
    }

    /// What follows, now that the counter is at `now` and all sources that are reachable were measured.
    pub fn conclude(&mut self, now: u64) -> Conclusion {
        let mut findings = Vec::new();
        let mut disrupted = std::mem::take(&mut self.is_broken);
        if self.concluded.is_some_and(|concluded| ticks_between(concluded, now) < 0) {
            // What was measured in this round may be from before that.
            self.restart(self.nominal);
            (self.nominal_error, self.since) = (self.any_frequency(), Some(now));
            findings.push(Finding::SetBack);
            disrupted = true;
        }
        self.drop_unusable_votes(now);
        let state = std::mem::replace(&mut self.state, State::Starting);
        self.state = match state {
            State::Starting => self.start(now, &mut findings),
            State::Tracking(filter) => {
                let wander = self.wander_of(&filter);
                let next = self.track(filter, wander, now, &mut findings);
                if matches!(next, State::Holdover(_)) {
                    findings.push(Finding::Holdover);
                }
                next
            }
            State::Holdover(filter) => {
                let next = self.track(filter, self.configured_wander(), now, &mut findings);
                if matches!(next, State::Tracking(_)) {
                    findings.push(Finding::Resumed);
                }
                next
            }
            State::Doubt(doubt) => self.settle_doubt(doubt, now, &mut disrupted, &mut findings),
        };
        disrupted |= matches!(self.state, State::Doubt(_)) && self.last_status.gives_time();
        self.judge(now, &mut findings);
        self.conclusion(now, disrupted, findings)
    }

    /// Before a majority agreed for the first time.
    fn start(&mut self, now: u64, findings: &mut Vec<Finding>) -> State {
        let Some(mut filter) = self.fresh_filter(now, self.nominal_error) else { return State::Starting };
        match self.select(&filter, None, self.configured_wander(), now) {
            Selection::Proven { range, agreed: true } => {
                filter.begin(range);
                // What it measures is the next filter's to compare with.
                let _ = filter.learn(self.configured_wander(), self.exact());
                State::Tracking(filter)
            }
            Selection::Contradictory if !std::mem::replace(&mut self.is_reported, true) => {
                findings.push(Finding::NoMajority);
                State::Starting
            }
            _ => State::Starting,
        }
    }

    /// As long as the sources are consistent with what is known.
    fn track(&mut self, mut filter: Filter, wander: f64, now: u64, findings: &mut Vec<Finding>) -> State {
        filter.advance(now, wander);
        let (proven, agreed) = match self.select(&filter, Some(filter.known()), wander, now) {
            Selection::TooFew => return State::Holdover(filter),
            Selection::Proven { range, agreed } => (range, agreed),
            Selection::Contradictory => {
                findings.push(Finding::NoMajority);
                return self.doubt(Some(filter), now);
            }
            Selection::Contradicted { ahead } => {
                findings.push(Finding::Contradicted { ahead });
                return self.doubt(Some(filter), now);
            }
        };
        filter.narrow(proven);
        if !agreed {
            return State::Holdover(filter);
        }
        if let Err(Unstable { change }) = filter.learn(wander, self.exact()) {
            findings.push(Finding::Unstable { change: change * PARTS_PER_TRILLION });
            return self.doubt(None, now);
        }
        State::Tracking(filter)
    }

    /// Something contradicts what was known.
    fn doubt(&mut self, before: Option<Filter>, now: u64) -> State {
        let candidate = self.anew(now);
        let is_improved = self.tracks.iter_mut().any(|track| std::mem::take(&mut track.is_improved));
        State::Doubt(Box::new(Doubt { before, agreeing: 0, agreed: now, candidate, is_repeated: false, is_improved }))
    }

    /// What is measured from now on is held against what was known. If the counter is to blame, it was disrupted at some
    /// moment before now, and what was measured before that is wrong too: also what was measured since the last
    /// conclusion. But a single clock's reading that contradicts is the other time itself.
    fn anew(&mut self, now: u64) -> Option<Filter> {
        let single = (self.clocks == 1).then(|| self.candidate(now)).flatten();
        self.since = Some(now);
        self.drop_unusable_votes(now);
        single
    }

    /// What was measured before the sources contradicted what was known counts no more, however late the answer is; nor
    /// does what is of the future, as it was measured before the counter was set back.
    fn drop_unusable_votes(&mut self, now: u64) {
        let is_late = |vote: &Vote| self.since.is_some_and(|since| ticks_between(since, vote.sample.middle()) < 0);
        let is_usable = |vote: &Vote| ticks_between(vote.sample.middle(), now) >= 0 && !is_late(vote);
        for track in &mut self.tracks {
            track.vote = track.vote.filter(is_usable);
        }
    }

    /// Only agreement of a majority ends a doubt: with what was known before, or on something else.
    fn settle_doubt(
        &mut self,
        mut doubt: Box<Doubt>,
        now: u64,
        disrupted: &mut bool,
        findings: &mut Vec<Finding>,
    ) -> State {
        let wander = self.configured_wander();
        if let Some(before) = &mut doubt.before {
            before.advance(now, wander);
        }
        if let Some(mut candidate) = doubt.candidate.take() {
            candidate.advance(now, wander);
            match self.select(&candidate, Some(candidate.known()), wander, now) {
                Selection::TooFew => doubt.candidate = Some(candidate),
                Selection::Proven { range, agreed } => {
                    let counts = agreed && self.agrees_afresh(&candidate, candidate.agreed, wander, now);
                    candidate.narrow(range);
                    if candidate.learn(wander, self.exact()).is_ok() {
                        if counts {
                            (candidate.rounds, candidate.agreed) = (candidate.rounds + 1, now);
                        }
                        if self.is_accepted(&candidate, now, doubt.is_improved) {
                            findings.push(Finding::StepAccepted);
                            *disrupted |= doubt.is_repeated;
                            return State::Tracking(candidate);
                        }
                        doubt.candidate = Some(candidate);
                    }
                }
                Selection::Contradictory | Selection::Contradicted { .. } => {}
            }
            if doubt.candidate.is_some() {
                doubt.agreeing = 0;
                return State::Doubt(doubt);
            }
            doubt.is_repeated = true;
            // A single clock may be back where it was before.
            if self.clocks > 1 {
                doubt.candidate = self.anew(now);
                return State::Doubt(doubt);
            }
        }
        let before = doubt.before.as_ref().filter(|_| self.clocks == 1);
        let selection = before.map(|before| self.select(before, Some(before.known()), wander, now));
        match (selection, doubt.before.take()) {
            (Some(Selection::TooFew), before) => (doubt.before, doubt.agreeing) = (before, 0),
            (Some(Selection::Proven { range, agreed: true }), Some(mut before)) => {
                if self.agrees_afresh(&before, doubt.agreed, wander, now) {
                    (doubt.agreeing, doubt.agreed) = (doubt.agreeing + 1, now);
                }
                if doubt.agreeing >= ROUNDS {
                    before.narrow(range);
                    findings.push(Finding::Resumed);
                    return State::Tracking(before);
                }
                doubt.before = Some(before);
            }
            (_, before) => (doubt.before, doubt.agreeing, doubt.candidate) = (before, 0, self.candidate(now)),
        }
        State::Doubt(doubt)
    }

    /// Another time that a majority agrees on, if one does.
    fn candidate(&self, now: u64) -> Option<Filter> {
        let mut candidate = self.fresh_filter(now, self.any_frequency())?;
        let selection = self.select(&candidate, None, self.configured_wander(), now);
        let Selection::Proven { range, agreed: true } = selection else { return None };
        candidate.begin(range);
        (candidate.rounds, candidate.agreed) = (1, now);
        Some(candidate)
    }

    /// How far off the nominal frequency may be where what was known of it at the start may be what is wrong.
    fn any_frequency(&self) -> u64 {
        self.settings.nominal_error.max(ANY_FREQUENCY)
    }

    /// A majority of several clocks is right by assumption; a single one has to persist.
    fn is_accepted(&self, candidate: &Filter, now: u64, is_improved: bool) -> bool {
        let is_single = self.clocks == 1 && !is_improved;
        candidate.rounds >= ROUNDS && (!is_single || candidate.age(now) >= self.settings.probation as f64)
    }

    /// A filter that knows nothing of the time yet, near to what some source shows, and the frequency to within a
    /// tolerance, in parts per 10^12.
    fn fresh_filter(&self, now: u64, tolerance: u64) -> Option<Filter> {
        let tolerance = tolerance as f64 / PARTS_PER_TRILLION;
        let votes = self.tracks.iter().filter_map(|track| track.vote);
        // The freshest, for small numbers; which it is does not matter.
        let near = votes.min_by_key(|vote| now.wrapping_sub(vote.sample.after))?;
        let line = Filter::new(near.sample.middle(), near.sample.time, self.nominal, tolerance);
        Some(Filter::new(now, line.base.time_at(now, 0.0)?, self.nominal, tolerance))
    }

    /// What the votes prove, as a filter sees them, where true time is known to be within a range.
    fn select(&self, filter: &Filter, known: Option<Range>, wander: f64, now: u64) -> Selection {
        self.select_of(|_| true, filter, known, wander, now)
    }

    /// Whether a majority that was measured after a counter value agrees with a filter. What was measured once agrees
    /// for as long as it counts; and if the counter stands still, that is for ever.
    fn agrees_afresh(&self, filter: &Filter, after: u64, wander: f64, now: u64) -> bool {
        let is_fresh = |vote: &Vote| ticks_between(after, vote.sample.middle()) > 0;
        let selection = self.select_of(is_fresh, filter, Some(filter.known()), wander, now);
        matches!(selection, Selection::Proven { agreed: true, .. })
    }

    /// What those of the votes prove that count.
    fn select_of(
        &self,
        counts: impl Fn(&Vote) -> bool,
        filter: &Filter,
        known: Option<Range>,
        wander: f64,
        now: u64,
    ) -> Selection {
        let mut votes: Vec<Range> = Vec::with_capacity(self.clocks);
        for clock in 0..self.clocks {
            let tracks = self.tracks.iter().filter(|track| track.clock == clock);
            let tracks = tracks.filter(|track| track.vote.as_ref().is_some_and(&counts));
            let mut intervals = tracks.filter_map(|track| self.interval(track, filter, wander, now));
            let Some(first) = intervals.next() else { continue };
            // A clock whose sources contradict one another votes for nothing.
            votes.push(intervals.try_fold(first, Range::and).unwrap_or(Range::EMPTY));
        }
        select(&votes, self.clocks, known)
    }

    /// What a source's vote says of the time now, if it is not too old.
    fn interval(&self, track: &Track, filter: &Filter, wander: f64, now: u64) -> Option<Range> {
        let vote = track.vote?;
        let age = filter.base.elapsed(vote.sample.middle(), now);
        (age <= self.settings.source_timeout as f64).then(|| filter.interval(&vote, now, wander))
    }

    /// Which sources are selected, now that the state is known.
    fn judge(&mut self, now: u64, findings: &mut Vec<Finding>) {
        let wander = self.configured_wander();
        let timeout = self.settings.source_timeout as f64;
        let filter = match &self.state {
            State::Tracking(filter) | State::Holdover(filter) => Some(filter),
            State::Starting | State::Doubt(_) => None,
        };
        for (source, track) in self.tracks.iter_mut().enumerate() {
            let residual =
                |filter: &Filter, vote: &Vote| filter.known().distance_to(filter.interval(vote, now, wander));
            let is_recent = |filter: &Filter, vote: &Vote| filter.base.elapsed(vote.sample.middle(), now) <= timeout;
            if filter.is_none() {
                // What it contradicted is in doubt itself.
                track.is_false = false;
            }
            track.standing = match (filter, track.vote) {
                (_, None) => Standing::Unreachable,
                (None, Some(_)) => Standing::Candidate,
                (Some(filter), Some(vote)) if !is_recent(filter, &vote) => Standing::Unreachable,
                (Some(filter), Some(vote)) => {
                    let ahead = residual(filter, &vote);
                    let consistent = ahead.abs() <= 0.0;
                    let is_new = !std::mem::replace(&mut track.is_counted, true);
                    track.consistent = if consistent { track.consistent.saturating_add(is_new.into()) } else { 0 };
                    if track.is_false && track.consistent >= ROUNDS {
                        track.is_false = false;
                        findings.push(Finding::ReAccepted { source });
                    } else if !consistent && !std::mem::replace(&mut track.is_false, true) {
                        findings.push(Finding::Falseticker { source, ahead });
                    }
                    if track.is_false {
                        Standing::Falseticker
                    } else {
                        Standing::Selected
                    }
                }
            };
        }
    }

    fn conclusion(&mut self, now: u64, mut disrupted: bool, mut findings: Vec<Finding>) -> Conclusion {
        let mut status = match &self.state {
            State::Starting => ClockStatus::INITIALIZING,
            State::Doubt(_) => ClockStatus::UNRELIABLE,
            State::Tracking(_) if self.is_synchronized() => ClockStatus::SYNCHRONIZED,
            State::Tracking(_) | State::Holdover(_) => ClockStatus::FREE_RUNNING,
        };
        if disrupted {
            self.published.clear();
            (self.last, self.replaced) = (None, None);
        }
        let mut publish = None;
        if status.gives_time() && self.is_worth_it(now, status) {
            publish = self.publish(now);
            if publish.is_none() {
                // No line is right now, and for what was read before.
                findings.push(Finding::NotNested);
                (status, disrupted) = (ClockStatus::UNRELIABLE, true);
                self.published.clear();
                self.state = match std::mem::replace(&mut self.state, State::Starting) {
                    State::Tracking(filter) | State::Holdover(filter) => self.doubt(Some(filter), now),
                    state => state,
                };
            }
        }
        if !status.gives_time() {
            // Nobody reads a time meanwhile, and then a new one is published.
            self.published.end(now);
            self.last = None;
        }
        (self.last_status, self.concluded) = (status, Some(now));
        self.settings.wander = self.next_wander.take().unwrap_or(self.settings.wander);
        Conclusion { status, publish, disrupted, findings }
    }

    fn selected(&self) -> impl Iterator<Item = &Vote> {
        let selected = self.tracks.iter().filter(|track| track.standing == Standing::Selected);
        selected.filter_map(|track| track.vote.as_ref())
    }

    /// Of the best source, as it states it or as it is now.
    fn estimated_error(&self, now: u64) -> f64 {
        let (State::Tracking(filter) | State::Holdover(filter)) = &self.state else { return f64::MAX };
        let middle = |vote: &Vote| filter.interval(vote, now, self.configured_wander()).middle();
        let off = |vote: &Vote| (middle(vote) - filter.known().middle()).abs().max(vote.estimated_error);
        self.selected().map(off).fold(f64::MAX, f64::min)
    }

    fn is_synchronized(&self) -> bool {
        self.selected().any(|vote| vote.synchronized)
    }

    fn configured_wander(&self) -> f64 {
        self.settings.wander as f64 / PARTS_PER_TRILLION
    }

    /// How exactly the frequency is to be measured.
    fn exact(&self) -> f64 {
        let exact = self.settings.measured_wander.unwrap_or(EXACT).min(self.settings.wander);
        exact as f64 / PARTS_PER_TRILLION
    }

    fn wander_of(&self, filter: &Filter) -> f64 {
        let configured = self.configured_wander();
        let least = self.settings.measured_wander.map(|least| least as f64 / PARTS_PER_TRILLION);
        least.and_then(|least| filter.wander.bound(least)).map_or(configured, |bound| bound.min(configured))
    }

    fn wander_now(&self) -> f64 {
        match &self.state {
            State::Tracking(filter) => self.wander_of(filter),
            _ => self.configured_wander(),
        }
    }

    /// Whether the guests are to be woken: for another status, a bound that is better by a fifth, or a time that is
    /// nearer by half of its error.
    fn is_worth_it(&self, now: u64, status: ClockStatus) -> bool {
        let (State::Tracking(filter) | State::Holdover(filter)) = &self.state else { return false };
        let Some(last) = &self.last else { return true };
        if self.must_renew || status != self.last_status || filter.base.elapsed(last.reference_counter(), now) > LONGEST
        {
            return true;
        }
        let middle = filter.known().middle();
        let error = filter.known().error_of(middle) + ROUNDING;
        let on_page = last.max_error_at(now).map_or(f64::MAX, |error| error as f64);
        let off = last.time_at(now).map_or(f64::MAX, |time| (filter.base.ahead(now, time) - middle).abs());
        matches!(self.state, State::Tracking(_)) && (on_page > 1.25 * error + ROUNDING || off > error / 2.0)
    }

    /// The best line that is nested.
    fn publish(&mut self, now: u64) -> Option<Calibration<Tai>> {
        let wander = self.wander_now();
        let thought = self.estimated_error(now);
        let (State::Tracking(filter) | State::Holdover(filter)) = &mut self.state else { return None };
        // What readers have now is true as well: with it, no bound is ever left.
        if let Some(bounds) = self.published.bounds_now(now, &filter.base) {
            if !filter.narrow(bounds) {
                return None;
            }
        }
        let known = filter.known();
        let mut time = known.middle();
        let (mut times, mut slew) = (known, 0.0);
        if let (true, Some(_)) = (self.settings.monotonic, &self.last) {
            let shown = self.published.shown(now, &filter.base)?;
            times = Range::new(shown, known.high.max(shown));
            if shown > time {
                // It is ahead, and may only wait for true time.
                slew = ((time - shown) / (10.0 * SECOND)).max(-SLEW);
                time = shown;
            }
        }
        let reserve = if self.settings.monotonic { RESERVE } else { 0.0 };
        let wanted = Line { ahead: time, rate: filter.rate().middle() + slew };
        let line = self.published.nested(now, wanted, times, reserve, &filter.base)?;
        let time_error = known.error_of(line.ahead) + ROUNDING;
        let rate_error = filter.rates(wander).error_of(line.rate) / (1.0 + line.rate);
        let estimated_rate_error = filter.rate().width() / 2.0;
        filter.rebase(line.ahead, line.rate)?;
        let parts = |relative: f64| (relative * PARTS_PER_TRILLION).ceil() as u64 + 1;
        let calibration = Calibration::new(now, filter.base.time_at(now, 0.0)?, filter.base.period())
            .with_max_error(time_error.ceil() as u64, parts(rate_error))
            .with_estimated_error(thought.min(time_error).ceil() as u64, parts(estimated_rate_error));
        self.published.begin(calibration, now);
        self.must_renew = false;
        self.replaced = self.last.replace(calibration);
        Some(calibration)
    }

    /// For `TIME_MONOTONIC`: what was worth publishing, moved so that at `counter`, when readers have just lost the
    /// last calibration, it is not before that one. To be called while the page's sequence count is odd, and what it
    /// gives is to be written. `None` where that leaves the bounds that readers had: then the page gives no time until
    /// the next conclusion.
    pub fn settle(&mut self, counter: u64) -> Option<Calibration<Tai>> {
        let calibration = self.last?;
        let lag = self.replaced.take().map_or(Span::default(), |replaced| lag(&calibration, &replaced, counter));
        if lag == Span::default() {
            return Some(calibration);
        }
        let time = calibration.reference_time().checked_add(lag)?;
        let error = calibration.time_max_error()?.saturating_add(u64::try_from(lag.ceil_nanos()).ok()?);
        let moved = calibration.with_reference_time(time).with_time_max_error(error);
        if !self.published.allows(&moved, counter) {
            // It cannot be both. That is a disruption, as soon as there is another conclusion.
            self.is_broken = true;
            return None;
        }
        self.published.replace(moved);
        self.last = Some(moved);
        Some(moved)
    }
}

/// How many clocks these are the numbers of.
fn count_of(clocks: &[usize]) -> usize {
    clocks.iter().max().map_or(0, |last| last.saturating_add(1))
}

/// The nearer direction of a wrapping counter.
#[allow(clippy::cast_possible_wrap)]
pub(crate) const fn ticks_between(from: u64, to: u64) -> i64 {
    to.wrapping_sub(from) as i64
}

fn vote_of(evidence: &Evidence) -> Vote {
    Vote {
        sample: evidence.sample,
        max_error: evidence.max_error as f64,
        estimated_error: evidence.estimated_error as f64,
        synchronized: evidence.synchronized,
    }
}

/// How far a calibration has to be moved so that at `counter` it is not before an earlier one.
fn lag(calibration: &Calibration<Tai>, earlier: &Calibration<Tai>, counter: u64) -> Span {
    let times = earlier.time_at(counter).ok().zip(calibration.time_at(counter).ok());
    times.and_then(|(old, new)| old.since(new)).map_or(Span::default(), |ahead| ahead.max(Span::default()))
}

#[cfg(test)]
mod tests;
