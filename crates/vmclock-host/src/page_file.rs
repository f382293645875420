// SPDX-License-Identifier: MIT OR Apache-2.0
//! The file that a page is published in.
//!
//! A new file appears under its name only when it is complete. One that is there already, because its publisher was
//! stopped or killed, is taken over in place: readers that have it mapped go on with it, and see the change.
#![allow(unsafe_code)]

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr::{null_mut, NonNull};

use rustix::fs::{flock, renameat_with, FlockOperation, Mode, RenameFlags};
use rustix::mm::{mmap, munmap, MapFlags, ProtFlags};
use vmclock_core::abi::{ParseError, Snapshot};
use vmclock_core::page::{Page, TakenOver, Writer};

/// The size of a page file. Systems with larger memory pages map it all the same.
pub const LEN: usize = 4096;

/// Why a page file cannot be published in.
#[derive(Debug, thiserror::Error)]
pub enum PageFileError {
    /// The path is a symbolic link, which could lead anywhere.
    #[error("{}: is a symbolic link, which is not followed: name the file itself", path.display())]
    Symlink {
        /// The path.
        path: PathBuf,
    },
    /// The path is a directory, a device or the like.
    #[error("{}: is not a plain file: remove it, or name another path", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The file belongs to another user.
    #[error("{}: belongs to user {owner}, and this is user {user}: remove it, or name another path", path.display())]
    SomeoneElses {
        /// The path.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The user that we are.
        user: u32,
    },
    /// The file holds something else.
    #[error("{}: {error}: remove the file if nobody needs it, or name another path", path.display())]
    NotAPage {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        error: ParseError,
    },
    /// Another publisher is at work.
    #[error("{}: another publisher is at work on it: stop that one first", path.display())]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// The file is not what it was: somebody removed, replaced or cut it.
    #[error("{}: was {what} while it was being published: start the publisher again", path.display())]
    Lost {
        /// The path.
        path: PathBuf,
        /// What happened to it.
        what: &'static str,
    },
    /// The system refused.
    #[error("{}: cannot {doing}: {error}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

/// A page file, open and locked for one publisher.
#[derive(Debug)]
pub struct PageFile {
    path: PathBuf,
    file: File,
    identity: (u64, u64),
}

/// How a page file came to be ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// There was none.
    New,
    /// There was one, at rest.
    AtRest(Snapshot),
    /// There was one in the middle of an update: its publisher was killed.
    Interrupted(Snapshot),
}

impl PageFile {
    /// Opens the page file at `path`, creating it if there is none. A new file holds `blank`, and a file that is taken
    /// over is left as it is until the writer's first update.
    pub fn open(path: impl AsRef<Path>, blank: Snapshot) -> Result<(Self, Found, Writer<MappedPage>), PageFileError> {
        let path = path.as_ref();
        match std::fs::symlink_metadata(path) {
            Ok(metadata) => Self::take_over(path, &metadata),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::create(path, blank),
            Err(error) => Err(io_error(path, "look at it")(error)),
        }
    }

    fn create(path: &Path, blank: Snapshot) -> Result<(Self, Found, Writer<MappedPage>), PageFileError> {
        let mut name = path.file_name().map(std::ffi::OsStr::to_owned).unwrap_or_default();
        name.push(format!(".{}.new", std::process::id()));
        let unfinished = Unfinished(path.with_file_name(name));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&unfinished.0)
            .map_err(io_error(&unfinished.0, "create it"))?;
        // Whatever the umask: the page is for everybody to read.
        rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644))
            .map_err(|errno| io_error(&unfinished.0, "set its mode")(errno.into()))?;
        file.set_len(LEN as u64).map_err(io_error(&unfinished.0, "make room"))?;
        lock(path, &file)?;
        let page = MappedPage::of(&file).map_err(io_error(&unfinished.0, "map it"))?;
        let writer = Writer::create(page, blank);
        let here = rustix::fs::CWD;
        renameat_with(here, &unfinished.0, here, path, RenameFlags::NOREPLACE)
            .map_err(|errno| io_error(path, "give it its name")(errno.into()))?;
        let metadata = file.metadata().map_err(io_error(path, "look at it"))?;
        let identity = (metadata.dev(), metadata.ino());
        Ok((Self { path: path.into(), file, identity }, Found::New, writer))
    }

    fn take_over(path: &Path, seen: &Metadata) -> Result<(Self, Found, Writer<MappedPage>), PageFileError> {
        let owned = |path: &Path| path.to_path_buf();
        if seen.is_symlink() {
            return Err(PageFileError::Symlink { path: owned(path) });
        }
        if !seen.is_file() {
            return Err(PageFileError::NotAFile { path: owned(path) });
        }
        let user = rustix::process::geteuid().as_raw();
        if seen.uid() != user {
            return Err(PageFileError::SomeoneElses { path: owned(path), owner: seen.uid(), user });
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)
            .map_err(io_error(path, "open it for writing"))?;
        let opened = file.metadata().map_err(io_error(path, "look at it"))?;
        let identity = (opened.dev(), opened.ino());
        if identity != (seen.dev(), seen.ino()) {
            return Err(PageFileError::Lost { path: owned(path), what: "replaced" });
        }
        lock(path, &file)?;
        let len = usize::try_from(opened.len()).unwrap_or(usize::MAX);
        if len < LEN {
            return Err(PageFileError::NotAPage { path: owned(path), error: ParseError::TooShort { len } });
        }
        let page = MappedPage::of(&file).map_err(io_error(path, "map it"))?;
        let (taken_over, writer) =
            Writer::take_over(page, len).map_err(|(error, _)| PageFileError::NotAPage { path: owned(path), error })?;
        let found = match taken_over {
            TakenOver::AtRest => Found::AtRest(*writer.contents()),
            TakenOver::Interrupted => Found::Interrupted(*writer.contents()),
        };
        Ok((Self { path: owned(path), file, identity }, found, writer))
    }

    /// Whether the file is still all there and still has its name. To be asked before each update: writing beyond the
    /// end of a file that was cut would kill the process.
    pub fn check(&self) -> Result<(), PageFileError> {
        let lost = |what| Err(PageFileError::Lost { path: self.path.clone(), what });
        let metadata = self.file.metadata().map_err(io_error(&self.path, "look at it"))?;
        if metadata.len() < LEN as u64 {
            return lost("cut short");
        }
        match std::fs::symlink_metadata(&self.path) {
            Ok(metadata) if (metadata.dev(), metadata.ino()) == self.identity => Ok(()),
            Ok(_) => lost("replaced"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => lost("removed"),
            Err(error) => Err(io_error(&self.path, "look at it")(error)),
        }
    }
}

/// One publisher at a time. The lock goes with the process, however it ends.
fn lock(path: &Path, file: &File) -> Result<(), PageFileError> {
    flock(file, FlockOperation::NonBlockingLockExclusive).map_err(|errno| match errno {
        rustix::io::Errno::WOULDBLOCK => PageFileError::InUse { path: path.into() },
        errno => io_error(path, "lock it")(errno.into()),
    })
}

fn io_error(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> PageFileError {
    let path = path.to_path_buf();
    move |error| PageFileError::Io { path, doing, error }
}

/// A file under a name of its own, gone again unless it was renamed.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Once it was renamed there is nothing to remove.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A page mapped for writing.
#[derive(Debug)]
pub struct MappedPage {
    memory: NonNull<u8>,
}

// SAFETY: the mapping belongs to the process, not to a thread, and all access to it is through atomics.
unsafe impl Send for MappedPage {}
// SAFETY: as above.
unsafe impl Sync for MappedPage {}

impl MappedPage {
    fn of(file: impl AsFd) -> io::Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice disturbs nothing.
        let memory = unsafe { mmap(null_mut(), LEN, access, MapFlags::SHARED, file, 0) }?;
        let memory = NonNull::new(memory.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { memory })
    }
}

impl Deref for MappedPage {
    type Target = Page;

    fn deref(&self) -> &Page {
        // SAFETY: the mapping is longer than the structure, aligned, writable, there until `self` is dropped, and
        // used by this process through this reference only. The file is locked and, before each update, checked.
        unsafe { Page::from_ptr(self.memory.as_ptr()) }
    }
}

impl Drop for MappedPage {
    fn drop(&mut self) {
        // SAFETY: mapped by us with this very length, and nothing refers to it any more.
        // An error would mean that it is not mapped, which is what is wanted.
        let _ = unsafe { munmap(self.memory.as_ptr().cast(), LEN) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{symlink, PermissionsExt};

    fn blank(marker: u64) -> Snapshot {
        Snapshot { disruption_marker: marker, ..Snapshot::BLANK }
    }

    #[test]
    fn a_new_file_is_complete_readable_and_locked() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("page");
        let (file, found, writer) = PageFile::open(&path, blank(7)).expect("created");
        assert_eq!(found, Found::New);
        assert_eq!(writer.contents().disruption_marker, 7);
        let metadata = std::fs::metadata(&path).expect("there");
        assert_eq!((metadata.len(), metadata.permissions().mode() & 0o777), (4096, 0o644));
        let bytes = std::fs::read(&path).expect("readable");
        assert_eq!(Snapshot::from_prefix(&bytes).expect("a page").disruption_marker, 7);
        assert!(matches!(PageFile::open(&path, blank(8)), Err(PageFileError::InUse { .. })));
        assert_eq!(std::fs::read_dir(folder.path()).expect("there").count(), 1, "nothing unfinished is left");
        file.check().expect("still there");
        drop((file, writer));
        let (_, found, _) = PageFile::open(&path, blank(8)).expect("free again");
        assert!(matches!(found, Found::AtRest(page) if page.disruption_marker == 7), "{found:?}");
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("page");
        drop(PageFile::open(&path, blank(1)).expect("created"));
        let link = folder.path().join("link");
        symlink(&path, &link).expect("linked");
        assert!(matches!(PageFile::open(&link, blank(2)), Err(PageFileError::Symlink { .. })));
        assert!(matches!(PageFile::open(folder.path(), blank(2)), Err(PageFileError::NotAFile { .. })));
        let text = folder.path().join("text");
        std::fs::write(&text, "precious ".repeat(1000)).expect("written");
        assert!(matches!(PageFile::open(&text, blank(2)), Err(PageFileError::NotAPage { .. })));
        assert!(std::fs::read_to_string(&text).expect("still there").starts_with("precious"));
        std::fs::write(&text, "").expect("written");
        assert!(matches!(PageFile::open(&text, blank(2)), Err(PageFileError::NotAPage { .. })));
        let nowhere = folder.path().join("no/folder");
        assert!(matches!(PageFile::open(&nowhere, blank(2)), Err(PageFileError::Io { .. })));
    }

    #[test]
    fn a_lost_file_is_noticed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("page");
        let (page, _, _writer) = PageFile::open(&path, blank(1)).expect("created");
        OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(10)).expect("cut");
        assert!(matches!(page.check(), Err(PageFileError::Lost { what: "cut short", .. })));
        OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(4096)).expect("mended");
        page.check().expect("whole again");
        std::fs::remove_file(&path).expect("removed");
        assert!(matches!(page.check(), Err(PageFileError::Lost { what: "removed", .. })));
        std::fs::write(&path, "").expect("written");
        assert!(matches!(page.check(), Err(PageFileError::Lost { what: "replaced", .. })));
    }
}
