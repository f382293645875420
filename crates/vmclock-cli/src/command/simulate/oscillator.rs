// SPDX-License-Identifier: MIT OR Apache-2.0
//! A counter as real crystals drive it: off by some ppm, with white and random-walk noise of its frequency, ageing, the
//! time of day, and steps of the temperature.

use std::f64::consts::TAU;

use rand::RngExt;
use rand_distr::{Distribution, Exp1, StandardNormal};
use rand_xoshiro::Xoshiro256PlusPlus;

const SECOND: f64 = 1e9;
const HOUR: f64 = 3600.0 * SECOND;
const DAY: f64 = 24.0 * HOUR;

/// How steady it is. Numbers without a unit are relative frequencies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steadiness {
    /// White noise, averaged over a second.
    pub(super) white: f64,
    /// A random walk's standard deviation after an hour.
    pub(super) walk: f64,
    /// Never further from its offset by the walk.
    pub(super) walk_limit: f64,
    /// The temperature's steps: a standard deviation, and never more than three of it.
    pub(super) step: f64,
    /// In nanoseconds: how often the temperature steps, and how long the crystal takes to follow (to 63 %).
    pub(super) step_every: f64,
    pub(super) step_follows: f64,
    /// The amplitude over a day.
    pub(super) daily: f64,
    /// A day.
    pub(super) ageing: f64,
}

impl Steadiness {
    /// A server's plain crystal in an air-conditioned room.
    pub(super) const SERVER: Self = Self {
        white: 1e-9,
        walk: 5e-9,
        walk_limit: 100e-9,
        step: 50e-9,
        step_every: 3.0 * HOUR,
        step_follows: HOUR / 6.0,
        daily: 50e-9,
        ageing: 0.5e-9,
    };
    /// The same with doors that open: steps of some degrees.
    pub(super) const DRAUGHTY: Self =
        Self { step: 700e-9, step_every: HOUR, step_follows: HOUR / 12.0, daily: 300e-9, ..Self::SERVER };
}

/// What the counter does just now.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Fault {
    None,
    /// It stands still.
    Stopped,
    /// It runs faster, by a relative frequency.
    Faster(f64),
}

#[derive(Clone, Debug)]
pub(super) struct Oscillator {
    hertz: f64,
    offset: f64,
    steadiness: Steadiness,
    walk: f64,
    temperature: f64,
    target: f64,
    phase: f64,
    /// Nanoseconds since it was made, and when the temperature steps next.
    age: f64,
    next_step: f64,
    ticks: u64,
    fraction: f64,
    pub(super) fault: Fault,
}

impl Oscillator {
    pub(super) fn new(random: &mut Xoshiro256PlusPlus, steadiness: Steadiness) -> Self {
        Self {
            hertz: random.random_range(1e9..4e9_f64).round(),
            offset: random.random_range(-50e-6..50e-6),
            steadiness,
            walk: 0.0,
            temperature: 0.0,
            target: 0.0,
            phase: random.random_range(0.0..TAU),
            age: 0.0,
            next_step: steadiness.step_every * random.sample::<f64, _>(Exp1),
            // Often enough it wraps in the middle of a run.
            ticks: if random.random_bool(0.2) { u64::MAX - random.random_range(0..1 << 50) } else { random.random() },
            fraction: 0.0,
            fault: Fault::None,
        }
    }

    /// The frequency that is written on it.
    pub(super) fn nominal_hertz(&self) -> f64 {
        self.hertz
    }

    /// The counter.
    pub(super) fn counter(&self) -> u64 {
        self.ticks
    }

    /// Lets so many nanoseconds go by.
    pub(super) fn advance(&mut self, nanos: f64, random: &mut Xoshiro256PlusPlus) {
        if nanos <= 0.0 {
            return;
        }
        let Steadiness { white, walk, walk_limit, step, step_every, step_follows, daily, ageing } = self.steadiness;
        let normal = |random: &mut Xoshiro256PlusPlus| -> f64 { StandardNormal.sample(random) };
        self.age += nanos;
        self.walk = (self.walk + walk * (nanos / HOUR).sqrt() * normal(random)).clamp(-walk_limit, walk_limit);
        while self.age >= self.next_step {
            self.next_step += step_every * random.sample::<f64, _>(Exp1);
            self.target = (step * normal(random)).clamp(-3.0 * step, 3.0 * step);
        }
        self.temperature += (self.target - self.temperature) * -(-nanos / step_follows).exp_m1();
        let day = daily * (self.phase + TAU * self.age / DAY).sin();
        let noise = white * (SECOND / nanos).sqrt() * normal(random);
        let mut frequency = 1.0 + self.offset + self.walk + self.temperature + day + ageing * self.age / DAY + noise;
        match self.fault {
            Fault::None => {}
            Fault::Stopped => frequency = 0.0,
            Fault::Faster(by) => frequency += by,
        }
        self.fraction += nanos * (self.hertz * frequency / SECOND);
        let whole = self.fraction.floor();
        self.fraction -= whole;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // whole, and not negative
        let whole = whole as u64;
        self.ticks = self.ticks.wrapping_add(whole);
    }

    /// A counter that somebody wrote to.
    pub(super) fn jump(&mut self, ticks: i64) {
        self.ticks = self.ticks.wrapping_add_signed(ticks);
    }
}
