// SPDX-License-Identifier: GPL-2.0
//! A driver for VMClock: the page in which a hypervisor tells how the CPU's counter relates to real time, that it was
//! disrupted, and that the machine was restored.
//!
//! | module | what it is |
//! |---|---|
//! | [`region`] | the memory of the page: found, checked, mapped |
//! | [`clock`] | the page as everyone here reads it |
//! | [`device`] | the bound device: what userspace sees, and what is done on an update |
//! | [`chardev`] | `/dev/vmclockN`: read, mmap, poll |
//! | [`ptp`] | the PTP clock, in TAI |
//! | [`attributes`] | sysfs |
//! | [`notify`] | how the hypervisor tells of updates |
//! | [`compat`] | what differs between series of Linux |
//! | [`upstream`] | what the `kernel` crate lacks, and nothing about VMClocks |
//!
//! Layout and arithmetic are `vmclock_core`'s, the same source that programs use. Nothing that the page says can stop
//! the kernel: what is wrong is refused.

use kernel::{acpi, device::Core, of, platform, prelude::*, sync::Arc};

mod attributes;
mod chardev;
mod clock;
mod compat;
mod device;
mod notify;
mod ptp;
mod region;
mod upstream;

/// The driver as the kernel knows it.
struct Driver;

/// What is bound to a device. Dropped when it is unbound.
struct Bound<'bound> {
    notifications: notify::Notifications<'bound>,
    device: Arc<device::Device>,
}

impl Drop for Bound<'_> {
    fn drop(&mut self) {
        // In this order: whoever is notified queues work, which leaving cancels.
        self.notifications = notify::Notifications::default();
        self.device.leave();
    }
}

compat::of_device_table!(OF_TABLE, MODULE_OF_TABLE, (), [(of::DeviceId::new(c"amazon,vmclock"), ())]);

compat::acpi_device_table!(
    ACPI_TABLE,
    MODULE_ACPI_TABLE,
    (),
    [(acpi::DeviceId::new(c"AMZNC10C"), ()), (acpi::DeviceId::new(c"VMCLOCK"), ())]
);

impl platform::Driver for Driver {
    type IdInfo = ();
    type Data<'bound> = Bound<'bound>;
    const OF_ID_TABLE: Option<of::IdTable<Self::IdInfo>> = Some(&OF_TABLE);
    const ACPI_ID_TABLE: Option<acpi::IdTable<Self::IdInfo>> = Some(&ACPI_TABLE);

    fn probe<'bound>(
        pdev: &'bound platform::Device<Core<'_>>,
        _info: Option<&'bound Self::IdInfo>,
    ) -> impl PinInit<Bound<'bound>, Error> + 'bound {
        let dev = pdev.as_ref();
        let region = region::Region::of(pdev)?;
        let device = device::Device::new(dev, region)?;
        // From here on `Bound` takes care that everything ends.
        let mut driver = Bound { notifications: notify::Notifications::default(), device };
        // SAFETY: nobody forgets `driver`: it is dropped here, or by the kernel when the device is unbound.
        driver.notifications = unsafe { notify::Notifications::install(pdev, &driver.device) }?;
        driver.device.as_arc_borrow().begin()?;
        Ok(driver)
    }
}

/// The module, whose parameters are looked at before there is a driver.
#[pin_data]
struct Module {
    #[pin]
    _driver: kernel::driver::Registration<platform::Adapter<Driver>>,
}

impl kernel::InPlaceModule for Module {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            _: {
                let mode = compat::value(&module_parameters::mode);
                if !(1..=0o777).contains(&mode) {
                    pr_err!("mode={mode:#o} is not allowed: give the device's permissions, such as mode=0444\n");
                    return Err(EINVAL);
                }
            },
            _driver <- kernel::driver::Registration::new(<Self as kernel::ModuleMetadata>::NAME, module),
        })
    }
}

module! {
    type: Module,
    name: "ptp_vmclock_rust",
    authors: ["The vmclock authors"],
    description: "VMClock: time and its disruptions in a virtual machine",
    license: "GPL v2",
    params: {
        mode: u16 {
            default: 0o600,
            description: "Permissions of /dev/vmclockN (default 0600, for root only)",
        },
    },
}
