// SPDX-License-Identifier: MIT OR Apache-2.0
//! What agent and runner say to one another: each message one packet of JSON. Both are the same binary.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{recv, send, RecvFlags, SendFlags};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::HookEvent;

/// A request of the agent's.
#[derive(Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) id: u64,
    pub(super) event: HookEvent,
}

/// No message has more bytes. A hook's result has 24 KiB at most, as each byte of a tail may need six.
pub(super) const LARGEST: usize = 64 * 1024;

pub(super) enum Received<T> {
    Message(T),
    /// None is waiting.
    Nothing,
    /// The other end is gone.
    End,
}

/// Sends without waiting: the error is of kind `WouldBlock` when there is no room.
pub(super) fn send_message(socket: &OwnedFd, message: &impl Serialize) -> io::Result<()> {
    let json = serde_json::to_vec(message)?;
    if json.len() > LARGEST {
        let what = format!("a message of {} bytes; it can have {LARGEST}", json.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    loop {
        match send(socket, &json, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Err(Errno::INTR) => {}
            sent => return Ok(sent.map(drop)?),
        }
    }
}

/// Receives without waiting.
pub(super) fn receive_message<T: DeserializeOwned>(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<Received<T>> {
    loop {
        match recv(socket, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Ok(Received::End),
            Ok((length, _)) => return Ok(Received::Message(serde_json::from_slice(&buffer[..length])?)),
            // The other end closed with messages unread, which Linux says once; what it sent comes after.
            Err(Errno::INTR | Errno::CONNRESET) => {}
            Err(Errno::AGAIN) => return Ok(Received::Nothing),
            Err(errno) => return Err(errno.into()),
        }
    }
}
