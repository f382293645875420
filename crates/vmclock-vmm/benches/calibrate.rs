// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! What an update of the page costs, without the interrupt: `cargo bench -p vmclock-vmm`. The best of many rounds.

use std::error::Error;
use std::hint::black_box;
use std::num::NonZeroU64;
use std::time::Instant;

use vm_memory::{GuestAddress, GuestMemoryMmap};
use vmclock_core::abi::{ClockStatus, CounterId, LeapIndicator};
use vmclock_core::calibration::{Calibration, Period};
use vmclock_core::lifecycle::{Calibrated, LeapStatus};
use vmclock_core::tai::TaiOffset;
use vmclock_core::time::{Span, Tai, Time};
use vmclock_vmm::device::Options;
use vmclock_vmm::{VmClockDevice, VmClockPage};

const ROUNDS: u32 = 500;
const CALLS: u32 = 2_000;

fn main() -> Result<(), Box<dyn Error>> {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x10000), (GuestAddress(1 << 32), 0x10000)])?;
    let region = VmClockPage::new(&memory, GuestAddress(0xf000), 0x1000)?;
    let options = Options::new(CounterId::X86_TSC, [1, 2]);
    let mut device = VmClockDevice::new(region, (), (), options, [3, 2])?;
    let period = Period::from_frequency(NonZeroU64::new(2_500_000_000).ok_or("not 0")?);
    let leap = LeapStatus { tai_offset: TaiOffset::from_seconds(37), indicator: LeapIndicator::NONE };
    let (mut counter, mut time) = (5_u64, Time::<Tai>::from_parts(1_800_000_000, 0));
    let (mut max_error, mut estimated_error) = ((500, 15_000_000), (50, 10_000));
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..CALLS {
            // All that a refresh changes.
            counter = counter.wrapping_add(2_500_000_001);
            time = time.checked_add(Span::from_raw((1 << 64) + 12_345)).ok_or("out of range")?;
            (max_error.0, max_error.1, estimated_error.0) =
                (max_error.0 ^ 1, max_error.1 ^ 1 << 8, estimated_error.0 ^ 1);
            let calibration = Calibration::new(counter, time, black_box(period))
                .with_max_error(max_error.0, max_error.1)
                .with_estimated_error(estimated_error.0, estimated_error.1);
            device.calibrate(black_box(&Calibrated { calibration, status: ClockStatus::SYNCHRONIZED, leap }))?;
        }
        best = best.min(start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS));
    }
    println!("calibrate: {best:.0} ns");
    Ok(())
}
