// SPDX-License-Identifier: MIT OR Apache-2.0
//! Telling systemd and the host that the machine is ready: `sd_notify(3)`'s messages, to its socket, over vsock to the
//! host as systemd does, or through a virtio-serial port.

use std::env;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

use vmclock_core::event::Epoch;

mod vsock;

/// Somebody who is told.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Listener {
    /// systemd, or whoever set `NOTIFY_SOCKET`: a path, or a name in the abstract namespace.
    Socket(Vec<u8>),
    Vsock(vsock::Address),
    Port(PathBuf),
}

/// What is told.
///
/// ```
/// use vmclock_agent::tell::Message;
/// use vmclock_core::event::Epoch;
/// let epoch = Epoch { disruption_marker: 1, generation: Some(0xab) };
/// let message = Message::new("the clock is right").ready().epoch(epoch);
/// assert_eq!(message.text(), "READY=1\nSTATUS=the clock is right\nX_VMCLOCK_GENERATION=0x00000000000000ab\n");
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Message {
    ready: bool,
    status: String,
    epoch: Option<Epoch>,
}

impl Message {
    /// With `STATUS=`, in one line.
    pub fn new(status: &str) -> Self {
        Self { status: status.replace(char::is_control, " "), ..Self::default() }
    }

    /// With `READY=1`.
    #[must_use]
    pub fn ready(self) -> Self {
        Self { ready: true, ..self }
    }

    /// With the epoch's generation, `X_VMCLOCK_GENERATION=`, where it has one.
    #[must_use]
    pub fn epoch(self, epoch: Epoch) -> Self {
        Self { epoch: Some(epoch), ..self }
    }

    /// The message, in lines.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if self.ready {
            text.push_str("READY=1\n");
        }
        let _ = writeln!(text, "STATUS={}", self.status);
        if let Some(generation) = self.epoch.and_then(|epoch| epoch.generation) {
            let _ = writeln!(text, "X_VMCLOCK_GENERATION={generation:#018x}");
        }
        text
    }
}

/// All who are told.
#[derive(Debug, Default)]
pub struct Listeners(Vec<Listener>);

impl Listeners {
    /// `NOTIFY_SOCKET`, the credential `vmm.notify_socket`, and what is configured. What cannot be understood is in the
    /// second part.
    pub fn of_environment(configured: &[String]) -> (Self, Vec<String>) {
        let mut listeners = Vec::new();
        if let Some(socket) = env::var_os("NOTIFY_SOCKET") {
            listeners.push(Listener::Socket(socket.as_bytes().to_owned()));
        }
        let credential = env::var_os("CREDENTIALS_DIRECTORY")
            .and_then(|folder| fs::read_to_string(Path::new(&folder).join("vmm.notify_socket")).ok());
        let mut errors = Vec::new();
        for address in credential.iter().chain(configured) {
            match parse(address.trim()) {
                Ok(listener) => listeners.push(listener),
                Err(error) => errors.push(error),
            }
        }
        (Self(listeners), errors)
    }

    /// Tells all of them, and gives what went wrong. Nobody can hold this up.
    pub fn tell(&self, message: &Message) -> Vec<String> {
        let text = message.text();
        self.0.iter().filter_map(|listener| listener.send(text.as_bytes()).err()).collect()
    }
}

fn parse(address: &str) -> Result<Listener, String> {
    if address.starts_with("vsock") {
        return vsock::Address::parse(address).map(Listener::Vsock);
    }
    if address.starts_with('/') {
        return Ok(Listener::Port(address.into()));
    }
    Err(format!("tell.to {address:?}: write vsock:CID:PORT, or the path of a virtio-serial port"))
}

impl Listener {
    fn send(&self, bytes: &[u8]) -> Result<(), String> {
        match self {
            Self::Socket(name) => send_to_socket(name, bytes)
                .map_err(|error| format!("NOTIFY_SOCKET {}: {error}", String::from_utf8_lossy(name))),
            Self::Vsock(address) => address.send(bytes).map_err(|error| format!("{address}: {error}")),
            Self::Port(path) => send_to_port(path, bytes).map_err(|error| format!("{}: {error}", path.display())),
        }
    }
}

fn send_to_socket(name: &[u8], bytes: &[u8]) -> io::Result<()> {
    let address = match name.split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(OsStr::from_bytes(name))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(bytes, &address).map(|_| ())
}

fn send_to_port(path: &Path, bytes: &[u8]) -> io::Result<()> {
    const NONBLOCK: i32 = libc::O_NONBLOCK | libc::O_NOCTTY;
    OpenOptions::new().write(true).custom_flags(NONBLOCK).open(path)?.write_all(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_told_by_path_and_by_abstract_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let named = UnixDatagram::bind(&path).expect("bound");
        let name = format!("vmclock-agent-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name.as_bytes()).expect("a name");
        let abstracted = UnixDatagram::bind_addr(&address).expect("bound");
        let listeners = Listeners(vec![
            Listener::Socket(path.as_os_str().as_bytes().to_owned()),
            Listener::Socket(format!("@{name}").into_bytes()),
            Listener::Socket(b"/no/socket".to_vec()),
        ]);
        let errors = listeners.tell(&Message::new("all\nis well").ready());
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].contains("/no/socket"), "{errors:?}");
        for socket in [named, abstracted] {
            let mut bytes = [0; 256];
            let len = socket.recv(&mut bytes).expect("told");
            assert_eq!(&bytes[..len], b"READY=1\nSTATUS=all is well\n");
        }
    }

    #[test]
    fn what_is_no_address_is_named() {
        for address in ["", "vsock", "vsock:2", "vsock:2:x", "tcp:1:2", "vsock:2:3:4"] {
            let error = parse(address).expect_err(address);
            assert!(error.contains(&format!("{address:?}")), "{error}");
        }
        assert!(parse("vsock:2:1234").is_ok() && parse("vsock-stream:2:1234").is_ok());
        assert_eq!(parse("/dev/virtio-ports/a"), Ok(Listener::Port("/dev/virtio-ports/a".into())));
    }
}
