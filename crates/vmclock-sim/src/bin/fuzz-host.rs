// SPDX-License-Identifier: MIT OR Apache-2.0
//! Attacks the publisher in random worlds: what `cargo xtask fuzz-host` runs.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use vmclock_sim::{fuzz, reproduce, Reproduction};

/// Attack the publisher in random worlds, judged by one who knows the true time
#[derive(Parser)]
struct Arguments {
    /// How many days, over all worlds together
    #[arg(long, default_value_t = 30_000.0, value_parser = days)]
    days: f64,

    /// What the worlds are drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// How many threads
    #[arg(long, default_value_t = 2)]
    jobs: usize,

    /// Instead, do again what happens in this world
    #[arg(long, value_name = "WORLD", value_parser = world, conflicts_with_all = ["days", "seed", "jobs"])]
    replay: Option<u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let violated = match arguments.replay {
        Some(seed) => again(seed),
        None => attack(&arguments),
    };
    if violated {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// Says whether a rule was violated.
fn attack(arguments: &Arguments) -> bool {
    let began = Instant::now();
    let (mut said, mut failed) = (began, 0);
    let campaign = fuzz(arguments.days, arguments.seed, arguments.jobs, |so_far| {
        for failure in so_far.failures.iter().skip(failed) {
            say(&format!("world {:#018x}: {}", failure.seed, failure.what));
        }
        failed = so_far.failures.len();
        if said.elapsed().as_secs() >= 10 {
            said = Instant::now();
            say(&format!("{:.0} days in {} worlds, {} fail", so_far.days, so_far.worlds, so_far.failures.len()));
        }
    });
    #[allow(clippy::cast_precision_loss)] // to print
    let without = 100.0 * campaign.without as f64 / campaign.readings.max(1) as f64;
    say(&format!(
        "{:.0} days in {} worlds, {} rounds, {} readings ({without:.1} % without a time), in {:.1} s: {} fail",
        campaign.days,
        campaign.worlds,
        campaign.rounds,
        campaign.readings,
        began.elapsed().as_secs_f64(),
        campaign.failures.len()
    ));
    if let Some(failure) = campaign.failures.first() {
        say(&format!("cargo xtask fuzz-host --replay {:#018x} does it again", failure.seed));
    }
    !campaign.failures.is_empty()
}

fn again(seed: u64) -> bool {
    let reproduction = reproduce(seed);
    print(&reproduction);
    if let Some(simplest) = &reproduction.simplest {
        say("\nThe simplest world in which the same goes wrong:\n");
        print(simplest);
    }
    reproduction.what.is_some()
}

fn print(reproduction: &Reproduction) {
    say(&reproduction.world);
    for line in &reproduction.trace {
        say(line);
    }
    say(reproduction.what.as_deref().unwrap_or("nothing is violated"));
}

/// Prints a line, or not, where nobody reads any more.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

fn days(text: &str) -> Result<f64, String> {
    let days = text.parse().map_err(|_| format!("{text:?} is not a number of days"))?;
    if (0.001..=10_000_000.0).contains(&days) {
        Ok(days)
    } else {
        Err("must be between 0.001 and 10000000".into())
    }
}

/// A world's number, as it was printed.
fn world(text: &str) -> Result<u64, String> {
    let number = text.strip_prefix("0x").map_or_else(|| text.parse(), |digits| u64::from_str_radix(digits, 16));
    number.map_err(|_| format!("{text:?} is not the number of a world, as 0x0123456789abcdef"))
}
