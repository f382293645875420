// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a guest in QEMU cannot be given a clock.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use vmclock_host::publisher::PublishError;

/// Why a guest in QEMU cannot be given a clock, or not any more.
///
/// ```
/// use vmclock_qemu::error::Error;
/// let error = Error::Argument { argument: "-daemonize".into(), reason: "leave it out".into() };
/// assert_eq!(error.to_string(), "-daemonize: leave it out");
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The command line is empty.
    #[error("no QEMU is named: vmclock qemu -- qemu-system-x86_64 ..")]
    NoProgram,
    /// An argument that does not go with a clock.
    #[error("{argument}: {reason}")]
    Argument {
        /// The argument.
        argument: String,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// The system refused something.
    #[error("cannot {doing}: {error}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// What the system says.
        error: io::Error,
    },
    /// The system refused something that has to do with a file.
    #[error("{}: cannot {doing}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the system says.
        error: io::Error,
    },
    /// QEMU cannot be started.
    #[error("{}: cannot be started: {error}; is QEMU installed?", program.display())]
    NotStarted {
        /// The program.
        program: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Nobody listens at the monitor's or the doorbell's socket.
    #[error(
        "{}: {what} was not there within {timeout:?}; start QEMU with what `vmclock qemu --print-args` prints, or \
         {instead}",
        path.display()
    )]
    NobodyListens {
        /// What was expected.
        what: &'static str,
        /// The socket.
        path: PathBuf,
        /// How long it was waited for.
        timeout: Duration,
        /// What else can be done.
        instead: &'static str,
    },
    /// A socket of QEMU's that this user may not use.
    #[error("{}: permission denied; run vmclock as root, or as the user who runs QEMU", path.display())]
    NotAllowed {
        /// The socket.
        path: PathBuf,
    },
    /// QEMU is not the one for which the page is.
    #[error(
        "{}: the QEMU with process id {pid} does not map this page; start `vmclock qemu --attach` before QEMU, and \
         QEMU with what `vmclock qemu --print-args` prints for it",
        page.display()
    )]
    NotMapped {
        /// The page.
        page: PathBuf,
        /// The process.
        pid: u32,
    },
    /// QEMU closed its monitor before it answered.
    #[error("QEMU ended, or closed its monitor, before it gave {awaited}; its own messages say why")]
    Ended {
        /// What was expected.
        awaited: String,
    },
    /// QEMU did not answer.
    #[error(
        "QEMU's monitor did not give {awaited} within {timeout:?}; QEMU may be stopped, or another program uses this \
         monitor"
    )]
    NoAnswer {
        /// What was expected.
        awaited: String,
        /// How long it was waited for.
        timeout: Duration,
    },
    /// QEMU refused a command.
    #[error("{0}")]
    Refused(String),
    /// What QEMU sent is not QMP.
    #[error("QEMU's monitor sent {0:?}, which is not QMP; name a monitor with mode=control")]
    NotQmp(String),
    /// What QEMU sent has no end.
    #[error("QEMU's monitor sent a line of more than {0} bytes")]
    LineTooLong(usize),
    /// The NVDIMM is elsewhere.
    #[error(
        "the NVDIMM is not at {address:#x}, where the table has it: QEMU has {devices}; leave --read-only-page out"
    )]
    NvdimmElsewhere {
        /// Where it should be.
        address: u64,
        /// What QEMU has.
        devices: String,
    },
    /// The host's service does not publish the page.
    #[error("the host's service does not publish the page of {guest}: {reason}")]
    Service {
        /// What it calls the guest.
        guest: String,
        /// Why.
        reason: String,
    },
    /// There is no time to give to the guest.
    #[error("there was no time to give to the guest within {timeout:?}, so it was not started: {reason}")]
    NoTime {
        /// How long it was waited for.
        timeout: Duration,
        /// Why.
        reason: String,
    },
    /// The page cannot be published.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// A signal ended the wait for QEMU.
    #[error("interrupted while waiting for QEMU")]
    Interrupted,
}

impl Error {
    pub(crate) fn system(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::System { doing, error }
    }

    pub(crate) fn file(path: &std::path::Path, doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |error| Self::File { path, doing, error }
    }
}
