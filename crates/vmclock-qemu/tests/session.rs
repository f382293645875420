// SPDX-License-Identifier: MIT OR Apache-2.0
//! The session with a thread that speaks QMP as QEMU does, a real publisher and a real page.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{channel, Receiver};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{json, Value};
use vmclock_core::abi::{ClockStatus, CounterId, Snapshot, STRUCTURE_LEN};
use vmclock_core::calibration::Calibration;
use vmclock_core::counter;
use vmclock_core::tai::TaiOffset;
use vmclock_host::event::Signal;
use vmclock_host::page_file::FilePage;
use vmclock_host::publisher::{Plan, Prepared, Publisher};
use vmclock_host::source::kernel::{KernelSource, Trust};
use vmclock_host::source::Immediate;
use vmclock_host::this_host::ThisHost;
use vmclock_qemu::error::Error;
use vmclock_qemu::event::Event;
use vmclock_qemu::{attach, beside, Attach, Control, Options, Wiring};

/// What TAI-UTC is stated to be.
const TAI_OFFSET: i16 = 37;
/// The guest's counter minus the host's, before its first pause.
const FIRST_OFFSET: u64 = 0x1234_5678_9abc;

fn publisher(page: &Path) -> Publisher<ThisHost, FilePage> {
    let mut plan = Plan::default();
    plan.tai_offset = TaiOffset::from_seconds(TAI_OFFSET);
    plan.settings.probation = 0;
    plan.sources.push(Box::new(Immediate::new(KernelSource::new(Trust::HostClock))));
    let prepared = Prepared::new(ThisHost, plan).expect("a counter");
    let (file, found) = FilePage::open(page, prepared.blank()).expect("a page");
    prepared.on(file, found, "page").expect("a publisher").0
}

const OPTIONS: Options = Options::new(Duration::from_millis(20));

/// Signals for the page, over a channel; and a socket that is readable when there is one.
struct Signals {
    socket: UnixStream,
    signals: Receiver<Signal>,
}

impl Control for Signals {
    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.socket.as_fd()]
    }

    fn answer(&mut self, apply: &mut dyn FnMut(Signal) -> Result<Snapshot, String>) {
        let _ = self.socket.read(&mut [0; 8]);
        for signal in self.signals.try_iter() {
            apply(signal).expect("the guest is here");
        }
    }
}

/// QEMU, as far as a session can tell.
struct Qemu {
    lines: BufReader<UnixStream>,
    stream: UnixStream,
    page: File,
    bell: UnixDatagram,
    is_running: bool,
    /// While it runs: the guest's counter minus the host's; otherwise its counter.
    offset: u64,
    value: u64,
    events: Receiver<(Event, Snapshot)>,
}

impl Qemu {
    fn send(&mut self, value: &Value) {
        self.stream.write_all(format!("{value}\r\n").as_bytes()).expect("read by the session");
    }

    fn event(&mut self, name: &str, data: &Value) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let timestamp = json!({"seconds": now.as_secs(), "microseconds": now.subsec_micros()});
        self.send(&json!({"event": name, "data": data, "timestamp": timestamp}));
    }

    fn pause(&mut self) {
        self.value = counter::read_ordered().wrapping_add(self.offset);
        self.is_running = false;
        self.event("STOP", &Value::Null);
    }

    fn resume(&mut self) {
        self.event("RESUME", &Value::Null);
        self.offset = self.value.wrapping_sub(counter::read_ordered());
        self.is_running = true;
    }

    /// Does the next command. Its name.
    fn serve(&mut self) -> String {
        let mut line = String::new();
        assert_ne!(self.lines.read_line(&mut line).expect("readable"), 0, "the session has ended");
        let command: Value = serde_json::from_str(&line).expect("JSON");
        let name = command["execute"].as_str().expect("a name").to_owned();
        let returned = match name.as_str() {
            "query-kvm" => json!({"enabled": false, "present": true}),
            "query-status" => json!({"status": if self.is_running { "running" } else { "paused" }}),
            "xen-save-devices-state" => {
                let ran = self.is_running;
                if ran {
                    self.pause();
                }
                let mut state = b"QEVM\x04\0\0\0\x02\x05timer\0\0\0\0\0\0\0\x02".to_vec();
                state.extend(self.value.to_be_bytes());
                std::fs::write(command["arguments"]["filename"].as_str().expect("a path"), state).expect("written");
                if ran {
                    self.resume();
                }
                json!({})
            }
            _ => json!({}),
        };
        self.send(&json!({"return": returned, "id": command["id"]}));
        name
    }

    fn serve_until(&mut self, last: &str) {
        while self.serve() != last {}
    }

    /// The page when an event of this name is reported.
    fn wait_for(&self, name: &str) -> (Event, Snapshot) {
        let is_it = |(event, _): &(Event, Snapshot)| event.name() == name;
        let by = Instant::now() + Duration::from_secs(60);
        let next = || self.events.recv_timeout(by.saturating_duration_since(Instant::now())).ok();
        std::iter::from_fn(next).find(is_it).expect(name)
    }

    /// That the guest's time is right, by its page and its counter.
    fn assert_time(&self) {
        // A page that is being written is none.
        let page = loop {
            let page = self.page();
            if page.seq_count & 1 == 0 && self.page() == page {
                break page;
            }
        };
        let calibration = Calibration::from_snapshot(&page, CounterId::X86_TSC).expect("gives time");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let guest = counter::read_ordered().wrapping_add(self.offset);
        let later = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let read = calibration.time_at(guest).expect("in range").floor_nanos() - i128::from(TAI_OFFSET) * 1_000_000_000;
        let error = i128::try_from(calibration.max_error_at(guest).expect("bounds")).expect("small");
        let nanos = |time: Duration| i128::try_from(time.as_nanos()).expect("in range");
        assert!(
            read - error <= nanos(later) && nanos(now) <= read + error,
            "{read} ± {error} is not {now:?} to {later:?}"
        );
    }

    fn page(&self) -> Snapshot {
        let mut bytes = [0; STRUCTURE_LEN];
        self.page.read_exact_at(&mut bytes, 0).expect("a page");
        Snapshot::from_bytes(&bytes)
    }
}

/// Where a QEMU listens.
struct Place {
    folder: tempfile::TempDir,
    monitor: UnixListener,
    bell: UnixDatagram,
}

impl Place {
    fn new() -> Self {
        // As paths may be.
        let folder = tempfile::Builder::new().prefix("a, b ").tempdir().expect("a folder");
        let page = folder.path().join("page");
        let monitor = UnixListener::bind(beside(&page, ".qmp")).expect("listens");
        let bell = UnixDatagram::bind(beside(&page, ".bell")).expect("bound");
        Self { folder, monitor, bell }
    }

    fn page(&self) -> PathBuf {
        self.folder.path().join("page")
    }

    fn attach(&self, timeout: Duration) -> Attach {
        let page = self.page();
        Attach::new(beside(&page, ".qmp"), timeout).with_bell(beside(&page, ".bell"))
    }

    fn status(&self) -> ClockStatus {
        Snapshot::from_prefix(&std::fs::read(self.page()).expect("a file")).expect("a page").clock_status
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_guest_is_followed_from_attachment_to_end() {
    let place = Place::new();
    let (seen, events) = channel();
    let (sender, signals) = channel();
    let (socket, mut waker) = UnixStream::pair().expect("a pair");
    socket.set_nonblocking(true).expect("set");
    let (nobody, _signal) = UnixStream::pair().expect("a pair");
    let publisher = publisher(&place.page());
    let page = File::options().read(true).write(true).open(place.page()).expect("a page");
    let monitor = place.monitor.try_clone().expect("a copy");
    let bell = place.bell.try_clone().expect("a copy");
    let qemu = std::thread::spawn(move || {
        let (stream, _) = monitor.accept().expect("the session");
        let lines = BufReader::new(stream.try_clone().expect("a copy"));
        let (is_running, offset, value) = (true, FIRST_OFFSET, 0);
        let mut qemu = Qemu { lines, stream, page, bell, is_running, offset, value, events };
        qemu.send(&json!({"QMP": {"version": {}}}));
        qemu.serve_until("xen-save-devices-state");
        let (_, page) = qemu.wait_for("calibrated");
        assert_eq!(page.clock_status, ClockStatus::SYNCHRONIZED);
        qemu.assert_time();

        // Paused, read, and resumed by somebody else.
        qemu.pause();
        qemu.serve_until("xen-save-devices-state");
        let (_, page) = qemu.wait_for("paused");
        assert_eq!(page.clock_status, ClockStatus::INITIALIZING);
        let marker = page.disruption_marker;
        qemu.resume();
        qemu.serve_until("query-status");
        let (_, page) = qemu.wait_for("calibrated");
        assert_eq!(page.disruption_marker, marker, "a pause is no disruption");
        qemu.assert_time();
        qemu.wait_for("refreshed");
        qemu.assert_time();

        // A snapshot is saved, and loaded after something else happened.
        let mut saved = [0; 0x3000];
        qemu.page.read_exact_at(&mut saved, 0).expect("saved");
        sender.send(Signal::Soon).expect("taken");
        waker.write_all(b"x").expect("written");
        qemu.wait_for("signal");
        qemu.pause();
        qemu.page.write_all_at(&saved, 0).expect("loaded");
        qemu.resume();
        qemu.serve_until("xen-save-devices-state");
        let (_, page) = qemu.wait_for("snapshot-loaded");
        assert_ne!(page.disruption_marker, marker);
        qemu.wait_for("calibrated");
        qemu.assert_time();

        // The guest was notified of each.
        qemu.bell.set_nonblocking(true).expect("set");
        let rings = std::iter::from_fn(|| qemu.bell.recv(&mut [0; 64]).ok()).count();
        assert!(rings >= 5, "{rings} rings");
    });
    let mut report = |event: &Event, page: &Snapshot| {
        // QEMU may have ended.
        let _ = seen.send((event.clone(), *page));
    };
    let control = Signals { socket, signals };
    let wiring = Wiring::new(publisher, control, nobody, OPTIONS, &mut report);
    let result = attach(&place.page(), &place.attach(Duration::from_secs(60)), wiring);
    qemu.join().expect("as expected");
    result.expect("QEMU ended");
    assert_eq!(place.status(), ClockStatus::UNRELIABLE);
}

#[test]
fn a_monitor_that_does_not_greet_is_waited_for_until_the_timeout_or_a_signal() {
    let wiring = |place: &Place, signals, report| {
        let publisher = publisher(&place.page());
        Wiring::new(publisher, (), signals, OPTIONS, report)
    };
    let place = Place::new();
    let (nobody, _signal) = UnixStream::pair().expect("a pair");
    let mut report = |_: &Event, _: &Snapshot| {};
    let brief = place.attach(Duration::from_millis(50));
    let error = attach(&place.page(), &brief, wiring(&place, nobody, &mut report)).expect_err("no greeting");
    assert!(matches!(error, Error::NoAnswer { .. }), "{error}");
    assert_eq!(place.status(), ClockStatus::UNRELIABLE);

    let place = Place::new();
    let (signals, mut signal) = UnixStream::pair().expect("a pair");
    let mut report = |event: &Event, _: &Snapshot| {
        if event.name() == "attached" {
            signal.write_all(b"x").expect("written");
        }
    };
    let long = place.attach(Duration::from_secs(86_400));
    attach(&place.page(), &long, wiring(&place, signals, &mut report)).expect("a signal is no error");
    assert_eq!(place.status(), ClockStatus::UNRELIABLE);
}
