// SPDX-License-Identifier: GPL-2.0
//! The page as everyone here reads it. It lives as long as the last open file, longer than the device is bound.

use kernel::prelude::*;
use kernel::sync::atomic::{AtomicFlag, Relaxed};
use kernel::sync::poll::PollCondVar;
use kernel::time::{Delta, Instant, Monotonic};
use vmclock_core::abi::Snapshot;
use vmclock_core::page::{Busy, Page};

use crate::region::Region;

/// How long an update may take before a program that reads is told that it takes too long.
const PATIENCE: Delta = Delta::from_millis(100);
/// The same for our own work, which can look again.
const GLANCE: Delta = Delta::from_millis(1);

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
        self.page().snapshot(patience()).map_err(timed_out)
    }

    /// The same, unless an update is in progress that takes a while.
    pub(crate) fn glance(&self) -> Option<Snapshot> {
        self.page().snapshot(waiting(GLANCE)).ok()
    }

    /// There is somebody to tell of updates, if the hypervisor does.
    pub(crate) fn will_be_told(&self) {
        self.is_told.store(true, Relaxed);
    }

    /// Whether an update of this page makes itself known: the page must say so, and the machine have a way.
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

/// Says yes for as long as a program waits for an update.
pub(crate) fn patience() -> impl FnMut() -> bool {
    waiting(PATIENCE)
}

/// The time is not looked at unless there is something to wait for.
fn waiting(limit: Delta) -> impl FnMut() -> bool {
    let mut begin = None;
    move || begin.get_or_insert_with(Instant::<Monotonic>::now).elapsed() < limit
}

pub(crate) fn timed_out(_: Busy) -> Error {
    ETIMEDOUT
}
