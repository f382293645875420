// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a guest's life does to its page.

use vmclock_core::abi::{ClockStatus, CounterId, Snapshot, MAGIC, STRUCTURE_LEN};
use vmclock_core::guest_counter::GuestCounter;
use vmclock_core::lifecycle::{self, unseen_after, Incoming};
use vmclock_host::event::Event as HostEvent;

/// A guest's page, whoever keeps it up to date.
pub trait GuestPage {
    /// Why it cannot be written.
    type Error;

    /// What was published last.
    fn contents(&self) -> &Snapshot;

    /// Changes the page in one update of the sequence count.
    fn update(&mut self, change: &mut dyn FnMut(&mut Snapshot)) -> Result<(), Self::Error>;

    /// Lets the next update continue behind this sequence count.
    fn continue_after(&mut self, seq_count: u32);

    /// The guest's counter from now on. With `None` no update gives time.
    fn set_guest_counter(&mut self, counter: Option<GuestCounter>);

    /// Publishes what is known of the time at once, without waiting for a source.
    fn publish(&mut self) -> Result<Vec<HostEvent>, Self::Error>;

    /// Concludes a round of measurements, and writes nothing.
    fn conclude_unwritten(&mut self) -> Result<Vec<HostEvent>, Self::Error>;

    /// Concludes a round of measurements, and publishes what follows where the guest's counter is known.
    fn finish_round(&mut self) -> Result<Vec<HostEvent>, Self::Error>;

    /// A value for a marker or a generation that was never used before, and is not 0.
    fn fresh_identity(&mut self) -> Result<u64, Self::Error>;
}

/// A step in a guest's life, as far as its page is concerned. In `tests/common` is a page in memory to do it to.
///
/// ```
/// use vmclock_qemu::page::PageChange;
/// let restored = PageChange::Incoming { saved_state: true, generation: Some(7) };
/// assert_ne!(restored, PageChange::Withhold);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageChange {
    /// The guest's counter is not known for now: no time. Always an update, so that a page which is brought back by a
    /// snapshot is never equal to what is published.
    Withhold,
    /// The guest may have seen sequence counts up to this one, whatever ours are: the next update continues behind it.
    ContinueAfter(u32),
    /// The guest's counter cannot be known.
    NoCounter,
    /// The guest's counter is another one than was published: new marker.
    Disrupted,
    /// A guest from another host or out of saved state, which does not run yet, or only just: new marker.
    Incoming {
        /// There may be copies of it: new generation.
        saved_state: bool,
        /// The generation that it had, where its page shows one.
        generation: Option<u64>,
    },
    /// The guest's counter is known: time.
    Counter(GuestCounter),
    /// A round of measurements is complete.
    Round,
    /// The same while the page's memory is QEMU's to write: nothing is written.
    RoundUnwritten,
}

impl PageChange {
    /// Does it, and returns what the publisher reports.
    pub fn perform<P: GuestPage>(self, page: &mut P) -> Result<Vec<HostEvent>, P::Error> {
        match self {
            Self::ContinueAfter(seen) => page.continue_after(unseen_after(seen)),
            Self::Withhold => {
                page.set_guest_counter(None);
                page.update(&mut |page| page.clock_status = lifecycle::without_time(page.counter_id))?;
            }
            Self::NoCounter => {
                page.set_guest_counter(None);
                page.update(&mut |page| {
                    page.counter_id = CounterId::NONE;
                    page.clock_status = ClockStatus::UNKNOWN;
                })?;
            }
            Self::Disrupted => {
                page.set_guest_counter(None);
                let marker = page.fresh_identity()?;
                page.update(&mut |page| lifecycle::disrupted(page, marker))?;
            }
            Self::Incoming { saved_state, generation } => {
                page.set_guest_counter(None);
                let marker = page.fresh_identity()?;
                let from = if saved_state { Incoming::SavedState(page.fresh_identity()?) } else { Incoming::Migration };
                page.update(&mut |page| {
                    page.vm_generation_counter = generation.unwrap_or(page.vm_generation_counter);
                    lifecycle::incoming(page, from, marker);
                })?;
            }
            Self::Counter(counter) => {
                if page.contents().counter_id == CounterId::NONE {
                    // Guests of x86 only: their counter is the TSC.
                    page.update(&mut |page| page.counter_id = CounterId::X86_TSC)?;
                }
                page.set_guest_counter(Some(counter));
                return page.publish();
            }
            Self::Round => return page.finish_round(),
            Self::RoundUnwritten => return page.conclude_unwritten(),
        }
        Ok(Vec::new())
    }
}

/// What is in the memory of the page, which a guest may write and a snapshot brings back, beside what was published.
///
/// ```
/// use vmclock_core::abi::Snapshot;
/// use vmclock_qemu::page::Seen;
/// let published = Snapshot::BLANK.with(|page| page.seq_count = 8);
/// assert!(Seen::in_memory(&published.to_bytes(), &published, true).is_ours());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Whether the memory holds what was published.
    pub is_published: bool,
    /// Whether the mark beside the page is the last that was made.
    pub is_marked: bool,
    /// The sequence count that was published last.
    pub published: u32,
    /// The sequence count in the memory: the guest has seen it, and perhaps all before.
    pub seq_count: u32,
    /// The generation in the memory, if that is a page which has one.
    pub generation: Option<u64>,
}

impl Seen {
    /// Nothing but sequence count and generation is taken from the memory.
    pub fn in_memory(memory: &[u8; STRUCTURE_LEN], published: &Snapshot, is_marked: bool) -> Self {
        let memory = Snapshot::from_bytes(memory);
        Self {
            is_published: memory == *published,
            is_marked,
            published: published.seq_count,
            seq_count: memory.seq_count,
            generation: memory.generation().filter(|generation| memory.magic == MAGIC && *generation != 0),
        }
    }

    /// Whether nobody else has written the memory since we did, as far as is known.
    pub const fn is_ours(&self) -> bool {
        self.is_published && self.is_marked
    }
}
