// SPDX-License-Identifier: MIT OR Apache-2.0
//! The real publisher in a simulated world: how it starts, does its rounds, and ends.

use std::cell::RefCell;
use std::io::{self, Write};
use std::rc::Rc;

use vmclock_core::abi::Snapshot;
use vmclock_core::guest_counter::GuestCounter;
use vmclock_host::continuity::longest_gap;
use vmclock_host::estimator::Settings;
use vmclock_host::event::Event;
use vmclock_host::publisher::{Plan, Prepared, PublishError, Publisher};
use vmclock_host::source::Source;
use vmclock_host::world::StateStore;

use crate::judge::Rule;
use crate::machine::{KeptState, Machine, MemoryPage};
use crate::source::SimulatedSource;
use crate::spec::{Meanwhile, PublisherSpec, WorldSpec};
use crate::units::{Nanos, MINUTE, PPM, SECOND};
use crate::world::{Caretaker, World};

/// The least wander that is assumed where it is measured, in parts per 10^12.
const LEAST_WANDER: u64 = PPM as u64;

/// Nobody wants to read the same in so many rounds in a row.
const REPEATED: u32 = 20;

/// The traces of publishers, one after the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record(Rc<RefCell<Vec<Vec<u8>>>>);

impl Record {
    /// The traces.
    #[cfg(test)]
    pub(crate) fn traces(&self) -> Vec<Vec<u8>> {
        self.0.borrow().clone()
    }

    /// The next trace begins.
    fn begin(&self) {
        self.0.borrow_mut().push(Vec::new());
    }
}

impl Write for Record {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(trace) = self.0.borrow_mut().last_mut() {
            trace.extend(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The publisher of a world, or none for a while.
pub(crate) struct Driven<'s> {
    pub(crate) world: Rc<RefCell<World>>,
    spec: &'s WorldSpec,
    publisher: Option<Publisher<Machine, MemoryPage>>,
    /// How many publishers there were.
    epoch: usize,
    /// Where their decisions are recorded, where anybody wants them.
    recorded: Option<Record>,
    /// What they said, but for refreshed pages.
    pub(crate) events: u64,
    /// What was said in the last round, and in how many in a row, but for sources that can be reached or not.
    repeated: Vec<(&'static str, u32)>,
}

impl<'s> Driven<'s> {
    /// The first publisher of a world.
    pub(crate) fn new(world: &Rc<RefCell<World>>, spec: &'s WorldSpec, recorded: Option<Record>) -> Self {
        let world = Rc::clone(world);
        let mut driven = Self { world, spec, publisher: None, epoch: 0, recorded, events: 0, repeated: Vec::new() };
        driven.start();
        driven
    }

    fn start(&mut self) {
        self.world.borrow_mut().ledger.starts();
        let source = |(number, source)| {
            Box::new(SimulatedSource::new(&self.world, number, source, self.epoch)) as Box<dyn Source>
        };
        let sources = self.spec.sources.iter().enumerate().map(source).collect();
        let mut plan = Plan::default();
        (plan.settings, plan.sources) = (settings(&self.spec.publisher), sources);
        if let Some(record) = &self.recorded {
            record.begin();
            plan.trace = Some(Box::new(record.clone()));
        }
        let kept = || Box::new(KeptState(Rc::clone(&self.world))) as Box<dyn StateStore>;
        plan.state = self.spec.keeps_state().then(kept);
        let started = Prepared::new(Machine(Rc::clone(&self.world)), plan).and_then(|prepared| {
            let (page, found) = MemoryPage::open(&self.world, prepared.blank());
            prepared.on(page, found, "the page")
        });
        self.epoch += 1;
        let started = started.map(|(publisher, events)| {
            self.publisher = Some(publisher);
            let mut world = self.world.borrow_mut();
            // One that continues is excused no longer than the one before; and what that one said stays until a round.
            let continues = events.iter().any(|event| matches!(event, Event::Continued { .. }));
            if !continues {
                world.ledger.started();
            }
            (world.caretaker, world.kept.is_waiting) = (Caretaker::Alive, continues);
            events
        });
        self.report(started);
        let offset = self.world.borrow().guest_offset;
        if let Some(publisher) = self.publisher.as_mut().filter(|_| offset != 0) {
            publisher.set_guest_counter(Some(GuestCounter::exact(offset, None)));
        }
    }

    /// All sources begin to measure.
    pub(crate) fn start_round(&mut self) {
        if let Some(publisher) = &mut self.publisher {
            publisher.start_round();
        }
    }

    /// What follows from what the sources have given so far.
    pub(crate) fn finish_round(&mut self) {
        let Some(publisher) = &mut self.publisher else { return };
        // What is there is taken now, as a publisher does that waits for its sources.
        publisher.is_round_complete();
        let notice = self.world.borrow().notice();
        let finished = publisher.finish_round();
        {
            let mut world = self.world.borrow_mut();
            world.kept.is_waiting = false;
            if world.caretaker != Caretaker::Killed {
                world.concluded(notice);
            }
        }
        self.report(finished);
    }

    /// It stops in order.
    pub(crate) fn give_up(&mut self) {
        if let Some(publisher) = &mut self.publisher {
            self.world.borrow_mut().caretaker = Caretaker::Gone;
            publisher.give_up();
        }
    }

    /// It stops, and leaves the page to the next one.
    pub(crate) fn leave(&mut self) {
        if let Some(publisher) = &mut self.publisher {
            self.world.borrow_mut().caretaker = Caretaker::Gone;
            publisher.leave();
        }
    }

    /// It is gone, and another one starts after a pause.
    pub(crate) fn restart(&mut self, pause: Nanos) {
        self.publisher = None;
        self.pass(pause);
        self.start();
    }

    fn pass(&mut self, pause: Nanos) {
        let mut world = self.world.borrow_mut();
        let now = world.now;
        world.caretaker = Caretaker::Gone;
        world.pass(now + pause, self.spec.reads);
    }

    /// It is gone, and another one finds what it saved, after what happened meanwhile.
    pub(crate) fn continue_after(&mut self, pause: Nanos, meanwhile: Meanwhile) {
        self.publisher = None;
        let before = *self.world.borrow().judge.snapshot();
        let epoch = self.epoch();
        self.pass(pause / 2);
        self.happen(meanwhile);
        self.pass(pause / 2);
        let (age, marker, is_watched) = {
            let world = self.world.borrow();
            let is_trusted = world.kept.was_trusted && world.is_trusted();
            (world.age_of_state(), world.saved_marker(), world.kept.saves > 1 && is_trusted)
        };
        self.start();
        // What else happened to the counter may be noticed or not.
        let is_watched = is_watched && self.epoch() == epoch;
        let mut world = self.world.borrow_mut();
        let longest = i128::from(longest_gap(self.spec.publisher.drift));
        let is_changed = world.judge.snapshot().disruption_marker != before.disruption_marker;
        // A jump shows later, or at once where the counter is behind.
        let is_clear =
            meanwhile == Meanwhile::Nothing && is_watched && age.is_some_and(|age| i128::from(age + SECOND) < longest);
        let is_doubtful = match meanwhile {
            Meanwhile::Nothing => age.is_none_or(|age| i128::from(age - SECOND) > longest),
            Meanwhile::Jumped(_) => false,
            _ => true,
        };
        // What was saved and did not reach the page may have been another marker.
        let may_be_new = marker != Some(before.disruption_marker);
        let now = world.now;
        if is_clear && is_changed && !may_be_new {
            world.judge.violated(Rule::Continuity, now, || "the counter went on, and the marker is a new one".into());
        } else if is_doubtful && !is_changed {
            world.judge.violated(Rule::Continuity, now, || format!("{meanwhile:?}, and the marker is the same"));
        }
        if is_clear {
            world.kept.continued += u64::from(!is_changed);
        }
    }

    fn epoch(&self) -> u64 {
        let world = self.world.borrow();
        world.epoch(world.now)
    }

    fn happen(&mut self, meanwhile: Meanwhile) {
        let mut world = self.world.borrow_mut();
        match meanwhile {
            Meanwhile::Nothing => {}
            Meanwhile::Slept { stopped } => world.sleep(MINUTE, stopped, 0),
            Meanwhile::Booted => world.kernel.boots += 1,
            Meanwhile::Switched => world.kernel.is_switched = !world.kernel.is_switched,
            Meanwhile::Jumped(by) => world.jump(by),
            Meanwhile::Garbled => world.garble_state(),
            Meanwhile::Lost => world.kept.state = None,
        }
    }

    /// The guest is on another host now, whose publisher makes this change before the guest runs.
    pub(crate) fn arrive(&mut self, change: impl FnMut(&mut Snapshot)) {
        self.publisher = None;
        // The other host has a state of its own.
        self.world.borrow_mut().kept.state = None;
        self.start();
        let Some(publisher) = &mut self.publisher else { return };
        let updated = publisher.update(change).map(|()| Vec::new());
        self.report(updated);
    }

    /// What the publisher says.
    fn report(&mut self, said: Result<Vec<Event>, PublishError>) {
        let mut world = self.world.borrow_mut();
        match said {
            Ok(events) => {
                let names = events.iter().filter(|event| !event.is_routine() && !matches!(event, Event::Source { .. }));
                let names: Vec<&'static str> = names.map(Event::name).collect();
                if let Some(name) = again_and_again(&mut self.repeated, &names) {
                    let now = world.now;
                    world.judge.violated(Rule::Events, now, || format!("{name:?} in {REPEATED} rounds in a row"));
                }
                for event in events.iter().filter(|event| !event.is_routine()) {
                    self.events += 1;
                    if world.trace.is_some() {
                        world.note(&format!("event: {event}"));
                    }
                }
            }
            Err(error) => {
                let now = world.now;
                world.judge.violated(Rule::Publisher, now, || error.to_string());
            }
        }
    }
}

/// What was said in too many rounds in a row, if anything was.
fn again_and_again(repeated: &mut Vec<(&'static str, u32)>, names: &[&'static str]) -> Option<&'static str> {
    repeated.retain(|(name, _)| names.contains(name));
    for name in names {
        match repeated.iter_mut().find(|(known, _)| known == name) {
            Some((_, count)) => *count += 1,
            None => repeated.push((name, 1)),
        }
    }
    repeated.iter().find(|(_, count)| *count == REPEATED).map(|(name, _)| *name)
}

fn settings(spec: &PublisherSpec) -> Settings {
    let mut settings = Settings::default();
    settings.wander = spec.drift;
    settings.measured_wander = spec.measured.then_some(LEAST_WANDER.min(spec.drift));
    settings.nominal_error = spec.nominal_error;
    settings.source_timeout = spec.source_timeout.unsigned_abs();
    settings.probation = spec.probation.unsigned_abs();
    settings.monotonic = spec.monotonic;
    settings
}
