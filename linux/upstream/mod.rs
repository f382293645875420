// SPDX-License-Identifier: GPL-2.0
//! What the `kernel` crate of Linux 7.2 and 7.3 lacks. Nothing in here knows of VMClocks: each module has the shape in
//! which it could become one of that crate's.
//!
//! | module | what it is |
//! |---|---|
//! | [`acpi`] | notifications for a device |
//! | [`memremap`] | memory that is not the kernel's own, mapped cacheable |
//! | [`miscdevice`] | device nodes with a name made at run time, with permissions, attributes, read(2), mmap(2), poll(2), and uevents |
//! | [`power`] | the end of the system's sleep |
//! | [`ptp`] | PTP clocks |
//! | [`sysfs`] | attributes of a device node |
//! | [`timekeeping`] | the system's clocks, and what they are made of |
//! | [`workqueue`] | work that can be put off, and cancelled for good |
//! | [`bindings`] | generated of `helpers.h` |

pub(crate) mod acpi;
pub(crate) mod bindings;
pub(crate) mod memremap;
pub(crate) mod miscdevice;
pub(crate) mod power;
pub(crate) mod ptp;
pub(crate) mod sysfs;
pub(crate) mod timekeeping;
pub(crate) mod workqueue;

/// The C structure of a device.
fn raw(dev: &kernel::device::Device) -> *mut kernel::bindings::device {
    // `kernel::device::Device` is a transparent wrapper of it.
    core::ptr::from_ref(dev).cast_mut().cast()
}
