// SPDX-License-Identifier: MIT OR Apache-2.0
//! The best of many rounds.

/// The lowest cost found so far, in nanoseconds; none before the first round, and where there is nothing to measure.
#[derive(Clone, Copy, Default)]
pub(super) struct Best(Option<f64>);

impl Best {
    pub(super) fn take(&mut self, found: f64) {
        self.0 = Some(self.0.map_or(found, |best| best.min(found)));
    }

    pub(super) fn nanos(self) -> Option<f64> {
        self.0
    }

    /// How many times `unit` this is.
    pub(super) fn per(self, unit: Self) -> Option<f64> {
        Some(self.0? / unit.0?)
    }
}
