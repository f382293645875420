// SPDX-License-Identifier: MIT OR Apache-2.0
//! The `vmclock` command, which the harness put into the initramfs.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use serde_json::{json, Value};

const COMMAND: &str = "/vmclock";
const WATCHED: &str = "/tmp/watched";

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

/// `vmclock watch`, running.
pub(crate) struct Watch {
    child: Child,
}

impl Watch {
    pub(crate) fn start() -> Result<Self> {
        let file = File::create(WATCHED).with_context(|| format!("cannot write {WATCHED}"))?;
        let errors = file.try_clone()?;
        let mut command = Command::new(COMMAND);
        command.args(["watch", "--json"]).stdin(Stdio::null()).stdout(file).stderr(errors);
        let watch = Self { child: command.spawn().with_context(|| format!("cannot run {COMMAND}"))? };
        let start = Instant::now();
        while !watch.is_waiting() {
            ensure!(start.elapsed() < Duration::from_secs(10), "`vmclock watch` does not come to wait for events");
            sleep(Duration::from_millis(1));
        }
        Ok(watch)
    }

    /// Whether it has looked at the page and sleeps until something happens: it has an epoll, and sleeps.
    fn is_waiting(&self) -> bool {
        let proc = format!("/proc/{}", self.child.id());
        let links = fs::read_dir(format!("{proc}/fd")).into_iter().flatten().flatten();
        let mut targets = links.filter_map(|link| fs::read_link(link.path()).ok());
        let stat = fs::read_to_string(format!("{proc}/stat")).unwrap_or_default();
        targets.any(|target| target.to_string_lossy().contains("eventpoll")) && stat.contains(") S ")
    }

    /// Ends it, and gives its lines.
    pub(crate) fn stop(mut self) -> Result<Value> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(fs::read_to_string(WATCHED)?.lines().collect())
    }
}
