// SPDX-License-Identifier: MIT OR Apache-2.0
//! The region that guest and host share, through the file that it is: no mapping, so nothing unsafe; a system call
//! more for each word, which the guest's answers are bracketed with, too.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread::yield_now;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{ensure, Context, Result};
use vmclock_core::abi::{Snapshot, STRUCTURE_LEN};
use vmclock_core::counter;
use vmclock_e2e_guest::{BEACON, END, WAKES, WOKEN_AT};

use crate::patience::{TimedOut, PATIENCE};
use crate::truth::Offset;

/// How often the guest is asked for its counter; the answers' brackets are intersected.
const ROUNDS: u32 = 2000;
/// How long a guest takes at most to answer that has a CPU.
const SOON: Duration = Duration::from_micros(50);

pub(crate) struct Region {
    file: File,
    /// Where it begins in the file.
    start: u64,
}

impl Region {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Self::open_at(path, 0)
    }

    /// One that is a part of a file.
    pub(crate) fn open_at(path: &Path, start: u64) -> Result<Self> {
        let file = File::options().read(true).write(true).open(path);
        Ok(Self { file: file.with_context(|| format!("cannot open the page {}", path.display()))?, start })
    }

    pub(crate) fn word(&self, offset: usize) -> Result<u64> {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, self.start + offset as u64)?;
        Ok(u64::from_le_bytes(bytes))
    }

    pub(crate) fn set_word(&self, offset: usize, word: u64) -> Result<()> {
        Ok(self.file.write_all_at(&word.to_le_bytes(), self.start + offset as u64)?)
    }

    /// The bytes of the structure, as they are.
    pub(crate) fn bytes(&self) -> Result<[u8; STRUCTURE_LEN]> {
        let mut bytes = [0; STRUCTURE_LEN];
        self.file.read_exact_at(&mut bytes, self.start)?;
        Ok(bytes)
    }

    pub(crate) fn set_bytes(&self, bytes: &[u8]) -> Result<()> {
        Ok(self.file.write_all_at(bytes, self.start)?)
    }

    /// The page as its publisher has written it: two copies must agree.
    pub(crate) fn page(&self) -> Result<Snapshot> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let (one, other) = (self.bytes()?, self.bytes()?);
            let page = Snapshot::from_bytes(&one);
            if one == other && page.seq_count & 1 == 0 {
                return Ok(page);
            }
            // The publisher may have been put off by us.
            yield_now();
        }
        Err(TimedOut(format!("for {PATIENCE:?} the page has been in the middle of an update")).into())
    }

    /// Lets the guest begin something that lasts until [`end`](Self::end).
    pub(crate) fn begin(&self) -> Result<()> {
        self.set_word(END, 0)
    }

    pub(crate) fn end(&self) -> Result<()> {
        self.set_word(END, 1)
    }

    /// How often poll(2) has woken the guest, and at which sequence count last.
    pub(crate) fn wakes(&self) -> Result<(u64, u64)> {
        Ok((self.word(WAKES)?, self.word(WOKEN_AT)?))
    }

    /// How far the guest's counter is ahead of ours, by many questions to the guest, which must be answering.
    pub(crate) fn guest_minus_host(&self) -> Result<Offset> {
        // Never the number of an earlier question, not even before a restore.
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let first = u64::try_from(since_1970.as_nanos())?;
        let mut known: Option<Offset> = None;
        for round in 0..ROUNDS {
            let asked = first + u64::from(round);
            let before = counter::read_ordered();
            self.set_word(BEACON.ask, asked)?;
            let start = Instant::now();
            while self.word(BEACON.answered)? != asked {
                let waited = start.elapsed();
                if waited > PATIENCE {
                    return Err(TimedOut("the guest does not tell its counter any more".to_owned()).into());
                }
                // It may be waiting for this very CPU. The answer says little now, but it is one.
                if waited > SOON {
                    yield_now();
                }
            }
            let after = counter::read_ordered();
            let guest = self.word(BEACON.counter)?;
            let bracket = Offset::between(guest, before, after);
            known = Some(known.map_or(bracket, |known| known.intersection(bracket)));
        }
        let known = known.context("the guest was asked nothing")?;
        ensure!(known.low <= known.high, "the guest's counter moved against the host's meanwhile: {known:?}");
        Ok(known)
    }
}
