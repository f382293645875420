// SPDX-License-Identifier: MIT OR Apache-2.0
//! How times and errors are formatted, and how lines are written.

mod json;
mod lines;

use serde_json::{json, Value};
use vmclock::{Reading, Timestamp, UtcTime};

#[cfg(feature = "qemu")]
pub(crate) use lines::print_bytes;
pub(crate) use lines::{
    errors_as_json, has_reader, json_line, log, log_error, log_json, log_within, print, print_error, print_json,
    Delivery, ReaderGone,
};

/// `{"sec": .., "nsec": ..}`
pub(crate) fn timestamp_json<S>(stamp: Timestamp<S>) -> Value {
    json!({"sec": stamp.seconds(), "nsec": stamp.subsec_nanos()})
}

/// `{"sec": .., "nsec": .., "leap_second": ..}`
pub(crate) fn utc_json(utc: UtcTime) -> Value {
    json!({"sec": utc.time.seconds(), "nsec": utc.time.subsec_nanos(), "leap_second": utc.leap_second})
}

/// The keys that every subcommand prints of a reading: `time`, `earliest` and `latest` on the page's own scale, `tai`
/// and `utc` where they are known, and `max_error_ns`, the maximum error of all of them in ± nanoseconds.
pub(crate) fn reading_json(reading: &Reading) -> serde_json::Map<String, Value> {
    let interval = reading.interval();
    let mut map = serde_json::Map::new();
    map.insert("time".into(), timestamp_json(reading.time().timestamp()));
    map.insert("time_type".into(), reading.time_type().to_string().into());
    map.insert("earliest".into(), interval.map_or(Value::Null, |interval| timestamp_json(interval.earliest)));
    map.insert("latest".into(), interval.map_or(Value::Null, |interval| timestamp_json(interval.latest)));
    let max_error = reading.max_error_nanos().and_then(|error| u64::try_from(error).ok());
    map.insert("max_error_ns".into(), max_error.into());
    map.insert("tai".into(), reading.tai().map_or(Value::Null, |tai| timestamp_json(tai.timestamp())));
    map.insert("utc".into(), reading.utc().map_or(Value::Null, utc_json));
    map
}

/// Nanoseconds with the unit that suits them: `± 850 ns`, `± 12.3 us`, `± 16.000 s`.
pub(crate) fn error(nanos: u128) -> String {
    #[allow(clippy::cast_precision_loss)] // three digits are shown
    let value = nanos as f64;
    match nanos {
        0..=9_999 => format!("± {nanos} ns"),
        10_000..=9_999_999 => format!("± {:.1} us", value / 1e3),
        10_000_000..=9_999_999_999 => format!("± {:.1} ms", value / 1e6),
        _ => format!("± {:.3} s", value / 1e9),
    }
}
