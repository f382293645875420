// SPDX-License-Identifier: MIT OR Apache-2.0
//! A page of your own, for the tests of your program.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use vmclock_core::abi::{ClockStatus, CounterId, Flags, Snapshot, TimeType};
use vmclock_core::page::{Page, Writer};

use crate::clock::VmClock;
use crate::source::Source;

/// The mock's counter ticks 2^34 times a second: a power of two, so that its period is exact.
const FREQUENCY_SHIFT: u32 = 34;

/// A page in this process, with a counter of 2^34 ticks a second that only [`advance`](Self::advance) moves.
///
/// It starts synchronized on TAI, at 2033-05-18 03:33:20 TAI with UTC 37 s behind, errors of ± 1 µs, a marker, a
/// generation and no announcements.
///
/// ```
/// use std::time::Duration;
/// use vmclock::mock::MockPage;
///
/// let page = MockPage::new();
/// let clock = page.clock(); // give this one to the code under test
/// let before = clock.now()?;
/// page.advance(Duration::from_millis(5));
/// assert_eq!(clock.now()?.time().since(before.time()).unwrap().floor_nanos(), 5_000_000);
///
/// page.restore(); // and see whether it notices
/// assert_ne!(clock.now()?.epoch(), before.epoch());
/// # Ok::<(), vmclock::ReadError>(())
/// ```
#[derive(Debug)]
pub struct MockPage {
    shared: Arc<Shared>,
    writer: Mutex<Writer<PageOf>>,
}

/// What a mock page and its clocks share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) page: Page,
    counter: AtomicU64,
    removed: AtomicBool,
}

impl Shared {
    pub(crate) fn counter(&self) -> u64 {
        self.counter.load(Ordering::Relaxed)
    }

    pub(crate) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }
}

#[derive(Debug)]
struct PageOf(Arc<Shared>);

impl std::ops::Deref for PageOf {
    type Target = Page;

    fn deref(&self) -> &Page {
        &self.0.page
    }
}

impl MockPage {
    /// A page as described above.
    pub fn new() -> Self {
        let flags = Flags::TAI_OFFSET_VALID
            .with(Flags::PERIOD_MAXERROR_VALID)
            .with(Flags::PERIOD_ESTERROR_VALID)
            .with(Flags::TIME_MAXERROR_VALID)
            .with(Flags::TIME_ESTERROR_VALID)
            .with(Flags::VM_GEN_COUNTER_PRESENT);
        Self::with(Snapshot::BLANK.with(|page| {
            page.counter_id = CounterId::X86_TSC;
            page.time_type = TimeType::TAI;
            page.disruption_marker = 1;
            page.flags = flags;
            page.clock_status = ClockStatus::SYNCHRONIZED;
            page.tai_offset_sec = -37;
            page.counter_period_frac_sec = 1 << (64 - FREQUENCY_SHIFT);
            page.time_sec = 2_000_000_000;
            page.time_esterror_nanosec = 100;
            page.time_maxerror_nanosec = 1_000;
            page.vm_generation_counter = 1;
        }))
    }

    /// A page with these contents, and a counter at its reference.
    pub fn with(contents: Snapshot) -> Self {
        let counter = AtomicU64::new(contents.counter_value);
        let shared = Arc::new(Shared { page: Page::new(), counter, removed: AtomicBool::new(false) });
        let writer = Mutex::new(Writer::create(PageOf(Arc::clone(&shared)), contents));
        Self { shared, writer }
    }

    /// A clock that reads this page. It sees every later change.
    pub fn clock(&self) -> VmClock {
        VmClock::of(Source::Mock(Arc::clone(&self.shared)), Duration::from_millis(100), false)
    }

    /// Moves the counter on by some time: to the first tick at which a clock at the mock's own rate has advanced by
    /// all of it, so that whole nanoseconds stay whole however often this is called.
    pub fn advance(&self, by: Duration) {
        const NANOS_PER_SEC: u128 = 1_000_000_000;
        let ticks = u128::from(self.shared.counter());
        let nanos = ((ticks * NANOS_PER_SEC) >> FREQUENCY_SHIFT) + by.as_nanos();
        let ticks = (nanos << FREQUENCY_SHIFT).div_ceil(NANOS_PER_SEC);
        self.set_counter(u64::try_from(ticks).unwrap_or(u64::MAX));
    }

    /// Sets the counter.
    pub fn set_counter(&self, counter: u64) {
        self.shared.counter.store(counter, Ordering::Relaxed);
    }

    /// Changes the page, under its sequence count.
    pub fn update(&self, change: impl FnOnce(&mut Snapshot)) {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).update(change);
    }

    /// The page's contents.
    pub fn contents(&self) -> Snapshot {
        *self.writer.lock().unwrap_or_else(PoisonError::into_inner).contents()
    }

    /// What a live migration does: a new marker.
    pub fn disrupt(&self) {
        self.update(|page| page.disruption_marker = page.disruption_marker.wrapping_add(1));
    }

    /// What a restore from a snapshot does: a new marker and a new generation.
    pub fn restore(&self) {
        self.update(|page| {
            page.disruption_marker = page.disruption_marker.wrapping_add(1);
            page.vm_generation_counter = page.vm_generation_counter.wrapping_add(1);
        });
    }

    /// What the removal of a page's file does: its clocks can be read as before, but have
    /// [vanished](crate::VmClock::check).
    pub fn remove(&self) {
        self.shared.removed.store(true, Ordering::Release);
    }

    /// What a new publisher does after [`remove`](Self::remove): there is a page again, with a new marker.
    pub fn publish_again(&self) {
        self.disrupt();
        self.shared.removed.store(false, Ordering::Release);
    }
}

impl Default for MockPage {
    fn default() -> Self {
        Self::new()
    }
}
