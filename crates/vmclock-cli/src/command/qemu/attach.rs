// SPDX-License-Identifier: MIT OR Apache-2.0
//! A QEMU that somebody else starts: libvirt, a service manager, a script.

use std::io::{self, Read};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{bail, Context};
use rustix::event::{poll, PollFd, PollFlags, Timespec};

use crate::cli::QemuArgs;
use crate::command::serve::control::{path_for, Control};
use crate::command::serve::publisher::Publisher;
use crate::command::serve::stop_signal;

use super::arguments::{accelerator_of, REGION_LEN};
use super::process::Process;
use super::session::{Facts, Log, Session};
use super::{make_room, planned};

/// Makes the page, waits for QEMU, and publishes until it ends.
pub(super) fn run(args: &QemuArgs, page: &Path) -> anyhow::Result<ExitCode> {
    let page = std::path::absolute(page).with_context(|| format!("{}: is no path", page.display()))?;
    let monitor_path = args.qmp.clone().unwrap_or_else(|| beside(&page, ".qmp"));
    let bell_path = (!args.no_notify).then(|| args.bell.clone().unwrap_or_else(|| beside(&page, ".bell")));
    // For QEMU to write its device states to.
    let folder = tempfile::Builder::new().prefix("vmclock-").tempdir().context("cannot make a temporary folder")?;
    let mut stop = stop_signal()?;
    let log = Log { json: args.json };
    let (mut publisher, opened) = Publisher::open(planned(args, &page)?)?;
    publisher.set_guest_counter(None);
    let outcome = (|| {
        make_room(&page, REGION_LEN)?;
        let control = Control::listen(&path_for(&page, args.control.as_deref()))?;
        opened.iter().try_for_each(|report| log.report(report.event, &report.text, Some(publisher.contents()), &[]))?;
        let waiting = format!("for QEMU's monitor at {}", monitor_path.display());
        log.report("waiting", &waiting, Some(publisher.contents()), &[])?;

        let by = Instant::now() + args.timeout;
        let Some(monitor) = connect(&monitor_path, by, &mut stop, |path| UnixStream::connect(path))? else {
            return Ok(None);
        };
        let bell = match bell_path {
            None => None,
            Some(path) => match bell_at(&path, by, &mut stop)? {
                None => return Ok(None),
                bell => bell,
            },
        };
        let process = Process::behind(&monitor)?;
        Ok(Some((control, monitor, bell, process)))
    })();
    let (control, monitor, bell, process) = match outcome {
        Ok(Some(connected)) => connected,
        other => {
            publisher.retire();
            return other.map(|_| ExitCode::SUCCESS);
        }
    };
    let command = process.command()?;
    let program = command.first().cloned().unwrap_or_default();
    let accelerator = accelerator_of(&command);
    let facts = Facts { accelerator, incoming: None, lets_go_on: false, nvdimm: None };
    let folder = folder.path().to_path_buf();
    let mut session = Session { args, log, publisher, control, stop, process, bell, page, folder };
    session.run(&program, &facts, monitor)
}

/// What belongs to a page and stands beside it.
pub(super) fn beside(page: &Path, what: &str) -> PathBuf {
    let mut path = page.as_os_str().to_owned();
    path.push(what);
    path.into()
}

/// QEMU makes it a moment after its monitor. `None` if we are told to stop before.
fn bell_at(path: &Path, by: Instant, stop: &mut UnixStream) -> anyhow::Result<Option<UnixDatagram>> {
    let bell = UnixDatagram::unbound().context("cannot make a socket")?;
    bell.set_nonblocking(true).context("cannot make the doorbell non-blocking")?;
    let connected = connect(path, by, stop, |path| bell.connect(path))
        .context("QEMU has no doorbell; give it one as `vmclock qemu --print-args` shows, or say --no-notify")?;
    Ok(connected.map(|()| bell))
}

/// Connects as soon as somebody listens. `None` if we are told to stop before.
fn connect<T>(
    path: &Path,
    by: Instant,
    stop: &mut UnixStream,
    mut connect: impl FnMut(&Path) -> io::Result<T>,
) -> anyhow::Result<Option<T>> {
    loop {
        match connect(path) {
            Ok(connected) => return Ok(Some(connected)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {}
            Err(error) => return Err(error).with_context(|| format!("{}: cannot connect", path.display())),
        }
        let left = by.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!("{}: nobody listens here; start QEMU, or wait longer with --timeout", path.display());
        }
        // There is nothing to be woken by: the folder may not exist either.
        let left = left.min(Duration::from_millis(20));
        let moment = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
        let mut ready = [PollFd::new(stop, PollFlags::IN)];
        if poll(&mut ready, Some(&moment)).is_ok_and(|count| count > 0) {
            stop.read(&mut [0; 64]).context("cannot read which signal came")?;
            return Ok(None);
        }
    }
}
