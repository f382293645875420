// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! A device that follows its host's page, and one whose state is loaded in place.
#![cfg(not(loom))]

mod machine;

use vmclock_core::abi::{ClockStatus, CounterId, Snapshot};
use vmclock_core::calibration::Calibration;
use vmclock_core::event::changes;
use vmclock_core::guest_counter::{GuestCounter, Scale};
use vmclock_core::lifecycle::LeapStatus;
use vmclock_vmm::device::{Arrival, Error, NotNotified, Options};
use vmclock_vmm::memory::{HostPage, Page};
use vmclock_vmm::state::State;
use vmclock_vmm::trigger::Trigger;
use vmclock_vmm::VmClockDevice;

use machine::{arrived, calibration, guest, leap, options, region, seen, without_counter, Interrupt};

/// The host's page when its counter was `counter`, at a second of TAI.
fn host(counter: u64, seconds: i64) -> Snapshot {
    let mut page = Snapshot::BLANK.with(|page| {
        page.counter_id = CounterId::X86_TSC;
        page.disruption_marker = 77;
    });
    calibration(counter, seconds).put_on(&mut page).expect("a time");
    page
}

fn names(before: &Snapshot, after: &Snapshot) -> Vec<&'static str> {
    changes(before, after).map(|event| event.name()).collect()
}

#[test]
fn a_guest_has_what_its_host_has() {
    let (memory, interrupt) = (guest(), Interrupt::default());
    let mut device = VmClockDevice::new(region(&memory), &interrupt, (), options(), [1, 2]).expect("written");
    let half = Scale { ratio: 1 << 47, fraction_bits: 48 };
    let counter = GuestCounter::exact(7, Some(half));
    let first = host(2_000, 1_800_000_000);
    device.follow(&first, &counter, 3).expect("written");
    let before = seen(&memory);
    assert_eq!((before.counter_value, before.time_sec), (1_007, 1_800_000_000));
    assert_eq!(LeapStatus::of(&before), leap(37, vmclock_core::abi::LeapIndicator::NONE));
    let of = |page: &Snapshot| Calibration::from_snapshot(page, CounterId::X86_TSC).expect("a time");
    let (mine, hosts) = (of(&before).interval_at(1_007), of(&first).interval_at(2_000));
    let (mine, hosts) = (mine.expect("in range").expect("bounds"), hosts.expect("in range").expect("bounds"));
    assert!(mine.earliest <= hosts.earliest && hosts.latest <= mine.latest);

    // A refresh, and the host's clock is lost and is back: one update of each, and the marker stays.
    device.follow(&host(4_000, 1_800_000_001), &counter, 4).expect("written");
    assert_eq!(names(&before, &seen(&memory)), ["refreshed"]);
    let lost = host(4_000, 1_800_000_001).with(|page| page.clock_status = ClockStatus::UNRELIABLE);
    device.follow(&lost, &counter, 5).expect("written");
    assert_eq!(seen(&memory).clock_status, ClockStatus::UNRELIABLE);
    device.follow(&host(6_000, 1_800_000_002), &counter, 6).expect("written");
    assert_eq!(seen(&memory).disruption_marker, before.disruption_marker);
    assert_eq!((seen(&memory).clock_status, interrupt.raised.get()), (ClockStatus::SYNCHRONIZED, 4));

    // The host's counter was disrupted, and so was the guest's; in the same update it has the time again.
    let before = seen(&memory);
    let moved = host(9_000, 1_800_000_003).with(|page| page.disruption_marker = 78);
    device.follow(&moved, &counter, 7).expect("written");
    let after = seen(&memory);
    assert_eq!(names(&before, &after), ["disrupted"]);
    assert_eq!((after.clock_status, after.generation()), (ClockStatus::SYNCHRONIZED, before.generation()));
}

#[test]
fn a_counter_that_became_another_is_a_disruption_unless_it_is_known_to_have() {
    let memory = guest();
    let mut device = VmClockDevice::new(region(&memory), (), (), options(), [1, 2]).expect("written");
    let host = host(2_000, 1_800_000_000);
    let mut marker = seen(&memory).disruption_marker;
    let mut follows = |device: &mut VmClockDevice<_, ()>, offset, is_disrupted: bool, fresh| {
        device.follow(&host, &GuestCounter::exact(offset, None), fresh).expect("written");
        let now = seen(&memory).disruption_marker;
        assert_eq!(std::mem::replace(&mut marker, now) != now, is_disrupted, "{offset}");
        assert_eq!(seen(&memory).counter_value, 2_000 + offset);
    };
    follows(&mut device, 7, false, 3);
    follows(&mut device, 7, false, 4);
    follows(&mut device, 8, true, 5);
    device.pause().expect("nothing to do");
    device.resume(None).expect("nothing to do");
    follows(&mut device, 9, false, 6);
    device.reset(None).expect("written");
    follows(&mut device, 1, false, 7);
    follows(&mut device, 2, true, 8);

    let mut signals = VmClockDevice::new(region(&memory), (), (), without_counter(), [1, 2]).expect("written");
    let before = seen(&memory);
    assert!(matches!(signals.follow(&host, &GuestCounter::exact(0, None), 9), Err(Error::NoCounter)));
    assert_eq!(seen(&memory), before);
}

#[test]
fn a_state_is_loaded_in_place_as_it_is_into_a_new_device() {
    for arrival in [Arrival::SameHost, Arrival::Clone, Arrival::Migration, Arrival::Restore] {
        let (memory, interrupt) = (guest(), Interrupt::default());
        let mut source = VmClockDevice::new(region(&memory), &interrupt, (), options(), [1, 2]).expect("written");
        source.calibrate(&calibration(5, 1_800_000_000)).expect("written");
        let state = source.save();
        let known = calibration(9, 1_800_000_001);
        for known in [None, Some(&known)] {
            let loaded = guest();
            let mut device = VmClockDevice::new(region(&loaded), &interrupt, (), options(), [8, 9]).expect("written");
            let raised = interrupt.raised.get();
            device.load(&state, arrival, known, [3, 4]).expect("written");
            assert_eq!(interrupt.raised.get(), raised + 1);
            let made = guest();
            arrived(region(&made), &interrupt, &state, arrival, known, [3, 4]).expect("written");
            let same = |page: Snapshot| page.with(|page| page.seq_count = 2);
            assert_eq!(same(seen(&loaded)), same(seen(&made)), "{arrival:?}");
            assert_eq!(&seen(&loaded), device.page());
        }
    }
}

#[test]
fn a_state_that_cannot_be_loaded_changes_nothing() {
    let (memory, interrupt) = (guest(), Interrupt::default());
    let mut device = VmClockDevice::new(region(&memory), &interrupt, (), options(), [1, 2]).expect("written");
    device.calibrate(&calibration(5, 1_800_000_000)).expect("written");
    let (before, state) = (seen(&memory), device.save());
    let mut damaged = state;
    damaged.page[0] = 0;
    let old = calibration(5, -1);
    for (state, known) in [(damaged, None), (state, Some(&old)), (State::default(), Some(&old))] {
        assert!(device.load(&state, Arrival::Restore, known, [3, 4]).is_err());
        assert_eq!((seen(&memory), *device.page(), device.save()), (before, before, device.save()));
    }
    assert_eq!(interrupt.raised.get(), 1);
}

#[test]
fn a_notification_that_fails_is_seen_with_its_cause() {
    let (memory, interrupt) = (guest(), Interrupt::default());
    let state = VmClockDevice::new(region(&memory), (), (), options(), [1, 2]).expect("written").save();
    interrupt.is_broken.set(true);
    let made = VmClockDevice::from_state(region(&memory), &interrupt, (), &state, Arrival::Restore, None, [3, 4]);
    let (mut device, notified) = made.expect("a device all the same");
    let error: NotNotified = notified.expect_err("it is broken");
    assert_eq!(std::error::Error::source(&error).expect("a cause").to_string(), "broken");
    let error = device.calibrate(&calibration(5, 1_800_000_000)).expect_err("it still is");
    assert!(matches!(error, Error::NotNotified(_)) && error.to_string().ends_with("retry"));
    assert_eq!(seen(&memory).clock_status, ClockStatus::SYNCHRONIZED, "the page is as it should be");
}

/// What monitors put into their own structures, shared between threads and behind `dyn`.
#[test]
fn devices_are_sent_and_shared() {
    const fn is_shared<T: Send + Sync + 'static>() {}
    type Any = Box<dyn Trigger + Send + Sync>;
    is_shared::<VmClockDevice<HostPage<Box<Page>>>>();
    is_shared::<VmClockDevice<HostPage<&'static Page>, Any>>();
    is_shared::<VmClockDevice<vmclock_vmm::VmClockPage<std::sync::Arc<vm_memory::GuestMemoryMmap>>>>();
    is_shared::<VmClockDevice<vmclock_vmm::memory::HostRegion<vm_memory::MmapRegion>>>();
    is_shared::<(State, Options, Error, NotNotified, vmclock_vmm::state::StateError)>();
    is_shared::<vmclock_vmm::memory::RegionError>();
}
