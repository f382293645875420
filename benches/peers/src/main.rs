// SPDX-License-Identifier: MIT OR Apache-2.0
//! What reading the time costs, with vmclock and with other libraries, measured in one run and in turn.
//!
//! `cargo run --release --manifest-path benches/peers/Cargo.toml [-- [--rounds N] [--json] [--c FILE]]`. The README
//! says what is compared with what.
#![deny(unsafe_code)]

mod c;
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
    let c = options.c.as_ref().map(|library| Rounds::open(library, published.path())).transpose()?;
    let peers = measure(options.rounds, published.path(), &segment, c.as_ref())?;
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
}

impl Options {
    fn from_arguments(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut options = Self { rounds: 500, json: false, c: None };
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--json" => options.json = true,
                "--rounds" => {
                    let number = arguments.next().context("--rounds needs a number")?;
                    options.rounds = number.parse().with_context(|| format!("{number:?} is not a number of rounds"))?;
                    ensure!(options.rounds > 0, "there must be a round");
                }
                "--c" => options.c = Some(arguments.next().context("--c needs a file")?.into()),
                _ => anyhow::bail!("{argument:?} is not known: the options are --rounds N, --json and --c FILE"),
            }
        }
        Ok(options)
    }
}

/// One way to read the time.
struct Peer {
    key: &'static str,
    what: &'static str,
    /// Nanoseconds a call in the best round.
    cost: f64,
}

impl Peer {
    const fn new(key: &'static str, what: &'static str) -> Self {
        Self { key, what, cost: f64::INFINITY }
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
fn measure(rounds: u32, page: &Path, segment: &Path, c: Option<&Rounds>) -> anyhow::Result<Vec<Peer>> {
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
    let mut in_c = [
        Peer::new("c", "libvmclock vmclock_now(), in C"),
        Peer::new("c_interval", "libvmclock vmclock_now() and its interval, in C"),
        Peer::new("c_unordered", "libvmclock vmclock_now_unordered(), in C"),
        Peer::new("c_current", "libvmclock vmclock_is_current(), in C"),
    ];
    let known = clock.epoch()?;
    for _ in 0..rounds {
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
        if let Some(c) = c {
            let [now, interval, unordered, current] = &mut in_c;
            now.round_of(|calls| c.now(calls))?;
            interval.round_of(|calls| c.interval(calls))?;
            unordered.round_of(|calls| c.now_unordered(calls))?;
            current.round_of(|calls| c.is_current(calls))?;
        }
    }
    // What was measured was good readings to the end, not errors.
    check(&mut clockbound)?;
    let in_c = in_c.into_iter().filter(|_| c.is_some());
    Ok(peers.into_iter().chain(in_c).collect())
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

/// How many times ClockBound's cost; `None` for its own.
fn ratio(peers: &[Peer], peer: &Peer) -> Option<f64> {
    let clockbound = peers.iter().find(|peer| peer.key == "clockbound")?;
    (peer.key != clockbound.key).then_some(peer.cost / clockbound.cost)
}

/// How many times the same call in Rust a call in C costs.
fn ratio_to_rust(peers: &[Peer], peer: &Peer) -> Option<f64> {
    let same = peer.key.strip_prefix('c').filter(|rest| rest.is_empty() || rest.starts_with('_'))?;
    let rust = peers.iter().find(|other| other.key.strip_prefix("vmclock") == Some(same))?;
    Some(peer.cost / rust.cost)
}

fn to_json(rounds: u32, peers: &[Peer]) -> serde_json::Value {
    let rounded = |number: f64| (number * 1e3).round() / 1e3;
    let mut map = serde_json::Map::new();
    map.insert("rounds".into(), rounds.into());
    for peer in peers {
        map.insert(format!("{}_ns", peer.key), json!(rounded(peer.cost)));
        if let Some(ratio) = ratio(peers, peer) {
            map.insert(format!("{}_vs_clockbound", peer.key), json!(rounded(ratio)));
        }
        if let Some(ratio) = ratio_to_rust(peers, peer) {
            map.insert(format!("{}_vs_rust", peer.key), json!(rounded(ratio)));
        }
    }
    map.into()
}

fn to_text(rounds: u32, peers: &[Peer]) -> String {
    let rows = peers.iter().map(|peer| {
        let ratio = ratio(peers, peer).map_or_else(String::new, |ratio| format!("{ratio:8.2} x ClockBound"));
        let to_rust = ratio_to_rust(peers, peer).map_or_else(String::new, |ratio| format!("{ratio:8.2} x Rust"));
        format!("{:<48}{:>7.2}{ratio}{to_rust}\n", peer.what, peer.cost)
    });
    format!("nanoseconds a call, the best of {rounds} rounds\n\n") + &rows.collect::<String>()
}
