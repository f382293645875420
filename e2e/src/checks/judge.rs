// SPDX-License-Identifier: MIT OR Apache-2.0
//! Judging what a guest saw of its clock over something that happened to it.

use anyhow::{ensure, Context, Result};
use serde_json::Value;
use vmclock_core::counter;

use crate::machine::Machine;
use crate::port::Question;
use crate::truth::{Offset, Reading};
use crate::Lab;

use super::{items, micros};

/// The truth, too, is known only so well: the host's clock between two looks at it.
const SLACK: i128 = 1_000;

/// What the guest saw, and the relation of its counter to ours before and after what happened.
pub(super) struct Observation {
    pub(super) seen: Value,
    before: Era,
    after: Era,
}

/// A time in which the guest's counter goes with ours.
struct Era {
    offset: Offset,
    /// The values of the guest's counter that can be of this time.
    from: u64,
    until: u64,
}

/// An observation that has begun. A machine that was saved meanwhile can be restored, and end it, more than once.
#[derive(Clone, Copy)]
pub(super) struct Begun {
    offset: Offset,
    /// The guest's counter when what happens had not yet begun.
    quiet: u64,
    question: Question,
}

impl Begun {
    /// Lets the guest observe its clock from now on.
    pub(super) fn begin(machine: &mut Machine) -> Result<Self> {
        machine.region()?.begin()?;
        let question = machine.say("observe")?;
        let apart = machine.apart()?;
        let offset = machine.region()?.guest_minus_host();
        if offset.is_err() {
            machine.region()?.end()?;
        }
        drop(apart);
        let offset = offset?;
        Ok(Self { offset, quiet: offset.guest(counter::read_ordered()), question })
    }

    /// The guest's counter now, as long as nothing has happened to it.
    pub(super) fn guest_counter(&self) -> u64 {
        self.offset.guest(counter::read_ordered())
    }

    /// Ends the observation. `stopped`: the guest's counter when the machine had surely stopped.
    pub(super) fn end(self, machine: &mut Machine, stopped: u64) -> Result<Observation> {
        let apart = machine.apart()?;
        let offset = machine.region()?.guest_minus_host();
        drop(apart);
        machine.region()?.end()?;
        let offset = offset?;
        let seen = machine.answer(self.question).context("the observation")?;
        let before = Era { offset: self.offset, from: 0, until: stopped };
        let after = Era { offset, from: self.quiet, until: u64::MAX };
        Ok(Observation { seen, before, after })
    }
}

impl Observation {
    /// Checks that no reading was wrong and that exactly these events were seen, changes of the status aside. Gives
    /// the figures.
    pub(super) fn judge(&self, lab: &Lab, expected: &[&str]) -> Result<String> {
        let failures = items(&self.seen, "failures")?;
        ensure!(failures.is_empty(), "the page could not be read: {failures:?}");
        let states = items(&self.seen, "states")?;
        let ends = states.iter().flat_map(|state| [&state["first"], &state["last"]]);
        let (mut right, mut without) = (0, 0);
        let mut worst = 0;
        for outcome in ends.chain(items(&self.seen, "between")?) {
            match outcome {
                Value::Null => {}
                Value::String(_) => without += 1,
                _ => {
                    let reading = Reading::parse(outcome)?;
                    worst = worst.max(self.error(lab, &reading)?.abs());
                    right += 1;
                }
            }
        }
        let last = states.last().context("the guest has seen no state of the page")?;
        ensure!(last["last"].is_array(), "at the end the page still gave no time: {last}");
        let events = self.events()?;
        ensure!(events == expected, "the guest saw the events {events:?}, not {expected:?}");
        Ok(format!(
            "{right} readings right, worst error {}, {without} said that there is no time; states {}, events {events:?}",
            micros(worst),
            states.len()
        ))
    }

    /// The events that the guest saw, but for changes of the status.
    fn events(&self) -> Result<Vec<&str>> {
        let names = items(&self.seen, "events")?.iter().filter_map(|event| event[0].as_str());
        Ok(names.filter(|name| *name != "status").collect())
    }

    /// The generation at the end.
    pub(super) fn generation(&self) -> Result<u64> {
        let last = items(&self.seen, "states")?.last().context("no state")?;
        last["generation"].as_u64().with_context(|| format!("the page has no generation: {last}"))
    }

    /// The error of a reading that is right, before or after.
    fn error(&self, lab: &Lab, reading: &Reading) -> Result<i128> {
        let mut errors = Vec::new();
        for era in [&self.before, &self.after] {
            if !(era.from..=era.until).contains(&reading.counter) {
                continue;
            }
            if reading.holds(&lab.truth, era.offset, SLACK + lab.nanos(era.offset.width()))? {
                return reading.error(&lab.truth, era.offset);
            }
            errors.push(reading.error(&lab.truth, era.offset)?);
        }
        anyhow::bail!("a reading is wrong by {errors:?} ns, and says ± {} ns", reading.bound())
    }
}
