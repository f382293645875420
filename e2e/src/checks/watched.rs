// SPDX-License-Identifier: MIT OR Apache-2.0
//! A kernel that watches its memory and its locks, while drivers are bound and unbound under load.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use serde_json::json;
use vmclock_core::abi::Snapshot;

use crate::machine::{Clock, Kernel, Machine};
use crate::patience::{until, PATIENCE};
use crate::report::Report;
use crate::Lab;

use super::{drivers, hostile, is_wanted};

const CYCLES: u32 = 200;
const CYCLES_FIXED: u32 = 50;
/// Each is two steps of the sequence count.
const UPDATES: u32 = 1_000;
/// Such a kernel is some ten times slower.
const LONG: Duration = Duration::from_secs(1_800);

/// What the kernel says when something is wrong with memory, locks, or itself.
const COMPLAINTS: [&str; 9] = [
    "BUG:",
    "WARNING:",
    "KASAN",
    "possible recursive locking",
    "possible circular locking",
    "trying to register non-static key",
    "blocked for more than",
    "Kernel panic",
    "Oops",
];

type Check = fn(&Lab, &Kernel) -> Result<String>;

const CHECKS: [(&str, Check); 3] = [("faults", faults), ("rust", churn), ("c", use_after_free)];

pub(super) fn run(
    lab: &Lab,
    kernel: &Kernel,
    driver: &Path,
    fixed: Option<&Path>,
    only: &[String],
    report: &mut Report,
) {
    let ours = Kernel { other: Some(driver.to_owned()), warns: true, ..kernel.clone() };
    for (name, check) in CHECKS {
        let name = format!("kasan {} {name}", kernel.version);
        if is_wanted(&name, only) {
            report.check(&name, || check(lab, &ours));
        }
    }
    let name = format!("kasan {} c fixed", kernel.version);
    if let (Some(driver), true) = (fixed, is_wanted(&name, only)) {
        let theirs = Kernel { version: format!("{}-fixed", kernel.version), driver: Some(driver.to_owned()), ..ours };
        report.check(&name, || c_fixed(lab, &theirs));
    }
}

fn boot(lab: &Lab, kernel: &Kernel, name: &str, refresh: &str) -> Result<Machine> {
    let mut machine = Machine::boot_with(
        lab,
        kernel,
        name,
        &Clock::Ours(&["--refresh", refresh]),
        &["-cpu", "max,la57=off", "-m", "1G", "-smp", "2"],
    )?;
    machine.wait_for("calibrated")?;
    Ok(machine)
}

/// The lines in which the kernel complains.
fn complaints(machine: &Machine) -> Result<Vec<String>> {
    let console = machine.path("console");
    let text = fs::read(&console).with_context(|| format!("cannot read {}", console.display()))?;
    let text = String::from_utf8_lossy(&text);
    Ok(text.lines().filter(|line| COMPLAINTS.iter().any(|word| line.contains(word))).map(str::to_owned).collect())
}

/// Our driver, bound and unbound with files open, mapped, polled and shown, while the page is updated; then every
/// hostile page.
fn churn(lab: &Lab, kernel: &Kernel) -> Result<String> {
    let mut machine = boot(lab, kernel, "churn", "2ms")?;
    ensure!(machine.ask("driver load")? == "loaded", "our driver cannot be loaded");
    ensure!(machine.ask("driver bind rust")? == "bound", "our driver cannot be bound");
    let before = machine.region()?.page()?.seq_count;
    let done = machine.ask_within(LONG, &format!("driver churn rust {CYCLES}"))?;
    let updates = machine.region()?.page()?.seq_count.wrapping_sub(before) / 2;
    let seen = done["seen"].as_object().with_context(|| format!("the guest does not say what it saw: {done}"))?;
    let hostile = hostile::run_rust(&mut machine).map_err(|error| machine.explain(error))?;
    let leaks = leaks(&mut machine)?;
    let unloaded = machine.ask_within(LONG, "driver unload")?;
    let complaints = complaints(&machine)?;
    let seen_by = seen.iter().map(|(what, count)| format!("{count} {what}")).collect::<Vec<_>>().join(", ");
    let figures = format!(
        "{} bind and unbind cycles, {updates} updates; beside: {seen_by}; hostile: {hostile}; the kernel complains {} times, and finds {} leaks of ours",
        done["cycles"],
        complaints.len(),
        leaks.len()
    );
    ensure!(complaints.is_empty(), "{figures}: {}", complaints.join("\n"));
    ensure!(leaks.is_empty(), "{figures}: {}", leaks.join("\n"));
    ensure!(unloaded == "unloaded", "{figures}; our driver cannot be unloaded: {unloaded}");
    ensure!(updates >= UPDATES, "{figures}");
    ensure!(seen.values().all(|count| *count != 0), "nothing of some: {figures}");
    machine.quit()?;
    Ok(figures)
}

/// What the kernel finds of ours that nobody refers to any more.
fn leaks(machine: &mut Machine) -> Result<Vec<String>> {
    let found = machine.ask_within(LONG, "driver leaks")?;
    let objects = found.as_str().context("no text")?.split("unreferenced object");
    Ok(objects.filter(|object| object.contains("vmclock")).map(str::to_owned).collect())
}

/// Each allocation of binding fails once, and binding fails or does without. All allocations of the driver fail while
/// the counter is disrupted and the machine restored, and both are announced once they do not. And what happened while
/// the machine slept is announced when it is awake, though nobody notified.
fn faults(lab: &Lab, kernel: &Kernel) -> Result<String> {
    let mut machine = boot(lab, kernel, "faults", "1s")?;
    let figures = with_faults(lab, &mut machine).map_err(|error| machine.explain(error))?;
    let leaks = leaks(&mut machine)?;
    let unloaded = machine.ask_within(LONG, "driver unload")?;
    let complaints = complaints(&machine)?;
    ensure!(complaints.is_empty(), "{figures}: {}", complaints.join("\n"));
    ensure!(leaks.is_empty(), "{figures}: {}", leaks.join("\n"));
    ensure!(unloaded == "unloaded", "{figures}; our driver cannot be unloaded: {unloaded}");
    machine.quit()?;
    Ok(figures)
}

fn with_faults(lab: &Lab, machine: &mut Machine) -> Result<String> {
    ensure!(machine.ask("driver load")? == "loaded", "our driver cannot be loaded");
    let each = machine.ask_within(LONG, "driver fail-binding rust")?;

    machine.ask("driver listen")?;
    machine.ask("driver fail all")?;
    machine.signal(lab, "migrate")?;
    machine.signal(lab, "clone")?;
    until("the driver says that it cannot announce", PATIENCE, || {
        let log = machine.ask("driver log")?;
        Ok(log.to_string().contains("cannot show all of the page"))
    })?;
    let early = machine.ask("driver uevents")?;
    ensure!(early == json!([]), "announced without memory: {early}");
    machine.ask("driver fail none")?;
    let page = machine.region()?.page()?;
    let expected = [("disrupted", &page), ("restored", &page)];
    announced(machine, &expected)?;

    // Nobody notifies of what happens while the machine sleeps.
    let (before, after) = machine.while_publisher_stands(|machine| {
        let before = machine.region()?.page()?;
        let mut page = before;
        page.disruption_marker ^= 1;
        page.seq_count = page.seq_count.wrapping_add(2);
        machine.region()?.set_bytes(&page.to_bytes())?;
        ensure!(machine.ask("driver suspend")? == "resumed", "the machine does not sleep");
        announced(machine, &[("disrupted", &page)])?;
        machine.region()?.set_bytes(&before.to_bytes())?;
        Ok((before, page))
    })?;
    Ok(format!(
        "binding makes {} allocations: with one failing, it failed {} times ({}); a disruption and a restore announced once there was \
         memory; a disruption ({:#x} to {:#x}) announced after a sleep",
        each["allocations"], each["failed"], each["outcomes"], before.disruption_marker, after.disruption_marker
    ))
}

/// These events, and no others, with these pages' markers and generations.
fn announced(machine: &mut Machine, expected: &[(&str, &Snapshot)]) -> Result<()> {
    let mut heard = Vec::new();
    until("the events are announced", PATIENCE, || {
        heard.extend(machine.ask("driver uevents")?.as_array().into_iter().flatten().cloned());
        Ok(heard.len() >= expected.len())
    })?;
    let hexadecimal = |number: u64| format!("{number:#018x}");
    let expected: Vec<_> = expected
        .iter()
        .map(|(name, page)| json!([name, hexadecimal(page.disruption_marker), hexadecimal(page.vm_generation_counter)]))
        .collect();
    ensure!(heard == expected, "announced {heard:?}, and not {expected:?}");
    Ok(())
}

/// Linux's own driver, with a file that is open across an unbinding: known, and here to show that this kernel would
/// have seen it of ours.
fn use_after_free(lab: &Lab, kernel: &Kernel) -> Result<String> {
    let mut machine = boot(lab, kernel, "uaf", "1s")?;
    // Whatever it answers, or whether it answers at all.
    let answer = machine.ask_within(Duration::from_secs(60), "driver outlive");
    let complaints = complaints(&machine)?;
    let seen = complaints.iter().find(|line| line.contains("use-after-free"));
    let seen =
        seen.with_context(|| format!("no report of a use after free (is it repaired?); the guest says {answer:?}"))?;
    Ok(format!("Linux's own driver, read after unbind: {}", seen.trim()))
}

/// The same with our series of patches for it, which does not use freed memory, nor get times wrong.
fn c_fixed(lab: &Lab, kernel: &Kernel) -> Result<String> {
    let mut machine = boot(lab, kernel, "fixed", "10ms")?;
    let left = machine
        .while_publisher_stands(|machine| machine.ask_within(LONG, "driver outlive"))
        .map_err(|error| machine.explain(error))?;
    let expected = json!({ "read": "ENODEV", "poll": "HUP ERR", "mapping": true, "events": [true, true, false] });
    ensure!(left == expected, "after unbind: {left}");
    ensure!(machine.ask("driver bind c")? == "bound", "it cannot be bound again");
    let done = machine.ask_within(LONG, &format!("driver churn c {CYCLES_FIXED}"))?;
    let (machine, times) = drivers::times_that_were_wrong(lab, machine)?;
    let complaints = complaints(&machine)?;
    let figures = format!(
        "{} bind and unbind cycles; read after unbind: ENODEV; PTP time before the reference time: {}, with shift 200: {}; the \
         kernel complains {} times",
        done["cycles"],
        times[0],
        times[1],
        complaints.len()
    );
    ensure!(complaints.is_empty(), "{figures}: {}", complaints.join("\n"));
    ensure!(times == ["right", "EINVAL"], "{figures}");
    machine.quit()?;
    Ok(figures)
}
