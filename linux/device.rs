// SPDX-License-Identifier: GPL-2.0
//! The bound device: what userspace sees of the clock, and what is done when the page was updated.

use core::ptr::null_mut;

use kernel::bindings;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::aref::ARef;
use kernel::sync::{new_mutex, Arc, Mutex};
use vmclock_core::abi::Snapshot;
use vmclock_core::event::{changes, Event};

use crate::bindings::{vmclock_rust_index_get, vmclock_rust_index_put};
use crate::chardev::CharDevice;
use crate::clock::Clock;
use crate::ptp::PtpClock;
use crate::region::Region;
use crate::work::{Work, Worker};

/// How often a page is looked at that does not notify, in milliseconds.
const LOOK: u32 = 1_000;
/// When a page is looked at again that was in the middle of an update, in milliseconds.
const LOOK_AGAIN: u32 = 100;

#[pin_data]
pub(crate) struct Device {
    parent: ARef<kernel::device::Device>,
    pub(crate) clock: Arc<Clock>,
    name: CString,
    index: Index,
    #[pin]
    shown: Mutex<Shown>,
    #[pin]
    work: Work,
}

/// What userspace sees.
struct Shown {
    is_over: bool,
    chardev: Option<Pin<KBox<CharDevice>>>,
    ptp: Option<Pin<KBox<PtpClock>>>,
    /// The page as it was last seen; none before the first look that was not in the middle of an update.
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
                shown <- new_mutex!(Shown { is_over: false, chardev: None, ptp: None, last: None }),
                // SAFETY: it is this field, and `leave` cancels it.
                work <- unsafe { Work::new::<Self>() },
            }),
            GFP_KERNEL,
        )
    }

    /// Shows userspace what there is to show, if this is a page. One whose update does not end may become one.
    pub(crate) fn begin(&self) -> Result {
        let mut shown = self.shown.lock();
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
        // There may have been an update since, that nobody was told of.
        self.work.queue(0);
        Ok(())
    }

    /// The first look at the page.
    fn show(&self, shown: &mut Shown, page: &Snapshot) -> Result {
        let dev: &kernel::device::Device = &self.parent;
        let len = self.clock.region().len();
        if let Err(error) = page.validate(len) {
            dev_err!(dev, "this is no VMClock page: {}\n", Words(error));
            return Err(EINVAL);
        }
        if page.size as usize > len {
            dev_err!(dev, "the page says that it has {:#x} bytes, but the region has only {len:#x}\n", page.size);
            return Err(EINVAL);
        }
        if page.size as usize >= kernel::page::PAGE_SIZE {
            let name = CString::try_from_fmt(fmt!("vmclock{}", self.index.0))?;
            shown.chardev = Some(KBox::pin_init(CharDevice::register(dev, name, self.clock.clone()), GFP_KERNEL)?);
        }
        self.show_time(shown, page)?;
        shown.last = Some(*page);
        let what = match (&shown.chardev, &shown.ptp) {
            (None, None) => "nothing yet: too short to be mapped, and without time",
            (Some(_), None) => "device node",
            (None, Some(_)) => "PTP clock",
            (Some(_), Some(_)) => "device node, PTP clock",
        };
        dev_info!(dev, "{}: registered {what}\n", &*self.name);
        Ok(())
    }

    /// The page was updated. From any context.
    pub(crate) fn updated(&self) {
        self.clock.updates.notify_all();
        self.work.queue(0);
    }

    /// Takes everything away that userspace sees.
    pub(crate) fn leave(&self) {
        self.clock.leave();
        let (chardev, ptp) = {
            let mut shown = self.shown.lock();
            shown.is_over = true;
            (shown.chardev.take(), shown.ptp.take())
        };
        self.work.cancel();
        drop((chardev, ptp));
    }

    /// The PTP clock appears as soon as the page can give the time, and stays: while it cannot, reading it fails.
    fn show_time(&self, shown: &mut Shown, page: &Snapshot) -> Result {
        if shown.ptp.is_none() && PtpClock::can_be_of(page) {
            let ptp = PtpClock::register(&self.parent, &self.name, self.clock.clone());
            shown.ptp = Some(KBox::pin_init(ptp, GFP_KERNEL)?);
        }
        Ok(())
    }

    /// Tells userspace that the counter was disrupted, or that the machine was restored.
    fn tell(&self, shown: &Shown, page: &Snapshot) -> Result {
        let (Some(chardev), Some(last)) = (&shown.chardev, &shown.last) else { return Ok(()) };
        for event in changes(last, page) {
            let what = match event {
                Event::Disrupted { .. } => c"VMCLOCK_EVENT=disrupted",
                Event::Restored { .. } => c"VMCLOCK_EVENT=restored",
                _ => continue,
            };
            let marker = CString::try_from_fmt(fmt!("VMCLOCK_MARKER={:#018x}", page.disruption_marker))?;
            let generation = page.generation().unwrap_or(0);
            let generation = CString::try_from_fmt(fmt!("VMCLOCK_GENERATION={generation:#018x}"))?;
            let words = [what.as_char_ptr(), marker.as_char_ptr(), generation.as_char_ptr(), null_mut()];
            let mut words = words.map(<*const _>::cast_mut);
            // SAFETY: the device is there as long as `chardev` is; the words are strings, with a null behind them, that are only read.
            let result = unsafe {
                let kobject = &raw mut (*chardev.this_device()).kobj;
                bindings::kobject_uevent_env(kobject, bindings::kobject_action_KOBJ_CHANGE, words.as_mut_ptr())
            };
            kernel::error::to_result(result)?;
        }
        Ok(())
    }
}

// SAFETY: `work` is the field.
unsafe impl Worker for Device {
    unsafe fn from_work<'a>(work: *mut Work) -> &'a Self {
        // SAFETY: as the caller says.
        unsafe { &*kernel::container_of!(work, Self, work) }
    }

    fn run(&self) {
        let page = self.clock.glance();
        let mut shown = self.shown.lock();
        if shown.is_over {
            return;
        }
        // Whoever publishes may be dead in the middle of an update, and be replaced.
        let Some(page) = page else { return self.work.queue(LOOK_AGAIN) };
        if shown.last.is_none() {
            // It says why, and that was all: it is no page.
            if self.show(&mut shown, &page).is_err() {
                return;
            }
        } else if let Err(error) = self.show_time(&mut shown, &page).and_then(|()| self.tell(&shown, &page)) {
            dev_err!(&*self.parent, "{}: an update of the page cannot be shown: {error:?}\n", &*self.name);
        }
        shown.last = Some(page);
        if !page.notifies() {
            self.work.queue(LOOK);
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

/// The C structure of a device.
pub(crate) fn raw(dev: &kernel::device::Device) -> *mut bindings::device {
    // `kernel::device::Device` is a transparent wrapper of it.
    core::ptr::from_ref(dev).cast_mut().cast()
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
