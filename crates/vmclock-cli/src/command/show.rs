// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock show`: every field of a page, and its anomalies.

use std::fmt::Write;
use std::process::ExitCode;

use serde_json::json;
use vmclock::{Snapshot, VmClock};
use vmclock_core::abi::CounterId;
use vmclock_core::tai::TaiOffset;
use vmclock_doctor::anomaly::anomalies;

use crate::cli::PageArgs;
use crate::output::{print, print_json};

pub(crate) fn run(args: &PageArgs) -> anyhow::Result<ExitCode> {
    let page = VmClock::open_at(&args.page)?.snapshot()?;
    if args.json {
        print_json(&to_json(&page))?;
    } else {
        print(&to_text(&page))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn to_json(page: &Snapshot) -> serde_json::Value {
    json!({
        "magic": page.magic,
        "size": page.size,
        "version": page.version,
        "counter_id": page.counter_id.to_string(),
        "time_type": page.time_type.to_string(),
        "seq_count": page.seq_count,
        "disruption_marker": page.disruption_marker,
        "flags": page.flags.names().collect::<Vec<_>>(),
        "flags_raw": page.flags.0,
        "clock_status": page.clock_status.to_string(),
        "leap_second_smearing_hint": page.leap_second_smearing_hint.to_string(),
        "tai_offset_sec": page.tai_offset().map(TaiOffset::page_field),
        "tai_offset_sec_raw": page.tai_offset_sec,
        "leap_indicator": page.leap_indicator.to_string(),
        "counter_period_shift": page.counter_period_shift,
        "counter_value": page.counter_value,
        "counter_period_frac_sec": page.counter_period_frac_sec,
        "counter_frequency_hz": frequency(page),
        "counter_period_esterror_rate_frac_sec": page.period_esterror(),
        "counter_period_maxerror_rate_frac_sec": page.period_maxerror(),
        "time_sec": page.time_sec,
        "time_frac_sec": page.time_frac_sec,
        "time_esterror_nanosec": page.time_esterror(),
        "time_maxerror_nanosec": page.time_maxerror(),
        "vm_generation_counter": page.generation(),
        "odd": anomalies(page).iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn to_text(page: &Snapshot) -> String {
    let known =
        |value: Option<u64>, unit: &str| value.map_or_else(|| "not stated".into(), |value| format!("{value}{unit}"));
    let flags = page.flags.names().collect::<Vec<_>>().join(" ");
    let unit = format!(" x 2^-{} s", 64 + u32::from(page.counter_period_shift));
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<38} {value}");
    };
    row("magic", format!("{:#010x} (VCLK)", page.magic));
    row("size", format!("{} bytes", page.size));
    row("version", page.version.to_string());
    row("counter_id", page.counter_id.to_string());
    if page.counter_id == CounterId::NONE {
        row("gives", "events only: it has no counter, and no time".into());
    }
    row("time_type", page.time_type.to_string());
    row("seq_count", page.seq_count.to_string());
    row("disruption_marker", format!("{:#018x}", page.disruption_marker));
    row("flags", format!("{:#x} {flags}", page.flags.0));
    row("clock_status", page.clock_status.to_string());
    row("leap_second_smearing_hint", page.leap_second_smearing_hint.to_string());
    row(
        "tai_offset_sec",
        page.tai_offset()
            .map_or_else(|| "unknown".into(), |offset| format!("{}: TAI-UTC = {offset}", offset.page_field())),
    );
    row("leap_indicator", page.leap_indicator.to_string());
    row("counter_value", page.counter_value.to_string());
    row(
        "counter_period_frac_sec",
        format!(
            "{}{unit}{}",
            page.counter_period_frac_sec,
            frequency(page).map_or_else(String::new, |hz| format!(" ({hz:.3} Hz)"))
        ),
    );
    row("counter_period_esterror_rate_frac_sec", known(page.period_esterror(), &unit));
    row("counter_period_maxerror_rate_frac_sec", known(page.period_maxerror(), &unit));
    row("time", format!("{} s + {:#018x} x 2^-64 s ({})", page.time_sec, page.time_frac_sec, page.time_type));
    row("time_esterror_nanosec", known(page.time_esterror(), " ns"));
    row("time_maxerror_nanosec", known(page.time_maxerror(), " ns"));
    row(
        "vm_generation_counter",
        page.generation().map_or_else(|| "not present".into(), |generation| format!("{generation:#018x}")),
    );
    for anomaly in anomalies(page) {
        row("warning:", anomaly.to_string());
    }
    text
}

/// Ticks a second, to print.
#[allow(clippy::cast_precision_loss)]
fn frequency(page: &Snapshot) -> Option<f64> {
    let scale = 2f64.powi(64 + i32::from(page.counter_period_shift));
    (page.counter_period_frac_sec != 0).then(|| scale / page.counter_period_frac_sec as f64)
}
