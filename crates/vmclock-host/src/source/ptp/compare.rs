// SPDX-License-Identifier: MIT OR Apache-2.0
//! A sample of a PTP hardware clock, between two values of the counter.
//!
//! The kernel compares the device with a clock of the system; we compare that one with the counter, before and after,
//! and combine the two. The system's clock is only a reference over some microseconds: its time need not be right, but
//! it must run evenly. The raw clock does. `CLOCK_REALTIME`, all there is before Linux 6.12 without help from the
//! hardware, may be set or steered meanwhile, which has to be detected.

use std::io;
use std::os::fd::BorrowedFd;

use vmclock_core::counter;
use vmclock_core::sample::Sample;
use vmclock_core::time::{Monotonic, Scale, Time, Utc};

use crate::kernel::{KernelClock, BURST};
use crate::sys::{adjtimex, ptp_sys_offset_extended, ptp_sys_offset_precise, PtpTime};

/// Somebody may set the system's clock just while it is the reference; not so often in a row.
const TRIES: u32 = 3;

/// Why there is no sample.
#[derive(Debug)]
pub(super) enum NoSample {
    /// The kernel does not compare the two clocks.
    Io(io::Error),
    /// The system's clock was set in each of the attempts.
    Unsteady,
    /// The device's time is beyond ±2^63 s.
    OutOfRange,
}

/// One sample of a device, on the scale that it is on.
pub(super) fn sample<S: Scale>(device: BorrowedFd<'_>) -> Result<Sample<S>, NoSample> {
    let mut failure = None;
    for _ in 0..TRIES {
        for way in WAYS {
            match bracket(device, way) {
                Ok(Some((nanos, before, after))) => {
                    let time = Time::from_nanos(nanos).ok_or(NoSample::OutOfRange)?;
                    return Ok(Sample { before, time, after });
                }
                Ok(None) => failure = None,
                Err(error) => failure = Some(error),
            }
        }
        if let Some(error) = failure {
            return Err(NoSample::Io(error));
        }
    }
    Err(NoSample::Unsteady)
}

/// How the kernel compares the device with a clock of the system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// With the raw clock at one moment, as some hardware can.
    AtOnce,
    /// Between two readings of the raw clock: since Linux 6.12.
    BetweenRaw,
    /// Between two readings of `CLOCK_REALTIME`.
    BetweenRealtime,
}

/// The best first. One that fails costs no more than a system call.
const WAYS: [Way; 3] = [Way::AtOnce, Way::BetweenRaw, Way::BetweenRealtime];

/// The device's time, in nanoseconds since 1970, and the counter before and after it. `None` where the reference did
/// not run evenly, or was another than was asked for.
fn bracket(device: BorrowedFd<'_>, way: Way) -> io::Result<Option<(i128, u64, u64)>> {
    let (comparison, counters) = if way == Way::BetweenRealtime {
        let steering = steering()?;
        let first = Mark::take();
        let comparison = compare(device, way)?;
        let last = Mark::take();
        // A new frequency is in effect from the moment that it is set.
        let is_even = steering == self::steering()?;
        let counters = unseen_step(&first, &last)
            .filter(|_| is_even)
            .and_then(|nanos| on_counter(&comparison, &first.sample, &last.sample, Tolerance { nanos, ..REALTIME }));
        (comparison, counters)
    } else {
        let reference = KernelClock::<Monotonic>::monotonic_raw();
        let first = reference.sample();
        let comparison = compare(device, way)?;
        let counters = on_counter(&comparison, &first, &reference.sample(), RAW);
        (comparison, counters)
    };
    Ok(counters.map(|(before, after)| (comparison.device, before, after)))
}

fn compare(device: BorrowedFd<'_>, way: Way) -> io::Result<Comparison> {
    let clock = match way {
        Way::AtOnce => {
            let (device, system) = ptp_sys_offset_precise(device)?;
            return Ok(Comparison { device: nanos(device), before: nanos(system), after: nanos(system) });
        }
        Way::BetweenRaw => libc::CLOCK_MONOTONIC_RAW,
        Way::BetweenRealtime => libc::CLOCK_REALTIME,
    };
    let comparisons = ptp_sys_offset_extended(device, clock)?.map(|[before, device, after]| Comparison {
        device: nanos(device),
        before: nanos(before),
        after: nanos(after),
    });
    let narrowest = comparisons.into_iter().min_by_key(|comparison| comparison.after - comparison.before);
    narrowest.ok_or_else(|| io::Error::other("the kernel gave no samples"))
}

/// The device's time, in nanoseconds since 1970, between two readings of the reference, in nanoseconds since its epoch.
#[derive(Clone, Copy, Debug)]
struct Comparison {
    device: i128,
    before: i128,
    after: i128,
}

fn nanos(time: PtpTime) -> i128 {
    i128::from(time.sec) * 1_000_000_000 + i128::from(time.nsec)
}

/// How uneven a reference may be.
#[derive(Clone, Copy, Debug)]
struct Tolerance {
    /// It may have been set by so much.
    nanos: i128,
    /// Its frequency may have changed by so much.
    ppm: i128,
}

/// The raw clock: some wander within microseconds, and far more than there is.
const RAW: Tolerance = Tolerance { nanos: 0, ppm: 10 };
/// `CLOCK_REALTIME`: the last part of an adjtime(3), of which the kernel says nothing, steers by 500 ppm. All else that
/// steers shows (up to 10 %, by `tick`).
const REALTIME: Tolerance = Tolerance { nanos: 0, ppm: 1_000 };

/// What the kernel steers `CLOCK_REALTIME` by: the length of a tick, a frequency, and an offset that it removes second
/// by second.
fn steering() -> io::Result<[i64; 3]> {
    let (timex, _) = adjtimex()?;
    Ok([timex.tick, timex.freq, timex.offset])
}

/// `CLOCK_REALTIME`, and beside it `CLOCK_MONOTONIC`, in nanoseconds since its epoch: it is steered alike, and never
/// set.
#[derive(Clone, Copy, Debug)]
struct Mark {
    sample: Sample<Utc>,
    monotonic: i128,
}

impl Mark {
    /// The narrowest of some.
    fn take() -> Self {
        let take = || {
            let before = counter::read_ordered();
            let (time, monotonic) = (KernelClock::realtime().time(), KernelClock::monotonic().time());
            let after = counter::read_ordered();
            Self { sample: Sample { before, time, after }, monotonic: monotonic.floor_nanos() }
        };
        let narrower = |best: Self, next: Self| if next.sample.width() < best.sample.width() { next } else { best };
        (1..BURST).map(|_| take()).fold(take(), narrower)
    }
}

/// By how much `CLOCK_REALTIME` may have been set between two marks without being detected, in nanoseconds. `None`
/// where it was set.
fn unseen_step(first: &Mark, last: &Mark) -> Option<i128> {
    let elapsed = last.monotonic - first.monotonic;
    let shown = last.sample.time.floor_nanos() - first.sample.time.floor_nanos();
    // For certain: both readings of the counter are rounded down.
    let ticks = i128::from(last.sample.before.wrapping_sub(first.sample.after)) - 1;
    if elapsed <= 0 || ticks <= 0 {
        return None;
    }
    // The two clocks of a mark are read at two moments inside it, which lasts up to a tick more than what is counted:
    // 40 ns on some Arm machines. All four are rounded down.
    let widths = i128::from(first.sample.width()) + i128::from(last.sample.width()) + 2;
    let unseen = widths * (elapsed + 1) / ticks + 3;
    let apart = (shown - elapsed).abs();
    (apart <= unseen).then_some(apart + unseen)
}

/// The counter before and after a comparison, from samples of the reference around it: rounded outwards. `None` if the
/// comparison is not between the two.
fn on_counter<S: Scale>(
    comparison: &Comparison,
    first: &Sample<S>,
    last: &Sample<S>,
    tolerance: Tolerance,
) -> Option<(u64, u64)> {
    // Ticks from the first sample's beginning; nanoseconds from its time.
    let ticks = |counter: u64| i128::from(counter.wrapping_sub(first.before));
    let (start, end) = (first.time.floor_nanos(), last.time.floor_nanos());
    let span = end - start;
    let is_between = comparison.before >= start && comparison.after <= end + 1;
    if span <= 0 || !is_between || comparison.after < comparison.before {
        return None;
    }
    // The line between the samples, by their earliest and their latest moments: the clock showed `start` at some
    // counter in the first sample's bracket, and `end` in the last one's. A nanosecond on either side is what it
    // rounds.
    let at = |nanos: i128, from: i128, to: i128| from + (to - from) * nanos / span;
    let (shown_before, shown_after) = (comparison.before - start, comparison.after - start);
    let (before, after) = (shown_before - 1 - tolerance.nanos, shown_after + 1 + tolerance.nanos);
    // Its frequency may have changed in between, so that it is off the line: over the way to the nearer sample, at
    // most.
    let off_line = |low: i128, high: i128| {
        at(high.min(span - low).clamp(0, span), 0, ticks(last.after)) * tolerance.ppm / 1_000_000
    };
    // Two more ticks for what the divisions lose.
    let early = at(before, 0, ticks(last.before)) - off_line(before, shown_before) - 2;
    let late = at(after, ticks(first.after), ticks(last.after)) + off_line(shown_after, after) + 2;
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
        /// The first mark's two readings, the comparison's, the last mark's.
        moments: [f64; 6],
        /// Where in its bracket each mark's first clock was read, and then the second; where in the comparison the
        /// device was.
        parts: [f64; 5],
        /// Another moment in the window, when something is done to the reference.
        change: f64,
    }

    impl Window {
        fn any() -> impl Strategy<Value = Self> {
            // Narrow and wide ones, and moments at either edge: there the margins are needed.
            let narrow = || prop_oneof![1.0..5.0_f64, 1.0..3_000.0_f64];
            // The way into the kernel and out of it.
            let wide = || prop_oneof![50.0..200.0_f64, 50.0..200_000.0_f64];
            let middle = prop_oneof![1.0..5.0_f64, 1.0..20_000.0_f64];
            let steps = (narrow(), wide(), middle, wide(), narrow());
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

        /// The marks that are taken of such clocks, and the comparison.
        fn seen(&self, real: impl Fn(f64) -> f64, monotonic: impl Fn(f64) -> f64) -> (Mark, Comparison, Mark) {
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
            (mark(0, &self.parts[..2]), Comparison { device: 0, before, after }, mark(4, &self.parts[2..4]))
        }

        /// Whether the counter values are around the moment at which the device was read.
        fn is_around(&self, (before, after): (u64, u64)) -> bool {
            let from = |value: u64| value.wrapping_sub(self.origin);
            let moment = from(self.counter(self.between(2, self.parts[4])));
            from(before) <= moment && moment <= from(after)
        }
    }

    proptest! {
        /// A reference of any frequency.
        #[test]
        fn the_comparison_is_inside(window in Window::any(), rate in 0.9..1.1_f64) {
            let (first, comparison, last) = window.seen(|t| t * rate, |t| t * rate);
            let counters = on_counter(&comparison, &first.sample, &last.sample, RAW).expect("in order");
            prop_assert!(window.is_around(counters), "{counters:?}");
        }

        /// A reference that is steered by up to 500 ppm, beginning or ending inside the window.
        #[test]
        fn the_comparison_is_inside_when_the_frequency_changes(
            window in Window::any(),
            rate in 0.9..1.1_f64,
            change in -5e-4..5e-4_f64,
        ) {
            let clock = |t: f64| t * rate + (t - window.change).max(0.0) * rate * change;
            let (first, comparison, last) = window.seen(clock, clock);
            prop_assert!(unseen_step(&first, &last).is_some(), "it was not set");
            let counters = on_counter(&comparison, &first.sample, &last.sample, REALTIME);
            prop_assert!(window.is_around(counters.expect("in order")));
        }

        /// A reference that is set inside the window, by much or by little: that is detected, or does no harm.
        #[test]
        fn the_comparison_is_inside_or_discarded_when_the_reference_is_set(
            window in Window::any(),
            step in prop_oneof![-300.0..300.0_f64, -20_000.0..20_000.0_f64, -2e9..2e9_f64],
        ) {
            let set = |t: f64| if t >= window.change { t + step } else { t };
            let (first, comparison, last) = window.seen(set, |t| t);
            let counters = unseen_step(&first, &last).and_then(|nanos| {
                on_counter(&comparison, &first.sample, &last.sample, Tolerance { nanos, ..REALTIME })
            });
            if let Some(counters) = counters {
                prop_assert!(window.is_around(counters), "{counters:?}");
            }
        }
    }

    #[test]
    fn a_clock_that_was_set_is_no_reference() {
        let sample = |counter: u64, nanos: i128| Sample::<Monotonic> {
            before: counter,
            time: Time::from_nanos(nanos).expect("in range"),
            after: counter + 50,
        };
        let comparison = Comparison { device: 0, before: 1_200, after: 1_300 };
        let between = |first, last| on_counter(&comparison, &first, &last, RAW);
        assert!(between(sample(0, 1_000), sample(1_000, 2_000)).is_some());
        assert!(between(sample(0, 1_000), sample(1_000, 900)).is_none(), "set back");
        assert!(between(sample(0, 1_250), sample(1_000, 2_000)).is_none(), "compared before");
        assert!(between(sample(0, 0), sample(1_000, 1_250)).is_none(), "compared after");
    }

    #[test]
    fn a_clock_that_nobody_sets_is_a_reference() {
        let before = steering().expect("reading needs no privilege");
        let (first, last) = (Mark::take(), Mark::take());
        let step = unseen_step(&first, &last);
        assert!(step.is_some_and(|nanos| nanos < 100_000) || before != steering().expect("as before"), "{step:?}");
    }
}
