// SPDX-License-Identifier: MIT OR Apache-2.0
//! One run of a world: time passes, the publisher does its rounds, and things happen to the host.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use vmclock_core::lifecycle::{self, Incoming};

use crate::chance::Chance;
use crate::counter::Counter;
use crate::judge::{Violation, Violations};
use crate::network_guest::NetworkGuest;
use crate::publisher::{Driven, Record};
use crate::spec::{Incident, Meanwhile, Stop, WorldSpec, LATEST};
use crate::statistics::Statistics;
use crate::units::{rounded, Nanos, SECOND};
use crate::world::{Caretaker, World};

/// What is wanted of a run besides the verdict.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Wanted {
    /// How good the time was.
    pub(crate) measured: Measured,
    /// What happened last.
    pub(crate) trace: bool,
    /// No more than the first violation.
    pub(crate) stop: bool,
}

/// What is measured of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Measured {
    #[default]
    Nothing,
    Statistics,
    /// Each reading as well, for a picture.
    Points,
}

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) violations: Violations,
    pub(crate) first: Option<Violation>,
    pub(crate) nested_misses: u64,
    pub(crate) readings: u64,
    pub(crate) without: u64,
    pub(crate) updates: u64,
    pub(crate) markers: u64,
    /// How many publishers continued with the marker of the one before, as they should.
    pub(crate) continued: u64,
    pub(crate) rounds: u64,
    /// What the publisher said, but for refreshed pages.
    pub(crate) events: u64,
    /// How long it was simulated.
    pub(crate) length: Nanos,
    /// Whether fewer than half of the clocks were wrong at any time.
    pub(crate) kept_a1: bool,
    pub(crate) statistics: Option<Statistics>,
    pub(crate) trace: VecDeque<String>,
}

/// Runs a world.
pub(crate) fn run(spec: &WorldSpec, wanted: Wanted) -> Verdict {
    recorded_run(spec, wanted, None)
}

/// The same, in which the publishers' decisions are recorded.
fn recorded_run(spec: &WorldSpec, wanted: Wanted, record: Option<Record>) -> Verdict {
    let mut world = World::new(spec);
    let is_measured = wanted.measured != Measured::Nothing;
    world.statistics = is_measured.then(|| Statistics::new(wanted.measured == Measured::Points));
    world.trace = wanted.trace.then(VecDeque::new);
    Run {
        spec,
        network: is_measured.then(|| NetworkGuest::new(spec)),
        incidents: spec.incidents.iter().copied().collect(),
        publisher: Driven::new(&Rc::new(RefCell::new(world)), spec, record),
        oscillators: 1,
        chance: Chance::stream(spec.seed, "rounds", 0),
        rounds: 0,
        pause: 0,
        meanwhile: None,
    }
    .whole(wanted.stop)
}

struct Run<'s> {
    spec: &'s WorldSpec,
    publisher: Driven<'s>,
    network: Option<NetworkGuest>,
    incidents: VecDeque<(Nanos, Incident)>,
    /// How many oscillators there were.
    oscillators: usize,
    chance: Chance,
    rounds: u64,
    /// When a publisher that is killed in an update is followed by another one.
    pause: Nanos,
    /// What happens until then, where its state is kept.
    meanwhile: Option<Meanwhile>,
}

impl Run<'_> {
    fn whole(mut self, stop: bool) -> Verdict {
        let refresh = self.spec.publisher.refresh;
        let mut due = 0;
        while self.now() < self.spec.length {
            let late = if self.chance.happens(self.spec.late) { self.chance.between(0, LATEST) } else { 0 };
            self.wait(due + late);
            self.incident();
            self.round();
            due = self.now() + rounded(refresh as f64 * (0.95 + 0.1 * self.chance.unit()));
            if stop && self.publisher.world.borrow().judge.first.is_some() {
                break;
            }
        }
        self.verdict()
    }

    fn now(&self) -> Nanos {
        self.publisher.world.borrow().now
    }

    /// Lets time pass until an instant.
    fn wait(&mut self, until: Nanos) {
        let mut world = self.publisher.world.borrow_mut();
        let reads = self.spec.reads;
        if let Some(network) = &mut self.network {
            while network.next_poll < until {
                let poll = network.next_poll;
                world.pass(poll, 0);
                network.poll(&mut world);
            }
            world.pass(until, reads);
            network.read(&mut world);
        } else {
            world.pass(until, reads);
        }
    }

    /// A round of the publisher.
    fn round(&mut self) {
        self.rounds += 1;
        self.publisher.start_round();
        {
            let mut world = self.publisher.world.borrow_mut();
            let until = world.all_ready().min(world.now + self.spec.publisher.deadline);
            world.pass(until, 0);
        }
        self.publisher.finish_round();
        if self.publisher.world.borrow().caretaker == Caretaker::Killed {
            match self.meanwhile.take() {
                Some(meanwhile) => self.publisher.continue_after(self.pause, meanwhile),
                None => self.publisher.restart(self.pause),
            }
        }
    }

    /// What happens to the host.
    fn incident(&mut self) {
        let now = self.now();
        let Some((_, incident)) = self.incidents.front().copied().filter(|incident| incident.0 <= now) else { return };
        self.incidents.pop_front();
        self.publisher.world.borrow_mut().note(&format!("{incident:?}"));
        match incident {
            Incident::Restart(pause) => {
                self.publisher.give_up();
                self.publisher.restart(pause);
            }
            Incident::Kill { mid_update: true, pause } => {
                self.pause = pause;
                self.publisher.world.borrow_mut().caretaker = Caretaker::Doomed;
            }
            Incident::Kill { mid_update: false, pause } => self.publisher.restart(pause),
            Incident::Continue { stop: Stop::Planned, pause, meanwhile } => {
                self.publisher.leave();
                self.publisher.continue_after(pause, meanwhile);
            }
            Incident::Continue { stop: Stop::Killed, pause, meanwhile } => {
                self.publisher.continue_after(pause, meanwhile);
            }
            Incident::Continue { stop, pause, meanwhile } => {
                (self.pause, self.meanwhile) = (pause, Some(meanwhile));
                let caretaker = if stop == Stop::Saved { Caretaker::Saving } else { Caretaker::Doomed };
                self.publisher.world.borrow_mut().caretaker = caretaker;
            }
            Incident::Sleep { length, stopped, jump } => {
                let mut world = self.publisher.world.borrow_mut();
                world.sleep(length, stopped, jump);
                if let Some(network) = &mut self.network {
                    network.resume(&world);
                    network.next_poll = world.now + SECOND;
                }
            }
            Incident::Distrust(length) => self.publisher.world.borrow_mut().distrust(length),
            Incident::Migrate => self.migrate(),
        }
    }

    /// The guest continues on another host, with the same memory.
    fn migrate(&mut self) {
        {
            let mut world = self.publisher.world.borrow_mut();
            let marker = world.fresh_identity();
            world.is_paused = true;
            let now = world.now;
            let guest = world.counter.at(now).wrapping_add(world.guest_offset);
            let mut oscillator = self.spec.oscillator.clone();
            let mut chance = Chance::stream(self.spec.seed, "hosts", self.oscillators);
            oscillator.start = chance.seed();
            oscillator.hertz *= 1.0 + 100e-6 * chance.signed_unit();
            oscillator.changes.clear();
            world.counter =
                Counter::since(now, &oscillator, Chance::stream(self.spec.seed, "oscillator", self.oscillators));
            self.oscillators += 1;
            let downtime = chance.between(SECOND / 100, SECOND);
            world.pass(now + downtime, 0);
            world.guest_offset = guest.wrapping_sub(world.counter.at(world.now));
            drop(world);
            self.publisher.arrive(move |page| lifecycle::incoming(page, Incoming::Migration, marker));
        }
        let mut world = self.publisher.world.borrow_mut();
        world.is_paused = false;
        if let Some(network) = &mut self.network {
            network.resume(&world);
        }
        world.read();
    }

    fn verdict(self) -> Verdict {
        let events = self.publisher.events;
        let mut world = self.publisher.world.borrow_mut();
        Verdict {
            violations: world.judge.violations,
            first: world.judge.first.take(),
            nested_misses: world.judge.nested_misses,
            readings: world.judge.readings,
            without: world.judge.without,
            updates: world.judge.updates,
            markers: world.judge.markers,
            continued: world.kept.continued,
            rounds: self.rounds,
            events,
            length: world.now,
            kept_a1: world.kept_a1,
            statistics: world.statistics.take(),
            trace: world.trace.take().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Episode, Falsehood};
    use crate::counter::Change;
    use crate::scenario::SCENARIOS;
    use crate::spec::Reach;
    use crate::units::{DAY, HOUR, MILLI, MINUTE};

    fn world(name: &str, length: Nanos) -> WorldSpec {
        let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name).expect("a scenario");
        scenario.world(1, length)
    }

    fn traced(world: &WorldSpec) -> Verdict {
        run(world, Wanted { trace: true, ..Wanted::default() })
    }

    fn has(verdict: &Verdict, words: &str) -> bool {
        verdict.trace.iter().any(|line| line.contains(words))
    }

    #[test]
    fn a_falseticker_is_named_and_a_clock_that_is_read_twice_too() {
        let verdict = traced(&world("falseticker-synchronized", 3 * MINUTE));
        assert!(has(&verdict, "source 3 is a falseticker"), "{:#?}", verdict.trace);
        let verdict = traced(&world("same-clock-twice", MINUTE));
        assert!(has(&verdict, "source 0 and source 1 read one clock"), "{:#?}", verdict.trace);
    }

    #[test]
    fn a_source_that_answers_now_and_then_is_reported_once() {
        let mut world = world("falseticker", HOUR);
        let refresh = world.publisher.refresh;
        world.publisher.source_timeout = refresh / 2;
        for source in &mut world.sources {
            (source.reach, source.lost) = (Reach::Always, 0.0);
        }
        world.sources[0].reach = Reach::Windows { period: 2 * refresh, open: refresh };
        let falsehood = Falsehood::Constant(SECOND);
        world.episodes = vec![Episode { clock: 0, from: 0, until: 2 * HOUR, falsehood }];
        let verdict = run(&world, Wanted::default());
        assert_eq!(verdict.violations.total(), 0, "{:?}", verdict.first);
        assert!(verdict.events < 12, "{}", verdict.events);
    }

    #[test]
    fn two_clocks_of_which_one_is_wrong_give_no_time_and_are_reported_once() {
        let mut world = world("two-servers", HOUR);
        let falsehood = Falsehood::Constant(SECOND);
        world.episodes = vec![Episode { clock: 0, from: MINUTE, until: HOUR, falsehood }];
        let verdict = run(&world, Wanted::default());
        assert_eq!(verdict.violations.total(), 0, "{:?}", verdict.first);
        assert!(verdict.without * 10 > verdict.readings * 8, "{} of {}", verdict.without, verdict.readings);
        assert!(verdict.events < 60, "{}", verdict.events);
    }

    #[test]
    fn whatever_a_publisher_decided_it_decides_again() {
        for scenario in &SCENARIOS {
            // To the month's end, where there is a leap second.
            let length = if (2.0..5.0).contains(&scenario.longest) { 5 * DAY / 2 } else { 4 * HOUR };
            let record = Record::default();
            recorded_run(&scenario.world(3, length), Wanted::default(), Some(record.clone()));
            let mut measurements = 0;
            for trace in record.traces() {
                let replay = vmclock_host::trace::replay(&trace[..], |_| ()).expect("a trace");
                assert_eq!(replay.different, 0, "{}: {replay:?}", scenario.name);
                measurements += replay.measurements;
            }
            assert!(measurements > 100, "{}: {measurements}", scenario.name);
        }
    }

    #[test]
    fn publishers_continue_with_the_same_marker_where_the_counter_went_on_and_only_there() {
        for name in ["planned-restarts", "killed-restarts"] {
            let mut world = world(name, 40 * HOUR);
            let restarts = world.incidents.len() as u64;
            let verdict = traced(&world);
            assert_eq!(verdict.violations.total(), 0, "{name}: {:?}: {:#?}", verdict.first, verdict.trace);
            assert!(
                verdict.continued * 2 > restarts && verdict.continued < restarts,
                "{} of {restarts}",
                verdict.continued
            );
            for (_, incident) in &mut world.incidents {
                let Incident::Continue { meanwhile, .. } = incident else { panic!("{incident:?}") };
                *meanwhile = Meanwhile::Nothing;
            }
            let verdict = run(&world, Wanted::default());
            assert_eq!(verdict.violations.total(), 0, "{name}: {:?}", verdict.first);
            assert_eq!((verdict.continued, verdict.markers), (restarts, 1), "{name}");
        }
    }

    #[test]
    fn a_world_that_breaks_a1_is_found_out() {
        let mut world = world("ptp", 10 * MINUTE);
        let falsehood = Falsehood::Constant(MILLI);
        world.episodes = vec![Episode { clock: 0, from: 5 * MINUTE, until: HOUR, falsehood }];
        assert!(!run(&world, Wanted::default()).kept_a1);
    }

    #[test]
    fn a_band_that_is_wider_than_assumed_is_found_out() {
        let mut world = world("ptp", HOUR);
        world.publisher.refresh = 16 * SECOND;
        // Three times as far, every minute, and nobody is excused.
        world.oscillator.band *= 3;
        world.oscillator.wander = crate::counter::Wander::Square { high: MINUTE, low: MINUTE };
        let verdict = run(&world, Wanted::default());
        assert!(verdict.violations.of(crate::judge::Rule::Bounds) > 0, "{:?}", verdict.violations);
    }

    #[test]
    fn a_jump_is_excused_only_until_it_shows() {
        let mut world = world("ptp", HOUR);
        world.oscillator.changes = vec![(30 * MINUTE, Change::Jump(5 * MILLI))];
        let verdict = traced(&world);
        assert_eq!(verdict.violations.total(), 0, "{:?}", verdict.first);
        assert_eq!(verdict.markers, 2, "the first, and another one");
        assert!(verdict.without > 100);
    }
}
