// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a service manager is told (`sd_notify(3)`): that there is a time, in a few words how it is, and that the loop
//! runs. Without a manager all of it does nothing.

use std::env;
use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use rustix::time::{clock_gettime, ClockId};
use vmclock::ClockStatus;

/// The service manager, if there is one.
pub(super) struct Manager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    is_ready: bool,
    status: Option<(ClockStatus, usize)>,
    watchdog: Option<Watchdog>,
}

/// It wants to hear from us.
struct Watchdog {
    /// At half of what it allows.
    each: Duration,
    due: Instant,
}

impl Manager {
    /// As the environment says.
    pub(super) fn of_environment(now: Instant) -> Self {
        let of_us = |pid: OsString| pid.to_str().and_then(|pid| pid.parse().ok()) == Some(std::process::id());
        let micros = env::var("WATCHDOG_USEC").ok().and_then(|micros| micros.parse().ok());
        let each = micros.filter(|micros| *micros > 0).map(|micros: u64| Duration::from_micros(micros / 2));
        let each = each.filter(|_| env::var_os("WATCHDOG_PID").is_none_or(of_us));
        let socket = env::var_os("NOTIFY_SOCKET").and_then(|path| connect(&path));
        let watchdog = each.filter(|_| socket.is_some()).map(|each| Watchdog { each, due: now });
        Self { socket, is_ready: false, status: None, watchdog }
    }

    /// The page gives a time: whoever waited for that may start.
    pub(super) fn ready(&mut self) {
        if !std::mem::replace(&mut self.is_ready, true) {
            self.tell("READY=1");
        }
    }

    /// How it is: only when that changes.
    pub(super) fn status(&mut self, status: ClockStatus, guests: usize) {
        if self.status.replace((status, guests)) != Some((status, guests)) {
            self.tell(&format!("STATUS={status}; {guests} guests"));
        }
    }

    /// The configuration is being read again; [`reloaded`](Self::reloaded) ends it.
    pub(super) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    pub(super) fn reloaded(&self) {
        self.tell("READY=1");
    }

    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// The loop runs. Says when to be called again at the latest.
    pub(super) fn alive(&mut self, now: Instant) -> Option<Instant> {
        let watchdog = self.watchdog.as_mut()?;
        let is_due = now >= watchdog.due;
        if is_due {
            watchdog.due = now + watchdog.each;
        }
        let due = watchdog.due;
        if is_due {
            self.tell("WATCHDOG=1");
        }
        Some(due)
    }

    /// A manager that does not read is not waited for.
    fn tell(&self, state: &str) {
        if let Some((socket, manager)) = &self.socket {
            let _ = socket.send_to_addr(state.as_bytes(), manager);
        }
    }
}

/// A path, or a name of the kernel's with `@` in front.
fn connect(path: &OsString) -> Option<(UnixDatagram, SocketAddr)> {
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name).ok()?,
        [b'/', ..] => SocketAddr::from_pathname(path).ok()?,
        _ => return None,
    };
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    Some((socket, address))
}
