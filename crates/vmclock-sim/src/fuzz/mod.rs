// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random worlds that attack the publisher within A1 and A2, and for a moment A2 itself.

mod draw;
mod shrink;

use crate::chance::Chance;
use crate::run::{run, Verdict, Wanted};
use crate::simulate::on_threads;
use crate::spec::WorldSpec;
use crate::units::DAY;

/// What came of many worlds.
///
/// ```
/// use vmclock_sim::Campaign;
/// assert!(Campaign::default().failures.is_empty());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Campaign {
    /// How many worlds there were.
    pub worlds: u64,
    /// How many days they were simulated, together.
    pub days: f64,
    /// How many rounds their publishers did.
    pub rounds: u64,
    /// How often somebody read a page.
    pub readings: u64,
    /// How often there was no time.
    pub without: u64,
    /// The worlds in which a rule was violated.
    pub failures: Vec<Failure>,
}

/// A world in which a rule was violated.
///
/// ```
/// use vmclock_sim::Failure;
/// let failure = Failure { seed: 7, what: "bounds at 3.000000000 s: true time is 5 ns outside".into() };
/// assert!(failure.what.starts_with("bounds"));
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The number that the world is drawn from.
    pub seed: u64,
    /// Which rule, when, and by how much.
    pub what: String,
}

/// A world in all detail, and what happened in it.
///
/// ```
/// let reproduction = vmclock_sim::reproduce(1);
/// assert_eq!(reproduction.what, None);
/// assert!(reproduction.world.starts_with("seed 0x") && !reproduction.trace.is_empty());
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reproduction {
    /// Which rule, when, and by how much; none where nothing is violated.
    pub what: Option<String>,
    /// The last things that happened before.
    pub trace: Vec<String>,
    /// The world.
    pub world: String,
    /// The simplest world in which the same rule is violated, and what happens in it.
    pub simplest: Option<Box<Reproduction>>,
}

/// Attacks the publisher in worlds of at least so many days together, on so many threads. Stops after the part in which
/// enough worlds failed.
///
/// ```
/// let campaign = vmclock_sim::fuzz(1.0, 1, 1, |_| ());
/// assert!(campaign.days >= 1.0 && campaign.failures.is_empty(), "{:?}", campaign.failures);
/// ```
pub fn fuzz(days: f64, seed: u64, threads: usize, mut progress: impl FnMut(&Campaign)) -> Campaign {
    /// Enough to work on.
    const ENOUGH: usize = 8;
    /// How many worlds are drawn at once.
    const PART: usize = 256;
    let mut campaign = Campaign::default();
    let mut seeds = Chance::stream(seed, "worlds", 0);
    while campaign.days < days && campaign.failures.len() < ENOUGH {
        let mut drawn = campaign.days;
        let mut worlds = Vec::new();
        while drawn < days && worlds.len() < PART {
            let seed = seeds.seed();
            drawn += draw::draw(seed).length as f64 / DAY as f64;
            worlds.push(seed);
        }
        let attack = |seed: &u64| run(&draw::draw(*seed), Wanted { stop: true, ..Wanted::default() });
        on_threads(threads, &worlds, attack, |seed, verdict| campaign.take(*seed, &verdict));
        progress(&campaign);
    }
    campaign
}

impl Campaign {
    fn take(&mut self, seed: u64, verdict: &Verdict) {
        self.worlds += 1;
        self.days += verdict.length as f64 / DAY as f64;
        self.rounds += verdict.rounds;
        self.readings += verdict.readings;
        self.without += verdict.without;
        if let Some(what) = what_of(verdict) {
            self.failures.push(Failure { seed, what });
        }
    }
}

/// What was violated, if anything was.
fn what_of(verdict: &Verdict) -> Option<String> {
    if !verdict.kept_a1 {
        return Some("the world itself breaks A1: half of its clocks, or more, are wrong".into());
    }
    verdict.first.as_ref().map(ToString::to_string)
}

/// Does again what happens in a world, and finds the simplest one in which the same goes wrong.
pub fn reproduce(seed: u64) -> Reproduction {
    let world = draw::draw(seed);
    let (mut reproduction, verdict) = account(&world);
    if let Some(first) = verdict.first {
        let simplest = shrink::simplest(&world, first.rule);
        reproduction.simplest = Some(Box::new(account(&simplest).0));
    }
    reproduction
}

fn account(world: &WorldSpec) -> (Reproduction, Verdict) {
    let mut verdict = run(world, Wanted { stop: true, trace: true, ..Wanted::default() });
    let trace = std::mem::take(&mut verdict.trace).into();
    (Reproduction { what: what_of(&verdict), trace, world: world.to_string(), simplest: None }, verdict)
}
