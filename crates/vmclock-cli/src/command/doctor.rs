// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock doctor`: what this machine has of a VMClock, why not, and what to do.

use std::process::ExitCode;

use vmclock_doctor::{examine, Machine, Verdict};

use crate::cli::PageArgs;
use crate::exit;
use crate::output::{print, print_json};

pub(crate) fn run(args: &PageArgs) -> anyhow::Result<ExitCode> {
    let report = examine(&Machine::this(), &args.page);
    if args.json {
        print_json(&report)?;
    } else {
        print(&report.to_text())?;
    }
    Ok(match report.verdict {
        Verdict::Time => ExitCode::SUCCESS,
        Verdict::EventsOnly => exit::NO_TIME.into(),
        Verdict::Nothing => exit::FAILURE.into(),
    })
}
