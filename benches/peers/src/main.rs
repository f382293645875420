// SPDX-License-Identifier: MIT OR Apache-2.0
//! What reading the time costs, with vmclock and with other libraries, measured in one run and in turn.
//!
//! `cargo run --release --manifest-path benches/peers/Cargo.toml`, with `-- [--rounds N] [--json] [--c FILE]
//! [--other COMMAND]`. The README says what is compared with what.
#![deny(unsafe_code)]

mod c;
mod child;
mod clockbound;
mod page;

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{ensure, Context};
use serde_json::json;
use vmclock::VmClock;

use crate::c::Rounds;

/// Calls in one round: enough that the two looks at the clock cost nothing, and so few (some 100 us) that many rounds
/// pass without an interrupt.
const CALLS: u32 = 5_000;

fn main() -> anyhow::Result<()> {
    let options = Options::from_arguments(std::env::args().skip(1))?;
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let published = page::publish(&folder.path().join("page"))?;
    let segment = folder.path().join("shm1");
    clockbound::write_segment(&segment, published.contents())?;
    let peers = measure(&options, published.path(), &segment)?;
    if options.json {
        println!("{}", to_json(options.rounds, &peers));
    } else {
        print!("{}", to_text(options.rounds, &peers));
    }
    Ok(())
}

struct Options {
    rounds: u32,
    json: bool,
    /// The loops in C.
    c: Option<PathBuf>,
    /// Programs in other languages, each with its arguments.
    others: Vec<Vec<String>>,
}

impl Options {
    fn from_arguments(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut options = Self { rounds: 500, json: false, c: None, others: Vec::new() };
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--json" => options.json = true,
                "--rounds" => {
                    let number = arguments.next().context("--rounds needs a number")?;
                    options.rounds = number.parse().with_context(|| format!("{number:?} is not a number of rounds"))?;
                    ensure!(options.rounds > 0, "there must be a round");
                }
                "--c" => options.c = Some(arguments.next().context("--c needs a file")?.into()),
                "--other" => {
                    let command = arguments.next().context("--other needs a command")?;
                    options.others.push(command.split(' ').map(str::to_owned).collect());
                }
                _ => anyhow::bail!(
                    "{argument:?} is not known: the options are --rounds N, --json, --c FILE and --other COMMAND"
                ),
            }
        }
        Ok(options)
    }
}

/// One way to read the time.
struct Peer {
    key: String,
    what: String,
    /// Nanoseconds a call in the best round.
    cost: f64,
    /// The key of what the last column compares it with: the clock of its language, or for C the same call in Rust.
    own_clock: Option<String>,
}

impl Peer {
    fn new(key: impl Into<String>, what: impl Into<String>) -> Self {
        Self { key: key.into(), what: what.into(), cost: f64::INFINITY, own_clock: None }
    }

    /// One round. `black_box` has every result put together in memory, though nobody looks at it.
    #[inline(never)]
    fn round<T>(&mut self, mut call: impl FnMut() -> T) {
        let start = Instant::now();
        for _ in 0..CALLS {
            black_box(&call());
        }
        self.take(start);
    }

    /// One round whose calls are made elsewhere.
    fn round_of(&mut self, calls: impl FnOnce(u32) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let start = Instant::now();
        calls(CALLS)?;
        self.take(start);
        Ok(())
    }

    fn take(&mut self, start: Instant) {
        self.cost = self.cost.min(start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS));
    }
}

/// Measures everybody once in each round, so that whatever else the machine does meets all alike.
fn measure(options: &Options, page: &Path, segment: &Path) -> anyhow::Result<Vec<Peer>> {
    let clock = VmClock::open_at(page)?;
    let mut clockbound = clockbound::open(segment, page)?;
    let quanta = quanta::Clock::new();
    let anchor = minstant::Anchor::new();
    ensure!(minstant::is_tsc_available(), "minstant does not use the counter here");

    let check = |clockbound: &mut clock_bound::Client| {
        check_ours(&clock).and_then(|()| clockbound::check(clockbound)).context("before or after measuring")
    };
    check(&mut clockbound)?;
    let mut peers = [
        Peer::new("vmclock", "vmclock now()"),
        Peer::new("vmclock_interval", "vmclock now() and the ends of its interval"),
        Peer::new("vmclock_unordered", "vmclock now_unordered()"),
        Peer::new("clockbound", "ClockBound 3.0.0-rc.0 now()"),
        Peer::new("quanta", "quanta Clock::now()"),
        Peer::new("minstant", "minstant Instant::now()"),
        Peer::new("minstant_unix", "minstant Instant::now().as_unix_nanos()"),
        Peer::new("std", "std SystemTime::now()"),
        Peer::new("vmclock_current", "vmclock is_current()"),
    ];
    let in_c = |key, what, in_rust: &str| Peer { own_clock: Some(in_rust.into()), ..Peer::new(key, what) };
    let mut in_c = [
        in_c("c", "libvmclock vmclock_now(), in C", "vmclock"),
        in_c("c_interval", "libvmclock vmclock_now() and its interval, in C", "vmclock_interval"),
        in_c("c_unordered", "libvmclock vmclock_now_unordered(), in C", "vmclock_unordered"),
        in_c("c_current", "libvmclock vmclock_is_current(), in C", "vmclock_current"),
    ];
    let known = clock.epoch()?;
    let c = options.c.as_ref().map(|library| Rounds::open(library, page)).transpose()?;
    let start = |command: &Vec<String>| child::Other::start(command, page);
    let mut others = options.others.iter().map(start).collect::<Result<Vec<_>, _>>()?;
    for _ in 0..options.rounds {
        let [vmclock, vmclock_interval, vmclock_unordered, bound, quanta_now, minstant_now, minstant_unix, std, current] =
            &mut peers;
        vmclock.round(|| clock.now());
        vmclock_interval.round(|| {
            let interval = clock.now().ok()?.interval()?;
            Some((interval.earliest.nanos(), interval.latest.nanos()))
        });
        vmclock_unordered.round(|| clock.now_unordered());
        bound.round(|| clockbound.now());
        quanta_now.round(|| quanta.now());
        minstant_now.round(minstant::Instant::now);
        minstant_unix.round(|| minstant::Instant::now().as_unix_nanos(&anchor));
        std.round(SystemTime::now);
        current.round(|| clock.is_current(&known));
        if let Some(c) = &c {
            let [now, interval, unordered, current] = &mut in_c;
            now.round_of(|calls| c.now(calls))?;
            interval.round_of(|calls| c.interval(calls))?;
            unordered.round_of(|calls| c.now_unordered(calls))?;
            current.round_of(|calls| c.is_current(calls))?;
        }
        for other in &mut others {
            other.round()?;
        }
    }
    // What was measured was good readings to the end, not errors.
    check(&mut clockbound)?;
    let in_c = in_c.into_iter().filter(|_| c.is_some());
    let others = others.into_iter().flat_map(|mut other| std::mem::take(&mut other.peers));
    Ok(peers.into_iter().chain(in_c).chain(others).collect())
}

fn check_ours(clock: &VmClock) -> anyhow::Result<()> {
    ensure!(clock.is_mapped(), "the system does not let the page be mapped");
    let reading = clock.now()?;
    ensure!(reading.interval().is_some(), "vmclock gives no bounds");
    near_the_kernels(reading.system_time().context("vmclock gives no UTC")?)
}

/// Whether a time is near the kernel's, from which everything here is calibrated.
fn near_the_kernels(time: SystemTime) -> anyhow::Result<()> {
    let kernel = SystemTime::now();
    let apart = time.duration_since(kernel).unwrap_or_else(|error| error.duration());
    ensure!(apart < Duration::from_millis(100), "{apart:?} off the kernel's clock: was that set just now?");
    Ok(())
}

/// With what calls are compared: ClockBound's, ours in Rust, and the clock of the language.
fn baselines(peer: &Peer) -> impl Iterator<Item = &str> {
    ["clockbound", "vmclock"].into_iter().chain(peer.own_clock.as_deref()).filter(|key| *key != peer.key)
}

/// How many times that of another a peer's cost is.
fn ratio(peers: &[Peer], peer: &Peer, to: &str) -> Option<f64> {
    Some(peer.cost / peers.iter().find(|other| other.key == to)?.cost)
}

fn to_json(rounds: u32, peers: &[Peer]) -> serde_json::Value {
    let rounded = |number: f64| (number * 1e3).round() / 1e3;
    let mut map = serde_json::Map::new();
    map.insert("rounds".into(), rounds.into());
    for peer in peers {
        map.insert(format!("{}_ns", peer.key), json!(rounded(peer.cost)));
        for to in baselines(peer) {
            if let Some(ratio) = ratio(peers, peer, to) {
                map.insert(format!("{}_vs_{to}", peer.key), json!(rounded(ratio)));
            }
        }
    }
    map.into()
}

fn to_text(rounds: u32, peers: &[Peer]) -> String {
    let column = |peer: &Peer, to: &str| match ratio(peers, peer, to) {
        Some(ratio) if to != peer.key => format!("{ratio:>12.2}"),
        _ => format!("{:>12}", ""),
    };
    let title = format!("nanoseconds a call, the best of {rounds} rounds, and how many times others' that is\n");
    let head = format!("{:<46}{:>7}{:>12}{:>12}{:>12}", "", "ns", "ClockBound", "vmclock", "own clock");
    let rows = peers.iter().map(|peer| {
        let own_clock = peer.own_clock.as_deref().map_or_else(String::new, |to| column(peer, to));
        let columns = column(peer, "clockbound") + &column(peer, "vmclock") + &own_clock;
        format!("{:<46}{:>7.2}{}", peer.what, peer.cost, columns.trim_end())
    });
    [title, head].into_iter().chain(rows).collect::<Vec<_>>().join("\n") + "\n"
}
