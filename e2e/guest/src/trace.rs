// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel traces of the drivers' work.
#![forbid(unsafe_code)]

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use rustix::mount::{mount, MountFlags};
use serde_json::{json, Value};

const FOLDER: &str = "/sys/kernel/tracing";
/// How long nothing is done before the drivers count as at rest; and how long that may take to come.
const AT_REST: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(120);

/// How often a workqueue did work of a VMClock driver within a time from now on; and, before that, of which kinds the
/// timers of delayed work are that were started since the last question.
pub(crate) fn work_within(span: Duration) -> Result<Value> {
    let path = |name: &str| format!("{FOLDER}/{name}");
    if !fs::exists(path("trace"))? {
        mount("tracefs", FOLDER, "tracefs", MountFlags::empty(), None).context("cannot mount tracefs")?;
    }
    fs::write(path("events/workqueue/workqueue_execute_start/enable"), "1")?;
    fs::write(path("tracing_on"), "1")?;
    // What was queued before is done first.
    let start = Instant::now();
    loop {
        fs::write(path("trace"), "")?;
        sleep(AT_REST);
        if count(&fs::read_to_string(path("trace"))?) == 0 {
            break;
        }
        ensure!(start.elapsed() < PATIENCE, "the drivers have work without an end");
    }
    sleep(span);
    Ok(json!(count(&fs::read_to_string(path("trace"))?)))
}

/// Their functions are the modules' own.
fn count(trace: &str) -> usize {
    trace.lines().filter(|line| line.contains("workqueue_execute_start") && line.contains("[ptp_vmclock")).count()
}
