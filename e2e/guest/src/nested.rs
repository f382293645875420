// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest of KVM in a machine that is a guest itself: the outer one runs QEMU with KVM, the inner one measures.
//!
//! Nobody talks to them: the console is the outer's, to which the inner one writes too.
#![forbid(unsafe_code)]

use std::ffi::CString;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{ensure, Context, Result};
use rustix::mount::{mount, MountFlags};
use rustix::system::{reboot, RebootCommand};
use serde_json::json;
use vmclock_e2e_guest::{INNER_IMAGE, INNER_INITRAMFS, MEASURE, MEASURED, MODULES};

use crate::{boot, driver, ptp};

/// Where a counter becomes the system's clock.
const CLOCKSOURCE: &str = "/sys/devices/system/clocksource/clocksource0";
/// The two that a guest of KVM has; the page is about the latter.
const CLOCKSOURCES: [&str; 2] = ["kvm-clock", "tsc"];

/// What this machine is there for, if it is one of the two.
pub(crate) fn run() -> Result<bool> {
    let line = fs::read_to_string("/proc/cmdline").context("no command line of the kernel")?;
    let word = line.split_whitespace().find_map(|word| word.strip_prefix(MEASURE)?.strip_prefix('='));
    match word {
        Some("outer") => outer()?,
        Some(count) => inner(count.parse().with_context(|| format!("no number in {line:?}"))?)?,
        None => return Ok(false),
    }
    Ok(true)
}

/// Switches the machine off.
pub(crate) fn end() {
    rustix::fs::sync();
    let _ = reboot(RebootCommand::PowerOff);
    let _ = reboot(RebootCommand::Restart);
}

fn outer() -> Result<()> {
    mount("debugfs", "/sys/kernel/debug", "debugfs", MountFlags::empty(), None).context("cannot mount debugfs")?;
    for module in MODULES {
        let path = format!("/{module}.ko.xz");
        let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        boot::load(&file, &CString::default()).with_context(|| format!("cannot load {path}"))?;
    }
    ensure!(Path::new("/dev/kvm").exists(), "there is no /dev/kvm: this CPU has no virtualization");
    // Like the host's clock, as far as anybody here knows: what is measured are differences.
    let mut command = Command::new("/vmclock");
    command.args(["qemu", "--page", "/tmp/page", "--reference", "host-clock", "--tai-offset=-37", "--"]);
    command.args(["/usr/bin/qemu-system-x86_64", "-L", "/firmware", "-machine", "q35", "-nodefaults"]);
    command.args(["-accel", "kvm", "-cpu", "host", "-smp", "1", "-m", "512", "-display", "none", "-no-reboot"]);
    command.args(["-serial", "file:/dev/ttyS0", "-kernel", INNER_IMAGE, "-initrd", INNER_INITRAMFS, "-append"]);
    let line = fs::read_to_string("/inner-line")?;
    let status = command.arg(line.trim()).stdin(Stdio::null()).status().context("cannot start the vmclock command")?;
    ensure!(status.success(), "`vmclock qemu` ended: {status}");
    Ok(())
}

/// Both drivers with both clock sources, a line each.
fn inner(count: usize) -> Result<()> {
    let loaded = driver::load_ours()?;
    ensure!(loaded == "loaded", "our driver cannot be loaded: {loaded}");
    for source in CLOCKSOURCES {
        let current = format!("{CLOCKSOURCE}/current_clocksource");
        fs::write(&current, source).with_context(|| format!("cannot make {source} the clock source"))?;
        let now = fs::read_to_string(&current)?;
        ensure!(now.trim() == source, "the clock source is {now:?}, not {source}");
        for driver in ["c", "rust"] {
            driver::bind_to(driver)?;
            let found = ptp::precise_many(count).with_context(|| format!("{driver} with {source}"))?;
            println!("{MEASURED} {}", json!({ "clocksource": source, "driver": driver, "found": found }));
        }
    }
    Ok(())
}
