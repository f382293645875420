// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock qemu`: runs an unmodified QEMU with a clock, or gives one to a QEMU that somebody else runs.

use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use serde_json::{json, Value};
use vmclock::Snapshot;
use vmclock_host::event::Signal;
use vmclock_host::service::client::Client;
use vmclock_host::service::protocol::GuestName;
use vmclock_host::service::server::{Reply, Server};
use vmclock_host::service::signals;
use vmclock_qemu::event::Event;
use vmclock_qemu::service::{self, ServiceGuest};
use vmclock_qemu::{beside, Attach, Control, Launch, LaunchOptions, Options, Wiring};

use crate::cli::{published_page, QemuArgs};
use crate::command::serve::config::{checked, Configuration, REFRESH};
use crate::command::serve::{as_json, open, path_for, stop_signal, Publisher};
use crate::output::{log_error, log_json, print_bytes};

/// How many signals are answered before the guest has its turn.
const SIGNALS_AT_ONCE: usize = 16;

pub(crate) fn run(args: &QemuArgs) -> anyhow::Result<ExitCode> {
    if let (true, Some(page)) = (args.attach, &args.page) {
        let page =
            std::path::absolute(page).with_context(|| format!("{}: cannot be used as a path", page.display()))?;
        return attach(args, &page);
    }
    let mut options = LaunchOptions::new(args.command.clone());
    (options.page, options.table) = (args.page.clone(), args.table.clone());
    options.slot = (!args.read_only_page).then_some(args.slot);
    options.irq = (!args.no_notify).then_some(args.irq);
    let launch = Launch::new(options)?;
    if args.print_args {
        let mut line = launch.command_line();
        line.push("\n");
        print_bytes(line.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut report = reporter(args.json);
    let wires = Wires::new(args, launch.page())?;
    let status = match service(args, launch.page())? {
        Some(guest) => vmclock_qemu::launch(&launch, wires.to(guest, &mut report))?,
        None => vmclock_qemu::launch(&launch, wires.to(publisher(args, launch.page(), &mut report)?, &mut report))?,
    };
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

fn attach(args: &QemuArgs, page: &Path) -> anyhow::Result<ExitCode> {
    let or_beside = |path: &Option<PathBuf>, suffix| path.clone().unwrap_or_else(|| beside(page, suffix));
    let mut attach = Attach::new(or_beside(&args.qmp, ".qmp"), args.timeout);
    attach.bell = (!args.no_notify).then(|| or_beside(&args.bell, ".bell"));
    let mut report = reporter(args.json);
    let wires = Wires::new(args, page)?;
    match service(args, page)? {
        Some(guest) => vmclock_qemu::attach(page, &attach, wires.to(guest, &mut report))?,
        None => vmclock_qemu::attach(page, &attach, wires.to(publisher(args, page, &mut report)?, &mut report))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What a guest's session is connected to, but for whoever keeps its page.
struct Wires {
    signals: UnixStream,
    control: Socket,
    options: Options,
}

impl Wires {
    /// Made before anything is published, so that no signal finds us without the means to take the page back; and who
    /// does not get the socket has written nothing.
    fn new(args: &QemuArgs, page: &Path) -> anyhow::Result<Self> {
        let mut options = Options::new(checked("--refresh", args.refresh.unwrap_or(REFRESH))?);
        (options.second_page, options.restored) = (args.second_page, args.restored);
        options.require_time = args.require_time;
        let signals = stop_signal()?;
        let control = Socket(Server::listen(&path_for(page, args.control.as_deref()), None)?);
        Ok(Self { signals, control, options })
    }

    fn to<K>(self, keeper: K, report: &mut dyn FnMut(&Event, &Snapshot)) -> Wiring<'_, K, Socket> {
        Wiring::new(keeper, self.control, self.signals, self.options, report)
    }
}

/// The host's service, where one is to publish the page.
fn service(args: &QemuArgs, page: &Path) -> anyhow::Result<Option<ServiceGuest<service::Socket>>> {
    let is_own = args.config.is_some() || args.reference.is_some() || args.tai_offset.is_some();
    if args.no_service || is_own {
        return Ok(None);
    }
    let path = match &args.service {
        Some(path) if path.metadata().is_ok_and(|metadata| metadata.file_type().is_socket()) => path.clone(),
        Some(page) => path_for(page, None),
        None => path_for(&published_page(), None),
    };
    let found = Client::connect(&path).and_then(|mut client| client.version());
    match found {
        Ok(_) => {
            let socket = service::Socket::connect(&path)?;
            Ok(Some(ServiceGuest::new(socket, name(args, page)?)))
        }
        Err(error) if args.service.is_some() => Err(error.into()),
        Err(_) => Ok(None),
    }
}

/// What the service calls the guest.
fn name(args: &QemuArgs, page: &Path) -> anyhow::Result<GuestName> {
    if let Some(name) = &args.name {
        return Ok(name.clone());
    }
    let file = page.file_name().filter(|_| args.page.is_some());
    let name = file.map_or_else(|| format!("qemu-{}", std::process::id()), |file| file.to_string_lossy().into_owned());
    name.parse().with_context(|| format!("{}: gives the guest no name; state one with --name", page.display()))
}

/// A publisher of the guest's own, on its page.
fn publisher(args: &QemuArgs, page: &Path, report: &mut dyn FnMut(&Event, &Snapshot)) -> anyhow::Result<Publisher> {
    let (publisher, events) = open(page, Configuration::of_guest(args)?)?;
    for event in events {
        report(&Event::Published(event), publisher.contents());
    }
    Ok(publisher)
}

/// The socket of `vmclock signal`.
struct Socket(Server);

impl Control for Socket {
    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.0.fd()]
    }

    fn answer(&mut self, apply: &mut dyn FnMut(Signal) -> Result<Snapshot, String>) {
        self.0.serve(SIGNALS_AT_ONCE, |_, line, _| {
            let result = match signals::decode(line) {
                Some(signal) => signal.and_then(&mut *apply),
                None => Err("this publisher has one guest, and takes signals only: see `vmclock signal`".into()),
            };
            let mut reply = Reply::line(signals::answer(&result));
            reply.closes = true;
            reply
        });
    }
}

/// A line for each event: JSON on standard output, words on standard error, as QEMU has standard output.
fn reporter(json: bool) -> impl FnMut(&Event, &Snapshot) {
    move |event, page| {
        if json {
            log_json(line(event, page));
        } else if !matches!(event, Event::Published(event) if event.is_routine()) {
            log_error(format_args!("{:<12} {event}", event.name()));
        }
    }
}

fn line(event: &Event, page: &Snapshot) -> Value {
    let mut line = match event {
        Event::Published(event) => as_json(event),
        event => json!({"event": event.name(), "text": event.to_string()}),
    };
    line["page"] = json!({
        "seq_count": page.seq_count,
        "disruption_marker": page.disruption_marker,
        "vm_generation_counter": page.vm_generation_counter,
        "clock_status": page.clock_status.to_string(),
        "counter_id": page.counter_id.to_string(),
        "time_maxerror_nanosec": page.time_maxerror_nanosec,
    });
    for (key, value) in event.details() {
        line[key] = value;
    }
    line
}
