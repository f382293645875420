// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's clock: samples of it, and what the kernel says of its quality.

use std::io;
use std::num::NonZeroU64;
use std::path::Path;
use std::time::Duration;

use vmclock_core::calibration::Period;
use vmclock_core::counter;
use vmclock_core::time::Time;

use crate::sample::Sample;
use crate::sys;

/// How many samples to take at once; the narrowest counts.
pub(crate) const BURST: usize = 16;

/// One of the kernel's clocks, put on TAI by an offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KernelClock {
    id: libc::clockid_t,
    plus_seconds: i64,
}

impl KernelClock {
    /// `CLOCK_TAI`, for a kernel that has been told the offset (see [`Quality::tai_minus_utc`]); it goes through a leap
    /// second without a step.
    pub const fn tai() -> Self {
        Self { id: libc::CLOCK_TAI, plus_seconds: 0 }
    }

    /// `CLOCK_REALTIME` and so many seconds more: 37 puts it on TAI. In a leap second it is set back by one.
    pub const fn realtime_plus(seconds: i64) -> Self {
        Self { id: libc::CLOCK_REALTIME, plus_seconds: seconds }
    }

    /// `CLOCK_MONOTONIC_RAW`, from an epoch of its own: nobody sets it and nobody steers it.
    pub(crate) const fn monotonic_raw() -> Self {
        Self { id: libc::CLOCK_MONOTONIC_RAW, plus_seconds: 0 }
    }

    /// One sample, the narrowest of some.
    pub fn sample(&self) -> Sample {
        Sample::narrowest(BURST, || {
            let before = counter::read_ordered();
            let (seconds, nanos) = sys::clock_gettime(self.id);
            let after = counter::read_ordered();
            let seconds = seconds.saturating_add(self.plus_seconds);
            let nanos = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
            Sample { before, after, time: Time::from_nanos(nanos).unwrap_or(Time::from_raw(i128::MAX)) }
        })
    }
}

/// The counter's period as the kernel has it (`CLOCK_MONOTONIC_RAW`), measured over so long a time. It is off by what the
/// kernel's own measurement at boot was off: 500 ppm at most. `None` where that clock stands, or is no function of the counter.
pub fn nominal_period(over: Duration) -> Option<Period> {
    let clock = KernelClock::monotonic_raw();
    let first = clock.sample();
    std::thread::sleep(over);
    let last = clock.sample();
    let ticks = NonZeroU64::new(last.middle().wrapping_sub(first.middle()))?;
    Period::from_ratio(u128::try_from(last.time.since(first.time)?.raw()).ok()?, ticks)
}

/// What the kernel says of its clock (`adjtimex(2)`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quality {
    /// Whether a daemon keeps it synchronised (`STA_UNSYNC` is clear).
    pub synchronized: bool,
    /// The kernel's own maximum error, in nanoseconds.
    pub max_error: u64,
    /// The kernel's own estimated error, in nanoseconds.
    pub estimated_error: u64,
    /// How far off the clock's rate may be, as the kernel reckons (`tolerance`), in parts per 10^12.
    pub tolerance: u64,
    /// TAI - UTC in seconds, where something has told the kernel.
    pub tai_minus_utc: Option<i16>,
    /// Whether a leap second is due at the end of this UTC day: inserted (`true`) or left out.
    pub leap_today: Option<bool>,
    /// Whether it is inside 23:59:60, when `CLOCK_REALTIME` repeats a second.
    pub in_leap_second: bool,
}

impl Quality {
    /// Asks the kernel.
    pub fn now() -> io::Result<Self> {
        let (timex, state) = sys::adjtimex()?;
        let micros = |micros: i64| u64::try_from(micros).unwrap_or(u64::MAX).saturating_mul(1_000);
        // `tolerance` is in ppm with 16 binary digits after the point.
        let tolerance = (u128::try_from(timex.tolerance).unwrap_or(0) * 1_000_000) >> 16;
        let leap = |flag| timex.status & flag != 0;
        Ok(Self {
            synchronized: !leap(libc::STA_UNSYNC) && state != libc::TIME_ERROR,
            max_error: micros(timex.maxerror),
            estimated_error: micros(timex.esterror),
            tolerance: u64::try_from(tolerance).unwrap_or(u64::MAX),
            tai_minus_utc: i16::try_from(timex.tai).ok().filter(|tai| (10..=60).contains(tai)),
            leap_today: match (leap(libc::STA_INS), leap(libc::STA_DEL)) {
                (true, false) if state == libc::TIME_INS => Some(true),
                (false, true) if state == libc::TIME_DEL => Some(false),
                _ => None,
            },
            in_leap_second: state == libc::TIME_OOP,
        })
    }
}

/// Whether the kernel trusts this CPU's counter to keep time; on x86-64 it takes `tsc` off its list when it finds the
/// counters of two CPUs apart, or one that stops. `None` where that cannot be found out.
pub fn counter_is_trusted() -> Option<bool> {
    let folder = Path::new("/sys/devices/system/clocksource/clocksource0");
    let available = std::fs::read_to_string(folder.join("available_clocksource")).ok()?;
    let wanted = if cfg!(target_arch = "x86_64") { "tsc" } else { "arch_sys_counter" };
    Some(available.split_whitespace().any(|name| name == wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_go_forward_and_are_on_the_scale_asked_for() {
        let clock = KernelClock::realtime_plus(0);
        let (first, second) = (clock.sample(), clock.sample());
        assert!(second.before >= first.after);
        assert!(second.time >= first.time);
        let ahead =
            KernelClock::realtime_plus(37).sample().time.since(second.time).map(vmclock_core::time::Span::floor_nanos);
        assert!((37_000_000_000..38_000_000_000).contains(&ahead.unwrap_or_default()), "{ahead:?}");
    }

    #[test]
    fn the_kernel_answers() {
        let quality = Quality::now().expect("adjtimex needs no privilege to read");
        assert_eq!(quality.tolerance, 500_000_000, "the kernel's MAXFREQ is 500 ppm");
    }
}
