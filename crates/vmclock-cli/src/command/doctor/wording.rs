// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lengths of time from nanoseconds to years, for people.

use crate::output::error;

/// Like `850 ns`, `3.2 ms`, `17.500 s`, `6 h 3 min`, `12 d 4 h`.
pub(super) fn length(nanos: u128) -> String {
    let seconds = nanos / 1_000_000_000;
    match seconds {
        0..=119 => error(nanos).trim_start_matches("± ").to_owned(),
        120..=7_199 => format!("{} min {} s", seconds / 60, seconds % 60),
        7_200..=172_799 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_the_unit_that_suits_them() {
        let second = 1_000_000_000;
        assert_eq!(length(850), "850 ns");
        assert_eq!(length(37 * second), "37.000 s");
        assert_eq!(length(125 * second), "2 min 5 s");
        assert_eq!(length(3 * 3_600 * second), "3 h 0 min");
        assert_eq!(length(300_000 * second), "3 d 11 h");
    }
}
