// SPDX-License-Identifier: MIT OR Apache-2.0
//! The system's `leap-seconds.list`, as published by the IERS and packaged with the time-zone data.

use std::path::{Path, PathBuf};

/// Where Debian, Fedora and others put it.
pub const SYSTEM_LIST: &str = "/usr/share/zoneinfo/leap-seconds.list";

/// Between 1900-01-01, from which the list counts, and 1970-01-01.
const NTP_TO_UNIX: i64 = 2_208_988_800;

/// Why a list is of no use.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// It cannot be read.
    #[error("{}: {error}: install the package tzdata, or state the offset yourself", path.display())]
    Unreadable {
        /// The list.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It is no such list.
    #[error("line {line} of the leap-second list, {text:?}, is not `<seconds since 1900> <TAI - UTC>`")]
    Malformed {
        /// The line, from 1.
        line: usize,
        /// What it says.
        text: String,
    },
    /// It lacks entries, or its expiry.
    #[error("the leap-second list has no {what}: it is not complete")]
    Incomplete {
        /// What is missing.
        what: &'static str,
    },
    /// Nothing is known any more about leap seconds since.
    #[error(
        "the leap-second list expired at {expires} (UTC, seconds since 1970), before {now}: update the package tzdata"
    )]
    Expired {
        /// When it expired.
        expires: i64,
        /// What was asked about.
        now: i64,
    },
}

/// A list of leap seconds.
///
/// ```
/// use vmclock_host::leap_seconds::LeapSeconds;
/// let list = LeapSeconds::parse("#@ 3991593600\n3644697600 36\n3692217600 37 # 1 Jan 2017\n")?;
/// assert_eq!(list.tai_minus_utc(1_500_000_000)?, 37);
/// assert!(list.tai_minus_utc(1_800_000_000).is_err(), "expired");
/// # Ok::<(), vmclock_host::leap_seconds::ListError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeapSeconds {
    /// UTC seconds since 1970 from which an offset holds, and the offset, in that order.
    entries: Vec<(i64, i16)>,
    expires: i64,
}

impl LeapSeconds {
    /// Reads a list from a file.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, ListError> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|error| ListError::Unreadable { path: path.into(), error })?;
        Self::parse(&text)
    }

    /// Reads a list.
    pub fn parse(text: &str) -> Result<Self, ListError> {
        let mut entries = Vec::new();
        let mut expires = None;
        for (index, line) in text.lines().enumerate() {
            let malformed = || ListError::Malformed { line: index + 1, text: line.chars().take(80).collect() };
            if let Some(expiry) = line.strip_prefix("#@") {
                expires = Some(unix(expiry.trim()).ok_or_else(malformed)?);
                continue;
            }
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let Some(from) = words.next() else { continue };
            let from = unix(from).ok_or_else(malformed)?;
            let offset = words.next().and_then(|offset| offset.parse().ok()).ok_or_else(malformed)?;
            let in_order = entries.last().is_none_or(|(last, _)| *last < from);
            if words.next().is_some() || !in_order || !(10..=60).contains(&offset) {
                return Err(malformed());
            }
            entries.push((from, offset));
        }
        let expires = expires.ok_or(ListError::Incomplete { what: "expiry (a line `#@ <seconds since 1900>`)" })?;
        if entries.is_empty() {
            return Err(ListError::Incomplete { what: "entries" });
        }
        Ok(Self { entries, expires })
    }

    /// TAI - UTC at a UTC second since 1970.
    pub fn tai_minus_utc(&self, utc: i64) -> Result<i16, ListError> {
        if utc >= self.expires {
            return Err(ListError::Expired { expires: self.expires, now: utc });
        }
        let entry = self.entries.iter().rev().find(|(from, _)| *from <= utc);
        entry.map(|(_, offset)| *offset).ok_or(ListError::Incomplete { what: "entry for so early a time" })
    }

    /// The last offset in the list, expired or not.
    pub fn last_known(&self) -> i16 {
        // `parse` lets no empty list through.
        self.entries.last().map_or(0, |(_, offset)| *offset)
    }

    /// The next leap second after a UTC second: when the new offset begins, and whether a second is inserted.
    pub fn next_after(&self, utc: i64) -> Option<(i64, bool)> {
        let before = self.entries.iter().rev().find(|(from, _)| *from <= utc)?.1;
        let (from, offset) = self.entries.iter().find(|(from, _)| *from > utc)?;
        Some((*from, *offset > before))
    }
}

fn unix(seconds_since_1900: &str) -> Option<i64> {
    seconds_since_1900.parse::<i64>().ok()?.checked_sub(NTP_TO_UNIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "#$ 1\n#@\t3991593600\n3644697600\t36\t# 1 Jul 2015\n3692217600\t37\t# 1 Jan 2017\n\n#h 1 2 3\n";

    #[test]
    fn offsets_change_with_the_second() {
        let list = LeapSeconds::parse(LIST).expect("a list");
        assert_eq!(list.tai_minus_utc(1_483_228_799).expect("known"), 36);
        assert_eq!(list.tai_minus_utc(1_483_228_800).expect("known"), 37);
        assert_eq!(list.next_after(1_483_228_799), Some((1_483_228_800, true)));
        assert_eq!(list.next_after(1_483_228_800), None);
        assert!(matches!(list.tai_minus_utc(0), Err(ListError::Incomplete { .. })));
        assert!(matches!(list.tai_minus_utc(3_991_593_600 - NTP_TO_UNIX), Err(ListError::Expired { .. })));
        assert_eq!(list.last_known(), 37);
    }

    #[test]
    fn broken_lists_are_refused_with_their_line() {
        for (text, line) in [
            ("#@ x\n", 1),
            ("#@ 3991593600\n3692217600\n", 2),
            ("#@ 3991593600\n3692217600 37 9\n", 2),
            ("#@ 3991593600\n3692217600 370\n", 2),
            ("#@ 3991593600\n3692217600 37\n3644697600 36\n", 3),
        ] {
            match LeapSeconds::parse(text) {
                Err(ListError::Malformed { line: found, .. }) => assert_eq!(found, line, "{text:?}"),
                other => panic!("{text:?}: {other:?}"),
            }
        }
        assert!(matches!(LeapSeconds::parse("3692217600 37\n"), Err(ListError::Incomplete { .. })));
        assert!(matches!(LeapSeconds::parse("#@ 3991593600\n"), Err(ListError::Incomplete { .. })));
        assert!(matches!(LeapSeconds::read("/nonexistent"), Err(ListError::Unreadable { .. })));
    }
}
