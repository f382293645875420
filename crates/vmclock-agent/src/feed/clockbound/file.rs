// SPDX-License-Identifier: MIT OR Apache-2.0
//! The file of a segment: made, taken over in place, locked, written under its generation.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{fence, Ordering};

use rustix::fs::{flock, FlockOperation};
use rustix::io::Errno;

use super::segment::{Mapped, MAX_LEN};
use crate::feed::{io_error, FeedError};

/// "AMZNCB" and the number of the protocol, as two words.
const MAGIC: [u32; 2] = [0x414d_5a4e, 0x4342_0200];
pub(super) const HEADER_LEN: usize = 16;

/// What is in a segment after its header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Layout {
    /// As the header has it.
    pub(super) version: u16,
    /// Words of 8 bytes after the header.
    pub(super) words: usize,
}

impl Layout {
    /// Bytes in all.
    pub(super) const fn len(self) -> usize {
        HEADER_LEN + 8 * self.words
    }

    /// The header of a segment.
    pub(super) fn header(self, generation: u16) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..4].copy_from_slice(&MAGIC[0].to_ne_bytes());
        bytes[4..8].copy_from_slice(&MAGIC[1].to_ne_bytes());
        #[allow(clippy::cast_possible_truncation)] // 104 at most
        bytes[8..12].copy_from_slice(&(self.len() as u32).to_ne_bytes());
        bytes[12..14].copy_from_slice(&self.version.to_ne_bytes());
        bytes[14..].copy_from_slice(&generation.to_ne_bytes());
        bytes
    }
}

/// A segment's file that this process writes.
#[derive(Debug)]
pub(super) struct SegmentFile {
    path: PathBuf,
    layout: Layout,
    /// Locked, for as long as it is open.
    file: File,
    memory: Mapped,
}

impl SegmentFile {
    /// Takes over the segment at `path`, or makes one.
    pub(super) fn open(path: &Path, layout: Layout) -> Result<Self, FeedError> {
        let file = match take_over(path, layout)? {
            Some(file) => file,
            None => create(path, layout)?,
        };
        let memory = Mapped::of(&file).map_err(io_error(path, "map it"))?;
        Ok(Self { path: path.to_owned(), layout, file, memory })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes all that is after the header.
    pub(super) fn write(&mut self, words: &[u64]) -> Result<(), FeedError> {
        debug_assert_eq!(words.len(), self.layout.words, "the layout's");
        self.check()?;
        let segment = &*self.memory;
        let generation = segment.generation.load(Ordering::Relaxed) | 1;
        segment.generation.store(generation, Ordering::Relaxed);
        fence(Ordering::Release);
        for (to, from) in segment.body.iter().zip(words) {
            to.store(*from, Ordering::Relaxed);
        }
        // Never 0, which says that nothing was written yet.
        let generation = generation.checked_add(1).unwrap_or(2);
        segment.generation.store(generation, Ordering::Release);
        Ok(())
    }

    /// Fails if the file is not the one that we have mapped any more, or shorter.
    fn check(&self) -> Result<(), FeedError> {
        let path = &self.path;
        let ours = self.file.metadata().map_err(io_error(path, "ask for its attributes"))?;
        let named = fs::symlink_metadata(path).map_err(io_error(path, "ask for its attributes"))?;
        let what = if (ours.dev(), ours.ino()) != (named.dev(), named.ino()) {
            "replaced"
        } else if ours.len() < self.layout.len() as u64 {
            "cut short"
        } else {
            return Ok(());
        };
        let what = format!("was {what} by somebody else: stop ClockBound's daemon, if it runs, and open it again");
        Err(FeedError::Setting { name: name(path), what })
    }
}

/// Takes over a valid segment, if there is one.
fn take_over(path: &Path, layout: Layout) -> Result<Option<File>, FeedError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = match options.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error(path, "open it for writing")(error)),
    };
    let metadata = file.metadata().map_err(io_error(path, "ask for its attributes"))?;
    if !metadata.is_file() {
        let what = "is not a plain file: remove it, or name another path".to_owned();
        return Err(FeedError::Setting { name: name(path), what });
    }
    lock(&file, path)?;
    let mut header = [0; HEADER_LEN];
    let len = file.read_at(&mut header, 0).map_err(io_error(path, "read it"))?;
    if len > 0 && header[..8] != layout.header(2)[..8] {
        let what = "holds something else: remove the file if nobody needs it, or name another path".to_owned();
        return Err(FeedError::Setting { name: name(path), what });
    }
    let is_valid = metadata.len() >= layout.len() as u64
        && header[..14] == layout.header(2)[..14]
        // A client takes 0 for a segment that was never written.
        && header[14..] != [0, 0];
    Ok(is_valid.then_some(file))
}

/// Makes a segment of its own, complete before it has its name; what is there is replaced.
fn create(path: &Path, layout: Layout) -> Result<File, FeedError> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.exists()) {
        fs::create_dir_all(folder).map_err(io_error(folder, "make the folder"))?;
        // Whatever the umask: for everybody to find the segment.
        let everybody = fs::Permissions::from_mode(0o755);
        fs::set_permissions(folder, everybody).map_err(io_error(folder, "set the folder's mode"))?;
    }
    let mut new = path.to_owned().into_os_string();
    new.push(format!(".{}.new", std::process::id()));
    let new = PathBuf::from(new);
    // A writer that was killed, with a number that is ours now.
    let _ = fs::remove_file(&new);
    let made = || -> Result<File, FeedError> {
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .write(true)
            .create_new(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&new)
            .map_err(io_error(&new, "make it"))?;
        lock(&file, &new)?;
        let failed = io_error(&new, "write it");
        let mut bytes = [0; MAX_LEN];
        bytes[..HEADER_LEN].copy_from_slice(&layout.header(2));
        file.write_all(&bytes[..layout.len()]).map_err(failed)?;
        // Whatever the umask: it is for everybody to read.
        file.set_permissions(fs::Permissions::from_mode(0o644)).map_err(io_error(&new, "set its mode"))?;
        fs::rename(&new, path).map_err(io_error(path, "give it its name"))?;
        Ok(file)
    };
    made().inspect_err(|_| {
        let _ = fs::remove_file(&new);
    })
}

/// One writer for a segment. ClockBound's daemon does not lock it; see [`daemons`](super::daemons).
fn lock(file: &File, path: &Path) -> Result<(), FeedError> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => {
            let what = "another process writes it: stop that one, or name another path".to_owned();
            Err(FeedError::Setting { name: name(path), what })
        }
        Err(errno) => Err(io_error(path, "lock it")(errno)),
    }
}

/// What a feed is called in messages.
pub(super) fn name(path: &Path) -> String {
    format!("clockbound {}", path.display())
}
