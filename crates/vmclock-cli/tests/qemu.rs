// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock qemu` with programs that are not QEMU: what it prints, and that nothing hangs. Real guests are in `e2e`.

use std::io::Write;
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
        &[],
    ] {
        assert_eq!(vmclock(&[&["qemu"], wrong].concat()).status.code(), Some(2), "{wrong:?}");
    }
}
