// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest of the service: its page, and what a step of its life does to it.

use std::num::NonZeroU64;

use vmclock_core::abi::{CounterId, Flags, Snapshot, MAGIC};
use vmclock_core::calibration::{Calibration, Period};
use vmclock_core::event::Maintenance;
use vmclock_core::lifecycle::{self, later, unseen_after, Incoming};
use vmclock_core::time::Time;

use crate::clock::{Clock, PublishError, Round};
use crate::event::Event;
use crate::page_file::Found;
use crate::publication::Publication;
use crate::world::Host;

use super::protocol::{GuestName, GuestState, Inspection, Notice, PageState, Relation, Step, Wide};
use super::GuestSink;

/// A guest, and its page.
pub(super) struct Guest<S> {
    publication: Publication<S>,
    page: String,
    user: u32,
    counter: Relation,
    last_step: Option<Step>,
    /// Its page is being written by whoever loads it, and not by us.
    is_incoming: bool,
    /// The round that its page was last brought up to date with.
    round: u64,
}

impl<S: GuestSink> Guest<S> {
    /// A guest whose counter is not known yet.
    pub(super) fn new(sink: S, name: &GuestName, page: String, user: u32, round: u64) -> Self {
        let publication = Publication::of_guest(sink, format!("guest {name}"));
        Self { publication, page, user, counter: Relation::Unknown, last_step: None, is_incoming: false, round }
    }

    pub(super) fn user(&self) -> u32 {
        self.user
    }

    /// Publishes on a page that was found so.
    pub(super) fn begin<H: Host>(
        &mut self,
        clock: &mut Clock<H>,
        blank: Snapshot,
        found: Found,
        step: Option<Step>,
        counter: Relation,
        events: &mut Vec<Event>,
    ) -> Result<(), PublishError> {
        // With it, it is known whether what is on the page was published on it.
        self.publication.set_guest_counter(counter.counter());
        self.publication.begin(clock, blank, found, events)?;
        if let Some(step) = step {
            self.step(clock, step, None, None)?;
        }
        self.set_counter(clock, counter)
    }

    /// Brings the page up to date with a round, unless it is already.
    pub(super) fn catch_up<H: Host>(
        &mut self,
        clock: &mut Clock<H>,
        round: Round,
        number: u64,
    ) -> Result<(), PublishError> {
        if std::mem::replace(&mut self.round, number) == number || self.is_incoming {
            return Ok(());
        }
        self.publication.publish(clock, round).map(|_| ())
    }

    /// What happened to the guest, on its page.
    pub(super) fn step<H: Host>(
        &mut self,
        clock: &mut Clock<H>,
        step: Step,
        seen: Option<u32>,
        generation: Option<u64>,
    ) -> Result<(), PublishError> {
        if let Some(seen) = seen {
            let published = self.contents().seq_count;
            self.publication.page.continue_after(unseen_after(later(published, seen)));
        }
        self.last_step = Some(step);
        let is_left = std::mem::replace(&mut self.is_incoming, step == Step::Incoming) && !self.is_incoming;
        if is_left && !matches!(step, Step::Restored | Step::MigratedIn) {
            // It was not loaded after all: nobody knows what the guest has seen, and what it missed.
            self.disrupt(clock)?;
        }
        match step {
            Step::Incoming => self.forget_counter(),
            Step::Paused | Step::MigratedOut | Step::Reset => {
                self.forget_counter();
                self.publication
                    .change(clock, &mut |page| page.clock_status = lifecycle::without_time(page.counter_id))?;
            }
            // The page stays as it is until the counter is known.
            Step::Resumed => {}
            Step::Restored | Step::MigratedIn => {
                self.forget_counter();
                let (marker, fresh) = (clock.fresh_identity()?, clock.fresh_identity()?);
                let from = if step == Step::Restored { Incoming::SavedState(fresh) } else { Incoming::Migration };
                self.publication.change(clock, &mut |page| {
                    page.vm_generation_counter = generation.unwrap_or(page.vm_generation_counter);
                    lifecycle::incoming(page, from, marker);
                })?;
            }
            Step::Cloned => {
                let generation = clock.fresh_identity()?;
                self.publication.change(clock, &mut |page| lifecycle::cloned(page, generation))?;
            }
            Step::Disrupted if is_left => {}
            Step::Disrupted => self.disrupt(clock)?,
        }
        Ok(())
    }

    fn disrupt<H: Host>(&mut self, clock: &mut Clock<H>) -> Result<(), PublishError> {
        self.forget_counter();
        let marker = clock.fresh_identity()?;
        self.publication.change(clock, &mut |page| lifecycle::disrupted(page, marker))
    }

    fn forget_counter(&mut self) {
        self.counter = Relation::Unknown;
        self.publication.set_guest_counter(None);
    }

    /// The guest's counter from now on, on its page at once.
    pub(super) fn set_counter<H: Host>(&mut self, clock: &mut Clock<H>, counter: Relation) -> Result<(), PublishError> {
        self.counter = counter;
        self.publication.set_guest_counter(counter.counter());
        if self.is_incoming {
            return Ok(());
        }
        let id = if counter == Relation::None { CounterId::NONE } else { clock.host.counter_id() };
        let page = *self.contents();
        if page.counter_id != id || (counter.counter().is_none() && page.clock_status.gives_time()) {
            self.publication
                .change(clock, &mut |page| (page.counter_id, page.clock_status) = (id, lifecycle::without_time(id)))?;
        }
        if counter.counter().is_none() {
            return Ok(());
        }
        let round = clock.current();
        self.publication.publish(clock, round).map(|_| ())
    }

    pub(super) fn announce(&mut self, notice: Notice) -> Result<(), PublishError> {
        if self.is_incoming {
            return Ok(());
        }
        let maintenance = match notice {
            Notice::None => Maintenance::None,
            Notice::Soon => Maintenance::Soon,
            Notice::Imminent => Maintenance::Imminent,
        };
        Ok(self.publication.page.update(&mut |page| lifecycle::announced(page, maintenance))?)
    }

    /// [`Publication::foresee`]
    pub(super) fn foresee<H: Host>(&mut self, clock: &mut Clock<H>, round: Round) -> Result<(), PublishError> {
        if self.is_incoming {
            return Ok(());
        }
        self.publication.foresee(clock, round)
    }

    /// Leaves the page to the next service.
    pub(super) fn leave<H: Host>(&mut self, clock: &mut Clock<H>, round: Round) -> Result<(), PublishError> {
        if self.is_incoming {
            return Ok(());
        }
        self.publication.leave(clock, round)
    }

    /// What its page says.
    pub(super) fn contents(&self) -> &Snapshot {
        self.publication.page.contents()
    }

    /// Marks the page unreliable: nobody will correct it any more.
    pub(super) fn give_up<H: Host>(&mut self, clock: &mut Clock<H>) {
        if !self.is_incoming {
            self.publication.give_up(clock);
        }
    }

    pub(super) fn page_state(&self) -> PageState {
        let page = self.contents();
        let gives_bounds = page.clock_status.gives_time() && page.flags.contains(Flags::TIME_MAXERROR_VALID);
        PageState {
            seq_count: page.seq_count,
            disruption_marker: Wide(page.disruption_marker),
            vm_generation_counter: Wide(page.vm_generation_counter),
            clock_status: page.clock_status.to_string(),
            max_error_ns: gives_bounds.then_some(page.time_maxerror_nanosec),
        }
    }

    pub(super) fn state(&self, name: &GuestName) -> GuestState {
        GuestState {
            guest: name.clone(),
            page: self.page.clone(),
            user: self.user,
            counter: self.counter,
            step: self.last_step,
            state: self.page_state(),
        }
    }

    pub(super) fn inspect(&self) -> Inspection {
        let (memory, published) = (self.publication.page.memory(), self.contents());
        let generation = memory.generation().filter(|generation| memory.magic == MAGIC && *generation != 0);
        Inspection {
            is_published: memory == *published,
            published: published.seq_count,
            seq_count: memory.seq_count,
            generation: generation.map(Wide),
        }
    }
}

/// Whether a page can say the time of such a counter, at whatever frequency a host's counter has.
pub(super) fn is_sayable(counter: Relation) -> bool {
    let Some(counter) = counter.counter() else { return true };
    [24_000_000, 10_000_000_000].into_iter().filter_map(NonZeroU64::new).all(|hz| {
        let host = Calibration::new(0, Time::from_parts(0, 0), Period::from_frequency(hz)).with_max_error(0, 0);
        counter.calibration(&host).is_some()
    })
}
