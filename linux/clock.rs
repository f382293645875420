// SPDX-License-Identifier: GPL-2.0
//! The page as everyone here reads it. It lives as long as the last open file, longer than the device is bound.

use kernel::prelude::*;
use kernel::sync::atomic::{AtomicFlag, Relaxed};
use kernel::sync::poll::PollCondVar;
use kernel::time::{Delta, Instant, Monotonic};
use vmclock_core::abi::Snapshot;
use vmclock_core::page::{Busy, Page};

use crate::region::Region;

/// How long an update may take before a program's read fails.
const READ_TIMEOUT: Delta = Delta::from_millis(100);
/// The same for our own work, which can poll again.
const POLL_TIMEOUT: Delta = Delta::from_millis(1);

#[pin_data]
pub(crate) struct Clock {
    region: Region,
    is_gone: AtomicFlag,
    is_told: AtomicFlag,
    /// Woken at each update, and when the device goes.
    #[pin]
    pub(crate) updates: PollCondVar,
}

impl Clock {
    pub(crate) fn new(region: Region) -> impl PinInit<Self> {
        pin_init!(Self {
            region,
            is_gone: AtomicFlag::new(false),
            is_told: AtomicFlag::new(false),
            updates <- kernel::new_poll_condvar!("vmclock::updates"),
        })
    }

    pub(crate) fn region(&self) -> &Region {
        &self.region
    }

    pub(crate) fn page(&self) -> &Page {
        self.region.page()
    }

    /// A consistent copy of the structure.
    pub(crate) fn snapshot(&self) -> Result<Snapshot> {
        self.page().snapshot(read_timeout()).map_err(timed_out)
    }

    /// The same, unless an update is in progress that takes a while.
    pub(crate) fn poll(&self) -> Option<Snapshot> {
        self.page().snapshot(waiting(POLL_TIMEOUT)).ok()
    }

    /// There is a way to be notified of updates, if the hypervisor notifies.
    pub(crate) fn will_be_told(&self) {
        self.is_told.store(true, Relaxed);
    }

    /// Whether updates of this page are notified: the page must state it, and the machine have a way.
    pub(crate) fn notifies(&self, page: &Snapshot) -> bool {
        page.notifies() && self.is_told.load(Relaxed)
    }

    /// Nothing more comes of it: the device was unbound.
    pub(crate) fn leave(&self) {
        self.is_gone.store(true, Relaxed);
        self.updates.notify_all();
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.is_gone.load(Relaxed)
    }
}

/// Yes for as long as a program waits for an update.
pub(crate) fn read_timeout() -> impl FnMut() -> bool {
    waiting(READ_TIMEOUT)
}

/// The time is not looked at unless there is something to wait for.
fn waiting(limit: Delta) -> impl FnMut() -> bool {
    let mut begin = None;
    move || begin.get_or_insert_with(Instant::<Monotonic>::now).elapsed() < limit
}

pub(crate) fn timed_out(_: Busy) -> Error {
    ETIMEDOUT
}
