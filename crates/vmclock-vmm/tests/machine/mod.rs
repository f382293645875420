// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! A guest's memory, what it sees there, and a device's other surroundings.
// Not every test needs all of it.
#![allow(dead_code)]

use std::cell::Cell;
use std::num::NonZeroU64;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmclock_core::abi::{ClockStatus, CounterId, LeapIndicator, Snapshot, STRUCTURE_LEN};
use vmclock_core::calibration::{Calibration, Period};
use vmclock_core::lifecycle::{Calibrated, LeapStatus};
use vmclock_core::tai::TaiOffset;
use vmclock_core::time::{Tai, Time};
use vmclock_vmm::device::{Arrival, Error, Options};
use vmclock_vmm::memory::Region;
use vmclock_vmm::state::State;
use vmclock_vmm::trigger::{Cause, Trigger};
use vmclock_vmm::{VmClockDevice, VmClockPage};

pub(crate) const PLACE: GuestAddress = GuestAddress(0xf000);

pub(crate) fn guest() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).expect("memory")
}

pub(crate) fn region(memory: &GuestMemoryMmap) -> VmClockPage<&GuestMemoryMmap> {
    VmClockPage::new(memory, PLACE, 0x1000).expect("inside")
}

/// The page's bytes, as the guest has them.
pub(crate) fn bytes(memory: &GuestMemoryMmap) -> [u8; STRUCTURE_LEN] {
    let mut bytes = [0; STRUCTURE_LEN];
    memory.read_slice(&mut bytes, PLACE).expect("inside");
    bytes
}

pub(crate) fn seen(memory: &GuestMemoryMmap) -> Snapshot {
    Snapshot::from_prefix(&bytes(memory)).expect("a consistent page")
}

/// Counts.
#[derive(Default)]
pub(crate) struct Interrupt {
    pub(crate) raised: Cell<u32>,
    pub(crate) is_broken: Cell<bool>,
}

#[derive(Debug, thiserror::Error)]
#[error("broken")]
pub(crate) struct Broken;

impl Trigger for Interrupt {
    fn trigger(&self) -> Result<(), Cause> {
        if self.is_broken.get() {
            return Err(Broken.into());
        }
        self.raised.set(self.raised.get() + 1);
        Ok(())
    }
}

/// TAI-UTC in seconds, and a leap indicator.
pub(crate) fn leap(tai_offset: i16, indicator: LeapIndicator) -> LeapStatus {
    LeapStatus { tai_offset: TaiOffset::from_seconds(tai_offset), indicator }
}

/// To 500 ns and 15 ppm.
pub(crate) fn known(counter: u64, time: Time<Tai>, hertz: u64) -> Calibrated {
    let period = Period::from_frequency(NonZeroU64::new(hertz).expect("not 0"));
    Calibrated {
        calibration: Calibration::new(counter, time, period)
            .with_max_error(500, 15_000_000)
            .with_estimated_error(50, 10_000),
        status: ClockStatus::SYNCHRONIZED,
        leap: leap(37, LeapIndicator::NONE),
    }
}

pub(crate) fn calibration(counter: u64, seconds: i64) -> Calibrated {
    known(counter, Time::from_parts(seconds, 0), 2_000_000_000)
}

pub(crate) fn options() -> Options {
    Options::new(CounterId::X86_TSC, [1, 2])
}

/// Of one that only signals events.
pub(crate) fn without_counter() -> Options {
    Options::new(CounterId::NONE, [1, 2])
}

/// A calibration with its reference `nanos` after a moment, of a counter whose ticks are so much longer.
pub(crate) fn relation(counter: u64, nanos: i128, ppm: u64) -> Calibrated {
    let time = Time::from_nanos(1_800_000_000_000_000_000 + nanos).expect("in range");
    known(counter, time, 2_000_000_000 - 2_000 * ppm)
}

pub(crate) type Quiet<'a> = VmClockDevice<VmClockPage<&'a GuestMemoryMmap>, ()>;

/// A device of a saved state; whether its guest was notified, it knows.
pub(crate) fn arrived<M: Region, T: Trigger>(
    memory: M,
    trigger: T,
    state: &State,
    arrival: Arrival,
    calibration: Option<&Calibrated>,
    fresh: [u64; 2],
) -> Result<VmClockDevice<M, T>, Error> {
    let made = VmClockDevice::from_state(memory, trigger, (), state, arrival, calibration, fresh);
    made.map(|(device, notified)| {
        assert_eq!(device.is_behind(), notified.is_err());
        device
    })
}

/// From another host, or out of saved state.
pub(crate) fn incoming<'a>(
    memory: &'a GuestMemoryMmap,
    state: &State,
    calibration: Option<&Calibrated>,
    restored: Option<u64>,
) -> Result<Quiet<'a>, Error> {
    match restored {
        Some(fresh) => arrived(region(memory), (), state, Arrival::Restore, calibration, [7, fresh]),
        None => arrived(region(memory), (), state, Arrival::Migration, calibration, [7, 0]),
    }
}

/// A state as a device of one calibration leaves it.
pub(crate) fn saved() -> State {
    let memory = guest();
    let mut source = VmClockDevice::new(region(&memory), (), (), options(), [1, 2]).expect("written");
    source.calibrate(&calibration(5, 1_800_000_000)).expect("written");
    source.leap_status(leap(37, LeapIndicator::NONE)).expect("written");
    source.save()
}

/// What a guest makes of a page.
pub(crate) fn clock_on(page: &Snapshot) -> Option<Calibration> {
    Calibration::from_snapshot(page, CounterId::X86_TSC).ok()
}
