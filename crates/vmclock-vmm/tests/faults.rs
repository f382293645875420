// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! The device where memory fails, at every word that it writes.
#![cfg(not(loom))]

mod machine;

use std::cell::{Cell, RefCell};
use std::sync::atomic::Ordering;

use vmclock_core::abi::{LeapIndicator, Snapshot, STRUCTURE_LEN};
use vmclock_core::event::Maintenance;
use vmclock_vmm::device::{Arrival, Error};
use vmclock_vmm::memory::{PageMemory, Region};
use vmclock_vmm::state::State;
use vmclock_vmm::VmClockDevice;

use machine::{arrived, calibration, leap, options, relation, Broken, Interrupt};

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

    fn store_u32(&self, offset: u64, value: u32, _: Ordering) -> Result<(), Broken> {
        self.store(offset, &value.to_le_bytes())
    }

    fn store_u64(&self, offset: u64, value: u64, _: Ordering) -> Result<(), Broken> {
        self.store(offset, &value.to_le_bytes())
    }
}

impl Region for Failing {
    fn region_len(&self) -> u64 {
        0x1000
    }

    fn load_u32(&self, offset: u64, _: Ordering) -> Result<u32, Broken> {
        let offset = usize::try_from(offset).expect("small");
        Ok(u32::from_le_bytes(self.words.borrow()[offset..offset + 4].try_into().expect("four")))
    }
}

type Fragile<'a> = VmClockDevice<&'a Failing, &'a Interrupt>;
type Made<T> = Result<T, Error>;

type Operation = fn(&mut Fragile<'_>) -> Made<()>;
/// Every operation of a device that is there, by its name.
const OPERATIONS: [(&str, Operation); 9] = [
    ("calibrate", |device| device.calibrate(&calibration(5_000, 1_800_000_001))),
    ("leap_status", |device| device.leap_status(leap(36, LeapIndicator::PRE_POSITIVE))),
    ("maintenance", |device| device.maintenance(Maintenance::Imminent)),
    ("reset", |device| device.reset(None)),
    ("reset with a calibration", |device| device.reset(Some(&calibration(5_000, 1_800_000_002)))),
    ("resume", |device| device.resume(Some(&calibration(5_000, 1_800_000_003)))),
    ("clone_running", |device| device.clone_running(2)),
    ("disrupt", |device| device.disrupt(2)),
    ("distrust", |device| device.distrust()),
];

type Constructor = for<'a> fn(&'a Failing, &'a Interrupt, &State) -> Made<Fragile<'a>>;
/// Every way to make a device of what was saved.
const CONSTRUCTORS: [(&str, Constructor); 4] = [
    ("migrate_in", |memory, interrupt, state| arrived(memory, interrupt, state, Arrival::Migration, None, [3, 0])),
    ("restore", |memory, interrupt, state| {
        arrived(memory, interrupt, state, Arrival::Restore, Some(&calibration(5_000, 1_800_000_004)), [3, 4])
    }),
    ("resume_in", |memory, interrupt, state| arrived(memory, interrupt, state, Arrival::SameHost, None, [0, 0])),
    ("clone_in", |memory, interrupt, state| arrived(memory, interrupt, state, Arrival::Clone, None, [0, 4])),
];

/// The stores of an update: the odd count, three words of constants, all others, the even count.
const STORES: u32 = 1 + 3 + 12 + 1;

fn failing() -> Failing {
    Failing { words: RefCell::new([0; STRUCTURE_LEN]), left: Cell::new(u32::MAX) }
}

fn calibrated<'a>(memory: &'a Failing, interrupt: &'a Interrupt) -> Fragile<'a> {
    let mut device = VmClockDevice::new(memory, interrupt, (), options(), [1, 2]).expect("written");
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
        // The result if nothing fails.
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
                    assert!(matches!(result, Err(Error::Memory(_))), "{name}, {allowed} stores");
                    assert!(is_old_or_odd(&memory, &before), "{name}, {allowed} stores");
                    assert!(device.is_behind() && interrupt.raised.get() == 1, "the guest was not notified");
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
            assert_eq!(seen, other.page().with(|page| page.seq_count = seen.seq_count), "{name}, then {next_name}");
            assert!(!device.is_behind());
        }
    }
}

#[test]
fn a_device_that_cannot_be_made_leaves_the_old_page_or_an_odd_one() {
    for (name, make) in CONSTRUCTORS {
        for allowed in 0..STORES {
            let (memory, interrupt) = (failing(), Interrupt::default());
            let state = calibrated(&memory, &interrupt).save();
            let (before, raised) = (*memory.words.borrow(), interrupt.raised.get());
            memory.left.set(allowed);
            let made = make(&memory, &interrupt, &state);
            assert!(matches!(made, Err(Error::Memory(_))), "{name}, {allowed} stores");
            assert!(is_old_or_odd(&memory, &before), "{name}, {allowed} stores");
            assert_eq!(interrupt.raised.get(), raised, "the guest was not notified");
            memory.left.set(u32::MAX);
            let device = make(&memory, &interrupt, &state).expect("made anew");
            let seen = Snapshot::from_prefix(&*memory.words.borrow()).expect("a consistent page");
            assert_eq!((&seen, device.is_behind(), interrupt.raised.get()), (device.page(), false, raised + 1));
        }
    }
    for allowed in 0..STORES {
        let (memory, interrupt) = (failing(), Interrupt::default());
        memory.left.set(allowed);
        assert!(VmClockDevice::new(&memory, &interrupt, (), options(), [1, 2]).is_err(), "{allowed} stores");
        assert!(Snapshot::from_prefix(&*memory.words.borrow()).is_err(), "no page yet");
    }
}

#[test]
fn what_guests_could_not_see_publishes_no_bounds() {
    const SECOND: u64 = 2_000_000_000;
    let (memory, interrupt) = (failing(), Interrupt::default());
    let mut device = VmClockDevice::new(&memory, &interrupt, (), options(), [1, 2]).expect("written");
    device.calibrate(&relation(0, 0, 0)).expect("written");
    let (right, stepped) = (relation(SECOND, 1_000_000_000, 0), relation(SECOND, 3_000_000_000, 0));
    memory.left.set(5);
    assert!(device.calibrate(&stepped).is_err());
    assert_eq!((device.is_consistent(&right, SECOND), device.is_consistent(&stepped, SECOND)), (true, false));
    memory.left.set(u32::MAX);
    device.notify().expect("it works again");
    assert_eq!(interrupt.raised.get(), 2, "no guest is notified of an update that it cannot see");
    assert_eq!(Snapshot::from_prefix(&*memory.words.borrow()), Ok(*device.page()));
    assert_eq!((device.is_consistent(&right, SECOND), device.is_consistent(&stepped, SECOND)), (false, true));
}

#[test]
fn the_sequence_count_goes_on_from_the_later_of_state_and_memory() {
    let interrupt = Interrupt::default();
    for (name, make) in CONSTRUCTORS {
        for ahead in [0, 1, 1 << 28, (1 << 28) + 6, (1 << 30) + 1, (1 << 31) - 3] {
            let memory = failing();
            let state = calibrated(&memory, &interrupt).save();
            // Odd, too, as when it was copied in the middle of an update; and around the end of the numbers.
            let in_memory = 4_u32.wrapping_add(ahead);
            memory.words.borrow_mut()[0x0c..0x10].copy_from_slice(&in_memory.to_le_bytes());
            let device = make(&memory, &interrupt, &state).expect("written");
            let count = device.page().seq_count;
            assert_eq!(count & 1, 0);
            assert!(
                count != in_memory && count.wrapping_sub(in_memory) >> 31 == 0,
                "{name}: {count:#x} is behind {in_memory:#x}"
            );
        }
    }
}
