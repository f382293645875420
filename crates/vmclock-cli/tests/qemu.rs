// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock qemu` with programs that are not QEMU: what it prints, and that nothing hangs. What it does with QEMU's
//! events is tested in `vmclock-qemu`, real guests are in `e2e`.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{kill_process, Pid, Signal};
use serde_json::{json, Value};
use vmclock::{ClockStatus, Snapshot};

/// Speaks QMP as far as a guest needs it whose counter is not known: greets, answers, and ends after `cont`.
const QEMU: &str = r#"
for word; do
    case $word in socket,id=vmclock-qmp,fd=*) eval "exec 3<&${word##*=} 4>&${word##*=}" ;; esac
done
echo '{"QMP": {}}' >&4
while read -r line <&3; do
    id=${line##*'"id":'}
    id=${id%%[,\}]*}
    case $line in *'"cont"'*) echo '{"event": "RESUME", "timestamp": {"seconds": 1, "microseconds": 0}}' >&4 ;; esac
    echo "{\"return\": {}, \"id\": $id}" >&4
    case $line in *'"cont"'*) exit 3 ;; esac
done
"#;

fn vmclock(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vmclock")).args(arguments).output().expect("vmclock runs")
}

/// A script in place of QEMU.
fn qemu(folder: &Path, script: &str) -> PathBuf {
    let path = folder.join("qemu");
    let mut file = std::fs::File::create(&path).expect("created");
    // Other shells have no redirections of descriptors above 9.
    write!(file, "#!/bin/bash\n{script}\n").expect("written");
    file.set_permissions(std::fs::Permissions::from_mode(0o755)).expect("executable");
    path
}

/// `vmclock qemu` with a script in place of QEMU, and a page in a folder.
fn started(folder: &Path, script: &str) -> Command {
    let qemu = qemu(folder, script);
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmclock"));
    command.args(["qemu", "--tai-offset=37", "--json", "--page"]).arg(folder.join("page")).arg("--").arg(qemu);
    command
}

fn status_of(page: &Path) -> ClockStatus {
    Snapshot::from_prefix(&std::fs::read(page).expect("a file")).expect("a page").clock_status
}

fn events(output: &Output) -> Vec<Value> {
    let lines = String::from_utf8_lossy(&output.stdout);
    lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// Reads events up to one of this name.
fn wait_for(child: &mut Child, event: &str) {
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let name = format!("\"event\":\"{event}\"");
    assert!(lines.map(|line| line.expect("text")).any(|line| line.contains(&name)), "{event}");
}

fn terminate(child: &Child) {
    kill_process(Pid::from_child(child), Signal::TERM).expect("sent");
}

mod arguments {
    use super::*;

    #[test]
    fn print_args_starts_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let (page, table) = (folder.path().join("page"), folder.path().join("table.aml"));
        let [page_word, table_word] = [&page, &table].map(|path| path.to_str().expect("text"));
        let paths = ["qemu", "--print-args", "--page", page_word, "--table", table_word];
        let output = vmclock(
            &[&paths[..], &["--slot", "0x0a", "--", "qemu-system-x86_64", "-M", "q35", "-name", "a b"]].concat(),
        );
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(
            output.status.success() && text.starts_with("qemu-system-x86_64 -object memory-backend-ram,id=pc.ram"),
            "{text}"
        );
        for part in [
            "addr=0xa",
            "-name 'a b'",
            &format!("-acpitable file={table_word}"),
            &format!("path={page_word}.qmp "),
            &format!("local.path={page_word}.bell,remote.path={page_word}.bell-host "),
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(std::fs::read(&table).expect("written").starts_with(b"SSDT"));
        assert!(!page.exists());
        // Without a place for the table there would be nothing to name.
        assert_eq!(vmclock(&["qemu", "--print-args", "--", "qemu-system-x86_64"]).status.code(), Some(2));
    }

    #[test]
    fn paths_may_have_spaces_and_commas_and_need_not_be_text() {
        let folder = tempfile::tempdir().expect("a folder");
        let (page, table) = (folder.path().join(OsStr::from_bytes(b"a, \xff")), folder.path().join("table"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmclock"));
        command.args(["qemu", "--print-args", "--page"]).arg(&page).arg("--table").arg(&table);
        let output = command.args(["--", "qemu-system-x86_64"]).output().expect("runs");
        let name = b"a,, \xff.qmp'";
        assert!(output.status.success() && output.stdout.windows(name.len()).any(|part| part == name), "{output:?}");
    }

    #[test]
    fn what_is_wrong_is_said_before_anything_starts() {
        for (arguments, part) in [
            (
                &["--", "qemu-system-x86_64", "-M", "q35", "-device", "e1000,addr=0x1d"][..],
                "--slot takes any free slot",
            ),
            (&["--", "qemu-system-x86_64", "-M", "microvm"], "use -machine q35"),
            (
                &["--read-only-page", "--", "qemu-system-x86_64", "-incoming", "file:x"],
                "--read-only-page with -incoming",
            ),
            (&["--refresh", "1us", "--", "qemu-system-x86_64"], "between 1ms and 60s"),
            (&["--tai-offset=37", "--", "/no/such/qemu"], "/no/such/qemu: cannot be started"),
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
}

mod of_ours {
    use super::*;

    #[test]
    fn a_qemu_that_dies_early_is_reported() {
        let folder = tempfile::tempdir().expect("a folder");
        let output = started(folder.path(), "echo 'no such machine' >&2; exit 7").output().expect("runs");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(7) && text.contains("no such machine"), "{output:?}");
        let events = events(&output);
        let warning = events.iter().find(|event| event["event"] == "warning").expect("a warning");
        assert!(warning["text"].as_str().is_some_and(|text| text.contains("before it gave its greeting")), "{warning}");
        let ended = events.last().expect("an end");
        assert_eq!((ended["event"].as_str(), &ended["status"]), (Some("ended"), &json!(7)));
        assert_eq!(ended["page"]["clock_status"], "unreliable");
        assert_eq!(status_of(&folder.path().join("page")), ClockStatus::UNRELIABLE);
        assert!(!folder.path().join("page.control").exists());
    }

    #[test]
    fn a_guest_whose_counter_is_not_known_runs_all_the_same() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = started(folder.path(), QEMU);
        let output = command.args(["-icount", "shift=auto"]).output().expect("runs");
        let events = events(&output);
        let position = |name: &str| events.iter().position(|event| event["event"] == name).expect(name);
        let names = ["created", "started", "connected", "resumed", "no-counter", "ended"];
        assert!(names.map(position).is_sorted(), "{events:?}");
        assert_eq!(events[position("connected")]["accel"], "unknown");
        assert_eq!(events[position("no-counter")]["page"]["counter_id"], "none");
        assert!(events.iter().all(|event| event["text"].is_string()));
        assert_eq!(output.status.code(), Some(3), "{output:?}");
    }

    #[test]
    fn a_signal_ends_a_qemu_that_does_not_greet() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut child = started(folder.path(), "exec sleep 1000").stdout(Stdio::piped()).spawn().expect("runs");
        wait_for(&mut child, "started");
        terminate(&child);
        assert_eq!(child.wait().expect("ends").code(), Some(128 + 15));
        assert_eq!(status_of(&folder.path().join("page")), ClockStatus::UNRELIABLE);
    }

    #[test]
    fn a_reader_that_goes_away_is_no_reason_to_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = started(folder.path(), QEMU);
        let mut child = command.args(["-icount", "auto"]).stdout(Stdio::piped()).spawn().expect("runs");
        drop(child.stdout.take());
        let status = child.wait().expect("ends");
        assert_eq!((status.code(), status.signal()), (Some(3), None));
    }
}

mod of_somebody_else {
    use super::*;

    /// `vmclock qemu --attach` for a page in a folder, with more arguments, as far as it gets without QEMU.
    fn attach(folder: &Path, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmclock"));
        command.args(["qemu", "--attach", "--tai-offset=37", "--page"]).arg(folder.join("page")).args(more);
        command
    }

    #[test]
    fn attaching_to_nobody_ends_in_time_and_names_the_socket() {
        let folder = tempfile::tempdir().expect("a folder");
        let output = attach(folder.path(), &["--timeout", "50ms"]).output().expect("runs");
        let text = String::from_utf8_lossy(&output.stderr);
        let part = "page.qmp: QEMU's monitor was not there within 50ms";
        assert!(output.status.code() == Some(1) && text.contains(part), "{text}");
        assert_eq!(status_of(&folder.path().join("page")), ClockStatus::UNRELIABLE);
        // The page is there for a QEMU that is started later, and as long as the device is.
        assert_eq!(std::fs::metadata(folder.path().join("page")).expect("a file").len(), 64 << 10);
    }

    #[test]
    fn attaching_without_a_doorbell_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let _monitor = UnixListener::bind(folder.path().join("page.qmp")).expect("listens");
        let output = attach(folder.path(), &["--timeout", "50ms"]).output().expect("runs");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("page.bell: QEMU's doorbell was not there") && text.contains("--no-notify"), "{text}");
    }

    #[test]
    fn attaching_to_a_qemu_with_another_page_is_refused() {
        let folder = tempfile::Builder::new().prefix("a folder, ").tempdir().expect("a folder");
        let monitor = UnixListener::bind(folder.path().join("page.qmp")).expect("listens");
        let accepted = std::thread::spawn(move || {
            let (mut stream, _) = monitor.accept().expect("vmclock");
            stream.write_all(b"{\"QMP\": {}}\n").expect("greeted");
            for line in BufReader::new(stream.try_clone().expect("the same")).lines().map_while(Result::ok) {
                let command: Value = serde_json::from_str(&line).expect("JSON");
                let answer = json!({"return": {}, "id": command["id"]});
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
    fn a_monitor_that_does_not_greet_is_waited_for_until_the_timeout() {
        let folder = tempfile::tempdir().expect("a folder");
        let _monitor = UnixListener::bind(folder.path().join("page.qmp")).expect("listens");
        let begun = Instant::now();
        let output = attach(folder.path(), &["--no-notify", "--timeout", "50ms"]).output().expect("runs");
        let text = String::from_utf8_lossy(&output.stderr);
        let part = "QEMU's monitor did not give its greeting within 50ms";
        assert!(output.status.code() == Some(1) && text.contains(part), "{text}");
        assert!(begun.elapsed() < Duration::from_secs(30));
        assert_eq!(status_of(&folder.path().join("page")), ClockStatus::UNRELIABLE);
    }

    #[test]
    fn a_signal_ends_the_wait_for_qemu_and_for_its_greeting() {
        for (listens, event) in [(false, "waiting"), (true, "attached")] {
            let folder = tempfile::tempdir().expect("a folder");
            let _monitor = listens.then(|| UnixListener::bind(folder.path().join("page.qmp")).expect("listens"));
            let mut command = attach(folder.path(), &["--json", "--no-notify", "--timeout", "24h"]);
            let mut child = command.stdout(Stdio::piped()).spawn().expect("vmclock runs");
            wait_for(&mut child, event);
            terminate(&child);
            assert!(child.wait().expect("ends").success(), "{event}");
            assert_eq!(status_of(&folder.path().join("page")), ClockStatus::UNRELIABLE);
        }
    }
}
