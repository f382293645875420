// SPDX-License-Identifier: MIT OR Apache-2.0
//! How TAI-UTC and the leap indicator pass a leap second.

use serde::{Deserialize, Serialize};
use vmclock_core::abi::LeapIndicator;
use vmclock_core::leap::{next_month_start, LeapKind};
use vmclock_core::tai::TaiOffset;
use vmclock_core::time::{Tai, Time};

/// How long after a leap second the page still says so. UAPI.13 wants that cleared by the 15th of the month.
const REMEMBERED: i64 = 14 * 86_400;

/// A leap second at a known end of a month.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LeapSecond {
    /// UTC, in seconds since 1970, from which the new TAI-UTC holds: 00:00:00 on the first of a month.
    pub month: i64,
    /// Inserted or deleted.
    #[serde(with = "crate::plain")]
    pub kind: LeapKind,
}

/// What to publish about UTC, before, in and after a leap second.
///
/// ```
/// use vmclock_core::{abi::LeapIndicator, leap::LeapKind, tai::TaiOffset, time::Time};
/// use vmclock_host::schedule::{LeapSecond, UtcSchedule};
///
/// let year_2017 = 1_483_228_800;
/// let offset = TaiOffset::from_seconds(36).unwrap();
/// let leap = LeapSecond { month: year_2017, kind: LeapKind::Inserted };
/// let schedule = UtcSchedule { offset, leap: Some(leap) };
/// let at = |utc| {
///     let (offset, indicator) = schedule.at(Time::from_parts(utc + 36, 0));
///     (offset.seconds(), indicator)
/// };
/// assert_eq!(at(year_2017 - 1), (36, LeapIndicator::PRE_POSITIVE));
/// assert_eq!(at(year_2017), (36, LeapIndicator::POSITIVE)); // 23:59:60
/// assert_eq!(at(year_2017 + 1), (37, LeapIndicator::POST_POSITIVE));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UtcSchedule {
    /// TAI-UTC before the leap second, if there is one.
    #[serde(with = "crate::plain")]
    pub offset: TaiOffset,
    /// The leap second.
    pub leap: Option<LeapSecond>,
}

impl UtcSchedule {
    /// TAI-UTC and the leap indicator for a page whose reference time this is. Inside a leap second the offset is still
    /// the old one.
    pub fn at(&self, time: Time<Tai>) -> (TaiOffset, LeapIndicator) {
        let Some(leap) = self.leap else { return (self.offset, LeapIndicator::NONE) };
        let by_old_offset = time.seconds().saturating_sub(self.offset.seconds().into());
        let (before, after) = match leap.kind {
            LeapKind::Inserted => (LeapIndicator::PRE_POSITIVE, LeapIndicator::POST_POSITIVE),
            LeapKind::Deleted => (LeapIndicator::PRE_NEGATIVE, LeapIndicator::POST_NEGATIVE),
        };
        let (begins, over) = leap.span();
        if by_old_offset < begins {
            // The indicator is about the end of this month only.
            let is_this_month = next_month_start(by_old_offset) == leap.month;
            (self.offset, if is_this_month { before } else { LeapIndicator::NONE })
        } else if by_old_offset < over {
            (self.offset, LeapIndicator::POSITIVE)
        } else if by_old_offset < over.saturating_add(REMEMBERED) {
            (self.after(leap.kind), after)
        } else {
            (self.after(leap.kind), LeapIndicator::NONE)
        }
    }

    /// TAI-UTC after a leap second of this kind.
    pub fn after(&self, kind: LeapKind) -> TaiOffset {
        // No offset that can be is at the end of its range for another thousand years.
        self.offset.after(kind).unwrap_or(self.offset)
    }

    /// The same once a leap second is over and forgotten: without it, and with the offset that it left behind.
    #[must_use]
    pub fn settled(self, time: Time<Tai>) -> Self {
        match (self.leap, self.at(time)) {
            (Some(_), (offset, LeapIndicator::NONE)) if offset != self.offset => Self { offset, leap: None },
            _ => self,
        }
    }
}

impl LeapSecond {
    /// Whether it is at the end of a month, of a year that can be written with four digits.
    pub(crate) fn is_plausible(&self) -> bool {
        (0..253_402_300_800).contains(&self.month) && next_month_start(self.month - 1) == self.month
    }

    /// By the old offset: the UTC second at which UTC changes, and the one from which the new offset holds.
    const fn span(self) -> (i64, i64) {
        match self.kind {
            LeapKind::Inserted => (self.month, self.month.saturating_add(1)),
            LeapKind::Deleted => (self.month - 1, self.month - 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JANUARY: i64 = 1_483_228_800;

    fn schedule(kind: LeapKind) -> UtcSchedule {
        let offset = TaiOffset::from_seconds(37).expect("in range");
        UtcSchedule { offset, leap: Some(LeapSecond { month: JANUARY, kind }) }
    }

    /// The changes, from `first` seconds before the month on.
    fn changes(kind: LeapKind) -> Vec<(i64, i16, LeapIndicator)> {
        let mut seen: Vec<(i64, i16, LeapIndicator)> = Vec::new();
        for second in (-40 * 86_400..-30).step_by(43_200).chain(-30..30).chain((30..20 * 86_400).step_by(86_400)) {
            let (offset, leap) = schedule(kind).at(Time::from_parts(JANUARY + 37 + second, 0));
            if seen.last().is_none_or(|last| (last.1, last.2) != (offset.seconds(), leap)) {
                seen.push((second, offset.seconds(), leap));
            }
        }
        seen
    }

    #[test]
    fn an_inserted_second_passes() {
        assert_eq!(
            changes(LeapKind::Inserted),
            [
                (-40 * 86_400, 37, LeapIndicator::NONE),
                (-31 * 86_400, 37, LeapIndicator::PRE_POSITIVE),
                (0, 37, LeapIndicator::POSITIVE),
                (1, 38, LeapIndicator::POST_POSITIVE),
                (14 * 86_400 + 30, 38, LeapIndicator::NONE),
            ]
        );
    }

    #[test]
    fn a_deleted_second_passes() {
        assert_eq!(
            changes(LeapKind::Deleted),
            [
                (-40 * 86_400, 37, LeapIndicator::NONE),
                (-31 * 86_400, 37, LeapIndicator::PRE_NEGATIVE),
                (-1, 36, LeapIndicator::POST_NEGATIVE),
                (14 * 86_400 + 30, 36, LeapIndicator::NONE),
            ]
        );
    }

    #[test]
    fn a_leap_second_that_is_over_is_forgotten() {
        let schedule = schedule(LeapKind::Inserted);
        for (days, forgotten) in [(-60, false), (-1, false), (1, false), (13, false), (15, true)] {
            let settled = schedule.settled(Time::from_parts(JANUARY + days * 86_400, 0));
            let after = UtcSchedule { offset: schedule.after(LeapKind::Inserted), leap: None };
            assert_eq!(settled, if forgotten { after } else { schedule }, "{days} days after");
        }
    }
}
