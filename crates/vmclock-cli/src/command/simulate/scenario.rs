// SPDX-License-Identifier: MIT OR Apache-2.0
//! The worlds that are simulated.

use super::oscillator::Steadiness;
use super::reference::{Behaviour, Kind};

const SECOND: f64 = 1e9;

/// What happens to the host or its counter, now and then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Disturbance {
    None,
    /// The guest migrates to a host with another oscillator; the hypervisor knows.
    Migration,
    /// The host sleeps for up to hours; its counter goes on, stands, or starts anew. Nobody reads meanwhile.
    Suspend,
    /// The counter stops, runs faster, or jumps, and nobody says so.
    Fault,
    /// A leap second, inserted or left out, announced hours before, seconds before, or not at all.
    Leap,
}

/// A world.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) sources: &'static [(Kind, Behaviour)],
    /// Between two rounds, in nanoseconds.
    pub(super) poll: f64,
    pub(super) steadiness: Steadiness,
    /// How many looks are interrupted.
    pub(super) preempted: f64,
    pub(super) disturbance: Disturbance,
    pub(super) monotonic: bool,
}

const PLAIN: Scenario = Scenario {
    name: "network",
    about: "a server over a network",
    sources: &[(Kind::Network, Behaviour::Honest)],
    poll: 16.0 * SECOND,
    steadiness: Steadiness::SERVER,
    preempted: 0.001,
    disturbance: Disturbance::None,
    monotonic: false,
};

const PTP: Scenario = Scenario {
    name: "ptp",
    about: "a PTP clock, good to a microsecond",
    sources: &[(Kind::Ptp, Behaviour::Honest)],
    poll: SECOND,
    ..PLAIN
};

pub(super) const ALL: [Scenario; 14] = [
    PLAIN,
    PTP,
    Scenario { name: "monotonic", about: "a PTP clock, and the time never goes back", monotonic: true, ..PTP },
    Scenario {
        name: "draught",
        about: "a PTP clock, and steps of the temperature",
        steadiness: Steadiness::DRAUGHTY,
        ..PTP
    },
    Scenario {
        name: "ptp-outages",
        about: "a PTP clock that is gone for up to half a day, and steps of the temperature",
        sources: &[(Kind::Ptp, Behaviour::Outages)],
        steadiness: Steadiness::DRAUGHTY,
        ..PTP
    },
    Scenario {
        name: "outages",
        about: "a server that is gone for up to half a day",
        sources: &[(Kind::Network, Behaviour::Outages)],
        steadiness: Steadiness::DRAUGHTY,
        ..PLAIN
    },
    Scenario {
        name: "steps",
        about: "a server that is off by up to seconds, for minutes",
        sources: &[(Kind::Network, Behaviour::Steps)],
        ..PLAIN
    },
    Scenario {
        name: "liar",
        about: "four servers, of which one lies",
        sources: &[
            (Kind::Network, Behaviour::Honest),
            (Kind::Network, Behaviour::Honest),
            (Kind::Network, Behaviour::Liar),
            (Kind::Network, Behaviour::Honest),
        ],
        ..PLAIN
    },
    Scenario {
        name: "preemption",
        about: "the kernel's clock, and every fifth look interrupted for up to 60 ms",
        sources: &[(Kind::Kernel, Behaviour::Honest)],
        poll: 4.0 * SECOND,
        preempted: 0.2,
        ..PLAIN
    },
    Scenario {
        name: "kernel-monotonic",
        about: "the kernel's clock, and the time never goes back",
        sources: &[(Kind::Kernel, Behaviour::Honest)],
        poll: 8.0 * SECOND,
        monotonic: true,
        steadiness: Steadiness::DRAUGHTY,
        ..PLAIN
    },
    Scenario {
        name: "migration",
        about: "a PTP clock, and hosts with other oscillators every few hours",
        disturbance: Disturbance::Migration,
        poll: 2.0 * SECOND,
        ..PTP
    },
    Scenario {
        name: "suspend",
        about: "the kernel's clock, and a host that sleeps",
        sources: &[(Kind::Kernel, Behaviour::Honest)],
        poll: 8.0 * SECOND,
        disturbance: Disturbance::Suspend,
        ..PLAIN
    },
    Scenario {
        name: "fault",
        about: "a PTP clock, and a counter that stops, runs away, or jumps",
        disturbance: Disturbance::Fault,
        // A look that is interrupted shows nothing, and the judge takes the first one to show it.
        preempted: 0.0,
        poll: 2.0 * SECOND,
        ..PTP
    },
    Scenario {
        name: "leap",
        about: "the kernel's clock on UTC over leap seconds, announced or not",
        sources: &[(Kind::Kernel, Behaviour::Honest)],
        poll: 8.0 * SECOND,
        disturbance: Disturbance::Leap,
        ..PLAIN
    },
];

impl Scenario {
    /// Whether it has what this project calls a microsecond-grade reference, always.
    pub(super) fn is_microsecond_grade(&self) -> bool {
        self.sources.iter().all(|source| *source == (Kind::Ptp, Behaviour::Honest))
            && self.disturbance == Disturbance::None
    }
}
