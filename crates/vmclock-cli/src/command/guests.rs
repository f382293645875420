// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock guests`: the guests of the host's service.

use std::process::ExitCode;

use anyhow::Context;
use serde_json::{json, Value};
use vmclock_core::guest_counter::Scale;
use vmclock_host::service::client::Client;
use vmclock_host::service::protocol::{GuestName, GuestState, PageState, Place, Relation, Request};

use crate::cli::{GuestsAction, GuestsArgs, ServiceArgs};
use crate::command::serve::path_for;
use crate::output::{error, print, print_json};

pub(crate) fn run(args: &GuestsArgs) -> anyhow::Result<ExitCode> {
    let mut client = connect(&args.service)?;
    let json = args.service.json;
    match &args.action {
        None => list(&client.guests()?.guests, json)?,
        Some(GuestsAction::Add { guest, page, counter, notify, step }) => {
            let path =
                std::path::absolute(page).with_context(|| format!("{}: cannot be used as a path", page.display()))?;
            let (guest, page) = (guest.clone(), Place::Path(path));
            let request =
                Request::AddGuest { guest: guest.clone(), page, counter: *counter, notify: *notify, step: *step };
            report(&guest, &client.ask(request, &[])?, json)?;
        }
        Some(GuestsAction::Remove { guest }) => {
            client.remove_guest(guest)?;
            if json {
                print_json(&json!({"ok": true, "guest": guest}))?;
            } else {
                print(&format!("{guest}: is gone\n"))?;
            }
        }
        Some(GuestsAction::Step { guest, step, counter }) => {
            report(guest, &client.lifecycle(guest, *step, *counter)?, json)?;
        }
        Some(GuestsAction::Counter { guest, counter }) => report(guest, &client.set_counter(guest, *counter)?, json)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A connection to the service that is meant.
pub(super) fn connect(service: &ServiceArgs) -> anyhow::Result<Client> {
    Ok(Client::connect(path_for(&service.service, service.control.as_deref()))?)
}

/// Prints what a guest's page says after a change.
pub(super) fn report(guest: &GuestName, state: &PageState, json: bool) -> anyhow::Result<()> {
    if json {
        let mut line = page_json(state);
        (line["ok"], line["guest"]) = (true.into(), guest.to_string().into());
        return print_json(&line);
    }
    print(&format!("{guest}: {}, published with sequence count {}\n", state.clock_status, state.seq_count))
}

fn page_json(state: &PageState) -> Value {
    json!({
        "seq_count": state.seq_count,
        "disruption_marker": state.disruption_marker.0,
        "vm_generation_counter": state.vm_generation_counter.0,
        "clock_status": state.clock_status,
        "max_error_ns": state.max_error_ns,
    })
}

fn list(guests: &[GuestState], json: bool) -> anyhow::Result<()> {
    if json {
        for guest in guests {
            let mut line = page_json(&guest.state);
            let step = guest.step.map(|step| step.to_string());
            for (key, value) in [
                ("guest", json!(guest.guest)),
                ("page", json!(guest.page)),
                ("user", json!(guest.user)),
                ("counter", json!(guest.counter)),
                ("step", json!(step)),
            ] {
                line[key] = value;
            }
            // One by one: another process may read them meanwhile.
            print_json(&line)?;
        }
        return Ok(());
    }
    let heads = ["NAME", "STATUS", "MAX ERROR", "COUNTER", "LAST STEP", "USER", "PAGE"].map(str::to_owned);
    let rows = guests.iter().map(|guest| {
        [
            guest.guest.to_string(),
            guest.state.clock_status.clone(),
            guest.state.max_error_ns.map_or_else(|| "-".into(), |nanos| error(nanos.into())),
            relation(guest.counter),
            guest.step.map_or_else(|| "-".into(), |step| step.to_string()),
            guest.user.to_string(),
            guest.page.clone(),
        ]
    });
    print(&table(&std::iter::once(heads).chain(rows).collect::<Vec<_>>()))
}

fn relation(counter: Relation) -> String {
    match counter {
        Relation::Unknown => "unknown".into(),
        Relation::None => "none".into(),
        Relation::Host => "host".into(),
        Relation::Known(counter) => {
            let scale = counter.scale().map_or_else(String::new, |Scale { ratio, fraction_bits }| {
                #[allow(clippy::cast_precision_loss)] // to print
                let factor = ratio as f64 / f64::from(fraction_bits).exp2();
                format!(" x {factor:.9}")
            });
            format!("{:+}{scale}", counter.offset().cast_signed())
        }
    }
}

/// Rows whose columns are aligned.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}
