// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock signal`: notifies a publisher of what happens to the machine, or to a guest.

use std::process::ExitCode;

use anyhow::{bail, Context};
use vmclock_host::event::Signal;
use vmclock_host::service::client::Client;
use vmclock_host::service::protocol::{Done, GuestName, Notice, Relation, Request, Step};

use crate::cli::{self, SignalArgs};
use crate::command::guests::report;
use crate::command::serve::path_for;
use crate::output::{print, print_json};

pub(crate) fn run(args: &SignalArgs) -> anyhow::Result<ExitCode> {
    let mut client = Client::connect(path_for(&args.page, args.control.as_deref()))?;
    if let Some(guest) = &args.guest {
        tell(&mut client, guest, args.signal, args.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let answer = client.signal(args.signal.into())?;
    if args.json {
        print_json(&answer)?;
    } else {
        print(&format!("published with sequence count {}\n", answer["seq_count"]))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What happens to a guest of the service.
fn tell(client: &mut Client, guest: &GuestName, signal: cli::Signal, json: bool) -> anyhow::Result<()> {
    let step = match signal {
        cli::Signal::Migrate => Step::MigratedIn,
        cli::Signal::Snapshot => Step::Restored,
        cli::Signal::Clone => Step::Cloned,
        cli::Signal::Soon => return announce(client, guest, Notice::Soon, json),
        cli::Signal::Imminent => return announce(client, guest, Notice::Imminent, json),
        cli::Signal::Clear => return announce(client, guest, Notice::None, json),
        cli::Signal::Leap { .. } => bail!("a leap second is every guest's: leave out --guest"),
    };
    // A guest that reads this machine's counter reads it afterwards, too; of any other nothing is known.
    let is_host = state_of(client, guest)?.counter == Relation::Host;
    let state = client.lifecycle(guest, step, is_host.then_some(Relation::Host))?;
    report(guest, &state, json)
}

fn announce(client: &mut Client, guest: &GuestName, notice: Notice, json: bool) -> anyhow::Result<()> {
    client.ask::<Done>(Request::Announce { guest: Some(guest.clone()), notice }, &[])?;
    report(guest, &state_of(client, guest)?.state, json)
}

fn state_of(client: &mut Client, guest: &GuestName) -> anyhow::Result<vmclock_host::service::protocol::GuestState> {
    let mut guests = client.guests()?.guests.into_iter();
    guests
        .find(|other| other.guest == *guest)
        .with_context(|| format!("{guest}: there is no such guest; `vmclock guests` lists them"))
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
