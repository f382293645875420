// SPDX-License-Identifier: GPL-2.0
//! How the hypervisor tells of updates: by a notification of ACPI, or by an interrupt from the device tree.

use kernel::device::Core;
use kernel::platform;
use kernel::prelude::*;
use kernel::sync::Arc;

use crate::compat::{Interrupt, Interrupted};
use crate::device::Device;
use crate::upstream::{acpi, power};

/// Whatever is installed. When it is dropped it is gone, and nobody is being notified any more.
#[derive(Default)]
pub(crate) struct Notifications<'bound> {
    _acpi: Option<acpi::Registration<Device>>,
    _interrupt: Option<Interrupt<'bound, Handler>>,
    _resume: Option<Pin<KBox<power::Registration<Device>>>>,
}

impl<'bound> Notifications<'bound> {
    /// Installs what the machine has, which may be nothing but the end of its own sleep. Whether the hypervisor makes
    /// use of it the page says, and with ACPI may say so later.
    ///
    /// # Safety
    ///
    /// They must be dropped before the device is unbound: they must not be forgotten.
    pub(crate) unsafe fn install(pdev: &'bound platform::Device<Core<'_>>, device: &Arc<Device>) -> Result<Self> {
        let resume = KBox::pin_init(power::Registration::new(device.clone()), GFP_KERNEL)?;
        let mut installed = Self { _resume: Some(resume), ..Self::default() };
        let handler = acpi::Registration::new(pdev.as_ref(), device.clone()).inspect_err(|_| {
            dev_err!(pdev.as_ref(), "ACPI takes no handler of its notifications\n");
        })?;
        if handler.is_some() {
            installed._acpi = handler;
        } else {
            // SAFETY: the interrupt is a part of the value that the caller does not forget.
            installed._interrupt = unsafe { interrupt(pdev, device) }?;
        }
        if installed._acpi.is_some() || installed._interrupt.is_some() {
            device.clock.will_be_notified();
        }
        Ok(installed)
    }
}

/// The interrupt, if there is one, of a page that has a use for it. One that is in the middle of an update may have.
///
/// # Safety
///
/// It must be dropped before the device is unbound: it must not be forgotten.
unsafe fn interrupt<'bound>(
    pdev: &'bound platform::Device<Core<'_>>,
    device: &Arc<Device>,
) -> Result<Option<Interrupt<'bound, Handler>>> {
    if device.clock.peek().is_some_and(|page| !page.notifies()) {
        return Ok(None);
    }
    let interrupt = pdev.optional_irq_by_index(0).and_then(|request| {
        // SAFETY: as the caller says.
        unsafe { Interrupt::new(request, c"vmclock", Handler(device.clone())) }
    });
    match interrupt {
        Ok(interrupt) => Ok(Some(interrupt)),
        // There is none.
        Err(error) if error == ENXIO => Ok(None),
        // There is one, perhaps later.
        Err(error) if error == EPROBE_DEFER || error == ENOMEM => Err(error),
        Err(error) => {
            dev_warn!(pdev.as_ref(), "its interrupt cannot be used ({error:?}): nobody is notified of updates\n");
            Ok(None)
        }
    }
}

impl acpi::Notify for Device {
    fn notify(&self, _value: u32) {
        self.updated();
    }
}

impl power::Resumed for Device {
    fn resumed(&self) {
        self.resumed();
    }
}

/// A handler of a device tree's interrupt.
struct Handler(Arc<Device>);

impl Interrupted for Handler {
    fn interrupted(&self) -> bool {
        self.0.interrupted()
    }
}
