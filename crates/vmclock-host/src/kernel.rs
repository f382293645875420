// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's clocks: samples of them, and what the kernel states of the quality of its system clock.

use std::io;
use std::marker::PhantomData;
use std::num::NonZeroU64;
use std::path::Path;
use std::time::Duration;

use vmclock_core::calibration::Period;
use vmclock_core::counter;
use vmclock_core::leap::LeapKind;
use vmclock_core::sample::Sample;
use vmclock_core::tai::TaiOffset;
use vmclock_core::time::{Monotonic, Scale, Span, Tai, Time, Utc};

use crate::sys;

/// How many samples to take at once; the narrowest counts.
pub(crate) const BURST: usize = 16;

/// One of the kernel's clocks, on the scale that it is on.
///
/// ```
/// use vmclock_core::tai::TaiOffset;
/// use vmclock_host::kernel::KernelClock;
///
/// let utc = KernelClock::realtime().sample();
/// let offset = TaiOffset::from_seconds(37).expect("in range");
/// let tai = utc.with_time(offset.tai(utc.time).expect("in range"));
/// assert_eq!(tai.time.seconds() - utc.time.seconds(), 37);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct KernelClock<S: Scale> {
    id: libc::clockid_t,
    scale: PhantomData<S>,
}

impl KernelClock<Tai> {
    /// `CLOCK_TAI`. It is on TAI only where the kernel knows [`Quality::tai_offset`], and passes a leap second without
    /// a step.
    pub const fn tai() -> Self {
        Self { id: libc::CLOCK_TAI, scale: PhantomData }
    }
}

impl KernelClock<Utc> {
    /// `CLOCK_REALTIME`. It is set back by a second in an inserted leap second.
    pub const fn realtime() -> Self {
        Self { id: libc::CLOCK_REALTIME, scale: PhantomData }
    }
}

impl KernelClock<Monotonic> {
    /// `CLOCK_MONOTONIC_RAW`, from an epoch of its own: never set and never disciplined.
    pub const fn monotonic_raw() -> Self {
        Self { id: libc::CLOCK_MONOTONIC_RAW, scale: PhantomData }
    }

    /// `CLOCK_MONOTONIC`, from an epoch of its own: never set, but disciplined as `CLOCK_REALTIME` is.
    pub(crate) const fn monotonic() -> Self {
        Self { id: libc::CLOCK_MONOTONIC, scale: PhantomData }
    }

    /// `CLOCK_BOOTTIME`: `CLOCK_MONOTONIC` that also counts while the machine is suspended.
    pub(crate) const fn boottime() -> Self {
        Self { id: libc::CLOCK_BOOTTIME, scale: PhantomData }
    }
}

impl<S: Scale> KernelClock<S> {
    /// The clock's time now.
    pub fn time(&self) -> Time<S> {
        let (seconds, nanos) = sys::clock_gettime(self.id);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // less than a second
        let frac = Span::from_nanos(nanos).raw() as u64;
        Time::from_parts(seconds, frac)
    }

    /// One sample: the narrowest of some.
    pub fn sample(&self) -> Sample<S> {
        Sample::narrowest(BURST, || {
            let before = counter::read_ordered();
            let time = self.time();
            Sample { before, time, after: counter::read_ordered() }
        })
    }
}

/// The counter's period as the kernel has it (`CLOCK_MONOTONIC_RAW`), measured over so long a time. Its error is that
/// of the kernel's own measurement at boot: 500 ppm at most. `None` where that clock is stopped, or is no function of
/// the counter.
pub fn nominal_period(over: Duration) -> Option<Period> {
    let clock = KernelClock::monotonic_raw();
    let first = clock.sample();
    std::thread::sleep(over);
    let last = clock.sample();
    let ticks = NonZeroU64::new(last.middle().wrapping_sub(first.middle()))?;
    Period::from_ratio(u128::try_from(last.time.since(first.time)?.raw()).ok()?, ticks)
}

/// What the kernel states of its system clock (`adjtimex(2)`).
///
/// ```
/// let quality = vmclock_host::kernel::Quality::now()?;
/// assert!(quality.steering.abs() <= 101_000_000_000); // 10 % by `tick`, 500 ppm each by `freq` and adjtime(3)
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Quality {
    /// Whether a daemon keeps it synchronized (`STA_UNSYNC` is clear).
    pub synchronized: bool,
    /// The kernel's own maximum error, in ± nanoseconds.
    pub max_error: u64,
    /// The kernel's own estimated error, in ± nanoseconds.
    pub estimated_error: u64,
    /// The kernel's bound of the clock's frequency error (`tolerance`), in ± parts per 10^12.
    pub tolerance: u64,
    /// TAI-UTC, where the kernel knows it.
    pub tai_offset: Option<TaiOffset>,
    /// The leap second that is due at the end of this UTC day.
    pub leap_today: Option<LeapKind>,
    /// Whether it is inside 23:59:60, when `CLOCK_REALTIME` repeats a second.
    pub in_leap_second: bool,
    /// The frequency that the kernel gives `CLOCK_REALTIME` and `CLOCK_TAI` on purpose, against the counter at the
    /// frequency of `CLOCK_MONOTONIC_RAW`, in parts per 10^12: positive where the system clock gains.
    ///
    /// In it are
    ///
    /// - `tick` and `freq`, which take effect as soon as they are set. This is all that chronyd, phc2sys and ptp4l use;
    ///   exact to 1 part in 10^12.
    /// - `offset`, a phase adjustment by `ADJ_OFFSET` (ntpd, systemd-timesyncd): what the kernel takes off in the
    ///   present second, which is 1/2^(2 + `constant`) of what there was when the second began. Where the offset was
    ///   set since, it takes effect with the next second only, and this is wrong until then.
    /// - adjtime(3): 500 ppm for as long as some of it remains for later seconds, with the same restriction.
    ///
    /// Not in it are
    ///
    /// - the last part of an adjtime(3), up to 500 ppm for up to one second, of which the kernel says nothing;
    /// - a clock that a PPS signal sets (`STA_PPSTIME`), and the kernel parameter `ntp_tick_adj=`;
    /// - steps of the clock, leap seconds included.
    pub steering: i64,
}

impl Quality {
    /// Asks the kernel.
    pub fn now() -> io::Result<Self> {
        let (timex, state) = sys::adjtimex()?;
        let micros = |micros: i64| u64::try_from(micros).unwrap_or(u64::MAX).saturating_mul(1_000);
        let has = |flag| timex.status & flag != 0;
        Ok(Self {
            synchronized: !has(libc::STA_UNSYNC) && state != libc::TIME_ERROR,
            max_error: micros(timex.maxerror),
            estimated_error: micros(timex.esterror),
            tolerance: u64::try_from(scaled_ppm(timex.tolerance)).unwrap_or(0),
            tai_offset: i16::try_from(timex.tai).ok().and_then(TaiOffset::from_seconds),
            leap_today: match (has(libc::STA_INS), has(libc::STA_DEL)) {
                (true, false) if state == libc::TIME_INS => Some(LeapKind::Inserted),
                (false, true) if state == libc::TIME_DEL => Some(LeapKind::Deleted),
                _ => None,
            },
            in_leap_second: state == libc::TIME_OOP,
            steering: steering(&timex, sys::adjtime_remaining()?),
        })
    }
}

/// Parts per 10^12 of the kernel's parts per million with 16 binary digits after the point, rounded down.
const fn scaled_ppm(scaled: i64) -> i64 {
    scaled.saturating_mul(1_000_000) >> 16
}

/// See [`Quality::steering`]; `remaining` is what adjtime(3) has left for later seconds, in microseconds.
fn steering(timex: &libc::timex, remaining: i64) -> i64 {
    /// Microseconds per tick of 1/100 s: `USER_HZ` is 100 on x86-64 and aarch64.
    const NOMINAL_TICK: i64 = 10_000;
    /// A microsecond in a tick.
    const PER_TICK: i64 = 100_000_000;
    /// The kernel's `MAX_TICKADJ`: 500 us in each second.
    const ADJTIME: i64 = 500_000_000;
    let nanos = if timex.status & libc::STA_NANO != 0 { timex.offset } else { timex.offset.saturating_mul(1_000) };
    // The kernel's `SHIFT_PLL`, 2, and its range of the time constant, 0 to 10. Of a phase P it takes P / 2^shift off
    // and shows the rest: the part is 1 / (2^shift - 1) of the rest. It does so whether or not `STA_PLL` is still set.
    let shift = 2 + timex.constant.clamp(0, 10);
    let phase = nanos.saturating_mul(1_000) / ((1 << shift) - 1);
    let tick = timex.tick.saturating_sub(NOMINAL_TICK).saturating_mul(PER_TICK);
    let adjtime = remaining.signum() * ADJTIME;
    scaled_ppm(timex.freq).saturating_add(tick).saturating_add(phase).saturating_add(adjtime)
}

/// This CPU's counter, as the kernel names it among its clocksources.
pub(crate) const COUNTER_CLOCKSOURCE: &str = if cfg!(target_arch = "x86_64") { "tsc" } else { "arch_sys_counter" };
const CLOCKSOURCES: &str = "/sys/devices/system/clocksource/clocksource0";

/// Which clocksource the kernel's clocks run on; none where it does not say.
pub(crate) fn clocksource() -> Option<String> {
    let name = std::fs::read_to_string(Path::new(CLOCKSOURCES).join("current_clocksource")).ok()?;
    Some(name.trim().to_owned())
}

/// Which boot of the kernel this is; none where it does not say.
pub(crate) fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}

/// How long the machine was suspended since it was booted: at least and at most, in nanoseconds.
pub(crate) fn suspended() -> (i64, i64) {
    let (monotonic, boottime) = (KernelClock::monotonic(), KernelClock::boottime());
    let nanos = |time: Time<Monotonic>| i64::try_from(time.floor_nanos()).unwrap_or(i64::MAX);
    let readings = (0..BURST).map(|_| [monotonic, boottime, monotonic].map(|clock| nanos(clock.time())));
    let [before, boot, after] = readings.min_by_key(|[before, _, after]| after - before).unwrap_or_default();
    // A clock shows whole nanoseconds.
    (boot - after - 1, boot - before + 1)
}

/// Whether the kernel trusts this CPU's counter to keep time; on x86-64 it removes `tsc` from its list when it finds
/// the counters of two CPUs apart, or one that stops. `None` where that cannot be found out.
pub fn counter_is_trusted() -> Option<bool> {
    let available = std::fs::read_to_string(Path::new(CLOCKSOURCES).join("available_clocksource")).ok()?;
    Some(available.split_whitespace().any(|name| name == COUNTER_CLOCKSOURCE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_go_forward_and_clocks_are_on_their_own_scales() {
        let clock = KernelClock::realtime();
        let (first, second) = (clock.sample(), clock.sample());
        assert!(second.before >= first.after);
        assert!(second.time >= first.time);
        let offset = Quality::now().expect("the kernel answers").tai_offset.map_or(0, TaiOffset::seconds);
        let tai = KernelClock::tai().time().floor_nanos() - i128::from(offset) * 1_000_000_000;
        assert!((0..1_000_000_000).contains(&(tai - second.time.floor_nanos())), "{tai}");
        assert!(KernelClock::monotonic_raw().time().seconds() < 1_000_000_000, "since the machine started");
    }

    #[test]
    fn the_kernel_answers() {
        let quality = Quality::now().expect("adjtimex needs no privilege to read");
        assert_eq!(quality.tolerance, 500_000_000, "the kernel's MAXFREQ is 500 ppm");
    }

    #[test]
    fn steering_is_the_sum_of_what_the_kernel_does() {
        let (timex, _) = sys::adjtimex().expect("the kernel answers");
        let none = libc::timex { tick: 10_000, freq: 0, offset: 0, constant: 2, status: libc::STA_NANO, ..timex };
        for (timex, remaining, expected) in [
            (none, 0, 0),
            (libc::timex { freq: 1 << 16, ..none }, 0, 1_000_000),
            (libc::timex { freq: -(500 << 16), ..none }, 0, -500_000_000),
            (libc::timex { tick: 10_001, ..none }, 0, 100_000_000),
            (libc::timex { tick: 9_000, freq: 3 << 15, ..none }, 0, -100_000_000_000 + 1_500_000),
            // 16 us when the second began, of which a sixteenth goes in it: 1 us in a second.
            (libc::timex { offset: 15_000, ..none }, 0, 1_000_000),
            (libc::timex { offset: -15, status: 0, ..none }, 0, -1_000_000),
            (libc::timex { offset: 4_095, constant: 10, ..none }, 0, 1_000),
            (none, 1, 500_000_000),
            (libc::timex { tick: 10_005, ..none }, -70_000, 0),
        ] {
            assert_eq!(steering(&timex, remaining), expected, "{timex:?} {remaining}");
        }
        let wild = libc::timex { tick: i64::MAX, freq: i64::MAX, offset: i64::MAX, constant: i64::MAX, ..none };
        assert!(steering(&wild, i64::MAX) > 0, "saturated");
    }

    #[test]
    fn steering_is_what_the_clocks_show() {
        const WINDOW: i128 = 20_000_000;
        // The disciplined clock ahead of the raw one, doubled, the uncertainty of that, and when it was: nanoseconds.
        let ahead = || {
            let (disciplined, raw) = (KernelClock::monotonic(), KernelClock::monotonic_raw());
            let nanos = |time: Time<Monotonic>| time.floor_nanos();
            let readings = (0..BURST).map(|_| [disciplined, raw, disciplined].map(|clock| nanos(clock.time())));
            let [first, raw, last] = readings.min_by_key(|[first, _, last]| last - first).expect("some");
            (first + last - 2 * raw, last - first + 2, raw)
        };
        let mut seen = String::new();
        // A frequency may change at any time; not in each of so many windows.
        for _ in 0..100 {
            let stated = i128::from(Quality::now().expect("the kernel answers").steering);
            let first = ahead();
            let mut last = ahead();
            while last.2 - first.2 < WINDOW {
                last = ahead();
            }
            let parts = |twice: i128| twice * 500_000_000_000 / (last.2 - first.2);
            let (measured, tolerance) = (parts(last.0 - first.0), parts(first.1 + last.1));
            if (measured - stated).abs() <= tolerance {
                return;
            }
            seen = format!("{stated} stated, {measured} ± {tolerance} measured");
        }
        panic!("{seen}");
    }
}
