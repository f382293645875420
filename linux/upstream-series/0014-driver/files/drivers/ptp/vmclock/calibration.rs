// SPDX-License-Identifier: GPL-2.0
//! Counter value to time.
//!
//! With reference counter C1 and reference time T1, period P and shift s, the time at counter C is
//! `T1 + floor((C - C1) * P / 2^s)` in 2^-64 s. The difference is signed (the nearer direction of
//! the wrapping counter), because a counter may be read on a CPU that lags a little, or from a page
//! refreshed ahead.

use crate::{
    abi::{
        CounterId,
        Snapshot,
        TimeType, //
    },
    fixed::{
        mul_shift,
        mul_shift_ceil, //
    },
    time::{
        PageScale,
        Scale,
        Span,
        Time, //
    }, //
};

/// The page gives no time.
#[derive(Debug)]
pub(crate) struct NoTime;

/// A relation of counter and time, checked to be meaningful.
pub(crate) struct Calibration<S: Scale = PageScale> {
    counter: u64,
    time: Time<S>,
    period: u64,
    shift: u8,
}

impl Calibration {
    /// The calibration on a validated snapshot, for a CPU whose counter is `cpu`.
    #[inline]
    pub(crate) fn from_snapshot(page: &Snapshot, cpu: CounterId) -> Result<Self, NoTime> {
        let known_scale = matches!(
            page.time_type,
            TimeType::TAI | TimeType::UTC | TimeType::MONOTONIC
        );
        // A shift of 128 or more means nothing, and is not one that a CPU can do.
        let meaningful = page.counter_period_frac_sec != 0 && page.counter_period_shift < 128;
        let right_counter = page.counter_id == cpu && cpu != CounterId::NONE;
        if !page.has_time_fields()
            || !page.clock_status.gives_time()
            || !right_counter
            || !known_scale
            || !meaningful
        {
            return Err(NoTime);
        }
        let seconds = i64::try_from(page.time_sec).map_err(|_| NoTime)?;
        Ok(Self {
            counter: page.counter_value,
            time: Time::from_parts(seconds, page.time_frac_sec),
            period: page.counter_period_frac_sec,
            shift: page.counter_period_shift,
        })
    }
}

//@ calibration/mod.rs: Calibration::time_at, Calibration::elapsed_at, Calibration::ticks_to, negated, span_after, span_before
