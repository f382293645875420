// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commit-wait returns when a moment has certainly passed, and for no other reason.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::{good_page, region, Folder};
use vmclock::mock::MockPage;
use vmclock::{
    ClockStatus, Epoch, Flags, LeapIndicator, Loss, NoTime, ReadError, Reading, Snapshot, TimeType, Timestamp, VmClock,
    WaitError,
};

/// More than any wait should take, also on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Waits on a mock in a thread of its own, while `meanwhile` is done again and again.
fn wait_while(page: &MockPage, reading: &Reading, meanwhile: impl Fn(&MockPage)) -> Result<Reading, WaitError> {
    let clock = page.clock();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let result = clock.wait_until_after_within(reading, LIMIT);
            is_over.store(true, Ordering::Release);
            result
        });
        while !is_over.load(Ordering::Acquire) {
            meanwhile(page);
            thread::yield_now();
        }
        waiter.join().expect("no panic")
    })
}

#[test]
fn it_returns_at_the_first_reading_that_is_certainly_after() {
    let page = MockPage::new();
    let first = page.clock().now().expect("time");
    let after = wait_while(&page, &first, |page| page.advance(Duration::from_nanos(100))).expect("passed");
    assert!(after.certainly_after(&first));
    let gap = first.tai_interval().expect("bounds").gap(after.tai_interval().expect("bounds")).expect("apart");
    assert!(gap >= 1, "{gap}");
    // What has passed is not waited for.
    let passed = page.clock().wait_until_after_within(&first, Duration::ZERO).expect("passed");
    assert!(passed.certainly_after(&first));
}

#[test]
fn one_nanosecond_less_is_not_enough() {
    let page = MockPage::new();
    let clock = page.clock();
    let first = clock.now().expect("time");
    page.advance(Duration::from_micros(2)); // twice the error
    let left = |result| match result {
        Err(WaitError::TimedOut { left_nanos }) => left_nanos,
        other => panic!("not timed out: {other:?}"),
    };
    assert_eq!(left(clock.wait_until_after_within(&first, Duration::ZERO)), 1);
    page.advance(Duration::from_nanos(1));
    assert!(clock.wait_until_after_within(&first, Duration::ZERO).is_ok());
    let instant = Timestamp::from_nanos(2_000_000_000_000_000_000 + 1_001);
    assert_eq!(left(clock.wait_until_past(instant, Duration::from_millis(1))), 1);
    let passed = clock.wait_until_past(instant.plus_nanos(-1), Duration::ZERO).expect("passed");
    assert_eq!(passed.tai_interval().expect("bounds").earliest, instant);
}

#[test]
fn it_sleeps_on_a_real_counter_and_returns_in_time() {
    // 1 GHz by the page, whatever the counter's frequency is: bounds of ± 20 ms are passed within a minute.
    let page = good_page().with(|page| page.time_maxerror_nanosec = 20_000_000);
    let folder = Folder::with(&region(&page));
    let clock = VmClock::open_at(folder.path()).expect("a page");
    let first = clock.now().expect("time");
    let after = clock.wait_until_after_within(&first, LIMIT).expect("passed");
    assert!(after.certainly_after(&first));
    // Its file is removed: what happens to the machine from now on is not announced there.
    let late = clock.now().expect("time");
    std::fs::remove_file(folder.path()).expect("removed");
    match clock.wait_until_after(&late) {
        Err(WaitError::Vanished(vanished)) => assert_eq!(vanished.loss, Loss::Removed),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_disruption_ends_it() {
    for (disrupt, generation) in [(MockPage::disrupt as fn(&MockPage), 1), (MockPage::restore, 2)] {
        let page = MockPage::new();
        let first = page.clock().now().expect("time");
        let done = AtomicBool::new(false);
        let result = wait_while(&page, &first, |page| {
            if !done.swap(true, Ordering::Relaxed) {
                disrupt(page);
            }
        });
        let to = Epoch { disruption_marker: 2, generation: Some(generation) };
        assert_eq!(result, Err(WaitError::Disrupted { from: first.epoch(), to }));
        // Also where it happened before the wait, and where the clock gives no time since.
        page.update(|page| page.clock_status = ClockStatus::INITIALIZING);
        assert_eq!(page.clock().wait_until_after(&first), Err(WaitError::Disrupted { from: first.epoch(), to }));
    }
}

#[test]
fn an_unreliable_page_ends_it() {
    let page = MockPage::new();
    let first = page.clock().now().expect("time");
    let result = wait_while(&page, &first, |page| page.update(|page| page.clock_status = ClockStatus::UNRELIABLE));
    let reason = NoTime::Status(ClockStatus::UNRELIABLE);
    assert_eq!(result, Err(WaitError::Read(ReadError::NoTime(reason))));
    let cause = std::error::Error::source(&WaitError::Read(ReadError::NoTime(reason))).expect("a cause").to_string();
    assert_eq!(cause, reason.to_string());
}

#[test]
fn without_bounds_nothing_passes() {
    let page = MockPage::new();
    let bounded = page.clock().now().expect("time");
    page.update(|page| page.flags = page.flags.without(Flags::TIME_MAXERROR_VALID));
    let unbounded = page.clock().now().expect("time");
    page.advance(LIMIT);
    for reading in [bounded, unbounded] {
        assert_eq!(page.clock().wait_until_after(&reading), Err(WaitError::NoBounds));
    }
    assert_eq!(page.clock().wait_until_past(Timestamp::from_nanos(0), LIMIT), Err(WaitError::NoBounds));
}

#[test]
fn scales_that_cannot_be_compared_never_pass() {
    let of = |change: fn(&mut Snapshot)| MockPage::with(MockPage::new().contents().with(change));
    let monotonic = of(|page| page.time_type = TimeType::MONOTONIC);
    let first = MockPage::new().clock().now().expect("time");
    assert_eq!(monotonic.clock().wait_until_after(&first), Err(WaitError::NotComparable));
    assert_eq!(monotonic.clock().wait_until_past(Timestamp::from_nanos(0), LIMIT), Err(WaitError::NotComparable));
    // With each other they can, where no leap second may be between them.
    let earlier = monotonic.clock().now().expect("time");
    monotonic.advance(Duration::from_secs(1));
    assert!(monotonic.clock().wait_until_after(&earlier).is_ok());
    let utc = of(|page| (page.time_type, page.flags) = (TimeType::UTC, page.flags.without(Flags::TAI_OFFSET_VALID)));
    let earlier = utc.clock().now().expect("time");
    utc.advance(Duration::from_secs(1));
    utc.update(|page| page.leap_indicator = LeapIndicator::PRE_POSITIVE);
    assert_eq!(utc.clock().wait_until_after(&earlier), Err(WaitError::NotComparable));
}

#[test]
fn bounds_that_grow_faster_than_time_end_at_the_limit() {
    let page = good_page().with(|page| page.counter_period_maxerror_rate_frac_sec = u64::MAX);
    let folder = Folder::with(&region(&page));
    let clock = VmClock::open_at(folder.path()).expect("a page");
    let first = clock.now().expect("time");
    let result = clock.wait_until_after_within(&first, Duration::from_millis(20));
    assert!(matches!(result, Err(WaitError::TimedOut { left_nanos: 1.. })), "{result:?}");
}
