// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask fuzz-host`: the publisher in random worlds that attack it, judged by one who knows the true time. What
//! a world is, and what is judged, is in the crate `vmclock-sim`; here its program is built and called.

use anyhow::{anyhow, Result};

use crate::project::Project;
use crate::shell::Cmd;
use crate::steps::Done;

/// Attack the publisher in random worlds, and stop when some of them have violated a rule.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How many days to simulate, over all worlds together.
    #[arg(long, default_value_t = 30_000.0)]
    days: f64,

    /// What the worlds are drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// How many threads to use. What comes out does not depend on it.
    #[arg(long, default_value_t = 2)]
    jobs: usize,

    /// Instead, do again what happens in a world that was printed, with what happened last, and find the simplest world
    /// in which the same goes wrong.
    #[arg(long, value_name = "WORLD", conflicts_with_all = ["days", "seed", "jobs"])]
    replay: Option<String>,
}

pub(crate) fn run(project: &Project, options: &Options) -> Result<()> {
    let program = program(project);
    match &options.replay {
        Some(world) => program.args(["--replay", world]).run(),
        None => attack(program, options.days, options.seed, options.jobs),
    }
}

/// The bounded run of `cargo xtask test`: the same worlds every time.
pub(crate) fn smoke(project: &Project) -> Result<Done> {
    attack(program(project), 1_000.0, 1, 2).map(|()| Done::Passed)
}

fn attack(program: Cmd, days: f64, seed: u64, jobs: usize) -> Result<()> {
    let options = [format!("--days={days}"), format!("--seed={seed}"), format!("--jobs={jobs}")];
    program.args(options).run().map_err(|error| {
        anyhow!("{error}\nworlds in which a rule was violated are printed above; cargo xtask fuzz-host --replay WORLD repeats one")
    })
}

fn program(project: &Project) -> Cmd {
    project.cargo("run").args(["--release", "--package", "vmclock-sim", "--bin", "fuzz-host", "--"])
}
