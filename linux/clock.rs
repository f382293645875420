// SPDX-License-Identifier: GPL-2.0
//! The page as everyone here reads it. It lives as long as the last open file, longer than the device is bound.

use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, AtomicFlag, Relaxed};
use kernel::sync::poll::PollCondVar;
use kernel::sync::{new_mutex, Mutex};
use kernel::time::delay::fsleep;
use kernel::time::{Delta, Instant, Monotonic};
use vmclock_core::abi::{Flags, Snapshot};
use vmclock_core::page::Page;

use crate::region::Region;

/// How long an update may take before a program's read fails.
const READ_TIMEOUT: Delta = Delta::from_millis(100);
/// How often a page is read again before anyone sleeps: an update takes less, unless whoever publishes has lost its
/// CPU.
const ATTEMPTS: u32 = 50;
/// How long one sleeps then, in microseconds; each time twice as long, up to the longest.
const PAUSES: [i64; 2] = [20, 5_000];

#[pin_data]
pub(crate) struct Clock {
    region: Region,
    is_gone: AtomicFlag,
    is_notified: AtomicFlag,
    /// How many files of the device node are open.
    files: Atomic<u32>,
    /// The last snapshot of the page.
    #[pin]
    last: Mutex<Option<Snapshot>>,
    /// Woken at each update, and when the device goes.
    #[pin]
    pub(crate) updates: PollCondVar,
}

impl Clock {
    pub(crate) fn new(region: Region) -> impl PinInit<Self> {
        pin_init!(Self {
            region,
            is_gone: AtomicFlag::new(false),
            is_notified: AtomicFlag::new(false),
            files: Atomic::new(0),
            last <- new_mutex!(None),
            updates <- kernel::new_poll_condvar!("vmclock::updates"),
        })
    }

    pub(crate) fn region(&self) -> &Region {
        &self.region
    }

    pub(crate) fn page(&self) -> &Page {
        self.region.page()
    }

    /// A consistent copy of the structure with whatever size it states, unless an update is in progress.
    pub(crate) fn peek_whole(&self) -> Option<Snapshot> {
        self.page().snapshot(some_attempts()).ok()
    }

    /// The same, without what is not in the region.
    pub(crate) fn peek(&self) -> Option<Snapshot> {
        self.peek_whole().map(|page| self.region.clipped(page))
    }

    /// The last snapshot that anyone noted.
    pub(crate) fn last(&self) -> Option<Snapshot> {
        *self.last.lock()
    }

    /// Notes a snapshot, and gives the one before it.
    pub(crate) fn note(&self, page: &Snapshot) -> Option<Snapshot> {
        self.last.lock().replace(*page)
    }

    /// There is a way to be notified of updates, if the hypervisor notifies.
    pub(crate) fn will_be_notified(&self) {
        self.is_notified.store(true, Relaxed);
    }

    /// Whether updates of a page with these flags are notified: the page must state it, and the machine have a way.
    pub(crate) fn notifies(&self, flags: Flags) -> bool {
        flags.contains(Flags::NOTIFICATION_PRESENT) && self.is_notified.load(Relaxed)
    }

    /// A file of the device node was opened.
    pub(crate) fn opened(&self) {
        self.files.fetch_add(1, Relaxed);
    }

    pub(crate) fn closed(&self) {
        self.files.fetch_sub(1, Relaxed);
    }

    pub(crate) fn is_open(&self) -> bool {
        self.files.load(Relaxed) != 0
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

/// Yes for as long as an update takes: for a moment.
fn some_attempts() -> impl FnMut() -> bool {
    let mut left = ATTEMPTS;
    move || {
        left = left.saturating_sub(1);
        left != 0
    }
}

/// Does again what gives `EAGAIN`, as it does while an update is in progress: a few times at once, as most updates end
/// in a moment, and then with sleep in between. A macro, so that what is done the first time, and hardly ever again, is
/// not shared with that.
macro_rules! patiently {
    ($attempt:expr) => {
        match $attempt {
            Err(error) if error == EAGAIN => $crate::clock::again(|| $attempt),
            result => result,
        }
    };
}
pub(crate) use patiently;

/// For [`patiently`]. In process context only.
#[cold]
pub(crate) fn again<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let begin = Instant::<Monotonic>::now();
    let [mut pause, longest] = PAUSES;
    loop {
        for _ in 0..ATTEMPTS {
            core::hint::spin_loop();
            match attempt() {
                Err(error) if error == EAGAIN => {}
                result => return result,
            }
        }
        if begin.elapsed() >= READ_TIMEOUT {
            return Err(ETIMEDOUT);
        }
        if kernel::current!().signal_pending() {
            return Err(EINTR);
        }
        fsleep(Delta::from_micros(pause));
        pause = (2 * pause).min(longest);
    }
}
