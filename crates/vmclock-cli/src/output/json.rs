// SPDX-License-Identifier: MIT OR Apache-2.0
//! What every line of JSON has beside what its command says: numbers that are exact everywhere, and one name for the
//! maximum error. `docs/output.schema.json` describes all of it.

use serde_json::{Map, Value};

/// Numbers of 64 bits. JavaScript and jq before 1.7 keep 53 of them, so the same is beside each as a string.
const WIDE: [&str; 12] = [
    "counter",
    "counter_period_esterror_rate_frac_sec",
    "counter_period_frac_sec",
    "counter_period_maxerror_rate_frac_sec",
    "counter_value",
    "disruption_marker",
    "flags_raw",
    "from",
    "guest_minus_host",
    "time_frac_sec",
    "to",
    "vm_generation_counter",
];
/// What a page calls the maximum error of its time, in ± nanoseconds; and what everything else calls a maximum error.
const ON_PAGE: &str = "time_maxerror_nanosec";
const MAX_ERROR: &str = "max_error_ns";

/// Adds all that, to this object and to those in it.
pub(super) fn complete(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(complete);
            add(map);
        }
        Value::Array(items) => items.iter_mut().for_each(complete),
        _ => {}
    }
}

fn add(map: &mut Map<String, Value>) {
    for key in WIDE {
        // A negative one is the same modulo 2^64.
        let number = map.get(key).and_then(|value| value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned)));
        if let Some(number) = number {
            map.insert(format!("{key}_hex"), format!("{number:#018x}").into());
        }
    }
    if let (Some(error), false) = (map.get(ON_PAGE).cloned(), map.contains_key(MAX_ERROR)) {
        map.insert(MAX_ERROR.into(), error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn wide_numbers_are_strings_too_and_errors_have_one_name() {
        let mut value = json!({
            "page": {"disruption_marker": u64::MAX, "time_maxerror_nanosec": 7, "vm_generation_counter": null},
            "guest_minus_host": -1,
            "from": "synchronized",
            "list": [{"counter": 5}],
        });
        complete(&mut value);
        let page = json!({
            "disruption_marker": u64::MAX, "disruption_marker_hex": "0xffffffffffffffff",
            "time_maxerror_nanosec": 7, "max_error_ns": 7, "vm_generation_counter": null,
        });
        assert_eq!(value["page"], page);
        assert_eq!(value["guest_minus_host_hex"], "0xffffffffffffffff");
        assert_eq!(value["list"], json!([{"counter": 5, "counter_hex": "0x0000000000000005"}]));
        assert_eq!(value.get("from_hex"), None);
    }
}
