// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a source's scale to TAI, across leap seconds: announced early, late, or not at all.

use std::cmp::Ordering;

use vmclock_core::leap::next_month_start;
use vmclock_core::time::{Span, Tai, Time};

use crate::schedule::{LeapSecond, UtcSchedule};
use crate::source::{LeapNotice, Stamp};

const DAY: i64 = 86_400;
const SECOND: f64 = 1e9;
/// How much a time may be off for a leap second to be what explains it, in nanoseconds.
const CLOSE: f64 = 0.4 * SECOND;

/// Puts times on TAI, and knows what is to be published about UTC.
///
/// ```
/// use vmclock_core::time::Time;
/// use vmclock_host::{schedule::UtcSchedule, source::{LeapNotice, Stamp}, timescale::TaiFollower};
///
/// let mut follower = TaiFollower::new(UtcSchedule { utc_minus_tai: -37, leap: None });
/// let utc = Stamp::Utc(Time::from_parts(1_800_000_000, 0));
/// let tai = follower.to_tai(utc, LeapNotice::default(), |_| 0.0).unwrap();
/// assert_eq!(tai.seconds(), 1_800_000_037);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TaiFollower {
    schedule: UtcSchedule,
}

impl TaiFollower {
    /// With what is known of UTC.
    pub const fn new(schedule: UtcSchedule) -> Self {
        Self { schedule }
    }

    /// What is to be published about UTC.
    pub const fn schedule(&self) -> &UtcSchedule {
        &self.schedule
    }

    /// Takes what somebody announces, in place of what was known.
    pub fn set_schedule(&mut self, schedule: UtcSchedule) {
        self.schedule = schedule;
    }

    /// A stamp on TAI. `surprise` says how far, in nanoseconds, a time would be from where it may be: of two ways to read a
    /// stamp around a leap second, the less surprising one is right. `None` beyond ±2^63 s.
    pub fn to_tai(
        &mut self,
        stamp: Stamp,
        notice: LeapNotice,
        surprise: impl Fn(Time<Tai>) -> f64,
    ) -> Option<Time<Tai>> {
        let utc = match stamp {
            Stamp::Tai(time) => {
                self.schedule = self.schedule.settled(time);
                self.announce(notice, time);
                return Some(time);
            }
            Stamp::Utc(time) => time,
        };
        let with = |offset: i64| Time::<Tai>::from_raw(utc.raw()).checked_add(seconds(-offset));
        let before = i64::from(self.schedule.utc_minus_tai);
        let Some(LeapSecond { month, inserted }) = self.schedule.leap else {
            let plain = with(before)?;
            return if surprise(plain).abs() > CLOSE { self.late(utc.seconds(), plain, surprise) } else { Some(plain) }
                .inspect(|time| self.announce(notice, *time));
        };
        let (old, new) = (with(before)?, with(if inserted { before - 1 } else { before + 1 })?);
        let is_over = utc.seconds() >= month || notice.now;
        let time = if (utc.seconds() - month).abs() <= 2 && !notice.now {
            // The source may not say in which of the two seconds it is, but the counter knows.
            match surprise(new).abs().total_cmp(&surprise(old).abs()) {
                Ordering::Less => new,
                Ordering::Equal if is_over => new,
                _ => old,
            }
        } else if is_over {
            new
        } else {
            old
        };
        // It was called off: a second that was announced did not come.
        let wrong = surprise(time).abs() > CLOSE && utc.seconds() >= month && utc.seconds() < month + DAY;
        if wrong && surprise(old).abs() < CLOSE {
            self.schedule.leap = None;
            return Some(old);
        }
        self.schedule = self.schedule.settled(time);
        Some(time)
    }

    /// A leap second that nobody announced shows when it is over: UTC is off by a second since the month began.
    fn late(&mut self, utc: i64, plain: Time<Tai>, surprise: impl Fn(Time<Tai>) -> f64) -> Option<Time<Tai>> {
        // The month that began in the last day, if one did.
        let month = next_month_start(utc - DAY);
        for (inserted, step) in [(true, 1), (false, -1)] {
            let explained = plain.checked_add(seconds(step))?;
            // An inserted second has been repeated before the month begins.
            if (month - 1..month + DAY).contains(&utc) && surprise(explained).abs() < CLOSE {
                self.schedule.leap = Some(LeapSecond { month, inserted });
                return Some(explained);
            }
        }
        Some(plain)
    }

    /// Takes what a source announces, unless something is known already.
    fn announce(&mut self, notice: LeapNotice, time: Time<Tai>) {
        if self.schedule.leap.is_some() {
            return;
        }
        if let Some(inserted) = notice.today {
            let utc = time.seconds().saturating_add(self.schedule.utc_minus_tai.into());
            self.schedule.leap = Some(LeapSecond { month: next_month_start(utc), inserted });
        }
    }
}

fn seconds(count: i64) -> Span {
    Span::from_nanos(count.saturating_mul(1_000_000_000))
}

#[cfg(test)]
#[allow(clippy::cast_precision_loss)] // of differences of days
mod tests {
    use super::*;

    /// 2017-01-01, before which a second was inserted.
    const MONTH: i64 = 1_483_228_800;

    /// POSIX time, as a kernel shows it, over a leap second at `MONTH`: TAI - UTC is 36 before.
    fn posix(tai_halves: i64, inserted: bool) -> (i64, bool) {
        let by_old = tai_halves - 2 * 36;
        let (from, step) = if inserted { (2 * MONTH, 2) } else { (2 * MONTH - 2, -2) };
        let shown = if by_old >= from { by_old - step } else { by_old };
        (shown, inserted && (from..from + 2).contains(&by_old))
    }

    fn pass(inserted: bool, announced: Option<i64>, flagged: bool) {
        let mut follower = TaiFollower::new(UtcSchedule { utc_minus_tai: -36, leap: None });
        let half = |halves: i64| Time::<Tai>::from_raw(i128::from(halves) << 63);
        for halves in 2 * (MONTH + 36) - 3 * 86_400..2 * (MONTH + 36) + 3 * 86_400 {
            let (shown, in_leap) = posix(halves, inserted);
            let today = (shown / 2 / DAY == MONTH / DAY - 1).then_some(inserted);
            let notice = LeapNotice {
                today: today.filter(|_| announced.is_some_and(|lead| shown / 2 >= MONTH - lead)),
                now: in_leap && flagged,
                tai_minus_utc: None,
            };
            // Whoever has a counter knows the time to a millisecond.
            let surprise = |time: Time<Tai>| {
                let off = time.since(half(halves)).expect("in range").floor_nanos() as f64;
                if off.abs() < 1e6 {
                    0.0
                } else {
                    off
                }
            };
            let stamp = Stamp::Utc(Time::from_raw(i128::from(shown) << 63));
            let tai = follower.to_tai(stamp, notice, surprise).expect("in range");
            assert_eq!(tai, half(halves), "{} s after the month began", (halves - 2 * (MONTH + 36)) / 2);
        }
        let expected = if inserted { -37 } else { -35 };
        assert_eq!(follower.schedule().at(half(2 * (MONTH + DAY))).0, expected);
    }

    #[test]
    fn announced_or_not_it_stays_on_tai() {
        for inserted in [true, false] {
            for announced in [Some(DAY), Some(3_600), Some(1), None] {
                for flagged in [true, false] {
                    pass(inserted, announced, flagged);
                }
            }
        }
    }

    #[test]
    fn one_that_does_not_come_is_forgotten() {
        let leap = Some(LeapSecond { month: MONTH, inserted: true });
        let mut follower = TaiFollower::new(UtcSchedule { utc_minus_tai: -36, leap });
        for utc in MONTH - 10..MONTH + 10 {
            let truth = Time::<Tai>::from_parts(utc + 36, 0);
            let surprise = |time: Time<Tai>| time.since(truth).expect("in range").floor_nanos() as f64;
            let tai = follower.to_tai(Stamp::Utc(Time::from_parts(utc, 0)), LeapNotice::default(), surprise);
            assert_eq!(tai, Some(truth));
        }
        assert_eq!(follower.schedule(), &UtcSchedule { utc_minus_tai: -36, leap: None });
    }
}
