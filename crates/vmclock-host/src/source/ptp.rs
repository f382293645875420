// SPDX-License-Identifier: MIT OR Apache-2.0
//! A PTP hardware clock as a source.
//!
//! The device has neither its scale nor its error to read. The error is what its owner states, or what the driver has
//! in a file; and where ptp4l synchronizes the clock and is asked, also its offset from its master, and how long ago
//! that was measured.

mod compare;
mod holdover;
mod ptp4l;

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use vmclock_core::sample::Sample;
use vmclock_core::time::Scale;

use crate::sys::ptp_sys_offset_precise;

use super::{LeapNotice, Measure, Measurement, SourceError, Stamp};

use compare::NoSample;
use holdover::{Holdover, Moment};
pub use ptp4l::Ptp4l;
use ptp4l::State;

/// The default bound of a clock's frequency error while it is not synchronized to a master: 15 ppm, in parts per 10^12.
pub const HOLDOVER: u64 = 15_000_000;

/// The scale of a PTP clock, which cannot be read from the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PtpScale {
    /// TAI, as PTP wants it.
    Tai,
    /// UTC, as many cards in machines without PTP run.
    Utc,
}

/// Who states the clock's error, against its master where it has one.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
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
///
/// ```
/// use vmclock_host::source::ptp::{Ptp4l, PtpClock, PtpError, PtpScale, HOLDOVER};
///
/// let clock = PtpClock::open("/dev/ptp0".as_ref(), PtpScale::Tai, PtpError::Stated(1_000));
/// // ptp4l synchronizes it: the error grows when there is no master any more.
/// let clock = clock.map(|clock| clock.synchronized_by(Ptp4l::new("/var/run/ptp4l".into(), 0), HOLDOVER));
/// # let _ = clock; // not every machine has one
/// ```
#[derive(Debug)]
pub struct PtpClock {
    name: String,
    device: File,
    clock: String,
    scale: PtpScale,
    error: PtpError,
    master: Option<(Ptp4l, Holdover)>,
}

impl PtpClock {
    /// Opens a device, whose scale and error have to be known.
    pub fn open(path: &Path, scale: PtpScale, error: PtpError) -> Result<Self, SourceError> {
        let name = format!("ptp {}", path.display());
        let failed = |what, error| SourceError::Io { name: name.clone(), what, error };
        let opened = File::open(path).and_then(|device| Ok((device.metadata()?.rdev(), device)));
        let (number, device) = opened.map_err(|error| match error.kind() {
            ErrorKind::PermissionDenied => failed("cannot be opened, it takes root or the device's group", error),
            _ => failed("cannot be opened", error),
        })?;
        match ptp_sys_offset_precise(device.as_fd()) {
            Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => {
                Err(failed("is no PTP clock; they are called /dev/ptp0 and so on", error))
            }
            // That it cannot do just this is no harm.
            _ => Ok(Self { name, device, clock: format!("ptp device {number}"), scale, error, master: None }),
        }
    }

    /// The same clock, which a ptp4l synchronizes to a master. Its maximum error then also has the offset from the
    /// master that ptp4l measured last, and grows from that measurement on by `holdover`, in parts per 10^12
    /// ([`HOLDOVER`] by default). It is synchronized while ptp4l states that, and gives no time before ptp4l has stated
    /// it once.
    ///
    /// The bound holds while no other program adjusts the clock, and ptp4l does not adjust it either while it has no
    /// master. What the master's own error is has to be part of the clock's stated error.
    #[must_use]
    pub fn synchronized_by(self, ptp4l: Ptp4l, holdover: u64) -> Self {
        Self { master: Some((ptp4l, Holdover::new(holdover))), ..self }
    }

    fn sample<S: Scale>(&self) -> Result<Sample<S>, SourceError> {
        let name = self.name.clone();
        compare::sample(self.device.as_fd()).map_err(|failure| match failure {
            NoSample::Io(error) => SourceError::Io { name, what: "cannot be compared with the system's clock", error },
            NoSample::Unsteady => {
                SourceError::NoTime { name, reason: "the system's clock was set during each comparison with it".into() }
            }
            NoSample::OutOfRange => SourceError::NoTime { name, reason: "its time is out of range".into() },
        })
    }
}

impl Measure for PtpClock {
    fn name(&self) -> &str {
        &self.name
    }

    fn clock(&self) -> String {
        self.clock.clone()
    }

    fn is_tai(&self) -> bool {
        self.scale == PtpScale::Tai
    }

    fn measure(&mut self) -> Result<Measurement, SourceError> {
        // A driver that has the error in a file writes it when the clock is read, and none after a reading that failed.
        // The error before counts as well as that after; only the second has to be there.
        let known = self.error.nanos().unwrap_or(0);
        let state = self.master.as_ref().map(|(ptp4l, _)| ptp4l.ask());
        let (stamp, time) = match self.scale {
            PtpScale::Tai => self.sample().map(|sample| (Stamp::Tai(sample), sample.time.floor_nanos()))?,
            PtpScale::Utc => self.sample().map(|sample| (Stamp::Utc(sample), sample.time.floor_nanos()))?,
        };
        let own_error = self.error.nanos()?.max(known);
        let (master_error, synchronized) = match (&mut self.master, state) {
            (Some((ptp4l, holdover)), Some(state)) => against_master(ptp4l, holdover, state, time, Moment::now())?,
            _ => (0, true),
        };
        let max_error = own_error.saturating_add(master_error);
        Ok(Measurement {
            stamp,
            max_error,
            estimated_error: max_error / 3,
            synchronized,
            leap: LeapNotice::default(),
            era: 0,
            steering: None,
        })
    }
}

/// The error of a clock against its master, in ± nanoseconds, and whether it is synchronized, when it shows `time`
/// nanoseconds.
fn against_master(
    ptp4l: &Ptp4l,
    holdover: &mut Holdover,
    state: Result<State, SourceError>,
    time: i128,
    now: Moment,
) -> Result<(u64, bool), SourceError> {
    let no_time = |reason| SourceError::NoTime { name: ptp4l.to_string(), reason };
    let failure = match state {
        Ok(State::Synchronized { offset, ingress }) => match u64::try_from(time - i128::from(ingress)) {
            Ok(age) => return Ok((holdover.synchronized(now, offset, age), true)),
            Err(_) => no_time(format!(
                "was synchronized at {ingress} ns, which the clock shows later only: does it use another clock?"
            )),
        },
        Ok(State::Unsynchronized(reason)) => no_time(reason.into()),
        Err(error) => error,
    };
    holdover.error(now).map(|error| (error, false)).ok_or(failure)
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let error = error.nanos().expect_err(text).to_string();
            assert!(error.contains("is no number of nanoseconds"), "{error}");
        }
    }

    #[test]
    fn what_is_no_ptp_clock_is_named() {
        let error = PtpClock::open(Path::new("/dev/null"), PtpScale::Tai, PtpError::Stated(1)).expect_err("no clock");
        assert!(error.to_string().contains("/dev/null: is no PTP clock"), "{error}");
        let error = PtpClock::open(Path::new("/no/ptp"), PtpScale::Tai, PtpError::Stated(1)).expect_err("nothing");
        assert!(error.to_string().contains("/no/ptp: cannot be opened"), "{error}");
    }

    #[test]
    fn a_clock_without_a_master_is_not_synchronized_and_its_error_grows() {
        let ptp4l = Ptp4l::new("/run/ptp4l".into(), 0);
        let mut holdover = Holdover::new(HOLDOVER);
        let now = Moment::now();
        let mut error = |state, time| against_master(&ptp4l, &mut holdover, state, time, now);
        let lost = || Ok(State::Unsynchronized("has no grandmaster"));
        let synchronized = Ok(State::Synchronized { offset: -100, ingress: 1_000_000_000 });
        assert!(error(lost(), 0).expect_err("never synchronized").to_string().contains("has no grandmaster"));
        // A second after the last measurement of the offset: 15 ppm of it on top.
        assert_eq!(error(synchronized, 2_000_000_000).expect("known"), (15_100, true));
        assert_eq!(error(lost(), 3_000_000_000).expect("known"), (15_100, false), "at the same moment");
        let unreachable = Err(SourceError::Timeout { name: "ptp4l".into(), milliseconds: 250 });
        assert_eq!(error(unreachable, 4_000_000_000).expect("known"), (15_100, false));
        // Nor is it synchronized by what happened on another clock.
        let later = Ok(State::Synchronized { offset: 0, ingress: 2_000_000_000 });
        assert_eq!(error(later, 1_999_999_999).expect("known"), (15_100, false));
        let again = Ok(State::Synchronized { offset: 7, ingress: 2_000_000_000 });
        assert_eq!(error(again, 2_000_000_000).expect("known"), (7, true));
    }

    #[test]
    fn ptp4l_that_ends_leaves_holdover() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ptp4l");
        let ptp4l = ptp4l::tests::unhurried(path.clone());
        let mut holdover = Holdover::new(HOLDOVER);
        let fake = ptp4l::tests::HONEST;
        let served = fake.serve(&path, 1);
        let time = i128::from(fake.ingress) + 1_000_000_000;
        let (first, synchronized) =
            against_master(&ptp4l, &mut holdover, ptp4l.ask(), time, Moment::now()).expect("synchronized");
        assert_eq!((first, synchronized), (120 + 15_000, true));
        served.join().expect("served");
        let (then, synchronized) =
            against_master(&ptp4l, &mut holdover, ptp4l.ask(), time, Moment::now()).expect("holdover");
        assert!(then >= first && !synchronized, "{then}");
    }
}
