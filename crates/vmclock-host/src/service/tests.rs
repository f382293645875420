// SPDX-License-Identifier: MIT OR Apache-2.0
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};
use std::rc::Rc;
use std::time::Duration;

use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};
use vmclock_core::abi::{ClockStatus, CounterId};
use vmclock_core::calibration::Calibration;
use vmclock_core::guest_counter::{GuestCounter, Scale};
use vmclock_core::page::{Page, Writer};

use super::*;
use crate::publisher::{Plan, Prepared};
use crate::source::kernel::{KernelSource, Trust};
use crate::source::Immediate;
use crate::this_host::ThisHost;

const ROOT: Peer = Peer { user: 0 };
const SERVICE: u32 = 7;
const SOMEBODY: Peer = Peer { user: 1000 };

/// A page in memory, which may be lost.
struct MemoryPage {
    writer: Writer<Rc<Page>>,
    is_lost: Rc<Cell<bool>>,
}

impl MemoryPage {
    fn new(blank: Snapshot) -> Self {
        Self { writer: Writer::create(Rc::new(Page::new()), blank), is_lost: Rc::default() }
    }

    fn written(&self) -> Result<(), PageFileError> {
        let error =
            || PageFileError::Io { path: "memory".into(), doing: "write it", error: Error::from(ErrorKind::Other) };
        if self.is_lost.get() {
            Err(error())
        } else {
            Ok(())
        }
    }
}

impl PageSink for MemoryPage {
    fn contents(&self) -> &Snapshot {
        self.writer.contents()
    }

    fn update(&mut self, change: &mut dyn FnMut(&mut Snapshot)) -> Result<(), PageFileError> {
        self.written()?;
        self.writer.update(change);
        Ok(())
    }

    fn update_late(&mut self, change: &mut dyn FnMut(&mut Snapshot)) -> Result<(), PageFileError> {
        self.written()?;
        self.writer.update_late(change);
        Ok(())
    }

    fn continue_after(&mut self, seq_count: u32) {
        self.writer.continue_after(seq_count);
    }

    fn give_up(&mut self) {
        self.writer.update(|page| page.clock_status = ClockStatus::UNRELIABLE);
    }
}

impl GuestSink for MemoryPage {
    fn memory(&self) -> Snapshot {
        *self.writer.contents()
    }
}

/// Opens pages in memory, and can lose them.
#[derive(Default)]
struct MemoryPages {
    opened: Rc<RefCell<Vec<Rc<Cell<bool>>>>>,
}

impl Pages for MemoryPages {
    type Page = MemoryPage;

    fn open(
        &mut self,
        _place: &Place,
        _descriptors: Vec<OwnedFd>,
        blank: Snapshot,
    ) -> Result<(MemoryPage, Found), PageFileError> {
        let page = MemoryPage::new(blank);
        self.opened.borrow_mut().push(Rc::clone(&page.is_lost));
        Ok((page, Found::New))
    }
}

type Lost = Rc<RefCell<Vec<Rc<Cell<bool>>>>>;

struct World {
    service: Service<ThisHost, MemoryPage, MemoryPages>,
    lost: Lost,
}

impl World {
    fn new() -> Self {
        let mut plan = Plan::default();
        plan.sources.push(Box::new(Immediate::new(KernelSource::new(Trust::HostClock))));
        plan.tai_offset = vmclock_core::tai::TaiOffset::from_seconds(37);
        let prepared = Prepared::new(ThisHost, plan).expect("a counter");
        let page = MemoryPage::new(prepared.blank());
        let (publisher, _) = prepared.on(page, Found::New, "own").expect("published");
        let pages = MemoryPages::default();
        let lost = Rc::clone(&pages.opened);
        Self { service: Service::new(publisher, pages, SERVICE), lost }
    }

    fn round(&mut self) {
        self.service.publisher.clock.measure(Duration::from_secs(1)).expect("measured");
        self.service.finish_round().expect("concluded");
        while self.service.catch_up(1) {}
    }

    fn ask(&mut self, peer: Peer, request: &str) -> Result<Answer, Refusal> {
        let request = serde_json::from_str(request).unwrap_or_else(|error| panic!("{request}: {error}"));
        self.service.handle(peer, request, Vec::new(), None)
    }

    fn add(&mut self, peer: Peer, name: &str, counter: &str) -> PageState {
        let request =
            format!(r#"{{"request": "add-guest", "guest": "{name}", "page": "descriptor", "counter": {counter}}}"#);
        page_of(self.ask(peer, &request))
    }

    fn step(&mut self, name: &str, step: &str) -> PageState {
        page_of(self.ask(ROOT, &format!(r#"{{"request": "lifecycle", "guest": "{name}", "step": "{step}"}}"#)))
    }

    fn contents(&self, name: &str) -> Snapshot {
        *self.service.guests[&name.parse::<GuestName>().expect("a name")].contents()
    }
}

fn page_of(answer: Result<Answer, Refusal>) -> PageState {
    match answer {
        Ok(Answer::Page(state)) => state,
        other => panic!("{other:?} is no page"),
    }
}

#[test]
fn each_guest_has_the_time_at_its_own_counter() {
    let mut world = World::new();
    world.round();
    let half = Scale { ratio: 1 << 47, fraction_bits: 48 };
    let counters = [
        ("host", "\"host\"", GuestCounter::exact(0, None)),
        ("ahead", r#"{"offset": 5000}"#, GuestCounter::exact(5000, None)),
        (
            "half",
            r#"{"offset": "0xff", "scale": {"ratio": "0x800000000000", "fraction_bits": 48}}"#,
            GuestCounter::exact(255, Some(half)),
        ),
    ];
    for (name, written, _) in &counters {
        let state = world.add(SOMEBODY, name, written);
        assert_eq!(state.clock_status, "synchronized", "{name} has the time at once");
    }
    for _ in 0..3 {
        world.round();
        let own = *world.service.publisher.contents();
        let host = Calibration::from_snapshot(&own, CounterId(own.counter_id.0)).expect("a time");
        for (name, _, counter) in &counters {
            let page = world.contents(name);
            let guest = Calibration::from_snapshot(&page, page.counter_id).expect("a time");
            let at = own.counter_value.wrapping_add(1_000_000_000);
            let (truth, seen) = (host.interval_at(at), guest.interval_at(counter.at(at)));
            let (truth, seen) = (truth.expect("in range").expect("bounds"), seen.expect("in range").expect("bounds"));
            assert!(seen.earliest <= truth.earliest && truth.latest <= seen.latest, "{name}: {seen:?} {truth:?}");
            assert!(seen.width_nanos() <= truth.width_nanos() + 100, "{name}: {seen:?} {truth:?}");
            assert_ne!(page.disruption_marker, own.disruption_marker);
        }
    }
}

#[test]
fn each_step_changes_its_row_of_the_table() {
    let mut world = World::new();
    world.round();
    world.add(ROOT, "vm", "\"host\"");
    for (step, marker, generation, status) in [
        ("resumed", false, false, "synchronized"),
        ("cloned", false, true, "synchronized"),
        ("paused", false, false, "initializing"),
        ("reset", false, false, "initializing"),
        ("disrupted", true, false, "initializing"),
        ("migrated-in", true, false, "initializing"),
        ("restored", true, true, "initializing"),
        ("migrated-out", false, false, "initializing"),
    ] {
        let before = world.contents("vm");
        let after = world.step("vm", step);
        assert_eq!(before.disruption_marker != after.disruption_marker.0, marker, "{step}: marker");
        assert_eq!(before.vm_generation_counter != after.vm_generation_counter.0, generation, "{step}: generation");
        assert_eq!(after.clock_status, status, "{step}");
        world.round();
        assert_eq!(world.contents("vm").clock_status.to_string(), status, "{step}: no round gives a time by itself");
        let known = page_of(world.ask(ROOT, r#"{"request": "set-counter", "guest": "vm", "counter": "host"}"#));
        assert_eq!(known.clock_status, "synchronized", "{step}");
        assert_eq!(known.disruption_marker, after.disruption_marker);
    }
    let steps = world.service.take_events().into_iter().filter(|event| event.name() == "guest-step");
    assert_eq!(steps.count(), 8);
}

#[test]
fn a_guest_without_a_counter_has_marker_and_generation() {
    let mut world = World::new();
    world.round();
    world.add(ROOT, "vm", "\"host\"");
    let before = world.contents("vm");
    let mut set = |counter: &str| {
        let request = format!(r#"{{"request": "set-counter", "guest": "vm", "counter": {counter}}}"#);
        page_of(world.ask(ROOT, &request));
        world.round();
        world.contents("vm")
    };
    let page = set("\"none\"");
    assert_eq!((page.counter_id, page.clock_status), (CounterId::NONE, ClockStatus::UNKNOWN));
    assert_eq!(page.disruption_marker, before.disruption_marker);
    let page = set("\"unknown\"");
    assert_eq!((page.counter_id, page.clock_status), (before.counter_id, ClockStatus::INITIALIZING));
    set("\"none\"");
    let page = set("\"host\"");
    assert_eq!((page.counter_id, page.clock_status), (before.counter_id, ClockStatus::SYNCHRONIZED));
}

#[test]
fn a_page_that_is_being_loaded_is_not_written() {
    let mut world = World::new();
    world.round();
    world.add(ROOT, "vm", "\"host\"");
    world.step("vm", "incoming");
    let before = world.contents("vm");
    world.round();
    world.ask(ROOT, r#"{"request": "announce", "notice": "soon"}"#).expect("announced");
    world.ask(ROOT, r#"{"request": "set-counter", "guest": "vm", "counter": "host"}"#).expect("for later");
    assert_eq!(world.contents("vm"), before);
    let loaded = page_of(world.ask(
        ROOT,
        r#"{"request": "lifecycle", "guest": "vm", "step": "migrated-in", "seen": 4000, "generation": 9, "counter": "host"}"#,
    ));
    assert!(loaded.seq_count > 4000, "behind what the guest has seen");
    assert_eq!((loaded.vm_generation_counter, loaded.clock_status.as_str()), (Wide(9), "synchronized"));
}

#[test]
fn a_guest_that_was_not_loaded_after_all_is_disrupted() {
    let mut world = World::new();
    world.add(ROOT, "vm", "\"host\"");
    for step in ["resumed", "paused", "disrupted", "reset", "cloned"] {
        let before = world.contents("vm").disruption_marker;
        world.step("vm", "incoming");
        assert_ne!(world.step("vm", step).disruption_marker.0, before, "{step}");
        assert_eq!(world.contents("vm").clock_status, ClockStatus::INITIALIZING, "{step}");
    }
}

#[test]
fn a_leap_second_that_is_announced_between_two_pages_hides_no_disruption() {
    let mut world = World::new();
    world.round();
    world.add(ROOT, "a", "\"host\"");
    world.add(ROOT, "b", "\"host\"");
    let before = ["a", "b"].map(|name| world.contents(name).disruption_marker);
    let round = Round { disrupted: true, ..world.service.round };
    world.service.begin(round);
    assert!(world.service.catch_up(1));
    world.ask(ROOT, r#"{"request": "leap", "kind": "positive"}"#).expect("announced");
    while world.service.catch_up(1) {}
    for (name, before) in ["a", "b"].into_iter().zip(before) {
        let page = world.contents(name);
        assert_ne!(page.disruption_marker, before, "{name}");
        assert_eq!(page.leap_indicator.to_string(), "pre-positive", "{name}");
    }
}

#[test]
fn who_may_do_what() {
    let mut world = World::new();
    world.add(SOMEBODY, "theirs", "\"unknown\"");
    let before = world.contents("theirs");
    let other = Peer { user: 1001 };
    for request in [
        r#"{"request": "remove-guest", "guest": "theirs"}"#,
        r#"{"request": "lifecycle", "guest": "theirs", "step": "restored"}"#,
        r#"{"request": "set-counter", "guest": "theirs", "counter": "host"}"#,
        r#"{"request": "announce", "guest": "theirs", "notice": "soon"}"#,
        r#"{"request": "inspect", "guest": "theirs"}"#,
        r#"{"request": "announce", "notice": "soon"}"#,
        r#"{"request": "leap", "kind": "positive"}"#,
        r#"{"request": "add-guest", "guest": "mine", "page": {"path": "/etc/passwd"}}"#,
    ] {
        let refusal = world.ask(other, request).expect_err(request);
        assert_eq!(refusal.kind, Kind::Denied, "{request}: {refusal}");
    }
    let with_bell = r#"{"request": "add-guest", "guest": "mine", "page": "descriptor"}"#;
    let descriptors = || (0..2).map(|_| tempfile::tempfile().expect("a file").into()).collect();
    let request = || serde_json::from_str(with_bell).expect("a request");
    let refusal = world.service.handle(other, request(), descriptors(), None).expect_err("a doorbell");
    assert_eq!(refusal.kind, Kind::Denied, "{refusal}");
    assert_eq!((world.contents("theirs"), world.service.guests()), (before, 1));
    for (peer, request) in [
        (other, r#"{"request": "guests"}"#),
        (other, r#"{"request": "tracking"}"#),
        (other, r#"{"request": "sources"}"#),
        (SOMEBODY, r#"{"request": "lifecycle", "guest": "theirs", "step": "restored"}"#),
        (Peer { user: SERVICE }, r#"{"request": "leap", "kind": "none"}"#),
        (ROOT, r#"{"request": "remove-guest", "guest": "theirs"}"#),
    ] {
        world.ask(peer, request).expect(request);
    }
}

#[test]
fn what_is_refused_changes_nothing() {
    let mut world = World::new();
    world.add(ROOT, "vm", "\"host\"");
    world.service.take_events();
    let before = world.contents("vm");
    for (request, kind) in [
        (r#"{"request": "add-guest", "guest": "vm", "page": "descriptor"}"#, Kind::Exists),
        (r#"{"request": "remove-guest", "guest": "no"}"#, Kind::NoSuchGuest),
        (
            r#"{"request": "set-counter", "guest": "vm", "counter": {"offset": 0, "scale": {"ratio": 0, "fraction_bits": 48}}}"#,
            Kind::BadRequest,
        ),
        (
            r#"{"request": "lifecycle", "guest": "vm", "step": "restored", "counter": {"offset": 0, "scale": {"ratio": 1, "fraction_bits": 255}}}"#,
            Kind::BadRequest,
        ),
    ] {
        assert_eq!(world.ask(ROOT, request).expect_err(request).kind, kind, "{request}");
    }
    assert_eq!(world.contents("vm"), before);
    assert!(world.service.take_events().is_empty());
}

#[test]
fn a_page_that_is_lost_takes_no_other_with_it() {
    let mut world = World::new();
    for name in ["a", "b", "c"] {
        world.add(ROOT, name, "\"host\"");
    }
    world.round();
    let before: BTreeMap<_, _> = ["a", "c"].map(|name| (name, world.contents(name).seq_count)).into();
    world.lost.borrow()[1].set(true);
    // A round that certainly has something to say.
    let round = Round { is_new: true, ..world.service.round };
    world.service.begin(round);
    while world.service.catch_up(2) {}
    for (name, seq_count) in before {
        assert_ne!(world.contents(name).seq_count, seq_count, "{name}");
    }
    let lost: Vec<_> = world.service.take_events().into_iter().filter(|event| event.name() == "guest-lost").collect();
    assert!(matches!(&lost[..], [Event::GuestLost { guest, .. }] if guest == "b"), "{lost:?}");
    assert_eq!(world.service.guests(), 2);
}

#[test]
fn a_disruption_of_the_host_reaches_every_guest_once() {
    let mut world = World::new();
    world.round();
    world.add(ROOT, "a", "\"host\"");
    world.add(ROOT, "b", "\"unknown\"");
    let before = ["a", "b"].map(|name| world.contents(name).disruption_marker);
    let round = Round { disrupted: true, ..world.service.round };
    world.service.begin(round);
    // A client is served between the two pages.
    assert!(world.service.catch_up(1));
    world.step("b", "cloned");
    let between = ["a", "b"].map(|name| world.contents(name).disruption_marker);
    assert!(before[0] != between[0] && before[1] != between[1]);
    while world.service.catch_up(1) {}
    world.round();
    assert_eq!(["a", "b"].map(|name| world.contents(name).disruption_marker), between);
}

#[test]
fn what_there_is_can_be_listed() {
    let mut world = World::new();
    world.round();
    world.add(SOMEBODY, "vm", "\"host\"");
    let Ok(Answer::Guests(GuestList { guests })) = world.ask(SOMEBODY, r#"{"request": "guests"}"#) else { panic!() };
    assert_eq!((guests[0].guest.as_str(), guests[0].user, guests[0].counter), ("vm", 1000, Relation::Host));
    let Ok(Answer::Sources(SourceList { sources })) = world.ask(SOMEBODY, r#"{"request": "sources"}"#) else {
        panic!()
    };
    assert_eq!((sources[0].standing.as_str(), sources[0].reach), ("selected", 1));
    assert!(sources[0].offset_ns.expect("measured").abs() < 1e6 && sources[0].age_ns.is_some());
    let Ok(Answer::Tracking(tracking)) = world.ask(SOMEBODY, r#"{"request": "tracking"}"#) else { panic!() };
    assert_eq!((tracking.status.as_str(), tracking.tai_minus_utc, tracking.guests), ("synchronized", Some(37), 1));
    assert!(tracking.frequency_ppm.expect("measured").abs() <= 500.0 && tracking.max_error_ns.is_some());
    let line = answer_line_of(&Answer::Tracking(tracking));
    assert!(line.contains(r#""ok":true"#) && line.ends_with('\n'), "{line}");
}

fn answer_line_of(answer: &Answer) -> String {
    protocol::answer_line(None, &Ok(answer.clone()))
}

/// A line as a client may send it: mostly a request with parts that make sense or not, sometimes with bytes changed.
fn some_line(chance: &mut impl Rng) -> String {
    // The first ones, which make sense, more often.
    let mut pick = |from: &[&'static str]| {
        let mut any = || chance.next_u32() as usize % from.len();
        from[any().min(any()).min(any())]
    };
    let guest = |pick: &mut dyn FnMut(&[&'static str]) -> &'static str| {
        pick(&[r#""a""#, r#""b""#, r#""web-7""#, r#""""#, r#""..""#, r#""a/b""#, "7", "null", r#""\u0000""#])
    };
    let numbers = ["null", "0", "1", "-1", "4294967296", "18446744073709551616", "1e400", r#""0x10""#, r#""x""#, "[]"];
    let counters = [
        r#""host""#,
        r#""unknown""#,
        r#"{"offset": 5}"#,
        r#"{"offset": 0, "scale": {"ratio": 0, "fraction_bits": 48}}"#,
        r#"{"offset": -9223372036854775808, "scale": {"ratio": 3, "fraction_bits": 1}}"#,
        r#"{"offset": 0, "scale": {"ratio": 18446744073709551615, "fraction_bits": 64}}"#,
        "{}",
        "[[]]",
    ];
    let steps = [
        r#""paused""#,
        r#""resumed""#,
        r#""incoming""#,
        r#""restored""#,
        r#""migrated-in""#,
        r#""migrated-out""#,
        r#""reset""#,
        r#""cloned""#,
        r#""disrupted""#,
        r#""teleported""#,
        "3",
    ];
    let notices = [r#""soon""#, r#""imminent""#, r#""cleared""#, r#""clear""#, r#""x""#];
    let line = match pick(&[
        "add", "add", "remove", "life", "life", "life", "counter", "announce", "leap", "ask", "old", "junk",
    ]) {
        "add" => format!(
            r#"{{"request": "add-guest", "guest": {}, "page": {}, "counter": {}, "notify": {}, "step": {}, "id": {}}}"#,
            guest(&mut pick),
            pick(&[r#""descriptor""#, r#"{"path": "/no/page"}"#, r#"{"path": ""}"#, "1"]),
            pick(&counters),
            pick(&["true", "false", "1"]),
            pick(&[r#""restored""#, r#""incoming""#, "null", "{}"]),
            pick(&numbers)
        ),
        "remove" => format!(r#"{{"request": "remove-guest", "guest": {}}}"#, guest(&mut pick)),
        "life" => format!(
            r#"{{"request": "lifecycle", "guest": {}, "step": {}, "counter": {}, "seen": {}, "generation": {}}}"#,
            guest(&mut pick),
            pick(&steps),
            pick(&counters),
            pick(&numbers),
            pick(&numbers)
        ),
        "counter" => {
            format!(r#"{{"request": "set-counter", "guest": {}, "counter": {}}}"#, guest(&mut pick), pick(&counters))
        }
        "announce" => {
            format!(r#"{{"request": "announce", "guest": {}, "notice": {}}}"#, guest(&mut pick), pick(&notices))
        }
        "leap" => {
            format!(r#"{{"request": "leap", "kind": {}}}"#, pick(&[r#""positive""#, r#""negative""#, r#""none""#, "0"]))
        }
        "ask" => format!(
            r#"{{"request": {}, "version": {}}}"#,
            pick(&[
                r#""version""#,
                r#""guests""#,
                r#""sources""#,
                r#""tracking""#,
                r#""subscribe""#,
                r#""exec""#,
                "{}"
            ]),
            pick(&numbers)
        ),
        "old" => pick(&["migrate", "snapshot", "soon", "clear", "leap positive", "clone", ""]).to_owned(),
        _ => pick(&["{", "[]", "null", "{\"request\":", "\"", "{}", "\u{7f}\u{0}", "{\"a\":{\"a\":{\"a\":{}}}}"])
            .to_owned(),
    };
    if chance.next_u32() % 8 > 0 {
        return line;
    }
    let mut bytes = line.into_bytes();
    for _ in 0..=chance.next_u32() % 4 {
        let at = chance.next_u32() as usize % bytes.len().max(1);
        match chance.next_u32() % 3 {
            0 => bytes.truncate(at),
            1 => bytes.extend_from_within(at..),
            _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = b' ' + *byte % 90),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// How many lines: `VMCLOCK_MESSAGES`, or as many as take a moment.
fn messages() -> u32 {
    std::env::var("VMCLOCK_MESSAGES").map_or(20_000, |number| number.parse().expect("a number"))
}

#[test]
fn whatever_is_asked_a_refusal_changes_nothing_and_no_descriptor_stays() {
    let mut chance = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut world = World::new();
    world.round();
    let (read, write) = rustix::pipe::pipe().expect("a pipe");
    rustix::fs::fcntl_setfl(&read, rustix::fs::OFlags::NONBLOCK).expect("set");
    let (mut refused, mut done) = (0_u32, 0_u32);
    for number in 0..messages() {
        let line = some_line(&mut chance);
        let peer = [ROOT, ROOT, Peer { user: SERVICE }, SOMEBODY, Peer { user: 1001 }][chance.next_u32() as usize % 5];
        let descriptors = (0..chance.next_u32() % 5).map(|_| write.try_clone().expect("a copy")).collect();
        let state = |world: &World| {
            let guests: Vec<_> =
                world.service.guests.iter().map(|(name, guest)| (name.clone(), *guest.contents())).collect();
            (*world.service.publisher.contents(), guests)
        };
        let before = state(&world);
        let reply = world.service.answer(peer, &line, descriptors, None);
        assert!(reply.line.ends_with('\n') && reply.line.matches('\n').count() == 1, "{line:?}: {reply:?}");
        if serde_json::from_str::<serde_json::Value>(&reply.line).is_ok_and(|answer| answer["ok"] == true) {
            done += 1;
        } else {
            refused += 1;
            assert_eq!(state(&world), before, "{line:?} by {peer:?}: {reply:?}");
        }
        world.service.take_events();
        if number % 100 == 0 {
            world.round();
        }
    }
    assert!(done > refused / 20 && refused > done / 20, "{done} done, {refused} refused");
    drop(write);
    assert_eq!(rustix::io::read(&read, &mut [0; 1]), Ok(0), "a descriptor is still open");
}
