// SPDX-License-Identifier: MIT OR Apache-2.0
//! What goes to the registry: each library builds from its own tarball, which has its README and its licences; and
//! `cargo xtask semver`, whether the API still is what it was.

use anyhow::{ensure, Context, Result};

use crate::project::Project;
use crate::steps::Done;

/// The crates of the registry, each after what it depends on. `vmclock-sim` is not one of them, nor is the command,
/// which has it inside.
const CRATES: [&str; 5] = ["vmclock-core", "vmclock", "vmclock-host", "vmclock-vmm", "vmclock-qemu"];

/// What each tarball must have.
const FILES: [&str; 4] = ["Cargo.toml", "README.md", "LICENSE-MIT", "LICENSE-APACHE"];

/// Builds every crate from its tarball, with those of the others in place of a registry.
pub(crate) fn check(project: &Project) -> Result<Done> {
    for name in CRATES {
        let list = project.cargo("package").args(["--list", "--allow-dirty", "--package", name]).read()?;
        for file in FILES {
            ensure!(list.lines().any(|line| line == file), "the package {name} has no {file}: put it in crates/{name}");
        }
    }
    // What is about to be committed is what matters, not what was.
    let packages = CRATES.iter().flat_map(|name| ["--package", name]);
    project.cargo("package").arg("--allow-dirty").args(packages).run()?;
    Ok(Done::Passed)
}

/// Compare the API of the libraries with that of an earlier revision, by cargo-semver-checks.
#[derive(clap::Args)]
pub(crate) struct Semver {
    /// The revision whose API must still be there.
    #[arg(long, value_name = "REVISION", default_value = "HEAD~1")]
    baseline: String,
}

pub(crate) fn semver(project: &Project, options: &Semver) -> Result<()> {
    project
        .cargo("semver-checks")
        .arg("--version")
        .read()
        .context("it takes cargo-semver-checks: run `cargo install cargo-semver-checks --locked`")?;
    let packages = CRATES.iter().flat_map(|name| ["--package", name]);
    project.cargo("semver-checks").args(["--all-features", "--baseline-rev", &options.baseline]).args(packages).run()
}
