// SPDX-License-Identifier: MIT OR Apache-2.0
//! A model of QEMU, its guest and its users, who do whatever they like in any order; and whether what is published is
//! true all the while.

#[path = "../common/mod.rs"]
mod common;
mod qemu;

use common::{incoming_from, ours, setup, unknown, Conversation, History, MemoryPage};
use proptest::prelude::*;
use qemu::{Run, Source, World};
use vmclock_core::guest_counter::GuestCounter;
use vmclock_qemu::machine::{Answer, CounterSource, Handed, Input, Start};

/// Something that happens.
#[derive(Clone, Copy, Debug)]
enum Step {
    Stop,
    Cont,
    Save,
    Load(usize),
    /// A load that takes time, and others get a chance meanwhile.
    BeginLoad(usize),
    FinishLoad,
    Reset,
    Migrate,
    SwitchOver,
    CancelMigration,
    FailMigration,
    CompleteMigration,
    /// The stream of a guest that comes in is in memory; and it is complete.
    Stream,
    Arrive,
    /// It runs before it is said to be complete.
    ArriveRunning,
    WriteTsc(u64),
    Scribble,
    /// An update ends that began before what happened last.
    Hide,
    /// QEMU does what it was asked for.
    Execute,
    /// We get to the next thing that QEMU said, or to all of it.
    Handle,
    HandleAll,
    Round,
    /// All is handled, and the guest runs or does not.
    Settle,
}

fn steps() -> impl Strategy<Value = Vec<(Step, u32)>> {
    let step = prop_oneof![
        3 => Just(Step::Stop),
        3 => Just(Step::Cont),
        2 => Just(Step::Save),
        2 => (0..4_usize).prop_map(Step::Load),
        1 => (0..4_usize).prop_map(Step::BeginLoad),
        2 => Just(Step::FinishLoad),
        1 => Just(Step::Reset),
        1 => Just(Step::Migrate),
        1 => Just(Step::SwitchOver),
        1 => Just(Step::CancelMigration),
        1 => Just(Step::FailMigration),
        1 => Just(Step::CompleteMigration),
        2 => Just(Step::Stream),
        2 => Just(Step::Arrive),
        1 => Just(Step::ArriveRunning),
        1 => any::<u64>().prop_map(Step::WriteTsc),
        1 => Just(Step::Scribble),
        1 => Just(Step::Hide),
        5 => Just(Step::Execute),
        5 => Just(Step::Handle),
        5 => Just(Step::HandleAll),
        2 => Just(Step::Round),
        2 => Just(Step::Settle),
    ];
    // Some nanoseconds to some milliseconds go by.
    let pause = prop_oneof![1..1_000_u32, 1..100_000_u32, 1..10_000_000_u32];
    prop::collection::vec((step, pause), 1..120)
}

fn starts() -> impl Strategy<Value = (Start, Run)> {
    let deferred = Start::Ours { continues: true, incoming: Some("defer".into()) };
    prop_oneof![
        3 => Just((ours(), Run::Paused)),
        1 => Just((Start::Ours { continues: false, incoming: None }, Run::Paused)),
        1 => Just((incoming_from("tcp:0:4444"), Run::Incoming)),
        1 => Just((incoming_from("file:/snapshot"), Run::Incoming)),
        1 => Just((deferred, Run::Incoming)),
        1 => Just((Start::Attached, Run::Paused)),
        1 => Just((Start::Attached, Run::Running)),
        1 => Just((Start::Attached, Run::Incoming)),
    ]
}

/// Does all steps, and gives what the page says after each.
fn run(world: &mut World, steps: &[(Step, u32)], refreshes: bool) -> Vec<(bool, bool, usize, usize)> {
    let mut said = Vec::new();
    for (step, pause) in steps {
        world.advance((*pause).into());
        match *step {
            Step::Stop => world.stop(),
            Step::Cont => world.cont(),
            Step::Save => world.save(),
            Step::Load(which) => {
                world.begin_load(which);
                world.finish_load();
            }
            Step::BeginLoad(which) => world.begin_load(which),
            Step::FinishLoad => world.finish_load(),
            Step::Reset => world.reset(),
            Step::Migrate => world.migrate(),
            Step::SwitchOver => world.switch_over(),
            Step::CancelMigration => world.end_migration("cancelled"),
            Step::FailMigration => world.end_migration("failed"),
            Step::CompleteMigration => world.end_migration("completed"),
            Step::Stream => world.stream(),
            Step::Arrive => world.arrive(false),
            Step::ArriveRunning => world.arrive(true),
            Step::WriteTsc(offset) => world.write_tsc(offset),
            Step::Scribble => world.scribble(),
            Step::Hide => world.hide(),
            Step::Execute => world.execute(),
            Step::Handle => world.handle(),
            Step::HandleAll => world.handle_all(),
            Step::Round => world.round(),
            Step::Settle => world.settle(),
        }
        if refreshes && matches!(step, Step::Round | Step::Settle) {
            world.refresh_service();
        }
        said.push(world.says());
    }
    world.settle();
    said.push(world.says());
    said
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_published_is_true_whatever_happens(
        (start, run) in starts(), kvm in any::<bool>(), second_page in any::<bool>(), listens in any::<bool>(),
        first in any::<u64>(), steps in steps(),
    ) {
        let source = if kvm { Source::Kvm } else { Source::Tcg };
        let mut setup = setup(source.setup(), start);
        setup.second_page = second_page;
        let mut world = World::new(setup, source, run, first, listens, MemoryPage::new());
        self::run(&mut world, &steps, false);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_service_gives_the_same_pages(
        (start, run) in starts(), kvm in any::<bool>(), second_page in any::<bool>(), listens in any::<bool>(),
        first in any::<u64>(), steps in steps(),
    ) {
        let source = if kvm { Source::Kvm } else { Source::Tcg };
        let mut setup = setup(source.setup(), start);
        setup.second_page = second_page;
        let served = MemoryPage::served(&setup.start);
        let [own, served] = [MemoryPage::new(), served].map(|page| {
            let mut world = World::new(setup.clone(), source, run, first, listens, page);
            self::run(&mut world, &steps, false)
        });
        prop_assert_eq!(own, served);
    }

    #[test]
    fn what_a_service_publishes_is_true_whenever_it_refreshes(
        (start, run) in starts(), kvm in any::<bool>(), listens in any::<bool>(), first in any::<u64>(),
        steps in steps(),
    ) {
        let source = if kvm { Source::Kvm } else { Source::Tcg };
        let setup = setup(source.setup(), start);
        let page = MemoryPage::served(&setup.start);
        let mut world = World::new(setup, source, run, first, listens, page);
        self::run(&mut world, &steps, true);
    }
}

/// A doorbell is an eventfd, and whoever shares one can make writing to it block.
#[test]
fn a_service_notifies_the_guests_of_its_operators_only() {
    assert!(common::is_notified(0));
    assert!(!common::is_notified(1000));
}

/// Inputs as no QEMU would send them.
fn inputs() -> impl Strategy<Value = Vec<Chaos>> {
    let counter = any::<u64>().prop_map(|offset| GuestCounter::exact(offset, None));
    let answer = prop_oneof![
        Just(Ok(Answer::Done)),
        prop_oneof![Just("running"), Just("paused"), Just("inmigrate"), Just("")]
            .prop_map(|status| Ok(Answer::Status(status.into()))),
        any::<u64>().prop_map(|value| Ok(Answer::DeviceState(value))),
        any::<bool>().prop_map(|listens| Ok(Answer::Listens(listens))),
    ];
    let answer = prop_oneof![9 => answer, 1 => Just(Err(String::from("no")))];
    let status = prop_oneof![
        Just("setup"),
        Just("active"),
        Just("completed"),
        Just("failed"),
        Just("cancelled"),
        Just("none"),
        Just("no-such-status"),
    ];
    let input = prop_oneof![
        4 => Just(Input::Stopped),
        4 => any::<u64>().prop_map(|emitted| Input::Resumed { emitted }),
        1 => Just(Input::Reset { reason: String::new() }),
        1 => Just(Input::Shutdown { reason: String::new() }),
        2 => status.prop_map(|status| Input::Migration { status: status.into() }),
        6 => (answer, any::<u64>(), any::<u64>())
            .prop_map(|(answer, sent, received)| Input::Answered { answer, sent, received }),
        3 => (0..9_u64, prop::result::maybe_ok(counter.clone(), Just(String::from("no"))))
            .prop_map(|(epoch, counter)| Input::CounterRead { epoch, counter }),
        2 => (0..9_u64, counter).prop_map(|(epoch, counter)| Input::HandedOver {
            epoch,
            handed: Handed::Narrowed { counter, rounds: 1 },
        }),
        1 => (0..9_u64).prop_map(|epoch| Input::HandedOver { epoch, handed: Handed::Nonsense }),
        2 => Just(Input::RoundComplete),
        6 => Just(Input::Drained),
    ];
    let chaos = prop_oneof![20 => input.prop_map(Chaos::Input), 1 => any::<u32>().prop_map(Chaos::Memory)];
    prop::collection::vec(chaos, 1..200)
}

#[derive(Clone, Debug)]
enum Chaos {
    Input(Input),
    /// The page's memory is another one.
    Memory(u32),
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nonsense_is_survived_and_one_command_is_sent_at_a_time(
        (start, _) in starts(),
        source in prop_oneof![Just(CounterSource::Tcg), Just(CounterSource::Kvm), Just(unknown())],
        second_page in any::<bool>(), inputs in inputs(),
    ) {
        let mut setup = setup(source, start);
        setup.second_page = second_page;
        let (mut conversation, _) = Conversation::new(setup);
        let mut unanswered = false;
        for chaos in inputs {
            let input = match chaos {
                Chaos::Input(input) => input,
                Chaos::Memory(seq_count) => {
                    let memory = MemoryPage::new().contents.with(|page| page.seq_count = seq_count);
                    conversation.page.loaded(memory, History::new(), 0x0ffe);
                    continue;
                }
            };
            if matches!(input, Input::Answered { .. }) {
                unanswered = false;
            }
            let words = conversation.on(input);
            let asks = words.split(' ').filter(|word| {
                word.starts_with('?') && !["?debugfs", "?guest"].contains(word)
            });
            for ask in asks {
                prop_assert!(!std::mem::replace(&mut unanswered, true), "{ask} before the last one was answered");
            }
        }
        prop_assert_eq!(conversation.on(Input::Closed).contains("end"), conversation.gave_up.is_none());
    }
}
