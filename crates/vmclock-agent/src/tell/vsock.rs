// SPDX-License-Identifier: MIT OR Apache-2.0
//! A socket of the host's, over vsock: `vsock:CID:PORT`, and `vsock-stream`, `vsock-dgram`, `vsock-seqpacket` where the
//! kind of socket matters, as in systemd.

use std::fmt;
use std::io::{self, ErrorKind};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

/// A host that does not answer does not hold up the machine.
const TIMEOUT: Duration = Duration::from_millis(200);

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Address {
    /// As it is configured.
    text: String,
    /// In this order.
    kinds: Vec<Type>,
    cid: u32,
    port: u32,
}

impl Address {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("tell.to {text:?}: write vsock:CID:PORT, as vsock:2:1234 (the host is 2)");
        let mut parts = text.split(':');
        let kinds = match parts.next() {
            Some("vsock") => vec![Type::SEQPACKET, Type::STREAM],
            Some("vsock-stream") => vec![Type::STREAM],
            Some("vsock-dgram") => vec![Type::DGRAM],
            Some("vsock-seqpacket") => vec![Type::SEQPACKET],
            _ => return Err(wrong()),
        };
        let mut number = || parts.next().and_then(|part| part.parse().ok()).ok_or_else(wrong);
        let (cid, port) = (number()?, number()?);
        if parts.next().is_some() {
            return Err(wrong());
        }
        Ok(Self { text: text.to_owned(), kinds, cid, port })
    }

    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let mut result = Err(ErrorKind::Unsupported.into());
        for kind in &self.kinds {
            result = self.send_as(*kind, bytes);
            if result.is_ok() {
                break;
            }
        }
        result
    }

    fn send_as(&self, kind: Type, bytes: &[u8]) -> io::Result<()> {
        let socket = Socket::new(Domain::VSOCK, kind, None)?;
        socket.connect_timeout(&SockAddr::vsock(self.cid, self.port), TIMEOUT)?;
        socket.set_write_timeout(Some(TIMEOUT))?;
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = &rest[socket.send(rest)?..];
        }
        Ok(())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
