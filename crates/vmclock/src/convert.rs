// SPDX-License-Identifier: MIT OR Apache-2.0
//! UTC of a reading as other crates' types: features `jiff` and `chrono`.

use core::fmt;

#[cfg(any(feature = "std", feature = "jiff", feature = "chrono"))]
use crate::reading::Reading;

/// Why a reading cannot be converted.
///
/// ```
/// use vmclock::ConversionError;
/// assert!(ConversionError::NoUtc.to_string().contains("TAI-UTC"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ConversionError {
    /// The page gives no UTC.
    NoUtc,
    /// The time is beyond what the other type can hold.
    OutOfRange,
}

impl fmt::Display for ConversionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoUtc => "the page gives no UTC: it is monotonic, or TAI-UTC is unknown to it",
            Self::OutOfRange => "the time is beyond what the other type can hold",
        })
    }
}

impl core::error::Error for ConversionError {}

/// UTC, rounded down to nanoseconds. A leap second is the second before it again.
#[cfg(feature = "std")]
impl TryFrom<&Reading> for std::time::SystemTime {
    type Error = ConversionError;

    fn try_from(reading: &Reading) -> Result<Self, ConversionError> {
        let utc = reading.utc_timestamp().ok_or(ConversionError::NoUtc)?;
        utc.try_into().map_err(|_| ConversionError::OutOfRange)
    }
}

/// UTC, rounded down to nanoseconds. A leap second is the second before it again: jiff has none.
#[cfg(feature = "jiff")]
impl TryFrom<&Reading> for jiff::Timestamp {
    type Error = ConversionError;

    fn try_from(reading: &Reading) -> Result<Self, ConversionError> {
        let utc = reading.utc_timestamp().ok_or(ConversionError::NoUtc)?;
        Self::from_nanosecond(utc.nanos()).map_err(|_| ConversionError::OutOfRange)
    }
}

/// UTC, rounded down to nanoseconds. A leap second is one in chrono too: nanoseconds from 10^9 on.
#[cfg(feature = "chrono")]
impl TryFrom<&Reading> for chrono::DateTime<chrono::Utc> {
    type Error = ConversionError;

    fn try_from(reading: &Reading) -> Result<Self, ConversionError> {
        const SECOND: u32 = 1_000_000_000;
        let utc = reading.utc().ok_or(ConversionError::NoUtc)?;
        let nanos = utc.time.subsec_nanos() + if utc.leap_second { SECOND } else { 0 };
        Self::from_timestamp(utc.time.seconds(), nanos).ok_or(ConversionError::OutOfRange)
    }
}
