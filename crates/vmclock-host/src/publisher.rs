// SPDX-License-Identifier: MIT OR Apache-2.0
//! The publisher: measures sources, decides, and keeps a page up to date.
//!
//! A round is [`start_round`](Publisher::start_round), a wait for what [`waiting`](Publisher::waiting) gives, and
//! [`finish_round`](Publisher::finish_round), which concludes with what is there: no source holds up the page, or
//! another source. The machine, the sources and the page are parameters, so that a simulator runs this very code.
//!
//! ```
//! use std::time::Duration;
//! use vmclock_core::abi::ClockStatus;
//! use vmclock_host::page_file::FilePage;
//! use vmclock_host::publisher::{Plan, Prepared};
//! use vmclock_host::source::{kernel::{KernelSource, Trust}, Immediate};
//! use vmclock_host::this_host::ThisHost;
//! use vmclock_host::world::PageSink;
//!
//! let folder = tempfile::tempdir()?;
//! let mut plan = Plan::default();
//! plan.sources.push(Box::new(Immediate::new(KernelSource::new(Trust::HostClock))));
//! let prepared = Prepared::new(ThisHost, plan)?;
//! let (page, found) = FilePage::open(folder.path().join("page"), prepared.blank())?;
//! let (mut publisher, _events) = prepared.on(page, found, "page")?;
//! publisher.refresh(Duration::from_millis(100))?;
//! assert_eq!(publisher.contents().clock_status, ClockStatus::SYNCHRONIZED);
//! publisher.give_up();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::os::fd::BorrowedFd;
use std::time::Duration;

use vmclock_core::abi::{ClockStatus, Snapshot};
use vmclock_core::guest_counter::GuestCounter;
use vmclock_core::leap::LeapKind;
use vmclock_core::tai::TaiOffset;
use vmclock_core::time::{Time, Utc};

pub use crate::clock::{Plan, PublishError, SourceReport};

use crate::clock::{Clock, Round};
use crate::event::{Event, LeapNews, Signal};
use crate::page_file::Found;
use crate::publication::Publication;
use crate::world::{Host, PageSink};

/// A publisher that has no page yet.
pub struct Prepared<H> {
    clock: Clock<H>,
    blank: Snapshot,
    start_at: Option<Time<Utc>>,
    leap: Option<LeapKind>,
    events: Vec<Event>,
}

impl<H: Host> Prepared<H> {
    /// Finds out what has to be known before there is a page. Takes some milliseconds.
    pub fn new(host: H, plan: Plan) -> Result<Self, PublishError> {
        let Plan { settings, sources, tai_offset, trace, state, start_at, leap } = plan;
        // Where an imaginary clock was, nobody can know.
        let state = state.filter(|_| start_at.is_none());
        let (mut clock, events) = Clock::new(host, settings, sources, tai_offset, trace, state)?;
        let blank = clock.blank()?;
        Ok(Self { clock, blank, start_at, leap, events })
    }

    /// What a new page says: that it is initializing.
    pub const fn blank(&self) -> Snapshot {
        self.blank
    }

    /// Publishes on a page that was found so, from now on; `name` is for events. The first round gives it a time.
    pub fn on<S: PageSink>(
        self,
        page: S,
        found: Found,
        name: &str,
    ) -> Result<(Publisher<H, S>, Vec<Event>), PublishError> {
        let Self { clock, blank, start_at, leap, mut events } = self;
        let mut publisher = Publisher { clock, publication: Publication::here(page, name.to_owned()) };
        if found == Found::New {
            events.push(Event::Created { page: name.to_owned() });
        }
        publisher.publication.begin(&mut publisher.clock, blank, found, &mut events)?;
        if let Some(start) = start_at {
            publisher.publication.imagine(&publisher.clock, start)?;
            events.push(Event::Imaginary);
        }
        if let Some(kind) = leap {
            events.push(publisher.announce(Some(kind))?);
        }
        if !publisher.clock.counter_is_trusted() {
            events.push(Event::Counter { trusted: false });
        }
        Ok((publisher, events))
    }
}

/// A clock, and the one page that it is published on.
pub struct Publisher<H, S> {
    pub(crate) clock: Clock<H>,
    pub(crate) publication: Publication<S>,
}

impl<H: Host, S: PageSink> Publisher<H, S> {
    /// The clock.
    pub const fn clock(&self) -> &Clock<H> {
        &self.clock
    }

    /// What the page says.
    pub fn contents(&self) -> &Snapshot {
        self.publication.page.contents()
    }

    /// Where the page is.
    pub const fn page(&self) -> &S {
        &self.publication.page
    }

    /// The sources, and how each is used since the last round.
    pub fn sources(&self) -> Vec<SourceReport> {
        self.clock.sources()
    }

    /// Starts a round: all sources begin to measure.
    pub fn start_round(&mut self) {
        self.clock.start_round();
    }

    /// Whether all sources have answered.
    pub fn is_round_complete(&mut self) -> bool {
        self.clock.is_round_complete()
    }

    /// What becomes readable when a source answers that has not yet.
    pub fn waiting(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.clock.waiting()
    }

    /// A round, in which sources have so much time to answer.
    pub fn refresh(&mut self, timeout: Duration) -> Result<Vec<Event>, PublishError> {
        self.clock.measure(timeout)?;
        self.finish_round()
    }

    /// Ends a round: decides on what the sources have given so far, and brings the page up to date. A source that has
    /// not answered counts as unreachable in this round.
    pub fn finish_round(&mut self) -> Result<Vec<Event>, PublishError> {
        let mut events = Vec::new();
        self.conclude(&mut events, |_, _| Ok(()))?;
        self.clock.set_seen(true);
        Ok(events)
    }

    /// The same, for whoever has more pages of the clock to bring up to date.
    /// `foresee` is called before anything is saved or written.
    pub(crate) fn conclude(
        &mut self,
        events: &mut Vec<Event>,
        foresee: impl FnOnce(&mut Clock<H>, Round) -> Result<(), PublishError>,
    ) -> Result<Round, PublishError> {
        self.publication.page.check()?;
        let round = self.clock.finish_round(events)?;
        foresee(&mut self.clock, round)?;
        self.publication.foresee(&mut self.clock, round)?;
        self.publish(round, events)?;
        Ok(round)
    }

    /// Ends a round while somebody else writes the page, as for a guest that is incoming: decides, and writes nothing. A
    /// disruption gets no marker of its own here: whoever brings the guest gives the page a new one.
    pub fn conclude_unwritten(&mut self) -> Result<Vec<Event>, PublishError> {
        self.publication.page.check()?;
        let mut events = Vec::new();
        self.clock.finish_round(&mut events)?;
        Ok(events)
    }

    /// Brings the page up to date with what is known, without a round: for a page whose counter has become known.
    pub fn publish_known(&mut self) -> Result<Vec<Event>, PublishError> {
        let mut events = Vec::new();
        self.publish(self.clock.current(), &mut events)?;
        Ok(events)
    }

    fn publish(&mut self, round: Round, events: &mut Vec<Event>) -> Result<(), PublishError> {
        let before = self.contents().clock_status;
        if self.publication.publish(&mut self.clock, round)? {
            let Snapshot { clock_status: status, time_maxerror_nanosec: max_error_ns, .. } = *self.contents();
            if status == ClockStatus::SYNCHRONIZED && before != status {
                events.push(Event::Synchronized { max_error_ns });
            }
            events.push(Event::Refreshed { status, max_error_ns });
        }
        Ok(())
    }

    /// From now on the page is about a guest's counter, which gives no time as long as it is not known; what is
    /// measured of this machine's clock continues all the same.
    pub fn set_guest_counter(&mut self, counter: Option<GuestCounter>) {
        self.publication.set_guest_counter(counter);
    }

    /// Changes the page as the machine's lifecycle demands, in one update.
    pub fn update(&mut self, change: impl FnMut(&mut Snapshot)) -> Result<(), PublishError> {
        let mut change = change;
        self.publication.change(&mut self.clock, &mut change)
    }

    /// Continues behind a sequence count that readers may have seen on a page that is not of this publisher.
    pub fn continue_after(&mut self, seq_count: u32) {
        self.publication.page.continue_after(seq_count);
    }

    /// TAI-UTC as the operator states it from now on: the next round takes it up.
    pub fn set_tai_offset(&mut self, stated: Option<TaiOffset>) {
        self.clock.set_tai_offset(stated);
    }

    /// A value for a marker or a generation that was never used before.
    pub fn fresh_identity(&mut self) -> Result<u64, PublishError> {
        self.clock.fresh_identity()
    }

    /// Does to the page what happens to the machine.
    pub fn signal(&mut self, signal: Signal) -> Result<Event, PublishError> {
        if let Signal::Leap(kind) = signal {
            return self.announce(kind);
        }
        self.publication.signal(&mut self.clock, signal)?;
        Ok(Event::Signal { signal, seq_count: self.contents().seq_count })
    }

    fn announce(&mut self, kind: Option<LeapKind>) -> Result<Event, PublishError> {
        let month = self.publication.announce(&mut self.clock, kind)?;
        Ok(Event::Leap { kind, month, news: LeapNews::Expected })
    }

    /// Ends, and leaves the page to the next publisher: its bounds hold, and it says that nobody measures. Where what is
    /// known cannot be saved, the page is given up.
    pub fn leave(&mut self) -> Event {
        self.leave_with(|_, _| ())
    }

    /// The same, for whoever has more pages of the clock: `others` gets them to rest with the round that it is given, or
    /// gives them up.
    pub(crate) fn leave_with(&mut self, others: impl FnOnce(&mut Clock<H>, Option<Round>)) -> Event {
        let round = self.clock.rest();
        others(&mut self.clock, round);
        let left = round.is_some_and(|round| self.publication.leave(&mut self.clock, round).is_ok());
        if !left {
            self.give_up();
        }
        match self.contents().clock_status {
            status if left && status.gives_time() => Event::AtRest { status },
            _ => Event::Stopped,
        }
    }

    /// Marks the page unreliable, for whoever reads it from now on: nobody will correct it any more.
    pub fn give_up(&mut self) {
        self.clock.abandon();
        self.publication.give_up(&mut self.clock);
    }
}
