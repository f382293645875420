// SPDX-License-Identifier: GPL-2.0
//! ACPI's notifications for a device.

use kernel::bindings;
use kernel::device::Device;
use kernel::ffi::c_void;
use kernel::prelude::*;
use kernel::sync::Arc;

use super::bindings::vmclock_rust_acpi_handle;
use super::raw;

/// Is told what the firmware has to say of a device.
pub(crate) trait Notify: Send + Sync + 'static {
    /// Called in a workqueue of ACPI's, which may sleep.
    fn notify(&self, value: u32);
}

/// The handle of the device in ACPI's namespace, if it is from there.
pub(crate) fn handle(dev: &Device) -> Option<bindings::acpi_handle> {
    // SAFETY: it only looks at the device.
    let handle = unsafe { vmclock_rust_acpi_handle(raw(dev)) };
    (!handle.is_null()).then_some(handle)
}

/// An installed handler.
///
/// # Invariants
///
/// [`notified`] is installed for `handle`, with a pointer to `to` for its context.
pub(crate) struct Registration<T: Notify> {
    handle: bindings::acpi_handle,
    _to: Arc<T>,
}

// SAFETY: a handle may be used from any thread, and `T` is `Send` and `Sync`.
unsafe impl<T: Notify> Send for Registration<T> {}

impl<T: Notify> Registration<T> {
    /// Installs a handler of what concerns the device itself, values from 0x80 on. The error is ACPI's status.
    pub(crate) fn new(handle: bindings::acpi_handle, to: Arc<T>) -> Result<Self, bindings::acpi_status> {
        let context = Arc::as_ptr(&to).cast_mut().cast::<c_void>();
        // SAFETY: `to` lives until the handler is removed, as `self` has a reference.
        let status = unsafe {
            bindings::acpi_install_notify_handler(handle, bindings::ACPI_DEVICE_NOTIFY, Some(notified::<T>), context)
        };
        if status != 0 {
            return Err(status);
        }
        // INVARIANT: it was just installed.
        Ok(Self { handle, _to: to })
    }
}

impl<T: Notify> Drop for Registration<T> {
    fn drop(&mut self) {
        // SAFETY: it is installed, by the invariants. This waits for a handler that runs.
        unsafe {
            bindings::acpi_remove_notify_handler(self.handle, bindings::ACPI_DEVICE_NOTIFY, Some(notified::<T>));
        }
    }
}

/// # Safety
///
/// To be called by ACPI, with the context that it was installed with.
unsafe extern "C" fn notified<T: Notify>(_handle: bindings::acpi_handle, value: u32, context: *mut c_void) {
    // SAFETY: by the invariants of `Registration` it is a `T`, which lives until this returns.
    unsafe { &*context.cast::<T>() }.notify(value);
}
