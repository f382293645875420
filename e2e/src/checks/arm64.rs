// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest on arm64, whose kernel has Linux's own driver built in and finds the clock by its device tree: our library
//! there, what our driver must not take, and the two drivers compared.

use anyhow::{ensure, Context, Result};

use crate::arm::{Arm, BAD_NODES};
use crate::machine::{Clock, Kernel, Machine};
use crate::patience::{until, PATIENCE};
use crate::report::Report;
use crate::Lab;

use super::{drivers, hostile, items, live};

pub(super) fn run(lab: &Lab, arm: &Arm, report: &mut Report) {
    let kernel = Kernel {
        version: "arm64".to_owned(),
        image: arm.kernel.clone(),
        driver: None,
        other: Some(arm.driver.clone()),
        warns: false,
    };
    let mut booted = None;
    report.check("arm64 boot", || {
        let mut machine = Machine::boot(lab, &kernel, "tree", &Clock::Tree(arm))?;
        let off = machine.calibrate(lab)?;
        booted = Some(machine);
        Ok(format!("the guest's counter is known within {off} ns"))
    });
    let Some(mut machine) = booted else { return };
    let our_reader = |machine: &mut Machine, name: &str, report: &mut Report| {
        report.check_on(machine, &format!("{name} fields"), live::fields);
        report.check_on(machine, &format!("{name} ptp"), |machine| {
            // What runs for the first time TCG translates first, between two readings that belong together.
            machine.ask("ptp 20")?;
            live::ptp(machine, &mut None)
        });
        report.check_on(machine, &format!("{name} interrupt"), |machine| interrupt(lab, machine));
    };
    our_reader(&mut machine, "arm64", report);
    if !report.check_on(&mut machine, "arm64 drivers load", drivers::load_ours) {
        return;
    }
    // It has the device now.
    our_reader(&mut machine, "arm64-rust", report);
    report.check_on(&mut machine, "arm64-rust refusals", refusals);
    report.check_on(&mut machine, "arm64-rust hostile", hostile::run_rust);
    drivers::compare(lab, machine, &kernel.version, report);
}

/// The clock's line of /proc/interrupts counts one for each update.
fn interrupt(lab: &Lab, machine: &mut Machine) -> Result<String> {
    let count = |machine: &mut Machine| -> Result<u64> {
        let table = machine.ask("interrupts")?;
        let table = table.as_str().context("no text")?;
        let line = table.lines().find(|line| line.ends_with("vmclock")).context("no interrupt named vmclock")?;
        line.split_whitespace().nth(1).and_then(|count| count.parse().ok()).with_context(|| format!("no count: {line}"))
    };
    let before = count(machine)?;
    machine.signal(lab, "clear")?;
    let mut after = before;
    until("the update's interrupt is counted", PATIENCE, || {
        after = count(machine)?;
        Ok(after != before)
    })?;
    ensure!(after == before + 1, "before an update {before}, after it {after}");
    Ok(format!("{after}, one more with an update"))
}

/// Nodes like the clock's, with memory that no page can be in: each is refused with one line that says why.
fn refusals(machine: &mut Machine) -> Result<String> {
    let tried = machine.ask("refusals")?;
    let tried = tried.as_object().context("no object")?;
    ensure!(tried.len() == BAD_NODES.len(), "the guest has other devices than the tree: {tried:?}");
    let mut reasons = Vec::new();
    for (name, _, reason) in BAD_NODES {
        let (device, outcome) =
            tried.iter().find(|(device, _)| device.contains(name)).with_context(|| format!("no device {name:?}"))?;
        ensure!(outcome["answer"] != "bound", "{device} is bound");
        let lines = items(outcome, "log")?;
        let line = match &lines[..] {
            [line] => line.as_str().unwrap_or_default(),
            _ => anyhow::bail!("{device} ({}) is refused with {} lines: {lines:?}", outcome["answer"], lines.len()),
        };
        ensure!(
            line.contains("ptp_vmclock_rust") && line.contains(reason),
            "{device}: {line:?} does not say {reason:?}"
        );
        reasons.push(format!("{name}: {}", outcome["answer"].as_str().unwrap_or_default()));
    }
    Ok(format!("{}, each with one line", reasons.join(", ")))
}
