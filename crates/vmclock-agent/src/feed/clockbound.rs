// SPDX-License-Identifier: MIT OR Apache-2.0
//! ClockBound's shared memory segment, written in its daemon's place: programs that are linked with its client library
//! get `CLOCK_REALTIME` with error bounds. Version 2 of the layout, which ClockBound 2 reads; [`v3`] is the next one.
//!
//! The client takes `CLOCK_REALTIME`, adds and subtracts a bound that grows with time, and says how far to trust it. So
//! the bound is that of `CLOCK_REALTIME`, whatever the source's own is: how far it may be from UTC, at most.
//!
//! The file appears under its name when it is complete. One that is there and valid is taken over in place, so that
//! clients that have it mapped continue with it. It says "unknown" until the first measurement, and again when the feed
//! is dropped.

mod file;
mod segment;
pub mod v3;
mod words;

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::time::{clock_getres, clock_gettime, ClockId, Timespec};

use self::file::{Layout, SegmentFile};
use super::{Feed, FeedError, Leap};
use crate::measure::Measured;

/// Where clients of ClockBound 2 look.
pub const DEFAULT_PATH: &str = "/var/run/clockbound/shm0";

/// `ClockErrorBound` of version 2: `docs/PROTOCOL.md` of ClockBound 2.
const LAYOUT: Layout = Layout { version: 2, words: 8 };
/// How far `CLOCK_REALTIME` may have moved since it was measured.
const MAX_AGE: i128 = 10_000_000_000;
const NANOS: i128 = 1_000_000_000;

/// `ClockStatus`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Status {
    Unknown = 0,
    Synchronized = 1,
    FreeRunning = 2,
    Disrupted = 3,
}

/// How a segment is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The file: [`DEFAULT_PATH`], unless clients are told of another.
    pub path: PathBuf,
    /// How many nanoseconds `CLOCK_REALTIME` may drift from UTC in a second, between measurements (parts per billion):
    /// the bound grows so fast. Less than 10⁹. By default 500 000, the most that Linux lets a frequency be corrected
    /// by, as who disciplines the clock, and how well, is not known. Where it is: what the oscillator and the
    /// discipline need.
    pub max_drift_ppb: u32,
    /// For how long a measurement can be used. By default 1000 s, as with ClockBound's daemon. After 5 s without
    /// another the client says "free-running", after this "unknown".
    pub valid_for: Duration,
    /// Whether clients compare the disruption marker themselves, with that of `/dev/vmclock0`: they fail where they
    /// cannot read it. Right only if this is the page that is measured with. By default `false`: a client learns of a
    /// disruption when the segment says so.
    pub compare_marker: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            path: DEFAULT_PATH.into(),
            max_drift_ppb: 500_000,
            valid_for: Duration::from_secs(1_000),
            compare_marker: false,
        }
    }
}

/// A segment that this process writes.
#[derive(Debug)]
pub struct ClockBound {
    settings: Settings,
    name: String,
    file: SegmentFile,
    contents: Contents,
}

/// What a segment says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Contents {
    as_of: Timespec,
    void_after: Timespec,
    /// ± nanoseconds.
    bound: i64,
    marker: u64,
    status: Status,
}

impl Contents {
    const UNKNOWN: Self = Self { as_of: ZERO, void_after: ZERO, bound: 0, marker: 0, status: Status::Unknown };
}

const ZERO: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

impl ClockBound {
    /// Opens or makes the segment, which says that nothing is known.
    pub fn open(settings: Settings) -> Result<Self, FeedError> {
        let name = file::name(&settings.path);
        if settings.max_drift_ppb >= 1_000_000_000 {
            let what = format!("max_drift_ppb = {} is 100 % or more: clients refuse it", settings.max_drift_ppb);
            return Err(FeedError::Setting { name, what });
        }
        let file = SegmentFile::open(&settings.path, LAYOUT)?;
        let mut feed = Self { settings, name, file, contents: Contents::UNKNOWN };
        // What its last writer left may be from before a disruption.
        feed.write(Contents::UNKNOWN)?;
        Ok(feed)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    fn write(&mut self, contents: Contents) -> Result<(), FeedError> {
        self.file.write(&[
            words::signed(contents.as_of.tv_sec),
            words::signed(contents.as_of.tv_nsec),
            words::signed(contents.void_after.tv_sec),
            words::signed(contents.void_after.tv_nsec),
            words::signed(contents.bound),
            contents.marker,
            words::pair(self.settings.max_drift_ppb, contents.status as u32),
            words::bytes([self.settings.compare_marker.into(), 0, 0, 0, 0, 0, 0, 0]),
        ])?;
        self.contents = contents;
        Ok(())
    }

    /// What a measurement makes the segment say, at `now` on `CLOCK_MONOTONIC_COARSE`, when `CLOCK_REALTIME` shows
    /// `realtime` nanoseconds.
    fn contents_of(&self, measured: &Measured, now: Timespec, realtime: i128) -> Result<Contents, FeedError> {
        let name = || self.name.clone();
        let age = realtime - measured.realtime.floor_nanos();
        if !(0..=MAX_AGE).contains(&age) {
            return Err(FeedError::Stale { name: name(), age });
        }
        let ahead = measured.ahead;
        let bound = ahead.low.checked_abs().zip(ahead.high.checked_abs()).map(|(low, high)| low.max(high));
        // The client cuts the growth to whole nanoseconds: one more. The limit, some 146 years, is far from where its
        // arithmetic ends.
        let bound = bound.filter(|_| ahead.low <= ahead.high).and_then(|bound| i64::try_from(bound).ok());
        let bound = bound.filter(|bound| *bound < i64::MAX / 2).map(|bound| bound + 1);
        let bound = bound.ok_or_else(|| FeedError::OutOfRange { name: name(), ahead })?;
        let valid = Leap::of(measured).none_for().ok_or_else(|| FeedError::LeapSecond { name: name() })?;
        let valid = valid.min(i128::try_from(self.settings.valid_for.as_nanos()).unwrap_or(i128::MAX)).max(0);
        // Where a client reads this clock, it lags by up to a tick of the kernel: so long before, then.
        let tick = clock_getres(ClockId::MonotonicCoarse);
        let nanos = |time: Timespec| i128::from(time.tv_sec) * NANOS + i128::from(time.tv_nsec);
        let as_of = (nanos(now) - nanos(tick) - age).max(0);
        Ok(Contents {
            as_of: timespec(as_of),
            void_after: timespec(as_of.saturating_add(valid)),
            bound,
            marker: measured.epoch.map_or(0, |epoch| epoch.disruption_marker),
            status: if measured.synchronized { Status::Synchronized } else { Status::FreeRunning },
        })
    }
}

/// Not negative; what is beyond 2^62 s is that.
fn timespec(nanos: i128) -> Timespec {
    let tv_sec = i64::try_from(nanos / NANOS).unwrap_or(i64::MAX).min(1 << 62);
    Timespec { tv_sec, tv_nsec: i64::try_from(nanos % NANOS).unwrap_or(0) }
}

impl Feed for ClockBound {
    fn name(&self) -> &str {
        &self.name
    }

    /// A source that is not synchronized but has bounds makes the segment say "free-running": its bounds hold. What
    /// cannot be passed on makes it say "unknown".
    fn update(&mut self, measured: &Measured) -> Result<(), FeedError> {
        // Before the other: a delay between them makes the bound larger, not smaller.
        let now = clock_gettime(ClockId::MonotonicCoarse);
        let realtime = clock_gettime(ClockId::Realtime);
        let realtime = i128::from(realtime.tv_sec) * NANOS + i128::from(realtime.tv_nsec);
        match self.contents_of(measured, now, realtime) {
            Ok(contents) => self.write(contents),
            Err(error) => {
                self.write(Contents { status: Status::Unknown, ..self.contents })?;
                Err(error)
            }
        }
    }

    fn disrupted(&mut self) -> Result<(), FeedError> {
        self.write(Contents { status: Status::Disrupted, ..self.contents })
    }
}

impl Drop for ClockBound {
    fn drop(&mut self) {
        // One that is not ours any more is left as it is.
        let _ = self.write(Contents { status: Status::Unknown, ..self.contents });
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::measured;
    use super::file::HEADER_LEN;
    use super::*;
    use std::fs::{self, OpenOptions};
    use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
    use std::sync::atomic::{fence, Ordering};

    use crate::measure::Ahead;
    use clock_bound_client::{ClockBoundClient, ClockBoundNowResult, ClockStatus};
    use vmclock_core::abi::LeapIndicator;
    use vmclock_core::event::Epoch;
    use vmclock_core::leap::LeapStatus;
    use vmclock_core::time::{Time, Utc};

    struct Lab {
        folder: tempfile::TempDir,
        settings: Settings,
    }

    impl Lab {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("clockbound/shm0");
            Self { folder, settings: Settings { path, ..Settings::default() } }
        }

        fn open(&self) -> ClockBound {
            ClockBound::open(self.settings.clone()).expect("a segment")
        }

        /// ClockBound's own.
        fn client(&self) -> ClockBoundClient {
            ClockBoundClient::new_with_path(self.settings.path.to_str().expect("UTF-8")).expect("a client")
        }
    }

    fn realtime() -> Time<Utc> {
        let now = clock_gettime(ClockId::Realtime);
        Time::from_timespec(now.tv_sec, now.tv_nsec)
    }

    /// What is done within the time for which the client believes a measurement, and the feed takes it: on a busy
    /// machine perhaps not at once.
    fn soon<T>(mut act: impl FnMut() -> Result<T, FeedError>) -> T {
        loop {
            let start = std::time::Instant::now();
            let result = act();
            if start.elapsed() < Duration::from_secs(4) {
                return result.expect("written");
            }
        }
    }

    /// Half of what the client says, in nanoseconds, and around what.
    fn window(result: &ClockBoundNowResult) -> (i128, i128) {
        let nanos = |seconds: i64, nanos: i64| i128::from(seconds) * NANOS + i128::from(nanos);
        let earliest = nanos(result.earliest.tv_sec(), result.earliest.tv_nsec());
        let latest = nanos(result.latest.tv_sec(), result.latest.tv_nsec());
        ((latest - earliest) / 2, earliest + (latest - earliest) / 2)
    }

    #[test]
    fn the_unmodified_client_gives_bounds_around_the_systems_clock() {
        let lab = Lab::new();
        let mut feed = lab.open();
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(feed.path()), mode(feed.path().parent().expect("one"))), (0o644, 0o755), "for everybody");
        let mut client = lab.client();
        assert_eq!(client.now().expect("a segment").clock_status, ClockStatus::Unknown);
        let (measured, before, result, after) = soon(|| {
            // 40 us behind, ± 0.5 us; the source itself is better than that.
            let measured = measured(realtime(), -40_000);
            feed.update(&measured)?;
            let before = realtime();
            Ok((measured, before, client.now().expect("bounds"), realtime()))
        });
        assert_eq!(result.clock_status, ClockStatus::Synchronized);
        let (bound, middle) = window(&result);
        assert!((before.floor_nanos()..=after.floor_nanos()).contains(&middle), "around CLOCK_REALTIME");
        // 0.5 ms a second, since it was measured, and for a tick at least.
        let age = |then: Time<Utc>| then.floor_nanos() - measured.realtime.floor_nanos();
        assert!(bound >= 40_501 + age(before) / 2_000, "{bound}");
        let tick = clock_getres(ClockId::MonotonicCoarse);
        assert!(bound <= 40_502 + (age(after) + 2 * i128::from(tick.tv_nsec)) / 2_000 + 1, "{bound}");
    }

    #[test]
    fn the_client_follows_what_happens() {
        let lab = Lab::new();
        let mut feed = lab.open();
        let mut client = lab.client();
        let mut status = || client.now().expect("a segment").clock_status;
        let mut updated = |synchronized| {
            soon(|| feed.update(&Measured { synchronized, ..measured(realtime(), 0) }).map(|()| status()))
        };
        assert_eq!(updated(true), ClockStatus::Synchronized);
        assert_eq!(updated(false), ClockStatus::FreeRunning);
        assert_eq!(updated(true), ClockStatus::Synchronized);
        feed.disrupted().expect("written");
        assert_eq!(status(), ClockStatus::Disrupted);
        let hour_ago = Time::from_parts(realtime().seconds() - 3_600, 0);
        let error = feed.update(&measured(hour_ago, 0)).expect_err("stale");
        assert!(matches!(error, FeedError::Stale { .. }), "{error}");
        assert_eq!(status(), ClockStatus::Unknown);
        assert_eq!(soon(|| feed.update(&measured(realtime(), 0)).map(|()| status())), ClockStatus::Synchronized);
        drop(feed);
        assert_eq!(status(), ClockStatus::Unknown);
    }

    #[test]
    fn a_segment_is_taken_over_in_place_and_clients_continue() {
        let lab = Lab::new();
        let mut feed = lab.open();
        let mut client = lab.client();
        let mut status = || client.now().expect("a segment").clock_status;
        assert_eq!(soon(|| feed.update(&measured(realtime(), 0)).map(|()| status())), ClockStatus::Synchronized);
        let error = ClockBound::open(lab.settings.clone()).expect_err("in use").to_string();
        assert!(error.contains("another process writes it"), "{error}");
        // As when it is killed in the middle of an update.
        let mut bytes = fs::read(&lab.settings.path).expect("read");
        bytes[14..16].copy_from_slice(&u16::MAX.to_ne_bytes());
        drop(feed);
        OpenOptions::new()
            .write(true)
            .open(&lab.settings.path)
            .and_then(|file| file.write_all_at(&bytes, 0))
            .expect("written");
        let mut feed = lab.open();
        assert_eq!(status(), ClockStatus::Unknown);
        assert_eq!(fs::read(&lab.settings.path).expect("read")[14..16], 2_u16.to_ne_bytes(), "not 0");
        assert_eq!(soon(|| feed.update(&measured(realtime(), 0)).map(|()| status())), ClockStatus::Synchronized);
    }

    #[test]
    fn what_is_no_segment_is_replaced_or_refused() {
        let lab = Lab::new();
        let path = &lab.settings.path;
        fs::create_dir(path.parent().expect("one")).expect("made");
        let mut other_version = [0; LAYOUT.len()];
        other_version[..HEADER_LEN].copy_from_slice(&LAYOUT.header(2));
        other_version[12] = 9;
        for replaced in [&[][..], &LAYOUT.header(2)[..], &other_version[..]] {
            fs::write(path, replaced).expect("written");
            drop(lab.open());
            assert_eq!(fs::metadata(path).expect("there").len(), LAYOUT.len() as u64);
            assert_eq!(lab.client().now().expect("a segment").clock_status, ClockStatus::Unknown);
        }
        fs::write(path, "precious").expect("written");
        let error = ClockBound::open(lab.settings.clone()).expect_err("refused").to_string();
        assert!(error.contains("something else"), "{error}");
        assert_eq!(fs::read(path).expect("read"), b"precious");
        let folder = Settings { path: lab.folder.path().into(), ..Settings::default() };
        ClockBound::open(folder).expect_err("a folder");
        let runaway = Settings { max_drift_ppb: 1_000_000_000, ..lab.settings.clone() };
        ClockBound::open(runaway).expect_err("a client refuses it");
    }

    #[test]
    fn a_segment_that_is_not_ours_any_more_is_not_written() {
        let lab = Lab::new();
        let mut feed = lab.open();
        let cut = OpenOptions::new().write(true).open(&lab.settings.path).expect("open");
        cut.set_len(3).expect("cut");
        let error = feed.update(&measured(realtime(), 0)).expect_err("cut").to_string();
        assert!(error.contains("cut short"), "{error}");
        fs::remove_file(&lab.settings.path).expect("removed");
        fs::write(&lab.settings.path, "precious").expect("written");
        let error = feed.update(&measured(realtime(), 0)).expect_err("replaced").to_string();
        assert!(error.contains("replaced"), "{error}");
        drop(feed);
        assert_eq!(fs::read(&lab.settings.path).expect("read"), b"precious");
    }

    #[test]
    fn clients_that_compare_the_marker_need_the_page() {
        let lab = Lab::new();
        let mut feed = ClockBound::open(Settings { compare_marker: true, ..lab.settings.clone() }).expect("a segment");
        let epoch = Some(Epoch { disruption_marker: 7, generation: None });
        let mut update = || feed.update(&Measured { epoch, ..measured(realtime(), 0) });
        soon(&mut update);
        let (segment, page) = (&lab.settings.path, lab.folder.path().join("page"));
        let open = || ClockBoundClient::new_with_paths(segment.to_str().expect("UTF-8"), page.to_str().expect("UTF-8"));
        assert!(open().is_err(), "no page");
        let mut memory = vmclock_core::abi::Snapshot::BLANK;
        memory.disruption_marker = 7;
        memory.seq_count = 2;
        fs::write(&page, memory.to_bytes()).expect("written");
        let status = || open().expect("a client").now().expect("bounds").clock_status;
        assert_eq!(soon(|| update().map(|()| status())), ClockStatus::Synchronized);
        memory.disruption_marker = 8;
        fs::write(&page, memory.to_bytes()).expect("written");
        assert_eq!(status(), ClockStatus::Unknown);
    }

    #[test]
    fn bounds_are_those_of_the_systems_clock_and_end_before_a_leap_second() {
        let lab = Lab::new();
        let feed = lab.open();
        let at = Timespec { tv_sec: 5_000, tv_nsec: 0 };
        let sample = measured(Time::from_parts(1_483_228_800 - 100, 0), 0);
        let now = sample.realtime.floor_nanos() + 2_000_000_000;
        let contents = |measured: &Measured| feed.contents_of(measured, at, now);
        for (low, high, bound) in [(-7, 9, 9), (-9, 7, 9), (100, 120, 120), (-120, -100, 120)] {
            let sample = Measured { ahead: Ahead { low, high }, ..sample };
            assert_eq!(contents(&sample).expect("bounds").bound, bound + 1, "and what the client rounds away");
        }
        let normal = contents(&sample).expect("bounds");
        assert_eq!(normal.as_of.tv_sec, 4_997, "two seconds before, and a tick");
        assert_eq!(normal.void_after.tv_sec - normal.as_of.tv_sec, 1_000);
        let leap = LeapStatus { indicator: LeapIndicator::PRE_POSITIVE, ..LeapStatus::UNKNOWN };
        let before = contents(&Measured { leap, ..sample }).expect("bounds");
        assert_eq!(before.void_after.tv_sec - before.as_of.tv_sec, 90);
        for (low, high) in [(i128::MIN, 0), (0, i128::MAX), (1, -1), (0, i128::from(i64::MAX))] {
            let far = contents(&Measured { ahead: Ahead { low, high }, ..sample }).expect_err("no bound");
            assert!(matches!(far, FeedError::OutOfRange { .. }), "{far}");
        }
        let error = feed.contents_of(&sample, at, sample.realtime.floor_nanos() - 1).expect_err("set back");
        assert!(matches!(error, FeedError::Stale { age: -1, .. }), "{error}");
    }

    #[test]
    fn readers_see_one_update_or_the_other() {
        use std::sync::atomic::AtomicBool;
        let lab = Lab::new();
        let mut feed = lab.open();
        let done = AtomicBool::new(false);
        let file = OpenOptions::new().read(true).write(true).open(&lab.settings.path).expect("open");
        let other = segment::Mapped::of(&file).expect("mapped");
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let (mut last, mut seen) = (0, 0);
                while !done.load(Ordering::Acquire) || seen == 0 {
                    let before = other.generation.load(Ordering::Acquire);
                    let bound = other.body[4].load(Ordering::Relaxed);
                    let marker = other.body[5].load(Ordering::Relaxed);
                    fence(Ordering::Acquire);
                    if before % 2 == 0 && other.generation.load(Ordering::Relaxed) == before {
                        assert_eq!(bound, marker);
                        assert!(bound >= last, "in order");
                        (last, seen) = (bound, seen + 1);
                    }
                }
            });
            for number in 1..20_000 {
                let marker = u64::try_from(number).expect("positive");
                feed.write(Contents { bound: number, marker, ..Contents::UNKNOWN }).expect("written");
            }
            done.store(true, Ordering::Release);
            reader.join().expect("consistent");
        });
    }
}
