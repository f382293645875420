// SPDX-License-Identifier: MIT OR Apache-2.0
//! Another VMClock page as a source: this host is itself a guest, or the kernel publishes for it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use vmclock_core::abi::{ClockStatus, LeapIndicator, Snapshot, TimeType, STRUCTURE_LEN};
use vmclock_core::calibration::Calibration;
use vmclock_core::counter;
use vmclock_core::leap::{self, next_month_start, UtcRule};
use vmclock_core::time::{PageScale, Time};

use super::{LeapNotice, Observation, Source, SourceError, Stamp};

/// How long an update may take, before its writer counts as dead.
const PATIENCE: Duration = Duration::from_millis(100);

/// A page's device node (`/dev/vmclock0`, `/dev/vmclock_host`) or file. What it gives has the page's own bounds.
#[derive(Debug)]
pub struct PageSource {
    name: String,
    page: File,
}

impl PageSource {
    /// Opens it.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let name = path.display().to_string();
        match File::open(path) {
            Ok(page) => Ok(Self { name, page }),
            Err(error) => Err(SourceError::Io { name, what: "cannot be opened", error }),
        }
    }

    /// A page, and a counter that was read while it was valid.
    fn read(&self) -> Result<(Snapshot, u64), SourceError> {
        let failed = |error: io::Error| {
            let is_short = error.kind() == io::ErrorKind::UnexpectedEof;
            let what = if is_short { "is shorter than a VMClock page" } else { "cannot be read" };
            SourceError::Io { name: self.name.clone(), what, error }
        };
        let start = Instant::now();
        loop {
            let first = self.bytes().map_err(failed)?;
            let counter = counter::read_ordered();
            let last = self.bytes().map_err(failed)?;
            // The driver's read is consistent; a file's is if nothing changed meanwhile.
            if first == last && Snapshot::from_bytes(&first).seq_count & 1 == 0 {
                let page = Snapshot::from_prefix(&first).map_err(|error| self.no_time(error.to_string()))?;
                return Ok((page, counter));
            }
            if start.elapsed() > PATIENCE {
                return Err(self.no_time(format!("in the middle of an update for {PATIENCE:?}; restart its publisher")));
            }
            std::thread::yield_now();
        }
    }

    fn bytes(&self) -> io::Result<[u8; STRUCTURE_LEN]> {
        let mut bytes = [0; STRUCTURE_LEN];
        self.page.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    fn no_time(&self, reason: String) -> SourceError {
        SourceError::NoTime { name: self.name.clone(), reason }
    }
}

impl Source for PageSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn observe(&mut self) -> Result<Observation, SourceError> {
        let (page, counter) = self.read()?;
        observation(&page, counter).map_err(|reason| self.no_time(reason))
    }
}

/// What a page says when the counter is `counter`.
fn observation(page: &Snapshot, counter: u64) -> Result<Observation, String> {
    let calibration = Calibration::from_snapshot(page, counter::ID).map_err(|error| error.to_string())?;
    let time = calibration.time_at(counter).map_err(|error| error.to_string())?;
    let interval = calibration.interval_at(counter).map_err(|error| error.to_string())?;
    let interval = interval.ok_or("has no error bounds, and none are made up")?;
    let error = |nanos: u128| u64::try_from(nanos).unwrap_or(u64::MAX);
    let max_error = error(interval.width_nanos().div_ceil(2));
    let estimated = calibration.estimated_error_at(counter).map_or(max_error, error).min(max_error);
    let leap = notice(page, calibration.reference_time(), time);
    let stamp = match page.time_type {
        TimeType::TAI => Stamp::Tai(Time::from_raw(time.raw())),
        // A page may not have been refreshed since a leap second that it announces: its own seconds go on as if none came.
        TimeType::UTC => match UtcRule::from_snapshot(page).and_then(|rule| rule.utc(time)) {
            Some(utc) => Stamp::Utc(utc.time),
            None => return Err(format!("its leap indicator, {}, makes no sense at its time", page.leap_indicator)),
        },
        other => return Err(format!("its time is {other}, which has no known epoch")),
    };
    Ok(Observation {
        before: counter,
        after: counter,
        stamp,
        max_error,
        estimated_error: estimated,
        synchronized: page.clock_status == ClockStatus::SYNCHRONIZED,
        leap,
        // A restore without a disruption, a clone, leaves the counter as it was.
        era: page.disruption_marker,
    })
}

/// What a page says of leap seconds for a time that may be later than its reference. The indicator is about the end of the
/// reference's month, a notice about that of the day. Where UTC cannot be known, there is none.
fn notice(page: &Snapshot, reference: Time<PageScale>, time: Time<PageScale>) -> LeapNotice {
    const DAY: i64 = 86_400;
    let Some(rule) = UtcRule::from_snapshot(page) else { return LeapNotice::default() };
    let (Some(reference), Some(utc)) = (rule.utc(reference), rule.utc(time)) else { return LeapNotice::default() };
    let due = next_month_start(reference.time.seconds());
    let is_to_come = (due.saturating_sub(DAY)..due).contains(&utc.time.seconds()) && !utc.leap_second;
    // Both have the same fraction.
    let tai_minus_utc = leap::tai(page, time).map(|tai| tai.seconds().wrapping_sub(utc.time.seconds()));
    LeapNotice {
        today: match page.leap_indicator {
            LeapIndicator::PRE_POSITIVE if is_to_come => Some(true),
            LeapIndicator::PRE_NEGATIVE if is_to_come => Some(false),
            _ => None,
        },
        now: utc.leap_second,
        tai_minus_utc: tai_minus_utc.and_then(|seconds| i16::try_from(seconds).ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::num::NonZeroU64;
    use vmclock_core::abi::Flags;
    use vmclock_core::calibration::Period;

    fn page() -> Snapshot {
        let period = Period::from_frequency(NonZeroU64::new(1_000_000_000).expect("not 0"));
        Snapshot {
            counter_id: counter::ID,
            time_type: TimeType::TAI,
            clock_status: ClockStatus::SYNCHRONIZED,
            flags: Flags::TIME_MAXERROR_VALID.with(Flags::PERIOD_MAXERROR_VALID).with(Flags::TAI_OFFSET_VALID),
            disruption_marker: 77,
            tai_offset_sec: -37,
            counter_value: 1_000,
            counter_period_frac_sec: period.frac(),
            counter_period_shift: period.shift(),
            counter_period_maxerror_rate_frac_sec: period.error_rate(1_000_000),
            time_sec: 1_800_000_037,
            time_maxerror_nanosec: 500,
            ..Snapshot::BLANK
        }
    }

    #[test]
    fn bounds_are_inherited() {
        let seen = observation(&page(), 1_000 + 1_000_000_000).expect("a time");
        let Stamp::Tai(time) = seen.stamp else { panic!("{:?}", seen.stamp) };
        assert_eq!(time.ceil_nanos(), 1_800_000_038_000_000_000);
        // 500 ns, and 1 ppm of a second; and a nanosecond for each rounding.
        assert!((1_500..=1_503).contains(&seen.max_error), "{}", seen.max_error);
        assert_eq!((seen.era, seen.synchronized), (77, true));
        assert_eq!(seen.leap.tai_minus_utc, Some(37));
    }

    #[test]
    fn what_has_no_bounds_or_no_time_gives_none() {
        for (change, part) in [
            (Snapshot { flags: Flags::NONE, ..page() }, "no error bounds"),
            (Snapshot { clock_status: ClockStatus::UNRELIABLE, ..page() }, "unreliable"),
            (Snapshot { time_type: TimeType::MONOTONIC, ..page() }, "no known epoch"),
        ] {
            let error = observation(&change, 1_000).expect_err(part);
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_leap_second_is_announced_on_its_day() {
        // 2016-12-31 and its leap second; and the day before.
        let new_year = 1_483_228_800;
        for (utc, today) in [(new_year - 100, Some(true)), (new_year - 100_000, None)] {
            let page = Snapshot {
                leap_indicator: LeapIndicator::PRE_POSITIVE,
                tai_offset_sec: -36,
                time_sec: utc + 36,
                ..page()
            };
            assert_eq!(observation(&page, 1_000).expect("a time").leap.today, today);
        }
    }

    #[test]
    fn utc_of_a_page_that_nobody_refreshes_passes_the_leap_second() {
        // Half a second before the end of 2016, and so many half seconds later: POSIX seconds from 2017 on, whether it is
        // 23:59:60, what is still to come, and TAI - UTC.
        let new_year = 1_483_228_800;
        let (positive, negative) = (LeapIndicator::PRE_POSITIVE, LeapIndicator::PRE_NEGATIVE);
        for (kind, indicator, halves, posix, now, today, offset) in [
            (TimeType::UTC, positive, 0, -1, false, Some(true), 36),
            (TimeType::UTC, positive, 1, -1, true, None, 37),
            (TimeType::UTC, positive, 2, -1, true, None, 37),
            (TimeType::UTC, positive, 3, 0, false, None, 37),
            (TimeType::UTC, positive, 60, 28, false, None, 37),
            (TimeType::TAI, positive, 0, -1, false, Some(true), 36),
            (TimeType::TAI, positive, 1, -1, true, None, 37),
            (TimeType::TAI, positive, 60, 28, false, None, 37),
            (TimeType::UTC, negative, 60, 30, false, None, 35),
        ] {
            let seconds = if kind == TimeType::TAI { new_year - 1 + 36 } else { new_year - 1 };
            let page = Snapshot {
                time_type: kind,
                leap_indicator: indicator,
                tai_offset_sec: -36,
                time_sec: seconds,
                time_frac_sec: 1 << 63,
                ..page()
            };
            let seen = observation(&page, 1_000 + halves * 500_000_000 + 1_000).expect("a time");
            let utc = match seen.stamp {
                Stamp::Utc(time) => time.seconds(),
                Stamp::Tai(time) => time.seconds() - i64::from(seen.leap.tai_minus_utc.expect("on the page")),
            };
            let leap = LeapNotice { today, now, tai_minus_utc: Some(offset) };
            assert_eq!((utc - 1_483_228_800, seen.leap), (posix, leap), "{kind} {indicator} {halves}");
        }
    }

    proptest! {
        /// Whatever is on it: whoever publishes it may be no friend.
        #[test]
        fn no_page_makes_it_panic(
            (kind, leap, tai_offset_sec) in (0..5_u8, any::<u8>(), any::<i16>()),
            time_sec in prop_oneof![0..(1_u64 << 63), (1_u64 << 63) - 100_000_000..1 << 63, 0..100_000_000_u64],
            (frac, shift, time_frac_sec, error, rate) in any::<(u64, u8, u64, u64, u64)>(),
            (counter_value, counter) in any::<(u64, u64)>(),
        ) {
            let page = Snapshot {
                time_type: TimeType(kind),
                leap_indicator: LeapIndicator(leap % 8),
                tai_offset_sec: if kind == 0 { tai_offset_sec } else { tai_offset_sec % 60 },
                time_sec,
                time_frac_sec,
                counter_value,
                counter_period_frac_sec: frac,
                counter_period_shift: shift % 128,
                counter_period_maxerror_rate_frac_sec: rate,
                time_maxerror_nanosec: error,
                ..page()
            };
            if let Ok(seen) = observation(&page, counter) {
                prop_assert!(seen.estimated_error <= seen.max_error);
            }
        }
    }

    #[test]
    fn utc_that_cannot_be_known_is_no_time() {
        // "In 23:59:60", in the middle of a month.
        let page = Snapshot { leap_indicator: LeapIndicator::POSITIVE, ..page() };
        let error = observation(&Snapshot { time_type: TimeType::UTC, ..page }, 1_000).expect_err("a contradiction");
        assert!(error.contains("leap indicator"), "{error}");
        let seen = observation(&page, 1_000).expect("TAI does not depend on it");
        assert_eq!(seen.leap, LeapNotice::default());
    }

    #[test]
    fn a_file_that_is_no_page_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("page");
        std::fs::write(&path, [0xff; 200]).expect("written");
        let error = PageSource::open(&path).expect("opened").observe().expect_err("no page").to_string();
        assert!(error.contains(path.to_str().expect("plain")), "{error}");
        std::fs::write(&path, page().to_bytes()).expect("written");
        PageSource::open(&path).expect("opened").observe().expect("a time");
        std::fs::write(&path, &page().to_bytes()[..STRUCTURE_LEN - 1]).expect("written");
        let error = PageSource::open(&path).expect("opened").observe().expect_err("short").to_string();
        assert!(error.contains("shorter than a VMClock page"), "{error}");
        let odd = Snapshot { seq_count: 5, ..page() };
        std::fs::write(&path, odd.to_bytes()).expect("written");
        let error = PageSource::open(&path).expect("opened").observe().expect_err("odd").to_string();
        assert!(error.contains("in the middle of an update"), "{error}");
    }
}
