// SPDX-License-Identifier: GPL-2.0
//! What differs between the series of Linux that the driver is written for: 7.2 and 7.3.
//!
//! `Kbuild` sets `linux_7_3` from Linux 7.3 on. Nothing else in this driver depends on the kernel's
//! version. When 7.2 is no longer supported, the lines with `not(linux_7_3)` go.

use kernel::bindings;
use kernel::irq::{Flags, IrqRequest, IrqReturn};
use kernel::module_param::ModuleParamAccess;
use kernel::prelude::*;

/// The module as C structures name their owner.
pub(crate) const fn this_module() -> *mut bindings::module {
    #[cfg(linux_7_3)]
    let module = kernel::module::this_module::<crate::LocalModule>();
    #[cfg(not(linux_7_3))]
    let module = &crate::THIS_MODULE;
    module.as_ptr()
}

/// A module parameter's value.
pub(crate) fn value<T: Copy>(parameter: &ModuleParamAccess<T>) -> T {
    #[cfg(linux_7_3)]
    return parameter.value();
    #[cfg(not(linux_7_3))]
    return *parameter.value();
}

/// A table of identifiers in device trees: its name, a name for the copy that `modpost` reads, which
/// is not needed since 7.3, and the rest of what the kernel's macro takes.
macro_rules! of_device_table {
    ($table:ident, $copy:ident, $($rest:tt)*) => {
        #[cfg(linux_7_3)]
        ::kernel::of_device_table!($table, $($rest)*);
        #[cfg(not(linux_7_3))]
        ::kernel::of_device_table!($table, $copy, $($rest)*);
    };
}
pub(crate) use of_device_table;

/// The same for ACPI.
macro_rules! acpi_device_table {
    ($table:ident, $copy:ident, $($rest:tt)*) => {
        #[cfg(linux_7_3)]
        ::kernel::acpi_device_table!($table, $($rest)*);
        #[cfg(not(linux_7_3))]
        ::kernel::acpi_device_table!($table, $copy, $($rest)*);
    };
}
pub(crate) use acpi_device_table;

/// What is done on an interrupt.
pub(crate) trait Interrupted: Send + Sync + 'static {
    /// Called in interrupt context: it must not sleep. Whether the interrupt was its device's: others may share it.
    fn interrupted(&self) -> bool;
}

fn answer(is_ours: bool) -> IrqReturn {
    if is_ours {
        IrqReturn::Handled
    } else {
        IrqReturn::None
    }
}

/// An [`Interrupted`] as the kernel's handler.
pub(crate) struct Handler<T>(T);

impl<T: Interrupted> kernel::irq::Handler for Handler<T> {
    #[cfg(linux_7_3)]
    fn handle(&self) -> IrqReturn {
        answer(self.0.interrupted())
    }

    #[cfg(not(linux_7_3))]
    fn handle(&self, _dev: &kernel::device::Device<kernel::device::Bound>) -> IrqReturn {
        answer(self.0.interrupted())
    }
}

#[cfg(linux_7_3)]
type Registration<'bound, T> = kernel::irq::Registration<'bound, Handler<T>>;
#[cfg(not(linux_7_3))]
type Registration<'bound, T> = kernel::irq::Registration<Handler<T>>;

/// An interrupt that is handled until this is dropped.
pub(crate) struct Interrupt<'bound, T: Interrupted> {
    _registration: Pin<KBox<Registration<'bound, T>>>,
    /// Before 7.3 the registration itself does not depend on it.
    _device: core::marker::PhantomData<&'bound ()>,
}

impl<'bound, T: Interrupted> Interrupt<'bound, T> {
    /// Has an interrupt handled from now on, which may be shared with other devices.
    ///
    /// # Safety
    ///
    /// It must be dropped before the device is unbound: it must not be forgotten.
    pub(crate) unsafe fn new(request: IrqRequest<'bound>, name: &'static CStr, handler: T) -> Result<Self> {
        let handler = Ok::<_, Error>(Handler(handler));
        #[cfg(linux_7_3)]
        // SAFETY: as the caller says, since the registration is a part of what is not forgotten.
        let registration = unsafe { kernel::irq::Registration::new(request, Flags::SHARED, name, handler) };
        #[cfg(not(linux_7_3))]
        let registration = kernel::irq::Registration::new(request, Flags::SHARED, name, handler);
        let registration = KBox::pin_init(registration, GFP_KERNEL)?;
        Ok(Self { _registration: registration, _device: core::marker::PhantomData })
    }
}
