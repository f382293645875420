// SPDX-License-Identifier: MIT OR Apache-2.0
//! The agent's log: a line a report on standard error, with the priority in front where journald reads it.

use std::env;
use std::fmt::Write as _;
use std::io::{self, Write};

use crate::report::Report;

/// Writes reports. They are kept back until [`flush`](Self::flush): nothing is written while the clock is wrong, as a
/// console may be slow.
#[derive(Debug)]
pub struct Log {
    reports: Vec<Report>,
    /// Whether journald reads it.
    priorities: bool,
    lost: u64,
}

/// So many are kept back at most.
const MOST: usize = 512;

impl Log {
    /// For this process's standard error.
    pub fn new() -> Self {
        Self { reports: Vec::new(), priorities: env::var_os("JOURNAL_STREAM").is_some(), lost: 0 }
    }

    /// Keeps a report for the next [`flush`](Self::flush).
    pub fn keep(&mut self, report: &Report) {
        if self.reports.len() < MOST {
            self.reports.push(report.clone());
        } else {
            self.lost += 1;
        }
    }

    /// Writes what was kept back. What cannot be written is lost: nobody is there to be told.
    pub fn flush(&mut self) {
        let mut lines = String::new();
        for report in self.reports.drain(..) {
            let text = report.to_string().replace(['\n', '\r'], " ");
            let priority = if self.priorities { format!("<{}>", report.level.syslog()) } else { String::new() };
            let _ = writeln!(lines, "{priority}{text}");
        }
        if self.lost > 0 {
            let _ = writeln!(lines, "log: {} lines were lost", std::mem::take(&mut self.lost));
        }
        if !lines.is_empty() {
            let _ = io::stderr().write_all(lines.as_bytes());
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self::new()
    }
}
