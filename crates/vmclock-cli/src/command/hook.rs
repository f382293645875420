// SPDX-License-Identifier: MIT OR Apache-2.0
//! A command that is run for an event: where its output goes, and how long it may take.

use std::io::{stderr, stdout};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::{retry_on_intr, Errno};
use rustix::process::{kill_process_group, pidfd_open, Pid, PidfdFlags, Signal};

use crate::output::has_reader;

/// How long a command has to end by itself after it was asked to.
const GRACE: Duration = Duration::from_secs(1);

/// A command for `sh -c`.
pub(super) struct Hook<'a> {
    pub(super) command: &'a str,
    pub(super) timeout: Option<Duration>,
    /// Standard output is for JSON: the command's goes to standard error.
    pub(super) json: bool,
}

impl Hook<'_> {
    /// Runs it to its end, with these variables and `VMCLOCK_PAGE` in its environment. The error says how it failed.
    pub(super) fn run<'v>(
        &self,
        variables: impl IntoIterator<Item = (&'v str, String)>,
        page: &Path,
    ) -> Result<(), String> {
        let mut command = Command::new("sh");
        command.args(["-c", self.command]).envs(variables).env("VMCLOCK_PAGE", page).stdin(Stdio::null());
        command.stdout(if self.json { to_a_reader(stderr()) } else { to_a_reader(stdout()) });
        command.stderr(to_a_reader(stderr()));
        if self.timeout.is_some() {
            // So that what it started can be killed with it.
            command.process_group(0);
        }
        let mut child = command.spawn().map_err(|error| format!("cannot be run with sh: {error}"))?;
        let in_time = self.timeout.map_or(Ok(true), |timeout| ends_within(&child, timeout));
        match in_time {
            Ok(true) => {}
            Ok(false) => kill(&child)?,
            Err(errno) => return Err(format!("cannot be waited for with a timeout: {errno}; Linux 5.3 or later can")),
        }
        let status = child.wait().map_err(|error| format!("cannot be waited for: {error}"))?;
        match (in_time, self.timeout) {
            (Ok(false), Some(timeout)) => Err(format!("was not done within {timeout:?}, and was killed")),
            _ if status.success() => Ok(()),
            _ => Err(format!("ended with {status}")),
        }
    }
}

/// Asks a command and all that it started to end; and ends them as soon as the command has, or its time is over.
fn kill(child: &Child) -> Result<(), String> {
    let group = Pid::from_child(child);
    for signal in [Signal::TERM, Signal::KILL] {
        match kill_process_group(group, signal) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(format!("cannot be killed: {errno}")),
        }
        let _ = ends_within(child, GRACE);
    }
    Ok(())
}

/// Whether it ends by itself in so much time.
fn ends_within(child: &Child, time: Duration) -> rustix::io::Result<bool> {
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let deadline = Instant::now().checked_add(time);
    retry_on_intr(|| {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let mut fds = [PollFd::new(&process, PollFlags::IN)];
        Ok(poll(&mut fds, left.as_ref())? > 0)
    })
}

/// Our own stream for the command, or none if nobody reads it: its first word there would kill the command.
fn to_a_reader(stream: impl AsFd) -> Stdio {
    if !has_reader(&stream) {
        return Stdio::null();
    }
    stream.as_fd().try_clone_to_owned().map_or_else(|_| Stdio::null(), Stdio::from)
}
