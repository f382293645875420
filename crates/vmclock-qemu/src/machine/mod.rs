// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is on a guest's page at each step of the guest's life: a state machine without a socket, a clock or a file.
//!
//! Events and answers go in, in the order in which QEMU's monitor sent them; what is to be done comes out, in the order
//! in which it is to be done. QEMU handles commands one after another, and sends an answer before it does anything
//! else: so what precedes an answer happened before the command was done or, as the pause that reading a device state
//! takes, while it was done.
//!
//! ```
//! use vmclock_core::abi::Snapshot;
//! use vmclock_qemu::machine::{Action, CounterSource, Input, Machine, Request, Setup, Start};
//! use vmclock_qemu::page::Seen;
//!
//! let start = Start::Ours { continues: true, incoming: None };
//! let ticks_per_ms = 3_000_000;
//! let (mut machine, actions) = Machine::new(Setup::new(CounterSource::Kvm, start, ticks_per_ms));
//! assert_eq!(actions, [Action::Mark]);
//! // Nothing else is to be handled, and the guest is paused: it may run.
//! let published = Snapshot::BLANK;
//! let seen = Seen::in_memory(&published.to_bytes(), &published, true);
//! assert_eq!(machine.on(Input::Drained, seen), [Action::Ask(Request::Continue)]);
//! ```

mod action;
mod input;

use vmclock_core::guest_counter::GuestCounter;
use vmclock_core::lifecycle::later;

pub use action::{Action, Request};
pub use input::{Answer, CounterSource, Handed, Input, Setup, Start};

use crate::event::{Event, Known};
use crate::page::{PageChange, Seen};

/// A guest resumes so long after the event's time stamp, in nanoseconds, by measurement: 11 to 32 us.
const LIKELY: u64 = 20_000;
/// The time stamp is rounded down to a microsecond; and one for what its conversion to the counter adds.
const STAMP: u64 = 2_000;

/// The life of one guest.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
pub struct Machine {
    setup: Setup,
    guest: Guest,
    in_flight: Option<InFlight>,
    /// Counts what gives the guest another counter: resumptions, resets.
    epoch: u64,
    /// Whether the guest is ours to continue as soon as its counter was read.
    continue_due: bool,
    /// Whether somebody would miss QEMU if it ended now.
    has_begun: bool,
    /// A migration is under way.
    migrating: bool,
    /// The page's memory or its mark was not ours, and the guest was not resumed since.
    was_brought_back: bool,
    /// The same, and the pause in which it happened may not be over, as far as QEMU has reported. What is read of a
    /// paused guest's counter is the snapshot's, but the guest's counter never goes back: only the next pause brings
    /// the two together.
    counter_brought_back: bool,
    /// What was last reported.
    reported_running: bool,
    /// A round's conclusion waits for the guest's counter.
    round_waits: bool,
    nonsense_reported: bool,
    actions: Vec<Action>,
}

/// What is known of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Guest {
    /// QEMU was not asked yet.
    Unknown,
    /// Not here yet.
    Incoming(Awaited),
    Paused {
        reading: Option<Reading>,
        /// The counter can be read, and was not.
        wants_reading: bool,
    },
    /// It runs, and its counter is not known yet.
    Resumed {
        reading: Option<Reading>,
        /// The host's counter at the event's time stamp.
        emitted: u64,
        /// Debugfs is being read.
        reads: bool,
    },
    Running {
        /// As published; `None` if it cannot be known.
        counter: Option<GuestCounter>,
    },
    Ended,
}

/// A guest that is on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Awaited {
    /// For QEMU, which has not been given it yet.
    uri: Option<String>,
    saved_state: bool,
    /// Whether QEMU is to be asked for the guest's origin.
    asks_for_origin: bool,
}

/// A guest's counter while the guest was paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reading {
    value: u64,
    /// The host's counter before it was asked for. The guest was paused at some moment after that.
    sent: u64,
}

#[derive(Clone, Debug)]
struct InFlight {
    request: Request,
    /// The guest was resumed since it was sent.
    resumed: bool,
}

impl Machine {
    /// A machine whose QEMU's monitor answers, and what is to be done first.
    pub fn new(setup: Setup) -> (Self, Vec<Action>) {
        let (guest, has_begun, actions) = match &setup.start {
            Start::Attached => (Guest::Unknown, true, vec![Action::Mark]),
            Start::Ours { continues, incoming: None } => {
                (Guest::Paused { reading: None, wants_reading: true }, !continues, vec![Action::Mark])
            }
            Start::Ours { incoming: Some(uri), .. } => {
                let of_file = uri.starts_with("file:") || uri.starts_with("exec:");
                // With `defer` somebody else names it.
                let uri = Some(uri.clone()).filter(|uri| uri != "defer");
                let awaited =
                    Awaited { uri: uri.clone(), saved_state: setup.restored || of_file, asks_for_origin: false };
                (Guest::Incoming(awaited), uri.is_none(), vec![Action::Report(Event::Incoming { uri })])
            }
        };
        let continue_due = !has_begun && matches!(guest, Guest::Paused { .. });
        let machine = Self {
            setup,
            guest,
            in_flight: None,
            epoch: 0,
            continue_due,
            has_begun,
            migrating: false,
            was_brought_back: false,
            counter_brought_back: false,
            reported_running: false,
            round_waits: false,
            nonsense_reported: false,
            actions: Vec::new(),
        };
        (machine, actions)
    }

    /// Whether the guest is not here yet: until it is, its page's memory is being written by QEMU.
    pub fn is_incoming(&self) -> bool {
        matches!(self.guest, Guest::Incoming(_))
    }

    /// Whether it has to be told of rounds: it then learns whether the guest's counter is still what it was.
    pub fn wants_rounds(&self) -> bool {
        self.setup.source == CounterSource::Kvm || self.setup.second_page
    }

    /// Whether the guest ran, or may run without our doing. Until then nobody would miss a QEMU of ours that ends.
    pub fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// What follows from an input. `page` is what is in the page's memory at this moment.
    pub fn on(&mut self, input: Input, page: Seen) -> Vec<Action> {
        match self.guest {
            Guest::Ended => return Vec::new(),
            Guest::Unknown | Guest::Incoming(_) => {}
            // Whatever is written now hides it. A snapshot was loaded, or the guest wrote its own page.
            _ if page.is_ours() => {}
            _ => {
                self.brought_back(page);
                let is_changed = matches!(input, Input::Stopped | Input::Resumed { .. });
                if matches!(self.guest, Guest::Paused { .. }) && !is_changed && !page.is_published {
                    // It would have the time of back then when it resumes, for as long as we take to notice.
                    self.page(PageChange::Withhold);
                }
            }
        }
        match input {
            Input::Stopped => self.stopped(),
            Input::Resumed { emitted } => self.resumed(emitted, page),
            Input::Reset { reason } => self.reset(reason),
            Input::Shutdown { reason } => self.report(Event::Shutdown { reason }),
            Input::Migration { status } => self.migration(status, page),
            Input::Answered { answer, sent, received } => self.answered(answer, sent, received, page),
            Input::CounterRead { epoch, counter } => self.counter_read(epoch, counter),
            Input::HandedOver { epoch, handed } => self.handed_over(epoch, handed),
            Input::RoundComplete => self.round_complete(),
            Input::Drained => self.ask_next(),
            Input::Closed => {
                self.guest = Guest::Ended;
                self.actions.push(Action::End);
            }
        }
        std::mem::take(&mut self.actions)
    }

    fn page(&mut self, change: PageChange) {
        self.actions.push(Action::Page(change));
    }

    fn report(&mut self, event: Event) {
        self.actions.push(Action::Report(event));
    }

    /// The page's memory, or the mark beside it, is not ours. The guest has seen neither more than we published nor, if
    /// this is a snapshot's, more than what was brought back: behind both, or a second load of one snapshot would
    /// repeat the counts of the first.
    fn brought_back(&mut self, page: Seen) {
        self.counter_brought_back = true;
        let seen = later(page.published, page.seq_count);
        if !std::mem::replace(&mut self.was_brought_back, true) || seen != page.published {
            self.page(PageChange::ContinueAfter(seen));
        }
    }

    /// The guest is paused. It will resume at another offset, perhaps with another memory: until that is known, no
    /// time.
    fn stopped(&mut self) {
        // Before the first answer: what happened is in it. While a guest is incoming, its page is not ours to write.
        if matches!(self.guest, Guest::Unknown | Guest::Incoming(_)) {
            return;
        }
        // QEMU pauses the guest itself for a migration, and is busy with it.
        self.guest = Guest::Paused { reading: None, wants_reading: !self.migrating };
        self.page(PageChange::Withhold);
        self.report_run_state();
    }

    fn resumed(&mut self, emitted: u64, page: Seen) {
        let (reading, ran) = match &self.guest {
            Guest::Unknown | Guest::Ended => return,
            Guest::Incoming(awaited) => {
                // Its migration was not reported as complete.
                let saved_state = awaited.saved_state;
                self.loaded(page, saved_state);
                (None, false)
            }
            Guest::Paused { reading, .. } => (*reading, false),
            Guest::Resumed { .. } | Guest::Running { .. } => (None, true),
        };
        self.epoch += 1;
        self.actions.push(Action::Mark);
        // Somebody else did it, or we have.
        self.continue_due = false;
        self.has_begun = true;
        let reading = reading.filter(|_| !self.counter_brought_back);
        if std::mem::take(&mut self.was_brought_back) {
            self.snapshot_loaded();
        } else if ran {
            // A pause that nobody reported.
            self.page(PageChange::Withhold);
        }
        if let Some(asked) = &mut self.in_flight {
            asked.resumed = true;
        }
        self.guest = Guest::Resumed { reading, emitted, reads: false };
        self.report_run_state();
        if let CounterSource::Unknown(reason) = &self.setup.source {
            let reason = reason.clone();
            self.no_counter(reason);
        }
    }

    /// That looks like a pause, but leaves the page as it was when the snapshot was saved.
    fn snapshot_loaded(&mut self) {
        self.page(PageChange::Incoming { saved_state: true, generation: None });
        self.report(Event::SnapshotLoaded);
    }

    /// Reports that the guest runs, or does not, unless that was reported last. While QEMU reads a device state it may
    /// be a pause of our own making: whether it is, shows when QEMU answers.
    fn report_run_state(&mut self) {
        if self.in_flight.as_ref().is_some_and(|asked| asked.request == Request::DeviceState) {
            return;
        }
        let runs = matches!(self.guest, Guest::Resumed { .. } | Guest::Running { .. });
        if std::mem::replace(&mut self.reported_running, runs) != runs {
            self.report(if runs { Event::Resumed } else { Event::Paused });
        }
    }

    /// An incoming guest is complete, from another host or out of a file, and has not seen anything of ours.
    fn loaded(&mut self, page: Seen, saved_state: bool) {
        self.page(PageChange::ContinueAfter(page.seq_count));
        self.page(PageChange::Incoming { saved_state, generation: page.generation });
        self.report(Event::Loaded { restored: saved_state });
    }

    fn migration(&mut self, status: String, page: Seen) {
        let complete = status == "completed";
        self.migrating = !complete && !matches!(status.as_str(), "failed" | "cancelled" | "none");
        self.report(Event::Migration { status });
        let Guest::Incoming(awaited) = &mut self.guest else { return };
        if complete {
            let saved_state = awaited.saved_state;
            self.loaded(page, saved_state);
            self.actions.push(Action::Mark);
            self.guest = Guest::Paused { reading: None, wants_reading: true };
            self.continue_due = matches!(self.setup.start, Start::Ours { continues: true, .. });
        } else if self.setup.start == Start::Attached {
            // Somebody may only just have named it.
            awaited.asks_for_origin = awaited.saved_state != self.setup.restored;
        }
    }

    /// With KVM a reset sets the counter back, without a pause.
    fn reset(&mut self, reason: String) {
        self.report(Event::Reset { reason });
        let runs = matches!(self.guest, Guest::Resumed { .. } | Guest::Running { .. });
        if runs && self.setup.source == CounterSource::Kvm {
            self.epoch += 1;
            self.page(PageChange::Withhold);
            // QEMU writes the counter after this event, and is done with it when it answers.
            self.guest = Guest::Resumed { reading: None, emitted: 0, reads: false };
        }
    }

    /// One command at a time, and only when all is known that has happened: it may be needless by now.
    fn ask_next(&mut self) {
        self.counter_brought_back &= matches!(self.guest, Guest::Paused { .. });
        if self.in_flight.is_none() {
            if let Some(request) = self.next_request() {
                self.in_flight = Some(InFlight { request: request.clone(), resumed: false });
                self.actions.push(Action::Ask(request));
            }
        }
    }

    fn next_request(&mut self) -> Option<Request> {
        let source = &self.setup.source;
        match &mut self.guest {
            Guest::Unknown => Some(Request::Status),
            Guest::Incoming(awaited) => {
                if let Some(uri) = awaited.uri.take() {
                    return Some(Request::MigrateIncoming(uri));
                }
                std::mem::take(&mut awaited.asks_for_origin).then_some(Request::MigrationInfo)
            }
            Guest::Paused { wants_reading, .. } => {
                if *source == CounterSource::Tcg && !self.counter_brought_back && std::mem::take(wants_reading) {
                    return Some(Request::DeviceState);
                }
                std::mem::take(&mut self.continue_due).then_some(Request::Continue)
            }
            Guest::Resumed { reading, reads, .. } => match source {
                CounterSource::Tcg if reading.is_none() => Some(Request::DeviceState),
                // The answer is the latest moment at which the guest was resumed.
                CounterSource::Tcg => Some(Request::Status),
                // QEMU writes the counters while it resumes, and answers when it is done.
                CounterSource::Kvm => (!*reads).then_some(Request::Status),
                CounterSource::Unknown(_) => None,
            },
            Guest::Running { .. } | Guest::Ended => None,
        }
    }

    fn answered(&mut self, answer: Result<Answer, String>, sent: u64, received: u64, page: Seen) {
        let Some(asked) = self.in_flight.take() else { return };
        match (asked.request, answer) {
            (Request::Status, Ok(Answer::Status(status))) if self.guest == Guest::Unknown => {
                self.join(&status, sent, page);
            }
            (Request::Status | Request::Continue, Ok(_)) => {
                self.has_begun = true;
                self.resumption_done(received);
            }
            (Request::DeviceState, Ok(Answer::DeviceState(value))) => {
                self.device_state(Reading { value, sent }, asked.resumed, received);
            }
            (Request::DeviceState, answer) => {
                let why = answer.err().unwrap_or_else(|| "QEMU's answer has no device state".into());
                self.report_run_state();
                match self.guest {
                    Guest::Paused { .. } => self.report(Event::Warning { text: why }),
                    Guest::Resumed { .. } => self.no_counter(why),
                    _ => {}
                }
            }
            (Request::MigrationInfo, answer) => self.learn_origin(answer == Ok(Answer::Listens(true))),
            (Request::MigrateIncoming(_), Ok(_)) => self.has_begun = true,
            (_, Err(why)) => {
                self.guest = Guest::Ended;
                self.actions.push(Action::GiveUp(why));
            }
        }
    }

    /// A QEMU that somebody else started may be in any state.
    fn join(&mut self, status: &str, sent: u64, page: Seen) {
        if status != "inmigrate" {
            // Whatever was loaded since we made the page.
            if !page.is_ours() {
                self.brought_back(page);
            }
            self.page(PageChange::Withhold);
        }
        match status {
            "inmigrate" => {
                // What does not come through a socket of QEMU's own may be saved state, and an event too many is better
                // than one too few.
                let awaited = Awaited { uri: None, saved_state: true, asks_for_origin: !self.setup.restored };
                self.guest = Guest::Incoming(awaited);
                self.report(Event::Incoming { uri: None });
            }
            "running" => {
                if std::mem::take(&mut self.was_brought_back) {
                    self.snapshot_loaded();
                    self.actions.push(Action::Mark);
                }
                self.reported_running = true;
                self.guest = Guest::Resumed { reading: None, emitted: sent, reads: false };
                match &self.setup.source {
                    CounterSource::Tcg => {}
                    CounterSource::Kvm => self.read_counter(),
                    CounterSource::Unknown(reason) => {
                        let reason = reason.clone();
                        self.no_counter(reason);
                    }
                }
            }
            _ => {
                // It may have run, and loaded a snapshot since, whose counter is not the guest's.
                self.guest = Guest::Paused { reading: None, wants_reading: false };
                self.report(Event::Standing);
            }
        }
    }

    /// Somebody else gave QEMU the address of the incoming guest.
    fn learn_origin(&mut self, listens: bool) {
        if let (Guest::Incoming(awaited), true) = (&mut self.guest, listens) {
            awaited.saved_state = self.setup.restored;
        }
    }

    /// QEMU answered something, so whatever resumption it reported before is complete.
    fn resumption_done(&mut self, received: u64) {
        match (&self.guest, &self.setup.source) {
            (Guest::Resumed { reading: Some(reading), emitted, .. }, CounterSource::Tcg) => {
                let counter = self.continued(*reading, *emitted, received);
                self.calibrate(counter);
            }
            (Guest::Resumed { .. }, CounterSource::Kvm) => self.read_counter(),
            _ => {}
        }
    }

    /// Under TCG.
    fn device_state(&mut self, reading: Reading, resumed: bool, received: u64) {
        self.report_run_state();
        match self.guest {
            // Had QEMU paused a running guest for it, it would have reported that it runs again.
            Guest::Paused { .. } => self.guest = Guest::Paused { reading: Some(reading), wants_reading: false },
            Guest::Resumed { emitted, .. } if resumed => {
                // The guest ran, so QEMU paused it: the last resumption before the answer is the end of that pause.
                let counter = self.continued(reading, emitted, received);
                self.calibrate(counter);
            }
            Guest::Resumed { .. } => {
                let why = "QEMU did not report that the guest runs again after its device state was written";
                self.no_counter(why.into());
            }
            _ => {}
        }
    }

    /// A counter that continued from a reading, after the event's time stamp and before an answer.
    fn continued(&self, reading: Reading, emitted: u64, received: u64) -> GuestCounter {
        let ticks = |nanos: u64| {
            let ticks = u128::from(nanos) * u128::from(self.setup.ticks_per_ms) / 1_000_000;
            u64::try_from(ticks).unwrap_or(u64::MAX)
        };
        let stamp = emitted.wrapping_sub(ticks(STAMP));
        // Time stamps are of a clock that may be set; but it was paused after that was sent.
        let earliest = if stamp.wrapping_sub(reading.sent) >> 63 == 0 { stamp } else { reading.sent };
        GuestCounter::resumed(reading.value, earliest, emitted.wrapping_add(ticks(LIKELY)), received)
    }

    fn read_counter(&mut self) {
        if let Guest::Resumed { reads, .. } = &mut self.guest {
            *reads = true;
        }
        self.actions.push(Action::ReadCounter { epoch: self.epoch });
    }

    fn calibrate(&mut self, counter: GuestCounter) {
        self.guest = Guest::Running { counter: Some(counter) };
        self.page(PageChange::Counter(counter));
        let known = Known::of(&counter, self.setup.ticks_per_ms);
        self.report(Event::Calibrated { accelerator: self.setup.source.name(), counter: known });
        if !self.round_waits {
            self.ask_guest();
        }
    }

    fn no_counter(&mut self, reason: String) {
        self.guest = Guest::Running { counter: None };
        self.page(PageChange::NoCounter);
        self.report(Event::NoCounter { reason });
    }

    fn round_complete(&mut self) {
        match (&self.guest, &self.setup.source) {
            // The guest may have written its counter. And what could not be read may be readable now.
            (Guest::Running { .. }, CounterSource::Kvm) => {
                self.round_waits = true;
                self.read_counter();
            }
            _ => self.conclude_round(),
        }
    }

    fn conclude_round(&mut self) {
        let is_ours = !matches!(self.guest, Guest::Unknown | Guest::Incoming(_));
        self.page(if is_ours { PageChange::Round } else { PageChange::RoundUnwritten });
        self.ask_guest();
    }

    fn counter_read(&mut self, epoch: u64, found: Result<GuestCounter, String>) {
        if epoch == self.epoch {
            match (&self.guest, found) {
                (Guest::Resumed { .. } | Guest::Running { counter: None }, Ok(counter)) => self.calibrate(counter),
                (Guest::Resumed { .. }, Err(why)) => self.no_counter(why),
                (Guest::Running { counter: Some(known) }, found) if found.as_ref() != Ok(known) => {
                    self.page(PageChange::Disrupted);
                    self.report(Event::Disrupted);
                    match found {
                        Ok(counter) => self.calibrate(counter),
                        Err(why) => self.no_counter(why),
                    }
                }
                _ => {}
            }
        }
        if std::mem::take(&mut self.round_waits) {
            self.conclude_round();
        }
    }

    /// A scaled counter is not asked for: what the guest's answers give is the difference of two counters of one rate,
    /// and who scales (KVM) knows the offset exactly.
    fn ask_guest(&mut self) {
        if let Guest::Running { counter: Some(counter) } = self.guest {
            if self.setup.second_page && counter.scale().is_none() {
                self.actions.push(Action::AskGuest { epoch: self.epoch, counter });
            }
        }
    }

    fn handed_over(&mut self, epoch: u64, handed: Handed) {
        let Guest::Running { counter: Some(known) } = self.guest else { return };
        // It was about a run of the guest that is over.
        if epoch != self.epoch {
            return;
        }
        match handed {
            Handed::Narrowed { counter, rounds } if counter.window() < known.window() => {
                self.guest = Guest::Running { counter: Some(counter) };
                self.page(PageChange::Counter(counter));
                self.report(Event::HandedOver { counter: Known::of(&counter, self.setup.ticks_per_ms), rounds });
            }
            Handed::Nonsense if !self.nonsense_reported => {
                self.nonsense_reported = true;
                let text = "what the guest states of its counter cannot be true, and is ignored".into();
                self.report(Event::Warning { text });
            }
            _ => {}
        }
    }
}
