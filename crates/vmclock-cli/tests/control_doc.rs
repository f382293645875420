// SPDX-License-Identifier: MIT OR Apache-2.0
//! The examples of `docs/control.md` are what the service takes and gives.

use std::collections::BTreeSet;

use serde_json::Value;
use vmclock_host::service::protocol::{Call, PageState, Refusal};

const DOC: &str = include_str!("../../../docs/control.md");

/// The lines of its examples.
fn examples() -> Vec<Value> {
    let (mut is_inside, mut list) = (false, Vec::new());
    for line in DOC.lines() {
        match line {
            "```json" => is_inside = true,
            "```" => is_inside = false,
            line if is_inside => {
                list.push(serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")));
            }
            _ => {}
        }
    }
    list
}

#[test]
fn its_examples_are_requests_and_answers() {
    let mut requests = BTreeSet::new();
    for example in examples() {
        if let Some(request) = example["request"].as_str() {
            let call = Call::parse(&example.to_string()).unwrap_or_else(|(_, refusal)| panic!("{example}: {refusal}"));
            assert_eq!(Call::parse(&call.line()), Ok(call), "{example}");
            requests.insert(request.to_owned());
        } else if example["ok"] == true {
            serde_json::from_value::<PageState>(example.clone()).unwrap_or_else(|error| panic!("{example}: {error}"));
        } else {
            let refusal = serde_json::from_value::<Refusal>(example["error"].clone());
            refusal.unwrap_or_else(|error| panic!("{example}: {error}"));
        }
    }
    let all = [
        "add-guest",
        "announce",
        "guests",
        "inspect",
        "leap",
        "lifecycle",
        "remove-guest",
        "set-counter",
        "sources",
        "subscribe",
        "tracking",
        "version",
    ];
    assert_eq!(requests.into_iter().collect::<Vec<_>>(), all, "each request has an example");
}
