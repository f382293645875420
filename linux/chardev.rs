// SPDX-License-Identifier: GPL-2.0
//! `/dev/vmclockN`: a consistent read(2), a read-only mmap(2) of the page, and a poll(2) that tells of updates.
//!
//! The `kernel` crate's misc devices have neither poll nor names made at run time. Each open file keeps the clock alive, so that it can outlive the
//! device.

use kernel::bindings;
use kernel::device::Device;
use kernel::error::to_result;
use kernel::ffi::{c_char, c_int, c_uint};
use kernel::fs::File;
use kernel::mm::virt::VmaNew;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::poll::PollTable;
use kernel::sync::Arc;
use kernel::types::{ForeignOwnable, Opaque};

use crate::attributes;
use crate::bindings::vmclock_rust_io_remap_pfn_range;
use crate::clock::{patience, timed_out, Clock};
use crate::device::raw;

/// A sequence count that no page has.
const NEVER_READ: u64 = u64::MAX;

/// A registered device node.
///
/// # Invariants
///
/// `misc` is registered for as long as this lives.
#[pin_data(PinnedDrop)]
#[repr(C)]
pub(crate) struct CharDevice {
    #[pin]
    misc: Opaque<bindings::miscdevice>,
    clock: Arc<Clock>,
    name: CString,
}

// SAFETY: `misc` is the misc layer's own, which locks it; all else may be shared.
unsafe impl Send for CharDevice {}
// SAFETY: as above.
unsafe impl Sync for CharDevice {}

impl CharDevice {
    pub(crate) fn register(parent: &Device, name: CString, clock: Arc<Clock>) -> impl PinInit<Self, Error> + use<'_> {
        try_pin_init!(&this in Self {
            clock,
            name,
            misc <- Opaque::try_ffi_init(|misc: *mut bindings::miscdevice| {
                // SAFETY: the name is there already.
                let name = unsafe { &(*this.as_ptr()).name };
                // SAFETY: this is the place for it. What it refers to lives as long: the name beside it, and statics.
                unsafe {
                    misc.write(bindings::miscdevice {
                        minor: bindings::MISC_DYNAMIC_MINOR as c_int,
                        name: name.as_char_ptr(),
                        fops: &raw const OPERATIONS.0,
                        parent: raw(parent),
                        groups: attributes::groups(),
                        mode: *crate::module_parameters::mode.value(),
                        ..pin_init::zeroed()
                    });
                }
                // INVARIANT: registered, or there is no value.
                // SAFETY: it is complete, does not move, and is deregistered before it goes. The other fields are there.
                to_result(unsafe { bindings::misc_register(misc) })
            }),
        })
    }

    /// The node's device, in sysfs.
    pub(crate) fn this_device(&self) -> *mut bindings::device {
        // SAFETY: set by `misc_register`, and not changed while it is registered.
        unsafe { (*self.misc.get()).this_device }
    }

    /// The clock of the node whose sysfs device this is.
    ///
    /// # Safety
    ///
    /// `dev` must be a device that was made by [`register`](Self::register), and not be removed during `'a`.
    pub(crate) unsafe fn clock_of<'a>(dev: *mut bindings::device) -> &'a Clock {
        // SAFETY: a misc device is its sysfs device's driver data, and ours begins with it.
        unsafe { &(*bindings::dev_get_drvdata(dev).cast::<Self>()).clock }
    }
}

#[pinned_drop]
impl PinnedDrop for CharDevice {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: it is registered, by the invariants. Nobody opens it or shows its attributes once this returns.
        unsafe { bindings::misc_deregister(self.misc.get()) };
    }
}

/// An open file.
struct OpenFile {
    clock: Arc<Clock>,
    /// The sequence count of what was last read from it.
    seen: Atomic<u64>,
}

struct Operations(bindings::file_operations);

// SAFETY: it is never changed.
unsafe impl Sync for Operations {}

static OPERATIONS: Operations = Operations(bindings::file_operations {
    owner: crate::THIS_MODULE.as_ptr(),
    open: Some(open),
    release: Some(release),
    read: Some(read),
    mmap: Some(mmap),
    poll: Some(poll),
    ..pin_init::zeroed()
});

/// # Safety
///
/// `file` must be an open file of ours, between its `open` and its `release`.
unsafe fn of<'a>(file: *mut bindings::file) -> &'a OpenFile {
    // SAFETY: `open` put it there, and `release` has not taken it yet.
    unsafe { <KBox<OpenFile> as ForeignOwnable>::borrow((*file).private_data) }
}

/// # Safety
///
/// To be called by the misc layer only.
unsafe extern "C" fn open(_inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    // SAFETY: the misc layer puts the misc device there, with which `CharDevice` begins, and keeps it from being deregistered
    // until this returns.
    let device = unsafe { &*(*file).private_data.cast::<CharDevice>() };
    let opened = OpenFile { clock: device.clock.clone(), seen: Atomic::new(NEVER_READ) };
    match KBox::new(opened, GFP_KERNEL) {
        Ok(opened) => {
            // SAFETY: the file is being opened, and ours.
            unsafe { (*file).private_data = opened.into_foreign() };
            0
        }
        Err(_) => ENOMEM.to_errno(),
    }
}

/// # Safety
///
/// To be called for open files of ours only, once.
unsafe extern "C" fn release(_inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    // SAFETY: `open` put it there, and nobody uses the file any more.
    drop(unsafe { <KBox<OpenFile> as ForeignOwnable>::from_foreign((*file).private_data) });
    0
}

/// # Safety
///
/// To be called for open files of ours only.
unsafe extern "C" fn read(
    file: *mut bindings::file,
    to: *mut c_char,
    count: usize,
    position: *mut bindings::loff_t,
) -> isize {
    // SAFETY: the file is open.
    let opened = unsafe { of(file) };
    // SAFETY: the file system layer gives a place of its own.
    let position = unsafe { &mut *position };
    match read_at(opened, to, count, *position) {
        Ok(count) => {
            *position = position.wrapping_add_unsigned(count as u64);
            count as isize
        }
        Err(error) => error.to_errno() as isize,
    }
}

fn read_at(opened: &OpenFile, to: *mut c_char, count: usize, position: i64) -> Result<usize> {
    let clock = &*opened.clock;
    if clock.is_gone() {
        return Err(ENODEV);
    }
    let position = usize::try_from(position).map_err(|_| EINVAL)?;
    if position >= PAGE_SIZE {
        return Ok(0);
    }
    let (from, left) = clock.region().bytes_from(position).ok_or(EINVAL)?;
    let count = count.min(PAGE_SIZE - position).min(left);
    // SAFETY: `from` has `count` bytes; what userspace gave is checked there. The bytes may change meanwhile, which is for the sequence
    // count to find out.
    let copy = || unsafe { bindings::copy_to_user(to.cast(), from.cast(), count) };
    let (words, uncopied) = clock.page().words_with(copy, patience()).map_err(timed_out)?;
    if uncopied != 0 {
        return Err(EFAULT);
    }
    opened.seen.store(words.seq_count.into(), Relaxed);
    Ok(count)
}

/// # Safety
///
/// To be called for open files of ours only, with an area that is being made.
unsafe extern "C" fn mmap(file: *mut bindings::file, area: *mut bindings::vm_area_struct) -> c_int {
    // SAFETY: the file is open.
    let opened = unsafe { of(file) };
    // SAFETY: as the caller says.
    let new = unsafe { VmaNew::from_raw(area) };
    let map = || {
        if opened.clock.is_gone() {
            return Err(ENODEV);
        }
        if !new.readable() || new.writable() {
            return Err(EROFS);
        }
        // Nor may mprotect(2) make it writable later.
        new.try_clear_maywrite()?;
        // SAFETY: as above; its offset is set before this is called.
        let offset = unsafe { (*area).vm_pgoff };
        if new.end() - new.start() != PAGE_SIZE || offset != 0 {
            return Err(EINVAL);
        }
        let frame = opened.clock.region().frame().ok_or(ENODEV)?;
        // SAFETY: the area is one page long and being made, and the frame is the region's, which is at least as long.
        match unsafe { vmclock_rust_io_remap_pfn_range(area, new.start(), frame, PAGE_SIZE) } {
            0 => Ok(()),
            _ => Err(EAGAIN),
        }
    };
    map().map_or_else(Error::to_errno, |()| 0)
}

/// # Safety
///
/// To be called for open files of ours only.
unsafe extern "C" fn poll(file: *mut bindings::file, table: *mut bindings::poll_table_struct) -> c_uint {
    // SAFETY: the file is open.
    let opened = unsafe { of(file) };
    // SAFETY: as the file system layer gives it, for this call. The file is not read by its descriptor's position here.
    let (table, file) = unsafe { (PollTable::from_raw(table), File::from_raw_file(file)) };
    let clock = &*opened.clock;
    // First, so that what happens from here on wakes.
    table.register_wait(file, &clock.updates);
    if clock.is_gone() {
        return bindings::POLLHUP | bindings::POLLERR;
    }
    match clock.page().snapshot(|| false) {
        // There will be no notification: whoever waits would do so for ever.
        Ok(page) if !page.notifies() => bindings::POLLHUP,
        Ok(page) if u64::from(page.seq_count) == opened.seen.load(Relaxed) => 0,
        // Something new, or about to be.
        _ => bindings::POLLIN | bindings::POLLRDNORM,
    }
}
