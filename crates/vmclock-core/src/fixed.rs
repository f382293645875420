// SPDX-License-Identifier: MIT OR Apache-2.0
//! Wide integers without a 128-bit division, which a kernel has not.

use core::num::{NonZeroU32, NonZeroU64};

/// Nanoseconds in a second.
pub(crate) const NANOS_PER_SEC: NonZeroU32 = NonZeroU32::new(1_000_000_000).unwrap();

/// The whole product.
#[inline]
pub(crate) const fn widening_mul(a: u64, b: u64) -> u128 {
    (a as u128).wrapping_mul(b as u128)
}

/// `floor(a * b / 2^shift)` for a shift below 128.
#[inline]
pub(crate) const fn mul_shift(a: u64, b: u64, shift: u8) -> u128 {
    shift_right(widening_mul(a, b), shift)
}

/// `ceil(a * b / 2^shift)` for a shift below 128 and `a` at most 2^63.
#[inline]
pub(crate) const fn mul_shift_ceil(a: u64, b: u64, shift: u8) -> u128 {
    let ones = u64::MAX >> (63 ^ shift & 63) >> 1;
    let almost_one = if shift < 64 { ones as u128 } else { (ones as u128) << 64 | u64::MAX as u128 };
    // Below 2^127 + 2^127, so the sum does not wrap.
    shift_right(widening_mul(a, b).wrapping_add(almost_one), shift)
}

/// `wide >> shift` for a shift below 128, made of 64-bit shifts: with one branch, which real pages always take the same
/// way, in place of four conditional moves.
#[inline]
#[allow(clippy::cast_possible_truncation)] // halves
const fn shift_right(wide: u128, shift: u8) -> u128 {
    let (low, high) = (wide as u64, (wide >> 64) as u64);
    let within = shift & 63;
    if shift < 64 {
        let carried = high << 1 << (63 ^ within);
        ((high >> within) as u128) << 64 | (carried | low >> within) as u128
    } else {
        (high >> within) as u128
    }
}

/// Quotient and remainder of a division by a 32-bit number, limb by limb.
#[inline]
#[allow(clippy::cast_possible_truncation)] // each cast takes one limb, or a remainder below a 32-bit divisor
pub(crate) fn div_rem(dividend: u128, divisor: NonZeroU32) -> (u128, u32) {
    let divisor = NonZeroU64::from(divisor);
    let mut quotient = 0u128;
    let mut remainder = 0u64;
    for shift in [96u32, 64, 32, 0] {
        let limb = u64::from(dividend.wrapping_shr(shift) as u32);
        let step = remainder << 32 | limb;
        quotient = quotient << 32 | u128::from(step / divisor);
        remainder = step % divisor;
    }
    (quotient, remainder as u32)
}

/// `floor(dividend * 2^shift / divisor)`, bit by bit, or `None` where that has more than 128 bits.
pub(crate) fn shl_div(dividend: u128, shift: u8, divisor: NonZeroU64) -> Option<u128> {
    let divisor = u128::from(divisor.get());
    let shift = u32::from(shift);
    let mut quotient = 0u128;
    let mut remainder = 0u128;
    for bit in (0..u128::BITS.wrapping_add(shift)).rev() {
        if quotient >> 127 != 0 {
            return None;
        }
        let next = bit.checked_sub(shift).map_or(0, |position| dividend.wrapping_shr(position) & 1);
        // The remainder is below a 64-bit divisor: twice that fits.
        remainder = remainder << 1 | next;
        quotient <<= 1;
        if remainder >= divisor {
            remainder = remainder.wrapping_sub(divisor);
            quotient |= 1;
        }
    }
    Some(quotient)
}

#[cfg(test)]
#[allow(clippy::pedantic)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn div_rem_is_division(dividend: u128, divisor: NonZeroU32) {
            let divisor_wide = u128::from(divisor.get());
            let (quotient, remainder) = div_rem(dividend, divisor);
            prop_assert_eq!(quotient, dividend / divisor_wide);
            prop_assert_eq!(u128::from(remainder), dividend % divisor_wide);
        }

        #[test]
        fn shl_div_is_division(dividend: u64, shift in 0u8..64, divisor: NonZeroU64) {
            let exact = (u128::from(dividend) << shift) / u128::from(divisor.get());
            prop_assert_eq!(shl_div(u128::from(dividend), shift, divisor), Some(exact));
        }

        #[test]
        fn shl_div_says_when_it_does_not_fit(dividend in 1u128 << 127.., shift in 65u8..=255, divisor: NonZeroU64) {
            prop_assert_eq!(shl_div(dividend, shift, divisor), None);
        }

        #[test]
        fn mul_shift_rounds_both_ways(a in 0..=1u64 << 63, b: u64, shift in 0u8..128) {
            let product = u128::from(a) * u128::from(b);
            let floor = product >> shift;
            prop_assert_eq!(mul_shift(a, b, shift), floor);
            prop_assert_eq!(mul_shift_ceil(a, b, shift), floor + u128::from(floor << shift != product));
        }
    }
}
