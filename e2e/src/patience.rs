// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting with a deadline.
//!
//! A deadline is for what hangs, not for what is slow: on a busy machine a guest may get little of a CPU for a while,
//! and that is no defect. So there is one for everything, in minutes, and nobody waits for it a second time.

use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How long anything may take. On an idle machine most of it takes milliseconds, and a boot 4 s.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// What did not happen within its deadline.
#[derive(Debug)]
pub(crate) struct TimedOut(pub(crate) String);

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TimedOut {}

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
            return Err(TimedOut(format!("after {patience:?} it is still not so that {what}")).into());
        }
        sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// What a socket with a time limit says when that is over.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}
