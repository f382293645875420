// SPDX-License-Identifier: MIT OR Apache-2.0
//! QEMU's machine protocol, as a user of QEMU has it: one JSON value a line.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use serde_json::{json, Value};

use crate::patience::{connect, is_timeout};

/// How long QEMU may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

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
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.reader.get_mut(), "{request}").with_context(|| format!("cannot send {command} to QEMU"))?;
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

    fn receive(&mut self, deadline: Instant) -> Result<Value> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("QEMU says nothing any more");
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
