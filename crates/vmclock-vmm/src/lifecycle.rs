// SPDX-License-Identifier: MIT OR Apache-2.0
//! What each step of a machine's life does to what its page says: the table of UAPI.13, and nothing else.
//! [`Device`](crate::device::Device) makes updates of it; so can whoever keeps a page in another way.
//!
//! Markers and generations are the caller's to make, never used before in the machine's lineage.
//!
//! ```
//! use vmclock_core::abi::{ClockStatus, CounterId, Snapshot};
//! use vmclock_vmm::lifecycle::{arrived, Came};
//!
//! let mut page = Snapshot { counter_id: CounterId::X86_TSC, clock_status: ClockStatus::SYNCHRONIZED, ..Snapshot::BLANK };
//! arrived(&mut page, Came::FromAnotherHost, 7);
//! assert_eq!((page.disruption_marker, page.vm_generation_counter), (7, 0));
//! assert_eq!(page.clock_status, ClockStatus::INITIALIZING); // of this host's clock nothing is known yet
//! ```

use vmclock_core::abi::{ClockStatus, CounterId, Flags, LeapIndicator, Snapshot};
use vmclock_core::event::Maintenance;

/// How far a machine that came from elsewhere is ahead of the sequence count that it came with: its source may have
/// gone on publishing after the memory was copied, for 37 hours at one update each millisecond.
const SEQUENCE_AHEAD: u32 = 1 << 28;

/// Where a machine came from that did not boot here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Came {
    /// A live migration: it is the only one of its kind.
    FromAnotherHost,
    /// A snapshot, a backup, an image: there may be others like it. With the new generation.
    OutOfSavedState(u64),
}

/// A machine came, and does not run yet: `marker` is new, and time, UTC and announcements were the other host's.
pub fn arrived(page: &mut Snapshot, came: Came, marker: u64) {
    disrupted(page, marker);
    if let Came::OutOfSavedState(generation) = came {
        page.vm_generation_counter = generation;
    }
    announced(page, Maintenance::None);
    scaled(page, None, LeapIndicator::NONE);
}

/// The counter was disturbed: `marker` is new, and there is no time until there is a calibration.
pub fn disrupted(page: &mut Snapshot, marker: u64) {
    page.disruption_marker = marker;
    page.clock_status = without_time(page.counter_id);
}

/// The machine was cloned while it runs, on one host: `generation` is new, and the clock goes on.
pub fn cloned(page: &mut Snapshot, generation: u64) {
    page.vm_generation_counter = generation;
}

/// A disruption is announced, comes nearer, or is off.
pub fn announced(page: &mut Snapshot, maintenance: Maintenance) {
    let (soon, imminent) = (Flags::DISRUPTION_SOON, Flags::DISRUPTION_IMMINENT);
    let flags = page.flags.without(soon).without(imminent);
    page.flags = match maintenance {
        Maintenance::None => flags,
        Maintenance::Soon => flags.with(soon),
        Maintenance::Imminent => flags.with(soon).with(imminent),
    };
}

/// The time is not to be trusted any more, though the counter was not disturbed.
pub fn distrusted(page: &mut Snapshot) {
    if page.clock_status.gives_time() {
        page.clock_status = ClockStatus::UNRELIABLE;
    }
}

/// UTC - TAI in seconds, where it is known, and what is known of a leap second nearby; both at the page's reference
/// time.
pub fn scaled(page: &mut Snapshot, utc_minus_tai: Option<i16>, indicator: LeapIndicator) {
    page.tai_offset_sec = utc_minus_tai.unwrap_or(0);
    page.leap_indicator = indicator;
    let flags = page.flags.without(Flags::TAI_OFFSET_VALID);
    page.flags = if utc_minus_tai.is_some() { flags.with(Flags::TAI_OFFSET_VALID) } else { flags };
}

/// The status before anything is known of the time.
pub(crate) const fn without_time(counter: CounterId) -> ClockStatus {
    match counter {
        CounterId::NONE => ClockStatus::UNKNOWN,
        _ => ClockStatus::INITIALIZING,
    }
}

/// An even sequence count that no guest has seen whose memory came with the count `seen`, on its way from another host
/// or in a file.
pub const fn unseen_after(seen: u32) -> u32 {
    (seen | 1).wrapping_add(1).wrapping_add(SEQUENCE_AHEAD)
}

/// The later of two wrapping sequence counts.
pub const fn later(one: u32, other: u32) -> u32 {
    if other.wrapping_sub(one) >> 31 == 0 {
        other
    } else {
        one
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_without_a_counter_gains_no_status() {
        let mut page = Snapshot { counter_id: CounterId::NONE, ..Snapshot::BLANK };
        arrived(&mut page, Came::OutOfSavedState(9), 7);
        assert_eq!((page.clock_status, page.vm_generation_counter), (ClockStatus::UNKNOWN, 9));
        distrusted(&mut page);
        assert_eq!(page.clock_status, ClockStatus::UNKNOWN);
    }

    #[test]
    fn sequence_counts_go_on_around_the_end_too() {
        for (one, other, expected) in [(4, 6, 6), (6, 4, 6), (5, 5, 5), (u32::MAX - 1, 2, 2), (2, u32::MAX - 1, 2)] {
            assert_eq!(later(one, other), expected, "{one} {other}");
        }
        assert_eq!(unseen_after(5), 6 + SEQUENCE_AHEAD);
        assert_eq!(unseen_after(u32::MAX), SEQUENCE_AHEAD);
    }
}
