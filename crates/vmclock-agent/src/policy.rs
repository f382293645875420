// SPDX-License-Identifier: MIT OR Apache-2.0
//! All decisions of the agent: a function of what happens, with no clock, file or process of its own.
//!
//! After a disruption or a restore the order is: the clock, then the hooks, then the workload, then the word that the
//! machine is ready. A workload that is held is thawed when the clock is certainly right and all required hooks have
//! succeeded, or when time is up and the settings say so.

mod recovery;
mod settings;

use std::time::Duration;

use vmclock_core::event::Epoch;

use crate::measure::{Ahead, Measured};
use crate::report::{Level, Report};

use recovery::{ClockState, HookState, Recovery};
pub use settings::{OnTimeout, Settings};

/// So often the clock is compared again and stepped after one event, before the source is reported as unsteady.
const STEPS: u32 = 20;

/// How long the workload's cgroups may take to freeze.
const FREEZING: Duration = Duration::from_secs(10);

/// How soon the clock is compared again where there is no time yet, in case nobody says when there is: each time twice
/// as late, up to the last.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(64));

/// By how much UTC as POSIX counts it may go back: a leap second.
const LEAP_SECOND: i128 = 1_000_000_000;

/// A moment on `CLOCK_MONOTONIC`, since an epoch of its own.
pub type Moment = Duration;

/// What happens.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum Input {
    /// The agent starts. The epoch is the page's; `completed` is the one that the agent before it dealt with last, if
    /// there was one since the machine booted; `frozen` tells whether the workload is frozen.
    Started {
        /// The page's epoch.
        epoch: Option<Epoch>,
        /// The last epoch that was dealt with.
        completed: Option<Epoch>,
        /// Whether the workload is frozen.
        frozen: bool,
    },
    /// The page was opened anew, and this is its epoch: what happened meanwhile has not been told.
    Reopened(Option<Epoch>),
    /// The machine was disrupted or restored: the names of the events, and the epoch now. `None` where `VMGenID` is
    /// all that there is.
    Happened {
        /// The names of the events.
        names: Vec<&'static str>,
        /// The epoch now.
        epoch: Option<Epoch>,
    },
    /// An event that changes nothing here, but that hooks may want.
    Announced(&'static str),
    /// The source may have time again.
    TimeChanged,
    /// An answer to [`Action::Measure`].
    Measured(Result<Measured, String>),
    /// [`Action::Step`] or [`Action::Slew`] was refused by the system.
    ClockFailed(String),
    /// A run of hooks has ended; `succeeded` where all required ones have.
    HooksFinished {
        /// The run.
        run: u64,
        /// Whether all required hooks have succeeded.
        succeeded: bool,
    },
    /// Somebody asks to hold the workload, as a snapshot is about to be taken.
    Quiesce,
    /// All of the workload's cgroups are frozen.
    Frozen,
    /// Somebody asks to let the workload go on, whatever the clock is.
    Thaw,
    /// Time has passed: see [`Policy::deadline`].
    Due,
}

/// What to do, in this order.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum Action {
    /// Compare `CLOCK_REALTIME` with the source, and give [`Input::Measured`].
    Measure,
    /// Add so many nanoseconds to `CLOCK_REALTIME`, at once.
    Step(i128),
    /// Add so many nanoseconds to `CLOCK_REALTIME`, gradually.
    Slew(i128),
    /// Run the hooks for an event, and give [`Input::HooksFinished`].
    RunHooks {
        /// The run's number.
        run: u64,
        /// The names of the events. The first is the one that matters most.
        names: Vec<&'static str>,
    },
    /// Freeze the workload, and give [`Input::Frozen`].
    Freeze,
    /// Thaw the workload.
    Thaw,
    /// Tell time daemons and feeds that what was measured does not count any more.
    ResetFeeds,
    /// Keep in mind that this epoch has been dealt with.
    Complete(Option<Epoch>),
    /// Tell whoever started us, and the host, that the machine is ready.
    Ready,
    /// Answer whoever asked to hold the workload.
    AnswerQuiesce(Result<(), String>),
    /// Tell people.
    Report(Report),
}

/// Whether the workload is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Workload {
    Runs,
    /// The hooks of `quiesce` are run.
    Quiescing {
        run: u64,
    },
    Freezing {
        until: Moment,
    },
    /// It is frozen. Without a disruption or restore by then, no snapshot was taken.
    Held {
        until: Moment,
    },
}

/// What the agent is about to do, and what it knows.
///
/// ```
/// use std::time::Duration;
/// use vmclock_agent::measure::Measured;
/// use vmclock_agent::policy::{Action, Input, Policy, Settings};
///
/// let mut policy = Policy::new(Settings::default());
/// let now = Duration::from_secs(100);
/// let _ = policy.on(Input::Started { epoch: None, completed: None, frozen: false }, now);
/// let actions = policy.on(Input::Happened { names: vec!["restored"], epoch: None }, now);
/// assert_eq!(actions.last(), Some(&Action::Measure));
/// ```
#[derive(Debug)]
pub struct Policy {
    settings: Settings,
    epoch: Option<Epoch>,
    workload: Workload,
    recovery: Option<Recovery>,
    /// True time was at least this when it was last known, in nanoseconds of UTC.
    certain: Option<i128>,
    last_run: u64,
    /// The hooks of an event, which may be an earlier one: those of the next wait, so that however many events come in a
    /// row, there are runs for the first and for all others together.
    unfinished_run: Option<u64>,
    /// The hooks of an announcement; and the newest announcement since, which has them run again. So a host that announces
    /// all the time leaves the hook runner room for what matters.
    announcement_run: Option<u64>,
    announced: Option<&'static str>,
    /// The hooks before a snapshot, which may still run when somebody has called it off.
    quiesce_run: Option<u64>,
    /// Whether the next comparison may step the clock although nothing happened: at the start, and when time returns.
    may_step: bool,
    /// How often the clock was stepped since.
    steps: u32,
    retry_at: Option<Moment>,
    retry_after: Duration,
    refused: Option<String>,
}

impl Policy {
    /// Nothing has happened yet.
    pub const fn new(settings: Settings) -> Self {
        Self {
            settings,
            epoch: None,
            workload: Workload::Runs,
            recovery: None,
            certain: None,
            last_run: 0,
            unfinished_run: None,
            announcement_run: None,
            announced: None,
            quiesce_run: None,
            may_step: false,
            steps: 0,
            retry_at: None,
            retry_after: RETRY.0,
            refused: None,
        }
    }

    /// Other settings, from now on.
    pub fn reconfigure(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// The epoch of the last event.
    pub const fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    /// Whether the workload is held.
    pub const fn holds(&self) -> bool {
        matches!(self.workload, Workload::Freezing { .. } | Workload::Held { .. })
    }

    /// Whether an event is being dealt with.
    pub const fn recovers(&self) -> bool {
        self.recovery.is_some()
    }

    /// When to give [`Input::Due`].
    pub fn deadline(&self) -> Option<Moment> {
        let held = match (&self.workload, &self.recovery) {
            (Workload::Freezing { until }, _) | (Workload::Held { until }, None) => Some(*until),
            (_, recovery) => recovery.as_ref().and_then(|recovery| recovery.gives_up_at),
        };
        [held, self.retry_at].into_iter().flatten().min()
    }

    /// Decides.
    pub fn on(&mut self, input: Input, now: Moment) -> Vec<Action> {
        match input {
            Input::Started { epoch, completed, frozen } => self.start(epoch, completed, frozen, now),
            Input::Reopened(epoch) => self.reopened(epoch, now),
            Input::Happened { names, epoch } => self.begin(&names, epoch, now),
            Input::Announced(name) => self.announce(name),
            Input::TimeChanged => self.time_changed(),
            Input::Measured(Ok(measured)) => self.measured(&measured, now),
            Input::Measured(Err(reason)) => self.no_time(reason, now),
            Input::ClockFailed(reason) => self.no_time(format!("the system clock cannot be set: {reason}"), now),
            Input::HooksFinished { run, succeeded } => self.hooks_finished(run, succeeded, now),
            Input::Quiesce => self.quiesce(),
            Input::Frozen => self.frozen(now),
            Input::Thaw => self.thaw_by_hand(),
            Input::Due => self.due(now),
        }
    }

    fn start(&mut self, epoch: Option<Epoch>, completed: Option<Epoch>, frozen: bool, now: Moment) -> Vec<Action> {
        self.epoch = epoch;
        if frozen {
            self.workload = Workload::Held { until: now + self.settings.quiesce_timeout };
        }
        match (completed, epoch) {
            (Some(before), Some(epoch)) if before != epoch => {
                self.begin(&names_between(before, epoch), Some(epoch), now)
            }
            _ => {
                self.may_step = self.settings.set_at_start;
                vec![Action::Measure]
            }
        }
    }

    fn reopened(&mut self, epoch: Option<Epoch>, now: Moment) -> Vec<Action> {
        match (self.epoch, epoch) {
            (Some(before), Some(epoch)) if before != epoch => {
                self.begin(&names_between(before, epoch), Some(epoch), now)
            }
            _ => {
                self.epoch = epoch.or(self.epoch);
                self.time_changed()
            }
        }
    }

    fn begin(&mut self, names: &[&'static str], epoch: Option<Epoch>, now: Moment) -> Vec<Action> {
        self.epoch = epoch;
        let gives_up_at = now.checked_add(self.settings.hold_timeout);
        let mut recovery = Recovery::new(names, now, gives_up_at);
        if let Some(earlier) = self.recovery.take() {
            // What was not finished for it is done for both.
            recovery.add(&earlier.names);
        }
        let report = Report::happened(&recovery.names, epoch);
        self.recovery = Some(recovery);
        (self.steps, self.retry_after) = (0, RETRY.0);
        vec![Action::Report(report), Action::ResetFeeds, Action::Measure]
    }

    fn time_changed(&mut self) -> Vec<Action> {
        self.may_step |= self.settings.set_at_start;
        (self.steps, self.retry_after) = (0, RETRY.0);
        vec![Action::Measure]
    }

    fn measured(&mut self, measured: &Measured, now: Moment) -> Vec<Action> {
        self.retry_at = None;
        if measured.epoch.is_some() && self.epoch.is_some() && measured.epoch != self.epoch {
            // Something happened that we have not been told of yet: what was measured is not for this event.
            self.retry_at = now.checked_add(Duration::from_millis(1));
            return Vec::new();
        }
        let ahead = measured.ahead;
        if ahead.may_be_right() {
            return self.right(measured, now);
        }
        let threshold = if self.holds() { 0 } else { self.settings.step_threshold };
        let wanted = self.recovery.is_some() || self.may_step || self.settings.always || self.holds();
        if !ahead.certainly_off_by_more_than(threshold) {
            let mut actions = if wanted { vec![Action::Slew(-ahead.middle())] } else { Vec::new() };
            actions.extend(self.right(measured, now));
            return actions;
        }
        if !wanted {
            return Vec::new();
        }
        match self.refusal(ahead, measured.realtime.floor_nanos()) {
            Some(reason) => self.refuse(reason),
            None => self.step(ahead, now),
        }
    }

    /// Why the clock is not to be stepped.
    fn refusal(&self, ahead: Ahead, realtime: i128) -> Option<String> {
        let by = ahead.middle().saturating_neg();
        let limit = self.settings.max_step;
        if !self.settings.trust_any && by.saturating_abs() > limit {
            return Some(format!(
                "the source says that the clock is off by {} s, more than max_step ({} s): set it by hand, or \
                 trust = \"any\"",
                -by / 1_000_000_000,
                limit / 1_000_000_000,
            ));
        }
        let certain = self.certain.filter(|certain| realtime.saturating_add(by) < certain - LEAP_SECOND)?;
        (by < 0 && !self.settings.allow_backwards).then(|| {
            format!(
                "the source's time is {} ns before a time that had certainly passed: set it by hand, or \
                 allow_backwards = true",
                certain - realtime.saturating_add(by),
            )
        })
    }

    fn refuse(&mut self, reason: String) -> Vec<Action> {
        if self.refused.as_ref() == Some(&reason) {
            return Vec::new();
        }
        self.refused = Some(reason.clone());
        vec![Action::Report(Report::new(Level::Error, "step-refused", reason))]
    }

    fn step(&mut self, ahead: Ahead, now: Moment) -> Vec<Action> {
        self.steps += 1;
        if self.steps > STEPS {
            self.steps = 0;
            self.retry_later(now);
            let text = format!("stepped {STEPS} times, and the clock is still {ahead} ahead");
            return vec![Action::Report(Report::new(Level::Warning, "clock-unsteady", text))];
        }
        let by = -ahead.middle();
        vec![Action::Step(by), Action::Report(Report::stepped(by, ahead)), Action::Measure]
    }

    /// The clock may be right, or is as near as the settings want it.
    fn right(&mut self, measured: &Measured, now: Moment) -> Vec<Action> {
        let earliest = measured.realtime.floor_nanos().saturating_sub(measured.ahead.high);
        self.certain = Some(self.certain.map_or(earliest, |certain| certain.max(earliest)));
        (self.may_step, self.refused, self.retry_after) = (false, None, RETRY.0);
        let Some(recovery) = &mut self.recovery else { return Vec::new() };
        if recovery.clock == ClockState::Right {
            return Vec::new();
        }
        recovery.clock = ClockState::Right;
        let took = now.saturating_sub(recovery.since);
        let mut actions = vec![Action::Report(Report::clock_right(took, measured.ahead))];
        actions.extend(self.proceed());
        actions
    }

    fn retry_later(&mut self, now: Moment) {
        self.retry_at = now.checked_add(self.retry_after);
        self.retry_after = (self.retry_after * 2).min(RETRY.1);
    }

    /// What comes next, now that the clock is right or hooks have ended.
    fn proceed(&mut self) -> Vec<Action> {
        let Some(recovery) = &self.recovery else { return Vec::new() };
        match (recovery.clock, recovery.hooks) {
            (ClockState::Right, HookState::Waiting) => self.start_hooks(),
            (ClockState::Right, HookState::Succeeded) => self.complete(true),
            (ClockState::Right, HookState::Failed) if !self.holds() => self.complete(false),
            _ => Vec::new(),
        }
    }

    fn no_time(&mut self, reason: String, now: Moment) -> Vec<Action> {
        if self.recovery.is_some() || self.may_step {
            self.retry_later(now);
        }
        match &mut self.recovery {
            Some(recovery) if recovery.no_time.as_ref() != Some(&reason) => {
                recovery.no_time = Some(reason.clone());
                vec![Action::Report(Report::new(Level::Warning, "no-time", reason))]
            }
            _ => Vec::new(),
        }
    }

    fn run_hooks(&mut self, names: Vec<&'static str>) -> Action {
        self.last_run += 1;
        Action::RunHooks { run: self.last_run, names }
    }

    /// Runs the hooks of an announcement, as soon as those of an earlier one have ended: the newest is what counts.
    fn announce(&mut self, name: &'static str) -> Vec<Action> {
        if self.announcement_run.is_some() {
            self.announced = Some(name);
            return Vec::new();
        }
        let action = self.run_hooks(vec![name]);
        self.announcement_run = Some(self.last_run);
        vec![action]
    }

    /// Runs the hooks of the event that is being dealt with, as soon as those of an earlier one have ended.
    fn start_hooks(&mut self) -> Vec<Action> {
        let names = match &self.recovery {
            Some(recovery) if self.unfinished_run.is_none() => recovery.names.clone(),
            _ => return Vec::new(),
        };
        let action = self.run_hooks(names);
        self.unfinished_run = Some(self.last_run);
        if let Some(recovery) = &mut self.recovery {
            recovery.hooks = HookState::Run(self.last_run);
        }
        vec![action]
    }

    fn hooks_finished(&mut self, run: u64, succeeded: bool, now: Moment) -> Vec<Action> {
        if self.announcement_run == Some(run) {
            self.announcement_run = None;
            return self.announced.take().map_or_else(Vec::new, |name| self.announce(name));
        }
        if self.quiesce_run == Some(run) {
            self.quiesce_run = None;
        }
        if self.workload == (Workload::Quiescing { run }) {
            if !succeeded {
                self.workload = Workload::Runs;
                let reason = "a required hook of the event quiesce failed: the workload was not frozen".to_owned();
                return vec![Action::AnswerQuiesce(Err(reason))];
            }
            self.workload = Workload::Freezing { until: now + FREEZING };
            return vec![Action::Freeze];
        }
        if self.unfinished_run != Some(run) {
            return Vec::new();
        }
        self.unfinished_run = None;
        match &mut self.recovery {
            Some(recovery) if recovery.hooks == HookState::Run(run) => {
                recovery.hooks = if succeeded { HookState::Succeeded } else { HookState::Failed };
            }
            // Time is up for the clock: hooks that had to wait run without it.
            Some(Recovery { gives_up_at: None, hooks: HookState::Waiting, .. }) => return self.start_hooks(),
            _ => {}
        }
        self.proceed()
    }

    fn complete(&mut self, succeeded: bool) -> Vec<Action> {
        self.recovery = None;
        self.retry_at = None;
        let mut actions = self.thaw();
        actions.push(Action::Complete(self.epoch));
        if !succeeded {
            let text = "the machine goes on although something that is required failed".to_owned();
            actions.push(Action::Report(Report::new(Level::Error, "incomplete", text)));
        }
        actions.push(Action::Ready);
        actions
    }

    fn thaw(&mut self) -> Vec<Action> {
        if !self.holds() {
            return Vec::new();
        }
        let mut actions = vec![Action::Thaw];
        if matches!(self.workload, Workload::Freezing { .. }) {
            actions.push(Action::AnswerQuiesce(Err("the workload goes on: it was not frozen in time".to_owned())));
        }
        self.workload = Workload::Runs;
        actions.push(Action::Report(Report::new(Level::Info, "thawed", "the workload goes on".to_owned())));
        actions.push(self.run_hooks(vec!["thawed"]));
        actions
    }

    fn quiesce(&mut self) -> Vec<Action> {
        match self.workload {
            Workload::Runs if self.recovery.is_some() => {
                vec![Action::AnswerQuiesce(
                    Err("the machine is still recovering from the last event: try again".into()),
                )]
            }
            Workload::Runs if self.quiesce_run.is_some() => {
                let reason = "hooks of the event quiesce still run, of a snapshot that was called off: try again";
                vec![Action::AnswerQuiesce(Err(reason.to_owned()))]
            }
            Workload::Runs => {
                let hooks = self.run_hooks(vec!["quiesce"]);
                self.quiesce_run = Some(self.last_run);
                self.workload = Workload::Quiescing { run: self.last_run };
                vec![hooks]
            }
            Workload::Held { .. } => vec![Action::AnswerQuiesce(Ok(()))],
            // The first answer is for whoever asks now, too.
            Workload::Quiescing { .. } | Workload::Freezing { .. } => Vec::new(),
        }
    }

    fn frozen(&mut self, now: Moment) -> Vec<Action> {
        if !matches!(self.workload, Workload::Freezing { .. }) {
            return Vec::new();
        }
        self.workload = Workload::Held { until: now + self.settings.quiesce_timeout };
        let report = Report::new(Level::Info, "held", "the workload is frozen, a snapshot can be taken".to_owned());
        let mut actions = vec![Action::Report(report), Action::AnswerQuiesce(Ok(()))];
        // The event came first.
        if self.recovery.is_some() {
            actions.push(Action::Measure);
        }
        actions
    }

    fn thaw_by_hand(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        if matches!(self.workload, Workload::Quiescing { .. }) {
            actions.push(Action::AnswerQuiesce(Err("somebody asked for the workload to go on".to_owned())));
        }
        actions.extend(self.thaw());
        self.workload = Workload::Runs;
        actions.extend(self.proceed());
        actions
    }

    fn due(&mut self, now: Moment) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            actions.push(Action::Measure);
        }
        match self.workload {
            Workload::Freezing { until } if until <= now => {
                let text = format!("the workload's cgroups did not freeze within {} s", FREEZING.as_secs());
                actions.push(Action::Report(Report::new(Level::Error, "not-frozen", text)));
                actions.extend(self.thaw());
            }
            Workload::Held { until } if until <= now && self.recovery.is_none() => {
                let text = "no disruption or restore came after quiesce: no snapshot was taken".to_owned();
                actions.push(Action::Report(Report::new(Level::Warning, "hold-timeout", text)));
                actions.extend(self.thaw());
            }
            _ => {}
        }
        if self.recovery.as_ref().and_then(|recovery| recovery.gives_up_at).is_some_and(|at| at <= now) {
            actions.extend(self.give_up());
        }
        actions
    }

    /// The clock did not become right in time, or required hooks have failed or take too long.
    fn give_up(&mut self) -> Vec<Action> {
        let Some(recovery) = &mut self.recovery else { return Vec::new() };
        recovery.gives_up_at = None;
        let reason = match (&recovery.clock, &recovery.hooks) {
            (ClockState::Waiting, _) => {
                recovery.no_time.clone().or(self.refused.clone()).unwrap_or_else(|| "the clock is not right".into())
            }
            (_, HookState::Failed) => "a required hook failed".to_owned(),
            _ => "the hooks have not ended".to_owned(),
        };
        let holds = self.holds();
        if holds && self.settings.on_timeout == OnTimeout::Hold {
            let text =
                format!("{reason}; the workload stays frozen (on_timeout = \"hold\"): `vmclock-agent thaw` ends that");
            return vec![Action::Report(Report::new(Level::Error, "hold-timeout", text))];
        }
        let mut actions = vec![Action::Report(Report::new(Level::Error, "timeout", reason))];
        actions.extend(self.thaw());
        if self.recovery.as_ref().is_some_and(|recovery| recovery.hooks == HookState::Waiting) {
            // Hooks repair what they can without the time; the clock is set as soon as there is one.
            actions.extend(self.start_hooks());
        }
        actions.extend(self.proceed());
        actions
    }
}

/// What happened between two epochs.
fn names_between(before: Epoch, after: Epoch) -> Vec<&'static str> {
    let mut names = Vec::new();
    if before.generation != after.generation {
        names.push("restored");
    }
    if before.disruption_marker != after.disruption_marker {
        names.push("disrupted");
    }
    names
}

#[cfg(test)]
mod tests;
