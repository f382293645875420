// SPDX-License-Identifier: MIT OR Apache-2.0
//! QEMU's machine protocol, as a user of QEMU has it: one JSON value a line.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use anyhow::{bail, Context, Result};
use serde_json::{json, Value};

use crate::patience::{connect, is_timeout, TimedOut, PATIENCE};

pub(crate) struct Qmp {
    reader: BufReader<UnixStream>,
    /// A line that has begun to arrive.
    line: String,
    /// The events that nobody has waited for yet.
    events: Vec<Value>,
}

impl Qmp {
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        let stream = connect(socket, PATIENCE)?;
        let mut qmp = Self { reader: BufReader::new(stream), line: String::new(), events: Vec::new() };
        let greeting = qmp.receive(Instant::now() + PATIENCE)?;
        if greeting.get("QMP").is_none() {
            bail!("QEMU greets with {greeting}, which is not QMP");
        }
        qmp.run("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and gives what it returns.
    pub(crate) fn run(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        // In one piece: QEMU takes it when the last brace has come, and after `quit` nobody reads the end of the line.
        let request = format!("{}\n", json!({ "execute": command, "arguments": arguments }));
        let sent = self.reader.get_mut().write_all(request.as_bytes());
        sent.with_context(|| format!("cannot send {command} to QEMU"))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut message = self.receive(deadline).with_context(|| format!("no answer to {command}"))?;
            if message.get("event").is_some() {
                self.events.push(message);
            } else if let Some(error) = message.get("error") {
                bail!("QEMU refuses {command}: {error}");
            } else {
                return Ok(message["return"].take());
            }
        }
    }

    /// Runs a command of the monitor for people, and gives what it prints.
    pub(crate) fn run_for_people(&mut self, line: &str) -> Result<String> {
        let said = self.run("human-monitor-command", &json!({ "command-line": line }))?;
        Ok(said.as_str().unwrap_or_default().to_owned())
    }

    /// Forgets the events up to the last answer.
    pub(crate) fn forget_events(&mut self) {
        self.events.clear();
    }

    /// Waits for an event of which `wanted` is true, and forgets those before it.
    pub(crate) fn wait_for(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(index) = self.events.iter().position(&wanted) {
                self.events.drain(..=index);
                return Ok(());
            }
            let message = self.receive(deadline).with_context(|| format!("QEMU does not say {what}"))?;
            self.events.push(message);
        }
    }

    /// Waits until a migration or the loading of one is complete. The capability `events` must be set.
    pub(crate) fn wait_for_migration(&mut self) -> Result<()> {
        let status = |event: &Value| event["data"]["status"].as_str().map(str::to_owned);
        let is_migration = |event: &Value| event["event"] == "MIGRATION";
        self.wait_for("that the migration is complete", |event| {
            is_migration(event) && matches!(status(event).as_deref(), Some("completed" | "failed"))
        })?;
        let state = self.run("query-migrate", &json!({}))?;
        if state["status"] != "completed" {
            bail!("the migration ended otherwise: {state}");
        }
        Ok(())
    }

    /// Runs a command that is done in the background, and waits until it has done well.
    pub(crate) fn run_job(&mut self, command: &str, arguments: &Value) -> Result<()> {
        self.run(command, arguments)?;
        let id = &arguments["job-id"];
        self.wait_for(&format!("that the job {id} has ended"), |event| {
            event["event"] == "JOB_STATUS_CHANGE"
                && event["data"]["id"] == *id
                && event["data"]["status"] == "concluded"
        })?;
        let jobs = self.run("query-jobs", &json!({}))?;
        let job = jobs.as_array().into_iter().flatten().find(|job| job["id"] == *id).context("the job is gone")?;
        if let Some(error) = job.get("error") {
            bail!("{command} failed: {error}");
        }
        self.run("job-dismiss", &json!({ "id": id }))?;
        Ok(())
    }

    /// Makes a disk image that can keep snapshots, as the block device `name`.
    pub(crate) fn make_disk(&mut self, name: &str, path: &str) -> Result<()> {
        let file = format!("{name}-file");
        let create = |job: &str, options: Value| json!({ "job-id": job, "options": options });
        self.run_job(
            "blockdev-create",
            &create("make-file", json!({ "driver": "file", "filename": path, "size": 0 })),
        )?;
        self.run("blockdev-add", &json!({ "driver": "file", "node-name": file, "filename": path }))?;
        let options = json!({ "driver": "qcow2", "file": file, "size": 1 << 30 });
        self.run_job("blockdev-create", &create("make-image", options))?;
        self.run("blockdev-add", &json!({ "driver": "qcow2", "node-name": name, "file": file }))?;
        Ok(())
    }

    fn receive(&mut self, deadline: Instant) -> Result<Value> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(TimedOut(format!("QEMU has said nothing for {PATIENCE:?}")).into());
            }
            self.reader.get_ref().set_read_timeout(Some(left))?;
            match self.reader.read_line(&mut self.line) {
                Ok(0) => bail!("QEMU has closed its monitor"),
                Ok(_) => {
                    let line = std::mem::take(&mut self.line);
                    return serde_json::from_str(&line).with_context(|| format!("QEMU says {line:?}"));
                }
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(error).context("QEMU's monitor is gone"),
            }
        }
    }
}
