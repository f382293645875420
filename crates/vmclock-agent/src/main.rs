// SPDX-License-Identifier: MIT OR Apache-2.0
//! The agent's binary.
#![forbid(unsafe_code)]

use std::env::args_os;
use std::process::ExitCode;

fn main() -> ExitCode {
    vmclock_agent::runner::subcommand(args_os()).unwrap_or(ExitCode::from(2))
}
