// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! The operations of a running guest's device cost no allocation.
#![cfg(not(loom))]

use std::num::NonZeroU64;

use vm_memory::{GuestAddress, GuestMemoryMmap};
use vmclock_core::abi::{ClockStatus, CounterId, LeapIndicator};
use vmclock_core::calibration::{Calibration, Period};
use vmclock_core::event::Maintenance;
use vmclock_core::lifecycle::{Calibrated, LeapStatus};
use vmclock_core::tai::TaiOffset;
use vmclock_core::time::Time;
use vmclock_vmm::device::Options;
use vmclock_vmm::trigger::EventFd;
use vmclock_vmm::{VmClockDevice, VmClockPage};
use vmm_sys_util::eventfd::EFD_NONBLOCK;

#[test]
fn nothing_is_allocated_after_construction() {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x10000)]).expect("memory");
    let region = VmClockPage::new(&memory, GuestAddress(0xf000), 0x1000).expect("inside");
    let interrupt = EventFd::new(EFD_NONBLOCK).expect("an eventfd");
    let period = Period::from_frequency(NonZeroU64::new(2_500_000_000).expect("not 0"));
    let calibration = Calibrated {
        calibration: Calibration::new(5, Time::from_parts(1_800_000_000, 0), period).with_max_error(500, 15_000_000),
        status: ClockStatus::SYNCHRONIZED,
        leap: LeapStatus { tai_offset: TaiOffset::from_seconds(37), indicator: LeapIndicator::NONE },
    };
    let mut device =
        VmClockDevice::new(region, &interrupt, (), Options::new(CounterId::X86_TSC, [1, 2]), [3, 2]).expect("written");
    let operations = allocation_counter::measure(|| {
        for fresh in 0..100 {
            device.calibrate(&calibration).expect("written");
            device.leap_status(LeapStatus::UNKNOWN).expect("written");
            device.maintenance(Maintenance::Soon).expect("written");
            device.pause().expect("written");
            device.resume(Some(&calibration)).expect("written");
            device.clone_running(fresh).expect("written");
            device.disrupt(fresh).expect("written");
            device.distrust().expect("written");
            device.reset(None).expect("written");
        }
    });
    assert_eq!(operations.count_total, 0, "allocations");
    // The counting counts.
    assert!(allocation_counter::measure(|| drop(std::hint::black_box(Box::new(device.save())))).count_total > 0);
}
