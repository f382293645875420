// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a service may say, for tests.

use serde_json::json;
use vmclock_host::service::protocol::{GuestState, SourceState, Tracking};

use crate::poller::Answers;

pub(crate) fn tracking() -> Tracking {
    serde_json::from_value(json!({
        "status": "synchronized", "disruption_marker": "0x1", "time_type": "tai", "tai_minus_utc": 37,
        "tai_origin": "stated", "leap_indicator": "none", "max_error_ns": 1_500, "estimated_error_ns": null,
        "frequency_ppm": -2.0, "drift_ppm": 1.0, "selected": ["a"], "clocks": 1, "update_age_ns": 250_000_000,
        "next_round_ns": null, "guests": 1
    }))
    .expect("a tracking")
}

/// With an offset of -0.5 s.
pub(crate) fn source(name: &str, reach: u8) -> SourceState {
    serde_json::from_value(json!({
        "source": name, "clock": "c", "standing": "falseticker", "reach": reach, "offset_ns": -5e8,
        "max_error_ns": null, "synchronized": true, "age_ns": 0, "reason": null
    }))
    .expect("a source")
}

pub(crate) fn guest(name: &str) -> GuestState {
    serde_json::from_value(json!({
        "guest": name, "page": "descriptor", "user": 0, "counter": "host", "step": null, "seq_count": 8,
        "disruption_marker": "0xffffffffffffffff", "vm_generation_counter": "0x2", "clock_status": "synchronized",
        "max_error_ns": 2_000_000_000
    }))
    .expect("a guest")
}

pub(crate) fn answers() -> Answers {
    Answers { tracking: tracking(), sources: vec![source("a", 0x81)], guests: vec![guest("web \"7\\")] }
}
