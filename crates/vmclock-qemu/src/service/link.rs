// SPDX-License-Identifier: MIT OR Apache-2.0
//! The way to the service.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::net::sockopt::socket_peercred;
use rustix::process::{pidfd_open, PidfdFlags};
use serde_json::Value;
use vmclock_host::service::client::{Client, ClientError};
use vmclock_host::service::protocol::{Refusal, Request};

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The service has refused.
    #[error("{0}")]
    Refused(Refusal),
    /// There is no connection to the service any more.
    #[error("{0}")]
    Lost(String),
}

/// A way to the service.
pub trait Link {
    /// Connects once more.
    fn connect(&mut self) -> Result<(), String>;

    /// Asks, and waits for the answer.
    fn ask(&mut self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<Value, Failure>;

    /// Why the connection is lost, if it is.
    fn lost(&mut self) -> Option<String>;

    /// What becomes readable when the connection is lost.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// Whether the process has ended that the connection led to, so that it writes no page any more.
    fn has_ended(&mut self) -> bool;
}

/// The service's socket.
///
/// ```no_run
/// use vmclock_qemu::service::{ServiceGuest, Socket};
/// let socket = Socket::connect("/run/vmclock/page.control")?;
/// let keeper = ServiceGuest::new(socket, "web-7".parse()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    client: Client,
    /// The service's process; none where that is not known.
    process: Option<OwnedFd>,
}

impl Socket {
    /// Connects to the service that listens at `path`.
    pub fn connect(path: impl Into<PathBuf>) -> Result<Self, ClientError> {
        let path = path.into();
        let client = Client::connect(&path)?;
        let process = process_behind(&client);
        Ok(Self { path, client, process })
    }
}

/// Whoever listens at the other end. Its process id may be another's only once it has ended, and then the connection is
/// lost soon.
fn process_behind(client: &Client) -> Option<OwnedFd> {
    let peer = socket_peercred(client.fd()).ok()?;
    pidfd_open(peer.pid, PidfdFlags::empty()).ok()
}

fn is_ready(fd: BorrowedFd<'_>) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0)
}

impl Link for Socket {
    fn connect(&mut self) -> Result<(), String> {
        let client = Client::connect(&self.path).map_err(|error| error.to_string())?;
        self.process = process_behind(&client);
        self.client = client;
        Ok(())
    }

    fn ask(&mut self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<Value, Failure> {
        self.client.ask(request.clone(), descriptors).map_err(|error| match error {
            ClientError::Refused(refusal) => Failure::Refused(refusal),
            error => Failure::Lost(error.to_string()),
        })
    }

    fn lost(&mut self) -> Option<String> {
        // Nothing comes that was not asked for, but the end.
        is_ready(self.client.fd()).then(|| format!("{}: it closed the connection", self.path.display()))
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.client.fd())
    }

    fn has_ended(&mut self) -> bool {
        self.process.as_ref().is_some_and(|process| is_ready(process.as_fd()))
    }
}
