// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's program, at the other end of a virtio serial port: words there, a JSON value back.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use serde_json::Value;

use crate::patience::{connect, is_timeout};

pub(crate) struct Port {
    reader: BufReader<UnixStream>,
    line: String,
}

impl Port {
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        let stream = connect(socket, Duration::from_secs(10))?;
        Ok(Self { reader: BufReader::new(stream), line: String::new() })
    }

    /// Says something without waiting for an answer.
    pub(crate) fn say(&mut self, words: &str) -> Result<()> {
        writeln!(self.reader.get_mut(), "{words}").with_context(|| format!("cannot say {words:?} to the guest"))
    }

    /// The guest's answer to what was said to it.
    pub(crate) fn answer(&mut self, patience: Duration) -> Result<Value> {
        let mut answer = self.line(patience)?;
        match answer.get("error") {
            Some(error) => bail!("in the guest: {error}"),
            None => Ok(answer["ok"].take()),
        }
    }

    pub(crate) fn ask(&mut self, words: &str, patience: Duration) -> Result<Value> {
        self.say(words)?;
        self.answer(patience).with_context(|| format!("asked the guest for {words:?}"))
    }

    /// The next line, whatever it says.
    pub(crate) fn line(&mut self, patience: Duration) -> Result<Value> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("the guest has said nothing for {patience:?}");
            }
            self.reader.get_ref().set_read_timeout(Some(left))?;
            match self.reader.read_line(&mut self.line) {
                Ok(0) => bail!("QEMU has closed the guest's port"),
                Ok(_) => {
                    let line = std::mem::take(&mut self.line);
                    return serde_json::from_str(&line).with_context(|| format!("the guest says {line:?}"));
                }
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(error).context("the guest's port is gone"),
            }
        }
    }
}
