// SPDX-License-Identifier: MIT OR Apache-2.0
//! Scripted conversations with QEMU: each order of events that was ever a question, and what follows.

#[path = "../common/mod.rs"]
mod common;

mod attach;
mod end;
mod hand_over;
mod incoming;
mod kvm;
mod outgoing;
mod pause;
mod snapshots;
mod start;

use common::{incoming_from, ours, setup, unknown, Conversation, History, MemoryPage, TICKS_PER_MS};
use vmclock_core::abi::{ClockStatus, CounterId, Snapshot};
use vmclock_core::guest_counter::{GuestCounter, Scale};
use vmclock_core::lifecycle::unseen_after;
use vmclock_qemu::event::Event;
use vmclock_qemu::machine::{Answer, CounterSource, Handed, Input, Setup, Start};

use CounterSource::{Kvm, Tcg};

fn resume(emitted: u64) -> Input {
    Input::Resumed { emitted }
}

fn migration(status: &str) -> Input {
    Input::Migration { status: status.into() }
}

fn reset() -> Input {
    Input::Reset { reason: "guest-reset".into() }
}

fn answer(answer: Answer, sent: u64, received: u64) -> Input {
    Input::Answered { answer: Ok(answer), sent, received }
}

fn done(received: u64) -> Input {
    answer(Answer::Done, received - 100, received)
}

fn status(status: &str, received: u64) -> Input {
    answer(Answer::Status(status.into()), received - 100, received)
}

fn device_state(value: u64, sent: u64, received: u64) -> Input {
    answer(Answer::DeviceState(value), sent, received)
}

fn refused(why: &str) -> Input {
    Input::Answered { answer: Err(why.into()), sent: 0, received: 0 }
}

fn exact(offset: u64) -> GuestCounter {
    GuestCounter::exact(offset, None)
}

fn read(conversation: &Conversation, counter: Result<GuestCounter, String>) -> Input {
    Input::CounterRead { epoch: conversation.epoch, counter }
}

fn handed(conversation: &Conversation, handed: Handed) -> Input {
    Input::HandedOver { epoch: conversation.epoch, handed }
}

fn begin(setup: Setup) -> Conversation {
    Conversation::new(setup).0
}

/// Each input with what follows from it.
fn talk<const N: usize>(conversation: &mut Conversation, script: [(Input, &str); N]) {
    for (step, (input, expected)) in script.into_iter().enumerate() {
        let what = format!("step {step}: {input:?}");
        assert_eq!(conversation.on(input), expected, "{what}");
    }
}

/// A guest of ours that runs: under TCG since 10 ms, with 7 ms on its counter.
fn running(setup: Setup) -> Conversation {
    let source = setup.source.clone();
    let mut conversation = begin(setup);
    match source {
        Tcg => talk(
            &mut conversation,
            [
                (Input::Drained, "?device-state"),
                (device_state(7 * TICKS_PER_MS, 9_000_000, 9_500_000), ""),
                (Input::Drained, "?cont"),
                (resume(10_000_000), "resumed"),
                (done(10_100_000), "=time calibrated"),
            ],
        ),
        Kvm => {
            talk(
                &mut conversation,
                [(Input::Drained, "?cont"), (resume(10_000_000), "resumed"), (done(10_100_000), "?debugfs")],
            );
            let counter = read(&conversation, Ok(exact(55)));
            talk(&mut conversation, [(counter, "=time calibrated")]);
        }
        CounterSource::Unknown(_) => talk(
            &mut conversation,
            [(Input::Drained, "?cont"), (resume(10_000_000), "resumed =none no-counter"), (done(10_100_000), "")],
        ),
    }
    conversation
}

/// Whether the published counter allows for this difference from the host's, and no more than so many ticks are
/// unknown.
#[track_caller]
fn assert_counter(conversation: &Conversation, offset: u64, window: u64) {
    let counter = conversation.counter();
    let off = counter.offset().wrapping_sub(offset).cast_signed().unsigned_abs();
    assert!(off <= counter.error(), "{counter:?} excludes {offset}");
    assert_eq!(counter.window(), window, "{counter:?}");
}
