// SPDX-License-Identifier: MIT OR Apache-2.0
//! The `vmclock` command, which the harness put into the initramfs.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use serde_json::{json, Value};

pub(crate) const COMMAND: &str = "/vmclock";
const C_PROGRAM: &str = "/c-program";
const WATCHED: &str = "/tmp/watched";
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs the command and says what became of it.
pub(crate) fn run(arguments: &[&str]) -> Result<Value> {
    let output = Command::new(COMMAND).args(arguments).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {COMMAND}"))?;
    Ok(json!({
        "status": output.status.code(),
        "stdout": String::from_utf8_lossy(&output.stdout),
        "stderr": String::from_utf8_lossy(&output.stderr),
    }))
}

/// Runs the program in C, which prints JSON.
pub(crate) fn run_c_program(arguments: &[&str]) -> Result<Value> {
    let output = Command::new(C_PROGRAM).args(arguments).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {C_PROGRAM}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the program in C: {}: {complaint}", output.status);
    serde_json::from_slice(&output.stdout).context("the program in C prints no JSON")
}

/// `vmclock watch`, or the program in C that prints events alike, running.
pub(crate) struct Watch {
    child: Child,
}

impl Watch {
    pub(crate) fn start() -> Result<Self> {
        Self::start_program(COMMAND, &["watch", "--json"])
    }

    /// `notified` is `1` where the device is to notify, or `0`.
    pub(crate) fn start_c(notified: &str) -> Result<Self> {
        Self::start_program(C_PROGRAM, &["events", notified])
    }

    fn start_program(program: &str, arguments: &[&str]) -> Result<Self> {
        let file = File::create(WATCHED).with_context(|| format!("cannot write {WATCHED}"))?;
        let errors = file.try_clone()?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(file).stderr(errors);
        let watch = Self { child: command.spawn().with_context(|| format!("cannot run {program}"))? };
        ensure!(watch.comes_to_wait_after(0), "{program} does not come to wait for events");
        Ok(watch)
    }

    /// Waits until it has printed so many events, changes of the status aside, and waits for the next one.
    fn comes_to_wait_after(&self, events: usize) -> bool {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if events_printed() >= events && self.is_waiting() {
                return true;
            }
            sleep(Duration::from_millis(1));
        }
        false
    }

    /// Whether it has looked at the page and sleeps until something happens: it has an epoll, and sleeps.
    fn is_waiting(&self) -> bool {
        let proc = format!("/proc/{}", self.child.id());
        let links = fs::read_dir(format!("{proc}/fd")).into_iter().flatten().flatten();
        let mut targets = links.filter_map(|link| fs::read_link(link.path()).ok());
        let stat = fs::read_to_string(format!("{proc}/stat")).unwrap_or_default();
        targets.any(|target| target.to_string_lossy().contains("eventpoll")) && stat.contains(") S ")
    }

    /// Waits for so many events, as long as there is hope: whoever asked compares the lines.
    pub(crate) fn saw(&self, events: usize) -> Value {
        self.comes_to_wait_after(events).into()
    }

    /// Ends it, and gives its lines.
    pub(crate) fn stop(mut self) -> Result<Value> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(fs::read_to_string(WATCHED)?.lines().collect())
    }
}

fn events_printed() -> usize {
    let lines = fs::read_to_string(WATCHED).unwrap_or_default();
    let names = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    names.filter(|line| line["event"].as_str().is_some_and(|name| name != "status")).count()
}
