// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a page comes from: a mapping, `pread`, or a mock.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmclock_core::abi::{Snapshot, STRUCTURE_LEN};
use vmclock_core::counter;
use vmclock_core::page::Busy;

use crate::error::ReadError;
use crate::mapping::Mapping;
use crate::mock::Shared;
use crate::vanished::{Loss, Origin};

/// How a page is reached. Kept alive by everything that reads it.
#[derive(Debug)]
pub(crate) enum Source {
    /// Mapped: the ordinary case, without system calls.
    Mapped { mapping: Mapping, origin: Origin },
    /// Read through system calls, where mapping is refused.
    Pread { origin: Origin },
    /// A page in this process with a counter of its own.
    Mock(Arc<Shared>),
}

impl Source {
    /// A validated snapshot, and the counter read within it.
    pub(crate) fn snapshot_with_counter(&self, max_wait: Duration) -> Result<(Snapshot, u64), ReadError> {
        let timeout = Timeout::new(max_wait);
        match self {
            Self::Mapped { mapping, .. } => {
                let (words, counter) = mapping.page().words_with(counter::read_ordered, timeout.into_closure())?;
                Ok((words.decode().clipped(), counter))
            }
            Self::Pread { origin } => pread_with_counter(&origin.file, timeout),
            Self::Mock(shared) => {
                let (words, counter) = shared.page.words_with(|| shared.counter(), timeout.into_closure())?;
                Ok((words.decode().clipped(), counter))
            }
        }
    }

    /// The mapping, where there is one.
    pub(crate) fn mapping(&self) -> Option<&Mapping> {
        match self {
            Self::Mapped { mapping, .. } => Some(mapping),
            Self::Pread { .. } | Self::Mock(_) => None,
        }
    }

    /// Where the page was opened.
    pub(crate) fn origin(&self) -> Option<&Origin> {
        match self {
            Self::Mapped { origin, .. } | Self::Pread { origin } => Some(origin),
            Self::Mock(_) => None,
        }
    }

    /// Whether the page is still there.
    pub(crate) fn check(&self) -> Result<(), Loss> {
        match self {
            Self::Mapped { origin, .. } | Self::Pread { origin } => origin.check(),
            Self::Mock(shared) if shared.is_removed() => Err(Loss::Removed),
            Self::Mock(_) => Ok(()),
        }
    }

    /// How many bytes a plain file has; `None` for anything else.
    pub(crate) fn plain_file_len(&self) -> Option<u64> {
        let metadata = self.origin()?.file.metadata().ok()?;
        metadata.is_file().then_some(metadata.len())
    }
}

/// A consistent copy through `pread`: two equal copies, with the counter read between them.
///
/// A driver copies consistently by itself; a plain file is copied by the kernel while its writer may be at work, and
/// then the count, or a word, differs between the two copies.
fn pread_with_counter(file: &File, mut timeout: Timeout) -> Result<(Snapshot, u64), ReadError> {
    let mut before = pread(file)?;
    loop {
        let counter = counter::read_ordered();
        let after = pread(file)?;
        let snapshot = Snapshot::from_bytes(&after.bytes);
        if before.bytes == after.bytes && snapshot.seq_count & 1 == 0 {
            check_whole(&snapshot, after.len as u64)?;
            return Ok((snapshot.clipped(), counter));
        }
        if !timeout.allows_retry() {
            return Err(Busy::at(snapshot.seq_count).into());
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

/// Reads the structure from the start of a file. For an open file of a device this also marks all updates up to now as
/// seen.
pub(crate) fn pread(file: &File) -> Result<Copied, ReadError> {
    let mut bytes = [0; STRUCTURE_LEN];
    let len = loop {
        match rustix::io::pread(file, &mut bytes, 0) {
            Ok(len) => break len,
            Err(rustix::io::Errno::INTR) => {}
            // The driver's word for `Busy`.
            Err(rustix::io::Errno::TIMEDOUT) => return Err(Busy::at(1).into()),
            Err(errno) => return Err(ReadError::of_system(errno)),
        }
    };
    if len < vmclock_core::abi::MIN_REGION_LEN {
        return Err(ReadError::Vanished { len: len as u64 });
    }
    Ok(Copied { bytes, len })
}

/// How long a reader waits for an update to end. The time starts when the first attempt has failed.
pub(crate) struct Timeout {
    max_wait: Duration,
    since: Option<Instant>,
    retries: u32,
}

impl Timeout {
    #[inline]
    pub(crate) const fn new(max_wait: Duration) -> Self {
        Self { max_wait, since: None, retries: 0 }
    }

    /// Whether to try again. Yields the CPU now and then: the writer may be waiting for it.
    #[cold]
    pub(crate) fn allows_retry(&mut self) -> bool {
        self.retries = self.retries.wrapping_add(1);
        if self.retries % 64 == 0 {
            std::thread::yield_now();
        }
        self.since.get_or_insert_with(Instant::now).elapsed() < self.max_wait
    }

    #[inline]
    pub(crate) fn into_closure(mut self) -> impl FnMut() -> bool {
        move || self.allows_retry()
    }
}
