// SPDX-License-Identifier: MIT OR Apache-2.0
//! A PTP hardware clock as a source.
//!
//! The kernel compares it with `CLOCK_REALTIME`; we compare that with the counter, before and after, and put the two
//! together. `CLOCK_REALTIME` is only the ruler in between, over some microseconds: whether it is right does not matter.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use vmclock_core::time::{Tai, Time};

use crate::kernel::KernelClock;
use crate::sample::Sample;
use crate::sys::{ptp_sys_offset_extended, ptp_sys_offset_precise, PtpTime};

use super::{LeapNotice, Observation, Source, SourceError, Stamp};

/// Somebody may set the system's clock just while it is the ruler; not so often in a row.
const TRIES: u32 = 3;
/// How much slower or faster than one another two clocks may go that are steered as far as Linux steers, and more.
const STEERED: i128 = 1_000;

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

/// A PTP hardware clock, `/dev/ptpN`.
#[derive(Debug)]
pub struct PtpClock {
    name: String,
    device: File,
    scale: PtpScale,
    error: PtpError,
    is_precise: bool,
}

impl PtpClock {
    /// Opens a device, of which somebody has to know scale and error.
    pub fn open(path: &Path, scale: PtpScale, error: PtpError) -> Result<Self, SourceError> {
        let name = path.display().to_string();
        let failed = |what, error| SourceError::Io { name: name.clone(), what, error };
        let device = File::open(path).map_err(|error| match error.kind() {
            ErrorKind::PermissionDenied => failed("cannot be opened, it takes root or the device's group", error),
            _ => failed("cannot be opened", error),
        })?;
        let is_precise = match ptp_sys_offset_precise(device.as_fd()) {
            Ok(_) => true,
            Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => {
                return Err(failed("is no PTP clock; they are called /dev/ptp0 and so on", error));
            }
            Err(_) => false,
        };
        Ok(Self { name, device, scale, error, is_precise })
    }

    fn max_error(&self) -> Result<u64, SourceError> {
        let file = match &self.error {
            PtpError::Stated(nanos) => return Ok(*nanos),
            PtpError::File(file) => file,
        };
        let name = || file.display().to_string();
        let text = std::fs::read_to_string(file).map_err(|error| SourceError::Io {
            name: name(),
            what: "cannot be read for the PTP clock's error",
            error,
        })?;
        text.trim().parse().map_err(|_| SourceError::NoTime {
            name: name(),
            reason: format!("{:?} is no number of nanoseconds", text.trim()),
        })
    }

    /// The device's time, and the system's before and after it, in nanoseconds since 1970.
    fn look(&self) -> io::Result<Look> {
        if self.is_precise {
            let (device, system) = ptp_sys_offset_precise(self.device.as_fd())?;
            return Ok(Look { device: nanos(device), before: nanos(system), after: nanos(system) });
        }
        let looks = ptp_sys_offset_extended(self.device.as_fd())?;
        let looks = looks.map(|[before, device, after]| Look {
            device: nanos(device),
            before: nanos(before),
            after: nanos(after),
        });
        let narrowest = looks.into_iter().min_by_key(|look| look.after - look.before);
        narrowest.ok_or_else(|| io::Error::other("the kernel gave no samples"))
    }
}

impl Source for PtpClock {
    fn name(&self) -> &str {
        &self.name
    }

    fn observe(&mut self) -> Result<Observation, SourceError> {
        let max_error = self.max_error()?;
        let ruler = KernelClock::realtime_plus(0);
        for _ in 0..TRIES {
            let first = ruler.sample();
            let look = self.look().map_err(|error| SourceError::Io {
                name: self.name.clone(),
                what: "cannot be compared with the system's clock",
                error,
            })?;
            let last = ruler.sample();
            let Some((before, after)) = on_counter(&look, &first, &last) else { continue };
            let time = Time::<Tai>::from_nanos(look.device).ok_or_else(|| SourceError::NoTime {
                name: self.name.clone(),
                reason: "its time is out of range".into(),
            })?;
            return Ok(Observation {
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
            });
        }
        Err(SourceError::NoTime {
            name: self.name.clone(),
            reason: format!("the system's clock was set while the two were compared, {TRIES} times in a row"),
        })
    }
}

/// The device's time between two readings of the system's, in nanoseconds since 1970.
#[derive(Clone, Copy, Debug)]
struct Look {
    device: i128,
    before: i128,
    after: i128,
}

fn nanos(time: PtpTime) -> i128 {
    i128::from(time.sec) * 1_000_000_000 + i128::from(time.nsec)
}

/// The counter before and after a look, from the system's clock beside the counter before and after all of it: on the
/// safe side. `None` if the system's clock was set in between.
fn on_counter(look: &Look, first: &Sample, last: &Sample) -> Option<(u64, u64)> {
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
    let (before, after) = (look.before - start - 1, look.after - start + 1);
    let early = at(before, 0, ticks(last.before)) - 1;
    let late = at(after, ticks(first.after), ticks(last.after)) + 1;
    // As steered as it may be, it cannot be faster or slower than the line by this; over the way to the nearer sample.
    let bend = |nanos: i128| at(nanos.min(span - nanos).max(0), 0, ticks(last.after)) / STEERED;
    let early = (early - bend(before)).max(0);
    let late = (late + bend(after)).min(ticks(last.after));
    let counter = |ticks: i128| Some(first.before.wrapping_add(u64::try_from(ticks).ok()?));
    (early <= late).then(|| counter(early).zip(counter(late)))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A system clock of some rate, beside a counter of another: the moments of a look are between what comes out.
        #[test]
        fn the_look_is_inside(
            origin in any::<u64>(),
            hertz in 1e8..5e9_f64,
            steps in prop::array::uniform7(1_u64..200_000),
            parts in prop::array::uniform4(0.0..1.0_f64),
        ) {
            // Moments in true nanoseconds: the first sample's two readings, the look's, the last sample's.
            let mut at = 0;
            let moments = steps.map(|step| { at += step; at });
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
            let counter = |nanos: f64| origin.wrapping_add((nanos * hertz / 1e9) as u64);
            #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
            let clock = |nanos: f64| 1_800_000_000_000_000_000_i128 + nanos as i128;
            #[allow(clippy::cast_precision_loss)]
            let between = |a: u64, b: u64, part: f64| a as f64 + (b - a) as f64 * part;
            #[allow(clippy::cast_precision_loss)]
            let sample = |a: u64, b: u64, part: f64| Sample {
                before: counter(a as f64),
                after: counter(b as f64),
                time: Time::from_nanos(clock(between(a, b, part))).expect("in range"),
            };
            let first = sample(moments[0], moments[1], parts[0]);
            let last = sample(moments[4], moments[5], parts[1]);
            #[allow(clippy::cast_precision_loss)]
            let (look_before, look_after) = (moments[2] as f64, moments[3] as f64);
            let moment = between(moments[2], moments[3], parts[2]);
            let look = Look { device: 0, before: clock(look_before), after: clock(look_after) };
            let (before, after) = on_counter(&look, &first, &last).expect("in order");
            let from = |value: u64| value.wrapping_sub(origin);
            let truth = from(counter(moment));
            prop_assert!(from(before) <= truth && truth <= from(after), "{} {truth} {}", from(before), from(after));
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
        assert!(on_counter(&look, &sample(0, 1_000), &sample(1_000, 2_000)).is_some());
        assert!(on_counter(&look, &sample(0, 1_000), &sample(1_000, 900)).is_none(), "set back");
        assert!(on_counter(&look, &sample(0, 1_250), &sample(1_000, 2_000)).is_none(), "looked at before");
        assert!(on_counter(&look, &sample(0, 0), &sample(1_000, 1_250)).is_none(), "looked at after");
    }

    #[test]
    fn what_is_no_ptp_clock_is_named() {
        let error = PtpClock::open(Path::new("/dev/null"), PtpScale::Tai, PtpError::Stated(1)).expect_err("no clock");
        assert!(error.to_string().contains("/dev/null: is no PTP clock"), "{error}");
        let error = PtpClock::open(Path::new("/no/ptp"), PtpScale::Tai, PtpError::Stated(1)).expect_err("nothing");
        assert!(error.to_string().contains("/no/ptp: cannot be opened"), "{error}");
    }
}
