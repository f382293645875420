// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sources as a publisher polls them, in simulated time.

use std::cell::RefCell;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use vmclock_core::sample::Sample;
use vmclock_core::tai::TaiOffset;
use vmclock_core::time::Time;
use vmclock_host::source::{Measurement, Source, SourceError, Stamp};

use crate::chance::Chance;
use crate::clock::{shows, Shown};
use crate::ledger::Delivered;
use crate::spec::{Delay, Reach, SourceSpec};
use crate::units::{rounded, Nanos, MILLI, SECOND};
use crate::world::World;

/// A source of a simulated world.
#[derive(Debug)]
pub(crate) struct SimulatedSource {
    world: Rc<RefCell<World>>,
    number: usize,
    name: String,
    spec: SourceSpec,
    chance: Chance,
    reach: Reachability,
    pending: Option<Pending>,
}

/// A measurement that was started.
#[derive(Clone, Copy, Debug)]
struct Pending {
    ready: Nanos,
    /// If there is none, the epoch of the counter, where that is known.
    answer: Result<(Measurement, Delivered), Option<u64>>,
}

impl SimulatedSource {
    /// The source of this number. A restarted publisher's sources draw other numbers than those before: `epoch` counts
    /// them.
    pub(crate) fn new(world: &Rc<RefCell<World>>, number: usize, spec: &SourceSpec, epoch: usize) -> Self {
        let seed = world.borrow().seed;
        Self {
            world: Rc::clone(world),
            number,
            name: format!("source {number}"),
            spec: spec.clone(),
            chance: Chance::stream(seed, "source", number + 1_000 * epoch),
            // Whether it can be reached has nothing to do with who asks.
            reach: Reachability::new(&spec.reach, Chance::stream(seed, "reach", number)),
            pending: None,
        }
    }

    /// The measurement that begins now.
    fn measure(&mut self) -> Pending {
        let mut world = self.world.borrow_mut();
        let now = world.now;
        let reachable = self.reach.is_open(now);
        if !reachable || self.chance.happens(self.spec.lost) {
            // A device says so at once, and a network says nothing.
            let ready = now + if self.spec.latency.fixed == 0 { 0 } else { 2 * SECOND };
            return Pending { ready, answer: Err(self.spec.knows_epoch.then(|| world.epoch(ready))) };
        }
        let preempted = world.preempted;
        let began = now + preemption(&mut self.chance, preempted);
        let read = began + delay(&mut self.chance, self.spec.before);
        let ended = read + delay(&mut self.chance, self.spec.after) + preemption(&mut self.chance, preempted);
        world.extend(ended);
        let (shown, tai) = world.show(self.spec.clock, read);
        let [before, after] = [began, ended].map(|at| world.counter.at(at));
        let stamp = stamp(shows(&world.calendar, read, shown.error, tai), tai, before, after);
        let synchronized = world.clocks[self.spec.clock].is_synchronized(read);
        let clock = &world.clocks[self.spec.clock].spec;
        let mut measurement = Measurement::new(stamp, shown.max_error);
        measurement.estimated_error = clock.estimated.min(shown.max_error);
        measurement.synchronized = synchronized;
        measurement.leap.today = shown.leap;
        measurement.leap.now = shown.in_leap;
        measurement.leap.tai_offset = world.told_offset(self.spec.clock, read).and_then(offset);
        measurement.steering = self.spec.reports_steering.then(|| world.counter.steering(read));
        measurement.era = if self.spec.knows_epoch { world.epoch(read) } else { 0 };
        let (meant, error) = (world.calendar.tai(read) + i128::from(shown.error), i128::from(shown.max_error));
        let delivered = Delivered {
            clock: self.spec.clock,
            began,
            ended,
            before,
            after,
            earliest: meant - error,
            latest: meant + error,
            is_off: is_off(&shown, began - read, ended - read),
            wrong: shown.announces_falsely || is_off(&shown, began - read, ended - read),
            synchronized,
        };
        let late = if self.chance.happens(self.spec.late) { self.chance.between(SECOND, 20 * SECOND) } else { 0 };
        let ready = ended + delay(&mut self.chance, self.spec.latency) + late;
        Pending { ready, answer: Ok((measurement, delivered)) }
    }
}

impl Source for SimulatedSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn clock(&self) -> String {
        format!("clock {}", self.spec.clock)
    }

    fn is_tai(&self) -> bool {
        self.world.borrow().clocks[self.spec.clock].spec.tai
    }

    fn start(&mut self) {
        if self.pending.is_none() {
            let pending = self.measure();
            self.world.borrow_mut().expect(self.number, pending.ready);
            self.pending = Some(pending);
        }
    }

    fn result(&mut self) -> Option<Result<Measurement, SourceError>> {
        let mut world = self.world.borrow_mut();
        let pending = self.pending.take_if(|pending| pending.ready <= world.now)?;
        let name = self.name.clone();
        let (measurement, delivered) = match pending.answer {
            Ok(answer) => answer,
            Err(None) => return Some(Err(SourceError::Timeout { name, milliseconds: 2_000 })),
            Err(Some(era)) => {
                return Some(Err(SourceError::NoTimeInEra { name, reason: "gives no time".into(), era }));
            }
        };
        world.deliver(delivered);
        Some(Ok(measurement))
    }

    fn ready(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Whether at no moment between the two, relative to the clock's reading, true time was within the stated error.
fn is_off(shown: &Shown, began: Nanos, ended: Nanos) -> bool {
    let most = i64::try_from(shown.max_error).unwrap_or(Nanos::MAX);
    shown.error.saturating_sub(most) > ended || shown.error.saturating_add(most) < began
}

fn stamp(nanos: i128, tai: bool, before: u64, after: u64) -> Stamp {
    // Always in range: a simulation is in this century.
    let zero = Time::from_raw(0);
    if tai {
        Stamp::Tai(Sample { before, time: Time::from_nanos(nanos).unwrap_or(zero), after })
    } else {
        Stamp::Utc(Sample { before, time: Time::from_nanos(nanos).unwrap_or(Time::from_raw(0)), after })
    }
}

/// TAI-UTC of so many seconds.
pub(crate) fn offset(seconds: i64) -> Option<TaiOffset> {
    TaiOffset::from_seconds(i16::try_from(seconds).ok()?)
}

fn delay(chance: &mut Chance, delay: Delay) -> Nanos {
    if delay.queue == 0 {
        return delay.fixed;
    }
    let busy = if chance.happens(0.03) { 30.0 } else { 1.0 };
    delay.fixed + rounded(busy * chance.exponential(delay.queue as f64))
}

/// A thread that is interrupted between two instructions: how much later it resumes.
pub(crate) fn preemption(chance: &mut Chance, often: f64) -> Nanos {
    if chance.happens(often) {
        rounded(chance.log_between(20_000.0, 63.0 * MILLI as f64))
    } else {
        0
    }
}

/// Whether a source can be reached, over time.
#[derive(Clone, Debug)]
struct Reachability {
    reach: Reach,
    chance: Chance,
    closed_from: Nanos,
    closed_until: Nanos,
}

impl Reachability {
    fn new(reach: &Reach, chance: Chance) -> Self {
        Self { reach: reach.clone(), chance, closed_from: 0, closed_until: 0 }
    }

    fn is_open(&mut self, at: Nanos) -> bool {
        match &self.reach {
            Reach::Always => true,
            Reach::Outages { mean, least, most } => {
                while at >= self.closed_until {
                    self.closed_from = self.closed_until + self.chance.wait(*mean);
                    let length = rounded(self.chance.log_between(*least as f64, *most as f64));
                    self.closed_until = self.closed_from + length.max(1);
                }
                at < self.closed_from
            }
            Reach::Windows { period, open } => {
                // Each begins open, so that there is a time from the start.
                (0..*open).contains(&(at % *period))
            }
            Reach::Except(closed) => !closed.iter().any(|(from, until)| (*from..*until).contains(&at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{HOUR, MINUTE};

    fn open(reach: &Reach) -> Vec<bool> {
        let mut reach = Reachability::new(reach, Chance::stream(1, "reach", 0));
        (0..1_000).map(|minute| reach.is_open(minute * MINUTE)).collect()
    }

    #[test]
    fn a_source_can_be_reached_as_its_world_says() {
        let count = |reach: &Reach| open(reach).into_iter().filter(|open| *open).count();
        assert_eq!(count(&Reach::Always), 1_000);
        assert_eq!(count(&Reach::Except(vec![(MINUTE, 3 * MINUTE), (HOUR, 2 * HOUR)])), 1_000 - 2 - 60);
        assert!((250..750).contains(&count(&Reach::Outages { mean: HOUR, least: HOUR / 2, most: 2 * HOUR })));
        let windows = open(&Reach::Windows { period: HOUR, open: 6 * MINUTE });
        assert!(windows.chunks_exact(60).all(|hour| hour.iter().filter(|open| **open).count() == 6));
    }

    #[test]
    fn off_is_what_no_moment_of_the_bracket_explains() {
        let shown = |error| Shown { error, max_error: 10, leap: None, in_leap: false, announces_falsely: false };
        // The bracket: 5 ns before the clock's reading to 7 ns after.
        for (error, expected) in [(0, false), (17, false), (18, true), (-15, false), (-16, true)] {
            assert_eq!(is_off(&shown(error), -5, 7), expected, "{error}");
        }
    }
}
