// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counters that debugfs has, resets, and counters that change without an event.

use super::*;

#[test]
fn a_counter_is_read_when_qemu_is_done_with_the_resumption() {
    let mut conversation = running(setup(Kvm, ours()));
    assert_counter(&conversation, 55, 0);
    talk(
        &mut conversation,
        [
            (Input::Stopped, "=withheld paused"),
            (Input::Drained, ""),
            (resume(40_000_000), "resumed"),
            (Input::Drained, "?status"),
            (status("running", 40_060_000), "?debugfs"),
            (Input::Drained, ""),
        ],
    );
    let counter = read(&conversation, Ok(exact(77)));
    talk(&mut conversation, [(counter, "=time calibrated")]);
    assert_counter(&conversation, 77, 0);
}

#[test]
fn what_was_read_before_a_pause_is_not_of_the_run_after_it() {
    let mut conversation = running(setup(Kvm, ours()));
    talk(
        &mut conversation,
        [
            (Input::Stopped, "=withheld paused"),
            (resume(40_000_000), "resumed"),
            (Input::Drained, "?status"),
            (status("running", 40_060_000), "?debugfs"),
        ],
    );
    let stale = read(&conversation, Ok(exact(77)));
    talk(
        &mut conversation,
        [
            (Input::Stopped, "=withheld paused"),
            (resume(41_000_000), "resumed"),
            (stale, ""),
            (Input::Drained, "?status"),
            (status("running", 41_060_000), "?debugfs"),
        ],
    );
    let counter = read(&conversation, Ok(exact(78)));
    talk(&mut conversation, [(counter, "=time calibrated")]);
    assert_counter(&conversation, 78, 0);
}

#[test]
fn a_reset_takes_the_time_until_the_counter_was_read_again() {
    let mut conversation = running(setup(Kvm, ours()));
    talk(&mut conversation, [(reset(), "reset =withheld")]);
    assert_eq!(conversation.status(), ClockStatus::INITIALIZING);
    talk(&mut conversation, [(Input::Drained, "?status"), (status("running", 40_060_000), "?debugfs")]);
    // And again, while it is being read.
    let stale = read(&conversation, Ok(exact(66)));
    talk(
        &mut conversation,
        [
            (reset(), "reset =withheld"),
            (stale, ""),
            (Input::Drained, "?status"),
            (status("running", 41_060_000), "?debugfs"),
        ],
    );
    let counter = read(&conversation, Ok(exact(67)));
    talk(&mut conversation, [(counter, "=time calibrated")]);
    assert_counter(&conversation, 67, 0);
    assert_eq!(conversation.identities(), (1, 1), "a reboot is no disruption");
}

#[test]
fn a_reset_of_a_paused_guest_changes_nothing_until_it_resumes() {
    let mut conversation = running(setup(Kvm, ours()));
    talk(&mut conversation, [(Input::Stopped, "=withheld paused"), (reset(), "reset"), (Input::Drained, "")]);
    let mut conversation = running(setup(Tcg, ours()));
    let before = conversation.counter();
    talk(&mut conversation, [(reset(), "reset"), (Input::Drained, "")]);
    assert_eq!(conversation.counter(), before, "under TCG a reset leaves the counter as it is");
    talk(&mut conversation, [(Input::Stopped, "=withheld paused"), (reset(), "reset")]);
}

#[test]
fn a_counter_that_changes_without_an_event() {
    let mut conversation = running(setup(Kvm, ours()));
    talk(&mut conversation, [(Input::RoundComplete, "?debugfs")]);
    let same = read(&conversation, Ok(exact(55)));
    talk(&mut conversation, [(same, "=round"), (Input::RoundComplete, "?debugfs")]);
    let other = read(&conversation, Ok(exact(56)));
    talk(&mut conversation, [(other, "=disrupted disrupted =time calibrated =round")]);
    assert_eq!(conversation.identities(), (2, 1));
    assert_counter(&conversation, 56, 0);
}

#[test]
fn a_counter_that_cannot_be_read_for_a_while() {
    let mut conversation = running(setup(Kvm, ours()));
    let mut round = |counter: Result<GuestCounter, String>, expected| {
        talk(&mut conversation, [(Input::RoundComplete, "?debugfs")]);
        let counter = read(&conversation, counter);
        talk(&mut conversation, [(counter, expected)]);
        conversation.status()
    };
    assert_eq!(round(Err("vCPUs differ".into()), "=disrupted disrupted =none no-counter =round"), ClockStatus::UNKNOWN);
    assert_eq!(round(Err("vCPUs differ".into()), "=round"), ClockStatus::UNKNOWN, "said once");
    assert_eq!(round(Ok(exact(57)), "=time calibrated =round"), ClockStatus::SYNCHRONIZED);
    assert_eq!(conversation.page.memory.counter_id, CounterId::X86_TSC);
    assert_eq!(conversation.identities(), (2, 1));
}

#[test]
fn a_pause_while_a_round_reads_the_counter() {
    let mut conversation = running(setup(Kvm, ours()));
    talk(&mut conversation, [(Input::RoundComplete, "?debugfs")]);
    let stale = read(&conversation, Ok(exact(99)));
    talk(&mut conversation, [(Input::Stopped, "=withheld paused"), (stale, "=round")]);
    assert_eq!(conversation.status(), ClockStatus::INITIALIZING);
}
