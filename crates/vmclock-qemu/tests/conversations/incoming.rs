// SPDX-License-Identifier: MIT OR Apache-2.0
//! Guests that come from another host or out of a file.

use super::*;

/// The page of another host's publisher, which was killed in the middle of an update.
fn of_another_host() -> (Snapshot, History) {
    let other = MemoryPage::new().contents;
    let page = other.with(|page| {
        page.seq_count = 0x123;
        page.disruption_marker = 0x5eed;
        page.vm_generation_counter = 0x6e0;
        page.clock_status = ClockStatus::SYNCHRONIZED;
    });
    (page, History::from([(0x122, page), (0x124, page)]))
}

fn arrive(conversation: &mut Conversation) {
    let (page, history) = of_another_host();
    conversation.page.loaded(page, history, 0x0ffe);
}

#[test]
fn a_live_migration_to_a_qemu_of_ours() {
    let (mut conversation, first) = Conversation::new(setup(Tcg, incoming_from("tcp:0:4444")));
    assert_eq!(first, "incoming");
    assert!(conversation.machine.is_incoming() && !conversation.machine.has_begun());
    talk(
        &mut conversation,
        [
            (Input::Drained, "?migrate-incoming:tcp:0:4444"),
            (migration("setup"), "migration"),
            (done(1_000_000), ""),
            (migration("active"), "migration"),
            (Input::Drained, ""),
            (Input::RoundComplete, "=round-unwritten"),
        ],
    );
    arrive(&mut conversation);
    talk(&mut conversation, [(migration("completed"), "migration =behind =migrated loaded")]);
    let page = conversation.page.memory;
    assert_eq!((page.vm_generation_counter, page.clock_status), (0x6e0, ClockStatus::INITIALIZING));
    assert_eq!(page.seq_count, unseen_after(0x123) + 2);
    talk(
        &mut conversation,
        [
            (Input::Drained, "?device-state"),
            (device_state(88_000_000, 30_000_000, 30_100_000), ""),
            (Input::Drained, "?cont"),
            (resume(31_000_000), "resumed"),
            (done(31_080_000), "=time calibrated"),
            (Input::Drained, ""),
        ],
    );
    assert_counter(&conversation, 88_000_000_u64.wrapping_sub(31_020_000), 82_000);
    assert_eq!(conversation.page.markers.len(), 2);
}

#[test]
fn out_of_saved_state_there_is_a_new_generation() {
    for (uri, restored) in [("file:/snap", true), ("exec:cat /snap", true), ("unix:/s", false)] {
        let mut conversation = begin(setup(Kvm, incoming_from(uri)));
        arrive(&mut conversation);
        conversation.on(migration("completed"));
        let generation = conversation.page.memory.vm_generation_counter;
        assert_eq!(generation != 0x6e0, restored, "{uri}");
        assert!(conversation.reported.contains(&Event::Loaded { restored }), "{uri}");
    }
    let mut stated = setup(Kvm, incoming_from("unix:/s"));
    stated.restored = true;
    let mut conversation = begin(stated);
    arrive(&mut conversation);
    assert!(conversation.on(migration("completed")).contains("=restored"));
    // What is not a page has no generation.
    let mut conversation = begin(setup(Kvm, incoming_from("unix:/s")));
    conversation.page.loaded(of_another_host().0.with(|page| page.magic = 0), History::new(), 0x0ffe);
    conversation.on(migration("completed"));
    assert_eq!(conversation.page.memory.vm_generation_counter, 1);
}

#[test]
fn somebody_else_names_it_and_continues_it() {
    let start = Start::Ours { continues: false, incoming: Some("defer".into()) };
    let (mut conversation, first) = Conversation::new(setup(Tcg, start));
    assert_eq!(first, "incoming");
    assert!(conversation.machine.has_begun());
    talk(
        &mut conversation,
        [
            (Input::Drained, ""),
            (migration("setup"), "migration"),
            // An attempt that did not get anywhere.
            (migration("failed"), "migration"),
            (migration("setup"), "migration"),
            (migration("active"), "migration"),
        ],
    );
    arrive(&mut conversation);
    talk(
        &mut conversation,
        [
            (migration("completed"), "migration =behind =migrated loaded"),
            (Input::Drained, "?device-state"),
            (device_state(88_000_000, 30_000_000, 30_100_000), ""),
            (Input::Drained, ""),
        ],
    );
    assert_eq!(conversation.identities(), (2, 2), "ours was never seen by the guest");
}

#[test]
fn a_guest_that_runs_before_its_migration_is_complete() {
    for source in [Tcg, Kvm] {
        let mut conversation = begin(setup(source, Start::Attached));
        talk(
            &mut conversation,
            [
                (Input::Drained, "?status"),
                (status("inmigrate", 1_000_000), "incoming"),
                (Input::Drained, "?query-migrate"),
                (answer(Answer::Listens(true), 1_000_000, 1_100_000), ""),
                (Input::Drained, ""),
            ],
        );
        arrive(&mut conversation);
        talk(
            &mut conversation,
            [
                (resume(2_000_000), "=behind =migrated loaded resumed"),
                (migration("completed"), "migration"),
                (migration("completed"), "migration"),
            ],
        );
        assert_eq!(conversation.identities().0, 2, "one marker, however often it is reported");
    }
}

#[test]
fn a_guest_of_which_nobody_knows_where_it_comes_from_is_taken_for_saved_state() {
    let mut conversation = begin(setup(Kvm, Start::Attached));
    talk(
        &mut conversation,
        [
            (Input::Drained, "?status"),
            (status("inmigrate", 1_000_000), "incoming"),
            (Input::Drained, "?query-migrate"),
            (answer(Answer::Listens(false), 1_000_000, 1_100_000), ""),
            (migration("setup"), "migration"),
            (Input::Drained, "?query-migrate"),
            (refused("not now"), ""),
            (migration("active"), "migration"),
            (Input::Drained, "?query-migrate"),
        ],
    );
    arrive(&mut conversation);
    talk(
        &mut conversation,
        [
            (migration("completed"), "migration =behind =restored loaded"),
            // Too late.
            (answer(Answer::Listens(true), 2_000_000, 2_100_000), ""),
            (Input::Drained, ""),
            (resume(3_000_000), "resumed"),
            (Input::Drained, "?status"),
        ],
    );
    assert_eq!(conversation.identities(), (2, 2));
}

#[test]
fn an_address_that_qemu_refuses() {
    let mut conversation = begin(setup(Kvm, incoming_from("tcp:nowhere:1")));
    talk(
        &mut conversation,
        [(Input::Drained, "?migrate-incoming:tcp:nowhere:1"), (refused("no such host"), "give-up")],
    );
    assert!(!conversation.machine.has_begun());
    // Refused to continue, it is a guest that somebody would miss.
    let mut conversation = begin(setup(Kvm, incoming_from("tcp:0:1")));
    talk(&mut conversation, [(Input::Drained, "?migrate-incoming:tcp:0:1"), (done(1_000), "")]);
    arrive(&mut conversation);
    talk(
        &mut conversation,
        [
            (migration("completed"), "migration =behind =migrated loaded"),
            (Input::Drained, "?cont"),
            (refused("a disk is locked"), "give-up"),
        ],
    );
    assert!(conversation.machine.has_begun());
}
