// SPDX-License-Identifier: MIT OR Apache-2.0
//! A page in memory, whoever keeps it, and a machine whose actions are done to it.
#![allow(dead_code)] // each test uses some of it

#[path = "served.rs"]
mod served;

use std::collections::HashMap;

use vmclock_core::abi::{ClockStatus, CounterId, Flags, Snapshot};
use vmclock_core::guest_counter::GuestCounter;
use vmclock_host::event::Event as HostEvent;
use vmclock_qemu::event::Event;
use vmclock_qemu::machine::{Action, CounterSource, Input, Machine, Request, Setup, Start};
use vmclock_qemu::page::{GuestPage, PageChange, Seen};

use served::Served;

/// Of the host's counter.
pub(crate) const TICKS_PER_MS: u64 = 1_000_000;

/// What a guest has seen of its page, by sequence count.
pub(crate) type History = HashMap<u32, Snapshot>;

/// A page, its memory, and whoever publishes it.
pub(crate) struct MemoryPage {
    pub(crate) contents: Snapshot,
    /// Written by us, by a guest and by QEMU.
    pub(crate) memory: Snapshot,
    pub(crate) counter: Option<GuestCounter>,
    identities: u64,
    /// Contents by sequence count, as far as the guest remembers.
    pub(crate) history: History,
    pub(crate) markers: Vec<u64>,
    pub(crate) generations: Vec<u64>,
    /// Beside the page, and as it was last made.
    pub(crate) mark: u64,
    pub(crate) made: u64,
    /// Keeps it; none where nobody else does.
    served: Option<Served>,
}

impl MemoryPage {
    /// A page that the host's service keeps.
    pub(crate) fn served(start: &Start) -> Self {
        let served = Served::new(start.is_incoming());
        let contents = served.memory();
        let (markers, generations) = (vec![contents.disruption_marker], vec![contents.vm_generation_counter]);
        let history = History::from([(contents.seq_count, contents)]);
        Self { contents, memory: contents, history, markers, generations, served: Some(served), ..Self::new() }
    }

    pub(crate) fn new() -> Self {
        let contents = Snapshot::BLANK.with(|page| {
            page.seq_count = 2;
            page.counter_id = CounterId::X86_TSC;
            page.clock_status = ClockStatus::INITIALIZING;
            page.flags = Flags::VM_GEN_COUNTER_PRESENT;
            page.disruption_marker = 1;
            page.vm_generation_counter = 1;
        });
        let history = History::from([(2, contents)]);
        Self {
            contents,
            memory: contents,
            counter: None,
            identities: 1,
            history,
            markers: vec![1],
            generations: vec![1],
            mark: 0,
            made: 0,
            served: None,
        }
    }

    pub(crate) fn seen(&mut self) -> Seen {
        let is_marked = self.mark == self.made;
        match &mut self.served {
            Some(served) => served.seen(is_marked),
            None => Seen::in_memory(&self.memory.to_bytes(), &self.contents, is_marked),
        }
    }

    /// Somebody else writes the page's memory.
    pub(crate) fn write(&mut self, memory: Snapshot) {
        self.memory = memory;
        if let Some(served) = &self.served {
            served.write(&memory);
        }
    }

    /// Does what the machine wants.
    pub(crate) fn change(&mut self, change: PageChange) {
        let Some(served) = &mut self.served else {
            let Ok(_) = change.perform(self);
            return;
        };
        let before = served.memory();
        served.change(change);
        match change {
            PageChange::Counter(counter) => self.counter = Some(counter),
            PageChange::ContinueAfter(_) | PageChange::Round | PageChange::RoundUnwritten => {}
            _ => self.counter = None,
        }
        let now = served.memory();
        if now != before {
            self.written(self.contents, now);
        }
    }

    /// The service brings all its pages up to date, whatever happens to the guest.
    pub(crate) fn refresh_service(&mut self, is_incoming: bool) {
        let Some(served) = &mut self.served else { return };
        let before = served.memory();
        served.round();
        let now = served.memory();
        assert!(!is_incoming || now == before, "the page is QEMU's to write");
        if now != before {
            self.written(self.contents, now);
        }
    }

    pub(crate) fn expect_guest(&mut self) {
        if let Some(served) = &mut self.served {
            served.expect_guest();
        }
    }

    fn written(&mut self, before: Snapshot, now: Snapshot) {
        (self.contents, self.memory) = (now, now);
        if let Some(other) = self.history.insert(now.seq_count, now) {
            assert_eq!(other, now, "the guest has seen this sequence count with other contents");
        }
        for (all, before, now) in [
            (&mut self.markers, before.disruption_marker, now.disruption_marker),
            (&mut self.generations, before.vm_generation_counter, now.vm_generation_counter),
        ] {
            if before != now {
                all.push(now);
            }
        }
        if now.clock_status.gives_time() {
            assert!(self.counter.is_some(), "the page gives time, and nobody knows the guest's counter");
        }
    }

    /// QEMU writes the page's memory: another host's, or a snapshot's.
    pub(crate) fn loaded(&mut self, memory: Snapshot, history: History, mark: u64) {
        self.write(memory);
        self.history = history;
        self.mark = mark;
    }

    pub(crate) fn make_mark(&mut self) {
        self.made += 1;
        self.mark = self.made;
    }

    fn refresh(&mut self) -> Vec<HostEvent> {
        let Some(counter) = self.counter else { return Vec::new() };
        let _ = self.update(&mut |page| {
            page.clock_status = ClockStatus::SYNCHRONIZED;
            page.counter_value = counter.at(0);
        });
        vec![HostEvent::Holdover]
    }
}

impl GuestPage for MemoryPage {
    type Error = std::convert::Infallible;

    fn contents(&self) -> &Snapshot {
        &self.contents
    }

    fn update(&mut self, change: &mut dyn FnMut(&mut Snapshot)) -> Result<(), Self::Error> {
        let before = self.contents;
        let mut now = before;
        change(&mut now);
        now.seq_count = (now.seq_count | 1).wrapping_add(1);
        self.written(before, now);
        Ok(())
    }

    fn continue_after(&mut self, seq_count: u32) {
        self.contents.seq_count = seq_count;
    }

    fn set_guest_counter(&mut self, counter: Option<GuestCounter>) {
        self.counter = counter;
    }

    fn publish(&mut self) -> Result<Vec<HostEvent>, Self::Error> {
        Ok(self.refresh())
    }

    fn conclude_unwritten(&mut self) -> Result<Vec<HostEvent>, Self::Error> {
        Ok(Vec::new())
    }

    fn finish_round(&mut self) -> Result<Vec<HostEvent>, Self::Error> {
        Ok(self.refresh())
    }

    fn fresh_identity(&mut self) -> Result<u64, Self::Error> {
        self.identities += 1;
        Ok(self.identities)
    }
}

pub(crate) fn setup(source: CounterSource, start: Start) -> Setup {
    Setup::new(source, start, TICKS_PER_MS)
}

pub(crate) fn unknown() -> CounterSource {
    CounterSource::Unknown("instructions are counted".into())
}

pub(crate) fn ours() -> Start {
    Start::Ours { continues: true, incoming: None }
}

pub(crate) fn incoming_from(uri: &str) -> Start {
    Start::Ours { continues: true, incoming: Some(uri.into()) }
}

/// A conversation: what goes in, and in short what comes out.
pub(crate) struct Conversation {
    pub(crate) machine: Machine,
    pub(crate) page: MemoryPage,
    /// The last of each.
    pub(crate) epoch: u64,
    pub(crate) reported: Vec<Event>,
    pub(crate) gave_up: Option<String>,
}

impl Conversation {
    pub(crate) fn new(setup: Setup) -> (Self, String) {
        Self::with(setup, MemoryPage::new())
    }

    pub(crate) fn with(setup: Setup, page: MemoryPage) -> (Self, String) {
        let (machine, actions) = Machine::new(setup);
        let mut conversation = Self { machine, page, epoch: 0, reported: Vec::new(), gave_up: None };
        let words = conversation.perform(actions);
        (conversation, words)
    }

    /// One input, and the actions that follow, but for marks: `=` changes the page, `?` asks, names are reports.
    pub(crate) fn on(&mut self, input: Input) -> String {
        let seen = self.page.seen();
        let actions = self.machine.on(input, seen);
        self.perform(actions)
    }

    fn perform(&mut self, actions: Vec<Action>) -> String {
        let mut words = Vec::new();
        for action in actions {
            words.extend(name(&action));
            match action {
                Action::Mark => self.page.make_mark(),
                Action::Page(change) => self.page.change(change),
                Action::ReadCounter { epoch } | Action::AskGuest { epoch, .. } => self.epoch = epoch,
                Action::Report(event) => self.reported.push(event),
                Action::GiveUp(why) => self.gave_up = Some(why),
                Action::Ask(_) | Action::End => {}
            }
        }
        words.join(" ")
    }

    pub(crate) fn status(&self) -> ClockStatus {
        self.page.memory.clock_status
    }

    /// How many markers and generations there have been.
    pub(crate) fn identities(&self) -> (usize, usize) {
        (self.page.markers.len(), self.page.generations.len())
    }

    pub(crate) fn counter(&self) -> GuestCounter {
        self.page.counter.expect("a counter is published")
    }
}

fn name(action: &Action) -> Option<String> {
    Some(match action {
        Action::Mark => return None,
        Action::Page(PageChange::Withhold) => "=withheld".into(),
        Action::Page(PageChange::ContinueAfter(_)) => "=behind".into(),
        Action::Page(PageChange::NoCounter) => "=none".into(),
        Action::Page(PageChange::Disrupted) => "=disrupted".into(),
        Action::Page(PageChange::Incoming { saved_state: false, .. }) => "=migrated".into(),
        Action::Page(PageChange::Incoming { saved_state: true, .. }) => "=restored".into(),
        Action::Page(PageChange::Counter(_)) => "=time".into(),
        Action::Page(PageChange::Round) => "=round".into(),
        Action::Page(PageChange::RoundUnwritten) => "=round-unwritten".into(),
        Action::Ask(Request::Status) => "?status".into(),
        Action::Ask(Request::DeviceState) => "?device-state".into(),
        Action::Ask(Request::Continue) => "?cont".into(),
        Action::Ask(Request::MigrateIncoming(uri)) => format!("?migrate-incoming:{uri}"),
        Action::Ask(Request::MigrationInfo) => "?query-migrate".into(),
        Action::ReadCounter { .. } => "?debugfs".into(),
        Action::AskGuest { .. } => "?guest".into(),
        Action::Report(event) => event.name().into(),
        Action::GiveUp(_) => "give-up".into(),
        Action::End => "end".into(),
    })
}

/// Whether a guest that this user has added with a doorbell is notified, as its page says.
pub(crate) fn is_notified(user: u32) -> bool {
    Served::of_user(user, false, true).memory().flags.contains(Flags::NOTIFICATION_PRESENT)
}
