// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the agent tells people: one line each, for journald or for a console.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use vmclock_core::event::Epoch;

use crate::measure::Ahead;
use crate::runner::HookResult;

/// How much a report matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Something that is required failed.
    Error,
    /// Something is not as it should be.
    Warning,
    /// All is well.
    Info,
}

impl Level {
    /// The number that syslog and journald have for it.
    pub const fn syslog(self) -> u8 {
        match self {
            Self::Error => 3,
            Self::Warning => 4,
            Self::Info => 6,
        }
    }
}

/// One thing that happened.
///
/// ```
/// use vmclock_agent::report::{Level, Report};
/// let report = Report::new(Level::Info, "thawed", "the workload goes on".to_owned());
/// assert_eq!(report.to_string(), "thawed: the workload goes on");
/// ```
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// How much it matters.
    pub level: Level,
    /// The one word for it.
    pub name: Cow<'static, str>,
    /// For people.
    pub text: String,
    /// By how many nanoseconds the clock was stepped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_ns: Option<i128>,
    /// How long it took from the event to the right clock, in nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ns: Option<u64>,
}

impl Report {
    /// A report without numbers.
    pub const fn new(level: Level, name: &'static str, text: String) -> Self {
        Self { level, name: Cow::Borrowed(name), text, step_ns: None, took_ns: None }
    }

    pub(crate) fn happened(names: &[&str], epoch: Option<Epoch>) -> Self {
        let mut text = format!("the machine was {}", names.join(" and "));
        if let Some(epoch) = epoch {
            text = format!("{text}; marker {:#x}", epoch.disruption_marker);
            if let Some(generation) = epoch.generation {
                text = format!("{text}, generation {generation:#x}");
            }
        }
        Self::new(Level::Info, "happened", text)
    }

    pub(crate) fn hook(result: &HookResult) -> Self {
        let level = match (result.has_succeeded(), result.required) {
            (true, _) => Level::Info,
            (false, true) => Level::Error,
            (false, false) => Level::Warning,
        };
        let (name, order, millis) = (&result.name, result.order, result.duration_ms);
        let attempts = if result.attempts == 1 { String::new() } else { format!(", {} attempts", result.attempts) };
        Self::new(level, "hook", format!("{order:02}-{name}: {} in {millis} ms{attempts}", result.status))
    }

    pub(crate) fn stepped(by: i128, ahead: Ahead) -> Self {
        let text = format!("CLOCK_REALTIME was {ahead} ahead of UTC");
        Self { step_ns: Some(by), ..Self::new(Level::Info, "stepped", text) }
    }

    pub(crate) fn clock_right(took: Duration, ahead: Ahead) -> Self {
        let took_ns = u64::try_from(took.as_nanos()).ok();
        let text = format!("CLOCK_REALTIME is {ahead} ahead of UTC, {took:?} after the event");
        Self { took_ns, ..Self::new(Level::Info, "clock-right", text) }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.text)?;
        if let Some(by) = self.step_ns {
            write!(f, " (stepped by {by} ns)")?;
        }
        Ok(())
    }
}
