// SPDX-License-Identifier: MIT OR Apache-2.0
//! The subcommands, a file each.

use std::process::ExitCode;

use crate::cli::Command;

mod bench;
mod demo;
mod doctor;
mod eval;
#[cfg(feature = "exporter")]
mod exporter;
mod guests;
mod hook;
mod man;
mod now;
#[cfg(feature = "qemu")]
mod qemu;
mod serve;
mod show;
mod signal;
mod simulate;
mod sources;
mod tracking;
mod wait;
mod watch;

pub(crate) use serve::config::DEFAULT as DEFAULT_CONFIG;

/// Runs one.
pub(crate) fn run(command: &Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Show(args) => show::run(args),
        Command::Now(args) => now::run(args),
        Command::Watch(args) => watch::run(args),
        Command::Wait(args) => wait::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Serve(args) => serve::run(args),
        Command::CheckConfig(args) => serve::check_config(args),
        #[cfg(feature = "qemu")]
        Command::Qemu(args) => qemu::run(args),
        Command::Signal(args) => signal::run(args),
        Command::Guests(args) => guests::run(args),
        Command::Sources(args) => sources::run(args),
        Command::Tracking(args) => tracking::run(args),
        #[cfg(feature = "exporter")]
        Command::Exporter(args) => exporter::run(args),
        Command::Simulate(args) => simulate::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Completions { shell } => man::completions(*shell),
        Command::Man { out } => man::pages(out),
    }
}
