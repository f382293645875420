// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is found, and how it is printed.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// What one aspect of the machine is like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum State {
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
#[non_exhaustive]
pub struct Finding {
    /// What was looked at, such as `device` or `time`.
    pub check: &'static str,
    /// How it is.
    pub state: State,
    /// What was found, in words.
    pub found: String,
    /// The next step, in words.
    pub todo: Option<String>,
}

impl Finding {
    pub(crate) fn new(check: &'static str, state: State, found: impl Into<String>) -> Self {
        Self { check, state, found: found.into(), todo: None }
    }

    pub(crate) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, State::Ok, found)
    }

    pub(crate) fn missing(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, State::Missing, found)
    }

    pub(crate) fn problem(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, State::Problem, found)
    }

    pub(crate) fn unknown(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, State::Unknown, found)
    }

    /// What to do next.
    pub(crate) fn todo(mut self, todo: impl Into<String>) -> Self {
        self.todo = Some(todo.into());
        self
    }

    /// What to do next, where there is something.
    pub(crate) fn maybe_todo(mut self, todo: Option<String>) -> Self {
        self.todo = todo;
        self
    }
}

/// What programs on this machine can have from the page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The time.
    Time,
    /// Disruptions, restores and notices, but no time.
    EventsOnly,
    /// Nothing.
    Nothing,
}

/// All findings, in the order in which they depend on one another, and what they come to.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// What it comes to.
    pub verdict: Verdict,
    /// The verdict in a sentence.
    pub summary: String,
    /// The page that was looked at.
    #[serde(serialize_with = "lossy")]
    pub page: PathBuf,
    /// One for each link of the chain, and then those beside it.
    pub findings: Vec<Finding>,
}

/// A path need not be UTF-8, JSON must be.
fn lossy<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

impl Report {
    /// One line a finding, its next step below it, and the verdict at the end.
    pub fn to_text(&self) -> String {
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
