// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! The device in every step of a machine's lifecycle.
#![cfg(not(loom))]

mod machine;

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::sync::atomic::Ordering;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmclock_core::abi::{ClockStatus, CounterId, Flags, LeapIndicator, Snapshot, TimeType, STRUCTURE_LEN};
use vmclock_core::calibration::Calibration;
use vmclock_core::event::Maintenance;
use vmclock_core::leap::UtcRule;
use vmclock_core::lifecycle::{Calibrated, LeapStatus};
use vmclock_vmm::device::{Arrival, Error, Events, Options};
use vmclock_vmm::memory::{PageMemory, Region};
use vmclock_vmm::state::{Identities, StateError};
use vmclock_vmm::{VmClockDevice, VmClockPage};

use machine::{
    arrived, bytes, calibration, guest, incoming, leap, options, region, relation, saved, seen, without_counter,
    Broken, Interrupt, PLACE,
};

#[test]
fn firecrackers_pages_byte_for_byte() {
    // Firecracker 1.15: magic, size, version, no counter; a generation, notifications; all else 0.
    let mut booted = [0; STRUCTURE_LEN];
    booted[..8].copy_from_slice(&[0x56, 0x43, 0x4c, 0x4b, 0x00, 0x10, 0, 0]);
    booted[8..12].copy_from_slice(&[1, 0, 0xff, 0]);
    booted[0x18..0x20].copy_from_slice(&0x300_u64.to_le_bytes());
    let memory = guest();
    let interrupt = Interrupt::default();
    let device = VmClockDevice::new(region(&memory), &interrupt, (), Options::compatible(), [99, 2]).expect("written");
    assert_eq!(bytes(&memory), booted);
    assert_eq!(interrupt.raised.get(), 0);

    let mut restored = booted;
    restored[0x0c] = 2;
    restored[0x10] = 1;
    restored[0x68] = 1;
    let state = device.save();
    let device = arrived(region(&memory), &interrupt, &state, Arrival::Restore, None, [99, 8]).expect("written");
    assert_eq!(bytes(&memory), restored);
    assert_eq!((interrupt.raised.get(), device.page().generation()), (1, Some(1)));
}

#[test]
fn staged_use() {
    let memory = guest();
    let interrupt = Interrupt::default();
    let mut device = VmClockDevice::new(region(&memory), &interrupt, (), options(), [1, 2]).expect("written");
    assert_eq!(seen(&memory).clock_status, ClockStatus::INITIALIZING);
    device.maintenance(Maintenance::Imminent).expect("written");
    assert_eq!(Maintenance::of(&seen(&memory)), Maintenance::Imminent);
    device.calibrate(&calibration(5, 1_800_000_000)).expect("written");
    device.leap_status(leap(37, LeapIndicator::PRE_POSITIVE)).expect("written");
    let page = seen(&memory);
    assert_eq!(
        (page.clock_status, page.tai_offset_sec, page.time_sec),
        (ClockStatus::SYNCHRONIZED, -37, 1_800_000_000)
    );
    device.distrust().expect("written");
    assert_eq!(seen(&memory).clock_status, ClockStatus::UNRELIABLE);
    assert_eq!(interrupt.raised.get(), 4);

    let mut signals = VmClockDevice::new(region(&memory), &interrupt, (), without_counter(), [1, 2]).expect("written");
    let error = signals.calibrate(&calibration(5, 1_800_000_000)).expect_err("no counter");
    assert!(error.to_string().contains("without a counter"), "{error}");
    assert!(matches!(device.calibrate(&calibration(5, -1)), Err(Error::BeforeEpoch)));
}

/// Where an offset changes, and the last second of the month is one too many: 2017-01-01 00:00:00 UTC.
const LEAP: i64 = 1_483_228_800;

/// UTC by what the guest sees, `seconds` after the leap second's end by a right clock.
fn utc(memory: &GuestMemoryMmap, seconds: i64) -> i64 {
    let page = seen(memory);
    let clock = Calibration::from_snapshot(&page, CounterId::X86_TSC).expect("a time");
    // In the middle of the second, as a period is rounded down.
    let time = clock.time_at(counter_at(LEAP + 37 + seconds) + 1_000_000_000).expect("in range");
    let utc = UtcRule::from_snapshot(&page).expect("UTC").utc(time).expect("in range");
    utc.time.seconds() - LEAP
}

#[test]
fn a_reset_takes_the_counter_that_the_guest_has_then() {
    let memory = guest();
    let mut device = VmClockDevice::new(region(&memory), (), (), options(), [1, 2]).expect("written");
    device.calibrate(&relation(4_000_000_000, 0, 0)).expect("written");
    let before = seen(&memory);
    // The guest wrote to its page.
    memory.write_slice(&[0xee; 32], GuestAddress(PLACE.0 + 0x30)).expect("inside");
    device.reset(None).expect("written");
    assert_eq!(seen(&memory), before.with(|page| page.seq_count = before.seq_count + 2), "as it was");
    device.reset(Some(&relation(0, 3_000_000_000, 0))).expect("written");
    let after = seen(&memory);
    assert_eq!((after.counter_value, after.time_sec), (0, 1_800_000_003));
    assert_eq!((after.disruption_marker, after.generation()), (before.disruption_marker, before.generation()));
    assert_eq!(after.seq_count, before.seq_count + 4);
}

#[test]
fn a_device_is_made_for_each_row_of_the_table() {
    const SECOND: u64 = 2_000_000_000;
    let memory = guest();
    let interrupt = Interrupt::default();
    let mut device = VmClockDevice::new(region(&memory), &interrupt, (), options(), [1, 2]).expect("written");
    device.calibrate(&relation(0, 0, 0)).expect("written");
    device.maintenance(Maintenance::Soon).expect("written");
    let (before, state) = (seen(&memory), device.save());
    let raised = interrupt.raised.get();

    let later = relation(SECOND, 1_000_000_000, 0);
    let stepped = relation(SECOND, 3_000_000_000, 0);
    let resumed = arrived(region(&memory), &interrupt, &state, Arrival::SameHost, None, [0, 0]).expect("written");
    let after = seen(&memory);
    assert_eq!(after.with(|page| page.seq_count = before.seq_count), before, "nothing happened");
    assert!(after.seq_count.wrapping_sub(before.seq_count) >> 31 == 0 && after.seq_count != before.seq_count);
    assert_eq!(interrupt.raised.get(), raised + 1);
    assert_eq!((resumed.is_consistent(&later, SECOND), resumed.is_consistent(&stepped, SECOND)), (true, false));
    let fresh = arrived(region(&memory), &interrupt, &state, Arrival::SameHost, Some(&later), [0, 0]).expect("written");
    assert_eq!(
        (fresh.page().disruption_marker, fresh.page().generation()),
        (before.disruption_marker, before.generation())
    );
    assert_eq!(seen(&memory).counter_value, SECOND);

    let clone = arrived(region(&memory), &interrupt, &state, Arrival::Clone, None, [0, 3]).expect("written");
    let after = seen(&memory);
    assert_ne!(after.generation(), before.generation());
    let same = after.with(|page| {
        page.seq_count = before.seq_count;
        page.vm_generation_counter = before.vm_generation_counter;
    });
    assert_eq!(same, before, "but for the generation");
    assert_eq!((clone.is_consistent(&later, SECOND), clone.is_consistent(&stepped, SECOND)), (true, false));
    let other = arrived(region(&memory), &interrupt, &state, Arrival::Clone, None, [0, 4]).expect("written");
    assert_ne!(other.page().generation(), clone.page().generation(), "siblings");

    // Published bounds outlive a process in which the clock was lost, too, but not a new marker.
    let mut lost = arrived(region(&memory), &interrupt, &state, Arrival::SameHost, None, [0, 0]).expect("written");
    lost.distrust().expect("written");
    let state = lost.save();
    let lost = arrived(region(&memory), &interrupt, &state, Arrival::SameHost, None, [0, 0]).expect("written");
    assert_eq!((lost.is_consistent(&later, SECOND), lost.is_consistent(&stepped, SECOND)), (true, false));
    assert_eq!(seen(&memory).clock_status, ClockStatus::UNRELIABLE);
    let elsewhere = arrived(region(&memory), &interrupt, &state, Arrival::Migration, None, [5, 0]).expect("written");
    assert!(elsewhere.is_consistent(&stepped, SECOND));
}

#[test]
fn a_device_that_only_signals_gets_a_counter_when_it_is_incoming() {
    let memory = guest();
    let signals = without_counter();
    for options in [signals, Options::compatible()] {
        let state = VmClockDevice::new(region(&memory), (), (), options, [1, 2]).expect("written").save();
        let known = calibration(5, 1_800_000_000);
        let refused =
            arrived(region(&memory), (), &state, Arrival::Restore, Some(&known), [3, 4]).expect_err("no counter");
        assert!(refused.to_string().contains("State::with_counter"), "{refused}");

        let full = state.with_counter(CounterId::X86_TSC).expect("it had none");
        arrived(region(&memory), (), &full, Arrival::Restore, Some(&known), [3, 4]).expect("written");
        let page = seen(&memory);
        assert_eq!((page.counter_id, page.time_type), (CounterId::X86_TSC, TimeType::TAI));
        assert_eq!((page.clock_status, page.time_sec), (ClockStatus::SYNCHRONIZED, 1_800_000_000));
        let migrated = arrived(region(&memory), (), &full, Arrival::Migration, None, [3, 0]).expect("written");
        assert_eq!(seen(&memory).clock_status, ClockStatus::INITIALIZING);
        // Once it has one, it keeps it.
        let state = migrated.save();
        assert_eq!(state.with_counter(CounterId::X86_TSC), Ok(state));
        let error = state.with_counter(CounterId::ARM_CNTVCT).expect_err("another");
        assert!(error.to_string().contains("x86-tsc, not arm-cntvct"), "{error}");
    }
    let state = VmClockDevice::new(region(&memory), (), (), signals, [1, 2]).expect("written").save();
    assert!(state.with_counter(CounterId(7)).is_err());
    assert_eq!(state.with_counter(CounterId::NONE), Ok(state));
}

#[test]
fn an_interrupt_that_fails_costs_no_device() {
    let memory = guest();
    let interrupt = Interrupt::default();
    interrupt.is_broken.set(true);
    let device =
        VmClockDevice::new(region(&memory), &interrupt, (), options(), [1, 2]).expect("no guest is notified yet");
    assert!(!device.is_behind());
    let state = device.save();
    let known = calibration(5, 1_800_000_000);
    let made = [
        arrived(region(&memory), &interrupt, &state, Arrival::Restore, None, [3, 4]),
        arrived(region(&memory), &interrupt, &state, Arrival::Restore, Some(&known), [3, 4]),
        arrived(region(&memory), &interrupt, &state, Arrival::Migration, Some(&known), [3, 0]),
        arrived(region(&memory), &interrupt, &state, Arrival::SameHost, Some(&known), [0, 0]),
        arrived(region(&memory), &interrupt, &state, Arrival::Clone, None, [0, 3]),
    ];
    for (device, raised) in made.into_iter().zip(1..) {
        let mut device = device.expect("made");
        assert!(device.is_behind());
        assert!(matches!(device.retry(), Err(Error::NotNotified(_))));
        interrupt.is_broken.set(false);
        device.retry().expect("it works again");
        assert_eq!((device.is_behind(), interrupt.raised.get()), (false, raised));
        interrupt.is_broken.set(true);
    }
    assert_eq!(seen(&memory).clock_status, ClockStatus::INITIALIZING, "the last of them");
}

#[test]
fn the_page_says_what_memory_and_trigger_are() {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x4_0000)]).expect("memory");
    let place = |len| VmClockPage::new(&memory, GuestAddress(0x1_0000), len).expect("inside");
    let page = || {
        let mut page = [0; STRUCTURE_LEN];
        memory.read_slice(&mut page, GuestAddress(0x1_0000)).expect("inside");
        Snapshot::from_prefix(&page).expect("a consistent page")
    };
    let interrupt = Interrupt::default();
    let device = VmClockDevice::new(place(0x1_0000), &interrupt, (), options(), [1, 2]).expect("written");
    assert_eq!((page().size, page().notifies()), (0x1_0000, true));

    // The destination has no interrupt; and then it has one.
    let quiet = arrived(place(0x1_0000), (), &device.save(), Arrival::Restore, None, [3, 4]).expect("written");
    assert_eq!((page().size, page().notifies(), interrupt.raised.get()), (0x1_0000, false, 0));
    arrived(place(0x1_0000), &interrupt, &quiet.save(), Arrival::Migration, None, [5, 0]).expect("written");
    assert_eq!((page().notifies(), interrupt.raised.get()), (true, 1));
    VmClockDevice::new(place(0x1000), (), (), options(), [1, 2]).expect("written");
    assert_eq!((page().size, page().notifies()), (0x1000, false));

    // A guest knows its region from its firmware.
    let other = arrived(place(0x1000), (), &device.save(), Arrival::Restore, None, [3, 4]).expect_err("shorter");
    assert!(matches!(other, Error::State(StateError::Region { found: 0x1_0000, memory: 0x1000 })));
    assert!(other.to_string().contains("make it as long as it was"), "{other}");
    for len in [0, 112, 0x2000, 1 << 32 | 0x1000] {
        let error = VmClockDevice::new(Long(len), (), (), options(), [1, 2]).expect_err("no region").to_string();
        assert!(error.contains(&format!("a region of {len:#x} bytes")), "{error}");
    }
}

/// A region of any length, in no memory.
#[derive(Debug)]
struct Long(u64);

impl PageMemory for Long {
    type Error = Broken;

    fn store_u32(&self, _: u64, _: u32, _: Ordering) -> Result<(), Broken> {
        panic!("it was checked before")
    }

    fn store_u64(&self, _: u64, _: u64, _: Ordering) -> Result<(), Broken> {
        panic!("it was checked before")
    }
}

impl Region for Long {
    fn region_len(&self) -> u64 {
        self.0
    }

    fn load_u32(&self, _: u64, _: Ordering) -> Result<u32, Broken> {
        panic!("it was checked before")
    }
}

/// The guest's counter at a second of TAI.
fn counter_at(tai: i64) -> u64 {
    2_000_000_000 * u64::try_from(tai).expect("after 1970")
}

#[test]
fn utc_changes_with_the_time_that_it_belongs_to() {
    let memory = guest();
    let mut device = VmClockDevice::new(region(&memory), (), (), options(), [1, 2]).expect("written");
    let on = |tai| calibration(counter_at(tai), tai);
    let (before, after) = (LEAP - 10 + 36, LEAP + 10 + 37);
    let announced = Calibrated { leap: leap(36, LeapIndicator::PRE_POSITIVE), ..on(before) };
    device.calibrate(&announced).expect("written");
    assert_eq!(utc(&memory, 10), 10, "by the announcement");
    let sequence = seen(&memory).seq_count;
    let over = Calibrated { leap: leap(37, LeapIndicator::POST_POSITIVE), ..on(after) };
    device.calibrate(&over).expect("written");
    assert_eq!((utc(&memory, 10), seen(&memory).seq_count), (10, sequence + 2), "in one update");

    // From before the leap second to long after it.
    device.calibrate(&announced).expect("written");
    device.maintenance(Maintenance::Soon).expect("written");
    let state = device.save();
    let month = 40 * 86_400;
    arrived(region(&memory), (), &state, Arrival::Restore, Some(&on(after + month)), [7, 8]).expect("written");
    let page = seen(&memory);
    assert_eq!((utc(&memory, 10 + month), page.leap_indicator), (10 + month, LeapIndicator::NONE));
    let unknown = Calibrated { leap: LeapStatus::UNKNOWN, ..on(after + month) };
    for calibration in [None, Some(&unknown)] {
        for is_restored in [false, true] {
            incoming(&memory, &state, calibration, is_restored.then_some(8)).expect("written");
            let page = seen(&memory);
            assert_eq!((page.tai_offset(), page.leap_indicator), (None, LeapIndicator::NONE), "the old host's");
            assert!(!page.flags.contains(Flags::TAI_OFFSET_VALID));
            assert_eq!((page.tai_offset_sec, Maintenance::of(&page)), (0, Maintenance::None));
            assert_eq!(page.clock_status.gives_time(), calibration.is_some());
        }
    }
}

#[test]
fn a_calibration_is_consistent_only_inside_the_published_bounds() {
    const SECOND: u64 = 2_000_000_000;
    let memory = guest();
    let mut device = VmClockDevice::new(region(&memory), (), (), options(), [1, 2]).expect("written");
    assert!(device.is_consistent(&relation(0, -77, 500_000), SECOND), "no bounds are published yet");
    // Published: 500 ns, and 15 us more for each second.
    device.calibrate(&relation(0, 0, 0)).expect("written");
    for (counter, nanos, ppm, now, is_consistent) in [
        (SECOND, 1_000_000_000, 0, SECOND, true),
        (SECOND, 1_000_015_400, 0, SECOND, false), // at the old reference
        (SECOND, 1_000_000_400, 0, SECOND, true),
        (SECOND, 999_999_400, 0, SECOND, false),
        (SECOND, 1_000_014_000, 14, SECOND, true),
        (SECOND, 1_000_014_000, 14, 10 * SECOND, true),
        // It runs out of the bounds between its reference and when it is published.
        (SECOND / 100, 10_000_640, 110, SECOND / 100, true),
        (SECOND / 100, 10_000_640, 110, SECOND, false),
        // It is a refresh from before the last, and right there, but not now.
        (0, 0, 30, SECOND, false),
        (0, 499, 0, SECOND, true),
        (0, 501, 0, SECOND, false),
        // A reference that is ahead is checked, too.
        (2 * SECOND, 2_000_060_000, 30, 0, false),
        (0, -3_000_000_000_000_000_000, 0, SECOND, false), // before 1970
    ] {
        let next = relation(counter, nanos, ppm);
        assert_eq!(device.is_consistent(&next, now), is_consistent, "{nanos} ns at {counter}, {ppm} ppm, now {now}");
    }
    // The old one's bounds are what matters, not the new one's.
    let stepped = relation(SECOND, 2_000_000_000, 0);
    let vague = Calibrated { calibration: stepped.calibration.with_max_error(u64::MAX, 0), ..stepped };
    assert!(!device.is_consistent(&vague, SECOND));

    // The clock was lost, and was back with a step of a second.
    let (stepped, right) = (relation(SECOND, 2_000_000_000, 0), relation(SECOND, 1_000_000_000, 0));
    device.distrust().expect("written");
    device.pause().expect("nothing to do");
    device.resume(None).expect("nothing to do");
    device.clone_running(3).expect("written");
    let lost = Calibrated { status: ClockStatus::UNRELIABLE, ..stepped };
    // It is the relation that is judged, whether a guest is to have time by it or not.
    let quiet = Calibrated { status: ClockStatus::UNRELIABLE, ..right };
    assert_eq!((device.is_consistent(&lost, SECOND), device.is_consistent(&quiet, SECOND)), (false, true));
    device.calibrate(&lost).expect("written");
    assert_eq!((device.is_consistent(&stepped, SECOND), device.is_consistent(&right, SECOND)), (false, true));
    device.disrupt(4).expect("written");
    assert!(device.is_consistent(&stepped, SECOND), "no bounds were published of this counter");
    device.calibrate(&stepped).expect("written");
    assert_eq!((device.is_consistent(&stepped, SECOND), device.is_consistent(&right, SECOND)), (true, false));
}

#[test]
fn a_snapshot_in_the_middle_of_an_update_restores_to_a_consistent_page() {
    let memory = guest();
    let mut device = VmClockDevice::new(region(&memory), (), (), options(), [1, 2]).expect("written");
    device.calibrate(&calibration(5, 1_800_000_000)).expect("written");
    let state = device.save();
    // The memory was copied when the count was odd, and some words were new.
    memory.store(7_u32.to_le(), GuestAddress(PLACE.0 + 0x0c), Ordering::Relaxed).expect("inside");
    memory.write_slice(&[0xee; 32], GuestAddress(PLACE.0 + 0x30)).expect("inside");
    arrived(region(&memory), (), &state, Arrival::Restore, None, [2, 8]).expect("written");
    let page = seen(&memory);
    assert_eq!((page.seq_count & 1, page.clock_status), (0, ClockStatus::INITIALIZING));
    assert!(page.seq_count.wrapping_sub(7) >> 31 == 0, "further on than what the guest may have seen");
}

#[test]
fn no_update_leaves_the_sequence_count_at_0() {
    for options in [options(), Options::compatible()] {
        let memory = guest();
        let mut state = VmClockDevice::new(region(&memory), (), (), options, [1, 2]).expect("written").save();
        for count in [u32::MAX - 3, u32::MAX - 1, 0xefff_fffc, 0xefff_fffe, 0xf000_0000, 0] {
            let low_half = state.page[1] & u64::from(u32::MAX);
            state.page[1] = u64::from(count) << 32 | low_half;
            let mut device = arrived(region(&memory), (), &state, Arrival::Restore, None, [3, 4]).expect("written");
            for fresh in 0..3 {
                let before = seen(&memory).seq_count;
                assert!(before != 0 && before.is_multiple_of(2), "{count:#x}: {before:#x}");
                device.disrupt(fresh).expect("written");
                assert_ne!(seen(&memory).seq_count, before);
            }
        }
    }
}

#[test]
fn siblings_and_their_parent_never_share_an_identity() {
    let memory = guest();
    let parent = VmClockDevice::new(region(&memory), (), (), options(), [1, 2]).expect("written");
    let mut known = HashSet::from([parent.page().disruption_marker, parent.page().vm_generation_counter]);
    let state = parent.save();
    for sibling in 0..1000 {
        let fresh = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(sibling + 1);
        let device = arrived(region(&memory), (), &state, Arrival::Restore, None, [fresh, !fresh]).expect("written");
        for value in [device.page().disruption_marker, device.page().vm_generation_counter] {
            assert!(known.insert(value), "{value:#x} is there twice");
        }
    }
}

#[test]
fn marker_and_generation_are_drawn_apart() {
    let (memory, state) = (guest(), saved());
    let identity = |fresh| {
        let device = arrived(region(&memory), (), &state, Arrival::Restore, None, fresh).expect("written");
        (device.page().disruption_marker, device.page().vm_generation_counter)
    };
    let (one, same_marker, same_generation) = (identity([1, 2]), identity([1, 3]), identity([4, 2]));
    assert!(one.0 == same_marker.0 && one.1 != same_marker.1);
    assert!(one.0 != same_generation.0 && one.1 == same_generation.1);
}

#[test]
fn an_interrupt_that_fails_is_raised_later() {
    let memory = guest();
    let interrupt = Interrupt::default();
    let mut device = VmClockDevice::new(region(&memory), &interrupt, (), options(), [1, 2]).expect("written");
    interrupt.is_broken.set(true);
    assert!(matches!(device.disrupt(2), Err(Error::NotNotified(_))));
    assert_eq!(&seen(&memory), device.page(), "the page is as it should be");
    assert!(device.is_behind());
    interrupt.is_broken.set(false);
    device.retry().expect("it works again");
    assert_eq!((interrupt.raised.get(), device.is_behind()), (1, false));
    let sequence = device.page().seq_count;
    device.retry().expect("nothing is left to do");
    assert_eq!((device.page().seq_count, device.trigger().raised.get()), (sequence, 1));
    // The interrupt controller was loaded later than the device.
    device.notify().expect("raised");
    assert_eq!((device.page().seq_count, device.trigger().raised.get()), (sequence, 2));
    interrupt.is_broken.set(true);
    assert!(matches!(device.notify(), Err(Error::NotNotified(_))) && device.is_behind());
    let mut quiet = VmClockDevice::new(region(&memory), (), (), options(), [1, 2]).expect("written");
    quiet.notify().expect("nobody to notify");
    assert!(!quiet.is_behind());
}

/// Keeps what it sees.
#[derive(Default)]
struct Seen {
    pages: RefCell<Vec<Snapshot>>,
    failures: Cell<u32>,
}

impl Events for Seen {
    fn updated(&self, page: &Snapshot) {
        self.pages.borrow_mut().push(*page);
    }

    fn failed(&self) {
        self.failures.set(self.failures.get() + 1);
    }
}

#[test]
fn each_update_and_each_failure_is_seen() {
    let (memory, interrupt, observer) = (guest(), Interrupt::default(), Seen::default());
    let mut device = VmClockDevice::new(region(&memory), &interrupt, &observer, options(), [1, 2]).expect("written");
    device.calibrate(&calibration(5, 1_800_000_000)).expect("written");
    assert_eq!((device.events().pages.borrow().len(), observer.failures.get()), (2, 0));
    assert_eq!(observer.pages.borrow().last(), Some(device.page()));
    interrupt.is_broken.set(true);
    assert!(device.disrupt(3).is_err());
    assert_eq!((observer.pages.borrow().len(), observer.failures.get()), (3, 1));
}

#[test]
fn identities_are_as_secret_as_they_have_to_be() {
    let options = options();
    assert!(matches!(options.identities, Identities::Unpredictable(_)));
    assert!(!format!("{options:?}").contains("[1, 2]"));
}
