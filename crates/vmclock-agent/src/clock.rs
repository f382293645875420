// SPDX-License-Identifier: MIT OR Apache-2.0
//! The system clock, as something to set.

use std::io;

use vmclock_core::leap::LeapKind;
use vmclock_core::tai::TaiOffset;

use crate::sys::{adjtimex, no_change};

/// What the kernel is told of its clock's quality.
///
/// ```
/// use vmclock_agent::clock::Quality;
/// let unknown = Quality::UNKNOWN;
/// assert!(!unknown.synchronized);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quality {
    /// Whether the clock is synchronized; the kernel then also sets the hardware's clock now and then.
    pub synchronized: bool,
    /// Maximum error, in ± nanoseconds.
    pub max_error: u64,
    /// Estimated error, in ± nanoseconds.
    pub estimated_error: u64,
    /// The leap second at the end of this UTC day.
    pub leap_today: Option<LeapKind>,
}

impl Quality {
    /// Nothing is known: the kernel's own state when it boots.
    pub const UNKNOWN: Self =
        Self { synchronized: false, max_error: 16_000_000_000, estimated_error: 16_000_000_000, leap_today: None };
}

/// A system clock. The real one is [`Kernel`].
pub trait SystemClock {
    /// Adds so many nanoseconds at once, so that no time between reading and setting is lost.
    fn step(&mut self, nanos: i128) -> io::Result<()>;

    /// Adds so many nanoseconds gradually, at 500 ppm.
    fn slew(&mut self, nanos: i128) -> io::Result<()>;

    /// The frequency that the clock is given against its counter, in parts per 10^12; at most ±500 ppm.
    fn set_frequency(&mut self, parts_per_trillion: i64) -> io::Result<()>;

    /// The frequency that it is given now, in parts per 10^12.
    fn frequency(&mut self) -> io::Result<i64>;

    /// Tells what the clock's quality is.
    fn set_quality(&mut self, quality: &Quality) -> io::Result<()>;

    /// Tells TAI-UTC, from which `CLOCK_TAI` is made.
    fn set_tai_offset(&mut self, offset: TaiOffset) -> io::Result<()>;
}

/// `CLOCK_REALTIME`, by `adjtimex(2)`. It takes `CAP_SYS_TIME`.
///
/// ```no_run
/// use vmclock_agent::clock::{Kernel, SystemClock};
/// Kernel.step(3_600_000_000_000)?; // an hour was lost
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Kernel;

/// The kernel's unit of frequency is 2^-16 parts per million.
const FREQUENCY_UNIT: i64 = 1 << 16;
const PARTS_PER_MILLION: i64 = 1_000_000;

impl SystemClock for Kernel {
    fn step(&mut self, nanos: i128) -> io::Result<()> {
        const SECOND: i128 = 1_000_000_000;
        let mut timex = no_change();
        timex.modes = libc::ADJ_SETOFFSET | libc::ADJ_NANO;
        timex.time.tv_sec = i64::try_from(nanos.div_euclid(SECOND)).map_err(|_| io::ErrorKind::InvalidInput)?;
        timex.time.tv_usec = i64::try_from(nanos.rem_euclid(SECOND)).unwrap_or(0);
        adjtimex(&mut timex)?;
        // What was to be taken off before is not right for the new time.
        self.slew(0)
    }

    fn slew(&mut self, nanos: i128) -> io::Result<()> {
        let mut timex = no_change();
        timex.modes = libc::ADJ_OFFSET_SINGLESHOT;
        timex.offset = i64::try_from(nanos / 1_000).map_err(|_| io::ErrorKind::InvalidInput)?;
        adjtimex(&mut timex)
    }

    fn set_frequency(&mut self, parts_per_trillion: i64) -> io::Result<()> {
        let mut timex = no_change();
        timex.modes = libc::ADJ_FREQUENCY;
        timex.freq = parts_per_trillion.saturating_mul(FREQUENCY_UNIT) / PARTS_PER_MILLION;
        adjtimex(&mut timex)
    }

    fn frequency(&mut self) -> io::Result<i64> {
        let mut timex = no_change();
        adjtimex(&mut timex)?;
        Ok(timex.freq.saturating_mul(PARTS_PER_MILLION) / FREQUENCY_UNIT)
    }

    fn set_quality(&mut self, quality: &Quality) -> io::Result<()> {
        let micros = |nanos: u64| i64::try_from(nanos.div_ceil(1_000)).unwrap_or(i64::MAX);
        let mut timex = no_change();
        timex.modes = libc::ADJ_STATUS | libc::ADJ_MAXERROR | libc::ADJ_ESTERROR;
        timex.maxerror = micros(quality.max_error);
        timex.esterror = micros(quality.estimated_error);
        timex.status = if quality.synchronized { 0 } else { libc::STA_UNSYNC };
        timex.status |= match quality.leap_today {
            Some(LeapKind::Inserted) => libc::STA_INS,
            Some(LeapKind::Deleted) => libc::STA_DEL,
            None => 0,
        };
        adjtimex(&mut timex)
    }

    fn set_tai_offset(&mut self, offset: TaiOffset) -> io::Result<()> {
        let mut timex = no_change();
        timex.modes = libc::ADJ_TAI;
        timex.constant = offset.seconds().into();
        adjtimex(&mut timex)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_states_its_frequency() {
        assert!(Kernel.frequency().expect("no privilege is needed").abs() <= 500_000_000, "MAXFREQ is 500 ppm");
    }

    #[test]
    fn what_the_kernel_cannot_add_is_refused_before_it_is_asked() {
        for nanos in [i128::MAX, i128::MIN] {
            assert_eq!(Kernel.step(nanos).expect_err("too much").kind(), io::ErrorKind::InvalidInput);
        }
    }
}
