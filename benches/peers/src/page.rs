// SPDX-License-Identifier: MIT OR Apache-2.0
//! The VMClock page that vmclock reads, and ClockBound for its marker: this machine's counter, really calibrated.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{ensure, Context};
use vmclock::{ClockStatus, CounterId, Snapshot, TimeType};
use vmclock_core::abi::Flags;
use vmclock_core::counter;
use vmclock_core::page::Writer;
use vmclock_host::estimator::{Estimator, Evidence, Settings};
use vmclock_host::kernel::{nominal_period, KernelClock};
use vmclock_host::page_file::{MappedPage, PageFile};
use vmclock_host::sample::Sample;

/// Time between two samples of the kernel's clock. Speed does not depend on how good the calibration is.
const PAUSE: Duration = Duration::from_millis(20);

/// A page in its file, and its one writer.
pub(crate) struct Published {
    path: PathBuf,
    writer: Writer<MappedPage>,
    /// Keeps the file locked.
    _file: PageFile,
}

impl Published {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn contents(&self) -> &Snapshot {
        self.writer.contents()
    }
}

/// Calibrates the counter against the kernel's clock, and publishes that.
pub(crate) fn publish(path: &Path) -> anyhow::Result<Published> {
    ensure!(counter::ID != CounterId::NONE, "this architecture has no counter that a VMClock page could be about");
    let nominal = nominal_period(PAUSE).context("the kernel's raw clock stands still")?;
    let Sample { before, after, time } = KernelClock::realtime_plus(0).sample();
    let mut estimator = Estimator::new(Settings::default(), nominal, 1);
    let (max_error, estimated_error, synchronized) = (0, 0, true);
    estimator.observe(&Evidence { source: 0, before, after, time, max_error, estimated_error, synchronized });
    let estimate = estimator.conclude(after).publish.context("the kernel's clock gives no time")?;
    let contents = Snapshot {
        counter_id: counter::ID,
        // The kernel's numbers as they are, so that no TAI offset need be known.
        time_type: TimeType::UTC,
        clock_status: ClockStatus::SYNCHRONIZED,
        flags: Flags::PERIOD_MAXERROR_VALID.with(Flags::TIME_MAXERROR_VALID).with(Flags::VM_GEN_COUNTER_PRESENT),
        disruption_marker: 1,
        vm_generation_counter: 1,
        counter_value: estimate.counter,
        counter_period_frac_sec: estimate.period.frac(),
        counter_period_shift: estimate.period.shift(),
        counter_period_maxerror_rate_frac_sec: estimate.period.error_rate(estimate.period_max_error),
        time_sec: u64::try_from(estimate.time.seconds()).context("the kernel's clock is before 1970")?,
        time_frac_sec: estimate.time.frac(),
        time_maxerror_nanosec: estimate.time_max_error,
        ..Snapshot::BLANK
    };
    let (file, _, writer) = PageFile::open(path, contents)?;
    Ok(Published { path: path.into(), writer, _file: file })
}
