// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock signal`: each changes on the page what semantics.md's table says, and nothing else.

mod common;

use common::{run, stderr, Publisher};

#[test]
fn each_signal_changes_its_row_of_the_table() {
    let publisher = Publisher::start();
    let mut before = publisher.show();
    for (signal, new_marker, new_generation) in [
        ("migrate", true, false),
        ("snapshot", true, true),
        ("clone", false, true),
        ("soon", false, false),
        ("imminent", false, false),
        ("clear", false, false),
    ] {
        let answer = publisher.send(&[signal]);
        let after = publisher.show();
        assert_eq!(answer["ok"], true);
        assert_eq!(before["disruption_marker"] != after["disruption_marker"], new_marker, "{signal}: marker");
        assert_eq!(
            before["vm_generation_counter"] != after["vm_generation_counter"],
            new_generation,
            "{signal}: generation"
        );
        for key in ["clock_status", "time_type", "counter_id", "tai_offset_sec", "leap_indicator"] {
            assert_eq!(before[key], after[key], "{signal}: {key}");
        }
        let flags = after["flags"].to_string();
        assert_eq!(flags.contains("disruption-soon"), matches!(signal, "soon" | "imminent"), "{signal}: {flags}");
        assert_eq!(flags.contains("disruption-imminent"), signal == "imminent", "{signal}: {flags}");
        before = after;
    }
    for (kind, indicator) in [("positive", "pre-positive"), ("negative", "pre-negative"), ("none", "none")] {
        let answer = publisher.send(&["leap", kind]);
        // Announced more than a month ahead it waits, as the indicator is about the end of this month; but what is
        // announced here is this month's end.
        assert_eq!(answer["leap_indicator"], indicator);
        assert_eq!(publisher.show()["leap_indicator"], indicator);
    }
}

#[test]
fn markers_and_generations_never_repeat() {
    let publisher = Publisher::start();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..30 {
        let answer = publisher.send(&["snapshot"]);
        for key in ["disruption_marker", "vm_generation_counter"] {
            assert!(seen.insert((key, answer[key].as_u64().expect("a number"))), "{key} repeats: {answer}");
        }
    }
}

#[test]
fn without_a_publisher_there_is_a_next_step() {
    let output = run(&["signal", "migrate", "--page", "/nonexistent/page"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("vmclock serve"), "{}", stderr(&output));
    assert_eq!(run(&["signal", "explode"]).status.code(), Some(2));
    assert_eq!(run(&["signal", "leap", "sideways"]).status.code(), Some(2));
}
