// SPDX-License-Identifier: GPL-2.0
//! The bound device: what userspace sees of the clock, and what is done when the page was updated.

use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::aref::ARef;
use kernel::sync::atomic::{AtomicFlag, Relaxed};
use kernel::sync::{new_mutex, Arc, ArcBorrow, Mutex};
use kernel::time::{Delta, Instant, Monotonic};
use vmclock_core::abi::Snapshot;
use vmclock_core::event::Epoch;
use vmclock_core::tai::TaiOffset;

use crate::chardev::{CharDevice, Seen, Update};
use crate::clock::{patiently, Clock};
use crate::ptp::VmClock;
use crate::region::Region;
use crate::upstream::bindings::{vmclock_rust_index_get, vmclock_rust_index_put};
use crate::upstream::workqueue::{new_delayed_work, DelayedWork, Timer, Worker};
use crate::upstream::{miscdevice, ptp};

type Node = Pin<KBox<miscdevice::Registration<CharDevice>>>;
type PtpClock = Pin<KBox<ptp::Registration<VmClock>>>;

/// How soon a page that does not notify is polled, if somebody waits for it; then after twice as long, and so on. In
/// milliseconds.
const FIRST_POLL: u32 = 1_000;
/// The longest of these pauses while a file is open.
const LONGEST_POLL: u32 = 32_000;
/// Without one it is the last: a page that may still become a clock has had 17 minutes.
const LAST_POLL: u32 = 512_000;
/// How soon it is tried again to show or announce what could not be; then after twice as long, up to the longest.
const FIRST_RETRY: u32 = 100;
const LONGEST_RETRY: u32 = 25_600;
/// How often it is logged at most that something cannot be shown.
const COMPLAINTS: Delta = Delta::from_secs(60);

#[pin_data]
pub(crate) struct Device {
    parent: ARef<kernel::device::Device>,
    pub(crate) clock: Arc<Clock>,
    name: CString,
    index: Index,
    /// What the interrupt's handler saw last.
    handled: Seen,
    /// Somebody waits for the page from now on.
    is_awaited: AtomicFlag,
    #[pin]
    shown: Mutex<Shown>,
    /// What is to be done now, and what must be done again as it failed.
    #[pin]
    work: DelayedWork,
    /// Polls the page.
    #[pin]
    poll: DelayedWork,
}

/// What userspace sees.
struct Shown {
    /// The device is gone, or is no clock.
    is_over: bool,
    node: Option<Node>,
    ptp: Option<PtpClock>,
    /// What was last announced; none before the first snapshot that was not in the middle of an update.
    announced: Option<Epoch>,
    /// The page was in the middle of an update when it was last looked at.
    is_busy: bool,
    /// The next pause until the page is polled.
    poll: u32,
    /// The next pause until something that failed is tried again.
    retry: u32,
    complained: Option<Instant<Monotonic>>,
}

impl Device {
    /// A device that shows nothing yet.
    pub(crate) fn new(dev: &kernel::device::Device, region: Region) -> Result<Arc<Self>> {
        let index = Index::next()?;
        let name = CString::try_from_fmt(fmt!("vmclock{}", index.0))?;
        let clock = Arc::pin_init(Clock::new(region), GFP_KERNEL)?;
        let shown = Shown {
            is_over: false,
            node: None,
            ptp: None,
            announced: None,
            is_busy: false,
            poll: FIRST_POLL,
            retry: FIRST_RETRY,
            complained: None,
        };
        Arc::pin_init(
            try_pin_init!(Self {
                parent: dev.into(),
                clock,
                name,
                index,
                handled: Seen::nothing(),
                is_awaited: AtomicFlag::new(false),
                shown <- new_mutex!(shown),
                // SAFETY: it is this field, and `leave` cancels it.
                work <- unsafe { new_delayed_work!(Self, 0, Timer::Exact, "vmclock::work") },
                // SAFETY: it is this field, and `leave` cancels it.
                poll <- unsafe { new_delayed_work!(Self, 1, Timer::Deferrable, "vmclock::poll") },
            }),
            GFP_KERNEL,
        )
    }

    /// Shows userspace what there is to show, if this is a page. One whose update does not end may become one.
    pub(crate) fn begin(self: ArcBorrow<'_, Self>) -> Result {
        let mut shown = self.shown.lock();
        // A notification may have been first.
        if shown.is_over {
            return Err(EINVAL);
        }
        if shown.announced.is_none() {
            match patiently!(self.clock.peek_whole().ok_or(EAGAIN)) {
                Ok(page) => self.show(&mut shown, &page)?,
                Err(_) => {
                    let sequence = self.clock.page().sequence();
                    dev_warn!(&*self.parent, "the page stays in an update (sequence count {sequence}): waiting\n");
                }
            }
        }
        // There may have been an update since, without a notification.
        self.work.queue();
        Ok(())
    }

    /// Whether this is a page that we know.
    fn check(&self, page: &Snapshot) -> Result {
        let dev: &kernel::device::Device = &self.parent;
        let len = self.clock.region().len();
        if let Err(error) = page.validate(len) {
            dev_err!(dev, "this is no VMClock page: {}\n", Words(error));
            return Err(EINVAL);
        }
        if page.size as usize > len {
            dev_err!(dev, "the size on the page is {:#x} bytes, but the region has only {len:#x}\n", page.size);
            return Err(EINVAL);
        }
        if page.tai_offset_has_wrong_sign() {
            let (wrong, right) = (page.tai_offset_sec, page.tai_offset().map_or(0, TaiOffset::page_field));
            dev_warn!(dev, "the TAI offset on the page is +{wrong} s, the wrong sign; taken as {right} s\n");
        }
        Ok(())
    }

    /// Shows and announces what userspace does not have yet. What fails does not keep the rest from being done, and is
    /// left for the next time.
    fn show(self: ArcBorrow<'_, Self>, shown: &mut Shown, page: &Snapshot) -> Result {
        let is_first = shown.announced.is_none();
        if is_first {
            self.check(page)?;
        }
        let page = &self.clock.region().clipped(*page);
        self.clock.note(page);
        let announced = self.announce_changes(shown, page);
        let had = (shown.node.is_some(), shown.ptp.is_some());
        let node = self.show_node(shown, page);
        let ptp = self.show_ptp(shown, page);
        let what = match (shown.node.is_some() && !had.0, shown.ptp.is_some() && !had.1) {
            (false, false) => "nothing yet: too short to be mapped, and without time",
            (true, false) => "device node",
            (false, true) => "PTP clock",
            (true, true) => "device node, PTP clock",
        };
        if had != (shown.node.is_some(), shown.ptp.is_some()) || (is_first && node.is_ok() && ptp.is_ok()) {
            dev_info!(&*self.parent, "{}: registered {what}\n", &*self.name);
        }
        announced.and(node).and(ptp)
    }

    /// The device node, where the page is long enough to be mapped.
    fn show_node(self: ArcBorrow<'_, Self>, shown: &mut Shown, page: &Snapshot) -> Result {
        if shown.node.is_none() && page.size as usize >= kernel::page::PAGE_SIZE {
            let name = CString::try_from_fmt(fmt!("vmclock{}", self.index.0))?;
            let mode = crate::compat::value(&crate::module_parameters::mode);
            let node = miscdevice::Registration::new(&self.parent, name, mode, CharDevice(self.into()));
            shown.node = Some(KBox::pin_init(node, GFP_KERNEL)?);
        }
        Ok(())
    }

    /// The PTP clock. It appears as soon as the page can give the time, and stays: while it cannot, reading it fails.
    fn show_ptp(&self, shown: &mut Shown, page: &Snapshot) -> Result {
        if shown.ptp.is_none() && VmClock::can_be_of(page) {
            let ptp = ptp::Registration::new(&self.parent, &self.name, VmClock::new(self.clock.clone()));
            shown.ptp = Some(KBox::pin_init(ptp, GFP_KERNEL)?);
        }
        Ok(())
    }

    /// Notifies userspace that the counter was disrupted, and that the machine was restored, since that was last done.
    fn announce_changes(&self, shown: &mut Shown, page: &Snapshot) -> Result {
        let now = Epoch::of(page);
        // Before there is a node there is nothing to hear it of.
        let (Some(announced), Some(node)) = (&mut shown.announced, &shown.node) else {
            shown.announced = Some(now);
            return Ok(());
        };
        let disrupted = if announced.disruption_marker == now.disruption_marker {
            Ok(())
        } else {
            Self::announce(node, c"VMCLOCK_EVENT=disrupted", &now)
                .inspect(|()| announced.disruption_marker = now.disruption_marker)
        };
        let restored = match (announced.generation, now.generation) {
            (Some(from), Some(to)) if from != to => Self::announce(node, c"VMCLOCK_EVENT=restored", &now)
                .inspect(|()| announced.generation = now.generation),
            (None, Some(_)) => {
                announced.generation = now.generation;
                Ok(())
            }
            _ => Ok(()),
        };
        disrupted.and(restored)
    }

    fn announce(node: &Node, event: &CStr, now: &Epoch) -> Result {
        let marker = CString::try_from_fmt(fmt!("VMCLOCK_MARKER={:#018x}", now.disruption_marker))?;
        let Some(generation) = now.generation else { return node.announce(&[event, &*marker]) };
        let generation = CString::try_from_fmt(fmt!("VMCLOCK_GENERATION={generation:#018x}"))?;
        node.announce(&[event, &*marker, &*generation])
    }

    /// The page for its attributes: as it is now or, while it is being updated, as it was last.
    pub(crate) fn attributes(&self) -> Result<Snapshot> {
        let Some(page) = self.clock.peek() else { return self.clock.last().ok_or(EAGAIN) };
        let last = self.clock.note(&page);
        if last.is_some_and(|last| Epoch::of(&last) != Epoch::of(&page)) {
            self.work.queue();
        }
        Ok(page)
    }

    /// The page was updated. From any context.
    pub(crate) fn updated(&self) {
        self.clock.updates.notify_all();
        self.work.queue();
    }

    /// There was an interrupt. Whether it was ours: the page was updated since the last one, or is being updated.
    pub(crate) fn interrupted(&self) -> bool {
        if let Some((update, ())) = Update::last_of(self.clock.page(), || ()) {
            if self.handled.is(&update) {
                return false;
            }
            self.handled.note(&update);
        }
        self.updated();
        true
    }

    /// The machine slept, and nobody knows where it woke up.
    pub(crate) fn resumed(&self) {
        self.is_awaited.store(true, Relaxed);
        self.updated();
    }

    /// Somebody waits for the page: it is polled soon.
    pub(crate) fn awaited(&self) {
        self.is_awaited.store(true, Relaxed);
        self.work.queue();
    }

    fn look(self: ArcBorrow<'_, Self>) {
        let mut shown = self.shown.lock();
        if shown.is_over {
            return;
        }
        let page = self.clock.peek_whole();
        let was_busy = core::mem::replace(&mut shown.is_busy, page.is_none());
        if self.is_awaited.xchg(false, Relaxed) || was_busy != shown.is_busy {
            shown.poll = FIRST_POLL;
        }
        // Whoever publishes may be dead in the middle of an update, and be replaced.
        let Some(page) = page else { return self.poll_later(&mut shown) };
        match self.show(&mut shown, &page) {
            Ok(()) => shown.retry = FIRST_RETRY,
            // It has logged why, and the device is no clock.
            Err(_) if shown.announced.is_none() => {
                shown.is_over = true;
                return;
            }
            Err(error) => {
                self.complain(&mut shown, error);
                self.work.queue_after(shown.retry);
                shown.retry = (2 * shown.retry).min(LONGEST_RETRY);
            }
        }
        let may_become_more = shown.ptp.is_none();
        if !self.clock.notifies(page.flags) && (may_become_more || self.clock.is_open()) {
            self.poll_later(&mut shown);
        }
    }

    /// Polls the page again after a pause, each time a longer one; without an open file there is a last time.
    fn poll_later(&self, shown: &mut Shown) {
        let longest = if self.clock.is_open() { LONGEST_POLL } else { LAST_POLL };
        if shown.poll > LAST_POLL && longest == LAST_POLL {
            if shown.announced.is_none() {
                dev_warn!(&*self.parent, "the update of the page does not end: bind the device again when it has\n");
            }
            return;
        }
        self.poll.queue_after(shown.poll.min(longest));
        shown.poll = (2 * shown.poll).min(2 * LAST_POLL);
    }

    fn complain(&self, shown: &mut Shown, error: Error) {
        if shown.complained.is_none_or(|last| last.elapsed() > COMPLAINTS) {
            shown.complained = Some(Instant::now());
            dev_err!(&*self.parent, "{}: cannot show all of the page, will try again: {error:?}\n", &*self.name);
        }
    }

    /// Takes everything away that userspace sees.
    pub(crate) fn leave(&self) {
        self.clock.leave();
        let (node, ptp) = {
            let mut shown = self.shown.lock();
            shown.is_over = true;
            (shown.node.take(), shown.ptp.take())
        };
        // Whoever opens the node, or shows its attributes, has work done.
        drop((node, ptp));
        self.work.cancel();
        self.poll.cancel();
    }
}

// SAFETY: the field is `work`.
unsafe impl Worker<0> for Device {
    unsafe fn from_work<'a>(work: *mut DelayedWork) -> ArcBorrow<'a, Self> {
        // SAFETY: as the caller says; a device is always in an `Arc`.
        unsafe { ArcBorrow::from_raw(kernel::container_of!(work, Self, work)) }
    }

    fn run(device: ArcBorrow<'_, Self>) {
        device.look();
    }
}

// SAFETY: the field is `poll`.
unsafe impl Worker<1> for Device {
    unsafe fn from_work<'a>(work: *mut DelayedWork) -> ArcBorrow<'a, Self> {
        // SAFETY: as the caller says; a device is always in an `Arc`.
        unsafe { ArcBorrow::from_raw(kernel::container_of!(work, Self, poll)) }
    }

    fn run(device: ArcBorrow<'_, Self>) {
        device.look();
    }
}

/// What `vmclock_core` has words for, for the kernel's own formatting.
struct Words<T>(T);

impl<T: core::fmt::Display> kernel::fmt::Display for Words<T> {
    fn fmt(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a clock, free again when it goes.
struct Index(u32);

impl Index {
    fn next() -> Result<Self> {
        // SAFETY: it only counts.
        let index = unsafe { vmclock_rust_index_get() };
        u32::try_from(index).map(Self).map_err(|_| Error::from_errno(index))
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        // SAFETY: it is ours.
        unsafe { vmclock_rust_index_put(self.0) };
    }
}
