// SPDX-License-Identifier: MIT OR Apache-2.0
//! The agent's end.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{absolute, Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::net::{socketpair, AddressFamily, SocketFlags, SocketType};

use super::message::{receive_message, send_message, Received, Request, LARGEST};
use super::{HookEvent, Report, RUNNER};

/// So many runs can be asked for and unfinished: who asks for more, as a hostile page may, has to wait.
pub const MOST_RUNS: usize = 64;

/// A runner's process, and the socket to it.
///
/// It is to be polled for reading, as a file descriptor; then [`Runner::receive`] has news. Dropping it lets the
/// process end by itself, after the hooks that run; what becomes of its runs is then not reported.
#[derive(Debug)]
pub struct Runner {
    /// Until it is dropped.
    process: Option<Child>,
    process_id: u32,
    folder: PathBuf,
    socket: OwnedFd,
    unfinished: VecDeque<u64>,
    died: bool,
}

impl Runner {
    /// Starts a runner for the hooks of a folder, with this process's rights: `program` (such as `/proc/self/exe`) is
    /// called with `hook-runner`, and its `main` has to call [`super::subcommand`].
    pub fn start(program: &Path, folder: &Path) -> io::Result<Self> {
        collect_the_ended(None);
        let folder = absolute(folder)?;
        let (socket, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let process = Command::new(program)
            .arg(RUNNER)
            .arg(absolute(program)?)
            .arg(&folder)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            // A Ctrl-C is for the agent; the runner ends after it.
            .process_group(0)
            .spawn()
            .map_err(|error| {
                io::Error::new(error.kind(), format!("{} cannot be started as hook runner: {error}", program.display()))
            })?;
        let process_id = process.id();
        Ok(Self { process: Some(process), process_id, folder, socket, unfinished: VecDeque::new(), died: false })
    }

    /// Asks for a run of all hooks that are for this event. It begins when those that were asked for before have
    /// finished; `id` is only given back. Never waits.
    ///
    /// # Errors
    ///
    /// `InvalidInput`: see [`HookEvent::check`], or the event has more than 64 KiB.
    /// `WouldBlock`: [`MOST_RUNS`] are unfinished; ask again when one has finished. Others: the runner has ended.
    pub fn run(&mut self, id: u64, event: &HookEvent) -> io::Result<()> {
        event.check()?;
        if self.unfinished.len() >= MOST_RUNS {
            let what = format!("{MOST_RUNS} runs of hooks are unfinished: ask again when one has finished");
            return Err(io::Error::new(io::ErrorKind::WouldBlock, what));
        }
        send_message(&self.socket, &Request { id, event: event.clone() })?;
        self.unfinished.push_back(id);
        Ok(())
    }

    /// What has happened since it was last called, in order. Never waits. After [`Report::Died`], each call returns
    /// that again.
    pub fn receive(&mut self) -> io::Result<Vec<Report>> {
        let mut reports = Vec::new();
        let mut buffer = vec![0; LARGEST];
        while !self.died {
            match receive_message(&self.socket, &mut buffer)? {
                Received::Message(report) => {
                    if let Report::Finished { .. } = report {
                        self.unfinished.pop_front();
                    }
                    reports.push(report);
                }
                Received::Nothing => return Ok(reports),
                Received::End => {
                    self.died = true;
                    // Only a process that is ending closes its socket: this leaves no zombie, and does not wait.
                    if let Some(process) = &mut self.process {
                        let _ = process.kill();
                        let _ = process.wait();
                    }
                }
            }
        }
        reports.push(Report::Died);
        Ok(reports)
    }

    /// The numbers of the runs that were asked for and have not finished, in order. When the runner has ended, these
    /// are lost.
    pub fn unfinished(&self) -> impl Iterator<Item = u64> + '_ {
        self.unfinished.iter().copied()
    }

    /// The runner's process.
    pub fn process_id(&self) -> u32 {
        self.process_id
    }

    /// The hooks' folder, as an absolute path.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        collect_the_ended(self.process.take().filter(|_| !self.died));
    }
}

/// Runners that were dropped before they had ended.
static ENDING: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// Leaves no zombie but those that have ended since it was last called.
fn collect_the_ended(another: Option<Child>) {
    let mut ending = ENDING.lock().unwrap_or_else(PoisonError::into_inner);
    ending.extend(another);
    ending.retain_mut(|process| matches!(process.try_wait(), Ok(None)));
}

impl AsFd for Runner {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
