// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting for something to happen.
#![allow(unsafe_code)] // the names that the linker sees

use std::collections::VecDeque;
use std::ffi::{c_char, c_int};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use vmclock::{Event, Events, Notice, Snapshot};

use crate::border::{guarded, guarded_or};
use crate::clock::{give_clock_or, vmclock_clock};
use crate::error::{give, vmclock_error, vmclock_result, Failure};
use crate::state::{vmclock_maintenance, vmclock_state};

/// The events of a machine, from the moment when this was opened. To be used by one thread at a time.
pub struct vmclock_events {
    events: Events,
    refreshes: bool,
    /// The page as it was when the program was last told of it.
    last: Snapshot,
    /// What one look at the page found, and the program has not asked for yet.
    queue: VecDeque<vmclock_event>,
}

/// What happened. Values are added over time: ignore those that you do not know.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum vmclock_event_kind {
    /// Nothing.
    VMCLOCK_EVENT_NONE = 0,
    /// The counter was disrupted, as by a live migration: drop what was measured with it. `from` and `to` are markers.
    VMCLOCK_EVENT_DISRUPTED = 1,
    /// The machine was restored from saved state, or cloned: renew what must be unique. `from` and `to` are
    /// generations.
    VMCLOCK_EVENT_RESTORED = 2,
    /// A disruption was announced, is nearer, or was cancelled. `from` and `to` are of `enum vmclock_maintenance`.
    VMCLOCK_EVENT_MAINTENANCE = 3,
    /// The clock's status changed. `from` and `to` are of `enum vmclock_status`.
    VMCLOCK_EVENT_STATUS = 4,
    /// The page's counter changed, as a rule from none to one. `from` and `to` are of `enum vmclock_counter`.
    VMCLOCK_EVENT_COUNTER = 5,
    /// TAI-UTC or the leap indicator changed: `before` and `after` have both. `from` and `to` are zero.
    VMCLOCK_EVENT_TIME_SCALE = 6,
    /// Only the calibration was refreshed; reported on request alone. `from` and `to` are zero.
    VMCLOCK_EVENT_REFRESHED = 7,
    /// The page vanished, its file removed or its device lost: its time is not to be used. Its path is tried until
    /// there is a page again. `from` and `to` are zero.
    VMCLOCK_EVENT_VANISHED = 8,
    /// There is a page again; what changed meanwhile follows as events of their own. Take the new clock from
    /// `vmclock_events_clock()`. `from` and `to` are zero.
    VMCLOCK_EVENT_RETURNED = 9,
}

/// One thing that happened to the clock or to the machine.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct vmclock_event {
    /// What happened: one of `enum vmclock_event_kind`.
    pub kind: i32,
    /// Zero.
    pub reserved: i32,
    /// What it was before; of what, `kind` says.
    pub from: u64,
    /// What it is now.
    pub to: u64,
    /// The page before.
    pub before: vmclock_state,
    /// The page now; of one that vanished, what was last seen of it.
    pub after: vmclock_state,
}

use vmclock_event_kind::{
    VMCLOCK_EVENT_COUNTER, VMCLOCK_EVENT_DISRUPTED, VMCLOCK_EVENT_MAINTENANCE, VMCLOCK_EVENT_NONE,
    VMCLOCK_EVENT_REFRESHED, VMCLOCK_EVENT_RESTORED, VMCLOCK_EVENT_RETURNED, VMCLOCK_EVENT_STATUS,
    VMCLOCK_EVENT_TIME_SCALE, VMCLOCK_EVENT_VANISHED,
};

impl vmclock_event {
    fn new(kind: vmclock_event_kind, (from, to): (u64, u64), pages: &[&Snapshot; 2]) -> Self {
        let [before, after] = pages.map(vmclock_state::from);
        Self { kind: kind as i32, reserved: 0, from, to, before, after }
    }

    fn of(event: Event, pages: &[&Snapshot; 2]) -> Self {
        let (kind, values) = match event {
            Event::Disrupted { from, to } => (VMCLOCK_EVENT_DISRUPTED, (from, to)),
            Event::Restored { from, to } => (VMCLOCK_EVENT_RESTORED, (from, to)),
            Event::Maintenance { .. } => {
                let [from, to] = pages.map(|page| u64::from(vmclock_state::from(page).maintenance.unsigned_abs()));
                (VMCLOCK_EVENT_MAINTENANCE, (from, to))
            }
            Event::Status { from, to } => (VMCLOCK_EVENT_STATUS, (from.0.into(), to.0.into())),
            Event::Counter { from, to } => (VMCLOCK_EVENT_COUNTER, (from.0.into(), to.0.into())),
            Event::TimeScale { .. } => (VMCLOCK_EVENT_TIME_SCALE, (0, 0)),
            Event::Refreshed => (VMCLOCK_EVENT_REFRESHED, (0, 0)),
            _ => (VMCLOCK_EVENT_NONE, (0, 0)),
        };
        Self::new(kind, values, pages)
    }
}

const NO_EVENTS: &str = "events is NULL";

/// For `vmclock_events_open()`: refreshes of the calibration are events too.
pub const VMCLOCK_EVENTS_REFRESHES: u32 = 1;

/// Opens the events of a clock's machine, from now on. `flags` is 0 or `VMCLOCK_EVENTS_REFRESHES`.
///
/// On success `*events` is to be closed with `vmclock_events_close()`; otherwise it is NULL. The clock may be closed
/// before.
#[no_mangle]
pub extern "C" fn vmclock_events_open(
    clock: Option<&vmclock_clock>,
    flags: u32,
    events: Option<&mut MaybeUninit<Option<Box<vmclock_events>>>>,
    error: Option<&mut MaybeUninit<vmclock_error>>,
) -> vmclock_result {
    guarded(error, |error| {
        let Some(place) = events else { return Failure::Argument("the place for the events is NULL").report(error) };
        place.write(None);
        match clock.ok_or(Failure::Argument("clock is NULL")).and_then(|clock| vmclock_events::new(clock, flags)) {
            Ok(events) => {
                place.write(Some(Box::new(events)));
                vmclock_result::VMCLOCK_OK
            }
            Err(failure) => failure.report(error),
        }
    })
}

/// Closes events, and their file descriptor. NULL is allowed.
#[no_mangle]
pub extern "C" fn vmclock_events_close(events: Option<Box<vmclock_events>>) {
    guarded_or((), || drop(events));
}

/// A file descriptor for poll(2) or epoll(7), which stays the library's own: readable whenever it is time to call
/// `vmclock_events_next()` with a timeout of zero, until that returns `VMCLOCK_ERROR_TIMED_OUT`. -1 for NULL.
#[no_mangle]
pub extern "C" fn vmclock_events_fd(events: Option<&vmclock_events>) -> c_int {
    events.map_or(-1, |events| events.events.as_fd().as_raw_fd())
}

/// Waits for the next event, for `timeout_ns` nanoseconds, or without a limit where that is negative, and writes it to
/// `event`. `VMCLOCK_ERROR_TIMED_OUT` when time is up. Several events at once are normal: a restore usually also
/// disrupts.
///
/// Other errors are no end: the next call tries again.
#[no_mangle]
pub extern "C" fn vmclock_events_next(
    events: Option<&mut vmclock_events>,
    timeout_ns: i64,
    event: Option<&mut MaybeUninit<vmclock_event>>,
    error: Option<&mut MaybeUninit<vmclock_error>>,
) -> vmclock_result {
    guarded(error, |error| {
        let Some(place) = event else { return Failure::Argument("event is NULL").report(error) };
        let timeout = u64::try_from(timeout_ns).ok().map(Duration::from_nanos);
        let next = events.ok_or(Failure::Argument(NO_EVENTS)).and_then(|events| events.next(timeout));
        give(place, next, error)
    })
}

impl vmclock_events {
    fn new(clock: &vmclock_clock, flags: u32) -> Result<Self, Failure> {
        if flags & !VMCLOCK_EVENTS_REFRESHES != 0 {
            return Err(Failure::Argument("flags has one that this version of libvmclock does not know"));
        }
        let refreshes = flags & VMCLOCK_EVENTS_REFRESHES != 0;
        let last = clock.clock().snapshot()?;
        let events = clock.clock().events()?.with_refreshes(refreshes);
        Ok(Self { events, refreshes, last, queue: VecDeque::with_capacity(8) })
    }

    fn next(&mut self, timeout: Option<Duration>) -> Result<vmclock_event, Failure> {
        if let Some(event) = self.queue.pop_front() {
            return Ok(event);
        }
        let notice = self.events.wait(timeout)?.ok_or(Failure::TimedOut)?;
        if let Notice::Vanished(_) = &notice {
            self.queue.push_back(vmclock_event::new(VMCLOCK_EVENT_VANISHED, (0, 0), &[&self.last, &self.last]));
        } else if let Some(changes) = notice.changes() {
            let pages = [&changes.before, &changes.after];
            if let Notice::Returned(_) = &notice {
                self.queue.push_back(vmclock_event::new(VMCLOCK_EVENT_RETURNED, (0, 0), &pages));
            }
            self.keep(changes.iter(), &pages);
            self.last = changes.after;
        }
        self.queue.pop_front().ok_or(Failure::TimedOut)
    }

    fn keep(&mut self, events: impl Iterator<Item = Event>, pages: &[&Snapshot; 2]) {
        let wanted = events.filter(|event| self.refreshes || *event != Event::Refreshed);
        self.queue.extend(wanted.map(|event| vmclock_event::of(event, pages)));
    }
}

/// How often to poll a page whose device does not notify, and the path of a page that vanished: every 10 ms by default,
/// and at most every 100 us.
#[no_mangle]
pub extern "C" fn vmclock_events_set_interval(
    events: Option<&mut vmclock_events>,
    nanoseconds: u64,
    error: Option<&mut MaybeUninit<vmclock_error>>,
) -> vmclock_result {
    guarded(error, |error| {
        let set = events.ok_or(Failure::Argument(NO_EVENTS));
        match set.and_then(|events| Ok(events.events.set_interval(Duration::from_nanos(nanoseconds))?)) {
            Ok(()) => vmclock_result::VMCLOCK_OK,
            Err(failure) => failure.report(error),
        }
    })
}

/// Whether the device wakes who waits, rather than a timer. False for NULL.
#[no_mangle]
pub extern "C" fn vmclock_events_notified(events: Option<&vmclock_events>) -> bool {
    events.is_some_and(|events| events.events.is_notified())
}

/// Gives a clock of its own for the page that is watched, to be closed with `vmclock_close()`: after
/// `VMCLOCK_EVENT_RETURNED` another than the one that the events were opened on.
#[no_mangle]
pub extern "C" fn vmclock_events_clock(
    events: Option<&vmclock_events>,
    clock: Option<&mut MaybeUninit<Option<Box<vmclock_clock>>>>,
    error: Option<&mut MaybeUninit<vmclock_error>>,
) -> vmclock_result {
    give_clock_or(clock, error, || Ok(events.ok_or(Failure::Argument(NO_EVENTS))?.events.clock().clone()))
}

/// The one word for an event, as the `vmclock` command has it: `disrupted`, `restored`, `maintenance-soon`,
/// `maintenance-imminent`, `maintenance-cleared`, `status`, `counter`, `time-scale`, `refreshed`, `vanished`,
/// `returned`; `unknown` for NULL and for what this version does not know. Stays valid forever.
#[no_mangle]
pub extern "C" fn vmclock_event_name(event: Option<&vmclock_event>) -> *const c_char {
    const SOON: u64 = vmclock_maintenance::VMCLOCK_MAINTENANCE_SOON as u64;
    const IMMINENT: u64 = vmclock_maintenance::VMCLOCK_MAINTENANCE_IMMINENT as u64;
    let is = |kind| event.is_some_and(|event| event.kind == kind as i32);
    let name = match event.map_or(0, |event| event.to) {
        SOON if is(VMCLOCK_EVENT_MAINTENANCE) => c"maintenance-soon",
        IMMINENT if is(VMCLOCK_EVENT_MAINTENANCE) => c"maintenance-imminent",
        _ => {
            let names = [
                (VMCLOCK_EVENT_DISRUPTED, c"disrupted"),
                (VMCLOCK_EVENT_RESTORED, c"restored"),
                (VMCLOCK_EVENT_MAINTENANCE, c"maintenance-cleared"),
                (VMCLOCK_EVENT_STATUS, c"status"),
                (VMCLOCK_EVENT_COUNTER, c"counter"),
                (VMCLOCK_EVENT_TIME_SCALE, c"time-scale"),
                (VMCLOCK_EVENT_REFRESHED, c"refreshed"),
                (VMCLOCK_EVENT_VANISHED, c"vanished"),
                (VMCLOCK_EVENT_RETURNED, c"returned"),
            ];
            names.into_iter().find(|(kind, _)| is(*kind)).map_or(c"unknown", |(_, name)| name)
        }
    };
    name.as_ptr()
}
