// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! Seconds per tick.

use core::num::NonZeroU64;

use crate::fixed::{div_trillion_ceil, shl_div, widening_mul};

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
    pub(super) frac: u64,
    pub(super) shift: u8,
}

impl Period {
    /// The period of a counter that ticks `frequency` times a second. Exact to one part in 2^63.
    pub fn from_frequency(frequency: NonZeroU64) -> Self {
        // 2^64 / frequency is between 1 and 2^64: it always has 64 bits at some shift, except for 1 Hz, where it has
        // 65.
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
    #[inline]
    pub const fn error_rate(self, parts_per_trillion: u64) -> u64 {
        div_trillion_ceil(widening_mul(self.frac, parts_per_trillion))
    }
}
