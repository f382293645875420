// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock watch`: a line for each event, and a command to go with it.

use std::io::{stderr, stdout};
use std::os::fd::AsFd;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use serde_json::{json, Map, Value};
use vmclock::{Changes, Event, Notice, ReadError, Snapshot, VmClock};
use vmclock_core::leap::LeapStatus;
use vmclock_core::tai::TaiOffset;

use crate::cli::WatchArgs;
use crate::output::{civil_utc, has_reader, log_error, log_within, reading_json, Delivery};

/// How long a line waits for a slow reader before it is dropped: the commands of the next events wait as long.
const SLOW_READER: Duration = Duration::from_secs(1);

pub(crate) fn run(args: &WatchArgs) -> anyhow::Result<ExitCode> {
    let mut events = VmClock::open_at(&args.page.page)?.events()?.with_refreshes(args.all);
    let deadline = args.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let mut left = args.count.unwrap_or(u64::MAX);
    let mut is_busy = false;
    while left > 0 {
        let timeout = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let notice = match events.wait(timeout) {
            Ok(Some(notice)) => notice,
            Ok(None) => break,
            // Its publisher may have died in the middle of an update; the next one repairs the page. Nothing is missed
            // on a page that does not change.
            Err(error @ ReadError::Busy(_)) => {
                if !std::mem::replace(&mut is_busy, true) {
                    log_error(format_args!("{}: {error}", args.page.page.display()));
                }
                if timeout.is_some_and(|timeout| timeout.is_zero()) {
                    break;
                }
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        is_busy = false;
        for happened in happened(&notice, args.all).into_iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
            let delivery = log_within(&happened.line(args, events.clock()), SLOW_READER);
            match &args.exec {
                Some(command) => happened.execute(command, args),
                // Nothing is left to do.
                None if delivery == Delivery::ReaderGone => return Ok(ExitCode::SUCCESS),
                None => {}
            }
            left -= 1;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What gets a line, and a run of the command.
struct Happened<'a> {
    name: &'static str,
    from: Value,
    to: Value,
    explanation: String,
    /// The page afterwards; `None` when there is none.
    page: Option<&'a Snapshot>,
}

/// A notice, one by one.
fn happened(notice: &Notice, all: bool) -> Vec<Happened<'_>> {
    let page = notice.changes().map(|Changes { after, .. }| after);
    let about_page = |name, explanation| Happened { name, from: Value::Null, to: Value::Null, explanation, page };
    let mut happened = match notice {
        Notice::Vanished(vanished) => {
            vec![about_page("vanished", format!("{vanished}, which this command does by itself"))]
        }
        Notice::Returned(_) => {
            vec![about_page("returned", "there is a page again; what changed since the last one follows".into())]
        }
        _ => Vec::new(),
    };
    happened.extend(notice.iter().filter(|event| all || *event != Event::Refreshed).map(|event| {
        let (from, to) = from_to(event);
        Happened { name: event.name(), from, to, explanation: event.to_string(), page }
    }));
    happened
}

impl Happened<'_> {
    fn line(&self, args: &WatchArgs, clock: &VmClock) -> String {
        // A page that vanished is nobody's, and so is its time.
        let reading = self.page.and_then(|_| clock.now().ok());
        if args.page.json {
            let mut map: Map<_, _> = reading.as_ref().map(reading_json).unwrap_or_default();
            map.insert("event".into(), self.name.into());
            map.insert("from".into(), self.from.clone());
            map.insert("to".into(), self.to.clone());
            map.insert("seq_count".into(), self.page.map(|page| page.seq_count).into());
            map.insert("explanation".into(), self.explanation.as_str().into());
            return format!("{}\n", Value::Object(map));
        }
        let when = reading.and_then(|reading| reading.utc()).map_or_else(|| "(no UTC)".into(), civil_utc);
        format!("{when}  {:<20}  {}\n", self.name, self.explanation)
    }

    /// Runs the command. If that fails it is reported and no more: the next event may matter more than this failure.
    fn execute(&self, command: &str, args: &WatchArgs) {
        let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let of_page = |value: fn(&Snapshot) -> String| self.page.map(value).unwrap_or_default();
        let status = Command::new("sh")
            .args(["-c", command])
            .env("VMCLOCK_EVENT", self.name)
            .env("VMCLOCK_FROM", plain(&self.from))
            .env("VMCLOCK_TO", plain(&self.to))
            .env("VMCLOCK_MARKER", of_page(|page| page.disruption_marker.to_string()))
            .env(
                "VMCLOCK_GENERATION",
                of_page(|page| page.generation().map(|generation| generation.to_string()).unwrap_or_default()),
            )
            .env("VMCLOCK_STATUS", of_page(|page| page.clock_status.to_string()))
            .env("VMCLOCK_PAGE", &args.page.page)
            .stdout(to_a_reader(stdout()))
            .stderr(to_a_reader(stderr()))
            .status();
        let failure = match status {
            Ok(status) if status.success() => return,
            Ok(status) => format!("ended with {status}"),
            Err(error) => format!("cannot be run with sh: {error}"),
        };
        log_error(format_args!("{command:?} {failure} on event {}", self.name));
    }
}

/// Our own stream for the command, or none if nobody reads it: its first word there would kill the command.
fn to_a_reader(stream: impl AsFd) -> Stdio {
    if has_reader(stream) {
        Stdio::inherit()
    } else {
        Stdio::null()
    }
}

/// What changed, from what to what.
fn from_to(event: Event) -> (Value, Value) {
    match event {
        Event::Disrupted { from, to } | Event::Restored { from, to } => (from.into(), to.into()),
        Event::Maintenance { from, to } => (from.name().into(), to.name().into()),
        Event::Status { from, to } => (from.to_string().into(), to.to_string().into()),
        Event::Counter { from, to } => (from.to_string().into(), to.to_string().into()),
        Event::TimeScale { from, to } => {
            // The page's own sign, as in the other subcommands.
            let status = |status: LeapStatus| {
                let offset = status.tai_offset.map(TaiOffset::page_field);
                json!({"tai_offset_sec": offset, "leap_indicator": status.indicator.to_string()})
            };
            (status(from), status(to))
        }
        // A refresh, and whatever a later version of the library reports.
        _ => (Value::Null, Value::Null),
    }
}
