// SPDX-License-Identifier: MIT OR Apache-2.0
//! The segment of ClockBound 3: a formula from the counter to UTC, as a page has one. The client reads the counter, not
//! `CLOCK_REALTIME`, so its bounds are those of the page, whatever becomes of the system's clock.
//!
//! Version 3 of the layout, as `ClockErrorBoundV3` of clock-bound 3.0.0-rc.0 has it (`src/shm.rs`): there is no
//! document of it, and it may change until 3.0.0.

use std::path::{Path, PathBuf};
use std::time::Duration;

use vmclock::{Reading, VmClock};
use vmclock_core::abi::{ClockStatus, Snapshot};
use vmclock_core::counter;

use super::file::{self, Layout, SegmentFile};
use super::{words, Status};
use crate::feed::{Feed, FeedError, Leap};
use crate::measure::Measured;

/// Where clients of ClockBound 3 look.
pub const DEFAULT_PATH: &str = "/var/run/clockbound/shm1";

/// The oldest layout that a reader may know, and this one.
const LAYOUT: Layout = Layout { version: 3 << 8 | 3, words: 11 };

/// How a segment is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The file: [`DEFAULT_PATH`], unless clients are told of another.
    pub path: PathBuf,
    /// For how long a calibration can be used, by default 1000 s, as with ClockBound's daemon. After 60 s without
    /// another the client says "free-running", after this "unknown".
    pub valid_for: Duration,
    /// Whether clients compare the disruption marker themselves, with that of `/dev/vmclock0`: they fail where they
    /// cannot read it. Right only if this is the page that is fed from. By default `false`: a client learns of a
    /// disruption when the segment says so.
    pub compare_marker: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { path: DEFAULT_PATH.into(), valid_for: Duration::from_secs(1_000), compare_marker: false }
    }
}

/// A segment that this process writes, of what a page says.
#[derive(Debug)]
pub struct ClockBound3 {
    settings: Settings,
    name: String,
    path: PathBuf,
    /// Opened when it is there.
    page: Option<VmClock>,
    file: SegmentFile,
    contents: Contents,
}

/// What a segment says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Contents {
    counter: u64,
    /// UTC, in nanoseconds since 1970.
    as_of: i64,
    void_after: i64,
    /// Seconds in a tick, in 2^-(64 + shift).
    period: u64,
    shift: u8,
    /// The period's error, relative to it, in 2^-64.
    period_error: u64,
    /// ± nanoseconds.
    bound: i64,
    marker: u64,
    status: Status,
}

/// Why there is nothing to say.
enum Silence {
    NoTime,
    /// Clients would cross a leap second, or it is under way.
    LeapSecond,
}

impl Contents {
    const UNKNOWN: Self = Self {
        counter: 0,
        as_of: 0,
        void_after: 0,
        period: 0,
        shift: 0,
        period_error: 0,
        bound: 0,
        marker: 0,
        status: Status::Unknown,
    };

    /// What a page says at a value of the counter that no reader is before.
    fn of(page: &Snapshot, counter: u64, valid_for: Duration) -> Result<Self, Silence> {
        let Time { utc, max_error, period_error } = Time::of(page, counter).ok_or(Silence::NoTime)?;
        let valid = Leap::at(page.leap_indicator, utc.into()).none_for().ok_or(Silence::LeapSecond)?;
        let valid = valid.min(i128::try_from(valid_for.as_nanos()).unwrap_or(i128::MAX)).max(0);
        Ok(Self {
            counter,
            as_of: utc,
            void_after: i64::try_from(i128::from(utc) + valid).map_err(|_| Silence::NoTime)?,
            period: page.counter_period_frac_sec,
            shift: page.counter_period_shift,
            period_error,
            bound: max_error,
            marker: page.disruption_marker,
            status: match page.clock_status {
                ClockStatus::SYNCHRONIZED => Status::Synchronized,
                _ => Status::FreeRunning,
            },
        })
    }

    fn words(&self, compare_marker: bool) -> [u64; 11] {
        let timespec = |nanos: i64| [nanos.div_euclid(1_000_000_000), nanos.rem_euclid(1_000_000_000)];
        let ([as_of, as_of_nanos], [void, void_nanos]) = (timespec(self.as_of), timespec(self.void_after));
        [
            self.counter,
            words::signed(as_of),
            words::signed(as_of_nanos),
            words::signed(void),
            words::signed(void_nanos),
            self.period,
            self.period_error,
            words::signed(self.bound),
            self.marker,
            // The maximum drift is in the period's error.
            words::pair(0, self.status as u32),
            words::bytes([compare_marker.into(), self.shift, 0, 0, 0, 0, 0, 0]),
        ]
    }
}

/// A page's time, for clients that compute with 64 bits of floating point.
struct Time {
    /// In nanoseconds since 1970.
    utc: i64,
    /// ± nanoseconds.
    max_error: i64,
    /// The period's, relative to it, in 2^-64.
    period_error: u64,
}

impl Time {
    fn of(page: &Snapshot, counter: u64) -> Option<Self> {
        let reading = Reading::new(page, counter, counter::ID).ok()?;
        let utc = i64::try_from(reading.utc_timestamp()?.nanos()).ok()?;
        // A nanosecond each for what is cut off here, and by the client of the time and of the bound; and its numbers
        // have 53 bits, which in 1000 s makes less than another.
        let max_error = reading.max_error_nanos()?.checked_add(4)?;
        let max_error = i64::try_from(max_error).ok().filter(|error| *error < 1 << 62)?;
        let (period, error) = (u128::from(page.counter_period_frac_sec), u128::from(page.period_maxerror()?));
        // A little more than the page's, for the same reason. Clients refuse 100 % or more, which is no 64 bits.
        let period_error = (error << 64).checked_div(period)?.checked_add(1 << 12)?;
        Some(Self { utc, max_error, period_error: u64::try_from(period_error).ok()? })
    }
}

impl ClockBound3 {
    /// Opens or makes the segment, which says that nothing is known. What it says later is read from the page at
    /// `page`, which may not be there yet.
    pub fn open(settings: Settings, page: impl Into<PathBuf>) -> Result<Self, FeedError> {
        let name = file::name(&settings.path);
        let file = SegmentFile::open(&settings.path, LAYOUT)?;
        let mut feed = Self { settings, name, path: page.into(), page: None, file, contents: Contents::UNKNOWN };
        // What its last writer left may be from before a disruption.
        feed.write(Contents::UNKNOWN)?;
        Ok(feed)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Of the page that has its name now.
    fn snapshot(&mut self) -> Result<Snapshot, Silence> {
        if self.page.as_ref().is_none_or(|page| page.check().is_err()) {
            self.page = VmClock::open_at(&self.path).ok();
        }
        self.page.as_ref().and_then(|page| page.snapshot().ok()).ok_or(Silence::NoTime)
    }

    fn write(&mut self, contents: Contents) -> Result<(), FeedError> {
        self.file.write(&contents.words(self.settings.compare_marker))?;
        self.contents = contents;
        Ok(())
    }

    fn write_status(&mut self, status: Status) -> Result<(), FeedError> {
        self.write(Contents { status, ..self.contents })
    }
}

impl Feed for ClockBound3 {
    fn name(&self) -> &str {
        &self.name
    }

    /// What the page says now; the measurement of `CLOCK_REALTIME` is of no use here. A page that is free-running but
    /// has bounds makes the segment say so, and one without them makes it say "unknown".
    fn update(&mut self, _: &Measured) -> Result<(), FeedError> {
        let contents = self.snapshot().and_then(|page| {
            // After the page, and before it is published: no reader is before.
            Contents::of(&page, counter::read_ordered(), self.settings.valid_for)
        });
        match contents {
            Ok(contents) => self.write(contents),
            Err(silence) => {
                self.write_status(Status::Unknown)?;
                let name = self.name.clone();
                Err(match silence {
                    Silence::NoTime => FeedError::NotSynchronized { name },
                    Silence::LeapSecond => FeedError::LeapSecond { name },
                })
            }
        }
    }

    fn disrupted(&mut self) -> Result<(), FeedError> {
        self.write_status(Status::Disrupted)
    }
}

impl Drop for ClockBound3 {
    fn drop(&mut self) {
        // One that is not ours any more is left as it is.
        let _ = self.write_status(Status::Unknown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::tests::measured;
    use clock_bound::{Client, ClockStatus as Said};
    use proptest::prelude::*;
    use vmclock::mock::MockPage;
    use vmclock_core::abi::{Flags, LeapIndicator, TimeType};

    fn open(folder: &tempfile::TempDir) -> (ClockBound3, Client) {
        let settings = Settings { path: folder.path().join("shm1"), ..Settings::default() };
        let feed = ClockBound3::open(settings, folder.path().join("page")).expect("a segment");
        let client = Client::new_with_path(feed.path().to_str().expect("UTF-8")).expect("a client");
        (feed, client)
    }

    /// What is not used.
    fn nothing() -> Measured {
        measured(vmclock_core::time::Time::from_parts(0, 0), 0)
    }

    /// A page of this machine's counter, in 2033.
    fn page() -> Snapshot {
        MockPage::new().contents().with(|page| {
            page.counter_id = counter::ID;
            page.counter_value = counter::read_ordered();
        })
    }

    /// A file with it, which is written in place where it is there.
    fn publish(folder: &tempfile::TempDir, page: Snapshot) {
        let mut bytes = vec![0; 4096];
        bytes[..112].copy_from_slice(&page.to_bytes());
        std::fs::write(folder.path().join("page"), bytes).expect("written");
    }

    #[test]
    fn the_unmodified_client_gives_the_pages_time_and_bounds() {
        let folder = tempfile::tempdir().expect("a folder");
        let page = page();
        publish(&folder, page);
        let (mut feed, mut client) = open(&folder);
        assert_eq!(client.now().expect("a segment").clock_status, Said::Unknown);
        feed.update(&nothing()).expect("written");
        let now = || {
            let reading = Reading::new(&page, counter::read_ordered(), counter::ID).expect("time");
            let utc = reading.utc_timestamp().expect("UTC").nanos();
            (utc, i128::try_from(reading.max_error_nanos().expect("bounds")).expect("fits"))
        };
        let (before, least) = now();
        let window = client.now().expect("bounds");
        let (after, most) = now();
        assert_eq!(window.clock_status, Said::Synchronized);
        let nanos = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        let earliest = nanos(window.earliest.tv_sec(), window.earliest.tv_nsec());
        let latest = nanos(window.latest.tv_sec(), window.latest.tv_nsec());
        let (middle, bound) = (earliest + (latest - earliest) / 2, (latest - earliest) / 2);
        assert!((before - 2..=after + 2).contains(&middle), "{before} {middle} {after}");
        assert!((least..=most + 8).contains(&bound), "{least} {bound} {most}");
    }

    #[test]
    fn the_client_follows_what_happens() {
        let folder = tempfile::tempdir().expect("a folder");
        let good = page();
        let (mut feed, mut client) = open(&folder);
        feed.update(&nothing()).expect_err("there is no page yet");
        let mut status = || client.now().expect("a segment").clock_status;
        let mut update = |page| {
            publish(&folder, page);
            feed.update(&nothing())
        };
        update(good).expect("written");
        assert_eq!(status(), Said::Synchronized);
        update(good.with(|page| page.clock_status = ClockStatus::FREE_RUNNING)).expect("written");
        assert_eq!(status(), Said::FreeRunning);
        let unreliable = update(good.with(|page| page.clock_status = ClockStatus::UNRELIABLE));
        assert!(matches!(unreliable, Err(FeedError::NotSynchronized { .. })));
        assert_eq!(status(), Said::Unknown);
        update(good).expect("written");
        assert_eq!(status(), Said::Synchronized);
        update(good.with(|page| page.flags = page.flags.without(Flags::PERIOD_MAXERROR_VALID))).expect_err("no bounds");
        assert_eq!(status(), Said::Unknown);
        update(good).expect("written");
        feed.disrupted().expect("written");
        assert_eq!(status(), Said::Disrupted);
        feed.update(&nothing()).expect("written");
        assert_eq!(status(), Said::Synchronized);
        // Another page in its place.
        std::fs::remove_file(folder.path().join("page")).expect("removed");
        feed.update(&nothing()).expect_err("gone");
        assert_eq!(status(), Said::Unknown);
        publish(&folder, good);
        feed.update(&nothing()).expect("written");
        assert_eq!(status(), Said::Synchronized);
        drop(feed);
        assert_eq!(status(), Said::Unknown);
    }

    #[test]
    fn it_ends_before_a_leap_second() {
        let at = |seconds: u64, indicator| {
            let page = page().with(|page| {
                page.time_type = TimeType::UTC;
                page.time_sec = 1_483_228_800 - seconds;
                page.time_frac_sec = 0;
                page.leap_indicator = indicator;
            });
            Contents::of(&page, page.counter_value, Duration::from_secs(1_000))
        };
        for (seconds, indicator, expected) in [
            (100, LeapIndicator::NONE, 1_000),
            (100, LeapIndicator::PRE_POSITIVE, 90),
            (5_000, LeapIndicator::PRE_NEGATIVE, 1_000),
        ] {
            let contents = at(seconds, indicator).ok().expect("time");
            assert_eq!(contents.void_after - contents.as_of, expected * 1_000_000_000);
        }
        assert!(matches!(at(9, LeapIndicator::PRE_POSITIVE), Err(Silence::LeapSecond)));
    }

    proptest! {
        /// Whatever the page says, what is made of it is no better than the page, or nothing.
        #[test]
        fn no_page_makes_up_a_bound(
            time in any::<[u64; 9]>(), shift in any::<u8>(), status in 1..4_u8, leap in 0..6_u8, ticks in any::<u32>(),
        ) {
            let page = page().with(|page| {
                page.counter_value = time[0];
                page.counter_period_frac_sec = time[1];
                page.counter_period_maxerror_rate_frac_sec = time[2] >> (time[3] % 64);
                page.time_sec = time[4] >> (31 + time[5] % 33);
                page.time_frac_sec = time[6];
                page.time_maxerror_nanosec = time[7] >> (time[8] % 64);
                page.counter_period_shift = shift;
                page.clock_status = ClockStatus(status);
                page.leap_indicator = LeapIndicator(leap);
            });
            let counter = page.counter_value.wrapping_add(ticks.into());
            let Ok(contents) = Contents::of(&page, counter, Duration::from_secs(1_000)) else { return Ok(()) };
            let reading = Reading::new(&page, counter, counter::ID).expect("time");
            let bound = u128::try_from(contents.bound).expect("positive");
            prop_assert!(bound > reading.max_error_nanos().expect("bounds"));
            let error = u128::from(page.period_maxerror().expect("bounds"));
            prop_assert!((u128::from(contents.period_error) * u128::from(contents.period)) >> 64 >= error);
            prop_assert!(contents.void_after >= contents.as_of);
        }
    }
}
