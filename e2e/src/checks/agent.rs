// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest agent: after each restore of one snapshot the clock is right, hooks have run, and a workload that is held
//! has seen no wrong time.

mod daemons;
mod hostile;
mod told;

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{ensure, Context, Result};
use serde_json::{json, Value};
use vmclock_core::abi::{LeapIndicator, TimeType};
use vmclock_e2e_guest::{hex, WOKEN_AT};

use crate::machine::{Clock, Kernel, Machine};
use crate::patience::{until, PATIENCE};
use crate::port::Question;
use crate::Lab;

use super::is_new;
use super::life::save;
pub(super) use daemons::{asked_chronyd, beside_others, fed, kept_by_others, Fed};
pub(super) use hostile::{hostile, outlives_device};
pub(super) use told::told;

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

/// A workload that runs on beside the agent, not only when the agent lets it.
const TWO_CPUS: [&str; 2] = ["-smp", "2"];

/// What a restore in another QEMU is.
const RESTORED: &str = "restored disrupted";

/// A snapshot of a guest that waits for its restore.
struct Saved {
    question: Question,
    uri: String,
    /// The guest's counter while it was paused: with it the guest goes on after each restore.
    counter: u64,
}

/// One restore, as the guest saw it.
struct Restore {
    /// From the first instruction after it to the right clock, in nanoseconds by the guest's counter.
    right_after: i128,
    /// To when a program first saw the new epoch, that looks all the time.
    seen_after: i128,
    /// To when it first saw a time on the page.
    timed_after: i128,
    /// What of it the agent took, from when it knew of the restore.
    agent_took: Option<i128>,
    /// How many blocks of the guest's code QEMU had translated by then: after a restore it has none.
    blocks: u64,
    stamps: u64,
    wrong: u64,
}

/// Restores a snapshot with a held workload, and one without, so many times each.
pub(super) fn restores(lab: &Lab, kernel: &Kernel, restores: u32) -> Result<String> {
    let mut machine = Machine::boot_calibrated(lab, kernel, "agent-restored", &Clock::Ours(&OPTIONS))?.0;
    let begun = (|| {
        start(&mut machine, CONFIG)?;
        let wakes = idle(&mut machine)?;
        machine.ask("agent workload")?;
        Ok((wakes, quiesce_and_save(&mut machine)?))
    })();
    let ((wakes, updates), saved) = begun.map_err(|error| machine.explain(error))?;
    machine.quit()?;

    let mut held = Vec::new();
    for restore in 1..=restores {
        let mut restored = Machine::incoming(lab, kernel, &format!("agent-held-{restore}"), &OPTIONS, &saved.uri)?;
        let outcome = seen(lab, &mut restored, &saved, RESTORED, true);
        held.push(outcome.map_err(|error| restored.explain(error))?);
        restored.quit()?;
    }

    let mut machine = Machine::boot_with(lab, kernel, "agent-beside", &Clock::Ours(&OPTIONS), &TWO_CPUS)?;
    let begun = (|| {
        machine.wait_for("calibrated")?;
        start(&mut machine, CONFIG)?;
        machine.ask("agent workload")?;
        observe_and_save(&mut machine)
    })();
    let saved = begun.map_err(|error| machine.explain(error))?;
    machine.quit()?;
    let mut running = Vec::new();
    for restore in 1..=restores {
        let name = format!("agent-running-{restore}");
        let mut restored = Machine::incoming_with(lab, kernel, &name, &OPTIONS, &saved.uri, &TWO_CPUS)?;
        let outcome = seen(lab, &mut restored, &saved, RESTORED, false);
        running.push(outcome.map_err(|error| restored.explain(error))?);
        restored.quit()?;
    }

    let wrong: u64 = held.iter().map(|restore| restore.wrong).sum();
    let stamps: u64 = held.iter().map(|restore| restore.stamps).sum();
    let figures = format!(
        "idle: {wakes} wake-ups in 5 s with {updates} updates of the page; {restores} restores held: {}, {stamps} records, {wrong} wrong; running on two CPUs: {}, {} of {} records wrong",
        times(&held),
        times(&running),
        running.iter().map(|restore| restore.wrong).sum::<u64>(),
        running.iter().map(|restore| restore.stamps).sum::<u64>(),
    );
    ensure!(wrong == 0, "a held workload saw a wrong time: {figures}");
    Ok(figures)
}

fn times(restores: &[Restore]) -> String {
    let of = |time: &dyn Fn(&Restore) -> Option<i128>| {
        let mut times: Vec<i128> = restores.iter().filter_map(time).collect();
        times.sort_unstable();
        (!times.is_empty()).then(|| quantiles(&times))
    };
    let all = |time: &dyn Fn(&Restore) -> i128| of(&|restore| Some(time(restore))).unwrap_or_default();
    let agent =
        of(&|restore| restore.agent_took).map_or_else(String::new, |took| format!("of that in the agent {took}; "));
    let mut blocks: Vec<u64> = restores.iter().map(|restore| restore.blocks).collect();
    blocks.sort_unstable();
    format!(
        "clock right after {} ({agent}a program that looks all the time saw the restore after {}, a time on the page after {}; QEMU had translated {} blocks of code by then)",
        all(&|restore| restore.right_after),
        all(&|restore| restore.seen_after),
        all(&|restore| restore.timed_after),
        blocks[blocks.len() / 2]
    )
}

/// Starts the agent with a configuration.
fn start(machine: &mut Machine, config: &str) -> Result<()> {
    let status = machine.ask(&format!("agent start {}", hex(config.as_bytes())))?;
    ensure!(status["ready"] == true && status["held"] == false, "the agent is not ready: {status}");
    ensure!(status["time_source"] == "/dev/vmclock0", "the page does not vouch for the time: {status}");
    Ok(())
}

/// How often the agent is woken in 5 s in which nothing happens, but for updates of the page: how many of these there were.
fn idle(machine: &mut Machine) -> Result<(u64, u64)> {
    let switches = |cost: &Value| cost["switches"].as_u64().with_context(|| format!("no count in {cost}"));
    let before = (machine.ask("agent cost")?, machine.region()?.page()?.seq_count);
    let after = (machine.ask("agent idle 5000")?, machine.region()?.page()?.seq_count);
    let wakes = switches(&after.0)? - switches(&before.0)?;
    let updates = u64::from(after.1.wrapping_sub(before.1) / 2);
    // Where the page does not notify, or the driver does not pass that on, it is polled every 10 ms.
    let is_notified = machine.ask("agent ready")?["watches"].as_str().is_some_and(|text| text.ends_with("notifies"));
    // Once an update, and once more for one that is under way.
    ensure!(
        !is_notified || wakes <= updates + 1,
        "woken {wakes} times in 5 s, by {updates} updates: {before:?}, {after:?}"
    );
    Ok((wakes, updates))
}

/// Has the workload held, and the guest wait for the restore; then saves the machine.
fn quiesce_and_save(machine: &mut Machine) -> Result<Saved> {
    hold(machine)?;
    let before = machine.ask("agent stamps")?;
    let again = machine.ask("agent stamps")?;
    ensure!(before == again, "a frozen workload stamps records: {before}, {again}");
    ensure!(before["wrong"] == 0, "the clock was wrong before the snapshot: {before}");
    observe_and_save(machine)
}

/// Has the workload held.
fn hold(machine: &mut Machine) -> Result<()> {
    let answer = machine.ask("agent run quiesce --socket /tmp/agent.sock")?;
    ensure!(answer["status"] == 0 && answer["stdout"] == "ready\n", "quiesce: {answer}");
    let status = machine.ask("agent ready")?;
    ensure!(status["held"] == true, "the workload is not held: {status}");
    Ok(())
}

fn observe_and_save(machine: &mut Machine) -> Result<Saved> {
    machine.region()?.set_word(WOKEN_AT, 0)?;
    let question = machine.say("agent observe")?;
    until("the guest observes its clock", PATIENCE, || Ok(machine.region()?.word(WOKEN_AT)? == 1))?;
    machine.qmp.run("stop", &json!({}))?;
    let path = machine.path("snapshot");
    let uri = format!("file:{}", path.display());
    save(machine, &uri)?;
    let counter = counter_in(&fs::read(&path)?).context("the snapshot has no timer of the known form")?;
    Ok(Saved { question, uri, counter })
}

/// The guest's counter while it was paused, out of a snapshot: the section `timer`, instance 0 and version 2, whose
/// first number it is, the most significant byte first. The guest's memory comes before.
fn counter_in(snapshot: &[u8]) -> Option<u64> {
    const HEADER: &[u8] = b"\x05timer\0\0\0\0\0\0\0\x02";
    let at = snapshot.windows(HEADER.len()).rposition(|window| window == HEADER)? + HEADER.len();
    Some(u64::from_be_bytes(snapshot.get(at..at + 8)?.try_into().ok()?))
}

/// What a restored guest saw.
fn seen(lab: &Lab, machine: &mut Machine, saved: &Saved, events: &str, held: bool) -> Result<Restore> {
    let answer = machine.answer(saved.question)?;
    let blocks = translated(machine)?;
    let counter = |key: &str| answer[key].as_u64().with_context(|| format!("{key} in {answer}"));
    let (first, timed, right) = (counter("seen")?, counter("timed")?, counter("right")?);
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
    ensure!(last["events"] == events, "the hook was told of something else: {last}");
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
        right_after: nanos(right - saved.counter),
        seen_after: nanos(first - saved.counter),
        timed_after: nanos(timed - saved.counter),
        agent_took: status["recovery_ns"].as_u64().map(Into::into),
        blocks,
        stamps: number("total")?,
        wrong: number("wrong")?,
    })
}

/// A guest that is saved and resumes in the same QEMU, so many times: to whoever is in it, that is a restore. But QEMU
/// still has the guest's code translated, where after a restore it has none of it.
pub(super) fn resumed(lab: &Lab, kernel: &Kernel, times: u32) -> Result<String> {
    let (machine, _) = Machine::boot_calibrated(lab, kernel, "agent-resumed", &Clock::Ours(&OPTIONS))?;
    machine.do_and_quit(|machine| {
        start(machine, CONFIG)?;
        machine.ask("agent workload")?;
        let mut resumed = Vec::new();
        for _ in 0..times {
            let saved = quiesce_and_save(machine)?;
            machine.signal(lab, "clone")?;
            machine.qmp.run("cont", &json!({}))?;
            resumed.push(seen(lab, machine, &saved, "restored", true)?);
        }
        let stamps: u64 = resumed.last().map_or(0, |last| last.stamps);
        Ok(format!("{times} times: {}; {stamps} records, none wrong", self::times(&resumed)))
    })
}

/// How many blocks of the guest's code QEMU has translated.
fn translated(machine: &mut Machine) -> Result<u64> {
    let said = machine.qmp.run_for_people("info jit")?;
    let count = said.lines().find_map(|line| line.trim().strip_prefix("TB count")?.split_whitespace().next());
    count.and_then(|count| count.parse().ok()).with_context(|| format!("no count of blocks in {said}"))
}

/// The clock is kept on the page; then the page is taken to the end of a month that has a leap second.
pub(super) fn discipline(lab: &Lab, kernel: &Kernel) -> Result<String> {
    let (mut machine, _) = Machine::boot_calibrated(lab, kernel, "agent-steady", &Clock::Ours(&["--refresh", "1s"]))?;
    let outcome = (|| {
        start(&mut machine, &CONFIG.replace("[hooks]", KEPT))?;
        let (seen, ticks, resident) = kept(lab, &mut machine, SETTLED)?;
        ensure!(seen["untrue"] == 0, "the kernel's own maximum error was not true: {seen}");
        ensure!(seen["offsets"] == json!([37]), "CLOCK_TAI has another offset: {seen}");
        let leap = machine.while_publisher_stands(over_a_leap_second)?;
        Ok(format!(
            "{} s: {}; {} ms of CPU, {resident} KiB resident; over a leap second: {leap}",
            lab.steady_seconds,
            figures(&seen),
            ticks * 10,
        ))
    })();
    let figures = outcome.map_err(|error| machine.explain(error))?;
    machine.quit()?;
    Ok(figures)
}

/// In nanoseconds: what a busy machine, too, can be kept to.
const SETTLED: i128 = 200_000;
/// The agent's configuration for it, before that of hooks.
const KEPT: &str = "[clock]\ndiscipline = true\ndiscipline_interval = \"250ms\"\n[hooks]";

/// Watches a clock that somebody keeps on the page, from when it is steady on: how far it was off, and what it cost, in
/// ticks of 1/100 s of CPU and in KiB.
fn kept(lab: &Lab, machine: &mut Machine, within: i128) -> Result<(Value, u64, u64)> {
    let settled = |seen: &Value| Some(nanos(&seen["realtime"][3])? < within);
    until("the clock is steady", PATIENCE, || Ok(settled(&machine.ask("agent steady 2000 50")?).unwrap_or(false)))?;
    let before = machine.ask("agent cost")?;
    let seen = machine.ask_within(PATIENCE * 4, &format!("agent steady {} 20", lab.steady_seconds * 1_000))?;
    let after = machine.ask("agent cost")?;
    let number = |cost: &Value, key: &str| cost[key].as_u64().with_context(|| format!("no {key} in {cost}"));
    Ok((seen, number(&after, "ticks")? - number(&before, "ticks")?, number(&after, "resident_kib")?))
}

fn nanos(value: &Value) -> Option<i128> {
    value.as_str()?.parse().ok()
}

fn figures(seen: &Value) -> String {
    format!("CLOCK_REALTIME {}; CLOCK_TAI {}", of_clock(seen, "realtime"), of_clock(seen, "tai"))
}

fn of_clock(seen: &Value, clock: &str) -> String {
    let micros = |index: usize| {
        #[allow(clippy::cast_precision_loss)] // for people
        nanos(&seen[clock][index]).map_or_else(String::new, |nanos| format!("{:.2} us", nanos as f64 / 1e3))
    };
    format!("{} comparisons, median {}, 99.9 % {}, worst {}", seen[clock][0], micros(1), micros(2), micros(3))
}

/// Takes the page to half a minute before the end of 2026, with an inserted second: as a migration to a host whose clock
/// is there.
fn over_a_leap_second(machine: &mut Machine) -> Result<String> {
    /// 2027-01-01 00:00:00 UTC.
    const NEW_YEAR: u64 = 1_798_761_600;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let page = machine.region()?.page()?;
    let moved = page.with(|page| {
        // By whole seconds: the calibration stays what it is.
        page.time_sec = page.time_sec.wrapping_add(NEW_YEAR - 30).wrapping_sub(now);
        page.leap_indicator = LeapIndicator::PRE_POSITIVE;
        page.disruption_marker = page.disruption_marker.wrapping_add(1);
        page.seq_count = page.seq_count.wrapping_add(2);
    });
    ensure!(page.time_type == TimeType::TAI && page.tai_offset_sec == -37, "the page is not what it was: {page:?}");
    // Whole words, in the writer's order: odd, all else, even.
    let odd = moved.with(|page| page.seq_count = page.seq_count.wrapping_sub(1));
    machine.region()?.set_bytes(&odd.to_bytes())?;
    machine.region()?.set_bytes(&moved.to_bytes())?;
    until("the agent has stepped the clock to the new year's eve", PATIENCE, || {
        let status = machine.ask("agent ready")?;
        Ok(status["events"].as_u64() >= Some(1) && status["last_step_ns"].as_i64() > Some(86_400_000_000_000))
    })?;
    let seen = machine.ask("agent steady 60000 10")?;
    ensure!(seen["leaps"].as_u64() >= Some(1), "the leap second did not come: {seen}");
    ensure!(seen["untrue"] == 0, "the kernel's own maximum error was not true: {seen}");
    ensure!(seen["offsets"] == json!([37, 38]), "CLOCK_TAI has not followed: {seen}");
    let worst = nanos(&seen["realtime"][3]).zip(nanos(&seen["tai"][3])).context("nothing was compared")?;
    // A second would be wrong; on a busy machine it may take a moment to settle after the step.
    ensure!(worst.0 < 500_000_000 && worst.1 < 500_000_000, "a clock was wrong after the leap second: {seen}");
    Ok(figures(&seen))
}

/// The agent is killed at any moment, so many times, around a restore each.
pub(super) fn killed(lab: &Lab, kernel: &Kernel) -> Result<String> {
    let (mut machine, _) = Machine::boot_calibrated(lab, kernel, "agent-killed", &Clock::Ours(&OPTIONS))?;
    let outcome = (|| {
        start(&mut machine, CONFIG)?;
        machine.ask("agent workload")?;
        for round in 0..lab.kills {
            if round % 2 == 1 {
                let answer = machine.ask("agent run quiesce --socket /tmp/agent.sock")?;
                ensure!(answer["status"] == 0, "round {round}: quiesce: {answer}");
            }
            machine.signal(lab, "clone")?;
            let generation = machine.region()?.page()?.vm_generation_counter;
            // Later each time, over what the agent takes.
            machine.ask(&format!("agent kill {}", round * 137 % 5_000))?;
            machine.ask("agent restart")?;
            let stamps = machine.ask("agent stamps")?;
            until("the agent has dealt with the restore", PATIENCE, || {
                let status = machine.ask("agent ready")?;
                Ok(status["generation_hex"] == format!("{generation:#018x}") && status["held"] == false)
            })?;
            let hooks = machine.ask("agent hooks")?;
            let lines = hooks.as_array().context("no lines")?.iter().filter_map(Value::as_str);
            let wanted = format!("{generation:#018x}");
            ensure!(
                lines.clone().any(|line| line.contains(&wanted)),
                "round {round}: no hook ran for {wanted}: {hooks}"
            );
            until("the workload runs", PATIENCE, || Ok(machine.ask("agent stamps")?["total"] != stamps["total"]))?;
        }
        Ok(format!("{} times, half of them with a held workload; each restore was dealt with", lab.kills))
    })();
    let figures = outcome.map_err(|error| machine.explain(error))?;
    machine.quit()?;
    Ok(figures)
}

/// A guest whose clock loses an hour, and that is told that it is a clone, so many times: what of a restore's time is not
/// the emulator's, which has no code of a restored guest translated yet. It counts from when a program sees the clone;
/// where the agent was there first, that is after the clock was right.
pub(super) fn warm(lab: &Lab, kernel: &Kernel, times: u32) -> Result<String> {
    let mut machine = Machine::boot_with(lab, kernel, "agent-warm", &Clock::Ours(&OPTIONS), &TWO_CPUS)?;
    let outcome = (|| {
        machine.wait_for("calibrated")?;
        start(&mut machine, CONFIG)?;
        let mut took = Vec::new();
        for _ in 0..times {
            machine.region()?.set_word(WOKEN_AT, 0)?;
            let question = machine.say("agent lose 3600")?;
            until("the guest observes its clock", PATIENCE, || Ok(machine.region()?.word(WOKEN_AT)? == 1))?;
            machine.signal(lab, "clone")?;
            let answer = machine.answer(question)?;
            let counter = |key: &str| answer[key].as_u64().with_context(|| format!("{key} in {answer}"));
            took.push(lab.nanos(counter("right")? - counter("seen")?));
            machine.ask("agent ready")?;
        }
        took.sort_unstable();
        Ok(format!("{times} times: clock right after {}", quantiles(&took)))
    })();
    let figures = outcome.map_err(|error| machine.explain(error))?;
    machine.quit()?;
    Ok(figures)
}

/// The median, the 99th percentile and the largest of times in nanoseconds, sorted.
fn quantiles(times: &[i128]) -> String {
    let millis = |index: usize| {
        times
            .get(index)
            .map_or_else(String::new, |nanos| format!("{}.{:02} ms", nanos / 1_000_000, nanos % 1_000_000 / 10_000))
    };
    let last = times.len().saturating_sub(1);
    let at99 = (times.len() * 99).div_ceil(100).saturating_sub(1);
    format!("median {}, 99 % {}, worst {}", millis(times.len() / 2), millis(at99), millis(last))
}

/// A page with a generation only, as Firecracker's, and the time from a PTP clock: here that of Linux's driver.
pub(super) fn bare(lab: &Lab, kernel: &Kernel) -> Result<String> {
    let (mut machine, _) = Machine::boot_calibrated(lab, kernel, "agent-bare", &Clock::Ours(&OPTIONS))?;
    let outcome = (|| {
        machine.ask("agent bare-page")?;
        let scale = if is_new(kernel) { "tai" } else { "utc" };
        let time = format!(
            "path = \"/tmp/bare-page\"\n[time]\nptp = \"/dev/ptp0\"\nptp_scale = \"{scale}\"\ntai_offset = 37\n"
        );
        let config = CONFIG.replace("interval = \"10ms\"", &format!("interval = \"10ms\"\n{time}"));
        let status = machine.ask(&format!("agent start {}", hex(config.as_bytes())))?;
        ensure!(status["time_source"] == "/dev/ptp0", "the PTP clock does not vouch for the time: {status}");
        let ahead = machine.ask("agent bare-restore 7200")?;
        let status = machine.ask("agent ready")?;
        ensure!(status["events"] == 1, "another number of events: {status}");
        let hooks = machine.ask("agent hooks")?;
        ensure!(hooks.to_string().contains("0x0000000000000002"), "no hook ran for the new generation: {hooks}");
        Ok(format!("two hours were lost; then CLOCK_REALTIME was {} to {} ns ahead", ahead[0], ahead[1]))
    })();
    let figures = outcome.map_err(|error| machine.explain(error))?;
    machine.quit()?;
    Ok(figures)
}
