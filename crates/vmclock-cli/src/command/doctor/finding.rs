// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is found, and how it is printed.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::exit;

/// What one aspect of the machine is like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// It is there and in order.
    Ok,
    /// It is not there.
    Missing,
    /// It is there, and something is wrong with it.
    Problem,
    /// It cannot be seen from here.
    Unknown,
}

impl State {
    const fn mark(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Missing => "--",
            Self::Problem => "!!",
            Self::Unknown => "??",
        }
    }
}

/// One aspect: what was found, and the next step where there is one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(super) struct Finding {
    pub(super) check: &'static str,
    pub(super) state: State,
    pub(super) found: String,
    pub(super) todo: Option<String>,
}

impl Finding {
    pub(super) fn new(check: &'static str, state: State, found: impl Into<String>) -> Self {
        Self { check, state, found: found.into(), todo: None }
    }

    pub(super) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, State::Ok, found)
    }

    pub(super) fn missing(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, State::Missing, found)
    }

    pub(super) fn problem(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, State::Problem, found)
    }

    pub(super) fn unknown(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, State::Unknown, found)
    }

    /// What to do next.
    pub(super) fn todo(mut self, todo: impl Into<String>) -> Self {
        self.todo = Some(todo.into());
        self
    }

    /// What to do next, where there is something.
    pub(super) fn maybe_todo(mut self, todo: Option<String>) -> Self {
        self.todo = todo;
        self
    }
}

/// What programs on this machine can have from the page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Verdict {
    /// The time.
    Time,
    /// Disruptions, restores and notices, but no time.
    EventsOnly,
    /// Nothing.
    Nothing,
}

impl Verdict {
    /// The exit status of `vmclock doctor`.
    pub(super) const fn exit_status(self) -> u8 {
        match self {
            Self::Time => 0,
            Self::EventsOnly => exit::NO_TIME,
            Self::Nothing => exit::FAILURE,
        }
    }
}

/// All findings, in the order in which they depend on one another, and what they come to.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) verdict: Verdict,
    /// The verdict in a sentence.
    pub(super) summary: String,
    #[serde(serialize_with = "lossy")]
    pub(super) page: PathBuf,
    pub(super) findings: Vec<Finding>,
}

/// A path need not be UTF-8, JSON must be.
fn lossy<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

impl Report {
    /// One line a finding, its next step below it, and the verdict at the end.
    pub(super) fn to_text(&self) -> String {
        let width = self.findings.iter().map(|finding| finding.check.len()).max().unwrap_or_default();
        let mut text = String::new();
        for Finding { check, state, found, todo } in &self.findings {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{}  {check:<width$}  {found}", state.mark());
            if let Some(todo) = todo {
                let _ = writeln!(text, "    {:<width$}  do: {todo}", "");
            }
        }
        let _ = writeln!(text, "\nverdict: {}", self.summary);
        text
    }
}
