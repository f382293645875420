// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock simulate`, in its own scenarios and on what a publisher recorded.

mod common;

use common::{json, run, stderr, stdout, Publisher};
use rustix::process::Signal;
use serde_json::Value;

fn simulated(args: &[&str]) -> Value {
    json(&[&["simulate", "--json"], args].concat())
}

#[test]
fn no_rule_is_violated_in_any_scenario() {
    let seen = simulated(&["--days", "7", "--seed", "20"]);
    for (key, value) in seen.as_object().expect("an object") {
        assert!(!key.ends_with("_violations") || value == 0, "{key}: {seen}");
    }
    for key in ["bound_violations", "nested_violations", "monotonic_violations", "utc_violations", "time_violations"] {
        assert_eq!(seen[key], 0, "{seen}");
    }
    assert_eq!(seen["days"], 7.0);
    assert!(seen["seconds"].is_f64() && seen["readings"].as_u64().is_some_and(|readings| readings > 100_000));
    let scenarios = seen["scenarios"].as_array().expect("a list");
    assert!(scenarios.len() > 30, "{}", scenarios.len());
    for scenario in scenarios {
        // A scenario in which no time is given has nothing that could be wrong.
        let most = if scenario["name"] == "two-servers" { 1.0 } else { 0.5 };
        assert!(scenario["without_time"].as_f64().is_some_and(|part| part < most), "{scenario}");
        assert!(scenario["half_width_ns"]["median"].as_u64().is_some_and(|width| width > 0), "{scenario}");
        assert_eq!(scenario["violation"], Value::Null);
    }
}

#[test]
fn servers_are_compared_with_the_same_ones() {
    let seen = simulated(&["--scenario", "network", "--days", "6", "--seed", "3"]);
    let comparison = &seen["network_comparison"];
    assert_eq!(comparison["servers"], 6, "{seen}");
    for key in ["page_median_error_ns", "network_guest_median_error_ns"] {
        assert!(comparison[key].as_u64().is_some_and(|error| (1_000..30_000_000).contains(&error)), "{comparison}");
    }
    // A PTP clock is no server.
    let seen = simulated(&["--scenario", "ptp", "--days", "0.1"]);
    assert_eq!(seen["network_comparison"], Value::Null);
}

#[test]
fn the_same_seed_gives_the_same_simulation() {
    let without_seconds = |mut seen: Value| {
        seen["seconds"] = Value::Null;
        seen
    };
    let args = ["--scenario", "fault", "--days", "0.5", "--seed", "3"];
    let [one, other] = [simulated(&args), simulated(&args)].map(without_seconds);
    assert_eq!(one, other);
    let third = without_seconds(simulated(&["--scenario", "fault", "--days", "0.5", "--seed", "4"]));
    assert_ne!(one, third);
}

#[test]
fn a_picture_is_drawn_and_a_wrong_name_is_answered_with_the_right_ones() {
    let folder = tempfile::tempdir().expect("a folder");
    let plot = folder.path().join("plot.svg");
    simulated(&["--scenario", "ptp", "--days", "0.1", "--plot", plot.to_str().expect("plain")]);
    assert!(std::fs::read_to_string(plot).expect("drawn").contains("<svg"));
    let output = run(&["simulate", "--scenario", "mars"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("\"mars\"") && stderr(&output).contains("ptp-outages"), "{}", stderr(&output));
    for days in ["0", "-1", "x", "1e7"] {
        assert_eq!(run(&["simulate", "--days", days]).status.code(), Some(2), "{days}");
    }
}

#[test]
fn what_a_publisher_did_comes_out_again_bit_for_bit() {
    for monotonic in ["false", "true"] {
        let folder = tempfile::tempdir().expect("a folder");
        let (trace, config) = (folder.path().join("trace"), folder.path().join("serve.toml"));
        let [trace_word, config_word] = [&trace, &config].map(|path| path.to_str().expect("plain"));
        let text = "[[source]]\nkind = \"host-clock\"\n[estimator]\nmonotonic = ";
        std::fs::write(&config, format!("{text}{monotonic}\n")).expect("written");
        let more = ["--config", config_word, "--record", trace_word, "--refresh", "1ms", "--tai-offset", "-37"];
        let mut publisher = Publisher::in_folder(folder.path(), &more);
        let flags = publisher.show()["flags"].to_string();
        assert_eq!(flags.contains("time-monotonic"), monotonic == "true", "{flags}");
        for _ in 0..20 {
            publisher.lines.until(|line| line["event"] == "refreshed");
        }
        publisher.lines.signal(Signal::TERM);
        assert_eq!(publisher.lines.wait(), Some(0));

        let again = simulated(&["--replay", trace_word]);
        assert_eq!(again["different"], 0, "{again}");
        assert!(again["calibrations"].as_u64().is_some_and(|count| count >= 20), "{again}");

        // Somebody has changed a number.
        let text = std::fs::read_to_string(&trace).expect("written");
        // The counter of one measurement: whatever scale the clock is on.
        let line = text.lines().filter(|line| line.starts_with("measured 0 ")).nth(10).expect("a measurement");
        let mut words: Vec<&str> = line.split(' ').collect();
        let counter = format!("1{}", words[3]);
        words[3] = &counter;
        std::fs::write(&trace, text.replacen(line, &words.join(" "), 1)).expect("written");
        let output = run(&["simulate", "--replay", trace_word]);
        assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
        std::fs::write(&trace, "hello\n").expect("written");
        let output = run(&["simulate", "--replay", trace_word]);
        let error = stderr(&output);
        assert!(error.contains(trace_word) && error.contains("line 1") && error.contains("hello"), "{error}");
    }
}

#[test]
fn a_trace_replaces_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let trace = folder.path().join("trace");
    std::fs::write(&trace, "precious").expect("written");
    let page = folder.path().join("page");
    let [trace, page] = [&trace, &page].map(|path| path.to_str().expect("plain"));
    let output = run(&["serve", "--record", trace, "--page", page]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(trace), "{}", stderr(&output));
    assert_eq!(std::fs::read_to_string(trace).expect("there"), "precious");
}
