// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who vouches for the time: the page; else a PTP clock that belongs to the hypervisor; else chronyd.

mod chronyd;

use std::fs;
use std::path::{Path, PathBuf};

use vmclock::{Reading, VmClock};
use vmclock_core::abi::ClockStatus;
use vmclock_core::calibration::Calibration;
use vmclock_core::counter;
use vmclock_core::event::Epoch;
use vmclock_core::leap::LeapStatus;
use vmclock_core::tai::TaiOffset;
use vmclock_core::time::{Time, Utc};
use vmclock_host::kernel::{KernelClock, Quality};
use vmclock_host::source::ptp::{PtpClock, PtpError, PtpScale};
use vmclock_host::source::{Measure, Stamp};

use crate::measure::{Ahead, Measured};

pub use chronyd::AskedChronyd;

/// Compares `CLOCK_REALTIME` with a page.
///
/// ```no_run
/// let clock = vmclock::VmClock::open()?;
/// let measured = vmclock_agent::source::compare_with_page(&clock)?;
/// println!("CLOCK_REALTIME is {} ahead of UTC", measured.ahead);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn compare_with_page(clock: &VmClock) -> Result<Measured, String> {
    let cross = clock.cross_timestamp().map_err(|error| error.to_string())?;
    let Some((low, high)) = cross.realtime_ahead_nanos() else {
        let what = if cross.reading.utc().is_none() { "no UTC" } else { "no maximum error" };
        return Err(format!("the page {} states {what}: its publisher has to", clock.path().display()));
    };
    let max_error = cross.reading.max_error_nanos().map_or(u64::MAX, |nanos| u64::try_from(nanos).unwrap_or(u64::MAX));
    let estimated = Calibration::from_snapshot(&cross.page, counter::ID)
        .ok()
        .and_then(|calibration| calibration.estimated_error_at(cross.reading.counter()));
    Ok(Measured {
        ahead: Ahead { low, high },
        realtime: cross.realtime.time,
        max_error,
        estimated_error: estimated.map_or(max_error, |nanos| u64::try_from(nanos).unwrap_or(max_error)),
        synchronized: cross.page.clock_status == ClockStatus::SYNCHRONIZED,
        leap: LeapStatus { tai_offset: tai_offset(&cross.reading), indicator: cross.page.leap_indicator },
        epoch: Some(Epoch::of(&cross.page)),
    })
}

/// TAI-UTC at the reading, which may be later than a leap second that the page announces.
fn tai_offset(reading: &Reading) -> Option<TaiOffset> {
    let offset = reading.tai()?.seconds().checked_sub(reading.utc()?.time.seconds())?;
    TaiOffset::from_seconds(i16::try_from(offset).ok()?)
}

/// A PTP clock that the hypervisor has for its guests, and what somebody states of it.
#[derive(Debug)]
pub struct HypervisorClock {
    clock: PtpClock,
    max_error: u64,
    tai_offset: Option<TaiOffset>,
    path: PathBuf,
}

/// What Linux calls the PTP clocks of hypervisors that are on UTC: KVM's and Hyper-V's host clock.
const HYPERVISORS: [&str; 2] = ["KVM virtual PTP", "hyperv"];

impl HypervisorClock {
    /// The one at this path, with a maximum error in ± nanoseconds. Where it is on TAI, UTC is made with TAI-UTC as it
    /// is stated, otherwise as the kernel knows it.
    pub fn open(path: &Path, scale: PtpScale, max_error: u64, tai_offset: Option<TaiOffset>) -> Result<Self, String> {
        let clock = PtpClock::open(path, scale, PtpError::Stated(max_error)).map_err(|error| error.to_string())?;
        Ok(Self { clock, max_error, tai_offset, path: path.to_owned() })
    }

    /// The path of a hypervisor's PTP clock, where this machine has one. `classes` is `/sys/class/ptp`.
    pub fn find(classes: &Path) -> Option<PathBuf> {
        let mut clocks: Vec<_> = fs::read_dir(classes).ok()?.filter_map(Result::ok).collect();
        clocks.sort_by_key(fs::DirEntry::file_name);
        clocks.into_iter().find_map(|clock| {
            let name = fs::read_to_string(clock.path().join("clock_name")).ok()?;
            HYPERVISORS.contains(&name.trim()).then(|| Path::new("/dev").join(clock.file_name()))
        })
    }

    /// Its device.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Compares `CLOCK_REALTIME` with it: what it shows is between two readings of `CLOCK_REALTIME`.
    pub fn compare(&mut self) -> Result<Measured, String> {
        let realtime = KernelClock::realtime();
        let before = realtime.time();
        let measurement = self.clock.measure().map_err(|error| error.to_string())?;
        let after = realtime.time();
        let tai_offset = self.tai_offset.or_else(|| Quality::now().ok()?.tai_offset);
        let shown = match measurement.stamp {
            Stamp::Utc(sample) => Some(sample.time),
            Stamp::Tai(sample) => tai_offset.and_then(|offset| offset.utc(sample.time)),
        };
        let shown = shown.ok_or_else(|| {
            format!("{} is on TAI, and TAI-UTC is unknown: state time.tai_offset", self.path.display())
        })?;
        Ok(Measured {
            leap: LeapStatus { tai_offset, ..LeapStatus::UNKNOWN },
            ..between(before, shown, after, self.max_error)
        })
    }
}

/// A clock on UTC was read between two readings of `CLOCK_REALTIME`.
fn between(before: Time<Utc>, shown: Time<Utc>, after: Time<Utc>, max_error: u64) -> Measured {
    let (low, high) = (before.floor_nanos() - shown.ceil_nanos(), after.ceil_nanos() - shown.floor_nanos());
    let error = i128::from(max_error);
    Measured {
        ahead: Ahead { low: low.min(high) - error, high: high.max(low) + error },
        realtime: after,
        max_error,
        estimated_error: max_error,
        synchronized: true,
        leap: LeapStatus::UNKNOWN,
        epoch: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmclock::mock::MockPage;

    #[test]
    fn what_is_read_between_two_readings_has_their_distance_as_error() {
        let at = |nanos| Time::<Utc>::from_nanos(nanos).expect("in range");
        let measured = between(at(1_000), at(500), at(1_200), 30);
        assert_eq!(measured.ahead, Ahead { low: 500 - 30 - 1, high: 700 + 30 + 1 }, "rounded outwards");
    }

    #[test]
    fn a_hypervisors_clock_is_found_by_its_name() {
        let classes = tempfile::tempdir().expect("a folder");
        for (clock, name) in [("ptp0", "vmclock"), ("ptp1", "KVM virtual PTP\n"), ("ptp2", "hyperv\n")] {
            fs::create_dir(classes.path().join(clock)).expect("made");
            fs::write(classes.path().join(clock).join("clock_name"), name).expect("written");
        }
        assert_eq!(HypervisorClock::find(classes.path()), Some(PathBuf::from("/dev/ptp1")));
        fs::remove_dir_all(classes.path().join("ptp1")).expect("removed");
        assert_eq!(HypervisorClock::find(classes.path()), Some(PathBuf::from("/dev/ptp2")));
        assert_eq!(HypervisorClock::find(&classes.path().join("none")), None);
    }

    #[test]
    fn a_page_without_time_says_why() {
        let page = MockPage::new();
        page.update(|page| page.clock_status = ClockStatus::UNKNOWN);
        let error = compare_with_page(&page.clock()).expect_err("no time");
        assert!(error.contains("unknown"), "{error}");
    }
}
