// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a machine is given: how the guest starts, what QEMU sent, what was read.

use vmclock_core::guest_counter::GuestCounter;

/// What is known of a guest before anything happened. How it is used: [`machine`](super).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Setup {
    /// Where its counter is known from.
    pub source: CounterSource,
    /// Who started QEMU.
    pub start: Start,
    /// Whether an incoming guest is saved state, also where its address is that of a live migration.
    pub restored: bool,
    /// Whether a program in the guest may hand the guest's counter over.
    pub second_page: bool,
    /// The host's counter in a millisecond.
    pub ticks_per_ms: u64,
}

impl Setup {
    /// A guest that is not said to be saved state, and that no program in it helps.
    pub const fn new(source: CounterSource, start: Start, ticks_per_ms: u64) -> Self {
        Self { source, start, restored: false, second_page: false, ticks_per_ms }
    }
}

/// Where a guest's counter is known from.
///
/// ```
/// use vmclock_qemu::machine::CounterSource;
/// assert_eq!(CounterSource::Tcg.name(), "tcg");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CounterSource {
    /// QEMU's interpreter: the guest's counter is the host's plus an offset that changes with each pause. While the
    /// guest is paused, its counter is in QEMU's device state; and QEMU pauses a guest to write that.
    Tcg,
    /// The kernel's virtual machines: debugfs has the offset, exactly and at any time.
    Kvm,
    /// Nowhere, for this reason.
    Unknown(String),
}

impl CounterSource {
    /// Its name, for programs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tcg => "tcg",
            Self::Kvm => "kvm",
            Self::Unknown(_) => "unknown",
        }
    }
}

/// How a guest starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// We started QEMU, with `-S`: the guest is paused.
    Ours {
        /// Whether we continue it.
        continues: bool,
        /// The value of `-incoming`, which QEMU has not been given: a URI, an address in JSON, or `defer`.
        incoming: Option<String>,
    },
    /// Somebody else started QEMU, and the guest may be in any state.
    Attached,
}

impl Start {
    /// Whether the guest is still to come, as far as is known.
    pub const fn is_incoming(&self) -> bool {
        matches!(self, Self::Ours { incoming: Some(_), .. })
    }
}

/// What a machine is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// QEMU paused the guest (`STOP`).
    Stopped,
    /// QEMU resumes the guest (`RESUME`).
    Resumed {
        /// The host's counter at the event's time stamp, rounded down.
        emitted: u64,
    },
    /// The guest was reset (`RESET`).
    Reset {
        /// Why.
        reason: String,
    },
    /// The guest shut down (`SHUTDOWN`).
    Shutdown {
        /// Why.
        reason: String,
    },
    /// A migration, to here or from here, has another status (`MIGRATION`).
    Migration {
        /// The status.
        status: String,
    },
    /// QEMU answered the request of the last [`Ask`](super::Action::Ask).
    Answered {
        /// The answer, or why QEMU refuses.
        answer: Result<Answer, String>,
        /// The host's counter before the request was sent.
        sent: u64,
        /// The host's counter after the answer was received.
        received: u64,
    },
    /// The answer to [`ReadCounter`](super::Action::ReadCounter).
    CounterRead {
        /// As in the action.
        epoch: u64,
        /// The guest's counter, or why it is not known.
        counter: Result<GuestCounter, String>,
    },
    /// The answer to [`AskGuest`](super::Action::AskGuest).
    HandedOver {
        /// As in the action.
        epoch: u64,
        /// What the guest answered.
        handed: Handed,
    },
    /// A round of measurements of the host's clock is complete.
    RoundComplete,
    /// All that QEMU has sent so far was given to the machine.
    Drained,
    /// QEMU closed its monitor.
    Closed,
}

/// What QEMU answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is done.
    Done,
    /// The run state, for [`Status`](super::Request::Status).
    Status(String),
    /// The guest's counter as of its last pause, for [`DeviceState`](super::Request::DeviceState).
    DeviceState(u64),
    /// Whether QEMU listens to a socket for an incoming guest, for [`MigrationInfo`](super::Request::MigrationInfo).
    Listens(bool),
}

/// What a burst of requests to a program in the guest gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handed {
    /// No answer: no program in the guest does this.
    Nothing,
    /// Answers that cannot be true.
    Nonsense,
    /// The counter within what all answers allow.
    Narrowed {
        /// The counter.
        counter: GuestCounter,
        /// How many answers.
        rounds: u32,
    },
}
