// SPDX-License-Identifier: MIT OR Apache-2.0
//! A host's service: one clock, the host's own page, and the pages of its guests.
//!
//! | module | what it is |
//! |---|---|
//! | [`protocol`] | what clients send and receive |
//! | [`server`] | the service's socket |
//! | [`client`] | a client of it |
//! | [`signals`] | the first form of requests |
//! | [`pages`] | the pages of guests, in files |
//! | `guest` | a guest's page, and what a step of its life does to it |
//!
//! A [`Service`] decides and publishes; it has no socket. Requests go in with the user who sent them, answers come out,
//! and events are collected. Sources are polled once for all pages: after a round each page costs one update.

pub mod client;
mod guest;
pub mod pages;
pub mod protocol;
pub mod server;
pub mod signals;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::Duration;

use vmclock_core::abi::{Flags, Snapshot};
use vmclock_core::calibration::Calibration;
use vmclock_core::leap::LeapKind;

use crate::clock::{Clock, PublishError, Round};
use crate::event::{Event, Signal};
use crate::page_file::{Found, PageFileError};
use crate::publisher::Publisher;
use crate::world::{Host, PageSink};

use guest::Guest;
use protocol::{
    answer_line, Answer, Call, Done, GuestList, GuestName, Kind, LeapWord, Notice, PageState, Place, Refusal, Relation,
    Request, SourceList, SourceState, Step, Tracking, Version, Wide, VERSION,
};

use server::Reply;

/// More guests than any host has.
const MOST_GUESTS: usize = 16_384;
/// How many of them a user may have who is neither root nor the service's own.
const MOST_OF_A_USER: usize = 1_024;

/// Who sent a request: what the kernel says of the other end of its socket.
///
/// ```
/// use vmclock_host::service::Peer;
/// let root = Peer { user: 0 };
/// assert_ne!(root, Peer { user: 1000 });
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    /// The user.
    pub user: u32,
}

/// Opens the pages of guests.
pub trait Pages {
    /// A page.
    type Page: GuestSink;

    /// Opens a page, with the file descriptors that came with the request. A new one says `blank`.
    fn open(
        &mut self,
        place: &Place,
        descriptors: Vec<OwnedFd>,
        blank: Snapshot,
    ) -> Result<(Self::Page, Found), PageFileError>;
}

/// A guest's page: its guest may write it too.
pub trait GuestSink: PageSink {
    /// What is in its memory.
    fn memory(&self) -> Snapshot;
}

/// A publisher, and the pages of guests.
pub struct Service<H, S, P: Pages> {
    publisher: Publisher<H, S>,
    pages: P,
    /// The user that the service runs as.
    user: u32,
    guests: BTreeMap<GuestName, Guest<P::Page>>,
    /// The last round, and its number.
    round: Round,
    rounds: u64,
    /// The first guest that may not have been brought up to date since; none where all have.
    next: Option<GuestName>,
    events: Vec<Event>,
}

impl<H: Host, S: PageSink, P: Pages> Service<H, S, P> {
    /// Of a publisher of the host's own page. `user`: the user that this process runs as, who may do all that root may.
    pub fn new(publisher: Publisher<H, S>, pages: P, user: u32) -> Self {
        let round = publisher.clock.current();
        Self { publisher, pages, user, guests: BTreeMap::new(), round, rounds: 0, next: None, events: Vec::new() }
    }

    /// The publisher of the host's own page.
    pub const fn publisher(&self) -> &Publisher<H, S> {
        &self.publisher
    }

    /// The same, to start its rounds and for signals to the host itself.
    pub fn publisher_mut(&mut self) -> &mut Publisher<H, S> {
        &mut self.publisher
    }

    /// What happened since this was last asked.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// How many guests there are.
    pub fn guests(&self) -> usize {
        self.guests.len()
    }

    /// Ends a round: decides, and brings the host's own page up to date. [`catch_up`](Self::catch_up) does the guests'.
    pub fn finish_round(&mut self) -> Result<(), PublishError> {
        let Self { publisher, guests, events, .. } = self;
        // A disruption gives all pages new markers, of which all are saved before any is on its page.
        let round = publisher
            .conclude(events, |clock, round| guests.values_mut().try_for_each(|guest| guest.foresee(clock, round)))?;
        self.begin(round);
        Ok(())
    }

    /// From now on the guests' pages are to be brought up to date with this round.
    fn begin(&mut self, round: Round) {
        // Each page gets each round: a disruption must not be missed.
        while self.catch_up(usize::MAX) {}
        self.round = round;
        self.rounds += 1;
        self.next = self.guests.keys().next().cloned();
    }

    /// Brings the pages of at most so many guests up to date. Says whether there are more.
    pub fn catch_up(&mut self, most: usize) -> bool {
        let Some(first) = self.next.take() else {
            self.publisher.clock.set_seen(true);
            return false;
        };
        let Self { publisher, guests, round, rounds, events, next, .. } = self;
        let mut lost = Vec::new();
        for (count, (name, guest)) in guests.range_mut(first..).enumerate() {
            if count == most {
                *next = Some(name.clone());
                break;
            }
            if let Err(error) = guest.catch_up(&mut publisher.clock, *round, *rounds) {
                lost.push((name.clone(), error));
            }
        }
        for (name, error) in lost {
            Self::lose(&mut publisher.clock, guests, events, &name, &error);
        }
        if self.next.is_none() {
            self.publisher.clock.set_seen(true);
        }
        self.next.is_some()
    }

    /// A guest whose page is gone is gone itself; no other is touched.
    fn lose(
        clock: &mut Clock<H>,
        guests: &mut BTreeMap<GuestName, Guest<P::Page>>,
        events: &mut Vec<Event>,
        name: &GuestName,
        error: &PublishError,
    ) {
        if let Some(mut guest) = guests.remove(name) {
            guest.give_up(clock);
        }
        events.push(Event::GuestLost { guest: name.to_string(), reason: error.to_string() });
    }

    /// Marks all pages unreliable: nobody will correct them any more.
    pub fn give_up(&mut self) {
        let Self { publisher, guests, .. } = self;
        for guest in guests.values_mut() {
            guest.give_up(&mut publisher.clock);
        }
        publisher.give_up();
    }

    /// Ends, and leaves all pages to the next service, as [`Publisher::leave`] does.
    pub fn leave(&mut self) -> Event {
        while self.catch_up(usize::MAX) {}
        let Self { publisher, guests, events, .. } = self;
        publisher.leave_with(|clock, round| {
            for (name, guest) in guests {
                let Some(round) = round else {
                    guest.give_up(clock);
                    continue;
                };
                if let Err(error) = guest.leave(clock, round) {
                    events.push(Event::GuestLost { guest: name.to_string(), reason: error.to_string() });
                }
            }
        })
    }

    /// Answers a line of a client. `next_round`: until the sources are polled again.
    pub fn answer(&mut self, peer: Peer, line: &str, descriptors: Vec<OwnedFd>, next_round: Option<Duration>) -> Reply {
        if let Some(signal) = signals::decode(line) {
            let result = signal.and_then(|signal| self.signal(peer, signal).map_err(|refusal| refusal.text));
            let mut reply = Reply::line(signals::answer(&result));
            reply.closes = true;
            return reply;
        }
        let (id, answer) = match Call::parse(line) {
            Ok(Call { id, request }) => {
                let subscribes = matches!(request, Request::Subscribe {});
                let answer = self.handle(peer, request, descriptors, next_round);
                let mut reply = Reply::line(answer_line(id.as_ref(), &answer));
                reply.subscribes = subscribes;
                return reply;
            }
            Err((id, refusal)) => (id, Err(refusal)),
        };
        Reply::line(answer_line(id.as_ref(), &answer))
    }

    /// What happened to the machine that the host's own page is for.
    fn signal(&mut self, peer: Peer, signal: Signal) -> Result<Snapshot, Refusal> {
        self.must_be_operator(peer, "say what happened to this machine")?;
        if let Signal::Leap(kind) = signal {
            self.announce_leap(kind)?;
        } else {
            let event = self.publisher.signal(signal).map_err(|error| failed(&error))?;
            self.events.push(event);
        }
        Ok(*self.publisher.contents())
    }

    fn announce_leap(&mut self, kind: Option<LeapKind>) -> Result<(), Refusal> {
        let event = self.publisher.signal(Signal::Leap(kind)).map_err(|error| failed(&error))?;
        self.events.push(event);
        // Guests learn of it now, too, not only with the next calibration.
        let round = Round { is_new: true, ..self.publisher.clock.current() };
        self.begin(round);
        Ok(())
    }

    /// Does what a client asks for. What is refused has changed nothing. `next_round`: until the sources are polled
    /// again.
    pub fn handle(
        &mut self,
        peer: Peer,
        request: Request,
        descriptors: Vec<OwnedFd>,
        next_round: Option<Duration>,
    ) -> Result<Answer, Refusal> {
        match request {
            Request::Version {} => {
                let program = env!("CARGO_PKG_VERSION").to_owned();
                Ok(Answer::Version(Version { version: VERSION, program }))
            }
            Request::AddGuest { guest, page, counter, notify, step } => {
                self.add(peer, guest, &page, counter, notify, step, descriptors).map(Answer::Page)
            }
            Request::RemoveGuest { guest } => {
                self.owned(peer, &guest)?;
                if let Some(mut removed) = self.guests.remove(&guest) {
                    removed.give_up(&mut self.publisher.clock);
                }
                self.events.push(Event::GuestRemoved { guest: guest.to_string() });
                Ok(Answer::Done(Done {}))
            }
            Request::Lifecycle { guest, step, counter, seen, generation } => {
                counter.map_or(Ok(()), check)?;
                let generation = generation.map(|generation| generation.0);
                self.change(peer, &guest, |guest, publisher| {
                    guest.step(&mut publisher.clock, step, seen, generation)?;
                    counter.map_or(Ok(()), |counter| guest.set_counter(&mut publisher.clock, counter))
                })?;
                let state = self.guests.get(&guest).map(Guest::page_state).ok_or_else(|| no_such(&guest))?;
                self.events.push(Event::GuestStep {
                    guest: guest.to_string(),
                    step,
                    seq_count: state.seq_count,
                    disruption_marker: state.disruption_marker.0,
                    vm_generation_counter: state.vm_generation_counter.0,
                });
                Ok(Answer::Page(state))
            }
            Request::SetCounter { guest, counter } => {
                check(counter)?;
                self.change(peer, &guest, |guest, publisher| guest.set_counter(&mut publisher.clock, counter))?;
                self.guests.get(&guest).map(|guest| Answer::Page(guest.page_state())).ok_or_else(|| no_such(&guest))
            }
            Request::Announce { guest: Some(guest), notice } => {
                self.change(peer, &guest, |guest, _| guest.announce(notice))?;
                Ok(Answer::Done(Done {}))
            }
            Request::Announce { guest: None, notice } => self.announce_to_all(peer, notice),
            Request::Leap { kind } => {
                self.must_be_operator(peer, "announce a leap second")?;
                let kind = match kind {
                    LeapWord::None => None,
                    LeapWord::Positive => Some(LeapKind::Inserted),
                    LeapWord::Negative => Some(LeapKind::Deleted),
                };
                self.announce_leap(kind)?;
                Ok(Answer::Done(Done {}))
            }
            Request::Inspect { guest } => self.owned(peer, &guest).map(|guest| Answer::Inspection(guest.inspect())),
            Request::Guests {} => {
                let guests = self.guests.iter().map(|(name, guest)| guest.state(name)).collect();
                Ok(Answer::Guests(GuestList { guests }))
            }
            Request::Sources {} => Ok(Answer::Sources(self.sources())),
            Request::Tracking {} => Ok(Answer::Tracking(self.tracking(next_round))),
            Request::Subscribe {} => Ok(Answer::Done(Done {})),
        }
    }

    #[allow(clippy::too_many_arguments)] // the fields of one request
    fn add(
        &mut self,
        peer: Peer,
        name: GuestName,
        place: &Place,
        counter: Relation,
        notify: bool,
        step: Option<Step>,
        descriptors: Vec<OwnedFd>,
    ) -> Result<PageState, Refusal> {
        check(counter)?;
        if self.guests.contains_key(&name) {
            return Err(Refusal::new(Kind::Exists, format!("{name}: there is a guest of this name; remove it first")));
        }
        if matches!(place, Place::Path(_)) {
            self.must_be_operator(peer, "name a page by its path; pass its file descriptor")?;
        }
        if descriptors.len() > usize::from(*place == Place::Descriptor) {
            // Whoever shares a descriptor can make writing to it block.
            self.must_be_operator(peer, "pass a doorbell; ring it yourself when you are answered or sent an event")?;
        }
        let of_user = self.guests.values().filter(|guest| guest.user() == peer.user).count();
        if self.guests.len() >= MOST_GUESTS || (!self.is_operator(peer) && of_user >= MOST_OF_A_USER) {
            let (all, most) = (self.guests.len(), MOST_OF_A_USER);
            let text = format!("{name}: there are {all} guests, {of_user} of user {}, who may have {most}", peer.user);
            return Err(Refusal::new(Kind::TooMany, text));
        }
        let clock = &mut self.publisher.clock;
        let notifies = if notify { Flags::NOTIFICATION_PRESENT } else { Flags::NONE };
        let mut blank = clock.blank().map_err(|error| failed(&error))?;
        blank.flags = blank.flags.with(notifies);
        let bad_page = |error: PageFileError| Refusal::new(Kind::BadPage, error.to_string());
        let (page, found) = self.pages.open(place, descriptors, blank).map_err(bad_page)?;
        let page_name = match place {
            Place::Path(path) => path.display().to_string(),
            Place::Descriptor => "descriptor".into(),
        };
        let mut guest = Guest::new(page, &name, page_name.clone(), peer.user, self.rounds);
        let begun = guest.begin(clock, blank, found, step, counter, &mut self.events);
        if let Err(error) = begun {
            guest.give_up(clock);
            return Err(failed(&error));
        }
        let state = guest.page_state();
        self.events.push(Event::GuestAdded { guest: name.to_string(), page: page_name });
        self.guests.insert(name, guest);
        Ok(state)
    }

    /// Changes a guest that is the peer's. Before that its page gets what it has not got of the last round.
    fn change(
        &mut self,
        peer: Peer,
        name: &GuestName,
        change: impl FnOnce(&mut Guest<P::Page>, &mut Publisher<H, S>) -> Result<(), PublishError>,
    ) -> Result<(), Refusal> {
        self.owned(peer, name)?;
        let Self { publisher, guests, round, rounds, events, .. } = self;
        let Some(guest) = guests.get_mut(name) else { return Err(no_such(name)) };
        let caught_up = guest.catch_up(&mut publisher.clock, *round, *rounds);
        caught_up.and_then(|()| change(guest, publisher)).map_err(|error| {
            Self::lose(&mut publisher.clock, guests, events, name, &error);
            failed(&error)
        })
    }

    fn owned(&mut self, peer: Peer, name: &GuestName) -> Result<&mut Guest<P::Page>, Refusal> {
        let is_operator = self.is_operator(peer);
        let guest = self.guests.get_mut(name).ok_or_else(|| no_such(name))?;
        if is_operator || guest.user() == peer.user {
            Ok(guest)
        } else {
            let text = format!("{name}: belongs to user {}, and this is user {}", guest.user(), peer.user);
            Err(Refusal::new(Kind::Denied, text))
        }
    }

    fn is_operator(&self, peer: Peer) -> bool {
        peer.user == 0 || peer.user == self.user
    }

    fn must_be_operator(&self, peer: Peer, what: &str) -> Result<(), Refusal> {
        if self.is_operator(peer) {
            return Ok(());
        }
        let text = format!("only root and user {} may {what}; this is user {}", self.user, peer.user);
        Err(Refusal::new(Kind::Denied, text))
    }

    fn announce_to_all(&mut self, peer: Peer, notice: Notice) -> Result<Answer, Refusal> {
        self.must_be_operator(peer, "announce to all guests; name one of yours")?;
        let signal = match notice {
            Notice::None => Signal::Clear,
            Notice::Soon => Signal::Soon,
            Notice::Imminent => Signal::Imminent,
        };
        let event = self.publisher.signal(signal).map_err(|error| failed(&error))?;
        self.events.push(event);
        let mut lost = Vec::new();
        for (name, guest) in &mut self.guests {
            if let Err(error) = guest.announce(notice) {
                lost.push((name.clone(), error));
            }
        }
        for (name, error) in lost {
            Self::lose(&mut self.publisher.clock, &mut self.guests, &mut self.events, &name, &error);
        }
        Ok(Answer::Done(Done {}))
    }

    fn sources(&self) -> SourceList {
        let sources = self.publisher.sources().into_iter().map(|report| SourceState {
            source: report.name,
            clock: report.clock,
            standing: report.standing.to_string(),
            reach: report.reach,
            #[allow(clippy::cast_precision_loss)] // to print
            offset_ns: report.last.and_then(|last| last.offset).map(|offset| offset as f64),
            max_error_ns: report.last.map(|last| last.max_error),
            synchronized: report.last.map(|last| last.synchronized),
            age_ns: report.last.map(|last| last.age),
            reason: report.failure,
        });
        SourceList { sources: sources.collect() }
    }

    fn tracking(&self, next_round: Option<Duration>) -> Tracking {
        let (clock, page) = (&self.publisher.clock, self.publisher.contents());
        let (utc, last) = (clock.policy().utc(), clock.last());
        let (scheduled, _) = utc.schedule().at(clock.time());
        let selected = self.publisher.sources().into_iter().filter(|report| report.standing.is_selected());
        Tracking {
            status: clock.status().to_string(),
            disruption_marker: Wide(page.disruption_marker),
            time_type: page.time_type.to_string(),
            tai_minus_utc: utc.published(scheduled).map(vmclock_core::tai::TaiOffset::seconds),
            tai_origin: utc.origin().to_string(),
            leap_indicator: page.leap_indicator.to_string(),
            max_error_ns: clock.max_error(),
            estimated_error_ns: last.and_then(Calibration::time_estimated_error),
            frequency_ppm: clock.frequency_ppm(),
            #[allow(clippy::cast_precision_loss)] // to print
            drift_ppm: clock.policy().estimator().wander() as f64 / 1e6,
            selected: selected.map(|report| report.name).collect(),
            clocks: clock.policy().clocks(),
            update_age_ns: last.map(|last| clock.since(last.reference_counter())),
            next_round_ns: next_round.map(|left| u64::try_from(left.as_nanos()).unwrap_or(u64::MAX)),
            guests: self.guests.len(),
        }
    }
}

/// Refuses a relation with which no page could say anything.
fn check(counter: Relation) -> Result<(), Refusal> {
    if guest::is_sayable(counter) {
        return Ok(());
    }
    let text = format!("counter {counter:?}: its scale is beyond what a page can say");
    Err(Refusal::new(Kind::BadRequest, text))
}

fn no_such(name: &GuestName) -> Refusal {
    Refusal::new(Kind::NoSuchGuest, format!("{name}: there is no such guest; `vmclock guests` lists them"))
}

fn failed(error: &PublishError) -> Refusal {
    Refusal::new(Kind::Failed, error.to_string())
}

#[cfg(test)]
mod tests;
