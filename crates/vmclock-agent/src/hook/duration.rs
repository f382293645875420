// SPDX-License-Identifier: MIT OR Apache-2.0
//! A length of time as people write it.

use std::time::Duration;

const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// `500ms`, `30s`, `1.5min`, `2h`: more than nothing, at most 24 h.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
    let seconds = match unit {
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{text:?} has no unit that is known: write it like 500ms, 30s, 2min or 1h")),
    };
    let number: f64 = number.parse().map_err(|_| format!("{text:?} is no duration: write it like 500ms, 30s, 2min"))?;
    Duration::try_from_secs_f64(number * seconds)
        .ok()
        .filter(|duration| !duration.is_zero() && *duration <= LONGEST)
        .ok_or_else(|| format!("{text:?} is out of range: it has to be more than 0 and at most 24h"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse("1.5min"), Ok(Duration::from_secs(90)));
        assert_eq!(parse("24h"), Ok(LONGEST));
    }

    #[test]
    fn what_is_none() {
        for wrong in ["", "5", "s", "-1s", "1 s", "0s", "25h", "1e400s", "nans", "5d", "５s"] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
