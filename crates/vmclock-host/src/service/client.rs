// SPDX-License-Identifier: MIT OR Apache-2.0
//! A client of the service.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, ErrorKind, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{sendmsg, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::event::Signal;

use super::protocol::{
    Call, Done, GuestList, GuestName, Inspection, Kind, PageState, Refusal, Relation, Request, SourceList, Step,
    Tracking, Version,
};
use super::signals;

/// How long an answer may take, unless another time is [set](Client::set_timeout).
const TIMEOUT: Duration = Duration::from_secs(10);
/// How many file descriptors go with a request.
const MOST_DESCRIPTORS: usize = 4;

/// Why a service was not asked, or did not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// There is no socket.
    #[error(
        "{}: no publisher listens here (no such socket); start one with `vmclock serve`, or name its page with --page \
         or its socket with --control",
        path.display()
    )]
    NoSocket {
        /// The socket's path.
        path: PathBuf,
    },
    /// Nobody listens at the socket any more.
    #[error("{}: no publisher listens here any more; start it again with `vmclock serve`", path.display())]
    Gone {
        /// The socket's path.
        path: PathBuf,
    },
    /// Not for this user.
    #[error(
        "{}: permission denied: only the user who runs the publisher, and root, and the group that it names, may ask it",
        path.display()
    )]
    Denied {
        /// The socket's path.
        path: PathBuf,
    },
    /// It did not answer.
    #[error("{}: no answer from the publisher: {error}", path.display())]
    NoAnswer {
        /// The socket's path.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// The system refused.
    #[error("{}: cannot connect to the publisher: {error}", path.display())]
    Io {
        /// The socket's path.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// The answer makes no sense.
    #[error("{}: the answer {answer:?} makes no sense: {why}", path.display())]
    Nonsense {
        /// The socket's path.
        path: PathBuf,
        /// What was answered.
        answer: String,
        /// What is wrong with it.
        why: String,
    },
    /// It refused.
    #[error("the publisher refused: {0}")]
    Refused(#[from] Refusal),
}

/// A connection to a service.
///
/// ```no_run
/// use vmclock_host::service::client::Client;
/// let mut client = Client::connect("/run/vmclock/page.control")?;
/// for guest in client.guests()?.guests {
///     println!("{}: {}", guest.guest, guest.state.clock_status);
/// }
/// # Ok::<(), vmclock_host::service::client::ClientError>(())
/// ```
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
    last_id: u64,
    /// Events that came before an answer.
    events: VecDeque<Value>,
}

impl Client {
    /// Connects to the service whose socket this is.
    pub fn connect(path: impl AsRef<Path>) -> Result<Self, ClientError> {
        let path = path.as_ref().to_path_buf();
        let stream = match UnixStream::connect(&path) {
            Ok(stream) => stream,
            Err(error) => {
                return Err(match error.kind() {
                    ErrorKind::NotFound => ClientError::NoSocket { path },
                    ErrorKind::ConnectionRefused => ClientError::Gone { path },
                    ErrorKind::PermissionDenied => ClientError::Denied { path },
                    _ => ClientError::Io { path, error },
                })
            }
        };
        let mut client = Self { path, stream: BufReader::new(stream), last_id: 0, events: VecDeque::new() };
        client.set_timeout(Some(TIMEOUT))?;
        Ok(client)
    }

    /// How long an answer, or the next event, may take from now on; `None`: for ever.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) -> Result<(), ClientError> {
        self.stream.get_ref().set_read_timeout(timeout).map_err(|error| self.io_error(error))
    }

    /// What becomes readable when there is an event.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.stream.get_ref().as_fd()
    }

    /// Which version of the protocol the service speaks.
    pub fn version(&mut self) -> Result<Version, ClientError> {
        self.ask(Request::Version {}, &[])
    }

    /// All guests.
    pub fn guests(&mut self) -> Result<GuestList, ClientError> {
        self.ask(Request::Guests {}, &[])
    }

    /// All sources.
    pub fn sources(&mut self) -> Result<SourceList, ClientError> {
        self.ask(Request::Sources {}, &[])
    }

    /// The clock.
    pub fn tracking(&mut self) -> Result<Tracking, ClientError> {
        self.ask(Request::Tracking {}, &[])
    }

    /// A guest is gone.
    pub fn remove_guest(&mut self, guest: &GuestName) -> Result<(), ClientError> {
        self.ask::<Done>(Request::RemoveGuest { guest: guest.clone() }, &[]).map(|_| ())
    }

    /// Something happened to a guest. Its page says so when this returns.
    pub fn lifecycle(
        &mut self,
        guest: &GuestName,
        step: Step,
        counter: Option<Relation>,
    ) -> Result<PageState, ClientError> {
        let guest = guest.clone();
        self.ask(Request::Lifecycle { guest, step, counter, seen: None, generation: None }, &[])
    }

    /// A guest's counter is known from now on, or is not any more.
    pub fn set_counter(&mut self, guest: &GuestName, counter: Relation) -> Result<PageState, ClientError> {
        self.ask(Request::SetCounter { guest: guest.clone(), counter }, &[])
    }

    /// What is in the memory of a guest's page beside what was published.
    pub fn inspect(&mut self, guest: &GuestName) -> Result<Inspection, ClientError> {
        self.ask(Request::Inspect { guest: guest.clone() }, &[])
    }

    /// From now on each event comes: see [`next_event`](Self::next_event).
    pub fn subscribe(&mut self) -> Result<(), ClientError> {
        self.ask::<Done>(Request::Subscribe {}, &[]).map(|_| ())
    }

    /// The next event: an object whose `event` is its name.
    pub fn next_event(&mut self) -> Result<Value, ClientError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            let (line, value) = self.receive()?;
            if value.get("event").is_none() {
                return Err(self.nonsense(line, "it is no event, and nothing was asked"));
            }
            self.events.push_back(value);
        }
    }

    /// Asks, with file descriptors where the request takes some.
    pub fn ask<T: DeserializeOwned>(
        &mut self,
        request: Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<T, ClientError> {
        self.last_id += 1;
        let id = Value::from(self.last_id);
        self.send(&Call { id: Some(id.clone()), request }.line(), descriptors)?;
        loop {
            let (line, value) = self.receive()?;
            if value.get("event").is_some() {
                self.events.push_back(value);
                continue;
            }
            // An answer that came too late for an earlier request.
            if value.get("id").is_some_and(|other| *other != id) {
                continue;
            }
            if let Some(error) = value.get("error") {
                return match serde_json::from_value(error.clone()) {
                    Ok(refusal) => Err(ClientError::Refused(refusal)),
                    Err(why) => Err(self.nonsense(line, &why.to_string())),
                };
            }
            return serde_json::from_value(value).map_err(|why| self.nonsense(line, &why.to_string()));
        }
    }

    /// Notifies the publisher of what happened to the machine that its own page is for, in the first form of requests.
    /// Gives what the page says then. The connection ends.
    pub fn signal(mut self, signal: Signal) -> Result<Value, ClientError> {
        self.send(&format!("{}\n", signals::encode(signal)), &[])?;
        let (_, value) = self.receive()?;
        match value.get("error").and_then(Value::as_str) {
            Some(error) => Err(ClientError::Refused(Refusal::new(Kind::Failed, error))),
            None => Ok(value),
        }
    }

    fn send(&mut self, line: &str, descriptors: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        let mut bytes = line.as_bytes();
        if !descriptors.is_empty() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
                return Err(self.io_error(io::Error::new(ErrorKind::InvalidInput, "too many file descriptors")));
            }
            let sent = sendmsg(self.fd(), &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL);
            bytes = &bytes[sent.map_err(|errno| self.io_error(errno.into()))?..];
        }
        let written = self.stream.get_mut().write_all(bytes);
        written.map_err(|error| ClientError::NoAnswer { path: self.path.clone(), error })
    }

    fn receive(&mut self) -> Result<(String, Value), ClientError> {
        let mut line = String::new();
        let no_answer = |error| ClientError::NoAnswer { path: self.path.clone(), error };
        match self.stream.read_line(&mut line) {
            Ok(0) => Err(no_answer(io::Error::new(ErrorKind::UnexpectedEof, "it closed the connection"))),
            Ok(_) => match serde_json::from_str(&line) {
                Ok(value) => Ok((line, value)),
                Err(why) => Err(self.nonsense(line, &why.to_string())),
            },
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                Err(no_answer(io::Error::new(ErrorKind::TimedOut, "it takes too long")))
            }
            Err(error) => Err(no_answer(error)),
        }
    }

    fn nonsense(&self, answer: String, why: &str) -> ClientError {
        ClientError::Nonsense { path: self.path.clone(), answer, why: why.to_owned() }
    }

    fn io_error(&self, error: io::Error) -> ClientError {
        ClientError::Io { path: self.path.clone(), error }
    }
}
