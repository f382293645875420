// SPDX-License-Identifier: MIT OR Apache-2.0
//! An exporter, a service that may misbehave, and clients that do.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
use serde_json::{json, Value};
use vmclock_exporter::{Exporter, Options, Report, Stopper};
use vmclock_host::service::server::{Reply, Server};

/// More than anything should take, also on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A service with so many guests.
struct Service {
    is_over: Arc<AtomicBool>,
    hangs: Arc<AtomicBool>,
    /// How often it was asked for its guests.
    asked: Arc<AtomicUsize>,
    events: Arc<Mutex<Vec<Value>>>,
    subscribers: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    fn start(socket: &Path, guests: usize) -> Self {
        let mut server = Server::listen(socket, None).expect("it can listen");
        let (is_over, hangs): (Arc<AtomicBool>, Arc<AtomicBool>) = Default::default();
        let (asked, subscribers): (Arc<AtomicUsize>, Arc<AtomicUsize>) = Default::default();
        let events: Arc<Mutex<Vec<Value>>> = Arc::default();
        let guests = Value::Array((0..guests).map(guest).collect());
        let mut service = Self { is_over, hangs, asked, events, subscribers, thread: None };
        let (is_over, hangs, asked) = (service.is_over.clone(), service.hangs.clone(), service.asked.clone());
        let (events, subscribers) = (service.events.clone(), service.subscribers.clone());
        service.thread = Some(thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(1));
                if hangs.load(Ordering::Relaxed) {
                    continue;
                }
                server.serve(100, |_, line, _| {
                    let request: Value = serde_json::from_str(line).expect("JSON");
                    let mut answer = match request["request"].as_str() {
                        Some("tracking") => tracking(),
                        Some("sources") => json!({"sources": []}),
                        Some("guests") => {
                            asked.fetch_add(1, Ordering::Relaxed);
                            json!({"guests": guests})
                        }
                        _ => json!({}),
                    };
                    (answer["ok"], answer["id"]) = (true.into(), request["id"].clone());
                    let mut reply = Reply::line(format!("{answer}\n"));
                    reply.subscribes = request["request"] == "subscribe";
                    subscribers.fetch_add(reply.subscribes.into(), Ordering::Relaxed);
                    reply
                });
                for event in events.lock().expect("whole").drain(..) {
                    server.publish(&format!("{event}\n"));
                }
            }
        }));
        service
    }

    fn send(&self, event: Value) {
        wait_for("a subscriber", || (self.subscribers.load(Ordering::Relaxed) > 0).then_some(()));
        self.events.lock().expect("whole").push(event);
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn tracking() -> Value {
    json!({
        "status": "synchronized", "disruption_marker": "0x1", "time_type": "tai", "tai_minus_utc": 37,
        "tai_origin": "stated", "leap_indicator": "none", "max_error_ns": 1_500, "estimated_error_ns": null,
        "frequency_ppm": null, "drift_ppm": 1.0, "selected": [], "clocks": 1, "update_age_ns": 250_000_000,
        "next_round_ns": null, "guests": 1
    })
}

fn guest(number: usize) -> Value {
    json!({
        "guest": format!("guest-{number}"), "page": "descriptor", "user": 0, "counter": "host", "step": null,
        "seq_count": 8, "disruption_marker": "0x1", "vm_generation_counter": "0x2", "clock_status": "synchronized",
        "max_error_ns": 2_000
    })
}

struct Running {
    address: SocketAddr,
    stopper: Stopper,
    reports: Arc<Mutex<Vec<Report>>>,
    thread: Option<JoinHandle<()>>,
    socket: PathBuf,
    _folder: tempfile::TempDir,
}

impl Running {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("control");
        let mut options = Options::of(&socket);
        options.listen = "127.0.0.1:0".parse().expect("an address");
        options.interval = Duration::from_secs(1);
        let exporter = Exporter::listen(options).expect("it can listen");
        let (address, stopper) = (exporter.address(), exporter.stopper());
        let reports: Arc<Mutex<Vec<Report>>> = Arc::default();
        let log = reports.clone();
        let thread = thread::spawn(move || {
            exporter.serve(move |report| log.lock().expect("whole").push(report.clone())).expect("it serves");
        });
        Self { address, stopper, reports, thread: Some(thread), socket, _folder: folder }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("it listens");
        stream.set_read_timeout(Some(LIMIT)).expect("set");
        stream
    }

    /// The head and the body of an answer.
    fn get(&self, path: &str) -> (String, String) {
        let mut stream = self.connect();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
        read(&mut stream)
    }

    fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.get(path).1).expect("JSON")
    }

    /// A value of `/metrics`.
    fn value(&self, name: &str) -> Option<f64> {
        let (_, text) = self.get("/metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map(|value| value.parse().expect("a number"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stopper.stop();
        self.thread.take().expect("once").join().expect("it ends");
    }
}

fn read(stream: &mut TcpStream) -> (String, String) {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {answer:?}"));
    (head.to_owned(), body.to_owned())
}

/// Whether the other end closed the connection, before the time is over.
fn is_closed(stream: &mut TcpStream) -> bool {
    loop {
        match stream.read(&mut [0; 16384]) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

fn wait_for<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_thousand_silent_connections_keep_nobody_from_an_answer() {
    let limits = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, maximum: limits.maximum }).expect("allowed");
    let exporter = Running::start();
    let _service = Service::start(&exporter.socket, 3);
    let mut silent: Vec<_> = (0..1_000).map(|_| exporter.connect()).collect();
    assert_eq!(
        exporter.get("/metrics").1.lines().next(),
        Some("# HELP vmclock_up Whether the service answered this scrape.")
    );
    // All but 64 at most were closed for others, and are not waited for.
    let dropped = wait_for("the count of them", || {
        exporter.value("vmclock_exporter_dropped_connections_total").filter(|count| *count >= 937.0)
    });
    assert!(dropped <= 1_010.0, "{dropped}");
    assert!(silent[..937].iter_mut().all(is_closed));
}

#[test]
fn who_sends_slowly_is_closed_and_who_does_not_read_holds_up_nobody() {
    let exporter = Running::start();
    let _service = Service::start(&exporter.socket, 5_000);
    wait_for("the service", || (exporter.value("vmclock_guests_limited") == Some(1.0)).then_some(()));
    let mut slow = exporter.connect();
    slow.write_all(b"GET /metr").expect("sent");
    let mut unread: Vec<_> = (0..20).map(|_| exporter.connect()).collect();
    for stream in &mut unread {
        // 1.6 MB, far more than the kernel keeps.
        stream.write_all(b"GET /status.json HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
    }
    assert_eq!(exporter.value("vmclock_up"), Some(1.0));
    assert!(is_closed(&mut slow), "it sends no more, and is told nothing more");
    // An answer that nobody reads is given up; what is in the kernel's buffers can still be read then.
    thread::scope(|scope| {
        let closed: Vec<_> = unread
            .iter_mut()
            .map(|stream| {
                scope.spawn(move || {
                    thread::sleep(Duration::from_secs(11));
                    is_closed(stream)
                })
            })
            .collect();
        assert!(closed.into_iter().all(|closed| closed.join().expect("no panic")));
    });
    assert_eq!(exporter.value("vmclock_up"), Some(1.0));
}

#[test]
fn what_is_too_large_or_makes_no_sense_is_refused() {
    let exporter = Running::start();
    let _service = Service::start(&exporter.socket, 1);
    let long = "x".repeat(1 << 20);
    let many = "X-A: b\r\n".repeat(1_000);
    for (request, statuses) in [
        (format!("GET /{long} HTTP/1.1\r\n\r\n"), &["414", "431", "400"][..]),
        (format!("GET /metrics HTTP/1.1\r\nX-Long: {long}\r\n\r\n"), &["431"]),
        (format!("GET /metrics HTTP/1.1\r\n{many}\r\n"), &["431"]),
        ("\x16\x03\x01\x02\x00\x01\r\n\r\n".into(), &["400"]),
        ("GET /metrics HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n".into(), &["200"]),
        ("GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n".into(), &["421"]),
        ("GET /../etc/passwd HTTP/1.1\r\n\r\n".into(), &["404"]),
        ("DELETE /metrics HTTP/1.1\r\n\r\n".into(), &["405"]),
        ("POST /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n".into(), &["405", "400"]),
    ] {
        let mut stream = exporter.connect();
        // It may be refused before all of it was sent: then the rest cannot be, and the refusal may be lost.
        let sent = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let received = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        let is_refused = statuses.iter().any(|status| answer.starts_with(&format!("HTTP/1.1 {status} ")));
        let is_lost = answer.is_empty() && (sent.is_err() || received.is_err());
        assert!(is_refused || is_lost, "{}: {answer}", &request[..request.len().min(80)]);
    }
    let mut head = exporter.connect();
    head.write_all(b"HEAD / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n").expect("sent");
    let (head, body) = read(&mut head);
    assert!(
        head.starts_with("HTTP/1.1 200 ") && head.contains("content-security-policy: default-src 'none'"),
        "{head}"
    );
    assert!(head.contains("x-content-type-options: nosniff") && body.is_empty(), "{head}");
}

#[test]
fn however_many_ask_the_service_is_asked_once_a_second() {
    let exporter = Running::start();
    let service = Service::start(&exporter.socket, 10);
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| (0..20).for_each(|_| assert_eq!(exporter.value("vmclock_up"), Some(1.0))));
        }
    });
    let most = usize::try_from(start.elapsed().as_secs()).expect("small") + 1;
    assert!(service.asked.load(Ordering::Relaxed) <= most, "{:?} {most}", service.asked);
}

#[test]
fn a_service_that_hangs_is_down_and_the_history_is_still_there() {
    let exporter = Running::start();
    let service = Service::start(&exporter.socket, 1);
    wait_for("points", || (exporter.json("/history.json")["points"].as_array()?.len() >= 2).then_some(()));
    service.hangs.store(true, Ordering::Relaxed);
    wait_for("that it is down", || (exporter.value("vmclock_up") == Some(0.0)).then_some(()));
    let (head, status) = exporter.get("/status.json");
    assert!(head.starts_with("HTTP/1.1 503 ") && status.contains("takes too long"), "{head}{status}");
    let history = exporter.json("/history.json");
    assert_eq!(history["points"][1]["status"], "synchronized");
    let unreachable = |report: &Report| matches!(report, Report::Unreachable { .. });
    assert_eq!(exporter.reports.lock().expect("whole").iter().filter(|report| unreachable(report)).count(), 1, "once");
    service.hangs.store(false, Ordering::Relaxed);
    wait_for("that it is up", || (exporter.value("vmclock_up") == Some(1.0)).then_some(()));
    assert!(exporter.value("vmclock_exporter_scrape_errors_total") >= Some(1.0));
    let recent = exporter.json("/recent.json");
    assert!(recent["points"].as_array().expect("a list").iter().any(|point| point["status"].is_null()), "{recent}");
}

#[test]
fn events_are_counted_and_a_restart_of_the_service_is_a_gap() {
    let exporter = Running::start();
    assert_eq!(exporter.value("vmclock_up"), Some(0.0));
    let service = Service::start(&exporter.socket, 2);
    for guest in ["guest-0", "guest-1", "guest-0", "gone"] {
        service.send(json!({"event": "guest-step", "guest": guest, "step": "restored", "text": "it was"}));
    }
    service.send(json!({"event": "holdover", "text": "alone"}));
    wait_for("the events", || (exporter.value("vmclock_events_total{event=\"holdover\"}") == Some(1.0)).then_some(()));
    let guest = "vmclock_guest_steps_total{guest=\"guest-0\",step=\"restored\"}";
    wait_for("the guest's", || (exporter.value(guest) == Some(2.0)).then_some(()));
    assert_eq!(exporter.value("vmclock_guests_steps_total{step=\"restored\"}"), Some(4.0));
    let events = exporter.json("/history.json")["events"].clone();
    assert_eq!((events[0]["id"].clone(), events[4]["event"].clone()), (json!(1), json!("holdover")), "{events}");

    drop(service);
    wait_for("that it is down", || (exporter.value("vmclock_up") == Some(0.0)).then_some(()));
    assert_eq!(exporter.value("vmclock_exporter_event_gaps_total"), Some(0.0));
    let _service = Service::start(&exporter.socket, 2);
    wait_for("the gap", || (exporter.value("vmclock_exporter_event_gaps_total") == Some(1.0)).then_some(()));
    assert!(exporter.reports.lock().expect("whole").contains(&Report::Gap));
    wait_for("that it is up", || (exporter.value(guest) == Some(2.0)).then_some(()));
}
