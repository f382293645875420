// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock serve` as a daemon: what a service manager is told, SIGHUP, the socket's group, `check-config`.

mod common;

use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::sync::mpsc::{channel, Receiver};

use common::{json, run, stderr, stdout, vmclock, wait_for, Lines, LIMIT};
use rustix::process::Signal;

/// What comes at the manager's socket, read at once: the kernel keeps ten datagrams, and what is more is lost.
fn manager(socket: UnixDatagram) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(len) = socket.recv(&mut bytes) {
            if sender.send(String::from_utf8_lossy(&bytes[..len]).into_owned()).is_err() {
                break;
            }
        }
    });
    receiver
}

/// What the manager was told, up to and including this.
fn until(manager: &Receiver<String>, word: &str) -> Vec<String> {
    let mut told = Vec::new();
    loop {
        let next = manager.recv_timeout(LIMIT);
        told.push(next.unwrap_or_else(|error| panic!("{error}: no {word} in {told:?}")));
        if told.last().is_some_and(|last| last.starts_with(word)) {
            return told;
        }
    }
}

#[test]
fn a_service_manager_is_told_what_happens() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let manager = manager(UnixDatagram::bind(at("notify")).expect("bound"));
    let write = |text: &str| std::fs::write(at("serve.toml"), text).expect("written");
    write("tai_offset = 37\n[[source]]\nkind = \"host-clock\"\n");
    let mut command = vmclock();
    command.args(["serve", "--json", "--page"]).arg(at("page")).arg("--config").arg(at("serve.toml"));
    command.env("NOTIFY_SOCKET", at("notify")).env("WATCHDOG_USEC", "200000").env_remove("WATCHDOG_PID");
    let mut service = Lines::of(&mut command);
    let told = until(&manager, "READY=1");
    assert!(
        told.iter().all(|line| line == "READY=1" || line.starts_with("STATUS=") || line == "WATCHDOG=1"),
        "{told:?}"
    );
    let page = at("page").to_str().expect("plain").to_owned();
    let show = || json(&["show", "--json", "--page", &page]);
    let before = show();
    assert_eq!((&before["clock_status"], &before["tai_offset_sec"]), (&"synchronized".into(), &(-37).into()));
    until(&manager, "STATUS=synchronized; 0 guests");
    for _ in 0..3 {
        until(&manager, "WATCHDOG=1");
    }
    // A group; the sources stay until the next start.
    let group = rustix::process::getegid().as_raw();
    write(&format!("tai_offset = 37\ngroup = \"{group}\"\nrefresh = \"10ms\"\n[[source]]\nkind = \"kernel\"\n"));
    service.signal(Signal::HUP);
    until(&manager, "RELOADING=1\nMONOTONIC_USEC=");
    until(&manager, "READY=1");
    let said = service.until(|line| line["event"] == "reloaded").pop().expect("a line");
    assert!(said["text"].as_str().expect("text").contains("[[source]]"), "{said}");
    let count = || show()["seq_count"].as_u64().expect("a number");
    let first = count();
    wait_for("refreshes", || (count() > first + 40).then_some(()));
    assert_eq!(show()["disruption_marker"], before["disruption_marker"], "no page is touched for it");
    let socket = std::fs::symlink_metadata(at("page.control")).expect("there");
    assert_eq!((socket.mode() & 0o777, socket.gid()), (0o660, group));
    // Another TAI-UTC is another TAI, which is a new marker.
    write("tai_offset = 38\n[[source]]\nkind = \"kernel\"\n");
    service.signal(Signal::HUP);
    wait_for("the offset", || (show()["tai_offset_sec"] == -38).then_some(()));
    // What is wrong changes nothing.
    write("tai_offset = 7\n");
    service.signal(Signal::HUP);
    let said = service.until(|line| line["event"] == "warning").pop().expect("a line");
    assert!(said["text"].as_str().expect("text").contains("tai_offset = 7"), "{said}");
    assert_eq!(show()["tai_offset_sec"], -38);
    service.signal(Signal::TERM);
    until(&manager, "STOPPING=1");
    assert_eq!(service.wait(), Some(0));
}

#[test]
fn what_is_wrong_with_a_configuration_has_a_file_a_line_and_a_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("vmclock.toml");
    let name = path.to_str().expect("plain");
    for (text, line, words) in [
        ("\nrefersh = \"1s\"\n", 2, "refersh"),
        ("# one\nrefresh = \"1\"\n", 2, "refresh"),
        ("refresh = \"1s\"\ntai_offset = 7\n", 2, "tai_offset = 7"),
        (
            "[[source]]\nkind = \"kernel\"\n\n[estimator]\ndrift = \"configured\"\ndrift_ppm = -1.0\n",
            6,
            "drift_ppm = -1",
        ),
        ("[[source]]\nkind = \"kernel\"\n[[source]]\nkind = \"chrony\"\naddress = \"here\"\n", 5, "address = \"here\""),
        ("[[source]]\nkind = \"kernel\"\n[[source]]\nkind = \"vmclock\"\npath = \"/no/page\"\n", 3, "/no/page"),
        ("[estimator]\nprobation = \"soon\"\n", 2, "probation"),
        ("refresh = 1s\n", 1, "refresh"),
    ] {
        std::fs::write(&path, text).expect("written");
        let output = run(&["check-config", name]);
        assert_eq!(output.status.code(), Some(1), "{text}");
        let error = stderr(&output);
        assert!(error.contains(&format!("{name}:{line}: ")) && error.contains(words), "{text}: {error}");
    }
    std::fs::write(&path, "[[source]]\nkind = \"kernel\"\n").expect("written");
    let output = run(&["check-config", name]);
    assert!(output.status.success() && stdout(&output).starts_with("kernel"), "{}", stderr(&output));
    json(&["check-config", name, "--json"]);
    assert!(stderr(&run(&["check-config", "/no/such.toml"])).contains("/no/such.toml: cannot be read"));
}

#[test]
fn a_group_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let page = folder.path().join("page");
    let output = run(&["serve", "--group", "no-such-group", "--page", page.to_str().expect("plain")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no-such-group") && !page.exists(), "{}", stderr(&output));
}
