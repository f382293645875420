// SPDX-License-Identifier: MIT OR Apache-2.0
//! How good the published time is on this machine, while it is busy: a publisher in a process of its own against the
//! clock that it takes for the truth, and what that publisher costs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::param::{clock_ticks_per_second, page_size};
use serde_json::{json, Value};
use vmclock::VmClock;

use crate::command::demo::publisher::Publisher;
use crate::output::{print, print_json};

/// Between two comparisons.
const PAUSE: Duration = Duration::from_micros(500);
/// The publisher's rate becomes known in its first seconds, in which it also refreshes more often.
const WARM_UP: Duration = Duration::from_secs(2);

pub(super) fn run(time: Duration, json: bool) -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let publisher = Publisher::start(&folder.path().join("page"), &[])?;
    let clock = VmClock::open_at(publisher.page())?;
    std::thread::sleep(WARM_UP);
    let done = AtomicBool::new(false);
    let before = Usage::of(publisher.pid())?;
    let began = Instant::now();
    let comparisons = std::thread::scope(|scope| {
        let busy = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..busy {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let mut comparisons = Vec::new();
        let result = (|| -> anyhow::Result<()> {
            while began.elapsed() < time {
                comparisons.push(Comparison::make(&clock)?);
                std::thread::sleep(PAUSE);
            }
            Ok(())
        })();
        done.store(true, Ordering::Relaxed);
        result.map(|()| comparisons)
    })?;
    let used = Usage::of(publisher.pid())?;
    let elapsed = began.elapsed().as_secs_f64();
    publisher.stop()?;
    let figures = figures(&comparisons, used.cpu_seconds - before.cpu_seconds, elapsed, used.resident_bytes);
    if json {
        return print_json(&figures);
    }
    print(&format!(
        "{} comparisons with the machine's clock in {elapsed:.0} s, all CPUs busy: error {} ns at the median, {} ns at 99.9 %; bounds ± {} ns at the median; \
outside: {}\nthe publisher takes {} % of a CPU and {} MB\n",
        figures["readings"],
        figures["accuracy_median_ns"],
        figures["accuracy_p999_ns"],
        figures["half_width_median_ns"],
        figures["outside"],
        figures["publisher_cpu_percent"],
        figures["publisher_resident_mb"],
    ))
}

/// The page's time beside the machine's clock.
struct Comparison {
    /// How far the page's time is from the middle of the bracket in which the clock was read, in nanoseconds.
    error: u64,
    half_width: u64,
    is_outside: bool,
}

impl Comparison {
    fn make(clock: &VmClock) -> anyhow::Result<Self> {
        let cross = clock.cross_timestamp()?;
        let (low, high) = cross.realtime_ahead_nanos().context("the page gives no UTC or no bounds")?;
        let half_width = cross.reading.max_error_nanos().context("the page gives no bounds")?;
        Ok(Self {
            error: u64::try_from((low + high).unsigned_abs() / 2)?,
            half_width: u64::try_from(half_width)?,
            is_outside: low > 0 || high < 0,
        })
    }
}

/// What a process has used.
struct Usage {
    cpu_seconds: f64,
    resident_bytes: u64,
}

impl Usage {
    fn of(pid: u32) -> anyhow::Result<Self> {
        let path = format!("/proc/{pid}/stat");
        let text = std::fs::read_to_string(&path).with_context(|| format!("{path}: cannot be read"))?;
        // Behind the name, which may have spaces in it.
        let fields: Vec<&str> = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let number = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok());
        let (user, system, pages) = number(11)
            .zip(number(12))
            .zip(number(21))
            .map(|((user, system), pages)| (user, system, pages))
            .with_context(|| format!("{path}: makes no sense"))?;
        #[allow(clippy::cast_precision_loss)]
        let cpu_seconds = (user + system) as f64 / clock_ticks_per_second() as f64;
        Ok(Self { cpu_seconds, resident_bytes: pages * page_size() as u64 })
    }
}

#[allow(clippy::cast_precision_loss)] // to print
fn figures(comparisons: &[Comparison], cpu_seconds: f64, elapsed: f64, resident_bytes: u64) -> Value {
    let quantile = |value: fn(&Comparison) -> u64, per_mille: usize| {
        let mut values: Vec<u64> = comparisons.iter().map(value).collect();
        values.sort_unstable();
        values.get(values.len().saturating_sub(1) * per_mille / 1000).copied()
    };
    let rounded = |value: f64| (value * 1000.0).round() / 1000.0;
    json!({
        "accuracy_median_ns": quantile(|comparison| comparison.error, 500),
        "accuracy_p999_ns": quantile(|comparison| comparison.error, 999),
        "half_width_median_ns": quantile(|comparison| comparison.half_width, 500),
        "outside": comparisons.iter().filter(|comparison| comparison.is_outside).count(),
        "readings": comparisons.len(),
        "seconds": rounded(elapsed),
        "publisher_cpu_percent": rounded(cpu_seconds / elapsed * 100.0),
        "publisher_resident_mb": rounded(resident_bytes as f64 / 1e6),
    })
}
