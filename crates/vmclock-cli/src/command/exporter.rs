// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock exporter`: what the host's service says, over HTTP.

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use serde_json::json;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use vmclock_exporter::{Exporter, Options};

use crate::cli::ExporterArgs;
use crate::command::serve::path_for;
use crate::output::{log_error, print, print_json};

pub(crate) fn run(args: &ExporterArgs) -> anyhow::Result<ExitCode> {
    let mut options = Options::of(path_for(&args.service.service, args.service.control.as_deref()));
    options.listen = args.listen;
    options.most_guests = args.most_guests;
    options.interval = Duration::from_secs(args.interval);
    // Before anybody knows that it listens: a signal then ends it in order.
    let mut signals = Signals::new([SIGTERM, SIGINT]).context("cannot handle signals")?;
    let exporter = Exporter::listen(options)?;
    let stopper = exporter.stopper();
    thread::spawn(move || signals.forever().take(1).for_each(|_| stopper.stop()));

    let address = exporter.address();
    if !address.ip().is_loopback() {
        let _ = log_error(format_args!(
            "{address}: is not only for this machine, and there is neither TLS nor a password: keep others out otherwise"
        ));
    }
    let url = format!("http://{address}");
    if args.service.json {
        print_json(&json!({"event": "listening", "url": url}))?;
    } else {
        print(&format!("listening: {url}/ with /metrics and /status.json\n"))?;
    }
    exporter.serve(|report| {
        let _ = log_error(report);
    })?;
    Ok(ExitCode::SUCCESS)
}
