// SPDX-License-Identifier: GPL-2.0
//! How the hypervisor tells of updates: by a notification of ACPI, or by an interrupt from the device tree.

use kernel::device::{Bound, Core};
use kernel::irq::{Flags, Handler, IrqReturn, Registration};
use kernel::platform;
use kernel::prelude::*;
use kernel::sync::Arc;

use crate::device::Device;
use crate::upstream::acpi;

/// Whatever is installed. When it is dropped it is gone, and nobody is being told any more.
#[derive(Default)]
pub(crate) struct Notifications {
    _acpi: Option<acpi::Registration<Device>>,
    _interrupt: Option<Pin<KBox<Registration<Interrupt>>>>,
}

impl Notifications {
    /// Installs what the machine has, which may be nothing. Whether it is made use of the page says, and may say so later.
    pub(crate) fn install(pdev: &platform::Device<Core<'_>>, device: &Arc<Device>) -> Result<Self> {
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
        let interrupt = Interrupt { device: device.clone() };
        let registration = Registration::new(request, Flags::SHARED, c"vmclock", Ok(interrupt));
        let registration = KBox::pin_init(registration, GFP_KERNEL)?;
        device.clock.will_be_told();
        Ok(Self { _acpi: None, _interrupt: Some(registration) })
    }
}

impl acpi::Notify for Device {
    fn notify(&self, _value: u32) {
        self.updated();
    }
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
