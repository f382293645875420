// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a page comes from: a mapping, `pread`, or a mock.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmclock_core::abi::{Snapshot, STRUCTURE_LEN};
use vmclock_core::counter;
use vmclock_core::page::{Busy, Page};

use crate::error::ReadError;
use crate::mapping::Mapping;
use crate::mock::Shared;

/// How a page is reached. Kept alive by everything that reads it.
#[derive(Debug)]
pub(crate) enum Source {
    /// Mapped: the ordinary case, without system calls.
    Mapped { mapping: Mapping, file: File },
    /// Read through system calls, where mapping is refused.
    Pread { file: File },
    /// A page in this process with a counter of its own.
    Mock(Arc<Shared>),
}

impl Source {
    /// A validated snapshot, and the counter read within it.
    pub(crate) fn snapshot_with_counter(&self, max_wait: Duration) -> Result<(Snapshot, u64), ReadError> {
        let wait = Patience::new(max_wait);
        match self {
            Self::Mapped { mapping, .. } => {
                let (words, counter) = mapping.page().words_with(counter::read_ordered, wait.into_closure())?;
                Ok((words.decode().clipped(), counter))
            }
            Self::Pread { file } => pread_with_counter(file, wait),
            Self::Mock(shared) => {
                let (words, counter) = shared.page.words_with(|| shared.counter(), wait.into_closure())?;
                Ok((words.decode().clipped(), counter))
            }
        }
    }

    /// The mapped page, for as long as this source lives.
    pub(crate) fn page(&self) -> Option<&'static Page> {
        match self {
            Self::Mapped { mapping, .. } => Some(mapping.page()),
            Self::Pread { .. } | Self::Mock(_) => None,
        }
    }

    /// The file behind the page.
    pub(crate) fn file(&self) -> Option<&File> {
        match self {
            Self::Mapped { file, .. } | Self::Pread { file } => Some(file),
            Self::Mock(_) => None,
        }
    }

    /// How many bytes a plain file has; `None` for anything else.
    pub(crate) fn plain_file_len(&self) -> Option<u64> {
        let metadata = self.file()?.metadata().ok()?;
        metadata.is_file().then_some(metadata.len())
    }
}

/// A consistent copy through `pread`: two equal copies, with the counter read between them.
///
/// A driver copies consistently by itself; a plain file is copied by the kernel while its writer may be at work, and
/// then the count, or a word, differs between the two copies.
fn pread_with_counter(file: &File, mut wait: Patience) -> Result<(Snapshot, u64), ReadError> {
    let mut before = pread(file)?;
    loop {
        let counter = counter::read_ordered();
        let after = pread(file)?;
        let snapshot = Snapshot::from_bytes(&after.bytes);
        if before.bytes == after.bytes && snapshot.seq_count & 1 == 0 {
            check_whole(&snapshot, after.len as u64)?;
            return Ok((snapshot.clipped(), counter));
        }
        if !wait.more() {
            return Err(Busy { seq_count: snapshot.seq_count }.into());
        }
        before = after;
    }
}

/// Whether a snapshot is of a page that is all there, in a file of `len` bytes. What lies beyond the end reads as zero,
/// so that a short file explains whatever is wrong with it.
pub(crate) fn check_whole(snapshot: &Snapshot, len: u64) -> Result<(), ReadError> {
    snapshot.validate(usize::try_from(len).unwrap_or(usize::MAX)).map_err(|error| {
        if len < STRUCTURE_LEN as u64 {
            ReadError::Vanished { len }
        } else {
            ReadError::NotAPage(error)
        }
    })
}

pub(crate) struct Copied {
    pub(crate) bytes: [u8; STRUCTURE_LEN],
    pub(crate) len: usize,
}

/// Reads the structure from the start of a file, which also tells a device that everything up to now was seen.
pub(crate) fn pread(file: &File) -> Result<Copied, ReadError> {
    let mut bytes = [0; STRUCTURE_LEN];
    let len = loop {
        match rustix::io::pread(file, &mut bytes, 0) {
            Ok(len) => break len,
            Err(rustix::io::Errno::INTR) => {}
            // What the driver says where we say `Busy`.
            Err(rustix::io::Errno::TIMEDOUT) => return Err(Busy { seq_count: 1 }.into()),
            Err(errno) => return Err(errno.into()),
        }
    };
    if len < vmclock_core::abi::MIN_REGION_LEN {
        return Err(ReadError::Vanished { len: len as u64 });
    }
    Ok(Copied { bytes, len })
}

/// How long a reader waits for an update to end. The clock starts when the first attempt has failed.
pub(crate) struct Patience {
    max_wait: Duration,
    since: Option<Instant>,
    turns: u32,
}

impl Patience {
    #[inline]
    pub(crate) const fn new(max_wait: Duration) -> Self {
        Self { max_wait, since: None, turns: 0 }
    }

    /// Whether to try again. Gives the CPU away now and then: the writer may be waiting for it.
    #[cold]
    pub(crate) fn more(&mut self) -> bool {
        self.turns = self.turns.wrapping_add(1);
        if self.turns % 64 == 0 {
            std::thread::yield_now();
        }
        self.since.get_or_insert_with(Instant::now).elapsed() < self.max_wait
    }

    #[inline]
    pub(crate) fn into_closure(mut self) -> impl FnMut() -> bool {
        move || self.more()
    }
}
