// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock serve`: publishes a page, keeps it fresh, and listens for what happens to the machine.

pub(super) mod config;
mod group;
mod log;
mod manager;
mod reload;

use std::ffi::OsString;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
use serde_json::{json, Value};
use vmclock_host::event::Event;
use vmclock_host::page_file::FilePage;
use vmclock_host::publisher::{self, Prepared};
use vmclock_host::rounds::{Rounds, Step};
use vmclock_host::service::pages::FilePages;
use vmclock_host::service::protocol::event_line;
use vmclock_host::service::server::Server;
use vmclock_host::service::Service;
use vmclock_host::source::Source;
use vmclock_host::state::StateFolder;
use vmclock_host::this_host::ThisHost;
use vmclock_host::world::StateStore;

use crate::cli::{CheckConfigArgs, ServeArgs};
use crate::output::{error, print, print_json};

use config::Configuration;
use log::Log;
use manager::Manager;
use reload::Reload;

/// How long `--check-config` waits for each source.
const CHECKED_WITHIN: Duration = Duration::from_secs(2);

/// How many guests' pages are brought up to date, and for how long requests are answered, before the sources have their
/// turn. While pages wait it is one request: however many come at once, they make no page late.
const PAGES_AT_ONCE: usize = 256;
const REQUESTS_FOR: Duration = Duration::from_millis(2);

/// A publisher on this machine, of a page in a file.
pub(in crate::command) type Publisher = publisher::Publisher<ThisHost, FilePage>;

pub(crate) fn run(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    let mut configuration = Configuration::of(args)?;
    if args.check_config {
        return check(configuration, args.json);
    }
    if let Some(folder) = args.page.parent().filter(|folder| folder.starts_with("/run")) {
        // /run is empty after each boot.
        std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot create the folder", folder.display()))?;
    }
    // Before anything is published, so that no signal finds us without the means to take the page back; and who does
    // not get the socket has written nothing.
    let mut reload = Reload::new(args, &mut configuration)?;
    let stop = Stop::new(reload.is_possible())?;
    let group = configuration.group.as_deref().map(group::number).transpose()?;
    let server = Server::listen(&path_for(&args.page, args.control.as_deref()), group)?;
    raise_limit();
    let mut log = Log::new(args.json);
    let mut manager = Manager::of_environment(Instant::now());
    let refresh = configuration.refresh;
    configuration.plan.state = state_of(args, &mut log)?;
    let (publisher, events) = open(&args.page, configuration)?;
    log.events(&events);
    let user = rustix::process::geteuid().as_raw();
    let mut service = Service::new(publisher, FilePages, user);
    let rounds = Rounds::new(refresh, Instant::now());
    let end = serve(rounds, &mut service, &stop, server, &mut log, &mut manager, &mut reload);
    manager.stopping();
    let end = match end {
        Ok(End::ForTheNext) => service.leave(),
        // However else it ends: whoever reads a page from now on must not trust it.
        Ok(End::ForGood) => {
            service.give_up();
            Event::Stopped
        }
        Err(error) => {
            service.give_up();
            return Err(error);
        }
    };
    log.events(&service.take_events());
    log.event(&end);
    Ok(ExitCode::SUCCESS)
}

/// Where a page's publisher listens.
pub(crate) fn path_for(page: &Path, stated: Option<&Path>) -> PathBuf {
    stated.map_or_else(
        || {
            let mut path = OsString::from(page);
            path.push(".control");
            path.into()
        },
        Path::to_path_buf,
    )
}

/// Where the state is kept. A folder that nobody named, and that cannot be had, is no reason to publish nothing.
fn state_of(args: &ServeArgs, log: &mut Log) -> anyhow::Result<Option<Box<dyn StateStore>>> {
    let is_default = args.page == Path::new(vmclock::PUBLISHED_PATH) && !args.no_state && args.start_at.is_none();
    match &args.state {
        Some(folder) => Ok(Some(Box::new(StateFolder::open(folder)?))),
        None if is_default => match StateFolder::open(args.page.with_file_name("state")) {
            Ok(folder) => Ok(Some(Box::new(folder))),
            Err(error) => {
                log.event(&Event::Warning {
                    text: format!("what is known is not saved for the next publisher: {error}"),
                });
                Ok(None)
            }
        },
        None => Ok(None),
    }
}

/// How a publisher ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// By SIGTERM: a service manager may start the next one.
    ForTheNext,
    /// By somebody's SIGINT, or with its terminal.
    ForGood,
}

/// Each client takes a file descriptor. What cannot be had is done without.
fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// What ends a publisher.
struct Stop {
    for_the_next: UnixStream,
    for_good: UnixStream,
}

impl Stop {
    /// Where there is a configuration to read again, that is what SIGHUP asks for.
    fn new(reloads: bool) -> anyhow::Result<Self> {
        let for_the_next = on_signals(&[signal_hook::consts::SIGTERM])?;
        let hangup = if reloads { &[][..] } else { &[signal_hook::consts::SIGHUP] };
        let for_good = on_signals(&[&[signal_hook::consts::SIGINT], hangup].concat())?;
        Ok(Self { for_the_next, for_good })
    }
}

/// A publisher on the page at a path, and what it reports so far.
pub(in crate::command) fn open(page: &Path, configuration: Configuration) -> anyhow::Result<(Publisher, Vec<Event>)> {
    let reference = configuration.is_exact.then_some(Event::Reference);
    let prepared = Prepared::new(ThisHost, configuration.plan)?;
    let (file, found) = FilePage::open(page, prepared.blank())?;
    let (publisher, events) = prepared.on(file, found, &page.display().to_string())?;
    Ok((publisher, reference.into_iter().chain(events).collect()))
}

/// `vmclock check-config`: whether a configuration is in order, and its sources reachable.
pub(crate) fn check_config(args: &CheckConfigArgs) -> anyhow::Result<ExitCode> {
    check(Configuration::of_file(&args.file)?, args.json)
}

/// Polls each source once, and prints what it answers.
fn check(configuration: Configuration, json: bool) -> anyhow::Result<ExitCode> {
    let mut all_reachable = true;
    for mut source in configuration.plan.sources {
        let answer = answer(&mut *source)?;
        all_reachable &= answer.is_ok();
        let text = match &answer {
            Ok(measured) if measured.synchronized => error(measured.max_error.into()),
            Ok(measured) => format!("{}, not synchronized", error(measured.max_error.into())),
            Err(why) => why.clone(),
        };
        if json {
            let max_error = answer.as_ref().ok().map(|measured| measured.max_error);
            // `heard` is the name that the key had before.
            print_json(&json!({
                "source": source.name(), "reachable": answer.is_ok(), "heard": answer.is_ok(),
                "max_error_ns": max_error, "text": text,
            }))?;
        } else {
            print(&format!("{:<24} {text}\n", source.name()))?;
        }
    }
    ensure!(all_reachable, "not every source is reachable; the rest of the configuration is in order");
    Ok(ExitCode::SUCCESS)
}

/// What a source answers within some time.
fn answer(source: &mut dyn Source) -> anyhow::Result<Result<vmclock_host::source::Measurement, String>> {
    let by = Instant::now() + CHECKED_WITHIN;
    source.start();
    loop {
        if let Some(result) = source.result() {
            return Ok(result.map_err(|error| error.to_string()));
        }
        let left = by.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Err(format!("{}: no answer within {CHECKED_WITHIN:?}", source.name())));
        }
        let mut fds: Vec<_> =
            source.ready().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).into_iter().collect();
        wait(&mut fds, left)?;
    }
}

fn serve(
    mut rounds: Rounds,
    service: &mut Service<ThisHost, FilePage, FilePages>,
    stop: &Stop,
    mut server: Server,
    log: &mut Log,
    manager: &mut Manager,
    reload: &mut Reload,
) -> anyhow::Result<End> {
    let mut is_behind = false;
    loop {
        let alive_by = manager.alive(Instant::now());
        let publisher = service.publisher_mut();
        match rounds.next(Instant::now(), publisher.is_round_complete()) {
            Step::Start => publisher.start_round(),
            Step::Finish => service.finish_round()?,
            Step::Wait(until) => {
                let until = alive_by.map_or(until, |by| until.min(by));
                let left = until.saturating_duration_since(Instant::now());
                let ends = [(&stop.for_good, End::ForGood), (&stop.for_the_next, End::ForTheNext)];
                let mut fds: Vec<_> = ends.iter().map(|(signal, _)| PollFd::new(*signal, PollFlags::IN)).collect();
                let others = std::iter::once(server.fd()).chain(reload.fd()).chain(publisher.waiting());
                fds.extend(others.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
                wait(&mut fds, if is_behind { Duration::ZERO } else { left })?;
                let ended = fds.iter().zip(ends).find(|(fd, _)| !fd.revents().is_empty());
                if let Some((_, (_, end))) = ended {
                    return Ok(end);
                }
            }
        }
        if reload.is_asked() {
            manager.reloading();
            let event = reload.perform(service, &mut server, &mut rounds);
            manager.reloaded();
            log.event(&event);
            server.publish(&event_line(&event));
        }
        let more_pages = service.catch_up(PAGES_AT_ONCE);
        let next_round = rounds.until_next(Instant::now());
        let until = Instant::now() + if more_pages { Duration::ZERO } else { REQUESTS_FOR };
        let mut answer = || server.serve(1, |peer, line, fds| service.answer(peer, line, fds, next_round));
        let more_requests = loop {
            let more = answer();
            if !more || Instant::now() >= until {
                break more;
            }
        };
        for event in service.take_events() {
            log.event(&event);
            server.publish(&event_line(&event));
        }
        is_behind = more_pages || more_requests;
        let status = service.publisher().contents().clock_status;
        if status.gives_time() {
            manager.ready();
        }
        manager.status(status, service.guests());
    }
}

/// Waits until one of these is ready, or so long.
pub(in crate::command) fn wait(fds: &mut [PollFd<'_>], left: Duration) -> anyhow::Result<()> {
    let timeout = Timespec { tv_sec: i64::try_from(left.as_secs())?, tv_nsec: left.subsec_nanos().into() };
    match poll(fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(errno).context("cannot wait for the next round"),
    }
}

/// Readable once SIGTERM, SIGINT or SIGHUP came.
pub(super) fn stop_signal() -> anyhow::Result<UnixStream> {
    on_signals(&[signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT, signal_hook::consts::SIGHUP])
}

/// Readable once one of these came.
fn on_signals(signals: &[i32]) -> anyhow::Result<UnixStream> {
    let (read, write) = UnixStream::pair().context("cannot make a socket pair")?;
    for signal in signals {
        signal_hook::low_level::pipe::register(*signal, write.try_clone().context("cannot copy a socket")?)
            .with_context(|| format!("cannot catch signal {signal}"))?;
    }
    Ok(read)
}

/// An event as a line of JSON: its fields, and its text.
pub(in crate::command) fn as_json(event: &Event) -> Value {
    // An event is an object of strings and numbers.
    let mut line = serde_json::to_value(event).unwrap_or_default();
    line["text"] = event.to_string().into();
    line
}
