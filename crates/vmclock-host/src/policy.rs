// SPDX-License-Identifier: MIT OR Apache-2.0
//! From what sources say to what is to be published: the decisions, and nothing else. It asks nobody, and so it can be
//! replayed and simulated.

use serde::{Deserialize, Serialize};
use vmclock_core::calibration::{Calibration, Period};
use vmclock_core::leap::{next_month_start, LeapKind};
use vmclock_core::lifecycle::LeapStatus;
use vmclock_core::sample::Sample;
use vmclock_core::time::{Tai, Time, Utc};

use crate::estimator::{ticks_between, Conclusion, Estimator, Evidence, Settings, Standing};
use crate::schedule::LeapSecond;
use crate::source::{LeapNotice, Measurement};
use crate::utc::{Claim, Knowledge, Reading, UtcFinding, UtcKeeper};

/// In so many rounds a claim of a leap second that another clock contradicts is waited for to become a majority's.
const WAITED: u32 = 4;

/// A source, as far as decisions depend on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Role {
    /// Which clock it reads, counted from 0: sources of one clock have one vote.
    pub clock: usize,
    /// Whether that is on TAI; on UTC otherwise.
    pub is_tai: bool,
}

/// What the decisions start from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Start {
    /// What is assumed.
    pub settings: Settings,
    /// The counter's period before anything was measured.
    pub nominal: Period,
    /// The sources.
    pub roles: Vec<Role>,
    /// What the world says of TAI-UTC.
    pub knowledge: Knowledge,
    /// The time of day, about.
    pub utc: Time<Utc>,
}

/// What was decided in a round.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Decision {
    /// What the estimator concludes.
    pub conclusion: Conclusion,
    /// What was found out about UTC.
    pub utc_findings: Vec<UtcFinding>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct SourceState {
    role: Role,
    /// What it said in this round.
    #[serde(skip)]
    measured: Option<Measurement>,
    /// What it last announced, and when by the counter.
    notice: Option<(LeapNotice, u64)>,
    /// What it last claimed, and when; and in how many rounds in a row no majority did.
    claim: Option<(Claim, u64)>,
    alone: u32,
}

/// Why decisions cannot go on where another process stopped.
///
/// ```
/// use vmclock_host::policy::CannotResume;
/// assert!(CannotResume::Nonsense.to_string().contains("makes no sense"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CannotResume {
    /// What was saved makes no sense.
    #[error("what it holds makes no sense")]
    Nonsense,
    /// Less is assumed now than then: what was published may be wrong by what is assumed now.
    #[error("the configuration assumes less than it did: {what}")]
    AssumesLess {
        /// What changed.
        what: &'static str,
    },
}

/// The decisions of a publisher.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Policy {
    settings: Settings,
    #[serde(with = "crate::plain")]
    nominal: Period,
    clocks: usize,
    estimator: Estimator,
    utc: UtcKeeper,
    sources: Vec<SourceState>,
    /// The counter when a majority last announced a leap second, or none: what was said before was heard.
    heard: Option<u64>,
    /// The time, as long as nothing was concluded.
    #[serde(with = "crate::plain")]
    about: Time<Tai>,
}

impl SourceState {
    const fn of(role: &Role) -> Self {
        Self { role: *role, measured: None, notice: None, claim: None, alone: 0 }
    }
}

impl Policy {
    /// Decisions start.
    pub fn new(start: &Start) -> Self {
        let Start { settings, nominal, roles, knowledge, utc } = start;
        let clocks: Vec<usize> = roles.iter().map(|role| role.clock).collect();
        let tai = roles.iter().filter(|role| role.is_tai).count();
        let keeper = UtcKeeper::new(*knowledge, *utc, 2 * tai > roles.len());
        Self {
            settings: *settings,
            nominal: *nominal,
            clocks: clocks.iter().max().map_or(0, |last| last + 1),
            estimator: Estimator::new(*settings, *nominal, &clocks),
            utc: keeper,
            sources: roles.iter().map(SourceState::of).collect(),
            heard: None,
            about: keeper.schedule().offset.tai(*utc).unwrap_or(Time::from_parts(0, 0)),
        }
    }

    /// Decisions go on where another process saved them, as if the rounds since had had no answers; what the world says
    /// of TAI-UTC now is for the next [`update`](Self::update). The counter has gone on meanwhile.
    ///
    /// `same_sources`: they are those of then. Otherwise what is known of time, frequency and UTC stays, and what is
    /// known of each source does not. `is_unseen`: what that process published last may or may not have reached all of its
    /// pages.
    ///
    /// With less assumed than then, what was published may be wrong, and the decisions start anew.
    pub fn resume(mut self, start: &Start, same_sources: bool, is_unseen: bool) -> Result<Self, CannotResume> {
        if !self.is_plausible() {
            return Err(CannotResume::Nonsense);
        }
        let (before, settings) = (&self.settings, &start.settings);
        if let Some(what) = settings.assume_less_than(before) {
            return Err(CannotResume::AssumesLess { what });
        }
        let is_same = same_sources && self.sources.iter().map(|source| source.role).eq(start.roles.iter().copied());
        let clocks: Vec<usize> = start.roles.iter().map(|role| role.clock).collect();
        self.estimator.resume(*settings, (!is_same).then_some(&clocks[..]), is_unseen);
        if !is_same {
            self.clocks = clocks.iter().max().map_or(0, |last| last + 1);
            self.sources = start.roles.iter().map(SourceState::of).collect();
        }
        self.settings = *settings;
        Ok(self)
    }

    fn is_plausible(&self) -> bool {
        let is_plausible = |source: &SourceState| {
            source.alone < u32::MAX / 2
                && source.claim.is_none_or(|(claim, _)| claim.leap().is_none_or(|leap| leap.is_plausible()))
        };
        self.clocks <= self.sources.len()
            && self.sources.iter().all(|source| source.role.clock < self.clocks && is_plausible(source))
            && self.utc.is_plausible()
            && self.estimator.is_plausible(self.sources.len())
    }

    /// What the one page of the publisher before had last. `None`: readers never saw what was published last.
    pub fn found(&mut self, on_page: Option<&Calibration<Tai>>) {
        self.estimator.found(on_page);
    }

    /// A page that another publisher left returns, and is to get another calibration with the next conclusion.
    pub const fn renew(&mut self) {
        self.estimator.renew();
    }

    /// All pages that another publisher left have returned: what was on them binds no more.
    pub fn release(&mut self) {
        self.estimator.release();
    }

    /// The counter was disrupted: nothing that was known of it is true any more.
    pub fn restart(&mut self, nominal: Period) {
        self.nominal = nominal;
        self.heard = None;
        self.estimator.restart(nominal);
        for source in &mut self.sources {
            (source.measured, source.notice, source.claim, source.alone) = (None, None, None, 0);
        }
    }

    /// What the estimator has.
    pub const fn estimator(&self) -> &Estimator {
        &self.estimator
    }

    /// How many clocks are configured.
    pub const fn clocks(&self) -> usize {
        self.clocks
    }

    /// What is assumed.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What is known of UTC.
    pub const fn utc(&self) -> &UtcKeeper {
        &self.utc
    }

    /// How a source is used.
    pub fn standing(&self, source: usize) -> Standing {
        self.estimator.standing(source)
    }

    /// TAI at a counter value, as far as it is known.
    pub fn time_at(&self, counter: u64) -> Time<Tai> {
        self.estimator.last().and_then(|last| last.time_at(counter).ok()).unwrap_or(self.about)
    }

    /// What a page is to say of TAI-UTC and leap seconds at a reference time.
    pub fn leap_status(&self, time: Time<Tai>) -> LeapStatus {
        self.utc.leap_status(self.utc.schedule(), time)
    }

    /// The counter's period as it is known without any source.
    pub const fn nominal(&self) -> Period {
        self.nominal
    }

    /// Takes what the world says of TAI-UTC now.
    pub fn update(&mut self, knowledge: Knowledge, utc: Time<Utc>, now: u64) -> Vec<UtcFinding> {
        let (offset, _) = self.utc.schedule().at(self.about);
        self.about = offset.tai(utc).unwrap_or(self.about);
        let sees_utc = self.sources.iter().any(|source| !source.role.is_tai);
        self.utc.update(knowledge, self.time_at(now), sees_utc)
    }

    /// Takes what an operator announces for the end of the month: a leap second, or none. Gives the end of that month.
    pub fn announce(&mut self, kind: Option<LeapKind>, now: u64) -> i64 {
        let time = self.time_at(now);
        let (offset, _) = self.utc.schedule().at(time);
        let month = next_month_start(time.seconds().saturating_sub(offset.seconds().into()));
        self.utc.announce(kind.map(|kind| LeapSecond { month, kind }));
        month
    }

    /// Takes a measurement of a source in this round.
    pub fn measured(&mut self, source: usize, measurement: &Measurement) {
        if let Some(source) = self.sources.get_mut(source) {
            source.measured = Some(*measurement);
            source.notice = Some((measurement.leap, measurement.stamp.middle()));
        }
    }

    /// Ends the round: what follows, now that the counter is at `now`.
    pub fn conclude(&mut self, now: u64) -> Decision {
        let mut utc_findings = Vec::new();
        utc_findings.extend(self.hear_announcements(now));
        utc_findings.extend(self.read_measurements(now));
        Decision { conclusion: self.estimator.conclude(now), utc_findings }
    }

    /// Nobody measures any more. Where the page's bounds hold only while somebody does, as the frequency wander is
    /// measured, there are others from now on: says whether.
    pub fn rest(&mut self, now: u64) -> bool {
        self.estimator.rest(now)
    }

    /// [`Estimator::settle`]
    pub fn settle(&mut self, counter: u64) -> Option<Calibration<Tai>> {
        self.estimator.settle(counter)
    }

    const fn majority(&self) -> usize {
        self.clocks / 2 + 1
    }

    /// How many clocks have a source of which something holds.
    fn clocks_of(&self, holds: impl Fn(&SourceState) -> bool) -> usize {
        let has = |clock: &usize| self.sources.iter().any(|source| source.role.clock == *clock && holds(source));
        (0..self.clocks).filter(has).count()
    }

    /// Whether a counter value is within the source timeout.
    fn is_recent(&self, counter: u64, now: u64) -> bool {
        let since = Calibration::<Tai>::new(counter, Time::from_parts(0, 0), self.nominal).time_at(now);
        since.is_ok_and(|since| since.floor_nanos() <= i128::from(self.settings.source_timeout))
    }

    fn hear_announcements(&mut self, now: u64) -> Option<UtcFinding> {
        let is_new = |at: u64| self.heard.is_none_or(|heard| ticks_between(heard, at) > 0) && self.is_recent(at, now);
        let announces = |kind: Option<LeapKind>| {
            self.clocks_of(|source| source.notice.is_some_and(|(notice, at)| notice.today == kind && is_new(at)))
        };
        let enough = |kind| announces(kind) >= self.majority();
        let kind = [LeapKind::Inserted, LeapKind::Deleted].into_iter().find(|kind| enough(Some(*kind)));
        let against = enough(None);
        if kind.is_some() || against {
            self.heard = Some(now);
        }
        self.utc.hear(kind, against, self.time_at(now))
    }

    /// Hands over what was measured to the estimator, on TAI.
    fn read_measurements(&mut self, now: u64) -> Option<UtcFinding> {
        let mut claimed = Vec::new();
        let mut is_contested = false;
        for index in 0..self.sources.len() {
            let Some(measurement) = self.sources[index].measured.take() else { continue };
            if !self.utc.reads(&measurement.stamp) {
                continue;
            }
            let evidence = |sample| evidence(index, &measurement, sample);
            let residual = |sample| self.estimator.residual(&evidence(sample));
            match self.utc.read(measurement.stamp, measurement.leap, residual) {
                None => {}
                Some(Reading::Plain(sample)) => {
                    is_contested = true;
                    (self.sources[index].claim, self.sources[index].alone) = (None, 0);
                    self.estimator.observe(&evidence(sample));
                }
                Some(Reading::Vague(sample, more)) => {
                    (self.sources[index].claim, self.sources[index].alone) = (None, 0);
                    let evidence = evidence(sample);
                    let max_error = evidence.max_error.saturating_add(more);
                    self.estimator.observe(&Evidence { max_error, ..evidence });
                }
                Some(Reading::Claimed { plain, explained, claim }) => {
                    self.sources[index].claim = Some((claim, now));
                    claimed.push((index, claim, evidence(plain), evidence(explained)));
                }
            }
        }
        let has = |claim: Claim| {
            self.clocks_of(|source| source.claim.is_some_and(|(other, at)| other == claim && self.is_recent(at, now)))
        };
        let majority = claimed.iter().map(|(_, claim, ..)| *claim).find(|claim| has(*claim) >= self.majority());
        let finding = if claimed.is_empty() { None } else { self.utc.weigh(majority) };
        for (index, claim, plain, explained) in claimed {
            let source = &mut self.sources[index];
            if majority == Some(claim) {
                source.alone = 0;
                // Until it is believed, what was measured counts neither way.
                if finding.is_some() {
                    source.claim = None;
                    self.estimator.observe(&explained);
                }
            } else {
                // Others that are unreachable may make the same claim.
                source.alone += u32::from(is_contested);
                if source.alone > WAITED {
                    self.estimator.observe(&plain);
                }
            }
        }
        finding
    }
}

fn evidence(source: usize, measurement: &Measurement, sample: Sample<Tai>) -> Evidence {
    Evidence {
        source,
        sample,
        max_error: measurement.max_error,
        estimated_error: measurement.estimated_error,
        synchronized: measurement.synchronized,
        steering: measurement.steering,
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)] // of constants
mod tests;

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // of small numbers
mod resuming;
