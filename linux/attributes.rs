// SPDX-License-Identifier: GPL-2.0
//! What sysfs has of the clock: `/sys/class/misc/vmclockN/*`, for everyone to read. Nobody waits here: while the page
//! is being updated, it is as it was before.

use core::fmt::{Display, Write};

use kernel::bindings;
use kernel::prelude::*;
use vmclock_core::tai::TaiOffset;

use crate::chardev::CharDevice;
use crate::upstream::sysfs::{self, Text};

sysfs::attributes! {
    ATTRIBUTES of CharDevice {
        c"marker": |device, text| hexadecimal(text, Some(device.0.attributes()?.disruption_marker)),
        c"generation": |device, text| hexadecimal(text, device.0.attributes()?.generation()),
        c"status": |device, text| line(text, Some(device.0.attributes()?.clock_status)),
        c"tai_offset": |device, text| line(text, device.0.attributes()?.tai_offset().map(TaiOffset::page_field)),
        c"time_type": |device, text| line(text, Some(device.0.attributes()?.time_type)),
    }
}

fn hexadecimal(text: &mut Text<'_>, value: Option<u64>) -> Result {
    writeln!(text, "{:#018x}", value.ok_or(no_data())?).map_err(|_| EIO)
}

fn line(text: &mut Text<'_>, value: Option<impl Display>) -> Result {
    writeln!(text, "{}", value.ok_or(no_data())?).map_err(|_| EIO)
}

/// The page does not have it.
fn no_data() -> Error {
    Error::from_errno(-(bindings::ENODATA as i32))
}
