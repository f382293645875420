// SPDX-License-Identifier: MIT OR Apache-2.0
//! The control socket: one JSON line in, one JSON line out.
//!
//! A request is `{"signal": "migrate"}`, a leap second `{"signal": "leap", "kind": "positive"}`. An answer is
//! `{"ok": true, ..}` with what the page says after the update, or `{"error": ".."}`. Nobody who connects can hold up
//! the publisher: connections do not block, may send little, and not for long.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{bail, Context};
use serde_json::{json, Value};

use crate::cli::{LeapKind, Signal};

/// The longest request, in bytes.
const LONGEST: usize = 1024;
/// How long a connection may take to send its request.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many connections at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 16;

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
pub(crate) fn request(path: &Path, signal: Signal) -> anyhow::Result<Value> {
    let name = path.display();
    let mut stream = UnixStream::connect(path)
        .with_context(|| format!("{name}: no publisher listens here; start one with `vmclock serve`"))?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).context("cannot limit the wait")?;
    writeln!(stream, "{}", encode(signal)).with_context(|| format!("{name}: cannot send the signal"))?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).with_context(|| format!("{name}: no answer from the publisher"))?;
    let answer: Value =
        serde_json::from_str(&answer).with_context(|| format!("{name}: the answer {answer:?} is not JSON"))?;
    match answer.get("error").and_then(Value::as_str) {
        Some(error) => bail!("the publisher refused: {error}"),
        None => Ok(answer),
    }
}

fn encode(signal: Signal) -> Value {
    match signal {
        Signal::Migrate => json!({"signal": "migrate"}),
        Signal::Snapshot => json!({"signal": "snapshot"}),
        Signal::Clone => json!({"signal": "clone"}),
        Signal::Soon => json!({"signal": "soon"}),
        Signal::Imminent => json!({"signal": "imminent"}),
        Signal::Clear => json!({"signal": "clear"}),
        Signal::Leap { kind } => {
            let kind = match kind {
                LeapKind::Positive => "positive",
                LeapKind::Negative => "negative",
                LeapKind::None => "none",
            };
            json!({"signal": "leap", "kind": kind})
        }
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
        "leap" => Signal::Leap {
            kind: match word("kind") {
                "positive" => LeapKind::Positive,
                "negative" => LeapKind::Negative,
                "none" => LeapKind::None,
                other => bail!("kind {other:?} is none of positive, negative, none"),
            },
        },
        other => bail!("signal {other:?} is none of migrate, snapshot, clone, soon, imminent, clear, leap"),
    })
}

/// The publisher's end.
pub(in crate::command) struct Control {
    path: PathBuf,
    listener: UnixListener,
    connections: Vec<Connection>,
}

struct Connection {
    stream: UnixStream,
    received: Vec<u8>,
    since: Instant,
}

impl Control {
    pub(in crate::command) fn listen(path: &Path) -> anyhow::Result<Self> {
        let name = path.display();
        match std::fs::symlink_metadata(path) {
            // The page's lock says that no publisher of this page is alive, so this one is left over. Another page's
            // publisher would answer.
            Ok(metadata) if metadata.file_type().is_socket() => {
                if UnixStream::connect(path).is_ok() {
                    bail!("{name}: another publisher listens here; name another path with --control");
                }
                std::fs::remove_file(path).with_context(|| format!("{name}: cannot remove the old socket"))?;
            }
            Ok(_) => {
                bail!("{name}: is in the way of the control socket; remove it, or name another path with --control")
            }
            Err(_) => {}
        }
        let listener = UnixListener::bind(path).with_context(|| format!("{name}: cannot listen here"))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
            .with_context(|| format!("{name}: cannot restrict it to its owner"))?;
        listener.set_nonblocking(true).context("cannot make the socket non-blocking")?;
        Ok(Self { path: path.into(), listener, connections: Vec::new() })
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
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // It was gone before we got to it.
                Err(_) => break,
            }
        }
        self.connections.retain_mut(|connection| match connection.line() {
            Line::Pending => connection.since.elapsed() < PATIENCE,
            Line::Gone => false,
            Line::Complete(line) => {
                let answer = decode(&line).and_then(&mut handle);
                let answer = answer.unwrap_or_else(|error| json!({"error": format!("{error:#}")}));
                // An answer is shorter than any socket buffer; if it is not wanted any more, so be it.
                let _ = writeln!(connection.stream, "{answer}");
                false
            }
        });
        Ok(())
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // Nobody listens here any more; if it is gone already, all the better.
        let _ = std::fs::remove_file(&self.path);
    }
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
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
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
    fn every_signal_survives_the_wire() {
        let leaps = [LeapKind::Positive, LeapKind::Negative, LeapKind::None].map(|kind| Signal::Leap { kind });
        let signals = [Signal::Migrate, Signal::Snapshot, Signal::Clone, Signal::Soon, Signal::Imminent, Signal::Clear];
        for signal in signals.into_iter().chain(leaps) {
            assert_eq!(decode(&encode(signal).to_string()).expect("decodes"), signal);
        }
    }

    #[test]
    fn nonsense_is_answered_and_silence_is_dropped() {
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
