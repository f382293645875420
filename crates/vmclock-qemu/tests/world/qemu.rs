// SPDX-License-Identifier: MIT OR Apache-2.0
//! QEMU as far as the machine can tell: a guest's counter, a page's memory, a monitor that is read late.

use std::collections::VecDeque;

use vmclock_core::abi::{CounterId, Snapshot};
use vmclock_core::guest_counter::GuestCounter;
use vmclock_qemu::event::Event;
use vmclock_qemu::machine::{Action, Answer, CounterSource, Handed, Input, Request, Setup, Start};

use crate::common::{Conversation, History, MemoryPage};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Tcg,
    Kvm,
}

impl Source {
    pub(crate) fn setup(self) -> CounterSource {
        match self {
            Self::Tcg => CounterSource::Tcg,
            Self::Kvm => CounterSource::Kvm,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Run {
    Incoming,
    Paused,
    Running,
}

/// On its way from QEMU to us.
#[derive(Debug)]
enum Message {
    Stop,
    /// With the guest's counter minus the host's from then on.
    Resume {
        emitted: u64,
        offset: u64,
    },
    Reset {
        offset: Option<u64>,
    },
    Migration(&'static str),
    /// With the same if the guest ran then.
    Answer {
        answer: Answer,
        sent: u64,
        offset: Option<u64>,
    },
}

struct Saved {
    memory: Snapshot,
    history: History,
    mark: u64,
    value: u64,
}

#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
pub(crate) struct World {
    conversation: Conversation,
    source: Source,
    starts_attached: bool,
    listens: bool,
    /// The host's counter, one tick each nanosecond.
    now: u64,
    run: Run,
    /// QEMU's own number: while the guest is paused its counter, but for a snapshot's that is behind `highest`.
    value: u64,
    /// While the guest runs: its counter minus the host's.
    offset: u64,
    /// The guest's counter never goes back.
    highest: u64,
    messages: VecDeque<Message>,
    command: Option<(Request, u64)>,
    local: VecDeque<Input>,
    saved: Vec<Saved>,
    loading: Option<(usize, bool)>,
    /// A migration from here; and whether it paused the guest.
    migration: Option<bool>,
    /// The page of another host is in memory.
    streamed: bool,
    /// The difference in the run of the guest that our side has got to, if it runs.
    handled: Option<u64>,
    /// What happens from now on is not in the first answer; and our side has got to that.
    asked: bool,
    joined: bool,
    /// A page is in memory that is not ours, and the guest was not resumed since.
    brought_back: bool,
    /// Whoever keeps the page knows that the guest is still to come.
    is_expected: bool,
    expected: Expected,
    /// How often the guest wrote its own page, which passes for a snapshot at its next resumption.
    scribbles: usize,
}

/// New markers since the guest was last settled.
#[derive(Default)]
struct Expected {
    at_least: usize,
    at_most: usize,
    markers: usize,
}

impl World {
    pub(crate) fn new(setup: Setup, source: Source, run: Run, first: u64, listens: bool, page: MemoryPage) -> Self {
        let starts_attached = setup.start == Start::Attached;
        let is_expected = setup.start.is_incoming();
        let (conversation, _) = Conversation::with(setup, page);
        let mut world = Self {
            conversation,
            source,
            starts_attached,
            listens,
            now: first,
            run,
            value: first.rotate_left(17),
            offset: 0,
            highest: first.rotate_left(17),
            messages: VecDeque::new(),
            command: None,
            local: VecDeque::new(),
            saved: Vec::new(),
            loading: None,
            migration: None,
            streamed: false,
            handled: None,
            asked: !starts_attached,
            joined: !starts_attached,
            brought_back: false,
            is_expected,
            expected: Expected { markers: 1, ..Expected::default() },
            scribbles: 0,
        };
        if run == Run::Running {
            world.offset = world.value.wrapping_sub(world.now);
        }
        world
    }

    pub(crate) fn advance(&mut self, ticks: u64) {
        self.now = self.now.wrapping_add(ticks);
    }

    // What QEMU does.

    fn pause(&mut self) {
        self.advance(300);
        self.value = self.now.wrapping_add(self.offset);
        self.highest = self.value;
        self.run = Run::Paused;
        self.messages.push_back(Message::Stop);
    }

    fn resume(&mut self) {
        // Rounded down to a microsecond.
        let emitted = self.now.wrapping_sub(self.now % 1_000);
        self.advance(1 + self.now % 50_000);
        if self.value.wrapping_sub(self.highest) >> 63 == 1 {
            self.value = self.highest;
        }
        self.offset = self.value.wrapping_sub(self.now);
        self.run = Run::Running;
        self.advance(200);
        self.messages.push_back(Message::Resume { emitted, offset: self.offset });
    }

    fn is_busy(&self) -> bool {
        self.loading.is_some()
    }

    pub(crate) fn stop(&mut self) {
        if self.run == Run::Running && !self.is_busy() {
            self.pause();
        }
    }

    pub(crate) fn cont(&mut self) {
        if self.run == Run::Paused && !self.is_busy() {
            self.resume();
        }
    }

    pub(crate) fn save(&mut self) {
        if self.run == Run::Incoming || self.is_busy() {
            return;
        }
        let ran = self.run == Run::Running;
        if ran {
            self.pause();
        }
        let page = &self.conversation.page;
        let (memory, history, mark) = (page.memory, page.history.clone(), page.mark);
        self.saved.push(Saved { memory, history, mark, value: self.value });
        self.advance(1_000);
        if ran {
            self.resume();
        }
    }

    pub(crate) fn begin_load(&mut self, which: usize) {
        if self.run == Run::Incoming || self.is_busy() || self.saved.is_empty() || self.migration.is_some() {
            return;
        }
        let which = which % self.saved.len();
        let page = &self.conversation.page;
        let Saved { memory, mark, .. } = &self.saved[which];
        if [page.memory, page.contents].contains(memory) && [page.mark, page.made].contains(mark) {
            // Saved and loaded while we did nothing: nobody can tell.
            return;
        }
        let ran = self.run == Run::Running;
        if ran {
            self.pause();
        }
        self.loading = Some((which, ran));
    }

    pub(crate) fn finish_load(&mut self) {
        let Some((which, ran)) = self.loading.take() else { return };
        self.advance(1_000);
        let saved = &self.saved[which];
        self.value = saved.value;
        let page = &mut self.conversation.page;
        if self.asked && (page.memory, page.mark) != (saved.memory, saved.mark) {
            self.brought_back = (saved.memory, saved.mark) != (page.contents, page.made);
            self.expected.at_most += 1;
        }
        page.loaded(saved.memory, saved.history.clone(), saved.mark);
        if ran {
            self.resume();
        }
    }

    pub(crate) fn reset(&mut self) {
        if self.run == Run::Incoming || self.is_busy() {
            return;
        }
        let resets = self.source == Source::Kvm && self.run == Run::Running;
        if resets {
            self.offset = 0_u64.wrapping_sub(self.now);
            self.highest = 0;
        }
        self.messages.push_back(Message::Reset { offset: resets.then_some(self.offset) });
    }

    pub(crate) fn migrate(&mut self) {
        if self.run != Run::Incoming && !self.is_busy() && self.migration.is_none() {
            self.messages.extend([Message::Migration("setup"), Message::Migration("active")]);
            self.migration = Some(false);
        }
    }

    pub(crate) fn switch_over(&mut self) {
        if self.migration == Some(false) && self.run == Run::Running {
            self.pause();
            self.messages.push_back(Message::Migration("device"));
            self.migration = Some(true);
        }
    }

    pub(crate) fn end_migration(&mut self, how: &'static str) {
        let Some(paused) = self.migration else { return };
        if how == "completed" && self.run == Run::Running {
            return;
        }
        self.migration = None;
        self.messages.push_back(Message::Migration(how));
        if paused && how != "completed" && self.run == Run::Paused {
            self.resume();
        }
    }

    pub(crate) fn stream(&mut self) {
        if self.run != Run::Incoming || std::mem::replace(&mut self.streamed, true) {
            return;
        }
        self.messages.extend([Message::Migration("setup"), Message::Migration("active")]);
        let other = MemoryPage::new().contents;
        let seq_count = u32::try_from(self.now % 0xffff_ffff).expect("32 bits");
        let memory = other.with(|page| {
            page.seq_count = seq_count;
            page.disruption_marker = 0x5eed;
            page.vm_generation_counter = 0x6e0;
        });
        let seen = seq_count & !1;
        self.conversation.page.loaded(
            memory,
            History::from([(seen, memory.with(|page| page.seq_count = seen))]),
            0x0ffe,
        );
    }

    pub(crate) fn arrive(&mut self, runs: bool) {
        if self.run != Run::Incoming || !self.streamed || (runs && !self.starts_attached) {
            return;
        }
        self.run = Run::Paused;
        if self.asked {
            self.expected.at_least += 1;
            self.expected.at_most += 1;
        }
        if runs {
            self.resume();
        }
        self.messages.push_back(Message::Migration("completed"));
    }

    pub(crate) fn execute(&mut self) {
        if self.is_busy() {
            return;
        }
        let Some((request, sent)) = self.command.take() else { return };
        self.advance(5_000);
        let answer = match request {
            Request::Status => {
                // A page that is not ours by now is one that came before.
                let page = &self.conversation.page;
                if !std::mem::replace(&mut self.asked, true)
                    && self.run != Run::Incoming
                    && (page.memory, page.mark) != (page.contents, page.made)
                {
                    self.expected.at_most += 1;
                }
                let status = match self.run {
                    Run::Incoming => "inmigrate",
                    Run::Paused => "paused",
                    Run::Running => "running",
                };
                Answer::Status(status.into())
            }
            Request::DeviceState => {
                assert_eq!(self.source, Source::Tcg, "nobody needs the device state");
                assert_ne!(self.run, Run::Incoming, "there is no device state");
                let ran = self.run == Run::Running;
                if ran {
                    self.pause();
                }
                let value = self.value;
                self.advance(100_000);
                if ran {
                    self.resume();
                }
                Answer::DeviceState(value)
            }
            Request::Continue => {
                assert!(!self.starts_attached, "somebody else's guest is not ours to continue");
                self.cont();
                Answer::Done
            }
            Request::MigrateIncoming(_) => Answer::Done,
            Request::MigrationInfo => Answer::Listens(self.listens && self.run == Run::Incoming),
        };
        let offset = (self.run == Run::Running).then_some(self.offset);
        self.messages.push_back(Message::Answer { answer, sent, offset });
    }

    // What a guest does.

    /// All is handled, or it could not be told apart.
    pub(crate) fn write_tsc(&mut self, offset: u64) {
        if self.source != Source::Kvm || self.run != Run::Running {
            return;
        }
        self.settle();
        if self.run != Run::Running || offset == self.offset {
            return;
        }
        self.offset = offset;
        self.highest = self.now.wrapping_add(offset);
        self.expected.at_least += 1;
        self.expected.at_most += 1;
        let seen = self.conversation.page.seen();
        let actions = self.conversation.machine.on(Input::RoundComplete, seen);
        self.perform(actions);
        self.handled = Some(offset);
        self.handle_all();
    }

    pub(crate) fn scribble(&mut self) {
        if self.run != Run::Running {
            return;
        }
        let page = &mut self.conversation.page;
        page.write(page.memory.with(|memory| memory.time_sec ^= 1));
        self.scribbles += 1;
    }

    // What our side does.

    /// An update that began before somebody else wrote the page's memory, and ends now.
    pub(crate) fn hide(&mut self) {
        let page = &mut self.conversation.page;
        // Nobody can tell if it was saved since we last got to a resumption, too.
        if self.joined && page.mark != page.made && !self.conversation.machine.is_incoming() {
            page.write(page.contents);
        }
    }

    pub(crate) fn handle(&mut self) {
        let Some(message) = self.messages.pop_front() else { return };
        self.advance(10_000);
        let mut is_resumption = false;
        let input = match message {
            Message::Stop => {
                self.handled = None;
                Input::Stopped
            }
            Message::Resume { emitted, offset } => {
                self.handled = Some(offset);
                is_resumption = true;
                Input::Resumed { emitted }
            }
            Message::Reset { offset } => {
                self.handled = offset.or(self.handled);
                Input::Reset { reason: "guest-reset".into() }
            }
            Message::Migration(status) => Input::Migration { status: status.into() },
            Message::Answer { answer, sent, offset } => {
                if !std::mem::replace(&mut self.joined, true) {
                    self.handled = offset;
                }
                Input::Answered { answer: Ok(answer), sent, received: self.now }
            }
        };
        self.on(input);
        if is_resumption && self.joined && !self.conversation.machine.is_incoming() {
            assert!(!self.brought_back, "a snapshot was loaded, and there is no new marker");
            assert!(!self.conversation.status().gives_time(), "the guest was resumed, and there is time at once");
        }
    }

    pub(crate) fn handle_all(&mut self) {
        loop {
            if !self.messages.is_empty() {
                self.handle();
            } else if let Some(input) = self.local.pop_front() {
                self.on(input);
            } else {
                break;
            }
        }
        self.on(Input::Drained);
    }

    pub(crate) fn round(&mut self) {
        self.handle_all();
        if self.local.is_empty() {
            self.on(Input::RoundComplete);
            self.handle_all();
        }
    }

    fn on(&mut self, input: Input) {
        let markers = self.conversation.page.markers.len();
        let seen = self.conversation.page.seen();
        let actions = self.conversation.machine.on(input, seen);
        self.perform(actions);
        if self.conversation.machine.is_incoming() && !std::mem::replace(&mut self.is_expected, true) {
            self.conversation.page.expect_guest();
        }
        // Also that of an arrival, if the snapshot was loaded before we got to that.
        self.brought_back &= self.conversation.page.markers.len() == markers;
        if let Some(counter) = self.conversation.page.counter {
            let offset = self.handled.expect("a counter of a guest that does not run is published");
            let off = counter.offset().wrapping_sub(offset).cast_signed().unsigned_abs();
            assert!(off <= counter.error(), "{counter:?} excludes the truth, {offset}");
        }
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Page(change) => self.conversation.page.change(change),
                Action::Mark => self.conversation.page.make_mark(),
                Action::Ask(request) => {
                    assert!(self.command.is_none(), "one command at a time");
                    self.command = Some((request, self.now));
                }
                Action::ReadCounter { epoch } => {
                    let counter = Ok(GuestCounter::exact(self.offset, None));
                    self.local.push_back(Input::CounterRead { epoch, counter });
                }
                Action::AskGuest { epoch, counter } => {
                    let narrowed = counter.narrowed(self.offset.wrapping_sub(40), self.offset.wrapping_add(60));
                    let handed = match narrowed {
                        _ if self.run != Run::Running => Handed::Nothing,
                        Some(counter) => Handed::Narrowed { counter, rounds: 3 },
                        None => Handed::Nonsense,
                    };
                    self.local.push_back(Input::HandedOver { epoch, handed });
                }
                Action::Report(event) => {
                    assert!(!matches!(event, Event::NoCounter { .. } | Event::Warning { .. }), "{event}");
                }
                Action::GiveUp(why) => panic!("gave up: {why}"),
                Action::End => panic!("QEMU has not ended"),
            }
        }
    }

    /// The service refreshes its pages, whenever that is.
    pub(crate) fn refresh_service(&mut self) {
        // Until QEMU is asked, nobody knows that it loads the page.
        if self.joined {
            self.conversation.page.refresh_service(self.conversation.machine.is_incoming());
        }
    }

    /// What the page says, but for what is another number each time.
    pub(crate) fn says(&self) -> (bool, bool, usize, usize) {
        let page = &self.conversation.page;
        let has_counter = page.memory.counter_id != CounterId::NONE;
        (page.memory.clock_status.gives_time(), has_counter, page.markers.len(), page.generations.len())
    }

    /// Lets everybody finish what they began.
    pub(crate) fn settle(&mut self) {
        self.finish_load();
        for _ in 0..20 {
            self.advance(20_000);
            self.handle_all();
            self.execute();
        }
        self.handle_all();
        assert!(self.command.is_none() && self.messages.is_empty() && self.local.is_empty(), "it never settles");
        let page = &self.conversation.page;
        assert_eq!(
            page.memory.clock_status.gives_time(),
            self.run == Run::Running,
            "{:?}: {:?}",
            self.run,
            page.memory
        );
        let markers = page.markers.len() - self.expected.markers;
        let at_most = self.expected.at_most + self.scribbles;
        assert!(markers <= at_most, "{markers} markers for {at_most} reasons");
        if self.run == Run::Running {
            assert!(markers >= self.expected.at_least, "{markers} markers, not {}", self.expected.at_least);
            self.scribbles = self.scribbles.min(at_most - markers);
            self.expected = Expected { markers: page.markers.len(), ..Expected::default() };
        }
    }
}
