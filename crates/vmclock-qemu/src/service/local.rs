// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest's page while nobody else writes it: what happens to the guest is on it, and never a time.

use std::fs::File;

use vmclock_core::abi::Snapshot;
use vmclock_core::guest_counter::GuestCounter;
use vmclock_host::event::Event as HostEvent;
use vmclock_host::identity::never_used;
use vmclock_host::page_file::PageFileError;
use vmclock_host::publisher::PublishError;
use vmclock_host::service::pages::{FilePages, GuestPage as Writable};
use vmclock_host::service::protocol::Place;
use vmclock_host::service::{GuestSink, Pages};
use vmclock_host::world::PageSink;

use crate::page::{GuestPage, PageChange, Seen};

/// The page, as the service left it.
pub(super) struct Local {
    page: Writable,
}

impl Local {
    pub(super) fn open(file: &File) -> Result<Self, PageFileError> {
        let copy = file.try_clone();
        let copy =
            copy.map_err(|error| PageFileError::Io { path: "page".into(), doing: "copy its descriptor", error })?;
        let (page, _) = FilePages.open(&Place::Descriptor, vec![copy.into()], Snapshot::BLANK)?;
        Ok(Self { page })
    }

    pub(super) fn change(&mut self, change: PageChange) -> Result<(), PublishError> {
        change.perform(self).map(|_| ())
    }

    pub(super) fn seen(&self, is_marked: bool) -> Seen {
        Seen::in_memory(&self.page.memory().to_bytes(), self.page.contents(), is_marked)
    }

    pub(super) fn give_up(&mut self) {
        self.page.give_up();
    }
}

impl GuestPage for Local {
    type Error = PublishError;

    fn contents(&self) -> &Snapshot {
        self.page.contents()
    }

    fn update(&mut self, change: &mut dyn FnMut(&mut Snapshot)) -> Result<(), PublishError> {
        Ok(self.page.update(change)?)
    }

    fn continue_after(&mut self, seq_count: u32) {
        self.page.continue_after(seq_count);
    }

    fn set_guest_counter(&mut self, _counter: Option<GuestCounter>) {}

    fn publish(&mut self) -> Result<Vec<HostEvent>, PublishError> {
        Ok(Vec::new())
    }

    fn conclude_unwritten(&mut self) -> Result<Vec<HostEvent>, PublishError> {
        Ok(Vec::new())
    }

    fn finish_round(&mut self) -> Result<Vec<HostEvent>, PublishError> {
        Ok(Vec::new())
    }

    fn fresh_identity(&mut self) -> Result<u64, PublishError> {
        never_used().map_err(PublishError::Identity)
    }
}
