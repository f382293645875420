// SPDX-License-Identifier: MIT OR Apache-2.0
//! The page that is measured on: a plain file like any publisher's, with this machine's counter calibrated in it.

use std::time::Duration;

use anyhow::{ensure, Context};
use tempfile::TempDir;
use vmclock::{ClockStatus, CounterId, Snapshot, TimeType, VmClock};
use vmclock_core::abi::Flags;
use vmclock_core::counter;
use vmclock_core::page::Writer;
use vmclock_host::estimator::{Estimate, Estimator, Evidence, Settings};
use vmclock_host::kernel::{nominal_period, KernelClock};
use vmclock_host::page_file::{MappedPage, PageFile};
use vmclock_host::sample::Sample;

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
        let blank = Snapshot {
            counter_id: counter::ID,
            // The kernel's numbers as they are, so that no TAI offset need be known.
            time_type: TimeType::UTC,
            clock_status: ClockStatus::SYNCHRONIZED,
            flags: Flags::PERIOD_MAXERROR_VALID.with(Flags::TIME_MAXERROR_VALID).with(Flags::VM_GEN_COUNTER_PRESENT),
            disruption_marker: 1,
            vm_generation_counter: 1,
            ..Snapshot::BLANK
        };
        let (file, _, writer) = PageFile::open(folder.path().join("page"), blank)?;
        let nanos_per_tick = calibrations[0].nanos_per_tick();
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
        self.writer.update_observed(|page| calibration.put_on(page), odd);
    }

    /// Ticks of the counter as nanoseconds.
    #[allow(clippy::cast_precision_loss)] // 53 bits are more than are shown
    pub(super) fn nanos(&self, ticks: u64) -> f64 {
        ticks as f64 * self.nanos_per_tick
    }
}

/// What a refresh of the page changes.
struct Calibration {
    estimate: Estimate,
    error_rate: u64,
}

impl Calibration {
    fn new(estimate: Estimate) -> Self {
        Self { estimate, error_rate: estimate.period.error_rate(estimate.period_max_error) }
    }

    #[inline]
    fn put_on(&self, page: &mut Snapshot) {
        let Self { estimate, error_rate } = self;
        page.counter_value = estimate.counter;
        page.counter_period_frac_sec = estimate.period.frac();
        page.counter_period_shift = estimate.period.shift();
        page.counter_period_maxerror_rate_frac_sec = *error_rate;
        // A clock before 1970 is found out when the page's time is compared with it.
        page.time_sec = u64::try_from(estimate.time.seconds()).unwrap_or_default();
        page.time_frac_sec = estimate.time.frac();
        page.time_maxerror_nanosec = estimate.time_max_error;
    }

    #[allow(clippy::cast_precision_loss)] // 53 bits are more than are shown
    fn nanos_per_tick(&self) -> f64 {
        let period = self.estimate.period;
        period.frac() as f64 / 2f64.powi(64 + i32::from(period.shift())) * 1e9
    }
}

/// Two calibrations in a row, of the counter against the kernel's clock.
fn calibrate() -> anyhow::Result<[Calibration; 2]> {
    let nominal = nominal_period(PAUSE).context("the kernel's raw clock stands")?;
    let clock = KernelClock::realtime_plus(0);
    let next = || {
        let Sample { before, after, time } = clock.sample();
        // What cannot be improved upon is not published, so each gets an estimator of its own.
        let mut estimator = Estimator::new(Settings::default(), nominal, 1);
        estimator.observe(&Evidence {
            source: 0,
            before,
            after,
            time,
            max_error: 0,
            estimated_error: 0,
            synchronized: true,
        });
        estimator.conclude(after).publish.map(Calibration::new).context("the kernel's clock gives no time")
    };
    Ok([next()?, next()?])
}
