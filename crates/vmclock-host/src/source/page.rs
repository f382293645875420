// SPDX-License-Identifier: MIT OR Apache-2.0
//! Another VMClock page as a source: this host is itself a guest, or another program publishes for it.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use vmclock_core::abi::{ClockStatus, LeapIndicator, Snapshot, TimeType, STRUCTURE_LEN};
use vmclock_core::calibration::Calibration;
use vmclock_core::counter;
use vmclock_core::leap::{self, next_month_start, LeapKind, UtcRule};
use vmclock_core::sample::Sample;
use vmclock_core::tai::TaiOffset;
use vmclock_core::time::{PageScale, Time};

use super::{LeapNotice, Measure, Measurement, SourceError, Stamp};

/// How long an update may take before its writer counts as dead.
const TIMEOUT: Duration = Duration::from_millis(100);

/// A page's device node (`/dev/vmclock0`, `/dev/vmclock_host`) or file. Its time has the page's own bounds, and its
/// disruption marker is the epoch of the counter, also while it gives no time. One that was removed gives no time; one
/// that was replaced is followed.
///
/// ```
/// use vmclock_host::source::page::PageSource;
/// let error = PageSource::open("/no/page".as_ref()).expect_err("nothing there");
/// assert!(error.to_string().starts_with("vmclock /no/page: cannot be opened"));
/// ```
#[derive(Debug)]
pub struct PageSource {
    name: String,
    path: PathBuf,
    page: File,
    /// Of the page that is open: device and inode.
    identity: (u64, u64),
    clock: String,
    is_tai: bool,
}

impl PageSource {
    /// Opens it. What is no page (yet) gives no time when it is measured.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let name = format!("vmclock {}", path.display());
        let (metadata, page) = match opened(path) {
            Ok(opened) => opened,
            Err(error) => return Err(SourceError::Io { name, what: "cannot be opened", error }),
        };
        // A device may have several nodes; a file may have several names.
        let clock = if metadata.file_type().is_char_device() {
            format!("vmclock device {}", metadata.rdev())
        } else {
            format!("vmclock file {} {}", metadata.dev(), metadata.ino())
        };
        let identity = identity(&metadata);
        let mut source = Self { name, path: path.into(), page, identity, clock, is_tai: false };
        // Constant for the life of a page, whether or not an update is in progress.
        source.is_tai = source.bytes().is_ok_and(|bytes| Snapshot::from_bytes(&bytes).time_type == TimeType::TAI);
        Ok(source)
    }

    /// Makes sure that it is the page that its path names. What is mapped by nobody but us any more says for ever what
    /// its publisher said last, and never that the counter was disrupted.
    fn follow(&mut self) -> Result<(), SourceError> {
        let failed = |what, error| SourceError::Io { name: self.name.clone(), what, error };
        let named = std::fs::metadata(&self.path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => failed("was removed; start its publisher again", error),
            _ => failed("cannot be found any more", error),
        })?;
        if identity(&named) != self.identity {
            let (metadata, page) =
                opened(&self.path).map_err(|error| failed("was replaced, and cannot be opened", error))?;
            (self.page, self.identity) = (page, identity(&metadata));
        }
        Ok(())
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
            // The driver's read is consistent; a file's is where nothing changed meanwhile.
            if first == last && Snapshot::from_bytes(&first).seq_count & 1 == 0 {
                let page = Snapshot::from_prefix(&first).map_err(|error| self.no_time(error.to_string()))?;
                return Ok((page, counter));
            }
            if start.elapsed() > TIMEOUT {
                return Err(self.no_time(format!("in the middle of an update for {TIMEOUT:?}; restart its publisher")));
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

impl Measure for PageSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn clock(&self) -> String {
        self.clock.clone()
    }

    fn is_tai(&self) -> bool {
        self.is_tai
    }

    fn measure(&mut self) -> Result<Measurement, SourceError> {
        self.follow()?;
        let (page, counter) = self.read()?;
        measurement(&page, counter).map_err(|reason| {
            let era = page.disruption_marker;
            SourceError::NoTimeInEra { name: self.name.clone(), reason, era }
        })
    }
}

fn opened(path: &Path) -> io::Result<(Metadata, File)> {
    let page = File::open(path)?;
    Ok((page.metadata()?, page))
}

/// The file behind a name.
fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// What a page says when the counter is `counter`; or why it says nothing.
fn measurement(page: &Snapshot, counter: u64) -> Result<Measurement, String> {
    let calibration = Calibration::from_snapshot(page, counter::ID).map_err(|error| error.to_string())?;
    let time = calibration.time_at(counter).map_err(|error| error.to_string())?;
    let interval = calibration.interval_at(counter).map_err(|error| error.to_string())?;
    let interval = interval.ok_or("has no error bounds, and none are made up")?;
    let error = |nanos: u128| u64::try_from(nanos).unwrap_or(u64::MAX);
    let max_error = error(interval.width_nanos().div_ceil(2));
    let estimated = calibration.estimated_error_at(counter).map_or(max_error, error).min(max_error);
    let leap = notice(page, calibration.reference_time(), time);
    // A page may not have been refreshed since a leap second that it announces: its own seconds continue as if there
    // were none.
    let on_tai = || leap::tai(page, time);
    let on_utc = || UtcRule::from_snapshot(page)?.utc(time);
    let stamp = match page.time_type {
        TimeType::TAI => on_tai().map(|time| Stamp::Tai(Sample { before: counter, time, after: counter })),
        TimeType::UTC => on_utc().map(|utc| Stamp::Utc(Sample { before: counter, time: utc.time, after: counter })),
        other => return Err(format!("its time is {other}, which has no known epoch")),
    };
    Ok(Measurement {
        stamp: stamp
            .ok_or_else(|| format!("its leap indicator, {}, has no meaning at its time", page.leap_indicator))?,
        max_error,
        estimated_error: estimated,
        synchronized: page.clock_status == ClockStatus::SYNCHRONIZED,
        leap,
        // A restore without a disruption, a clone, leaves the counter as it was.
        era: page.disruption_marker,
        steering: None,
    })
}

/// What a page announces of leap seconds at a time that may be later than its reference. The indicator is about the end
/// of the reference's month, a notice about that of the day. Where UTC cannot be known, there is none.
fn notice(page: &Snapshot, reference: Time<PageScale>, time: Time<PageScale>) -> LeapNotice {
    const DAY: i64 = 86_400;
    let Some(rule) = UtcRule::from_snapshot(page) else { return LeapNotice::default() };
    let (Some(reference), Some(utc)) = (rule.utc(reference), rule.utc(time)) else { return LeapNotice::default() };
    let due = next_month_start(reference.time.seconds());
    let is_to_come = (due.saturating_sub(DAY)..due).contains(&utc.time.seconds()) && !utc.leap_second;
    // Both have the same fraction.
    let tai_offset = leap::tai(page, time).map(|tai| tai.seconds().wrapping_sub(utc.time.seconds()));
    LeapNotice {
        today: match page.leap_indicator {
            LeapIndicator::PRE_POSITIVE if is_to_come => Some(LeapKind::Inserted),
            LeapIndicator::PRE_NEGATIVE if is_to_come => Some(LeapKind::Deleted),
            _ => None,
        },
        now: utc.leap_second,
        tai_offset: tai_offset.and_then(|seconds| TaiOffset::from_seconds(i16::try_from(seconds).ok()?)),
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
        Snapshot::BLANK.with(|page| {
            page.counter_id = counter::ID;
            page.time_type = TimeType::TAI;
            page.clock_status = ClockStatus::SYNCHRONIZED;
            page.flags = Flags::TIME_MAXERROR_VALID.with(Flags::PERIOD_MAXERROR_VALID).with(Flags::TAI_OFFSET_VALID);
            page.disruption_marker = 77;
            page.tai_offset_sec = -37;
            page.counter_value = 1_000;
            page.counter_period_frac_sec = period.frac();
            page.counter_period_shift = period.shift();
            page.counter_period_maxerror_rate_frac_sec = period.error_rate(1_000_000);
            page.time_sec = 1_800_000_037;
            page.time_maxerror_nanosec = 500;
        })
    }

    #[test]
    fn bounds_are_inherited() {
        let seen = measurement(&page(), 1_000 + 1_000_000_000).expect("a time");
        let Stamp::Tai(sample) = seen.stamp else { panic!("{:?}", seen.stamp) };
        assert_eq!(sample.time.ceil_nanos(), 1_800_000_038_000_000_000);
        // 500 ns, and 1 ppm of a second; and a nanosecond for each rounding.
        assert!((1_500..=1_503).contains(&seen.max_error), "{}", seen.max_error);
        assert_eq!((seen.era, seen.synchronized), (77, true));
        assert_eq!(seen.leap.tai_offset, TaiOffset::from_seconds(37));
    }

    #[test]
    fn what_has_no_bounds_or_no_time_gives_none() {
        for (change, part) in [
            (page().with(|page| page.flags = Flags::NONE), "no error bounds"),
            (page().with(|page| page.clock_status = ClockStatus::UNRELIABLE), "unreliable"),
            (page().with(|page| page.time_type = TimeType::MONOTONIC), "no known epoch"),
        ] {
            let error = measurement(&change, 1_000).expect_err(part);
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_leap_second_is_announced_on_its_day() {
        // 2016-12-31 and its leap second; and the day before.
        let new_year = 1_483_228_800;
        for (utc, today) in [(new_year - 100, Some(LeapKind::Inserted)), (new_year - 100_000, None)] {
            let page = page().with(|page| {
                page.leap_indicator = LeapIndicator::PRE_POSITIVE;
                page.tai_offset_sec = -36;
                page.time_sec = utc + 36;
            });
            assert_eq!(measurement(&page, 1_000).expect("a time").leap.today, today);
        }
    }

    #[test]
    fn utc_of_a_page_that_is_not_refreshed_passes_the_leap_second() {
        // Half a second before the end of 2016, and so many half seconds later: POSIX seconds from 2017 on, whether it
        // is 23:59:60, what is still to come, and TAI-UTC.
        let new_year = 1_483_228_800;
        let (positive, negative) = (LeapIndicator::PRE_POSITIVE, LeapIndicator::PRE_NEGATIVE);
        for (kind, indicator, halves, posix, now, today, offset) in [
            (TimeType::UTC, positive, 0, -1, false, Some(LeapKind::Inserted), 36),
            (TimeType::UTC, positive, 1, -1, true, None, 37),
            (TimeType::UTC, positive, 2, -1, true, None, 37),
            (TimeType::UTC, positive, 3, 0, false, None, 37),
            (TimeType::UTC, positive, 60, 28, false, None, 37),
            (TimeType::TAI, positive, 0, -1, false, Some(LeapKind::Inserted), 36),
            (TimeType::TAI, positive, 1, -1, true, None, 37),
            (TimeType::TAI, positive, 60, 28, false, None, 37),
            (TimeType::UTC, negative, 60, 30, false, None, 35),
        ] {
            let seconds = if kind == TimeType::TAI { new_year - 1 + 36 } else { new_year - 1 };
            let page = page().with(|page| {
                page.time_type = kind;
                page.leap_indicator = indicator;
                page.tai_offset_sec = -36;
                page.time_sec = seconds;
                page.time_frac_sec = 1 << 63;
            });
            let seen = measurement(&page, 1_000 + halves * 500_000_000 + 1_000).expect("a time");
            let utc = match seen.stamp {
                Stamp::Utc(sample) => sample.time.seconds(),
                Stamp::Tai(sample) => {
                    let offset = seen.leap.tai_offset.expect("on the page");
                    offset.utc(sample.time).expect("in range").seconds()
                }
            };
            let leap = LeapNotice { today, now, tai_offset: TaiOffset::from_seconds(offset) };
            assert_eq!((utc - 1_483_228_800, seen.leap), (posix, leap), "{kind} {indicator} {halves}");
        }
    }

    proptest! {
            /// Whatever is on it: a page is not trusted input.
            #[test]
            fn no_page_makes_it_panic(
                (kind, leap, tai_offset_sec) in (0..5_u8, any::<u8>(), any::<i16>()),
                time_sec in prop_oneof![0..(1_u64 << 63), (1_u64 << 63) - 100_000_000..1 << 63, 0..100_000_000_u64],
                (frac, shift, time_frac_sec, error, rate) in any::<(u64, u8, u64, u64, u64)>(),
                (counter_value, counter) in any::<(u64, u64)>(),
            ) {
                let page = page().with(|page| {
        page.time_type = TimeType(kind);
        page.leap_indicator = LeapIndicator(leap % 8);
        page.tai_offset_sec = if kind == 0 { tai_offset_sec } else { tai_offset_sec % 60 };
        page.time_sec = time_sec;
        page.time_frac_sec = time_frac_sec;
        page.counter_value = counter_value;
        page.counter_period_frac_sec = frac;
        page.counter_period_shift = shift % 128;
        page.counter_period_maxerror_rate_frac_sec = rate;
        page.time_maxerror_nanosec = error;
    });
                if let Ok(seen) = measurement(&page, counter) {
                    prop_assert!(seen.estimated_error <= seen.max_error);
                }
            }
        }

    #[test]
    fn utc_that_cannot_be_known_is_no_time() {
        // "In 23:59:60", in the middle of a month.
        let page = page().with(|page| page.leap_indicator = LeapIndicator::POSITIVE);
        let error = measurement(&page.with(|page| page.time_type = TimeType::UTC), 1_000).expect_err("a contradiction");
        assert!(error.contains("leap indicator"), "{error}");
        let seen = measurement(&page, 1_000).expect("TAI does not depend on it");
        assert_eq!(seen.leap, LeapNotice::default());
    }

    #[test]
    fn a_file_that_is_no_page_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("page");
        std::fs::write(&path, [0xff; 200]).expect("written");
        let error = PageSource::open(&path).expect("opened").measure().expect_err("no page").to_string();
        assert!(error.contains(path.to_str().expect("plain")), "{error}");
        std::fs::write(&path, page().to_bytes()).expect("written");
        PageSource::open(&path).expect("opened").measure().expect("a time");
        std::fs::write(&path, &page().to_bytes()[..STRUCTURE_LEN - 1]).expect("written");
        let error = PageSource::open(&path).expect("opened").measure().expect_err("short").to_string();
        assert!(error.contains("shorter than a VMClock page"), "{error}");
        let odd = page().with(|page| page.seq_count = 5);
        std::fs::write(&path, odd.to_bytes()).expect("written");
        let error = PageSource::open(&path).expect("opened").measure().expect_err("odd").to_string();
        assert!(error.contains("in the middle of an update"), "{error}");
    }

    #[test]
    fn a_page_without_a_time_still_has_its_marker() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("page");
        let unreliable = page().with(|page| page.clock_status = ClockStatus::UNRELIABLE);
        std::fs::write(&path, unreliable.to_bytes()).expect("written");
        let mut source = PageSource::open(&path).expect("opened");
        assert_eq!(source.measure().expect_err("no time").era(), Some(77));
        std::fs::write(&path, unreliable.with(|page| page.disruption_marker = 78).to_bytes()).expect("written");
        assert_eq!(source.measure().expect_err("no time").era(), Some(78));
    }

    #[test]
    fn a_page_that_was_removed_gives_no_time_and_one_that_was_replaced_is_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, next) = (folder.path().join("page"), folder.path().join("next"));
        std::fs::write(&path, page().to_bytes()).expect("written");
        let mut source = PageSource::open(&path).expect("opened");
        assert_eq!(source.measure().expect("a time").era, 77);
        std::fs::write(&next, page().with(|page| page.disruption_marker = 78).to_bytes()).expect("written");
        std::fs::rename(&next, &path).expect("replaced");
        assert_eq!(source.measure().expect("the new page's time").era, 78);
        std::fs::remove_file(&path).expect("removed");
        let error = source.measure().expect_err("nobody publishes in it").to_string();
        assert!(error.contains("page: was removed; start its publisher again"), "{error}");
        std::fs::write(&path, page().with(|page| page.disruption_marker = 79).to_bytes()).expect("written");
        assert_eq!(source.measure().expect("a page again").era, 79);
    }

    #[test]
    fn a_page_is_one_clock_by_any_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let names = ["page", "link", "other"].map(|name| folder.path().join(name));
        std::fs::write(&names[0], page().to_bytes()).expect("written");
        std::fs::hard_link(&names[0], &names[1]).expect("linked");
        std::fs::write(&names[2], page().with(|page| page.time_type = TimeType::UTC).to_bytes()).expect("written");
        let [page, link, other] = names.map(|path| PageSource::open(&path).expect("opened"));
        assert_eq!(page.clock(), link.clock());
        assert_ne!(page.clock(), other.clock());
        assert_ne!(page.name(), link.name());
        assert_eq!([page.is_tai(), link.is_tai(), other.is_tai()], [true, true, false]);
    }
}
