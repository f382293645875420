// SPDX-License-Identifier: MIT OR Apache-2.0
//! The page's time beside the system's clocks.

use pyo3::prelude::*;

use crate::reading::{Int, Reading};
use crate::snapshot::Snapshot;

/// The page's time, `CLOCK_REALTIME` and `CLOCK_MONOTONIC_RAW`, taken within a microsecond or two.
#[pyclass(frozen, eq, module = "vmclock")]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct CrossTimestamp(pub(crate) vmclock::CrossTimestamp);

#[pymethods]
impl CrossTimestamp {
    /// The page.
    #[getter]
    fn page(&self) -> Snapshot {
        Snapshot(self.0.page)
    }

    /// The page's time, at the middle of `realtime_counters`.
    #[getter]
    fn reading(&self) -> Reading {
        Reading(self.0.reading)
    }

    /// `CLOCK_REALTIME` in nanoseconds: what the system believes UTC to be.
    #[getter]
    fn realtime_ns(&self) -> Int {
        self.0.realtime.time.floor_nanos().into()
    }

    /// The CPU's counter before and after `CLOCK_REALTIME` was read.
    #[getter]
    fn realtime_counters(&self) -> (u64, u64) {
        (self.0.realtime.before, self.0.realtime.after)
    }

    /// `CLOCK_MONOTONIC_RAW` in nanoseconds: the kernel's own count of the counter, never disciplined.
    #[getter]
    fn monotonic_raw_ns(&self) -> Int {
        self.0.monotonic_raw.time.floor_nanos().into()
    }

    /// The CPU's counter before and after `CLOCK_MONOTONIC_RAW` was read.
    #[getter]
    fn monotonic_raw_counters(&self) -> (u64, u64) {
        (self.0.monotonic_raw.before, self.0.monotonic_raw.after)
    }

    /// Between how many nanoseconds and how many `CLOCK_REALTIME` is ahead of true UTC (negative: behind).
    ///
    /// The page's error bounds and the width of the sample are counted in. `None` where the page gives no UTC or no bounds.
    #[getter]
    fn realtime_ahead_ns(&self) -> Option<(Int, Int)> {
        self.0.realtime_ahead_nanos().map(|(low, high)| (low.into(), high.into()))
    }
}
