// SPDX-License-Identifier: MIT OR Apache-2.0
//! Somebody else's QEMU.

use super::*;

#[test]
fn to_a_guest_that_runs() {
    let mut conversation = begin(setup(Tcg, Start::Attached));
    talk(
        &mut conversation,
        [
            (Input::Drained, "?status"),
            // Before the answer, and so it is in it.
            (Input::Stopped, ""),
            (resume(500_000), ""),
            (status("running", 1_000_000), "=withheld"),
            (Input::Drained, "?device-state"),
            (Input::Stopped, "=withheld"),
            (resume(2_000_000), ""),
            (device_state(50_000_000, 1_900_000, 2_100_000), "=time calibrated"),
            (Input::Stopped, "=withheld paused"),
        ],
    );
    let mut conversation = begin(setup(Kvm, Start::Attached));
    talk(
        &mut conversation,
        [(Input::Drained, "?status"), (status("running", 1_000_000), "=withheld ?debugfs"), (Input::Drained, "")],
    );
    let counter = read(&conversation, Ok(exact(5)));
    talk(&mut conversation, [(counter, "=time calibrated")]);
    let mut conversation = begin(setup(unknown(), Start::Attached));
    talk(
        &mut conversation,
        [(Input::Drained, "?status"), (status("running", 1_000_000), "=withheld =none no-counter")],
    );
}

/// Its QEMU may have loaded a snapshot before, whose counter is not the guest's: it is read when it runs.
#[test]
fn to_a_guest_that_is_paused() {
    for state in ["prelaunch", "paused", "postmigrate"] {
        let mut conversation = begin(setup(Tcg, Start::Attached));
        talk(
            &mut conversation,
            [
                (Input::Drained, "?status"),
                (status(state, 1_000_000), "=withheld standing"),
                // It is not ours to continue.
                (Input::Drained, ""),
                (resume(3_000_000), "resumed"),
                (Input::Drained, "?device-state"),
                (Input::Stopped, "=withheld"),
                (resume(4_000_000), ""),
                (device_state(50_000, 3_100_000, 4_100_000), "=time calibrated"),
            ],
        );
    }
}

/// It was restored after we made the page, and before QEMU was asked.
#[test]
fn to_a_guest_that_brought_a_page() {
    for state in ["running", "paused"] {
        let mut conversation = begin(setup(Kvm, Start::Attached));
        let theirs = conversation.page.contents.with(|page| page.seq_count = 0x123);
        conversation.page.loaded(theirs, History::new(), 0x0ffe);
        talk(&mut conversation, [(Input::Drained, "?status")]);
        if state == "running" {
            talk(
                &mut conversation,
                [(status(state, 1_000_000), "=behind =withheld =restored snapshot-loaded ?debugfs")],
            );
        } else {
            talk(
                &mut conversation,
                [
                    (status(state, 1_000_000), "=behind =withheld standing"),
                    (resume(3_000_000), "=restored snapshot-loaded resumed"),
                    (Input::Drained, "?status"),
                    (status("running", 3_100_000), "?debugfs"),
                ],
            );
        }
        let counter = read(&conversation, Ok(exact(5)));
        talk(&mut conversation, [(counter, "=time calibrated")]);
        assert_eq!(conversation.identities(), (2, 2));
        talk(&mut conversation, [(Input::Stopped, "=withheld paused"), (resume(9_000_000), "resumed")]);
    }
}

#[test]
fn to_one_that_refuses_to_say_how_it_is() {
    let mut conversation = begin(setup(Tcg, Start::Attached));
    talk(&mut conversation, [(Input::Drained, "?status"), (refused("no"), "give-up")]);
}
