// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counters that the guest hands over.

use super::*;

fn with_second_page() -> Conversation {
    let mut with = setup(Tcg, ours());
    with.second_page = true;
    let mut conversation = begin(with);
    talk(
        &mut conversation,
        [
            (Input::Drained, "?device-state"),
            (device_state(7_000_000, 9_000_000, 9_500_000), ""),
            (Input::Drained, "?cont"),
            (resume(10_000_000), "resumed"),
            (done(10_100_000), "=time calibrated ?guest"),
        ],
    );
    conversation
}

fn narrowed(conversation: &Conversation, width: u64) -> Handed {
    let offset = conversation.counter().offset();
    let counter = conversation.counter().narrowed(offset, offset.wrapping_add(width)).expect("inside");
    Handed::Narrowed { counter, rounds: 9 }
}

#[test]
fn what_the_guest_hands_over_is_published() {
    let mut conversation = with_second_page();
    let narrow = handed(&conversation, narrowed(&conversation, 500));
    talk(&mut conversation, [(narrow, "=time handover"), (Input::RoundComplete, "=round ?guest")]);
    assert_eq!(conversation.counter().window(), 500);
    let no_better = handed(&conversation, Handed::Narrowed { counter: conversation.counter(), rounds: 9 });
    let nothing = handed(&conversation, Handed::Nothing);
    talk(&mut conversation, [(no_better, ""), (nothing, "")]);
}

#[test]
fn a_pause_makes_it_stale() {
    let mut conversation = with_second_page();
    let stale = handed(&conversation, narrowed(&conversation, 500));
    talk(&mut conversation, [(Input::Stopped, "=withheld paused"), (stale.clone(), "")]);
    assert_eq!(conversation.status(), ClockStatus::INITIALIZING);
    talk(
        &mut conversation,
        [
            (Input::Drained, "?device-state"),
            (device_state(8_000_000, 20_000_000, 20_100_000), ""),
            (resume(30_000_000), "resumed"),
            (Input::Drained, "?status"),
            (status("running", 30_100_000), "=time calibrated ?guest"),
            (stale, ""),
        ],
    );
}

#[test]
fn nonsense_is_ignored_and_reported_once() {
    let mut conversation = with_second_page();
    let before = conversation.counter();
    for expected in ["warning", ""] {
        let nonsense = handed(&conversation, Handed::Nonsense);
        talk(&mut conversation, [(nonsense, expected)]);
    }
    assert_eq!(conversation.counter(), before);
}

#[test]
fn a_scaled_counter_is_not_asked_for() {
    let mut with = setup(Kvm, ours());
    with.second_page = true;
    let mut conversation = running_kvm(with, GuestCounter::exact(5, Some(Scale { ratio: 3, fraction_bits: 1 })));
    talk(&mut conversation, [(Input::RoundComplete, "?debugfs")]);
}

fn running_kvm(setup: Setup, counter: GuestCounter) -> Conversation {
    let mut conversation = begin(setup);
    talk(
        &mut conversation,
        [(Input::Drained, "?cont"), (resume(10_000_000), "resumed"), (done(10_100_000), "?debugfs")],
    );
    let counter = read(&conversation, Ok(counter));
    talk(&mut conversation, [(counter, "=time calibrated")]);
    conversation
}
