// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting with a deadline.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};

/// Connects to a socket that somebody is about to open.
pub(crate) fn connect(socket: &Path, patience: Duration) -> Result<UnixStream> {
    let mut stream = None;
    until(&format!("{} is open", socket.display()), patience, || {
        stream = UnixStream::connect(socket).ok();
        Ok(stream.is_some())
    })?;
    stream.with_context(|| format!("cannot connect to {}", socket.display()))
}

/// Asks every millisecond or so until the answer is yes.
pub(crate) fn until(what: &str, patience: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !done()? {
        if start.elapsed() > patience {
            bail!("after {patience:?} it is still not so that {what}");
        }
        sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// What a socket with a time limit says when that is over.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}
