// SPDX-License-Identifier: MIT OR Apache-2.0
//! A line of time over the counter, to which all that an estimator knows is relative: so the numbers stay small, and
//! floating-point ones exact to far below a nanosecond.

use serde::{Deserialize, Serialize};
use vmclock_core::calibration::Period;
use vmclock_core::time::{Span, Tai, Time};

use super::ticks_between;

/// Nanoseconds in 2^-64 s.
pub(super) const NANOS_PER_RAW: f64 = 1e9 / 18_446_744_073_709_551_616.0;

/// A line of time over the counter.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(from = "Saved", into = "Saved")]
pub(super) struct Base {
    counter: u64,
    time: Time<Tai>,
    period: Period,
    nanos_per_tick: f64,
}

/// All that a base is made from.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Saved {
    counter: u64,
    #[serde(with = "crate::plain")]
    time: Time<Tai>,
    #[serde(with = "crate::plain")]
    period: Period,
}

impl From<Saved> for Base {
    fn from(saved: Saved) -> Self {
        Self::at(saved.counter, saved.time, saved.period)
    }
}

impl From<Base> for Saved {
    fn from(Base { counter, time, period, .. }: Base) -> Self {
        Self { counter, time, period }
    }
}

impl Base {
    pub(super) fn at(counter: u64, time: Time<Tai>, period: Period) -> Self {
        let nanos_per_tick = period.frac() as f64 * NANOS_PER_RAW / 2_f64.powi(period.shift().into());
        Self { counter, time, period, nanos_per_tick }
    }

    pub(super) const fn period(&self) -> Period {
        self.period
    }

    pub(super) const fn nanos_per_tick(&self) -> f64 {
        self.nanos_per_tick
    }

    /// The time from one counter value to another, in nanoseconds of the line.
    pub(super) fn elapsed(&self, from: u64, to: u64) -> f64 {
        ticks_between(from, to) as f64 * self.nanos_per_tick
    }

    /// How far a time at a counter value is ahead of the line, in nanoseconds.
    pub(super) fn ahead(&self, counter: u64, time: Time<Tai>) -> f64 {
        let span = time.raw().wrapping_sub(self.time.raw());
        span as f64 * NANOS_PER_RAW - self.elapsed(self.counter, counter)
    }

    /// The time so many nanoseconds ahead of the line at a counter value. `None` beyond ±2^63 s.
    pub(super) fn time_at(&self, counter: u64, ahead: f64) -> Option<Time<Tai>> {
        let span = (self.elapsed(self.counter, counter) + ahead) / NANOS_PER_RAW;
        self.time.checked_add(Span::from_raw(span as i128))
    }
}

/// A period times one plus a small number, with all the period's bits.
pub(super) fn scaled(period: Period, by: f64) -> Option<Period> {
    let frac = i128::from(period.frac());
    let wanted = frac + (frac as f64 * by) as i128;
    let wanted = u128::try_from(wanted).ok().filter(|wanted| *wanted != 0)?;
    // 64 bits of it, again.
    let surplus = 64 - i32::try_from(wanted.leading_zeros()).ok()?;
    let shift = i32::from(period.shift()) - surplus;
    let frac = if surplus >= 0 { wanted >> surplus } else { wanted << -surplus };
    Period::from_parts(u64::try_from(frac).ok()?, u8::try_from(shift).ok()?)
}
