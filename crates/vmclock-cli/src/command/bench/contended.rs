// SPDX-License-Identifier: MIT OR Apache-2.0
//! What two threads that read all the time pay for a writer that updates the page meanwhile.

use std::hint::black_box;
use std::sync::mpsc::{channel, Receiver, Sender, TryRecvError};
use std::time::{Duration, Instant};

use anyhow::{bail, Context};
use rustix::thread::{sched_getaffinity, sched_setaffinity, CpuSet};
use vmclock::{ReadError, VmClock};

use super::best::Best;
use super::page::PageUnderTest;

const READERS: u32 = 2;
/// Readings in one round of one thread: some 2 ms, in which the page is updated some twenty times.
const CALLS: u32 = 100_000;
/// Time between two updates: 10 kHz.
const PERIOD: Duration = Duration::from_micros(100);
/// A round counts only if the threads read side by side for nine tenths of it, and, with a writer, saw nine in ten of
/// the updates that were due. On a busy machine somebody may get no CPU, and then there is nothing to measure.
const ENOUGH: f64 = 0.9;

/// What a `now()` costs.
#[derive(Clone, Copy, Default)]
pub(super) struct Contention {
    /// With nobody writing, in the best round of either thread, and in the best round of both on average.
    pub(super) quiet: Best,
    pub(super) quiet_mean: Best,
    /// With a writer: what the updates of the page cost a reader.
    pub(super) contended: Best,
    /// With a writer: the same, and what the writer takes of the readers' CPUs.
    pub(super) contended_mean: Best,
    /// How many rounds with a writer counted.
    pub(super) counted: u32,
}

/// Measures rounds with and without a writer in turn.
///
/// The writer sleeps between updates, and has no CPU to itself: where there are no more CPUs than readers, it takes one
/// from a reader for every update, for some twenty microseconds in a virtual machine. That is in the mean of both
/// threads; in the better of the two, as the writer tends to stay with the other, is what the page itself costs.
pub(super) fn measure(page: &mut PageUnderTest, rounds: u32) -> anyhow::Result<Contention> {
    let clock = page.open()?;
    std::thread::scope(|scope| {
        let readers: Vec<Reader> = cpus()
            .into_iter()
            .cycle()
            .take(READERS as usize)
            .map(|cpu| {
                let (go, start) = channel();
                let (done, result) = channel();
                let clock = clock.clone();
                scope.spawn(move || {
                    stay_on(cpu);
                    read_when_told(&clock, &start, &done);
                });
                Reader { go, result }
            })
            .collect();
        let mut contention = Contention::default();
        for _ in 0..rounds {
            let quiet = round(&readers, None)?;
            if quiet.together >= ENOUGH {
                contention.quiet.take(quiet.lowest);
                contention.quiet_mean.take(quiet.mean);
            }
            let contended = round(&readers, Some(page))?;
            if contended.together.min(contended.updates) >= ENOUGH {
                contention.contended.take(contended.lowest);
                contention.contended_mean.take(contended.mean);
                contention.counted += 1;
            }
        }
        Ok(contention)
    })
}

/// The CPUs that we may use.
fn cpus() -> Vec<usize> {
    // Where that cannot be found out, the first one, which `stay_on` then may refuse.
    let allowed = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    if cpus.is_empty() {
        vec![0]
    } else {
        cpus
    }
}

/// Keeps this thread on one CPU, so that the readers do not end up side by side on the same.
fn stay_on(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    // Refused, it runs where it may; rounds in which that goes wrong are not the best ones.
    let _ = sched_setaffinity(None, &set);
}

/// A thread that reads when it is told to.
struct Reader {
    go: Sender<()>,
    result: Receiver<Result<Read, ReadError>>,
}

/// What one thread did in a round.
struct Read {
    start: Instant,
    elapsed: Duration,
    /// Updates seen.
    updates: u32,
}

fn read_when_told(clock: &VmClock, start: &Receiver<()>, done: &Sender<Result<Read, ReadError>>) {
    while start.recv().is_ok() {
        // Nobody is there to take the result if another thread failed.
        let _ = done.send(read(clock));
    }
}

fn read(clock: &VmClock) -> Result<Read, ReadError> {
    let before = clock.snapshot()?.seq_count;
    let start = Instant::now();
    for _ in 0..CALLS {
        black_box(&clock.now());
    }
    let elapsed = start.elapsed();
    let updates = clock.snapshot()?.seq_count.wrapping_sub(before) / 2;
    Ok(Read { start, elapsed, updates })
}

/// What all threads did in a round.
struct Round {
    /// Nanoseconds a call in the better thread.
    lowest: f64,
    /// Nanoseconds a call.
    mean: f64,
    /// The time in which all threads read, as a share of that in which the first to be ready did.
    together: f64,
    /// Updates seen by one thread, as a share of those that were due; the lowest.
    updates: f64,
}

impl Round {
    fn of(reads: &[Read]) -> Option<Self> {
        let costs = || reads.iter().map(|read| read.elapsed.as_secs_f64() * 1e9 / f64::from(CALLS));
        let updates =
            reads.iter().map(|read| f64::from(read.updates) * PERIOD.as_secs_f64() / read.elapsed.as_secs_f64());
        let start = reads.iter().map(|read| read.start).max()?;
        let end = reads.iter().map(|read| read.start + read.elapsed).min()?;
        let shortest = reads.iter().map(|read| read.elapsed).min()?;
        Some(Self {
            lowest: costs().fold(f64::INFINITY, f64::min),
            mean: costs().sum::<f64>() / f64::from(READERS),
            together: end.saturating_duration_since(start).as_secs_f64() / shortest.as_secs_f64(),
            updates: updates.fold(f64::INFINITY, f64::min),
        })
    }
}

/// Lets every thread read once, and updates `page` until they are done.
fn round(readers: &[Reader], mut page: Option<&mut PageUnderTest>) -> anyhow::Result<Round> {
    const GONE: &str = "a reading thread is gone";
    for reader in readers {
        reader.go.send(()).context(GONE)?;
    }
    let mut due = Instant::now();
    let mut turn = 0;
    let mut reads = Vec::new();
    for reader in readers {
        let read = loop {
            let Some(page) = page.as_mut() else { break reader.result.recv().context(GONE)?? };
            match reader.result.try_recv() {
                Ok(read) => break read?,
                Err(TryRecvError::Disconnected) => bail!(GONE),
                Err(TryRecvError::Empty) => {}
            }
            page.refresh(turn);
            turn += 1;
            // What comes too late is left out, not made up for in a burst.
            due = (due + PERIOD).max(Instant::now());
            std::thread::sleep(due - Instant::now());
        };
        reads.push(read);
    }
    Round::of(&reads).context(GONE)
}
