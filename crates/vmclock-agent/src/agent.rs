// SPDX-License-Identifier: MIT OR Apache-2.0
//! The agent: one poll loop, which asks the [policy](crate::policy) and does what it says.

mod feeding;
mod steady;

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use serde_json::{json, Value};
use vmclock::VmClock;
use vmclock_core::event::Epoch;
use vmclock_core::tai::TaiOffset;
use vmclock_host::source::ptp::PtpScale;

use crate::cgroup::Freezer;
use crate::clock::SystemClock;
use crate::config::{Config, Scale, TimeSource};
use crate::control::{Control, Request};
use crate::feed::{chronyd, Leap};
use crate::log::Log;
use crate::measure::Measured;
use crate::policy::{Action, Input, Policy, Settings};
use crate::report::{Level, Report};
use crate::runner::{self, HookEvent, Runner};
use crate::source::{compare_with_page, AskedChronyd, HypervisorClock};
use crate::state;
use crate::status::Status;
use crate::tell::{Listeners, Message};
use crate::watch::{Happened, Watch};

use feeding::Feeding;
use steady::Steady;

/// A page that has had time gets so long to have it again, before the next best clock is asked.
const PAGE_FIRST: Duration = Duration::from_secs(2);

/// How soon a page is looked for again where there is none.
const REOPEN: Duration = Duration::from_secs(1);

/// Who vouches for the time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Voucher {
    Page,
    Ptp,
    Chronyd,
}

/// Who the system calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Signal {
    /// End.
    End,
    /// Read the configuration again.
    Reload,
}

/// The agent.
#[derive(Debug)]
pub struct Agent<C> {
    config: Config,
    config_path: Option<PathBuf>,
    /// This program, to start hooks with.
    program: PathBuf,
    policy: Policy,
    clock: C,
    watch: Option<Watch>,
    ptp: Option<HypervisorClock>,
    chronyd: Option<AskedChronyd>,
    /// Whose the last time was.
    voucher: Option<Voucher>,
    page_had_time: bool,
    no_page_time_since: Option<Instant>,
    hooks: Option<Runner>,
    /// Runs that no runner will finish.
    lost_runs: Vec<u64>,
    freezer: Option<Freezer>,
    freezing: bool,
    control: Control,
    quiescing: Vec<u64>,
    listeners: Listeners,
    feeding: Feeding,
    steady: Steady,
    status: Status,
    log: Log,
    started: Instant,
    reopen_at: Option<Instant>,
    /// A page that cannot be read is left alone until then: it may stay readable, and would keep us busy.
    watch_again_at: Option<Instant>,
}

impl<C: SystemClock> Agent<C> {
    /// An agent that has looked at its machine, but done nothing yet.
    ///
    /// # Errors
    ///
    /// Another agent runs, or a setting names something that is not there.
    pub fn new(config: Config, config_path: Option<PathBuf>, program: &Path, clock: C) -> Result<Self, String> {
        let control = Control::open(&config.control.socket)?;
        let (listeners, errors) = Listeners::of_environment(&config.tell.to);
        let mut agent = Self {
            policy: Policy::new(config.policy()),
            clock,
            watch: None,
            ptp: None,
            chronyd: None,
            voucher: None,
            page_had_time: false,
            no_page_time_since: None,
            hooks: None,
            lost_runs: Vec::new(),
            freezer: None,
            freezing: false,
            control,
            quiescing: Vec::new(),
            listeners,
            feeding: Feeding::default(),
            steady: Steady::default(),
            status: Status::default(),
            log: Log::new(),
            started: Instant::now(),
            reopen_at: None,
            watch_again_at: None,
            program: program.to_owned(),
            config_path,
            config,
        };
        for error in errors {
            agent.report(&Report::new(Level::Error, "tell", error));
        }
        agent.configure()?;
        Ok(agent)
    }

    /// What the configuration names, opened.
    fn configure(&mut self) -> Result<(), String> {
        let paths = &self.config.hold.cgroups;
        let freezer = match &paths[..] {
            [] => None,
            paths => Some(Freezer::new(paths).map_err(|error| format!("hold.cgroups: {error}"))?),
        };
        if self.hooks.as_ref().is_none_or(|hooks| hooks.folder() != self.config.hooks.folder) {
            let runner = Runner::start(&self.program, &self.config.hooks.folder);
            let runner = runner.map_err(|error| format!("hooks cannot be run: {error}"))?;
            if let Some(before) = self.hooks.replace(runner) {
                self.lost_runs.extend(before.unfinished());
            }
        }
        // From here on nothing fails. Of what was held before, nothing stays frozen by accident.
        let holds = self.policy.holds();
        if let Some(mut before) = std::mem::replace(&mut self.freezer, freezer).filter(|_| holds) {
            before.thaw();
            self.freeze();
        }
        self.open_ptp();
        self.chronyd = self.chronyd_path().map(AskedChronyd::new);
        self.voucher = None;
        let page = self.config.page.path.clone().unwrap_or_else(vmclock::default_page);
        let reports = self.feeding.configure(&self.config.feed, &page);
        self.report_all(&reports);
        let reports = self.steady.configure(&self.config.clock, &mut self.clock);
        self.report_all(&reports);
        self.status.disciplines = self.steady.is_active();
        self.policy.reconfigure(Settings { always: self.steady.is_active(), ..self.config.policy() });
        Ok(())
    }

    fn open_ptp(&mut self) {
        self.ptp = None;
        if !matches!(self.config.time.source, TimeSource::Auto | TimeSource::Ptp) {
            return;
        }
        let path = self.config.time.ptp.clone().or_else(|| HypervisorClock::find(Path::new("/sys/class/ptp")));
        let max_error = u64::try_from(self.config.time.ptp_max_error.as_nanos()).unwrap_or(u64::MAX);
        let scale = match self.config.time.ptp_scale {
            Scale::Utc => PtpScale::Utc,
            Scale::Tai => PtpScale::Tai,
        };
        let tai_offset = self.config.time.tai_offset.and_then(TaiOffset::from_seconds);
        match path.map(|path| HypervisorClock::open(&path, scale, max_error, tai_offset)) {
            Some(Ok(clock)) => {
                let text = format!("{} is the PTP clock", clock.path().display());
                self.report(&Report::new(Level::Info, "ptp", text));
                self.ptp = Some(clock);
            }
            Some(Err(error)) => self.report(&Report::new(Level::Warning, "ptp", error)),
            None => {}
        }
    }

    /// Where chronyd is asked, if nobody else has the time.
    fn chronyd_path(&self) -> Option<PathBuf> {
        if !matches!(self.config.time.source, TimeSource::Auto | TimeSource::Chronyd) {
            return None;
        }
        let named = self.config.time.chronyd.clone().or_else(|| self.config.feed.chronyd.clone());
        let usual = Path::new(chronyd::DEFAULT_SOCKET);
        named.or_else(|| (self.config.time.source == TimeSource::Chronyd || usual.exists()).then(|| usual.to_owned()))
    }

    /// Whether it asks or tells a chronyd, which takes the right to make files beside chronyd's socket.
    pub const fn speaks_to_chronyd(&self) -> bool {
        self.chronyd.is_some() || self.config.feed.chronyd.is_some()
    }

    /// Runs until `signals` says that it is to end. `signals` is polled for reading, and then asked.
    pub fn run(&mut self, signals: &mut impl Signals) -> Result<(), String> {
        self.start();
        loop {
            self.log.flush();
            let ready = self.wait(&*signals)?;
            if ready.signals {
                match signals.take() {
                    Some(Signal::End) => {
                        self.report(&Report::new(Level::Info, "ended", "the agent ends".to_owned()));
                        self.log.flush();
                        return Ok(());
                    }
                    Some(Signal::Reload) => self.reload(),
                    None => {}
                }
            }
            // The page first, whatever woke us: what happened must not be missed.
            self.poll_watch();
            if ready.hooks || !self.lost_runs.is_empty() {
                self.poll_hooks();
            }
            self.poll_freezer();
            if ready.control {
                self.poll_control();
            }
            self.poll_chronyd();
            self.keep_steady();
            self.feed();
            if self.policy.deadline().is_some_and(|at| at <= self.now()) {
                self.handle(Input::Due);
            }
        }
    }

    fn start(&mut self) {
        self.open_watch();
        let completed = match state::load(&self.config.state.path) {
            Ok(completed) => completed,
            Err(error) => {
                let text =
                    format!("{}: {error}: it is not known what happened before", self.config.state.path.display());
                self.report(&Report::new(Level::Warning, "state", text));
                None
            }
        };
        let epoch = self.epoch();
        let frozen = self.freezer.as_ref().is_some_and(Freezer::has_frozen);
        self.handle(Input::Started { epoch, completed, frozen });
        if !self.policy.recovers() {
            // Nothing happened: that is dealt with.
            self.act(Action::Complete(epoch));
            self.act(Action::Ready);
        }
    }

    fn reload(&mut self) {
        let result = Config::load(self.config_path.as_deref()).map_err(|error| error.to_string()).and_then(|config| {
            let previous = std::mem::replace(&mut self.config, config);
            self.configure().inspect_err(|_| self.config = previous)
        });
        let report = match result {
            Ok(()) => {
                self.open_watch();
                self.handle(Input::Reopened(self.epoch()));
                Report::new(Level::Info, "reloaded", "the configuration was read again".to_owned())
            }
            Err(error) => Report::new(Level::Error, "reload", format!("{error}; nothing was changed")),
        };
        self.report(&report);
    }

    fn open_watch(&mut self) {
        self.reopen_at = None;
        match Watch::open(self.config.page.path.as_deref(), self.config.page.interval) {
            Ok(watch) => {
                self.status.watches = watch.name();
                self.report(&Report::new(Level::Info, "watches", watch.name()));
                (self.watch, self.voucher) = (Some(watch), None);
            }
            Err(error) => {
                if self.status.watches != error {
                    self.report(&Report::new(Level::Warning, "watches", error.clone()));
                    self.status.watches = error;
                }
                self.reopen_at = Some(Instant::now() + REOPEN);
            }
        }
    }

    /// Since the agent started.
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn epoch(&self) -> Option<Epoch> {
        self.page()?.epoch().ok()
    }

    fn page(&self) -> Option<&VmClock> {
        self.watch.as_ref()?.clock()
    }

    /// Waits until there is something to do.
    fn wait(&self, signals: &impl Signals) -> Result<Ready, String> {
        let readable = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let mut fds = vec![readable(signals.as_fd())];
        if self.watch_again_at.is_none() {
            fds.extend(self.watch.as_ref().map(|watch| readable(watch.as_fd())));
        }
        let hooks_at = fds.len();
        fds.extend(self.hooks.as_ref().map(|hooks| readable(hooks.as_fd())));
        let control_at = fds.len();
        fds.extend(self.control.fds().map(readable));
        let others_at = fds.len();
        fds.extend(self.feeding.fds().map(readable));
        fds.extend(self.chronyd.as_ref().and_then(AskedChronyd::fd).map(readable));
        if let Some(freezer) = self.freezer.as_ref().filter(|_| self.freezing) {
            fds.extend(freezer.changes().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::PRI)));
        }
        let now = self.now();
        let policy = self.policy.deadline().map(|at| at.saturating_sub(now));
        let until = |at: Instant| at.saturating_duration_since(Instant::now());
        let (reopen, watch) = (self.reopen_at.map(until), self.watch_again_at.map(until));
        let chronyd = self.chronyd.as_ref().and_then(AskedChronyd::deadline).map(until);
        let others = [self.steady.due().map(|at| at.saturating_sub(now)), self.feeding.due(now)];
        let timeout = [policy, reopen, watch, chronyd].into_iter().chain(others).flatten().min();
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {
                let is_ready = |range: Range<usize>| fds[range].iter().any(|fd| !fd.revents().is_empty());
                let (hooks, control) = (is_ready(hooks_at..control_at), is_ready(control_at..others_at));
                Ok(Ready { signals: is_ready(0..1), hooks, control })
            }
            Err(errno) => Err(format!("poll: {errno}")),
        }
    }

    fn poll_watch(&mut self) {
        if self.reopen_at.is_some_and(|at| at <= Instant::now()) {
            self.open_watch();
            if self.watch.is_some() {
                self.handle(Input::Reopened(self.epoch()));
            }
        }
        if self.watch_again_at.is_some_and(|at| at > Instant::now()) {
            return;
        }
        self.watch_again_at = None;
        let Some(watch) = &mut self.watch else { return };
        match watch.poll() {
            Ok(list) => {
                for happened in list {
                    self.happened(happened);
                }
            }
            Err(error) => {
                // A page that is busy now may be in order later.
                self.watch_again_at = Some(Instant::now() + REOPEN);
                if self.status.no_time.as_ref() != Some(&error) {
                    self.report(&Report::new(Level::Warning, "page", error.clone()));
                    self.status.no_time = Some(error);
                }
            }
        }
    }

    fn happened(&mut self, happened: Happened) {
        match happened {
            Happened::Epoch { names, epoch } => self.handle(Input::Happened { names, epoch }),
            Happened::Announced(name) => self.handle(Input::Announced(name)),
            Happened::TimeChanged => self.handle(Input::TimeChanged),
            Happened::Vanished(text) => self.report(&Report::new(Level::Warning, "page", text)),
        }
    }

    fn poll_hooks(&mut self) {
        for run in std::mem::take(&mut self.lost_runs) {
            self.handle(Input::HooksFinished { run, succeeded: false });
        }
        let Some(hooks) = &mut self.hooks else { return };
        let reports = match hooks.receive() {
            Ok(reports) => reports,
            Err(error) => {
                self.report(&Report::new(Level::Error, "hooks", format!("the hook runner: {error}")));
                vec![runner::Report::Died]
            }
        };
        for report in reports {
            match report {
                runner::Report::Hook(result) => {
                    self.report(&Report::hook(&result));
                    self.status.hook_ended(result);
                }
                runner::Report::Finished { id, succeeded } => self.handle(Input::HooksFinished { run: id, succeeded }),
                runner::Report::Died => self.lose_runner(),
            }
        }
    }

    /// Whoever killed the runner: the runs that it had are lost, and have failed. The next run starts another.
    fn lose_runner(&mut self) {
        let lost: Vec<u64> = self.hooks.take().map(|hooks| hooks.unfinished().collect()).unwrap_or_default();
        let text = format!("the hook runner died; {} runs are lost", lost.len());
        self.report(&Report::new(Level::Error, "hooks", text));
        for run in lost {
            self.handle(Input::HooksFinished { run, succeeded: false });
        }
    }

    fn poll_freezer(&mut self) {
        if !self.freezing {
            return;
        }
        match self.freezer.as_ref().map_or(Ok(true), Freezer::is_frozen) {
            Ok(true) => {
                self.freezing = false;
                self.handle(Input::Frozen);
            }
            Ok(false) => {}
            Err(error) => {
                // In the end the time for it is up.
                self.freezing = false;
                self.report(&Report::new(Level::Error, "freeze", error.to_string()));
            }
        }
    }

    /// What chronyd was asked for may have come.
    fn poll_chronyd(&mut self) {
        if self.chronyd.as_mut().is_some_and(|chronyd| chronyd.advance(Instant::now())) {
            let measured = self.measure();
            self.status.measured(&measured);
            self.handle(Input::Measured(measured));
        }
    }

    fn poll_control(&mut self) {
        for (connection, request) in self.control.requests() {
            match request {
                Request::Status => {
                    let answer = self.status_now();
                    self.control.answer(connection, &answer);
                }
                Request::Quiesce => {
                    self.quiescing.push(connection);
                    self.handle(Input::Quiesce);
                }
                Request::Thaw => {
                    self.handle(Input::Thaw);
                    self.control.answer(connection, &json!({"held": self.policy.holds()}));
                }
            }
        }
    }

    fn status_now(&mut self) -> Value {
        let epoch = self.epoch().or(self.policy.epoch());
        self.status.held = self.policy.holds();
        self.status.disruption_marker_hex = epoch.map(|epoch| format!("{:#018x}", epoch.disruption_marker));
        self.status.generation_hex =
            epoch.and_then(|epoch| epoch.generation).map(|generation| format!("{generation:#018x}"));
        // chronyd would have to be asked first: what it said last is there.
        if !self.policy.recovers() && !self.chronyd_vouches() {
            let measured = self.measure();
            self.status.measured(&measured);
        }
        serde_json::to_value(&self.status).unwrap_or_default()
    }

    /// Gives an input to the policy, does what it says, and gives it what came of that.
    fn handle(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let now = self.now();
            for action in self.policy.on(input, now) {
                inputs.extend(self.act(action));
            }
        }
    }

    fn act(&mut self, action: Action) -> Option<Input> {
        match action {
            Action::Measure => {
                let measured = self.measure();
                if measured.is_err() && self.chronyd.as_ref().is_some_and(AskedChronyd::is_asked) {
                    // It is given when chronyd has answered, or has not.
                    return None;
                }
                self.status.measured(&measured);
                return Some(Input::Measured(measured));
            }
            Action::Step(_) if self.chronyd_vouches() => {
                if let Some(chronyd) = &mut self.chronyd {
                    chronyd.step(Instant::now());
                }
            }
            Action::Step(by) => {
                self.steady.restart();
                let result = self.clock.step(by);
                let report = self.feeding.stepped();
                self.report_all(report.as_slice());
                return failed(result);
            }
            // Who has the clock slews it.
            Action::Slew(by) if !self.steady.is_active() && !self.chronyd_vouches() => {
                return failed(self.clock.slew(by))
            }
            Action::Slew(_) => {}
            Action::RunHooks { run, names } => return self.run_hooks(run, &names),
            Action::Freeze => return self.freeze(),
            Action::Thaw => self.thaw(),
            Action::ResetFeeds => {
                self.steady.restart();
                if let Some(chronyd) = &mut self.chronyd {
                    chronyd.disrupted();
                }
                let reports = self.feeding.disrupted(self.now());
                self.report_all(&reports);
            }
            Action::Complete(epoch) => self.complete(epoch),
            Action::Ready => self.ready(),
            Action::AnswerQuiesce(result) => {
                let answer = match result {
                    Ok(()) => json!({"held": true}),
                    Err(error) => json!({"error": error}),
                };
                for connection in std::mem::take(&mut self.quiescing) {
                    self.control.answer(connection, &answer);
                }
            }
            Action::Report(report) => self.report(&report),
        }
        None
    }

    /// Compares `CLOCK_REALTIME` with whoever vouches for the time.
    fn measure(&mut self) -> Result<Measured, String> {
        let from_page = match (self.config.time.source, self.page()) {
            (TimeSource::Ptp, _) => Err("time.source is ptp".to_owned()),
            (TimeSource::Chronyd, _) => Err("time.source is chronyd".to_owned()),
            (_, Some(clock)) => compare_with_page(clock),
            (_, None) => Err("there is no page".to_owned()),
        };
        let reason = match from_page {
            Ok(measured) => {
                (self.page_had_time, self.no_page_time_since) = (true, None);
                self.vouches(Voucher::Page);
                return Ok(measured);
            }
            Err(reason) => reason,
        };
        let since = *self.no_page_time_since.get_or_insert_with(Instant::now);
        if self.page_had_time && since.elapsed() < PAGE_FIRST {
            return Err(reason);
        }
        let reason = match self.ptp.as_mut().map(HypervisorClock::compare) {
            Some(Ok(measured)) => {
                self.vouches(Voucher::Ptp);
                return Ok(measured);
            }
            Some(Err(error)) => format!("{reason}; {error}"),
            None => reason,
        };
        let Some(chronyd) = &mut self.chronyd else { return Err(reason) };
        let measured = chronyd.measure(Instant::now()).map_err(|error| format!("{reason}; {error}"))?;
        self.vouches(Voucher::Chronyd);
        Ok(measured)
    }

    /// chronyd has the clock, and the time.
    fn chronyd_vouches(&self) -> bool {
        self.voucher == Some(Voucher::Chronyd)
    }

    fn vouches(&mut self, voucher: Voucher) {
        if self.voucher.replace(voucher) == Some(voucher) {
            return;
        }
        let name = match voucher {
            Voucher::Page => self.page().map(|page| page.path().display().to_string()),
            Voucher::Ptp => self.ptp.as_ref().map(|ptp| ptp.path().display().to_string()),
            Voucher::Chronyd => self.chronyd.as_ref().map(|chronyd| chronyd.name().to_owned()),
        };
        let name = name.unwrap_or_default();
        if self.status.time_source != name {
            self.report(&Report::new(Level::Info, "time", format!("{name} vouches for the time")));
            self.status.time_source = name;
        }
    }

    fn run_hooks(&mut self, run: u64, names: &[&'static str]) -> Option<Input> {
        if names.contains(&"restored") || names.contains(&"disrupted") {
            self.status.recovery_run = Some(run);
        }
        let event = self.hook_event(names);
        if self.hooks.is_none() {
            self.hooks = Runner::start(&self.program, &self.config.hooks.folder).ok();
        }
        let error = match self.hooks.as_mut().map(|hooks| hooks.run(run, &event)) {
            Some(Ok(())) => return None,
            Some(Err(error)) => error,
            None => io::Error::other("the hook runner cannot be started"),
        };
        self.report(&Report::new(Level::Error, "hooks", format!("{}: {error}", names.join(" "))));
        Some(Input::HooksFinished { run, succeeded: false })
    }

    fn hook_event(&self, names: &[&'static str]) -> HookEvent {
        let mut variables = vec![
            ("VMCLOCK_EVENT".to_owned(), names.first().copied().unwrap_or_default().to_owned()),
            ("VMCLOCK_EVENTS".to_owned(), names.join(" ")),
        ];
        if let Some(epoch) = self.policy.epoch() {
            variables.push(("VMCLOCK_DISRUPTION_MARKER".to_owned(), format!("{:#018x}", epoch.disruption_marker)));
            if let Some(generation) = epoch.generation {
                variables.push(("VMCLOCK_GENERATION".to_owned(), format!("{generation:#018x}")));
            }
        }
        HookEvent { names: names.iter().map(|name| (*name).to_owned()).collect(), variables }
    }

    fn freeze(&mut self) -> Option<Input> {
        let Some(freezer) = &mut self.freezer else { return Some(Input::Frozen) };
        let errors = freezer.freeze();
        for error in &errors {
            self.report(&Report::new(Level::Error, "freeze", error.to_string()));
        }
        self.freezing = true;
        None
    }

    fn thaw(&mut self) {
        self.freezing = false;
        let errors = self.freezer.as_mut().map(Freezer::thaw).unwrap_or_default();
        for error in errors {
            self.report(&Report::new(Level::Error, "thaw", error.to_string()));
        }
    }

    fn complete(&mut self, epoch: Option<Epoch>) {
        let Some(epoch) = epoch else { return };
        if let Err(error) = state::save(&self.config.state.path, epoch) {
            let text = format!(
                "{}: {error}: if the agent is started again, it deals with this event once more",
                self.config.state.path.display()
            );
            self.report(&Report::new(Level::Warning, "state", text));
        }
    }

    fn ready(&mut self) {
        self.status.ready = true;
        let mut message = Message::new("the machine is ready").ready();
        if let Some(epoch) = self.policy.epoch() {
            message = message.epoch(epoch);
        }
        for error in self.listeners.tell(&message) {
            self.report(&Report::new(Level::Warning, "tell", error));
        }
    }

    fn report(&mut self, report: &Report) {
        self.status.reported(report);
        self.log.keep(report);
    }

    fn report_all(&mut self, reports: &[Report]) {
        for report in reports {
            self.report(report);
        }
    }

    /// Compares and adjusts, where the clock is kept on the page all the time.
    fn keep_steady(&mut self) {
        let now = self.now();
        if !self.steady.is_due(now) {
            return;
        }
        let measured = self.measure();
        self.status.measured(&measured);
        if measured.as_ref().is_ok_and(|measured| Leap::of(measured) == Leap::Close) {
            // The kernel does what it was told before, and a comparison could be off by the second.
            self.steady.skip(now);
            return;
        }
        match &measured {
            // What is so far off is stepped.
            Ok(measured)
                if !self.chronyd_vouches()
                    && !measured.ahead.certainly_off_by_more_than(self.config.policy().step_threshold) =>
            {
                let reports = self.steady.adjust(measured, now, &mut self.clock);
                self.report_all(&reports);
            }
            _ => self.steady.skip(now),
        }
        self.handle(Input::Measured(measured));
    }

    fn feed(&mut self) {
        let now = self.now();
        let mut reports = self.feeding.advance();
        if self.feeding.is_due(now) {
            match self.measure() {
                // chronyd's own time is none to feed it with.
                Ok(measured) if !self.policy.recovers() && !self.chronyd_vouches() => {
                    reports.extend(self.feeding.update(&measured, now));
                }
                _ => self.feeding.skip(now),
            }
        }
        self.report_all(&reports);
    }
}

struct Ready {
    signals: bool,
    hooks: bool,
    control: bool,
}

/// Where the system's signals come from.
pub trait Signals: AsFd {
    /// The next one, if there is any.
    fn take(&mut self) -> Option<Signal>;
}

fn failed(result: io::Result<()>) -> Option<Input> {
    result.err().map(|error| {
        let hint = if error.kind() == io::ErrorKind::PermissionDenied { ": it takes CAP_SYS_TIME" } else { "" };
        Input::ClockFailed(format!("{error}{hint}"))
    })
}
