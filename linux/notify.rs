// SPDX-License-Identifier: GPL-2.0
//! How the hypervisor tells of updates: by a notification of ACPI, or by an interrupt from the device tree.

use kernel::device::Core;
use kernel::platform;
use kernel::prelude::*;
use kernel::sync::Arc;

use crate::compat::{Interrupt, Interrupted};
use crate::device::Device;
use crate::upstream::acpi;

/// Whatever is installed. When it is dropped it is gone, and nobody is being told any more.
#[derive(Default)]
pub(crate) struct Notifications<'bound> {
    _acpi: Option<acpi::Registration<Device>>,
    _interrupt: Option<Interrupt<'bound, Handler>>,
}

impl<'bound> Notifications<'bound> {
    /// Installs what the machine has, which may be nothing. Whether it is made use of the page says, and may say so later.
    ///
    /// # Safety
    ///
    /// They must be dropped before the device is unbound: they must not be forgotten.
    pub(crate) unsafe fn install(pdev: &'bound platform::Device<Core<'_>>, device: &Arc<Device>) -> Result<Self> {
        let dev = pdev.as_ref();
        if let Some(handle) = acpi::handle(dev) {
            let handler = acpi::Registration::new(handle, device.clone()).map_err(|status| {
                dev_err!(dev, "ACPI takes no handler of its notifications: status {status:#x}\n");
                ENODEV
            })?;
            device.clock.will_be_told();
            return Ok(Self { _acpi: Some(handler), _interrupt: None });
        }
        let request = match pdev.optional_irq_by_index(0) {
            Ok(request) => request,
            // There is none.
            Err(error) if error == ENXIO => return Ok(Self::default()),
            // There is one, perhaps later.
            Err(error) => return Err(error),
        };
        // SAFETY: the interrupt is a part of the value that the caller does not forget.
        let interrupt = unsafe { Interrupt::new(request, c"vmclock", Handler(device.clone())) }?;
        device.clock.will_be_told();
        Ok(Self { _acpi: None, _interrupt: Some(interrupt) })
    }
}

impl acpi::Notify for Device {
    fn notify(&self, _value: u32) {
        self.updated();
    }
}

/// A handler of a device tree's interrupt.
struct Handler(Arc<Device>);

impl Interrupted for Handler {
    fn interrupted(&self) {
        self.0.updated();
    }
}
