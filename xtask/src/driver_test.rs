// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask driver-test`: the Linux driver in Rust, built for Debian's stock kernel, beside Linux's own in C, in real guests. What is checked is in
//! the crate `vmclock-e2e`; here is how the driver is built.

mod arm64;
mod kernels;
mod workshop;

use std::path::PathBuf;

use anyhow::Result;

use crate::cache::Cache;
use crate::debian;
use crate::guest_test::{self, Assets};
use crate::project::Project;
use crate::shell::{say, Cmd};
use crate::steps::Done;

use self::arm64::Arm64;
use self::kernels::Kernels;
use self::workshop::Workshop;

/// The scenarios of `guest-test` in which a driver shows what it can, and those that compare two.
const SCENARIOS: [&str; 6] = ["live", "life", "no-notify", "stock", "drivers", ARM64];

/// Those two in a guest on arm64, which finds the clock by its device tree.
const ARM64: &str = "arm64";

/// The kernel's Rust interfaces change with each series: this is the one that the driver is written for.
const SERIES: [u32; 2] = [7, 2];

/// Build the Linux driver in Rust, and compare it with Linux's own in real guests.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Under a kernel of our own that watches memory and locks: bind and unbind, with files open across it. Builds a kernel
    #[arg(long)]
    kasan: bool,

    /// Run only the checks with this word in their names (may be given more than once).
    #[arg(long, value_name = "WORD")]
    only: Vec<String>,

    /// Only download, build and print the harness's command.
    #[arg(long)]
    prepare: bool,
}

pub(crate) fn run(project: &Project, options: &Options) -> Result<()> {
    match run_or_skip(project, options, Costs::AreJudged)? {
        Done::Passed => Ok(()),
        Done::Skipped(reason) => {
            say(&format!("SKIPPED: {reason}"));
            Ok(())
        }
    }
}

/// The step of `cargo xtask test`.
pub(crate) fn step(project: &Project) -> Result<Done> {
    run_or_skip(project, &Options { kasan: false, only: Vec::new(), prepare: false }, Costs::AreShown)
}

/// A timing on a busy machine is no test.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Costs {
    AreShown,
    AreJudged,
}

fn run_or_skip(project: &Project, options: &Options, costs: Costs) -> Result<Done> {
    if !cfg!(target_arch = "x86_64") {
        return debian::skip_unless_ci(anyhow::anyhow!("the guests are for x86-64, which this machine is not"));
    }
    // Nothing that could be installed would help.
    if let Some(reason) = workshop::forbidden() {
        return Ok(Done::Skipped(format!("the kernel's compilers need mount namespaces and chroot: {reason}")));
    }
    let chosen: Vec<&str> = match &options.only[..] {
        [] if options.kasan => Vec::new(),
        [] => SCENARIOS.to_vec(),
        some => some.iter().map(String::as_str).collect(),
    };
    let with_arm64 = !options.kasan && chosen.iter().any(|word| ARM64.contains(word));
    let fetched = Cache::open().and_then(|cache| {
        let (assets, kernel) = Assets::fetch(&cache)?.kernel_of(&cache, &SERIES)?;
        let workshop = if options.kasan { Workshop::fetch_with_clang(&cache) } else { Workshop::fetch(&cache) };
        let kernels = Kernels::fetch(&cache, &kernel, workshop?)?;
        let arm64 = if with_arm64 { Some(Arm64::fetch(&cache, &kernel)?) } else { None };
        Ok((assets, kernel, cache, kernels, arm64))
    });
    let (assets, kernel, cache, kernels, arm64) = match fetched {
        Ok(fetched) => fetched,
        Err(error) => return debian::skip_unless_ci(error),
    };
    let harness = guest_test::harness(project, &assets)?;
    let harness = if options.kasan {
        let watched = kernels.watched(&cache, project)?;
        let module = kernels.build_driver(project, &watched.tree)?;
        with_drivers(harness, "kasan", &watched.image, &watched.driver, module).arg("--kasan")
    } else {
        let stock = kernels.stock(&cache)?;
        let module = kernels.build_driver(project, &stock)?;
        with_drivers(harness, &kernel.version, &kernel.image, &kernel.driver, module)
    };
    let harness = match arm64 {
        Some(arm64) => arm64.add_to(harness, &cache, project, &kernels)?,
        None => harness,
    };
    let harness = harness.args(chosen.iter().flat_map(|word| ["--only", word]));
    let harness = if costs == Costs::AreJudged { harness.arg("--strict-costs") } else { harness };
    if options.prepare {
        say(&harness.to_string());
        return Ok(Done::Passed);
    }
    harness.run().map(|()| Done::Passed)
}

fn with_drivers(harness: Cmd, version: &str, image: &PathBuf, linux: &PathBuf, ours: PathBuf) -> Cmd {
    harness.args(["--kernel", version]).arg(image).arg(linux).arg("--rust-driver").arg(ours)
}
