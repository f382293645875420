// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock serve`: publishes a page, keeps it fresh, and listens for what happens to the machine.

pub(super) mod config;
pub(super) mod control;
pub(super) mod publisher;

use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use serde_json::json;

use crate::cli::ServeArgs;
use crate::output::{error, print, print_json};

use config::Plan;
use control::Control;
pub(crate) use control::{path_for, request};
use publisher::{Publisher, Report};

/// The first refreshes come sooner, as the rate is the better known the longer it was measured.
pub(super) const FIRST_REFRESH: Duration = Duration::from_millis(100);

pub(crate) fn run(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    let plan = Plan::of(args)?;
    if args.check_config {
        return check(plan, args.json);
    }
    let refresh = plan.refresh;
    if let Some(folder) = args.page.parent().filter(|folder| folder.starts_with("/run")) {
        // /run is empty after each boot.
        std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot create the folder", folder.display()))?;
    }
    // Before anything is published, so that no signal finds us without the means to take the page back.
    let stop = stop_signal()?;
    let log = Log { json: args.json };
    let (mut publisher, opened) = Publisher::open(plan)?;
    log.reports(&opened)?;
    let result = serve(args, refresh, &mut publisher, &stop, log);
    // However it ends: whoever reads the page from now on must not trust it.
    publisher.retire();
    result?;
    log.report(&Report::new("stopped", "the page now says unreliable".into()))?;
    Ok(ExitCode::SUCCESS)
}

/// Hears each source once, and says what it says.
fn check(plan: Plan, json: bool) -> anyhow::Result<ExitCode> {
    let mut all_heard = true;
    for mut source in plan.sources {
        let heard = source.observe();
        all_heard &= heard.is_ok();
        let text = match &heard {
            Ok(observation) if observation.synchronized => error(observation.max_error.into()),
            Ok(observation) => format!("{}, not synchronised", error(observation.max_error.into())),
            Err(error) => error.to_string(),
        };
        if json {
            let max_error = heard.as_ref().ok().map(|observation| observation.max_error);
            let line =
                json!({"source": source.name(), "heard": heard.is_ok(), "max_error_ns": max_error, "text": text});
            print_json(&line)?;
        } else {
            print(&format!("{:<24} {text}\n", source.name()))?;
        }
    }
    ensure!(all_heard, "not every source can be heard; the rest of the configuration is in order");
    Ok(ExitCode::SUCCESS)
}

fn serve(
    args: &ServeArgs,
    refresh: Duration,
    publisher: &mut Publisher,
    stop: &UnixStream,
    log: Log,
) -> anyhow::Result<()> {
    let mut control = Control::listen(&control::path_for(&args.page, args.control.as_deref()))?;
    let mut interval = FIRST_REFRESH.min(refresh);
    let mut due = Instant::now() + interval;
    loop {
        if wait_until(due, stop, &control)? {
            return Ok(());
        }
        control.answer(|signal| {
            let report = publisher.signal(signal)?;
            let answer = publisher.state();
            log.report(&report)?;
            Ok(answer)
        })?;
        if Instant::now() >= due {
            log.reports(&publisher.refresh()?)?;
            interval = (interval * 2).min(refresh);
            due = Instant::now() + interval;
        }
    }
}

/// Waits until the next refresh is due or somebody wants something. Says whether we are to stop.
fn wait_until(due: Instant, stop: &UnixStream, control: &Control) -> anyhow::Result<bool> {
    let left = due.saturating_duration_since(Instant::now());
    let timeout = Timespec { tv_sec: i64::try_from(left.as_secs())?, tv_nsec: left.subsec_nanos().into() };
    let mut fds = vec![PollFd::new(stop, PollFlags::IN)];
    fds.extend(control.fds().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(!fds[0].revents().is_empty()),
        Err(errno) => Err(errno).context("cannot wait for the next refresh"),
    }
}

/// Readable once SIGTERM, SIGINT or SIGHUP came.
pub(super) fn stop_signal() -> anyhow::Result<UnixStream> {
    let (read, write) = UnixStream::pair().context("cannot make a socket pair")?;
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT, signal_hook::consts::SIGHUP] {
        signal_hook::low_level::pipe::register(signal, write.try_clone().context("cannot copy a socket")?)
            .with_context(|| format!("cannot catch signal {signal}"))?;
    }
    Ok(read)
}

/// Says what the publisher did, a line each.
#[derive(Clone, Copy)]
struct Log {
    json: bool,
}

impl Log {
    fn report(self, report: &Report) -> anyhow::Result<()> {
        if self.json {
            print_json(&json!({"event": report.event, "text": report.text}))
        } else if report.event == "refreshed" {
            Ok(())
        } else {
            print(&format!("{:<12} {}\n", report.event, report.text))
        }
    }

    fn reports(self, reports: &[Report]) -> anyhow::Result<()> {
        reports.iter().try_for_each(|report| self.report(report))
    }
}
