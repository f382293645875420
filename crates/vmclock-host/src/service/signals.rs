// SPDX-License-Identifier: MIT OR Apache-2.0
//! The first form of requests, which `vmclock signal` sends: `{"signal": "migrate"}`, a leap second `{"signal": "leap",
//! "kind": "positive"}`. An answer is `{"ok": true, ..}` with what the page says after the update, or `{"error": ".."}`,
//! and ends the connection.

use serde_json::{json, Map, Value};
use vmclock_core::abi::Snapshot;
use vmclock_core::leap::LeapKind;

use crate::event::Signal;

/// A signal as a request, without the end of its line.
///
/// ```
/// use vmclock_host::event::Signal;
/// use vmclock_host::service::signals::{decode, encode};
/// let request = encode(Signal::Soon);
/// assert_eq!(decode(&request.to_string()), Some(Ok(Signal::Soon)));
/// ```
pub fn encode(signal: Signal) -> Value {
    match signal {
        Signal::Leap(kind) => {
            let kind = match kind {
                Some(LeapKind::Inserted) => "positive",
                Some(LeapKind::Deleted) => "negative",
                None => "none",
            };
            json!({"signal": "leap", "kind": kind})
        }
        signal => json!({"signal": signal.to_string()}),
    }
}

/// The signal of a request, or what is wrong with it; `None` for a request of another form.
pub fn decode(line: &str) -> Option<Result<Signal, String>> {
    let request: Map<String, Value> = serde_json::from_str(line).ok()?;
    let word = |key: &str| request.get(key).map(|word| word.as_str().unwrap_or_default());
    Some(Ok(match word("signal")? {
        "migrate" => Signal::Migrate,
        "snapshot" => Signal::Snapshot,
        "clone" => Signal::Clone,
        "soon" => Signal::Soon,
        "imminent" => Signal::Imminent,
        "clear" => Signal::Clear,
        "leap" => Signal::Leap(match word("kind").unwrap_or_default() {
            "positive" => Some(LeapKind::Inserted),
            "negative" => Some(LeapKind::Deleted),
            "none" => None,
            other => return Some(Err(format!("kind {other:?} is none of positive, negative, none"))),
        }),
        other => {
            let known = "migrate, snapshot, clone, soon, imminent, clear, leap";
            return Some(Err(format!("signal {other:?} is none of {known}")));
        }
    }))
}

/// The answer: what the page says now, or why it was not done.
pub fn answer(result: &Result<Snapshot, String>) -> String {
    let answer = match result {
        Ok(page) => json!({
            "ok": true,
            "seq_count": page.seq_count,
            "disruption_marker": page.disruption_marker,
            "vm_generation_counter": page.generation(),
            "flags": page.flags.names().collect::<Vec<_>>(),
            "leap_indicator": page.leap_indicator.to_string(),
        }),
        Err(error) => json!({"error": error}),
    };
    format!("{answer}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_is_decoded_as_it_was_encoded() {
        let leaps = [Some(LeapKind::Inserted), Some(LeapKind::Deleted), None].map(Signal::Leap);
        let signals = [Signal::Migrate, Signal::Snapshot, Signal::Clone, Signal::Soon, Signal::Imminent, Signal::Clear];
        for signal in signals.into_iter().chain(leaps) {
            assert_eq!(decode(&encode(signal).to_string()), Some(Ok(signal)));
        }
        assert_eq!(encode(Signal::Soon), json!({"signal": "soon"}));
        assert_eq!(encode(Signal::Leap(Some(LeapKind::Inserted))), json!({"signal": "leap", "kind": "positive"}));
    }

    #[test]
    fn what_is_no_signal_is_told_from_other_requests() {
        for other in ["", "migrate", "[]", "{}", r#"{"request": "guests"}"#] {
            assert_eq!(decode(other), None, "{other}");
        }
        for wrong in [r#"{"signal": 4}"#, r#"{"signal": "explode"}"#, r#"{"signal": "leap", "kind": "x"}"#] {
            assert!(matches!(decode(wrong), Some(Err(_))), "{wrong}");
        }
    }
}
