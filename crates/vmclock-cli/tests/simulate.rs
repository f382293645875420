// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock simulate`, in its own worlds and on what a publisher wrote down.

mod common;

use common::{json, run, stderr, stdout, Publisher};
use rustix::process::Signal;
use serde_json::Value;

fn simulated(args: &[&str]) -> Value {
    json(&[&["simulate", "--json"], args].concat())
}

#[test]
fn no_promise_is_broken_in_any_world() {
    let seen = simulated(&["--days", "7", "--seed", "20"]);
    for key in ["bound_violations", "nested_violations", "monotonic_violations"] {
        assert_eq!(seen[key], 0, "{seen}");
    }
    assert_eq!(seen["days"], 7.0);
    assert!(seen["seconds"].is_f64() && seen["readings"].as_u64().is_some_and(|readings| readings > 100_000));
    let scenarios = seen["scenarios"].as_array().expect("a list");
    assert_eq!(scenarios.len(), 14);
    for scenario in scenarios {
        // A world in which no time is given has nothing that could be wrong.
        assert!(scenario["without_time"].as_f64().is_some_and(|part| part < 0.5), "{scenario}");
        assert!(scenario["half_width_ns"]["median"].as_u64().is_some_and(|width| width > 0), "{scenario}");
    }
}

#[test]
fn the_same_seed_gives_the_same_world() {
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
        let look = text.lines().filter(|line| line.starts_with("look")).nth(10).expect("a look");
        let other = look.replacen("look 0 ", "look 0 1", 1);
        std::fs::write(&trace, text.replacen(look, &other, 1)).expect("written");
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
