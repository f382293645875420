// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! UTC across the end of a month.
//!
//! A page's `tai_offset_sec` and `leap_indicator` hold at the reference time. A reading may be later than that, on the
//! other side of a leap second that the page only announces; this module takes it across.

use crate::abi::{LeapIndicator, Snapshot, TimeType};
pub use crate::tai::LeapKind;
use crate::tai::TaiOffset;
use crate::time::{Monotonic, PageScale, SmearedUtc, Tai, Time, Utc};

/// TAI-UTC where it is known, and where the reference time is relative to a leap second.
///
/// ```
/// use vmclock_core::{abi::LeapIndicator, leap::LeapStatus, tai::TaiOffset};
/// let since_2017 = LeapStatus { tai_offset: TaiOffset::from_seconds(37), indicator: LeapIndicator::NONE };
/// assert_ne!(since_2017, LeapStatus::UNKNOWN);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeapStatus {
    /// TAI-UTC at the reference time. `None`: unknown, and a guest gets no UTC from a page on TAI, nor TAI from one on
    /// UTC.
    pub tai_offset: Option<TaiOffset>,
    /// The leap indicator at the reference time.
    pub indicator: LeapIndicator,
}

impl LeapStatus {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self { tai_offset: None, indicator: LeapIndicator::NONE };

    /// What a page states.
    pub fn of(page: &Snapshot) -> Self {
        Self { tai_offset: page.tai_offset(), indicator: page.leap_indicator }
    }
}

/// An instant in UTC. POSIX has no number of its own for 23:59:60: a flag distinguishes it from 23:59:59.
///
/// ```
/// use vmclock_core::abi::{Flags, LeapIndicator, Snapshot};
/// use vmclock_core::leap::UtcRule;
/// use vmclock_core::time::Time;
///
/// // Half a minute before the end of 2016, whose last second was 23:59:60.
/// let page = Snapshot::BLANK.with(|page| {
///     page.time_sec = 1_483_228_770 + 36;
///     page.tai_offset_sec = -36;
///     page.flags = Flags::TAI_OFFSET_VALID;
///     page.leap_indicator = LeapIndicator::PRE_POSITIVE;
/// });
/// let rule = UtcRule::from_snapshot(&page).unwrap();
/// let utc_after = |seconds: i64| rule.utc(Time::from_parts(1_483_228_770 + 36 + seconds, 0)).unwrap();
/// assert_eq!((utc_after(29).time.seconds(), utc_after(29).leap_second), (1_483_228_799, false)); // 23:59:59
/// assert_eq!((utc_after(30).time.seconds(), utc_after(30).leap_second), (1_483_228_799, true)); // 23:59:60
/// assert_eq!((utc_after(31).time.seconds(), utc_after(31).leap_second), (1_483_228_800, false)); // 00:00:00
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UtcTime {
    /// POSIX time. During 23:59:60 the number of 23:59:59 is repeated.
    pub time: Time<Utc>,
    /// Whether this is inside 23:59:60.
    pub leap_second: bool,
}

/// A leap second near the reference time, on the axis of [`UtcRule::linear`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Leap {
    /// 00:00:00 of the first day after the leap second, as POSIX counts.
    pub(crate) month: i64,
    pub(crate) kind: LeapKind,
}

/// How the page's own time becomes UTC, on both sides of a leap second. See [`UtcTime`] for an example.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UtcRule {
    /// From the page's scale to POSIX seconds as they count up to the leap second, and as if there were none.
    to_linear: i64,
    /// From the page's scale to POSIX seconds after the leap second.
    to_utc_after: i64,
    /// The first linear second that is not an ordinary second before the leap: 23:59:60, or the one after 23:59:58.
    changes_at: i64,
    leap: Option<Leap>,
}

impl UtcRule {
    /// The rule of a page, or `None` where UTC cannot be known: on a monotonic scale, on TAI without a valid offset,
    /// or with a leap indicator that has no meaning (also `positive` far from a month's end).
    pub fn from_snapshot(page: &Snapshot) -> Option<Self> {
        let offset = match page.time_type {
            TimeType::UTC => 0,
            TimeType::TAI => page.tai_offset()?.page_field().into(),
            _ => return None,
        };
        let reference = i64::try_from(page.time_sec).ok()?.checked_add(offset)?;
        if page.leap_indicator == LeapIndicator::NONE {
            // Without the calendar, which costs more than all else.
            return Some(Self { to_linear: offset, to_utc_after: offset, changes_at: i64::MIN, leap: None });
        }
        let this_month = month_start(reference);
        let next_month = next_month_start(reference);
        let ahead = |kind: LeapKind| Self {
            to_linear: offset,
            to_utc_after: offset.wrapping_sub(kind.seconds().into()),
            changes_at: match kind {
                LeapKind::Inserted => next_month,
                LeapKind::Deleted => next_month.wrapping_sub(1),
            },
            leap: Some(Leap { month: next_month, kind }),
        };
        // The offset is already the new one. Times before the month began are not taken back across the leap second.
        let behind = |kind: LeapKind| Self {
            to_linear: offset.wrapping_add(kind.seconds().into()),
            to_utc_after: offset,
            changes_at: i64::MIN,
            leap: Some(Leap { month: this_month, kind }),
        };
        // The reference is inside 23:59:60, which ends at `month`; `to_linear` is from before it.
        let inside = |month, to_linear: i64| Self {
            to_linear,
            to_utc_after: to_linear.wrapping_sub(LeapKind::Inserted.seconds().into()),
            changes_at: month,
            leap: Some(Leap { month, kind: LeapKind::Inserted }),
        };
        match page.leap_indicator {
            LeapIndicator::PRE_POSITIVE => Some(ahead(LeapKind::Inserted)),
            LeapIndicator::PRE_NEGATIVE => Some(ahead(LeapKind::Deleted)),
            LeapIndicator::POST_POSITIVE => Some(behind(LeapKind::Inserted)),
            LeapIndicator::POST_NEGATIVE => Some(behind(LeapKind::Deleted)),
            // By the old offset the reference shows 00:00:00, by the new one 23:59:59.
            LeapIndicator::POSITIVE if reference == this_month => Some(inside(this_month, offset)),
            LeapIndicator::POSITIVE if reference.checked_add(1) == Some(next_month) => {
                Some(inside(next_month, offset.wrapping_add(LeapKind::Inserted.seconds().into())))
            }
            _ => None,
        }
    }

    /// UTC at an instant of the page, or `None` beyond ±2^63 s.
    pub fn utc(&self, time: Time<PageScale>) -> Option<UtcTime> {
        let linear = self.linear(time)?;
        let inserted = self.leap.is_some_and(|leap| leap.kind == LeapKind::Inserted);
        let leap_second = inserted && linear.seconds() == self.changes_at;
        let time = if leap_second {
            linear.plus_seconds(-1)?
        } else if linear.seconds() < self.changes_at {
            linear
        } else {
            time.plus_seconds(self.to_utc_after)?.on()
        };
        Some(UtcTime { time, leap_second })
    }

    /// UTC as if there were no leap second: continuous, and equal to UTC before it.
    pub(crate) fn linear(&self, time: Time<PageScale>) -> Option<Time<Utc>> {
        Some(time.plus_seconds(self.to_linear)?.on())
    }

    /// The leap second nearby.
    pub(crate) const fn leap(&self) -> Option<Leap> {
        self.leap
    }

    /// UTC after the leap second, on the scale of a smeared clock that has finished smearing.
    pub(crate) fn after(&self, time: Time<PageScale>) -> Option<Time<SmearedUtc>> {
        Some(time.plus_seconds(self.to_utc_after)?.on())
    }
}

/// UTC at an instant of the page; `None` where [`UtcRule::from_snapshot`] or [`UtcRule::utc`] is.
///
/// ```
/// use vmclock_core::{abi::{Flags, Snapshot}, leap::utc, time::Time};
/// let page = Snapshot::BLANK.with(|page| (page.flags, page.tai_offset_sec) = (Flags::TAI_OFFSET_VALID, -37));
/// assert_eq!(utc(&page, Time::from_parts(1_800_000_037, 0)).unwrap().time.seconds(), 1_800_000_000);
/// ```
#[inline(always)]
pub fn utc(page: &Snapshot, time: Time<PageScale>) -> Option<UtcTime> {
    if page.leap_indicator != LeapIndicator::NONE {
        return utc_near_leap_second(*page, time);
    }
    let offset = match page.time_type {
        TimeType::UTC => 0,
        TimeType::TAI => page.tai_offset()?.page_field().into(),
        _ => return None,
    };
    Some(UtcTime { time: time.plus_seconds(offset)?.on(), leap_second: false })
}

/// By value, so that the page need not be in memory for the ordinary case.
#[cold]
fn utc_near_leap_second(page: Snapshot, time: Time<PageScale>) -> Option<UtcTime> {
    UtcRule::from_snapshot(&page)?.utc(time)
}

/// TAI at an instant of the page; `None` on a monotonic scale, and on UTC without a valid offset.
#[inline]
pub fn tai(page: &Snapshot, time: Time<PageScale>) -> Option<Time<Tai>> {
    match page.time_type {
        TimeType::TAI => Some(time.on()),
        TimeType::UTC => page.tai_offset()?.tai(time.on()),
        _ => None,
    }
}

/// The monotonic time at an instant of the page; `None` on TAI and UTC.
#[inline]
pub fn monotonic(page: &Snapshot, time: Time<PageScale>) -> Option<Time<Monotonic>> {
    (page.time_type == TimeType::MONOTONIC).then(|| time.on())
}

const DAY: i64 = 86_400;

/// 00:00:00 on the first day of the UTC month of a POSIX second.
fn month_start(seconds: i64) -> i64 {
    let (year, month, _) = civil(seconds.div_euclid(DAY));
    days(year, month).wrapping_mul(DAY)
}

/// 00:00:00 on the first day of the UTC month after that of a POSIX second: where a leap second of this month ends.
///
/// ```
/// assert_eq!(vmclock_core::leap::next_month_start(1_483_228_799), 1_483_228_800);
/// ```
pub fn next_month_start(seconds: i64) -> i64 {
    let (year, month, _) = civil(seconds.div_euclid(DAY));
    let (year, month) = if month == 12 { (year.wrapping_add(1), 1) } else { (year, month.wrapping_add(1)) };
    days(year, month).wrapping_mul(DAY)
}

/// Whether a POSIX second is in January or July (UTC), the months before which leap seconds come: all so far did.
///
/// ```
/// use vmclock_core::leap::begins_half_year;
/// assert!(begins_half_year(1_483_228_800)); // 2017-01-01
/// assert!(!begins_half_year(1_483_228_799));
/// ```
pub fn begins_half_year(seconds: i64) -> bool {
    let (_, month, _) = civil(seconds.div_euclid(DAY));
    month == 1 || month == 7
}

/// Year, month and day of a POSIX second, in the proleptic Gregorian calendar.
///
/// ```
/// assert_eq!(vmclock_core::leap::date(1_483_228_799), (2016, 12, 31));
/// ```
pub fn date(seconds: i64) -> (i64, i64, i64) {
    civil(seconds.div_euclid(DAY))
}

const DAYS_PER_ERA: i64 = 146_097; // 400 years
const EPOCH_FROM_MARCH_0000: i64 = 719_468;

/// Proleptic Gregorian year, month and day of a day since 1970-01-01. Years begin in March here, so that the leap day
/// is their last.
fn civil(day: i64) -> (i64, i64, i64) {
    let day = day.saturating_add(EPOCH_FROM_MARCH_0000);
    let era = day.div_euclid(DAYS_PER_ERA);
    let day = day.rem_euclid(DAYS_PER_ERA);
    // 1460 days: four years without the leap day at their end; 36524: a century; 146096: the last day of the era.
    let leaps = (day / 1_460).wrapping_sub(day / 36_524).wrapping_add(day / 146_096);
    let year = day.wrapping_sub(leaps) / 365;
    let day = day.wrapping_sub(days_before(year));
    // From March on, each five months have 153 days.
    let month = day.wrapping_mul(5).wrapping_add(2) / 153;
    let day = day.wrapping_sub(month.wrapping_mul(153).wrapping_add(2) / 5).wrapping_add(1);
    let (year, month) =
        if month < 10 { (year, month.wrapping_add(3)) } else { (year.wrapping_add(1), month.wrapping_sub(9)) };
    (era.wrapping_mul(400).wrapping_add(year), month, day)
}

/// The day since 1970-01-01 on which a month begins.
fn days(year: i64, month: i64) -> i64 {
    let (year, month) =
        if month > 2 { (year, month.wrapping_sub(3)) } else { (year.wrapping_sub(1), month.wrapping_add(9)) };
    let era = year.div_euclid(400);
    let day = days_before(year.rem_euclid(400)).wrapping_add(month.wrapping_mul(153).wrapping_add(2) / 5);
    era.wrapping_mul(DAYS_PER_ERA).wrapping_add(day).wrapping_sub(EPOCH_FROM_MARCH_0000)
}

/// Days in the first `years` (March to February) of an era.
fn days_before(years: i64) -> i64 {
    years.wrapping_mul(365).wrapping_add(years / 4).wrapping_sub(years / 100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hifitime::Epoch;
    use proptest::prelude::*;

    fn oracle(seconds: i64) -> (i32, u8, u8) {
        // TAI has no leap seconds, so that its calendar is the plain proleptic Gregorian one.
        let epoch = Epoch::from_tai_seconds(0.0) + hifitime::Duration::from_seconds(0.0);
        let _ = epoch;
        let start = Epoch::from_gregorian_tai_at_midnight(1970, 1, 1);
        let (year, month, day, ..) = (start + hifitime::Unit::Second * seconds).to_gregorian(hifitime::TimeScale::TAI);
        (year, month, day)
    }

    proptest! {
        #[test]
        fn civil_is_as_hifitime_has_it(seconds in -60_000_000_000i64..250_000_000_000) {
            let (year, month, day) = civil(seconds.div_euclid(DAY));
            let (y, m, d) = oracle(seconds);
            prop_assert_eq!((year, month, day), (i64::from(y), i64::from(m), i64::from(d)));
        }

        #[test]
        fn months_begin_on_their_first_day(seconds: i64) {
            // Within a month of the ends the calendar saturates and is wrong; it must only not panic there.
            let (start, next) = (month_start(seconds), next_month_start(seconds));
            if seconds.unsigned_abs() < 1 << 62 {
                prop_assert!(start <= seconds && seconds < next);
                prop_assert!((28 * DAY..=31 * DAY).contains(&(next - start)));
                prop_assert_eq!(civil(start / DAY).2, 1);
                prop_assert_eq!(civil(next / DAY).2, 1);
            }
        }
    }
}
