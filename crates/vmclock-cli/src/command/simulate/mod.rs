// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock simulate`: the real publisher and the real page in scenarios whose true time is known.

mod plot;

use std::fmt::Write as _;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::process::ExitCode;
use std::thread::available_parallelism;
use std::time::Instant;

use anyhow::{bail, Context};
use serde_json::{json, Value};
use vmclock_host::trace::{self, Replay};
use vmclock_sim::{simulate, Outcome, Quantiles, Request, Rule, Scenario, Tally, SCENARIOS};

use crate::cli::SimulateArgs;
use crate::exit;
use crate::output::{print, print_error, print_json};

/// How much of what happened before a violation is printed.
const TRACED: usize = 24;

pub(crate) fn run(args: &SimulateArgs) -> anyhow::Result<ExitCode> {
    if let Some(path) = &args.replay {
        return replay(path, args.json);
    }
    let scenarios: Vec<&'static Scenario> =
        SCENARIOS.iter().filter(|scenario| args.scenario == "all" || args.scenario == scenario.name).collect();
    if scenarios.is_empty() {
        let names: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        bail!("--scenario {:?}: there is none of this name; there are {} and all", args.scenario, names.join(", "));
    }
    let began = Instant::now();
    if !args.json {
        print(HEADER)?;
    }
    let threads = available_parallelism().map_or(1, std::num::NonZero::get);
    let request = Request { days: args.days, seed: args.seed, threads, points: args.plot.is_some() };
    let mut printed = Ok(());
    let outcomes = simulate(&scenarios, &request, |outcome| {
        if !args.json && printed.is_ok() {
            printed = print(&line(outcome));
        }
    });
    printed?;
    let seconds = began.elapsed().as_secs_f64();
    if let Some(path) = &args.plot {
        let first = &outcomes[0];
        plot::draw(path, first.scenario.about, first.tally.statistics.points())
            .with_context(|| format!("{}: cannot draw", path.display()))?;
    }
    let mut all = Tally::new();
    for outcome in &outcomes {
        all.add(&outcome.tally);
        if let Some(violation) = &outcome.violation {
            let trace = &violation.trace[violation.trace.len().saturating_sub(TRACED)..];
            let text = format!("{}: {}\n{}\n", outcome.scenario.name, violation.what, trace.join("\n"));
            print_error(text, exit::FAILURE);
        }
    }
    if args.json {
        print_json(&summary(args, &outcomes, &all, seconds))?;
    } else {
        print(&conclusion(args, &outcomes, &all, seconds))?;
    }
    Ok(if all.violations.total() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Does again what a publisher recorded.
fn replay(path: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let name = path.display();
    let file = File::open(path).with_context(|| format!("{name}: cannot be opened"))?;
    let mut widest = 0;
    let Replay { measurements, calibrations, different } = trace::replay(BufReader::new(file), |calibration| {
        widest = widest.max(calibration.time_max_error().unwrap_or(0));
    })
    .with_context(|| format!("{name}: cannot be replayed"))?;
    if json {
        let line = json!({
            "looks": measurements,
            "calibrations": calibrations,
            "different": different,
            "largest_time_maxerror_ns": widest,
        });
        print_json(&line)?;
    } else {
        print(&format!("{measurements} measurements, {calibrations} calibrations, {different} decisions differ\n"))?;
    }
    Ok(if different == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Of the lines below. Errors and bounds are in microseconds; beside them is the error of a guest with an NTP daemon.
const HEADER: &str =
    "scenario                    days  violated   error   at 99.9 %   bounds  at 99.9 %  no time  refreshes/h  \
                      markers/d     NTP  at 99.9 %\n";

fn line(outcome: &Outcome) -> String {
    let Outcome { scenario, days, tally, .. } = outcome;
    let [errors, widths, network] =
        [tally.statistics.errors(), tally.statistics.half_widths(), tally.statistics.network_errors()];
    format!(
        "{:<26} {days:5.0} {:>9} {:>7} {:>11} {:>8} {:>10} {:>7.1}% {:>12.0} {:>10.1} {:>7} {:>10}\n",
        scenario.name,
        tally.violations.total(),
        micros(errors.median),
        micros(errors.p999),
        micros(widths.median),
        micros(widths.p999),
        without(tally) * 100.0,
        per_day(tally.updates, *days) / 24.0,
        per_day(tally.markers, *days),
        micros(network.median),
        micros(network.p999),
    )
}

fn micros(nanos: u64) -> String {
    #[allow(clippy::cast_precision_loss)] // to print
    let value = nanos as f64 / 1e3;
    if value < 100.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.0}")
    }
}

fn conclusion(args: &SimulateArgs, outcomes: &[Outcome], all: &Tally, seconds: f64) -> String {
    let of = |rule| all.violations.of(rule);
    let nesting = of(Rule::Nesting) + of(Rule::Overlap);
    let others = all.violations.total() - of(Rule::Bounds) - nesting - of(Rule::Monotonic);
    let mut text = format!(
        "{:.0} days in {seconds:.1} s, {} readings: violations of bounds {}, of nested bounds {nesting}, of monotonicity {}, of \
         other rules {others}\n",
        args.days,
        all.readings,
        of(Rule::Bounds),
        of(Rule::Monotonic),
    );
    if let Some(ratio) = microsecond_ratio(outcomes) {
        let _ =
            writeln!(text, "with a source good to a microsecond: interval over worst error {ratio:.2} at the median");
    }
    if let Some(Comparison { servers, page, network, better }) = compare(outcomes) {
        let _ = writeln!(
            text,
            "{servers} servers drawn, one each: median error of the page's time {} us, of a guest with an NTP daemon that asks the \
             same server {} us, at the median over servers; the page's is smaller with {better} of them",
            micros(page),
            micros(network),
        );
    }
    text
}

fn summary(args: &SimulateArgs, outcomes: &[Outcome], all: &Tally, seconds: f64) -> Value {
    let comparison = compare(outcomes).map(|Comparison { servers, page, network, better }| {
        json!({
            "servers": servers,
            "page_median_error_ns": page,
            "network_guest_median_error_ns": network,
            "page_is_better": better,
        })
    });
    let mut summary = violations(all);
    summary["interval_over_error_median"] = json!(microsecond_ratio(outcomes));
    summary["days"] = json!(args.days);
    summary["seconds"] = json!(seconds);
    summary["seed"] = json!(args.seed);
    summary["readings"] = json!(all.readings);
    summary["network_comparison"] = json!(comparison);
    summary["scenarios"] = outcomes.iter().map(details).collect();
    summary
}

/// What was violated, and how often.
fn violations(tally: &Tally) -> Value {
    let of = |rule| tally.violations.of(rule);
    json!({
        "bound_violations": of(Rule::Bounds),
        "nested_violations": of(Rule::Nesting) + of(Rule::Overlap),
        "nested_misses": tally.nested_misses,
        "monotonic_violations": of(Rule::Monotonic),
        "utc_violations": of(Rule::Utc),
        "time_violations": of(Rule::Time),
        "marker_violations": of(Rule::Marker),
        "status_violations": of(Rule::Status),
        "other_violations": of(Rule::Sequence) + of(Rule::Publisher) + of(Rule::Events),
    })
}

fn details(outcome: &Outcome) -> Value {
    let Outcome { scenario, days, tally, violation, .. } = outcome;
    let statistics = &tally.statistics;
    let mut details = violations(tally);
    details["name"] = json!(scenario.name);
    details["about"] = json!(scenario.about);
    details["days"] = json!(days);
    details["violation"] = json!(violation.as_ref().map(|violation| &violation.what));
    details["interval_over_error_median"] = json!(median(statistics.ratios().iter().copied()));
    details["error_ns"] = quantiles(statistics.errors());
    details["half_width_ns"] = quantiles(statistics.half_widths());
    details["network_guest_error_ns"] = quantiles(statistics.network_errors());
    details["without_time"] = json!(without(tally));
    details["refreshes_per_hour"] = json!(per_day(tally.updates, *days) / 24.0);
    details["events_per_day"] = json!(per_day(tally.events, *days));
    details["markers_per_day"] = json!(per_day(tally.markers, *days));
    details
}

fn quantiles(of: Quantiles) -> Value {
    json!({"median": of.median, "p99": of.p99, "p999": of.p999, "worst": of.worst})
}

#[allow(clippy::cast_precision_loss)] // to print
fn without(tally: &Tally) -> f64 {
    tally.without as f64 / tally.readings.max(1) as f64
}

#[allow(clippy::cast_precision_loss)] // to print
fn per_day(count: u64, days: f64) -> f64 {
    count as f64 / days
}

/// Of the scenarios with a source that is always good to a microsecond: half of the interval over the worst error of a
/// day.
fn microsecond_ratio(outcomes: &[Outcome]) -> Option<f64> {
    let good = outcomes.iter().filter(|outcome| outcome.scenario.is_microsecond_grade);
    median(good.flat_map(|outcome| outcome.tally.statistics.ratios()).copied())
}

/// The page, and a guest without one, over many servers.
struct Comparison {
    servers: usize,
    /// Medians over the servers of median errors, in nanoseconds.
    page: u64,
    network: u64,
    /// With how many servers the page's error is smaller.
    better: usize,
}

fn compare(outcomes: &[Outcome]) -> Option<Comparison> {
    let draws: Vec<(u64, u64)> = outcomes.iter().flat_map(|outcome| &outcome.draws).copied().collect();
    Some(Comparison {
        servers: draws.len(),
        page: median(draws.iter().map(|draw| draw.0))?,
        network: median(draws.iter().map(|draw| draw.1))?,
        better: draws.iter().filter(|(page, network)| page < network).count(),
    })
}

fn median<T: PartialOrd + Copy>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut values: Vec<T> = values.collect();
    // None of them is not a number.
    values.sort_by(|one, other| one.partial_cmp(other).unwrap_or(std::cmp::Ordering::Equal));
    values.get(values.len() / 2).copied()
}
