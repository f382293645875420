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
//! What a guest states is used only within what the host knows without it, and the page is that guest's own.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use vmclock_core::counter;
use vmclock_core::guest_counter::GuestCounter;
use vmclock_host::identity::never_used;

use crate::machine::Handed;

const REQUEST: u64 = 0x1000;
const ANSWER: u64 = 0x1008;
const COUNTER: u64 = 0x1010;

/// How long a burst of requests may take, as nothing else is done meanwhile ...
const BURST: Duration = Duration::from_millis(5);
/// ... and how long the guest may take for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1);

/// The second page, in the file of the first.
pub(crate) struct SecondPage {
    file: File,
    last: u64,
}

impl SecondPage {
    /// In a file that is open for reading and writing.
    pub(crate) fn in_file(file: File) -> io::Result<Self> {
        // From a random number on, as an old answer may come back with a snapshot.
        Ok(Self { file, last: never_used()? })
    }

    /// Asks the guest for its counter as long as it answers quickly, and narrows what is known.
    pub(crate) fn ask(&mut self, known: &GuestCounter) -> io::Result<Handed> {
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
    fn round(&mut self) -> io::Result<Option<(u64, u64)>> {
        self.last = self.last.wrapping_add(1).max(1);
        let before = counter::read_ordered();
        self.file.write_all_at(&self.last.to_le_bytes(), REQUEST)?;
        let end = Instant::now() + ANSWER_TIMEOUT;
        while self.word(ANSWER)? != self.last {
            if Instant::now() > end {
                return Ok(None);
            }
        }
        let after = counter::read_ordered();
        let guest = self.word(COUNTER)?;
        Ok(Some((guest.wrapping_sub(after), guest.wrapping_sub(before))))
    }

    fn word(&self, offset: u64) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn answer_of(second: &mut SecondPage, known: &GuestCounter) -> Handed {
        // The first bursts may find the thread not yet running.
        loop {
            match second.ask(known).expect("asked") {
                Handed::Nothing => {}
                handed => return handed,
            }
        }
    }

    #[test]
    fn a_true_answer_narrows_and_an_impossible_one_does_not() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(0x10000).expect("long enough");
        let mut second = SecondPage::in_file(file.try_clone().expect("a copy")).expect("opens");
        let now = counter::read_ordered();
        let wide = GuestCounter::resumed(0, now.wrapping_sub(50_000_000), now, now.wrapping_add(50_000_000));
        assert_eq!(second.ask(&wide).expect("asked"), Handed::Nothing);
        let (stop, is_wrong) = (AtomicBool::new(false), AtomicBool::new(false));
        let true_offset = 0_u64.wrapping_sub(now).wrapping_add(1_000_000);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut last = [0; 8];
                while !stop.load(Ordering::Relaxed) {
                    let mut request = [0; 8];
                    file.read_exact_at(&mut request, REQUEST).expect("read");
                    if request != last {
                        let far = if is_wrong.load(Ordering::Relaxed) { 1 << 40 } else { 0 };
                        let guest = counter::read_ordered().wrapping_add(true_offset).wrapping_add(far);
                        file.write_all_at(&guest.to_le_bytes(), COUNTER).expect("written");
                        file.write_all_at(&request, ANSWER).expect("written");
                        last = request;
                    }
                }
            });
            let narrow = answer_of(&mut second, &wide);
            is_wrong.store(true, Ordering::Relaxed);
            let impossible = answer_of(&mut second, &wide);
            stop.store(true, Ordering::Relaxed);
            let Handed::Narrowed { counter, rounds } = narrow else { panic!("{narrow:?}") };
            assert!(rounds > 0 && counter.window() < wide.window());
            let off = counter.offset().wrapping_sub(true_offset).cast_signed().unsigned_abs();
            assert!(off <= counter.error(), "{counter:?} does not have {true_offset}");
            assert_eq!(impossible, Handed::Nonsense);
        });
    }
}
