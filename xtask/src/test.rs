// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask test`: every test that there is, in the order in which a failure is cheapest to learn of.

use anyhow::Result;

use crate::abi_header;
use crate::c_test;
use crate::driver_test;
use crate::exporter_test;
use crate::fuzz;
use crate::fuzz_host;
use crate::go_bindings;
use crate::guest_test;
use crate::libvirt_test;
use crate::package;
use crate::project::{is_ci, Project};
use crate::python_bindings;
use crate::shell::{say, Cmd};
use crate::steps::{self, Done, Step};
use crate::toolchain;

const STEPS: [Step; 16] = [
    Step { name: "fmt", about: "the code is formatted", run: fmt },
    Step { name: "clippy", about: "no warnings, in any target", run: clippy },
    Step { name: "test", about: "unit, property, integration and documentation tests", run: test },
    Step { name: "loom", about: "the sequence count, in every order that the memory model allows", run: loom },
    Step { name: "doc", about: "the documentation builds, and its links lead somewhere", run: doc },
    Step { name: "package", about: "each crate builds from what the registry gets", run: package::check },
    Step { name: "msrv", about: "the oldest Rust, for x86-64 and aarch64", run: toolchain::check },
    Step { name: "fuzz", about: "a bounded run of the fuzzer", run: fuzz::smoke },
    Step { name: "fuzz-host", about: "the publisher in random worlds that attack it", run: fuzz_host::smoke },
    Step { name: "c", about: "libvmclock, called by programs in C and C++, and its ABI", run: c_test::step },
    Step { name: "go", about: "the bindings for Go", run: go_bindings::step },
    Step { name: "python", about: "the bindings for Python", run: python_bindings::step },
    Step {
        name: "exporter",
        about: "the exporter, scraped by the real Prometheus, and its alerts",
        run: exporter_test::step,
    },
    Step { name: "libvirt", about: "guests of the real libvirt daemon, with our hook", run: libvirt_test::step },
    Step { name: "guest", about: "real guests under QEMU, with Linux's own driver", run: guest_test::step },
    Step { name: "driver", about: "the Linux driver in Rust, beside Linux's own", run: driver_test::step },
];

/// What `--fast` leaves out: it takes guests, or minutes.
const SLOW: [&str; 9] = ["loom", "package", "msrv", "fuzz", "fuzz-host", "exporter", "libvirt", "guest", "driver"];

/// Workspaces of their own, whose dependencies stay out of everyone else's.
const OUTSIDE: [&str; 3] = ["fuzz/Cargo.toml", "benches/peers/Cargo.toml", "crates/vmclock-python/Cargo.toml"];

/// Run every test there is: all steps, or some.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Run this step alone (may be given more than once).
    #[arg(long, value_name = "STEP")]
    only: Vec<String>,

    /// Leave out what takes guests or minutes.
    #[arg(long, conflicts_with = "only")]
    fast: bool,

    /// List the steps and run nothing.
    #[arg(long)]
    list: bool,
}

pub(crate) fn run(project: &Project, options: &Options) -> Result<()> {
    let mut chosen = steps::choose(&STEPS, &options.only)?;
    if options.fast {
        chosen.retain(|step| !SLOW.contains(&step.name));
        say(&format!("--fast: without {}", SLOW.join(", ")));
    }
    if options.list {
        steps::list(&chosen);
        return Ok(());
    }
    steps::run(project, "test", &chosen)
}

fn fmt(project: &Project) -> Result<Done> {
    passed(project.cargo("fmt").args(["--all", "--check"]))?;
    // No crate of cargo's: the kernel builds it.
    passed(project.command("rustfmt").args(["--check", "--edition=2021", "linux/driver.rs"]))?;
    for manifest in OUTSIDE.iter().filter(|manifest| project.path(manifest).exists()) {
        passed(project.cargo("fmt").args(["--check", "--manifest-path", manifest]))?;
    }
    Ok(Done::Passed)
}

fn clippy(project: &Project) -> Result<Done> {
    passed(project.cargo("clippy").args(["--workspace", "--all-targets", "--all-features", "--", "-Dwarnings"]))
}

fn test(project: &Project) -> Result<Done> {
    let tests = project.cargo("test").args(["--workspace", "--all-features"]);
    match abi_header::include_folder() {
        Ok(folder) => passed(tests.env(abi_header::VARIABLE, folder)),
        Err(error) if is_ci() => Err(error.context("this must not be skipped where CI=true")),
        Err(error) => {
            say(&format!("SKIPPED: the comparison with the newest Linux's header of the page: {error:#}"));
            passed(tests)
        }
    }
}

fn loom(project: &Project) -> Result<Done> {
    let packages = ["--package", "vmclock-core", "--package", "vmclock-vmm"];
    let models = project.cargo("test").args(packages).args(["--release", "--test", "loom"]);
    let models = models.args(["--features", "vmclock-core/loom,vmclock-vmm/loom"]);
    passed(models.arg("--target-dir").arg(project.target("loom")).env("RUSTFLAGS", "--cfg loom"))
}

fn doc(project: &Project) -> Result<Done> {
    passed(project.cargo("doc").args(["--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-Dwarnings"))
}

fn passed(command: Cmd) -> Result<Done> {
    command.run().map(|()| Done::Passed)
}
