// SPDX-License-Identifier: MIT OR Apache-2.0
//! Durations as people write them.

use std::fmt;
use std::time::Duration;

use serde::de::{Error, Visitor};
use serde::Deserializer;

/// What the units are called, and how many nanoseconds they have.
const UNITS: [(&str, u64); 7] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("min", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

/// `10ms`, `1.5 s`, `2min`, `366d`: a number that is not negative, and a unit.
///
/// ```
/// use std::time::Duration;
/// use vmclock_agent::duration::parse;
/// assert_eq!(parse("1.5s"), Ok(Duration::from_millis(1_500)));
/// assert!(parse("10").unwrap_err().contains("ms"));
/// ```
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration: write a number and a unit, as 10ms, 1.5s, 2min, 1h, 366d");
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(wrong)?);
    let (_, nanos) = UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    let number = number.trim_end();
    if !number.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: f64 = number.parse().map_err(|_| wrong())?;
    #[allow(clippy::cast_precision_loss)] // exact: each is below 2^53
    Duration::try_from_secs_f64(number * (nanos as f64) / 1e9).map_err(|_| wrong())
}

/// For `#[serde(deserialize_with)]`.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    struct Text;
    impl Visitor<'_> for Text {
        type Value = Duration;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a duration in quotes, as \"10ms\"")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
            parse(text).map_err(E::custom)
        }
    }
    deserializer.deserialize_str(Text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_what_they_say() {
        for (text, nanos) in [
            ("0s", 0),
            ("7ns", 7),
            ("20us", 20_000),
            ("10ms", 10_000_000),
            ("0.25 s", 250_000_000),
            ("2min", 120_000_000_000),
            ("1h", 3_600_000_000_000),
            ("366d", 366 * 86_400_000_000_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_named() {
        for text in ["", "10", "s", "-1s", "1 year", "1e400d", "nans", "infs", "1s2", "١s", "1 s s"] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }
}
