// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is valid in a page, and still not as it should be.

use std::fmt;

use vmclock::Snapshot;
use vmclock_core::abi::{CounterId, Flags, STRUCTURE_LEN};
use vmclock_core::calibration::Calibration;
use vmclock_core::counter;

/// Something that is valid in a page, and still not as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Anomaly {
    /// What it is about.
    pub about: About,
    text: String,
}

/// What an anomaly is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum About {
    /// The page gives no time.
    Time,
    /// It gives one without bounds.
    Bounds,
    /// Anything else.
    Contents,
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What is valid in a page, and still not as it should be.
///
/// ```
/// let page = vmclock::mock::MockPage::new().contents();
/// assert!(vmclock_doctor::anomaly::anomalies(&page).is_empty());
/// ```
pub fn anomalies(page: &Snapshot) -> Vec<Anomaly> {
    let mut found = Vec::new();
    // Firecracker's and QEMU's own devices have no counter, and begin with a generation of 0: they signal events, and
    // nothing is wrong with that.
    let signals_events = page.counter_id == CounterId::NONE;
    if let (Err(reason), false) = (Calibration::from_snapshot(page, counter::ID), signals_events) {
        found.push(Anomaly { about: About::Time, text: reason.to_string() });
    } else if !signals_events && (page.time_maxerror().is_none() || page.period_maxerror().is_none()) {
        let text = "no maximum error of both time and period: readings have no bounds".into();
        found.push(Anomaly { about: About::Bounds, text });
    }
    let mut note = |when: bool, text: String| {
        if when {
            found.push(Anomaly { about: About::Contents, text });
        }
    };
    let size = page.size as usize;
    note(
        size < STRUCTURE_LEN,
        format!("the size, {size}, is smaller than the structure's {STRUCTURE_LEN} bytes: what lies beyond is absent"),
    );
    note(size < 4096, format!("the size, {size}, is less than 4096: Linux offers no device node for it"));
    note(
        page.tai_offset_has_wrong_sign(),
        format!("tai_offset_sec is {:+}, the wrong sign; taken as {:+}", page.tai_offset_sec, -page.tai_offset_sec),
    );
    let invalid_offset = page.flags.contains(Flags::TAI_OFFSET_VALID) && page.tai_offset().is_none();
    note(invalid_offset, format!("tai_offset_sec is {}, which no offset can be: taken as absent", page.tai_offset_sec));
    note(
        page.leap_indicator.name().is_none(),
        format!("leap_indicator is {}, which has no meaning: UTC is unknown", page.leap_indicator.0),
    );
    note(
        page.clock_status.name().is_none(),
        format!("clock_status is {}, which has no meaning: no time", page.clock_status.0),
    );
    note(page.flags.unknown() != Flags::NONE, format!("unknown flags {:#x}: ignored", page.flags.unknown().0));
    note(page.pad != [0, 0], format!("the padding holds {:?}", page.pad));
    note(page.generation() == Some(0) && !signals_events, "vm_generation_counter is present but 0".into());
    found
}
