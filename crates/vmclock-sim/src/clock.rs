// SPDX-License-Identifier: MIT OR Apache-2.0
//! Clocks that sources read: how far off they are, what they state of that, and when they are falsetickers.

use std::f64::consts::TAU;

use vmclock_core::leap::LeapKind;

use crate::calendar::Calendar;
use crate::chance::Chance;
use crate::units::{part_of, rounded, Nanos, HOUR, ONE, PPM, SECOND};

/// A clock.
#[derive(Clone, Debug)]
pub(crate) struct ClockSpec {
    /// Whether it shows TAI; UTC otherwise.
    pub(crate) tai: bool,
    /// What it states of its error.
    pub(crate) stated: Stated,
    /// Its error while it is right: within what it states.
    pub(crate) error: ErrorModel,
    /// The estimated error that it states, in nanoseconds.
    pub(crate) estimated: u64,
    /// Whether it says that it is synchronized.
    pub(crate) synchronized: bool,
    /// How many seconds before a leap second it announces it; never if 0.
    pub(crate) announces: i64,
    /// Whether it says TAI-UTC, as far as the kernel knows it.
    pub(crate) knows_offset: bool,
    /// For how long it says that it is synchronized, and that it is not, in turns.
    pub(crate) turns: Option<Nanos>,
}

/// The maximum error that a clock states, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stated {
    /// Always the same.
    Constant(Nanos),
    /// It grows by 500 ppm until a daemon updates the clock, every 64 s: a kernel's.
    Sawtooth(Nanos),
    /// It grows while the clock has lost what it is synchronized to: now and then, for hours.
    Growth {
        /// While it is synchronized.
        least: Nanos,
        /// In parts per 10^12.
        by: i64,
    },
    /// Now this, now that.
    Changing {
        /// The least.
        least: Nanos,
        /// The most.
        most: Nanos,
        /// How long it stays the same, on average.
        mean: Nanos,
    },
}

/// An honest clock's error.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ErrorModel {
    /// A bias that wanders around 0, with a standard deviation and a limit in nanoseconds, and noise on top.
    Bias {
        /// The standard deviation.
        deviation: Nanos,
        /// How fast it changes.
        follows: Nanos,
        /// The largest.
        limit: Nanos,
        /// The noise's limit.
        noise: Nanos,
    },
    /// Always as much as is stated, or a part of it, in this direction.
    Extreme(f64),
    /// As much as is stated, now ahead, now behind.
    Flip {
        /// How long on each side.
        half: Nanos,
    },
    /// A sine whose amplitude is as much as is stated.
    Sine {
        /// There and back.
        period: Nanos,
    },
    /// Anything up to what is stated, each time.
    Uniform,
}

/// A time in which a clock is a falseticker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Episode {
    /// Which clock.
    pub(crate) clock: usize,
    pub(crate) from: Nanos,
    pub(crate) until: Nanos,
    pub(crate) falsehood: Falsehood,
}

/// How a falseticker is false.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Falsehood {
    /// Off by so many nanoseconds.
    Constant(Nanos),
    /// Off by a part more than it states: 0.01 is one per cent more.
    Subtle(f64),
    /// Ever more, by so many parts per 10^12: it follows the truth and then leaves it.
    Drift(i64),
    /// Ahead and behind.
    Oscillating {
        /// By so many nanoseconds.
        amplitude: Nanos,
        /// There and back.
        period: Nanos,
    },
    /// Off by anything up to so many nanoseconds, each time.
    Noise(Nanos),
    /// It states too small an error: divided by this.
    Understated(i64),
    /// It announces a leap second that does not come.
    FalseLeap(LeapKind),
}

/// What a clock shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shown {
    /// Its time minus the true time, in nanoseconds.
    pub(crate) error: Nanos,
    pub(crate) max_error: u64,
    /// A leap second at the end of this day.
    pub(crate) leap: Option<LeapKind>,
    /// It is 23:59:60, and the clock knows it.
    pub(crate) in_leap: bool,
    /// It announces what will not be.
    pub(crate) announces_falsely: bool,
}

/// A clock over time.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    pub(crate) spec: ClockSpec,
    chance: Chance,
    episodes: Vec<Episode>,
    phase: f64,
    at: Nanos,
    bias: f64,
    /// Since when, and until when, what is stated is what it is.
    since: Nanos,
    until: Nanos,
    stated: Nanos,
}

impl Clock {
    /// The clock of this number; of the episodes only its own count, which are in order.
    pub(crate) fn new(spec: &ClockSpec, number: usize, episodes: &[Episode], mut chance: Chance) -> Self {
        let episodes = episodes.iter().copied().filter(|episode| episode.clock == number).rev().collect();
        let phase = chance.unit();
        Self { spec: spec.clone(), chance, episodes, phase, at: 0, bias: 0.0, since: Nanos::MAX, until: 0, stated: 0 }
    }

    /// Whether it says at an instant that it is synchronized.
    pub(crate) fn is_synchronized(&self, at: Nanos) -> bool {
        self.spec.synchronized && self.spec.turns.is_none_or(|length| (at / length.max(1)) % 2 == 0)
    }

    /// What it shows at an instant.
    pub(crate) fn show(&mut self, at: Nanos, calendar: &Calendar) -> Shown {
        let stated = self.state(at);
        let honest = self.honest(at, stated);
        self.at = self.at.max(at);
        let left = calendar.seconds_to_leap(at);
        let announced = calendar.leap.filter(|_| self.spec.announces > 0);
        let right = Shown {
            error: honest,
            max_error: stated.unsigned_abs(),
            leap: announced.filter(|_| left.is_some_and(|left| left < self.spec.announces)).map(|leap| leap.kind),
            // Who was not notified is not in it either, but set later.
            in_leap: announced.is_some() && calendar.is_in_leap(at + honest),
            announces_falsely: false,
        };
        self.falsified(at, right, calendar)
    }

    fn falsified(&mut self, at: Nanos, right: Shown, calendar: &Calendar) -> Shown {
        while self.episodes.last().is_some_and(|episode| episode.until <= at) {
            self.episodes.pop();
        }
        let Some(episode) = self.episodes.last().filter(|episode| episode.from <= at) else { return right };
        let since = at - episode.from;
        let stated = right.max_error as Nanos;
        // The same side for the whole of an episode.
        let side = if (episode.from / 1_000) % 2 == 0 { 1 } else { -1 };
        let wrong = |by: Nanos| Shown { error: right.error + by, ..right };
        match episode.falsehood {
            Falsehood::Constant(by) => wrong(by),
            Falsehood::Subtle(more) => Shown { error: side * (stated + 1 + rounded(stated as f64 * more)), ..right },
            Falsehood::Drift(by) => wrong(part_of(since, by)),
            Falsehood::Oscillating { amplitude, period } => {
                wrong(rounded(amplitude as f64 * (TAU * since as f64 / period as f64).sin()))
            }
            Falsehood::Noise(most) => wrong(rounded(most as f64 * self.chance.signed_unit())),
            Falsehood::Understated(by) => Shown { max_error: right.max_error / by.unsigned_abs().max(1), ..right },
            Falsehood::FalseLeap(kind) => {
                let comes = calendar.leap.is_some_and(|leap| leap.kind == kind) && right.leap.is_some();
                Shown { leap: Some(kind), announces_falsely: !comes, ..right }
            }
        }
    }

    /// What it states of its error, in nanoseconds.
    fn state(&mut self, at: Nanos) -> Nanos {
        match self.spec.stated {
            Stated::Constant(error) => error,
            Stated::Sawtooth(least) => {
                if self.since > at || at - self.since > 64 * SECOND {
                    self.since = at;
                }
                least + part_of(at - self.since, 500 * PPM)
            }
            Stated::Growth { least, by } => {
                if at >= self.until {
                    self.since = self.until + self.chance.wait(6 * HOUR);
                    self.until = self.since + self.chance.between(HOUR / 6, 6 * HOUR);
                }
                least + part_of((at - self.since).max(0), by)
            }
            Stated::Changing { least, most, mean } => {
                if at >= self.until {
                    self.until = at + self.chance.wait(mean);
                    self.stated = rounded(self.chance.log_between(least as f64, most as f64));
                }
                self.stated
            }
        }
    }

    /// Its error while it is right, which is within what it states.
    fn honest(&mut self, at: Nanos, stated: Nanos) -> Nanos {
        let chance = &mut self.chance;
        let error = match self.spec.error {
            ErrorModel::Bias { deviation, follows, limit, noise } => {
                let part = ((at - self.at).max(0) as f64 / follows as f64).min(1.0);
                let step = deviation as f64 * (2.0 * part).sqrt() * chance.normal();
                self.bias = (self.bias * (1.0 - part) + step).clamp(-(limit as f64), limit as f64);
                let grown = match self.spec.stated {
                    // What it has lost is what it states.
                    Stated::Growth { least, .. } => 0.9 * (stated - least) as f64 * (2.0 * self.phase - 1.0),
                    _ => 0.0,
                };
                self.bias + grown + noise as f64 * chance.signed_unit()
            }
            ErrorModel::Extreme(part) => part * stated as f64,
            ErrorModel::Flip { half } => {
                let ahead = (at as f64 / half as f64 + self.phase) as i64 % 2 == 0;
                stated as f64 * if ahead { 1.0 } else { -1.0 }
            }
            ErrorModel::Sine { period } => stated as f64 * (TAU * (at as f64 / period as f64 + self.phase)).sin(),
            ErrorModel::Uniform => stated as f64 * chance.signed_unit(),
        };
        rounded(error).clamp(-stated, stated)
    }
}

/// What a clock that is off by `error` shows: nanoseconds of its own scale since 1970. It takes its leap second when it
/// thinks that it is time.
pub(crate) fn shows(calendar: &Calendar, at: Nanos, error: Nanos, tai: bool) -> i128 {
    let thinks = at.saturating_add(error);
    if tai {
        calendar.tai(thinks)
    } else {
        calendar.posix(thinks)
    }
}

/// Falsehoods that nobody may believe, however small: for worlds that attack.
pub(crate) fn any_falsehood(chance: &mut Chance) -> Falsehood {
    let size = rounded(chance.log_between(1e3, 5e9)) * chance.sign();
    match chance.index(16) {
        0..=3 => Falsehood::Constant(size),
        4..=6 => Falsehood::Subtle(chance.log_between(1e-3, 3.0)),
        7..=9 => Falsehood::Drift(rounded(chance.log_between(1e-8, 1e-3) * ONE as f64) * chance.sign()),
        10 | 11 => Falsehood::Oscillating {
            amplitude: size,
            period: rounded(chance.log_between(10.0 * SECOND as f64, 6.0 * HOUR as f64)),
        },
        12 => Falsehood::Noise(size),
        13 => Falsehood::Understated(rounded(chance.log_between(2.0, 1e4))),
        14 => Falsehood::Constant(rounded((0.6 + 0.8 * chance.unit()) * SECOND as f64) * chance.sign()),
        _ => Falsehood::FalseLeap(chance.pick([LeapKind::Inserted, LeapKind::Deleted])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{MICRO, MILLI, MINUTE};

    const CALENDAR: Calendar = Calendar { epoch: 1_798_588_800, leap: None };

    fn clock(stated: Stated, error: ErrorModel, episodes: &[Episode]) -> Clock {
        let spec = ClockSpec {
            tai: true,
            stated,
            error,
            estimated: 1,
            synchronized: true,
            announces: 0,
            knows_offset: false,
            turns: None,
        };
        Clock::new(&spec, 0, episodes, Chance::stream(5, "clock", 0))
    }

    #[test]
    fn an_honest_clock_is_within_what_it_states() {
        let stated = [
            Stated::Constant(MILLI),
            Stated::Sawtooth(MILLI),
            Stated::Growth { least: MICRO, by: 10 * PPM },
            Stated::Changing { least: MICRO, most: SECOND, mean: MINUTE },
        ];
        let errors = [
            ErrorModel::Bias { deviation: MILLI, follows: HOUR, limit: 10 * MILLI, noise: MICRO },
            ErrorModel::Extreme(-1.0),
            ErrorModel::Flip { half: MINUTE },
            ErrorModel::Sine { period: HOUR },
            ErrorModel::Uniform,
        ];
        for (stated, error) in stated.into_iter().flat_map(|stated| errors.map(|error| (stated, error))) {
            let mut clock = clock(stated, error, &[]);
            let mut most = 0.0_f64;
            for turn in 0..5_000 {
                let shown = clock.show(turn * 16 * SECOND, &CALENDAR);
                assert!(shown.error.unsigned_abs() <= shown.max_error, "{stated:?} {error:?}: {shown:?}");
                most = most.max(shown.error.unsigned_abs() as f64 / shown.max_error as f64);
            }
            // It is tried to the limit.
            assert!(most > 0.8, "{stated:?} {error:?}: {most}");
        }
    }

    #[test]
    fn a_falseticker_is_one_for_as_long_as_it_should_be() {
        let falsehoods = [
            Falsehood::Constant(-5 * MILLI),
            Falsehood::Subtle(0.001),
            Falsehood::Understated(100),
            Falsehood::FalseLeap(LeapKind::Inserted),
        ];
        for falsehood in falsehoods {
            let episodes = [
                Episode { clock: 1, from: 0, until: 99, falsehood },
                Episode { clock: 0, from: 100, until: 200, falsehood },
            ];
            let mut clock = clock(Stated::Constant(MILLI), ErrorModel::Extreme(1.0), &episodes);
            for (at, expected) in [(0, false), (99, false), (100, true), (199, true), (200, false), (300, false)] {
                let Shown { error, max_error, announces_falsely, .. } = clock.show(at, &CALENDAR);
                let is_false = error.unsigned_abs() > max_error || announces_falsely;
                assert_eq!(is_false, expected, "{falsehood:?} at {at}");
            }
        }
    }
}
