// SPDX-License-Identifier: MIT OR Apache-2.0
//! The file that a page is published in.
//!
//! A new file appears under its name only when it is complete. One that is there already, because its publisher was
//! stopped or killed, is taken over in place: readers that have it mapped continue with it, and see the change.
//!
//! Beside a page there are, while its publisher runs, `PAGE.lock`, and while a new page is made, `PAGE.new`.

mod lock;
mod mapping;

use std::ffi::OsStr;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{fallocate, fchmod, renameat_with, FallocateFlags, Mode, RenameFlags, CWD};
use rustix::io::{retry_on_intr, Errno};
use vmclock_core::abi::{ClockStatus, ParseError, Snapshot, MAGIC};
use vmclock_core::page::{TakenOver, Writer};

use crate::world::PageSink;

pub use lock::Lock;
pub use mapping::MappedPage;

/// The size of a page file. Systems with larger memory pages map it all the same.
pub const LEN: usize = 4096;

/// Why a page file cannot be published in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
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
    /// Another publisher publishes in it.
    #[error("{}: another publisher publishes in it: stop that one first", path.display())]
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
        /// The system's error.
        error: io::Error,
    },
}

/// A page file, open and locked for one publisher.
#[derive(Debug)]
pub struct PageFile {
    path: PathBuf,
    file: File,
    identity: Identity,
    lock: Lock,
}

/// How a page file was found.
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
        // What cannot be a page gets no lock file beside it.
        existing(path)?;
        let lock = Lock::of(path)?;
        match existing(path)? {
            Some(metadata) => Self::take_over(path, &metadata, lock),
            None => Self::create(path, blank, lock),
        }
    }

    fn create(path: &Path, blank: Snapshot, lock: Lock) -> Result<(Self, Found, Writer<MappedPage>), PageFileError> {
        let (unfinished, file) = Unfinished::create(beside(path, ".new"))?;
        let failed = |doing| io_error(&unfinished.0, doing);
        // Whatever the umask: the page is for everybody to read.
        fchmod(&file, Mode::from_raw_mode(0o644)).map_err(|errno| failed("set its mode")(errno.into()))?;
        allocate(&file).map_err(failed("allocate 4096 bytes for it"))?;
        let page = MappedPage::of(&file).map_err(failed("map it"))?;
        let writer = Writer::create(page, blank);
        renameat_with(CWD, &unfinished.0, CWD, path, RenameFlags::NOREPLACE)
            .map_err(|errno| io_error(path, "give it its name")(errno.into()))?;
        let identity = Identity::of_file(&file).map_err(io_error(path, "ask for its attributes"))?;
        Ok((Self { path: path.into(), file, identity, lock }, Found::New, writer))
    }

    fn take_over(path: &Path, seen: &Metadata, lock: Lock) -> Result<(Self, Found, Writer<MappedPage>), PageFileError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)
            .map_err(io_error(path, "open it for writing"))?;
        let opened = file.metadata().map_err(io_error(path, "ask for its attributes"))?;
        let identity = Identity::of(&opened);
        if identity != Identity::of(seen) {
            return Err(PageFileError::Lost { path: path.into(), what: "replaced" });
        }
        let len = usize::try_from(opened.len()).unwrap_or(usize::MAX);
        if len < LEN {
            return Err(PageFileError::NotAPage { path: path.into(), error: ParseError::TooShort { len } });
        }
        // It may have come here with a hole.
        reserve(&file).map_err(io_error(path, "allocate 4096 bytes for it"))?;
        let page = MappedPage::of(&file).map_err(io_error(path, "map it"))?;
        let (taken_over, writer) =
            Writer::take_over(page, len).map_err(|(error, _)| PageFileError::NotAPage { path: path.into(), error })?;
        let found = match taken_over {
            TakenOver::Static => Found::AtRest(*writer.contents()),
            TakenOver::Interrupted => Found::Interrupted(*writer.contents()),
        };
        Ok((Self { path: path.into(), file, identity, lock }, found, writer))
    }

    /// Whether the file is still complete, still has its name, and is still this publisher's alone. To be asked before
    /// each update: writing beyond the end of a file that was cut would kill the process.
    pub fn check(&mut self) -> Result<(), PageFileError> {
        let lost = |what| Err(PageFileError::Lost { path: self.path.clone(), what });
        if !self.is_complete().map_err(io_error(&self.path, "ask for its attributes"))? {
            return lost("cut short");
        }
        match Identity::of_path(&self.path) {
            Ok(identity) if identity == self.identity => self.lock.check(&self.path),
            Ok(_) => lost("replaced"),
            Err(error) if error.kind() == ErrorKind::NotFound => lost("removed"),
            Err(error) => Err(io_error(&self.path, "ask for its attributes")(error)),
        }
    }

    /// Whether a last word can be written, to those who have the file mapped: it is complete, and no other publisher
    /// has taken it over.
    fn is_writable(&mut self) -> bool {
        let has_its_name = Identity::of_path(&self.path).is_ok_and(|named| named == self.identity);
        self.is_complete().unwrap_or(false) && (!has_its_name || self.lock.check(&self.path).is_ok())
    }

    fn is_complete(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.len() >= LEN as u64)
    }
}

/// A page file and its one writer.
///
/// ```
/// use vmclock_core::abi::{ClockStatus, Snapshot};
/// use vmclock_host::page_file::{FilePage, Found};
/// use vmclock_host::world::PageSink;
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("vmclock");
/// let (mut page, found) = FilePage::open(&path, Snapshot::BLANK.with(|page| page.disruption_marker = 7))?;
/// assert_eq!(found, Found::New);
/// page.update(&mut |next| next.clock_status = ClockStatus::INITIALIZING)?;
/// let published = Snapshot::from_prefix(&std::fs::read(&path)?)?;
/// assert_eq!((published.disruption_marker, published.clock_status), (7, ClockStatus::INITIALIZING));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct FilePage {
    file: PageFile,
    writer: Writer<MappedPage>,
}

impl FilePage {
    /// Opens the page file at `path`: see [`PageFile::open`].
    pub fn open(path: impl AsRef<Path>, blank: Snapshot) -> Result<(Self, Found), PageFileError> {
        let (file, found, writer) = PageFile::open(path, blank)?;
        Ok((Self { file, writer }, found))
    }

    /// What is in the page's memory: see [`Writer::in_memory`].
    pub fn in_memory(&self) -> Snapshot {
        self.writer.in_memory()
    }
}

impl PageSink for FilePage {
    fn contents(&self) -> &Snapshot {
        self.writer.contents()
    }

    fn check(&mut self) -> Result<(), PageFileError> {
        self.file.check()
    }

    fn update(&mut self, change: &mut dyn FnMut(&mut Snapshot)) -> Result<(), PageFileError> {
        self.file.check()?;
        self.writer.update(change);
        Ok(())
    }

    fn update_late(&mut self, change: &mut dyn FnMut(&mut Snapshot)) -> Result<(), PageFileError> {
        self.file.check()?;
        self.writer.update_late(change);
        Ok(())
    }

    fn continue_after(&mut self, seq_count: u32) {
        self.writer.continue_after(seq_count);
    }

    fn give_up(&mut self) {
        if self.file.is_writable() {
            self.writer.update(|page| page.clock_status = ClockStatus::UNRELIABLE);
        }
    }
}

/// Gives a new file its length and all its blocks: a page with a hole kills the process that writes it if the file
/// system is full by then.
fn allocate(file: &File) -> io::Result<()> {
    if reserve(file)? {
        Ok(())
    } else {
        write_zeros(file)
    }
}

/// Gives a file all its blocks, and leaves what is in it as it is. Says whether the file system has such a call.
fn reserve(file: &File) -> io::Result<bool> {
    match retry_on_intr(|| fallocate(file, FallocateFlags::empty(), 0, LEN as u64)) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
        result => Ok(result.map(|()| true)?),
    }
}

/// Fills a new file where the file system has no such call.
fn write_zeros(file: &File) -> io::Result<()> {
    file.write_all_at(&[0; LEN], 0)
}

/// What is at `path`, if anything; an error where it cannot be a page of ours.
fn existing(path: &Path) -> Result<Option<Metadata>, PageFileError> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => Err(PageFileError::Symlink { path: path.into() }),
        Ok(metadata) => is_ours(path, &metadata).map(|()| Some(metadata)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error(path, "ask for its attributes")(error)),
    }
}

/// Whether it is a plain file, and this user's.
fn is_ours(path: &Path, metadata: &Metadata) -> Result<(), PageFileError> {
    let user = rustix::process::geteuid().as_raw();
    if !metadata.is_file() {
        Err(PageFileError::NotAFile { path: path.into() })
    } else if metadata.uid() != user {
        Err(PageFileError::SomeoneElses { path: path.into(), owner: metadata.uid(), user })
    } else {
        Ok(())
    }
}

/// The path of another file beside a page.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().map(OsStr::to_owned).unwrap_or_default();
    name.push(suffix);
    path.with_file_name(name)
}

fn io_error(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> PageFileError {
    let path = path.to_path_buf();
    move |error| PageFileError::Io { path, doing, error }
}

/// The file behind a name: device and inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Identity(u64, u64);

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self(metadata.dev(), metadata.ino())
    }

    fn of_file(file: &File) -> io::Result<Self> {
        file.metadata().map(|metadata| Self::of(&metadata))
    }

    fn of_path(path: &Path) -> io::Result<Self> {
        std::fs::symlink_metadata(path).map(|metadata| Self::of(&metadata))
    }
}

/// A file under a name of its own, removed unless it was renamed.
struct Unfinished(PathBuf);

impl Unfinished {
    /// Makes the file, of which a killed publisher may have left one. Only for whoever holds the lock.
    fn create(path: PathBuf) -> Result<(Self, File), PageFileError> {
        let create = || OpenOptions::new().read(true).write(true).create_new(true).mode(0o644).open(&path);
        let file = match create() {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                remove_stale(&path)?;
                create()
            }
            result => result,
        };
        let file = file.map_err(io_error(&path, "create it"))?;
        Ok((Self(path), file))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Once it was renamed there is nothing to remove.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Removes what a publisher left that was killed while it made a page. Anything else is refused.
fn remove_stale(path: &Path) -> Result<(), PageFileError> {
    let Some(metadata) = existing(path)? else { return Ok(()) };
    let mut first = [0; 4];
    let len = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
    if len != 0 {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
        file.and_then(|file| file.read_exact_at(&mut first, 0)).map_err(io_error(path, "read it"))?;
    }
    let magic = u32::from_le_bytes(first);
    if len > LEN || (magic != 0 && magic != MAGIC) {
        return Err(PageFileError::NotAPage { path: path.into(), error: ParseError::Magic { found: magic } });
    }
    std::fs::remove_file(path).map_err(io_error(path, "remove it, which an earlier publisher left"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{flock, FlockOperation};
    use std::os::unix::fs::{symlink, PermissionsExt};
    use std::process::Command;
    use tempfile::TempDir;
    use vmclock_core::abi::STRUCTURE_LEN;

    fn blank(marker: u64) -> Snapshot {
        Snapshot::BLANK.with(|page| {
            page.disruption_marker = marker;
            page.clock_status = ClockStatus::SYNCHRONIZED;
        })
    }

    fn folder() -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("page");
        (folder, path)
    }

    /// The names in a folder, in order.
    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).expect("there");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("there").file_name().into_string().expect("plain")).collect();
        names.sort();
        names
    }

    fn status(file: &File) -> ClockStatus {
        let mut bytes = [0; STRUCTURE_LEN];
        file.read_exact_at(&mut bytes, 0).expect("readable");
        Snapshot::from_prefix(&bytes).expect("a page").clock_status
    }

    #[test]
    fn a_new_file_is_complete_readable_and_locked() {
        let (folder, path) = folder();
        let (mut file, found, writer) = PageFile::open(&path, blank(7)).expect("created");
        assert_eq!(found, Found::New);
        assert_eq!(writer.contents().disruption_marker, 7);
        let metadata = std::fs::metadata(&path).expect("there");
        assert_eq!((metadata.len(), metadata.permissions().mode() & 0o777), (4096, 0o644));
        let bytes = std::fs::read(&path).expect("readable");
        assert_eq!(Snapshot::from_prefix(&bytes).expect("a page").disruption_marker, 7);
        assert!(matches!(PageFile::open(&path, blank(8)), Err(PageFileError::InUse { .. })));
        assert_eq!(names(folder.path()), ["page", "page.lock"], "nothing unfinished is left");
        let lock = std::fs::metadata(folder.path().join("page.lock")).expect("there");
        assert_eq!(lock.permissions().mode() & 0o777, 0o600, "only its owner can lock it");
        file.check().expect("still there");
        drop((file, writer));
        assert_eq!(names(folder.path()), ["page"]);
        let (_, found, _) = PageFile::open(&path, blank(8)).expect("free again");
        assert!(matches!(found, Found::AtRest(page) if page.disruption_marker == 7), "{found:?}");
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        let (folder, path) = folder();
        drop(PageFile::open(&path, blank(1)).expect("created"));
        let link = folder.path().join("link");
        symlink(&path, &link).expect("linked");
        assert!(matches!(PageFile::open(&link, blank(2)), Err(PageFileError::Symlink { .. })));
        assert!(matches!(PageFile::open(folder.path(), blank(2)), Err(PageFileError::NotAFile { .. })));
        assert_eq!(names(folder.path()), ["link", "page"], "no lock file beside what cannot be a page");
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
        let (_folder, path) = folder();
        let (mut page, _, _writer) = PageFile::open(&path, blank(1)).expect("created");
        OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(10)).expect("cut");
        assert!(matches!(page.check(), Err(PageFileError::Lost { what: "cut short", .. })));
        OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(4096)).expect("mended");
        page.check().expect("complete again");
        std::fs::remove_file(&path).expect("removed");
        assert!(matches!(page.check(), Err(PageFileError::Lost { what: "removed", .. })));
        std::fs::write(&path, "").expect("written");
        assert!(matches!(page.check(), Err(PageFileError::Lost { what: "replaced", .. })));
    }

    #[test]
    fn a_page_is_given_up_whatever_became_of_its_name() {
        let lose: [fn(&Path); 4] = [
            |_| (),
            |path| std::fs::remove_file(path).expect("removed"),
            |path| {
                std::fs::remove_file(path).expect("removed");
                std::fs::write(path, blank(2).to_bytes()).expect("replaced");
            },
            |path| std::fs::remove_file(beside(path, ".lock")).expect("removed"),
        ];
        for lose in lose {
            let (_folder, path) = folder();
            let (mut page, _) = FilePage::open(&path, blank(1)).expect("created");
            let reader = File::open(&path).expect("readable");
            lose(&path);
            page.give_up();
            assert_eq!(status(&reader), ClockStatus::UNRELIABLE);
            if let Ok(file) = File::open(&path) {
                let replaced = Identity::of_file(&file).expect("open") != Identity::of_file(&reader).expect("open");
                assert_eq!(status(&file) == ClockStatus::SYNCHRONIZED, replaced, "only our own page");
            }
        }
    }

    #[test]
    fn a_file_that_was_cut_is_not_written() {
        let (_folder, path) = folder();
        let (mut page, _) = FilePage::open(&path, blank(1)).expect("created");
        OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(0)).expect("cut");
        page.give_up(); // beyond the end of the file: SIGBUS
        assert!(matches!(page.update(&mut |_| ()), Err(PageFileError::Lost { .. })));
        assert_eq!(std::fs::metadata(&path).expect("there").len(), 0);
    }

    #[test]
    fn a_reader_that_locks_the_page_keeps_nobody_out() {
        let (_folder, path) = folder();
        drop(PageFile::open(&path, blank(1)).expect("created"));
        let reader = File::open(&path).expect("readable");
        flock(&reader, FlockOperation::NonBlockingLockExclusive).expect("whoever can open it can lock it");
        let (_, found, _) = PageFile::open(&path, blank(2)).expect("taken over");
        assert!(matches!(found, Found::AtRest(_)), "{found:?}");
    }

    #[test]
    fn a_lock_whose_file_was_removed_is_taken_anew() {
        let (_folder, path) = folder();
        let (mut page, _) = FilePage::open(&path, blank(1)).expect("created");
        std::fs::remove_file(beside(&path, ".lock")).expect("removed");
        page.update(&mut |_| ()).expect("locked anew");
        assert!(matches!(FilePage::open(&path, blank(2)), Err(PageFileError::InUse { .. })));
        // Before the first publisher notices, another one takes the page over: the first one has to stop.
        std::fs::remove_file(beside(&path, ".lock")).expect("removed");
        let (mut other, _) = FilePage::open(&path, blank(2)).expect("not locked");
        other.update(&mut |next| next.disruption_marker = 3).expect("its own");
        assert!(matches!(page.update(&mut |_| ()), Err(PageFileError::InUse { .. })));
        page.give_up();
        drop(page);
        let reader = File::open(&path).expect("readable");
        assert_eq!(status(&reader), ClockStatus::SYNCHRONIZED, "it is the other's page now");
        assert!(matches!(FilePage::open(&path, blank(4)), Err(PageFileError::InUse { .. })), "and the other's lock");
    }

    #[test]
    fn a_lock_file_that_is_something_else_is_refused() {
        let (folder, path) = folder();
        let lock = beside(&path, ".lock");
        let elsewhere = folder.path().join("elsewhere");
        symlink(&elsewhere, &lock).expect("linked");
        assert!(matches!(PageFile::open(&path, blank(1)), Err(PageFileError::Symlink { path }) if path == lock));
        assert!(!elsewhere.exists(), "not followed");
        std::fs::remove_file(&lock).expect("removed");
        std::fs::create_dir(&lock).expect("a folder");
        assert!(matches!(PageFile::open(&path, blank(1)), Err(PageFileError::NotAFile { path }) if path == lock));
        std::fs::remove_dir(&lock).expect("removed");
        // As a killed publisher leaves it.
        std::fs::write(&lock, "").expect("written");
        PageFile::open(&path, blank(1)).expect("locked");
    }

    #[test]
    fn what_a_killed_publisher_left_unfinished_is_removed() {
        let mut complete = blank(9).to_bytes().to_vec();
        complete.resize(LEN, 0);
        for left in [Vec::new(), vec![0; LEN], complete] {
            let (folder, path) = folder();
            std::fs::write(beside(&path, ".new"), left).expect("written");
            let (_file, found, writer) = PageFile::open(&path, blank(1)).expect("created");
            assert_eq!((found, writer.contents().disruption_marker), (Found::New, 1));
            assert_eq!(names(folder.path()), ["page", "page.lock"]);
        }
        let (_folder, path) = folder();
        for precious in ["precious".to_string(), "\0".repeat(LEN + 1)] {
            std::fs::write(beside(&path, ".new"), &precious).expect("written");
            assert!(matches!(PageFile::open(&path, blank(1)), Err(PageFileError::NotAPage { .. })));
            assert_eq!(std::fs::read_to_string(beside(&path, ".new")).expect("still there"), precious);
        }
        assert!(!path.exists());
    }

    #[test]
    fn what_is_allocated_has_no_holes() {
        let allocators: [fn(&File) -> io::Result<()>; 2] = [allocate, write_zeros];
        for allocate in allocators {
            let file = tempfile::tempfile().expect("a file");
            allocate(&file).expect("allocated");
            let metadata = file.metadata().expect("open");
            assert_eq!(metadata.len(), 4096);
            assert!(metadata.blocks() * 512 >= 4096, "{} blocks", metadata.blocks());
        }
    }

    /// Stands in for a full file system, which takes a privilege to mount: a process that may write no more than a
    /// kilobyte to a file, and is not killed when it does.
    #[test]
    fn where_nothing_can_be_allocated_nothing_is_left() {
        const FOLDER: &str = "VMCLOCK_TEST_FOLDER";
        const NAME: &str = "page_file::tests::where_nothing_can_be_allocated_nothing_is_left";
        if let Some(folder) = std::env::var_os(FOLDER) {
            let page = Path::new(&folder).join("page");
            let error = PageFile::open(page, blank(1)).expect_err("too large a file").to_string();
            assert!(error.contains("page.new: cannot allocate 4096 bytes"), "{error}");
            let file = File::create(Path::new(&folder).join("zeros")).expect("created");
            assert_eq!(write_zeros(&file).expect_err("too large").kind(), ErrorKind::FileTooLarge);
            return;
        }
        let (folder, _) = folder();
        let output = Command::new("sh")
            .args(["-c", "trap '' XFSZ; ulimit -f 1; exec \"$@\"", "sh"])
            .arg(std::env::current_exe().expect("this test"))
            .args(["--exact", NAME])
            .env(FOLDER, folder.path())
            .output()
            .expect("a shell");
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && printed.contains("1 passed"), "{output:?}");
        assert_eq!(names(folder.path()), ["zeros"]);
        let full = OpenOptions::new().write(true).open("/dev/full").expect("a device");
        assert_eq!(write_zeros(&full).expect_err("full").kind(), ErrorKind::StorageFull);
    }

    #[test]
    fn a_folder_that_takes_no_files_is_named() {
        // Not even root can make a file there.
        let error = PageFile::open("/proc/page", blank(1)).expect_err("no folder for files").to_string();
        assert!(error.starts_with("/proc/page.lock: cannot open or make it"), "{error}");
    }
}
