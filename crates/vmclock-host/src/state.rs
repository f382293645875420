// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a publisher keeps what it knows, for the process that comes after it.
//!
//! The state is replaced at once or not at all: it is written beside and renamed. Nothing is synchronized to a disk, as
//! it is of no use after another boot. It is a line, `vmclock-state 1` and a CRC-32, and JSON; another version of it is
//! not read.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{openat, renameat, unlinkat, AtFlags, Mode, OFlags, CWD};
use rustix::io::Errno;

use crate::page_file::{Lock, PageFileError};
use crate::world::StateStore;

const HEADER: &str = "vmclock-state 1";
/// The state's name in its folder, and the one that it has until it is complete.
const NAME: &str = "clock";
const UNFINISHED: &str = "clock.new";
/// No state of ten thousand pages is as large.
const LONGEST: u64 = 16 << 20;

/// Why a folder for states cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// Another publisher uses it, or its lock cannot be had.
    #[error(transparent)]
    Lock(#[from] PageFileError),
    /// Somebody else could read or replace what is in it.
    #[error("{}: {what}: name another folder, or remove it", path.display())]
    Unsafe {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The system refused.
    #[error("{}: cannot {doing}: {error}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// The system's error.
        error: io::Error,
    },
}

/// A folder that only its owner can read, with the state of one publisher.
///
/// ```
/// use vmclock_host::state::StateFolder;
/// use vmclock_host::world::StateStore;
///
/// let folder = tempfile::tempdir()?;
/// let mut store = StateFolder::open(folder.path().join("state"))?;
/// assert_eq!(store.load()?, None);
/// store.save(b"what is known")?;
/// assert_eq!(store.load()?.as_deref(), Some(&b"what is known"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct StateFolder {
    path: PathBuf,
    folder: OwnedFd,
    _lock: Lock,
}

impl StateFolder {
    /// Opens the folder, or makes it; its parent has to be there. One publisher at a time can have it.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StateError> {
        let path = path.into();
        let failed = |doing| {
            let path = path.clone();
            move |error: io::Error| StateError::Io { path, doing, error }
        };
        match std::fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed("create the folder")(error))
            }
            _ => {}
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = match openat(CWD, &path, flags, Mode::empty()) {
            Err(Errno::LOOP | Errno::NOTDIR) => {
                return Err(StateError::Unsafe { path, what: "is no folder, or a symbolic link to one".into() });
            }
            opened => opened.map_err(|errno| failed("open the folder")(errno.into()))?,
        };
        let status = rustix::fs::fstat(&folder).map_err(|errno| failed("ask for its attributes")(errno.into()))?;
        let user = rustix::process::geteuid().as_raw();
        if status.st_uid != user {
            let what = format!("belongs to user {}, and this is user {user}", status.st_uid);
            return Err(StateError::Unsafe { path, what });
        }
        if Mode::from_raw_mode(status.st_mode).intersects(Mode::WGRP | Mode::WOTH) {
            return Err(StateError::Unsafe { path, what: "others than its owner may write to it".into() });
        }
        let lock = Lock::of(&path.join(NAME))?;
        Ok(Self { path, folder, _lock: lock })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn failed<E: Into<io::Error>>(&self, name: &str, doing: &'static str) -> impl FnOnce(E) -> StateError {
        let path = self.path.join(name);
        move |error| StateError::Io { path, doing, error: error.into() }
    }
}

impl StateStore for StateFolder {
    fn load(&mut self) -> Result<Option<Vec<u8>>, StateError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&self.folder, NAME, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(self.failed(NAME, "open it")(errno)),
        };
        let metadata = file.metadata().map_err(self.failed(NAME, "ask for its attributes"))?;
        let user = rustix::process::geteuid().as_raw();
        if !metadata.is_file() || metadata.uid() != user || metadata.mode() & 0o022 != 0 {
            let what = format!("is no file that user {user} alone can write");
            return Err(StateError::Unsafe { path: self.path.join(NAME), what });
        }
        if metadata.len() > LONGEST {
            let what = format!("is longer than {LONGEST} bytes");
            return Err(StateError::Unsafe { path: self.path.join(NAME), what });
        }
        let mut bytes = Vec::new();
        file.take(LONGEST).read_to_end(&mut bytes).map_err(self.failed(NAME, "read it"))?;
        Ok(Some(bytes))
    }

    fn save(&mut self, state: &[u8]) -> Result<(), StateError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.folder, UNFINISHED, flags, Mode::RUSR | Mode::WUSR);
        let mut file = File::from(file.map_err(self.failed(UNFINISHED, "make it"))?);
        file.write_all(state).map_err(self.failed(UNFINISHED, "write it"))?;
        renameat(&self.folder, UNFINISHED, &self.folder, NAME).map_err(self.failed(NAME, "replace it"))
    }

    fn remove(&mut self) -> Result<(), StateError> {
        match unlinkat(&self.folder, NAME, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.failed(NAME, "remove it")(errno)),
        }
    }
}

/// JSON, so that it is found out whether it is what was saved.
pub(crate) fn sealed(json: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{HEADER} {:08x}\n", crc32fast::hash(json)).into_bytes();
    bytes.extend_from_slice(json);
    bytes
}

/// The JSON of what was saved; or what is wrong with it.
pub(crate) fn unsealed(bytes: &[u8]) -> Result<&[u8], &'static str> {
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or("it has no first line")?;
    let (header, json) = (&bytes[..end], &bytes[end + 1..]);
    let header = std::str::from_utf8(header).map_err(|_| "its first line is no text")?;
    let (format, checksum) = header.rsplit_once(' ').ok_or("its first line is not that of a state")?;
    if format != HEADER {
        return Err("it is of another version");
    }
    if checksum.len() != 8 || u32::from_str_radix(checksum, 16) != Ok(crc32fast::hash(json)) {
        return Err("its checksum is wrong");
    }
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{symlink, PermissionsExt};

    #[test]
    fn a_state_is_its_owners_and_replaced_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state");
        let mut store = StateFolder::open(&path).expect("made");
        assert!(store.load().expect("readable").is_none());
        for text in ["first", "second, and longer", "3"] {
            store.save(text.as_bytes()).expect("written");
            assert_eq!(store.load().expect("readable").as_deref(), Some(text.as_bytes()));
        }
        let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.join(NAME))), (0o700, 0o600));
        assert!(!path.join(UNFINISHED).exists());
        assert!(matches!(StateFolder::open(&path), Err(StateError::Lock(PageFileError::InUse { .. }))));
        store.remove().expect("removed");
        store.remove().expect("there is none");
        assert!(store.load().expect("readable").is_none());
        drop(store);
        // What a killed publisher left unfinished.
        std::fs::write(path.join(UNFINISHED), "half of").expect("written");
        let mut store = StateFolder::open(&path).expect("free again");
        store.save(b"whole").expect("written");
        assert_eq!(std::fs::read(path.join(NAME)).expect("there"), b"whole");
    }

    #[test]
    fn what_others_could_have_written_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state");
        let mut store = StateFolder::open(&path).expect("made");
        std::fs::write(folder.path().join("elsewhere"), "precious").expect("written");
        symlink(folder.path().join("elsewhere"), path.join(NAME)).expect("linked");
        assert!(store.load().is_err(), "not followed");
        symlink(folder.path().join("elsewhere"), path.join(UNFINISHED)).expect("linked");
        assert!(store.save(b"x").is_err(), "not followed");
        assert_eq!(std::fs::read(folder.path().join("elsewhere")).expect("there"), b"precious");
        std::fs::remove_file(path.join(NAME)).expect("removed");
        std::fs::create_dir(path.join(NAME)).expect("made");
        assert!(store.load().is_err(), "a folder");
        std::fs::remove_dir(path.join(NAME)).expect("removed");
        std::fs::write(path.join(NAME), "x").expect("written");
        std::fs::set_permissions(path.join(NAME), PermissionsExt::from_mode(0o666)).expect("changed");
        assert!(matches!(store.load(), Err(StateError::Unsafe { .. })));
        drop(store);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).expect("changed");
        assert!(matches!(StateFolder::open(&path), Err(StateError::Unsafe { .. })));
        let link = folder.path().join("link");
        symlink(&path, &link).expect("linked");
        assert!(matches!(StateFolder::open(&link), Err(StateError::Unsafe { .. })));
        assert!(matches!(StateFolder::open(folder.path().join("elsewhere")), Err(StateError::Unsafe { .. })));
        assert!(matches!(StateFolder::open(folder.path().join("no/such")), Err(StateError::Io { .. })));
    }

    #[test]
    fn whatever_is_not_what_was_sealed_is_refused() {
        let bytes = sealed(b"{\"a\": 1}");
        assert_eq!(unsealed(&bytes), Ok(&b"{\"a\": 1}"[..]));
        for len in 0..bytes.len() {
            assert!(unsealed(&bytes[..len]).is_err(), "{len} bytes of it");
        }
        for index in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[index] ^= 1 << bit;
                let unsealed = unsealed(&changed);
                // The checksum's letters may be large or small.
                let is_letter = bytes[index].is_ascii_lowercase() && bit == 5 && (16..24).contains(&index);
                assert!(unsealed.is_err() || is_letter, "bit {bit} of {index}: {unsealed:?}");
            }
        }
    }
}
