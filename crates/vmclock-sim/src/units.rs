// SPDX-License-Identifier: MIT OR Apache-2.0
//! Units: true time in whole nanoseconds since a simulation began, frequencies in parts per 10^12.

/// Nanoseconds of true time: an instant since the simulation began, or a length.
pub(crate) type Nanos = i64;

pub(crate) const MICRO: Nanos = 1_000;
pub(crate) const MILLI: Nanos = 1_000_000;
pub(crate) const SECOND: Nanos = 1_000_000_000;
pub(crate) const MINUTE: Nanos = 60 * SECOND;
pub(crate) const HOUR: Nanos = 60 * MINUTE;
pub(crate) const DAY: Nanos = 24 * HOUR;

/// One part per million, in parts per 10^12.
pub(crate) const PPM: i64 = 1_000_000;
/// One, in parts per 10^12.
pub(crate) const ONE: i64 = 1_000_000_000_000;

/// The nearest whole number.
pub(crate) fn rounded(value: f64) -> i64 {
    value.round() as i64
}

/// A part of a length of time, in parts per 10^12, rounded towards zero.
pub(crate) fn part_of(length: Nanos, parts: i64) -> Nanos {
    (i128::from(length) * i128::from(parts) / i128::from(ONE)) as Nanos
}
