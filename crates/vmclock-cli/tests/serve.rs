// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock serve`: what it creates, what it refuses, how it ends, and what it says when the clock is not known well.

mod common;

use std::io::Write;
use std::os::unix::fs::{symlink, FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;

use common::{json, run, stderr, vmclock, wait_for, Lines, Publisher, LIMIT};
use rustix::process::Signal;
use vmclock::{Event, VmClock};

#[test]
fn the_page_is_for_everyone_and_the_socket_for_its_owner() {
    let folder = tempfile::tempdir().expect("a folder");
    let page = folder.path().join("page");
    let mut publisher = Lines::of(
        std::process::Command::new("sh")
            .args(["-c", "umask 077; exec \"$0\" serve --json --page \"$1\"", env!("CARGO_BIN_EXE_vmclock")])
            .arg(&page),
    );
    publisher.until(|line| line["event"] == "refreshed");
    let mode = |path: &std::path::Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&page), 0o644);
    let socket = folder.path().join("page.control");
    assert!(std::fs::metadata(&socket).expect("there").file_type().is_socket());
    assert_eq!(mode(&socket), 0o600);
    publisher.signal(Signal::TERM);
    publisher.until(|line| line["event"] == "stopped");
    assert_eq!(publisher.wait(), Some(0));
    assert!(!socket.exists());
    assert_eq!(json(&["show", "--json", "--page", page.to_str().expect("plain")])["clock_status"], "unreliable");
}

#[test]
fn what_is_not_ours_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("text"), "precious").expect("written");
    symlink(at("text"), at("link")).expect("linked");
    let other = Publisher::start();
    for (path, words) in [
        (at("text"), "too few"),
        (at("link"), "symbolic link"),
        (folder.path().to_path_buf(), "not a plain file"),
        (at("no/such/folder"), "create it"),
        (other.page(), "another publisher"),
    ] {
        let output = vmclock().args(["serve", "--page"]).arg(&path).output().expect("run");
        assert_eq!(output.status.code(), Some(1), "{}", path.display());
        let error = stderr(&output);
        assert!(error.contains(words) && error.contains(path.to_str().expect("plain")), "{error:?} lacks {words:?}");
    }
    assert_eq!(std::fs::read_to_string(at("text")).expect("there"), "precious");
    for refresh in ["0s", "100us", "61s"] {
        let output = run(&["serve", "--refresh", refresh, "--page", at("x").to_str().expect("plain")]);
        assert_eq!(output.status.code(), Some(1), "{refresh}");
        assert!(stderr(&output).contains("between 1ms and 60s"));
    }
}

#[test]
fn a_killed_publisher_is_replaced_and_readers_see_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let args = ["--reference", "host-clock", "--tai-offset", "-37", "--refresh", "1ms"];
    let first = Publisher::in_folder(folder.path(), &args);
    let clock = VmClock::open_at(first.page()).expect("a page");
    let mut events = clock.events().expect("events");
    let mut last = clock.epoch().expect("a page");
    let mut current = first;
    for kill in 0..20 {
        // After a different number of updates each time.
        let updates = clock.snapshot().map_or(0, |page| page.seq_count);
        wait_for("updates", || (clock.snapshot().ok()?.seq_count.wrapping_sub(updates) > 2 * (kill % 5)).then_some(()));
        current.lines.signal(Signal::KILL);
        current.lines.wait();
        current = Publisher::in_folder(folder.path(), &args);
        assert!(current.said("took-over"), "{:?}", current.said);
        let now = clock.epoch().expect("taken over");
        assert_ne!(now.disruption_marker, last.disruption_marker, "nobody knows what happened to the counter");
        assert_eq!(now.generation, last.generation, "the machine is the same");
        let disrupted = |event| matches!(event, Event::Disrupted { to, .. } if to == now.disruption_marker);
        wait_for("the disruption", || events.wait(Some(LIMIT)).ok()??.iter().any(disrupted).then_some(()));
        clock.now().expect("time again");
        last = now;
    }
}

#[test]
fn an_unsynchronised_kernel_clock_is_never_called_synchronized() {
    let publisher = Publisher::with(&["--tai-offset", "-37"]);
    let (page, quality) = (publisher.show(), vmclock_host::kernel::Quality::now().expect("the kernel answers"));
    let maxerror = page["time_maxerror_nanosec"].as_u64().expect("bounds");
    if quality.synchronized {
        assert_eq!(page["clock_status"], "synchronized");
    } else {
        assert_eq!(page["clock_status"], "free-running");
        assert!(
            maxerror >= 16_000_000_000.min(quality.max_error),
            "{maxerror} hides the kernel's {}",
            quality.max_error
        );
    }
}

#[test]
fn without_a_known_offset_the_page_is_on_utc_and_gives_no_tai() {
    let publisher = Publisher::with(&["--reference", "host-clock"]);
    let offset = publisher.said.iter().find(|line| line["event"] == "offset").expect("reported at the start");
    let known = !offset["tai_minus_utc"].is_null();
    let now = json(&["now", "--json", "--page", &publisher.path()]);
    assert_eq!(now["tai"].is_null(), !known);
    assert_eq!(now["time_type"], if known { "tai" } else { "utc" });
    assert!(now["utc"]["sec"].is_i64());
}

#[test]
fn a_lost_page_file_ends_the_publisher_with_a_clear_error() {
    type Loss = fn(&std::path::Path) -> std::io::Result<()>;
    let losses: [(Loss, &str); 3] = [
        (|path| std::fs::remove_file(path), "removed"),
        (|path| std::fs::OpenOptions::new().write(true).open(path)?.set_len(10), "cut short"),
        (
            |path| {
                std::fs::remove_file(path)?;
                std::fs::write(path, "x")
            },
            "replaced",
        ),
    ];
    for (lose, words) in losses {
        let folder = tempfile::tempdir().expect("a folder");
        let page = folder.path().join("page");
        let mut child = vmclock()
            .args(["serve", "--refresh", "10ms", "--page"])
            .arg(&page)
            .stderr(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("run");
        wait_for("a time", || VmClock::open_at(&page).ok()?.now().ok());
        lose(&page).expect("lost");
        let mut error = String::new();
        std::io::Read::read_to_string(&mut child.stderr.take().expect("piped"), &mut error).expect("readable");
        assert_eq!(child.wait().expect("ours").code(), Some(1));
        assert!(error.contains(words) && error.contains(page.to_str().expect("plain")), "{error:?} lacks {words:?}");
    }
}

#[test]
fn rude_clients_do_not_hold_up_the_publisher() {
    let publisher = Publisher::with(&["--reference", "host-clock", "--tai-offset", "-37", "--refresh", "5ms"]);
    let socket = format!("{}.control", publisher.path());
    let clients: Vec<_> = (0..40)
        .map(|number| {
            let mut client = UnixStream::connect(&socket).expect("it listens");
            let rude: &[u8] = [&b""[..], b"{", b"\n", b"{\"signal\":\"explode\"}\n", &[b'x'; 5000]][number % 5];
            // It may have been dropped for it already.
            let _ = client.write_all(rude);
            client
        })
        .collect();
    let clock = VmClock::open_at(publisher.page()).expect("a page");
    let before = clock.snapshot().expect("a page").seq_count;
    wait_for("refreshes", || (clock.snapshot().ok()?.seq_count.wrapping_sub(before) > 20).then_some(()));
    drop(clients);
    assert_eq!(publisher.send(&["soon"])["ok"], true, "and it still listens");
}

/// The UTC seconds of the day that a reader of the page sees, in order, from `--start-at` on.
fn seconds_across(kind: &str) -> Vec<(i64, bool)> {
    let month = 1_798_761_600; // 2027-01-01 00:00:00
    let publisher = Publisher::with(&[
        "--reference",
        "host-clock",
        "--tai-offset",
        "-37",
        "--refresh",
        "50ms",
        "--start-at",
        "2026-12-31T23:59:58Z",
        "--leap",
        kind,
    ]);
    let clock = VmClock::open_at(publisher.page()).expect("a page");
    let mut seen = Vec::new();
    wait_for("the first second of the year", || {
        let utc = clock.now().ok()?.utc().expect("UTC");
        let second = (utc.time.seconds() - month, utc.leap_second);
        if seen.last() != Some(&second) {
            seen.push(second);
        }
        (second.0 >= 1).then_some(())
    });
    seen
}

#[test]
fn leap_seconds_pass_as_they_should() {
    assert_eq!(seconds_across("positive"), [(-2, false), (-1, false), (-1, true), (0, false), (1, false)]);
    assert_eq!(seconds_across("negative"), [(-2, false), (0, false), (1, false)]);
    assert_eq!(seconds_across("none"), [(-2, false), (-1, false), (0, false), (1, false)]);
}
