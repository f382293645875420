// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long a hook may take.

use std::time::Duration;

const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// `500ms`, `30s`, `1.5min`, `2h`: more than nothing, at most 24 h.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let duration = crate::duration::parse(text)?;
    if duration.is_zero() || duration > LONGEST {
        return Err(format!("{text:?} is out of range: it has to be more than 0 and at most 24h"));
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_hook_may_take() {
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("24h"), Ok(LONGEST));
        for wrong in ["", "5", "-1s", "0s", "25h"] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
