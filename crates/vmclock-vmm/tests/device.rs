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
use vmclock_core::time::{Interval, PageScale, Tai, Time};
use vmclock_vmm::counter::Scale;
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

type Fragile<'a> = Device<&'a Failing, &'a Interrupt>;
type Made<T> = Result<T, Error<Broken, Broken>>;

type Operation = fn(&mut Fragile<'_>) -> Made<()>;
/// Every operation of a device that is there, by its name.
const OPERATIONS: [(&str, Operation); 9] = [
    ("calibrate", |device| device.calibrate(&calibration(5_000, 1_800_000_001))),
    ("leap", |device| device.leap(Some(-36), LeapIndicator::PRE_POSITIVE)),
    ("maintenance", |device| device.maintenance(Maintenance::Imminent)),
    ("reset", |device| device.reset(None)),
    ("reset with a calibration", |device| device.reset(Some(&calibration(5_000, 1_800_000_002)))),
    ("resume", |device| device.resume(Some(&calibration(5_000, 1_800_000_003)))),
    ("clone_running", |device| device.clone_running(2)),
    ("disrupt", |device| device.disrupt(2)),
    ("distrust", |device| device.distrust()),
];

type Arrival = for<'a> fn(&'a Failing, &'a Interrupt, &State) -> Made<Fragile<'a>>;
/// Every way to make a device of what was saved.
const ARRIVALS: [(&str, Arrival); 4] = [
    ("migrate_in", |memory, interrupt, state| Device::migrate_in(memory, interrupt, (), state, None, 3)),
    ("restore", |memory, interrupt, state| {
        Device::restore(memory, interrupt, (), state, Some(&calibration(5_000, 1_800_000_004)), [3, 4])
    }),
    ("resume_in", |memory, interrupt, state| Device::resume_in(memory, interrupt, (), state, None)),
    ("clone_in", |memory, interrupt, state| Device::clone_in(memory, interrupt, (), state, 4)),
];

/// What an update is made of: the odd count, three words of constants, all others, the even count.
const STORES: u32 = 1 + 3 + 12 + 1;

fn failing() -> Failing {
    Failing { words: RefCell::new([0; STRUCTURE_LEN]), left: Cell::new(u32::MAX) }
}

fn calibrated<'a>(memory: &'a Failing, interrupt: &'a Interrupt) -> Fragile<'a> {
    let mut device = Device::new(memory, interrupt, (), options(), [1, 2]).expect("written");
    device.calibrate(&calibration(5, 1_800_000_000)).expect("written");
    device
}

/// A guest sees the old page, or that an update is in progress.
fn is_old_or_odd(memory: &Failing, before: &[u8; STRUCTURE_LEN]) -> bool {
    let now = *memory.words.borrow();
    Snapshot::from_bytes(&now).seq_count & 1 == 1 || now == *before
}

#[test]
fn a_write_that_fails_leaves_the_old_page_or_an_odd_one_and_is_retried() {
    for (name, operation) in OPERATIONS {
        // What it comes to if nothing fails.
        let (memory, interrupt) = (failing(), Interrupt::default());
        operation(&mut calibrated(&memory, &interrupt)).expect("written");
        let (wanted, raised) = (*memory.words.borrow(), interrupt.raised.get());

        for first in 0..STORES {
            // Each word is the one that fails, then again in the first retry, and again in the second.
            for second in 0..=STORES {
                let (memory, interrupt) = (failing(), Interrupt::default());
                let mut device = calibrated(&memory, &interrupt);
                let before = *memory.words.borrow();
                for (attempt, allowed) in [first, second, second / 2].into_iter().enumerate() {
                    memory.left.set(allowed);
                    let result = if attempt == 0 { operation(&mut device) } else { device.retry() };
                    if allowed >= STORES {
                        result.expect("it was enough");
                        break;
                    }
                    assert!(matches!(result, Err(Error::Memory(Broken))), "{name}, {allowed} stores");
                    assert!(is_old_or_odd(&memory, &before), "{name}, {allowed} stores");
                    assert!(device.is_behind() && interrupt.raised.get() == 1, "the guest was told of nothing");
                }
                memory.left.set(u32::MAX);
                device.retry().expect("it works again");
                assert_eq!(*memory.words.borrow(), wanted, "{name}, {first} and {second} stores");
                assert_eq!((device.is_behind(), interrupt.raised.get()), (false, raised));
            }
        }
    }
}

#[test]
fn the_next_operation_says_what_the_last_could_not() {
    for (name, operation) in OPERATIONS {
        for (next_name, next) in OPERATIONS {
            let (memory, interrupt) = (failing(), Interrupt::default());
            let mut device = calibrated(&memory, &interrupt);
            // All in two updates, or in one; but for the sequence count it is the same.
            let (other_memory, other_interrupt) = (failing(), Interrupt::default());
            let mut other = calibrated(&other_memory, &other_interrupt);
            operation(&mut other).expect("written");
            next(&mut other).expect("written");

            memory.left.set(STORES / 2);
            assert!(operation(&mut device).is_err(), "{name}");
            memory.left.set(u32::MAX);
            next(&mut device).expect("written");
            let seen = Snapshot::from_prefix(&*memory.words.borrow()).expect("a consistent page");
            assert_eq!(&seen, device.page());
            assert_eq!(seen, Snapshot { seq_count: seen.seq_count, ..*other.page() }, "{name}, then {next_name}");
            assert!(!device.is_behind());
        }
    }
}

#[test]
fn a_device_that_cannot_be_made_leaves_the_old_page_or_an_odd_one() {
    for (name, arrive) in ARRIVALS {
        for allowed in 0..STORES {
            let (memory, interrupt) = (failing(), Interrupt::default());
            let state = calibrated(&memory, &interrupt).save();
            let (before, raised) = (*memory.words.borrow(), interrupt.raised.get());
            memory.left.set(allowed);
            let made = arrive(&memory, &interrupt, &state);
            assert!(matches!(made, Err(Error::Memory(Broken))), "{name}, {allowed} stores");
            assert!(is_old_or_odd(&memory, &before), "{name}, {allowed} stores");
            assert_eq!(interrupt.raised.get(), raised, "the guest was told of nothing");
            memory.left.set(u32::MAX);
            let device = arrive(&memory, &interrupt, &state).expect("made anew");
            let seen = Snapshot::from_prefix(&*memory.words.borrow()).expect("a consistent page");
            assert_eq!((&seen, device.is_behind(), interrupt.raised.get()), (device.page(), false, raised + 1));
        }
    }
    for allowed in 0..STORES {
        let (memory, interrupt) = (failing(), Interrupt::default());
        memory.left.set(allowed);
        assert!(Device::new(&memory, &interrupt, (), options(), [1, 2]).is_err(), "{allowed} stores");
        assert!(Snapshot::from_prefix(&*memory.words.borrow()).is_err(), "no page yet");
    }
}

#[test]
fn what_guests_could_not_see_promises_nothing() {
    const SECOND: u64 = 2_000_000_000;
    let (memory, interrupt) = (failing(), Interrupt::default());
    let mut device = Device::new(&memory, &interrupt, (), options(), [1, 2]).expect("written");
    device.calibrate(&relation(0, 0, 0)).expect("written");
    let (right, stepped) = (relation(SECOND, 1_000_000_000, 0), relation(SECOND, 3_000_000_000, 0));
    memory.left.set(5);
    assert!(device.calibrate(&stepped).is_err());
    assert_eq!((device.agrees(&right, SECOND), device.agrees(&stepped, SECOND)), (true, false));
    memory.left.set(u32::MAX);
    device.retry().expect("it works again");
    assert_eq!((device.agrees(&right, SECOND), device.agrees(&stepped, SECOND)), (false, true));
}

#[test]
fn the_sequence_count_goes_on_from_the_later_of_state_and_memory() {
    let interrupt = Interrupt::default();
    for (name, arrive) in ARRIVALS {
        for ahead in [0, 1, 1 << 28, (1 << 28) + 6, (1 << 30) + 1, (1 << 31) - 3] {
            let memory = failing();
            let state = calibrated(&memory, &interrupt).save();
            // Odd, too, as when it was copied in the middle of an update; and around the end of the numbers.
            let came = 4_u32.wrapping_add(ahead);
            memory.words.borrow_mut()[0x0c..0x10].copy_from_slice(&came.to_le_bytes());
            let device = arrive(&memory, &interrupt, &state).expect("written");
            let count = device.page().seq_count;
            assert_eq!(count & 1, 0);
            assert!(count != came && count.wrapping_sub(came) >> 31 == 0, "{name}: {count:#x} is behind {came:#x}");
        }
    }
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
    Resume(bool),
    Reset(bool),
    ResumeIn(bool),
    Migrate(bool),
    Restore(bool),
    Clone,
    CloneIn,
    Disrupt,
    Distrust,
    Maintenance(Maintenance),
    Calibrate,
    Leap(Option<i16>, LeapIndicator),
}

impl Step {
    /// Whether it is one with a calibration.
    fn calibrates(self) -> bool {
        use Step::{Calibrate, Migrate, Reset, Restore, Resume, ResumeIn};
        matches!(self, Calibrate | Resume(true) | Reset(true) | ResumeIn(true) | Migrate(true) | Restore(true))
    }

    /// The rows of the table: whether marker and generation are new.
    fn row(self) -> (bool, bool) {
        match self {
            Self::Migrate(_) | Self::Disrupt => (true, false),
            Self::Restore(_) => (true, true),
            Self::Clone | Self::CloneIn => (false, true),
            _ => (false, false),
        }
    }
}

fn facts() -> impl Strategy<Value = (Option<i16>, LeapIndicator)> {
    (prop::option::of(-60_i16..=-10), (0_u8..6).prop_map(LeapIndicator))
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Pause),
        any::<bool>().prop_map(Step::Resume),
        any::<bool>().prop_map(Step::Reset),
        any::<bool>().prop_map(Step::ResumeIn),
        any::<bool>().prop_map(Step::Migrate),
        any::<bool>().prop_map(Step::Restore),
        Just(Step::Clone),
        Just(Step::CloneIn),
        Just(Step::Disrupt),
        Just(Step::Distrust),
        prop_oneof![Just(Maintenance::None), Just(Maintenance::Soon), Just(Maintenance::Imminent)]
            .prop_map(Step::Maintenance),
        // More often than the others.
        Just(Step::Calibrate),
        Just(Step::Calibrate),
        Just(Step::Calibrate),
        facts().prop_map(|(offset, indicator)| Step::Leap(offset, indicator)),
    ]
}

/// How an honest calibration differs from the truth, and from the last.
#[derive(Clone, Copy, Debug)]
struct Honest {
    /// In nanoseconds.
    off: i64,
    /// How much more than that it may be off, in nanoseconds.
    vague: u64,
    /// By how much the period is off, in parts per 10^12; it may be 15,000,000.
    period_off: i64,
    facts: (Option<i16>, LeapIndicator),
}

fn honest() -> impl Strategy<Value = Honest> {
    (-100_i64..100, 0_u64..900, -14_900_000_i64..14_900_000, facts())
        .prop_map(|(off, vague, period_off, facts)| Honest { off, vague, period_off, facts })
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

/// The true time of a counter that has about 2 GHz: its ticks are longer than that by so many parts in 10^12.
struct World {
    start: u64,
    start_nanos: i128,
    counter: u64,
    drift: i64,
}

impl World {
    fn new(counter: u64, nanos: i128, drift: i64) -> Self {
        Self { start: counter, start_nanos: nanos, counter, drift }
    }

    fn run(&mut self, ticks: u64) {
        self.counter = self.counter.wrapping_add(ticks);
    }

    /// The counter is another one: it jumped, or it is another host's.
    fn move_to(&mut self, counter: u64, ticks_later: u64, drift: i64) {
        *self = Self::new(counter, self.nanos() + i128::from(ticks_later), drift);
    }

    /// In TAI, rounded down: nothing adds up.
    fn nanos(&self) -> i128 {
        let ticks = i128::from(self.counter.wrapping_sub(self.start));
        self.start_nanos + ticks * (1_000_000_000_000 + i128::from(self.drift)) / 2_000_000_000_000
    }

    /// A right one: it is off by no more than it says.
    fn calibration(&self, honest: Honest) -> Calibration {
        let time = Time::<Tai>::from_nanos(self.nanos() + i128::from(honest.off)).expect("in range");
        // To half a part in 10^9, which is why the period is off by less than it may be.
        let hertz = 2_000_000_000 - (self.drift + honest.period_off) / 500;
        let hertz = NonZeroU64::new(hertz.unsigned_abs()).expect("not 0");
        Calibration {
            counter: self.counter,
            time,
            period: Period::from_frequency(hertz),
            time_max_error: honest.off.unsigned_abs() + honest.vague + 1,
            utc_minus_tai: honest.facts.0,
            leap_indicator: honest.facts.1,
            ..calibration(0, 0)
        }
    }
}

/// What a guest makes of a page.
fn clock_on(page: &Snapshot) -> Option<vmclock_core::calibration::Calibration> {
    vmclock_core::calibration::Calibration::from_snapshot(page, CounterId::X86_TSC).ok()
}

/// Whether the time is where it was said to be.
fn is_inside(interval: &Interval<PageScale>, time: Time<PageScale>) -> bool {
    interval.earliest.nanos() <= time.ceil_nanos() && time.floor_nanos() <= interval.latest.nanos()
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

    /// After each step the guest sees the events of the table, none missed and none invented, and no identity twice; the page says what was
    /// told, and no more; its bounds have the true time in them; and what it said before under the same marker, for all counter
    /// values from its reference on, holds.
    #[test]
    fn a_life(
        drift in -10_000_000_i64..10_000_000,
        life in prop::collection::vec((steps(), 1_u64..40_000_000_000, honest(), any::<[u64; 3]>()), 1..60),
    ) {
        let memory = guest();
        let interrupt = Interrupt::default();
        let mut device = Device::new(region(&memory), &interrupt, (), options(), [1, 2]).expect("written");
        let mut world = World::new(1 << 40, 1_800_000_000_000_000_000, drift);
        let mut before = seen(&memory);
        let mut known = HashSet::from([before.disruption_marker, before.vm_generation_counter]);
        let mut told = (None, LeapIndicator::NONE);
        let mut announced = Maintenance::None;
        // The last page that gave time, if no new marker came since.
        let mut promised: Option<Snapshot> = None;
        for (step, ticks, honest, fresh) in life {
            world.run(ticks);
            let (is_disrupted, is_restored) = step.row();
            if matches!(step, Step::Migrate(_) | Step::Restore(_)) {
                world.move_to(fresh[2], ticks, -world.drift);
            }
            let time = world.calibration(honest);
            // It takes a moment until it is on the page.
            world.run(ticks / 1000);
            let raised = interrupt.raised.get();
            // As a monitor has to do it.
            let disagrees = step.calibrates() && !is_disrupted && !device.agrees(&time, world.counter);
            if disagrees {
                device.disrupt(fresh[2]).expect("written");
            }
            let calibration = step.calibrates().then_some(&time);
            let state = device.save();
            let place = || region(&memory);
            match step {
                Step::Pause => device.pause(),
                Step::Resume(_) => device.resume(calibration),
                Step::Reset(_) => device.reset(calibration),
                Step::ResumeIn(_) => Device::resume_in(place(), &interrupt, (), &state, calibration).map(|made| device = made),
                Step::Migrate(_) => {
                    let state = device.migrate_out();
                    Device::migrate_in(place(), &interrupt, (), &state, calibration, fresh[0]).map(|made| device = made)
                }
                Step::Restore(_) => {
                    let fresh = [fresh[0], fresh[1]];
                    Device::restore(place(), &interrupt, (), &state, calibration, fresh).map(|made| device = made)
                }
                Step::Clone => device.clone_running(fresh[0]),
                Step::CloneIn => Device::clone_in(place(), &interrupt, (), &state, fresh[0]).map(|made| device = made),
                Step::Disrupt => device.disrupt(fresh[0]),
                Step::Distrust => device.distrust(),
                Step::Maintenance(announced) => device.maintenance(announced),
                Step::Calibrate => device.calibrate(&time),
                Step::Leap(offset, indicator) => device.leap(offset, indicator),
            }.expect("nothing fails here");

            let after = seen(&memory);
            prop_assert_eq!(&after, device.page());
            let updates = u32::from(!matches!(step, Step::Pause | Step::Resume(false))) + u32::from(disagrees);
            prop_assert_eq!(interrupt.raised.get() - raised, updates, "update and notification are one");
            prop_assert_eq!(after.seq_count == before.seq_count, updates == 0);
            prop_assert!(after.seq_count.wrapping_sub(before.seq_count) >> 31 == 0, "it only goes on");
            let names: Vec<&str> = changes(&before, &after).map(|event| event.name()).collect();
            let has = |name: &str| names.contains(&name);
            let is_disrupted = is_disrupted || disagrees;
            prop_assert_eq!((has("disrupted"), has("restored")), (is_disrupted, is_restored), "{:?}: {:?}", step, names);
            for (is_new, value) in [(is_disrupted, after.disruption_marker), (is_restored, after.vm_generation_counter)] {
                prop_assert!(!is_new || known.insert(value), "{:#x} came twice", value);
            }

            // What was told, and nothing of another host.
            let arrived = matches!(step, Step::Migrate(_) | Step::Restore(_));
            match step {
                Step::Leap(offset, indicator) => told = (offset, indicator),
                step if step.calibrates() => told = honest.facts,
                _ if arrived => told = (None, LeapIndicator::NONE),
                _ => {}
            }
            match step {
                Step::Maintenance(now) => announced = now,
                _ if arrived => announced = Maintenance::None,
                _ => {}
            }
            prop_assert_eq!((after.tai_offset(), after.leap_indicator, Maintenance::of(&after)), (told.0, told.1, announced));
            prop_assert_eq!(after.flags.contains(Flags::TAI_OFFSET_VALID), told.0.is_some());
            prop_assert!(after.notifies() && !after.flags.contains(Flags::TIME_MONOTONIC), "nobody promised that");
            let status = match step {
                step if step.calibrates() => ClockStatus::SYNCHRONIZED,
                _ if is_disrupted => ClockStatus::INITIALIZING,
                Step::Distrust if before.clock_status.gives_time() => ClockStatus::UNRELIABLE,
                _ => before.clock_status,
            };
            prop_assert_eq!(after.clock_status, status);

            let clock = clock_on(&after);
            prop_assert_eq!(clock.is_some(), status.gives_time());
            if is_disrupted {
                promised = None;
            }
            if let Some(clock) = clock {
                let interval = clock.interval_at(world.counter).expect("in range").expect("bounds");
                prop_assert!(interval.earliest.nanos() <= world.nanos() + 1 && world.nanos() <= interval.latest.nanos());
                if let Some(promised) = &promised {
                    let old = clock_on(promised).expect("it gave time");
                    let age = world.counter.wrapping_sub(promised.counter_value);
                    for counter in [0, age / 1000, age / 3, age - age / 7, age].map(|age| promised.counter_value.wrapping_add(age)) {
                        let interval = old.interval_at(counter).expect("in range").expect("bounds");
                        let time = clock.time_at(counter).expect("in range");
                        prop_assert!(is_inside(&interval, time), "{} is outside {:?}", time.floor_nanos(), interval);
                    }
                }
                promised = Some(after);
            }
            before = after;
        }
    }

    /// Whatever happens, a guest's interval has the true time in it; and within one life of the counter, the next page says of a
    /// reading nothing that its own page did not allow.
    #[test]
    fn a_guests_time(
        drift in -10_000_000_i64..10_000_000,
        life in prop::collection::vec((happenings(), 1_u64..40_000_000_000, honest(), any::<u64>()), 1..60),
    ) {
        let memory = guest();
        let mut world = World::new(1 << 40, 1_800_000_000_000_000_000, drift);
        let mut device = Device::new(region(&memory), (), (), options(), [1, 2]).expect("written");
        // The last reading since the marker changed: the counter, and where the time was said to be.
        let mut said: Option<(u64, Interval<PageScale>)> = None;
        for (happening, ticks, honest, fresh) in life {
            let before = seen(&memory).disruption_marker;
            match happening {
                Happening::Goes => world.run(ticks),
                Happening::Jumps => {
                    world.move_to(world.counter.wrapping_add(ticks), 0, world.drift);
                    device.disrupt(fresh).expect("written");
                }
                Happening::Moves => {
                    let state = device.migrate_out();
                    world.move_to(fresh, ticks, -world.drift);
                    let known = world.calibration(honest);
                    device = Device::migrate_in(region(&memory), (), (), &state, Some(&known), fresh).expect("written");
                }
            }
            let known = world.calibration(honest);
            if !device.agrees(&known, world.counter) {
                device.disrupt(fresh).expect("written");
            }
            device.calibrate(&known).expect("written");

            let page = seen(&memory);
            if page.disruption_marker != before {
                said = None;
            }
            let clock = clock_on(&page).expect("a time");
            if let Some((counter, interval)) = said {
                let time = clock.time_at(counter).expect("in range");
                prop_assert!(is_inside(&interval, time), "{} is outside {:?}", time.floor_nanos(), interval);
            }
            world.run(ticks / 2);
            let interval = clock.interval_at(world.counter).expect("in range").expect("bounds");
            prop_assert!(interval.earliest.nanos() <= world.nanos() + 1 && world.nanos() <= interval.latest.nanos());
            said = Some((world.counter, interval));
        }
    }
}

/// A generator of numbers as good as random, from a seed (splitmix64).
struct Chance(u64);

impl Chance {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        u64::try_from((u128::from(self.draw()) * u128::from(end)) >> 64).expect("below the end")
    }

    /// On either side of 0.
    fn within(&mut self, limit: i64) -> i64 {
        limit - self.below(2 * limit.unsigned_abs() + 1).cast_signed()
    }
}

/// A host's counter: what it is said to do in a second, and how much longer than that its ticks really are, in parts per 10^12.
#[derive(Clone, Copy, Debug)]
struct Oscillator {
    hertz: u64,
    drift: i64,
}

impl Oscillator {
    fn drawn(chance: &mut Chance) -> Self {
        Self { hertz: 1000 * (24_000 + chance.below(4_000_000)), drift: chance.within(14_999_000) }
    }

    /// So many ticks in nanoseconds, rounded down.
    fn nanos(self, ticks: u64) -> i128 {
        let (ticks, hertz) = (i128::from(ticks), i128::from(self.hertz));
        ticks * 1_000_000_000 / hertz + ticks * i128::from(self.drift) / (hertz * 1000)
    }

    /// How many ticks there are in so many nanoseconds.
    fn ticks(self, nanos: i128) -> i128 {
        let million = 1_000_000_000_000_i128;
        nanos * i128::from(self.hertz) * 1000 / (million + i128::from(self.drift))
    }

    fn calibration(self, counter: u64, nanos: i128, off: i64) -> Calibration {
        let time = Time::from_nanos(nanos + i128::from(off)).expect("in range");
        let period = Period::from_frequency(NonZeroU64::new(self.hertz).expect("not 0"));
        Calibration { counter, time, period, ..calibration(0, 0) }
    }
}

/// From host to host, of another rate and another drift, with or without scaling, and with the guest's counter set so that it
/// goes on: no reading is outside its interval.
#[test]
fn migration_keeps_the_time() {
    let memory = guest();
    let place = region(&memory);
    let mut chance = Chance(0x243f_6a88_85a3_08d3);
    let mut scaled = 0_u32;
    for turn in 0..100_000 {
        let (source, host) = (Oscillator::drawn(&mut chance), Oscillator::drawn(&mut chance));
        let start = 1_800_000_000_000_000_000_i128;
        let guest_counter = chance.draw();
        let mut device = Device::new(&place, (), (), options(), [1, 2]).expect("written");
        let known = source.calibration(guest_counter, start, chance.within(490));
        device.calibrate(&known).expect("written");
        let state = device.migrate_out();

        // The destination knows its own counter's time. It may be able to keep the guest's rate.
        let down = i128::from(1_000_000 + chance.below(60_000_000_000));
        let host_counter = chance.draw() >> 1;
        let known = host.calibration(host_counter, start + down, chance.within(490));
        let bits = if chance.below(2) == 0 { 32 } else { 48 };
        let khz = |hertz: u64| u32::try_from(hertz / 1000).expect("small");
        let scale =
            (chance.below(3) > 0).then(|| Scale::between(khz(host.hertz), khz(source.hertz), bits).expect("fits"));
        scaled += u32::from(scale.is_some());
        let (counter, error) = state.guest_counter(&known, scale).expect("it had a time");
        assert_eq!((counter.error(), counter.scale()), (0, scale));
        let guests = counter.calibration(&known).expect("it runs");
        Device::migrate_in(&place, (), (), &state, Some(&guests), 2).expect("written");

        // The guest reads a while later, or on a CPU that is a little behind.
        let context = || format!("turn {turn}: {source:?}, {host:?}, {scale:?}");
        let clock = clock_on(&seen(&memory)).expect("a time");
        let later = chance.below(1 << 34);
        let true_nanos = start + down + host.nanos(later);
        let interval = clock.interval_at(counter.at(host_counter + later)).expect("in range").expect("bounds");
        let is_right = interval.earliest.nanos() <= true_nanos + 1 && true_nanos - 1 <= interval.latest.nanos();
        assert!(is_right, "{}: {true_nanos} is not in {interval:?}", context());

        // And at that moment the counter is what it would have been, to within what was said.
        let ideal = guest_counter.wrapping_add(u64::try_from(source.ticks(down)).expect("ahead"));
        let apart = u128::from(counter.at(host_counter).wrapping_sub(ideal).cast_signed().unsigned_abs());
        let apart = apart * 1_000_000_000 / u128::from(source.hertz);
        assert!(apart <= error + 1, "{}: {apart} ns, and {error} are allowed", context());
        // Which is no more than 15 ppm, both hosts' errors, and a tick of the slowest.
        let most = u128::try_from(down).expect("ahead") * 15 / 1_000_000 + 2 * 500;
        assert!(error <= most + 60 && error + 60 >= most, "{}: {error} ns, not {most}", context());
    }
    assert!((60_000..73_000).contains(&scaled), "{scaled}");
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
