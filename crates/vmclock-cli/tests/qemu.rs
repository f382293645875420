// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock qemu` with programs that are not QEMU: what it prints, and that nothing hangs. Real guests are in `e2e`.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use vmclock::{ClockStatus, Snapshot};

fn vmclock(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vmclock")).args(arguments).output().expect("vmclock runs")
}

/// A script in place of QEMU.
fn qemu(folder: &Path, script: &str) -> PathBuf {
    let path = folder.join("qemu");
    let mut file = std::fs::File::create(&path).expect("created");
    write!(file, "#!/bin/sh\n{script}\n").expect("written");
    file.set_permissions(std::fs::Permissions::from_mode(0o755)).expect("executable");
    path
}

fn status_of(page: &Path) -> ClockStatus {
    Snapshot::from_prefix(&std::fs::read(page).expect("a file")).expect("a page").clock_status
}

#[test]
fn print_args_starts_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let (page, table) = (folder.path().join("page"), folder.path().join("table.aml"));
    let [page_word, table_word] = [&page, &table].map(|path| path.to_str().expect("text"));
    let paths = ["qemu", "--print-args", "--page", page_word, "--table", table_word];
    let output =
        vmclock(&[&paths[..], &["--slot", "0x0a", "--", "qemu-system-x86_64", "-M", "q35", "-name", "a b"]].concat());
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(
        output.status.success() && text.starts_with("qemu-system-x86_64 -object memory-backend-ram,id=pc.ram"),
        "{text}"
    );
    for part in [
        "addr=0xa",
        "-name 'a b'",
        &format!("-acpitable file={table_word}"),
        &format!("path={page_word}.qmp,server=on"),
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(std::fs::read(&table).expect("written").starts_with(b"SSDT"));
    assert!(!page.exists());
    // Without a place for the table there would be nothing to name.
    assert_eq!(vmclock(&["qemu", "--print-args", "--", "qemu-system-x86_64"]).status.code(), Some(2));
}

#[test]
fn a_qemu_that_dies_early_is_told_of() {
    let folder = tempfile::tempdir().expect("a folder");
    let qemu = qemu(folder.path(), "echo 'no such machine' >&2; exit 7");
    let page = folder.path().join("page");
    let begun = Instant::now();
    let output = vmclock(&[
        "qemu",
        "--tai-offset=-37",
        "--page",
        page.to_str().expect("text"),
        "--",
        qemu.to_str().expect("text"),
    ]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{text}");
    assert!(text.contains("no such machine") && text.contains("QEMU ended before it gave its greeting"), "{text}");
    assert_eq!(status_of(&page), ClockStatus::UNRELIABLE);
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(!folder.path().join("page.control").exists());
}

/// `vmclock qemu --attach` for a page in a folder, with more arguments, as far as it gets without QEMU.
fn attach(folder: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmclock"));
    command.args(["qemu", "--attach", "--tai-offset=-37", "--page"]).arg(folder.join("page")).args(more);
    command
}

#[test]
fn attaching_to_nobody_ends_in_time_and_names_the_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = attach(folder.path(), &["--timeout", "50ms"]).output().expect("runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && text.contains("page.qmp: nobody listens here"), "{text}");
    assert_eq!(status_of(&folder.path().join("page")), ClockStatus::UNRELIABLE);
    // The page is there for a QEMU that comes, and as long as the device is.
    assert_eq!(std::fs::metadata(folder.path().join("page")).expect("a file").len(), 64 << 10);
}

#[test]
fn attaching_without_a_doorbell_or_to_another_page_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let monitor = std::os::unix::net::UnixListener::bind(folder.path().join("page.qmp")).expect("listens");
    let output = attach(folder.path(), &["--timeout", "50ms"]).output().expect("runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("QEMU has no doorbell") && text.contains("page.bell"), "{text}");
    let accepted = std::thread::spawn(move || {
        // The first who came has gone again, for want of a doorbell.
        monitor.accept().expect("the first");
        let (mut stream, _) = monitor.accept().expect("the second");
        stream.write_all(b"{\"QMP\": {}}\n").expect("greeted");
        for line in BufReader::new(stream.try_clone().expect("the same")).lines().map_while(Result::ok) {
            let command: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            let answer = serde_json::json!({"return": {}, "id": command["id"]});
            stream.write_all(format!("{answer}\n").as_bytes()).expect("answered");
        }
    });
    let output = attach(folder.path(), &["--no-notify"]).output().expect("runs");
    accepted.join().expect("answered all");
    let text = String::from_utf8_lossy(&output.stderr);
    let pid = format!("process id {} does not map this page", std::process::id());
    assert!(output.status.code() == Some(1) && text.contains(&pid), "{text}");
}

#[test]
fn a_signal_ends_the_wait() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut child =
        attach(folder.path(), &["--json"]).stdout(std::process::Stdio::piped()).spawn().expect("vmclock runs");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    assert!(lines.any(|line| line.expect("text").contains("\"waiting\"")));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("sent");
    assert!(child.wait().expect("ends").success());
    assert_eq!(status_of(&folder.path().join("page")), ClockStatus::UNRELIABLE);
}

#[test]
fn what_is_wrong_is_said_before_anything_starts() {
    for (arguments, part) in [
        (&["--", "qemu-system-x86_64", "-M", "q35", "-device", "e1000,addr=0x1d"][..], "--slot takes any free slot"),
        (&["--", "qemu-system-x86_64", "-M", "microvm"], "use -machine q35"),
        (&["--read-only-page", "--", "qemu-system-x86_64", "-incoming", "file:x"], "--read-only-page with -incoming"),
        (&["--refresh", "1us", "--", "qemu-system-x86_64"], "between 1ms and 60s"),
        (&["--tai-offset=-37", "--", "/no/such/qemu"], "/no/such/qemu: cannot be started"),
    ] {
        let output = vmclock(&[&["qemu"], arguments].concat());
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && text.contains(part), "{arguments:?}: {text}");
    }
    for wrong in [
        &["--slot", "32", "--", "q"][..],
        &["--irq", "2", "--", "q"],
        &["--second-page", "--read-only-page", "--", "q"],
        &["--attach"],
        &["--attach", "--page", "p", "--", "q"],
        &["--bell", "b", "--", "q"],
        &[],
    ] {
        assert_eq!(vmclock(&[&["qemu"], wrong].concat()).status.code(), Some(2), "{wrong:?}");
    }
}
