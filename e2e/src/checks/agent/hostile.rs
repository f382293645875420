// SPDX-License-Identifier: MIT OR Apache-2.0
//! What may go wrong around the agent: the workload is not frozen for ever, and what the agent leaves to the next one is
//! whole.

use anyhow::{ensure, Context, Result};
use serde_json::{json, Value};
use vmclock_e2e_guest::hex;

use super::{hold, start, CONFIG, OPTIONS};
use crate::machine::{Clock, Kernel, Machine};
use crate::patience::{until, PATIENCE};
use crate::Lab;

/// Hooks that fail, flood, leave processes behind and hang; a required one that hangs; a disk that is full.
pub(crate) fn hostile(lab: &Lab, kernel: &Kernel) -> Result<String> {
    let (machine, _) = Machine::boot_calibrated(lab, kernel, "agent-hostile", &Clock::Ours(&OPTIONS))?;
    machine.do_and_quit(|machine| {
        start(machine, CONFIG)?;
        machine.ask("agent workload")?;
        let hooks = bad_hooks(lab, machine)?;
        let required = required_hook_that_hangs(lab, machine)?;
        let disk = full_disk(lab, machine)?;
        let stamps = machine.ask("agent stamps")?;
        ensure!(stamps["wrong"] == 0, "a held workload saw a wrong time: {stamps}");
        Ok(format!("{hooks}; {required}; {disk}; {} records, none wrong", stamps["total"]))
    })
}

/// A clone of a guest whose workload is held.
fn clone_held(lab: &Lab, machine: &mut Machine) -> Result<()> {
    hold(machine)?;
    machine.ask("agent set-back 3600")?;
    machine.signal(lab, "clone")
}

fn bad_hooks(lab: &Lab, machine: &mut Machine) -> Result<String> {
    machine.ask("agent bad-hooks")?;
    clone_held(lab, machine)?;
    let status = machine.ask("agent ready")?;
    ensure!(status["held"] == false, "the workload is still held: {status}");
    let of = |name: &str| status["hooks"].as_array()?.iter().rev().find(|hook| hook["name"] == name);
    for (name, wanted) in [
        ("fails", "failed"),
        ("floods", "timed-out"),
        ("forks", "succeeded"),
        ("hangs", "timed-out"),
        ("note", "succeeded"),
    ] {
        let hook = of(name).with_context(|| format!("no result of {name}: {status}"))?;
        ensure!(hook["status"] == wanted, "{hook}");
        let tail = hook["tail"].as_str().unwrap_or_default();
        ensure!(name != "floods" || (2_000..=4_096).contains(&tail.len()), "{} bytes of the flood", tail.len());
    }
    Ok("hooks that fail, flood, fork and hang held up no more than their timeouts".to_owned())
}

fn required_hook_that_hangs(lab: &Lab, machine: &mut Machine) -> Result<String> {
    for (on_timeout, held) in [("thaw", false), ("hold", true)] {
        let hold = format!("\ntimeout = \"1s\"\non_timeout = \"{on_timeout}\"");
        // Without it first: an agent would deal with the event before once more.
        machine.ask("agent good-hooks")?;
        restart(machine, &CONFIG.replace("\ntimeout = \"300s\"", &hold))?;
        machine.ask("agent hanging-hook")?;
        clone_held(lab, machine)?;
        let mut status = Value::Null;
        until("the agent says that time is up", PATIENCE, || {
            status = status_now(machine)?;
            let reports = status["reports"].as_array().context("no reports")?;
            Ok(reports.iter().any(|report| report["level"] == "error" && report["name"] != "hook"))
        })?;
        ensure!(status["held"] == held, "with on_timeout = {on_timeout}: {status}");
        machine.ask("agent run thaw --socket /tmp/agent.sock")?;
        let status = status_now(machine)?;
        ensure!(status["held"] == false, "thawed by hand: {status}");
        let before = machine.ask("agent stamps")?;
        until("the workload runs", PATIENCE, || Ok(machine.ask("agent stamps")?["total"] != before["total"]))?;
    }
    machine.ask("agent good-hooks")?;
    Ok("a required hook that hangs held it until its timeout, or until it was thawed by hand".to_owned())
}

fn full_disk(lab: &Lab, machine: &mut Machine) -> Result<String> {
    machine.ask("agent disk free")?;
    let config = CONFIG.replace("/tmp/agent.state", "/tmp/disk/agent.state");
    restart(machine, &config)?;
    let before = machine.ask("agent state")?;
    machine.ask("agent disk full")?;
    clone_held(lab, machine)?;
    let status = machine.ask("agent ready")?;
    ensure!(status["held"] == false, "the workload is still held: {status}");
    let generation = status["generation_hex"].clone();
    ensure!(status["reports"].to_string().contains("No space left"), "nothing is said of the disk: {status}");
    ensure!(machine.ask("agent state")? == before, "what was there before is not whole");
    // Killed, and started again when there is room: what could not be noted down is dealt with once more.
    machine.ask("agent kill 0")?;
    machine.ask("agent disk free")?;
    start_again(machine, &config)?;
    let hooks = machine.ask("agent hooks")?;
    let runs = hooks.as_array().into_iter().flatten().filter(|line| {
        let line = serde_json::from_str::<Value>(line.as_str().unwrap_or_default()).unwrap_or_default();
        line["generation"] == generation
    });
    ensure!(runs.count() == 2, "the hooks did not run once more: {hooks}");
    ensure!(machine.ask("agent state")? != before, "it was not noted down");
    Ok("with a full disk the clock was set, and the next agent dealt with it once more".to_owned())
}

/// The device is taken away while the agent runs, and the machine is cloned before it is back. With our driver: Linux's
/// own would use freed memory.
pub(crate) fn outlives_device(lab: &Lab, machine: &mut Machine) -> Result<String> {
    start(machine, CONFIG)?;
    machine.ask("driver unbind")?;
    until("the agent says that the page vanished", PATIENCE, || {
        Ok(status_now(machine)?["reports"].to_string().contains("the page vanished"))
    })?;
    machine.ask("agent set-back 3600")?;
    machine.signal(lab, "clone")?;
    let bound = machine.ask("driver bind rust")?;
    ensure!(bound == "bound", "binding gives {bound}");
    let generation = format!("{:#018x}", machine.region()?.page()?.vm_generation_counter);
    let mut status = Value::Null;
    until("the agent has dealt with the clone", PATIENCE, || {
        status = machine.ask("agent ready")?;
        Ok(status["generation_hex"] == generation && status["events"].as_u64() >= Some(1))
    })?;
    let step = status["last_step_ns"].as_i64();
    ensure!(step > Some(3_599_000_000_000), "the clock was not set: {status}");
    machine.ask("agent kill 0")?;
    Ok("without its device the agent waited; a clone meanwhile was dealt with when it was back".to_owned())
}

fn status_now(machine: &mut Machine) -> Result<Value> {
    let answer = machine.ask("agent run status --json --socket /tmp/agent.sock")?;
    let text = answer["stdout"].as_str().unwrap_or_default();
    serde_json::from_str(text).with_context(|| format!("no status: {answer}"))
}

/// Another agent with another configuration, in place of the one that is killed.
fn restart(machine: &mut Machine, config: &str) -> Result<()> {
    machine.ask("agent kill 0")?;
    start_again(machine, config)
}

fn start_again(machine: &mut Machine, config: &str) -> Result<()> {
    let status = machine.ask(&format!("agent start {}", hex(config.as_bytes())))?;
    ensure!(status["held"] == json!(false), "the workload is held: {status}");
    Ok(())
}
