// SPDX-License-Identifier: MIT OR Apache-2.0
//! The best of many rounds.

/// The lowest cost found so far, in nanoseconds; none before the first round, and where there is nothing to measure.
#[derive(Clone, Copy, PartialEq, Default)]
pub(super) struct Best(Option<f64>);

impl Best {
    pub(super) fn take(&mut self, found: f64) {
        self.0 = Some(self.0.map_or(found, |best| best.min(found)));
    }

    /// The lower of two; of what there is, where one was not measured.
    pub(super) fn min(self, other: Self) -> Self {
        other.0.map_or(self, |cost| {
            let mut least = self;
            least.take(cost);
            least
        })
    }

    pub(super) fn nanos(self) -> Option<f64> {
        self.0
    }

    /// How many times `unit` this is.
    pub(super) fn per(self, unit: Self) -> Option<f64> {
        Some(self.0? / unit.0?)
    }
}
