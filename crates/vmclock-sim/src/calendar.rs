// SPDX-License-Identifier: MIT OR Apache-2.0
//! TAI and UTC as they truly are in a simulated world, with at most one leap second.

use vmclock_core::leap::{LeapKind, UtcTime};
use vmclock_core::time::Time;

use crate::units::{Nanos, SECOND};

/// TAI-UTC at the beginning, in seconds.
pub(crate) const OFFSET: i64 = 37;

/// A leap second at the end of a month.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Leap {
    /// The first of the next month, 00:00:00, in UTC seconds since 1970.
    pub(crate) month: i64,
    pub(crate) kind: LeapKind,
}

/// When it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Calendar {
    /// TAI seconds since 1970 when the simulation begins.
    pub(crate) epoch: i64,
    pub(crate) leap: Option<Leap>,
}

impl Calendar {
    /// TAI in nanoseconds since 1970.
    pub(crate) fn tai(&self, at: Nanos) -> i128 {
        i128::from(self.epoch) * i128::from(SECOND) + i128::from(at)
    }

    /// The instant of a TAI second.
    pub(crate) fn instant(&self, tai_seconds: i64) -> Nanos {
        (tai_seconds - self.epoch) * SECOND
    }

    /// When UTC leaves its old offset: where 23:59:60 begins, or where 23:59:59 is deleted. Far in the future without a
    /// leap second.
    pub(crate) fn leaps_at(&self) -> Nanos {
        let begins = |leap: Leap| match leap.kind {
            LeapKind::Inserted => leap.month + OFFSET,
            LeapKind::Deleted => leap.month + OFFSET - 1,
        };
        self.leap.map_or(Nanos::MAX, |leap| self.instant(begins(leap)))
    }

    /// TAI-UTC in seconds. Inside 23:59:60 it is still the old one.
    pub(crate) fn offset(&self, at: Nanos) -> i64 {
        match self.leap {
            Some(Leap { kind: LeapKind::Inserted, .. }) if at >= self.leaps_at() + SECOND => OFFSET + 1,
            Some(Leap { kind: LeapKind::Deleted, .. }) if at >= self.leaps_at() => OFFSET - 1,
            _ => OFFSET,
        }
    }

    /// Whether it is 23:59:60.
    pub(crate) fn is_in_leap(&self, at: Nanos) -> bool {
        self.leap.is_some_and(|leap| leap.kind == LeapKind::Inserted)
            && (self.leaps_at()..self.leaps_at() + SECOND).contains(&at)
    }

    /// UTC as POSIX counts it, in nanoseconds since 1970: 23:59:60 has the numbers of 23:59:59.
    pub(crate) fn posix(&self, at: Nanos) -> i128 {
        let offset = self.offset(at) + i64::from(self.is_in_leap(at));
        self.tai(at) - i128::from(offset) * i128::from(SECOND)
    }

    /// UTC as a page's rule gives it.
    pub(crate) fn utc(&self, at: Nanos) -> Option<UtcTime> {
        Some(UtcTime { time: Time::from_nanos(self.posix(at))?, leap_second: self.is_in_leap(at) })
    }

    /// The UTC day's end before which an announcement for today is due: the seconds left of the day at `at`.
    pub(crate) fn seconds_to_leap(&self, at: Nanos) -> Option<i64> {
        self.leap.and((self.leaps_at() - at).checked_div(SECOND)).filter(|seconds| *seconds >= 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR_2027: i64 = 1_798_761_600;

    fn calendar(kind: LeapKind) -> Calendar {
        Calendar { epoch: YEAR_2027 + OFFSET - 2, leap: Some(Leap { month: YEAR_2027, kind }) }
    }

    #[test]
    fn an_inserted_second_repeats_a_number() {
        let calendar = calendar(LeapKind::Inserted);
        let seen: Vec<(i128, bool)> = (0..5)
            .map(|second| second * SECOND)
            .map(|at| (calendar.posix(at) / 1_000_000_000 - i128::from(YEAR_2027), calendar.is_in_leap(at)))
            .collect();
        assert_eq!(seen, [(-2, false), (-1, false), (-1, true), (0, false), (1, false)]);
        assert_eq!([1, 2, 3].map(|second| calendar.offset(second * SECOND)), [37, 37, 38]);
    }

    #[test]
    fn a_deleted_second_has_no_number() {
        let calendar = calendar(LeapKind::Deleted);
        let seen: Vec<i128> =
            (0..3).map(|second| calendar.posix(second * SECOND) / 1_000_000_000 - i128::from(YEAR_2027)).collect();
        assert_eq!(seen, [-2, 0, 1]);
        assert_eq!([0, 1].map(|second| calendar.offset(second * SECOND)), [37, 36]);
    }
}
