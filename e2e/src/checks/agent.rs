// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest agent: after each restore of one snapshot the clock is right, hooks have run, and a workload that is held
//! has seen no wrong time.

use std::fmt::Write;

use anyhow::{ensure, Context, Result};
use serde_json::{json, Value};
use vmclock_e2e_guest::{hex, WOKEN_AT};

use crate::machine::{Clock, Kernel, Machine};
use crate::patience::{until, PATIENCE};
use crate::port::Question;
use crate::Lab;

use super::life::save;

/// Refreshes are rare, so that updates are those of the restores.
const OPTIONS: [&str; 2] = ["--refresh", "10s"];

/// The configuration in the guest.
const CONFIG: &str = r#"
[page]
interval = "10ms"
[hooks]
folder = "/tmp/agent.d"
[hold]
cgroups = ["workload"]
timeout = "300s"
quiesce_timeout = "300s"
[control]
socket = "/tmp/agent.sock"
[state]
path = "/tmp/agent.state"
"#;

/// One restore, as the guest saw it.
struct Restore {
    /// From the last moment before it to the right clock, in nanoseconds by the guest's counter.
    right_after: i128,
    /// From when the new epoch could be seen.
    right_after_seen: i128,
    stamps: u64,
    wrong: u64,
}

/// Restores a snapshot with a held workload, and one without, so many times each.
pub(super) fn restores(lab: &Lab, kernel: &Kernel, restores: u32) -> Result<String> {
    let mut machine = Machine::boot_calibrated(lab, kernel, "agent", &Clock::Ours(&OPTIONS))?.0;
    let begun = start(&mut machine, CONFIG).and_then(|()| quiesce_and_save(&mut machine));
    let (question, uri) = begun.map_err(|error| machine.explain(error))?;
    machine.quit()?;

    let mut held = Vec::new();
    let mut last = None;
    for restore in 1..=restores {
        let mut restored = Machine::incoming(lab, kernel, &format!("agent-held-{restore}"), &OPTIONS, &uri)?;
        let outcome = seen(lab, &mut restored, question, true);
        held.push(outcome.map_err(|error| restored.explain(error))?);
        if restore < restores {
            restored.quit()?;
        } else {
            last = Some(restored);
        }
    }

    // The same machine, with the workload running.
    let mut machine = last.context("nothing was restored")?;
    let (question, uri) = running_and_save(&mut machine).map_err(|error| machine.explain(error))?;
    machine.quit()?;
    let mut running = Vec::new();
    for restore in 1..=restores {
        let mut restored = Machine::incoming(lab, kernel, &format!("agent-running-{restore}"), &OPTIONS, &uri)?;
        let outcome = seen(lab, &mut restored, question, false);
        running.push(outcome.map_err(|error| restored.explain(error))?);
        restored.quit()?;
    }

    let wrong: u64 = held.iter().map(|restore| restore.wrong).sum();
    let stamps: u64 = held.iter().map(|restore| restore.stamps).sum();
    let figures = format!(
        "{restores} restores held: {}, {stamps} records, {wrong} wrong; running: {}, {} of {} records wrong",
        times(&held),
        times(&running),
        running.iter().map(|restore| restore.wrong).sum::<u64>(),
        running.iter().map(|restore| restore.stamps).sum::<u64>(),
    );
    ensure!(wrong == 0, "a held workload saw a wrong time: {figures}");
    Ok(figures)
}

fn times(restores: &[Restore]) -> String {
    let of = |time: &dyn Fn(&Restore) -> i128| {
        let mut times: Vec<i128> = restores.iter().map(time).collect();
        times.sort_unstable();
        let millis = |nanos: i128| format!("{}.{:02} ms", nanos / 1_000_000, nanos % 1_000_000 / 10_000);
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = write!(text, "median {}", millis(times[times.len() / 2]));
        let _ = write!(text, ", worst {}", millis(times[times.len() - 1]));
        text
    };
    format!(
        "clock right after {} (of these, after the page had changed: {})",
        of(&|restore| restore.right_after),
        of(&|restore| restore.right_after_seen)
    )
}

/// Starts the agent with a configuration.
fn start(machine: &mut Machine, config: &str) -> Result<()> {
    let status = machine.ask(&format!("agent start {}", hex(config.as_bytes())))?;
    ensure!(status["ready"] == true && status["held"] == false, "the agent is not ready: {status}");
    ensure!(status["time_source"] == "/dev/vmclock0", "the page does not vouch for the time: {status}");
    Ok(())
}

/// Has the workload held, and the guest wait for the restore; then saves the machine.
fn quiesce_and_save(machine: &mut Machine) -> Result<(Question, String)> {
    machine.ask("agent workload")?;
    let answer = machine.ask("agent run quiesce --socket /tmp/agent.sock")?;
    ensure!(answer["status"] == 0 && answer["stdout"] == "ready\n", "quiesce: {answer}");
    let status = machine.ask("agent ready")?;
    ensure!(status["held"] == true, "the workload is not held: {status}");
    let before = machine.ask("agent stamps")?;
    let again = machine.ask("agent stamps")?;
    ensure!(before == again, "a frozen workload stamps records: {before}, {again}");
    ensure!(before["wrong"] == 0, "the clock was wrong before the snapshot: {before}");
    observe_and_save(machine)
}

/// Saves the machine with its workload running.
fn running_and_save(machine: &mut Machine) -> Result<(Question, String)> {
    machine.ask("agent ready")?;
    observe_and_save(machine)
}

fn observe_and_save(machine: &mut Machine) -> Result<(Question, String)> {
    machine.region()?.set_word(WOKEN_AT, 0)?;
    let question = machine.say("agent observe")?;
    until("the guest observes its clock", PATIENCE, || Ok(machine.region()?.word(WOKEN_AT)? == 1))?;
    machine.qmp.run("stop", &json!({}))?;
    let uri = format!("file:{}", machine.path("snapshot").display());
    save(machine, &uri)?;
    Ok((question, uri))
}

/// What a restored guest saw.
fn seen(lab: &Lab, machine: &mut Machine, question: Question, held: bool) -> Result<Restore> {
    let answer = machine.answer(question)?;
    let counter = |key: &str| answer[key].as_u64().with_context(|| format!("{key} in {answer}"));
    let (before, first, right) = (counter("last_before")?, counter("seen")?, counter("right")?);
    let status = machine.ask("agent ready")?;
    let step = status["last_step_ns"].as_i64().with_context(|| format!("the clock was not stepped: {status}"))?;
    ensure!(step > 1_000_000, "the clock was not wrong, so nothing was tested: {status}");
    ensure!(status["held"] == false, "the workload is still held: {status}");
    ensure!(status["events"].as_u64() >= Some(1), "the agent saw nothing: {status}");
    let hooks = machine.ask("agent hooks")?;
    let last: Value = hooks
        .as_array()
        .and_then(|lines| serde_json::from_str(lines.last()?.as_str()?).ok())
        .with_context(|| format!("no hook ran: {hooks}"))?;
    ensure!(last["events"] == "restored disrupted", "the hook was told of something else: {last}");
    ensure!(last["generation"] == status["generation_hex"], "the hook has another generation: {last}, {status}");
    ensure!(last["outside_ns"] == "0", "the hook ran before the clock was right: {last}");
    // The workload runs again, and knows it.
    let mut stamps = Value::Null;
    until("the workload stamps records of the new epoch", PATIENCE, || {
        stamps = machine.ask("agent stamps")?;
        Ok(stamps["epochs"].as_u64() >= Some(1) && stamps["total"].as_u64() >= Some(1))
    })?;
    let number = |key: &str| stamps[key].as_u64().with_context(|| format!("{key} in {stamps}"));
    if held {
        ensure!(number("wrong")? == 0, "a held workload saw a wrong time: {stamps}");
    }
    let nanos = |ticks: u64| lab.nanos(ticks);
    Ok(Restore {
        right_after: nanos(right - before),
        right_after_seen: nanos(right - first),
        stamps: number("total")?,
        wrong: number("wrong")?,
    })
}
