// SPDX-License-Identifier: MIT OR Apache-2.0
//! A real chronyd that the agent's feed is the only source of. It does not touch this machine's clock; the page's clock
//! is another one, so that there is something to correct.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{ensure, Context, Result};
use vmclock::VmClock;

use crate::patience::{until, PATIENCE};
use crate::{Lab, Tools};

use super::chrony::{free_port, track, Daemon};
use super::{micros, TAI_MINUS_UTC};

/// What chronyd is told that samples are right within, and has to follow within, in ± nanoseconds.
const LIMIT: i128 = 50_000;
/// What the feed's directive has it call us.
const REFERENCE: u32 = u32::from_be_bytes(*b"VMCL");

pub(super) fn run(lab: &Lab, tools: &Tools) -> Result<String> {
    let folder = lab.folder.join("feed");
    fs::create_dir_all(&folder)?;
    let page = folder.join("page");
    let _serve = Daemon(serve(lab, &folder, &page)?);
    let mut clock = None;
    until("the page gives bounds", PATIENCE, || {
        clock = VmClock::open_at(&page).ok().filter(|clock| ahead(clock).is_ok());
        Ok(clock.is_some())
    })?;
    let clock = clock.context("there is no page")?;

    let (command, socket, orders) = (free_port()?, folder.join("samples"), folder.join("run/chronyd.sock"));
    let mut feed = Command::new(&tools.feed);
    // Of its samples the median of some is used; so there are some for each poll.
    feed.arg(&page).args(["20", "chrony"]).arg(&socket).arg(LIMIT.to_string()).arg(&orders);
    let said = folder.join("feed.log");
    let output = File::create(&said)?;
    feed.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let _feed = Daemon(feed.spawn().context("cannot start the example `feed`")?);
    let said = || fs::read_to_string(&said).unwrap_or_default();
    let directive = || said().lines().find(|line| line.starts_with("refclock SOCK")).map(str::to_owned);
    let is_whole = || Ok(directive().is_some_and(|directive| directive.contains(" delay ")));
    until("the feed says how chronyd is configured", PATIENCE, is_whole)?;
    // As it is, but polled four times a second.
    let directive = directive().unwrap_or_default().replace(" poll 0 ", " poll -2 ");
    let config = format!("{directive}\nport 0\ncmdport {command}\nbindcmdaddress {}", orders.display());
    let daemon = Daemon::start(&tools.chronyd, &folder, "chronyd", &config)?;

    let follows = |what: &str| -> Result<i128> {
        let mut error = 0;
        until(what, PATIENCE, || {
            let Some(tracking) = track(command)? else { return Ok(false) };
            // Where the system's clock is so far ahead, it has to be corrected by as much the other way.
            error = tracking.correction + ahead(&clock)?;
            Ok(tracking.reference == REFERENCE && error.abs() <= LIMIT)
        })
        .with_context(said)?;
        Ok(error)
    };
    let first = follows("chronyd selects the feed and has its time")?;
    let offset = ahead(&clock)?;
    ensure!(offset.abs() > 1_000_000_000, "the page's clock is too near this machine's to tell: {offset} ns");

    migrate(lab, &page)?;
    until("chronyd is told of the disruption", PATIENCE, || Ok(said().contains("has dropped what it measured")))
        .with_context(said)?;
    let log = || fs::read_to_string(folder.join("chronyd.log")).unwrap_or_default();
    until("chronyd has dropped it", PATIENCE, || Ok(log().contains("Reset all sources"))).with_context(log)?;
    let again = follows("chronyd has the time again")?;

    // A chronyd that is gone is said, one that returns is fed.
    drop(daemon);
    until("the feed says that nobody is there", PATIENCE, || Ok(said().contains("is chronyd running")))?;
    let _daemon = Daemon::start(&tools.chronyd, &folder, "chronyd", &config)?;
    let returned = follows("a chronyd that was started again has the time")?;
    Ok(format!(
        "chronyd selects us, {} off what it was fed; {} after a disruption, {} after a restart of its own",
        micros(first.abs()),
        micros(again.abs()),
        micros(returned.abs())
    ))
}

/// A publisher of a clock some seconds from this machine's.
fn serve(lab: &Lab, folder: &Path, page: &Path) -> Result<std::process::Child> {
    let start = Command::new("date").args(["--utc", "--date=+3 seconds", "+%Y-%m-%dT%H:%M:%S.25Z"]).output()?;
    let start = String::from_utf8(start.stdout)?;
    let output = File::create(folder.join("serve.log"))?;
    let mut serve = Command::new(&lab.vmclock);
    serve.args(["serve", "--reference", "host-clock", "--refresh", "50ms", "--start-at", start.trim(), "--page"]);
    serve.arg(page).arg(format!("--tai-offset=-{TAI_MINUS_UTC}"));
    serve.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    serve.spawn().context("cannot start `vmclock serve`")
}

fn migrate(lab: &Lab, page: &Path) -> Result<()> {
    let signal = Command::new(&lab.vmclock).args(["signal", "migrate", "--page"]).arg(page).output()?;
    ensure!(signal.status.success(), "`vmclock signal` failed: {}", String::from_utf8_lossy(&signal.stderr));
    Ok(())
}

/// How far this machine's clock is ahead of the page's, in nanoseconds.
fn ahead(clock: &VmClock) -> Result<i128> {
    let (low, high) = clock.cross_timestamp()?.realtime_ahead_nanos().context("the page gives no bounds")?;
    Ok(low + (high - low) / 2)
}
