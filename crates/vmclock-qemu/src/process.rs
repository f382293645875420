// SPDX-License-Identifier: MIT OR Apache-2.0
//! QEMU's process.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ExitStatus};

use rustix::fs::{major, minor};
use rustix::net::sockopt::socket_peercred;
use rustix::process::{kill_process, Pid, Signal};

use crate::error::Error;

/// Whose it is.
pub(crate) enum Process {
    /// We started it, it ends with our signals, and its status is ours.
    Ours(Child),
    /// Somebody else's, with its process id.
    Anothers(u32),
}

impl Process {
    /// The process that listens at the other end of a socket.
    pub(crate) fn behind(monitor: &UnixStream) -> Result<Self, Error> {
        let peer = socket_peercred(monitor)
            .map_err(|errno| Error::system("find the process behind QEMU's monitor")(errno.into()))?;
        Ok(Self::Anothers(peer.pid.as_raw_nonzero().get().unsigned_abs()))
    }

    pub(crate) fn is_ours(&self) -> bool {
        matches!(self, Self::Ours(_))
    }

    pub(crate) fn pid(&self) -> u32 {
        match self {
            Self::Ours(child) => child.id(),
            Self::Anothers(pid) => *pid,
        }
    }

    /// Program and arguments, as it was started.
    pub(crate) fn command(&self) -> Result<Vec<OsString>, Error> {
        let path = format!("/proc/{}/cmdline", self.pid());
        let bytes = std::fs::read(&path).map_err(Error::file(path.as_ref(), "read QEMU's arguments"))?;
        let words = bytes.strip_suffix(b"\0").unwrap_or(&bytes).split(|byte| *byte == 0);
        Ok(words.map(|word| OsString::from_vec(word.to_vec())).collect())
    }

    /// That its guest sees this very file, and not one of the same name that was there before.
    pub(crate) fn ensure_maps(&self, page: &Path) -> Result<(), Error> {
        let path = format!("/proc/{}/maps", self.pid());
        let maps = std::fs::read(&path).map_err(Error::file(path.as_ref(), "read what QEMU has mapped"))?;
        let missing = Error::file(page, "find the page any more");
        let (real, metadata) = match page.canonicalize().and_then(|real| Ok((real, page.metadata()?))) {
            Ok(found) => found,
            Err(error) => return Err(missing(error)),
        };
        let is_page = |line: &[u8]| {
            Mapping::parse(line).is_some_and(|mapping| {
                // Some file systems (btrfs, overlayfs) state another device here than stat(2) does.
                mapping.inode == metadata.ino() && (mapping.device == device(&metadata) || mapping.path == real)
            })
        };
        if maps.split(|byte| *byte == b'\n').any(is_page) {
            Ok(())
        } else {
            Err(Error::NotMapped { page: page.into(), pid: self.pid() })
        }
    }

    /// Its status if it has ended. Of somebody else's nothing is known.
    pub(crate) fn status(&mut self) -> Result<Option<ExitStatus>, Error> {
        match self {
            Self::Ours(child) => child.try_wait().map_err(Error::system("wait for QEMU")),
            Self::Anothers(_) => Ok(None),
        }
    }

    /// Asks one of ours to end.
    pub(crate) fn terminate(&self) {
        if let Self::Ours(child) = self {
            // Gone already is as good.
            let _ = kill_process(Pid::from_child(child), Signal::TERM);
        }
    }
}

fn device(metadata: &std::fs::Metadata) -> (u32, u32) {
    (major(metadata.dev()), minor(metadata.dev()))
}

/// A line of `/proc/<pid>/maps` (`proc_pid_maps(5)`).
#[derive(Debug, PartialEq, Eq)]
struct Mapping<'a> {
    device: (u32, u32),
    inode: u64,
    path: &'a Path,
}

impl<'a> Mapping<'a> {
    /// Address, access, offset, device and inode, one space apart; then spaces, and the path, which may have more.
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.splitn(6, |byte| *byte == b' ');
        let mut word = || fields.next().and_then(|field| std::str::from_utf8(field).ok());
        let (device, inode) = (word().and_then(|_| word()).and_then(|_| word()).and_then(|_| word())?, word()?);
        let (major, minor) = device.split_once(':')?;
        let hexadecimal = |digits| u32::from_str_radix(digits, 16).ok();
        Some(Self {
            device: (hexadecimal(major)?, hexadecimal(minor)?),
            inode: inode.parse().ok()?,
            path: Path::new(OsStr::from_bytes(fields.next()?.trim_ascii_start())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_maps() {
        let line = b"7f00-7f10 rw-s 00000000 fd:1a 1234                       /run/a page, \xff/p";
        let mapping = Mapping::parse(line).expect("a mapping");
        assert_eq!((mapping.device, mapping.inode), ((0xfd, 0x1a), 1234));
        assert_eq!(mapping.path.as_os_str().as_bytes(), b"/run/a page, \xff/p");
        assert_eq!(Mapping::parse(b"7f00-7f10 rw-p 00000000 00:00 0 "), Mapping::parse(b"1-2 r 0 0:0 0 "));
        for other in [&b""[..], b"7f00-7f10 rw-p 00000000 00:00 0", b"a b c d e f"] {
            assert_eq!(Mapping::parse(other), None);
        }
    }

    #[test]
    fn a_file_of_the_same_name_is_another() {
        let process = Process::Anothers(std::process::id());
        let program = std::env::current_exe().expect("a path");
        process.ensure_maps(&program).expect("a process maps its program");
        let folder = tempfile::tempdir().expect("a folder");
        let copy = folder.path().join("a copy");
        std::fs::copy(&program, &copy).expect("copied");
        let error = process.ensure_maps(&copy).expect_err("nobody maps it").to_string();
        assert!(error.contains("a copy: the QEMU with process id"), "{error}");
        assert!(process.ensure_maps(Path::new("/no/page")).is_err());
        assert!(process.command().expect("readable").first().is_some_and(|first| !first.is_empty()));
    }
}
