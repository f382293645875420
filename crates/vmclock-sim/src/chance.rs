// SPDX-License-Identifier: MIT OR Apache-2.0
//! Chance: one named generator, in a stream of its own for each part of a simulation, so that one part can be changed
//! or left out and the others draw the same numbers.

use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Exp1, StandardNormal};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::units::Nanos;

/// What chance is drawn from.
#[derive(Clone, Debug)]
pub(crate) struct Chance(Xoshiro256PlusPlus);

impl Chance {
    /// The stream of this name of a seed.
    pub(crate) fn stream(seed: u64, name: &str, index: usize) -> Self {
        // FNV-1a: any mixing will do, as the generator spreads its seed itself.
        let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        let bytes = name.bytes().chain(index.to_le_bytes()).chain(seed.to_le_bytes());
        Self(Xoshiro256PlusPlus::seed_from_u64(bytes.fold(0xcbf2_9ce4_8422_2325, mix)))
    }

    /// A seed for streams of one's own.
    pub(crate) fn seed(&mut self) -> u64 {
        self.0.random()
    }

    /// True with this probability.
    pub(crate) fn happens(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.unit() < probability
    }

    /// Uniform in [0, 1).
    pub(crate) fn unit(&mut self) -> f64 {
        self.0.random()
    }

    /// Uniform in [-1, 1).
    pub(crate) fn signed_unit(&mut self) -> f64 {
        2.0 * self.unit() - 1.0
    }

    /// 1 or -1.
    pub(crate) fn sign(&mut self) -> i64 {
        if self.happens(0.5) {
            1
        } else {
            -1
        }
    }

    /// Uniform between the two, `low` included.
    pub(crate) fn between(&mut self, low: i64, high: i64) -> i64 {
        if low < high {
            self.0.random_range(low..high)
        } else {
            low
        }
    }

    /// Uniform between the logarithms of the two, which are positive.
    pub(crate) fn log_between(&mut self, low: f64, high: f64) -> f64 {
        low * (high / low).powf(self.unit())
    }

    /// Exponential with this mean.
    pub(crate) fn exponential(&mut self, mean: f64) -> f64 {
        let unit: f64 = Exp1.sample(&mut self.0);
        mean * unit
    }

    /// The next event of a process that has one in `mean` nanoseconds.
    pub(crate) fn wait(&mut self, mean: Nanos) -> Nanos {
        crate::units::rounded(self.exponential(mean as f64)).max(1)
    }

    /// Standard normal.
    pub(crate) fn normal(&mut self) -> f64 {
        StandardNormal.sample(&mut self.0)
    }

    /// An index below `count`, which is not 0.
    pub(crate) fn index(&mut self, count: usize) -> usize {
        self.0.random_range(0..count.max(1))
    }

    /// One of these.
    pub(crate) fn pick<T: Copy, const N: usize>(&mut self, choices: [T; N]) -> T {
        choices[self.index(N)]
    }
}
