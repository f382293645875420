// SPDX-License-Identifier: MIT OR Apache-2.0
//! QEMU's process.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ExitStatus};

use anyhow::{ensure, Context};
use rustix::net::sockopt::socket_peercred;
use rustix::process::{kill_process, Pid, Signal};

/// Whose it is.
pub(super) enum Process {
    /// We started it, it ends with our signals, and its status is ours.
    Ours(Child),
    /// Somebody else's, with its process id: nothing but what it tells is ours.
    Anothers(u32),
}

impl Process {
    /// The process that listens at the other end of a socket.
    pub(super) fn behind(monitor: &UnixStream) -> anyhow::Result<Self> {
        let peer = socket_peercred(monitor).context("cannot ask whose the monitor's socket is")?;
        let pid = u32::try_from(peer.pid.as_raw_nonzero().get()).context("QEMU's process id makes no sense")?;
        Ok(Self::Anothers(pid))
    }

    pub(super) fn is_ours(&self) -> bool {
        matches!(self, Self::Ours(_))
    }

    pub(super) fn pid(&self) -> u32 {
        match self {
            Self::Ours(child) => child.id(),
            Self::Anothers(pid) => *pid,
        }
    }

    /// Program and arguments, as it was started.
    pub(super) fn command(&self) -> anyhow::Result<Vec<String>> {
        let path = format!("/proc/{}/cmdline", self.pid());
        let bytes = std::fs::read(&path).with_context(|| format!("{path}: cannot read QEMU's arguments"))?;
        let words = bytes.strip_suffix(b"\0").unwrap_or(&bytes).split(|byte| *byte == 0);
        Ok(words.map(|word| String::from_utf8_lossy(word).into_owned()).collect())
    }

    /// That its guest sees this very file, and not one of the same name that was there before.
    pub(super) fn ensure_maps(&self, page: &Path) -> anyhow::Result<()> {
        let path = format!("/proc/{}/maps", self.pid());
        let maps =
            std::fs::read_to_string(&path).with_context(|| format!("{path}: cannot read what QEMU has mapped"))?;
        let real = page.canonicalize().with_context(|| format!("{}: is not there any more", page.display()))?;
        ensure!(
            maps.lines().any(|line| line.split_whitespace().nth(5).is_some_and(|file| Path::new(file) == real)
                && !line.ends_with(" (deleted)")),
            "{}: the QEMU with process id {} does not map this page; start `vmclock qemu --attach` before QEMU, and \
QEMU with what `vmclock qemu --print-args` prints for it",
            page.display(),
            self.pid()
        );
        Ok(())
    }

    /// Its status if it has ended. Of somebody else's nothing is known.
    pub(super) fn status(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        match self {
            Self::Ours(child) => child.try_wait().context("cannot wait for QEMU"),
            Self::Anothers(_) => Ok(None),
        }
    }

    /// Asks one of ours to end.
    pub(super) fn terminate(&self) {
        if let Self::Ours(child) = self {
            // Gone already is as good.
            let _ = kill_process(Pid::from_child(child), Signal::TERM);
        }
    }
}
