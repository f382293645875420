// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a guest of ours begins.

use super::*;

#[test]
fn a_guest_of_ours_is_read_continued_and_published() {
    let conversation = running(setup(Tcg, ours()));
    assert_eq!(conversation.status(), ClockStatus::SYNCHRONIZED);
    // From 2 us before the time stamp to the answer.
    assert_counter(&conversation, (7_000_000_u64).wrapping_sub(10_030_000), 102_000);
    assert_eq!(conversation.identities(), (1, 1), "a boot is no disruption");
    assert!(conversation.machine.has_begun());
}

#[test]
fn a_guest_without_a_known_counter_is_continued_too() {
    let conversation = running(setup(unknown(), ours()));
    assert_eq!(conversation.page.memory.counter_id, CounterId::NONE);
    assert_eq!(conversation.status(), ClockStatus::UNKNOWN);
}

#[test]
fn a_counter_that_cannot_be_read_while_paused_is_tried_while_it_runs() {
    let mut conversation = begin(setup(Tcg, ours()));
    talk(
        &mut conversation,
        [
            (Input::Drained, "?device-state"),
            (refused("no folder"), "warning"),
            (Input::Drained, "?cont"),
            (resume(10_000_000), "resumed"),
            (done(10_100_000), ""),
            (Input::Drained, "?device-state"),
            (refused("no folder"), "=none no-counter"),
            (Input::RoundComplete, "=round"),
            // The next pause is a new attempt.
            (Input::Stopped, "=withheld paused"),
        ],
    );
    assert_eq!(conversation.status(), ClockStatus::UNKNOWN);
}

#[test]
fn with_the_users_own_stop_nothing_is_continued() {
    let start = Start::Ours { continues: false, incoming: None };
    let mut conversation = begin(setup(Tcg, start));
    assert!(conversation.machine.has_begun(), "the user may continue it");
    talk(
        &mut conversation,
        [
            (Input::Drained, "?device-state"),
            (device_state(0, 9_000_000, 9_100_000), ""),
            (Input::Drained, ""),
            (resume(60_000_000), "resumed"),
            (Input::Drained, "?status"),
            (status("running", 60_050_000), "=time calibrated"),
        ],
    );
    assert_counter(&conversation, 0_u64.wrapping_sub(60_020_000), 52_000);
}

#[test]
fn somebody_else_continues_it_first() {
    let mut conversation = begin(setup(Tcg, ours()));
    talk(
        &mut conversation,
        [
            (Input::Drained, "?device-state"),
            // QEMU got to our command after that, and paused the guest for it.
            (resume(8_000_000), ""),
            (Input::Stopped, "=withheld"),
            (resume(10_000_000), ""),
            (device_state(1_500_000, 7_000_000, 10_200_000), "resumed =time calibrated"),
            (Input::Drained, ""),
        ],
    );
    assert_counter(&conversation, 1_500_000_u64.wrapping_sub(10_020_000), 202_000);
    // And paused it again, which is not ours to undo.
    talk(
        &mut conversation,
        [
            (Input::Stopped, "=withheld paused"),
            (Input::Drained, "?device-state"),
            (device_state(1_600_000, 11_000_000, 11_200_000), ""),
            (Input::Drained, ""),
        ],
    );
}

#[test]
fn somebody_else_continues_it_between_our_reading_and_our_command() {
    let mut conversation = begin(setup(Tcg, ours()));
    talk(
        &mut conversation,
        [
            (Input::Drained, "?device-state"),
            (device_state(0, 9_000_000, 9_100_000), ""),
            (Input::Drained, "?cont"),
            // Before our command was even sent, which then had nothing to do.
            (resume(9_150_000), "resumed"),
            (answer(Answer::Done, 9_400_000, 9_500_000), "=time calibrated"),
        ],
    );
    assert_counter(&conversation, 0_u64.wrapping_sub(9_160_000), 352_000);
}

#[test]
fn a_qemu_that_refuses_to_continue_is_given_up() {
    let mut conversation = begin(setup(Kvm, ours()));
    talk(&mut conversation, [(Input::Drained, "?cont"), (refused("a disk is locked"), "give-up")]);
    assert!(!conversation.machine.has_begun());
    assert_eq!(conversation.gave_up.as_deref(), Some("a disk is locked"));
    talk(&mut conversation, [(resume(1), ""), (Input::Drained, ""), (Input::Closed, "")]);
}
