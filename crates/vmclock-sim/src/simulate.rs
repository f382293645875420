// SPDX-License-Identifier: MIT OR Apache-2.0
//! Many runs of the scenarios, on several threads. What comes out depends on the seed alone, not on their number.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use crate::judge::Violations;
use crate::run::{run, Measured, Verdict, Wanted};
use crate::scenario::Scenario;
use crate::spec::WorldSpec;
use crate::statistics::Statistics;
use crate::units::{rounded, DAY};

/// What is to be simulated.
///
/// ```
/// use vmclock_sim::{simulate, Request, SCENARIOS};
/// let request = Request { days: 0.02, seed: 1, threads: 1, points: false };
/// let outcomes = simulate(&[&SCENARIOS[1]], &request, |_| ());
/// assert_eq!(outcomes[0].tally.violations.total(), 0);
/// ```
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Request {
    /// How many days, over all scenarios together.
    pub days: f64,
    /// What all chance is made from.
    pub seed: u64,
    /// How many threads to use.
    pub threads: usize,
    /// Whether to keep each reading of the first scenario, for a picture.
    pub points: bool,
}

/// What came of a scenario.
///
/// ```
/// use vmclock_sim::{simulate, Request, SCENARIOS};
/// let outcomes = simulate(&[&SCENARIOS[0]], &Request { days: 0.1, seed: 5, threads: 2, points: false }, |_| ());
/// assert_eq!((outcomes[0].scenario.name, &outcomes[0].violation), ("network", &None));
/// ```
#[derive(Debug)]
pub struct Outcome {
    /// Which.
    pub scenario: &'static Scenario,
    /// How many days it was simulated.
    pub days: f64,
    /// Over all its runs.
    pub tally: Tally,
    /// The first violation, in words, and what happened before.
    pub violation: Option<Account>,
    /// Where the publisher has a single server over a network: of each run, and so of each server that was drawn, the
    /// median error of the page's time, and that of a guest without a page whose NTP daemon asks the same server, in
    /// nanoseconds.
    pub draws: Vec<(u64, u64)>,
}

/// A violation, and how it came to that.
///
/// ```
/// use vmclock_sim::Account;
/// let account = Account { what: "marker at 9.000000000 s".into(), trace: vec!["page: synchronized".into()] };
/// assert_eq!(account.trace.len(), 1);
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Account {
    /// Which rule, when, and by how much.
    pub what: String,
    /// The last things that happened before.
    pub trace: Vec<String>,
}

/// What was seen, over all runs.
///
/// ```
/// use vmclock_sim::{Rule, Tally};
/// let tally = Tally::new();
/// assert_eq!((tally.readings, tally.violations.of(Rule::Bounds)), (0, 0));
/// ```
#[derive(Clone, Debug)]
pub struct Tally {
    /// How often somebody read the page.
    pub readings: u64,
    /// How often there was no time.
    pub without: u64,
    /// How often the page was updated.
    pub updates: u64,
    /// How many rounds the publisher did.
    pub rounds: u64,
    /// How often it said something, but for refreshed pages.
    pub events: u64,
    /// How often the marker changed.
    pub markers: u64,
    /// How many publishers continued with the marker of the one before, as they should.
    pub continued: u64,
    /// How often which rule was violated.
    pub violations: Violations,
    /// How often a calibration after the next one placed a reading outside its bounds.
    pub nested_misses: u64,
    /// Errors and widths.
    pub statistics: Statistics,
}

impl Tally {
    /// Nothing was seen yet.
    pub fn new() -> Self {
        Self {
            readings: 0,
            without: 0,
            updates: 0,
            rounds: 0,
            events: 0,
            markers: 0,
            continued: 0,
            violations: Violations::default(),
            nested_misses: 0,
            statistics: Statistics::default(),
        }
    }

    /// Takes what was seen elsewhere.
    pub fn add(&mut self, other: &Self) {
        self.readings += other.readings;
        self.without += other.without;
        self.updates += other.updates;
        self.rounds += other.rounds;
        self.events += other.events;
        self.markers += other.markers;
        self.continued += other.continued;
        self.nested_misses += other.nested_misses;
        self.violations.add(&other.violations);
        self.statistics.add(&other.statistics);
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

/// One run of a scenario.
struct Job {
    scenario: usize,
    seed: u64,
    days: f64,
    points: bool,
}

impl Job {
    fn world(&self, scenarios: &[&'static Scenario]) -> WorldSpec {
        scenarios[self.scenario].world(self.seed, rounded(self.days * DAY as f64))
    }
}

/// Simulates these scenarios. `each` gets what came of one as soon as that is known, in their order.
pub fn simulate(scenarios: &[&'static Scenario], request: &Request, mut each: impl FnMut(&Outcome)) -> Vec<Outcome> {
    let days = request.days / scenarios.len().max(1) as f64;
    let runs = |(number, scenario): (usize, &&'static Scenario)| jobs(number, scenario, days, request);
    let jobs: Vec<Job> = scenarios.iter().enumerate().flat_map(runs).collect();
    let measured = |job: &Job| if job.points { Measured::Points } else { Measured::Statistics };
    let wanted = |job: &Job| Wanted { measured: measured(job), ..Wanted::default() };
    let blank = |scenario| Outcome { scenario, days, tally: Tally::new(), violation: None, draws: Vec::new() };
    let mut outcomes: Vec<Outcome> = scenarios.iter().copied().map(blank).collect();
    let mut left: Vec<usize> =
        (0..scenarios.len()).map(|number| jobs.iter().filter(|job| job.scenario == number).count()).collect();
    let work = |job: &Job| run(&job.world(scenarios), wanted(job));
    on_threads(request.threads, &jobs, work, |job, verdict: Verdict| {
        let outcome = &mut outcomes[job.scenario];
        if let (None, Some(violation)) = (&outcome.violation, &verdict.first) {
            let what = format!("{violation} (run {:#x})", job.seed);
            let again = run(&job.world(scenarios), Wanted { trace: true, stop: true, ..wanted(job) });
            outcome.violation = Some(Account { what, trace: again.trace.into() });
        }
        outcome.take(verdict);
        left[job.scenario] -= 1;
        if left[job.scenario] == 0 {
            each(outcome);
        }
    });
    outcomes
}

/// The runs of a scenario.
fn jobs(number: usize, scenario: &Scenario, days: f64, request: &Request) -> Vec<Job> {
    // Another stream for each scenario, whichever others run.
    let mix = |seed: u64, byte: u8| seed.wrapping_mul(0x100_0000_01b3) ^ u64::from(byte);
    let seed = scenario.name.bytes().fold(request.seed, mix);
    let count = (days / scenario.longest).ceil().max(1.0) as u64;
    let job = |run: u64| Job {
        scenario: number,
        seed: seed.wrapping_add(run),
        days: (days - run as f64 * scenario.longest).min(scenario.longest),
        points: request.points && number == 0,
    };
    (0..count).map(job).collect()
}

impl Outcome {
    fn take(&mut self, verdict: Verdict) {
        let Some(statistics) = verdict.statistics else { return };
        self.draws.extend(statistics.draw().filter(|_| self.scenario.has_server));
        self.tally.add(&Tally {
            readings: verdict.readings,
            without: verdict.without,
            updates: verdict.updates,
            rounds: verdict.rounds,
            events: verdict.events,
            markers: verdict.markers,
            continued: verdict.continued,
            violations: verdict.violations,
            nested_misses: verdict.nested_misses,
            statistics,
        });
    }
}

/// Does all jobs on so many threads; `each` gets what came of them in their order.
pub(crate) fn on_threads<J: Sync, R: Send>(
    threads: usize,
    jobs: &[J],
    work: impl Fn(&J) -> R + Sync,
    mut each: impl FnMut(&J, R),
) {
    let next = AtomicUsize::new(0);
    let (done, finished) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            let (done, next, work) = (done.clone(), &next, &work);
            scope.spawn(move || loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(job) = jobs.get(index) else { return };
                // Whoever waits for it has panicked, and this thread ends with it.
                if done.send((index, work(job))).is_err() {
                    return;
                }
            });
        }
        drop(done);
        let mut early: BTreeMap<usize, R> = BTreeMap::new();
        let mut due = 0;
        for (index, result) in finished {
            early.insert(index, result);
            while let Some(result) = early.remove(&due) {
                each(&jobs[due], result);
                due += 1;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::SCENARIOS;

    #[test]
    fn what_comes_out_does_not_depend_on_the_number_of_threads() {
        let scenarios: Vec<&Scenario> =
            SCENARIOS.iter().filter(|one| ["outages", "falseticker"].contains(&one.name)).collect();
        let seen = |threads| {
            let request = Request { days: 12.0, seed: 3, threads, points: false };
            let mut order = Vec::new();
            let outcomes = simulate(&scenarios, &request, |outcome| order.push(outcome.scenario.name));
            let tallies: Vec<_> = outcomes
                .iter()
                .map(|outcome| (outcome.tally.readings, outcome.tally.updates, outcome.tally.statistics.errors()))
                .collect();
            (order, tallies)
        };
        let (order, tallies) = seen(1);
        assert_eq!(order, ["outages", "falseticker"]);
        assert_eq!((order, tallies), seen(3));
    }

    #[test]
    fn jobs_are_done_once_and_handed_over_in_their_order() {
        let jobs: Vec<u32> = (0..100).collect();
        let mut seen = Vec::new();
        on_threads(4, &jobs, |job| job * 2, |job, result| seen.push((*job, result)));
        assert_eq!(seen, jobs.iter().map(|job| (*job, job * 2)).collect::<Vec<_>>());
    }
}
