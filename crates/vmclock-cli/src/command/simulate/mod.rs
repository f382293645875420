// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock simulate`: the real estimator and the real page in worlds whose true time is known.
//!
//! | file | what it is |
//! |---|---|
//! | `scenario` | the worlds |
//! | `oscillator` | a counter as real crystals drive it |
//! | `reference` | sources of time, with noise, interruptions and lies |
//! | `run` | one run of a world |
//! | `guest` | a guest that reads the page, and the judge |
//! | `network_guest` | what a guest without a page has |
//! | `plot` | a picture |

mod guest;
mod network_guest;
mod oscillator;
mod plot;
mod reference;
mod run;
mod scenario;

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{bail, Context};
use hdrhistogram::Histogram;
use rand::SeedableRng;
use rand_xoshiro::Xoshiro256PlusPlus;
use serde_json::{json, Value};
use vmclock_host::trace::{self, Replay};

use crate::cli::SimulateArgs;
use crate::output::{print, print_json};

use guest::Tally;
use network_guest::NetworkGuest;
use run::Point;
use scenario::{Scenario, ALL};

/// No run is longer, so that there are many beginnings.
const LONGEST_RUN: f64 = 10.0;

/// What came of a scenario.
struct Outcome {
    scenario: &'static Scenario,
    days: f64,
    tally: Tally,
    network: Histogram<u64>,
}

pub(crate) fn run(args: &SimulateArgs) -> anyhow::Result<ExitCode> {
    if let Some(path) = &args.replay {
        return replay(path, args.json);
    }
    let scenarios: Vec<&'static Scenario> =
        ALL.iter().filter(|scenario| args.scenario == "all" || args.scenario == scenario.name).collect();
    if scenarios.is_empty() {
        let names: Vec<&str> = ALL.iter().map(|scenario| scenario.name).collect();
        bail!("--scenario {:?}: there is none of this name; there are {} and all", args.scenario, names.join(", "));
    }
    let began = Instant::now();
    #[allow(clippy::cast_precision_loss)]
    let days = args.days / scenarios.len() as f64;
    if !args.json {
        print(HEADER)?;
    }
    let mut outcomes = Vec::new();
    let mut points: Vec<Point> = Vec::new();
    for scenario in scenarios {
        let is_drawn = args.plot.is_some() && outcomes.is_empty();
        outcomes.push(simulate(scenario, days, args.seed, &mut |point| {
            if is_drawn {
                points.push(point);
            }
        }));
        if !args.json {
            print(&line(&outcomes[outcomes.len() - 1]))?;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    if let Some(path) = &args.plot {
        plot::draw(path, outcomes[0].scenario.about, &points)
            .with_context(|| format!("{}: cannot draw", path.display()))?;
    }
    let mut all = Tally::new();
    for outcome in &outcomes {
        all.add(&outcome.tally);
    }
    let ratio = median(
        outcomes
            .iter()
            .filter(|outcome| outcome.scenario.is_microsecond_grade())
            .flat_map(|outcome| &outcome.tally.ratios),
    );
    let violations = broken(&all);
    if args.json {
        print_json(&json!({
            "bound_violations": all.bound_violations,
            "nested_violations": all.nested_violations,
            "nested_misses": all.nested_misses,
            "monotonic_violations": all.monotonic_violations,
            "interval_over_error_median": ratio,
            "days": args.days,
            "seconds": seconds,
            "seed": args.seed,
            "readings": all.readings,
            "scenarios": outcomes.iter().map(details).collect::<Vec<_>>(),
        }))?;
    } else {
        let ratio = ratio.map_or_else(String::new, |ratio| {
            format!("; microsecond-grade: interval over worst error {ratio:.2} at the median")
        });
        print(&format!(
            "{:.0} days in {seconds:.1} s, {} readings: violations of bounds {}, of nested bounds {}, of monotony {}{ratio}\n",
            args.days, all.readings, all.bound_violations, all.nested_violations, all.monotonic_violations
        ))?;
    }
    Ok(if violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Does again what a publisher wrote down.
fn replay(path: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let name = path.display();
    let file = File::open(path).with_context(|| format!("{name}: cannot be opened"))?;
    let mut widest = 0;
    let Replay { looks, calibrations, different } =
        trace::replay(BufReader::new(file), |estimate| widest = widest.max(estimate.time_max_error))
            .with_context(|| format!("{name}: cannot be replayed"))?;
    if json {
        let line = json!({"looks": looks, "calibrations": calibrations, "different": different, "largest_time_maxerror_ns": widest});
        print_json(&line)?;
    } else {
        print(&format!("{looks} looks, {calibrations} calibrations, of which {different} came out differently\n"))?;
    }
    Ok(if different == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn simulate(scenario: &'static Scenario, days: f64, seed: u64, draw: &mut dyn FnMut(Point)) -> Outcome {
    let mut tally = Tally::new();
    // Another stream for each scenario, whichever others run.
    let seed = scenario.name.bytes().fold(seed, |seed, byte| seed.wrapping_mul(0x100_0000_01b3) ^ u64::from(byte));
    let mut random = Xoshiro256PlusPlus::seed_from_u64(!seed);
    let mut network = NetworkGuest::new(&mut random, tally.errors.clone());
    let mut left = days;
    let mut run = 0;
    while left > 0.0 {
        // Leap seconds come on the third day.
        let longest = if scenario.disturbance == scenario::Disturbance::Leap { 4.0 } else { LONGEST_RUN };
        let length = left.min(longest);
        let guest = run::run(scenario, length, seed.wrapping_add(run), &mut network, draw);
        tally.add(&guest.tally);
        left -= length;
        run += 1;
    }
    Outcome { scenario, days, tally, network: network.errors }
}

/// Of the lines below. Errors and bounds are in microseconds; beside them is the error of a guest with an NTP daemon.
const HEADER: &str =
    "scenario          days  broken   error   at 99.9 %   bounds  at 99.9 %  no time  refreshes/h     NTP  at 99.9 %\n";

fn line(outcome: &Outcome) -> String {
    let Outcome { scenario, days, tally, network } = outcome;
    let micros = |histogram: &Histogram<u64>, quantile: f64| {
        #[allow(clippy::cast_precision_loss)]
        let value = histogram.value_at_quantile(quantile) as f64 / 1e3;
        if value < 100.0 {
            format!("{value:.2}")
        } else {
            format!("{value:.0}")
        }
    };
    let [errors, widths] = [&tally.errors, &tally.half_widths];
    format!(
        "{:<16} {days:5.0} {:>7} {:>7} {:>11} {:>8} {:>10} {:>7.1}% {:>12.0} {:>7} {:>10}\n",
        scenario.name,
        broken(tally),
        micros(errors, 0.5),
        micros(errors, 0.999),
        micros(widths, 0.5),
        micros(widths, 0.999),
        without(tally) * 100.0,
        refreshes(tally, *days),
        micros(network, 0.5),
        micros(network, 0.999),
    )
}

fn broken(tally: &Tally) -> u64 {
    tally.bound_violations + tally.nested_violations + tally.monotonic_violations
}

fn details(outcome: &Outcome) -> Value {
    let Outcome { scenario, days, tally, network } = outcome;
    let quantiles = |histogram: &Histogram<u64>| {
        let at = |quantile| histogram.value_at_quantile(quantile);
        json!({"median": at(0.5), "p99": at(0.99), "p999": at(0.999), "worst": histogram.max()})
    };
    json!({
        "name": scenario.name,
        "about": scenario.about,
        "days": days,
        "bound_violations": tally.bound_violations,
        "nested_violations": tally.nested_violations,
        "nested_misses": tally.nested_misses,
        "monotonic_violations": tally.monotonic_violations,
        "interval_over_error_median": median(tally.ratios.iter()),
        "error_ns": quantiles(&tally.errors),
        "half_width_ns": quantiles(&tally.half_widths),
        "network_guest_error_ns": quantiles(network),
        "without_time": without(tally),
        "refreshes_per_hour": refreshes(tally, *days),
    })
}

#[allow(clippy::cast_precision_loss)]
fn without(tally: &Tally) -> f64 {
    tally.without as f64 / tally.readings.max(1) as f64
}

#[allow(clippy::cast_precision_loss)]
fn refreshes(tally: &Tally, days: f64) -> f64 {
    tally.updates as f64 / (days * 24.0)
}

fn median<'a>(values: impl Iterator<Item = &'a f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.copied().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
