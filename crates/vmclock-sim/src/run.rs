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
use crate::publisher::Driven;
use crate::spec::{Incident, WorldSpec, LATEST};
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
    let mut world = World::new(spec);
    let is_measured = wanted.measured != Measured::Nothing;
    world.statistics = is_measured.then(|| Statistics::new(wanted.measured == Measured::Points));
    world.trace = wanted.trace.then(VecDeque::new);
    Run {
        spec,
        network: is_measured.then(|| NetworkGuest::new(spec)),
        incidents: spec.incidents.iter().copied().collect(),
        publisher: Driven::new(&Rc::new(RefCell::new(world)), spec),
        oscillators: 1,
        chance: Chance::stream(spec.seed, "rounds", 0),
        rounds: 0,
        pause: 0,
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
            self.publisher.restart(self.pause);
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
            Incident::Sleep { length, stopped, jump } => {
                let mut world = self.publisher.world.borrow_mut();
                world.sleep(length, stopped, jump);
                if let Some(network) = &mut self.network {
                    network.resume(&world);
                    network.next_poll = world.now + SECOND;
                }
            }
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
            rounds: self.rounds,
            events,
            length: world.now,
            kept_a1: world.kept_a1,
            statistics: world.statistics.take(),
            trace: world.trace.take().unwrap_or_default(),
        }
    }
}
