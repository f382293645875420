// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock watch`: a line for each event, and a command to go with it.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::{json, Map, Value};
use vmclock::{Changes, Event, Notice, ReadError, Snapshot, VmClock};
use vmclock_core::leap::LeapStatus;
use vmclock_core::tai::TaiOffset;

use crate::cli::WatchArgs;
use crate::command::hook::Hook;
use crate::exit;
use crate::output::{json_line, log_error, log_within, reading_json, Delivery};

/// How long a line waits for a slow reader before it is dropped: the commands of the next events wait as long.
const SLOW_READER: Duration = Duration::from_secs(1);
/// What is reported only where it is asked for.
const REFRESHED: &str = Event::Refreshed.name();

pub(crate) fn run(args: &WatchArgs) -> anyhow::Result<ExitCode> {
    let refreshes = is_wanted(REFRESHED, args);
    let mut events = VmClock::open_at(&args.page.page)?.events()?.with_refreshes(refreshes);
    let hook = args.exec.as_deref();
    let hook = hook.map(|command| Hook { command, timeout: args.exec_timeout, json: args.page.json });
    let mut has_failed = false;
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
        let wanted = happened(&notice).into_iter().filter(|happened| is_wanted(happened.name, args));
        for happened in wanted.take(usize::try_from(left).unwrap_or(usize::MAX)) {
            let delivery = log_within(&happened.line(args, events.clock()), SLOW_READER);
            match &hook {
                Some(hook) => has_failed |= !happened.execute(hook, args),
                // Nothing is left to do.
                None if delivery == Delivery::ReaderGone => return Ok(ExitCode::SUCCESS),
                None => {}
            }
            left -= 1;
        }
    }
    Ok(if has_failed { exit::HOOK_FAILED.into() } else { ExitCode::SUCCESS })
}

/// Whether an event of this name is asked for.
fn is_wanted(name: &str, args: &WatchArgs) -> bool {
    let is_named = args.on.iter().any(|wanted| wanted == name);
    is_named || (args.on.is_empty() && name != REFRESHED) || (args.all && name == REFRESHED)
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
fn happened(notice: &Notice) -> Vec<Happened<'_>> {
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
    happened.extend(notice.iter().map(|event| {
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
            return json_line(Value::Object(map));
        }
        let when = reading.and_then(|reading| reading.utc()).map_or_else(|| "(no UTC)".into(), |utc| utc.to_string());
        format!("{when}  {:<20}  {}\n", self.name, self.explanation)
    }

    /// Runs the command, and says whether that succeeded. A failure is reported and no more: the next event may matter
    /// more.
    fn execute(&self, hook: &Hook<'_>, args: &WatchArgs) -> bool {
        let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let of_page = |value: fn(&Snapshot) -> String| self.page.map(value).unwrap_or_default();
        let generation = |page: &Snapshot| page.generation().map_or_else(String::new, |value| value.to_string());
        let variables = [
            ("VMCLOCK_EVENT", self.name.to_owned()),
            ("VMCLOCK_FROM", plain(&self.from)),
            ("VMCLOCK_TO", plain(&self.to)),
            ("VMCLOCK_MARKER", of_page(|page| page.disruption_marker.to_string())),
            ("VMCLOCK_GENERATION", of_page(generation)),
            ("VMCLOCK_STATUS", of_page(|page| page.clock_status.to_string())),
        ];
        let result = hook.run(variables, &args.page.page);
        if let Err(failure) = &result {
            log_error(format_args!("{:?} {failure} on event {}", hook.command, self.name));
        }
        result.is_ok()
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
