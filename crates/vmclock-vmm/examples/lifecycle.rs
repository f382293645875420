// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! A monitor without a guest's CPU: the device in guest memory, and the guest's library on the same memory. It walks
//! through every operation, prints what the guest sees, and checks that it is what the operation means.

use std::error::Error;
use std::num::NonZeroU64;

use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};
use vmclock::VmClock;
use vmclock_core::abi::{ClockStatus, CounterId, LeapIndicator, Snapshot};
use vmclock_core::calibration::{Calibration, Period};
use vmclock_core::event::{changes, Event, Maintenance};
use vmclock_core::lifecycle::{Calibrated, LeapStatus};
use vmclock_core::tai::TaiOffset;
use vmclock_core::time::Time;
use vmclock_vmm::device::{Arrival, Options};
use vmclock_vmm::state::State;
use vmclock_vmm::trigger::EventFd;
use vmclock_vmm::{VmClockDevice, VmClockPage};
use vmm_sys_util::eventfd::EFD_NONBLOCK;

const PLACE: GuestAddress = GuestAddress(0xf000);
/// Ticks a second of the guest's counter.
const HERTZ: u64 = 2_000_000_000;
/// The time when the guest's counter was 0, in seconds of TAI.
const START: i64 = 1_800_000_000;
/// In seconds, since 2017.
const TAI_MINUS_UTC: i16 = 37;

/// The guest: it compares the page with its last snapshot.
struct Guest<'a> {
    clock: VmClock,
    interrupt: &'a EventFd,
    last: Snapshot,
}

impl Guest<'_> {
    /// Reads the page, and checks that these events are what happened, with so many interrupts, and that the time
    /// can be had or not.
    fn check(
        &mut self,
        what: &str,
        counter: u64,
        events: &[&str],
        interrupts: u64,
        gives_time: bool,
    ) -> Result<(), Box<dyn Error>> {
        let page = self.clock.snapshot()?;
        // It does not block, and so it fails where nothing was raised.
        let raised = self.interrupt.read().unwrap_or(0);
        println!("{what}: sequence count {}, interrupts {raised}", page.seq_count);
        let happened: Vec<_> = changes(&self.last, &page).collect();
        for event in &happened {
            println!("    {}: {event}", event.name());
        }
        assert_eq!(happened.iter().map(Event::name).collect::<Vec<_>>(), events, "{what}");
        assert_eq!(raised, interrupts, "{what}");
        match Calibration::from_snapshot(&page, CounterId::X86_TSC) {
            Ok(clock) => {
                let (time, error) = (clock.time_at(counter)?, clock.max_error_at(counter));
                println!("    TAI {}.{:09} ± {} ns", time.seconds(), time.subsec_nanos(), error.unwrap_or_default());
                assert!(gives_time, "{what}");
                let exact = i128::from(START) * 1_000_000_000 + i128::from(counter) * 1_000_000_000 / i128::from(HERTZ);
                let interval = clock.interval_at(counter)?.ok_or("the page has no bounds")?;
                assert!((interval.earliest.nanos()..=interval.latest.nanos()).contains(&exact), "{what}");
                assert_eq!(page.tai_offset(), TaiOffset::from_seconds(TAI_MINUS_UTC), "{what}");
            }
            Err(reason) => {
                println!("    {reason}");
                assert!(!gives_time, "{what}");
            }
        }
        self.last = page;
        Ok(())
    }
}

/// What the host knows when the guest's counter is `counter`, `seconds` after the start.
fn known(counter: u64, seconds: i64) -> Option<Calibrated> {
    let period = Period::from_frequency(NonZeroU64::new(HERTZ)?);
    Some(Calibrated {
        calibration: Calibration::new(counter, Time::from_parts(START + seconds, 0), period)
            .with_max_error(800, 15_000_000)
            .with_estimated_error(80, 20_000),
        status: ClockStatus::SYNCHRONIZED,
        leap: LeapStatus { tai_offset: TaiOffset::from_seconds(TAI_MINUS_UTC), indicator: LeapIndicator::NONE },
    })
}

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    // A monitor takes these, and what is drawn below, from the system's randomness.
    let key = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344];
    let file = tempfile::NamedTempFile::new()?;
    file.as_file().set_len(0x1000)?;
    let page = FileOffset::new(file.reopen()?, 0);
    let memory = GuestMemoryMmap::<()>::from_ranges_with_files([(PLACE, 0x1000, Some(page))])?;
    let region = || VmClockPage::new(&memory, PLACE, 0x1000);
    let interrupt = EventFd::new(EFD_NONBLOCK)?;
    let calibrated = |counter, seconds| known(counter, seconds).ok_or("a frequency of 0");

    let options = Options::new(CounterId::X86_TSC, key);
    let mut clock = VmClockDevice::new(region()?, &interrupt, (), options, [0xa409_3822, 0x3f84_d5b5])?;
    let mut guest = Guest { clock: VmClock::open_at(file.path())?, interrupt: &interrupt, last: *clock.page() };
    guest.check("boot, nothing is known of the time yet", 0, &[], 0, false)?;
    clock.calibrate(&calibrated(0, 0)?)?;
    guest.check("calibrate", HERTZ, &["status", "time-scale"], 1, true)?;
    let announced =
        LeapStatus { tai_offset: TaiOffset::from_seconds(TAI_MINUS_UTC), indicator: LeapIndicator::PRE_POSITIVE };
    clock.leap_status(announced)?;
    guest.check("a leap second became known", HERTZ, &["time-scale"], 1, true)?;
    clock.pause()?;
    clock.resume(None)?;
    guest.check("pause and resume", 2 * HERTZ, &[], 0, true)?;
    let next = calibrated(2 * HERTZ, 2)?;
    assert!(clock.is_consistent(&next, 2 * HERTZ));
    clock.resume(Some(&next))?;
    guest.check("resume with a calibration", 2 * HERTZ, &["time-scale"], 1, true)?;
    clock.reset(None)?;
    guest.check("reset", 3 * HERTZ, &["refreshed"], 1, true)?;
    clock.maintenance(Maintenance::Soon)?;
    guest.check("maintenance, within a day", 3 * HERTZ, &["maintenance-soon"], 1, true)?;
    clock.maintenance(Maintenance::Imminent)?;
    guest.check("maintenance, within an hour", 3 * HERTZ, &["maintenance-imminent"], 1, true)?;

    // The state would travel with the memory.
    let arrive = |state: &State, arrival, known, fresh| {
        let made = VmClockDevice::from_state(region()?, &interrupt, (), state, arrival, known, fresh)?;
        let (clock, notified) = made;
        notified?;
        Ok::<_, Box<dyn Error>>(clock)
    };
    let state = clock.save();
    let known = calibrated(4 * HERTZ, 4)?;
    let clock = arrive(&state, Arrival::Migration, Some(&known), [0x299f_31d0, 0])?;
    guest.check("migrate out, and in", 4 * HERTZ, &["disrupted", "maintenance-cleared"], 1, true)?;
    let mut clock = arrive(&clock.save(), Arrival::SameHost, None, [0, 0])?;
    guest.check("the monitor was restarted", 5 * HERTZ, &["refreshed"], 1, true)?;
    clock.clone_running(0x082e_fa98)?;
    guest.check("a clone on the same host", 5 * HERTZ, &["restored"], 1, true)?;
    let clock = arrive(&clock.save(), Arrival::Clone, None, [0, 0x34e9_0c6c])?;
    guest.check("a clone in a process of its own", 5 * HERTZ, &["restored"], 1, true)?;
    let mut clock = arrive(&clock.save(), Arrival::Restore, None, [0xec4e_6c89, 0x7137_4491])?;
    let events = ["disrupted", "restored", "status", "time-scale"];
    guest.check("restore, without a calibration", 5 * HERTZ, &events, 1, false)?;
    clock.calibrate(&calibrated(6 * HERTZ, 6)?)?;
    guest.check("calibrate", 6 * HERTZ, &["status", "time-scale"], 1, true)?;
    clock.distrust()?;
    guest.check("the host lost its own clock", 6 * HERTZ, &["status"], 1, false)?;
    clock.disrupt(0x4528_21e6)?;
    guest.check("the counter was disrupted", 6 * HERTZ, &["disrupted", "status"], 1, false)?;
    clock.notify()?;
    guest.check("the interrupt controller's state was loaded", 6 * HERTZ, &[], 1, false)?;
    Ok(())
}
