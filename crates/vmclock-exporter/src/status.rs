// SPDX-License-Identifier: MIT OR Apache-2.0
//! The documents in JSON. `docs/output.schema.json` describes them.

use serde::Serialize;
use serde_json::{json, Value};
use vmclock_host::service::protocol::Wide;

use crate::history::History;
use crate::poller::Answers;
use crate::tally::Tally;

/// `/status.json`: what the service says now, in the form of `vmclock tracking`, `sources` and `guests`.
pub(crate) fn status(answers: &Answers) -> serde_json::Result<Value> {
    let guests: Result<Vec<_>, _> = answers.guests.iter().map(printed).collect();
    Ok(json!({
        "up": true,
        "tracking": printed(&answers.tracking)?,
        "sources": answers.sources,
        "guests": guests?,
    }))
}

/// The same where the service does not answer.
pub(crate) fn unreachable(reason: &str) -> Value {
    json!({"up": false, "error": reason})
}

/// `/history.json` and `/recent.json`: what was since `since_ms` after the exporter's start. `run` tells one run of the
/// exporter from another.
pub(crate) fn history(run: u64, history: &History, tally: &Tally, since_ms: u64) -> Value {
    json!({
        "run": format!("{run:x}"),
        "now_ms": tally.now_ms(),
        "interval_ms": u64::try_from(history.interval().as_millis()).unwrap_or(u64::MAX),
        "sources": history.sources(),
        "points": history.since(since_ms),
        "events": tally.kept_since(since_ms),
        "event_gaps": tally.gaps(),
    })
}

/// As the command prints it: numbers of 64 bits are numbers.
fn printed(value: &impl Serialize) -> serde_json::Result<Value> {
    let mut value = serde_json::to_value(value)?;
    for key in ["disruption_marker", "vm_generation_counter"] {
        if let Some(number) = value.get_mut(key) {
            let Wide(wide) = serde_json::from_value(number.take())?;
            *number = wide.into();
        }
    }
    Ok(value)
}
