// SPDX-License-Identifier: MIT OR Apache-2.0
//! QEMU ends.

use super::*;

#[test]
fn qemu_may_go_at_any_point() {
    let script = || {
        [
            Input::Drained,
            device_state(7_000_000, 9_000_000, 9_500_000),
            Input::Drained,
            resume(10_000_000),
            done(10_100_000),
            Input::RoundComplete,
            migration("active"),
            Input::Stopped,
            Input::Drained,
            migration("completed"),
            Input::Shutdown { reason: "host-qmp-quit".into() },
        ]
    };
    for starts in [ours(), incoming_from("tcp:0:4444"), Start::Attached] {
        for source in [Tcg, Kvm, unknown()] {
            for steps in 0..=script().len() {
                let mut conversation = begin(setup(source.clone(), starts.clone()));
                for input in script().into_iter().take(steps) {
                    conversation.on(input);
                }
                talk(&mut conversation, [(Input::Closed, "end"), (Input::Closed, ""), (Input::Stopped, "")]);
            }
        }
    }
}

#[test]
fn a_shutdown_is_reported() {
    let mut conversation = running(setup(Tcg, ours()));
    talk(
        &mut conversation,
        [
            (Input::Shutdown { reason: "guest-shutdown".into() }, "shutdown"),
            (Input::Stopped, "=withheld paused"),
            (Input::Closed, "end"),
        ],
    );
    assert_eq!(conversation.reported.last(), Some(&Event::Paused));
}
