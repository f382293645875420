// SPDX-License-Identifier: MIT OR Apache-2.0
//! A monitor without a guest's CPU: the device in guest memory, and our own reader on the same memory. It walks through every
//! operation, and prints what the guest sees.

use std::error::Error;
use std::num::NonZeroU64;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmclock_core::abi::{ClockStatus, CounterId, LeapIndicator, Snapshot, STRUCTURE_LEN};
use vmclock_core::calibration::{self, Period};
use vmclock_core::event::{changes, Maintenance};
use vmclock_core::time::Time;
use vmclock_vmm::device::{Calibration, Device, Options};
use vmclock_vmm::memory::GuestRegion;
use vmclock_vmm::trigger::EventFd;
use vmm_sys_util::eventfd::EFD_NONBLOCK;

const PLACE: GuestAddress = GuestAddress(0xf000);
/// Ticks a second of the guest's counter.
const HERTZ: u64 = 2_000_000_000;

/// The guest: it compares the page with what it saw last.
struct Guest<'a> {
    memory: &'a GuestMemoryMmap,
    interrupt: &'a EventFd,
    last: Snapshot,
}

impl Guest<'_> {
    fn look(&mut self, what: &str, counter: u64) -> Result<(), Box<dyn Error>> {
        let mut bytes = [0; STRUCTURE_LEN];
        self.memory.read_slice(&mut bytes, PLACE)?;
        let page = Snapshot::from_prefix(&bytes)?;
        println!("{what}: sequence count {}, interrupts {}", page.seq_count, self.interrupt.read().unwrap_or(0));
        for event in changes(&self.last, &page) {
            println!("    {}: {event}", event.name());
        }
        match calibration::Calibration::from_snapshot(&page, CounterId::X86_TSC) {
            Ok(clock) => {
                let (time, error) = (clock.time_at(counter)?, clock.max_error_at(counter));
                println!("    TAI {}.{:09} ± {} ns", time.seconds(), time.subsec_nanos(), error.unwrap_or_default());
            }
            Err(reason) => println!("    {reason}"),
        }
        self.last = page;
        Ok(())
    }
}

/// What the host knows when the guest's counter is `counter`, `seconds` after the start.
fn known(counter: u64, seconds: i64) -> Option<Calibration> {
    Some(Calibration {
        counter,
        time: Time::from_parts(1_800_000_000 + seconds, 0),
        period: Period::from_frequency(NonZeroU64::new(HERTZ)?),
        time_max_error: 800,
        time_estimated_error: 80,
        period_max_error: 15_000_000,
        period_estimated_error: 20_000,
        status: ClockStatus::SYNCHRONIZED,
        utc_minus_tai: Some(-37),
        leap_indicator: LeapIndicator::NONE,
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    // A monitor takes these, and `fresh` below, from the system's randomness.
    let key = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344];
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)])?;
    let region = || GuestRegion::new(&memory, PLACE, 0x1000);
    let interrupt = EventFd::new(EFD_NONBLOCK)?;
    let mut guest = Guest { memory: &memory, interrupt: &interrupt, last: Snapshot::BLANK };
    let calibrated = |counter, seconds| known(counter, seconds).ok_or("a frequency of 0");

    let mut clock = Device::new(region()?, &interrupt, (), Options::new(CounterId::X86_TSC, key), [0xa409_3822, 2])?;
    guest.look("boot, nothing is known of the time yet", 0)?;
    clock.calibrate(&calibrated(0, 0)?)?;
    clock.leap(Some(-37), LeapIndicator::NONE)?;
    guest.look("calibrate and leap", HERTZ)?;
    clock.pause()?;
    clock.resume(Some(&calibrated(2 * HERTZ, 2)?))?;
    guest.look("pause and resume", 2 * HERTZ)?;
    clock.reset(None)?;
    guest.look("reset", 3 * HERTZ)?;
    clock.maintenance(Maintenance::Soon)?;
    guest.look("maintenance, within a day", 3 * HERTZ)?;
    clock.maintenance(Maintenance::Imminent)?;
    guest.look("maintenance, within an hour", 3 * HERTZ)?;

    // The state would travel with the memory.
    let state = clock.migrate_out();
    let mut clock =
        Device::migrate_in(region()?, &interrupt, (), &state, Some(&calibrated(4 * HERTZ, 4)?), 0x299f_31d0)?;
    guest.look("migrate out, and in with a calibration", 4 * HERTZ)?;
    clock.clone_running(0x082e_fa98)?;
    guest.look("a clone on the same host", 5 * HERTZ)?;
    let state = clock.save();
    let mut clock = Device::restore(region()?, &interrupt, (), &state, None, [0xec4e_6c89, 8])?;
    guest.look("restore, without a calibration", 5 * HERTZ)?;
    clock.calibrate(&calibrated(6 * HERTZ, 6)?)?;
    guest.look("calibrate", 6 * HERTZ)?;
    clock.disrupt(0x4528_21e6)?;
    guest.look("the counter was disturbed", 6 * HERTZ)?;
    Ok(())
}
