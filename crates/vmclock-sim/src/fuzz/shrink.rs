// SPDX-License-Identifier: MIT OR Apache-2.0
//! The simplest world that violates the same rule.

use crate::clock::{ErrorModel, Stated};
use crate::counter::Wander;
use crate::judge::Rule;
use crate::run::{run, Wanted};
use crate::spec::{Delay, Knowledge, Reach, WorldSpec};
use crate::units::{MICRO, SECOND};

/// No more runs than this.
const MOST_RUNS: usize = 400;

/// Leaves out of a world whatever can be left out while it still violates the rule, and A1 holds.
pub(super) fn simplest(world: &WorldSpec, rule: Rule) -> WorldSpec {
    let mut shrunk = Shrunk { world: world.clone(), rule, runs: 0 };
    loop {
        let before = shrunk.runs;
        let progress = shrunk.pass();
        if !progress || shrunk.runs > MOST_RUNS || shrunk.runs == before {
            return shrunk.world;
        }
    }
}

struct Shrunk {
    world: WorldSpec,
    rule: Rule,
    runs: usize,
}

impl Shrunk {
    /// Tries everything once. Says whether anything could be left out.
    fn pass(&mut self) -> bool {
        let mut progress = false;
        for clock in (0..self.world.clocks.len()).rev() {
            progress |= self.try_with(|world| without_clock(world, clock));
        }
        for source in (0..self.world.sources.len()).rev() {
            progress |= self.try_with(|world| {
                let clock = world.sources[source].clock;
                // Every clock keeps a source.
                if world.sources.iter().filter(|other| other.clock == clock).count() > 1 {
                    world.sources.remove(source);
                }
            });
        }
        progress |= self.halve(|world| world.episodes.len(), |world, range| drop(world.episodes.drain(range)));
        progress |= self.halve(|world| world.incidents.len(), |world, range| drop(world.incidents.drain(range)));
        progress |= self
            .halve(|world| world.oscillator.changes.len(), |world, range| drop(world.oscillator.changes.drain(range)));
        let simplifications: [fn(&mut WorldSpec); 12] = [
            |world| world.preempted = 0.0,
            |world| world.late = 0.0,
            |world| world.calendar.leap = None,
            |world| world.knowledge = Knowledge::list(),
            |world| world.publisher.monotonic = false,
            |world| world.publisher.measured = false,
            |world| world.oscillator.wander = Wander::Constant(0.0),
            |world| world.oscillator.wander = Wander::Constant(1.0),
            |world| world.nominal_part = 0.0,
            |world| world.oscillator.start = 0,
            |world| world.publisher.source_timeout = 30 * SECOND,
            |world| world.clocks.iter_mut().for_each(|clock| clock.tai = true),
        ];
        for simplify in simplifications {
            progress |= self.try_with(simplify);
        }
        for index in 0..self.world.sources.len() {
            progress |= self.try_with(|world| world.sources[index].reach = Reach::Always);
            progress |= self.try_with(|world| world.sources[index].knows_epoch = false);
            progress |= self.try_with(|world| (world.sources[index].lost, world.sources[index].late) = (0.0, 0.0));
            progress |= self.try_with(|world| {
                let source = &mut world.sources[index];
                (source.before, source.after, source.latency) = <(Delay, Delay, Delay)>::default();
            });
        }
        for index in 0..self.world.clocks.len() {
            progress |= self.try_with(|world| world.clocks[index].error = ErrorModel::Extreme(0.0));
            progress |= self.try_with(|world| world.clocks[index].stated = Stated::Constant(MICRO));
            progress |= self.try_with(|world| world.clocks[index].synchronized = true);
            progress |= self.try_with(|world| world.clocks[index].turns = None);
        }
        progress
    }

    /// Leaves out halves, quarters and so on of a list.
    fn halve(
        &mut self,
        len: impl Fn(&WorldSpec) -> usize,
        remove: impl Fn(&mut WorldSpec, std::ops::Range<usize>),
    ) -> bool {
        let mut progress = false;
        let mut step = len(&self.world).next_power_of_two();
        while step > 0 {
            let mut from = 0;
            while from < len(&self.world) {
                let until = (from + step).min(len(&self.world));
                if self.try_with(|world| remove(world, from..until)) {
                    progress = true;
                } else {
                    from += step;
                }
            }
            step /= 2;
        }
        progress
    }

    /// Keeps a change if the rule is still violated. Says whether it is, and there was one.
    fn try_with(&mut self, change: impl FnOnce(&mut WorldSpec)) -> bool {
        if self.runs > MOST_RUNS {
            return false;
        }
        let mut world = self.world.clone();
        change(&mut world);
        if format!("{world:?}") == format!("{:?}", self.world) || world.clocks.is_empty() {
            return false;
        }
        self.runs += 1;
        let verdict = run(&world, Wanted { stop: true, ..Wanted::default() });
        let violated = verdict.first.filter(|first| first.rule == self.rule && verdict.kept_a1);
        if let Some(first) = &violated {
            // Nothing after it matters.
            world.length = world.length.min(first.at + SECOND);
            self.world = world;
        }
        violated.is_some()
    }
}

fn without_clock(world: &mut WorldSpec, clock: usize) {
    world.clocks.remove(clock);
    world.sources.retain(|source| source.clock != clock);
    world.episodes.retain(|episode| episode.clock != clock);
    let later = |number: &mut usize| *number -= usize::from(*number > clock);
    world.sources.iter_mut().for_each(|source| later(&mut source.clock));
    world.episodes.iter_mut().for_each(|episode| later(&mut episode.clock));
}
