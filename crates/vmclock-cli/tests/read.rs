// SPDX-License-Identifier: MIT OR Apache-2.0
//! `show`, `now`, `wait` and `watch`, on a page that a real publisher keeps alive.

mod common;

use std::path::Path;
use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

use common::{json, run, stderr, stdout, vmclock, wait_for, Lines, Publisher};
use serde_json::Value;

fn nanos(stamp: &Value) -> i128 {
    let part = |key: &str| stamp[key].as_i64().unwrap_or_else(|| panic!("{stamp} has no {key}"));
    i128::from(part("sec")) * 1_000_000_000 + i128::from(part("nsec"))
}

fn realtime() -> i128 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i128::try_from(now.as_nanos()).expect("in range")
}

#[test]
fn now_is_the_machines_time() {
    let publisher = Publisher::start();
    let before = realtime();
    let now = json(&["now", "--json", "--page", &publisher.path()]);
    let after = realtime();
    let error = i128::from(now["max_error_nsec"].as_i64().expect("bounds"));
    let utc = nanos(&now["utc"]);
    assert!(before - error <= utc && utc <= after + error, "{before} {utc} {after} ± {error}");
    assert_eq!(nanos(&now["tai"]), utc + 37_000_000_000);
    assert_eq!(now["time"], now["tai"], "the page is on TAI");
    assert!(nanos(&now["earliest"]) <= nanos(&now["time"]) && nanos(&now["time"]) <= nanos(&now["latest"]));
    assert_eq!((&now["status"], &now["time_type"]), (&"synchronized".into(), &"tai".into()));
    assert!(now["disruption_marker"].is_u64() && now["vm_generation_counter"].is_u64() && now["counter"].is_u64());

    let text = stdout(&run(&["now", "--page", &publisher.path()]));
    assert!(text.contains(" TAI  2") && text.contains("Z  ± ") && text.ends_with("synchronized\n"), "{text}");
}

#[test]
fn the_environment_names_the_page_where_nothing_else_does() {
    let publisher = Publisher::start();
    let folder = tempfile::tempdir().expect("a folder");
    let (absent, present) = (folder.path().join("absent"), publisher.path());
    let now = |page: &Path, args: &[&str]| {
        vmclock().arg("now").args(args).env("VMCLOCK_PAGE", page).output().expect("the command can be run")
    };
    assert!(now(Path::new(&present), &[]).status.success());
    assert!(now(&absent, &["--page", &present]).status.success(), "the option comes first");
    let error = stderr(&now(&absent, &[]));
    // As it is, and in the advice.
    assert_eq!(error.matches(absent.to_str().expect("plain")).count(), 2, "{error}");
    // Its publisher is found in the same way.
    let signalled = vmclock().args(["signal", "soon"]).env("VMCLOCK_PAGE", &present).output().expect("run");
    assert!(signalled.status.success(), "{}", stderr(&signalled));
    assert!(publisher.show()["flags"].to_string().contains("soon"), "{}", publisher.show()["flags"]);
}

#[test]
fn an_error_says_its_cause_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("page");
    std::fs::write(&path, [0; 4096]).expect("written");
    let error = stderr(&run(&["show", "--page", path.to_str().expect("plain")]));
    assert_eq!(error.matches("magic is").count(), 1, "{error}");
}

#[test]
fn show_decodes_every_field_and_warns_of_anomalies() {
    let publisher = Publisher::start();
    let shown = publisher.show();
    assert_eq!((&shown["magic"], &shown["size"], &shown["version"]), (&0x4b4c_4356.into(), &4096.into(), &1.into()));
    assert_eq!((&shown["clock_status"], &shown["tai_offset_sec"]), (&"synchronized".into(), &(-37).into()));
    assert_eq!(shown["odd"], serde_json::json!([]));
    let text = stdout(&run(&["show", "--page", &publisher.path()]));
    for field in shown.as_object().expect("an object").keys().filter(|key| key.starts_with("counter_period")) {
        assert!(
            field.ends_with("shift") || field.ends_with("_hex") || text.contains(field.as_str()),
            "{field} is not in {text}"
        );
    }

    // A page with what people get wrong: the offset's sign, and no bounds.
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("anomalous");
    let mut bytes = std::fs::read(publisher.page()).expect("the page");
    bytes[0x18..0x20].copy_from_slice(&0x8000_0000_0000_0001_u64.to_le_bytes());
    bytes[0x24..0x26].copy_from_slice(&37_i16.to_le_bytes());
    std::fs::write(&path, bytes).expect("written");
    let path = path.to_str().expect("plain");
    let shown = json(&["show", "--json", "--page", path]);
    assert_eq!((&shown["tai_offset_sec"], &shown["tai_offset_sec_raw"]), (&(-37).into(), &37.into()));
    let (anomalies, text) = (shown["odd"].to_string(), stdout(&run(&["show", "--page", path])));
    for words in ["wrong sign", "no bounds", "unknown flags"] {
        assert!(anomalies.contains(words), "{anomalies} does not mention {words:?}");
        let warned = text.lines().any(|line| line.starts_with("warning:") && line.contains(words));
        assert!(warned, "no warning of {words:?} in {text}");
    }
}

#[test]
fn wait_ends_when_the_clock_is_good_enough_or_time_is_up() {
    let publisher = Publisher::start();
    let page = publisher.path();
    let good = run(&["wait", "--max-error", "10ms", "--timeout", "30s", "--page", &page]);
    assert_eq!(good.status.code(), Some(0), "{}", stderr(&good));
    let never = run(&["wait", "--max-error", "0ns", "--timeout", "50ms", "--page", &page]);
    assert_eq!(never.status.code(), Some(3));
    assert!(stderr(&never).contains("within the timeout"), "{}", stderr(&never));
}

#[test]
fn a_missing_clock_is_a_failure_with_a_next_step() {
    for command in ["show", "now", "watch"] {
        let output = run(&[command, "--page", "/nonexistent/vmclock0"]);
        assert_eq!(output.status.code(), Some(1), "{command}");
        let error = stderr(&output);
        assert!(error.contains("/nonexistent/vmclock0") && error.contains("vmclock serve"), "{error}");
        assert!(!error.contains("ACPI"), "a file that is missing is not a device that is: {error}");
        assert_eq!(stdout(&output), "");
    }
}

#[test]
fn watch_prints_a_line_for_each_event_and_runs_the_command() {
    let publisher = Publisher::start();
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("log");
    let exec = format!("echo $VMCLOCK_EVENT $VMCLOCK_FROM $VMCLOCK_TO $VMCLOCK_STATUS >> {}", log.display());
    let page = publisher.path();
    let mut watch = Lines::of(vmclock().args(["watch", "--json", "--page", &page, "--exec", &exec]));
    // It watches from when it opened the page on, which cannot be seen: repeat the first until it is printed.
    let seen = std::sync::atomic::AtomicBool::new(false);
    let first = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !seen.load(std::sync::atomic::Ordering::Relaxed) {
                publisher.send(&["soon"]);
                publisher.send(&["clear"]);
            }
        });
        let first = watch.until(|_| true);
        seen.store(true, std::sync::atomic::Ordering::Relaxed);
        first
    });
    assert!(first[0]["event"].as_str().expect("a name").starts_with("maintenance"), "{first:?}");
    let before = publisher.show();
    let after = publisher.send(&["snapshot"]);
    let events = watch.until(|event| event["event"] == "restored");
    let restored = events.last().expect("there");
    assert_eq!(restored["from"], before["vm_generation_counter"]);
    assert_eq!(restored["to"], after["vm_generation_counter"]);
    assert!(restored["explanation"].as_str().expect("text").contains("restored"));
    drop(watch);
    let log = std::fs::read_to_string(&log).expect("the command ran");
    assert!(log.contains("maintenance-"), "{log}");
}

/// `watch` with these arguments, until its first event, which is caused.
fn watched(publisher: &Publisher, cause: &[&str], arguments: &[&str]) -> std::process::Output {
    let page = publisher.path();
    let mut command = vmclock();
    command.args(["watch", "--page", &page, "--count", "1"]).args(arguments);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run");
    wait_until_mapped(child.id(), &publisher.page());
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // It may have mapped the page and not looked at it yet: cause it again.
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                publisher.send(cause);
            }
        });
        let output = child.wait_with_output().expect("ended");
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        output
    })
}

#[test]
fn watch_reports_only_what_it_is_asked_for() {
    let publisher = Publisher::start();
    // A restore is a disruption too.
    let output = watched(&publisher, &["snapshot"], &["--on", "restored", "--on", "vanished", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let line: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("one line");
    assert_eq!(line["event"], "restored");
    let refreshed = run(&["watch", "--on", "refreshed", "--count", "2", "--page", &publisher.path()]);
    assert_eq!(stdout(&refreshed).lines().count(), 2);
    let unknown = run(&["watch", "--on", "explosion", "--page", &publisher.path()]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(stderr(&unknown).contains("restored"), "{}", stderr(&unknown));
}

#[test]
fn a_hook_that_fails_or_takes_too_long_is_told_by_the_exit_status() {
    let publisher = Publisher::start();
    let output = watched(&publisher, &["snapshot"], &["--json", "--exec", "echo a word; exit 7"]);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert_eq!(stdout(&output).lines().count(), 1, "the hook's word is in the JSON stream: {}", stdout(&output));
    let (said, error) = stderr(&output).split_once('\n').map(|(a, b)| (a.to_owned(), b.to_owned())).expect("two lines");
    assert_eq!(said, "a word");
    let error = serde_json::from_str(&error).expect("an object");
    common::schema::check_as("error", &error);
    assert!(error["error"].as_str().expect("text").contains("exit status: 7"), "{error}");

    // What it started is killed with it, or the pipe would stay open for ever.
    let hook = "sleep infinity & echo $!; wait";
    let output = watched(&publisher, &["migrate"], &["--exec", hook, "--exec-timeout", "50ms"]);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(stderr(&output).contains("was not done within 50ms"), "{}", stderr(&output));
    let output = watched(&publisher, &["migrate"], &["--exec", "true", "--exec-timeout", "1h"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn with_json_errors_are_objects_too() {
    let missing = ["now", "--json", "--page", "/nonexistent/vmclock0"];
    let wrong = ["wait", "--json", "--max-error", "1"];
    for (arguments, status, words) in [(&missing[..], 1, "vmclock serve"), (&wrong[..], 2, "--max-error")] {
        let output = run(arguments);
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(status), ""));
        let error = serde_json::from_str(&stderr(&output)).expect("one object");
        common::schema::check_as("error", &error);
        assert_eq!(error["exit_status"], status);
        assert!(error["error"].as_str().expect("text").contains(words), "{error}");
    }
    // What follows `--` is QEMU's.
    let output = run(&["qemu", "--wrong", "--", "qemu-system-x86_64", "--json"]);
    assert!(stderr(&output).starts_with("error: "), "{}", stderr(&output));
}

#[test]
fn watch_ends_at_its_limits_and_when_nobody_reads_on() {
    let publisher = Publisher::start();
    let page = publisher.path();
    let quiet = run(&["watch", "--timeout", "30ms", "--page", &page]);
    assert_eq!((quiet.status.code(), stdout(&quiet).as_str()), (Some(0), ""));
    let refreshes = run(&["watch", "--all", "--count", "2", "--page", &page]);
    assert_eq!((refreshes.status.code(), stdout(&refreshes).lines().count()), (Some(0), 2));
    // Nobody reads on: that is no failure.
    let mut watch = Lines::of(vmclock().args(["watch", "--all", "--page", &page]));
    assert!(watch.next().expect("a refresh").contains("refreshed"));
    assert_eq!(watch.close_and_wait(), Some(0));
}

/// Waits until a process has mapped a file, that is, until it watches it.
fn wait_until_mapped(pid: u32, path: &std::path::Path) {
    let path = path.to_str().expect("plain");
    let is_mapped = || std::fs::read_to_string(format!("/proc/{pid}/maps")).is_ok_and(|maps| maps.contains(path));
    wait_for("the page is mapped", || is_mapped().then_some(()));
}

#[test]
fn watch_follows_a_page_that_is_removed_and_published_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let args = ["--reference", "host-clock", "--tai-offset", "-37"];
    let mut first = Publisher::in_folder(folder.path(), &args);
    let (page, path) = (first.page(), first.path());
    let log = folder.path().join("log");
    let exec = format!("echo $VMCLOCK_EVENT/$VMCLOCK_MARKER >> {}", log.display());
    let mut watch = Lines::of(vmclock().args(["watch", "--json", "--page", &path, "--exec", &exec]));
    wait_until_mapped(watch.pid(), &page);
    let was = first.show();
    std::fs::remove_file(&page).expect("removed");
    let seen = watch.until(|event| event["event"] == "vanished");
    let vanished = seen.last().expect("there");
    let explanation = vanished["explanation"].as_str().expect("text");
    assert!(explanation.contains(&path) && explanation.contains("removed"), "{explanation}");
    assert!(vanished["from"].is_null() && vanished["seq_count"].is_null(), "{vanished}");
    assert!(vanished.get("time").is_none(), "the time of a page that vanished is not to be used");
    assert_eq!(first.lines.wait(), Some(1), "its publisher notices too");

    let second = Publisher::in_folder(folder.path(), &args);
    let now = second.show();
    let seen = watch.until(|event| event["event"] == "disrupted" && event["to"] == now["disruption_marker"]);
    let returned = seen.iter().position(|event| event["event"] == "returned").expect("it returned");
    assert!(seen[..returned].iter().all(|event| event["event"] == "status"), "{seen:?}");
    let disrupted = seen.last().expect("there");
    assert_eq!(disrupted["from"], was["disruption_marker"]);
    // And it watches this one.
    let sent = second.send(&["snapshot"]);
    let seen = watch.until(|event| event["event"] == "restored" && event["to"] == sent["vm_generation_counter"]);
    assert!(seen.last().expect("there")["tai"].is_object(), "the new page's time");
    wait_for("the command", || std::fs::read_to_string(&log).ok()?.contains("restored").then_some(()));
    let log = std::fs::read_to_string(&log).expect("there");
    assert!(log.lines().any(|line| line == "vanished/"), "{log}");
    assert!(log.lines().any(|line| line == format!("disrupted/{}", now["disruption_marker"])), "{log}");
}

#[test]
fn wait_waits_for_the_page_that_replaces_another() {
    let folder = tempfile::tempdir().expect("a folder");
    let args = ["--reference", "host-clock", "--tai-offset", "-37"];
    let mut first = Publisher::in_folder(folder.path(), &args);
    let (page, path) = (first.page(), first.path());
    first.lines.signal(rustix::process::Signal::TERM);
    assert_eq!(first.lines.wait(), Some(0));
    let mut command = vmclock();
    command.args(["wait", "--max-error", "10ms", "--json", "--page", &path]);
    let mut wait = Lines::of(&mut command);
    wait_until_mapped(wait.pid(), &page);
    std::fs::remove_file(&page).expect("removed");
    let _second = Publisher::in_folder(folder.path(), &args);
    wait.until(|reading| reading["utc"].is_object());
    assert_eq!(wait.wait(), Some(0));
}

/// The page of Firecracker 1.15 as its guest boots and after two restores, and that of QEMU's own device: by their
/// sources, byte for byte.
#[test]
fn pages_of_others_that_only_signal_events_have_no_anomalies() {
    let mut booted = [0_u8; 0x1000];
    booted[..12].copy_from_slice(&[0x56, 0x43, 0x4c, 0x4b, 0x00, 0x10, 0, 0, 1, 0, 0xff, 0]);
    let mut qemu = booted;
    // Firecracker has a generation, and notifies.
    booted[0x18..0x20].copy_from_slice(&0x300_u64.to_le_bytes());
    let mut restored = booted;
    (restored[0x0c], restored[0x10], restored[0x68]) = (4, 2, 2);
    (qemu[0x0c], qemu[0x10]) = (2, 0x5a);
    let folder = tempfile::tempdir().expect("a folder");
    for (name, bytes) in [("booted", booted), ("restored", restored), ("qemu", qemu)] {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        let path = path.to_str().expect("plain");
        assert_eq!(json(&["show", "--json", "--page", path])["odd"], serde_json::json!([]), "{name}");
        let text = stdout(&run(&["show", "--page", path]));
        assert!(text.contains("events only") && !text.contains("warning"), "{name}: {text}");
        let error = stderr(&run(&["now", "--page", path]));
        assert!(error.contains("offers events only"), "{name}: {error}");
    }
}
