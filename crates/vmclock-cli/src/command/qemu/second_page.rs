// SPDX-License-Identifier: MIT OR Apache-2.0
//! The second page of the shared region: a program in the guest hands over the guest's counter.
//!
//! | offset | written by | what |
//! |---|---|---|
//! | 0x1000 | host | the number of a request |
//! | 0x1008 | guest | the number of the request that it answers, stored after the counter |
//! | 0x1010 | guest | its counter, read after it saw the request |
//!
//! The answer was read between the request and the moment at which the host sees it, so each round gives both a lower
//! and an upper bound of the offset between the two counters, and what all rounds allow is narrower than any of them.
//! What a guest says is believed only within what the host knows without it, and the page is that guest's own.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use vmclock_core::counter;
use vmclock_host::identity::never_used;

use vmclock_vmm::counter::GuestCounter;

const REQUEST: u64 = 0x1000;
const ANSWER: u64 = 0x1008;
const COUNTER: u64 = 0x1010;

/// How long a burst of requests may take, as nothing else is done meanwhile ...
const BURST: Duration = Duration::from_millis(5);
/// ... and how long the guest may take for one answer.
const PATIENCE: Duration = Duration::from_millis(1);

pub(super) struct SecondPage {
    file: File,
    last: u64,
}

/// What a burst of requests gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handed {
    /// No answer: nobody in the guest does this.
    Nothing,
    /// Answers that cannot be true.
    Nonsense,
    /// The counter within what so many rounds allow.
    Narrowed { counter: GuestCounter, rounds: u32 },
}

impl SecondPage {
    pub(super) fn open(page: &Path) -> anyhow::Result<Self> {
        let file = File::options().read(true).write(true).open(page);
        let file = file.with_context(|| format!("{}: cannot open it for the second page", page.display()))?;
        // From a random number on, as an old answer may come back with a snapshot.
        Ok(Self { file, last: never_used().context("the kernel gives no random numbers")? })
    }

    /// Asks the guest for its counter as long as it answers quickly, and narrows what is known. A scaled counter is not
    /// asked for: what a round gives is the difference of two counters of one rate, and who scales (KVM) knows the
    /// offset exactly.
    pub(super) fn ask(&mut self, known: &GuestCounter) -> anyhow::Result<Handed> {
        if known.scale().is_some() {
            return Ok(Handed::Nothing);
        }
        let end = Instant::now() + BURST;
        let (mut narrowed, mut rounds) = (*known, 0);
        while Instant::now() < end {
            let Some((low, high)) = self.round()? else { break };
            match narrowed.narrowed(low, high) {
                Some(better) => narrowed = better,
                None => return Ok(Handed::Nonsense),
            }
            rounds += 1;
        }
        Ok(if rounds == 0 { Handed::Nothing } else { Handed::Narrowed { counter: narrowed, rounds } })
    }

    /// The lowest and the highest offset that one answer allows.
    fn round(&mut self) -> anyhow::Result<Option<(u64, u64)>> {
        self.last = self.last.wrapping_add(1).max(1);
        let before = counter::read_ordered();
        self.file.write_all_at(&self.last.to_le_bytes(), REQUEST).context("cannot write the second page")?;
        let end = Instant::now() + PATIENCE;
        while self.word(ANSWER)? != self.last {
            if Instant::now() > end {
                return Ok(None);
            }
        }
        let after = counter::read_ordered();
        let guest = self.word(COUNTER)?;
        Ok(Some((guest.wrapping_sub(after), guest.wrapping_sub(before))))
    }

    fn word(&self, offset: u64) -> anyhow::Result<u64> {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, offset).context("cannot read the second page")?;
        Ok(u64::from_le_bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use vmclock_vmm::counter::Scale;

    #[test]
    fn a_guest_that_answers_narrows_and_one_that_lies_does_not() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        file.as_file().set_len(0x10000).expect("room");
        let mut second = SecondPage::open(file.path()).expect("opens");
        let now = counter::read_ordered();
        let wide = GuestCounter::resumed(0, now.wrapping_sub(50_000_000), now, now.wrapping_add(50_000_000));
        assert_eq!(second.ask(&wide).expect("asked"), Handed::Nothing);
        let (stop, lie) = (AtomicBool::new(false), AtomicBool::new(false));
        let true_offset = 0_u64.wrapping_sub(now).wrapping_add(1_000_000);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut last = [0; 8];
                while !stop.load(Ordering::Relaxed) {
                    let mut request = [0; 8];
                    file.as_file().read_exact_at(&mut request, REQUEST).expect("read");
                    if request != last {
                        let far = if lie.load(Ordering::Relaxed) { 1 << 40 } else { 0 };
                        let guest = counter::read_ordered().wrapping_add(true_offset).wrapping_add(far);
                        file.as_file().write_all_at(&guest.to_le_bytes(), COUNTER).expect("written");
                        file.as_file().write_all_at(&request, ANSWER).expect("written");
                        last = request;
                    }
                }
            });
            // The first bursts may find the thread not yet running.
            let handed = (0..200).find_map(|_| match second.ask(&wide).expect("asked") {
                Handed::Nothing => None,
                handed => Some(handed),
            });
            let Some(Handed::Narrowed { counter, rounds }) = handed else { panic!("{handed:?}") };
            assert!(rounds > 0 && counter.window() < wide.window());
            let off = counter.offset().wrapping_sub(true_offset);
            assert!(off.min(off.wrapping_neg()) <= counter.error(), "{counter:?} does not have {true_offset}");
            let scale = Scale { ratio: 1 << 47, fraction_bits: 48 };
            let request = second.last;
            let scaled = second.ask(&GuestCounter::exact(7, Some(scale))).expect("not asked");
            assert_eq!((scaled, second.last), (Handed::Nothing, request), "no request");
            lie.store(true, Ordering::Relaxed);
            let handed = (0..200).find_map(|_| match second.ask(&counter).expect("asked") {
                Handed::Nothing => None,
                handed => Some(handed),
            });
            assert_eq!(handed, Some(Handed::Nonsense));
            stop.store(true, Ordering::Relaxed);
        });
    }
}
