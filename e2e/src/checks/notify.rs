// SPDX-License-Identifier: MIT OR Apache-2.0
//! Notifications: one wake for each update, and no busy loop without them.

use anyhow::{ensure, Context, Result};
use serde_json::Value;

use crate::machine::{Clock, Kernel, Machine};
use crate::patience::{until, PATIENCE};
use crate::report::Report;
use crate::Lab;

use super::{is_new, items, ATTEMPTS};

/// How many updates the guest is notified of.
const UPDATES: usize = 30;
/// What the CPU may spend on two seconds of waiting. A timer every 10 ms costs a tenth of this under TCG.
const IDLE_MICROS: u64 = 500_000;
/// What an operator may say, again and again: each is an update, and an event.
const ROUND: [(&str, &str); 3] =
    [("soon", "maintenance-soon"), ("imminent", "maintenance-imminent"), ("clear", "maintenance-cleared")];

/// Each update wakes poll(2) once. The next is made when the guest was woken: an interrupt is not a queue.
pub(super) fn poll(lab: &Lab, machine: &mut Machine) -> Result<String> {
    machine.region()?.begin()?;
    machine.region()?.set_word(vmclock_e2e_guest::WOKEN_AT, u64::MAX)?;
    let question = machine.say("poll")?;
    let awake_at = |machine: &Machine, seq_count: u32| -> Result<bool> {
        Ok(machine.region()?.wakes()?.1 == u64::from(seq_count))
    };
    until("the guest polls", PATIENCE, || awake_at(machine, machine.region()?.page()?.seq_count))?;
    let mut published = Vec::new();
    for (what, _) in ROUND.iter().cycle().take(UPDATES) {
        machine.signal(lab, what)?;
        let seq_count = machine.region()?.page()?.seq_count;
        published.push(seq_count);
        until("the guest was woken by the update", PATIENCE, || awake_at(machine, seq_count))?;
    }
    machine.region()?.end()?;
    let polled = machine.answer(question)?;
    let seen: Vec<u64> = items(&polled, "sequences")?.iter().filter_map(Value::as_u64).collect();
    let twice = seen.windows(2).filter(|pair| pair[0] == pair[1]).count();
    let missed = published.iter().filter(|count| !seen.contains(&u64::from(**count))).count();
    let figures = format!(
        "{UPDATES} updates, {} wakes (the rest are refreshes), {missed} missed, {twice} without an update",
        polled["wakes"]
    );
    ensure!(twice == 0 && missed == 0, "{figures}");
    Ok(figures)
}

/// Each event is a line of `vmclock watch` (`watch`), or of a program in C (`c-watch`).
pub(super) fn watch(lab: &Lab, machine: &mut Machine, program: &str) -> Result<String> {
    machine.ask(program)?;
    for (done, (what, _)) in ROUND.iter().enumerate() {
        machine.signal(lab, what)?;
        // Two updates that are seen together are one event, from the first state to the last.
        machine.ask(&format!("saw {}", done + 1))?;
    }
    let lines = watched(machine, ROUND.len())?;
    let expected = ROUND.map(|(_, event)| event);
    ensure!(lines == expected, "{program} printed {lines:?}, not {expected:?}");
    Ok(format!("{} events, {} lines: {}", expected.len(), lines.len(), lines.join(", ")))
}

/// The names of the events that `vmclock watch` printed, of which so many are expected, but for changes of the status.
pub(super) fn watched(machine: &mut Machine, expected: usize) -> Result<Vec<String>> {
    machine.ask(&format!("saw {expected}"))?;
    let lines = machine.ask("watched")?;
    let mut names = Vec::new();
    for line in lines.as_array().context("the guest sends no lines")?.iter().filter_map(Value::as_str) {
        let event: Value = serde_json::from_str(line).with_context(|| format!("what prints events said {line:?}"))?;
        names.push(event["event"].as_str().context("an event without a name")?.to_owned());
    }
    names.retain(|name| name != "status");
    Ok(names)
}

/// Waiting costs next to nothing, woken by the device or by a timer.
pub(super) fn idle(machine: &mut Machine, notified: bool) -> Result<String> {
    let by = if notified { "the device" } else { "a timer" };
    let mut micros = u64::MAX;
    // When a guest has its own CPU taken away, its kernel takes that for the time of whoever ran just then.
    for _ in 0..ATTEMPTS {
        if micros < IDLE_MICROS {
            break;
        }
        let idle = machine.ask("idle 2000")?;
        ensure!(idle["notified"] == notified, "our events should be woken by {by}: {idle}");
        ensure!(idle["changes"] == 0, "there were {} events, and nothing had happened", idle["changes"]);
        micros = idle["cpu_micros"].as_u64().context("the guest sends no time")?;
    }
    ensure!(micros < IDLE_MICROS, "2 s of waiting cost {micros} us of CPU, at best in {ATTEMPTS} times");
    Ok(format!("woken by {by}, 2 s of waiting cost {} ms of CPU", micros / 1000))
}

/// A machine without a doorbell.
pub(super) fn run_without(lab: &Lab, kernel: &Kernel, report: &mut Report) {
    report.check(&format!("{} no-notify", kernel.version), || {
        let machine = Machine::boot(lab, kernel, "no-notify", &Clock::Ours(&["--no-notify"]))?;
        machine.do_and_quit(|machine| {
            let polled = machine.ask("hangup")?;
            ensure!(polled["notified"] == false, "our events wait for a device that does not notify");
            // A driver without poll says that there is always something to read.
            ensure!(polled["hup"] == is_new(kernel), "poll(2) says {}", polled["flags"]);
            let idle = idle(machine, false)?;
            Ok(format!("poll(2) says {} after {} ms; {idle}", polled["flags"], polled["millis"]))
        })
    });
}
