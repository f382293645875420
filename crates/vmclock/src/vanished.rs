// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether the page that a clock has open is still the one at its path.
//!
//! Readings do not find out: a file that was removed stays mapped, and keeps what was last written to it. No publisher
//! writes to it any more, so that no disruption would be announced there. Checking takes two system calls, off the hot
//! path.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use vmclock_core::abi::{ParseError, STRUCTURE_LEN};

use crate::clock::OpenOptions;
use crate::error::ReadError;
use crate::source::pread;

/// The page that a clock has open is not the published one any more: what happens to the machine from now on is not
/// announced there, and its time is not to be used.
///
/// ```
/// use vmclock::{mock::MockPage, Loss};
/// let page = MockPage::new();
/// let clock = page.clock();
/// page.remove();
/// let vanished = clock.check().unwrap_err();
/// assert_eq!(vanished.loss, Loss::Removed);
/// assert!(vanished.to_string().contains("removed"));
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Vanished {
    /// Where the clock was opened, as an absolute path.
    pub path: PathBuf,
    /// How the page was lost.
    pub loss: Loss,
}

impl fmt::Display for Vanished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.loss)
    }
}

impl std::error::Error for Vanished {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.loss {
            Loss::Overwritten(error) => Some(error),
            _ => None,
        }
    }
}

/// How a page was lost while it was open.
///
/// ```
/// use vmclock::Loss;
/// assert!(Loss::Cut { len: 10 }.to_string().contains("10 bytes"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Loss {
    /// The file was removed.
    Removed,
    /// Another file is at its path.
    Replaced,
    /// The file was cut short.
    Cut {
        /// How many bytes are left.
        len: u64,
    },
    /// What the file holds is not a page any more.
    Overwritten(ParseError),
    /// The driver has lost the device: it was unplugged, or its driver unbound (`ENODEV`).
    Device,
}

impl Loss {
    /// What an error of reading means for the page; `None` where the page may still be there.
    pub(crate) fn of(error: ReadError) -> Option<Self> {
        match error {
            ReadError::Vanished { len } => Some(Self::Cut { len }),
            ReadError::NotAPage(error) => Some(Self::Overwritten(error)),
            ReadError::Io { errno: libc::ENODEV } => Some(Self::Device),
            _ => None,
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Removed => f.write_str("the page's file was removed while it was open: start its publisher again")?,
            Self::Replaced => f.write_str("the page's file was replaced by another while it was open")?,
            Self::Cut { len } => write!(
                f,
                "the page's file was cut to {len} bytes while it was open: remove it, and start its publisher again"
            )?,
            Self::Overwritten(error) => write!(
                f,
                "the page was overwritten while it was open ({error}): remove it, and start its publisher again"
            )?,
            Self::Device => {
                f.write_str("the device was removed, or its driver unbound, while it was open: bind the driver again")?;
            }
        }
        f.write_str("; then open the clock again")
    }
}

/// Where a clock was opened, and what was there.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) path: PathBuf,
    pub(crate) options: OpenOptions,
    pub(crate) file: File,
    /// How many bytes the file needs for all fields of its page.
    needed: u64,
    /// Whether it had a name when it was opened. A memfd has none, and has not vanished.
    had_name: bool,
}

impl Origin {
    /// `file`, which was opened at `path` and begins with a page whose size field is `size`.
    pub(crate) fn new(path: &Path, options: OpenOptions, file: File, size: u32) -> Self {
        // Programs change their directory, and the path must still lead there.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
        let had_name = file.metadata().is_ok_and(|metadata| metadata.nlink() > 0);
        Self { path, options, file, needed: u64::from(size).min(STRUCTURE_LEN as u64), had_name }
    }

    /// Whether the page is still there, as far as it can be known: nothing follows from a path that this process may
    /// not (or, after a chroot, cannot) follow, as long as the file has a name somewhere.
    pub(crate) fn check(&self) -> Result<(), Loss> {
        let Ok(ours) = self.file.metadata() else { return Ok(()) };
        if ours.file_type().is_char_device() {
            // A node can be made anew for the same device: what counts is whether its driver has the device.
            return pread(&self.file).err().and_then(Loss::of).map_or(Ok(()), Err);
        }
        match std::fs::metadata(&self.path) {
            Ok(there) if (there.dev(), there.ino()) != (ours.dev(), ours.ino()) => Err(Loss::Replaced),
            _ if ours.nlink() == 0 && self.had_name => Err(Loss::Removed),
            _ if ours.len() < self.needed => Err(Loss::Cut { len: ours.len() }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmclock_core::page::Busy;

    #[test]
    fn a_device_is_lost_when_its_driver_says_so_and_not_when_it_is_busy() {
        let io = |errno| Loss::of(ReadError::Io { errno });
        assert_eq!(io(libc::ENODEV), Some(Loss::Device));
        assert_eq!((io(libc::EIO), io(libc::EINTR)), (None, None));
        assert_eq!(Loss::of(Busy::at(1).into()), None);
    }
}
