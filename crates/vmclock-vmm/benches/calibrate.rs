// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an update of the page costs, without the interrupt: `cargo bench -p vmclock-vmm`. The best of many rounds.

use std::error::Error;
use std::hint::black_box;
use std::num::NonZeroU64;
use std::time::Instant;

use vm_memory::{GuestAddress, GuestMemoryMmap};
use vmclock_core::abi::{ClockStatus, CounterId, LeapIndicator};
use vmclock_core::calibration::Period;
use vmclock_core::time::Time;
use vmclock_vmm::device::{Calibration, Device, Options};
use vmclock_vmm::memory::GuestRegion;

const ROUNDS: u32 = 500;
const CALLS: u32 = 2_000;

fn main() -> Result<(), Box<dyn Error>> {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x10000), (GuestAddress(1 << 32), 0x10000)])?;
    let region = GuestRegion::new(&memory, GuestAddress(0xf000), 0x1000)?;
    let options = Options::new(CounterId::X86_TSC, [1, 2]);
    let mut device = Device::new(region, (), (), options, [3, 2])?;
    let mut calibration = Calibration {
        counter: 5,
        time: Time::from_parts(1_800_000_000, 0),
        period: Period::from_frequency(NonZeroU64::new(2_500_000_000).ok_or("not 0")?),
        time_max_error: 500,
        time_estimated_error: 50,
        period_max_error: 15_000_000,
        period_estimated_error: 10_000,
        status: ClockStatus::SYNCHRONIZED,
        utc_minus_tai: Some(-37),
        leap_indicator: LeapIndicator::NONE,
    };
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..CALLS {
            // All that a refresh changes.
            calibration.counter = calibration.counter.wrapping_add(2_500_000_001);
            calibration.time = Time::from_raw(calibration.time.raw() + (1 << 64) + 12_345);
            calibration.time_max_error ^= 1;
            calibration.time_estimated_error ^= 1;
            calibration.period_max_error ^= 1 << 8;
            device.calibrate(black_box(&calibration))?;
        }
        best = best.min(start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS));
    }
    println!("calibrate: {best:.0} ns");
    Ok(())
}
