// SPDX-License-Identifier: MIT OR Apache-2.0
//! Freezing real processes, where there is a cgroup of version 2 that we may write to.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use vmclock_agent::cgroup::{CgroupError, Freezer};

/// A machine may be busy; a test that waits for so long has failed.
const DEADLINE: Duration = Duration::from_secs(120);

/// A cgroup of our own, with a process in it that answers a line with a line.
struct Workload {
    path: PathBuf,
    process: Option<Child>,
}

impl Workload {
    /// None where we may not make one.
    fn new(name: &str) -> Option<Self> {
        let root = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
        let root = root.into_iter().find(|root| root.join("cgroup.controllers").exists())?;
        let path = root.join(format!("vmclock-test-{name}-{}", std::process::id()));
        if let Err(error) = fs::create_dir(&path) {
            eprintln!("skipped: {}: {error}", path.display());
            return None;
        }
        let mut workload = Self { path, process: None };
        let process = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let procs = workload.path.join("cgroup.procs");
        fs::write(procs, process.id().to_string()).unwrap();
        workload.process = Some(process);
        Some(workload)
    }

    fn say(&mut self, line: &str) {
        self.process.as_mut().unwrap().stdin.as_mut().unwrap().write_all(line.as_bytes()).unwrap();
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        BufReader::new(self.process.as_mut().unwrap().stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        line
    }

    fn has_answered(&self) -> bool {
        let stdout = self.process.as_ref().unwrap().stdout.as_ref().unwrap();
        poll(&mut [PollFd::new(stdout, PollFlags::IN)], Some(&Timespec::default())).unwrap() > 0
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    fn remove(&mut self) {
        self.kill();
        // A process may leave its cgroup a little after its end.
        let Ok(events) = File::open(self.path.join("cgroup.events")) else { return };
        let deadline = Timespec::try_from(DEADLINE).unwrap();
        while fs::read_to_string(self.path.join("cgroup.events")).unwrap().contains("populated 1") {
            assert!(poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&deadline)).unwrap() > 0);
            let mut seen = [0; 256];
            events.read_at(&mut seen, 0).unwrap();
        }
        fs::remove_dir(&self.path).unwrap();
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.remove();
    }
}

fn until(freezer: &Freezer, frozen: bool) {
    while freezer.is_frozen().unwrap() != frozen {
        let mut fds: Vec<_> = freezer.changes().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::PRI)).collect();
        let deadline = Timespec::try_from(DEADLINE).unwrap();
        assert!(poll(&mut fds, Some(&deadline)).unwrap() > 0, "no change in {DEADLINE:?}");
    }
}

#[test]
fn what_is_frozen_does_not_run_until_it_is_thawed() {
    let (Some(mut first), Some(mut second)) = (Workload::new("first"), Workload::new("second")) else { return };
    let mut freezer = Freezer::new(&[first.path.clone(), second.path.clone()]).unwrap();
    first.say("runs\n");
    assert_eq!(first.answer(), "runs\n");
    assert!(!freezer.is_frozen().unwrap() && !freezer.has_frozen());
    assert!(freezer.freeze().is_empty());
    until(&freezer, true);
    first.say("frozen\n");
    second.say("frozen\n");
    // What answers only once it is thawed cannot have answered now.
    assert!(!first.has_answered() && !second.has_answered());
    assert!(freezer.thaw().is_empty());
    until(&freezer, false);
    assert_eq!((first.answer(), second.answer()), ("frozen\n".to_owned(), "frozen\n".to_owned()));
}

#[test]
fn a_cgroup_that_vanished_is_reported_and_stops_no_other() {
    let (Some(mut gone), Some(stays)) = (Workload::new("gone"), Workload::new("stays")) else { return };
    let mut freezer = Freezer::new(&[gone.path.clone(), stays.path.clone()]).unwrap();
    assert!(freezer.freeze().is_empty());
    until(&freezer, true);
    gone.remove();
    assert!(freezer.is_frozen().unwrap(), "what is not there does not run");
    assert!(freezer.has_frozen(), "the other one");
    assert_eq!(freezer.changes().count(), 1, "what is not there does not wake anybody up");
    let problems = freezer.thaw();
    assert!(matches!(&problems[..], [CgroupError::Vanished(path)] if *path == gone.path), "{problems:?}");
    let rest = Freezer::new(std::slice::from_ref(&stays.path)).unwrap();
    until(&rest, false);
    assert!(!freezer.has_frozen(), "nobody froze what is not there");
    assert_eq!(freezer.freeze().len(), 1);
    until(&freezer, true);
    // A restart of the workload's service makes it anew.
    let gone = Workload::new("gone").unwrap();
    assert!(freezer.freeze().is_empty());
    until(&Freezer::new(std::slice::from_ref(&gone.path)).unwrap(), true);
    assert!(freezer.thaw().is_empty());
    until(&freezer, false);
}

#[test]
fn a_cgroup_without_processes_is_frozen_too() {
    let Some(mut empty) = Workload::new("empty") else { return };
    empty.kill();
    let mut freezer = Freezer::new(std::slice::from_ref(&empty.path)).unwrap();
    assert!(freezer.freeze().is_empty());
    until(&freezer, true);
    assert!(freezer.thaw().is_empty());
    until(&freezer, false);
}

#[test]
fn the_root_is_refused() {
    let Some(workload) = Workload::new("below") else { return };
    let root = workload.path.parent().unwrap().to_owned();
    assert!(matches!(Freezer::new(&[root]).unwrap_err(), CgroupError::NoFreezer(_)));
}
