// SPDX-License-Identifier: MIT OR Apache-2.0
//! A world, as data: what a scenario's table and the fuzzer draw, and what a simulation is made from.

use std::fmt;

use crate::calendar::Calendar;
use crate::clock::{ClockSpec, Episode};
use crate::counter::OscillatorSpec;
use crate::units::{Nanos, DAY, MINUTE, PPM, SECOND};

/// No round is later than this.
pub(crate) const LATEST: Nanos = MINUTE;

/// A world.
#[derive(Clone, Debug)]
pub(crate) struct WorldSpec {
    pub(crate) seed: u64,
    /// How long it is simulated.
    pub(crate) length: Nanos,
    pub(crate) calendar: Calendar,
    pub(crate) publisher: PublisherSpec,
    pub(crate) oscillator: OscillatorSpec,
    /// How far off the nominal period is, as a part of the allowed error, from -1 to 1.
    pub(crate) nominal_part: f64,
    pub(crate) clocks: Vec<ClockSpec>,
    pub(crate) sources: Vec<SourceSpec>,
    /// When which clock is a falseticker, in order.
    pub(crate) episodes: Vec<Episode>,
    /// What happens to the host, in order.
    pub(crate) incidents: Vec<(Nanos, Incident)>,
    pub(crate) knowledge: Knowledge,
    /// How many measurements and publications are interrupted.
    pub(crate) preempted: f64,
    /// How many rounds are late, by up to a minute.
    pub(crate) late: f64,
    /// How often somebody reads between two rounds.
    pub(crate) reads: usize,
    /// What is demanded besides the bounds.
    pub(crate) demands: Demanded,
}

impl WorldSpec {
    /// Whether publishers save what they know.
    pub(crate) fn keeps_state(&self) -> bool {
        self.incidents.iter().any(|(_, incident)| matches!(incident, Incident::Continue { .. }))
    }
}

/// A line for each of its parts.
impl fmt::Display for WorldSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, length, calendar, nominal_part, preempted, late, demands, .. } = self;
        writeln!(f, "seed {seed:#018x}, {} s, {calendar:?}", length / SECOND)?;
        writeln!(f, "nominal_part {nominal_part}, preempted {preempted}, late {late}, {demands:?}")?;
        writeln!(f, "{:?}\n{:?}\n{:?}", self.publisher, self.oscillator, self.knowledge)?;
        self.clocks.iter().enumerate().try_for_each(|(number, clock)| writeln!(f, "clock {number}: {clock:?}"))?;
        self.sources.iter().enumerate().try_for_each(|(number, source)| writeln!(f, "source {number}: {source:?}"))?;
        self.episodes.iter().try_for_each(|episode| writeln!(f, "{episode:?}"))?;
        self.incidents.iter().try_for_each(|(at, incident)| writeln!(f, "at {} s: {incident:?}", at / SECOND))
    }
}

/// What a world lets the judge demand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Demanded {
    /// Fewer than half of the clocks are wrong at any time (A1). Otherwise the world is one in which even a majority
    /// that is wrong must do no harm, and time need not be given.
    pub(crate) a1: bool,
    /// Time again within the probation and five minutes.
    pub(crate) time: bool,
}

impl Demanded {
    pub(crate) const ALL: Self = Self { a1: true, time: true };
}

/// How the publisher is configured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PublisherSpec {
    /// Between two rounds.
    pub(crate) refresh: Nanos,
    /// How long a round waits for answers.
    pub(crate) deadline: Nanos,
    /// In parts per 10^12.
    pub(crate) drift: u64,
    /// Whether the drift is measured.
    pub(crate) measured: bool,
    /// In parts per 10^12.
    pub(crate) nominal_error: u64,
    pub(crate) source_timeout: Nanos,
    pub(crate) probation: Nanos,
    pub(crate) monotonic: bool,
}

impl PublisherSpec {
    /// The defaults.
    pub(crate) const DEFAULT: Self = Self {
        refresh: 16 * SECOND,
        deadline: SECOND / 2,
        drift: 15 * PPM as u64,
        measured: false,
        nominal_error: 500 * PPM as u64,
        source_timeout: 30 * SECOND,
        probation: 10 * MINUTE,
        monotonic: false,
    };
}

/// A source: a way to a clock.
#[derive(Clone, Debug)]
pub(crate) struct SourceSpec {
    /// Which clock it reads.
    pub(crate) clock: usize,
    /// From the first reading of the counter to the clock's.
    pub(crate) before: Delay,
    /// From the clock's reading to the second one of the counter.
    pub(crate) after: Delay,
    /// Until the publisher has the answer.
    pub(crate) latency: Delay,
    /// How many measurements are lost.
    pub(crate) lost: f64,
    /// How many answers are only there in a later round.
    pub(crate) late: f64,
    pub(crate) reach: Reach,
    /// Whether it says how the clock is steered.
    pub(crate) reports_steering: bool,
    /// Whether it knows the epoch of the counter, also while it cannot be reached: another page.
    pub(crate) knows_epoch: bool,
}

/// A delay: fixed, and a queue's on top, exponential with this mean, and thirty times as long now and then.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Delay {
    pub(crate) fixed: Nanos,
    pub(crate) queue: Nanos,
}

/// When a source can be reached.
#[derive(Clone, Debug)]
pub(crate) enum Reach {
    Always,
    /// Now and then it cannot.
    Outages {
        /// How long it can, on average.
        mean: Nanos,
        /// The shortest and the longest outage.
        least: Nanos,
        most: Nanos,
    },
    /// Only for a while in each period.
    Windows {
        period: Nanos,
        open: Nanos,
    },
    /// Not in these times, which are in order.
    Except(Vec<(Nanos, Nanos)>),
}

/// What happens to the host.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Incident {
    /// The publisher ends in order, and another one starts this much later.
    Restart(Nanos),
    /// It is killed, possibly in the middle of an update, and another one starts this much later.
    Kill { mid_update: bool, pause: Nanos },
    /// The publisher stops, and another one finds what it saved so much later, after what happened meanwhile.
    Continue { stop: Stop, pause: Nanos, meanwhile: Meanwhile },
    /// The host sleeps so long. Its counter goes on, or stops; and somebody may write to it.
    Sleep { length: Nanos, stopped: bool, jump: Nanos },
    /// The kernel does not trust the counter for so long.
    Distrust(Nanos),
    /// The guest migrates to a host with another oscillator, and the hypervisor knows.
    Migrate,
}

/// How a publisher stops whose state is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    /// In order.
    Planned,
    /// It is killed.
    Killed,
    /// It is killed when it has saved what it is about to publish.
    Saved,
    /// It is killed in the middle of an update.
    MidUpdate,
}

/// What happens while nobody publishes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Meanwhile {
    /// Nothing.
    Nothing,
    /// The host sleeps, and its counter with it or not.
    Slept { stopped: bool },
    /// It is booted.
    Booted,
    /// The kernel finds another clocksource better.
    Switched,
    /// Somebody writes to the counter: so many nanoseconds forward, or back.
    Jumped(Nanos),
    /// A bit of the saved state is another one.
    Garbled,
    /// The saved state is gone.
    Lost,
}

/// What the host knows of TAI-UTC.
#[derive(Clone, Debug)]
pub(crate) struct Knowledge {
    /// From when on the kernel is told.
    pub(crate) kernel_from: Option<Nanos>,
    /// Which lists of leap seconds are installed: from when on, and when each expires.
    pub(crate) lists: Vec<(Nanos, Nanos)>,
    /// Whether the lists have this world's leap second.
    pub(crate) lists_leap: bool,
}

impl Knowledge {
    /// A list that outlives every simulation.
    pub(crate) fn list() -> Self {
        Self { kernel_from: None, lists: vec![(0, 1_000 * DAY)], lists_leap: true }
    }

    /// The kernel knows, and there is no list.
    pub(crate) fn kernel() -> Self {
        Self { kernel_from: Some(0), lists: Vec::new(), lists_leap: false }
    }

    /// When the list expires that is installed at an instant.
    pub(crate) fn list_at(&self, at: Nanos) -> Option<Nanos> {
        self.lists.iter().rev().find(|list| list.0 <= at).map(|list| list.1)
    }
}
