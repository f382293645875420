// SPDX-License-Identifier: MIT OR Apache-2.0
//! How TAI offset and leap indicator pass a leap second.

use vmclock_core::abi::LeapIndicator;
use vmclock_core::time::{Tai, Time};

/// How long after a leap second the page still tells of it. UAPI.13 wants that cleared by the 15th of the month.
const REMEMBERED: i64 = 14 * 86_400;

/// A leap second at a known end of a month.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeapSecond {
    /// UTC, in seconds since 1970, from which the new offset holds: 00:00:00 on the first of a month.
    pub month: i64,
    /// Whether a second is inserted, not left out.
    pub inserted: bool,
}

/// What to publish about UTC, before, in and after a leap second.
///
/// ```
/// use vmclock_core::{abi::LeapIndicator, time::Time};
/// use vmclock_host::schedule::{LeapSecond, UtcSchedule};
///
/// let year_2017 = 1_483_228_800;
/// let schedule = UtcSchedule { utc_minus_tai: -36, leap: Some(LeapSecond { month: year_2017, inserted: true }) };
/// let at = |utc| schedule.at(Time::from_parts(utc + 36, 0));
/// assert_eq!(at(year_2017 - 1), (-36, LeapIndicator::PRE_POSITIVE));
/// assert_eq!(at(year_2017), (-36, LeapIndicator::POSITIVE)); // 23:59:60
/// assert_eq!(at(year_2017 + 1), (-37, LeapIndicator::POST_POSITIVE));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UtcSchedule {
    /// UTC - TAI before the leap second, if there is one.
    pub utc_minus_tai: i16,
    /// The leap second.
    pub leap: Option<LeapSecond>,
}

impl UtcSchedule {
    /// UTC - TAI and the leap indicator for a page whose reference time this is. Inside a leap second the offset is
    /// still the old one.
    pub fn at(&self, time: Time<Tai>) -> (i16, LeapIndicator) {
        let before = self.utc_minus_tai;
        let Some(LeapSecond { month, inserted }) = self.leap else { return (before, LeapIndicator::NONE) };
        let by_old_offset = time.seconds().saturating_add(before.into());
        // By the old offset: where the change begins, and where it is over.
        let (begins, over) = if inserted { (month, month.saturating_add(1)) } else { (month - 1, month - 1) };
        let after = if inserted { before.saturating_sub(1) } else { before.saturating_add(1) };
        if by_old_offset < begins {
            let soon = if inserted { LeapIndicator::PRE_POSITIVE } else { LeapIndicator::PRE_NEGATIVE };
            // It may be announced half a year ahead, but the indicator is about the end of this month.
            let this_month = begins.saturating_sub(by_old_offset) <= 28 * 86_400;
            (before, if this_month { soon } else { LeapIndicator::NONE })
        } else if by_old_offset < over {
            (before, LeapIndicator::POSITIVE)
        } else if by_old_offset < over.saturating_add(REMEMBERED) {
            (after, if inserted { LeapIndicator::POST_POSITIVE } else { LeapIndicator::POST_NEGATIVE })
        } else {
            (after, LeapIndicator::NONE)
        }
    }
}

impl UtcSchedule {
    /// The same once a leap second is over and forgotten: without it, and with the offset that it left behind.
    #[must_use]
    pub fn settled(self, time: Time<Tai>) -> Self {
        match (self.leap, self.at(time)) {
            (Some(_), (offset, LeapIndicator::NONE)) if offset != self.utc_minus_tai => {
                Self { utc_minus_tai: offset, leap: None }
            }
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MONTH: i64 = 1_483_228_800;

    fn passes(inserted: bool) -> Vec<(i64, i16, LeapIndicator)> {
        let schedule = UtcSchedule { utc_minus_tai: -37, leap: Some(LeapSecond { month: MONTH, inserted }) };
        let mut seen: Vec<(i64, i16, LeapIndicator)> = Vec::new();
        for second in (-40 * 86_400..-30).step_by(86_400).chain(-30..30).chain((30..20 * 86_400).step_by(86_400)) {
            let (offset, leap) = schedule.at(Time::from_parts(MONTH + 37 + second, 0));
            if seen.last().is_none_or(|last| (last.1, last.2) != (offset, leap)) {
                seen.push((second, offset, leap));
            }
        }
        seen
    }

    #[test]
    fn an_inserted_second_passes() {
        let states: Vec<_> =
            passes(true).into_iter().skip(1).map(|(at, offset, leap)| (at.max(-86_400), offset, leap)).collect();
        assert_eq!(
            states,
            [
                (-86_400, -37, LeapIndicator::PRE_POSITIVE),
                (0, -37, LeapIndicator::POSITIVE),
                (1, -38, LeapIndicator::POST_POSITIVE),
                (14 * 86_400 + 30, -38, LeapIndicator::NONE),
            ]
        );
    }

    #[test]
    fn a_leap_second_that_is_over_is_forgotten() {
        let schedule = UtcSchedule { utc_minus_tai: -37, leap: Some(LeapSecond { month: MONTH, inserted: true }) };
        for (days, forgotten) in [(-60, false), (-1, false), (1, false), (13, false), (15, true)] {
            let settled = schedule.settled(Time::from_parts(MONTH + days * 86_400, 0));
            let expected = if forgotten { UtcSchedule { utc_minus_tai: -38, leap: None } } else { schedule };
            assert_eq!(settled, expected, "{days} days after");
        }
    }

    #[test]
    fn an_omitted_second_passes() {
        let states: Vec<_> =
            passes(false).into_iter().skip(1).map(|(at, offset, leap)| (at.max(-86_400), offset, leap)).collect();
        assert_eq!(
            states,
            [
                (-86_400, -37, LeapIndicator::PRE_NEGATIVE),
                (-1, -36, LeapIndicator::POST_NEGATIVE),
                (14 * 86_400 + 30, -36, LeapIndicator::NONE),
            ]
        );
    }
}
