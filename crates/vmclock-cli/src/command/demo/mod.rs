// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock demo`: everything once, with real processes and the real counter.
//!
//! A publisher (`vmclock serve`, a process of its own) calibrates this machine's counter against this machine's clock
//! into a page; this process maps the page and reads it, as a program in a guest would. What happens to a machine is
//! told to the publisher through its control socket (`vmclock signal`), and seen here on the page alone.

mod plot;
pub(super) mod publisher;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use jiff::Timestamp;
use serde_json::{json, Value};
use vmclock::{Event, ReadError, Reading, VmClock};
use vmclock_core::leap::next_month_start;

use crate::cli::DemoArgs;
use crate::output::{print, print_json, reading_json};
use plot::{Mark, Point};
use publisher::Publisher;
use vmclock_host::event::Signal;
use vmclock_host::service::client::Client;

/// How long to watch the clock between two events.
const QUIET: Duration = Duration::from_millis(1500);
/// How often to print a reading.
const READINGS: Duration = Duration::from_millis(500);
/// How often to compare the clock with the machine's, for the plot and the summary.
const COMPARISONS: Duration = Duration::from_millis(10);
/// How long an event may take to arrive before the demo has failed.
const TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let teller = Teller { json: args.json };
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    teller
        .say("A publisher calibrates this machine's counter against this machine's clock, which is assumed exact.")?;
    let publisher = Publisher::start(&folder.path().join("page"), &[])?;
    teller.publisher(&publisher)?;
    let mut reader = Reader::open(&publisher, teller)?;
    teller.say("This process maps the page and reads it:")?;
    reader.watch(QUIET)?;
    for (what, signal, expected) in [
        ("The machine is migrated live to another host.", Signal::Migrate, "disrupted"),
        ("The machine is restored from a snapshot.", Signal::Snapshot, "restored"),
        ("The hypervisor's operator announces maintenance within the hour.", Signal::Imminent, "maintenance-imminent"),
        ("The maintenance is off.", Signal::Clear, "maintenance-cleared"),
    ] {
        teller.say(what)?;
        reader.expect(&publisher, signal, expected)?;
        reader.watch(QUIET)?;
    }

    let month = next_month_start(Timestamp::now().as_second());
    let start = Timestamp::from_second(month - 2).context("the machine's clock is far off")?;
    teller.say(&format!(
        "A leap second, on a second page whose clock starts at {start}, two seconds before the month's end:"
    ))?;
    let leap = Publisher::start(
        &folder.path().join("leap"),
        &["--start-at", &start.to_string(), "--leap", "positive", "--refresh", "100ms"],
    )?;
    teller.publisher(&leap)?;
    watch_leap_second(&leap, teller)?;
    leap.stop()?;

    teller.say("The publisher stops, and leaves a page that says so.")?;
    publisher.stop()?;
    reader.expect_event("status", Instant::now())?;

    let summary = Summary::of(&reader.points);
    summary.tell(teller)?;
    if let Some(path) = &args.plot {
        plot::draw(path, &reader.points, &reader.marks)?;
        teller.say(&format!("The clock's error over the run is drawn in {}", path.display()))?;
    }
    Ok(if summary.outside == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Across the leap second: 23:59:59, 23:59:60, 00:00:00.
fn watch_leap_second(publisher: &Publisher, teller: Teller) -> anyhow::Result<()> {
    let clock = VmClock::open_at(publisher.page())?;
    let mut events = clock.events()?;
    let mut last = None;
    let deadline = Instant::now() + 2 * TIMEOUT;
    let mut after = 0;
    while after < 2 {
        anyhow::ensure!(Instant::now() < deadline, "the leap second did not come within {:?}", 2 * TIMEOUT);
        if let Some(changes) = events.wait(Some(Duration::from_millis(5)))? {
            for event in changes.iter() {
                teller.event(event, clock.now().ok().as_ref(), None)?;
            }
        }
        let reading = match clock.now() {
            Ok(reading) => reading,
            Err(ReadError::NoTime(_)) => continue,
            Err(error) => return Err(error.into()),
        };
        let utc = reading.utc().context("the page gives no UTC")?;
        let half = (utc.time.seconds(), utc.leap_second, utc.time.subsec_nanos() / 500_000_000);
        if last != Some(half) {
            teller.reading(&reading)?;
            last = Some(half);
            after += u32::from(utc.time.seconds().rem_euclid(86_400) == 0 || after > 0);
        }
    }
    Ok(())
}

/// The program in the guest: it has nothing but the page.
struct Reader {
    clock: VmClock,
    events: vmclock::Events,
    teller: Teller,
    started: Instant,
    points: Vec<Point>,
    marks: Vec<Mark>,
}

impl Reader {
    fn open(publisher: &Publisher, teller: Teller) -> anyhow::Result<Self> {
        let clock = VmClock::open_at(publisher.page())?;
        let mut events = clock.events()?;
        events.set_interval(Duration::from_millis(1))?;
        let mut reader = Self { clock, events, teller, started: Instant::now(), points: Vec::new(), marks: Vec::new() };
        if let Err(ReadError::NoTime(_)) = reader.clock.now() {
            reader.expect_event("status", Instant::now())?;
        }
        Ok(reader)
    }

    /// Reads the clock for a while.
    fn watch(&mut self, time: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + time;
        let mut next = Instant::now();
        while Instant::now() < end {
            if let Some(changes) = self.events.wait(Some(COMPARISONS))? {
                for event in changes.iter() {
                    self.teller.event(event, self.clock.now().ok().as_ref(), None)?;
                }
            }
            self.compare()?;
            if Instant::now() >= next {
                self.teller.reading(&self.clock.now()?)?;
                next += READINGS;
            }
        }
        Ok(())
    }

    /// Sends a signal and waits until its event is seen on the page.
    fn expect(&mut self, publisher: &Publisher, signal: Signal, event: &'static str) -> anyhow::Result<()> {
        let sent = Instant::now();
        publisher.signal(signal)?;
        self.expect_event(event, sent)
    }

    fn expect_event(&mut self, name: &'static str, since: Instant) -> anyhow::Result<()> {
        let mut seen = false;
        while !seen {
            let left = TIMEOUT.saturating_sub(since.elapsed());
            let changes = self.events.wait(Some(left))?;
            let changes = changes.with_context(|| format!("the event {name:?} was not seen within {TIMEOUT:?}"))?;
            for event in changes.iter() {
                seen |= event.name() == name;
                self.teller.event(event, self.clock.now().ok().as_ref(), Some(since.elapsed()))?;
            }
        }
        self.marks.push(Mark { at: self.started.elapsed().as_secs_f64(), name });
        Ok(())
    }

    /// The page's time beside the machine's clock, which is assumed exact here.
    fn compare(&mut self) -> anyhow::Result<()> {
        let cross = self.clock.cross_timestamp()?;
        let (low, high) = cross.realtime_ahead_nanos().context("the page gives no UTC or no bounds")?;
        let error = cross.reading.max_error_nanos().unwrap_or_default();
        #[allow(clippy::cast_precision_loss)] // some thousands of nanoseconds
        self.points.push(Point {
            at: self.started.elapsed().as_secs_f64(),
            error: -(low + high) as f64 / 2.0,
            bound: error as f64,
            inside: low <= 0 && 0 <= high,
        });
        Ok(())
    }
}

/// How good the clock was.
struct Summary {
    readings: usize,
    outside: usize,
    median: f64,
    worst: f64,
    bound: f64,
}

impl Summary {
    fn of(points: &[Point]) -> Self {
        let quantile = |mut values: Vec<f64>, part: f64| {
            values.sort_by(f64::total_cmp);
            #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]
            let index = (part * values.len().saturating_sub(1) as f64).round() as usize;
            values.get(index).copied().unwrap_or(f64::NAN)
        };
        let errors = || points.iter().map(|point| point.error.abs()).collect::<Vec<_>>();
        Self {
            readings: points.len(),
            outside: points.iter().filter(|point| !point.inside).count(),
            median: quantile(errors(), 0.5),
            worst: quantile(errors(), 1.0),
            bound: quantile(points.iter().map(|point| point.bound).collect(), 0.5),
        }
    }

    fn tell(&self, teller: Teller) -> anyhow::Result<()> {
        let Self { readings, outside, median, worst, bound } = self;
        if teller.json {
            return print_json(&json!({"kind": "summary", "readings": readings, "outside": outside,
                "error_median_ns": median, "error_worst_ns": worst, "half_width_median_ns": bound}));
        }
        teller.say(&format!(
            "{readings} comparisons with the machine's clock: error {median:.0} ns at the median, {worst:.0} ns at worst; \
             bounds ± {bound:.0} ns at the median; outside their bounds: {outside}"
        ))
    }
}

/// Prints, for people or for programs.
#[derive(Clone, Copy)]
struct Teller {
    json: bool,
}

impl Teller {
    fn say(self, text: &str) -> anyhow::Result<()> {
        if self.json {
            print_json(&json!({"kind": "note", "text": text}))
        } else {
            print(&format!("\n{text}\n"))
        }
    }

    fn publisher(self, publisher: &Publisher) -> anyhow::Result<()> {
        let (pid, page) = (publisher.pid(), publisher.page().display());
        for text in publisher.reported() {
            self.tell(&format!("publisher {pid}: {text}"))?;
        }
        self.tell(&format!("publisher {pid}: alive, its page is {page}; the reader is process {}", std::process::id()))
    }

    fn tell(self, text: &str) -> anyhow::Result<()> {
        if self.json {
            print_json(&json!({"kind": "publisher", "text": text}))
        } else {
            print(&format!("  {text}\n"))
        }
    }

    fn reading(self, reading: &Reading) -> anyhow::Result<()> {
        if self.json {
            let mut map = reading_json(reading);
            map.insert("kind".into(), "reading".into());
            print_json(&map)
        } else {
            print(&format!("  {reading}\n"))
        }
    }

    fn event(self, event: Event, reading: Option<&Reading>, after: Option<Duration>) -> anyhow::Result<()> {
        let after = after.map(|after| after.as_secs_f64() * 1e3);
        if self.json {
            let mut map = reading.map(reading_json).unwrap_or_default();
            map.insert("kind".into(), "event".into());
            map.insert("event".into(), event.name().into());
            map.insert("explanation".into(), event.to_string().into());
            map.insert("after_ms".into(), after.map_or(Value::Null, Into::into));
            return print_json(&map);
        }
        let after = after.map(|after| format!(" (seen after {after:.1} ms)")).unwrap_or_default();
        print(&format!("  >> {}: {event}{after}\n", event.name()))
    }
}

impl Publisher {
    /// `vmclock signal`, without the process.
    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let path = crate::command::serve::path_for(self.page(), None);
        Ok(Client::connect(path)?.signal(signal).map(drop)?)
    }
}
