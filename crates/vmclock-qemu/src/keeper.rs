// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whoever keeps a guest's page up to date: a publisher of the guest's own, or the host's service.

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use vmclock_core::abi::{Flags, Snapshot, STRUCTURE_LEN};
use vmclock_core::guest_counter::GuestCounter;
use vmclock_host::event::{Event as HostEvent, Signal};
use vmclock_host::publisher::{PublishError, Publisher};
use vmclock_host::world::{Host, PageSink};

use crate::error::Error;
use crate::event::Event;
use crate::page::{GuestPage, PageChange, Seen};

/// A page's file, as the guest needs it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Region<'a> {
    /// The file, by an absolute path.
    pub path: &'a Path,
    /// How long it has to be, in bytes.
    pub len: u64,
    /// Whether the guest is notified of updates.
    pub notifies: bool,
    /// Whether the guest is still to come, with a page of its own.
    pub is_incoming: bool,
}

impl<'a> Region<'a> {
    /// For a guest that is there, and that is not notified.
    pub const fn new(path: &'a Path, len: u64) -> Self {
        Self { path, len, notifies: false, is_incoming: false }
    }

    /// The same, for a guest that is notified, or is not.
    #[must_use]
    pub const fn notifying(self, notifies: bool) -> Self {
        Self { notifies, ..self }
    }

    /// The same, for a guest that is still to come, or is there.
    #[must_use]
    pub const fn incoming(self, is_incoming: bool) -> Self {
        Self { is_incoming, ..self }
    }
}

/// What was done to a page.
#[derive(Debug, Default)]
pub struct Changed {
    /// What the publisher reports.
    pub events: Vec<HostEvent>,
    /// Whether there is something to read that the guest has not been notified of.
    pub is_updated: bool,
}

/// What came by itself.
#[derive(Debug, Default)]
pub struct News {
    /// What is to be reported.
    pub events: Vec<Event>,
    /// Whether there is something to read that the guest has not been notified of.
    pub is_updated: bool,
}

/// Keeps a guest's page up to date.
///
/// Implemented by a [`Publisher`] of the guest's own; and by [`ServiceGuest`](crate::service::ServiceGuest), for a guest
/// of the host's service.
pub trait Keeper {
    /// Makes the page one for a guest: without time until the guest's counter is known.
    fn prepare(&mut self, region: Region<'_>) -> Result<(), Error>;

    /// What the page says.
    fn contents(&self) -> Snapshot;

    /// How what is in the page's memory compares with what was published. `memory`: what is there at this moment;
    /// `is_marked`: whether the mark beside it is the last that was made.
    fn seen(&mut self, memory: &[u8; STRUCTURE_LEN], is_marked: bool) -> Result<Seen, Error>;

    /// Does to the page what happens in the guest's life.
    fn change(&mut self, change: PageChange) -> Result<Changed, Error>;

    /// The guest is still to come: until its page was loaded, its memory is written by QEMU.
    fn expect_guest(&mut self) -> Result<(), Error>;

    /// Does to the page what an operator says of the guest.
    fn signal(&mut self, signal: Signal) -> Result<Changed, Error>;

    /// Why a guest would have no time now, even if its counter were known. `None` if it would have.
    fn why_no_time(&mut self) -> Result<Option<String>, Error>;

    /// Whether it measures sources in rounds of its own. If not, the page is refreshed by somebody else.
    fn has_rounds(&self) -> bool;

    /// A first round, in which sources have so much time to answer.
    fn first_round(&mut self, timeout: Duration) -> Result<Vec<HostEvent>, Error>;

    /// Starts a round.
    fn start_round(&mut self);

    /// Whether all sources have answered.
    fn is_round_complete(&mut self) -> bool;

    /// What becomes readable when there is something for [`attend`](Self::attend), or when a source answers.
    fn fds(&self) -> Vec<BorrowedFd<'_>>;

    /// When to call [`attend`](Self::attend) at the latest.
    fn due(&self) -> Option<Instant>;

    /// Does what is due.
    fn attend(&mut self) -> Result<News, Error>;

    /// A value that was never used before.
    fn fresh_identity(&mut self) -> Result<u64, Error>;

    /// Marks the page unreliable: nobody will correct it any more.
    fn give_up(&mut self);
}

/// With all its blocks: a page with a hole kills QEMU when the guest writes it and the file system is full.
pub(crate) fn allocate(file: &File, len: u64) -> std::io::Result<()> {
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, len) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => file.set_len(len.max(file.metadata()?.len())),
        result => Ok(result?),
    }
}

impl<H: Host, S: PageSink> Keeper for Publisher<H, S> {
    fn prepare(&mut self, region: Region<'_>) -> Result<(), Error> {
        self.set_guest_counter(None);
        let file = File::options().write(true).open(region.path).map_err(Error::file(region.path, "open it"))?;
        allocate(&file, region.len).map_err(Error::file(region.path, "give it its length"))?;
        // Before there is a guest that may bring a page of its own.
        let notify = if region.notifies { Flags::NOTIFICATION_PRESENT } else { Flags::NONE };
        Ok(self.update(|page| page.flags = page.flags.with(notify))?)
    }

    fn contents(&self) -> Snapshot {
        *self.contents()
    }

    fn seen(&mut self, memory: &[u8; STRUCTURE_LEN], is_marked: bool) -> Result<Seen, Error> {
        Ok(Seen::in_memory(memory, self.contents(), is_marked))
    }

    fn change(&mut self, change: PageChange) -> Result<Changed, Error> {
        let before = self.contents().seq_count;
        let events = change.perform(self)?;
        // Without an update there is nothing to read, whatever the next one's count will be.
        let is_updated = self.contents().seq_count != before && !matches!(change, PageChange::ContinueAfter(_));
        Ok(Changed { events, is_updated })
    }

    fn expect_guest(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn signal(&mut self, signal: Signal) -> Result<Changed, Error> {
        Ok(Changed { events: vec![self.signal(signal)?], is_updated: true })
    }

    fn why_no_time(&mut self) -> Result<Option<String>, Error> {
        if self.clock().status().gives_time() {
            return Ok(None);
        }
        let states = self.sources().into_iter().map(|source| match source.failure {
            Some(failure) => failure,
            None => format!("{} is {}", source.name, source.standing),
        });
        Ok(Some(states.collect::<Vec<_>>().join("; ")))
    }

    fn has_rounds(&self) -> bool {
        true
    }

    fn first_round(&mut self, timeout: Duration) -> Result<Vec<HostEvent>, Error> {
        Ok(self.refresh(timeout)?)
    }

    fn start_round(&mut self) {
        self.start_round();
    }

    fn is_round_complete(&mut self) -> bool {
        self.is_round_complete()
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.waiting().collect()
    }

    fn due(&self) -> Option<Instant> {
        None
    }

    fn attend(&mut self) -> Result<News, Error> {
        Ok(News::default())
    }

    fn fresh_identity(&mut self) -> Result<u64, Error> {
        Ok(self.fresh_identity()?)
    }

    fn give_up(&mut self) {
        self.give_up();
    }
}

impl<H: Host, S: PageSink> GuestPage for Publisher<H, S> {
    type Error = PublishError;

    fn contents(&self) -> &Snapshot {
        self.contents()
    }

    fn update(&mut self, change: &mut dyn FnMut(&mut Snapshot)) -> Result<(), PublishError> {
        self.update(change)
    }

    fn continue_after(&mut self, seq_count: u32) {
        self.continue_after(seq_count);
    }

    fn set_guest_counter(&mut self, counter: Option<GuestCounter>) {
        self.set_guest_counter(counter);
    }

    fn publish(&mut self) -> Result<Vec<HostEvent>, PublishError> {
        self.publish_known()
    }

    fn conclude_unwritten(&mut self) -> Result<Vec<HostEvent>, PublishError> {
        self.conclude_unwritten()
    }

    fn finish_round(&mut self) -> Result<Vec<HostEvent>, PublishError> {
        self.finish_round()
    }

    fn fresh_identity(&mut self) -> Result<u64, PublishError> {
        self.fresh_identity()
    }
}
