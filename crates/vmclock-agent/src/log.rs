// SPDX-License-Identifier: MIT OR Apache-2.0
//! The agent's log: a line a report on standard error, with the priority in front where journald reads it.

use std::env;
use std::io::{self, Write};

use crate::report::Report;

/// Writes reports. They are kept back until [`flush`](Self::flush): nothing is written while the clock is wrong, as a
/// console may be slow.
#[derive(Debug)]
pub struct Log {
    lines: Vec<u8>,
    /// Whether journald reads it.
    priorities: bool,
    lost: u64,
}

/// So much is kept back at most.
const MOST: usize = 64 << 10;

impl Log {
    /// For this process's standard error.
    pub fn new() -> Self {
        Self { lines: Vec::new(), priorities: env::var_os("JOURNAL_STREAM").is_some(), lost: 0 }
    }

    /// Keeps a report for the next [`flush`](Self::flush).
    pub fn keep(&mut self, report: &Report) {
        if self.lines.len() > MOST {
            self.lost += 1;
            return;
        }
        let text = report.to_string().replace(['\n', '\r'], " ");
        let line = if self.priorities { format!("<{}>{text}\n", report.level.syslog()) } else { format!("{text}\n") };
        self.lines.extend_from_slice(line.as_bytes());
    }

    /// Writes what was kept back. What cannot be written is lost: nobody is there to be told.
    pub fn flush(&mut self) {
        if self.lost > 0 {
            let _ = writeln!(self.lines, "log: {} lines were lost", std::mem::take(&mut self.lost));
        }
        let _ = io::stderr().write_all(&self.lines);
        self.lines.clear();
    }
}

impl Default for Log {
    fn default() -> Self {
        Self::new()
    }
}
