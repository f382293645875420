// SPDX-License-Identifier: MIT OR Apache-2.0
//! One line a check, and the sum of them.

use std::io::{stdout, Write};
use std::time::Instant;

use anyhow::Result;

use crate::machine::Machine;

/// What passed and what failed.
#[derive(Default)]
pub(crate) struct Report {
    passed: u32,
    failed: u32,
}

impl Report {
    /// Does a check and prints its line: the figures that it gives, or why it failed. Says whether it passed.
    pub(crate) fn check(&mut self, name: &str, check: impl FnOnce() -> Result<String>) -> bool {
        let start = Instant::now();
        let result = check();
        let seconds = start.elapsed().as_secs_f64();
        let (word, text) = match &result {
            Ok(figures) => ("ok", figures.clone()),
            Err(error) => ("FAILED", format!("{error:#}")),
        };
        match result {
            Ok(_) => self.passed += 1,
            Err(_) => self.failed += 1,
        }
        say(&format!("{word:6} {name}: {text} ({seconds:.1} s)"));
        word == "ok"
    }

    /// Does a check of a machine that has others, too. An error says what the machine said before it.
    pub(crate) fn check_on(
        &mut self,
        machine: &mut Machine,
        name: &str,
        check: impl FnOnce(&mut Machine) -> Result<String>,
    ) -> bool {
        self.check(name, || check(machine).map_err(|error| machine.explain(error)))
    }

    /// Prints a line that is no check.
    #[allow(clippy::unused_self)] // so that nobody else prints
    pub(crate) fn say(&self, line: &str) {
        say(line);
    }

    /// Prints the last line, and says whether nothing failed.
    pub(crate) fn finish(&self) -> bool {
        say(&format!("{} passed, {} failed", self.passed, self.failed));
        self.failed == 0
    }
}

/// Prints a line, or not, where nobody listens any more.
fn say(line: &str) {
    let _ = writeln!(stdout(), "{line}");
}
