// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lengths of time from nanoseconds to years, for people.

/// Like `850 ns`, `3.2 ms`, `17.500 s`, `6 h 3 min`, `12 d 4 h`.
pub(crate) fn length(nanos: u128) -> String {
    #[allow(clippy::cast_precision_loss)] // few digits are shown
    let value = nanos as f64;
    let seconds = nanos / 1_000_000_000;
    match seconds {
        _ if nanos < 10_000 => format!("{nanos} ns"),
        _ if nanos < 10_000_000 => format!("{:.1} us", value / 1e3),
        0..=9 => format!("{:.1} ms", value / 1e6),
        10..=119 => format!("{:.3} s", value / 1e9),
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
