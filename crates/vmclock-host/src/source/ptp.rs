// SPDX-License-Identifier: MIT OR Apache-2.0
//! A PTP hardware clock as a source.
//!
//! The kernel compares it with a clock of the system; we compare that with the counter, before and after, and put the two
//! together. The system's clock is only the ruler in between, over some microseconds: whether it is right does not matter,
//! but it must go on evenly. The raw clock does. `CLOCK_REALTIME`, all there is before Linux 6.12 without help from the
//! hardware, may be set or steered meanwhile, which has to show.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use vmclock_core::counter;
use vmclock_core::time::{Tai, Time};

use crate::kernel::{KernelClock, BURST};
use crate::sample::Sample;
use crate::sys::{adjtimex, clock_gettime, ptp_sys_offset_extended, ptp_sys_offset_precise, PtpTime};

use super::{LeapNotice, Observation, Source, SourceError, Stamp};

/// Somebody may set the system's clock just while it is the ruler; not so often in a row.
const TRIES: u32 = 3;

/// The scale of a PTP clock, which it does not tell itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PtpScale {
    /// TAI, as PTP wants it.
    Tai,
    /// UTC, as many cards in machines without PTP run.
    Utc,
}

/// Who says how far off the clock may be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PtpError {
    /// Whoever configured it, in ± nanoseconds.
    Stated(u64),
    /// A file with a number of nanoseconds, read each time: some drivers have one in sysfs.
    File(PathBuf),
}

impl PtpError {
    /// The error, in ± nanoseconds.
    fn nanos(&self) -> Result<u64, SourceError> {
        let file = match self {
            Self::Stated(nanos) => return Ok(*nanos),
            Self::File(file) => file,
        };
        let name = file.display().to_string();
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) => {
                return Err(SourceError::Io { name, what: "cannot be read for the PTP clock's error", error });
            }
        };
        let text = text.trim();
        text.parse().map_err(|_| SourceError::NoTime { name, reason: format!("{text:?} is no number of nanoseconds") })
    }
}

/// A PTP hardware clock, `/dev/ptpN`.
#[derive(Debug)]
pub struct PtpClock {
    name: String,
    device: File,
    scale: PtpScale,
    error: PtpError,
}

/// How the kernel compares the device with a clock of the system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// With the raw clock at one moment, as some hardware can.
    AtOnce,
    /// Between two looks at the raw clock: since Linux 6.12.
    BetweenRaw,
    /// Between two looks at `CLOCK_REALTIME`.
    BetweenRealtime,
}

/// The best first. What fails costs no more than a system call.
const WAYS: [Way; 3] = [Way::AtOnce, Way::BetweenRaw, Way::BetweenRealtime];

impl PtpClock {
    /// Opens a device, of which somebody has to know scale and error.
    pub fn open(path: &Path, scale: PtpScale, error: PtpError) -> Result<Self, SourceError> {
        let name = path.display().to_string();
        let failed = |what, error| SourceError::Io { name: name.clone(), what, error };
        let device = File::open(path).map_err(|error| match error.kind() {
            ErrorKind::PermissionDenied => failed("cannot be opened, it takes root or the device's group", error),
            _ => failed("cannot be opened", error),
        })?;
        match ptp_sys_offset_precise(device.as_fd()) {
            Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => {
                Err(failed("is no PTP clock; they are called /dev/ptp0 and so on", error))
            }
            // That it cannot do just this is no harm.
            _ => Ok(Self { name, device, scale, error }),
        }
    }

    /// The device's time, in nanoseconds since 1970, and the counter before and after it. `None` where the ruler did not go
    /// on evenly, or was another than we asked for.
    fn compare(&self, way: Way) -> io::Result<Option<(i128, u64, u64)>> {
        let (look, counters) = if way == Way::BetweenRealtime {
            let steering = steering()?;
            let first = Mark::take();
            let look = self.look(way)?;
            let last = Mark::take();
            // It is steered by another rate from the moment that somebody says so.
            let is_even = steering == self::steering()?;
            let slack = slack(&first, &last).filter(|_| is_even);
            (look, slack.and_then(|nanos| on_counter(&look, &first.sample, &last.sample, Doubt { nanos, ..REALTIME })))
        } else {
            let ruler = KernelClock::monotonic_raw();
            let first = ruler.sample();
            let look = self.look(way)?;
            (look, on_counter(&look, &first, &ruler.sample(), RAW))
        };
        Ok(counters.map(|(before, after)| (look.device, before, after)))
    }

    fn look(&self, way: Way) -> io::Result<Look> {
        let clock = match way {
            Way::AtOnce => {
                let (device, system) = ptp_sys_offset_precise(self.device.as_fd())?;
                return Ok(Look { device: nanos(device), before: nanos(system), after: nanos(system) });
            }
            Way::BetweenRaw => libc::CLOCK_MONOTONIC_RAW,
            Way::BetweenRealtime => libc::CLOCK_REALTIME,
        };
        let looks = ptp_sys_offset_extended(self.device.as_fd(), clock)?;
        let looks = looks.map(|[before, device, after]| Look {
            device: nanos(device),
            before: nanos(before),
            after: nanos(after),
        });
        let narrowest = looks.into_iter().min_by_key(|look| look.after - look.before);
        narrowest.ok_or_else(|| io::Error::other("the kernel gave no samples"))
    }

    fn observation(&self, device: i128, before: u64, after: u64, max_error: u64) -> Result<Observation, SourceError> {
        let time = Time::<Tai>::from_nanos(device).ok_or_else(|| SourceError::NoTime {
            name: self.name.clone(),
            reason: "its time is out of range".into(),
        })?;
        Ok(Observation {
            before,
            after,
            stamp: match self.scale {
                PtpScale::Tai => Stamp::Tai(time),
                PtpScale::Utc => Stamp::Utc(Time::from_raw(time.raw())),
            },
            max_error,
            estimated_error: max_error / 3,
            synchronized: true,
            leap: LeapNotice::default(),
            era: 0,
        })
    }
}

impl Source for PtpClock {
    fn name(&self) -> &str {
        &self.name
    }

    fn observe(&mut self) -> Result<Observation, SourceError> {
        // A driver that keeps the error in a file has in it that of the last time the clock was read, and none after a time
        // that failed. Both times count; only the second has to work.
        let known = self.error.nanos().unwrap_or(0);
        let mut failure = None;
        for _ in 0..TRIES {
            for way in WAYS {
                match self.compare(way) {
                    Ok(Some((device, before, after))) => {
                        return self.observation(device, before, after, self.error.nanos()?.max(known));
                    }
                    Ok(None) => failure = None,
                    Err(error) => failure = Some(error),
                }
            }
            if let Some(error) = failure {
                let what = "cannot be compared with the system's clock";
                return Err(SourceError::Io { name: self.name.clone(), what, error });
            }
        }
        Err(SourceError::NoTime {
            name: self.name.clone(),
            reason: format!("the system's clock was set while the two were compared, {TRIES} times in a row"),
        })
    }
}

/// The device's time, in nanoseconds since 1970, between two readings of the ruler, in nanoseconds since its epoch.
#[derive(Clone, Copy, Debug)]
struct Look {
    device: i128,
    before: i128,
    after: i128,
}

fn nanos(time: PtpTime) -> i128 {
    i128::from(time.sec) * 1_000_000_000 + i128::from(time.nsec)
}

/// How uneven a ruler may be.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    /// It may have been set by so much.
    nanos: i128,
    /// Its rate may have changed by so much.
    ppm: i128,
}

/// The raw clock: some drift within microseconds, and far more than there is.
const RAW: Doubt = Doubt { nanos: 0, ppm: 10 };
/// `CLOCK_REALTIME`: adjtime(3), which is not seen, steers by 500 ppm. All else that steers is (up to 10 %, by `tick`).
const REALTIME: Doubt = Doubt { nanos: 0, ppm: 1_000 };

/// What the kernel steers `CLOCK_REALTIME` by: the length of a tick, a frequency, and an offset that it works off second by
/// second.
fn steering() -> io::Result<[i64; 3]> {
    let (timex, _) = adjtimex()?;
    Ok([timex.tick, timex.freq, timex.offset])
}

/// `CLOCK_REALTIME`, and beside it `CLOCK_MONOTONIC`, in nanoseconds since its epoch: it is steered alike, and never set.
#[derive(Clone, Copy, Debug)]
struct Mark {
    sample: Sample,
    monotonic: i128,
}

impl Mark {
    /// The narrowest of some.
    fn take() -> Self {
        let take = || {
            let nanos = |(seconds, nanos)| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
            let before = counter::read_ordered();
            let (realtime, monotonic): ((i64, i64), _) =
                (clock_gettime(libc::CLOCK_REALTIME), clock_gettime(libc::CLOCK_MONOTONIC));
            let after = counter::read_ordered();
            let time = Time::from_nanos(nanos(realtime)).unwrap_or(Time::from_raw(i128::MAX));
            Self { sample: Sample { before, after, time }, monotonic: nanos(monotonic) }
        };
        let narrower = |best: Self, next: Self| if next.sample.width() < best.sample.width() { next } else { best };
        (1..BURST).map(|_| take()).fold(take(), narrower)
    }
}

/// By how much `CLOCK_REALTIME` may have been set between two marks, in nanoseconds, for all that we can see. `None` where it
/// was.
fn slack(first: &Mark, last: &Mark) -> Option<i128> {
    let elapsed = last.monotonic - first.monotonic;
    let shown = last.sample.time.floor_nanos() - first.sample.time.floor_nanos();
    // For certain: both readings of the counter are rounded down.
    let ticks = i128::from(last.sample.before.wrapping_sub(first.sample.after)) - 1;
    if elapsed <= 0 || ticks <= 0 {
        return None;
    }
    // The two clocks of a mark are read at two moments inside it, which lasts up to a tick more than what is counted: 40 ns
    // on some Arm machines. All four are rounded down.
    let widths = i128::from(first.sample.width()) + i128::from(last.sample.width()) + 2;
    let unseen = widths * (elapsed + 1) / ticks + 3;
    let apart = (shown - elapsed).abs();
    (apart <= unseen).then_some(apart + unseen)
}

/// The counter before and after a look, from the ruler beside the counter before and after all of it: on the safe side.
/// `None` if the look is not between the two.
fn on_counter(look: &Look, first: &Sample, last: &Sample, doubt: Doubt) -> Option<(u64, u64)> {
    // Ticks from the first sample's beginning; nanoseconds from its time.
    let ticks = |counter: u64| i128::from(counter.wrapping_sub(first.before));
    let (start, end) = (first.time.floor_nanos(), last.time.floor_nanos());
    let span = end - start;
    if span <= 0 || look.before < start || look.after > end + 1 || look.after < look.before {
        return None;
    }
    // The line between the samples, by their earliest and their latest moments: the clock showed `start` at some counter in
    // the first sample's bracket, and `end` in the last one's. A nanosecond on either side is what it rounds.
    let at = |nanos: i128, from: i128, to: i128| from + (to - from) * nanos / span;
    let (seen_before, seen_after) = (look.before - start, look.after - start);
    let (before, after) = (seen_before - 1 - doubt.nanos, seen_after + 1 + doubt.nanos);
    // Its rate may have changed on the way, so that it is off the line: over the way to the nearer sample, at most.
    let bend =
        |low: i128, high: i128| at(high.min(span - low).clamp(0, span), 0, ticks(last.after)) * doubt.ppm / 1_000_000;
    // Two more ticks for what the divisions lose.
    let early = at(before, 0, ticks(last.before)) - bend(before, seen_before) - 2;
    let late = at(after, ticks(first.after), ticks(last.after)) + bend(seen_after, after) + 2;
    let (early, late) = (early.max(0), late.min(ticks(last.after)));
    let counter = |ticks: i128| Some(first.before.wrapping_add(u64::try_from(ticks).ok()?));
    (early <= late).then(|| counter(early).zip(counter(late)))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A window: what happens when, in true nanoseconds since it began, and a counter.
    #[derive(Clone, Debug)]
    struct Window {
        origin: u64,
        hertz: f64,
        /// The first mark's two readings, the look's, the last mark's.
        moments: [f64; 6],
        /// Where in its bracket each mark's first clock was read, and then the second; where in the look the device was.
        parts: [f64; 5],
        /// Another moment in the window, when something is done to the ruler.
        change: f64,
    }

    impl Window {
        fn any() -> impl Strategy<Value = Self> {
            // Narrow and wide ones, and moments at either edge: there the margins are needed.
            let narrow = || prop_oneof![1.0..5.0_f64, 1.0..3_000.0_f64];
            // The way into the kernel and out of it.
            let wide = || prop_oneof![50.0..200.0_f64, 50.0..200_000.0_f64];
            let look = prop_oneof![1.0..5.0_f64, 1.0..20_000.0_f64];
            let steps = (narrow(), wide(), look, wide(), narrow());
            let part = || prop_oneof![Just(0.0), Just(1.0), 0.0..=1.0_f64];
            let parts = [part(), part(), part(), part(), part()];
            (any::<u64>(), 2e7..5e9_f64, steps, parts, 0.0..=1.0_f64).prop_map(
                |(origin, hertz, steps, parts, change)| {
                    let mut at = 0.0;
                    let mut moments = [0.0; 6];
                    for (moment, step) in moments[1..].iter_mut().zip([steps.0, steps.1, steps.2, steps.3, steps.4]) {
                        at += step;
                        *moment = at;
                    }
                    Self { origin, hertz, moments, parts, change: at * change }
                },
            )
        }

        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // times and rates are positive
        fn counter(&self, moment: f64) -> u64 {
            self.origin.wrapping_add((moment * self.hertz / 1e9) as u64)
        }

        fn between(&self, index: usize, part: f64) -> f64 {
            self.moments[index] + (self.moments[index + 1] - self.moments[index]) * part
        }

        /// The marks that are taken of such clocks, and the look.
        fn seen(&self, real: impl Fn(f64) -> f64, monotonic: impl Fn(f64) -> f64) -> (Mark, Look, Mark) {
            #[allow(clippy::cast_possible_truncation)]
            let shown = |nanos: f64| 1_800_000_000_000_000_000 + nanos.floor() as i128;
            let mark = |index: usize, parts: &[f64]| {
                let (first, second) = (parts[0].min(parts[1]), parts[0].max(parts[1]));
                let time = Time::from_nanos(shown(real(self.between(index, first)))).expect("in range");
                let (before, after) = (self.counter(self.moments[index]), self.counter(self.moments[index + 1]));
                let monotonic = shown(monotonic(self.between(index, second)));
                Mark { sample: Sample { before, after, time }, monotonic }
            };
            let [before, after] = [2, 3].map(|index| shown(real(self.moments[index])));
            (mark(0, &self.parts[..2]), Look { device: 0, before, after }, mark(4, &self.parts[2..4]))
        }

        /// Whether the counter values are around the moment at which the device was looked at.
        fn is_around(&self, (before, after): (u64, u64)) -> bool {
            let from = |value: u64| value.wrapping_sub(self.origin);
            let truth = from(self.counter(self.between(2, self.parts[4])));
            from(before) <= truth && truth <= from(after)
        }
    }

    proptest! {
        /// A ruler of any rate.
        #[test]
        fn the_look_is_inside(window in Window::any(), rate in 0.9..1.1_f64) {
            let (first, look, last) = window.seen(|t| t * rate, |t| t * rate);
            let counters = on_counter(&look, &first.sample, &last.sample, RAW).expect("in order");
            prop_assert!(window.is_around(counters), "{counters:?}");
        }

        /// A ruler that is steered by up to 500 ppm, beginning or ending inside the window.
        #[test]
        fn the_look_is_inside_when_the_ruler_bends(window in Window::any(), rate in 0.9..1.1_f64, bend in -5e-4..5e-4_f64) {
            let clock = |t: f64| t * rate + (t - window.change).max(0.0) * rate * bend;
            let (first, look, last) = window.seen(clock, clock);
            prop_assert!(slack(&first, &last).is_some(), "it was not set");
            let counters = on_counter(&look, &first.sample, &last.sample, REALTIME);
            prop_assert!(window.is_around(counters.expect("in order")));
        }

        /// A ruler that is set inside the window, by much or by little: that shows, or does no harm.
        #[test]
        fn the_look_is_inside_or_discarded_when_the_ruler_is_set(
            window in Window::any(),
            step in prop_oneof![-300.0..300.0_f64, -20_000.0..20_000.0_f64, -2e9..2e9_f64],
        ) {
            let set = |t: f64| if t >= window.change { t + step } else { t };
            let (first, look, last) = window.seen(set, |t| t);
            let counters = slack(&first, &last).and_then(|nanos| {
                on_counter(&look, &first.sample, &last.sample, Doubt { nanos, ..REALTIME })
            });
            if let Some(counters) = counters {
                prop_assert!(window.is_around(counters), "{counters:?}");
            }
        }
    }

    #[test]
    fn a_clock_that_was_set_is_no_ruler() {
        let sample = |counter: u64, nanos: i128| Sample {
            before: counter,
            after: counter + 50,
            time: Time::from_nanos(nanos).expect("in range"),
        };
        let look = Look { device: 0, before: 1_200, after: 1_300 };
        assert!(on_counter(&look, &sample(0, 1_000), &sample(1_000, 2_000), RAW).is_some());
        assert!(on_counter(&look, &sample(0, 1_000), &sample(1_000, 900), RAW).is_none(), "set back");
        assert!(on_counter(&look, &sample(0, 1_250), &sample(1_000, 2_000), RAW).is_none(), "looked at before");
        assert!(on_counter(&look, &sample(0, 0), &sample(1_000, 1_250), RAW).is_none(), "looked at after");
    }

    #[test]
    fn a_clock_that_nobody_touches_is_a_ruler() {
        let steered = steering().expect("reading needs no privilege");
        let (first, last) = (Mark::take(), Mark::take());
        let slack = slack(&first, &last);
        assert!(slack.is_some_and(|nanos| nanos < 100_000) || steered != steering().expect("as before"), "{slack:?}");
    }

    #[test]
    fn the_error_is_read_from_a_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("phc_error_bound");
        let error = PtpError::File(path.clone());
        assert!(error.nanos().expect_err("nothing there").to_string().contains("phc_error_bound: cannot be read"));
        std::fs::write(&path, "17321\n").expect("written");
        assert_eq!(error.nanos().expect("a number"), 17_321);
        for text in ["-1\n", "", "12 ns", "1e3", "99999999999999999999"] {
            std::fs::write(&path, text).expect("written");
            let said = error.nanos().expect_err(text).to_string();
            assert!(said.contains("is no number of nanoseconds"), "{said}");
        }
    }

    #[test]
    fn what_is_no_ptp_clock_is_named() {
        let error = PtpClock::open(Path::new("/dev/null"), PtpScale::Tai, PtpError::Stated(1)).expect_err("no clock");
        assert!(error.to_string().contains("/dev/null: is no PTP clock"), "{error}");
        let error = PtpClock::open(Path::new("/no/ptp"), PtpScale::Tai, PtpError::Stated(1)).expect_err("nothing");
        assert!(error.to_string().contains("/no/ptp: cannot be opened"), "{error}");
    }
}
