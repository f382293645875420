// SPDX-License-Identifier: MIT OR Apache-2.0
//! A QEMU that somebody else starts and tells what to do, as libvirt does.

use anyhow::{ensure, Result};
use serde_json::json;
use vmclock_core::abi::ClockStatus;

use crate::machine::{Kernel, Machine};
use crate::patience::{until, PATIENCE};
use crate::report::Report;
use crate::Lab;

use super::judge::Begun;
use super::{life, notify};

pub(super) fn run(lab: &Lab, kernel: &Kernel, report: &mut Report) {
    report.check(&format!("{} attach", kernel.version), || {
        let mut machine = Machine::attached(lab, kernel, "attach", &[])?;
        let outcome = guest(lab, kernel, &mut machine);
        outcome.map_err(|error| machine.explain(error))
    });
}

fn guest(lab: &Lab, kernel: &Kernel, machine: &mut Machine) -> Result<String> {
    machine.wait_for("standing")?;
    machine.qmp.run("cont", &json!({}))?;
    machine.wait_until_ready()?;
    machine.wait_for("calibrated")?;

    // It is notified, it is paused and resumed, and it is saved.
    let watched = notify::watch(lab, machine, "watch")?;
    machine.qmp.run("stop", &json!({}))?;
    machine.wait_for("paused")?;
    machine.qmp.run("cont", &json!({}))?;
    machine.wait_for("calibrated")?;
    machine.ask("watch")?;
    let observation = Begun::begin(machine)?;
    machine.qmp.run("stop", &json!({}))?;
    let stopped = observation.guest_counter();
    let file = machine.path("snapshot");
    let uri = format!("file:{}", file.display());
    life::save(machine, &uri)?;
    machine.qmp.run("quit", &json!({}))?;
    machine.wait_for("ended")?;
    let status = machine.region()?.page()?.clock_status;
    ensure!(status == ClockStatus::UNRELIABLE, "QEMU is gone, and the page says {status}");

    // Whoever restores it names the file only then.
    let mut restored = Machine::attached(lab, kernel, "attach-restored", &["-incoming", "defer"])?;
    let outcome = (|| {
        restored.wait_for("incoming")?;
        restored.qmp.run("migrate-incoming", &json!({ "uri": uri }))?;
        restored.wait_for("loaded")?;
        restored.qmp.run("cont", &json!({}))?;
        restored.wait_for("calibrated")?;
        let figures = observation.end(&mut restored, stopped)?.judge(lab, &["disrupted", "restored"])?;
        let seen = notify::watched(&mut restored, 2)?;
        ensure!(seen == ["disrupted", "restored"], "`vmclock watch` printed {seen:?}");
        Ok(figures)
    })();
    let figures = outcome.map_err(|error| restored.explain(error))?;
    restored.qmp.run("quit", &json!({}))?;
    until("the publishers have ended", PATIENCE, || Ok(machine.has_ended()? && restored.has_ended()?))?;
    Ok(format!("{watched}; saved and restored: {figures}"))
}
