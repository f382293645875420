// SPDX-License-Identifier: GPL-2.0
//! How the hypervisor tells of updates: by a notification of ACPI, or by an interrupt from the device tree.

use kernel::bindings;
use kernel::device::{Bound, Core};
use kernel::ffi::c_void;
use kernel::irq::{Flags, Handler, IrqReturn, Registration};
use kernel::platform;
use kernel::prelude::*;
use kernel::sync::Arc;

use crate::bindings::vmclock_rust_acpi_handle;
use crate::device::{raw, Device};

/// Whatever is installed. When it is dropped it is gone, and nobody is being told any more.
#[derive(Default)]
pub(crate) struct Notifications {
    _acpi: Option<AcpiHandler>,
    _interrupt: Option<Pin<KBox<Registration<Interrupt>>>>,
}

impl Notifications {
    /// Installs what the machine has. There may be none: the page says whether it notifies, and may say so later.
    pub(crate) fn install(pdev: &platform::Device<Core<'_>>, device: &Arc<Device>) -> Result<Self> {
        let dev = pdev.as_ref();
        // SAFETY: it only looks.
        let handle = unsafe { vmclock_rust_acpi_handle(raw(dev)) };
        if !handle.is_null() {
            return Ok(Self { _acpi: Some(AcpiHandler::install(handle, device.clone())?), _interrupt: None });
        }
        let Ok(request) = pdev.optional_irq_by_index(0) else { return Ok(Self::default()) };
        let interrupt = Interrupt { device: device.clone() };
        let registration = Registration::new(request, Flags::SHARED, c"vmclock", Ok(interrupt));
        Ok(Self { _acpi: None, _interrupt: Some(KBox::pin_init(registration, GFP_KERNEL)?) })
    }
}

/// A handler of ACPI's notifications for a device.
///
/// # Invariants
///
/// [`notified`] is installed for `handle`, with a pointer to `device` for its context.
pub(crate) struct AcpiHandler {
    handle: bindings::acpi_handle,
    _device: Arc<Device>,
}

// SAFETY: a handle may be used from any thread.
unsafe impl Send for AcpiHandler {}

impl AcpiHandler {
    fn install(handle: bindings::acpi_handle, device: Arc<Device>) -> Result<Self> {
        let context = Arc::as_ptr(&device).cast_mut().cast::<c_void>();
        // SAFETY: the device is alive until the handler is removed, as `self` has a reference.
        let status = unsafe {
            bindings::acpi_install_notify_handler(handle, bindings::ACPI_DEVICE_NOTIFY, Some(notified), context)
        };
        if status != 0 {
            return Err(ENODEV);
        }
        // INVARIANT: it was just installed.
        Ok(Self { handle, _device: device })
    }
}

impl Drop for AcpiHandler {
    fn drop(&mut self) {
        // SAFETY: it is installed, by the invariants. This waits for a handler that runs.
        unsafe { bindings::acpi_remove_notify_handler(self.handle, bindings::ACPI_DEVICE_NOTIFY, Some(notified)) };
    }
}

/// # Safety
///
/// To be called by ACPI, with the context that it was installed with.
unsafe extern "C" fn notified(_handle: bindings::acpi_handle, _value: u32, context: *mut c_void) {
    // SAFETY: by the invariants of `AcpiHandler`.
    unsafe { &*context.cast::<Device>() }.updated();
}

/// A handler of a device tree's interrupt.
pub(crate) struct Interrupt {
    device: Arc<Device>,
}

impl Handler for Interrupt {
    fn handle(&self, _dev: &kernel::device::Device<Bound>) -> IrqReturn {
        self.device.updated();
        IrqReturn::Handled
    }
}
