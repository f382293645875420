// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pauses and resumptions under TCG, and what comes between them.

use super::*;

#[test]
fn a_pause_takes_the_time_and_a_resumption_gives_it_back() {
    let mut conversation = running(setup(Tcg, ours()));
    talk(&mut conversation, [(Input::Stopped, "=withheld paused")]);
    assert_eq!(conversation.status(), ClockStatus::INITIALIZING);
    talk(
        &mut conversation,
        [
            (Input::Drained, "?device-state"),
            (Input::RoundComplete, "=round"),
            (device_state(20_000_000, 30_000_000, 30_100_000), ""),
            (Input::Drained, ""),
        ],
    );
    assert_eq!(conversation.status(), ClockStatus::INITIALIZING);
    talk(
        &mut conversation,
        [
            (resume(40_000_000), "resumed"),
            (Input::Drained, "?status"),
            (Input::RoundComplete, "=round"),
            (status("running", 40_060_000), "=time calibrated"),
        ],
    );
    assert_counter(&conversation, 20_000_000_u64.wrapping_sub(40_020_000), 62_000);
    assert_eq!(conversation.identities(), (1, 1), "a pause is no disruption");
}

#[test]
fn a_resumption_is_known_before_we_act_on_the_pause() {
    let mut conversation = running(setup(Tcg, ours()));
    talk(
        &mut conversation,
        [
            (Input::Stopped, "=withheld paused"),
            (resume(40_000_000), "resumed"),
            // Only now: the guest is paused once more.
            (Input::Drained, "?device-state"),
            (Input::Stopped, "=withheld"),
            (resume(41_000_000), ""),
            (device_state(20_000_000, 40_500_000, 41_100_000), "=time calibrated"),
        ],
    );
    assert_counter(&conversation, 20_000_000_u64.wrapping_sub(41_020_000), 102_000);
}

#[test]
fn a_resumption_while_the_paused_counter_is_being_read() {
    let mut conversation = running(setup(Tcg, ours()));
    talk(
        &mut conversation,
        [
            (Input::Stopped, "=withheld paused"),
            (Input::Drained, "?device-state"),
            // QEMU resumed it before it got to the command, for which it then paused it again.
            (resume(40_000_000), ""),
            (Input::Stopped, "=withheld"),
            (resume(41_000_000), ""),
            (device_state(20_000_000, 39_000_000, 41_100_000), "resumed =time calibrated"),
        ],
    );
    assert_counter(&conversation, 20_000_000_u64.wrapping_sub(41_020_000), 102_000);
}

#[test]
fn a_pause_between_resumption_and_answer() {
    let mut conversation = running(setup(Tcg, ours()));
    talk(
        &mut conversation,
        [
            (Input::Stopped, "=withheld paused"),
            (Input::Drained, "?device-state"),
            (device_state(20_000_000, 30_000_000, 30_100_000), ""),
            (resume(40_000_000), "resumed"),
            (Input::Drained, "?status"),
            (Input::Stopped, "=withheld paused"),
            // About a run that is over.
            (status("paused", 40_060_000), ""),
            (Input::Drained, "?device-state"),
            (device_state(20_500_000, 41_000_000, 41_100_000), ""),
            (resume(42_000_000), "resumed"),
            (Input::Drained, "?status"),
            (status("running", 42_030_000), "=time calibrated"),
        ],
    );
    assert_counter(&conversation, 20_500_000_u64.wrapping_sub(42_010_000), 32_000);
}

#[test]
fn a_pause_and_a_resumption_between_resumption_and_answer() {
    let mut conversation = running(setup(Tcg, ours()));
    talk(
        &mut conversation,
        [
            (Input::Stopped, "=withheld paused"),
            (Input::Drained, "?device-state"),
            (device_state(20_000_000, 30_000_000, 30_100_000), ""),
            (resume(40_000_000), "resumed"),
            (Input::Drained, "?status"),
            (Input::Stopped, "=withheld paused"),
            (resume(41_000_000), "resumed"),
            // What was read belongs to the pause before.
            (status("running", 41_060_000), ""),
            (Input::Drained, "?device-state"),
        ],
    );
    assert_eq!(conversation.status(), ClockStatus::INITIALIZING);
}

#[test]
fn a_pause_by_somebody_else_while_the_counter_is_read_of_a_guest_that_runs() {
    let mut conversation = running(setup(Tcg, ours()));
    talk(
        &mut conversation,
        [
            (Input::Stopped, "=withheld paused"),
            (resume(40_000_000), "resumed"),
            (Input::Drained, "?device-state"),
            // Theirs, and QEMU wrote the state of a guest that was paused already.
            (Input::Stopped, "=withheld"),
            (device_state(20_000_000, 40_500_000, 41_000_000), "paused"),
            (Input::Drained, ""),
            (resume(50_000_000), "resumed"),
            (Input::Drained, "?status"),
            (status("running", 50_040_000), "=time calibrated"),
        ],
    );
    assert_counter(&conversation, 20_000_000_u64.wrapping_sub(50_020_000), 42_000);
}

#[test]
fn a_counter_of_a_running_guest_without_the_pause_it_takes_is_not_believed() {
    let mut conversation = running(setup(Tcg, ours()));
    talk(
        &mut conversation,
        [
            (Input::Stopped, "=withheld paused"),
            (resume(40_000_000), "resumed"),
            (Input::Drained, "?device-state"),
            (device_state(20_000_000, 40_500_000, 41_000_000), "=none no-counter"),
        ],
    );
}

#[test]
fn a_time_stamp_from_before_the_reading_is_not_believed() {
    let mut conversation = running(setup(Tcg, ours()));
    talk(
        &mut conversation,
        [
            (Input::Stopped, "=withheld paused"),
            (Input::Drained, "?device-state"),
            (device_state(20_000_000, 30_000_000, 30_100_000), ""),
            // The host's clock was set.
            (resume(30_000_000_u64.wrapping_sub(10_000 * TICKS_PER_MS)), "resumed"),
            (Input::Drained, "?status"),
            (status("running", 40_000_000), "=time calibrated"),
        ],
    );
    // After the reading was asked for, and before the answer.
    assert_counter(&conversation, 20_000_000_u64.wrapping_sub(39_900_000), 10_000_000);
}

#[test]
fn events_twice() {
    let mut conversation = running(setup(Tcg, ours()));
    talk(
        &mut conversation,
        [
            // A resumption of a guest that runs: whatever happened, its counter is not known.
            (resume(40_000_000), "=withheld"),
            (resume(41_000_000), "=withheld"),
            (Input::Drained, "?device-state"),
            (Input::Stopped, "=withheld"),
            (resume(42_000_000), ""),
            (device_state(20_000_000, 41_500_000, 42_100_000), "=time calibrated"),
            (Input::Stopped, "=withheld paused"),
            (Input::Stopped, "=withheld"),
            (Input::Drained, "?device-state"),
            (Input::Stopped, "=withheld"),
            (device_state(21_000_000, 43_000_000, 43_100_000), ""),
            // An answer that nobody asked for.
            (device_state(99, 43_000_000, 43_100_000), ""),
            (resume(44_000_000), "resumed"),
            (Input::Drained, "?status"),
            (status("running", 44_040_000), "=time calibrated"),
        ],
    );
    assert_counter(&conversation, 21_000_000_u64.wrapping_sub(44_020_000), 42_000);
}
