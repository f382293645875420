// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can go wrong, and what to do about it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use vmclock_core::abi::ParseError;
use vmclock_core::calibration::NoTime;
use vmclock_core::page::Busy;

use crate::clock::is_for_devices;

/// Why a clock could not be opened. A missing device is a normal case: match on it.
///
/// Its text has the cause in it, which [`source`](std::error::Error::source) gives to programs: print one of them.
///
/// ```
/// use vmclock::{OpenError, VmClock};
/// let error = VmClock::open_at("/dev/no-such-vmclock").unwrap_err();
/// assert!(matches!(error, OpenError::NoDevice { .. } | OpenError::NoDriver { .. }));
/// let error = VmClock::open_at("/nonexistent/page").unwrap_err();
/// assert!(matches!(error, OpenError::NoFile { .. }));
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no device at the path, which is in `/dev`, and no sign of a VMClock in this machine.
    NoDevice {
        /// What was to be opened.
        path: PathBuf,
    },
    /// There is no file at the path, which is not in `/dev`: no publisher has made a page there.
    NoFile {
        /// What was to be opened.
        path: PathBuf,
    },
    /// The hypervisor offers a VMClock (in ACPI or the device tree), but there is no device at the path: the kernel has
    /// no driver for it, or has not loaded it.
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
        /// The system's error.
        error: io::Error,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDevice { path } => write!(
                f,
                "{}: no such device, and this machine shows no VMClock in ACPI or its device tree: \
                 ask the hypervisor's operator for one (`vmclock doctor` finds out more)",
                path.display()
            ),
            Self::NoFile { path } => write!(
                f,
                "{0}: no such file: start its publisher (`vmclock serve --page {0}`), or name the page of another",
                path.display()
            ),
            Self::NoDriver { path, seen_at } => write!(
                f,
                "{}: no such device, although the hypervisor offers a VMClock ({}): \
                 run `modprobe ptp_vmclock`, or a kernel built with CONFIG_PTP_1588_CLOCK_VMCLOCK \
                 (Linux 6.13 or later)",
                path.display(),
                seen_at.display()
            ),
            Self::Permission { path } if is_for_devices(path) => write!(
                f,
                "{}: permission denied: the device may be readable by root only; \
                 a udev rule `KERNEL==\"vmclock*\", MODE=\"0444\"` or `chmod a+r {0}` lets everyone read it",
                path.display()
            ),
            Self::Permission { path } => write!(
                f,
                "{}: permission denied: as its owner, let this user enter its folders (`chmod a+x`) \
                 and read it (`chmod a+r {0}`)",
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

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotAPage { error, .. } => Some(error),
            Self::Busy { error, .. } => Some(error),
            Self::Io { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// Why an open clock gave no reading at this moment. All of these may pass.
///
/// Its text has the cause in it, which [`source`](std::error::Error::source) gives to programs: print one of them.
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
    /// The page is valid but gives no time now.
    NoTime(NoTime),
    /// No consistent copy of the page could be had in the time allowed.
    Busy(Busy),
    /// The file behind the page was cut short while it was mapped, so that the page reads as zeros. (For one that was
    /// removed or replaced, see [`VmClock::check`](crate::VmClock::check).)
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
                 remove it, start its publisher again, then open the clock again"
            ),
            Self::NotAPage(reason) => write!(f, "the page was overwritten: {reason}"),
            Self::Io { errno } => {
                write!(f, "cannot read the page: {}: open the clock again", io::Error::from_raw_os_error(*errno))
            }
        }
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NoTime(reason) => Some(reason),
            Self::Busy(reason) => Some(reason),
            Self::NotAPage(reason) => Some(reason),
            Self::Vanished { .. } | Self::Io { .. } => None,
        }
    }
}

impl ReadError {
    /// What the system said.
    pub(crate) fn of_system(errno: rustix::io::Errno) -> Self {
        Self::Io { errno: errno.raw_os_error() }
    }
}

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
