// SPDX-License-Identifier: GPL-2.0
//! Misc devices: nodes in `/dev` with a name made at run time, permissions and attributes, that can be read, mapped and
//! polled.
//!
//! The `kernel` crate's own have a static name, and no poll(2).

use core::marker::PhantomData;
use core::ptr::null_mut;

use kernel::bindings;
use kernel::device::Device;
use kernel::error::to_result;
use kernel::ffi::{c_char, c_int, c_uint, c_void};
use kernel::fs::File;
use kernel::mm::virt::VmaNew;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::poll::PollTable;
use kernel::types::{ForeignOwnable, Opaque};

use super::bindings::vmclock_rust_io_remap_pfn_range;
use super::raw;
use super::sysfs::Groups;

/// What is behind a device node.
pub(crate) trait MiscDevice: Sized + Send + Sync + 'static {
    /// What is behind each open file. It may outlive the node.
    type OpenFile: Send + Sync + 'static;

    /// The attributes of the node's device in sysfs.
    const ATTRIBUTES: &'static Groups<Self>;

    fn open(&self) -> Result<Self::OpenFile>;

    /// Copies some bytes to userspace, and says how many.
    fn read(file: &Self::OpenFile, to: &UserBuffer) -> Result<usize>;

    fn mmap(file: &Self::OpenFile, area: &NewArea<'_>) -> Result;

    /// What can be done without waiting: a union of `POLLIN` and others.
    fn poll(file: &Self::OpenFile, waiter: &Waiter<'_>) -> c_uint;
}

/// A registered device node.
///
/// # Invariants
///
/// `misc` is registered for as long as this lives.
#[pin_data(PinnedDrop)]
#[repr(C)]
pub(crate) struct Registration<T: MiscDevice> {
    #[pin]
    misc: Opaque<bindings::miscdevice>,
    device: T,
    name: CString,
}

// SAFETY: `misc` is the misc layer's own, which locks it; `T` is `Send` and `Sync`.
unsafe impl<T: MiscDevice> Send for Registration<T> {}
// SAFETY: `misc` is the misc layer's own, which locks it; `T` is `Send` and `Sync`.
unsafe impl<T: MiscDevice> Sync for Registration<T> {}

impl<T: MiscDevice> Registration<T> {
    /// Registers a node of this name, with these permissions; 0 are the usual 0600.
    pub(crate) fn new(parent: &Device, name: CString, mode: u16, device: T) -> impl PinInit<Self, Error> + use<'_, T> {
        try_pin_init!(&this in Self {
            device,
            name,
            misc <- Opaque::try_ffi_init(|misc: *mut bindings::miscdevice| {
                // SAFETY: the name is there already.
                let name = unsafe { &(*this.as_ptr()).name };
                // SAFETY: this is the place for it. What it refers to lives as long: the name beside it, and statics.
                unsafe {
                    misc.write(bindings::miscdevice {
                        minor: bindings::MISC_DYNAMIC_MINOR as c_int,
                        name: name.as_char_ptr(),
                        fops: &Calls::<T>::TABLE,
                        parent: raw(parent),
                        groups: T::ATTRIBUTES.as_ptr(),
                        mode,
                        ..pin_init::zeroed()
                    });
                }
                // INVARIANT: registered, or there is no value. SAFETY: it is complete, does not move, and is
                // deregistered before it goes. The other fields are there, as whoever opens the node from here on
                // expects.
                to_result(unsafe { bindings::misc_register(misc) })
            }),
        })
    }

    /// What is behind the node whose device in sysfs this is.
    ///
    /// # Safety
    ///
    /// `dev` must be the device of a `Registration<T>` that is not dropped during `'a`.
    pub(super) unsafe fn of_device<'a>(dev: *mut bindings::device) -> &'a T {
        // SAFETY: a misc device is its sysfs device's driver data, and the registration begins with it. Only its second
        // field is looked at.
        unsafe { &(*bindings::dev_get_drvdata(dev).cast::<Self>()).device }
    }

    /// Sends a uevent (`ACTION=change`) with these variables, each as `NAME=value`: four at most.
    pub(crate) fn announce(&self, variables: &[&CStr]) -> Result {
        let mut words = [null_mut::<c_char>(); 5];
        if variables.len() >= words.len() {
            return Err(EINVAL);
        }
        for (word, variable) in words.iter_mut().zip(variables) {
            *word = variable.as_char_ptr().cast_mut();
        }
        // SAFETY: the device is there as long as the node is registered; the words are strings, with a null behind
        // them, that are only read.
        to_result(unsafe {
            let kobject = &raw mut (*(*self.misc.get()).this_device).kobj;
            bindings::kobject_uevent_env(kobject, bindings::kobject_action_KOBJ_CHANGE, words.as_mut_ptr())
        })
    }
}

#[pinned_drop]
impl<T: MiscDevice> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: it is registered, by the invariants. Nobody opens it or shows its attributes once this returns.
        unsafe { bindings::misc_deregister(self.misc.get()) };
    }
}

/// Where a read(2) wants its bytes.
pub(crate) struct UserBuffer {
    place: *mut c_void,
    len: usize,
    position: i64,
}

impl UserBuffer {
    /// How many bytes are wanted.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The position in the file from which they are wanted.
    pub(crate) fn position(&self) -> i64 {
        self.position
    }

    /// Copies memory that somebody else may be writing, up to the wanted length. To be done again if what it gave is of
    /// no use.
    ///
    /// # Safety
    ///
    /// `from` must have `len` bytes that can be read.
    pub(crate) unsafe fn copy(&self, from: *const u8, len: usize) -> Result {
        let len = len.min(self.len);
        // SAFETY: as the caller says; what userspace gave is checked there.
        match unsafe { bindings::copy_to_user(self.place, from.cast(), len) } {
            0 => Ok(()),
            _ => Err(EFAULT),
        }
    }
}

/// An area of a program's memory that is being made.
pub(crate) struct NewArea<'a>(&'a VmaNew);

impl NewArea<'_> {
    pub(crate) fn vma(&self) -> &VmaNew {
        self.0
    }

    /// How many bytes it has.
    pub(crate) fn len(&self) -> usize {
        self.0.end() - self.0.start()
    }

    /// Which page of the file is its first.
    pub(crate) fn offset(&self) -> usize {
        // SAFETY: the area is being made, and its offset is set before the driver is asked.
        unsafe { (*self.0.as_ptr()).vm_pgoff }
    }

    /// Makes these page frames its memory.
    ///
    /// # Safety
    ///
    /// As many frames as the area has pages must be there for userspace to see, and stay for as long as the machine
    /// runs.
    pub(crate) unsafe fn io_remap(&self, frame: usize) -> Result {
        // SAFETY: as the caller says; the area is being made.
        match unsafe { vmclock_rust_io_remap_pfn_range(self.0.as_ptr(), self.0.start(), frame, self.len()) } {
            0 => Ok(()),
            _ => Err(EAGAIN),
        }
    }
}

/// Who polls a file.
pub(crate) struct Waiter<'a> {
    file: &'a File,
    table: PollTable<'a>,
}

impl Waiter<'_> {
    /// Has it woken by this, if it is going to wait. To be called before one looks whether it needs to.
    pub(crate) fn wait_for(&self, wakers: &kernel::sync::poll::PollCondVar) {
        self.table.register_wait(self.file, wakers);
    }
}

/// What the misc layer calls.
struct Calls<T>(PhantomData<T>);

impl<T: MiscDevice> Calls<T> {
    const TABLE: bindings::file_operations = bindings::file_operations {
        owner: crate::compat::this_module(),
        open: Some(Self::open),
        release: Some(Self::release),
        read: Some(Self::read),
        mmap: Some(Self::mmap),
        poll: Some(Self::poll),
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// `file` must be an open file of such a device, between its `open` and its `release`.
    unsafe fn of<'a>(file: *mut bindings::file) -> &'a T::OpenFile {
        // SAFETY: `open` put it there, and `release` has not taken it yet.
        unsafe { <KBox<T::OpenFile> as ForeignOwnable>::borrow((*file).private_data) }
    }

    /// # Safety
    ///
    /// To be called by the misc layer only.
    unsafe extern "C" fn open(_inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: the misc layer puts the misc device there, with which the registration begins, and keeps it from
        // being deregistered until this returns. What is behind it was there before it was registered.
        let device = unsafe { &(*(*file).private_data.cast::<Registration<T>>()).device };
        let opened = device.open().and_then(|opened| Ok(KBox::new(opened, GFP_KERNEL)?));
        match opened {
            Ok(opened) => {
                // SAFETY: the file is being opened, and ours.
                unsafe { (*file).private_data = opened.into_foreign() };
                0
            }
            Err(error) => error.to_errno(),
        }
    }

    /// # Safety
    ///
    /// To be called for open files of such a device only, once.
    unsafe extern "C" fn release(_inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: `open` put it there, and nobody uses the file any more.
        drop(unsafe { <KBox<T::OpenFile> as ForeignOwnable>::from_foreign((*file).private_data) });
        0
    }

    /// # Safety
    ///
    /// To be called for open files of such a device only.
    unsafe extern "C" fn read(
        file: *mut bindings::file,
        place: *mut c_char,
        len: usize,
        position: *mut bindings::loff_t,
    ) -> isize {
        // SAFETY: the file is open.
        let opened = unsafe { Self::of(file) };
        // SAFETY: the file system layer gives a place of its own.
        let position = unsafe { &mut *position };
        match T::read(opened, &UserBuffer { place: place.cast(), len, position: *position }) {
            Ok(count) => {
                *position = position.wrapping_add_unsigned(count as u64);
                count as isize
            }
            Err(error) => error.to_errno() as isize,
        }
    }

    /// # Safety
    ///
    /// To be called for open files of such a device only, with an area that is being made.
    unsafe extern "C" fn mmap(file: *mut bindings::file, area: *mut bindings::vm_area_struct) -> c_int {
        // SAFETY: the file is open, and the area is as the caller says.
        let (opened, area) = unsafe { (Self::of(file), NewArea(VmaNew::from_raw(area))) };
        T::mmap(opened, &area).map_or_else(Error::to_errno, |()| 0)
    }

    /// # Safety
    ///
    /// To be called for open files of such a device only.
    unsafe extern "C" fn poll(file: *mut bindings::file, table: *mut bindings::poll_table_struct) -> c_uint {
        // SAFETY: the file is open.
        let opened = unsafe { Self::of(file) };
        // SAFETY: as the file system layer gives them, for this call. The file is not read by its descriptor's position
        // here.
        let waiter = unsafe { Waiter { file: File::from_raw_file(file), table: PollTable::from_raw(table) } };
        T::poll(opened, &waiter)
    }
}
