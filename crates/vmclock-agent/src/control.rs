// SPDX-License-Identifier: MIT OR Apache-2.0
//! The agent's socket: one JSON line in, one JSON line out.
//!
//! `{"request": "status"}` is answered to everybody who may connect; `quiesce` and `thaw` to root and to the user that
//! the agent runs as. Nobody who connects can hold up the agent: connections do not block, and may send little.

use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;
use rustix::process::getuid;
use serde::{Deserialize, Serialize};
use serde_json::{json, Value};

/// The longest request, in bytes.
const LONGEST: usize = 1024;
/// How many connections at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 16;

/// What can be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// How the agent is.
    Status,
    /// Hold the workload: a snapshot is about to be taken.
    Quiesce,
    /// Let the workload go on.
    Thaw,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    request: Request,
}

/// Asks the agent that listens at `path`, and returns its answer.
pub fn ask(path: &Path, request: Request, timeout: Duration) -> Result<Value, String> {
    let name = path.display();
    let failed = |what: &str, error: io::Error| format!("{name}: {what}: {error}");
    let mut stream = UnixStream::connect(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            format!(
                "{name}: no agent listens here: start one with `vmclock-agent run`, or name its socket with --socket"
            )
        }
        _ => failed("cannot connect to the agent", error),
    })?;
    stream.set_read_timeout(Some(timeout)).map_err(|error| failed("cannot limit the wait", error))?;
    let line = serde_json::to_string(&Line { request }).map_err(|error| error.to_string())?;
    writeln!(stream, "{line}").map_err(|error| failed("cannot send the request", error))?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).map_err(|error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => format!("{name}: no answer within {timeout:?}"),
        _ => failed("no answer", error),
    })?;
    let answer: Value =
        serde_json::from_str(&answer).map_err(|error| format!("{name}: the answer {answer:?} is not JSON: {error}"))?;
    match answer["error"].as_str() {
        Some(error) => Err(error.to_owned()),
        None => Ok(answer),
    }
}

/// The agent's end.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    listener: UnixListener,
    connections: Vec<Connection>,
    last: u64,
}

#[derive(Debug)]
struct Connection {
    number: u64,
    stream: UnixStream,
    bytes: Vec<u8>,
    /// It has asked, and waits.
    asked: bool,
    may_command: bool,
}

impl Control {
    /// Listens at `path`. A socket that a dead agent left is replaced; where one listens, that is an error.
    pub fn open(path: &Path) -> Result<Self, String> {
        let failed = |error: io::Error| format!("control.socket {}: {error}", path.display());
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        if UnixStream::connect(path).is_ok() {
            return Err(format!("control.socket {}: another agent listens here already", path.display()));
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        // Everybody may ask for the status; who may do more is looked up for each connection.
        fs::set_permissions(path, fs::Permissions::from_mode(0o666)).map_err(failed)?;
        Ok(Self { path: path.to_owned(), listener, connections: Vec::new(), last: 0 })
    }

    /// What to poll for reading.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let listener = (self.connections.len() < CONNECTIONS).then(|| self.listener.as_fd());
        listener.into_iter().chain(self.connections.iter().map(|connection| connection.stream.as_fd()))
    }

    /// The requests that are there, each with the number of its connection. Does not wait.
    pub fn requests(&mut self) -> Vec<(u64, Request)> {
        while self.connections.len() < CONNECTIONS {
            let Ok((stream, _)) = self.listener.accept() else { break };
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            let may_command = socket_peercred(&stream).is_ok_and(|peer| peer.uid.is_root() || peer.uid == getuid());
            self.last += 1;
            let number = self.last;
            self.connections.push(Connection { number, stream, bytes: Vec::new(), asked: false, may_command });
        }
        let mut requests = Vec::new();
        self.connections.retain_mut(|connection| match connection.receive() {
            Ok(Some(request)) => {
                requests.push((connection.number, request));
                true
            }
            Ok(None) => true,
            Err(error) => {
                if let Some(error) = error {
                    connection.send(&json!({ "error": error }));
                }
                false
            }
        });
        requests
    }

    /// Answers, and closes the connection.
    pub fn answer(&mut self, number: u64, answer: &Value) {
        self.connections.retain_mut(|connection| {
            if connection.number != number {
                return true;
            }
            connection.send(answer);
            false
        });
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Connection {
    /// The request, once it is whole. An error ends the connection; without words where its other end is gone.
    fn receive(&mut self) -> Result<Option<Request>, Option<String>> {
        let mut bytes = [0; LONGEST];
        loop {
            match self.stream.read(&mut bytes) {
                // It may have said all that it wanted to.
                Ok(0) if !self.asked && self.bytes.contains(&b'\n') => break,
                Ok(0) => return Err(None),
                Ok(_) if self.asked => {}
                Ok(len) => self.bytes.extend_from_slice(&bytes[..len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(None),
            }
            if self.bytes.len() > LONGEST {
                return Err(Some(format!("a request has at most {LONGEST} bytes")));
            }
        }
        let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n').filter(|_| !self.asked) else {
            return Ok(None);
        };
        let line: Line = serde_json::from_slice(&self.bytes[..end]).map_err(|error| {
            Some(format!("the request is not understood: {error}; write {{\"request\": \"status\"}}, quiesce or thaw"))
        })?;
        if line.request != Request::Status && !self.may_command {
            return Err(Some("permission denied: only root and the agent's user may do that".to_owned()));
        }
        self.asked = true;
        Ok(Some(line.request))
    }

    /// What does not fit into the socket's buffer is lost: the other end does not read.
    fn send(&mut self, answer: &Value) {
        let _ = self.stream.write_all(format!("{answer}\n").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{poll, PollFd, PollFlags};
    use std::thread;

    /// Serves until one request was answered.
    fn serve(control: &mut Control, answer: &Value) -> Request {
        loop {
            let requests = {
                let mut fds: Vec<_> = control.fds().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
                poll(&mut fds, None).expect("polled");
                control.requests()
            };
            if let Some((number, request)) = requests.first() {
                control.answer(*number, answer);
                return *request;
            }
        }
    }

    #[test]
    fn requests_are_answered_and_what_is_none_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("deep/agent.sock");
        let timeout = Duration::from_secs(60);
        assert!(ask(&path, Request::Status, timeout).expect_err("nobody").contains("vmclock-agent run"));
        let mut control = Control::open(&path).expect("listens");
        assert!(Control::open(&path).expect_err("taken").contains("another agent"));
        let client = thread::spawn({
            let path = path.clone();
            move || {
                let mut errors = Vec::new();
                for bytes in [&b"{\"request\": \"fly\"}\n"[..], b"\0\xff\n", &[b'x'; 5000][..]] {
                    let mut stream = UnixStream::connect(&path).expect("listens");
                    let _ = stream.write_all(bytes);
                    let mut answer = String::new();
                    BufReader::new(stream).read_line(&mut answer).expect("answered");
                    errors.push(answer);
                }
                // One that leaves without a word.
                drop(UnixStream::connect(&path).expect("listens"));
                (errors, ask(&path, Request::Quiesce, timeout))
            }
        });
        assert_eq!(serve(&mut control, &json!({"held": true})), Request::Quiesce);
        let (errors, answer) = client.join().expect("no panic");
        assert_eq!(answer, Ok(json!({"held": true})));
        assert!(errors.iter().all(|error| error.contains("\"error\"")), "{errors:?}");
        drop(control);
        assert!(!path.exists(), "left behind");
    }
}
