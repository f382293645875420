// SPDX-License-Identifier: MIT OR Apache-2.0
//! The saved state of a device of `vmclock-vmm`: any bytes. Whatever they are, they are refused with a reason, or the
//! device has a page that readers take; never a panic.
//!
//! An input is how the machine arrives (1 byte), and what the bytes of a state that a device has saved differ by.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vmclock_core::abi::{ClockStatus, CounterId};
use vmclock_core::calibration::{Calibration, Period};
use vmclock_core::lifecycle::{Calibrated, LeapStatus};
use vmclock_core::time::Time;
use vmclock_vmm::device::{Arrival, Options};
use vmclock_vmm::memory::{HostPage, Page};
use vmclock_vmm::state::State;
use vmclock_vmm::VmClockDevice;

fuzz_target!(|input: &[u8]| {
    let Some((first, differences)) = input.split_first() else { return };
    let arrivals = [Arrival::SameHost, Arrival::Clone, Arrival::Migration, Arrival::Restore];
    let arrival = arrivals[usize::from(*first) % arrivals.len()];
    let period = Period::from_frequency(2_000_000_000.try_into().expect("not 0"));
    let known = Calibrated {
        calibration: Calibration::new(5, Time::from_parts(1_800_000_000, 0), period).with_max_error(500, 15_000_000),
        status: ClockStatus::SYNCHRONIZED,
        leap: LeapStatus::UNKNOWN,
    };
    let page = Page::new();
    let region = || HostPage::new(&page, 0x1000).expect("a length");
    let options = Options::new(CounterId::X86_TSC, [1, 2]);
    let mut source = VmClockDevice::new(region(), (), (), options, [3, 4]).expect("it cannot fail");
    source.calibrate(&known).expect("it has a counter");

    let mut bytes = source.save().to_bytes();
    for (byte, difference) in bytes.iter_mut().zip(differences) {
        *byte ^= difference;
    }
    // Fewer or more bytes are refused.
    assert!(State::from_bytes(differences).is_err() || differences.len() == State::LEN);
    let state = match State::from_bytes(&bytes) {
        Ok(state) => state,
        Err(reason) => return assert_ne!(reason.to_string(), ""),
    };
    // But for a count that is too large, which is refused later.
    assert!(state.to_bytes() == bytes || source.load(&state, arrival, None, [5, 6]).is_err() || bytes[12] == 0);
    let _ = state.guest_counter(&known.calibration, None);
    for known in [None, Some(&known)] {
        match VmClockDevice::from_state(region(), (), (), &state, arrival, known, [7, 8]) {
            Ok((device, notified)) => {
                assert!(notified.is_ok() && !device.is_behind());
                let seen = page.snapshot(|| false).expect("no update is in progress");
                assert_eq!(&seen, device.page());
                assert!(seen.validate(0x1000).is_ok());
                assert_eq!(State::from_bytes(&device.save().to_bytes()), Ok(device.save()));
            }
            Err(reason) => assert_ne!(reason.to_string(), ""),
        }
    }
});
