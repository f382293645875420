// SPDX-License-Identifier: MIT OR Apache-2.0
//! A policy in a machine whose clock, hooks and host are simulated.

use proptest::prelude::*;
use vmclock_core::leap::LeapStatus;
use vmclock_core::time::Time;

use super::*;

const SECOND: i128 = 1_000_000_000;
const HOUR: i128 = 3_600 * SECOND;
/// 2026-11-25 in nanoseconds of UTC.
const TRUTH: i128 = 1_795_000_000 * SECOND;

/// A machine that does what the policy says.
struct Machine {
    policy: Policy,
    now: Moment,
    /// By how much the clock is ahead, and what the source says of that.
    ahead: i128,
    source: Result<i128, &'static str>,
    max_error: i128,
    epoch: u64,
    frozen: bool,
    /// Runs of hooks that have not ended.
    running: Vec<(u64, Vec<&'static str>)>,
    completed: Vec<Option<Epoch>>,
    ready: u32,
    answers: Vec<Result<(), String>>,
    reports: Vec<Report>,
    steps: Vec<i128>,
    slews: Vec<i128>,
}

fn epoch(number: u64) -> Epoch {
    Epoch { disruption_marker: number, generation: Some(number) }
}

impl Machine {
    fn new(settings: Settings) -> Self {
        let mut machine = Self {
            policy: Policy::new(settings),
            now: Duration::from_secs(1_000),
            ahead: 0,
            source: Ok(0),
            max_error: 1_000,
            epoch: 1,
            frozen: false,
            running: Vec::new(),
            completed: Vec::new(),
            ready: 0,
            answers: Vec::new(),
            reports: Vec::new(),
            steps: Vec::new(),
            slews: Vec::new(),
        };
        machine.give(Input::Started { epoch: Some(epoch(1)), completed: None, frozen: false });
        machine
    }

    fn give(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            for action in self.policy.on(input, self.now) {
                inputs.extend(self.act(action));
            }
        }
    }

    fn act(&mut self, action: Action) -> Option<Input> {
        match action {
            Action::Measure => return Some(Input::Measured(self.measure())),
            Action::Step(by) => {
                self.ahead += by;
                self.steps.push(by);
            }
            Action::Slew(by) => self.slews.push(by),
            Action::RunHooks { run, names } => self.running.push((run, names)),
            Action::Freeze => {
                self.frozen = true;
                return Some(Input::Frozen);
            }
            Action::Thaw => self.frozen = false,
            Action::Complete(epoch) => self.completed.push(epoch),
            Action::Ready => self.ready += 1,
            Action::AnswerQuiesce(answer) => self.answers.push(answer),
            Action::Report(report) => self.reports.push(report),
            Action::ResetFeeds => {}
        }
        None
    }

    fn measure(&self) -> Result<Measured, String> {
        // The source may be wrong, too, by as much as it says.
        let error = self.source?;
        let seen = self.ahead - error;
        Ok(Measured {
            ahead: Ahead { low: seen - self.max_error, high: seen + self.max_error },
            realtime: Time::from_nanos(TRUTH + self.ahead).expect("in range"),
            max_error: u64::try_from(self.max_error).expect("positive"),
            estimated_error: 0,
            synchronized: true,
            leap: LeapStatus::UNKNOWN,
            epoch: Some(epoch(self.epoch)),
        })
    }

    /// It was paused for so long, and restored.
    fn restore(&mut self, lost: i128) {
        self.epoch += 1;
        self.ahead -= lost;
        self.give(Input::Happened { names: vec!["disrupted", "restored"], epoch: Some(epoch(self.epoch)) });
    }

    fn end_hooks(&mut self, succeeded: bool) {
        for (run, _) in std::mem::take(&mut self.running) {
            self.give(Input::HooksFinished { run, succeeded });
        }
    }

    fn quiesce(&mut self) {
        self.give(Input::Quiesce);
        self.end_hooks(true);
        assert!(self.frozen && self.answers.last() == Some(&Ok(())), "{:?}", self.answers);
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.policy.deadline().filter(|at| *at <= end) {
            assert!(at >= self.now, "in the past");
            self.now = at.max(self.now + Duration::from_nanos(1));
            self.give(Input::Due);
        }
        self.now = end;
    }

    fn has_reported(&self, name: &str) -> bool {
        self.reports.iter().any(|report| report.name == name)
    }
}

#[test]
fn a_restored_machine_has_its_clock_stepped_before_its_hooks_run() {
    let mut machine = Machine::new(Settings::default());
    machine.restore(2 * HOUR);
    assert_eq!(machine.steps, [2 * HOUR]);
    assert_eq!(machine.ahead, 0);
    assert_eq!(machine.running, [(1, vec!["restored", "disrupted"])]);
    assert!(machine.completed.is_empty() && machine.ready == 0, "the hooks run");
    machine.end_hooks(true);
    assert_eq!(machine.completed, [Some(epoch(2))]);
    assert_eq!(machine.ready, 1);
    assert!(machine.has_reported("clock-right"));
}

#[test]
fn what_is_little_is_slewed_and_what_may_be_nothing_is_left() {
    let mut machine = Machine::new(Settings::default());
    machine.restore(5_000_000);
    assert_eq!((&machine.steps[..], &machine.slews[..]), (&[][..], &[5_000_000][..]));
    machine.end_hooks(true);
    let mut machine = Machine::new(Settings::default());
    machine.restore(900);
    assert_eq!((&machine.steps[..], &machine.slews[..]), (&[][..], &[][..]), "within the bounds");
    // Just beyond the threshold is not certainly beyond it.
    let mut machine = Machine::new(Settings::default());
    machine.restore(10_000_500);
    assert_eq!(machine.steps, []);
}

#[test]
fn a_held_workload_waits_for_clock_and_hooks() {
    let mut machine = Machine::new(Settings::default());
    machine.quiesce();
    machine.source = Err("initializing");
    machine.restore(HOUR);
    machine.wait(Duration::from_secs(5));
    assert!(machine.frozen && machine.running.is_empty() && machine.has_reported("no-time"));
    machine.source = Ok(0);
    machine.give(Input::TimeChanged);
    assert!(machine.frozen, "the hooks run");
    assert_eq!(machine.ahead, 0);
    machine.end_hooks(true);
    assert!(!machine.frozen);
    assert_eq!(machine.ready, 1);
    assert!(machine.running.iter().any(|(_, names)| names == &["thawed"]));
}

#[test]
fn a_held_workload_has_its_clock_stepped_however_little_it_is_off() {
    let mut machine = Machine::new(Settings::default());
    machine.quiesce();
    machine.restore(50_000);
    assert_eq!((machine.ahead, &machine.steps[..]), (0, &[50_000][..]));
}

#[test]
fn a_failed_hook_keeps_the_workload_held_until_time_is_up() {
    for (on_timeout, frozen) in [(OnTimeout::Thaw, false), (OnTimeout::Hold, true)] {
        let mut machine = Machine::new(Settings { on_timeout, ..Settings::default() });
        machine.quiesce();
        machine.restore(HOUR);
        machine.end_hooks(false);
        machine.wait(Duration::from_secs(59));
        assert!(machine.frozen && machine.completed.is_empty());
        machine.wait(Duration::from_secs(2));
        assert_eq!((machine.frozen, machine.completed.is_empty()), (frozen, frozen));
        assert!(machine.reports.iter().any(|report| report.text.to_string().contains("a required hook failed")));
        if frozen {
            machine.give(Input::Thaw);
            assert!(!machine.frozen && machine.completed == [Some(epoch(2))]);
        }
    }
}

#[test]
fn a_snapshot_that_never_comes_does_not_hold_the_workload_for_ever() {
    let mut machine = Machine::new(Settings::default());
    machine.quiesce();
    machine.wait(Duration::from_secs(61));
    assert!(!machine.frozen && machine.has_reported("hold-timeout"));
    // It can be asked for again.
    machine.quiesce();
}

#[test]
fn a_failed_hook_before_a_snapshot_prevents_the_hold() {
    let mut machine = Machine::new(Settings::default());
    machine.give(Input::Quiesce);
    machine.end_hooks(false);
    assert!(!machine.frozen);
    assert!(machine.answers[0].as_ref().is_err_and(|error| error.contains("quiesce")), "{:?}", machine.answers);
}

#[test]
fn a_source_that_lies_can_do_no_more_than_max_step() {
    for lie in [367 * 24 * HOUR, -367 * 24 * HOUR, 100 * 366 * 24 * HOUR] {
        let mut machine = Machine::new(Settings::default());
        machine.source = Ok(lie);
        machine.restore(0);
        machine.wait(Duration::from_secs(300));
        assert_eq!(machine.steps, [], "{lie}");
        assert!(machine.has_reported("step-refused"));
        let refusals = machine.reports.iter().filter(|report| report.name == "step-refused").count();
        assert_eq!(refusals, 1, "said once");
        let mut trusting = Machine::new(Settings { trust_any: true, allow_backwards: true, ..Settings::default() });
        trusting.source = Ok(lie);
        trusting.restore(0);
        assert_eq!(trusting.steps, [lie]);
    }
}

#[test]
fn the_clock_is_not_set_back_before_a_time_that_had_certainly_passed() {
    let mut machine = Machine::new(Settings::default());
    // The clock was ahead by an hour from the start; that is set back, as nothing is known of it.
    let mut wrong = Machine::new(Settings::default());
    wrong.ahead = HOUR;
    wrong.give(Input::TimeChanged);
    assert_eq!(wrong.steps, [-HOUR]);
    // What was right cannot become an hour too late by itself.
    machine.source = Ok(-HOUR);
    machine.restore(0);
    assert_eq!(machine.steps, []);
    assert!(machine.has_reported("step-refused"));
    // A leap second is as far as UTC goes back.
    let mut leap = Machine::new(Settings::default());
    leap.source = Ok(-SECOND);
    leap.restore(0);
    assert_eq!(leap.steps, [-SECOND]);
}

#[test]
fn without_an_event_the_clock_is_left_alone() {
    let mut machine = Machine::new(Settings { set_at_start: false, ..Settings::default() });
    machine.ahead = -HOUR;
    machine.give(Input::TimeChanged);
    machine.wait(Duration::from_secs(1_000));
    assert_eq!(machine.steps, []);
}

#[test]
fn what_happened_while_the_agent_was_down_is_dealt_with_when_it_starts() {
    let mut machine = Machine::new(Settings { set_at_start: false, ..Settings::default() });
    machine.ahead = -HOUR;
    machine.frozen = true;
    machine.give(Input::Started { epoch: Some(epoch(1)), completed: Some(epoch(0)), frozen: true });
    assert_eq!(machine.ahead, 0);
    assert!(machine.frozen);
    machine.end_hooks(true);
    assert!(!machine.frozen && machine.completed == [Some(epoch(1))]);
}

#[test]
fn what_happened_while_there_was_no_page_is_dealt_with_when_it_is_back() {
    let mut machine = Machine::new(Settings::default());
    machine.epoch = 2;
    machine.ahead = -HOUR;
    machine.give(Input::Reopened(Some(epoch(2))));
    assert_eq!((machine.ahead, machine.running.len()), (0, 1));
    machine.end_hooks(true);
    machine.give(Input::Reopened(Some(epoch(2))));
    assert_eq!((machine.running.len(), machine.ready), (0, 1), "nothing is new");
}

#[test]
fn a_second_restore_during_the_first_is_dealt_with_for_both() {
    let mut machine = Machine::new(Settings::default());
    machine.quiesce();
    machine.restore(HOUR);
    let first = std::mem::take(&mut machine.running);
    machine.restore(HOUR);
    // The first run's end says nothing of the second restore.
    machine.give(Input::HooksFinished { run: first[0].0, succeeded: true });
    assert!(machine.frozen && machine.completed.is_empty());
    machine.end_hooks(true);
    assert!(!machine.frozen && machine.completed == [Some(epoch(3))] && machine.ahead == 0);
}

#[test]
fn a_hundred_restores_while_hooks_run_have_one_more_run_and_the_last_is_not_lost() {
    let mut machine = Machine::new(Settings::default());
    machine.restore(HOUR);
    for _ in 0..100 {
        machine.restore(HOUR);
    }
    assert_eq!(machine.running.len(), 1, "the others wait");
    machine.end_hooks(true);
    assert_eq!((machine.running.len(), machine.ready), (1, 0), "a run for all others");
    machine.end_hooks(true);
    assert_eq!((machine.running.len(), machine.ready), (0, 1));
    assert_eq!(machine.completed.last(), Some(&Some(epoch(102))));
    assert_eq!(machine.ahead, 0);
}

#[test]
fn a_host_that_announces_all_the_time_keeps_no_restore_from_its_hooks() {
    let mut machine = Machine::new(Settings::default());
    let announce = |machine: &mut Machine| {
        for name in ["maintenance-soon", "maintenance-imminent", "maintenance-cleared"] {
            machine.give(Input::Announced(name));
        }
    };
    for _ in 0..1_000 {
        announce(&mut machine);
    }
    machine.restore(HOUR);
    announce(&mut machine);
    let names: Vec<_> = machine.running.iter().map(|(_, names)| names.join(" ")).collect();
    assert_eq!(names, ["maintenance-soon", "restored disrupted"], "they hang");
    machine.end_hooks(true);
    assert_eq!((machine.ready, machine.completed.last()), (1, Some(&Some(epoch(2)))));
    let names: Vec<_> = machine.running.iter().map(|(_, names)| names.join(" ")).collect();
    assert_eq!(names, ["maintenance-cleared"], "what was announced last is not lost");
    machine.end_hooks(true);
    assert!(machine.running.is_empty());
}

#[test]
fn snapshots_that_are_called_off_leave_no_more_than_one_run_behind() {
    let mut machine = Machine::new(Settings::default());
    for _ in 0..100 {
        machine.give(Input::Quiesce);
        machine.give(Input::Thaw);
    }
    assert_eq!(machine.running.len(), 1);
    machine.end_hooks(true);
    assert!(!machine.frozen);
    machine.quiesce();
    assert!(machine.frozen);
}

#[test]
fn a_clock_that_cannot_be_set_is_reported_and_tried_again() {
    let mut machine = Machine::new(Settings::default());
    machine.restore(0);
    machine.give(Input::ClockFailed("permission denied".to_owned()));
    assert!(machine.policy.deadline().is_some());
}

/// What may happen to a machine.
#[derive(Clone, Debug)]
enum Step {
    Restore { lost: i64 },
    Quiesce,
    Thaw,
    HooksEnd { succeeded: bool },
    Source { time: bool },
    Wait { millis: u32 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..1_000_000_000_000_i64).prop_map(|lost| Step::Restore { lost }),
        4 => Just(Step::Quiesce),
        1 => Just(Step::Thaw),
        6 => any::<bool>().prop_map(|succeeded| Step::HooksEnd { succeeded }),
        3 => any::<bool>().prop_map(|time| Step::Source { time }),
        3 => (0..100_000_u32).prop_map(|millis| Step::Wait { millis }),
    ]
}

proptest! {
    /// The promise: a workload that is held with `on_timeout = "hold"` is thawed only with a right clock, unless
    /// somebody asks for it or no snapshot was taken; and nothing is waited for without a deadline or an answer.
    #[test]
    fn a_held_workload_never_sees_a_wrong_time(steps in prop::collection::vec(step(), 1..60)) {
        let mut machine = Machine::new(Settings::default());
        for step in steps {
            let was_frozen = machine.frozen;
            let mut by_hand = false;
            match step {
                Step::Restore { lost } => machine.restore(lost.into()),
                Step::Quiesce => machine.give(Input::Quiesce),
                Step::Thaw => {
                    by_hand = true;
                    machine.give(Input::Thaw);
                }
                Step::HooksEnd { succeeded } => machine.end_hooks(succeeded),
                Step::Source { time } => {
                    machine.source = if time { Ok(0) } else { Err("no time") };
                    machine.give(Input::TimeChanged);
                }
                Step::Wait { millis } => machine.wait(Duration::from_millis(millis.into())),
            }
            if was_frozen && !machine.frozen && !by_hand {
                prop_assert!(machine.ahead.abs() <= machine.max_error, "{} ns", machine.ahead);
            }
            prop_assert_eq!(machine.frozen, machine.policy.holds());
        }
        // In the end, with time and hooks that succeed, all is done.
        machine.source = Ok(0);
        machine.give(Input::TimeChanged);
        while !machine.running.is_empty() {
            machine.end_hooks(true);
        }
        machine.wait(Duration::from_secs(200));
        while !machine.running.is_empty() {
            machine.end_hooks(true);
        }
        prop_assert!(!machine.policy.recovers() || machine.frozen, "recovers without an end");
        prop_assert!(machine.completed.last().is_none_or(|last| *last == Some(epoch(machine.epoch)) || machine.frozen));
    }
}
