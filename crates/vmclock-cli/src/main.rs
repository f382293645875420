// SPDX-License-Identifier: MIT OR Apache-2.0
//! The `vmclock` command. Its definition is in [`cli`]; each subcommand has a file of its own in [`command`].
#![forbid(unsafe_code)]
// They panic where nobody reads. Lines are written by `output`.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod cli;
mod command;
mod exit;
mod output;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit::usage(&error),
    };
    if cli.command.prints_json() {
        output::errors_as_json();
    }
    match command::run(&cli.command) {
        Ok(code) => code,
        Err(error) => exit::report(&error),
    }
}
