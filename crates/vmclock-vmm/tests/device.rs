// SPDX-License-Identifier: MIT OR Apache-2.0
//! The device in every step of a machine's life, also where memory or interrupts fail.
#![cfg(not(loom))]

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::num::NonZeroU64;
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmclock_core::abi::{ClockStatus, CounterId, Flags, LeapIndicator, Snapshot, TimeType, STRUCTURE_LEN};
use vmclock_core::calibration::Period;
use vmclock_core::event::{changes, Maintenance};
use vmclock_core::leap::UtcRule;
use vmclock_core::time::{Interval, PageScale, Span, Tai, Time};
use vmclock_vmm::device::{Calibration, Device, Error, Events, Options};
use vmclock_vmm::lineage::Lineage;
use vmclock_vmm::memory::{GuestRegion, PageMemory};
use vmclock_vmm::state::{Identities, State, StateError};
use vmclock_vmm::trigger::Trigger;

const PLACE: GuestAddress = GuestAddress(0xf000);

fn guest() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).expect("memory")
}

fn region(memory: &GuestMemoryMmap) -> GuestRegion<&GuestMemoryMmap> {
    GuestRegion::new(memory, PLACE, 0x1000).expect("inside")
}

/// The page's bytes, as the guest has them.
fn bytes(memory: &GuestMemoryMmap) -> [u8; STRUCTURE_LEN] {
    let mut bytes = [0; STRUCTURE_LEN];
    memory.read_slice(&mut bytes, PLACE).expect("inside");
    bytes
}

fn seen(memory: &GuestMemoryMmap) -> Snapshot {
    Snapshot::from_prefix(&bytes(memory)).expect("a consistent page")
}

/// Counts.
#[derive(Default)]
struct Interrupt {
    raised: Cell<u32>,
    is_broken: Cell<bool>,
}

#[derive(Debug, thiserror::Error)]
#[error("broken")]
struct Broken;

impl Trigger for Interrupt {
    type Error = Broken;

    fn trigger(&self) -> Result<(), Broken> {
        if self.is_broken.get() {
            return Err(Broken);
        }
        self.raised.set(self.raised.get() + 1);
        Ok(())
    }
}

fn calibration(counter: u64, seconds: i64) -> Calibration {
    Calibration {
        counter,
        time: Time::from_parts(seconds, 0),
        period: Period::from_frequency(NonZeroU64::new(2_000_000_000).expect("not 0")),
        time_max_error: 500,
        time_estimated_error: 50,
        period_max_error: 15_000_000,
        period_estimated_error: 10_000,
        status: ClockStatus::SYNCHRONIZED,
        utc_minus_tai: Some(-37),
        leap_indicator: LeapIndicator::NONE,
    }
}

fn options() -> Options {
    Options::new(CounterId::X86_TSC, [1, 2])
}

#[test]
fn firecrackers_pages_byte_for_byte() {
    // Firecracker 1.15: magic, size, version, no counter; a generation, notifications; all else 0.
    let mut booted = [0; STRUCTURE_LEN];
    booted[..8].copy_from_slice(&[0x56, 0x43, 0x4c, 0x4b, 0x00, 0x10, 0, 0]);
    booted[8..12].copy_from_slice(&[1, 0, 0xff, 0]);
    booted[0x18..0x20].copy_from_slice(&0x300_u64.to_le_bytes());
    let memory = guest();
    let interrupt = Interrupt::default();
    let device = Device::new(region(&memory), &interrupt, (), Options::compatible(), [99, 2]).expect("written");
    assert_eq!(bytes(&memory), booted);
    assert_eq!(interrupt.raised.get(), 0);

    let mut restored = booted;
    restored[0x0c] = 2;
    restored[0x10] = 1;
    restored[0x68] = 1;
    let state = device.save();
    let device = Device::restore(region(&memory), &interrupt, (), &state, None, [99, 8]).expect("written");
    assert_eq!(bytes(&memory), restored);
    assert_eq!((interrupt.raised.get(), device.page().generation()), (1, Some(1)));
}

#[test]
fn staged_use() {
    let memory = guest();
    let interrupt = Interrupt::default();
    let mut device = Device::new(region(&memory), &interrupt, (), options(), [1, 2]).expect("written");
    assert_eq!(seen(&memory).clock_status, ClockStatus::INITIALIZING);
    device.maintenance(Maintenance::Imminent).expect("written");
    assert_eq!(Maintenance::of(&seen(&memory)), Maintenance::Imminent);
    device.calibrate(&calibration(5, 1_800_000_000)).expect("written");
    device.leap(Some(-37), LeapIndicator::PRE_POSITIVE).expect("written");
    let page = seen(&memory);
    assert_eq!(
        (page.clock_status, page.tai_offset(), page.time_sec),
        (ClockStatus::SYNCHRONIZED, Some(-37), 1_800_000_000)
    );
    device.distrust().expect("written");
    assert_eq!(seen(&memory).clock_status, ClockStatus::UNRELIABLE);
    assert_eq!(interrupt.raised.get(), 4);

    let mut signals =
        Device::new(region(&memory), &interrupt, (), Options { counter: CounterId::NONE, ..options() }, [1, 2])
            .expect("written");
    let error = signals.calibrate(&calibration(5, 1_800_000_000)).expect_err("no counter");
    assert!(error.to_string().contains("without a counter"), "{error}");
    let before = Calibration { time: Time::from_parts(-1, 0), ..calibration(5, 0) };
    assert!(matches!(device.calibrate(&before), Err(Error::NoTime(_))));
}

/// Where an offset changes, and the last second of the month is one too many: 2017-01-01 00:00:00 UTC.
const LEAP: i64 = 1_483_228_800;

/// UTC by what the guest sees, `seconds` after the leap second's end by a right clock.
fn utc(memory: &GuestMemoryMmap, seconds: i64) -> i64 {
    let page = seen(memory);
    let clock = vmclock_core::calibration::Calibration::from_snapshot(&page, CounterId::X86_TSC).expect("a time");
    // In the middle of the second, as a period is rounded down.
    let time = clock.time_at(counter_at(LEAP + 37 + seconds) + 1_000_000_000).expect("in range");
    let utc = UtcRule::from_snapshot(&page).expect("UTC").utc(time).expect("in range");
    utc.time.seconds() - LEAP
}

type Quiet<'a> = Device<GuestRegion<&'a GuestMemoryMmap>, ()>;

#[test]
fn a_reset_takes_the_counter_that_the_guest_has_then() {
    let memory = guest();
    let mut device = Device::new(region(&memory), (), (), options(), [1, 2]).expect("written");
    device.calibrate(&relation(4_000_000_000, 0, 0)).expect("written");
    let before = seen(&memory);
    // The guest scribbled on its page.
    memory.write_slice(&[0xee; 32], GuestAddress(PLACE.0 + 0x30)).expect("inside");
    device.reset(None).expect("written");
    assert_eq!(seen(&memory), Snapshot { seq_count: before.seq_count + 2, ..before }, "as it was");
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
    let mut device = Device::new(region(&memory), &interrupt, (), options(), [1, 2]).expect("written");
    device.calibrate(&relation(0, 0, 0)).expect("written");
    device.maintenance(Maintenance::Soon).expect("written");
    let (before, state) = (seen(&memory), device.save());
    let raised = interrupt.raised.get();

    let later = relation(SECOND, 1_000_000_000, 0);
    let stepped = relation(SECOND, 3_000_000_000, 0);
    let resumed = Device::resume_in(region(&memory), &interrupt, (), &state, None).expect("written");
    let after = seen(&memory);
    assert_eq!(Snapshot { seq_count: before.seq_count, ..after }, before, "nothing happened");
    assert!(after.seq_count.wrapping_sub(before.seq_count) >> 31 == 0 && after.seq_count != before.seq_count);
    assert_eq!(interrupt.raised.get(), raised + 1);
    assert_eq!((resumed.agrees(&later, SECOND), resumed.agrees(&stepped, SECOND)), (true, false));
    let fresh = Device::resume_in(region(&memory), &interrupt, (), &state, Some(&later)).expect("written");
    assert_eq!(
        (fresh.page().disruption_marker, fresh.page().generation()),
        (before.disruption_marker, before.generation())
    );
    assert_eq!(seen(&memory).counter_value, SECOND);

    let clone = Device::clone_in(region(&memory), &interrupt, (), &state, 3).expect("written");
    let after = seen(&memory);
    assert_ne!(after.generation(), before.generation());
    let same = Snapshot { seq_count: before.seq_count, vm_generation_counter: before.vm_generation_counter, ..after };
    assert_eq!(same, before, "but for the generation");
    assert_eq!((clone.agrees(&later, SECOND), clone.agrees(&stepped, SECOND)), (true, false));
    let other = Device::clone_in(region(&memory), &interrupt, (), &state, 4).expect("written");
    assert_ne!(other.page().generation(), clone.page().generation(), "siblings");

    // What was promised outlives a process in which the clock was lost, too; but not a new marker.
    let mut lost = Device::resume_in(region(&memory), &interrupt, (), &state, None).expect("written");
    lost.distrust().expect("written");
    let state = lost.save();
    let lost = Device::resume_in(region(&memory), &interrupt, (), &state, None).expect("written");
    assert_eq!((lost.agrees(&later, SECOND), lost.agrees(&stepped, SECOND)), (true, false));
    assert_eq!(seen(&memory).clock_status, ClockStatus::UNRELIABLE);
    let elsewhere = Device::migrate_in(region(&memory), &interrupt, (), &state, None, 5).expect("written");
    assert!(elsewhere.agrees(&stepped, SECOND));
}

#[test]
fn a_device_that_only_signals_gets_a_counter_on_arrival() {
    let memory = guest();
    let signals = Options { counter: CounterId::NONE, ..options() };
    for options in [signals, Options::compatible()] {
        let state = Device::new(region(&memory), (), (), options, [1, 2]).expect("written").save();
        let known = calibration(5, 1_800_000_000);
        let refused = Device::restore(region(&memory), (), (), &state, Some(&known), [3, 4]).expect_err("no counter");
        assert!(refused.to_string().contains("State::with_counter"), "{refused}");

        let full = state.clone().with_counter(CounterId::X86_TSC).expect("it had none");
        Device::restore(region(&memory), (), (), &full, Some(&known), [3, 4]).expect("written");
        let page = seen(&memory);
        assert_eq!((page.counter_id, page.time_type), (CounterId::X86_TSC, TimeType::TAI));
        assert_eq!((page.clock_status, page.time_sec), (ClockStatus::SYNCHRONIZED, 1_800_000_000));
        let migrated = Device::migrate_in(region(&memory), (), (), &full, None, 3).expect("written");
        assert_eq!(seen(&memory).clock_status, ClockStatus::INITIALIZING);
        // Once it has one, it keeps it.
        let state = migrated.save();
        assert_eq!(state.clone().with_counter(CounterId::X86_TSC), Ok(state.clone()));
        let error = state.with_counter(CounterId::ARM_CNTVCT).expect_err("another");
        assert!(error.to_string().contains("x86-tsc, not arm-cntvct"), "{error}");
    }
    let state = Device::new(region(&memory), (), (), signals, [1, 2]).expect("written").save();
    assert!(state.clone().with_counter(CounterId(7)).is_err());
    assert_eq!(state.clone().with_counter(CounterId::NONE), Ok(state));
}

#[test]
fn an_interrupt_that_fails_costs_no_device() {
    let memory = guest();
    let interrupt = Interrupt::default();
    interrupt.is_broken.set(true);
    let device = Device::new(region(&memory), &interrupt, (), options(), [1, 2]).expect("nobody is told yet");
    assert!(!device.is_behind());
    let state = device.save();
    let known = calibration(5, 1_800_000_000);
    let made = [
        Device::restore(region(&memory), &interrupt, (), &state, None, [3, 4]),
        Device::restore(region(&memory), &interrupt, (), &state, Some(&known), [3, 4]),
        Device::migrate_in(region(&memory), &interrupt, (), &state, Some(&known), 3),
        Device::resume_in(region(&memory), &interrupt, (), &state, Some(&known)),
        Device::clone_in(region(&memory), &interrupt, (), &state, 3),
    ];
    for (device, raised) in made.into_iter().zip(1..) {
        let mut device = device.expect("made");
        assert!(device.is_behind());
        assert!(matches!(device.retry(), Err(Error::Trigger(Broken))));
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
    let place = |len| GuestRegion::new(&memory, GuestAddress(0x1_0000), len).expect("inside");
    let page = || {
        let mut page = [0; STRUCTURE_LEN];
        memory.read_slice(&mut page, GuestAddress(0x1_0000)).expect("inside");
        Snapshot::from_prefix(&page).expect("a consistent page")
    };
    let interrupt = Interrupt::default();
    let device = Device::new(place(0x1_0000), &interrupt, (), options(), [1, 2]).expect("written");
    assert_eq!((page().size, page().notifies()), (0x1_0000, true));

    // The destination has no interrupt; and then it has one.
    let silent = Device::restore(place(0x1_0000), (), (), &device.save(), None, [3, 4]).expect("written");
    assert_eq!((page().size, page().notifies(), interrupt.raised.get()), (0x1_0000, false, 0));
    Device::migrate_in(place(0x1_0000), &interrupt, (), &silent.save(), None, 5).expect("written");
    assert_eq!((page().notifies(), interrupt.raised.get()), (true, 1));
    Device::new(place(0x1000), (), (), options(), [1, 2]).expect("written");
    assert_eq!((page().size, page().notifies()), (0x1000, false));

    // A guest knows its region from its firmware.
    let other = Device::restore(place(0x1000), (), (), &device.save(), None, [3, 4]).expect_err("shorter");
    assert!(matches!(other, Error::State(StateError::Region { found: 0x1_0000, memory: 0x1000 })));
    assert!(other.to_string().contains("make it as long as it was"), "{other}");
    for len in [0, 112, 0x2000, 1 << 32 | 0x1000] {
        let error = Device::new(Long(len), (), (), options(), [1, 2]).expect_err("no region").to_string();
        assert!(error.contains(&format!("a region of {len:#x} bytes")), "{error}");
    }
}

/// A region of any length, in no memory.
#[derive(Debug)]
struct Long(u64);

impl PageMemory for Long {
    type Error = Broken;

    fn region_len(&self) -> u64 {
        self.0
    }

    fn store_u32(&self, _: u64, _: u32, _: Ordering) -> Result<(), Broken> {
        panic!("it was checked before")
    }

    fn store_u64(&self, _: u64, _: u64, _: Ordering) -> Result<(), Broken> {
        panic!("it was checked before")
    }

    fn load_u32(&self, _: u64, _: Ordering) -> Result<u32, Broken> {
        panic!("it was checked before")
    }
}

/// From another host, or out of saved state.
fn arrive<'a>(
    memory: &'a GuestMemoryMmap,
    state: &State,
    calibration: Option<&Calibration>,
    restored: Option<u64>,
) -> Result<Quiet<'a>, Error<vm_memory::GuestMemoryError, std::convert::Infallible>> {
    match restored {
        Some(fresh) => Device::restore(region(memory), (), (), state, calibration, [7, fresh]),
        None => Device::migrate_in(region(memory), (), (), state, calibration, 7),
    }
}

/// The guest's counter at a second of TAI.
fn counter_at(tai: i64) -> u64 {
    2_000_000_000 * u64::try_from(tai).expect("after 1970")
}

#[test]
fn utc_changes_with_the_time_that_it_belongs_to() {
    let memory = guest();
    let mut device = Device::new(region(&memory), (), (), options(), [1, 2]).expect("written");
    let on = |tai| calibration(counter_at(tai), tai);
    let (before, after) = (LEAP - 10 + 36, LEAP + 10 + 37);
    let announced = Calibration { utc_minus_tai: Some(-36), leap_indicator: LeapIndicator::PRE_POSITIVE, ..on(before) };
    device.calibrate(&announced).expect("written");
    assert_eq!(utc(&memory, 10), 10, "by the announcement");
    let sequence = seen(&memory).seq_count;
    let over = Calibration { leap_indicator: LeapIndicator::POST_POSITIVE, ..on(after) };
    device.calibrate(&over).expect("written");
    assert_eq!((utc(&memory, 10), seen(&memory).seq_count), (10, sequence + 2), "in one update");

    // From before the leap second to long after it.
    device.calibrate(&announced).expect("written");
    device.maintenance(Maintenance::Soon).expect("written");
    let state = device.save();
    let month = 40 * 86_400;
    Device::restore(region(&memory), (), (), &state, Some(&on(after + month)), [7, 8]).expect("written");
    let page = seen(&memory);
    assert_eq!((utc(&memory, 10 + month), page.leap_indicator), (10 + month, LeapIndicator::NONE));
    let unknown = Calibration { utc_minus_tai: None, ..on(after + month) };
    for calibration in [None, Some(&unknown)] {
        for is_restored in [false, true] {
            arrive(&memory, &state, calibration, is_restored.then_some(8)).expect("written");
            let page = seen(&memory);
            assert_eq!((page.tai_offset(), page.leap_indicator), (None, LeapIndicator::NONE), "the old host's");
            assert!(!page.flags.contains(Flags::TAI_OFFSET_VALID));
            assert_eq!((page.tai_offset_sec, Maintenance::of(&page)), (0, Maintenance::None));
            assert_eq!(page.clock_status.gives_time(), calibration.is_some());
        }
    }
}

/// A calibration with its reference `nanos` after a moment, of a counter whose ticks are so much longer.
fn relation(counter: u64, nanos: i128, ppm: u64) -> Calibration {
    let hertz = 2_000_000_000 - 2_000 * ppm;
    let time = Time::from_nanos(1_800_000_000_000_000_000 + nanos).expect("in range");
    let period = Period::from_frequency(NonZeroU64::new(hertz).expect("not 0"));
    Calibration { counter, time, period, ..calibration(0, 0) }
}

#[test]
fn a_calibration_agrees_only_if_it_keeps_the_last_promise() {
    const SECOND: u64 = 2_000_000_000;
    let memory = guest();
    let mut device = Device::new(region(&memory), (), (), options(), [1, 2]).expect("written");
    assert!(device.agrees(&relation(0, -77, 500_000), SECOND), "nothing is promised yet");
    // Promised: 500 ns, and 15 us more for each second.
    device.calibrate(&relation(0, 0, 0)).expect("written");
    for (counter, nanos, ppm, now, agrees) in [
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
        // A reference that is ahead is looked at, too.
        (2 * SECOND, 2_000_060_000, 30, 0, false),
        (0, -3_000_000_000_000_000_000, 0, SECOND, false), // before 1970
    ] {
        let next = relation(counter, nanos, ppm);
        assert_eq!(device.agrees(&next, now), agrees, "{nanos} ns at {counter}, {ppm} ppm, now {now}");
    }
    // Whatever bounds the new one has: it is the old one's that hold.
    let vague = Calibration { time_max_error: u64::MAX, ..relation(SECOND, 2_000_000_000, 0) };
    assert!(!device.agrees(&vague, SECOND));

    // The clock was lost, and came back a second later than it was.
    let (stepped, right) = (relation(SECOND, 2_000_000_000, 0), relation(SECOND, 1_000_000_000, 0));
    device.distrust().expect("written");
    device.pause().expect("nothing to do");
    device.resume(None).expect("nothing to do");
    device.clone_running(3).expect("written");
    let lost = Calibration { status: ClockStatus::UNRELIABLE, ..stepped };
    device.calibrate(&lost).expect("written");
    assert_eq!((device.agrees(&stepped, SECOND), device.agrees(&right, SECOND)), (false, true));
    device.disrupt(4).expect("written");
    assert!(device.agrees(&stepped, SECOND), "of a counter of which nothing was said");
    device.calibrate(&stepped).expect("written");
    assert_eq!((device.agrees(&stepped, SECOND), device.agrees(&right, SECOND)), (true, false));
}

#[test]
fn a_snapshot_in_the_middle_of_an_update_restores_to_a_consistent_page() {
    let memory = guest();
    let mut device = Device::new(region(&memory), (), (), options(), [1, 2]).expect("written");
    device.calibrate(&calibration(5, 1_800_000_000)).expect("written");
    let state = device.save();
    // The memory was copied when the count was odd, and some words were new.
    memory.store(7_u32.to_le(), GuestAddress(PLACE.0 + 0x0c), Ordering::Relaxed).expect("inside");
    memory.write_slice(&[0xee; 32], GuestAddress(PLACE.0 + 0x30)).expect("inside");
    Device::restore(region(&memory), (), (), &state, None, [2, 8]).expect("written");
    let page = seen(&memory);
    assert_eq!((page.seq_count & 1, page.clock_status), (0, ClockStatus::INITIALIZING));
    assert!(page.seq_count.wrapping_sub(7) >> 31 == 0, "further on than what the guest may have seen");
}

#[test]
fn siblings_and_their_parent_never_share_an_identity() {
    let memory = guest();
    let parent = Device::new(region(&memory), (), (), options(), [1, 2]).expect("written");
    let mut known = HashSet::from([parent.page().disruption_marker, parent.page().vm_generation_counter]);
    let state = parent.save();
    for sibling in 0..1000 {
        let fresh = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(sibling + 1);
        let device = Device::restore(region(&memory), (), (), &state, None, [fresh, !fresh]).expect("written");
        for value in [device.page().disruption_marker, device.page().vm_generation_counter] {
            assert!(known.insert(value), "{value:#x} came twice");
        }
    }
}

#[test]
fn marker_and_generation_are_drawn_apart() {
    let (memory, state) = (guest(), saved());
    let identity = |fresh| {
        let device = Device::restore(region(&memory), (), (), &state, None, fresh).expect("written");
        (device.page().disruption_marker, device.page().vm_generation_counter)
    };
    let (one, same_marker, same_generation) = (identity([1, 2]), identity([1, 3]), identity([4, 2]));
    assert!(one.0 == same_marker.0 && one.1 != same_marker.1);
    assert!(one.0 != same_generation.0 && one.1 == same_generation.1);
}

/// Words that fail after so many stores.
struct Failing {
    words: RefCell<[u8; STRUCTURE_LEN]>,
    left: Cell<u32>,
}

impl Failing {
    fn store(&self, offset: u64, value: &[u8]) -> Result<(), Broken> {
        let left = self.left.get().checked_sub(1).ok_or(Broken)?;
        self.left.set(left);
        let offset = usize::try_from(offset).expect("small");
        self.words.borrow_mut()[offset..offset + value.len()].copy_from_slice(value);
        Ok(())
    }
}

impl PageMemory for Failing {
    type Error = Broken;

    fn region_len(&self) -> u64 {
        0x1000
    }

    fn store_u32(&self, offset: u64, value: u32, _: Ordering) -> Result<(), Broken> {
        self.store(offset, &value.to_le_bytes())
    }

    fn store_u64(&self, offset: u64, value: u64, _: Ordering) -> Result<(), Broken> {
        self.store(offset, &value.to_le_bytes())
    }

    fn load_u32(&self, offset: u64, _: Ordering) -> Result<u32, Broken> {
        let offset = usize::try_from(offset).expect("small");
        Ok(u32::from_le_bytes(self.words.borrow()[offset..offset + 4].try_into().expect("four")))
    }
}

#[test]
fn a_write_that_fails_leaves_the_old_page_or_an_odd_one_and_is_retried() {
    let mut failures = 0;
    for allowed in 0..40 {
        let memory = Failing { words: RefCell::new([0; STRUCTURE_LEN]), left: Cell::new(u32::MAX) };
        let interrupt = Interrupt::default();
        let mut device = Device::new(&memory, &interrupt, (), options(), [1, 2]).expect("written");
        device.calibrate(&calibration(5, 1_800_000_000)).expect("written");
        let (before, raised) = (*memory.words.borrow(), interrupt.raised.get());
        memory.left.set(allowed);
        let result = device.disrupt(2);
        let now = *memory.words.borrow();
        if result.is_err() {
            failures += 1;
            assert!(matches!(result, Err(Error::Memory(Broken))));
            let is_odd = Snapshot::from_bytes(&now).seq_count & 1 == 1;
            assert!(is_odd || now == before, "after {allowed} stores");
            assert!(device.is_behind() && interrupt.raised.get() == raised, "the guest was told of nothing");
            memory.left.set(u32::MAX);
            device.retry().expect("it works again");
        }
        let after = Snapshot::from_prefix(&*memory.words.borrow()).expect("a consistent page");
        assert_eq!(&after, device.page());
        assert_ne!(after.disruption_marker, Snapshot::from_bytes(&before).disruption_marker);
        assert_eq!((device.is_behind(), interrupt.raised.get()), (false, raised + 1));
        assert_eq!(after.seq_count, Snapshot::from_bytes(&before).seq_count + 2);
    }
    assert!(failures >= 15, "each of the words was the one that failed: {failures}");
}

#[test]
fn an_interrupt_that_fails_is_raised_later() {
    let memory = guest();
    let interrupt = Interrupt::default();
    let mut device = Device::new(region(&memory), &interrupt, (), options(), [1, 2]).expect("written");
    interrupt.is_broken.set(true);
    assert!(matches!(device.disrupt(2), Err(Error::Trigger(Broken))));
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
    assert!(matches!(device.notify(), Err(Error::Trigger(Broken))) && device.is_behind());
    let mut silent = Device::new(region(&memory), (), (), options(), [1, 2]).expect("written");
    silent.notify().expect("nobody to be told");
    assert!(!silent.is_behind());
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
    let mut device = Device::new(region(&memory), &interrupt, &observer, options(), [1, 2]).expect("written");
    device.calibrate(&calibration(5, 1_800_000_000)).expect("written");
    assert_eq!((device.events().pages.borrow().len(), observer.failures.get()), (2, 0));
    assert_eq!(observer.pages.borrow().last(), Some(device.page()));
    interrupt.is_broken.set(true);
    assert!(device.disrupt(3).is_err());
    assert_eq!((observer.pages.borrow().len(), observer.failures.get()), (3, 1));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Pause,
    Resume,
    Reset,
    Migrate,
    Restore,
    Clone,
    Disrupt,
    Maintenance(Maintenance),
    Calibrate,
    Leap(i16),
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Pause),
        Just(Step::Resume),
        Just(Step::Reset),
        Just(Step::Migrate),
        Just(Step::Restore),
        Just(Step::Clone),
        Just(Step::Disrupt),
        prop_oneof![Just(Maintenance::None), Just(Maintenance::Soon), Just(Maintenance::Imminent)]
            .prop_map(Step::Maintenance),
        Just(Step::Calibrate),
        (-40_i16..-30).prop_map(Step::Leap),
    ]
}

/// What can happen to a guest's counter.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Goes,
    Jumps,
    Moves,
}

fn happenings() -> impl Strategy<Value = Happening> {
    prop_oneof![6 => Just(Happening::Goes), 1 => Just(Happening::Jumps), 1 => Just(Happening::Moves)]
}

/// The true time, in TAI nanoseconds, and a counter of 2 GHz that drifts by so many parts in 10^12.
struct World {
    counter: u64,
    nanos: i128,
    drift: i64,
}

impl World {
    fn run(&mut self, ticks: u64) {
        self.counter = self.counter.wrapping_add(ticks);
        let nanos = i128::from(ticks) / 2;
        self.nanos += nanos + nanos * i128::from(self.drift) / 1_000_000_000_000;
    }

    /// A right one: it is off by no more than it says.
    fn calibration(&self, off: i64, vague: u64) -> Calibration {
        let time = Time::<Tai>::from_nanos(self.nanos + i128::from(off)).expect("in range");
        Calibration { counter: self.counter, time, time_max_error: off.unsigned_abs() + vague + 1, ..calibration(0, 0) }
    }
}

proptest! {
    /// Damaged, or made by somebody who means harm: it is refused, or the page is one that readers take.
    #[test]
    fn any_state_is_taken_up_or_refused(
        state in states(), is_restored in any::<bool>(), is_calibrated in any::<bool>(), fresh in any::<u64>(),
    ) {
        let memory = guest();
        let known = calibration(5, 1_800_000_000);
        let known = is_calibrated.then_some(&known);
        let _ = state.guest_counter(&calibration(fresh, 1_900_000_000), None);
        match arrive(&memory, &state, known, is_restored.then_some(fresh)) {
            Ok(mut device) => {
                let page = seen(&memory);
                prop_assert_eq!(&page, device.page());
                prop_assert_eq!(page.clock_status.gives_time(), is_calibrated);
                prop_assert!(page.generation().is_some() && !page.flags.contains(Flags::TIME_MONOTONIC));
                device.disrupt(fresh).expect("written");
                prop_assert_ne!(page.disruption_marker, seen(&memory).disruption_marker);
            }
            Err(Error::State(_) | Error::NoTime(_)) => prop_assert_eq!(bytes(&memory), [0; STRUCTURE_LEN]),
            Err(error) => panic!("{error}"),
        }
    }

    /// After each step the guest sees the events of the table, none missed and none invented, and no identity twice.
    #[test]
    fn a_life(life in prop::collection::vec((steps(), any::<u64>()), 1..60)) {
        let memory = guest();
        let interrupt = Interrupt::default();
        let mut device = Device::new(region(&memory), &interrupt, (), options(), [1, 2]).expect("written");
        let mut before = seen(&memory);
        let mut known = HashSet::from([before.disruption_marker, before.vm_generation_counter]);
        for (turn, (step, fresh)) in (0_u32..).zip(life) {
            let raised = interrupt.raised.get();
            let time = calibration(1_000 * u64::from(turn), 1_800_000_000 + i64::from(turn));
            match step {
                Step::Pause => device.pause(),
                Step::Resume => device.resume(None),
                Step::Reset => device.reset(None),
                Step::Migrate => {
                    let state = device.migrate_out();
                    device = Device::migrate_in(region(&memory), &interrupt, (), &state, Some(&time), fresh).expect("written");
                    Ok(())
                }
                Step::Restore => {
                    let state = device.save();
                    device = Device::restore(region(&memory), &interrupt, (), &state, None, [fresh, !fresh]).expect("written");
                    Ok(())
                }
                Step::Clone => device.clone_running(fresh),
                Step::Disrupt => device.disrupt(fresh),
                Step::Maintenance(announced) => device.maintenance(announced),
                Step::Calibrate => device.calibrate(&time),
                Step::Leap(offset) => device.leap(Some(offset), LeapIndicator::NONE),
            }.expect("nothing fails here");
            let after = seen(&memory);
            prop_assert_eq!(&after, device.page());
            let updates = u32::from(!matches!(step, Step::Pause | Step::Resume));
            prop_assert_eq!(interrupt.raised.get() - raised, updates, "update and notification are one");
            prop_assert_eq!(after.seq_count == before.seq_count, updates == 0);
            prop_assert!(after.seq_count.wrapping_sub(before.seq_count) >> 31 == 0, "it only goes on");
            let names: Vec<&str> = changes(&before, &after).map(|event| event.name()).collect();
            let has = |name: &str| names.contains(&name);
            let disrupted = matches!(step, Step::Migrate | Step::Restore | Step::Disrupt);
            let restored = matches!(step, Step::Restore | Step::Clone);
            prop_assert_eq!((has("disrupted"), has("restored")), (disrupted, restored), "{:?}: {:?}", step, names);
            for (is_new, value) in [(disrupted, after.disruption_marker), (restored, after.vm_generation_counter)] {
                prop_assert!(!is_new || known.insert(value), "{:#x} came twice", value);
            }
            // A time from before a disruption is never given after it.
            let gives_time = after.clock_status.gives_time();
            match step {
                Step::Migrate | Step::Calibrate => prop_assert!(gives_time && after.time_sec == 1_800_000_000 + u64::from(turn)),
                Step::Restore | Step::Disrupt => prop_assert!(!gives_time),
                _ => prop_assert_eq!(gives_time, before.clock_status.gives_time()),
            }
            before = after;
        }
    }

    /// Whatever happens, a guest's interval has the true time in it; and within one life of the counter, the next page says of a
    /// reading nothing that its own page did not allow.
    #[test]
    fn a_guests_time(
        drift in -10_000_000_i64..10_000_000,
        life in prop::collection::vec((happenings(), 1_u64..40_000_000_000, -100_i64..100, 0_u64..900, any::<u64>()), 1..60),
    ) {
        let memory = guest();
        let mut world = World { counter: 1 << 40, nanos: 1_800_000_000_000_000_000, drift };
        let mut device = Device::new(region(&memory), (), (), options(), [1, 2]).expect("written");
        // The last reading since the marker changed: the counter, and where the time was said to be.
        let mut said: Option<(u64, Interval<PageScale>)> = None;
        for (happening, ticks, off, vague, fresh) in life {
            let before = seen(&memory).disruption_marker;
            match happening {
                Happening::Goes => world.run(ticks),
                Happening::Jumps => {
                    world.counter = world.counter.wrapping_add(ticks);
                    device.disrupt(fresh).expect("written");
                }
                Happening::Moves => {
                    let state = device.migrate_out();
                    world = World { counter: fresh, nanos: world.nanos + i128::from(ticks), drift: -world.drift };
                    let known = world.calibration(off, vague);
                    device = Device::migrate_in(region(&memory), (), (), &state, Some(&known), fresh).expect("written");
                }
            }
            let known = world.calibration(off, vague);
            if !device.agrees(&known, world.counter) {
                device.disrupt(fresh).expect("written");
            }
            device.calibrate(&known).expect("written");

            let page = seen(&memory);
            if page.disruption_marker != before {
                said = None;
            }
            prop_assert!(!page.flags.contains(Flags::TIME_MONOTONIC), "nobody promised that");
            let clock = vmclock_core::calibration::Calibration::from_snapshot(&page, CounterId::X86_TSC).expect("a time");
            if let Some((counter, interval)) = said {
                let time = clock.time_at(counter).expect("in range");
                prop_assert!(
                    interval.earliest.nanos() <= time.ceil_nanos() && time.floor_nanos() <= interval.latest.nanos(),
                    "{} is outside {:?}", time.floor_nanos(), interval
                );
            }
            world.run(ticks / 2);
            let interval = clock.interval_at(world.counter).expect("in range").expect("bounds");
            prop_assert!(interval.earliest.nanos() <= world.nanos + 1 && world.nanos <= interval.latest.nanos());
            said = Some((world.counter, interval));
        }
    }

    /// From host to host, with the guest's counter set so that it goes on: the first reading is right.
    #[test]
    fn migration_keeps_the_time(
        hertz in 1_000_000_000_u64..4_000_000_000, guest_counter in any::<u64>(), host_counter in any::<u64>(),
        down in 1_000_000_i64..60_000_000_000, source_off in -400_i64..400, host_off in -400_i64..400, later in 0_u64..1 << 34,
    ) {
        let memory = guest();
        let period = Period::from_frequency(NonZeroU64::new(hertz).expect("not 0"));
        let truth = Time::<Tai>::from_parts(1_800_000_000, 0);
        let off = |time: Time<Tai>, nanos: i64| time.checked_add(Span::from_nanos(nanos)).expect("in range");
        let base = Calibration { period, ..calibration(guest_counter, 0) };
        let mut source = Device::new(region(&memory), (), (), options(), [1, 2]).expect("written");
        source.calibrate(&Calibration { time: off(truth, source_off), ..base }).expect("written");
        let state = source.migrate_out();
        // The destination knows its own counter's time.
        let resumed = off(truth, down);
        let host = Calibration { counter: host_counter, time: off(resumed, host_off), ..base };
        let (counter, error) = state.guest_counter(&host, None).expect("it had a time");
        let wanted = counter.at(host_counter);
        let device = Device::migrate_in(region(&memory), (), (), &state, Some(&host.offset_by(wanted.wrapping_sub(host_counter))), 2);
        prop_assert!(device.is_ok());
        // The guest reads a while later, at this counter value and at this time.
        let elapsed = i64::try_from(u128::from(later) * 1_000_000_000 / u128::from(hertz)).expect("seconds");
        let page = seen(&memory);
        let time = vmclock_core::calibration::Calibration::from_snapshot(&page, CounterId::X86_TSC).expect("a time");
        let interval = time.interval_at(wanted.wrapping_add(later)).expect("in range").expect("bounds");
        let true_nanos = off(resumed, elapsed).floor_nanos();
        prop_assert!(interval.earliest.nanos() <= true_nanos + 1 && true_nanos <= interval.latest.nanos());
        // And the counter goes on as if nothing had happened, to within both hosts' errors.
        let ideal = guest_counter.wrapping_add(u64::try_from(i128::from(down) * i128::from(hertz) / 1_000_000_000).expect("ahead"));
        #[allow(clippy::cast_possible_wrap)]
        let apart = u128::from((wanted.wrapping_sub(ideal) as i64).unsigned_abs()) * 1_000_000_000 / u128::from(hertz);
        prop_assert!(apart <= error, "{apart} ns, and {error} are allowed");
    }
}

/// A state as a device of one calibration leaves it.
fn saved() -> State {
    let memory = guest();
    let mut source = Device::new(region(&memory), (), (), options(), [1, 2]).expect("written");
    source.calibrate(&calibration(5, 1_800_000_000)).expect("written");
    source.leap(Some(-37), LeapIndicator::NONE).expect("written");
    source.save()
}

#[cfg(feature = "serde")]
#[test]
fn states_of_every_version_are_read() {
    let golden = include_str!("golden/state-1.json");
    let state: State = serde_json::from_str(golden).expect("version 1");
    let memory = guest();
    let device = Device::restore(region(&memory), (), (), &state, None, [7, 8]).expect("written");
    assert_eq!(device.page().time_sec, 1_800_000_000);
    assert!(device.page().seq_count > 1 << 28);

    // It is written as it was, and read in any order.
    assert_eq!(serde_json::to_string(&state).expect("text"), golden.trim_end());
    let (mut new, old) = (saved(), state.clone());
    // But for marker and generation, and a notification, which that device had.
    (new.page[2], new.page[13]) = (old.page[2], old.page[13]);
    new.page[3] |= Flags::NOTIFICATION_PRESENT.0;
    assert_eq!(new, old);
    let parts: serde_json::Value = serde_json::from_str(golden).expect("JSON");
    let turned = format!(r#"{{"identities":{},"more":[1],"page":{},"version":1}}"#, parts["identities"], parts["page"]);
    assert_eq!(serde_json::from_str::<State>(&turned).expect("text"), state);
    for damaged in ["{}", r#"{"version":1,"page":[]}"#, r#"{"version":1,"version":1}"#, r#"{"page":7,"version":1}"#] {
        assert!(serde_json::from_str::<State>(damaged).is_err(), "{damaged}");
    }
}

/// Whatever a newer version is like: what is said of it is that it is newer.
#[cfg(feature = "serde")]
#[test]
fn states_of_newer_versions_are_refused_by_name() {
    let golden = include_str!("golden/state-1.json");
    let newer = golden.replace("\"version\":1", "\"version\":2");
    for newer in [
        newer.as_str(),
        &newer.replace("Unpredictable", "Keyed"),
        &newer.replacen("\"page\":[", "\"page\":[-1,{},", 1),
        r#"{"version":2,"words":[1],"identities":"Counting"}"#,
        r#"{"version":2}"#,
        r#"{"words":{"a":[]},"page":"none","identities":{"Keyed":-1.5},"version":2}"#,
        r#"[2, "all", {"else": true}]"#,
    ] {
        let error = serde_json::from_str::<State>(newer).expect_err("newer").to_string();
        assert!(error.contains("version 2") && error.contains("known here is 1"), "{newer}: {error}");
        assert!(error.contains("newer monitor"), "{error}");
    }
    assert!(serde_json::from_str::<State>("[1,[],\"Counting\"]").is_ok(), "as formats without names have it");
}

#[test]
fn what_no_device_could_have_saved_is_refused() {
    let memory = guest();
    let refused = |change: &dyn Fn(&mut State)| {
        let mut state = saved();
        change(&mut state);
        let Err(Error::State(error)) = Device::restore(region(&memory), (), (), &state, None, [7, 8]) else {
            panic!("taken up: {state:?}")
        };
        let text = error.to_string();
        assert!(text.contains("is damaged") || text.contains("newer monitor"), "{text}");
        error
    };
    assert_eq!(refused(&|state| state.version = 2), StateError::Version { found: 2, known: 1 });
    assert_eq!(refused(&|state| state.version = 0), StateError::Version { found: 0, known: 1 });
    assert_eq!(refused(&|state| state.page.push(0)), StateError::Length(15));
    assert_eq!(refused(&|state| state.page.clear()), StateError::Length(0));
    assert!(matches!(refused(&|state| state.page[0] = 0), StateError::Page(_)));
    assert!(matches!(refused(&|state| state.page[1] |= 1 << 32), StateError::Page(_)), "in the middle of an update");
    for size in [16, 112, 0x2000, u32::MAX] {
        let word = u64::from(size) << 32 | 0x4b4c_4356;
        assert_eq!(refused(&|state| state.page[0] = word), StateError::Region { found: size, memory: 0x1000 });
    }
    for (counter, time_type) in [(0xff, 1), (1, 0), (1, 2), (0, 0), (7, 1), (1, 3)] {
        let word = 4 << 32 | time_type << 24 | counter << 16 | 1;
        assert!(matches!(refused(&|state| state.page[1] = word), StateError::Counter { .. }));
    }
    assert!(matches!(refused(&|state| state.page[6] = 0), StateError::Time(_)), "a period of 0");
    assert!(matches!(refused(&|state| state.page[9] = 1 << 63), StateError::Time(_)));
    for count in [1 << 24, u32::MAX] {
        let lineage = Lineage { key: [1, 2], count };
        let error = refused(&|state| state.identities = Identities::Unpredictable(lineage));
        assert_eq!(error, StateError::Count(count));
    }

    // Promises that nobody here keeps, and what no device writes.
    let mut state = saved();
    state.page[3] = u64::MAX;
    state.page[4] |= 0x0100_ffff;
    let device = Device::restore(region(&memory), (), (), &state, None, [7, 8]).expect("taken up");
    let errors = Flags::PERIOD_ESTERROR_VALID.with(Flags::PERIOD_MAXERROR_VALID);
    let errors = errors.with(Flags::TIME_ESTERROR_VALID).with(Flags::TIME_MAXERROR_VALID);
    assert_eq!(device.page().flags, errors.with(Flags::VM_GEN_COUNTER_PRESENT));
    assert_eq!(device.page().pad, [0; 2]);
}

fn states() -> impl Strategy<Value = State> {
    let page = prop_oneof![
        Just(saved().page),
        prop::collection::vec(any::<u64>(), 0..20),
        // A page with a few words of it changed, or a few bits.
        prop::collection::vec((0..14_usize, any::<u64>(), any::<bool>()), 0..4).prop_map(|changes| {
            let mut page = saved().page;
            for (word, value, is_bit) in changes {
                page[word] = if is_bit { page[word] ^ 1 << (value % 64) } else { value };
            }
            page
        }),
    ];
    let count = prop_oneof![any::<u32>(), (1_u32 << 24) - 3..1 << 24, Just(u32::MAX)];
    let identities = prop_oneof![
        Just(Identities::Counting),
        (any::<[u64; 2]>(), count).prop_map(|(key, count)| Identities::Unpredictable(Lineage { key, count })),
    ];
    (prop_oneof![9 => Just(1), 1 => any::<u32>()], page, identities).prop_map(|(version, page, identities)| State {
        version,
        page,
        identities,
    })
}

#[test]
fn identities_are_as_secret_as_they_have_to_be() {
    let options = options();
    assert!(matches!(options.identities, Identities::Unpredictable(_)));
    assert!(!format!("{options:?}").contains("[1, 2]"));
}
