// SPDX-License-Identifier: MIT OR Apache-2.0
//! The VMClock page that vmclock reads, and ClockBound for its marker: this machine's counter, really calibrated.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{ensure, Context};
use vmclock::{ClockStatus, CounterId, Snapshot, TimeType};
use vmclock_core::abi::Flags;
use vmclock_core::counter;
use vmclock_core::lifecycle::{calibrated, on_scale_of, LeapStatus};
use vmclock_core::page::Writer;
use vmclock_core::tai::TaiOffset;
use vmclock_host::estimator::{Estimator, Evidence, Settings};
use vmclock_host::kernel::{nominal_period, KernelClock};
use vmclock_host::page_file::{MappedPage, PageFile};

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
    let nominal = nominal_period(PAUSE).context("the kernel's raw clock is stopped")?;
    // On a page on UTC it cancels out.
    let offset = TaiOffset::from_seconds(37).context("TAI-UTC")?;
    let sample = KernelClock::realtime().sample();
    let tai = offset.tai(sample.time).context("the kernel's clock is out of range")?;
    let mut estimator = Estimator::new(Settings::default(), nominal, &[0]);
    estimator.observe(&Evidence::new(0, sample.with_time(tai), 0));
    let calibration = estimator.conclude(sample.after).publish.context("the kernel's clock gives no time")?;
    let calibration =
        on_scale_of(TimeType::UTC, &calibration, Some(offset)).context("the kernel's clock is out of range")?;
    let mut contents = Snapshot::BLANK.with(|page| {
        page.counter_id = counter::ID;
        page.time_type = TimeType::UTC;
        page.flags = Flags::VM_GEN_COUNTER_PRESENT;
        page.disruption_marker = 1;
        page.vm_generation_counter = 1;
    });
    calibrated(&mut contents, &calibration, ClockStatus::SYNCHRONIZED, LeapStatus::UNKNOWN)
        .context("the kernel's clock is before 1970")?;
    let (file, _, writer) = PageFile::open(path, contents)?;
    Ok(Published { path: path.into(), writer, _file: file })
}
