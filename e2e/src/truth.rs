// SPDX-License-Identifier: MIT OR Apache-2.0
//! What time it really was: the host's clock at a value of the guest's counter.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{sleep, JoinHandle};
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};
use serde_json::Value;
use vmclock_core::sample::Sample;
use vmclock_core::time::Utc;
use vmclock_host::kernel::KernelClock;

use crate::patience::until;

/// How often the host's clock is sampled. Its daemon slews it at any time, by little.
const INTERVAL: Duration = Duration::from_millis(10);

/// Between how many ticks and how many the guest's counter is ahead of the host's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offset {
    pub(crate) low: i64,
    pub(crate) high: i64,
}

impl Offset {
    /// What is known when the guest's counter was read between two readings of ours.
    #[allow(clippy::cast_possible_wrap)] // differences of wrapping counters
    pub(crate) fn between(guest: u64, before: u64, after: u64) -> Self {
        Self { low: guest.wrapping_sub(after) as i64, high: guest.wrapping_sub(before) as i64 }
    }

    pub(crate) fn intersection(self, other: Self) -> Self {
        Self { low: self.low.max(other.low), high: self.high.min(other.high) }
    }

    pub(crate) fn middle(self) -> i64 {
        self.low + (self.high - self.low) / 2
    }

    pub(crate) fn width(self) -> u64 {
        self.low.abs_diff(self.high)
    }

    /// The guest's counter at a value of the host's.
    pub(crate) fn guest(self, host: u64) -> u64 {
        host.wrapping_add_signed(self.middle())
    }
}

/// The host's clock over the host's counter, sampled in the background.
pub(crate) struct Truth {
    /// TAI-UTC in nanoseconds.
    tai_offset: i128,
    samples: Arc<Mutex<Vec<Sample<Utc>>>>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Truth {
    /// Starts to sample the host's clock. The page's own TAI-UTC, in seconds, is taken, as that is not what is judged.
    pub(crate) fn start(tai_minus_utc: i64) -> Self {
        let clock = KernelClock::realtime();
        let samples = Arc::new(Mutex::new(vec![clock.sample()]));
        let end = Arc::new(AtomicBool::new(false));
        let (shared, ended) = (Arc::clone(&samples), Arc::clone(&end));
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                sleep(INTERVAL);
                let sample = clock.sample();
                shared.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
            }
        });
        Self { tai_offset: i128::from(tai_minus_utc) * 1_000_000_000, samples, end, thread: Some(thread) }
    }

    /// The host's clock now, in TAI nanoseconds.
    pub(crate) fn now(&self) -> i128 {
        self.tai(&KernelClock::realtime().sample())
    }

    /// The time of a sample in TAI nanoseconds.
    fn tai(&self, sample: &Sample<Utc>) -> i128 {
        sample.time.floor_nanos() + self.tai_offset
    }

    fn samples(&self) -> MutexGuard<'_, Vec<Sample<Utc>>> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ticks of the host's counter in a second.
    pub(crate) fn ticks_per_second(&self) -> Result<f64> {
        until("the host's clock was sampled twice", Duration::from_secs(5), || Ok(self.samples().len() > 20))?;
        let samples = self.samples();
        let (first, last) = (samples[0], samples[samples.len() - 1]);
        let nanos = self.tai(&last) - self.tai(&first);
        #[allow(clippy::cast_precision_loss)] // a rate, for figures that are printed
        Ok(last.middle().wrapping_sub(first.middle()) as f64 * 1e9 / nanos as f64)
    }

    /// The time in TAI nanoseconds at a value of the host's counter.
    pub(crate) fn at(&self, host: u64) -> Result<i128> {
        let mut around = None;
        until("the host's clock was sampled after the reading", Duration::from_secs(2), || {
            let samples = self.samples();
            let index = samples.partition_point(|sample| sample.middle() < host);
            ensure!(index > 0, "a reading is from before the first sample of the host's clock");
            around = samples.get(index).map(|after| (samples[index - 1], *after));
            Ok(around.is_some())
        })?;
        let (one, other) = around.context("there is no sample after the reading")?;
        let ticks = i128::from(other.middle() - one.middle());
        let passed = i128::from(host - one.middle());
        Ok(self.tai(&one) + (self.tai(&other) - self.tai(&one)) * passed / ticks)
    }
}

impl Drop for Truth {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A reading that the guest took, as it sends it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    pub(crate) counter: u64,
    earliest: i128,
    tai: i128,
    latest: i128,
}

impl Reading {
    pub(crate) fn parse(value: &Value) -> Result<Self> {
        let Some([counter, earliest, tai, latest]) = value.as_array().map(Vec::as_slice) else {
            bail!("the guest sends a reading that is none: {value}");
        };
        let nanos = |value: &Value| value.as_i64().map(i128::from).with_context(|| format!("{value} as nanoseconds"));
        let counter = counter.as_u64().with_context(|| format!("{counter} as a counter"))?;
        Ok(Self { counter, earliest: nanos(earliest)?, tai: nanos(tai)?, latest: nanos(latest)? })
    }

    /// Half the interval's width in nanoseconds.
    pub(crate) fn bound(&self) -> i128 {
        (self.latest - self.earliest) / 2
    }

    /// The reading's error in nanoseconds, if the guest's counter was ahead by `offset`.
    pub(crate) fn error(&self, truth: &Truth, offset: Offset) -> Result<i128> {
        Ok(self.tai - truth.at(self.counter.wrapping_add_signed(-offset.middle()))?)
    }

    /// Whether true time may be within the interval, where truth itself is known to `slack` nanoseconds.
    pub(crate) fn holds(&self, truth: &Truth, offset: Offset, slack: i128) -> Result<bool> {
        let truth = self.tai - self.error(truth, offset)?;
        Ok((self.earliest - slack..=self.latest + slack).contains(&truth))
    }
}
