// SPDX-License-Identifier: GPL-2.0
//! Products of 128 bits, shifted.

use core::num::NonZeroU32;

//@ fixed.rs: NANOS_PER_SEC, widening_mul, mul_shift, mul_shift_ceil, mul_split
