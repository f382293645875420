// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where nothing can be written: a command that prints a result reports it, and one with a duty does its duty.

mod common;

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use common::{stderr, vmclock, wait_for, Publisher};
use rustix::process::{kill_process, Pid, Signal};
use vmclock::VmClock;

/// A disk without space.
fn full_disk() -> Stdio {
    File::options().write(true).open("/dev/full").expect("Linux has it").into()
}

/// A pipe that nobody reads.
fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

/// A pipe whose reader does not read, and which is full.
fn stuck_pipe() -> (std::io::PipeReader, Stdio) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    rustix::io::ioctl_fionbio(&writer, true).expect("a pipe");
    while rustix::io::write(&writer, &[b'x'; 4096]).is_ok() {}
    while rustix::io::write(&writer, b"x").is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).expect("a pipe");
    (reader, writer.into())
}

/// The commands that print a result of a page.
fn short_commands(page: &str, folder: &Path) -> Vec<Vec<String>> {
    let table = folder.join("table").display().to_string();
    let guest = folder.join("guest").display().to_string();
    [
        vec!["now", "--page", page],
        vec!["now", "--json", "--page", page],
        vec!["show", "--page", page],
        vec!["show", "--json", "--page", page],
        vec!["wait", "--max-error", "1m", "--page", page],
        vec!["signal", "soon", "--page", page],
        vec![
            "qemu",
            "--print-args",
            "--page",
            &guest,
            "--table",
            &table,
            "--",
            "qemu-system-x86_64",
            "-machine",
            "q35",
        ],
    ]
    .map(|args| args.into_iter().map(str::to_owned).collect())
    .into()
}

#[test]
fn a_result_that_cannot_be_written_is_an_error_but_a_reader_that_has_enough_is_none() {
    let publisher = Publisher::start();
    let folder = tempfile::tempdir().expect("a folder");
    for args in short_commands(&publisher.path(), folder.path()) {
        let run = |out: Stdio| {
            let mut child = vmclock();
            child.args(&args).stdout(out).stderr(Stdio::piped()).spawn().and_then(Child::wait_with_output).expect("run")
        };
        let full = run(full_disk());
        assert_eq!(full.status.code(), Some(1), "{args:?}");
        let error = stderr(&full);
        assert!(error.contains("standard output") && error.contains("No space left"), "{args:?}: {error}");
        let closed = run(closed_pipe());
        assert_eq!((closed.status.code(), stderr(&closed).as_str()), (Some(0), ""), "{args:?}");
    }
}

#[test]
fn an_error_that_cannot_be_written_is_still_an_exit_status() {
    for errors in [full_disk(), closed_pipe()] {
        let status = vmclock().args(["now", "--page", "/nonexistent/page"]).stderr(errors).status().expect("run");
        assert_eq!(status.code(), Some(1));
    }
}

/// A child that is killed when the test is over.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.spawn().expect("run"))
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    fn stop(&mut self) -> ExitStatus {
        kill_process(self.pid(), Signal::TERM).expect("it is ours, and runs");
        self.0.wait().expect("it is ours")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

type Streams = (Stdio, Stdio, Option<std::io::PipeReader>);

/// Standard output and standard error of which nothing comes.
fn hopeless() -> [fn() -> Streams; 3] {
    [
        || (full_disk(), full_disk(), None),
        || (closed_pipe(), closed_pipe(), None),
        || {
            let (reader, writer) = stuck_pipe();
            (writer, full_disk(), Some(reader))
        },
    ]
}

#[test]
fn a_publisher_publishes_whatever_becomes_of_its_output() {
    for streams in hopeless() {
        for json in [true, false] {
            let folder = tempfile::tempdir().expect("a folder");
            let page = folder.path().join("page");
            let (out, errors, _reader) = streams();
            let mut command = vmclock();
            command.args(["serve", "--reference", "host-clock", "--tai-offset", "-37", "--refresh", "1ms", "--page"]);
            command.arg(&page).args(json.then_some("--json")).stdout(out).stderr(errors);
            let mut publisher = Running::start(&mut command);
            let clock = wait_for("a page", || VmClock::open_at(&page).ok());
            let first = wait_for("a time", || clock.now().ok().and(clock.snapshot().ok()));
            // Many lines later.
            wait_for("updates", || {
                let updates = clock.snapshot().ok()?.seq_count.wrapping_sub(first.seq_count) / 2;
                (updates > 20).then_some(())
            });
            let path = page.to_str().expect("plain");
            assert!(common::run(&["signal", "migrate", "--page", path]).status.success());
            assert_ne!(clock.snapshot().expect("a page").disruption_marker, first.disruption_marker);
            assert_eq!(publisher.stop().code(), Some(0), "an ordinary end");
            assert_eq!(clock.snapshot().expect("a page").clock_status, vmclock::ClockStatus::UNRELIABLE);
        }
    }
}

#[test]
fn hooks_run_whatever_becomes_of_the_output() {
    for streams in hopeless() {
        let publisher = Publisher::start();
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("log");
        let (out, errors, stuck) = streams();
        // The hook writes, too, before it does its work, but not where that would keep it waiting; and it fails.
        let words = if stuck.is_some() { "" } else { "echo words; echo words >&2;" };
        let hook = format!("{words} echo $VMCLOCK_EVENT >> {}; exit 1", log.display());
        let mut command = vmclock();
        command.args(["watch", "--json", "--exec", &hook, "--page", &publisher.path()]).stdout(out).stderr(errors);
        let watch = Running::start(&mut command);
        let count = || std::fs::read_to_string(&log).map_or(0, |log| log.lines().count());
        for events in [1, 3] {
            wait_for("hooks", || {
                publisher.send(&["migrate"]);
                (count() >= events).then_some(())
            });
        }
        drop(watch);
    }
}

#[test]
fn watch_counts_events_that_it_cannot_write() {
    let publisher = Publisher::start();
    let page = publisher.path();
    let mut command = vmclock();
    let output = command.args(["watch", "--all", "--count", "3", "--page", &page]).stdout(full_disk()).output();
    let output = output.expect("run");
    assert_eq!(output.status.code(), Some(0));
    let error = stderr(&output);
    assert!(error.contains("No space left") && error.lines().count() == 1, "once: {error}");
}
