// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ACPI table of ours, and the device of QEMU's own.

use std::path::Path;
use std::process::Command;

use anyhow::{ensure, Context, Result};
use vmclock_core::abi::{Snapshot, STRUCTURE_LEN};

use crate::machine::{Clock, Kernel, Machine};
use crate::Lab;

use super::{live, notify};

/// The table is what ACPI's own disassembler understands without a complaint.
pub(super) fn table(lab: &Lab, iasl: &Path) -> Result<String> {
    let table = lab.folder.join("table.aml");
    let run = |command: &mut Command| -> Result<String> {
        let output = command.output().with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{} failed: {said}", command.get_program().display());
        Ok(said)
    };
    let mut print = Command::new(&lab.vmclock);
    print.args(["qemu", "--print-args", "--page"]).arg(lab.folder.join("table.page")).arg("--table").arg(&table);
    run(print.arg("--").arg(&lab.qemu).args(["-machine", "q35", "-accel", "tcg"]))?;
    let said = run(Command::new(iasl).arg("-d").arg(&table))?;
    let source = table.with_extension("dsl");
    let source =
        std::fs::read_to_string(&source).with_context(|| format!("iasl wrote no {}: {said}", source.display()))?;
    for word in ["AMZNC10C", "VMCLOCK"] {
        ensure!(source.contains(word), "the table does not say {word}:\n{source}");
    }
    let complaint = said.lines().chain(source.lines()).find(|line| line.contains("Error") || line.contains("Warning"));
    ensure!(complaint.is_none(), "iasl complains: {complaint:?}");
    Ok(format!("{} bytes, {} lines", std::fs::metadata(&table)?.len(), source.lines().count()))
}

/// QEMU's own device has a marker and no time, which is no error.
pub(super) fn stock(lab: &Lab, kernel: &Kernel) -> Result<String> {
    Machine::boot(lab, kernel, "stock", &Clock::Stock)?.do_and_quit(|machine| {
        let seen = machine.ask("fields")?;
        let page = Snapshot::from_bytes(&parse(seen["mmap"].as_str().context("no page over mmap")?)?);
        ensure!(seen["mmap"] == seen["read"], "mmap and read differ: {seen}");
        let reason = seen["now"].as_str().context("QEMU's own device gives a time?")?.to_owned();
        let shown = machine.ask("vmclock show")?;
        ensure!(shown["status"] == 0, "`vmclock show` failed: {shown}");
        Ok(format!("marker {:#x}; {reason}", page.disruption_marker))
    })
}

/// A page that the guest cannot write, as an NVDIMM.
pub(super) fn read_only(lab: &Lab, kernel: &Kernel) -> Result<String> {
    live_on(lab, kernel, "read-only", &["--read-only-page"], &[])
}

/// The older chipset.
pub(super) fn pc(lab: &Lab, kernel: &Kernel) -> Result<String> {
    live_on(lab, kernel, "pc", &[], &["-machine", "pc"])
}

/// Another machine: the page is as published, and the guest is notified.
fn live_on(lab: &Lab, kernel: &Kernel, name: &str, options: &[&str], extra: &[&str]) -> Result<String> {
    Machine::boot_with(lab, kernel, name, &Clock::Ours(options), extra)?.do_and_quit(|machine| {
        machine.wait_for("calibrated")?;
        let fields = live::fields(machine)?;
        Ok(format!("{fields}; {}", notify::watch(lab, machine, "watch")?))
    })
}

fn parse(hex: &str) -> Result<[u8; STRUCTURE_LEN]> {
    let mut bytes = [0; STRUCTURE_LEN];
    ensure!(hex.len() == 2 * STRUCTURE_LEN, "{hex:?} is no page");
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * index..2 * index + 2], 16)?;
    }
    Ok(bytes)
}
