// SPDX-License-Identifier: MIT OR Apache-2.0
//! The configuration of `vmclock serve`, and a page as the source of another one.

mod common;

use std::path::Path;

use common::{json, run, stderr, wait_for, Publisher};
use vmclock::{Event, VmClock};

/// The example in the documentation.
const EXAMPLE: &str = include_str!("../../../docs/serve.toml");

fn check(folder: &Path, text: &str) -> Result<String, String> {
    let path = folder.join("serve.toml");
    std::fs::write(&path, text).expect("written");
    let output = run(&["serve", "--check-config", "--config", path.to_str().expect("plain")]);
    match output.status.code() {
        Some(0) => Ok(common::stdout(&output)),
        Some(1) => Err(stderr(&output) + &common::stdout(&output)),
        other => panic!("{other:?}: {}", stderr(&output)),
    }
}

#[test]
fn the_documented_example_is_in_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let said = check(folder.path(), EXAMPLE).expect("in order");
    assert!(said.starts_with("kernel") && said.contains('±'), "{said}");
    assert!(!folder.path().join("page").exists(), "nothing is published");
    assert!(check(folder.path(), "").is_ok(), "all of it may be left out");
    // With all that is commented out, what is wrong are the devices that this machine does not have, not their words.
    let is_toml = |line: &str| line.starts_with("# [") || line.starts_with("# ") && line.contains(" = ");
    let uncommented = |line| if is_toml(line) { line.trim_start_matches("# ") } else { line };
    let all = EXAMPLE.lines().map(uncommented).collect::<Vec<_>>().join("\n");
    let without_truth = all.replace("kind = \"host-clock\"", "kind = \"kernel\"");
    let error = check(folder.path(), &without_truth).expect_err("there are no such devices");
    assert!(error.contains("/dev/ptp0: cannot be opened") || error.contains("/dev/ptp0: is no PTP clock"), "{error}");
    assert!(check(folder.path(), &all).expect_err("one of several").contains("assumed exact"));
}

#[test]
fn what_is_wrong_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let ptp = "[[source]]\nkind = \"ptp\"\npath = \"/dev/null\"\n";
    for (text, part) in [
        ("refersh = \"1s\"", "refersh"),
        ("refresh = \"1\"", "has no unit"),
        ("refresh = \"2h\"", "between 1ms and 60s"),
        ("tai_offset = 7", "tai_offset = 7"),
        ("[[source]]\nkind = \"sundial\"", "sundial"),
        ("[[source]]\nkind = \"chrony\"\naddress = \"here\"", "\"here\""),
        (&format!("{ptp}scale = \"tai\"\nmax_error = \"1us\""), "/dev/null: is no PTP clock"),
        (&format!("{ptp}scale = \"tai\""), "either max_error or max_error_file"),
        (&format!("{ptp}max_error = \"1us\""), "scale"),
        ("[[source]]\nkind = \"vmclock\"\npath = \"/no/page\"", "/no/page"),
        ("[[source]]\nkind = \"chrony\"\naddress = \"127.0.0.1:1\"", "is chronyd running?"),
        ("[estimator]\ndrift_ppm = -1.0", "drift_ppm = -1"),
        ("[estimator]\ndrift_ppm = 1.0\nleast_drift_ppm = 2.0", "least_drift_ppm"),
        ("[estimator]\ndrift = \"guessed\"", "guessed"),
        ("[estimator]\nholdover = \"soon\"", "source_timeout"),
    ] {
        let error = check(folder.path(), text).expect_err(text);
        assert!(error.contains(part), "{text:?}: {error}");
    }
    let output = run(&["serve", "--config", "/no/such.toml"]);
    assert!(stderr(&output).contains("/no/such.toml: cannot be read"));
    assert_eq!(run(&["serve", "--check-config"]).status.code(), Some(2));
    assert_eq!(run(&["serve", "--config", "x", "--reference", "kernel"]).status.code(), Some(2));
}

#[test]
fn a_page_is_the_source_of_another_one() {
    let first = Publisher::start();
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("serve.toml");
    let text = format!("refresh = \"10ms\"\n[[source]]\nkind = \"vmclock\"\npath = \"{}\"\n", first.path());
    std::fs::write(&config, text).expect("written");
    let second =
        Publisher::in_folder(folder.path(), &["--config", config.to_str().expect("plain"), "--tai-offset", "-37"]);
    let [one, other] = [&first, &second].map(|publisher| VmClock::open_at(publisher.page()).expect("a page"));
    for _ in 0..100 {
        let before = one.now().expect("a time").interval().expect("bounds");
        let between = other.now().expect("a time").interval().expect("bounds");
        let after = one.now().expect("a time").interval().expect("bounds");
        assert!(between.latest >= before.earliest && between.earliest <= after.latest);
        assert!(between.width_nanos() > 0);
    }
    // What happens to the first machine's counter happens to the second's.
    let mut events = other.events().expect("events");
    json(&["signal", "migrate", "--json", "--page", &first.path()]);
    wait_for("the disruption", || {
        let changes = events.wait(Some(common::LIMIT)).ok()??;
        let found = changes.iter().any(|event| matches!(event, Event::Disrupted { .. }));
        found.then_some(())
    });
    wait_for("a time again", || other.now().ok());
}

#[test]
fn accuracy_is_measured() {
    assert!(json(&["bench", "--rounds", "1", "--json"])["now_ns"].is_f64());
    let seen = json(&["bench", "--accuracy", "--time", "500ms", "--json"]);
    assert_eq!(seen["outside"], 0, "{seen}");
    for key in ["accuracy_median_ns", "accuracy_p999_ns", "half_width_median_ns", "readings"] {
        assert!(seen[key].is_u64(), "{key}: {seen}");
    }
}
