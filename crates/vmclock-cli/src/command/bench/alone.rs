// SPDX-License-Identifier: MIT OR Apache-2.0
//! What one thread measures, with nobody else on the page.

use std::hint::black_box;
use std::sync::atomic::{fence, Ordering};
use std::time::{Instant, SystemTime};

use anyhow::{ensure, Context};
use vmclock::VmClock;
use vmclock_core::counter::{self, Rdtscp};

use super::best::Best;
use super::page::PageUnderTest;

/// Calls in one round: enough that the two looks at the clock cost nothing, and so few (some 100 us) that many rounds
/// pass without an interrupt.
const CALLS: u32 = 5_000;

/// What a call costs.
#[derive(Clone, Copy, Default)]
pub(super) struct Costs {
    /// The bare counter, whenever the CPU finds the time.
    pub(super) counter: Best,
    /// The bare counter, in order, as `now()` reads it.
    pub(super) counter_ordered: Best,
    /// RDTSCP, where the CPU has it.
    pub(super) rdtscp: Best,
    /// `clock_gettime(CLOCK_REALTIME)` of the C library, by way of [`SystemTime`].
    pub(super) vdso: Best,
    /// `now()`, and the same with the ends of its interval, for those who want to compare it.
    pub(super) now: Best,
    pub(super) now_interval: Best,
    /// `now()` and what `clock_gettime` gives, UTC in nanoseconds.
    pub(super) utc: Best,
    /// `now_unordered()`.
    pub(super) unordered: Best,
    /// `is_current()`: whether marker and generation are still the same.
    pub(super) check: Best,
    /// A refresh of the calibration, and the part of it in which readers have to wait.
    pub(super) publish: Best,
    pub(super) odd: Best,
}

impl Costs {
    /// The cheaper of the ordered readings of the counter: no ordered clock can cost less.
    pub(super) fn floor(&self) -> Best {
        self.counter_ordered.min(self.rdtscp)
    }
}

/// Measures everything once in each round, so that whatever else the machine does meets all alike.
pub(super) fn measure(page: &mut PageUnderTest, rounds: u32) -> anyhow::Result<Costs> {
    let clock = page.open()?;
    let known = clock.epoch()?;
    let rdtscp = Rdtscp::detect();
    check(&clock)?;
    let mut costs = Costs::default();
    for _ in 0..rounds {
        costs.counter.take(cost(counter::read_unordered));
        costs.counter_ordered.take(cost(counter::read_ordered));
        if let Some(rdtscp) = rdtscp {
            costs.rdtscp.take(cost(|| rdtscp.read()));
        }
        costs.vdso.take(cost(SystemTime::now));
        costs.now.take(cost(|| clock.now()));
        costs.now_interval.take(cost(|| {
            let interval = clock.now().ok()?.interval()?;
            Some((interval.earliest.nanos(), interval.latest.nanos()))
        }));
        costs.utc.take(cost(|| clock.now().ok()?.utc_timestamp()));
        costs.unordered.take(cost(|| clock.now_unordered()));
        costs.check.take(cost(|| clock.is_current(&known)));
        costs.publish.take(publish(page));
        costs.odd.take(odd(page));
    }
    // What was measured was good readings to the end, not errors.
    check(&clock)?;
    ensure!(clock.is_current(&known)?, "the page under test became another one");
    Ok(costs)
}

/// Nanoseconds a call. `black_box` has every result put together in memory, though nobody looks at it.
#[inline(never)]
fn cost<T>(mut call: impl FnMut() -> T) -> f64 {
    let start = Instant::now();
    for _ in 0..CALLS {
        black_box(&call());
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
}

/// Nanoseconds from before a refresh of the calibration until all of it is visible to other CPUs.
#[inline(never)]
fn publish(page: &mut PageUnderTest) -> f64 {
    let mut ticks = 0;
    for call in 0..CALLS {
        let before = counter_after_stores();
        black_box(&mut *page).refresh(call);
        ticks += counter_after_stores() - before;
    }
    page.nanos(ticks) / f64::from(CALLS)
}

/// Nanoseconds from when the odd count is visible to other CPUs until all that is written under it is.
#[inline(never)]
fn odd(page: &mut PageUnderTest) -> f64 {
    let mut ticks = 0;
    for call in 0..CALLS {
        let (mut from, mut to) = (0, 0);
        black_box(&mut *page).refresh_observed(call, || (from, to) = (to, counter_after_stores()));
        ticks += to - from;
    }
    page.nanos(ticks) / f64::from(CALLS)
}

/// The counter once every store before is visible to other CPUs (on aarch64: is ordered to be). A publisher has no
/// use for the fence; what it and the counter cost is in the result of both functions above.
#[inline(always)]
fn counter_after_stores() -> u64 {
    fence(Ordering::SeqCst);
    counter::read_ordered()
}

/// Whether a reading is one: with bounds, and near the kernel's time, from which the page was calibrated.
fn check(clock: &VmClock) -> anyhow::Result<()> {
    let reading = clock.now()?;
    let kernel = SystemTime::now();
    let ours = reading.system_time().context("the page under test gives no UTC")?;
    let apart = ours.duration_since(kernel).unwrap_or_else(|error| error.duration());
    ensure!(apart.as_millis() < 100, "the page under test is {apart:?} off the kernel's clock: was that set just now?");
    ensure!(reading.interval().is_some(), "the page under test gives no bounds");
    Ok(())
}
