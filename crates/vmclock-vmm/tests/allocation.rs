// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a running guest's device does costs no allocation.
#![cfg(not(loom))]

use std::num::NonZeroU64;

use vm_memory::{GuestAddress, GuestMemoryMmap};
use vmclock_core::abi::{ClockStatus, CounterId, LeapIndicator};
use vmclock_core::calibration::Period;
use vmclock_core::event::Maintenance;
use vmclock_core::time::Time;
use vmclock_vmm::device::{Calibration, Device, Options};
use vmclock_vmm::memory::GuestRegion;
use vmclock_vmm::trigger::EventFd;
use vmm_sys_util::eventfd::EFD_NONBLOCK;

#[test]
fn nothing_is_allocated_after_construction() {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x10000)]).expect("memory");
    let region = GuestRegion::new(&memory, GuestAddress(0xf000), 0x1000).expect("inside");
    let interrupt = EventFd::new(EFD_NONBLOCK).expect("an eventfd");
    let calibration = Calibration {
        counter: 5,
        time: Time::from_parts(1_800_000_000, 0),
        period: Period::from_frequency(NonZeroU64::new(2_500_000_000).expect("not 0")),
        time_max_error: 500,
        time_estimated_error: 50,
        period_max_error: 15_000_000,
        period_estimated_error: 10_000,
        status: ClockStatus::SYNCHRONIZED,
        utc_minus_tai: Some(-37),
        leap_indicator: LeapIndicator::NONE,
    };
    let mut device =
        Device::new(region, &interrupt, (), Options::new(CounterId::X86_TSC, [1, 2]), [3, 2]).expect("written");
    let life = allocation_counter::measure(|| {
        for fresh in 0..100 {
            device.calibrate(&calibration).expect("written");
            device.leap(Some(-37), LeapIndicator::NONE).expect("written");
            device.maintenance(Maintenance::Soon).expect("written");
            device.pause().expect("written");
            device.resume(Some(&calibration)).expect("written");
            device.clone_running(fresh).expect("written");
            device.disrupt(fresh).expect("written");
            device.distrust().expect("written");
            device.reset(None).expect("written");
        }
    });
    assert_eq!(life.count_total, 0, "allocations");
    // The counting counts: a state is a vector.
    assert!(allocation_counter::measure(|| drop(device.save())).count_total > 0);
}
