// SPDX-License-Identifier: MIT OR Apache-2.0
//! One attempt of a hook: its process, what it writes, and its end.

use std::env;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{self, Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{fcntl_setfl, OFlags};
use rustix::io::{read, Errno};
use rustix::pipe::{pipe_with, PipeFlags};
use rustix::process::{kill_process_group, pidfd_open, pidfd_send_signal, Pid, PidfdFlags, Signal};

use super::tail::Tail;
use super::{stage, HookEvent, HookStatus, STAGE};
use crate::hook::Hook;

/// From SIGTERM to SIGKILL, and from there to giving the process up.
const GRACE: Duration = Duration::from_secs(2);
/// Where a runner that was started without a `PATH` has its hooks find programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// So much of its output is read at once, so that a hook that floods does not keep the runner from the others.
const ONE_GO: usize = 64 * 1024;

/// A hook's process.
pub(super) struct Process {
    child: Child,
    /// Readable when the process has ended.
    pidfd: OwnedFd,
    /// What it writes, until the last writer has closed it.
    output: Option<OwnedFd>,
    /// Why the hook did not begin.
    refusal: OwnedFd,
    tail: Tail,
    stage: Stage,
    deadline: Instant,
}

enum Stage {
    Running,
    /// SIGTERM was sent.
    Asked,
    /// SIGKILL was sent.
    Killed,
}

impl Process {
    /// Starts a hook by way of our own program. The error is a reason for people.
    pub(super) fn start(program: &Path, hook: &Hook, event: &HookEvent) -> Result<Self, String> {
        let why = |what: &str, error: io::Error| format!("{what}: {error}");
        let pipes = || {
            let (output, writer) = readable_pipe()?;
            let (refusal, refuser) = readable_pipe()?;
            Ok((output, writer.try_clone()?, writer, refusal, refuser))
        };
        let (output, stdout, stderr, refusal, refuser) =
            pipes().map_err(|error| why("no pipe for its output", error))?;
        let mut command = Command::new(program);
        command
            .arg(STAGE)
            .args(stage::arguments(process::id(), &hook.path, hook.settings.user.as_ref()))
            .env_clear()
            .env("PATH", env::var_os("PATH").unwrap_or_else(|| PATH.into()))
            .env("LANG", env::var_os("LANG").unwrap_or_else(|| "C.UTF-8".into()))
            .envs(event.variables.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(Stdio::from(refuser))
            .stdout(Stdio::from(stdout))
            .stderr(Stdio::from(stderr));
        let child = command.spawn();
        // It keeps the pipes' other ends open.
        drop(command);
        let mut child = child.map_err(|error| why(&format!("{} cannot be started", program.display()), error))?;
        let pidfd = match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(errno) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("its process cannot be waited for: {errno}; Linux 5.3 or later can"));
            }
        };
        let deadline = Instant::now() + hook.settings.timeout;
        let (output, tail, stage) = (Some(output), Tail::default(), Stage::Running);
        Ok(Self { child, pidfd, output, refusal, tail, stage, deadline })
    }

    /// Readable when it has ended.
    pub(super) fn end(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Readable when it has written something.
    pub(super) fn output(&self) -> Option<BorrowedFd<'_>> {
        self.output.as_ref().map(AsFd::as_fd)
    }

    /// When [`Self::expired`] is to be called.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Reads what it has written, in part if that is much.
    pub(super) fn read_output(&mut self) {
        let Some(output) = &self.output else { return };
        let mut buffer = [0; 8192];
        for _ in 0..ONE_GO / buffer.len() {
            match read(output, &mut buffer) {
                Ok(length @ 1..) => self.tail.push(&buffer[..length]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Ok(0) | Err(_) => {
                    self.output = None;
                    return;
                }
            }
        }
    }

    /// Its deadline has passed: asks it to end, or kills it. Gives up on a process that cannot be killed, and returns
    /// whether it did so.
    pub(super) fn expired(&mut self, now: Instant) -> bool {
        self.stage = match self.stage {
            Stage::Running => {
                self.signal(Signal::TERM);
                // It may have stopped itself.
                self.signal(Signal::CONT);
                Stage::Asked
            }
            Stage::Asked => {
                self.signal(Signal::KILL);
                Stage::Killed
            }
            Stage::Killed => return true,
        };
        self.deadline = now + GRACE;
        false
    }

    /// To the whole process group; to the process alone as long as it has none of its own.
    fn signal(&self, signal: Signal) {
        if kill_process_group(Pid::from_child(&self.child), signal) == Err(Errno::SRCH) {
            let _ = pidfd_send_signal(&self.pidfd, signal);
        }
    }

    /// How it ended, and the tail of its output; to be called when it has ended, or was given up.
    pub(super) fn finish(mut self) -> (HookStatus, String, Option<Child>) {
        self.read_output();
        if !matches!(self.stage, Stage::Running) {
            // What else is in its group. The process is not yet waited for, so the group's number is still its own.
            self.signal(Signal::KILL);
        }
        let tail = self.tail.text();
        let ended = self.child.try_wait();
        let mut reason = [0; 4096];
        let status = match (self.stage, read(&self.refusal, &mut reason), ended) {
            (Stage::Asked | Stage::Killed, _, Ok(Some(_))) => HookStatus::TimedOut,
            (Stage::Asked | Stage::Killed, ..) => return (HookStatus::TimedOut, tail, Some(self.child)),
            (_, Ok(length @ 1..), _) => {
                HookStatus::CannotStart { reason: String::from_utf8_lossy(&reason[..length]).into_owned() }
            }
            (_, _, Ok(Some(status))) => of(status),
            // Somebody else has waited for it.
            (..) => HookStatus::CannotStart { reason: "how it ended cannot be known".to_owned() },
        };
        (status, tail, None)
    }
}

fn of(status: ExitStatus) -> HookStatus {
    match (status.code(), status.signal()) {
        (Some(0), _) => HookStatus::Succeeded,
        (Some(exit_code), _) => HookStatus::Failed { exit_code },
        (None, signal) => HookStatus::Killed { signal: signal.unwrap_or_default() },
    }
}

/// A pipe whose reader does not wait.
fn readable_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    fcntl_setfl(&reader, OFlags::NONBLOCK)?;
    Ok((reader, writer))
}
