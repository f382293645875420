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
    /// The last results of hooks: those of the last disruption or restore are kept as long as there is room.
    pub hooks: Vec<HookResult>,
    /// The run of hooks for the last disruption or restore.
    #[serde(skip)]
    pub(crate) recovery_run: Option<u64>,
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
        if self.reports.len() >= KEPT {
            self.reports.remove(0);
        }
        self.reports.push(report.clone());
    }

    pub(crate) fn hook_ended(&mut self, result: HookResult) {
        if result.has_succeeded() {
            self.hooks_succeeded += 1;
        } else {
            self.hooks_failed += 1;
        }
        if self.hooks.len() >= KEPT {
            // However often a host announces something, what became of the last restore can be seen.
            let others = self.hooks.iter().position(|result| Some(result.run) != self.recovery_run);
            self.hooks.remove(others.unwrap_or(0));
        }
        self.hooks.push(result);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::HookStatus;

    #[test]
    fn announcements_do_not_push_out_what_became_of_a_restore() {
        let mut status = Status { recovery_run: Some(7), ..Status::default() };
        let result = |run| HookResult {
            run,
            name: "x".to_owned(),
            order: 50,
            required: false,
            status: HookStatus::Succeeded,
            attempts: 1,
            duration_ms: 1,
            tail: String::new(),
        };
        for run in [6, 7, 7].into_iter().chain(8..1_000) {
            status.hook_ended(result(run));
        }
        let runs: Vec<u64> = status.hooks.iter().map(|result| result.run).collect();
        assert_eq!((runs.len(), &runs[..3], runs.last()), (KEPT, &[7, 7, 970][..], Some(&999)));
        for _ in 0..2 * KEPT {
            status.hook_ended(result(7));
        }
        assert_eq!(status.hooks.len(), KEPT, "a restore's hooks, too, may be many");
    }

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
