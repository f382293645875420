// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest of the host's service: what happens to it becomes requests, and the service writes its page.
//!
//! The page's file is opened and locked here, and passed by descriptor: the service needs no rights in its folder. Where
//! the service goes away while the guest runs, it is asked again with growing pauses, and given the same page. Until it
//! answers, what happens to the guest is written here, and nothing that is written here is a time: the page keeps what
//! the service left on it until the guest's counter changes, and has none from then on.

mod link;
mod local;

use std::fmt::Display;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{eventfd, EventfdFlags};
use rustix::fs::OFlags;
use serde::de::{DeserializeOwned, IgnoredAny};
use vmclock_core::abi::{Snapshot, STRUCTURE_LEN};
use vmclock_core::lifecycle::later;
use vmclock_host::event::{Event as HostEvent, Signal};
use vmclock_host::identity::never_used;
use vmclock_host::page_file::Lock;
use vmclock_host::publisher::PublishError;
use vmclock_host::service::protocol::{
    GuestName, Inspection, Kind, Notice, Place, Refusal, Relation, Request, SourceList, Step, Tracking, Wide,
};

pub use link::{Failure, Link, Socket};

use crate::error::Error;
use crate::event::Event;
use crate::keeper::{allocate, Changed, Keeper, News, Region};
use crate::page::{PageChange, Seen};
use local::Local;

/// The first pause before the service is asked again, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long a service that has closed its connection has to end, or to answer again, before the page is written here.
const ENDING: Duration = Duration::from_secs(5);
/// Between two questions whether it has.
const TICK: Duration = Duration::from_millis(10);

/// A guest whose page the host's service keeps up to date.
pub struct ServiceGuest<L> {
    link: L,
    name: GuestName,
    page: Option<Page>,
    /// Written by the service with each update.
    bell: Option<OwnedFd>,
    counter: Relation,
    is_incoming: bool,
    /// What an incoming guest may have seen.
    seen: Option<u32>,
    /// The service does not answer.
    away: Option<Away>,
    news: News,
}

/// The page's file, which nobody else publishes in.
struct Page {
    file: File,
    _lock: Lock,
}

struct Away {
    next: Instant,
    pause: Duration,
    /// Nobody else writes the page.
    local: Option<Local>,
    /// Why it does not answer, as was last reported.
    reason: String,
}

impl<L: Link> ServiceGuest<L> {
    /// A guest of this name, behind a connection that there is already.
    pub const fn new(link: L, name: GuestName) -> Self {
        let news = News { events: Vec::new(), is_updated: false };
        let (counter, is_incoming) = (Relation::Unknown, false);
        Self { link, name, page: None, bell: None, counter, is_incoming, seen: None, away: None, news }
    }

    fn file(&self) -> Result<&File, Error> {
        self.page.as_ref().map(|page| &page.file).ok_or_else(|| self.refused("its page was not opened"))
    }

    fn refused(&self, why: impl Display) -> Error {
        Error::Service { guest: self.name.to_string(), reason: why.to_string() }
    }

    /// Adds the guest. Where the service takes no doorbell from this user, the guest is not notified.
    fn add(&mut self) -> Result<(), Failure> {
        match self.try_to_add() {
            Err(Failure::Refused(Refusal { kind: Kind::Denied, text, .. })) if self.bell.take().is_some() => {
                self.try_to_add()?;
                self.news.events.push(Event::Warning { text: format!("the guest is not notified: {text}") });
                Ok(())
            }
            added => added,
        }
    }

    fn try_to_add(&mut self) -> Result<(), Failure> {
        let guest = self.name.clone();
        let notify = self.bell.is_some();
        let step = self.is_incoming.then_some(Step::Incoming);
        let request = Request::AddGuest { guest, page: Place::Descriptor, counter: self.counter, notify, step };
        let Some(page) = &self.page else { return Err(Failure::Lost("its page was not opened".into())) };
        let descriptors: Vec<_> = [page.file.as_fd()].into_iter().chain(self.bell.as_ref().map(AsFd::as_fd)).collect();
        self.link.ask(&request, &descriptors).map(|_| ())
    }

    /// Adds it anew where it was left behind by somebody who was killed and had this very page, whose generation nobody
    /// else has.
    fn add_again(&mut self, refusal: Refusal) -> Result<(), Failure> {
        let guest = self.name.clone();
        let found = self.link.ask(&Request::Inspect { guest: guest.clone() }, &[])?;
        let generation = serde_json::from_value::<Inspection>(found).ok().and_then(|found| found.generation);
        if generation.is_none_or(|generation| Some(generation.0) != self.contents().generation()) {
            return Err(Failure::Refused(refusal));
        }
        self.link.ask(&Request::RemoveGuest { guest }, &[])?;
        self.add()
    }

    /// Asks the service. `None` where it does not answer.
    fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<Option<T>, Error> {
        if self.away.is_some() {
            return Ok(None);
        }
        let mut answer = self.link.ask(request, &[]);
        if matches!(&answer, Err(Failure::Refused(Refusal { kind: Kind::NoSuchGuest, .. }))) {
            // Somebody removed it, or it is another service.
            answer = self.add().and_then(|()| self.link.ask(request, &[]));
        }
        match answer {
            Ok(answer) => serde_json::from_value(answer).map(Some).map_err(|error| self.refused(error)),
            Err(Failure::Refused(refusal)) => Err(self.refused(refusal)),
            Err(Failure::Lost(reason)) => {
                self.lose(reason);
                Ok(None)
            }
        }
    }

    fn lose(&mut self, reason: String) {
        self.news.events.push(Event::ServiceLost { reason: reason.clone() });
        self.away = Some(Away { next: Instant::now(), pause: FIRST_PAUSE, local: None, reason });
    }

    /// Asks a service that did not answer once more. Says whether it does.
    fn try_again(&mut self) -> bool {
        let added = self.link.connect().map_err(Failure::Lost).and_then(|()| self.add());
        let failure = match added {
            // It may have been the connection that went away, and not the service.
            Ok(()) | Err(Failure::Refused(Refusal { kind: Kind::Exists, .. })) => None,
            Err(Failure::Refused(refusal)) => Some(refusal.to_string()),
            Err(Failure::Lost(reason)) => Some(reason),
        };
        let Some(away) = &mut self.away else { return true };
        let Some(reason) = failure else {
            self.away = None;
            self.news.events.push(Event::Served { guest: self.name.to_string() });
            return true;
        };
        // A thousand guests do not all ask at once.
        let jitter = never_used().unwrap_or_default() % 50;
        away.next = Instant::now() + away.pause + Duration::from_millis(jitter);
        away.pause = (away.pause * 2).min(LONGEST_PAUSE);
        if away.reason != reason {
            self.news.events.push(Event::ServiceLost { reason: reason.clone() });
            away.reason = reason;
        }
        false
    }

    /// The page, where the service has ended. `None` where it answers again.
    fn local(&mut self) -> Result<Option<&mut Local>, Error> {
        let by = Instant::now() + ENDING;
        while self.away.as_ref().is_some_and(|away| away.local.is_none()) && !self.try_again() {
            // Until then it may still write the page itself.
            if self.link.has_ended() || Instant::now() >= by {
                let local = Local::open(self.file()?).map_err(|error| self.refused(error))?;
                if let Some(away) = &mut self.away {
                    away.local = Some(local);
                }
                break;
            }
            std::thread::sleep(TICK);
        }
        Ok(self.away.as_mut().and_then(|away| away.local.as_mut()))
    }

    /// Asks the service, or does it here.
    fn ask_or(
        &mut self,
        request: &Request,
        here: impl FnOnce(&mut Local) -> Result<(), PublishError>,
    ) -> Result<(), Error> {
        loop {
            if self.ask::<IgnoredAny>(request)?.is_some() {
                return Ok(());
            }
            if let Some(local) = self.local()? {
                return Ok(here(local)?);
            }
        }
    }

    /// What the service is asked for when that happens, and what is known of the guest from then on.
    fn request(&mut self, change: PageChange) -> Option<Request> {
        let guest = self.name.clone();
        let step = |step, seen, generation: Option<u64>| {
            Some(Request::Lifecycle {
                guest: guest.clone(),
                step,
                counter: None,
                seen,
                generation: generation.map(Wide),
            })
        };
        let counter = match change {
            PageChange::Round | PageChange::RoundUnwritten => return None,
            PageChange::ContinueAfter(seen) if self.is_incoming => {
                self.seen = Some(self.seen.map_or(seen, |before| later(before, seen)));
                return None;
            }
            // Nothing is written for that, and all later updates continue behind it.
            PageChange::ContinueAfter(seen) => return step(Step::Resumed, Some(seen), None),
            PageChange::Withhold | PageChange::Disrupted | PageChange::Incoming { .. } => Relation::Unknown,
            PageChange::NoCounter => Relation::None,
            PageChange::Counter(counter) => Relation::Known(counter),
        };
        self.counter = counter;
        match change {
            PageChange::Withhold => step(Step::Paused, None, None),
            PageChange::Disrupted => step(Step::Disrupted, None, None),
            PageChange::Incoming { saved_state, generation } => {
                self.is_incoming = false;
                step(if saved_state { Step::Restored } else { Step::MigratedIn }, self.seen.take(), generation)
            }
            _ => Some(Request::SetCounter { guest, counter }),
        }
    }

    /// Whether the service has written the page since this was last asked.
    fn is_updated(&mut self) -> bool {
        let Some(bell) = &self.bell else { return false };
        rustix::io::read(bell, &mut [0; 8]).is_ok()
    }
}

impl<L: Link> Keeper for ServiceGuest<L> {
    fn prepare(&mut self, region: Region<'_>) -> Result<(), Error> {
        let lock = Lock::of(region.path).map_err(PublishError::from)?;
        let file = open(region.path)?;
        allocate(&file, region.len).map_err(Error::file(region.path, "give it its length"))?;
        self.page = Some(Page { file, _lock: lock });
        if region.notifies {
            let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
            self.bell = Some(bell.map_err(|errno| Error::system("make an eventfd")(errno.into()))?);
        }
        self.is_incoming = region.is_incoming;
        let added = match self.add() {
            Err(Failure::Refused(refusal)) if refusal.kind == Kind::Exists => self.add_again(refusal),
            added => added,
        };
        match added {
            Ok(()) => {
                self.news.events.push(Event::Served { guest: self.name.to_string() });
                Ok(())
            }
            Err(Failure::Refused(refusal)) => Err(self.refused(refusal)),
            Err(Failure::Lost(reason)) => Err(self.refused(reason)),
        }
    }

    fn contents(&self) -> Snapshot {
        let mut bytes = [0; STRUCTURE_LEN];
        let mut page = Snapshot::BLANK;
        // An update takes a microsecond.
        for _ in 0..1_000 {
            let is_read = self.file().is_ok_and(|file| file.read_exact_at(&mut bytes, 0).is_ok());
            page = if is_read { Snapshot::from_bytes(&bytes) } else { page };
            if page.seq_count & 1 == 0 {
                break;
            }
        }
        page
    }

    fn seen(&mut self, _memory: &[u8; STRUCTURE_LEN], is_marked: bool) -> Result<Seen, Error> {
        let request = Request::Inspect { guest: self.name.clone() };
        loop {
            if let Some(found) = self.ask::<Inspection>(&request)? {
                let Inspection { is_published, published, seq_count, generation, .. } = found;
                let generation = generation.map(|wide| wide.0);
                return Ok(Seen { is_published, is_marked, published, seq_count, generation });
            }
            if let Some(local) = self.local()? {
                return Ok(local.seen(is_marked));
            }
        }
    }

    fn change(&mut self, change: PageChange) -> Result<Changed, Error> {
        let Some(request) = self.request(change) else { return Ok(Changed::default()) };
        let mut is_local = false;
        self.ask_or(&request, |local| {
            is_local = true;
            local.change(change)
        })?;
        let is_updated = self.is_updated() || is_local;
        Ok(Changed { events: Vec::new(), is_updated })
    }

    fn expect_guest(&mut self) -> Result<(), Error> {
        self.is_incoming = true;
        self.counter = Relation::Unknown;
        let (guest, step) = (self.name.clone(), Step::Incoming);
        let request = Request::Lifecycle { guest, step, counter: None, seen: None, generation: None };
        self.ask_or(&request, |_| Ok(()))
    }

    fn signal(&mut self, signal: Signal) -> Result<Changed, Error> {
        let guest = self.name.clone();
        let counter = Some(self.counter);
        let step = |step| Request::Lifecycle { guest: guest.clone(), step, counter, seen: None, generation: None };
        let announce = |notice| Request::Announce { guest: Some(guest.clone()), notice };
        let request = match signal {
            Signal::Migrate => step(Step::MigratedIn),
            Signal::Snapshot => step(Step::Restored),
            Signal::Clone => step(Step::Cloned),
            Signal::Soon => announce(Notice::Soon),
            Signal::Imminent => announce(Notice::Imminent),
            Signal::Clear => announce(Notice::None),
            Signal::Leap(_) => return Err(self.refused("leap seconds are announced to the service, for all guests")),
        };
        if self.ask::<IgnoredAny>(&request)?.is_none() {
            return Err(self.refused("the service does not answer: send the signal again when it does"));
        }
        let is_updated = self.is_updated();
        Ok(Changed { events: vec![HostEvent::Signal { signal, seq_count: self.contents().seq_count }], is_updated })
    }

    fn why_no_time(&mut self) -> Result<Option<String>, Error> {
        let Some(tracking) = self.ask::<Tracking>(&Request::Tracking {})? else {
            return Ok(Some("the service does not answer".into()));
        };
        if matches!(tracking.status.as_str(), "synchronized" | "free-running") {
            return Ok(None);
        }
        let sources = self.ask::<SourceList>(&Request::Sources {})?.unwrap_or_default().sources;
        let states = sources
            .into_iter()
            .map(|source| source.reason.unwrap_or_else(|| format!("{} is {}", source.source, source.standing)));
        let states: Vec<_> = states.collect();
        Ok(Some(format!("the service's clock is {}: {}", tracking.status, states.join("; "))))
    }

    fn has_rounds(&self) -> bool {
        false
    }

    fn first_round(&mut self, _timeout: Duration) -> Result<Vec<HostEvent>, Error> {
        Ok(Vec::new())
    }

    fn start_round(&mut self) {}

    fn is_round_complete(&mut self) -> bool {
        true
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let link = if self.away.is_none() { self.link.fd() } else { None };
        self.bell.as_ref().map(AsFd::as_fd).into_iter().chain(link).collect()
    }

    fn due(&self) -> Option<Instant> {
        self.away.as_ref().map(|away| away.next)
    }

    fn attend(&mut self) -> Result<News, Error> {
        match &self.away {
            None => {
                if let Some(reason) = self.link.lost() {
                    self.lose(reason);
                }
            }
            Some(away) if Instant::now() >= away.next => {
                self.try_again();
            }
            Some(_) => {}
        }
        let is_updated = self.is_updated();
        let news = std::mem::take(&mut self.news);
        Ok(News { is_updated: is_updated || news.is_updated, ..news })
    }

    fn fresh_identity(&mut self) -> Result<u64, Error> {
        Ok(never_used().map_err(PublishError::Identity)?)
    }

    fn give_up(&mut self) {
        let request = Request::RemoveGuest { guest: self.name.clone() };
        // Whoever ends cannot do more than try.
        let _ = self.ask_or(&request, |local| {
            local.give_up();
            Ok(())
        });
    }
}

/// Opens a page's file, or makes it.
fn open(path: &Path) -> Result<File, Error> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false).mode(0o644);
    let flags = i32::try_from(flags).unwrap_or_default();
    let file = options.custom_flags(flags).open(path).map_err(Error::file(path, "open it"))?;
    let metadata = file.metadata().map_err(Error::file(path, "ask for its attributes"))?;
    let (owner, user) = (metadata.uid(), rustix::process::geteuid().as_raw());
    let wrong = |what: String| Error::file(path, "publish in it")(io::Error::new(io::ErrorKind::InvalidInput, what));
    if !metadata.is_file() {
        return Err(wrong("it is not a plain file: remove it, or name another path".into()));
    }
    if owner != user {
        let what = format!("it belongs to user {owner}, and this is user {user}: remove it, or name another path");
        return Err(wrong(what));
    }
    Ok(file)
}
