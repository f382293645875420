// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the agent is: for `vmclock-agent status` and for an exporter of metrics.

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

use crate::measure::Measured;
use crate::report::Report;
use crate::runner::HookResult;

/// So many of the last reports and results of hooks are kept.
const KEPT: usize = 32;

/// How the agent is.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Whether the last event has been dealt with.
    pub ready: bool,
    /// Whether the workload is held.
    pub held: bool,
    /// What is watched for events.
    pub watches: String,
    /// Who vouches for the time.
    pub time_source: String,
    /// The page's marker, as 0x and 16 digits.
    pub disruption_marker_hex: Option<String>,
    /// The page's generation, likewise.
    pub generation_hex: Option<String>,
    /// How far `CLOCK_REALTIME` was ahead of UTC when it was compared last, in nanoseconds: the middle.
    pub ahead_ns: Option<i128>,
    /// The error of that, in ± nanoseconds.
    pub max_error_ns: Option<i128>,
    /// Why there was no time.
    pub no_time: Option<String>,
    /// How often the clock was stepped.
    pub steps: u64,
    /// By how much it was stepped last, in nanoseconds.
    pub last_step_ns: Option<i128>,
    /// How many disruptions and restores were seen.
    pub events: u64,
    /// How long it took from the last of them to the right clock, in nanoseconds.
    pub recovery_ns: Option<u64>,
    /// How many hooks succeeded, and how many did not.
    pub hooks_succeeded: u64,
    /// How many hooks failed.
    pub hooks_failed: u64,
    /// Whether the agent keeps the clock on the page all the time.
    pub disciplines: bool,
    /// The last results of hooks.
    pub hooks: Vec<HookResult>,
    /// The last reports.
    pub reports: Vec<Report>,
}

impl Status {
    pub(crate) fn measured(&mut self, measured: &Result<Measured, String>) {
        match measured {
            Ok(measured) => {
                self.ahead_ns = Some(measured.ahead.middle());
                self.max_error_ns = Some(measured.ahead.uncertainty());
                self.no_time = None;
            }
            Err(reason) => self.no_time = Some(reason.clone()),
        }
    }

    pub(crate) fn reported(&mut self, report: &Report) {
        if let Some(step) = report.step_ns {
            self.steps += 1;
            self.last_step_ns = Some(step);
        }
        match report.name.as_ref() {
            "happened" => {
                self.events += 1;
                self.ready = false;
            }
            "clock-right" => self.recovery_ns = report.took_ns,
            _ => {}
        }
        keep(&mut self.reports, report.clone());
    }

    pub(crate) fn hook_ended(&mut self, result: HookResult) {
        if result.has_succeeded() {
            self.hooks_succeeded += 1;
        } else {
            self.hooks_failed += 1;
        }
        keep(&mut self.hooks, result);
    }

    /// The numbers, in the text format of Prometheus.
    pub fn metrics(&self) -> String {
        let mut text = String::new();
        let mut metric = |name: &str, kind: &str, help: &str, value: Option<String>| {
            if let Some(value) = value {
                let _ = writeln!(text, "# HELP vmclock_agent_{name} {help}");
                let _ = writeln!(text, "# TYPE vmclock_agent_{name} {kind}\nvmclock_agent_{name} {value}");
            }
        };
        let flag = |flag: bool| Some(u8::from(flag).to_string());
        metric("ready", "gauge", "Whether the last event has been dealt with.", flag(self.ready));
        metric("held", "gauge", "Whether the workload is held.", flag(self.held));
        let help = "How far CLOCK_REALTIME is ahead of UTC.";
        metric("ahead_seconds", "gauge", help, self.ahead_ns.map(seconds));
        let help = "The maximum error of vmclock_agent_ahead_seconds.";
        metric("ahead_max_error_seconds", "gauge", help, self.max_error_ns.map(seconds));
        metric("steps_total", "counter", "Steps of the clock.", Some(self.steps.to_string()));
        metric("last_step_seconds", "gauge", "The last step of the clock.", self.last_step_ns.map(seconds));
        metric("events_total", "counter", "Disruptions and restores.", Some(self.events.to_string()));
        let help = "From the last disruption or restore to the right clock.";
        metric("recovery_seconds", "gauge", help, self.recovery_ns.map(|nanos| seconds(nanos.into())));
        metric("hooks_succeeded_total", "counter", "Hooks that succeeded.", Some(self.hooks_succeeded.to_string()));
        metric("hooks_failed_total", "counter", "Hooks that failed.", Some(self.hooks_failed.to_string()));
        text
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, value: &dyn fmt::Display| writeln!(f, "{name:<16} {value}");
        let state = match (self.held, self.ready) {
            (true, _) => "holds the workload",
            (false, true) => "ready",
            (false, false) => "recovering",
        };
        line("state", &state)?;
        line("watches", &self.watches)?;
        line("time from", &if self.time_source.is_empty() { "nobody" } else { &self.time_source })?;
        if let Some(reason) = &self.no_time {
            line("no time", reason)?;
        } else if let (Some(ahead), Some(error)) = (self.ahead_ns, self.max_error_ns) {
            line("clock", &format_args!("{ahead} ns ± {error} ns ahead of UTC"))?;
        }
        if let Some(marker) = &self.disruption_marker_hex {
            line("marker", marker)?;
        }
        if let Some(generation) = &self.generation_hex {
            line("generation", generation)?;
        }
        line("events", &self.events)?;
        if let Some(nanos) = self.recovery_ns {
            line("last recovery", &format_args!("{} s until the clock was right", seconds(nanos.into())))?;
        }
        line("steps", &self.steps)?;
        line("hooks", &format_args!("{} succeeded, {} failed", self.hooks_succeeded, self.hooks_failed))?;
        for result in &self.hooks {
            let (order, name) = (result.order, &result.name);
            line("", &format_args!("{order:02}-{name}: {}, {} ms", result.status, result.duration_ms))?;
        }
        Ok(())
    }
}

/// Exactly, as metrics are in seconds.
fn seconds(nanos: i128) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    format!("{sign}{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}

fn keep<T>(list: &mut Vec<T>, item: T) {
    if list.len() >= KEPT {
        list.remove(0);
    }
    list.push(item);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_exact_and_in_seconds() {
        let status = Status { ahead_ns: Some(-1_500_000_001), steps: 3, held: true, ..Status::default() };
        let text = status.metrics();
        for line in ["vmclock_agent_ahead_seconds -1.500000001", "vmclock_agent_steps_total 3", "vmclock_agent_held 1"]
        {
            assert!(text.lines().any(|other| other == line), "{text}");
        }
        assert!(!text.contains("recovery"), "nothing has happened: {text}");
    }
}
