// SPDX-License-Identifier: MIT OR Apache-2.0
//! Publishers that are restarted all the time, half of them by SIGTERM and half by SIGKILL, while somebody reads their
//! pages: no reading is outside of the clock's own time, and no marker changes.
//!
//! How many restarts and pages: `VMCLOCK_RESTARTS` and `VMCLOCK_PAGES`, as `cargo xtask restarts` sets them.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use common::{vmclock, wait_for, Lines};
use rustix::process::Signal;
use serde_json::Value;
use vmclock::{ClockStatus, ReadError, VmClock};

/// This machine's clock is the truth, and its TAI-UTC is stated.
const ARGUMENTS: [&str; 6] = ["--reference", "host-clock", "--tai-offset", "-37", "--refresh", "20ms"];
const TAI_MINUS_UTC: i128 = 37_000_000_000;

fn serve(folder: &Path) -> Lines {
    let mut command = vmclock();
    command.args(["serve", "--json", "--page"]).arg(folder.join("page")).arg("--state").arg(folder.join("state"));
    Lines::of(command.args(ARGUMENTS))
}

/// What it says until it has published a time.
fn until_published(lines: &mut Lines) -> Vec<Value> {
    lines.until(|line| line["event"] == "refreshed" || line["event"] == "synchronized")
}

fn event<'v>(said: &'v [Value], name: &str) -> Option<&'v Value> {
    said.iter().find(|line| line["event"] == name)
}

fn number_of(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable}={text}")))
}

/// TAI by this machine's clock.
fn tai_now() -> i128 {
    let utc = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    i128::try_from(utc.as_nanos()).expect("in range") + TAI_MINUS_UTC
}

/// A page, and what its readers must never see.
struct Watched {
    clock: VmClock,
    marker: u64,
    generation: Option<u64>,
}

/// What the readers saw.
#[derive(Default)]
struct Seen {
    readings: AtomicU64,
    without: AtomicU64,
    outside: AtomicU64,
    changed: AtomicU64,
}

impl Seen {
    fn read(&self, page: &Watched) {
        let before = tai_now();
        let reading = page.clock.now();
        let after = tai_now();
        self.readings.fetch_add(1, Ordering::Relaxed);
        let reading = match reading {
            Ok(reading) => reading,
            // A publisher was killed in an update, or there is no time until the next one has measured.
            Err(ReadError::Busy(_) | ReadError::NoTime(_)) => {
                self.without.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Err(error) => panic!("{error}"),
        };
        let interval = reading.tai_interval().expect("bounds");
        let is_inside = interval.earliest.nanos() <= after && before <= interval.latest.nanos();
        self.outside.fetch_add(u64::from(!is_inside), Ordering::Relaxed);
        let is_same = (reading.disruption_marker(), reading.generation()) == (page.marker, page.generation);
        self.changed.fetch_add(u64::from(!is_same), Ordering::Relaxed);
    }
}

#[test]
fn whoever_reads_while_publishers_are_restarted_sees_the_same_clock() {
    let (restarts, pages) = (number_of("VMCLOCK_RESTARTS", 8), number_of("VMCLOCK_PAGES", 3));
    let folder = tempfile::tempdir().expect("a folder");
    let folders: Vec<PathBuf> = (0..pages).map(|number| folder.path().join(number.to_string())).collect();
    let mut publishers: Vec<Lines> = folders
        .iter()
        .map(|folder| {
            std::fs::create_dir(folder).expect("made");
            serve(folder)
        })
        .collect();
    let watched: Vec<Watched> = folders
        .iter()
        .zip(&mut publishers)
        .map(|(folder, lines)| {
            until_published(lines);
            let clock = VmClock::open_at(folder.join("page")).expect("a page");
            let reading = wait_for("a time", || clock.now().ok());
            Watched { marker: reading.disruption_marker(), generation: reading.generation(), clock }
        })
        .collect();
    let (seen, is_over) = (Seen::default(), AtomicBool::new(false));
    let mut continued = [0, 0];
    std::thread::scope(|scope| {
        for reader in 0..2 {
            let (watched, seen, is_over) = (&watched, &seen, &is_over);
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    watched.iter().skip(reader % pages).for_each(|page| seen.read(page));
                }
            });
        }
        for restart in 0..restarts {
            let is_planned = restart % 2 == 0;
            for lines in &publishers {
                lines.signal(if is_planned { Signal::TERM } else { Signal::KILL });
            }
            for (folder, lines) in folders.iter().zip(&mut publishers) {
                assert_eq!(lines.wait(), is_planned.then_some(0));
                *lines = serve(folder);
            }
            for lines in &mut publishers {
                let said = until_published(lines);
                assert!(event(&said, "not-continued").is_none(), "restart {restart}: {said:?}");
                continued[usize::from(is_planned)] += usize::from(event(&said, "continued").is_some());
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let (readings, without) = (count(&seen.readings), count(&seen.without));
    println!(
        "{restarts} restarts of {pages} publishers: {} readings ({without} without a time), {} outside, {} with another \
         marker; continued after SIGTERM {}, after SIGKILL {}",
        readings,
        count(&seen.outside),
        count(&seen.changed),
        continued[1],
        continued[0],
    );
    assert_eq!((count(&seen.outside), count(&seen.changed)), (0, 0));
    assert_eq!(continued, [restarts / 2 * pages, restarts.div_ceil(2) * pages]);
    assert!(readings > 100 && without * 2 < readings, "{without} of {readings}");
}

#[test]
fn a_planned_stop_leaves_the_page_at_rest_and_a_doubt_gives_a_new_marker() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let mut first = serve(folder.path());
    until_published(&mut first);
    let clock = VmClock::open_at(at("page")).expect("a page");
    let before = wait_for("a time", || clock.now().ok());
    first.signal(Signal::TERM);
    first.until(|line| line["event"] == "at-rest" && line["status"] == "free-running");
    assert_eq!(first.wait(), Some(0));
    let at_rest = clock.now().expect("it continues");
    assert_eq!((at_rest.status(), at_rest.epoch()), (ClockStatus::FREE_RUNNING, before.epoch()));
    let next = |words: &str| {
        let mut lines = serve(folder.path());
        let said = until_published(&mut lines);
        assert!(event(&said, "continued").is_none());
        let doubt = event(&said, "not-continued").unwrap_or_else(|| panic!("{words}: {said:?}"));
        assert!(doubt["text"].as_str().is_some_and(|text| text.contains(words)), "{doubt} lacks {words:?}");
        lines
    };
    let state = at("state/clock");
    let saved = std::fs::read(&state).expect("saved");
    let last = clock.now().expect("a time").disruption_marker();
    // Another boot, with the checksum that such a state would have: only the file's owner can write one.
    let text = String::from_utf8(saved.clone()).expect("text");
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("Linux");
    let other = text.split_once('\n').expect("two lines").1.replace(boot.trim(), "another");
    assert!(other.contains("another"));
    let garbled = {
        let mut bytes = saved.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        bytes
    };
    let mut markers = vec![last];
    for (bytes, words) in [
        (garbled, "checksum"),
        (saved[..saved.len() / 2].to_vec(), "checksum"),
        (Vec::new(), "not in order"),
        (b"vmclock-state 0 00000000\n{}".to_vec(), "another version"),
        (sealed(other.as_bytes()), "booted meanwhile"),
        (sealed(b"{}"), "missing field"),
        // The state before all these: that of another page by now.
        (saved.clone(), "marker"),
    ] {
        std::fs::write(&state, bytes).expect("written");
        let mut lines = next(words);
        let marker = clock.now().expect("a time").disruption_marker();
        assert!(!markers.contains(&marker), "{words}: a new marker");
        markers.push(marker);
        lines.signal(Signal::KILL);
        lines.wait();
    }
    // Somebody's SIGINT ends it for good.
    let mut lines = serve(folder.path());
    until_published(&mut lines);
    lines.signal(Signal::INT);
    lines.until(|line| line["event"] == "stopped");
    assert_eq!(lines.wait(), Some(0));
    assert!(!state.exists(), "nothing is to be continued");
    assert_eq!(clock.snapshot().expect("a page").clock_status, ClockStatus::UNRELIABLE);
}

/// As a publisher writes it.
fn sealed(json: &[u8]) -> Vec<u8> {
    let mut bytes = format!("vmclock-state 1 {:08x}\n", crc32(json)).into_bytes();
    bytes.extend_from_slice(json);
    bytes
}

/// CRC-32 of IEEE 802.3, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

#[test]
fn a_state_folder_is_one_publishers_and_its_owners() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut first = serve(folder.path());
    until_published(&mut first);
    let refused = |page: &str, state: &Path| {
        let output = vmclock()
            .args(["serve", "--page"])
            .arg(folder.path().join(page))
            .arg("--state")
            .arg(state)
            .output()
            .expect("run");
        assert_eq!(output.status.code(), Some(1));
        common::stderr(&output)
    };
    assert!(refused("other", &folder.path().join("state")).contains("another publisher"));
    assert!(refused("other", &folder.path().join("page")).contains("is no folder"));
    assert!(refused("other", &folder.path().join("no/such")).contains("create the folder"));
    let conflict = vmclock()
        .args(["serve", "--page", "x", "--state", "y", "--start-at", "2026-12-31T23:59:58Z"])
        .stdout(Stdio::null())
        .output()
        .expect("run");
    assert_eq!(conflict.status.code(), Some(2));
    // Without a folder, as ever.
    let page = folder.path().join("plain");
    let mut plain = Lines::of(
        Command::new(env!("CARGO_BIN_EXE_vmclock")).args(["serve", "--json", "--page"]).arg(&page).args(ARGUMENTS),
    );
    until_published(&mut plain);
    plain.signal(Signal::TERM);
    plain.until(|line| line["event"] == "stopped");
    assert_eq!(plain.wait(), Some(0));
}
