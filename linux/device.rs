// SPDX-License-Identifier: GPL-2.0
//! The bound device: what userspace sees of the clock, and what is done when the page was updated.

use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::aref::ARef;
use kernel::sync::{new_mutex, Arc, Mutex};
use vmclock_core::abi::Snapshot;
use vmclock_core::event::{changes, Event};
use vmclock_core::tai::TaiOffset;

use crate::chardev::CharDevice;
use crate::clock::Clock;
use crate::ptp::VmClock;
use crate::region::Region;
use crate::upstream::bindings::{vmclock_rust_index_get, vmclock_rust_index_put};
use crate::upstream::workqueue::{DelayedWork, Worker};
use crate::upstream::{miscdevice, ptp};

type Node = Pin<KBox<miscdevice::Registration<CharDevice>>>;
type PtpClock = Pin<KBox<ptp::Registration<VmClock>>>;

/// How often a page that does not notify is polled, in milliseconds.
const POLL: u32 = 1_000;
/// When a page that was in the middle of an update is polled again, in milliseconds.
const POLL_AGAIN: u32 = 100;

#[pin_data]
pub(crate) struct Device {
    parent: ARef<kernel::device::Device>,
    pub(crate) clock: Arc<Clock>,
    name: CString,
    index: Index,
    #[pin]
    shown: Mutex<Shown>,
    #[pin]
    work: DelayedWork,
}

/// What userspace sees.
struct Shown {
    /// The device is gone, or is no clock.
    is_over: bool,
    node: Option<Node>,
    ptp: Option<PtpClock>,
    /// The last snapshot of the page; none before the first that was not in the middle of an update.
    last: Option<Snapshot>,
}

impl Device {
    /// A device that shows nothing yet.
    pub(crate) fn new(dev: &kernel::device::Device, region: Region) -> Result<Arc<Self>> {
        let index = Index::next()?;
        let name = CString::try_from_fmt(fmt!("vmclock{}", index.0))?;
        let clock = Arc::pin_init(Clock::new(region), GFP_KERNEL)?;
        Arc::pin_init(
            try_pin_init!(Self {
                parent: dev.into(),
                clock,
                name,
                index,
                shown <- new_mutex!(Shown { is_over: false, node: None, ptp: None, last: None }),
                // SAFETY: it is this field, and `leave` cancels it.
                work <- unsafe { DelayedWork::new::<Self>() },
            }),
            GFP_KERNEL,
        )
    }

    /// Shows userspace what there is to show, if this is a page. One whose update does not end may become one.
    pub(crate) fn begin(&self) -> Result {
        let mut shown = self.shown.lock();
        // A notification may have been first.
        if shown.is_over {
            return Err(EINVAL);
        }
        if shown.last.is_none() {
            match self.clock.snapshot() {
                Ok(page) => self.show(&mut shown, &page)?,
                Err(_) => {
                    let sequence = self.clock.page().sequence();
                    dev_warn!(
                        &*self.parent,
                        "the page stays in the middle of an update (sequence count {sequence}): waiting for its end\n"
                    );
                }
            }
        }
        // There may have been an update since, without a notification.
        self.work.queue();
        Ok(())
    }

    /// The first snapshot of the page: shows all that it has, or nothing.
    fn show(&self, shown: &mut Shown, page: &Snapshot) -> Result {
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
        let node = if page.size as usize >= kernel::page::PAGE_SIZE {
            let name = CString::try_from_fmt(fmt!("vmclock{}", self.index.0))?;
            let mode = crate::compat::value(&crate::module_parameters::mode);
            let node = miscdevice::Registration::new(dev, name, mode, CharDevice(self.clock.clone()));
            Some(KBox::pin_init(node, GFP_KERNEL)?)
        } else {
            None
        };
        let ptp = self.time_of(page)?;
        let what = match (&node, &ptp) {
            (None, None) => "nothing yet: too short to be mapped, and without time",
            (Some(_), None) => "device node",
            (None, Some(_)) => "PTP clock",
            (Some(_), Some(_)) => "device node, PTP clock",
        };
        dev_info!(dev, "{}: registered {what}\n", &*self.name);
        (shown.node, shown.ptp, shown.last) = (node, ptp, Some(*page));
        Ok(())
    }

    /// The PTP clock of a page, if it can give the time.
    fn time_of(&self, page: &Snapshot) -> Result<Option<PtpClock>> {
        if !VmClock::can_be_of(page) {
            return Ok(None);
        }
        let ptp = ptp::Registration::new(&self.parent, &self.name, VmClock::new(self.clock.clone()));
        Ok(Some(KBox::pin_init(ptp, GFP_KERNEL)?))
    }

    /// A later snapshot: shows what is new.
    fn show_changes(&self, shown: &mut Shown, last: &Snapshot, page: &Snapshot) -> Result {
        // It appears as soon as the page can give the time, and stays: while it cannot, reading it fails.
        if shown.ptp.is_none() {
            shown.ptp = self.time_of(page)?;
        }
        let Some(node) = &shown.node else { return Ok(()) };
        for event in changes(last, page) {
            match event {
                Event::Disrupted { .. } => Self::announce(node, c"VMCLOCK_EVENT=disrupted", page)?,
                Event::Restored { .. } => Self::announce(node, c"VMCLOCK_EVENT=restored", page)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Notifies userspace that the counter was disrupted, or that the machine was restored.
    fn announce(node: &Node, event: &CStr, page: &Snapshot) -> Result {
        let marker = CString::try_from_fmt(fmt!("VMCLOCK_MARKER={:#018x}", page.disruption_marker))?;
        let Some(generation) = page.generation() else { return node.announce(&[event, &*marker]) };
        let generation = CString::try_from_fmt(fmt!("VMCLOCK_GENERATION={generation:#018x}"))?;
        node.announce(&[event, &*marker, &*generation])
    }

    /// The page was updated. From any context.
    pub(crate) fn updated(&self) {
        self.clock.updates.notify_all();
        self.work.queue();
    }

    /// Takes everything away that userspace sees.
    pub(crate) fn leave(&self) {
        self.clock.leave();
        let (node, ptp) = {
            let mut shown = self.shown.lock();
            shown.is_over = true;
            (shown.node.take(), shown.ptp.take())
        };
        self.work.cancel();
        drop((node, ptp));
    }
}

// SAFETY: `work` is the field.
unsafe impl Worker for Device {
    unsafe fn from_work<'a>(work: *mut DelayedWork) -> &'a Self {
        // SAFETY: as the caller says.
        unsafe { &*kernel::container_of!(work, Self, work) }
    }

    fn run(&self) {
        let mut shown = self.shown.lock();
        if shown.is_over {
            return;
        }
        // Whoever publishes may be dead in the middle of an update, and be replaced.
        let Some(page) = self.clock.poll() else { return self.work.queue_after(POLL_AGAIN) };
        match shown.last {
            // If it fails it has logged why, and the device is no clock.
            None => shown.is_over = self.show(&mut shown, &page).is_err(),
            Some(last) => {
                if let Err(error) = self.show_changes(&mut shown, &last, &page) {
                    dev_err!(&*self.parent, "{}: an update of the page cannot be shown: {error:?}\n", &*self.name);
                }
                shown.last = Some(page);
            }
        }
        if !shown.is_over && !self.clock.notifies(&page) {
            self.work.queue_after(POLL);
        }
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
