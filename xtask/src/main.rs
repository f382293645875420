// SPDX-License-Identifier: MIT OR Apache-2.0
//! The project's own chores: `cargo xtask test` runs every test there is.
//!
//! Each verb is a file of its own; what they share:
//!
//! | module | what it is |
//! |---|---|
//! | [`project`] | where things are: the clone, its target folder, its version of Rust |
//! | [`shell`] | running a command: printed before, explained when it fails |
//! | [`steps`] | a list of named steps, timed, stopped at the first that fails |
//! | [`cache`] | the folder outside the clone for what is downloaded |
//! | [`deb`] | a Debian package in the making |
//! | [`debian`] | Debian's packages as folders, verified but not installed |
//! | [`toolchain`] | the oldest Rust that we support, from Debian |
//! | [`abi_header`] | Linux's own `vmclock-abi.h`, from Debian |
#![forbid(unsafe_code)]

mod abi_header;
mod bench;
mod c_library;
mod c_test;
mod cache;
mod deb;
mod debian;
mod dkms;
mod driver_test;
mod exporter_test;
mod fuzz;
mod fuzz_host;
mod go_bindings;
mod guest_test;
mod libvirt_test;
mod package;
mod packages;
mod project;
mod python_bindings;
mod restarts;
mod shell;
mod steps;
mod test;
mod toolchain;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::project::Project;

/// The chores of the vmclock project.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Test(test::Options),
    Fuzz(fuzz::Options),
    FuzzHost(fuzz_host::Options),
    Bench(bench::Options),
    InstallC(c_library::Options),
    RecordCAbi(c_test::RecordOptions),
    GuestTest(guest_test::Options),
    ExporterTest(exporter_test::Options),
    LibvirtTest(libvirt_test::Options),
    DriverTest(driver_test::Options),
    Package(packages::Options),
    Dkms(dkms::Options),
    UpstreamSeries(driver_test::UpstreamOptions),
    Restarts(restarts::Options),
    Semver(package::Semver),
}

fn main() -> ExitCode {
    let verb = Arguments::parse().verb;
    let outcome = Project::locate().and_then(|project| match verb {
        Verb::Test(options) => test::run(&project, &options),
        Verb::Fuzz(options) => fuzz::run(&project, &options),
        Verb::FuzzHost(options) => fuzz_host::run(&project, &options),
        Verb::Bench(options) => bench::run(&project, &options),
        Verb::InstallC(options) => c_library::run(&project, &options),
        Verb::RecordCAbi(options) => c_test::record(&project, &options),
        Verb::GuestTest(options) => guest_test::run(&project, &options),
        Verb::ExporterTest(options) => exporter_test::run(&project, &options),
        Verb::LibvirtTest(options) => libvirt_test::run(&project, &options),
        Verb::DriverTest(options) => driver_test::run(&project, &options),
        Verb::Package(options) => packages::run(&project, &options),
        Verb::Dkms(options) => dkms::run(&project, &options),
        Verb::UpstreamSeries(options) => driver_test::upstream_series(&project, &options),
        Verb::Restarts(options) => restarts::run(&project, &options),
        Verb::Semver(options) => package::semver(&project, &options),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
