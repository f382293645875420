// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can go wrong, and what to do about it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use vmclock_core::abi::ParseError;
use vmclock_core::calibration::NoTime;
use vmclock_core::page::Busy;

/// Why a clock could not be opened. A missing device is a normal state of the world: match on it.
///
/// ```
/// use vmclock::{OpenError, VmClock};
/// let error = VmClock::open_at("/nonexistent/vmclock0").unwrap_err();
/// assert!(matches!(error, OpenError::NoDevice { .. }));
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// There is nothing at the path, and no sign of a VMClock in this machine.
    NoDevice {
        /// What was to be opened.
        path: PathBuf,
    },
    /// The hypervisor offers a VMClock (in ACPI or the device tree), but there is no device node: the kernel has no
    /// driver for it, or has not loaded it.
    NoDriver {
        /// What was to be opened.
        path: PathBuf,
        /// Where the machine's VMClock can be seen.
        seen_at: PathBuf,
    },
    /// The path exists, but may not be read.
    Permission {
        /// What was to be opened.
        path: PathBuf,
    },
    /// The path is neither a character device nor a plain file.
    WrongKind {
        /// What was to be opened.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// What is there is not a page.
    NotAPage {
        /// What was opened.
        path: PathBuf,
        /// What is wrong with it.
        error: ParseError,
    },
    /// No consistent copy of the page could be had.
    Busy {
        /// What was opened.
        path: PathBuf,
        /// Why.
        error: Busy,
    },
    /// The system refused, for another reason.
    Io {
        /// What was to be opened.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDevice { path } => write!(
                f,
                "{}: no such file, and this machine shows no VMClock in ACPI or its device tree: \
                 ask the hypervisor's operator for one (`vmclock doctor` tells more)",
                path.display()
            ),
            Self::NoDriver { path, seen_at } => write!(
                f,
                "{}: no such file, although the hypervisor offers a VMClock ({}): \
                 run `modprobe ptp_vmclock`, or a kernel built with CONFIG_PTP_1588_CLOCK_VMCLOCK (Linux 6.13 or later)",
                path.display(),
                seen_at.display()
            ),
            Self::Permission { path } => write!(
                f,
                "{}: permission denied: the device is readable by root only; \
                 a udev rule `KERNEL==\"vmclock*\", MODE=\"0444\"` or `chmod a+r {0}` lets everyone read it",
                path.display()
            ),
            Self::WrongKind { path, kind } => {
                write!(f, "{}: is a {kind}; a VMClock is a character device or a plain file", path.display())
            }
            Self::NotAPage { path, error } => write!(f, "{}: {error}", path.display()),
            Self::Busy { path, error } => write!(f, "{}: {error}", path.display()),
            Self::Io { path, doing, error } => write!(f, "{}: cannot {doing}: {error}", path.display()),
        }
    }
}

// No `source`: the text above has all of it already.
impl std::error::Error for OpenError {}

/// Why an open clock gave no reading at this moment. All of these may pass.
///
/// ```
/// use vmclock::{mock::MockPage, ClockStatus, NoTime, ReadError};
/// let page = MockPage::new();
/// let clock = page.clock();
/// page.update(|page| page.clock_status = ClockStatus::UNRELIABLE);
/// assert_eq!(clock.now(), Err(ReadError::NoTime(NoTime::Status(ClockStatus::UNRELIABLE))));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ReadError {
    /// The page is in order but gives no time today.
    NoTime(NoTime),
    /// No consistent copy of the page could be had in the time allowed.
    Busy(Busy),
    /// The file behind the page was cut short or removed from under the mapping, so that the page reads as zeros.
    Vanished {
        /// How many bytes the file has now.
        len: u64,
    },
    /// What is there is not a page any more.
    NotAPage(ParseError),
    /// Reading the device failed.
    Io {
        /// The system's error number.
        errno: i32,
    },
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTime(reason) => reason.fmt(f),
            Self::Busy(reason) => reason.fmt(f),
            Self::Vanished { len } => write!(
                f,
                "the page's file was cut to {len} bytes while it was open: \
                 restart its publisher, then open the clock again"
            ),
            Self::NotAPage(reason) => write!(f, "the page was overwritten: {reason}"),
            Self::Io { errno } => {
                write!(f, "cannot read the page: {}: open the clock again", io::Error::from_raw_os_error(*errno))
            }
        }
    }
}

// No `source`: the text above has all of it already.
impl std::error::Error for ReadError {}

impl From<NoTime> for ReadError {
    #[inline]
    fn from(reason: NoTime) -> Self {
        Self::NoTime(reason)
    }
}

impl From<Busy> for ReadError {
    #[inline]
    fn from(reason: Busy) -> Self {
        Self::Busy(reason)
    }
}

impl From<rustix::io::Errno> for ReadError {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Io { errno: errno.raw_os_error() }
    }
}
