// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! Counter value to time and back, with error bounds.
//!
//! With reference counter C₁ and reference time T₁, period P and shift s, the time at counter C is
//! `T₁ + floor((C - C₁) * P / 2^s)` in 2⁻⁶⁴ s. The difference is signed (the nearer direction of the wrapping
//! counter), because a counter may be read on a CPU that lags a little, or from a page refreshed ahead; and true time
//! lies within `time_maxerror + |C - C₁| * period_maxerror` of it, rounded up.

use core::num::NonZeroU64;

use crate::abi::{CounterId, Snapshot, TimeType, TimeWords};
use crate::fixed::{mul_shift, mul_shift_ceil, shl_div};
use crate::time::{nanos_ceil, Interval, PageScale, Scale, Span, Time};

mod no_time;
mod period;

pub use no_time::NoTime;
pub use period::Period;

/// A relation of counter and time, checked to be meaningful.
///
/// ```
/// use vmclock_core::abi::{ClockStatus, CounterId, Flags, Snapshot};
/// use vmclock_core::calibration::{Calibration, Period};
///
/// let period = Period::from_frequency(2_500_000_000.try_into()?);
/// let page = Snapshot::BLANK.with(|page| {
///     page.counter_id = CounterId::X86_TSC;
///     page.clock_status = ClockStatus::SYNCHRONIZED;
///     page.flags = Flags::TIME_MAXERROR_VALID.with(Flags::PERIOD_MAXERROR_VALID);
///     page.counter_value = 1_000;
///     page.counter_period_frac_sec = period.frac();
///     page.counter_period_shift = period.shift();
///     page.counter_period_maxerror_rate_frac_sec = period.error_rate(1_000_000);
///     page.time_sec = 2_000_000_000;
///     page.time_maxerror_nanosec = 50;
/// });
/// let calibration = Calibration::from_snapshot(&page, CounterId::X86_TSC)?;
/// let a_second_later = 1_000 + 2_500_000_000;
/// assert_eq!(calibration.time_at(a_second_later)?.ceil_nanos(), 2_000_000_001_000_000_000);
/// assert_eq!(calibration.max_error_at(a_second_later), Some(50 + 1_000 + 1)); // 1 ppm of a second; always rounded up
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A reader gets it from a page, on the page's own scale; a writer makes one on TAI, and has it
/// [put on a page](crate::lifecycle::calibrated).
///
/// ```
/// use vmclock_core::calibration::{Calibration, Period};
/// use vmclock_core::time::{Tai, Time};
///
/// let period = Period::from_frequency(2_500_000_000.try_into()?);
/// let calibration = Calibration::<Tai>::new(1_000, Time::from_parts(2_000_000_000, 0), period)
///     .with_max_error(50, 15_000_000)
///     .with_estimated_error(5, 1_000_000);
/// assert_eq!(calibration.max_error_at(1_000 + 2_500_000_000), Some(50 + 15_000 + 1)); // 15 ppm of a second
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Calibration<S: Scale = PageScale> {
    counter: u64,
    time: Time<S>,
    period: u64,
    shift: u8,
    period_esterror: Option<u64>,
    period_maxerror: Option<u64>,
    time_esterror: Option<u64>,
    time_maxerror: Option<u64>,
}

impl Calibration {
    /// The calibration on a validated snapshot, for a CPU whose counter is `cpu`.
    #[inline(always)]
    pub fn from_snapshot(page: &Snapshot, cpu: CounterId) -> Result<Self, NoTime> {
        let known_scale = matches!(page.time_type, TimeType::TAI | TimeType::UTC | TimeType::MONOTONIC);
        let in_range = page.time_sec >> 63 == 0;
        let meaningful = page.counter_period_frac_sec != 0 && page.counter_period_shift < 128;
        let right_counter = page.counter_id == cpu && cpu != CounterId::NONE;
        if page.has_time_fields()
            && page.clock_status.gives_time() & right_counter & known_scale & meaningful & in_range
        {
            Ok(Self {
                period_esterror: page.period_esterror(),
                time_esterror: page.time_esterror(),
                ..Self::of_checked(page)
            })
        } else {
            Err(NoTime::of(page, cpu))
        }
    }

    /// The calibration in the words of a page that gives a time, without estimated errors.
    #[doc(hidden)]
    #[inline(always)]
    pub fn of_time_words(words: TimeWords) -> Self {
        let (time_maxerror, period_maxerror) = words.max_errors().unzip();
        Self { period_maxerror, time_maxerror, ..Self::of_checked(&words.decode()) }
    }

    /// The calibration on a page that gives a time, without estimated errors.
    #[inline(always)]
    fn of_checked(page: &Snapshot) -> Self {
        // In range: that is one of the conditions.
        #[allow(clippy::cast_possible_wrap)]
        let time = Time::from_parts(page.time_sec as i64, page.time_frac_sec);
        Self {
            counter: page.counter_value,
            time,
            period: page.counter_period_frac_sec,
            shift: page.counter_period_shift,
            period_esterror: None,
            period_maxerror: page.period_maxerror(),
            time_esterror: None,
            time_maxerror: page.time_maxerror(),
        }
    }
}

impl<S: Scale> Calibration<S> {
    /// A calibration whose errors are not known: `time` was when the counter was `counter`.
    #[inline]
    pub const fn new(counter: u64, time: Time<S>, period: Period) -> Self {
        Self {
            counter,
            time,
            period: period.frac,
            shift: period.shift,
            period_esterror: None,
            period_maxerror: None,
            time_esterror: None,
            time_maxerror: None,
        }
    }

    /// With maximum errors: of the reference time in ± nanoseconds, and of the period in ± parts per 10^12.
    #[inline]
    #[must_use]
    pub fn with_max_error(self, time: u64, period: u64) -> Self {
        let rate = self.period().error_rate(period);
        Self { time_maxerror: Some(time), period_maxerror: Some(rate), ..self }
    }

    /// With another maximum error of the reference time, in ± nanoseconds.
    #[must_use]
    pub const fn with_time_max_error(self, time: u64) -> Self {
        Self { time_maxerror: Some(time), ..self }
    }

    /// With estimated (one sigma) errors: of the reference time in ± nanoseconds, and of the period in ± parts per
    /// 10^12.
    #[inline]
    #[must_use]
    pub fn with_estimated_error(self, time: u64, period: u64) -> Self {
        let rate = self.period().error_rate(period);
        Self { time_esterror: Some(time), period_esterror: Some(rate), ..self }
    }

    /// With all errors, as a calibration that was saved had them: maximum and estimated error, each of the reference time
    /// in ± nanoseconds, and of the period in the page's unit, 2^-(64 + shift) s per tick.
    #[must_use]
    pub const fn with_errors(self, max: (u64, u64), estimated: (u64, u64)) -> Self {
        Self {
            time_maxerror: Some(max.0),
            period_maxerror: Some(max.1),
            time_esterror: Some(estimated.0),
            period_esterror: Some(estimated.1),
            ..self
        }
    }

    /// The same for a counter that is ahead of this one by `offset`, wrapping: from a host's to its guest's, where the
    /// guest's counter is not scaled.
    #[must_use]
    pub const fn offset_by(self, offset: u64) -> Self {
        Self { counter: self.counter.wrapping_add(offset), ..self }
    }

    /// The same on another scale, where the reference time is this.
    #[inline]
    #[must_use]
    pub const fn with_reference_time<T: Scale>(&self, time: Time<T>) -> Calibration<T> {
        Calibration {
            counter: self.counter,
            time,
            period: self.period,
            shift: self.shift,
            period_esterror: self.period_esterror,
            period_maxerror: self.period_maxerror,
            time_esterror: self.time_esterror,
            time_maxerror: self.time_maxerror,
        }
    }

    /// The same with another counter value at the reference time.
    pub(crate) const fn with_reference_counter(&self, counter: u64) -> Self {
        Self { counter, ..*self }
    }

    /// The same with another period, where the errors of the old one, in its unit, are those of the new one in the new
    /// one's.
    pub(crate) fn with_period(&self, period: Period, error_rate: impl Fn(u64) -> u64) -> Self {
        Self {
            period: period.frac,
            shift: period.shift,
            period_esterror: self.period_esterror.map(&error_rate),
            period_maxerror: self.period_maxerror.map(&error_rate),
            ..*self
        }
    }

    /// The same with larger errors of the reference time, where they are known; in nanoseconds.
    pub(crate) fn with_more_time_error(&self, max: u64, estimated: u64) -> Self {
        Self {
            time_esterror: self.time_esterror.map(|known| known.saturating_add(estimated)),
            time_maxerror: self.time_maxerror.map(|known| known.saturating_add(max)),
            ..*self
        }
    }

    /// How long so many ticks are at most, by period and maximum error of the period where that is known, in
    /// nanoseconds rounded up.
    pub fn nanos_at_most(&self, ticks: u64) -> u64 {
        let at_rate = |rate| mul_shift_ceil(ticks, rate, self.shift);
        let span = at_rate(self.period).saturating_add(at_rate(self.period_maxerror.unwrap_or(0)));
        u64::try_from(nanos_ceil(span)).unwrap_or(u64::MAX)
    }

    /// Seconds per tick.
    pub const fn period(&self) -> Period {
        Period { frac: self.period, shift: self.shift }
    }

    /// Maximum error of the reference time, in ± nanoseconds.
    pub const fn time_max_error(&self) -> Option<u64> {
        self.time_maxerror
    }

    /// Estimated error of the reference time, in ± nanoseconds.
    pub const fn time_estimated_error(&self) -> Option<u64> {
        self.time_esterror
    }

    /// Maximum error of the period, in the page's unit: 2^-(64 + shift) s per tick.
    pub const fn period_max_error_rate(&self) -> Option<u64> {
        self.period_maxerror
    }

    /// Estimated error of the period, in the page's unit: 2^-(64 + shift) s per tick.
    pub const fn period_estimated_error_rate(&self) -> Option<u64> {
        self.period_esterror
    }

    /// The counter at the reference time.
    pub const fn reference_counter(&self) -> u64 {
        self.counter
    }

    /// The reference time.
    pub const fn reference_time(&self) -> Time<S> {
        self.time
    }

    /// The time at a counter value, rounded down to 2^-64 s.
    #[inline(always)]
    pub fn time_at(&self, counter: u64) -> Result<Time<S>, NoTime> {
        self.time.checked_add(self.elapsed_at(counter)).ok_or(NoTime::OutOfRange)
    }

    /// The same for a counter value at which it is known to be in range.
    #[doc(hidden)]
    #[inline(always)]
    pub fn time_in_range_at(&self, counter: u64) -> Time<S> {
        Time::from_raw(self.time.raw().wrapping_add(self.elapsed_at(counter).raw()))
    }

    #[inline(always)]
    fn elapsed_at(&self, counter: u64) -> Span {
        let (ticks, earlier) = self.ticks_to(counter);
        if earlier {
            span_before(ticks, self.period, self.shift)
        } else {
            span_after(ticks, self.period, self.shift)
        }
    }

    /// The maximum error of [`time_at`](Self::time_at) in ± nanoseconds, rounded up; `None` where the page has no
    /// maximum error of both time and period.
    #[inline(always)]
    pub fn max_error_at(&self, counter: u64) -> Option<u128> {
        Some(self.error_at(counter, self.time_maxerror?, self.period_maxerror?))
    }

    /// The estimated (one sigma) error of [`time_at`](Self::time_at) in ± nanoseconds, rounded up; `None` where the
    /// page has no estimated error of both time and period.
    #[inline]
    pub fn estimated_error_at(&self, counter: u64) -> Option<u128> {
        Some(self.error_at(counter, self.time_esterror?, self.period_esterror?))
    }

    /// [earliest, latest] at a counter value; `None` where no bounds are known.
    pub fn interval_at(&self, counter: u64) -> Result<Option<Interval<S>>, NoTime> {
        let time = self.time_at(counter)?;
        Ok(self.max_error_at(counter).map(|error| Interval::around(time, error)))
    }

    /// The counter value at which this clock shows `time`, rounded down; `None` where that is 2^63 ticks away or more.
    pub fn counter_at(&self, time: Time<S>) -> Option<u64> {
        let span = time.since(self.time)?;
        let period = NonZeroU64::new(self.period)?;
        let ticks = i64::try_from(shl_div(span.raw().unsigned_abs(), self.shift, period)?).ok()?;
        let ticks = if span.raw() < 0 {
            let exact = self.time_at(self.counter.wrapping_add_signed(ticks.checked_neg()?)).ok()? <= time;
            ticks.checked_neg()?.checked_sub(i64::from(!exact))?
        } else {
            ticks
        };
        Some(self.counter.wrapping_add_signed(ticks))
    }

    #[inline(always)]
    fn error_at(&self, counter: u64, time_error: u64, period_error: u64) -> u128 {
        let (ticks, _) = self.ticks_to(counter);
        nanos_ceil(mul_shift_ceil(ticks, period_error, self.shift)).wrapping_add(u128::from(time_error))
    }

    /// How many ticks there are between the reference and `counter`, and whether `counter` is the earlier.
    #[inline]
    fn ticks_to(&self, counter: u64) -> (u64, bool) {
        #[allow(clippy::cast_possible_wrap)] // the nearer direction of a wrapping counter
        let ticks = counter.wrapping_sub(self.counter) as i64;
        if ticks < 0 {
            (negated(ticks), true)
        } else {
            (ticks.unsigned_abs(), false)
        }
    }
}

/// A function of its own, so that it is a branch that is hardly ever taken, not a longer way from the counter to all
/// else.
#[cold]
#[inline(never)]
const fn negated(ticks: i64) -> u64 {
    ticks.unsigned_abs()
}

/// `ticks` is at most 2^63, so the product has at most 127 bits and the cast keeps its value.
#[inline]
#[allow(clippy::cast_possible_wrap)]
const fn span_after(ticks: u64, period: u64, shift: u8) -> Span {
    Span::from_raw(mul_shift(ticks, period, shift) as i128)
}

/// The same for a counter before the reference, which is rare. Rounded down too: away from zero.
#[cold]
#[allow(clippy::cast_possible_wrap)]
const fn span_before(ticks: u64, period: u64, shift: u8) -> Span {
    Span::from_raw((mul_shift_ceil(ticks, period, shift) as i128).wrapping_neg())
}
