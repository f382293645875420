// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counter value to time and back, with error bounds.
//!
//! With reference counter C₁ and reference time T₁, period P and shift s, the time at counter C is
//! `T₁ + floor((C - C₁) * P / 2^s)` in 2⁻⁶⁴ s. The difference is signed (the nearer direction of the wrapping
//! counter), because a counter may be read on a CPU that lags a little, or from a page refreshed ahead; and true time
//! lies within `time_maxerror + |C - C₁| * period_maxerror` of it, rounded up.

use core::fmt;
use core::num::{NonZeroU32, NonZeroU64};

use crate::abi::{ClockStatus, CounterId, Snapshot, TimeType};
use crate::fixed::{div_rem, mul_shift, mul_shift_ceil, shl_div, widening_mul};
use crate::time::{nanos_ceil, Interval, PageScale, Span, Time};

/// Why a page gives no time. Never a guess: a page that is not certain to give the time gives none.
///
/// ```
/// use vmclock_core::{abi::{ClockStatus, CounterId, Snapshot}, calibration::{Calibration, NoTime}};
/// let no_time = Calibration::from_snapshot(&Snapshot::BLANK, CounterId::X86_TSC).unwrap_err();
/// assert_eq!(no_time, NoTime::Counter { page: CounterId::NONE, cpu: CounterId::X86_TSC });
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoTime {
    /// `size` ends before the fields of the time.
    FieldsOutsideSize {
        /// What the page says.
        size: u32,
    },
    /// The page is about another counter than this CPU's, or about none.
    Counter {
        /// The page's counter.
        page: CounterId,
        /// This CPU's.
        cpu: CounterId,
    },
    /// The status is `unknown`, `initializing` or `unreliable`, or a number without a meaning.
    Status(ClockStatus),
    /// The period is zero.
    PeriodZero,
    /// The shift is 128 or more.
    Shift(u8),
    /// The scale is smeared, which a page may not be, or a number without a meaning.
    TimeType(TimeType),
    /// The time is beyond ±2^63 s of the epoch.
    OutOfRange,
}

impl fmt::Display for NoTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the page gives no time: ")?;
        match *self {
            Self::FieldsOutsideSize { size } => {
                write!(f, "its size, {size} bytes, ends before the time fields; the hypervisor offers events only")
            }
            Self::Counter { page: CounterId::NONE, .. } => {
                f.write_str("it has no counter; the hypervisor offers events only, so far")
            }
            Self::Counter { page, cpu } => {
                write!(f, "it is about counter {page}, this CPU has {cpu}; use a hypervisor built for this machine")
            }
            Self::Status(ClockStatus::INITIALIZING) => {
                f.write_str("the clock's status is initializing; wait until the host has calibrated it")
            }
            Self::Status(status) => {
                write!(f, "the clock's status is {status}; wait, or ask whoever runs the host for a working clock")
            }
            Self::PeriodZero => f.write_str("the counter period is 0; the host has not calibrated it"),
            Self::Shift(shift) => write!(f, "the period's shift is {shift}, which must be below 128"),
            Self::TimeType(kind) => write!(f, "its time type is {kind}; only utc, tai and monotonic are allowed"),
            Self::OutOfRange => f.write_str("its time lies beyond 2^63 seconds; the page is damaged"),
        }
    }
}

impl core::error::Error for NoTime {}

/// A page's relation of counter and time, checked to be meaningful.
///
/// ```
/// use vmclock_core::abi::{ClockStatus, CounterId, Flags, Snapshot};
/// use vmclock_core::calibration::{Calibration, Period};
///
/// let period = Period::from_frequency(2_500_000_000.try_into()?);
/// let page = Snapshot {
///     counter_id: CounterId::X86_TSC,
///     clock_status: ClockStatus::SYNCHRONIZED,
///     flags: Flags::TIME_MAXERROR_VALID.with(Flags::PERIOD_MAXERROR_VALID),
///     counter_value: 1_000,
///     counter_period_frac_sec: period.frac(),
///     counter_period_shift: period.shift(),
///     counter_period_maxerror_rate_frac_sec: period.error_rate(1_000_000),
///     time_sec: 2_000_000_000,
///     time_maxerror_nanosec: 50,
///     ..Snapshot::BLANK
/// };
/// let calibration = Calibration::from_snapshot(&page, CounterId::X86_TSC)?;
/// let a_second_later = 1_000 + 2_500_000_000;
/// assert_eq!(calibration.time_at(a_second_later)?.ceil_nanos(), 2_000_000_001_000_000_000);
/// assert_eq!(calibration.max_error_at(a_second_later), Some(50 + 1_000 + 1)); // 1 ppm of a second; always rounded up
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Calibration {
    counter: u64,
    time: Time<PageScale>,
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
            // In range, as just checked.
            #[allow(clippy::cast_possible_wrap)]
            let time = Time::from_parts(page.time_sec as i64, page.time_frac_sec);
            Ok(Self {
                counter: page.counter_value,
                time,
                period: page.counter_period_frac_sec,
                shift: page.counter_period_shift,
                period_esterror: page.period_esterror(),
                period_maxerror: page.period_maxerror(),
                time_esterror: page.time_esterror(),
                time_maxerror: page.time_maxerror(),
            })
        } else {
            Err(no_time(page, cpu))
        }
    }

    /// The counter at the reference time.
    pub const fn reference_counter(&self) -> u64 {
        self.counter
    }

    /// The reference time, on the page's own scale.
    pub const fn reference_time(&self) -> Time<PageScale> {
        self.time
    }

    /// The time at a counter value, on the page's own scale, rounded down to 2^-64 s.
    #[inline(always)]
    pub fn time_at(&self, counter: u64) -> Result<Time<PageScale>, NoTime> {
        let (ticks, earlier) = self.ticks_to(counter);
        let elapsed = if earlier {
            span_before(ticks, self.period, self.shift)
        } else {
            span_after(ticks, self.period, self.shift)
        };
        self.time.checked_add(elapsed).ok_or(NoTime::OutOfRange)
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

    /// Where true time is at a counter value, on the page's own scale; `None` where no bounds are known.
    pub fn interval_at(&self, counter: u64) -> Result<Option<Interval<PageScale>>, NoTime> {
        let time = self.time_at(counter)?;
        Ok(self.max_error_at(counter).map(|error| Interval::around(time, error)))
    }

    /// The counter value at which this clock shows `time`, rounded down; `None` where that is 2^63 ticks away or more.
    pub fn counter_at(&self, time: Time<PageScale>) -> Option<u64> {
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
        (ticks.unsigned_abs(), ticks < 0)
    }
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

/// Which of the conditions does not hold.
#[cold]
fn no_time(page: &Snapshot, cpu: CounterId) -> NoTime {
    if !page.has_time_fields() {
        NoTime::FieldsOutsideSize { size: page.size }
    } else if page.counter_id != cpu || cpu == CounterId::NONE {
        NoTime::Counter { page: page.counter_id, cpu }
    } else if !page.clock_status.gives_time() {
        NoTime::Status(page.clock_status)
    } else if page.counter_period_frac_sec == 0 {
        NoTime::PeriodZero
    } else if page.counter_period_shift >= 128 {
        NoTime::Shift(page.counter_period_shift)
    } else if !matches!(page.time_type, TimeType::TAI | TimeType::UTC | TimeType::MONOTONIC) {
        NoTime::TimeType(page.time_type)
    } else {
        NoTime::OutOfRange
    }
}

/// Seconds per tick as the page has them: a 64-bit number in 2^-(64 + shift) s.
///
/// The shift is chosen so that the number has all its 64 bits, and with them 63 bits or more of precision.
///
/// ```
/// use std::num::NonZeroU64;
/// use vmclock_core::calibration::Period;
/// let period = Period::from_frequency(NonZeroU64::new(3_000_000_000).unwrap());
/// assert!(period.frac() >> 63 == 1 && period.shift() == 31);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Period {
    frac: u64,
    shift: u8,
}

impl Period {
    /// The period of a counter that ticks `frequency` times a second. Exact to one part in 2^63.
    pub fn from_frequency(frequency: NonZeroU64) -> Self {
        // 2^64 / frequency is between 1 and 2^64: it always has 64 bits at some shift, except for 1 Hz, where it has 65.
        Self::from_ratio(1 << 64, frequency).unwrap_or(Self { frac: u64::MAX, shift: 0 })
    }

    /// The period of a counter that ticked `ticks` times while `span` (in 2^-64 s) went by, rounded down. Exact to one
    /// part in 2^63. `None` where the span is zero, or the period a second or longer, or shorter than 2^-127 s.
    pub fn from_ratio(span: u128, ticks: NonZeroU64) -> Option<Self> {
        if span == 0 {
            return None;
        }
        // With one more bit in the dividend than 64 over the divisor's, the quotient has 64 or 65 bits.
        let more = 64u32.wrapping_sub(ticks.leading_zeros()).wrapping_add(64);
        let have = 128u32.wrapping_sub(span.leading_zeros());
        let shift = u8::try_from(more.checked_sub(have)?).ok()?;
        let quotient = shl_div(span, shift, ticks)?;
        let (frac, shift) = match u64::try_from(quotient) {
            Ok(frac) => (frac, shift),
            Err(_) => (u64::try_from(quotient >> 1).ok()?, shift.checked_sub(1)?),
        };
        (shift < 128).then_some(Self { frac, shift })
    }

    /// From the numbers of a page. `None` where it would be zero, or the shift is 128 or more.
    ///
    /// ```
    /// use vmclock_core::calibration::Period;
    /// assert_eq!(Period::from_parts(1 << 63, 31).map(Period::frac), Some(1 << 63));
    /// assert_eq!(Period::from_parts(0, 31), None);
    /// ```
    pub const fn from_parts(frac: u64, shift: u8) -> Option<Self> {
        if frac == 0 || shift >= 128 {
            return None;
        }
        Some(Self { frac, shift })
    }

    /// The number for `counter_period_frac_sec`.
    pub const fn frac(self) -> u64 {
        self.frac
    }

    /// The number for `counter_period_shift`.
    pub const fn shift(self) -> u8 {
        self.shift
    }

    /// The number for an error rate field: this period times a relative error in parts per 10^12, rounded up.
    pub fn error_rate(self, parts_per_trillion: u64) -> u64 {
        const MILLION: NonZeroU32 = NonZeroU32::new(1_000_000).unwrap();
        let ceil_div = |dividend: u128| {
            let (quotient, remainder) = div_rem(dividend, MILLION);
            quotient.wrapping_add(u128::from(remainder != 0))
        };
        let rate = ceil_div(ceil_div(widening_mul(self.frac, parts_per_trillion)));
        u64::try_from(rate).unwrap_or(u64::MAX)
    }
}
