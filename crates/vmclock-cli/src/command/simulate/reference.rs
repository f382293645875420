// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sources of time as they are: with delays, biases, interruptions, and lies.

use rand::RngExt;
use rand_distr::{Distribution, Exp1, StandardNormal};
use rand_xoshiro::Xoshiro256PlusPlus;

const MICRO: f64 = 1e3;
const MILLI: f64 = 1e6;
const SECOND: f64 = 1e9;
const HOUR: f64 = 3600.0 * SECOND;

/// The kind of a source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// A server over a network, asked directly: the packet's way there and back brackets its time.
    Network,
    /// The kernel's clock, kept by a daemon: a narrow look at a clock that is off by tens of microseconds, and says at most
    /// a millisecond.
    Kernel,
    /// A PTP hardware clock: a microsecond.
    Ptp,
}

/// When a source lies, or says nothing.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Behaviour {
    Honest,
    /// Now and then it says nothing, for up to half a day.
    Outages,
    /// Now and then it is off by a tenth of a second up to five seconds, for less than five minutes. Less could not be told from
    /// what a network does to one server's packets.
    Steps,
    /// It is off by far more than it says: by a constant, or ever more, or now and then.
    Liar,
}

/// One look, in true nanoseconds: the bracket around the moment, and what the source says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// Before and after the moment, in nanoseconds.
    pub(super) before: f64,
    pub(super) after: f64,
    /// The source's time minus the true one.
    pub(super) error: f64,
    pub(super) max_error: u64,
    pub(super) estimated_error: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Reference {
    pub(super) kind: Kind,
    behaviour: Behaviour,
    /// One-way delays without queues, in nanoseconds.
    delays: [f64; 2],
    bias: f64,
    /// When it begins to misbehave, when it stops, and by how much: true nanoseconds.
    from: f64,
    until: f64,
    wrong_by: f64,
    /// A kernel's daemon updates now and then; the kernel's bound grows in between.
    updated: f64,
    now: f64,
}

impl Reference {
    pub(super) fn new(kind: Kind, behaviour: Behaviour, random: &mut Xoshiro256PlusPlus) -> Self {
        let mut reference = Self {
            kind,
            behaviour,
            delays: [random.random_range(0.2..20.0) * MILLI, random.random_range(0.2..20.0) * MILLI],
            bias: 0.0,
            from: f64::MAX,
            until: f64::MAX,
            wrong_by: 0.0,
            updated: 0.0,
            now: 0.0,
        };
        reference.plan(random);
        reference
    }

    fn plan(&mut self, random: &mut Xoshiro256PlusPlus) {
        let wait: f64 = random.sample(Exp1);
        let sign = if random.random_bool(0.5) { 1.0 } else { -1.0 };
        let (wait, lasts, wrong_by) = match self.behaviour {
            Behaviour::Honest => (f64::INFINITY, 0.0, 0.0),
            Behaviour::Outages => (8.0 * HOUR * wait, random.random_range(0.1..12.0) * HOUR, 0.0),
            Behaviour::Steps => (
                6.0 * HOUR * wait,
                random.random_range(10.0..290.0) * SECOND,
                random.random_range(100.0..5000.0) * MILLI,
            ),
            Behaviour::Liar => {
                (HOUR * wait, 3.0 * HOUR * random.sample::<f64, _>(Exp1), random.random_range(1.0..1000.0) * MILLI)
            }
        };
        self.from = self.now + wait;
        self.until = self.from + lasts;
        self.wrong_by = sign * wrong_by;
    }

    /// Whether it may be wrong just now.
    pub(super) fn misbehaves(&self) -> bool {
        self.now >= self.from
    }

    /// What it says when it is looked at after `nanos` more nanoseconds.
    pub(super) fn look(&mut self, nanos: f64, random: &mut Xoshiro256PlusPlus) -> Option<Look> {
        self.now += nanos;
        if self.now > self.until {
            self.plan(random);
        }
        let normal = |random: &mut Xoshiro256PlusPlus| -> f64 { StandardNormal.sample(random) };
        let (lost, noise, follows) = match self.kind {
            Kind::Network => (0.02, 60.0 * MICRO, 2.0 * HOUR),
            Kind::Kernel => (0.0, 15.0 * MICRO, 600.0 * SECOND),
            Kind::Ptp => (0.001, 0.25 * MICRO, HOUR),
        };
        let limit = match self.kind {
            Kind::Network => 300.0 * MICRO,
            Kind::Kernel => 150.0 * MICRO,
            Kind::Ptp => 0.85 * MICRO,
        };
        let part = (nanos / follows).min(1.0);
        self.bias = (self.bias * (1.0 - part) + noise * (2.0 * part).sqrt() * normal(random)).clamp(-limit, limit);
        if self.misbehaves() && self.behaviour == Behaviour::Outages || random.random_bool(lost) {
            return None;
        }
        let queue = |random: &mut Xoshiro256PlusPlus, scale: f64| -> f64 {
            let busy = if random.random_bool(0.03) { 30.0 } else { 1.0 };
            scale * busy * random.sample::<f64, _>(Exp1)
        };
        let mut look = match self.kind {
            Kind::Network => Look {
                before: self.delays[0] + queue(random, 0.3 * MILLI),
                after: self.delays[1] + queue(random, 0.3 * MILLI),
                error: self.bias,
                max_error: 400_000,
                estimated_error: 80_000,
            },
            Kind::Kernel => {
                if self.now - self.updated > 64.0 * SECOND {
                    self.updated = self.now;
                }
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                let grown = (500e-6 * (self.now - self.updated)) as u64;
                Look {
                    before: 12.0,
                    after: 14.0,
                    error: self.bias,
                    max_error: 1_000_000 + grown,
                    estimated_error: 20_000,
                }
            }
            Kind::Ptp => Look {
                before: random.random_range(300.0..700.0),
                after: random.random_range(300.0..700.0),
                error: self.bias + random.random_range(-100.0..100.0),
                max_error: 1_000,
                estimated_error: 300,
            },
        };
        if self.misbehaves() {
            look.error += self.wrong_by;
        }
        Some(look)
    }
}

/// A thread that is interrupted between two instructions: how much later it goes on, in nanoseconds.
pub(super) fn preemption(random: &mut Xoshiro256PlusPlus, often: f64) -> f64 {
    if random.random_bool(often) {
        20.0 * MICRO * 10_f64.powf(random.random_range(0.0..3.5))
    } else {
        0.0
    }
}
