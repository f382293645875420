// SPDX-License-Identifier: MIT OR Apache-2.0
//! The publisher on a machine, with a source and a page, that do what a test says.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use vmclock_core::abi::{ClockStatus, CounterId, Snapshot};
use vmclock_core::calibration::Period;
use vmclock_core::guest_counter::GuestCounter;
use vmclock_core::sample::Sample;
use vmclock_core::tai::TaiOffset;
use vmclock_core::time::{Time, Utc};
use vmclock_host::estimator::Standing;
use vmclock_host::event::Event;
use vmclock_host::leap_seconds::{LeapSeconds, ListError};
use vmclock_host::page_file::{Found, PageFileError};
use vmclock_host::publisher::{Plan, Prepared, Publisher};
use vmclock_host::source::{Measurement, Source, SourceError, Stamp};
use vmclock_host::world::{Host, PageSink};

/// TAI when the counter, of 1 GHz, is 0.
const START: i64 = 1_800_000_000;
const SECOND: u64 = 1_000_000_000;

/// A machine whose counter a test sets.
#[derive(Clone, Default)]
struct Machine {
    counter: Rc<Cell<u64>>,
    is_distrusted: Rc<Cell<bool>>,
    identities: u64,
}

impl Host for Machine {
    fn counter(&self) -> u64 {
        self.counter.get()
    }

    fn counter_id(&self) -> CounterId {
        CounterId::X86_TSC
    }

    fn nominal_period(&self) -> Option<Period> {
        NonZeroU64::new(SECOND).map(Period::from_frequency)
    }

    fn counter_is_trusted(&self) -> Option<bool> {
        Some(!self.is_distrusted.get())
    }

    fn fresh_identity(&mut self) -> io::Result<u64> {
        self.identities += 1;
        Ok(self.identities)
    }

    fn utc(&self) -> Time<Utc> {
        Time::from_parts(START, 0)
    }

    fn kernel_tai_offset(&self) -> Option<TaiOffset> {
        TaiOffset::from_seconds(37)
    }

    fn leap_seconds(&self) -> Result<LeapSeconds, ListError> {
        Err(ListError::Incomplete { what: "entries" })
    }
}

/// What a source answers, in order; nothing while there is none.
type Answers = Rc<RefCell<VecDeque<Result<Measurement, SourceError>>>>;

struct Scripted(Answers);

impl Source for Scripted {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn clock(&self) -> String {
        "script".into()
    }

    fn is_tai(&self) -> bool {
        true
    }

    fn start(&mut self) {}

    fn result(&mut self) -> Option<Result<Measurement, SourceError>> {
        self.0.borrow_mut().pop_front()
    }

    fn ready(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// A page.
struct Memory {
    contents: Snapshot,
    counter: Rc<Cell<u64>>,
    /// What the counter is by the time that the next update has begun.
    late: Rc<Cell<Option<u64>>>,
}

impl PageSink for Memory {
    fn contents(&self) -> &Snapshot {
        &self.contents
    }

    fn update(&mut self, change: &mut dyn FnMut(&mut Snapshot)) -> Result<(), PageFileError> {
        change(&mut self.contents);
        self.contents.seq_count += 2;
        Ok(())
    }

    fn update_late(&mut self, change: &mut dyn FnMut(&mut Snapshot)) -> Result<(), PageFileError> {
        self.counter.set(self.late.take().unwrap_or(self.counter.get()));
        self.update(change)
    }

    fn continue_after(&mut self, _seq_count: u32) {}

    fn give_up(&mut self) {}
}

fn measurement(counter: u64, era: u64) -> Measurement {
    measurement_off(counter, era, 0)
}

/// Of a source that is so many nanoseconds fast.
fn measurement_off(counter: u64, era: u64, off: i128) -> Measurement {
    let time = Time::from_nanos(i128::from(START) * 1_000_000_000 + i128::from(counter) + off).expect("in range");
    let mut measurement = Measurement::new(Stamp::Tai(Sample { before: counter, time, after: counter }), 1_000);
    measurement.era = era;
    measurement
}

struct Test {
    counter: Rc<Cell<u64>>,
    is_distrusted: Rc<Cell<bool>>,
    late: Rc<Cell<Option<u64>>>,
    answers: Answers,
    publisher: Publisher<Machine, Memory>,
}

impl Test {
    fn new() -> Self {
        Self::with(&Answers::default())
    }

    /// Beside another source, which answers this.
    fn with(others: &Answers) -> Self {
        let (machine, answers) = (Machine::default(), Answers::default());
        let (counter, is_distrusted) = (Rc::clone(&machine.counter), Rc::clone(&machine.is_distrusted));
        let late = Rc::default();
        let mut plan = Plan::default();
        plan.settings.monotonic = true;
        plan.sources.push(Box::new(Scripted(Rc::clone(&answers))));
        plan.sources.push(Box::new(Scripted(Rc::clone(others))));
        let prepared = Prepared::new(machine, plan).expect("prepared");
        let page = Memory { contents: prepared.blank(), counter: Rc::clone(&counter), late: Rc::clone(&late) };
        let (publisher, _) = prepared.on(page, Found::New, "page").expect("a page");
        Self { counter, is_distrusted, late, answers, publisher }
    }

    /// The source answers what is true when the counter is at `counter`, in this epoch.
    fn measured(&self, counter: u64, era: u64) {
        self.answers.borrow_mut().push_back(Ok(measurement(counter, era)));
    }

    /// The source answers that it has no time in this epoch.
    fn has_no_time(&self, era: u64) {
        let error = SourceError::NoTimeInEra { name: "scripted".into(), reason: "unreliable".into(), era };
        self.answers.borrow_mut().push_back(Err(error));
    }

    /// A round that ends when the counter is at `counter`.
    fn round(&mut self, counter: u64) -> Vec<Event> {
        self.publisher.start_round();
        self.counter.set(counter);
        self.publisher.finish_round().expect("a round")
    }

    fn page(&self) -> Snapshot {
        *self.publisher.contents()
    }
}

#[test]
fn a_source_that_gives_no_time_still_tells_of_a_disruption() {
    let mut test = Test::new();
    test.measured(SECOND, 7);
    test.round(SECOND + 100);
    let before = test.page();
    assert_eq!(before.clock_status, ClockStatus::SYNCHRONIZED);
    test.has_no_time(7);
    assert!(!test.round(2 * SECOND).contains(&Event::Disrupted));
    assert_eq!(test.page(), before);
    test.has_no_time(8);
    assert!(test.round(3 * SECOND).contains(&Event::Disrupted));
    let disrupted = test.page();
    assert_ne!(disrupted.disruption_marker, before.disruption_marker);
    assert!(!disrupted.clock_status.gives_time());
    // It is the same epoch when it gives a time again.
    test.measured(4 * SECOND, 8);
    test.round(4 * SECOND + 100);
    assert_eq!(test.page().disruption_marker, disrupted.disruption_marker);
    assert_eq!(test.page().clock_status, ClockStatus::SYNCHRONIZED);
}

#[test]
fn a_counter_that_the_kernel_does_not_trust_any_more_was_perhaps_disrupted() {
    let mut test = Test::new();
    let mut markers = Vec::new();
    for (second, is_distrusted, gives_time) in
        [(1, false, true), (2, true, false), (3, true, false), (4, false, false), (5, false, true)]
    {
        test.is_distrusted.set(is_distrusted);
        test.measured(second * SECOND, 0);
        test.round(second * SECOND + 100);
        assert_eq!(test.page().clock_status.gives_time(), gives_time, "{second}");
        markers.push(test.page().disruption_marker);
    }
    let changes: Vec<_> = markers.windows(2).map(|pair| pair[0] != pair[1]).collect();
    assert_eq!(changes, [true, false, true, false], "when it is not trusted any more, and when all starts anew");
}

#[test]
fn what_was_begun_before_a_disruption_counts_no_more() {
    let slow = Answers::default();
    let mut test = Test::with(&slow);
    test.measured(SECOND, 7);
    test.round(SECOND + 100);
    assert_eq!(test.page().clock_status, ClockStatus::SYNCHRONIZED);
    test.measured(3 * SECOND, 8);
    assert!(test.round(3 * SECOND + 100).contains(&Event::Disrupted));
    // The other source of this clock answers only now, what it measured with the counter of back then.
    slow.borrow_mut().push_back(Ok(measurement(3 * SECOND + 50, 0)));
    test.round(4 * SECOND);
    assert!(!test.page().clock_status.gives_time());
    slow.borrow_mut().push_back(Ok(measurement(5 * SECOND, 0)));
    test.round(5 * SECOND + 100);
    assert_eq!(test.page().clock_status, ClockStatus::SYNCHRONIZED);
}

#[test]
fn what_is_known_is_published_without_waiting_for_a_source() {
    let mut test = Test::new();
    test.publisher.set_guest_counter(None);
    test.measured(SECOND, 0);
    test.round(SECOND + 100);
    assert_eq!(test.page().clock_status, ClockStatus::INITIALIZING, "the guest's counter is not known");
    // The next round's answer is not there when the counter is.
    test.publisher.start_round();
    test.counter.set(2 * SECOND);
    test.publisher.set_guest_counter(Some(GuestCounter::exact(5_000, None)));
    let events = test.publisher.publish_known().expect("published");
    assert!(events.iter().any(|event| matches!(event, Event::Synchronized { .. })), "{events:?}");
    assert_eq!(test.page().clock_status, ClockStatus::SYNCHRONIZED);
    assert_eq!(test.page().counter_value, SECOND + 100 + 5_000);
    // The round is not over by that: its answer counts.
    test.counter.set(40 * SECOND);
    test.measured(40 * SECOND - 100, 0);
    test.publisher.finish_round().expect("a round");
    assert_eq!(test.publisher.sources()[0].standing, Standing::Selected);
}

#[test]
fn where_nothing_is_known_nothing_is_published() {
    let mut test = Test::new();
    test.publisher.set_guest_counter(Some(GuestCounter::exact(0, None)));
    assert_eq!(test.publisher.publish_known().expect("published"), []);
    assert_eq!(test.page().clock_status, ClockStatus::INITIALIZING);
}

#[test]
fn a_page_that_somebody_else_writes_is_left_alone() {
    let mut test = Test::new();
    test.publisher.set_guest_counter(None);
    test.measured(SECOND, 7);
    test.round(SECOND + 100);
    let before = test.page();
    for (second, era, is_other) in [(2, 8, true), (3, 8, false), (4, 9, true), (5, 9, false)] {
        test.publisher.start_round();
        test.measured(second * SECOND, era);
        test.counter.set(second * SECOND + 100);
        let events = test.publisher.conclude_unwritten().expect("a round");
        assert_eq!(events.contains(&Event::Disrupted), is_other);
        assert_eq!(test.page(), before);
    }
    // What was measured meanwhile counts.
    test.publisher.set_guest_counter(Some(GuestCounter::exact(0, None)));
    test.publisher.publish_known().expect("published");
    assert_eq!(test.page().clock_status, ClockStatus::SYNCHRONIZED);
}

#[test]
fn a_time_that_cannot_be_nested_when_it_comes_is_not_given_later_either() {
    let mut test = Test::new();
    for second in 1..100 {
        test.measured(second * SECOND, 0);
        test.round(second * SECOND + 100);
    }
    assert!(test.page().clock_status.gives_time());
    // The new calibration waits for true time, at a lower frequency. Between conclusion and update the publisher is not
    // run for so long that the old one gets further ahead than the new one's error has room for.
    test.answers.borrow_mut().push_back(Ok(measurement_off(100 * SECOND, 0, -900)));
    test.late.set(Some(200 * SECOND));
    test.round(100 * SECOND);
    assert_eq!(test.page().clock_status, ClockStatus::UNRELIABLE);
    test.publisher.publish_known().expect("published");
    assert_eq!(test.page().clock_status, ClockStatus::UNRELIABLE);
}
