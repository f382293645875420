// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock sources`: where the host's service has the time from.

use std::process::ExitCode;

use vmclock_host::service::protocol::SourceState;

use crate::cli::ServiceArgs;
use crate::output::{error, print, print_json};

use super::guests::{connect, table};
use super::tracking::{age, signed};

pub(crate) fn run(args: &ServiceArgs) -> anyhow::Result<ExitCode> {
    let sources = connect(args)?.sources()?.sources;
    if args.json {
        sources.iter().try_for_each(print_json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let heads = ["", "NAME", "REACH", "AGE", "OFFSET", "MAX ERROR", "CLOCK"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(heads).chain(sources.iter().map(row)).collect();
    print(&table(&rows))?;
    for reason in sources.iter().filter_map(|source| source.reason.as_ref()) {
        print(&format!("{reason}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn row(source: &SourceState) -> [String; 7] {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let bound = source.max_error_ns.map(|nanos| error(nanos.into()));
    let unsynchronized = if source.synchronized == Some(false) { " (not synchronized)" } else { "" };
    [
        mark(&source.standing).into(),
        source.source.clone(),
        format!("{:03o}", source.reach),
        or_none(source.age_ns.map(age)),
        or_none(source.offset_ns.map(signed)),
        or_none(bound) + unsynchronized,
        source.clock.clone(),
    ]
}

/// As `chronyc sources` has them.
fn mark(standing: &str) -> &'static str {
    match standing {
        "selected" => "*",
        "falseticker" => "x",
        "unreachable" => "?",
        _ => "-",
    }
}
