// SPDX-License-Identifier: MIT OR Apache-2.0
//! Migrations from here.

use super::*;

#[test]
fn the_guest_is_not_read_while_it_migrates() {
    let mut conversation = running(setup(Tcg, ours()));
    talk(
        &mut conversation,
        [
            (migration("setup"), "migration"),
            (migration("active"), "migration"),
            (Input::Stopped, "=withheld paused"),
            (Input::Drained, ""),
            (migration("completed"), "migration"),
            (Input::Drained, ""),
        ],
    );
    assert_eq!((conversation.status(), conversation.identities()), (ClockStatus::INITIALIZING, (1, 1)));
}

#[test]
fn a_migration_that_is_complete_before_the_pause_is_reported() {
    let mut conversation = running(setup(Tcg, ours()));
    talk(
        &mut conversation,
        [
            (migration("active"), "migration"),
            (migration("completed"), "migration"),
            (Input::Stopped, "=withheld paused"),
            (Input::Drained, "?device-state"),
        ],
    );
    assert_eq!(conversation.identities(), (1, 1));
}

#[test]
fn a_guest_that_stays_gets_its_time_back() {
    for outcome in ["cancelled", "failed"] {
        let mut conversation = running(setup(Tcg, ours()));
        talk(
            &mut conversation,
            [
                (migration("active"), "migration"),
                (Input::Stopped, "=withheld paused"),
                (migration("cancelling"), "migration"),
                (Input::Drained, ""),
                (migration(outcome), "migration"),
                (resume(40_000_000), "resumed"),
                (Input::Drained, "?device-state"),
                (Input::Stopped, "=withheld"),
                (resume(41_000_000), ""),
                (device_state(20_000_000, 40_500_000, 41_100_000), "=time calibrated"),
            ],
        );
        assert_eq!(conversation.identities(), (1, 1), "{outcome}");
    }
}
