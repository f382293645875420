// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock bench --service`: what the host's service costs with many guests, and whether one holds up another.
//!
//! The service is `vmclock serve` in a process of its own; the guests' pages are memfds, as monitors pass them. Its
//! reference is assumed exact, so that each round refreshes each page. What is watched are the first and the last page
//! that it refreshes, without pause and from another CPU.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context};
use rustix::fs::{memfd_create, MemfdFlags};
use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
use serde_json::{json, Value};
use vmclock::{Snapshot, VmClock};
use vmclock_core::abi::{ParseError, STRUCTURE_LEN};
use vmclock_host::service::client::Client;
use vmclock_host::service::protocol::{Call, GuestName, PageState, Place, Relation, Request, Step};

use crate::command::demo::publisher::Publisher;
use crate::command::serve::path_for;
use crate::output::{print, print_json};

/// How often the service refreshes all pages where it is measured how punctual it is.
const OFTEN: Duration = Duration::from_millis(20);
/// And where it is measured what it costs.
const SECOND: Duration = Duration::from_secs(1);
/// A refresh that comes later than this is late.
const LATE: Duration = Duration::from_millis(10);
/// How many guests are restored at once, and how many others there are then.
const STORM: usize = 1_000;
/// How many publishers of one page each are measured beside it.
const ALONE: usize = 20;
/// How long the service may take for anything.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);
/// How often a guest is added.
const ADDED: usize = 100;

/// Measures all, and prints it.
pub(super) fn run(guests: &[usize], rounds: u32, json: bool) -> anyhow::Result<()> {
    raise_limit()?;
    let report = |line: &Value, text: &str| if json { print_json(line) } else { print(text) };
    for number in guests {
        let (line, text) = many(*number, rounds)?;
        report(&line, &text)?;
    }
    let (line, text) = adding(rounds)?;
    report(&line, &text)?;
    let (line, text) = storm()?;
    report(&line, &text)?;
    let (line, text) = alone(rounds)?;
    report(&line, &text)
}

/// Each guest's page is a file descriptor here.
fn raise_limit() -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    setrlimit(Resource::Nofile, raised).context("cannot raise the limit of open files")
}

/// A service with guests.
struct Service {
    publisher: Publisher,
    client: Client,
    pages: Vec<File>,
    _folder: tempfile::TempDir,
}

impl Service {
    fn start(refresh: Duration) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let page = folder.path().join("page");
        let publisher = Publisher::start(&page, &["--refresh", &format!("{}ms", refresh.as_millis())])?;
        let client = Client::connect(path_for(&page, None))?;
        Ok(Self { publisher, client, pages: Vec::new(), _folder: folder })
    }

    fn with(refresh: Duration, guests: usize) -> anyhow::Result<Self> {
        let mut service = Self::start(refresh)?;
        for _ in 0..guests {
            service.add()?;
        }
        // The first rounds come sooner than the others.
        std::thread::sleep(3 * refresh);
        Ok(service)
    }

    /// One more guest, whose page comes behind all others.
    fn add(&mut self) -> anyhow::Result<()> {
        let page = File::from(memfd_create("vmclock", MemfdFlags::CLOEXEC).context("cannot make a memfd")?);
        page.set_len(4096).context("cannot give a memfd its length")?;
        let (guest, place) = (name(self.pages.len())?, Place::Descriptor);
        let request = Request::AddGuest { guest, page: place, counter: Relation::Host, notify: false, step: None };
        self.client.ask::<PageState>(request, &[page.as_fd()])?;
        self.pages.push(page);
        Ok(())
    }

    fn remove_last(&mut self) -> anyhow::Result<()> {
        self.pages.pop();
        Ok(self.client.remove_guest(&name(self.pages.len())?)?)
    }

    /// A guest's page, as a program in the guest has it.
    fn clock(&self, guest: usize) -> anyhow::Result<VmClock> {
        let page = self.pages.get(guest).context("there is no such guest")?;
        Ok(VmClock::open_at(format!("/proc/self/fd/{}", page.as_raw_fd()))?)
    }

    fn socket(&self) -> std::path::PathBuf {
        path_for(self.publisher.page(), None)
    }

    /// CPU time so far.
    fn cpu(&self) -> anyhow::Result<Duration> {
        cpu(self.publisher.pid())
    }
}

fn name(number: usize) -> anyhow::Result<GuestName> {
    Ok(format!("guest-{number:05}").parse()?)
}

/// CPU time of all threads of a process.
fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let mut nanos = 0;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).context("cannot find the publisher's threads")? {
        let path = thread?.path().join("schedstat");
        let text = std::fs::read_to_string(&path).with_context(|| format!("{}: cannot be read", path.display()))?;
        nanos += text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(nanos))
}

/// A process's memory in KiB, of one kind.
fn memory(pid: u32, kind: &str) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(&path).with_context(|| format!("{path}: cannot be read"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(kind)).with_context(|| format!("{path}: no {kind}"))?;
    line.split_whitespace().next().and_then(|word| word.parse().ok()).with_context(|| format!("{path}: {line:?}"))
}

/// When the first and the last page were refreshed.
#[derive(Clone, Copy)]
struct Refresh {
    first: Instant,
    last: Instant,
}

/// Watches two pages until it is enough.
fn watch(first: &VmClock, last: &VmClock, mut is_enough: impl FnMut(&[Refresh]) -> bool) -> Vec<Refresh> {
    let count = |clock: &VmClock| clock.snapshot().map_or(0, |page| page.seq_count);
    let (mut of_first, mut of_last) = (count(first), count(last));
    let (mut seen, mut refreshed) = (Vec::new(), None);
    while !is_enough(&seen) {
        // The last one before the first: where it was refreshed, the first one was too.
        let last_now = count(last);
        if std::mem::replace(&mut of_first, count(first)) != of_first {
            refreshed = Some(Instant::now());
        }
        if std::mem::replace(&mut of_last, last_now) != last_now {
            let now = Instant::now();
            seen.push(Refresh { first: refreshed.take().unwrap_or(now), last: now });
        }
    }
    seen
}

/// How late each refresh of the last page was, in the order of lateness. One that was left out is as late as the next.
fn lateness(seen: &[Refresh], refresh: Duration) -> Vec<Duration> {
    let apart = seen.windows(2).map(|pair| (pair[1].last - pair[0].last).saturating_sub(refresh));
    let mut late: Vec<_> = apart.collect();
    late.sort();
    late
}

fn millis(duration: Option<&Duration>) -> f64 {
    duration.map_or(0.0, |duration| (duration.as_secs_f64() * 1e6).round() / 1e3)
}

fn rounded(number: f64) -> f64 {
    (number * 1e4).round() / 1e4
}

#[allow(clippy::cast_precision_loss)] // to print
fn many(guests: usize, rounds: u32) -> anyhow::Result<(Value, String)> {
    let service = Service::with(SECOND, guests)?;
    let (first, last) = (service.clock(0)?, service.clock(guests - 1)?);
    let (begun, cpu) = (Instant::now(), service.cpu()?);
    let seconds = (rounds / 25).max(2);
    // On a busy machine it takes longer until there is something to see.
    let is_enough = |seen: &[Refresh]| begun.elapsed() >= SECOND * if seen.len() > 1 { seconds } else { 60 };
    let seen = watch(&first, &last, is_enough);
    let share = service.cpu()?.saturating_sub(cpu).as_secs_f64() / begun.elapsed().as_secs_f64();
    let resident = memory(service.publisher.pid(), "Rss:")?;
    let delays = seen.iter().map(|refresh| refresh.last - refresh.first).collect::<Vec<_>>();
    ensure!(seen.len() > 1, "the service refreshed its pages {} times in 60 s", seen.len());
    drop(service);
    // How punctual it is, on many more rounds.
    let service = Service::with(OFTEN, guests)?;
    let (first, last) = (service.clock(0)?, service.clock(guests - 1)?);
    let wanted = 5 * rounds as usize + 1;
    let often = watch(&first, &last, |seen| seen.len() >= wanted);
    let late = lateness(&often, OFTEN);
    let in_time = late.iter().filter(|late| **late <= LATE).count() as f64 / late.len() as f64;
    let pages = 4 * guests as u64;
    let line = json!({
        "measured": "guests", "guests": guests, "cpu_percent": rounded(share * 100.0), "refreshes": seen.len(),
        "resident_kib": resident, "resident_without_pages_kib": resident.saturating_sub(pages),
        "last_behind_first_ms": millis(delays.iter().max()), "on_time": rounded(in_time), "of": late.len(),
        "latest_ms": millis(late.last()),
    });
    let text = format!(
        "{guests:>6} guests: {:.3} % of a CPU at 1 Hz, {resident} KiB resident ({} KiB without the pages), the last page \
         {:.3} ms behind the first; {:.2} % of {} refreshes at {} Hz on time, the latest {:.3} ms late\n",
        share * 100.0,
        resident.saturating_sub(pages),
        millis(delays.iter().max()),
        in_time * 100.0,
        late.len(),
        SECOND.as_millis() / OFTEN.as_millis(),
        millis(late.last()),
    );
    Ok((line, text))
}

fn adding(rounds: u32) -> anyhow::Result<(Value, String)> {
    let mut service = Service::with(OFTEN, 999)?;
    let (first, last) = (service.clock(0)?, service.clock(998)?);
    let wanted = rounds as usize + 1;
    let quiet = lateness(&watch(&first, &last, |seen| seen.len() >= wanted), OFTEN);
    let is_over = AtomicBool::new(false);
    let (seen, took) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(&first, &last, |_| is_over.load(Ordering::Relaxed)));
        let mut took = Vec::new();
        for _ in 0..ADDED {
            let begun = Instant::now();
            let added = service.add();
            took.push(begun.elapsed());
            if let Err(error) = added.and_then(|()| service.remove_last()) {
                is_over.store(true, Ordering::Relaxed);
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        is_over.store(true, Ordering::Relaxed);
        Ok((watcher.join().map_err(|_| anyhow::anyhow!("the watcher panicked"))?, took))
    })?;
    let mut took = took;
    took.sort();
    let late = lateness(&seen, OFTEN);
    let line = json!({
        "measured": "adding", "guests": 1_000, "add_ms": millis(took.get(took.len() / 2)),
        "add_slowest_ms": millis(took.last()), "latest_ms": millis(late.last()), "latest_without_ms": millis(quiet.last()),
    });
    let text = format!(
        "the 1,000th guest is added in {:.3} ms, the slowest of {ADDED} in {:.3} ms; meanwhile the latest refresh is {:.3} ms \
         late, without that {:.3} ms\n",
        millis(took.get(took.len() / 2)),
        millis(took.last()),
        millis(late.last()),
        millis(quiet.last()),
    );
    Ok((line, text))
}

/// What is in a page's file, between two updates: twice the same, with an even sequence count.
fn contents(page: &File) -> anyhow::Result<Snapshot> {
    let copy = || -> anyhow::Result<_> {
        let mut bytes = [0; STRUCTURE_LEN];
        page.read_exact_at(&mut bytes, 0).context("cannot read a page")?;
        Ok(bytes)
    };
    let (mut last, begun) = (copy()?, Instant::now());
    loop {
        ensure!(begun.elapsed() < ANSWERED_WITHIN, "a page is being updated for {ANSWERED_WITHIN:?}");
        let bytes = copy()?;
        match Snapshot::from_prefix(&bytes) {
            Err(ParseError::Updating { .. }) => {}
            page if bytes == last => return Ok(page?),
            _ => {}
        }
        last = bytes;
    }
}

fn storm() -> anyhow::Result<(Value, String)> {
    let service = Service::with(OFTEN, 2 * STORM)?;
    let (first, last) = (service.clock(STORM)?, service.clock(2 * STORM - 1)?);
    let mut clients = Vec::new();
    for guest in 0..STORM {
        let stream = UnixStream::connect(service.socket()).context("cannot connect to the service")?;
        let (step, counter) = (Step::Restored, Some(Relation::Host));
        let request = Request::Lifecycle { guest: name(guest)?, step, counter, seen: None, generation: None };
        clients.push((stream, Call { id: None, request }.line()));
    }
    let before = service.pages.iter().map(contents).collect::<anyhow::Result<Vec<_>>>()?;
    let is_over = AtomicBool::new(false);
    let (seen, wrong, took) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(&first, &last, |_| is_over.load(Ordering::Relaxed)));
        std::thread::sleep(10 * OFTEN);
        let begun = Instant::now();
        let restored = restore(&service, &mut clients, &before);
        let took = begun.elapsed();
        std::thread::sleep(10 * OFTEN);
        is_over.store(true, Ordering::Relaxed);
        let seen = watcher.join().map_err(|_| anyhow::anyhow!("the watcher panicked"))?;
        restored.map(|wrong| (seen, wrong, took))
    })?;
    let late = lateness(&seen, OFTEN);
    let line = json!({
        "measured": "storm", "restores": STORM, "took_ms": millis(Some(&took)), "wrong": wrong, "others": STORM,
        "latest_ms": millis(late.last()),
    });
    let text = format!(
        "{STORM} restores at once take {:.1} ms; {wrong} pages were not right before the answer; of {STORM} others the latest \
         refresh is {:.3} ms late\n",
        millis(Some(&took)),
        millis(late.last())
    );
    Ok((line, text))
}

/// Says that all were restored, and counts the pages that do not say so when it is answered.
fn restore(service: &Service, clients: &mut [(UnixStream, String)], before: &[Snapshot]) -> anyhow::Result<usize> {
    for (stream, line) in &mut *clients {
        stream.write_all(line.as_bytes()).context("cannot send a restore")?;
    }
    let mut wrong = 0;
    for (((stream, _), page), before) in clients.iter().zip(&service.pages).zip(before) {
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).context("a restore was not answered")?;
        let state: PageState = serde_json::from_str(&answer).with_context(|| format!("the answer {answer:?}"))?;
        let now = contents(page)?;
        let is_right = now.disruption_marker == state.disruption_marker.0
            && now.disruption_marker != before.disruption_marker
            && now.vm_generation_counter != before.vm_generation_counter
            && now.clock_status.gives_time();
        wrong += usize::from(!is_right);
    }
    Ok(wrong)
}

/// What as many publishers of one page each cost.
#[allow(clippy::cast_precision_loss)] // to print
fn alone(rounds: u32) -> anyhow::Result<(Value, String)> {
    let publishers = (0..ALONE).map(|_| Service::start(SECOND)).collect::<anyhow::Result<Vec<_>>>()?;
    std::thread::sleep(3 * SECOND);
    let total = || publishers.iter().map(Service::cpu).sum::<anyhow::Result<Duration>>();
    let (begun, cpu) = (Instant::now(), total()?);
    std::thread::sleep(SECOND * (rounds / 25).max(2));
    let share = total()?.saturating_sub(cpu).as_secs_f64() / begun.elapsed().as_secs_f64() / ALONE as f64;
    let of = |kind| -> anyhow::Result<u64> {
        let all = publishers.iter().map(|one| memory(one.publisher.pid(), kind)).sum::<anyhow::Result<u64>>();
        Ok(all? / ALONE as u64)
    };
    let (resident, private) = (of("Rss:")?, of("Pss:")?);
    let line = json!({
        "measured": "alone", "publishers": ALONE, "cpu_percent_each": rounded(share * 100.0), "resident_kib_each": resident,
        "proportional_kib_each": private,
    });
    let text = format!(
        "{ALONE} publishers of one page each: {:.3} % of a CPU, {resident} KiB resident and {private} KiB proportional each\n",
        share * 100.0
    );
    Ok((line, text))
}
