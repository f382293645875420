// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock signal`: notifies a publisher of what happens to the machine.

use std::process::ExitCode;

use vmclock_host::event::Signal;
use vmclock_host::service::client::Client;

use crate::cli::{self, SignalArgs};
use crate::command::serve::path_for;
use crate::output::{print, print_json};

pub(crate) fn run(args: &SignalArgs) -> anyhow::Result<ExitCode> {
    let answer = Client::connect(path_for(&args.page, args.control.as_deref()))?.signal(args.signal.into())?;
    if args.json {
        print_json(&answer)?;
    } else {
        print(&format!("published with sequence count {}\n", answer["seq_count"]))?;
    }
    Ok(ExitCode::SUCCESS)
}

impl From<cli::Signal> for Signal {
    fn from(signal: cli::Signal) -> Self {
        match signal {
            cli::Signal::Migrate => Self::Migrate,
            cli::Signal::Snapshot => Self::Snapshot,
            cli::Signal::Clone => Self::Clone,
            cli::Signal::Soon => Self::Soon,
            cli::Signal::Imminent => Self::Imminent,
            cli::Signal::Clear => Self::Clear,
            cli::Signal::Leap { kind } => Self::Leap(kind.into()),
        }
    }
}
