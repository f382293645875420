// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! TAI-UTC and its sign, and what a leap second adds to it.

use core::fmt;

use crate::time::{Tai, Time, Utc};

/// What TAI-UTC can be, in seconds. It was 10 in 1972.
const RANGE: core::ops::RangeInclusive<i16> = 10..=60;

/// TAI-UTC in whole seconds: +37 since 2017.
///
/// The kernel, chrony and linuxptp have it with this sign; the page's field, `tai_offset_sec`, holds its negative.
///
/// ```
/// use vmclock_core::tai::TaiOffset;
/// use vmclock_core::time::{Time, Utc};
///
/// let offset = TaiOffset::from_seconds(37).unwrap();
/// assert_eq!(offset.page_field(), -37);
/// let utc = Time::<Utc>::from_parts(1_800_000_000, 0);
/// assert_eq!(offset.tai(utc).unwrap().seconds(), 1_800_000_037);
/// assert_eq!(TaiOffset::from_page_field(37), Some(offset)); // some producers write the wrong sign
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TaiOffset(i16);

impl TaiOffset {
    /// TAI-UTC of so many seconds; `None` outside 10 to 60 s.
    #[inline]
    pub fn from_seconds(seconds: i16) -> Option<Self> {
        RANGE.contains(&seconds).then_some(Self(seconds))
    }

    /// TAI-UTC in seconds.
    pub const fn seconds(self) -> i16 {
        self.0
    }

    /// From the page's field. Both signs are taken, as UAPI.13 1.0 printed the wrong one and producers exist that
    /// follow it.
    #[inline]
    pub fn from_page_field(field: i16) -> Option<Self> {
        Self::from_seconds(field.checked_abs()?)
    }

    /// The page's field: UTC-TAI, -37 since 2017.
    #[inline]
    pub const fn page_field(self) -> i16 {
        self.0.wrapping_neg()
    }

    /// UTC as TAI. `None` beyond ±2^63 s.
    pub fn tai(self, utc: Time<Utc>) -> Option<Time<Tai>> {
        Some(utc.plus_seconds(self.0.into())?.on())
    }

    /// TAI as UTC. `None` beyond ±2^63 s.
    pub fn utc(self, tai: Time<Tai>) -> Option<Time<Utc>> {
        Some(tai.plus_seconds(self.page_field().into())?.on())
    }

    /// TAI-UTC after a leap second; `None` outside 10 to 60 s.
    pub fn after(self, leap: LeapKind) -> Option<Self> {
        Self::from_seconds(self.0.checked_add(leap.seconds())?)
    }
}

impl fmt::Display for TaiOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:+} s", self.0)
    }
}

/// What happens to UTC at the end of a month.
///
/// ```
/// use vmclock_core::tai::{LeapKind, TaiOffset};
/// assert_eq!(LeapKind::Inserted.to_string(), "inserted");
/// let in_2016 = TaiOffset::from_seconds(36).unwrap();
/// assert_eq!(in_2016.after(LeapKind::Inserted), TaiOffset::from_seconds(37));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LeapKind {
    /// A positive leap second: 23:59:60 comes after 23:59:59.
    Inserted,
    /// A negative leap second: 00:00:00 comes after 23:59:58.
    Deleted,
}

impl LeapKind {
    /// What it adds to TAI-UTC, in seconds: 1 or -1.
    pub const fn seconds(self) -> i16 {
        match self {
            Self::Inserted => 1,
            Self::Deleted => -1,
        }
    }
}

impl fmt::Display for LeapKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Inserted => "inserted",
            Self::Deleted => "deleted",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_may_have_either_sign_and_nothing_else_is_an_offset() {
        for field in i16::MIN..=i16::MAX {
            let offset = TaiOffset::from_page_field(field);
            assert_eq!(offset.is_some(), (10..=60).contains(&field) || (-60..=-10).contains(&field), "{field}");
            if let Some(offset) = offset {
                assert!(offset.page_field() < 0 && offset.seconds() == -offset.page_field(), "{field}: {offset}");
            }
        }
    }

    #[test]
    fn tai_and_utc_are_apart_by_the_offset_in_both_directions() {
        let offset = TaiOffset::from_seconds(37).unwrap();
        let utc = Time::from_parts(1_483_228_800, 5);
        let tai = offset.tai(utc).unwrap();
        assert_eq!((tai.seconds(), tai.frac(), offset.utc(tai)), (1_483_228_837, 5, Some(utc)));
        assert_eq!(offset.tai(Time::from_parts(i64::MAX, 0)), None);
        assert_eq!(offset.utc(Time::from_parts(i64::MIN, 0)), None);
    }

    #[test]
    fn leap_seconds_end_where_offsets_do() {
        let [least, most] = [10, 60].map(|seconds| TaiOffset::from_seconds(seconds).unwrap());
        assert_eq!((least.after(LeapKind::Deleted), most.after(LeapKind::Inserted)), (None, None));
        assert_eq!(least.after(LeapKind::Inserted).and_then(|more| more.after(LeapKind::Deleted)), Some(least));
    }
}
