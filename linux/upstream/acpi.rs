// SPDX-License-Identifier: GPL-2.0
//! ACPI's notifications for a device.

use core::ptr::null_mut;

use kernel::device::Device;
use kernel::error::to_result;
use kernel::ffi::c_void;
use kernel::prelude::*;
use kernel::sync::Arc;

use super::bindings::{vmclock_rust_acpi_install, vmclock_rust_acpi_remove};
use super::raw;

/// Is notified of what the firmware reports of a device.
pub(crate) trait Notify: Send + Sync + 'static {
    /// Called in a workqueue of ACPI's, which may sleep.
    fn notify(&self, value: u32);
}

/// An installed handler.
///
/// # Invariants
///
/// [`notified`] is installed for `handle`, with a pointer to `_to` for its context.
pub(crate) struct Registration<T: Notify> {
    handle: *mut c_void,
    _to: Arc<T>,
}

// SAFETY: ACPI locks what it has by a handle, any thread may use one, and `T` is `Send` and `Sync`.
unsafe impl<T: Notify> Send for Registration<T> {}

impl<T: Notify> Registration<T> {
    /// Installs a handler of what concerns the device itself, values from 0x80 on. `None` where the device is not from
    /// ACPI.
    pub(crate) fn new(dev: &Device, to: Arc<T>) -> Result<Option<Self>> {
        let context = Arc::as_ptr(&to).cast_mut().cast::<c_void>();
        let mut handle = null_mut();
        // SAFETY: `to` lives until the handler is removed, as `self` has a reference; the place is ours.
        match to_result(unsafe { vmclock_rust_acpi_install(raw(dev), Some(notified::<T>), context, &mut handle) }) {
            // INVARIANT: it was just installed.
            Ok(()) => Ok(Some(Self { handle, _to: to })),
            Err(error) if error == ENXIO => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl<T: Notify> Drop for Registration<T> {
    fn drop(&mut self) {
        // SAFETY: it is installed, by the invariants. This waits for a handler that runs, before `_to` goes.
        unsafe { vmclock_rust_acpi_remove(self.handle, Some(notified::<T>)) };
    }
}

/// # Safety
///
/// To be called by ACPI, with the context that it was installed with.
unsafe extern "C" fn notified<T: Notify>(_handle: *mut c_void, value: u32, context: *mut c_void) {
    // SAFETY: by the invariants of `Registration` it is a `T`, which lives until this returns.
    unsafe { &*context.cast::<T>() }.notify(value);
}
