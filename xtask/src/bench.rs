// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask bench`: what a reading costs, and what it costs with others.

use anyhow::Result;

use crate::go_bindings;
use crate::project::Project;
use crate::python_bindings;
use crate::shell::say;

/// Measure what a reading of the clock costs, then the same beside other libraries.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Leave out the comparison with other libraries.
    #[arg(long)]
    no_peers: bool,

    /// Arguments for `vmclock bench`.
    #[arg(last = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(project: &Project, options: &Options) -> Result<()> {
    let ours = project.cargo("run").args(["--release", "--package", "vmclock-cli", "--", "bench"]);
    ours.args(&options.arguments).run()?;
    if options.no_peers {
        return Ok(());
    }
    let mut peers = project.cargo("run").args(["--release", "--manifest-path", "benches/peers/Cargo.toml", "--"]);
    for (language, other) in [("Go", go_bindings::peer(project)), ("Python", python_bindings::peer(project))] {
        match other {
            Ok(command) => peers = peers.args(["--other", &command]),
            Err(error) => say(&format!("{language} is left out: {error:#}")),
        }
    }
    peers.run()
}
