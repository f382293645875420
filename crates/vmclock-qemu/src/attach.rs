// SPDX-License-Identifier: MIT OR Apache-2.0
//! A QEMU that somebody else starts: libvirt, a service manager, a script.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::monitor::poll_for;

/// How long between two attempts: there is nothing to be woken by, as the folder may not exist either.
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(20);

/// Where QEMU is to be found.
///
/// ```
/// use std::path::Path;
/// use vmclock_qemu::{beside, Attach};
/// let page = Path::new("/run/vmclock/guest");
/// let timeout = std::time::Duration::from_secs(60);
/// let attach = Attach::new(beside(page, ".qmp"), timeout);
/// assert_eq!(attach.monitor, Path::new("/run/vmclock/guest.qmp"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attach {
    /// The socket of its monitor.
    pub monitor: PathBuf,
    /// The socket of its doorbell, if it has one.
    pub bell: Option<PathBuf>,
    /// How long to wait for QEMU, until its monitor has answered.
    pub timeout: Duration,
}

/// A path beside that of a page: `/run/page` and `.qmp` are `/run/page.qmp`.
pub fn beside(page: &Path, suffix: &str) -> PathBuf {
    let mut path = page.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

impl Attach {
    /// A QEMU without a doorbell.
    pub const fn new(monitor: PathBuf, timeout: Duration) -> Self {
        Self { monitor, bell: None, timeout }
    }

    /// The same with a doorbell, behind this socket.
    #[must_use]
    pub fn with_bell(self, bell: PathBuf) -> Self {
        Self { bell: Some(bell), ..self }
    }

    /// Connects as soon as QEMU listens. `is_interrupted` is asked when `signals` is readable, at least.
    pub(crate) fn connect(
        &self,
        by: Instant,
        signals: &impl AsFd,
        is_interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<(UnixStream, Option<UnixDatagram>), Error> {
        let mut attempt = Attempt { timeout: self.timeout, by, signals: signals.as_fd(), is_interrupted };
        let instead = "wait longer with --timeout";
        let monitor = attempt.connect(&self.monitor, "QEMU's monitor", instead, |path| UnixStream::connect(path))?;
        let Some(path) = &self.bell else { return Ok((monitor, None)) };
        let bell = UnixDatagram::unbound().map_err(Error::system("make a socket"))?;
        bell.set_nonblocking(true).map_err(Error::system("make the doorbell non-blocking"))?;
        // QEMU makes it a moment after its monitor.
        attempt.connect(path, "QEMU's doorbell", "use --no-notify", |path| bell.connect(path))?;
        Ok((monitor, Some(bell)))
    }
}

struct Attempt<'a> {
    timeout: Duration,
    by: Instant,
    signals: BorrowedFd<'a>,
    is_interrupted: &'a mut dyn FnMut() -> bool,
}

impl Attempt<'_> {
    fn connect<T>(
        &mut self,
        path: &Path,
        what: &'static str,
        instead: &'static str,
        mut connect: impl FnMut(&Path) -> io::Result<T>,
    ) -> Result<T, Error> {
        loop {
            match connect(path).map_err(|error| (error.kind(), error)) {
                Ok(connected) => return Ok(connected),
                Err((io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused, _)) => {}
                Err((io::ErrorKind::PermissionDenied, _)) => return Err(Error::NotAllowed { path: path.into() }),
                Err((_, error)) => return Err(Error::file(path, "connect to QEMU")(error)),
            }
            let left = self.by.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::NobodyListens { what, path: path.into(), timeout: self.timeout, instead });
            }
            poll_for(&[self.signals], left.min(BETWEEN_ATTEMPTS))?;
            if (self.is_interrupted)() {
                return Err(Error::Interrupted);
            }
        }
    }
}
