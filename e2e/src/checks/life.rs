// SPDX-License-Identifier: MIT OR Apache-2.0
//! The life of a guest: it is notified, migrates to another QEMU, is saved, and is restored three times.

use anyhow::{ensure, Context, Result};
use serde_json::json;

use crate::machine::{Clock, Kernel, Machine};
use crate::patience::{until, PATIENCE};
use crate::report::Report;
use crate::Lab;

use super::judge::Begun;
use super::{is_new, notify};

/// Refreshes are rare, so that updates are those that the checks make.
const OPTIONS: [&str; 3] = ["--second-page", "--refresh", "10s"];
const RESTORES: u32 = 3;

pub(super) fn run(lab: &Lab, kernel: &Kernel, report: &mut Report) {
    let name = |check: &str| format!("{} {check}", kernel.version);
    let mut booted = None;
    report.check(&name("boot-again"), || {
        let (machine, line) = Machine::boot_calibrated(lab, kernel, "source", &Clock::Ours(&OPTIONS))?;
        booted = Some(machine);
        Ok(format!("the guest's counter is known within {} ns", line["window_ns"]))
    });
    let Some(mut machine) = booted else { return };
    if is_new(kernel) {
        report.check_on(&mut machine, &name("poll"), |machine| notify::poll(lab, machine));
    }
    report.check_on(&mut machine, &name("watch"), |machine| notify::watch(lab, machine, "watch"));
    if lab.c_program.is_some() {
        let program = if is_new(kernel) { "c-watch 1" } else { "c-watch 0" };
        report.check_on(&mut machine, &name("c-watch"), |machine| notify::watch(lab, machine, program));
    }
    let mut migrated = None;
    report.check(&name("migration"), || {
        let (destination, figures) = migrate(lab, kernel, machine)?;
        migrated = Some(destination);
        Ok(figures)
    });
    report.check(&name("snapshot"), || {
        let machine = migrated.context("there is no migrated machine to save")?;
        snapshot(lab, kernel, machine)
    });
}

/// A live migration: one disruption, and no reading wrong.
fn migrate(lab: &Lab, kernel: &Kernel, mut source: Machine) -> Result<(Machine, String)> {
    source.ask("watch")?;
    let observation = Begun::begin(&mut source)?;
    let socket = source.path("migration");
    let uri = format!("unix:{}", socket.display());
    let mut destination = Machine::incoming(lab, kernel, "destination", &OPTIONS, &uri)?;
    let outcome = (|| {
        destination.wait_for("incoming")?;
        until("the destination listens", PATIENCE, || Ok(socket.exists()))?;
        save(&mut source, &uri)?;
        let stopped = observation.guest_counter();
        let line = destination.wait_for("calibrated")?;
        let figures = observation.end(&mut destination, stopped)?.judge(lab, &["disrupted"])?;
        let watched = notify::watched(&mut destination, 1)?;
        ensure!(watched == ["disrupted"], "`vmclock watch` printed {watched:?}");
        Ok(format!("{figures}; watch: {watched:?}; counter known within {} ns", line["window_ns"]))
    })();
    let figures = outcome.map_err(|error| destination.explain(error))?;
    source.quit()?;
    Ok((destination, figures))
}

/// Saved once, restored three times: each a disruption and a restore, with a generation that was never there before.
fn snapshot(lab: &Lab, kernel: &Kernel, mut machine: Machine) -> Result<String> {
    machine.ask("watch")?;
    let mut generations = vec![machine.region()?.page()?.vm_generation_counter];
    let file = machine.path("snapshot");
    let uri = format!("file:{}", file.display());
    let observation = Begun::begin(&mut machine)?;
    machine.qmp.run("stop", &json!({}))?;
    let stopped = observation.guest_counter();
    save(&mut machine, &uri)?;
    machine.quit()?;

    let mut all = Vec::new();
    for restore in 1..=RESTORES {
        let mut restored = Machine::incoming(lab, kernel, &format!("restored-{restore}"), &OPTIONS, &uri)?;
        let outcome = (|| {
            restored.wait_for("calibrated")?;
            let seen = observation.end(&mut restored, stopped)?;
            let figures = seen.judge(lab, &["disrupted", "restored"])?;
            generations.push(seen.generation()?);
            let watched = notify::watched(&mut restored, 2)?;
            ensure!(watched == ["disrupted", "restored"], "`vmclock watch` printed {watched:?}");
            Ok(figures)
        })();
        all.push(outcome.map_err(|error| restored.explain(error))?);
        restored.quit()?;
    }
    let count = generations.len();
    generations.sort_unstable();
    generations.dedup();
    ensure!(generations.len() == count, "a generation came twice: {generations:x?}");
    Ok(format!("{count} generations, all different; restored: {}", all.join("; again: ")))
}

/// A snapshot that is saved and loaded in one process, which takes the page back to what it was: seen as a restore,
/// each time.
pub(super) fn load(lab: &Lab, kernel: &Kernel) -> Result<String> {
    Machine::boot(lab, kernel, "load", &Clock::Ours(&OPTIONS))?.do_and_quit(|machine| {
        machine.wait_for("calibrated")?;
        let disk = machine.path("disk").display().to_string();
        machine.qmp.make_disk("disk", &disk)?;
        let mut generations = vec![machine.region()?.page()?.vm_generation_counter];
        let job = |name: &str| json!({ "job-id": name, "tag": "saved", "vmstate": "disk", "devices": ["disk"] });
        machine.ask("watch")?;
        machine.qmp.run_job("snapshot-save", &job("save"))?;
        for round in 1..=2 {
            machine.forget_lines();
            machine.qmp.run_job("snapshot-load", &job(&format!("load-{round}")))?;
            machine.wait_for("snapshot-loaded")?;
            machine.wait_for("calibrated")?;
            generations.push(machine.region()?.page()?.vm_generation_counter);
        }
        // Saved with all else, and so it has seen the last load only.
        let watched = notify::watched(machine, 2)?;
        ensure!(watched == ["disrupted", "restored"], "`vmclock watch` printed {watched:?}");
        let seen = machine.ask("fields")?;
        ensure!(seen["now"].is_null(), "the page gives no time: {}", seen["now"]);
        let count = generations.len();
        generations.sort_unstable();
        generations.dedup();
        ensure!(generations.len() == count, "a generation came twice: {generations:x?}");
        Ok(format!("{count} generations, all different"))
    })
}

/// Sends a machine's state somewhere.
pub(super) fn save(machine: &mut Machine, uri: &str) -> Result<()> {
    let capabilities = json!({ "capabilities": [{ "capability": "events", "state": true }] });
    machine.qmp.run("migrate-set-capabilities", &capabilities)?;
    // A machine that itself came from somewhere has said before that a migration is complete.
    machine.qmp.forget_events();
    machine.qmp.run("migrate", &json!({ "uri": uri }))?;
    machine.qmp.wait_for_migration()
}
