// SPDX-License-Identifier: MIT OR Apache-2.0
//! The control socket: one JSON line in, one JSON line out.
//!
//! A request is `{"signal": "migrate"}`, a leap second `{"signal": "leap", "kind": "positive"}`. An answer is
//! `{"ok": true, ..}` with what the page says after the update, or `{"error": ".."}`. Nobody who connects can hold up
//! the publisher: connections do not block, may send little, and not for long.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, Context};
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde_json::{json, Value};
use vmclock_core::leap::LeapKind;
use vmclock_host::event::Signal;
use vmclock_host::page_file::{Lock, PageFileError};

use crate::exit;

/// The longest request, in bytes.
const LONGEST: usize = 1024;
/// How long a connection may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// How long to wait for a publisher's answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How many connections at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 16;
/// The length of that queue.
const BACKLOG: i32 = 128;

/// Where a page's publisher listens.
pub(crate) fn path_for(page: &Path, stated: Option<&Path>) -> PathBuf {
    stated.map_or_else(
        || {
            let mut path = OsString::from(page);
            path.push(".control");
            path.into()
        },
        Path::to_path_buf,
    )
}

/// Sends a signal to the publisher that listens at `path`, and returns its answer.
pub(crate) fn request(path: &Path, signal: impl Into<Signal>) -> anyhow::Result<Value> {
    let name = path.display();
    let mut stream = UnixStream::connect(path).map_err(|error| no_connection(path, &error))?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT)).context("cannot limit the wait")?;
    writeln!(stream, "{}", encode(signal.into())).with_context(|| format!("{name}: cannot send the signal"))?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).with_context(|| format!("{name}: no answer from the publisher"))?;
    let answer: Value =
        serde_json::from_str(&answer).with_context(|| format!("{name}: the answer {answer:?} is not JSON"))?;
    match answer.get("error").and_then(Value::as_str) {
        Some(error) => bail!("the publisher refused: {error}"),
        None => Ok(answer),
    }
}

/// Why no publisher can be asked, and what to do.
fn no_connection(path: &Path, error: &io::Error) -> anyhow::Error {
    let name = path.display();
    match error.kind() {
        ErrorKind::NotFound => {
            anyhow!(
                "{name}: no publisher listens here (no such socket); start one with `vmclock serve`, or name its page \
                 with --page or its socket with --control"
            )
        }
        ErrorKind::ConnectionRefused => {
            anyhow!("{name}: no publisher listens here any more; start it again with `vmclock serve`")
        }
        ErrorKind::PermissionDenied => {
            anyhow!("{name}: permission denied: only the user who runs the publisher, and root, may send it signals")
        }
        _ => anyhow!("{name}: cannot connect to the publisher: {error}"),
    }
}

fn encode(signal: Signal) -> Value {
    match signal {
        Signal::Leap(kind) => {
            let kind = match kind {
                Some(LeapKind::Inserted) => "positive",
                Some(LeapKind::Deleted) => "negative",
                None => "none",
            };
            json!({"signal": "leap", "kind": kind})
        }
        signal => json!({"signal": signal.to_string()}),
    }
}

fn decode(line: &str) -> anyhow::Result<Signal> {
    let request: Value = serde_json::from_str(line).with_context(|| format!("{line:?} is not JSON"))?;
    let word = |key: &str| request.get(key).and_then(Value::as_str).unwrap_or_default();
    Ok(match word("signal") {
        "migrate" => Signal::Migrate,
        "snapshot" => Signal::Snapshot,
        "clone" => Signal::Clone,
        "soon" => Signal::Soon,
        "imminent" => Signal::Imminent,
        "clear" => Signal::Clear,
        "leap" => Signal::Leap(match word("kind") {
            "positive" => Some(LeapKind::Inserted),
            "negative" => Some(LeapKind::Deleted),
            "none" => None,
            other => bail!("kind {other:?} is none of positive, negative, none"),
        }),
        other => bail!("signal {other:?} is none of migrate, snapshot, clone, soon, imminent, clear, leap"),
    })
}

/// The publisher's end. Made before the page is opened: a publisher that does not get its socket has written nothing.
pub(in crate::command) struct Control {
    path: PathBuf,
    /// Device and inode of the socket.
    identity: (u64, u64),
    listener: UnixListener,
    connections: Vec<Connection>,
    /// Held as long as the socket is there.
    _lock: Lock,
}

struct Connection {
    stream: UnixStream,
    received: Vec<u8>,
    since: Instant,
}

impl Control {
    /// Listens at `path`, for this process's user only. Of several publishers that try at once, one succeeds.
    pub(in crate::command) fn listen(path: &Path) -> anyhow::Result<Self> {
        let name = path.display();
        let in_use = || anyhow!("{name}: another publisher listens here; stop it, or name another path with --control");
        // A killed publisher leaves its socket, and only one of its successors may remove that: it would otherwise be
        // another's new socket by then.
        let lock = Lock::of(path).map_err(|error| match error {
            PageFileError::InUse { .. } => in_use(),
            PageFileError::Io { error, .. } if error.kind() == ErrorKind::NotFound => {
                anyhow!("{name}: cannot listen here, as the folder does not exist; create it, or name another path")
            }
            error => anyhow!(error).context("cannot lock the control socket's path; name another with --control"),
        })?;
        match std::fs::symlink_metadata(path) {
            Ok(metadata) if metadata.file_type().is_socket() => match UnixStream::connect(path) {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path).with_context(|| format!("{name}: cannot remove the old socket"))?;
                }
                // Of something that has no lock.
                Ok(_) => return Err(in_use()),
                Err(error) => {
                    bail!("{name}: is a socket that cannot be connected to ({error}); name another path with --control")
                }
            },
            Ok(_) => {
                bail!("{name}: is in the way of the control socket; remove it, or name another path with --control")
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("{name}: cannot find out what is there")),
        }
        let listener = bind(path).with_context(|| format!("{name}: cannot listen here"))?;
        let bound = std::fs::symlink_metadata(path).with_context(|| format!("{name}: cannot find the new socket"))?;
        let identity = (bound.dev(), bound.ino());
        Ok(Self { path: path.into(), identity, listener, connections: Vec::new(), _lock: lock })
    }

    /// What to wait for.
    pub(in crate::command) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let listener = (self.connections.len() < CONNECTIONS).then(|| self.listener.as_fd());
        listener.into_iter().chain(self.connections.iter().map(|connection| connection.stream.as_fd()))
    }

    /// Takes new connections, and answers each that has sent its line. An error of `handle` is the answer, too.
    pub(in crate::command) fn answer(
        &mut self,
        mut handle: impl FnMut(Signal) -> anyhow::Result<Value>,
    ) -> anyhow::Result<()> {
        while self.connections.len() < CONNECTIONS {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(true).context("cannot make a connection non-blocking")?;
                    self.connections.push(Connection { stream, received: Vec::new(), since: Instant::now() });
                }
                // There is none, or it has closed already.
                Err(_) => break,
            }
        }
        self.connections.retain_mut(|connection| match connection.line() {
            Line::Pending => connection.since.elapsed() < REQUEST_TIMEOUT,
            Line::Gone => false,
            Line::Complete(line) => {
                let answer = decode(&line).and_then(&mut handle);
                let answer = answer.unwrap_or_else(|error| json!({"error": exit::text(&error)}));
                // An answer is shorter than any socket buffer. A client that does not wait for it does not need it.
                let _ = writeln!(connection.stream, "{answer}");
                false
            }
        });
        Ok(())
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // Not another's, who may have removed ours.
        let there = std::fs::symlink_metadata(&self.path);
        if there.is_ok_and(|there| (there.dev(), there.ino()) == self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A listening socket that does not block.
fn bind(path: &Path) -> rustix::io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Linux makes the file with the socket's own mode, so that it is never there with another.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

enum Line {
    Pending,
    Complete(String),
    Gone,
}

impl Connection {
    fn line(&mut self) -> Line {
        let mut chunk = [0; LONGEST];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Line::Gone,
                Ok(len) => self.received.extend_from_slice(&chunk[..len]),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return Line::Gone,
            }
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                return Line::Complete(String::from_utf8_lossy(&self.received[..end]).into_owned());
            }
            return if self.received.len() > LONGEST { Line::Gone } else { Line::Pending };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_is_decoded_as_it_was_encoded() {
        let leaps = [Some(LeapKind::Inserted), Some(LeapKind::Deleted), None].map(Signal::Leap);
        let signals = [Signal::Migrate, Signal::Snapshot, Signal::Clone, Signal::Soon, Signal::Imminent, Signal::Clear];
        for signal in signals.into_iter().chain(leaps) {
            assert_eq!(decode(&encode(signal).to_string()).expect("decodes"), signal);
        }
        assert_eq!(encode(Signal::Soon), json!({"signal": "soon"}));
        assert_eq!(encode(Signal::Leap(Some(LeapKind::Inserted))), json!({"signal": "leap", "kind": "positive"}));
    }

    /// What a killed publisher leaves.
    fn leave_socket(path: &Path) {
        drop(UnixListener::bind(path).expect("bound"));
    }

    #[test]
    fn of_publishers_that_start_at_once_one_has_the_socket() {
        const PUBLISHERS: usize = 4;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("control");
        for _ in 0..200 {
            leave_socket(&path);
            let start = std::sync::Barrier::new(PUBLISHERS);
            let results: Vec<_> = std::thread::scope(|scope| {
                let publisher = || {
                    start.wait();
                    Control::listen(&path)
                };
                let all: Vec<_> = (0..PUBLISHERS).map(|_| scope.spawn(publisher)).collect();
                all.into_iter().map(|publisher| publisher.join().expect("no panic")).collect()
            });
            assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
            for error in results.iter().filter_map(|result| result.as_ref().err()) {
                assert!(error.to_string().contains("another publisher listens here"), "{error:#}");
            }
            UnixStream::connect(&path).expect("the one that has it listens");
            drop(results);
            assert!(!path.exists(), "removed by the one that had it");
        }
        assert_eq!(std::fs::read_dir(folder.path()).expect("there").count(), 0, "nothing is left");
    }

    #[test]
    fn what_is_not_ours_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("control");
        let error = |path: &Path| format!("{:#}", Control::listen(path).err().expect("refused"));
        // Of a program that has no lock.
        let other = UnixListener::bind(&path).expect("bound");
        assert!(error(&path).contains("another publisher listens here"));
        drop(other);
        let file = folder.path().join("file");
        std::fs::write(&file, "precious").expect("written");
        assert!(error(&file).contains("in the way"));
        assert_eq!(std::fs::read_to_string(&file).expect("there"), "precious");
        let error_without_folder = error(&folder.path().join("no/control"));
        assert!(error_without_folder.contains("no/control") && error_without_folder.contains("create it"));
        // The socket of a successor, after ours was removed.
        let control = Control::listen(&path).expect("the left socket is taken over");
        std::fs::remove_file(&path).expect("removed");
        let successor = UnixListener::bind(&path).expect("bound");
        drop(control);
        assert!(path.exists());
        drop(successor);
    }

    #[test]
    fn the_socket_is_its_owners() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("control");
        let _control = Control::listen(&path).expect("listens");
        assert_eq!(std::fs::metadata(&path).expect("there").mode() & 0o777, 0o600);
    }

    #[test]
    fn why_there_is_no_connection_is_true() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("control");
        let error = || format!("{:#}", request(&path, Signal::Soon).expect_err("nobody listens"));
        assert!(error().contains("no such socket") && error().contains("vmclock serve"), "{}", error());
        leave_socket(&path);
        assert!(error().contains("any more") && error().contains("vmclock serve"), "{}", error());
        let denied = no_connection(&path, &io::Error::from(ErrorKind::PermissionDenied)).to_string();
        assert!(denied.contains("permission denied") && !denied.contains("no publisher"), "{denied}");
        let long = folder.path().join("x".repeat(200));
        let error = format!("{:#}", request(&long, Signal::Soon).expect_err("too long"));
        assert!(!error.contains("no publisher"), "{error}");
    }

    #[test]
    fn nonsense_is_answered_and_a_flood_is_dropped() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("control");
        let mut control = Control::listen(&path).expect("listens");
        assert!(Control::listen(&path).is_err(), "one at a time");
        let mut answers = 0;
        for request in ["{}\n", "migrate\n", "{\"signal\":\"leap\",\"kind\":\"x\"}\n"] {
            let mut client = UnixStream::connect(&path).expect("connects");
            client.write_all(request.as_bytes()).expect("sends");
            control.answer(|_| Ok(json!({"ok": true}))).expect("answers");
            let mut answer = String::new();
            client.read_to_string(&mut answer).expect("an answer, then the end");
            assert!(answer.starts_with("{\"error\":"), "{answer}");
            answers += 1;
        }
        assert_eq!(answers, 3);
        let mut flood = UnixStream::connect(&path).expect("connects");
        flood.write_all(&[b'x'; LONGEST + 1]).expect("sends");
        control.answer(|_| Ok(json!({}))).expect("drops");
        control.answer(|_| Ok(json!({}))).expect("drops");
        assert!(control.connections.is_empty(), "too long a request ends the connection");
        drop(control);
        assert!(!path.exists());
    }
}
