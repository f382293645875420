// SPDX-License-Identifier: MIT OR Apache-2.0
//! The page that is measured on: a plain file like any publisher's, with this machine's counter calibrated in it.

use std::time::Duration;

use anyhow::{ensure, Context};
use tempfile::TempDir;
use vmclock::{ClockStatus, CounterId, Snapshot, TimeType, VmClock};
use vmclock_core::abi::Flags;
use vmclock_core::calibration::Calibration;
use vmclock_core::counter;
use vmclock_core::lifecycle::{calibrated, on_scale_of, LeapStatus};
use vmclock_core::page::Writer;
use vmclock_core::tai::TaiOffset;
use vmclock_host::estimator::{Estimator, Evidence, Settings};
use vmclock_host::kernel::{nominal_period, KernelClock};
use vmclock_host::page_file::{MappedPage, PageFile};

/// Time between two samples of the kernel's clock. Speed does not depend on how good the calibration is.
const PAUSE: Duration = Duration::from_millis(20);

/// The page and its publisher.
pub(super) struct PageUnderTest {
    writer: Writer<MappedPage>,
    /// Two calibrations of one clock, to have something new to publish. Both are right.
    calibrations: [Calibration; 2],
    nanos_per_tick: f64,
    /// Keeps the file locked, and removes it in the end.
    _file: PageFile,
    folder: TempDir,
}

impl PageUnderTest {
    pub(super) fn publish() -> anyhow::Result<Self> {
        ensure!(counter::ID != CounterId::NONE, "this architecture has no counter that a VMClock page could be about");
        let calibrations = calibrate()?;
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let blank = Snapshot::BLANK.with(|page| {
            page.counter_id = counter::ID;
            // The kernel's numbers as they are, so that no TAI offset need be known.
            page.time_type = TimeType::UTC;
            page.clock_status = ClockStatus::SYNCHRONIZED;
            page.flags =
                Flags::PERIOD_MAXERROR_VALID.with(Flags::TIME_MAXERROR_VALID).with(Flags::VM_GEN_COUNTER_PRESENT);
            page.disruption_marker = 1;
            page.vm_generation_counter = 1;
        });
        let (file, _, writer) = PageFile::open(folder.path().join("page"), blank)?;
        let period = calibrations[0].period();
        #[allow(clippy::cast_precision_loss)] // 53 bits are more than are shown
        let nanos_per_tick = period.frac() as f64 / 2f64.powi(64 + i32::from(period.shift())) * 1e9;
        let mut page = Self { writer, calibrations, nanos_per_tick, _file: file, folder };
        page.refresh(0);
        Ok(page)
    }

    /// A reader of the page, through a mapping of its own.
    pub(super) fn open(&self) -> anyhow::Result<VmClock> {
        let clock = VmClock::open_at(self.folder.path().join("page"))?;
        ensure!(clock.is_mapped(), "the system does not let the file in {} be mapped", self.folder.path().display());
        Ok(clock)
    }

    /// Publishes one of the calibrations, another one in each `turn`.
    #[inline]
    pub(super) fn refresh(&mut self, turn: u32) {
        self.refresh_observed(turn, || ());
    }

    /// The same, calling `odd` when the sequence count has become odd and when it is about to become even.
    #[inline]
    pub(super) fn refresh_observed(&mut self, turn: u32, odd: impl FnMut()) {
        let calibration = &self.calibrations[turn as usize % 2];
        // A clock before 1970 is found out when the page's time is compared with it.
        let put = |page: &mut Snapshot| {
            let _ = calibrated(page, calibration, ClockStatus::SYNCHRONIZED, LeapStatus::UNKNOWN);
        };
        self.writer.update_observed(put, odd);
    }

    /// Ticks of the counter as nanoseconds.
    #[allow(clippy::cast_precision_loss)] // 53 bits are more than are shown
    pub(super) fn nanos(&self, ticks: u64) -> f64 {
        ticks as f64 * self.nanos_per_tick
    }
}

/// Two calibrations in a row, of the counter against the kernel's clock.
fn calibrate() -> anyhow::Result<[Calibration; 2]> {
    let nominal = nominal_period(PAUSE).context("the kernel's raw clock is stopped")?;
    // On a page on UTC it cancels out.
    let offset = TaiOffset::from_seconds(37).context("TAI-UTC")?;
    let next = || {
        let sample = KernelClock::realtime().sample();
        let tai = offset.tai(sample.time).context("the kernel's clock is out of range")?;
        // What cannot be improved upon is not published, so each gets an estimator of its own.
        let mut estimator = Estimator::new(Settings::default(), nominal, &[0]);
        estimator.observe(&Evidence::new(0, sample.with_time(tai), 0));
        let calibration = estimator.conclude(sample.after).publish.context("the kernel's clock gives no time")?;
        on_scale_of(TimeType::UTC, &calibration, Some(offset)).context("the kernel's clock is out of range")
    };
    Ok([next()?, next()?])
}
