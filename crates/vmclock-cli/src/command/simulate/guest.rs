// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest that reads the page all the time, and a judge who knows the true time.

use std::collections::VecDeque;

use hdrhistogram::Histogram;
use vmclock::{Interval, Time};
use vmclock_core::abi::{CounterId, Flags, Snapshot};
use vmclock_core::calibration::Calibration;
use vmclock_core::page::Page;
use vmclock_core::time::PageScale;

/// The counter that the page is about.
pub(super) const COUNTER: CounterId = CounterId::X86_TSC;
/// How many calibrations back later ones are compared with what was read. The next one is held to it, the others only try.
const COMPARED: u32 = 8;
/// One reading of so many is kept for long, as others may then only overlap with it.
const KEPT_LONG: u64 = 1_000;
/// An hour in nanoseconds: more is counted as this.
const LARGEST: u64 = 3_600_000_000_000;
const DAY: f64 = 86_400e9;

/// What was seen, over all.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    pub(super) readings: u64,
    /// No time was given.
    pub(super) without: u64,
    pub(super) bound_violations: u64,
    pub(super) nested_violations: u64,
    /// Placed outside its bounds, if only by a later calibration than the next.
    pub(super) nested_misses: u64,
    pub(super) monotonic_violations: u64,
    pub(super) updates: u64,
    pub(super) errors: Histogram<u64>,
    pub(super) half_widths: Histogram<u64>,
    /// Of each day: half of the interval's width at the median, over the worst error.
    pub(super) ratios: Vec<f64>,
}

impl Tally {
    pub(super) fn new() -> Self {
        let histogram =
            || Histogram::new_with_bounds(1, LARGEST, 3).unwrap_or_else(|_| unreachable!("these bounds are allowed"));
        Self {
            readings: 0,
            without: 0,
            bound_violations: 0,
            nested_violations: 0,
            nested_misses: 0,
            monotonic_violations: 0,
            updates: 0,
            errors: histogram(),
            half_widths: histogram(),
            ratios: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.readings += other.readings;
        self.without += other.without;
        self.bound_violations += other.bound_violations;
        self.nested_violations += other.nested_violations;
        self.nested_misses += other.nested_misses;
        self.monotonic_violations += other.monotonic_violations;
        self.updates += other.updates;
        let sums = [(&mut self.errors, &other.errors), (&mut self.half_widths, &other.half_widths)];
        for (sum, more) in sums {
            // Both grow by themselves, so that any value fits.
            let _ = sum.add(more);
        }
        self.ratios.extend(&other.ratios);
    }
}

/// A reading that was given to somebody.
#[derive(Clone, Copy, Debug)]
struct Given {
    counter: u64,
    interval: Interval<PageScale>,
    /// The page's sequence count.
    sequence: u32,
}

/// A guest, and what it saw in one run.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) tally: Tally,
    recent: VecDeque<Given>,
    old: Vec<Given>,
    last: Option<(Snapshot, Time<PageScale>)>,
    day_ends: f64,
    day_widths: Histogram<u64>,
    day_worst: u64,
}

impl Guest {
    pub(super) fn new() -> Self {
        let tally = Tally::new();
        let day_widths = tally.errors.clone();
        Self { tally, recent: VecDeque::new(), old: Vec::new(), last: None, day_ends: DAY, day_widths, day_worst: 0 }
    }

    /// Reads the clock when the counter is `counter` and `truth` is the time, in nanoseconds of the page's scale, at `age`
    /// nanoseconds of the run. Gives error and half of the interval's width.
    pub(super) fn read(&mut self, page: &Page, counter: u64, truth: i128, age: f64) -> Option<(i128, u128)> {
        self.tally.readings += 1;
        let Ok(snapshot) = page.snapshot(|| true) else { return None };
        let Ok(calibration) = Calibration::from_snapshot(&snapshot, COUNTER) else {
            self.tally.without += 1;
            self.forget_if_disrupted(&snapshot);
            return None;
        };
        let time = calibration.time_at(counter).ok()?;
        let interval = calibration.interval_at(counter).ok()??;
        self.forget_if_disrupted(&snapshot);
        if let Some((before, last)) = self.last {
            let is_promised = |page: &Snapshot| page.flags.contains(Flags::TIME_MONOTONIC);
            if is_promised(&before) && is_promised(&snapshot) && time < last {
                self.tally.monotonic_violations += 1;
            }
        }
        self.last = Some((snapshot, time));
        // The counter was between two ticks, and nanoseconds are whole.
        let inside = interval.earliest.nanos() <= truth + 1 && truth - 1 <= interval.latest.nanos();
        self.tally.bound_violations += u64::from(!inside);
        let error = time.floor_nanos() - truth;
        let half = interval.width_nanos() / 2;
        let worst = u64::try_from(error.unsigned_abs()).unwrap_or(u64::MAX);
        self.tally.errors.saturating_record(worst);
        self.tally.half_widths.saturating_record(u64::try_from(half).unwrap_or(u64::MAX));
        self.day(age, worst, u64::try_from(half).unwrap_or(u64::MAX));
        let given = Given { counter, interval, sequence: snapshot.seq_count };
        if self.recent.len() == 64 {
            self.recent.pop_front();
        }
        self.recent.push_back(given);
        if self.tally.readings.is_multiple_of(KEPT_LONG) {
            self.old.push(given);
        }
        Some((error, half))
    }

    /// Holds a page that has just changed to what was given before.
    pub(super) fn compare(&mut self, page: &Page) {
        self.tally.updates += 1;
        let Ok(snapshot) = page.snapshot(|| true) else { return };
        self.forget_if_disrupted(&snapshot);
        let Ok(calibration) = Calibration::from_snapshot(&snapshot, COUNTER) else { return };
        for given in &self.recent {
            let later = snapshot.seq_count.wrapping_sub(given.sequence) / 2;
            if later > COMPARED {
                continue;
            }
            // Rounded to the nanosecond on its way to the guest.
            let placed = calibration.time_at(given.counter).ok();
            let inside = placed.is_some_and(|time| {
                given.interval.earliest.nanos() <= time.ceil_nanos()
                    && time.floor_nanos() <= given.interval.latest.nanos()
            });
            self.tally.nested_violations += u64::from(!inside && later <= 1);
            self.tally.nested_misses += u64::from(!inside && later > 1);
        }
        for given in &self.old {
            let interval = calibration.interval_at(given.counter).ok().flatten();
            let overlaps = interval.is_some_and(|interval| {
                interval.earliest <= given.interval.latest && given.interval.earliest <= interval.latest
            });
            self.tally.nested_violations += u64::from(!overlaps);
        }
    }

    /// What was measured with a counter that was disturbed is dropped, as a guest has to.
    fn forget_if_disrupted(&mut self, page: &Snapshot) {
        if self.last.is_some_and(|(last, _)| last.disruption_marker != page.disruption_marker) {
            self.recent.clear();
            self.old.clear();
            self.last = None;
        }
        if self.old.len() > 48 {
            self.old.remove(0);
        }
    }

    fn day(&mut self, age: f64, worst: u64, half: u64) {
        self.day_widths.saturating_record(half);
        self.day_worst = self.day_worst.max(worst);
        if age >= self.day_ends {
            self.day_ends += DAY;
            #[allow(clippy::cast_precision_loss)]
            let ratio = self.day_widths.value_at_quantile(0.5) as f64 / self.day_worst.max(1) as f64;
            self.tally.ratios.push(ratio);
            self.day_widths.reset();
            self.day_worst = 0;
        }
    }
}
