// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock signal`: tells a publisher what happens to the machine.

use std::process::ExitCode;

use crate::cli::SignalArgs;
use crate::command::serve::{path_for, request};
use crate::output::{print, print_json};

pub(crate) fn run(args: &SignalArgs) -> anyhow::Result<ExitCode> {
    let answer = request(&path_for(&args.page, args.control.as_deref()), args.signal)?;
    if args.json {
        print_json(&answer)?;
    } else {
        print(&format!("published with sequence count {}\n", answer["seq_count"]))?;
    }
    Ok(ExitCode::SUCCESS)
}
