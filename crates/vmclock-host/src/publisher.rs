// SPDX-License-Identifier: MIT OR Apache-2.0
//! The publisher: measures sources, decides, and keeps a page up to date.
//!
//! A round is [`start_round`](Publisher::start_round), a wait for what [`waiting`](Publisher::waiting) gives, and
//! [`finish_round`](Publisher::finish_round), which concludes with what is there: no source holds up the page, or
//! another source. The machine, the sources and the page are parameters, so that a simulator runs this very code.
//!
//! ```
//! use std::time::Duration;
//! use vmclock_core::abi::ClockStatus;
//! use vmclock_host::page_file::FilePage;
//! use vmclock_host::publisher::{Plan, Prepared};
//! use vmclock_host::source::{kernel::{KernelSource, Trust}, Immediate};
//! use vmclock_host::this_host::ThisHost;
//! use vmclock_host::world::PageSink;
//!
//! let folder = tempfile::tempdir()?;
//! let mut plan = Plan::default();
//! plan.sources.push(Box::new(Immediate::new(KernelSource::new(Trust::HostClock))));
//! let prepared = Prepared::new(ThisHost, plan)?;
//! let (page, found) = FilePage::open(folder.path().join("page"), prepared.blank())?;
//! let (mut publisher, _events) = prepared.on(page, found, "page")?;
//! publisher.refresh(Duration::from_millis(100))?;
//! assert_eq!(publisher.contents().clock_status, ClockStatus::SYNCHRONIZED);
//! publisher.give_up();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use vmclock_core::abi::{ClockStatus, Flags, Snapshot, TimeType};
use vmclock_core::calibration::Calibration;
use vmclock_core::event::Maintenance;
use vmclock_core::guest_counter::GuestCounter;
use vmclock_core::leap::{next_month_start, LeapKind};
use vmclock_core::lifecycle::{self, on_scale_of};
use vmclock_core::tai::TaiOffset;
use vmclock_core::time::{Span, Tai, Time, Utc};

use crate::estimator::{Finding, Settings, Standing};
use crate::event::{Event, LeapNews, Signal};
use crate::page_file::{Found, PageFileError};
use crate::policy::{Decision, Role, Start};
use crate::schedule::{LeapSecond, UtcSchedule};
use crate::source::{Measurement, Source, SourceError};
use crate::trace::Recorder;
use crate::utc::{Knowledge, Listed, Origin, UtcFinding, UtcKeeper};
use crate::world::{Host, PageSink};

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

/// A publisher that has no page yet.
pub struct Prepared<H> {
    host: H,
    plan: Plan,
    start: Start,
    blank: Snapshot,
    events: Vec<Event>,
}

impl<H: Host> Prepared<H> {
    /// Finds out what has to be known before there is a page. Takes some milliseconds.
    pub fn new(mut host: H, plan: Plan) -> Result<Self, PublishError> {
        let mut events = Vec::new();
        let (roles, shared) = roles_of(&plan.sources);
        events.extend(shared.into_iter().map(|sources| Event::SharedClock { sources }));
        let utc = host.utc();
        let nominal = host.nominal_period().ok_or(PublishError::CounterStopped)?;
        let start = Start { settings: plan.settings, nominal, roles, knowledge: look_up(&host, plan.tai_offset), utc };
        let keeper = *crate::policy::Policy::new(&start).utc();
        events.push(offset_event(keeper.published(keeper.schedule().offset), keeper.origin(), || {
            host.leap_seconds().and_then(|list| list.tai_offset(utc.seconds())).err().map(|error| error.to_string())
        }));
        let (marker, generation) = (host.fresh_identity(), host.fresh_identity());
        let (marker, generation) =
            (marker.map_err(PublishError::Identity)?, generation.map_err(PublishError::Identity)?);
        let blank = Snapshot::BLANK.with(|page| {
            page.counter_id = host.counter_id();
            page.time_type = keeper.time_type();
            page.clock_status = ClockStatus::INITIALIZING;
            page.disruption_marker = marker;
            page.vm_generation_counter = generation;
            page.flags = Flags::VM_GEN_COUNTER_PRESENT;
        });
        Ok(Self { host, plan, start, blank, events })
    }

    /// What a new page says: that it is initializing.
    pub const fn blank(&self) -> Snapshot {
        self.blank
    }

    /// Publishes on a page that was found so, from now on; `name` is for events. The first round gives it a time.
    pub fn on<S: PageSink>(
        self,
        page: S,
        found: Found,
        name: &str,
    ) -> Result<(Publisher<H, S>, Vec<Event>), PublishError> {
        let Self { host, plan, start, blank, mut events } = self;
        let looked_up = host.counter();
        let mut publisher = Publisher {
            page,
            recorder: Recorder::new(start, plan.trace),
            sources: plan.sources.into_iter().map(Polled::new).collect(),
            stated: plan.tai_offset,
            looked_up,
            imaginary: None,
            readers: Readers::Here,
            must_publish: false,
            trusted: host.counter_is_trusted() != Some(false),
            host,
        };
        let page = name.to_owned();
        events.push(match found {
            Found::New => Event::Created { page },
            Found::AtRest(last) | Found::Interrupted(last) => {
                publisher.take_over(blank, &last)?;
                let interrupted = matches!(found, Found::Interrupted(_));
                Event::TookOver { page, status: last.clock_status, interrupted }
            }
        });
        if let Some(start) = plan.start_at {
            events.push(publisher.imagine(start)?);
        }
        if let Some(kind) = plan.leap {
            events.push(publisher.announce(Some(kind))?);
        }
        if !publisher.trusted {
            events.push(Event::Counter { trusted: false });
        }
        Ok((publisher, events))
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
    /// Whether it was reported as unreachable.
    is_reported: bool,
    /// The epoch of the counter when it was last measured; none before it was for the first time.
    era: Option<u64>,
}

impl Polled {
    fn new(source: Box<dyn Source>) -> Self {
        Self { source, result: None, started: false, failure: None, answers: 0, is_reported: false, era: None }
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

/// A clock that is not this machine's.
#[derive(Clone, Copy)]
struct Imaginary {
    /// From the machine's clock to the page's.
    shift: Span,
    schedule: UtcSchedule,
}

/// Whose counter the page is about.
#[derive(Clone, Copy)]
enum Readers {
    /// Programs on this machine.
    Here,
    /// A guest, whose counter may not be known (yet).
    Guest(Option<GuestCounter>),
}

/// How a source is used, for those who list them.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct SourceReport {
    /// Its name, as configured.
    pub name: String,
    /// Which clock it reads.
    pub clock: String,
    /// How it is used.
    pub standing: Standing,
}

/// Keeps a page up to date.
pub struct Publisher<H, S> {
    host: H,
    page: S,
    sources: Vec<Polled>,
    recorder: Recorder,
    stated: Option<TaiOffset>,
    /// The counter when TAI-UTC was last looked up.
    looked_up: u64,
    imaginary: Option<Imaginary>,
    readers: Readers,
    /// The page is about to be about another counter, or to say something else of UTC.
    must_publish: bool,
    /// Whether the kernel trusts the counter.
    trusted: bool,
}

impl<H: Host, S: PageSink> Publisher<H, S> {
    /// A page that somebody else left behind: its generation is kept, as the machine is the same; all else starts anew,
    /// with a marker never used before, because nobody knows what happened to the counter meanwhile.
    fn take_over(&mut self, blank: Snapshot, last: &Snapshot) -> Result<(), PublishError> {
        let generation = last.generation().filter(|generation| *generation != 0);
        let vm_generation_counter = generation.unwrap_or(blank.vm_generation_counter);
        let next = blank.with(|page| page.vm_generation_counter = vm_generation_counter);
        Ok(self.page.update(&mut |page| *page = next.with(|next| next.seq_count = page.seq_count))?)
    }

    /// The page's clock shows another time than this machine's.
    fn imagine(&mut self, start: Time<Utc>) -> Result<Event, PublishError> {
        let offset = self.recorder.policy().utc().schedule().offset;
        let shift = offset.tai(start).zip(offset.tai(self.host.utc())).and_then(|(start, now)| start.since(now));
        let shift = shift.ok_or(PublishError::OutOfRange { what: "the time to start at" })?;
        self.imaginary = Some(Imaginary { shift, schedule: UtcSchedule { offset, leap: None } });
        Ok(Event::Imaginary)
    }

    /// What the page says.
    pub fn contents(&self) -> &Snapshot {
        self.page.contents()
    }

    /// Where the page is.
    pub const fn page(&self) -> &S {
        &self.page
    }

    /// The sources, and how each is used since the last round.
    pub fn sources(&self) -> Vec<SourceReport> {
        let report = |(index, polled): (usize, &Polled)| SourceReport {
            name: polled.source.name().to_owned(),
            clock: polled.source.clock(),
            standing: self.recorder.policy().standing(index),
        };
        self.sources.iter().enumerate().map(report).collect()
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

    /// A round, in which sources have so much time to answer.
    pub fn refresh(&mut self, timeout: Duration) -> Result<Vec<Event>, PublishError> {
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
        self.finish_round()
    }

    /// Ends a round: decides on what the sources have given so far, and brings the page up to date. A source that has
    /// not answered counts as unreachable in this round.
    pub fn finish_round(&mut self) -> Result<Vec<Event>, PublishError> {
        self.page.check()?;
        let mut events = Vec::new();
        let restarted = self.take_results(&mut events)?;
        self.look_up_offset(&mut events);
        let trusted = self.host.counter_is_trusted() != Some(false);
        if std::mem::replace(&mut self.trusted, trusted) != trusted {
            events.push(Event::Counter { trusted });
        }
        let decision = self.recorder.conclude(self.host.counter());
        events.extend(decision.conclusion.findings.iter().map(|finding| self.event_of(finding)));
        events.extend(decision.utc_findings.iter().map(|finding| Self::utc_event_of(finding)));
        self.report_unreachable(&mut events);
        if let Some(error) = self.recorder.take_error() {
            events.push(Event::Warning { text: format!("the trace ends here: {error}") });
        }
        self.publish(&decision, restarted, &mut events)?;
        Ok(events)
    }

    /// Hands over what the sources gave. Says whether one of them knows that the counter was disrupted.
    fn take_results(&mut self, events: &mut Vec<Event>) -> Result<bool, PublishError> {
        let mut measurements = Vec::with_capacity(self.sources.len());
        let mut disrupted = false;
        for (index, polled) in self.sources.iter_mut().enumerate() {
            if !polled.started {
                continue;
            }
            polled.is_done();
            polled.started = false;
            let name = polled.source.name();
            match polled.result.take() {
                Some(Ok(measurement)) => {
                    polled.failure = None;
                    polled.answers = polled.answers.saturating_add(1);
                    if polled.is_reported && polled.answers >= REACHABLE_AFTER {
                        polled.is_reported = false;
                        events.push(Event::Source { source: name.to_owned(), reachable: true, reason: None });
                    }
                    disrupted |= polled.era.replace(measurement.era).is_some_and(|known| known != measurement.era);
                    measurements.push((index, measurement));
                }
                Some(Err(error)) => polled.failed(error.to_string()),
                None => polled.failed(format!("{name}: no answer in this round")),
            }
        }
        if disrupted {
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
        if since.is_ok_and(|since| (0..LOOKED_UP_EACH).contains(&since.floor_nanos())) {
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

    /// From now on the page is about a guest's counter, which gives no time as long as it is not known; what is
    /// measured of this machine's clock continues all the same.
    pub fn set_guest_counter(&mut self, counter: Option<GuestCounter>) {
        self.readers = Readers::Guest(counter);
        self.must_publish = true;
    }

    /// Changes the page as the machine's lifecycle demands, in one update.
    pub fn update(&mut self, change: impl FnMut(&mut Snapshot)) -> Result<(), PublishError> {
        let mut change = change;
        Ok(self.page.update(&mut change)?)
    }

    /// Continues behind a sequence count that readers may have seen on a page that is not of this publisher.
    pub fn continue_after(&mut self, seq_count: u32) {
        self.page.continue_after(seq_count);
    }

    /// A value for a marker or a generation that was never used before.
    pub fn fresh_identity(&mut self) -> Result<u64, PublishError> {
        self.host.fresh_identity().map_err(PublishError::Identity)
    }

    /// Does to the page what happens to the machine.
    pub fn signal(&mut self, signal: Signal) -> Result<Event, PublishError> {
        if let Signal::Leap(kind) = signal {
            return self.announce(kind);
        }
        let (marker, generation) = (self.fresh_identity()?, self.fresh_identity()?);
        self.page.update(&mut |page| match signal {
            // The counter continues all the same, and so does the time.
            Signal::Migrate => page.disruption_marker = marker,
            Signal::Snapshot => {
                page.disruption_marker = marker;
                lifecycle::cloned(page, generation);
            }
            Signal::Clone => lifecycle::cloned(page, generation),
            Signal::Soon => lifecycle::announced(page, Maintenance::Soon),
            Signal::Imminent => lifecycle::announced(page, Maintenance::Imminent),
            Signal::Clear => lifecycle::announced(page, Maintenance::None),
            Signal::Leap(_) => {}
        })?;
        Ok(Event::Signal { signal, seq_count: self.contents().seq_count })
    }

    /// Marks the page unreliable, for whoever reads it from now on: nobody will correct it any more.
    pub fn give_up(&mut self) {
        self.page.give_up();
    }

    /// What the page says of UTC, and when.
    fn schedule(&self) -> UtcSchedule {
        self.imaginary.map_or(*self.recorder.policy().utc().schedule(), |imaginary| imaginary.schedule)
    }

    /// The page's time, as far as it is known.
    fn page_time(&self) -> Option<Time<Tai>> {
        let machine = self.recorder.policy().time_at(self.host.counter());
        machine.checked_add(self.shift())
    }

    fn shift(&self) -> Span {
        self.imaginary.map_or(Span::default(), |imaginary| imaginary.shift)
    }

    /// Announces a leap second at the end of the current month of the page's clock, or that there is none.
    fn announce(&mut self, kind: Option<LeapKind>) -> Result<Event, PublishError> {
        let month = if self.imaginary.is_some() {
            let now = self.page_time().ok_or(PublishError::OutOfRange { what: "the time" })?;
            let (offset, _) = self.schedule().at(now);
            let month = next_month_start(now.seconds().saturating_sub(offset.seconds().into()));
            let leap = kind.map(|kind| LeapSecond { month, kind });
            self.imaginary = Some(Imaginary { shift: self.shift(), schedule: UtcSchedule { offset, leap } });
            month
        } else {
            self.recorder.announce(kind, self.host.counter())
        };
        let contents = *self.contents();
        if let Some(reference) = self.reference_time(&contents) {
            // The indicator holds at the page's reference time, not at the time of the announcement.
            let status = self.recorder.policy().utc().leap_status(&self.schedule(), reference);
            self.page.update(&mut |page| lifecycle::leap_status(page, status))?;
        }
        Ok(Event::Leap { kind, month, news: LeapNews::Expected })
    }

    /// TAI at a page's reference time, if it gives one.
    fn reference_time(&self, page: &Snapshot) -> Option<Time<Tai>> {
        if !page.clock_status.gives_time() {
            return None;
        }
        let seconds = i64::try_from(page.time_sec).ok()?;
        if page.time_type == TimeType::TAI {
            return Some(Time::from_parts(seconds, page.time_frac_sec));
        }
        let (offset, _) = self.schedule().at(self.page_time()?);
        offset.tai(Time::from_parts(seconds, page.time_frac_sec))
    }

    /// Brings the page up to date, if there is anything new.
    fn publish(&mut self, decision: &Decision, restarted: bool, events: &mut Vec<Event>) -> Result<(), PublishError> {
        let conclusion = &decision.conclusion;
        let before = self.contents().clock_status;
        if conclusion.disrupted || restarted {
            let marker = self.fresh_identity()?;
            self.page.update(&mut |page| {
                lifecycle::distrusted(page);
                page.disruption_marker = marker;
            })?;
        }
        let Some(facts) = self.facts(conclusion.status) else { return Ok(()) };
        let last = self.recorder.policy().estimator().last().copied();
        let due = |last: &Calibration<Tai>| self.must_publish || !facts.are_on(self.contents(), last);
        let Some(calibration) = conclusion.publish.or_else(|| last.filter(due)) else {
            if facts.status != self.contents().clock_status {
                self.page.update(&mut |page| page.clock_status = facts.status)?;
            }
            return Ok(());
        };
        let mut next = *self.contents();
        let unsayable = PublishError::OutOfRange { what: "the time, or the counter's frequency," };
        facts.put(&calibration, &mut next).ok_or(unsayable)?;
        if facts.settles {
            let Self { page, recorder, host, .. } = self;
            let mut settled = (0, None);
            page.update_late(&mut |page| {
                let counter = host.counter();
                let calibration = recorder.settle(counter);
                settled = (counter, calibration);
                // It is the same but for nanoseconds, so that it fits as well.
                if calibration.and_then(|calibration| facts.put(&calibration, page)).is_none() {
                    page.clock_status = ClockStatus::UNRELIABLE;
                }
            })?;
            recorder.settled(settled.0, settled.1.as_ref());
        } else {
            self.page.update(&mut |page| *page = next.with(|next| next.seq_count = page.seq_count))?;
        }
        self.must_publish = false;
        let Snapshot { clock_status: status, time_maxerror_nanosec: max_error_ns, .. } = *self.contents();
        if status == ClockStatus::SYNCHRONIZED && before != status {
            events.push(Event::Synchronized { max_error_ns });
        }
        events.push(Event::Refreshed { status, max_error_ns });
        Ok(())
    }

    /// All that a calibration needs to become a page's. `None` for a guest whose counter is not known.
    fn facts(&self, status: ClockStatus) -> Option<Facts> {
        let guest = match self.readers {
            Readers::Here => None,
            Readers::Guest(counter) => Some(counter?),
        };
        Some(Facts {
            utc: *self.recorder.policy().utc(),
            status: if self.trusted { status } else { ClockStatus::UNRELIABLE },
            schedule: self.schedule(),
            shift: self.shift(),
            guest,
            // A guest's counter may be known better later, and then the time goes back; and on UTC an inserted second
            // is counted twice.
            settles: self.recorder.policy().settings().monotonic
                && guest.is_none()
                && self.contents().time_type == TimeType::TAI,
        })
    }
}

/// What makes a page out of a calibration.
struct Facts {
    utc: UtcKeeper,
    status: ClockStatus,
    schedule: UtcSchedule,
    shift: Span,
    guest: Option<GuestCounter>,
    /// Whether the page promises that its time never goes back.
    settles: bool,
}

impl Facts {
    /// Whether a page with this calibration says the same of UTC already.
    fn are_on(&self, page: &Snapshot, calibration: &Calibration<Tai>) -> bool {
        let mut next = *page;
        self.put(calibration, &mut next).is_none()
            || (next.leap_indicator, next.tai_offset_sec, next.flags)
                == (page.leap_indicator, page.tai_offset_sec, page.flags)
    }

    /// Writes it all. `None` where a page cannot say it.
    fn put(&self, calibration: &Calibration<Tai>, page: &mut Snapshot) -> Option<()> {
        let tai = calibration.reference_time().checked_add(self.shift)?;
        let calibration = calibration.with_reference_time(tai);
        let calibration = match &self.guest {
            None => calibration,
            Some(guest) => guest.calibration(&calibration)?,
        };
        let (scheduled, _) = self.schedule.at(tai);
        let on_page = on_scale_of(page.time_type, &calibration, Some(scheduled))?;
        lifecycle::calibrated(page, &on_page, self.status, self.utc.leap_status(&self.schedule, tai))?;
        let flags = page.flags.without(Flags::TIME_MONOTONIC);
        page.flags = if self.settles { flags.with(Flags::TIME_MONOTONIC) } else { flags };
        Some(())
    }
}
