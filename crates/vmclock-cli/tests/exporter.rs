// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock exporter` beside a real `vmclock serve`.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use common::{json, run, schema, stderr, vmclock, Lines, Publisher, LIMIT};
use rustix::process::Signal;
use serde_json::Value;

struct Exporter {
    lines: Lines,
    address: String,
}

impl Exporter {
    fn of(service: &str) -> Self {
        let arguments = ["exporter", "--json", "--listen", "127.0.0.1:0", "--service", service];
        let mut lines = Lines::of(vmclock().args(arguments));
        let said = lines.until(|line| line["event"] == "listening");
        let address = said[0]["url"].as_str().and_then(|url| url.strip_prefix("http://")).expect("a URL").to_owned();
        Self { lines, address }
    }

    /// The head and the body of the answer.
    fn ask(&self, method: &str, path: &str, more: &str) -> (String, String) {
        let mut stream = TcpStream::connect(&self.address).expect("it listens");
        stream.set_read_timeout(Some(LIMIT)).expect("set");
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{more}Connection: close\r\n\r\n").expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        (head.to_owned(), body.to_owned())
    }

    /// The first body for which this is so.
    fn until(&self, path: &str, is_so: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + LIMIT;
        loop {
            let (_, body) = self.ask("GET", path, "");
            if is_so(&body) {
                return body;
            }
            assert!(Instant::now() < deadline, "{path}: {body}");
        }
    }

    fn status(&self) -> (String, Value) {
        let (head, body) = self.ask("GET", "/status.json", "");
        let status = serde_json::from_str(&body).expect("JSON");
        schema::check_as("exporter-status", &status);
        (head, status)
    }
}

#[test]
fn what_the_service_says_is_exported_until_it_is_gone() {
    let mut service = Publisher::start();
    let folder = tempfile::tempdir().expect("a folder");
    let page = folder.path().join("guest");
    let page = page.to_str().expect("plain");
    json(&["guests", "add", "web \"7\"", "--page", page, "--counter", "host", "--json", "--service", &service.path()]);
    let mut exporter = Exporter::of(&service.path());
    let (head, text) = exporter.ask("GET", "/metrics", "");
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("text/plain; version=0.0.4"), "{head}");
    for line in ["vmclock_up 1", "vmclock_guest_status{guest=\"web \\\"7\\\"\",status=\"synchronized\"} 1"] {
        assert!(text.lines().any(|other| other == line), "{line} is not in {text}");
    }
    let (head, open) = exporter.ask("GET", "/metrics", "Accept: application/openmetrics-text\r\n");
    assert!(head.contains("application/openmetrics-text; version=1.0.0") && open.ends_with("# EOF\n"), "{head}{open}");
    let (_, status) = exporter.status();
    assert_eq!((&status["up"], &status["guests"][0]["guest"]), (&true.into(), &"web \"7\"".into()));
    assert_eq!(status["tracking"]["guests"], 1);

    service.lines.signal(Signal::KILL);
    service.lines.wait();
    // What it said is given for a second.
    let text = exporter.until("/metrics", |text| text.contains("vmclock_up 0\n"));
    assert!(!text.contains("vmclock_status{"), "{text}");
    exporter.until("/status.json", |status| status.contains("\"up\":false"));
    let (head, status) = exporter.status();
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert_eq!(status["up"], false);
    assert!(status["error"].as_str().expect("text").contains("vmclock serve"), "{status}");

    exporter.lines.signal(Signal::TERM);
    assert_eq!(exporter.lines.wait(), Some(0));
}

#[test]
fn documentation_and_alerts_name_what_is_exported() {
    let service = Publisher::start();
    let (_, text) = Exporter::of(&service.path()).ask("GET", "/metrics", "");
    let mut exported: Vec<_> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    exported.sort_unstable();
    let documented = include_str!("../../../docs/exporter.md");
    let mut listed: Vec<_> =
        documented.lines().filter_map(|line| line.strip_prefix("| `")?.split(['`', '{']).next()).collect();
    listed.sort_unstable();
    assert_eq!(exported, listed);
    let rules = include_str!("../../../packaging/prometheus/vmclock.rules.yml");
    let alerts: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).collect();
    assert_eq!(alerts.len(), rules.matches("- alert: ").count());
    let dashboard: Value = serde_json::from_str(include_str!("../../../packaging/grafana/vmclock.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().expect("targets"));
    let drawn: Vec<_> = targets.map(|target| target["expr"].as_str().expect("an expression")).collect();
    assert!(drawn.len() >= 10);
    for expression in alerts.iter().chain(&drawn) {
        let names = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let names: Vec<_> = names.filter(|name| name.starts_with("vmclock_")).collect();
        assert!(!names.is_empty() && names.iter().all(|name| exported.contains(name)), "{expression}");
    }
}

#[test]
fn other_requests_are_refused() {
    let service = Publisher::start();
    let exporter = Exporter::of(&service.path());
    let (head, body) = exporter.ask("HEAD", "/metrics", "");
    assert!(head.starts_with("HTTP/1.1 200 ") && body.is_empty(), "{head}\n{body}");
    let (head, _) = exporter.ask("GET", "/etc/passwd", "");
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    let (head, _) = exporter.ask("DELETE", "/metrics", "");
    assert!(head.starts_with("HTTP/1.1 405 ") && head.contains("allow: GET, HEAD"), "{head}");
    let refused = run(&["exporter", "--listen", &exporter.address]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("name another address with --listen"), "{}", stderr(&refused));
}
