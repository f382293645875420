// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest on arm64, whose kernel has Linux's own driver built in and finds the clock by its device tree: our library
//! there, what our driver must not take, and the two drivers compared.

use anyhow::{ensure, Context, Result};
use vmclock_core::abi::{Flags, Snapshot};

use crate::arm::{Arm, OTHER_NODES};
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
        files: Vec::new(),
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
    report.check_on(&mut machine, "arm64-rust spurious", spurious);
    report.check_on(&mut machine, "arm64-rust silent", silent);
    report.check_on(&mut machine, "arm64-rust nodes", nodes);
    report.check_on(&mut machine, "arm64-rust hostile", hostile::run_rust);
    drivers::compare(lab, machine, &kernel.version, report);
}

/// The clock's line of /proc/interrupts: the number of the interrupt, and how often there was one.
fn line(machine: &mut Machine) -> Result<Option<(String, u64)>> {
    let table = machine.ask("interrupts")?;
    let table = table.as_str().context("no text")?;
    let Some(line) = table.lines().find(|line| line.ends_with("vmclock")) else { return Ok(None) };
    let mut words = line.split_whitespace();
    let number =
        words.next().and_then(|number| number.strip_suffix(':')).with_context(|| format!("no number: {line}"))?;
    let count = words.next().and_then(|count| count.parse().ok()).with_context(|| format!("no count: {line}"))?;
    Ok(Some((number.to_owned(), count)))
}

/// It counts one for each update.
fn interrupt(lab: &Lab, machine: &mut Machine) -> Result<String> {
    let count = |machine: &mut Machine| -> Result<u64> { Ok(line(machine)?.context("no interrupt named vmclock")?.1) };
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

/// An interrupt without an update is not ours.
fn spurious(machine: &mut Machine) -> Result<String> {
    let (number, _) = line(machine)?.context("no interrupt named vmclock")?;
    let unhandled = |machine: &mut Machine| -> Result<u64> {
        let text = machine.ask(&format!("unhandled {number}"))?;
        text.as_u64().with_context(|| format!("no count: {text}"))
    };
    let before = unhandled(machine)?;
    machine.ring()?;
    let mut after = before;
    until("the interrupt counts as nobody's", PATIENCE, || {
        after = unhandled(machine)?;
        Ok(after != before)
    })?;
    Ok(format!("{after} unhandled, {before} before"))
}

/// A page that does not notify has no interrupt.
fn silent(machine: &mut Machine) -> Result<String> {
    let kept = machine.region()?.bytes()?;
    let mut page = Snapshot::from_bytes(&kept);
    page.flags = page.flags.without(Flags::NOTIFICATION_PRESENT);
    machine.region()?.set_bytes(&page.to_bytes())?;
    let bound = machine.ask("driver bind rust")?;
    let found = line(machine)?;
    machine.region()?.set_bytes(&kept)?;
    let bound_again = machine.ask("driver bind rust")?;
    ensure!(bound == "bound" && bound_again == "bound", "binding gives {bound}, then {bound_again}");
    ensure!(found.is_none(), "there is an interrupt of a page that does not notify: {found:?}");
    ensure!(line(machine)?.is_some(), "there is none of a page that does");
    Ok("no interrupt of a page that does not notify, one of a page that does".to_owned())
}

/// Nodes like the clock's: with memory that no page can be in, each is refused; pages in the others are taken. Each
/// with one line that says so.
fn nodes(machine: &mut Machine) -> Result<String> {
    let clock = machine.region()?.page()?;
    for node in &OTHER_NODES {
        node.fill(&machine.path(""), &clock)?;
    }
    let tried = machine.ask("refusals")?;
    let tried = tried.as_object().context("no object")?;
    ensure!(tried.len() == OTHER_NODES.len(), "the guest has other devices than the tree: {tried:?}");
    let mut reasons = Vec::new();
    for node in &OTHER_NODES {
        let (name, says) = (node.name, node.says);
        let (device, outcome) =
            tried.iter().find(|(device, _)| device.contains(name)).with_context(|| format!("no device {name:?}"))?;
        let is_bound = outcome["answer"] == "bound";
        ensure!(is_bound == node.page.is_some(), "{device}: binding gives {}: {}", outcome["answer"], outcome["log"]);
        let lines = items(outcome, "log")?;
        let line = match &lines[..] {
            [line] => line.as_str().unwrap_or_default(),
            _ => anyhow::bail!("{device} ({}) has {} lines: {lines:?}", outcome["answer"], lines.len()),
        };
        ensure!(line.contains("ptp_vmclock_rust") && line.contains(says), "{device}: {line:?} does not say {says:?}");
        reasons.push(format!("{name}: {}", outcome["answer"].as_str().unwrap_or_default()));
    }
    Ok(format!("{}, each with one line", reasons.join(", ")))
}
