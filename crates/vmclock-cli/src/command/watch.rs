// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock watch`: a line for each event, and a command to go with it.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use serde_json::{json, Value};
use vmclock::{Changes, Event, ReadError, Snapshot, VmClock};

use crate::cli::WatchArgs;
use crate::output::{civil_utc, print, print_json, reading_json};

pub(crate) fn run(args: &WatchArgs) -> anyhow::Result<ExitCode> {
    let clock = VmClock::open_at(&args.page.page)?;
    let mut events = clock.events()?.with_refreshes(args.all);
    let deadline = args.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        let timeout = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let changes = match events.wait(timeout) {
            Ok(Some(changes)) => changes,
            Ok(None) => break,
            // Its publisher may have died in the middle of an update; the next one repairs the page. Until then we
            // go on, as there is nothing to be missed on a page that does not change.
            Err(error @ ReadError::Busy(_)) => {
                eprintln!("vmclock: {}: {error}", args.page.page.display());
                if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                    break;
                }
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        for event in changes
            .iter()
            .filter(|event| args.all || *event != Event::Refreshed)
            .take(usize::try_from(left).unwrap_or(usize::MAX))
        {
            report(args, &clock, &changes, event)?;
            if let Some(command) = &args.exec {
                execute(command, args, &changes, event)?;
            }
            left -= 1;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn report(args: &WatchArgs, clock: &VmClock, changes: &Changes, event: Event) -> anyhow::Result<()> {
    let reading = clock.now().ok();
    if args.page.json {
        let mut map = reading.as_ref().map(reading_json).unwrap_or_default();
        let (from, to) = from_to(event);
        map.insert("event".into(), event.name().into());
        map.insert("from".into(), from);
        map.insert("to".into(), to);
        map.insert("seq_count".into(), changes.after.seq_count.into());
        map.insert("explanation".into(), event.to_string().into());
        return print_json(&map);
    }
    let when = reading.and_then(|reading| reading.utc()).map_or_else(|| "(no UTC)".into(), civil_utc);
    print(&format!("{when}  {:<20}  {event}\n", event.name()))
}

fn execute(command: &str, args: &WatchArgs, changes: &Changes, event: Event) -> anyhow::Result<()> {
    let Snapshot { disruption_marker, clock_status, .. } = changes.after;
    let (from, to) = from_to(event);
    let plain = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let status = std::process::Command::new("sh")
        .args(["-c", command])
        .env("VMCLOCK_EVENT", event.name())
        .env("VMCLOCK_FROM", plain(from))
        .env("VMCLOCK_TO", plain(to))
        .env("VMCLOCK_MARKER", disruption_marker.to_string())
        .env(
            "VMCLOCK_GENERATION",
            changes.after.generation().map(|generation| generation.to_string()).unwrap_or_default(),
        )
        .env("VMCLOCK_STATUS", clock_status.to_string())
        .env("VMCLOCK_PAGE", &args.page.page)
        .status()
        .with_context(|| format!("cannot run {command:?} with sh"))?;
    if !status.success() {
        // The next event may matter more than this failure.
        eprintln!("vmclock: {command:?} ended with {status} on event {}", event.name());
    }
    Ok(())
}

/// What changed, from what to what.
fn from_to(event: Event) -> (Value, Value) {
    match event {
        Event::Disrupted { from, to } | Event::Restored { from, to } => (from.into(), to.into()),
        Event::Maintenance { from, to } => (maintenance(from).into(), maintenance(to).into()),
        Event::Status { from, to } => (from.to_string().into(), to.to_string().into()),
        Event::Counter { from, to } => (from.to_string().into(), to.to_string().into()),
        Event::TimeScale { from, to } => {
            let facts = |facts: vmclock_core::event::TimeScaleFacts| json!({"tai_offset_sec": facts.tai_offset, "leap_indicator": facts.leap_indicator.to_string()});
            (facts(from), facts(to))
        }
        Event::Refreshed => (Value::Null, Value::Null),
    }
}

fn maintenance(level: vmclock::Maintenance) -> &'static str {
    match level {
        vmclock::Maintenance::None => "none",
        vmclock::Maintenance::Soon => "soon",
        vmclock::Maintenance::Imminent => "imminent",
    }
}
