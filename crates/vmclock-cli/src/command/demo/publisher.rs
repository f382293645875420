// SPDX-License-Identifier: MIT OR Apache-2.0
//! A publisher to show and to measure: `vmclock serve` in a process of its own.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{bail, Context};
use rustix::process::{kill_process, Pid, Signal};
use serde_json::{json, Value};

use crate::cli::Reference;

/// Stated where neither the kernel nor the system's list knows it. Right since 2017, and until another leap second.
const TAI_OFFSET: &str = "37";

/// Stopped when dropped.
pub(in crate::command) struct Publisher {
    child: Child,
    page: PathBuf,
    /// What it reported until it had published a time.
    reported: Vec<Value>,
    // Kept open, so that what it says later finds a reader.
    _output: BufReader<ChildStdout>,
}

impl Publisher {
    /// Starts it and waits until it has published a time.
    pub(in crate::command) fn start(page: &Path, more: &[&str]) -> anyhow::Result<Self> {
        match Self::try_start(page, more) {
            // The page would be on UTC alone, and it is to have TAI too.
            Ok(publisher) if publisher.lacks_tai_offset() => {
                drop(publisher);
                std::fs::remove_file(page).with_context(|| format!("{}: cannot remove it", page.display()))?;
                let stated = [&["--tai-offset", TAI_OFFSET], more].concat();
                let mut publisher = Self::try_start(page, &stated)?;
                publisher.reported.push(json!({"text": format!(
                    "neither the kernel nor a current leap-seconds.list has TAI-UTC: {TAI_OFFSET} s is this demo's own statement"
                )}));
                Ok(publisher)
            }
            other => other,
        }
    }

    fn try_start(page: &Path, more: &[&str]) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let reference = clap::ValueEnum::to_possible_value(&Reference::HostClock).context("a value has a name")?;
        let mut child = Command::new(&program)
            .args(["serve", "--json", "--reference", reference.get_name(), "--page"])
            .arg(page)
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{}: cannot start the publisher", program.display()))?;
        let mut output = BufReader::new(child.stdout.take().context("the publisher has no output")?);
        let mut reported = Vec::new();
        loop {
            let mut line = String::new();
            if output.read_line(&mut line).context("cannot read what the publisher reports")? == 0 {
                let status = child.wait().context("cannot wait for the publisher")?;
                bail!("the publisher ended with {status}; it reported: {reported:?}");
            }
            let report: Value = serde_json::from_str(&line).with_context(|| format!("{line:?} is not JSON"))?;
            if report["event"] == "refreshed" {
                break;
            }
            reported.push(report);
        }
        Ok(Self { child, page: page.into(), reported, _output: output })
    }

    pub(in crate::command) fn page(&self) -> &Path {
        &self.page
    }

    pub(in crate::command) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it reported until it had published a time, as text.
    pub(in crate::command) fn reported(&self) -> impl Iterator<Item = &str> {
        self.reported.iter().filter_map(|report| report["text"].as_str())
    }

    /// Whether it knows TAI-UTC from nowhere.
    fn lacks_tai_offset(&self) -> bool {
        self.reported.iter().any(|report| report["event"] == "offset" && report["tai_minus_utc"].is_null())
    }

    /// Asks it to stop, and waits until it has.
    pub(in crate::command) fn stop(mut self) -> anyhow::Result<()> {
        self.terminate();
        let status = self.child.wait().context("cannot wait for the publisher")?;
        anyhow::ensure!(status.success(), "the publisher ended with {status}");
        Ok(())
    }

    fn terminate(&self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It is our child and not yet waited for: the number is still its own.
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        // Already waited for, if `stop` was called.
        if let Ok(None) = self.child.try_wait() {
            self.terminate();
            let _ = self.child.wait();
        }
    }
}
