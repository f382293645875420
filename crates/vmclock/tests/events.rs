// SPDX-License-Identifier: MIT OR Apache-2.0
//! Events: each is reported, none is missed, none is invented, and a mere refresh is none.

mod common;

use std::os::fd::AsFd;
use std::time::Duration;

use common::{good_page, region, writer_of, Folder};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use vmclock::{ClockStatus, CounterId, Event, LeapIndicator, Maintenance, Notice, OpenOptions, Snapshot};
use vmclock_core::abi::Flags;
use vmclock_core::leap::LeapStatus;
use vmclock_core::tai::TaiOffset;

const LIMIT: Duration = Duration::from_secs(10);

type Change = fn(&mut Snapshot);

/// What is done to the page, one after the other, and what must be seen of it.
fn history() -> Vec<(Change, Vec<Event>)> {
    let first = good_page();
    let status = |seconds, indicator| LeapStatus { tai_offset: TaiOffset::from_seconds(seconds), indicator };
    let (none, soon, imminent) = (Maintenance::None, Maintenance::Soon, Maintenance::Imminent);
    vec![
        (|page| page.disruption_marker = 2, vec![Event::Disrupted { from: first.disruption_marker, to: 2 }]),
        (|page| page.vm_generation_counter = 3, vec![Event::Restored { from: first.vm_generation_counter, to: 3 }]),
        (
            |page| (page.disruption_marker, page.vm_generation_counter) = (4, 5),
            vec![Event::Disrupted { from: 2, to: 4 }, Event::Restored { from: 3, to: 5 }],
        ),
        (
            |page| page.flags = page.flags.with(Flags::DISRUPTION_SOON),
            vec![Event::Maintenance { from: none, to: soon }],
        ),
        (
            |page| page.flags = page.flags.with(Flags::DISRUPTION_IMMINENT),
            vec![Event::Maintenance { from: soon, to: imminent }],
        ),
        (
            |page| page.flags = page.flags.without(Flags::DISRUPTION_IMMINENT),
            vec![Event::Maintenance { from: imminent, to: soon }],
        ),
        (
            |page| page.flags = page.flags.without(Flags::DISRUPTION_SOON),
            vec![Event::Maintenance { from: soon, to: none }],
        ),
        (
            |page| page.clock_status = ClockStatus::FREE_RUNNING,
            vec![Event::Status { from: ClockStatus::SYNCHRONIZED, to: ClockStatus::FREE_RUNNING }],
        ),
        (
            |page| page.leap_indicator = LeapIndicator::PRE_POSITIVE,
            vec![Event::TimeScale {
                from: status(37, LeapIndicator::NONE),
                to: status(37, LeapIndicator::PRE_POSITIVE),
            }],
        ),
        (
            |page| (page.leap_indicator, page.tai_offset_sec) = (LeapIndicator::POST_POSITIVE, -38),
            vec![Event::TimeScale {
                from: status(37, LeapIndicator::PRE_POSITIVE),
                to: status(38, LeapIndicator::POST_POSITIVE),
            }],
        ),
        (
            |page| page.counter_id = CounterId::NONE,
            vec![Event::Counter { from: good_page().counter_id, to: CounterId::NONE }],
        ),
        // A generation that disappears, and one that appears, are no restore.
        (|page| page.flags = page.flags.without(Flags::VM_GEN_COUNTER_PRESENT), vec![]),
        (|page| page.flags = page.flags.with(Flags::VM_GEN_COUNTER_PRESENT), vec![]),
        (|page| page.time_sec += 1, vec![]),
        (|page| page.flags = Flags(page.flags.0 | 1 << 50), vec![]),
    ]
}

#[test]
fn every_event_is_reported_once_and_nothing_else_is() {
    for options in [OpenOptions::new(), OpenOptions::new().map(false)] {
        let folder = Folder::with(&region(&good_page()));
        let mut writer = writer_of(&folder.path());
        let clock = options.open(folder.path()).expect("a page");
        let (mut real, mut all) =
            (clock.events().expect("events"), clock.events().expect("events").with_refreshes(true));
        assert!(!real.is_notified(), "a plain file does not notify");
        for (change, expected) in history() {
            writer.update(change);
            let seen = |events: &mut vmclock::Events, timeout| {
                let notice = events.wait(Some(timeout)).expect("a page that can be read");
                notice.map(|notice| {
                    assert!(matches!(notice, Notice::Changed(_)), "{notice:?}");
                    notice.iter().collect::<Vec<_>>()
                })
            };
            if expected.is_empty() {
                assert_eq!(seen(&mut real, Duration::ZERO), None, "a refresh is no event");
                assert_eq!(seen(&mut all, LIMIT), Some(vec![Event::Refreshed]));
            } else {
                assert_eq!(seen(&mut real, LIMIT), Some(expected.clone()));
                assert_eq!(seen(&mut all, LIMIT), Some(expected));
            }
            assert_eq!(seen(&mut real, Duration::ZERO), None, "invented");
            assert_eq!(seen(&mut all, Duration::ZERO), None, "invented");
        }
    }
}

#[test]
fn what_happened_between_two_polls_is_not_missed() {
    let folder = Folder::with(&region(&good_page()));
    let mut writer = writer_of(&folder.path());
    let clock = OpenOptions::new().open(folder.path()).expect("a page");
    let mut events = clock.events().expect("events");
    for number in 0..1000 {
        writer.update(|page| page.disruption_marker = number);
        writer.update(|page| page.time_sec += 1);
    }
    let notice = events.wait(Some(LIMIT)).expect("readable").expect("changes");
    let from = good_page().disruption_marker;
    assert_eq!(notice.iter().collect::<Vec<_>>(), [Event::Disrupted { from, to: 999 }]);
}

#[test]
fn the_file_descriptor_wakes_an_event_loop() {
    let folder = Folder::with(&region(&good_page()));
    let mut writer = writer_of(&folder.path());
    let clock = OpenOptions::new().open(folder.path()).expect("a page");
    let mut events = clock.events().expect("events");
    events.set_interval(Duration::from_millis(1)).expect("settable");
    writer.update(|page| page.disruption_marker = 9);
    let limit = Timespec { tv_sec: 10, tv_nsec: 0 };
    let notice = loop {
        let ready = poll(&mut [PollFd::new(&events.as_fd(), PollFlags::IN)], Some(&limit)).expect("polled");
        assert_eq!(ready, 1, "nothing within {LIMIT:?}");
        if let Some(notice) = events.wait(Some(Duration::ZERO)).expect("readable") {
            break notice;
        }
    };
    assert_eq!(notice.changes().expect("the page is there").after.disruption_marker, 9);
}
