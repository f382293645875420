// SPDX-License-Identifier: GPL-2.0
//! The page as everyone here reads it. It lives as long as the last open file, longer than the device is bound.

use kernel::prelude::*;
use kernel::sync::atomic::{AtomicFlag, Relaxed};
use kernel::sync::poll::PollCondVar;
use kernel::time::{Delta, Instant, Monotonic};
use vmclock_core::abi::Snapshot;
use vmclock_core::page::{Busy, Page};

use crate::region::Region;

/// How long an update may take before whoever reads gives up.
const PATIENCE: Delta = Delta::from_millis(100);

#[pin_data]
pub(crate) struct Clock {
    region: Region,
    is_gone: AtomicFlag,
    /// Woken at each update, and when the device goes.
    #[pin]
    pub(crate) updates: PollCondVar,
}

impl Clock {
    pub(crate) fn new(region: Region) -> impl PinInit<Self> {
        pin_init!(Self {
            region,
            is_gone: AtomicFlag::new(false),
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

    /// Nothing more comes of it: the device was unbound.
    pub(crate) fn leave(&self) {
        self.is_gone.store(true, Relaxed);
        self.updates.notify_all();
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.is_gone.load(Relaxed)
    }
}

/// Says yes for as long as one waits for an update. The time is not looked at unless there is something to wait for.
pub(crate) fn patience() -> impl FnMut() -> bool {
    let mut begin = None;
    move || begin.get_or_insert_with(Instant::<Monotonic>::now).elapsed() < PATIENCE
}

pub(crate) fn timed_out(_: Busy) -> Error {
    ETIMEDOUT
}
