// SPDX-License-Identifier: MIT OR Apache-2.0
//! One publisher at a time: a lock on a file of our own beside the page.
//!
//! The page itself is for everybody to read, and whoever can open a file can lock it. The file beside it can be opened
//! by its owner only.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{flock, FlockOperation};
use rustix::io::Errno;

use super::{beside, io_error, Identity, PageFileError};

/// How often another publisher that ends just now may remove the file before it is locked.
const TRIES: usize = 100;

/// The lock on a page, or on another path of which one publisher at a time makes use, such as its control socket. Held
/// until it is dropped or the process ends, however it ends.
///
/// ```
/// use vmclock_host::page_file::{Lock, PageFileError};
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("page.control");
/// let lock = Lock::of(&path)?;
/// assert!(matches!(Lock::of(&path), Err(PageFileError::InUse { .. })));
/// drop(lock);
/// Lock::of(&path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    /// Locked for as long as it is open.
    _file: File,
    identity: Identity,
}

impl Lock {
    /// Locks `page`, by the file `page.lock`. The error is [`PageFileError::InUse`] if another publisher has it.
    pub fn of(page: &Path) -> Result<Self, PageFileError> {
        let path = beside(page, ".lock");
        for _ in 0..TRIES {
            if let Some(lock) = Self::on(open(&path)?, &path, page)? {
                return Ok(lock);
            }
        }
        Err(PageFileError::InUse { path: page.into() })
    }

    /// Locks the file that was opened at `path`. `None` where it has lost its name since: a lock on it keeps no other
    /// publisher out.
    fn on(file: File, path: &Path, page: &Path) -> Result<Option<Self>, PageFileError> {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(PageFileError::InUse { path: page.into() }),
            Err(errno) => return Err(io_error(path, "lock it")(errno.into())),
        }
        let identity = Identity::of_file(&file).map_err(io_error(path, "ask for its attributes"))?;
        let lock = Self { path: path.into(), _file: file, identity };
        Ok(lock.has_its_name().then_some(lock))
    }

    /// Makes sure that the lock still keeps others out: where its file was removed it is locked anew.
    pub(super) fn check(&mut self, page: &Path) -> Result<(), PageFileError> {
        if !self.has_its_name() {
            *self = Self::of(page)?;
        }
        Ok(())
    }

    fn has_its_name(&self) -> bool {
        Identity::of_path(&self.path).is_ok_and(|named| named == self.identity)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is still locked. One that stays is locked by the next publisher all the same.
        if self.has_its_name() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Opens the file, or makes it. Whatever somebody else put there is refused.
fn open(path: &Path) -> Result<File, PageFileError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path);
    let file = match file {
        Ok(file) => file,
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            return Err(PageFileError::Symlink { path: path.into() });
        }
        Err(error) if matches!(error.kind(), ErrorKind::IsADirectory) || is_no_file(&error) => {
            return Err(PageFileError::NotAFile { path: path.into() });
        }
        Err(error) => return Err(io_error(path, "open or make it, to keep other publishers out")(error)),
    };
    let metadata = file.metadata().map_err(io_error(path, "ask for its attributes"))?;
    super::is_ours(path, &metadata)?;
    Ok(file)
}

/// A socket, or a pipe without a reader.
fn is_no_file(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENXIO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    #[test]
    fn a_file_that_was_removed_before_it_was_locked_is_no_lock() {
        let folder = tempfile::tempdir().expect("a folder");
        let (page, path) = (folder.path().join("page"), folder.path().join("page.lock"));
        let file = open(&path).expect("made");
        drop(Lock::of(&page).expect("locked, and removed"));
        assert!(Lock::on(file, &path, &page).expect("not in use").is_none());
        let (file, _other) = (open(&path).expect("made"), Lock::of(&page).expect("locked"));
        assert!(matches!(Lock::on(file, &path, &page), Err(PageFileError::InUse { .. })));
    }

    #[test]
    fn publishers_that_start_and_end_all_the_time_never_hold_one_page_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let page = folder.path().join("page");
        let (is_held, locked) = (AtomicBool::new(false), AtomicUsize::new(0));
        let publisher = || {
            while locked.load(Ordering::Relaxed) < 2_000 {
                match Lock::of(&page) {
                    Ok(_lock) => {
                        assert!(!is_held.swap(true, Ordering::SeqCst), "two at once");
                        locked.fetch_add(1, Ordering::Relaxed);
                        std::thread::yield_now();
                        is_held.store(false, Ordering::SeqCst);
                    }
                    Err(PageFileError::InUse { .. }) => std::thread::yield_now(),
                    Err(other) => panic!("{other}"),
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(publisher);
            }
        });
        assert!(!beside(&page, ".lock").exists());
    }
}
