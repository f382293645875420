// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is on the page, and when.

use std::fs::File;
use std::time::Duration;

use anyhow::Context;
use serde_json::{json, Value};
use vmclock::{ClockStatus, Snapshot, Span, Tai, Time, TimeType};
use vmclock_core::abi::Flags;
use vmclock_core::counter;
use vmclock_core::event::Maintenance;
use vmclock_core::leap::next_month_start;
use vmclock_core::page::Writer;
use vmclock_host::estimator::{Conclusion, Estimate, Evidence, Finding, Settings};
use vmclock_host::identity::never_used;
use vmclock_host::kernel::{counter_is_trusted, nominal_period, KernelClock, Quality};
use vmclock_host::leap_seconds::{LeapSeconds, SYSTEM_LIST};
use vmclock_host::page_file::{Found, MappedPage, PageFile};
use vmclock_host::schedule::{LeapSecond, UtcSchedule};
use vmclock_host::source::{Observation, Source};
use vmclock_host::timescale::TaiFollower;
use vmclock_host::trace::Recorder;
use vmclock_vmm::counter::GuestCounter;
use vmclock_vmm::device::Calibration;
use vmclock_vmm::lifecycle;

use crate::calibration;
use crate::cli::{LeapKind, Signal};
use crate::output::{civil, error};

use super::config::Plan;

/// How long the counter is compared with the kernel's raw clock, to know its rate before anything else is known.
const FIRST_LOOK: Duration = Duration::from_millis(10);

/// Something that the publisher did.
pub(in crate::command) struct Report {
    pub(in crate::command) event: &'static str,
    pub(in crate::command) text: String,
}

impl Report {
    pub(in crate::command) fn new(event: &'static str, text: String) -> Self {
        Self { event, text }
    }
}

/// Where the offset between UTC and TAI is known from.
#[derive(Clone, PartialEq, Eq)]
enum OffsetSource {
    /// The kernel knows it: `CLOCK_TAI` can be had.
    Kernel,
    /// Stated on the command line.
    Stated,
    /// The system's list, which holds until it expires.
    List(LeapSeconds),
    /// Unknown: the page is on UTC, and gives no TAI.
    Nowhere,
}

pub(in crate::command) struct Publisher {
    file: PageFile,
    writer: Writer<MappedPage>,
    sources: Vec<Listened>,
    recorder: Recorder<File>,
    settings: Settings,
    offset_source: OffsetSource,
    follower: TaiFollower,
    imaginary: Option<Imaginary>,
    readers: Readers,
    /// What is on the page is about to be about another counter, or about other facts of UTC.
    must_publish: bool,
}

/// A source, and what was last heard of it.
struct Listened {
    source: Box<dyn Source>,
    /// The life of the counter in which it was last heard.
    era: Option<u64>,
    is_silent: bool,
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

impl Publisher {
    /// Opens the page and publishes `initializing` on it; the first refresh gives it a time.
    pub(in crate::command) fn open(plan: Plan) -> anyhow::Result<(Self, Vec<Report>)> {
        let mut reports = plan.notes;
        let (offset_source, utc_minus_tai) = find_offset(plan.tai_offset, &mut reports)?;
        let time_type = if offset_source == OffsetSource::Nowhere { TimeType::UTC } else { TimeType::TAI };
        let blank = Snapshot {
            counter_id: counter::ID,
            time_type,
            clock_status: ClockStatus::INITIALIZING,
            disruption_marker: new_identity()?,
            vm_generation_counter: new_identity()?,
            flags: Flags::VM_GEN_COUNTER_PRESENT,
            ..Snapshot::BLANK
        };
        let nominal =
            nominal_period(FIRST_LOOK).context("the kernel's raw clock stands, or this CPU's counter does")?;
        let trace = plan.record.as_ref().map(|path| {
            File::create_new(path).with_context(|| format!("{}: cannot make a new file for the trace", path.display()))
        });
        let recorder = Recorder::new(plan.settings, nominal, plan.sources.len(), trace.transpose()?);
        let (file, found, writer) = PageFile::open(&plan.page, blank)?;
        let schedule = UtcSchedule { utc_minus_tai, leap: None };
        let listened = |source| Listened { source, era: None, is_silent: false };
        let mut publisher = Self {
            file,
            writer,
            sources: plan.sources.into_iter().map(listened).collect(),
            recorder,
            settings: plan.settings,
            offset_source,
            follower: TaiFollower::new(schedule),
            imaginary: None,
            readers: Readers::Here,
            must_publish: false,
        };
        let page = plan.page.display();
        reports.push(match found {
            Found::New => Report::new("created", format!("{page}: a new page")),
            Found::AtRest(last) => {
                publisher.take_over(blank, &last);
                Report::new("took-over", format!("{page}: its last publisher left it {}", last.clock_status))
            }
            Found::Interrupted(last) => {
                publisher.take_over(blank, &last);
                Report::new("took-over", format!("{page}: its last publisher was killed in the middle of an update"))
            }
        });
        if let Some(start) = plan.start_at {
            let shift = Time::<Tai>::from_nanos(start.as_nanosecond())
                .and_then(|start| start.checked_add(seconds(-i64::from(utc_minus_tai))))
                .and_then(|start| start.since(publisher.machine_time()))
                .context("--start-at is out of range")?;
            publisher.imaginary = Some(Imaginary { shift, schedule });
            reports.push(Report::new("imaginary", "the page's clock is not this machine's".into()));
        }
        if let Some(kind) = plan.leap {
            reports.push(publisher.announce(kind)?);
        }
        if counter_is_trusted() == Some(false) {
            let text = "the kernel does not trust this CPU's counter; the page will say unreliable".into();
            reports.push(Report::new("warning", text));
        }
        publisher.listen(&mut reports)?;
        Ok((publisher, reports))
    }

    /// A page that somebody else left behind: its generation lives on, as the machine is the same; all else starts
    /// anew, with a marker never used before, because nobody knows what happened to the counter meanwhile.
    fn take_over(&mut self, blank: Snapshot, last: &Snapshot) {
        let generation = last.generation().filter(|generation| *generation != 0);
        self.writer.update(|page| {
            *page = Snapshot {
                seq_count: page.seq_count,
                vm_generation_counter: generation.unwrap_or(blank.vm_generation_counter),
                ..blank
            };
        });
    }

    /// Looks at the sources and publishes what follows.
    pub(in crate::command) fn refresh(&mut self) -> anyhow::Result<Vec<Report>> {
        self.file.check()?;
        let mut reports = Vec::new();
        let disturbed = self.listen(&mut reports)?;
        let conclusion = self.recorder.conclude(counter::read_ordered());
        if self.imaginary.is_none() {
            self.follow_announcements();
        }
        if let Some(error) = self.recorder.take_error() {
            reports.push(Report::new("warning", format!("the trace ends here: {error}")));
        }
        let drift = self.settings.drift;
        reports.extend(conclusion.findings.iter().map(|finding| self.report(finding, drift)));
        self.publish(&conclusion, disturbed, &mut reports)?;
        Ok(reports)
    }

    /// Hears every source once. Says whether one of them knows that the counter was disturbed.
    fn listen(&mut self, reports: &mut Vec<Report>) -> anyhow::Result<bool> {
        let mut observations: Vec<(usize, Observation)> = Vec::with_capacity(self.sources.len());
        for (index, listened) in self.sources.iter_mut().enumerate() {
            match listened.source.observe() {
                Ok(observation) => {
                    if std::mem::take(&mut listened.is_silent) {
                        reports.push(Report::new("source", format!("{} is heard again", listened.source.name())));
                    }
                    observations.push((index, observation));
                }
                Err(error) => {
                    if !std::mem::replace(&mut listened.is_silent, true) {
                        reports.push(Report::new("source", error.to_string()));
                    }
                }
            }
        }
        let mut disturbed = false;
        for (index, observation) in &observations {
            let known = self.sources[*index].era.replace(observation.era);
            disturbed |= known.is_some_and(|known| known != observation.era);
        }
        if disturbed {
            let nominal = nominal_period(FIRST_LOOK).context("the kernel's raw clock stands")?;
            self.recorder.restart(nominal);
            reports.push(Report::new("disrupted", "this host's own counter was disrupted: starting anew".into()));
            // Some were looked at before that.
            return Ok(true);
        }
        for (source, observation) in observations {
            let Observation { before, after, stamp, max_error, estimated_error, synchronized, leap, .. } = observation;
            let evidence = |time| Evidence { source, before, after, time, max_error, estimated_error, synchronized };
            let estimator = self.recorder.estimator();
            let tai = self.follower.to_tai(stamp, leap, |time| estimator.surprise(&evidence(time)));
            let tai = tai.context("a source's time is out of range")?;
            if let (OffsetSource::Kernel, Some(tai), None) =
                (&self.offset_source, leap.tai_minus_utc, self.follower.schedule().leap)
            {
                self.follower.set_schedule(UtcSchedule { utc_minus_tai: -tai, leap: None });
            }
            if let Some(finding) = self.recorder.observe(&evidence(tai)) {
                reports.push(self.report(&finding, self.settings.drift));
            }
        }
        Ok(false)
    }

    /// What was found out, in words.
    fn report(&self, finding: &Finding, drift: u64) -> Report {
        let name = |source: usize| self.sources.get(source).map_or("a source", |listened| listened.source.name());
        let ppm = |parts: f64| parts / 1e6;
        #[allow(clippy::cast_precision_loss)] // to print
        let drift = ppm(drift as f64);
        match *finding {
            Finding::Doubted { source, ahead } => {
                Report::new("doubt", format!("{} is {ahead:.0} ns from where it may be", name(source)))
            }
            Finding::Vindicated { source } => Report::new("vindicated", format!("{} is where it was", name(source))),
            Finding::Stepped { source } => Report::new("stepped", format!("{} insists, and is believed", name(source))),
            Finding::NoMajority => {
                Report::new("no-majority", "at least half of the sources must be wrong; which, nobody knows".into())
            }
            Finding::Contradicted { ahead } => Report::new(
                "step",
                format!("the clock is {ahead:.0} ns from where it may be by what was published: a new marker"),
            ),
            Finding::NotNested => {
                Report::new("not-nested", "no calibration is right for what was read before: a new marker".into())
            }
            Finding::Unstable { change } => Report::new(
                "unstable",
                format!(
                    "the counter's rate changed by {:.3} ppm more than the {drift} ppm that are allowed",
                    ppm(change)
                ),
            ),
            Finding::Holdover => {
                Report::new("holdover", "no source is heard: the clock runs on the counter alone".into())
            }
            Finding::Resumed => Report::new("resumed", "the sources are heard, and agree".into()),
        }
    }

    /// From now on the page is about a guest's counter, which gives no time as long as it is not known; what is sampled
    /// of this machine's clock goes on all the same.
    pub(in crate::command) fn set_guest_counter(&mut self, counter: Option<GuestCounter>) {
        self.readers = Readers::Guest(counter);
        self.must_publish = true;
    }

    /// Changes the page as the guest's life demands.
    pub(in crate::command) fn change(&mut self, change: impl FnOnce(&mut Snapshot)) -> anyhow::Result<()> {
        self.file.check()?;
        self.writer.update(change);
        Ok(())
    }

    /// Continues behind a sequence count that readers may have seen on a page that is not of this writer.
    pub(in crate::command) fn continue_after(&mut self, seq_count: u32) {
        self.writer.continue_after(seq_count);
    }

    /// What the page says.
    pub(in crate::command) fn contents(&self) -> &Snapshot {
        self.writer.contents()
    }

    /// Does to the page what happens to the machine.
    pub(in crate::command) fn signal(&mut self, signal: Signal) -> anyhow::Result<Report> {
        self.file.check()?;
        if let Signal::Leap { kind } = signal {
            return self.announce(kind);
        }
        let (marker, generation) = (new_identity()?, new_identity()?);
        self.writer.update(|page| match signal {
            // The counter goes on all the same, and so does the time.
            Signal::Migrate => page.disruption_marker = marker,
            Signal::Snapshot => {
                page.disruption_marker = marker;
                lifecycle::cloned(page, generation);
            }
            Signal::Clone => lifecycle::cloned(page, generation),
            Signal::Soon => lifecycle::announced(page, Maintenance::Soon),
            Signal::Imminent => lifecycle::announced(page, Maintenance::Imminent),
            Signal::Clear => lifecycle::announced(page, Maintenance::None),
            Signal::Leap { .. } => {}
        });
        let text = format!("{signal:?} published with sequence count {}", self.writer.contents().seq_count);
        Ok(Report::new("signal", text.to_lowercase()))
    }

    /// What the page says, for whoever sent a signal.
    pub(in crate::command) fn state(&self) -> Value {
        let page = self.writer.contents();
        json!({
            "ok": true,
            "seq_count": page.seq_count,
            "disruption_marker": page.disruption_marker,
            "vm_generation_counter": page.generation(),
            "flags": page.flags.names().collect::<Vec<_>>(),
            "leap_indicator": page.leap_indicator.to_string(),
        })
    }

    /// Leaves a page that nobody trusts.
    pub(in crate::command) fn retire(&mut self) {
        if self.file.check().is_ok() {
            self.writer.update(|page| page.clock_status = ClockStatus::UNRELIABLE);
        }
    }

    /// This machine's time, as far as it is known.
    fn machine_time(&self) -> Time<Tai> {
        let now = KernelClock::realtime_plus(-i64::from(self.follower.schedule().utc_minus_tai)).sample();
        self.recorder.estimator().last().and_then(|last| last.time_at(now.middle())).unwrap_or(now.time)
    }

    /// What the page says of UTC, and when.
    fn schedule(&self) -> UtcSchedule {
        self.imaginary.map_or(*self.follower.schedule(), |imaginary| imaginary.schedule)
    }

    /// From the machine's clock to the page's.
    fn shifted(&self, time: Time<Tai>) -> anyhow::Result<Time<Tai>> {
        let shift = self.imaginary.map_or(Span::default(), |imaginary| imaginary.shift);
        time.checked_add(shift).context("the time is out of range")
    }

    /// Announces a leap second at the end of the current month of the page's clock, or takes that back.
    fn announce(&mut self, kind: LeapKind) -> anyhow::Result<Report> {
        let now = self.shifted(self.machine_time())?;
        let (offset, _) = self.schedule().at(now);
        let month = next_month_start(now.seconds().saturating_add(offset.into()));
        let leap = match kind {
            LeapKind::Positive => Some(LeapSecond { month, inserted: true }),
            LeapKind::Negative => Some(LeapSecond { month, inserted: false }),
            LeapKind::None => None,
        };
        let schedule = UtcSchedule { utc_minus_tai: offset, leap };
        match &mut self.imaginary {
            Some(imaginary) => imaginary.schedule = schedule,
            None => self.follower.set_schedule(schedule),
        }
        let contents = *self.writer.contents();
        if contents.clock_status.gives_time() {
            // The indicator holds at the page's reference time, not at the time of the announcement.
            let reference = Time::<Tai>::from_parts(i64::try_from(contents.time_sec)?, contents.time_frac_sec);
            let (offset, indicator) = schedule.at(self.on_tai(reference, contents.time_type));
            let offset = contents.flags.contains(Flags::TAI_OFFSET_VALID).then_some(offset);
            self.writer.update(|page| lifecycle::scaled(page, offset, indicator));
        }
        let end = civil(Time::<Tai>::from_parts(month, 0));
        let text = match kind {
            LeapKind::Positive => format!("a second is inserted before {end} UTC"),
            LeapKind::Negative => format!("a second is left out before {end} UTC"),
            LeapKind::None => format!("no leap second before {end} UTC"),
        };
        Ok(Report::new("leap", text))
    }

    fn on_tai(&self, time: Time<Tai>, time_type: TimeType) -> Time<Tai> {
        if time_type == TimeType::TAI {
            return time;
        }
        time.checked_add(seconds(-i64::from(self.schedule().utc_minus_tai))).unwrap_or(time)
    }

    /// The list has leap seconds long before any source announces them.
    fn follow_announcements(&mut self) {
        let schedule = *self.follower.schedule();
        let OffsetSource::List(list) = &self.offset_source else { return };
        if schedule.leap.is_none() {
            let listed = list.next_after(self.utc_seconds(self.machine_time()));
            let leap = listed.map(|(month, inserted)| LeapSecond { month, inserted });
            self.follower.set_schedule(UtcSchedule { leap, ..schedule });
        }
    }

    fn utc_seconds(&self, time: Time<Tai>) -> i64 {
        let (offset, _) = self.schedule().at(time);
        time.seconds().saturating_add(offset.into())
    }

    /// Brings the page up to date, if there is anything new.
    fn publish(&mut self, conclusion: &Conclusion, disturbed: bool, reports: &mut Vec<Report>) -> anyhow::Result<()> {
        let disrupted = conclusion.disrupted || disturbed;
        let marker = disrupted.then(new_identity).transpose()?;
        if let Some(marker) = marker {
            self.writer.update(|page| {
                lifecycle::distrusted(page);
                page.disruption_marker = marker;
            });
        }
        let Some(facts) = self.facts(conclusion.status) else { return Ok(()) };
        let last = self.recorder.estimator().last().copied();
        let due = |last: &Estimate| self.must_publish || !facts.are_on(self.writer.contents(), last);
        let Some(estimate) = conclusion.publish.or_else(|| last.filter(due)) else {
            if facts.status != self.writer.contents().clock_status {
                self.writer.update(|page| page.clock_status = facts.status);
            }
            return Ok(());
        };
        let mut next = *self.writer.contents();
        facts.put(&estimate, &mut next).context("the time, or the counter's rate, is beyond what a page can say")?;
        if self.settings.monotonic {
            let Self { writer, recorder, .. } = self;
            let mut settled = (0, None);
            writer.update_late(|page| {
                let counter = counter::read_ordered();
                let estimate = recorder.settle(counter);
                settled = (counter, estimate);
                // It is the same but for nanoseconds, so that it fits as well.
                if estimate.and_then(|estimate| facts.put(&estimate, page)).is_none() {
                    page.clock_status = ClockStatus::UNRELIABLE;
                }
            });
            recorder.settled(settled.0, settled.1);
        } else {
            self.writer.update(|page| *page = Snapshot { seq_count: page.seq_count, ..next });
        }
        self.must_publish = false;
        let page = self.writer.contents();
        let text = format!("{} {}", page.clock_status, error(page.time_maxerror_nanosec.into()));
        reports.push(Report::new("refreshed", text));
        Ok(())
    }

    /// All that a calibration needs to become a page's. `None` for a guest whose counter is not known.
    fn facts(&self, status: ClockStatus) -> Option<Facts> {
        let guest = match self.readers {
            Readers::Here => None,
            Readers::Guest(counter) => Some(counter?),
        };
        let is_trusted = counter_is_trusted() != Some(false) && self.offset_is_known(self.machine_time());
        Some(Facts {
            status: if is_trusted { status } else { ClockStatus::UNRELIABLE },
            schedule: self.schedule(),
            shift: self.imaginary.map_or(Span::default(), |imaginary| imaginary.shift),
            offset_is_known: self.offset_source != OffsetSource::Nowhere,
            guest,
            // A guest's counter may be known better later, and then the time goes back.
            monotonic: self.settings.monotonic && guest.is_none(),
        })
    }

    /// A list that expired says nothing about the leap seconds since.
    fn offset_is_known(&self, tai: Time<Tai>) -> bool {
        match &self.offset_source {
            OffsetSource::List(list) => self.imaginary.is_some() || list.tai_minus_utc(self.utc_seconds(tai)).is_ok(),
            _ => true,
        }
    }
}

/// What makes a page out of a calibration.
struct Facts {
    status: ClockStatus,
    schedule: UtcSchedule,
    shift: Span,
    offset_is_known: bool,
    guest: Option<GuestCounter>,
    monotonic: bool,
}

impl Facts {
    /// Whether a page with this calibration says so.
    fn are_on(&self, page: &Snapshot, estimate: &Estimate) -> bool {
        let mut next = *page;
        self.put(estimate, &mut next).is_none()
            || (next.leap_indicator, next.tai_offset_sec) == (page.leap_indicator, page.tai_offset_sec)
    }

    /// Writes it all. `None` where a page cannot say it.
    fn put(&self, estimate: &Estimate, page: &mut Snapshot) -> Option<()> {
        let tai = estimate.time.checked_add(self.shift)?;
        let (offset, leap_indicator) = self.schedule.at(tai);
        let time = if page.time_type == TimeType::TAI { tai } else { tai.checked_add(seconds(offset.into()))? };
        let host = Calibration {
            time: Time::from_raw(time.raw()),
            utc_minus_tai: self.offset_is_known.then_some(offset),
            leap_indicator,
            ..calibration::of(estimate, self.status)
        };
        self.guest.map_or(Some(host), |guest| guest.calibration(&host))?.put_on(page)?;
        let flags = page.flags.without(Flags::TIME_MONOTONIC);
        page.flags = if self.monotonic { flags.with(Flags::TIME_MONOTONIC) } else { flags };
        Some(())
    }
}

fn seconds(count: i64) -> Span {
    Span::from_nanos(count.saturating_mul(1_000_000_000))
}

/// UTC - TAI, and where it is known from.
fn find_offset(stated: Option<i16>, reports: &mut Vec<Report>) -> anyhow::Result<(OffsetSource, i16)> {
    let quality = Quality::now().context("cannot ask the kernel about its clock")?;
    if let Some(offset) = stated {
        reports.push(Report::new("offset", format!("UTC - TAI is {offset} s, as stated")));
        return Ok((OffsetSource::Stated, offset));
    }
    if let Some(tai) = quality.tai_minus_utc {
        reports.push(Report::new("offset", format!("UTC - TAI is {} s, from the kernel", -tai)));
        return Ok((OffsetSource::Kernel, -tai));
    }
    let now = KernelClock::realtime_plus(0).sample().time.seconds();
    let list = LeapSeconds::read(SYSTEM_LIST).and_then(|list| Ok((list.tai_minus_utc(now)?, list)));
    match list {
        Ok((tai, list)) => {
            reports.push(Report::new("offset", format!("UTC - TAI is {} s, from {SYSTEM_LIST}", -tai)));
            Ok((OffsetSource::List(list), -tai))
        }
        Err(error) => {
            let text = format!("UTC - TAI is unknown, the page will be on UTC: {error}; or state it with --tai-offset");
            reports.push(Report::new("warning", text));
            Ok((OffsetSource::Nowhere, 0))
        }
    }
}

pub(in crate::command) fn new_identity() -> anyhow::Result<u64> {
    never_used().context("the kernel gives no random numbers")
}
