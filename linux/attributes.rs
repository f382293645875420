// SPDX-License-Identifier: GPL-2.0
//! Attributes of the device node in sysfs (`/sys/class/misc/vmclockN`), readable by everyone.

use core::fmt::Write;
use core::ptr::null_mut;

use kernel::bindings;
use kernel::ffi::c_char;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::str::Formatter;
use vmclock_core::abi::Snapshot;

use crate::chardev::CharDevice;

type Text = Formatter<'static>;

/// Writes one attribute. `Ok(false)` where the page does not have it.
type Show = fn(&Snapshot, &mut Text) -> Result<bool, kernel::fmt::Error>;

struct Shared<T>(T);

// SAFETY: they are never changed, neither here nor by sysfs.
unsafe impl<T> Sync for Shared<T> {}

macro_rules! attributes {
    ($($name:ident, $text:literal: $show:expr;)*) => {
        $(
            static $name: Shared<bindings::device_attribute> = {
                /// # Safety
                ///
                /// To be called by sysfs, for a device of ours.
                unsafe extern "C" fn call(
                    dev: *mut bindings::device,
                    _attribute: *mut bindings::device_attribute,
                    to: *mut c_char,
                ) -> isize {
                    const SHOW: Show = $show;
                    // SAFETY: as the caller says; sysfs waits for this before the device is removed.
                    unsafe { show(dev, to, SHOW) }
                }
                Shared(bindings::device_attribute {
                    attr: bindings::attribute {
                        name: kernel::str::as_char_ptr_in_const_context($text),
                        mode: 0o444,
                        // There is more where locks are watched.
                        ..pin_init::zeroed()
                    },
                    __bindgen_anon_1: bindings::device_attribute__bindgen_ty_1 { show: Some(call) },
                    ..pin_init::zeroed()
                })
            };
        )*

        static LIST: Shared<[*mut bindings::attribute; 1 + [$(stringify!($name)),*].len()]> =
            Shared([$((&raw const $name.0.attr).cast_mut(),)* null_mut()]);
    };
}

attributes! {
    MARKER, c"marker": |page, text| writeln!(text, "{:#018x}", page.disruption_marker).map(|()| true);
    GENERATION, c"generation": |page, text| match page.generation() {
        Some(generation) => writeln!(text, "{generation:#018x}").map(|()| true),
        None => Ok(false),
    };
    STATUS, c"status": |page, text| writeln!(text, "{}", page.clock_status).map(|()| true);
    TAI_OFFSET, c"tai_offset": |page, text| match page.tai_offset() {
        Some(offset) => writeln!(text, "{offset}").map(|()| true),
        None => Ok(false),
    };
    TIME_TYPE, c"time_type": |page, text| writeln!(text, "{}", page.time_type).map(|()| true);
}

static GROUP: Shared<bindings::attribute_group> = Shared(bindings::attribute_group {
    __bindgen_anon_2: bindings::attribute_group__bindgen_ty_2 { attrs: (&raw const LIST.0).cast_mut().cast() },
    ..pin_init::zeroed()
});

static GROUPS: Shared<[*const bindings::attribute_group; 2]> = Shared([&raw const GROUP.0, core::ptr::null()]);

/// For the device node.
pub(crate) fn groups() -> *mut *const bindings::attribute_group {
    (&raw const GROUPS.0).cast_mut().cast()
}

/// # Safety
///
/// `dev` must be a device node's of ours, and `to` be sysfs' page.
unsafe fn show(dev: *mut bindings::device, to: *mut c_char, show: Show) -> isize {
    // SAFETY: as the caller says.
    let (clock, to) =
        unsafe { (CharDevice::clock_of(dev), core::slice::from_raw_parts_mut(to.cast::<u8>(), PAGE_SIZE)) };
    let page = match clock.snapshot() {
        Ok(page) => page,
        Err(error) => return error.to_errno() as isize,
    };
    let mut text = Formatter::new(to);
    match show(&page, &mut text) {
        Ok(true) => text.bytes_written() as isize,
        Ok(false) => -(bindings::ENODATA as isize),
        Err(_) => EIO.to_errno() as isize,
    }
}
