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
        let failed = |error| SourceError::Io { name: self.name.clone(), what: "cannot be read", error };
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
                return Err(self.no_time("has been in the middle of an update: its publisher is gone".into()));
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
    let stamp = match page.time_type {
        TimeType::TAI => Stamp::Tai(Time::from_raw(time.raw())),
        TimeType::UTC => Stamp::Utc(Time::from_raw(time.raw())),
        other => return Err(format!("its time is {other}, which has no known epoch")),
    };
    Ok(Observation {
        before: counter,
        after: counter,
        stamp,
        max_error,
        estimated_error: estimated,
        synchronized: page.clock_status == ClockStatus::SYNCHRONIZED,
        leap: notice(page, calibration.reference_time()),
        // A restore without a disruption, a clone, leaves the counter as it was.
        era: page.disruption_marker,
    })
}

/// The indicator is about the end of a month, a notice about that of a day.
fn notice(page: &Snapshot, reference: Time<PageScale>) -> LeapNotice {
    const DAY: i64 = 86_400;
    let offset = page.tai_offset();
    let utc = match (page.time_type, offset) {
        (TimeType::TAI, Some(offset)) => Some(reference.seconds() + i64::from(offset)),
        (TimeType::TAI, None) => None,
        _ => Some(reference.seconds()),
    };
    let is_last_day = utc.is_some_and(|utc| vmclock_core::leap::next_month_start(utc) - utc <= DAY);
    LeapNotice {
        today: match page.leap_indicator {
            LeapIndicator::PRE_POSITIVE if is_last_day => Some(true),
            LeapIndicator::PRE_NEGATIVE if is_last_day => Some(false),
            _ => None,
        },
        now: false,
        tai_minus_utc: offset.and_then(i16::checked_neg),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
    fn a_file_that_is_no_page_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("page");
        std::fs::write(&path, [0xff; 200]).expect("written");
        let error = PageSource::open(&path).expect("opened").observe().expect_err("no page").to_string();
        assert!(error.contains(path.to_str().expect("plain")), "{error}");
        std::fs::write(&path, page().to_bytes()).expect("written");
        PageSource::open(&path).expect("opened").observe().expect("a time");
        let odd = Snapshot { seq_count: 5, ..page() };
        std::fs::write(&path, odd.to_bytes()).expect("written");
        let error = PageSource::open(&path).expect("opened").observe().expect_err("odd").to_string();
        assert!(error.contains("in the middle of an update"), "{error}");
    }
}
