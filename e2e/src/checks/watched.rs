// SPDX-License-Identifier: MIT OR Apache-2.0
//! A kernel that watches its memory and its locks, while drivers are bound and unbound under load.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{ensure, Context, Result};

use crate::machine::{Clock, Kernel, Machine};
use crate::report::Report;
use crate::Lab;

use super::hostile;

const CYCLES: u32 = 200;
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

pub(super) fn run(lab: &Lab, kernel: &Kernel, driver: &Path, report: &mut Report) {
    let ours = Kernel { other: Some(driver.to_owned()), warns: true, ..kernel.clone() };
    report.check("kasan rust", || churn(lab, &ours));
    report.check("kasan c", || use_after_free(lab, &ours));
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

/// Our driver, bound and unbound with files open, mapped, polled and shown, while the page is updated; then every hostile page.
fn churn(lab: &Lab, kernel: &Kernel) -> Result<String> {
    let mut machine = boot(lab, kernel, "churn", "2ms")?;
    ensure!(machine.ask("driver load")? == "loaded", "our driver cannot be loaded");
    ensure!(machine.ask("driver bind rust")? == "bound", "our driver cannot be bound");
    let before = machine.region()?.page()?.seq_count;
    let done = machine.ask_within(LONG, &format!("driver churn rust {CYCLES}"))?;
    let updates = machine.region()?.page()?.seq_count.wrapping_sub(before) / 2;
    let seen = done["seen"].as_object().with_context(|| format!("the guest does not say what it saw: {done}"))?;
    let hostile = hostile::run_rust(&mut machine).map_err(|error| machine.explain(error))?;
    let leaks = machine.ask_within(LONG, "driver leaks")?;
    let leaks: Vec<_> = leaks.as_str().context("no text")?.split("unreferenced object").collect();
    let leaks: Vec<_> = leaks.into_iter().filter(|object| object.contains("vmclock")).collect();
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

/// Linux's own driver, with a file that is open across an unbinding: known, and here to show that this kernel would have seen it of ours.
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
