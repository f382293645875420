// SPDX-License-Identifier: MIT OR Apache-2.0
//! Snapshots that are loaded into a running QEMU.

use super::*;

type Saved = (Snapshot, History, u64);

fn saved(conversation: &Conversation) -> Saved {
    let page = &conversation.page;
    (page.memory, page.history.clone(), page.mark)
}

fn load(conversation: &mut Conversation, saved: &Saved) {
    conversation.page.loaded(saved.0, saved.1.clone(), saved.2);
}

#[test]
fn one_snapshot_loaded_twice() {
    let mut conversation = running(setup(Tcg, ours()));
    // savevm: QEMU pauses the guest, and is back before we are.
    let snapshot = saved(&conversation);
    talk(
        &mut conversation,
        [
            (Input::Stopped, "=withheld paused"),
            (resume(40_000_000), "resumed"),
            (Input::Drained, "?device-state"),
            (Input::Stopped, "=withheld"),
            (resume(41_000_000), ""),
            (device_state(20_000_000, 40_500_000, 41_100_000), "=time calibrated"),
        ],
    );
    for load_number in 1..=2 {
        talk(
            &mut conversation,
            [
                (Input::Stopped, "=withheld paused"),
                (Input::Drained, "?device-state"),
                // Of the snapshot: QEMU loaded it, and the guest's counter does not go back.
                (device_state(7_000_000, 50_000_000, 50_100_000), ""),
            ],
        );
        load(&mut conversation, &snapshot);
        talk(
            &mut conversation,
            [
                (resume(51_000_000), "=behind =restored snapshot-loaded resumed"),
                (Input::Drained, "?device-state"),
                (Input::Stopped, "=withheld"),
                (resume(52_000_000), ""),
                (device_state(22_000_000, 51_500_000, 52_100_000), "=time calibrated"),
            ],
        );
        assert_eq!(conversation.identities(), (1 + load_number, 1 + load_number));
        assert_counter(&conversation, 22_000_000_u64.wrapping_sub(52_020_000), 102_000);
    }
}

#[test]
fn a_snapshot_that_was_loaded_before_we_get_to_the_pause() {
    for source in [Tcg, Kvm, unknown()] {
        let mut conversation = running(setup(source.clone(), ours()));
        let snapshot = saved(&conversation);
        talk(&mut conversation, [(Input::Stopped, "=withheld paused")]);
        let resumed = conversation.on(resume(40_000_000));
        assert!(resumed.starts_with("resumed"), "{resumed}");
        // QEMU is through with all of it: our answer to the pause would hide what came back.
        load(&mut conversation, &snapshot);
        talk(&mut conversation, [(Input::Stopped, "=behind =withheld paused")]);
        let resumed = conversation.on(resume(50_000_000));
        let none = if matches!(source, CounterSource::Unknown(_)) { " =none no-counter" } else { "" };
        assert_eq!(resumed, format!("=restored snapshot-loaded resumed{none}"), "{source:?}");
        assert_eq!(conversation.identities(), (2, 2), "{source:?}");
    }
}

#[test]
fn a_snapshot_that_was_loaded_before_we_get_to_an_answer() {
    let mut conversation = running(setup(Tcg, ours()));
    let snapshot = saved(&conversation);
    talk(
        &mut conversation,
        [
            (Input::Stopped, "=withheld paused"),
            (Input::Drained, "?device-state"),
            (device_state(20_000_000, 30_000_000, 30_100_000), ""),
            (resume(40_000_000), "resumed"),
            (Input::Drained, "?status"),
        ],
    );
    load(&mut conversation, &snapshot);
    talk(
        &mut conversation,
        [
            // For the run before: publishing it hides what came back.
            (status("running", 40_060_000), "=behind =time calibrated"),
            (Input::Stopped, "=withheld paused"),
            (resume(50_000_000), "=restored snapshot-loaded resumed"),
        ],
    );
    assert_eq!(conversation.identities(), (2, 2));
}

#[test]
fn a_snapshot_loaded_while_the_guest_is_paused() {
    let mut conversation = running(setup(Tcg, ours()));
    talk(&mut conversation, [(Input::Stopped, "=withheld paused")]);
    let snapshot = saved(&conversation);
    talk(
        &mut conversation,
        [
            (Input::Drained, "?device-state"),
            (device_state(20_000_000, 30_000_000, 30_100_000), ""),
            (resume(40_000_000), "resumed"),
            (Input::Drained, "?status"),
            (status("running", 40_060_000), "=time calibrated"),
            (Input::Stopped, "=withheld paused"),
        ],
    );
    // Without an event; and it stays for a while.
    load(&mut conversation, &snapshot);
    talk(&mut conversation, [(Input::RoundComplete, "=behind =withheld =round"), (Input::RoundComplete, "=round")]);
    talk(
        &mut conversation,
        [
            // What could be read is not the guest's.
            (Input::Drained, ""),
            (resume(70_000_000), "=restored snapshot-loaded resumed"),
            (Input::Drained, "?device-state"),
        ],
    );
    assert_eq!(conversation.identities(), (2, 2));
}

#[test]
fn a_snapshot_of_another_life_with_later_counts() {
    let mut conversation = running(setup(Kvm, ours()));
    let snapshot = conversation.page.memory.with(|page| {
        page.seq_count = 0x4000_0001;
        page.vm_generation_counter = 99;
    });
    let history = History::from([(0x4000_0000, snapshot)]);
    load(&mut conversation, &(snapshot, history, 0x0ffe));
    talk(
        &mut conversation,
        [(Input::Stopped, "=behind =withheld paused"), (resume(40_000_000), "=restored snapshot-loaded resumed")],
    );
    let expected = unseen_after(0x4000_0001).wrapping_add(4);
    assert_eq!(conversation.page.memory.seq_count, expected);
    assert_eq!(conversation.page.memory.vm_generation_counter, *conversation.page.generations.last().unwrap());
}

#[test]
fn a_guest_that_writes_its_own_page_gets_it_back() {
    let mut conversation = running(setup(Tcg, ours()));
    conversation.page.memory.clock_status = ClockStatus::FREE_RUNNING;
    talk(&mut conversation, [(Input::RoundComplete, "=behind =round"), (Input::RoundComplete, "=round")]);
    assert_eq!(conversation.status(), ClockStatus::SYNCHRONIZED);
}

/// We are late: it is noticed when an earlier resumption is handled, and the pause that it belongs to comes after that.
#[test]
fn a_snapshot_that_was_loaded_in_a_later_pause() {
    let mut conversation = running(setup(Tcg, ours()));
    let snapshot = saved(&conversation);
    talk(&mut conversation, [(Input::Stopped, "=withheld paused")]);
    load(&mut conversation, &snapshot);
    talk(
        &mut conversation,
        [
            (resume(40_000_000), "=behind =restored snapshot-loaded resumed"),
            (Input::Stopped, "=withheld paused"),
            (Input::Drained, ""),
            (resume(50_000_000), "resumed"),
            (Input::Drained, "?device-state"),
        ],
    );
    assert_eq!(conversation.identities(), (2, 2));
}

/// We were interrupted between reading the page's memory and writing it.
#[test]
fn a_page_that_an_update_has_hidden_is_known_by_its_mark() {
    for source in [Tcg, Kvm, unknown()] {
        let mut conversation = running(setup(source, ours()));
        let snapshot = saved(&conversation);
        talk(&mut conversation, [(Input::Stopped, "=withheld paused")]);
        let resumed = conversation.on(resume(40_000_000));
        assert!(resumed.starts_with("resumed"), "{resumed}");
        load(&mut conversation, &snapshot);
        conversation.page.memory = conversation.page.contents;
        talk(&mut conversation, [(Input::Stopped, "=behind =withheld paused")]);
        let resumed = conversation.on(resume(50_000_000));
        assert!(resumed.starts_with("=restored snapshot-loaded resumed"), "{resumed}");
        assert_eq!(conversation.identities(), (2, 2));
        // Once.
        talk(&mut conversation, [(Input::Stopped, "=withheld paused")]);
        assert!(conversation.on(resume(60_000_000)).starts_with("resumed"));
    }
}
