// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock guests`, `sources`, `tracking` and `signal --guest`: the host's service, as an operator sees it.

mod common;

use common::{json, run, stderr, stdout, wait_for, Publisher};
use serde_json::Value;
use vmclock::{ClockStatus, VmClock};

struct Service {
    publisher: Publisher,
    folder: tempfile::TempDir,
}

impl Service {
    fn start() -> Self {
        Self { publisher: Publisher::start(), folder: tempfile::tempdir().expect("a folder") }
    }

    /// A guest's page, by name.
    fn page(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("plain").to_owned()
    }

    fn ask(&self, args: &[&str]) -> Value {
        json(&[args, &["--json", "--service", &self.publisher.path()]].concat())
    }

    fn add(&self, name: &str, more: &[&str]) -> Value {
        self.ask(&[&["guests", "add", name, "--page", &self.page(name)], more].concat())
    }

    fn text(&self, args: &[&str]) -> String {
        let output = run(&[args, &["--service", &self.publisher.path()]].concat());
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        stdout(&output)
    }

    fn error(&self, args: &[&str]) -> String {
        let output = run(&[args, &["--service", &self.publisher.path()]].concat());
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        stderr(&output)
    }
}

#[test]
fn guests_come_and_go_and_their_pages_say_so() {
    let service = Service::start();
    let added = service.add("one", &["--counter", "host"]);
    assert_eq!((&added["guest"], &added["clock_status"]), (&"one".into(), &"synchronized".into()));
    service.add("two", &["--counter", "-4096", "--notify"]);
    service.add("three", &[]);
    // On this machine, which reads the same counter.
    let (own, guest) = [service.publisher.path(), service.page("one")].map(VmClock::open_at).into();
    let (own, guest): (VmClock, VmClock) = (own.expect("a page"), guest.expect("a page"));
    let (before, between, after) = (own.now(), guest.now(), own.now());
    let interval = |reading: Result<vmclock::Reading, _>| reading.expect("a time").interval().expect("bounds");
    let (before, between, after) = (interval(before), interval(between), interval(after));
    assert!(between.latest >= before.earliest && between.earliest <= after.latest);
    let listed = service.text(&["guests"]);
    let rows: Vec<_> = listed.lines().map(|line| line.split_whitespace().next().expect("a name")).collect();
    assert_eq!(rows, ["NAME", "one", "three", "two"]);
    assert!(listed.contains("-4096") && listed.contains("unknown"), "{listed}");
    let marker = guest.epoch().expect("a page").disruption_marker;
    let restored = service.ask(&["guests", "step", "one", "restored", "--counter", "host"]);
    assert_ne!(restored["disruption_marker"], marker);
    assert_eq!(guest.epoch().expect("a page").disruption_marker, restored["disruption_marker"].as_u64().expect("one"));
    let withheld = service.ask(&["guests", "counter", "one", "unknown"]);
    assert_eq!(withheld["clock_status"], "initializing");
    assert!(service.error(&["guests", "add", "one", "--page", &service.page("other")]).contains("remove it first"));
    assert!(service.error(&["guests", "remove", "four"]).contains("no such guest"));
    service.ask(&["guests", "remove", "one"]);
    wait_for("the page to say so", || (guest.snapshot().ok()?.clock_status == ClockStatus::UNRELIABLE).then_some(()));
    assert_eq!(stdout(&run(&["guests", "--json", "--service", &service.publisher.path()])).lines().count(), 2);
}

#[test]
fn a_signal_can_be_a_guests() {
    let service = Service::start();
    service.add("vm", &["--counter", "host"]);
    let own = service.publisher.show();
    let send = |signal: &[&str]| {
        json(&[&["signal"], signal, &["--guest", "vm", "--json", "--page", &service.publisher.path()]].concat())
    };
    let show = || json(&["show", "--json", "--page", &service.page("vm")]);
    let mut before = show();
    for (signal, marker, generation) in [
        ("migrate", true, false),
        ("snapshot", true, true),
        ("clone", false, true),
        ("soon", false, false),
        ("imminent", false, false),
        ("clear", false, false),
    ] {
        send(&[signal]);
        let after = show();
        assert_eq!(before["disruption_marker"] != after["disruption_marker"], marker, "{signal}");
        assert_eq!(before["vm_generation_counter"] != after["vm_generation_counter"], generation, "{signal}");
        assert_eq!(after["clock_status"], "synchronized", "{signal}: it reads this machine's counter");
        let flags = after["flags"].to_string();
        assert_eq!(flags.contains("disruption-soon"), matches!(signal, "soon" | "imminent"), "{signal}: {flags}");
        before = after;
    }
    let page = service.publisher.path();
    let leap = run(&["signal", "leap", "positive", "--guest", "vm", "--page", &page]);
    assert!(stderr(&leap).contains("leave out --guest"));
    assert_eq!(service.publisher.show()["disruption_marker"], own["disruption_marker"], "the host's is another");
}

#[test]
fn sources_and_tracking_say_what_is_known() {
    let service = Service::start();
    let source = service.ask(&["sources"]);
    assert_eq!((&source["standing"], &source["synchronized"]), (&"selected".into(), &true.into()));
    assert!(source["reach"].as_u64().expect("a number") & 1 == 1 && source["reason"].is_null(), "{source}");
    let text = service.text(&["sources"]);
    let row = text.lines().nth(1).expect("a source");
    assert!(row.starts_with("*  ") && row.contains(" ± "), "{text}");
    let tracking = service.ask(&["tracking"]);
    let page = service.publisher.show();
    assert_eq!((&tracking["status"], &tracking["tai_minus_utc"]), (&"synchronized".into(), &37.into()));
    assert_eq!(tracking["disruption_marker"], page["disruption_marker"]);
    assert_eq!((&tracking["clocks"], &tracking["guests"]), (&1.into(), &0.into()));
    let text = service.text(&["tracking"]);
    assert!(text.contains("synchronized") && text.contains("+37 s (stated)"), "{text}");
}

#[test]
fn without_a_service_there_is_a_next_step() {
    for command in ["guests", "sources", "tracking"] {
        let output = run(&[command, "--service", "/nonexistent/page"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("vmclock serve"), "{}", stderr(&output));
    }
    for wrong in
        [&["guests", "add", "a/b", "--page", "x"][..], &["guests", "step", "x", "explode"], &["guests", "add", "x"]]
    {
        assert_eq!(run(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn the_service_is_measured() {
    let mut bench = common::Lines::of(
        common::vmclock()
            .args(["bench", "--service", "--guests", "10", "--rounds", "1", "--json"])
            .stderr(std::process::Stdio::null()),
    );
    let measured = bench.until(|line| line["measured"] == "alone");
    assert_eq!(measured.len(), 4, "{measured:?}");
    assert!(measured.iter().all(|line| line.get("wrong").is_none_or(|wrong| *wrong == 0)), "{measured:?}");
    assert_eq!(bench.wait(), Some(0));
}
