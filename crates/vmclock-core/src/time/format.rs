// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! Instants as text: RFC 3339, and seconds where a scale has no calendar.

use core::fmt;

use super::scale::Notation;
use super::{Scale, Time, Timestamp};
use crate::leap::{date, UtcTime};

/// Digits of a nanosecond.
const NANO_DIGITS: usize = 9;

/// UTC as in RFC 3339, `2016-12-31T23:59:59.500000000Z`. TAI and smeared UTC have their name in place of the `Z`, and a
/// scale without a calendar is in seconds. A precision (`{:.3}`) limits the digits of the fraction; what is cut off is
/// cut off, as in any time of day.
///
/// A leap second shows as the second before it, whose number it has: [`UtcTime`] can tell.
///
/// ```
/// use vmclock_core::time::{Monotonic, Tai, Time, Timestamp, Utc};
/// let utc = Timestamp::<Utc>::from_nanos(1_483_228_799_999_999_999);
/// assert_eq!(utc.to_string(), "2016-12-31T23:59:59.999999999Z");
/// assert_eq!(format!("{utc:.3}"), "2016-12-31T23:59:59.999Z");
/// assert_eq!(format!("{:.0}", Time::<Tai>::from_parts(0, 0)), "1970-01-01T00:00:00 TAI");
/// assert_eq!(Timestamp::<Monotonic>::from_nanos(-1_500_000_000).to_string(), "-1.500000000 s monotonic");
/// ```
impl<S: Scale> fmt::Display for Timestamp<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match S::NOTATION {
            Notation::Civil(suffix) => {
                civil(f, self.seconds(), self.subsec_nanos(), false)?;
                f.write_str(suffix)
            }
            Notation::Seconds => {
                let magnitude = Timestamp::<S>::from_nanos(self.nanos().saturating_abs());
                f.write_str(if self.nanos() < 0 { "-" } else { "" })?;
                write!(f, "{}", magnitude.seconds())?;
                fraction(f, magnitude.subsec_nanos())?;
                write!(f, " s {}", S::NAME)
            }
        }
    }
}

/// As [`Timestamp`], rounded down to nanoseconds.
impl<S: Scale> fmt::Display for Time<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.timestamp().fmt(f)
    }
}

/// RFC 3339, rounded down to nanoseconds, or to what a precision (`{:.3}`) says. A leap second is `23:59:60`.
///
/// ```
/// use vmclock_core::{leap::UtcTime, time::Time};
/// let time = Time::from_parts(1_483_228_799, 1 << 63);
/// assert_eq!(UtcTime { time, leap_second: true }.to_string(), "2016-12-31T23:59:60.500000000Z");
/// ```
impl fmt::Display for UtcTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        civil(f, self.time.seconds(), self.time.subsec_nanos(), self.leap_second)?;
        f.write_str("Z")
    }
}

/// Date and time of day. RFC 3339 knows the years 0 to 9999; others have a sign, as in ISO 8601.
fn civil(f: &mut fmt::Formatter<'_>, seconds: i64, nanos: u32, leap_second: bool) -> fmt::Result {
    let (year, month, day) = date(seconds);
    match year {
        0..=9999 => write!(f, "{year:04}")?,
        _ => write!(f, "{year:+05}")?,
    }
    let of_day = seconds.rem_euclid(86_400);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    let second = second.wrapping_add(i64::from(leap_second));
    write!(f, "-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
    fraction(f, nanos)
}

/// Nanoseconds of the second, with their point, cut to the formatter's precision.
fn fraction(f: &mut fmt::Formatter<'_>, nanos: u32) -> fmt::Result {
    let digits = f.precision().unwrap_or(NANO_DIGITS).min(NANO_DIGITS);
    if digits == 0 {
        return Ok(());
    }
    let cut = (digits..NANO_DIGITS).fold(nanos, |left, _| left / 10);
    write!(f, ".{cut:0digits$}")
}

#[cfg(test)]
#[allow(clippy::pedantic)]
mod tests {
    extern crate std;

    use hifitime::{Epoch, TimeScale, Unit};
    use proptest::prelude::*;
    use std::format;
    use std::string::ToString;

    use super::*;
    use crate::time::{PageScale, Tai, Utc};

    proptest! {
        #[test]
        fn civil_time_is_as_hifitime_has_it(seconds in -60_000_000_000i64..250_000_000_000, nanos in 0..1_000_000_000u32) {
            // TAI has no leap seconds, as POSIX has none: the same calendar.
            let oracle = Epoch::from_gregorian_tai_at_midnight(1970, 1, 1)
                + Unit::Second * seconds + Unit::Nanosecond * i64::from(nanos);
            let (year, month, day, hour, minute, second, nano) = oracle.to_gregorian(TimeScale::TAI);
            let expected = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nano:09}Z");
            let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
            prop_assume!((0..=9999).contains(&year));
            let stamp = Timestamp::<Utc>::from_nanos(total);
            prop_assert_eq!(stamp.to_string(), &*expected);
            prop_assert_eq!(Time::<Utc>::from_nanos(total).unwrap().to_string(), expected);
        }

        #[test]
        fn a_precision_cuts_the_fraction(nanos: i64, digits in 0..12usize) {
            let stamp = Timestamp::<Utc>::from_nanos(nanos.into());
            let whole = stamp.to_string();
            let point = whole.find('.').unwrap();
            let kept = if digits == 0 { point } else { (point + 1 + digits).min(whole.len() - 1) };
            prop_assert_eq!(format!("{stamp:.digits$}"), format!("{}Z", &whole[..kept]));
        }

        #[test]
        fn seconds_are_exact(nanos: i64) {
            let (text, magnitude) = (Timestamp::<PageScale>::from_nanos(nanos.into()).to_string(), nanos.unsigned_abs());
            let sign = if nanos < 0 { "-" } else { "" };
            prop_assert_eq!(text, format!("{sign}{}.{:09} s page", magnitude / 1_000_000_000, magnitude % 1_000_000_000));
        }

        #[test]
        fn nothing_panics(raw: i128, leap_second: bool) {
            let _ = (Time::<Tai>::from_raw(raw).to_string(), UtcTime { time: Time::from_raw(raw), leap_second }.to_string());
        }
    }

    #[test]
    fn years_beyond_four_digits_have_a_sign() {
        let year = |seconds: i128| format!("{:.0}", Timestamp::<Utc>::from_nanos(seconds * 1_000_000_000));
        assert_eq!(year(253_402_300_800), "+10000-01-01T00:00:00Z");
        assert_eq!(year(-62_167_219_201), "-0001-12-31T23:59:59Z");
        assert_eq!(year(-62_167_219_200), "0000-01-01T00:00:00Z");
    }
}
