// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock signal`: each changes on the page what semantics.md's table says, and nothing else.

mod common;

use std::os::unix::net::UnixListener;
use std::process::Stdio;

use common::{run, stderr, vmclock, wait_for, Publisher};
use vmclock::VmClock;

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

#[test]
fn a_socket_without_a_publisher_is_not_called_missing() {
    let folder = tempfile::tempdir().expect("a folder");
    let page = folder.path().join("page");
    drop(UnixListener::bind(folder.path().join("page.control")).expect("bound"));
    let output = run(&["signal", "migrate", "--page", page.to_str().expect("plain")]);
    assert_eq!(output.status.code(), Some(1));
    let error = stderr(&output);
    assert!(error.contains("any more") && error.contains("page.control"), "{error}");
}

#[test]
fn a_publisher_that_does_not_get_its_socket_leaves_the_page_alone() {
    let first = Publisher::start();
    let control = first.page().with_extension("control");
    let folder = tempfile::tempdir().expect("a folder");
    let other = folder.path().join("other");
    let before = first.show();
    for page in [&other, &first.page()] {
        let output =
            vmclock().args(["serve", "--page"]).arg(page).arg("--control").arg(&control).output().expect("run");
        assert_eq!(output.status.code(), Some(1));
        let error = stderr(&output);
        assert!(error.contains("another publisher") && error.contains("page.control"), "{error}");
    }
    assert!(!other.exists(), "it wrote nothing");
    assert_eq!(first.show()["disruption_marker"], before["disruption_marker"]);
    first.send(&["soon"]);
}

#[test]
fn of_two_publishers_that_start_at_once_one_publishes() {
    for _ in 0..10 {
        let folder = tempfile::tempdir().expect("a folder");
        let page = folder.path().join("page");
        // What a killed publisher leaves, which both want to remove.
        drop(UnixListener::bind(folder.path().join("page.control")).expect("bound"));
        let start = || {
            let mut command = vmclock();
            command.args(["serve", "--reference", "host-clock", "--tai-offset", "-37", "--page"]).arg(&page);
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("run")
        };
        let mut children = [start(), start()];
        let loser = wait_for("one of them gives up", || {
            children.iter_mut().position(|child| child.try_wait().expect("ours").is_some())
        });
        assert_eq!(children[loser].wait().expect("ours").code(), Some(1));
        let clock = wait_for("a time", || VmClock::open_at(&page).ok().filter(|clock| clock.now().is_ok()));
        let path = page.to_str().expect("plain");
        assert!(run(&["signal", "soon", "--page", path]).status.success(), "the other has the socket and the page");
        clock.now().expect("it publishes on");
        let winner = &mut children[1 - loser];
        assert_eq!(winner.try_wait().expect("ours"), None);
        winner.kill().expect("ours");
        winner.wait().expect("ours");
    }
}
