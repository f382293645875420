// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock demo`: everything that it promises is seen.

mod common;

use common::{run, stderr, stdout};
use serde_json::Value;

#[test]
fn the_demo_shows_everything_and_draws_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let plot = folder.path().join("demo.svg");
    let output = run(&["demo", "--json", "--plot", plot.to_str().expect("plain")]);
    assert!(output.status.success(), "{}", stderr(&output));
    let lines: Vec<Value> =
        stdout(&output).lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
    for line in &lines {
        common::schema::check_as("demo", line);
    }
    let of = |kind: &str| lines.iter().filter(|line| line["kind"] == kind).cloned().collect::<Vec<_>>();
    let events: Vec<_> = of("event").iter().map(|event| event["event"].as_str().expect("a name").to_owned()).collect();
    for event in ["disrupted", "restored", "maintenance-imminent", "maintenance-cleared", "time-scale", "status"] {
        assert!(events.iter().any(|seen| seen == event), "{event} was not seen: {events:?}");
    }
    let readings = of("reading");
    assert!(readings.iter().all(|reading| reading["tai"].is_object() && reading["earliest"].is_object()));
    assert!(readings.iter().any(|reading| reading["utc"]["leap_second"] == true), "23:59:60 was not seen");
    let summary = of("summary").pop().expect("a summary");
    assert_eq!(summary["outside"], 0, "{summary}");
    assert!(summary["readings"].as_u64() > Some(100), "{summary}");
    let svg = std::fs::read_to_string(&plot).expect("a picture");
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>") && svg.contains("restored"));
}
