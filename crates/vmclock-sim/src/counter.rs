// SPDX-License-Identifier: MIT OR Apache-2.0
//! A CPU's counter over true time: lines between exact points, whose slopes an oscillator draws within its band.

use std::collections::VecDeque;
use std::f64::consts::TAU;

use crate::chance::Chance;
use crate::units::{rounded, Nanos, DAY, HOUR, MINUTE, ONE, SECOND};

/// Ticks are counted in 2^-60: the numbers of a 4 GHz counter fit, and no sum is ever rounded.
const FRACTION: u32 = 60;

/// An oscillator: its frequency is within a band, always.
#[derive(Clone, Debug)]
pub(crate) struct OscillatorSpec {
    /// The frequency at the band's lower end, in Hz.
    pub(crate) hertz: f64,
    /// The band's width, in parts per 10^12 of its lower end.
    pub(crate) band: i64,
    /// How the frequency moves.
    pub(crate) wander: Wander,
    /// The longest time for which a frequency that changes all the time is kept.
    pub(crate) step: Nanos,
    /// The counter when the simulation begins.
    pub(crate) start: u64,
    /// What a daemon does to the clock that is assumed exact.
    pub(crate) steering: Option<Steering>,
    /// What happens to the counter, in order.
    pub(crate) changes: Vec<(Nanos, Change)>,
}

/// How a frequency moves within its band.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wander {
    /// As a crystal's does, around the middle.
    Crystal(Steadiness),
    /// Somewhere: a part of the band.
    Constant(f64),
    /// Between the ends.
    Square {
        /// How long it stays at the upper end.
        high: Nanos,
        /// How long it stays at the lower end.
        low: Nanos,
    },
    /// From end to end and back, evenly.
    Triangle {
        /// There and back.
        period: Nanos,
    },
    /// From end to end and back, as a sine.
    Sine {
        /// There and back.
        period: Nanos,
    },
    /// A random walk.
    Walk {
        /// A standard deviation after an hour, as a part of the band.
        hourly: f64,
    },
    /// Anywhere, and then anywhere else.
    Hops {
        /// How long it stays, on average.
        mean: Nanos,
    },
}

/// How steady a crystal is. Numbers without a unit are relative frequencies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Steadiness {
    /// White noise, averaged over a second.
    pub(crate) white: f64,
    /// A random walk's standard deviation after an hour.
    pub(crate) walk: f64,
    /// The walk's largest deviation.
    pub(crate) walk_limit: f64,
    /// The temperature's steps: a standard deviation; never more than three of it.
    pub(crate) step: f64,
    /// How often the temperature steps.
    pub(crate) step_every: Nanos,
    /// How long the crystal takes to follow (to 63 %).
    pub(crate) step_follows: Nanos,
    /// The amplitude over a day.
    pub(crate) daily: f64,
    /// The change in a day.
    pub(crate) ageing: f64,
}

impl Steadiness {
    /// A server's plain crystal in an air-conditioned data centre.
    pub(crate) const SERVER: Self = Self {
        white: 1e-9,
        walk: 5e-9,
        walk_limit: 100e-9,
        step: 50e-9,
        step_every: 3 * HOUR,
        step_follows: HOUR / 6,
        daily: 50e-9,
        ageing: 0.5e-9,
    };
    /// The same where the temperature steps by some degrees.
    pub(crate) const UNSTEADY: Self =
        Self { step: 700e-9, step_every: HOUR, step_follows: HOUR / 12, daily: 300e-9, ..Self::SERVER };
    /// The same where day and night differ by 3 ppm.
    pub(crate) const DAILY: Self = Self { daily: 1.5e-6, ..Self::SERVER };
}

/// A daemon that works off an offset now and then, by changing the frequency of the clock that is assumed exact.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Steering {
    /// How often.
    pub(crate) every: Nanos,
    /// How much, on average.
    pub(crate) offset: Nanos,
    /// The largest change of the frequency, in parts per 10^12.
    pub(crate) most: i64,
}

/// What happens to a counter that no band allows.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Change {
    /// Somebody writes to it: so many nanoseconds forward, or back.
    Jump(Nanos),
    /// It stops.
    Stop,
    /// It runs faster, by so many parts per 10^12.
    Faster(i64),
    /// It stops or runs faster no more.
    Recover,
    /// Its band is another one from now on, by so many parts per 10^12.
    Shift(i64),
}

/// A line: from an instant on, at a frequency.
#[derive(Clone, Copy, Debug)]
struct Segment {
    from: Nanos,
    /// In 2^-60 ticks, wrapping at 2^124.
    phase: u128,
    /// In 2^-60 ticks per nanosecond.
    rate: u64,
    steering: i64,
}

/// The counter, known up to an instant and extended when more is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Counter {
    segments: VecDeque<Segment>,
    end: Nanos,
    oscillator: Oscillator,
    changes: VecDeque<(Nanos, Change)>,
    faster: i64,
    stopped: bool,
}

impl Counter {
    pub(crate) fn new(spec: &OscillatorSpec, chance: Chance) -> Self {
        Self::since(0, spec, chance)
    }

    /// One that begins at an instant.
    pub(crate) fn since(begin: Nanos, spec: &OscillatorSpec, chance: Chance) -> Self {
        let mut oscillator = Oscillator::new(begin, spec, chance);
        let changes: VecDeque<(Nanos, Change)> = spec.changes.iter().copied().collect();
        let (rate, until) = oscillator.next(begin);
        let end = changes.front().map_or(until, |change| until.min(change.0.max(begin + 1)));
        let phase = u128::from(spec.start) << FRACTION;
        let first = Segment { from: begin, phase, rate, steering: oscillator.steered_by };
        Self { segments: VecDeque::from([first]), end, oscillator, changes, faster: 0, stopped: false }
    }

    /// Makes everything up to `until` known, and forgets what was before `now`.
    pub(crate) fn extend(&mut self, now: Nanos, until: Nanos) {
        while self.end <= until {
            let from = self.end;
            let mut phase = self.phase(from);
            while let Some((_, change)) = self.changes.front().copied().filter(|change| change.0 <= from) {
                self.changes.pop_front();
                match change {
                    Change::Jump(by) => {
                        let ticks = i128::from(by) * i128::from(self.oscillator.low);
                        phase = phase.wrapping_add_signed(ticks);
                    }
                    Change::Stop => self.stopped = true,
                    Change::Faster(by) => self.faster = by,
                    Change::Recover => (self.stopped, self.faster) = (false, 0),
                    Change::Shift(by) => self.oscillator.shift(by),
                }
            }
            let (rate, until) = self.oscillator.next(from);
            let rate = if self.stopped { 0 } else { scaled(rate, self.faster) };
            self.end = self.changes.front().map_or(until, |change| until.min(change.0));
            self.segments.push_back(Segment { from, phase, rate, steering: self.oscillator.steered_by });
        }
        while self.segments.get(1).is_some_and(|second| second.from <= now) {
            self.segments.pop_front();
        }
    }

    /// The counter at an instant that is known, and not forgotten.
    pub(crate) fn at(&self, at: Nanos) -> u64 {
        (self.phase(at) >> FRACTION) as u64
    }

    /// How the clock that is assumed exact is steered at an instant, in parts per 10^12.
    pub(crate) fn steering(&self, at: Nanos) -> i64 {
        self.segment(at).map_or(0, |segment| segment.steering)
    }

    /// The next instant after `now`, and up to `until`, at which the frequency changes.
    pub(crate) fn next_bend(&self, now: Nanos, until: Nanos) -> Option<Nanos> {
        self.segments.iter().map(|segment| segment.from).find(|from| *from > now).filter(|from| *from <= until)
    }

    /// The frequency at an instant, in Hz.
    pub(crate) fn hertz(&self, at: Nanos) -> f64 {
        self.segment(at).map_or(0.0, |segment| segment.rate as f64 / (1_u64 << FRACTION) as f64 * SECOND as f64)
    }

    /// The host sleeps, and the counter with it if `stopped`; then somebody may write to it. Nobody has read it later
    /// than at `from`.
    pub(crate) fn sleep(&mut self, from: Nanos, until: Nanos, stopped: bool, jump: Nanos) {
        if stopped || jump != 0 {
            self.forget_from(from);
        }
        if stopped {
            self.insert(from, Change::Stop);
            self.insert(until, Change::Recover);
        }
        if jump != 0 {
            self.insert(until, Change::Jump(jump));
        }
    }

    /// Somebody writes to it at an instant, after which nobody has read it.
    pub(crate) fn jump(&mut self, at: Nanos, by: Nanos) {
        self.forget_from(at);
        self.insert(at, Change::Jump(by));
        self.extend(at, at);
    }

    /// What was drawn for later than an instant does not come.
    fn forget_from(&mut self, from: Nanos) {
        while self.segments.len() > 1 && self.segments.back().is_some_and(|last| last.from >= from) {
            self.segments.pop_back();
        }
        self.end = self.end.min(from);
    }

    fn insert(&mut self, at: Nanos, change: Change) {
        let index = self.changes.partition_point(|other| other.0 <= at);
        self.changes.insert(index, (at, change));
    }

    fn segment(&self, at: Nanos) -> Option<&Segment> {
        self.segments.iter().rev().find(|segment| segment.from <= at).or(self.segments.front())
    }

    fn phase(&self, at: Nanos) -> u128 {
        let Some(Segment { from, phase, rate, .. }) = self.segment(at) else { return 0 };
        // `at` is not before the first segment but by what a caller asks of the past, which is not kept.
        phase.wrapping_add(u128::from(*rate) * u128::try_from(at - from).unwrap_or(0))
    }
}

/// What draws the frequency.
#[derive(Clone, Debug)]
struct Oscillator {
    /// The band, in 2^-60 ticks per nanosecond.
    low: u64,
    high: u64,
    wander: Wander,
    step: Nanos,
    chance: Chance,
    /// Where in the band it is, and until when.
    part: f64,
    until: Nanos,
    begin: Nanos,
    phase: f64,
    walk: f64,
    temperature: f64,
    target: f64,
    next_step: Nanos,
    steering: Option<Steering>,
    steered_by: i64,
    steered_until: Nanos,
}

impl Oscillator {
    fn new(begin: Nanos, spec: &OscillatorSpec, mut chance: Chance) -> Self {
        let low = rounded(spec.hertz / SECOND as f64 * (1_u64 << FRACTION) as f64).unsigned_abs();
        let next_step = match spec.wander {
            Wander::Crystal(steadiness) => begin + chance.wait(steadiness.step_every),
            _ => 0,
        };
        let (phase, part) = (chance.unit(), chance.unit());
        Self {
            low,
            high: scaled(low, spec.band),
            wander: spec.wander,
            step: spec.step.max(1),
            part: if matches!(spec.wander, Wander::Square { .. }) { part.round() } else { part },
            until: begin,
            begin,
            phase,
            walk: 0.0,
            temperature: 0.0,
            target: 0.0,
            next_step,
            steering: spec.steering,
            steered_by: 0,
            steered_until: spec.steering.map_or(Nanos::MAX, |steering| begin + chance.between(0, steering.every)),
            chance,
        }
    }

    /// Another band of the same width.
    fn shift(&mut self, by: i64) {
        (self.low, self.high) = (scaled(self.low, by), scaled(self.high, by));
    }

    /// The frequency from an instant on, and for how long it is that.
    fn next(&mut self, from: Nanos) -> (u64, Nanos) {
        if from >= self.until {
            (self.part, self.until) = self.wander(from);
        }
        if from >= self.steered_until {
            self.steer(from);
        }
        let width = (self.high - self.low) as f64;
        let raw = self.low + (rounded(self.part.clamp(0.0, 1.0) * width).unsigned_abs()).min(self.high - self.low);
        // A clock that is made faster sees fewer ticks in each of its seconds.
        let rate =
            u128::from(raw) * u128::from(ONE.unsigned_abs()) / u128::from((ONE + self.steered_by).unsigned_abs());
        (rate as u64, self.until.min(self.steered_until))
    }

    fn steer(&mut self, from: Nanos) {
        let Some(Steering { every, offset, most }) = self.steering else { return };
        if self.steered_by == 0 {
            let offset = rounded(offset as f64 * (0.5 + self.chance.unit()));
            let by = rounded(most as f64 * (0.7 + 0.3 * self.chance.unit()));
            self.steered_by = by * self.chance.sign();
            self.steered_until = from + rounded(offset as f64 / by as f64 * ONE as f64);
        } else {
            self.steered_by = 0;
            self.steered_until = from + rounded(every as f64 * (0.5 + self.chance.unit()));
        }
    }

    /// The place in the band from an instant on, and until when.
    fn wander(&mut self, from: Nanos) -> (f64, Nanos) {
        let step = from + self.step / 2 + self.chance.between(0, self.step.max(2));
        match self.wander {
            Wander::Crystal(steadiness) => (self.crystal(steadiness, from, step), step),
            Wander::Constant(part) => (part, from + MINUTE),
            Wander::Square { high, low } => {
                // The first stay is of any length.
                let stay =
                    |length: Nanos| if from == self.begin { rounded(length as f64 * self.phase) } else { length };
                if self.part > 0.5 {
                    (0.0, from + stay(low).max(1))
                } else {
                    (1.0, from + stay(high).max(1))
                }
            }
            Wander::Triangle { period } => {
                let turn = (self.phase + (from + (step - from) / 2) as f64 / period as f64).fract();
                (1.0 - (2.0 * turn - 1.0).abs(), step)
            }
            Wander::Sine { period } => {
                let turn = self.phase + (from + (step - from) / 2) as f64 / period as f64;
                (0.5 + 0.5 * (TAU * turn).sin(), step)
            }
            Wander::Walk { hourly } => {
                let hours = (step - from) as f64 / HOUR as f64;
                let next = self.part + hourly * hours.sqrt() * self.chance.normal();
                // Reflected at the ends, where it then is now and then.
                (1.0 - (1.0 - next.abs()).abs(), step)
            }
            Wander::Hops { mean } => {
                let part = 1.5 * self.chance.unit() - 0.25;
                (part, from + self.chance.wait(mean))
            }
        }
    }

    fn crystal(&mut self, steadiness: Steadiness, from: Nanos, until: Nanos) -> f64 {
        let Steadiness { white, walk, walk_limit, step, step_every, step_follows, daily, ageing } = steadiness;
        let length = (until - from) as f64;
        let chance = &mut self.chance;
        self.walk = (self.walk + walk * (length / HOUR as f64).sqrt() * chance.normal()).clamp(-walk_limit, walk_limit);
        while until >= self.next_step {
            self.next_step += chance.wait(step_every);
            self.target = (step * chance.normal()).clamp(-3.0 * step, 3.0 * step);
        }
        self.temperature += (self.target - self.temperature) * -(-length / step_follows as f64).exp_m1();
        let days = (from + (until - from) / 2) as f64 / DAY as f64;
        let day = daily * (TAU * (self.phase + days)).sin();
        let noise = white * (SECOND as f64 / length).sqrt() * chance.normal();
        let relative = self.walk + self.temperature + day + ageing * days + noise;
        let width = (self.high - self.low) as f64 / self.low as f64;
        0.5 + if width > 0.0 { relative / width } else { 0.0 }
    }
}

/// A frequency that is higher by so many parts per 10^12, rounded down.
fn scaled(rate: u64, by: i64) -> u64 {
    let more = i128::from(rate) * i128::from(by) / i128::from(ONE);
    u64::try_from(i128::from(rate) + more).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::PPM;

    fn spec(wander: Wander) -> OscillatorSpec {
        OscillatorSpec {
            hertz: 2.5e9,
            band: 15 * PPM,
            wander,
            step: 10 * SECOND,
            start: u64::MAX - 1_000,
            steering: None,
            changes: Vec::new(),
        }
    }

    #[test]
    fn no_oscillator_leaves_its_band() {
        let wanders = [
            Wander::Crystal(Steadiness::SERVER),
            Wander::Crystal(Steadiness { daily: 30e-6, ..Steadiness::UNSTEADY }),
            Wander::Constant(1.0),
            Wander::Square { high: MINUTE, low: 7 * SECOND },
            Wander::Triangle { period: HOUR },
            Wander::Sine { period: HOUR },
            Wander::Walk { hourly: 2.0 },
            Wander::Hops { mean: MINUTE },
        ];
        for wander in wanders {
            let mut counter = Counter::new(&spec(wander), Chance::stream(1, "oscillator", 0));
            let (mut last, mut now) = (counter.at(0), 0);
            let (mut lowest, mut highest) = (f64::MAX, 0.0_f64);
            for length in (1..20_000).map(|turn| SECOND + turn * 37_000_000 % (30 * SECOND)) {
                counter.extend(now, now + length);
                let next = counter.at(now + length);
                let frequency = next.wrapping_sub(last) as f64 / (length as f64 / 1e9);
                lowest = lowest.min(frequency);
                highest = highest.max(frequency);
                (now, last) = (now + length, next);
            }
            // A tick at either end.
            assert!(lowest >= 2.5e9 - 2.0, "{wander:?}: {lowest}");
            assert!(highest <= 2.5e9 * (1.0 + 15e-6) + 2.0, "{wander:?}: {highest}");
            let moves = highest - lowest > 0.8 * 15e-6 * 2.5e9;
            let is_still = matches!(wander, Wander::Constant(_))
                || matches!(wander, Wander::Crystal(steadiness) if steadiness.daily < 1e-6);
            assert_eq!(moves, !is_still, "{wander:?}: {lowest} to {highest}");
        }
    }

    #[test]
    fn it_is_the_same_counter_however_it_is_asked() {
        let mut often = Counter::new(&spec(Wander::Hops { mean: MINUTE }), Chance::stream(3, "oscillator", 0));
        let mut seldom = often.clone();
        for turn in 0..1_000 {
            often.extend(turn * SECOND, (turn + 1) * SECOND);
        }
        seldom.extend(0, 1_000 * SECOND);
        assert_eq!(often.at(1_000 * SECOND), seldom.at(1_000 * SECOND));
    }

    #[test]
    fn what_happens_to_it_happens_on_time() {
        let changes = vec![
            (10 * SECOND, Change::Jump(5_000_000)),
            (20 * SECOND, Change::Stop),
            (30 * SECOND, Change::Recover),
            (40 * SECOND, Change::Shift(100 * PPM)),
        ];
        let spec = OscillatorSpec { changes, start: 0, hertz: 1e9, ..spec(Wander::Constant(0.0)) };
        let mut counter = Counter::new(&spec, Chance::stream(1, "oscillator", 0));
        counter.extend(0, 100 * SECOND);
        let seconds = |at: i64| counter.at(at * SECOND) as f64 / 1e9;
        let close = |at: i64, expected: f64| assert!((seconds(at) - expected).abs() < 1e-8, "{at}: {}", seconds(at));
        close(9, 9.0);
        close(11, 11.005);
        close(25, 20.005);
        close(35, 25.005);
        close(50, 40.005 + 10.0 * 100e-6);
        assert_eq!(counter.next_bend(10 * SECOND, 100 * SECOND), Some(20 * SECOND));
    }

    #[test]
    fn steering_changes_the_frequency_and_is_known() {
        let steering = Some(Steering { every: 17 * MINUTE, offset: 2_000_000, most: 12 * PPM });
        let spec = OscillatorSpec { steering, ..spec(Wander::Constant(0.5)) };
        let mut counter = Counter::new(&spec, Chance::stream(1, "oscillator", 0));
        let (mut now, mut steered) = (0, 0);
        let middle = 2.5e9 * (1.0 + 7.5e-6);
        for _ in 0..20_000 {
            counter.extend(now, now + SECOND);
            let expected = middle / (1.0 + counter.steering(now) as f64 / ONE as f64);
            assert!((counter.hertz(now) - expected).abs() < 1.0);
            steered += i64::from(counter.steering(now) != 0);
            now += SECOND;
        }
        assert!((1_000..8_000).contains(&steered), "{steered} s of 20,000");
    }
}
