// SPDX-License-Identifier: MIT OR Apache-2.0
//! The system's `leap-seconds.list`, as published by the IERS and packaged with the time-zone data.

use std::path::{Path, PathBuf};

use vmclock_core::leap::LeapKind;
use vmclock_core::tai::TaiOffset;

/// Where Debian, Fedora and others put it.
pub const SYSTEM_LIST: &str = "/usr/share/zoneinfo/leap-seconds.list";

/// Between 1900-01-01, from which the list counts, and 1970-01-01.
const NTP_TO_UNIX: i64 = 2_208_988_800;

/// Why a list is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// It cannot be read.
    #[error("{}: {error}: install the package tzdata, or state the offset yourself", path.display())]
    Unreadable {
        /// The list.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It is not such a list.
    #[error(
        "line {line} of the leap-second list, {text:?}, is not `<seconds since 1900> <TAI-UTC>`: get a new list, as \
         the package tzdata has it"
    )]
    Malformed {
        /// The line, from 1.
        line: usize,
        /// Its text, up to 80 characters.
        text: String,
    },
    /// It lacks entries, or its expiry.
    #[error("the leap-second list has no {what}: get a complete one, as the package tzdata has it")]
    Incomplete {
        /// What is missing.
        what: &'static str,
    },
    /// It does not know of leap seconds since.
    #[error(
        "the leap-second list expired at {expires} (UTC, seconds since 1970), before {utc}: update the package tzdata"
    )]
    Expired {
        /// When it expired, in UTC seconds since 1970.
        expires: i64,
        /// What was asked for, in UTC seconds since 1970.
        utc: i64,
    },
}

/// A list of leap seconds.
///
/// ```
/// use vmclock_core::leap::LeapKind;
/// use vmclock_host::leap_seconds::LeapSeconds;
///
/// let list = LeapSeconds::parse("#@ 3991593600\n3644697600 36\n3692217600 37 # 1 Jan 2017\n")?;
/// assert_eq!(list.tai_offset(1_500_000_000)?.seconds(), 37);
/// assert_eq!(list.next_after(1_450_000_000), Some((1_483_228_800, LeapKind::Inserted)));
/// assert!(!list.covers(1_800_000_000), "expired");
/// # Ok::<(), vmclock_host::leap_seconds::ListError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeapSeconds {
    /// UTC seconds since 1970 from which an offset holds, and the offset, in that order. Not empty.
    entries: Vec<(i64, TaiOffset)>,
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
            let offset = words.next().and_then(|seconds| TaiOffset::from_seconds(seconds.parse().ok()?));
            let offset = offset.ok_or_else(malformed)?;
            // An entry is one leap second after the last one: whatever else there is in a list is damage.
            let follows = entries.last().is_none_or(|(last, before)| *last < from && kind(*before, offset).is_some());
            if words.next().is_some() || !follows {
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

    /// TAI-UTC at a UTC second since 1970. An error where the list begins later or expires before.
    pub fn tai_offset(&self, utc: i64) -> Result<TaiOffset, ListError> {
        if utc >= self.expires {
            return Err(ListError::Expired { expires: self.expires, utc });
        }
        self.last_offset_at(utc).ok_or(ListError::Incomplete { what: "entry for so early a time" })
    }

    /// Whether the list knows TAI-UTC at a UTC second since 1970: it is not before the first entry, and not expired.
    pub fn covers(&self, utc: i64) -> bool {
        self.tai_offset(utc).is_ok()
    }

    /// From when on the list knows nothing: UTC seconds since 1970.
    pub const fn expires(&self) -> i64 {
        self.expires
    }

    /// The next leap second in the list after a UTC second since 1970: the first second of the month that follows it,
    /// and its kind. Whether there are others after the list's expiry is not known.
    pub fn next_after(&self, utc: i64) -> Option<(i64, LeapKind)> {
        let before = self.last_offset_at(utc)?;
        let (from, offset) = self.entries.iter().find(|(from, _)| *from > utc)?;
        Some((*from, kind(before, *offset)?))
    }

    fn last_offset_at(&self, utc: i64) -> Option<TaiOffset> {
        self.entries.iter().rev().find(|(from, _)| *from <= utc).map(|(_, offset)| *offset)
    }
}

/// The leap second that lies between two offsets, if it is one.
fn kind(before: TaiOffset, after: TaiOffset) -> Option<LeapKind> {
    [LeapKind::Inserted, LeapKind::Deleted].into_iter().find(|leap| before.after(*leap) == Some(after))
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
        let expires = 3_991_593_600 - NTP_TO_UNIX;
        let offset = |utc| list.tai_offset(utc).map(TaiOffset::seconds);
        assert_eq!(offset(1_483_228_799).expect("known"), 36);
        assert_eq!(offset(1_483_228_800).expect("known"), 37);
        assert_eq!(offset(expires - 1).expect("known"), 37);
        assert!(matches!(offset(0), Err(ListError::Incomplete { .. })));
        assert!(matches!(offset(expires), Err(ListError::Expired { .. })));
        assert_eq!(list.expires(), expires);
        assert_eq!([0, 1_483_228_800, expires - 1, expires].map(|utc| list.covers(utc)), [false, true, true, false]);
    }

    #[test]
    fn the_next_leap_second_is_found_with_its_kind() {
        let list = LeapSeconds::parse(&format!("{LIST}3800000000 36\n")).expect("a list");
        assert_eq!(list.next_after(1_483_228_799), Some((1_483_228_800, LeapKind::Inserted)));
        assert_eq!(list.next_after(1_483_228_800), Some((3_800_000_000 - NTP_TO_UNIX, LeapKind::Deleted)));
        assert_eq!(list.next_after(3_800_000_000 - NTP_TO_UNIX), None);
        assert_eq!(list.next_after(0), None, "before the list begins");
    }

    #[test]
    fn broken_lists_are_refused_with_their_line() {
        for (text, line) in [
            ("#@ x\n", 1),
            ("#@ 3991593600\n3692217600\n", 2),
            ("#@ 3991593600\n3692217600 37 9\n", 2),
            ("#@ 3991593600\n3692217600 370\n", 2),
            ("#@ 3991593600\n3692217600 37\n3644697600 36\n", 3),
            ("#@ 3991593600\n3644697600 36\n3692217600 38\n", 3),
            ("#@ 3991593600\n3644697600 36\n3692217600 36\n", 3),
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
