// SPDX-License-Identifier: MIT OR Apache-2.0
//! A kernel in which allocations fail on demand, and that can pretend to sleep.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{ensure, Context, Result};
use rustix::io::Errno;
use rustix::mount::{mount, MountFlags};
use serde_json::{json, Value};

use crate::driver::name;

const DEBUG: &str = "/sys/kernel/debug";
const FAILSLAB: &str = "/sys/kernel/debug/failslab";
/// The allocation of this thread that is to fail, counted from now on.
const NTH: &str = "/proc/thread-self/fail-nth";
const MODULE: &str = "ptp_vmclock_rust";
/// More allocations than anything here makes.
const MANY: u32 = 20_000;

pub(crate) fn mount_debugfs() -> Result<()> {
    if !fs::exists(format!("{DEBUG}/kmemleak"))? {
        mount("debugfs", DEBUG, "debugfs", MountFlags::empty(), None).context("cannot mount debugfs")?;
    }
    Ok(())
}

fn set(name: &str, value: &str) -> Result<()> {
    fs::write(format!("{FAILSLAB}/{name}"), value).with_context(|| format!("cannot set {name} to {value}"))
}

fn prepare() -> Result<()> {
    mount_debugfs()?;
    // The kernel would print a stack for each; and those that may sleep fail too.
    set("verbose", "0")?;
    set("ignore-gfp-wait", "N")
}

/// Binds a device by writing its name to a file, with the first allocation failing, then the second, and so on until
/// none does. Gives how often that was, how often binding failed, and how.
pub(crate) fn each_allocation(bind: &Path, device: &str, unbind: impl Fn() -> Result<()>) -> Result<Value> {
    prepare()?;
    // Whatever this thread allocates counts: nothing is opened in between.
    let bind = File::options().write(true).open(bind).with_context(|| format!("cannot open {}", bind.display()))?;
    let counter = File::options().read(true).write(true).open(NTH).with_context(|| format!("cannot open {NTH}"))?;
    let (mut failed, mut outcomes) = (0, Vec::new());
    for nth in 1..=MANY {
        unbind()?;
        counter.write_at(nth.to_string().as_bytes(), 0).with_context(|| format!("cannot write {NTH}"))?;
        let bound = bind.write_at(device.as_bytes(), 0);
        let mut left = [0; 16];
        let len = counter.read_at(&mut left, 0)?;
        counter.write_at(b"0", 0)?;
        let outcome = bound.map_err(|error| Errno::from_io_error(&error).map_or(error.to_string(), name));
        // There was no such allocation any more.
        if left[..len].trim_ascii() != b"0" {
            ensure!(outcome.is_ok(), "without a failing allocation, binding gives {outcome:?}");
            return Ok(json!({ "allocations": nth - 1, "failed": failed, "outcomes": outcomes }));
        }
        if let Err(outcome) = outcome {
            failed += 1;
            if !outcomes.contains(&outcome) {
                outcomes.push(outcome);
            }
        }
    }
    anyhow::bail!("binding never ends to allocate")
}

/// Lets every allocation fail that our driver asks for, whatever is in between; or none any more.
pub(crate) fn all_allocations(fail: bool) -> Result<Value> {
    prepare()?;
    let modules = fs::read_to_string("/proc/modules")?;
    let line = modules.lines().find(|line| line.starts_with(MODULE)).context("our driver is not loaded")?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, size, .., address, _tainted] = words[..] else { anyhow::bail!("no address in {line:?}") };
    let start = u64::from_str_radix(address.trim_start_matches("0x"), 16).with_context(|| format!("{line:?}"))?;
    ensure!(start != 0, "the kernel does not tell where our driver is: {line:?}");
    set("require-start", &format!("{start:#x}"))?;
    set("require-end", &format!("{:#x}", start + size.parse::<u64>()?))?;
    set("stacktrace-depth", "32")?;
    set("times", "-1")?;
    set("probability", if fail { "100" } else { "0" })?;
    Ok(Value::Null)
}

/// Suspends as far as freezing all other programs, and goes on after a moment. Devices stay as they are: the port to
/// the harness is one.
pub(crate) fn suspend() -> Result<Value> {
    for (file, value) in [
        ("/sys/module/suspend/parameters/pm_test_delay", "1"),
        ("/sys/power/pm_test", "freezer"),
        ("/sys/power/state", "freeze"),
    ] {
        fs::write(file, value).with_context(|| format!("cannot write {value} to {file}"))?;
    }
    Ok("resumed".into())
}
