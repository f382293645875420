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
    pub text: Text,
    /// By how many nanoseconds the clock was stepped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_ns: Option<i128>,
    /// How long it took from the event to the right clock, in nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ns: Option<u64>,
}

/// What a report says. What is reported before the clock is right is put into words when somebody reads it: the clock
/// comes first.
///
/// ```
/// use vmclock_agent::report::Text;
/// assert_eq!(Text::from("the workload goes on".to_owned()).to_string(), "the workload goes on");
/// ```
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
#[non_exhaustive]
pub enum Text {
    /// These words.
    Words(String),
    /// An event of these names, and the epoch since.
    Happened(Vec<&'static str>, Option<Epoch>),
    /// How far `CLOCK_REALTIME` was ahead when it was stepped.
    Stepped(Ahead),
    /// How long after an event the clock was right, and how far it was ahead then.
    ClockRight(Duration, Ahead),
}

impl From<String> for Text {
    fn from(words: String) -> Self {
        Self::Words(words)
    }
}

impl From<Text> for String {
    fn from(text: Text) -> Self {
        text.to_string()
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Words(words) => f.write_str(words),
            Self::Happened(names, epoch) => {
                write!(f, "the machine was {}", names.join(" and "))?;
                let Some(epoch) = epoch else { return Ok(()) };
                write!(f, "; marker {:#x}", epoch.disruption_marker)?;
                epoch.generation.map_or(Ok(()), |generation| write!(f, ", generation {generation:#x}"))
            }
            Self::Stepped(ahead) => write!(f, "CLOCK_REALTIME was {ahead} ahead of UTC"),
            Self::ClockRight(took, ahead) => {
                write!(f, "CLOCK_REALTIME is {ahead} ahead of UTC, {took:?} after the event")
            }
        }
    }
}

impl Report {
    /// A report without numbers.
    pub const fn new(level: Level, name: &'static str, text: String) -> Self {
        Self::of(level, name, Text::Words(text))
    }

    const fn of(level: Level, name: &'static str, text: Text) -> Self {
        Self { level, name: Cow::Borrowed(name), text, step_ns: None, took_ns: None }
    }

    pub(crate) fn happened(names: &[&'static str], epoch: Option<Epoch>) -> Self {
        Self::of(Level::Info, "happened", Text::Happened(names.to_vec(), epoch))
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
        Self { step_ns: Some(by), ..Self::of(Level::Info, "stepped", Text::Stepped(ahead)) }
    }

    pub(crate) fn clock_right(took: Duration, ahead: Ahead) -> Self {
        let took_ns = u64::try_from(took.as_nanos()).ok();
        Self { took_ns, ..Self::of(Level::Info, "clock-right", Text::ClockRight(took, ahead)) }
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
