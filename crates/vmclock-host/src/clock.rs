// SPDX-License-Identifier: MIT OR Apache-2.0
//! The clock that is published: a machine's counter, measured against sources in rounds. It knows of no page.

use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use vmclock_core::abi::{ClockStatus, Flags, Snapshot};
use vmclock_core::calibration::{Calibration, Period};
use vmclock_core::leap::LeapKind;
use vmclock_core::tai::TaiOffset;
use vmclock_core::time::{Span, Tai, Time, Utc};

use crate::continuity::Doubt;
use crate::estimator::{Finding, Settings, Standing};
use crate::event::{Event, LeapNews};
use crate::journal::{Identity, Journal, SavedSource};
use crate::page_file::PageFileError;
use crate::policy::{Policy, Role, Start};
use crate::schedule::LeapSecond;
use crate::source::{Measurement, Source, SourceError, Stamp};
use crate::trace::Recorder;
use crate::utc::{Knowledge, Listed, Origin, UtcFinding};
use crate::world::{Host, StateStore};

/// How often the kernel and the list of leap seconds are asked for TAI-UTC.
const LOOKED_UP_EACH: i128 = 60_000_000_000;

/// In so many rounds in a row a source must answer before it is reported as reachable again: one that answers now and
/// then would be reported in each round.
const REACHABLE_AFTER: u32 = 3;

/// What a publisher is to do.
#[derive(Default)]
#[non_exhaustive]
pub struct Plan {
    /// What is assumed.
    pub settings: Settings,
    /// Where the time comes from.
    pub sources: Vec<Box<dyn Source>>,
    /// TAI-UTC as the operator states it.
    pub tai_offset: Option<TaiOffset>,
    /// Where decisions are recorded.
    pub trace: Option<Box<dyn Write>>,
    /// Where what is known is kept for the next publisher, which continues with the same marker if the counter went on.
    pub state: Option<Box<dyn StateStore>>,
    /// The page's clock is an imaginary one, which shows this time at the start.
    pub start_at: Option<Time<Utc>>,
    /// A leap second to announce from the start.
    pub leap: Option<LeapKind>,
}

/// Why a publisher cannot publish.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The counter cannot be compared with anything.
    #[error("the kernel's raw clock, or this CPU's counter, is stopped: no time can be published on this machine")]
    CounterStopped,
    /// The system gives no random numbers.
    #[error("the kernel gives no random numbers for markers: {0}")]
    Identity(#[source] io::Error),
    /// The page.
    #[error(transparent)]
    Page(#[from] PageFileError),
    /// A time that no page can say.
    #[error("{what} is beyond what a page can say")]
    OutOfRange {
        /// Which.
        what: &'static str,
    },
    /// Waiting failed.
    #[error("cannot wait for the sources: {0}")]
    Wait(#[source] io::Error),
}

/// A source, for those who list them.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct SourceReport {
    /// Its name, as configured.
    pub name: String,
    /// Which clock it reads.
    pub clock: String,
    /// How it is used.
    pub standing: Standing,
    /// Which of the last eight rounds it answered in, a bit each, the last one the lowest.
    pub reach: u8,
    /// Its last measurement.
    pub last: Option<SourceSample>,
    /// Why it did not answer in the last round, if it did not.
    pub failure: Option<String>,
}

/// A source's last measurement, for those who list them.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub struct SourceSample {
    /// How far ahead of the published clock it was, in nanoseconds. `None` where that is unknown.
    pub offset: Option<i128>,
    /// Its own maximum error, in ± nanoseconds.
    pub max_error: u64,
    /// Whether it was synchronized.
    pub synchronized: bool,
    /// How long ago that was, in nanoseconds.
    pub age: u64,
}

/// What a round came to.
///
/// ```
/// use vmclock_core::abi::ClockStatus;
/// use vmclock_host::clock::Round;
/// let round = Round { status: ClockStatus::FREE_RUNNING, is_new: false, disrupted: false };
/// assert!(round.status.gives_time());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Round {
    /// For the pages.
    pub status: ClockStatus,
    /// There is a calibration that is worth publishing: [`Clock::last`].
    pub is_new: bool,
    /// What was published before was, or may have been, wrong: each page needs a new disruption marker.
    pub disrupted: bool,
}

/// Measures sources in rounds, and knows the time as a function of the counter.
pub struct Clock<H> {
    pub(crate) host: H,
    sources: Vec<Polled>,
    pub(crate) recorder: Recorder,
    stated: Option<TaiOffset>,
    /// The counter when TAI-UTC was last looked up.
    looked_up: u64,
    /// What is stated changed since.
    must_look_up: bool,
    /// Whether the kernel trusts the counter.
    trusted: bool,
    /// As of the last round.
    status: ClockStatus,
    /// It continues where another publisher stopped, and has not measured yet: pages stay as that one left them.
    is_waiting: bool,
    journal: Option<Journal>,
    /// The counter at the start, or in the first round.
    started: u64,
}

impl<H: Host> Clock<H> {
    /// Finds out what has to be known before there is a page. Takes some milliseconds.
    pub(crate) fn new(
        host: H,
        settings: Settings,
        sources: Vec<Box<dyn Source>>,
        stated: Option<TaiOffset>,
        trace: Option<Box<dyn Write>>,
        state: Option<Box<dyn StateStore>>,
    ) -> Result<(Self, Vec<Event>), PublishError> {
        let mut events = Vec::new();
        let (roles, shared) = roles_of(&sources);
        events.extend(shared.into_iter().map(|sources| Event::SharedClock { sources }));
        let utc = host.utc();
        // Before the period is measured, which takes some milliseconds: the next one shows how the raw clock goes.
        let witness = if state.is_some() { host.witness() } else { None };
        let nominal = host.nominal_period().ok_or(PublishError::CounterStopped)?;
        let start = Start { settings, nominal, roles, knowledge: look_up(&host, stated), utc };
        let mut polled: Vec<Polled> = sources.into_iter().map(Polled::new).collect();
        let (journal, left) = state
            .map_or((None, None), |state| Journal::open(witness, state, &start, &saved_sources(&polled), &mut events));
        let is_waiting = left.is_some();
        let recorder = match left {
            None => Recorder::new(start, trace),
            Some(left) => {
                polled.iter_mut().zip(left.eras).for_each(|(polled, era)| polled.era = era);
                Self::resumed(&host, start, left.policy, stated, trace)
            }
        };
        let keeper = recorder.policy().utc();
        events.push(offset_event(keeper.published(keeper.schedule().offset), keeper.origin(), || {
            host.leap_seconds().and_then(|list| list.tai_offset(utc.seconds())).err().map(|error| error.to_string())
        }));
        let started = host.counter();
        let clock = Self {
            looked_up: started,
            must_look_up: false,
            trusted: host.counter_is_trusted() != Some(false),
            sources: polled,
            host,
            recorder,
            stated,
            status: ClockStatus::INITIALIZING,
            is_waiting,
            journal,
            started,
        };
        Ok((clock, events))
    }

    /// What the last publisher knew, with what the world says of TAI-UTC now.
    fn resumed(
        host: &H,
        start: Start,
        policy: Policy,
        stated: Option<TaiOffset>,
        trace: Option<Box<dyn Write>>,
    ) -> Recorder {
        let mut recorder = Recorder::resume(start, policy, trace);
        recorder.update(look_up(host, stated), host.utc(), host.counter());
        recorder
    }

    /// Whether a page that was found so continues with the marker that it has: how long nobody published on it, in
    /// nanoseconds. `None`: nothing is to be continued, and if that is a doubt it was reported. `may_have`: the page as it
    /// would be with a calibration.
    pub(crate) fn continues(
        &self,
        page: &str,
        found: &Snapshot,
        is_interrupted: bool,
        blank: &Snapshot,
        may_have: impl Fn(&Calibration<Tai>) -> Option<Snapshot>,
    ) -> Option<Result<u64, Doubt>> {
        let journal = self.journal.as_ref().filter(|journal| journal.goes_on())?;
        let doubt = |reason: &str| Err(Doubt::Page { page: page.to_owned(), reason: reason.to_owned() });
        if (found.counter_id, found.time_type) != (blank.counter_id, blank.time_type) {
            return Some(doubt("it is about another counter, or on another scale"));
        }
        let is_known =
            |calibration| may_have(calibration).is_some_and(|page| page.counter_value == found.counter_value);
        // In the middle of an update a page may have some of each.
        if found.clock_status.gives_time() && !is_interrupted && !self.policy().estimator().left().any(is_known) {
            return Some(doubt("its time is not what the saved state has"));
        }
        Some(journal.gap_of(page, Identity::of(found)))
    }

    /// A page is about to have this marker and generation: to be followed by [`write_ahead`](Self::write_ahead).
    pub(crate) fn note(&mut self, page: &str, identity: Identity) {
        if let Some(journal) = &mut self.journal {
            journal.note(page, identity);
        }
    }

    /// A page returned that another publisher may have left. Once all have, what was on them binds no more.
    pub(crate) fn returned(&mut self, page: &str) {
        if self.journal.as_mut().is_some_and(|journal| journal.returned(page)) {
            self.recorder.release();
        }
    }

    /// A page is published no more.
    pub(crate) fn forget(&mut self, page: &str) {
        if let Some(journal) = &mut self.journal {
            journal.forget(page);
        }
    }

    /// There is something new to publish; or it is on all pages.
    pub(crate) fn set_seen(&mut self, is_seen: bool) {
        if let Some(journal) = &mut self.journal {
            journal.set_seen(is_seen);
        }
    }

    /// What the last publisher's page had: tells what its readers have, where it had no other. `None`: it was in the middle
    /// of an update.
    pub(crate) fn found(&mut self, page: &str, on_page: Option<&Calibration<Tai>>) {
        let Some(is_unseen) = self.journal.as_ref().and_then(|journal| journal.is_only(page)) else { return };
        // Where the clock is never set back, what came on the page may have been moved then.
        if is_unseen || on_page.is_some() && self.policy().settings().monotonic {
            self.recorder.found(on_page);
        }
    }

    /// All pages are given up: the next publisher starts anew.
    pub(crate) fn abandon(&mut self) {
        if let Some(journal) = &mut self.journal {
            journal.abandon();
        }
    }

    /// Saves what is known, unless it is saved. To be called before a page says anything new.
    pub(crate) fn write_ahead(&mut self) {
        let Self { host, sources, recorder, journal, .. } = self;
        if let Some(journal) = journal {
            journal.save(host, recorder.policy(), || saved_sources(sources));
        }
    }

    /// Nobody measures from now on: saves what is known for the next publisher. What the pages are to say until then;
    /// `None` where nothing is saved.
    pub(crate) fn rest(&mut self) -> Option<Round> {
        self.journal.as_ref()?;
        let is_new = self.status.gives_time() && self.recorder.rest(self.host.counter());
        if is_new {
            self.set_seen(false);
        }
        if self.status.gives_time() {
            self.status = if self.last().is_some() { ClockStatus::FREE_RUNNING } else { ClockStatus::UNRELIABLE };
        }
        let Self { host, sources, recorder, journal, .. } = self;
        let is_saved = journal.as_mut()?.finish(host, recorder.policy(), &saved_sources(sources));
        is_saved.then(|| Round { is_new, ..self.current() })
    }

    /// What came on the page at a counter value, where it is never set back. `None`: it could not be, and there is no time
    /// until the next conclusion.
    pub(crate) fn settled(&mut self, counter: u64, calibration: Option<&Calibration<Tai>>) {
        if calibration.is_none() {
            self.status = ClockStatus::UNRELIABLE;
        }
        self.recorder.settled(counter, calibration);
    }

    /// All decisions so far.
    pub fn policy(&self) -> &Policy {
        self.recorder.policy()
    }

    /// What was last worth publishing.
    pub fn last(&self) -> Option<&Calibration<Tai>> {
        self.policy().estimator().last()
    }

    /// What pages say of it.
    pub fn status(&self) -> ClockStatus {
        if self.trusted {
            self.status
        } else {
            ClockStatus::UNRELIABLE
        }
    }

    /// Whether pages are as another publisher left them, until the first round.
    pub(crate) const fn is_waiting(&self) -> bool {
        self.is_waiting
    }

    /// Whether the kernel trusts the counter.
    pub const fn counter_is_trusted(&self) -> bool {
        self.trusted
    }

    /// TAI now, as far as it is known.
    pub fn time(&self) -> Time<Tai> {
        self.policy().time_at(self.host.counter())
    }

    /// What a new page says: that it is initializing, with a marker and a generation never used before.
    pub(crate) fn blank(&mut self) -> Result<Snapshot, PublishError> {
        let (marker, generation) = (self.fresh_identity()?, self.fresh_identity()?);
        Ok(Snapshot::BLANK.with(|page| {
            page.counter_id = self.host.counter_id();
            page.time_type = self.policy().utc().time_type();
            page.clock_status = ClockStatus::INITIALIZING;
            page.disruption_marker = marker;
            page.vm_generation_counter = generation;
            page.flags = Flags::VM_GEN_COUNTER_PRESENT;
        }))
    }

    /// A value for a marker or a generation that was never used before.
    pub fn fresh_identity(&mut self) -> Result<u64, PublishError> {
        self.host.fresh_identity().map_err(PublishError::Identity)
    }

    /// The sources, and how each is used since the last round.
    pub fn sources(&self) -> Vec<SourceReport> {
        let report = |(index, polled): (usize, &Polled)| SourceReport {
            name: polled.source.name().to_owned(),
            clock: polled.source.clock(),
            standing: self.policy().standing(index),
            reach: polled.reach,
            last: polled.last.as_ref().map(|last| self.sample_of(last)),
            failure: polled.failure.clone(),
        };
        self.sources.iter().enumerate().map(report).collect()
    }

    fn sample_of(&self, measurement: &Measurement) -> SourceSample {
        let (counter, policy) = (measurement.stamp.middle(), self.policy());
        let (offset, _) = policy.utc().schedule().at(policy.time_at(counter));
        let time = match measurement.stamp {
            Stamp::Tai(sample) => Some(sample.time),
            Stamp::Utc(sample) => offset.tai(sample.time),
        };
        let known = self.last().and_then(|last| last.time_at(counter).ok());
        let ahead = time.zip(known).and_then(|(time, known)| time.since(known));
        SourceSample {
            offset: ahead.map(Span::floor_nanos),
            max_error: measurement.max_error,
            synchronized: measurement.synchronized,
            age: self.since(counter),
        }
    }

    /// How long ago the counter had this value, in nanoseconds.
    pub fn since(&self, counter: u64) -> u64 {
        let policy = self.policy();
        let passed =
            Calibration::<Tai>::new(counter, Time::from_parts(0, 0), policy.nominal()).time_at(self.host.counter());
        passed.ok().and_then(|passed| u64::try_from(passed.floor_nanos()).ok()).unwrap_or(0)
    }

    /// How far the counter's frequency is from what the kernel measured at boot, in ppm (positive: faster). `None` where
    /// nothing is published.
    pub fn frequency_ppm(&self) -> Option<f64> {
        #[allow(clippy::cast_precision_loss)] // to print
        let seconds = |period: Period| period.frac() as f64 * f64::from(-64 - i32::from(period.shift())).exp2();
        Some((seconds(self.policy().nominal()) / seconds(self.last()?.period()) - 1.0) * 1e6)
    }

    /// Maximum error of the time now, in ± nanoseconds. `None` where there is no time.
    pub fn max_error(&self) -> Option<u64> {
        let last = self.last().filter(|_| self.status().gives_time())?;
        last.max_error_at(self.host.counter()).map(|error| u64::try_from(error).unwrap_or(u64::MAX))
    }

    /// TAI-UTC as the operator states it from now on. The next round takes it up.
    pub(crate) fn set_tai_offset(&mut self, stated: Option<TaiOffset>) {
        self.must_look_up = std::mem::replace(&mut self.stated, stated) != stated;
    }

    /// Starts a round: all sources begin to measure.
    pub fn start_round(&mut self) {
        for polled in &mut self.sources {
            polled.source.start();
            (polled.started, polled.result) = (true, None);
        }
    }

    /// Whether all sources have answered.
    pub fn is_round_complete(&mut self) -> bool {
        self.sources.iter_mut().all(Polled::is_done)
    }

    /// What becomes readable when a source answers that has not yet.
    pub fn waiting(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sources
            .iter()
            .filter(|polled| polled.started && polled.result.is_none())
            .filter_map(|polled| polled.source.ready())
    }

    /// Starts a round, and waits until all sources have answered, or so long.
    pub fn measure(&mut self, timeout: Duration) -> Result<(), PublishError> {
        let by = Instant::now() + timeout;
        self.start_round();
        while !self.is_round_complete() {
            let left = by.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let seconds = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
            let left = Timespec { tv_sec: seconds, tv_nsec: left.subsec_nanos().into() };
            let mut fds: Vec<_> = self.waiting().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
            match poll(&mut fds, Some(&left)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(PublishError::Wait(errno.into())),
            }
        }
        Ok(())
    }

    /// Ends a round: decides on what the sources have given so far. A source that has not answered counts as
    /// unreachable in this round.
    pub fn finish_round(&mut self, events: &mut Vec<Event>) -> Result<Round, PublishError> {
        if self.is_waiting {
            self.started = self.host.counter();
        }
        let age = self.since(self.started);
        if self.journal.as_mut().is_some_and(|journal| journal.expire(age)) {
            self.recorder.release();
        }
        let trusted = self.host.counter_is_trusted() != Some(false);
        let is_news = std::mem::replace(&mut self.trusted, trusted) != trusted;
        if is_news {
            events.push(Event::Counter { trusted });
        }
        // What happened to the counter meanwhile nobody knows.
        let restarted = self.take_results(is_news && trusted, events)?;
        self.look_up_offset(events);
        let decision = self.recorder.conclude(self.host.counter());
        events.extend(decision.conclusion.findings.iter().map(|finding| self.event_of(finding)));
        events.extend(decision.utc_findings.iter().map(|finding| Self::utc_event_of(finding)));
        self.report_unreachable(events);
        if let Some(journal) = &mut self.journal {
            journal.outdated();
            let failure = journal.take_failure();
            events.extend(failure.map(|text| Event::Warning { text }));
        }
        if let Some(error) = self.recorder.take_error() {
            events.push(Event::Warning { text: format!("the trace ends here: {error}") });
        }
        let conclusion = decision.conclusion;
        (self.status, self.is_waiting) = (conclusion.status, false);
        // What the kernel does not trust any more was perhaps disrupted.
        let disrupted = conclusion.disrupted || restarted || (is_news && !trusted);
        let is_new = conclusion.publish.is_some();
        if is_new {
            self.set_seen(false);
        }
        Ok(Round { status: self.status(), is_new, disrupted })
    }

    /// The pages as they should be now, without new measurements.
    pub fn current(&self) -> Round {
        Round { status: self.status(), is_new: false, disrupted: false }
    }

    /// Hands over what the sources gave. Says whether the counter was disrupted, as one of them knows, or somebody else.
    fn take_results(&mut self, is_disrupted: bool, events: &mut Vec<Event>) -> Result<bool, PublishError> {
        let mut measurements = Vec::with_capacity(self.sources.len());
        let (mut disrupted, mut late) = (is_disrupted, Vec::new());
        for (index, polled) in self.sources.iter_mut().enumerate() {
            if !polled.started {
                continue;
            }
            polled.is_done();
            polled.started = false;
            polled.reach = polled.reach << 1 | u8::from(matches!(polled.result, Some(Ok(_))));
            let name = polled.source.name().to_owned();
            match polled.result.take() {
                Some(Ok(measurement)) => {
                    polled.failure = None;
                    polled.last = Some(measurement);
                    polled.answers = polled.answers.saturating_add(1);
                    if polled.is_reported && polled.answers >= REACHABLE_AFTER {
                        polled.is_reported = false;
                        events.push(Event::Source { source: name, reachable: true, reason: None });
                    }
                    disrupted |= polled.is_of_another_era(measurement.era);
                    if !std::mem::take(&mut polled.is_outdated) {
                        measurements.push((index, measurement));
                    }
                }
                Some(Err(error)) => {
                    polled.is_outdated = false;
                    disrupted |= error.era().is_some_and(|era| polled.is_of_another_era(era));
                    polled.failed(error.to_string());
                }
                None => {
                    late.push(index);
                    polled.failed(format!("{name}: no answer in this round"));
                }
            }
        }
        if disrupted {
            for index in late {
                self.sources[index].is_outdated = true;
            }
            let nominal = self.host.nominal_period().ok_or(PublishError::CounterStopped)?;
            self.recorder.restart(nominal);
            events.push(Event::Disrupted);
            // Some were measured before that.
            return Ok(true);
        }
        for (source, measurement) in measurements {
            self.recorder.measured(source, &measurement);
        }
        Ok(false)
    }

    /// Reports each source that has become unreachable, once: one that has no vote any more, or never had one. A single
    /// measurement that fails is nothing to report.
    fn report_unreachable(&mut self, events: &mut Vec<Event>) {
        let policy = self.recorder.policy();
        for (index, polled) in self.sources.iter_mut().enumerate() {
            let is_unreachable = policy.standing(index) == Standing::Unreachable && !polled.is_reported;
            if let Some(reason) = polled.failure.clone().filter(|_| is_unreachable) {
                polled.is_reported = true;
                let source = polled.source.name().to_owned();
                events.push(Event::Source { source, reachable: false, reason: Some(reason) });
            }
        }
    }

    /// Looks up TAI-UTC again, each minute.
    fn look_up_offset(&mut self, events: &mut Vec<Event>) {
        let now = self.host.counter();
        let nominal = self.recorder.policy().nominal();
        let since = Calibration::<Tai>::new(self.looked_up, Time::from_parts(0, 0), nominal).time_at(now);
        let is_recent = since.is_ok_and(|since| (0..LOOKED_UP_EACH).contains(&since.floor_nanos()));
        if is_recent && !std::mem::take(&mut self.must_look_up) {
            return;
        }
        self.looked_up = now;
        let knowledge = look_up(&self.host, self.stated);
        let findings = self.recorder.update(knowledge, self.host.utc(), now);
        events.extend(findings.iter().map(|finding| Self::utc_event_of(finding)));
    }

    fn event_of(&self, finding: &Finding) -> Event {
        let name =
            |source: usize| self.sources.get(source).map_or_else(String::new, |polled| polled.source.name().to_owned());
        let policy = self.recorder.policy();
        #[allow(clippy::cast_precision_loss)] // to print
        let wander_ppm = policy.settings().wander as f64 / 1e6;
        match *finding {
            Finding::Falseticker { source, ahead } => Event::Falseticker { source: name(source), ahead_ns: ahead },
            Finding::ReAccepted { source } => Event::ReAccepted { source: name(source) },
            Finding::NoMajority => Event::NoMajority { configured: policy.clocks() },
            Finding::Contradicted { ahead } => Event::Rejected { ahead_ns: ahead },
            Finding::StepAccepted => Event::StepAccepted,
            Finding::NotNested => Event::NotNested,
            Finding::SetBack => Event::Disrupted,
            Finding::Unstable { change } => Event::Unstable { change_ppm: change / 1e6, wander_ppm },
            Finding::Holdover => Event::Holdover,
            Finding::Resumed => Event::Resumed,
        }
    }

    fn utc_event_of(finding: &UtcFinding) -> Event {
        let leap = |leap: &LeapSecond, news| Event::Leap { kind: Some(leap.kind), month: leap.month, news };
        match finding {
            UtcFinding::Offset(offset, origin) => offset_event(*offset, *origin, || None),
            UtcFinding::ListExpired(expires) => Event::ListExpired { expires: *expires },
            UtcFinding::Expected(second) => leap(second, LeapNews::Expected),
            UtcFinding::Unannounced(second) => leap(second, LeapNews::Unannounced),
            UtcFinding::CalledOff(second) => Event::Leap { kind: None, month: second.month, news: LeapNews::CalledOff },
        }
    }

    /// Announces a leap second at the end of the current month, or that there is none. Gives the end of that month.
    pub(crate) fn announce(&mut self, kind: Option<LeapKind>) -> i64 {
        if let Some(journal) = &mut self.journal {
            journal.outdated();
        }
        self.recorder.announce(kind, self.host.counter())
    }
}

/// Which clock each source reads, and which sources share one.
fn roles_of(sources: &[Box<dyn Source>]) -> (Vec<Role>, Vec<Vec<String>>) {
    let mut clocks: Vec<(String, Vec<String>)> = Vec::new();
    let mut roles = Vec::new();
    for source in sources {
        let clock = source.clock();
        let index = clocks.iter().position(|(known, _)| *known == clock).unwrap_or_else(|| {
            clocks.push((clock, Vec::new()));
            clocks.len() - 1
        });
        clocks[index].1.push(source.name().to_owned());
        roles.push(Role { clock: index, is_tai: source.is_tai() });
    }
    (roles, clocks.into_iter().map(|(_, names)| names).filter(|names| names.len() > 1).collect())
}

fn saved_sources(sources: &[Polled]) -> Vec<SavedSource> {
    sources.iter().map(|polled| SavedSource::of(&*polled.source, polled.era)).collect()
}

fn look_up(host: &impl Host, stated: Option<TaiOffset>) -> Knowledge {
    let list = host.leap_seconds().ok().and_then(|list| Listed::at(&list, host.utc()));
    Knowledge { stated, kernel: host.kernel_tai_offset(), list }
}

fn offset_event(offset: Option<TaiOffset>, origin: Origin, reason: impl FnOnce() -> Option<String>) -> Event {
    let reason = if offset.is_none() { reason() } else { None };
    Event::Offset { tai_minus_utc: offset.map(TaiOffset::seconds), origin, reason }
}

/// A source, and what it last gave.
struct Polled {
    source: Box<dyn Source>,
    /// What it gave in this round.
    result: Option<Result<Measurement, SourceError>>,
    started: bool,
    /// Why it did not answer in the last round, if it did not; and in how many rounds in a row it did.
    failure: Option<String>,
    answers: u32,
    /// Which of the last eight rounds it answered in, the last one in the lowest bit; and what it answered last.
    reach: u8,
    last: Option<Measurement>,
    /// Whether it was reported as unreachable.
    is_reported: bool,
    /// The epoch of the counter, as the source last stated it; none before it did for the first time.
    era: Option<u64>,
    /// What it is measuring was begun before the counter was disrupted.
    is_outdated: bool,
}

impl Polled {
    fn new(source: Box<dyn Source>) -> Self {
        Self {
            source,
            result: None,
            started: false,
            failure: None,
            answers: 0,
            reach: 0,
            last: None,
            is_reported: false,
            era: None,
            is_outdated: false,
        }
    }

    /// Whether this is another epoch of the counter than the one that was known.
    fn is_of_another_era(&mut self, era: u64) -> bool {
        self.era.replace(era).is_some_and(|known| known != era)
    }

    fn failed(&mut self, reason: String) {
        (self.failure, self.answers) = (Some(reason), 0);
    }

    /// Whether nothing more is to be expected of it in this round.
    fn is_done(&mut self) -> bool {
        if self.started && self.result.is_none() {
            self.result = self.source.result();
        }
        !self.started || self.result.is_some()
    }
}
