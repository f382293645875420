// SPDX-License-Identifier: MIT OR Apache-2.0
//! The service's socket: reads lines, and writes the answers. It decides nothing, and waits for nobody.
//!
//! A client that sends too much, or does not read what it asked for, holds up itself only: what is read and what is to
//! be written is bounded, a connection has one request at a time, and a subscriber that lags behind is cut off with a
//! line that says so.

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::fs::{chmod, chown, fchmod, Gid, Mode};
use rustix::io::Errno;
use rustix::net::{
    bind, listen, recvmsg, socket_with, sockopt, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags,
    SocketAddrUnix, SocketFlags, SocketType,
};

use crate::page_file::{Lock, PageFileError};

use super::protocol::LONGEST_LINE;
use super::Peer;

/// How many connections at once: more than a host has guests.
const MOST_CONNECTIONS: usize = 20_000;
/// How many of them a user may have who is neither root nor the service's own.
const MOST_OF_A_USER: usize = 256;
/// How much such a user may leave unread in all connections together, in bytes, and still be answered; and how much root
/// and the service's own user may.
const MOST_UNREAD: [usize; 2] = [16 << 20, 256 << 20];
/// The length of the kernel's queue of new ones.
const BACKLOG: i32 = 1_024;
/// How much a subscriber may lag behind, in bytes.
const LONGEST_LAG: usize = 256 * 1024;
/// How many file descriptors a request may bring.
const MOST_DESCRIPTORS: usize = 4;
/// How much is read at once.
const CHUNK: usize = 4096;
/// How many connections are served at once, and how often in one call.
const BATCH: usize = 256;
const TURNS: usize = 8;

/// Why the service cannot listen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// Another publisher has the socket.
    #[error("{}: another publisher listens here; stop it, or name another path with --control", path.display())]
    InUse {
        /// The socket's path.
        path: PathBuf,
    },
    /// There is no folder for it.
    #[error("{}: cannot listen here, as the folder does not exist; create it, or name another path", path.display())]
    NoFolder {
        /// The socket's path.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("{}: is in the way of the control socket; remove it, or name another path with --control", path.display())]
    InTheWay {
        /// The socket's path.
        path: PathBuf,
    },
    /// Its lock cannot be taken.
    #[error("{}: cannot lock the control socket's path; name another with --control: {error}", path.display())]
    Lock {
        /// The socket's path.
        path: PathBuf,
        /// Why.
        error: PageFileError,
    },
    /// The system refused.
    #[error("{}: cannot {doing}: {error}", path.display())]
    Io {
        /// The socket's path.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// The system's error.
        error: io::Error,
    },
}

/// What is answered to a line.
///
/// ```
/// use vmclock_host::service::server::Reply;
/// let reply = Reply::line("{\"ok\":true}\n");
/// assert!(!reply.subscribes && !reply.closes);
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Reply {
    /// The answer, with its end of line.
    pub line: String,
    /// From now on the client gets what is [published](Server::publish).
    pub subscribes: bool,
    /// The connection ends behind the answer.
    pub closes: bool,
}

impl Reply {
    /// An answer, after which the client may ask for more.
    pub fn line(line: impl Into<String>) -> Self {
        Self { line: line.into(), ..Self::default() }
    }
}

/// The socket, and its connections.
///
/// ```
/// use std::io::{BufRead, BufReader, Write};
/// use std::os::unix::net::UnixStream;
/// use vmclock_host::service::server::{Reply, Server};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("control");
/// let mut server = Server::listen(&path, None)?;
/// let mut client = UnixStream::connect(&path)?;
/// client.write_all(b"{}\n")?;
/// server.serve(1, |_peer, line, _descriptors| Reply::line(format!("{line}\n")));
/// let mut answer = String::new();
/// BufReader::new(client).read_line(&mut answer)?;
/// assert_eq!(answer, "{}\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    /// Device and inode of the socket.
    identity: (u64, u64),
    listener: UnixListener,
    epoll: OwnedFd,
    connections: HashMap<u64, Connection>,
    /// The number of the next connection; 0 is the listener's.
    next: u64,
    /// Connections with a request that was not answered yet.
    asking: VecDeque<u64>,
    /// As [`MOST_UNREAD`].
    most_unread: [usize; 2],
    /// New connections are taken: not while there are no file descriptors for them.
    accepts: bool,
    /// Held as long as the socket is there.
    _lock: Lock,
}

impl Server {
    /// Listens at `path`, for this process's user, and for a group. Of several that try at once, one succeeds.
    pub fn listen(path: &Path, group: Option<u32>) -> Result<Self, ServerError> {
        let in_use = || ServerError::InUse { path: path.into() };
        // A killed service leaves its socket, and only one of its successors may remove that: it would otherwise be
        // another's new socket by then.
        let lock = Lock::of(path).map_err(|error| match error {
            PageFileError::InUse { .. } => in_use(),
            PageFileError::Io { error, .. } if error.kind() == ErrorKind::NotFound => {
                ServerError::NoFolder { path: path.into() }
            }
            error => ServerError::Lock { path: path.into(), error },
        })?;
        remove_stale(path)?;
        let failed = |doing| move |errno: Errno| io_error(path, doing)(errno.into());
        let listener = listener(path, group).map_err(failed("listen here"))?;
        let bound = std::fs::symlink_metadata(path).map_err(io_error(path, "find the new socket"))?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed("wait for its clients"))?;
        epoll::add(&epoll, &listener, epoll::EventData::new_u64(0), epoll::EventFlags::IN)
            .map_err(failed("wait for its clients"))?;
        Ok(Self {
            path: path.into(),
            identity: (bound.dev(), bound.ino()),
            listener,
            epoll,
            connections: HashMap::new(),
            next: 1,
            asking: VecDeque::new(),
            most_unread: MOST_UNREAD,
            accepts: true,
            _lock: lock,
        })
    }

    /// From now on the socket is for its owner, and for this group. Those who are connected stay.
    pub fn set_group(&mut self, group: Option<u32>) -> Result<(), ServerError> {
        let failed = |errno: Errno| io_error(&self.path, "give the socket to its group")(errno.into());
        permit(&self.path, group).map_err(failed)
    }

    /// Becomes readable when there is something to [`serve`](Self::serve).
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Takes new connections, reads and writes what can be, and answers at most so many requests. Says whether there
    /// are more.
    pub fn serve(&mut self, most: usize, mut handle: impl FnMut(Peer, &str, Vec<OwnedFd>) -> Reply) -> bool {
        self.read_and_write();
        for _ in 0..most {
            let Some(number) = self.asking.pop_front() else { break };
            let Some(connection) = self.connections.get_mut(&number) else { continue };
            connection.is_asking = false;
            let Some((line, descriptors)) = connection.take_request() else { continue };
            let peer = connection.peer;
            if self.unread_by(peer) > self.most_unread[usize::from(is_own(peer))] {
                self.remove(number);
                continue;
            }
            let Some(connection) = self.connections.get_mut(&number) else { continue };
            let reply = handle(peer, &line, descriptors);
            connection.output.extend(reply.line.as_bytes());
            connection.is_subscriber |= reply.subscribes;
            connection.closes |= reply.closes;
            self.continue_with(number);
        }
        !self.asking.is_empty()
    }

    /// Sends a line, with its end, to all subscribers.
    pub fn publish(&mut self, line: &str) {
        let subscribers = self.connections.iter().filter(|(_, connection)| connection.is_subscriber);
        let numbers: Vec<u64> = subscribers.map(|(number, _)| *number).collect();
        for number in numbers {
            let Some(connection) = self.connections.get_mut(&number) else { continue };
            if connection.output.len() > LONGEST_LAG {
                connection.output.extend(b"{\"event\":\"lagging\",\"text\":\"too slow: events were lost\"}\n");
                (connection.is_subscriber, connection.closes) = (false, true);
            } else {
                connection.output.extend(line.as_bytes());
            }
            self.continue_with(number);
        }
    }

    /// How much of its answers a user has not read, in bytes.
    fn unread_by(&self, peer: Peer) -> usize {
        self.connections.values().filter(|other| other.peer == peer).map(|other| other.output.len()).sum()
    }

    /// How many clients there are.
    pub fn clients(&self) -> usize {
        self.connections.len()
    }

    /// Reads and writes what can be, but not for ever: there may always be more.
    fn read_and_write(&mut self) {
        for _ in 0..TURNS {
            if !self.take_turn() {
                break;
            }
        }
    }

    /// Serves those connections that are ready. Says whether there were any.
    fn take_turn(&mut self) -> bool {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(BATCH);
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        // What cannot be waited for now is waited for again at once.
        if epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&now)).is_err() {
            return false;
        }
        let were_any = !events.is_empty();
        for event in events {
            let (number, flags) = (event.data.u64(), event.flags);
            if number == 0 {
                self.accept();
                continue;
            }
            let Some(connection) = self.connections.get_mut(&number) else { continue };
            let is_gone = flags.intersects(epoll::EventFlags::ERR)
                || (flags.contains(epoll::EventFlags::IN) && !connection.read());
            // A client that has closed its end may still wait for an answer to what it sent before.
            if is_gone || (flags.contains(epoll::EventFlags::HUP) && !connection.has_request()) {
                self.remove(number);
                continue;
            }
            self.continue_with(number);
        }
        were_any
    }

    fn remove(&mut self, number: u64) {
        self.connections.remove(&number);
        if !std::mem::replace(&mut self.accepts, true) {
            self.listen_for(epoll::EventFlags::IN);
        }
    }

    fn listen_for(&self, interest: epoll::EventFlags) {
        // Both are open, and the one is in the other.
        let _ = epoll::modify(&self.epoll, &self.listener, epoll::EventData::new_u64(0), interest);
    }

    fn accept(&mut self) {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if is_out_of_descriptors(&error) => {
                    self.accepts = false;
                    self.listen_for(epoll::EventFlags::empty());
                    return;
                }
                // There is none, or it has closed already.
                Err(_) => return,
            };
            let Ok(peer) = sockopt::socket_peercred(&stream) else { continue };
            let peer = Peer { user: peer.uid.as_raw() };
            let of_user = || self.connections.values().filter(|other| other.peer == peer).count();
            if self.connections.len() >= MOST_CONNECTIONS || (!is_own(peer) && of_user() >= MOST_OF_A_USER) {
                // Closed at once: it may try again.
                continue;
            }
            let number = self.next;
            let data = epoll::EventData::new_u64(number);
            let is_ready = stream.set_nonblocking(true).is_ok()
                && epoll::add(&self.epoll, &stream, data, epoll::EventFlags::IN).is_ok();
            if is_ready {
                self.next += 1;
                self.connections.insert(number, Connection::new(stream, peer));
            }
        }
    }

    /// Writes what can be written, and waits for what comes next: room to write, or another request.
    fn continue_with(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let is_written = connection.write();
        let is_done = connection.closes && connection.output.is_empty();
        if !is_written || is_done || connection.is_flooding() {
            self.remove(number);
            return;
        }
        let is_asking = connection.output.is_empty() && connection.has_request();
        let interest = if !connection.output.is_empty() {
            epoll::EventFlags::OUT
        } else if is_asking {
            epoll::EventFlags::empty()
        } else {
            epoll::EventFlags::IN
        };
        if is_asking && !std::mem::replace(&mut connection.is_asking, true) {
            self.asking.push_back(number);
        }
        if std::mem::replace(&mut connection.interest, interest) != interest {
            let data = epoll::EventData::new_u64(number);
            if epoll::modify(&self.epoll, &connection.stream, data, interest).is_err() {
                self.remove(number);
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Not another's, who may have removed ours.
        let there = std::fs::symlink_metadata(&self.path);
        if there.is_ok_and(|there| (there.dev(), there.ino()) == self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Removes a socket at which nobody listens any more.
fn remove_stale(path: &Path) -> Result<(), ServerError> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => match UnixStream::connect(path) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(io_error(path, "remove the old socket"))
            }
            // Of something that has no lock.
            Ok(_) => Err(ServerError::InUse { path: path.into() }),
            Err(error) => {
                Err(io_error(path, "connect to the socket that is there; name another path with --control")(error))
            }
        },
        Ok(_) => Err(ServerError::InTheWay { path: path.into() }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_error(path, "find out what is there")(error)),
    }
}

/// A listening socket that does not block.
fn listener(path: &Path, group: Option<u32>) -> rustix::io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Linux makes the file with the socket's own mode, so that it is never there for more than its owner.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    if group.is_some() {
        permit(path, group)?;
    }
    listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// Lets the owner connect, and a group.
fn permit(path: &Path, group: Option<u32>) -> rustix::io::Result<()> {
    let owner = Mode::RUSR | Mode::WUSR;
    // No other group in between.
    chmod(path, owner)?;
    let Some(group) = group else { return Ok(()) };
    chown(path, None, Some(Gid::from_raw(group)))?;
    chmod(path, owner | Mode::RGRP | Mode::WGRP)
}

/// Whether it is root, or the service's own user.
fn is_own(peer: Peer) -> bool {
    peer.user == 0 || peer.user == rustix::process::geteuid().as_raw()
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    [Errno::MFILE, Errno::NFILE].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn io_error(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> ServerError {
    let path = path.to_path_buf();
    move |error| ServerError::Io { path, doing, error }
}

/// A client.
#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    peer: Peer,
    input: Vec<u8>,
    /// Each with the last byte that came with it.
    descriptors: Vec<(usize, OwnedFd)>,
    output: VecDeque<u8>,
    interest: epoll::EventFlags,
    /// It is among those whose request is to be answered.
    is_asking: bool,
    is_subscriber: bool,
    /// When all is written.
    closes: bool,
}

impl Connection {
    fn new(stream: UnixStream, peer: Peer) -> Self {
        Self {
            stream,
            peer,
            input: Vec::new(),
            descriptors: Vec::new(),
            output: VecDeque::new(),
            interest: epoll::EventFlags::IN,
            is_asking: false,
            is_subscriber: false,
            closes: false,
        }
    }

    fn end_of_line(&self) -> Option<usize> {
        self.input.iter().position(|byte| *byte == b'\n')
    }

    fn has_request(&self) -> bool {
        self.end_of_line().is_some()
    }

    /// A line that is longer than any request, or more file descriptors than any takes.
    fn is_flooding(&self) -> bool {
        (self.input.len() > LONGEST_LINE && !self.has_request()) || self.descriptors.len() > MOST_DESCRIPTORS
    }

    /// The next line, and the file descriptors that came with it, and not with one behind it.
    fn take_request(&mut self) -> Option<(String, Vec<OwnedFd>)> {
        let end = self.end_of_line()?;
        let line = String::from_utf8_lossy(&self.input[..end]).into_owned();
        self.input.drain(..=end);
        let later = self.descriptors.iter().position(|(with, _)| *with > end).unwrap_or(self.descriptors.len());
        let descriptors = self.descriptors.drain(..later).map(|(_, descriptor)| descriptor).collect();
        self.descriptors.iter_mut().for_each(|(with, _)| *with -= end + 1);
        Some((line, descriptors))
    }

    /// Reads until there is a request, or nothing more. Says whether the client is there.
    fn read(&mut self) -> bool {
        while !self.has_request() && !self.is_flooding() {
            let mut chunk = [0; CHUNK];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS + 1))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let received =
                recvmsg(&self.stream, &mut [IoSliceMut::new(&mut chunk)], &mut ancillary, RecvFlags::CMSG_CLOEXEC);
            let bytes = match received {
                Ok(message) => message.bytes,
                Err(Errno::INTR) => continue,
                Err(errno) => return errno == Errno::AGAIN,
            };
            if bytes == 0 {
                return false;
            }
            self.input.extend_from_slice(&chunk[..bytes]);
            // Linux gives what was sent before them at the same time, and nothing that was sent after them.
            let with = self.input.len() - 1;
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    self.descriptors.extend(descriptors.map(|descriptor| (with, descriptor)));
                }
            }
        }
        true
    }

    /// Writes what can be written. Says whether the client is there.
    fn write(&mut self) -> bool {
        while !self.output.is_empty() {
            let (first, _) = self.output.as_slices();
            match self.stream.write(first) {
                Ok(0) => return false,
                Ok(written) => drop(self.output.drain(..written)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;
