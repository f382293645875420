// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
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
#[inline(always)]
pub(crate) const fn mul_shift(a: u64, b: u64, shift: u8) -> u128 {
    let (whole, fraction) = mul_split(a, b, shift);
    whole.wrapping_add((fraction >> 64) as u64 as u128)
}

/// `ceil(a * b / 2^shift)` for a shift below 128.
#[inline(always)]
pub(crate) const fn mul_shift_ceil(a: u64, b: u64, shift: u8) -> u128 {
    let (whole, fraction) = mul_split(a, b, shift);
    // Below 2^128: were the sum to wrap, the exact quotient would have 129 bits.
    whole.wrapping_add(fraction.wrapping_add(u64::MAX as u128) >> 64)
}

/// `a * b / 2^shift` for a shift below 128, as a whole number and one in 2^-64, whose last bit is set too where more
/// follows.
///
/// `b` is shifted, and not the product: for a reading `a` is known last, as it comes from the counter, and what does
/// not depend on it the CPU has computed by then. The branch always goes the same way.
#[inline(always)]
#[allow(clippy::cast_possible_truncation)] // the lower half of what is shifted
const fn mul_split(a: u64, b: u64, shift: u8) -> (u128, u128) {
    let within = shift & 63;
    if shift < 64 {
        (widening_mul(a, b >> within), widening_mul(a, b << 1 << (63 ^ within)))
    } else {
        let product = widening_mul(a, b);
        let is_cut = (product as u64).trailing_zeros() < within as u32;
        (0, product >> within | is_cut as u128)
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

/// `ceil(dividend / 10^12)`, or `u64::MAX` where that has more than 64 bits. By two divisions of 64-bit numbers, which
/// compilers turn into multiplications, as the divisor is a constant.
#[inline]
#[allow(clippy::cast_possible_truncation)] // each cast takes one half
pub(crate) const fn div_trillion_ceil(dividend: u128) -> u64 {
    /// 10^12 is 5^12 * 2^12. This is below 2^28.
    const ODD: u64 = 5u64.pow(12);
    const LOW_BITS: u32 = 28;
    let Some(almost) = dividend.checked_sub(1) else { return 0 };
    let almost = almost >> 12;
    let (low, high) = (almost as u64, (almost >> 64) as u64);
    if high >= ODD {
        return u64::MAX;
    }
    // With a remainder below 2^28 before the 36 bits of `low` that are next, and then before the last 28.
    let step = high << (64 - LOW_BITS) | low >> LOW_BITS;
    let last = (step % ODD) << LOW_BITS | low & ((1 << LOW_BITS) - 1);
    let (first_digits, last_digits) = (step / ODD, last / ODD);
    (first_digits << LOW_BITS | last_digits).saturating_add(1)
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

    const TRILLION: u128 = 1_000_000_000_000;

    proptest! {
        #[test]
        fn div_rem_is_division(dividend: u128, divisor: NonZeroU32) {
            let divisor_wide = u128::from(divisor.get());
            let (quotient, remainder) = div_rem(dividend, divisor);
            prop_assert_eq!(quotient, dividend / divisor_wide);
            prop_assert_eq!(u128::from(remainder), dividend % divisor_wide);
        }

        #[test]
        fn div_trillion_ceil_is_division(
            dividend in prop_oneof![
                any::<u128>(),
                any::<u128>().prop_map(|wide| wide >> 24),
                (any::<u64>(), any::<u64>()).prop_map(|(a, b)| widening_mul(a, b)),
                (any::<u64>().prop_map(u128::from), -2..=2i128)
                    .prop_map(|(quotient, more)| (quotient * TRILLION).wrapping_add_signed(more)),
                // Where 64 bits end.
                (0..4u128, -2..=2i128)
                    .prop_map(|(less, more)| (((1 << 64) + 2 - less) * TRILLION).wrapping_add_signed(more)),
                0..=2 * TRILLION,
            ],
        ) {
            let exact = u64::try_from(dividend.div_ceil(TRILLION)).unwrap_or(u64::MAX);
            prop_assert_eq!(div_trillion_ceil(dividend), exact);
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
        fn mul_shift_rounds_both_ways(
            a in prop_oneof![any::<u64>(), 0..9u64, Just(u64::MAX), any::<u64>().prop_map(|a| a << 40)],
            b in prop_oneof![any::<u64>(), 0..9u64, Just(u64::MAX), any::<u64>().prop_map(|b| b << 40)],
            shift in 0u8..128,
        ) {
            let product = u128::from(a) * u128::from(b);
            let floor = product >> shift;
            prop_assert_eq!(mul_shift(a, b, shift), floor);
            let ceil = floor + u128::from(floor << shift != product);
            prop_assert_eq!(mul_shift_ceil(a, b, shift), ceil);
        }

    }
}
