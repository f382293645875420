// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock tracking`: the clock of the host's service.

use std::fmt::Write;
use std::process::ExitCode;

use serde_json::{json, Value};
use vmclock_host::service::protocol::Tracking;

use crate::cli::ServiceArgs;
use crate::output::{error, print, print_json};

use super::guests::connect;

pub(crate) fn run(args: &ServiceArgs) -> anyhow::Result<ExitCode> {
    let tracking = connect(args)?.tracking()?;
    if args.json {
        print_json(&to_json(&tracking)?)?;
    } else {
        print(&to_text(&tracking))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn to_json(tracking: &Tracking) -> anyhow::Result<Value> {
    let mut line = serde_json::to_value(tracking)?;
    line["disruption_marker"] = json!(tracking.disruption_marker.0);
    Ok(line)
}

fn to_text(tracking: &Tracking) -> String {
    let known = |text: Option<String>| text.unwrap_or_else(|| "unknown".into());
    let tai = tracking.tai_minus_utc.map(|offset| format!("{offset:+} s ({})", tracking.tai_origin));
    let selected = if tracking.selected.is_empty() { "none".into() } else { tracking.selected.join(", ") };
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<18} {value}");
    };
    row("status", tracking.status.clone());
    row("disruption marker", format!("{:#018x}", tracking.disruption_marker.0));
    row("max error now", known(tracking.max_error_ns.map(|nanos| error(nanos.into()))));
    row("estimated error", known(tracking.estimated_error_ns.map(|nanos| error(nanos.into()))));
    row("selected", format!("{selected} (of {} clocks)", tracking.clocks));
    row("frequency", known(tracking.frequency_ppm.map(|ppm| format!("{ppm:+.3} ppm against the kernel's at boot"))));
    row("frequency wander", format!("{} ppm", tracking.drift_ppm));
    row("TAI-UTC", known(tai));
    row("time scale", tracking.time_type.clone());
    row("leap indicator", tracking.leap_indicator.clone());
    row("last update", known(tracking.update_age_ns.map(|nanos| format!("{} ago", age(nanos)))));
    row("next round", tracking.next_round_ns.map_or_else(|| "under way".into(), |nanos| format!("in {}", age(nanos))));
    row("guests", tracking.guests.to_string());
    text
}

/// A length of time, to print.
pub(super) fn age(nanos: u64) -> String {
    match nanos {
        0..=9_999_999 => format!("{} us", nanos / 1_000),
        10_000_000..=9_999_999_999 => format!("{} ms", nanos / 1_000_000),
        _ => format!("{} s", nanos / 1_000_000_000),
    }
}

/// Nanoseconds with their sign, and the unit that suits them.
pub(super) fn signed(nanos: f64) -> String {
    match nanos.abs() {
        size if size < 1e4 => format!("{nanos:+.0} ns"),
        size if size < 1e7 => format!("{:+.1} us", nanos / 1e3),
        size if size < 1e10 => format!("{:+.1} ms", nanos / 1e6),
        _ => format!("{:+.3} s", nanos / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_the_unit_that_suits_them() {
        assert_eq!(
            (age(5_000), age(400_000_000), age(61_000_000_000)),
            ("5 us".into(), "400 ms".into(), "61 s".into())
        );
        assert_eq!((signed(-12.0), signed(15_300.0)), ("-12 ns".into(), "+15.3 us".into()));
    }
}
