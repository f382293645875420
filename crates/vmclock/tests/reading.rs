// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a reading converts to, and what it costs in memory.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::{Duration, SystemTime};

use common::{good_page, region, Folder};
use vmclock::mock::MockPage;
use vmclock::{Certainty, ClockStatus, Reading, TimeType, VmClock};
use vmclock_core::abi::Flags;
use vmclock_core::counter;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: as for this function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as for this function.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn reading_the_clock_allocates_nothing() {
    let folder = Folder::with(&region(&good_page()));
    let clock = VmClock::open_at(folder.path()).expect("a page");
    let known = clock.epoch().expect("a page");
    let before = ALLOCATIONS.with(Cell::get);
    for _ in 0..1000 {
        let reading = clock.now().expect("time");
        let _ = (clock.now_unordered(), clock.is_current(&known), clock.epoch());
        let _ = (reading.tai_interval(), reading.utc(), reading.system_time());
    }
    assert_eq!(ALLOCATIONS.with(Cell::get), before);
}

#[test]
fn a_clock_can_be_shared() {
    fn shared<T: Send + Sync + Clone>(_: &T) {}
    fn sent<T: Send>(_: &T) {}
    let page = MockPage::new();
    shared(&page.clock());
    sent(&page.clock().events().expect("events"));
}

#[test]
fn readings_convert() {
    let page = MockPage::new();
    page.advance(Duration::from_nanos(123_456_789));
    let reading = page.clock().now().expect("time");
    let tai = reading.tai().expect("TAI");
    assert_eq!((tai.seconds(), tai.subsec_nanos()), (2_000_000_000, 123_456_789));
    assert_eq!(reading.timespec(), Some((1_999_999_963, 123_456_789)));
    let since_epoch = Duration::new(1_999_999_963, 123_456_789);
    assert_eq!(reading.system_time(), Some(SystemTime::UNIX_EPOCH + since_epoch));
    assert_eq!(reading.monotonic(), None);
    let interval = reading.tai_interval().expect("bounds");
    assert_eq!(interval.width_nanos(), 2 * 1_000 + 1, "the time is between two nanoseconds");
    assert!(interval.contains(tai.timestamp()));
}

#[test]
fn times_before_the_epoch_convert() {
    let mut page = good_page();
    (page.time_sec, page.time_type) = (0, TimeType::UTC);
    // A second and a half earlier, at 1 GHz.
    let counter = page.counter_value.wrapping_sub(1_500_000_000);
    let reading = Reading::new(&page, counter, page.counter_id).expect("time");
    let (sec, nsec) = reading.timespec().expect("UTC");
    assert_eq!(sec, -2);
    assert!((499_999_990..=500_000_000).contains(&nsec), "{nsec}");
    let two_seconds_before = SystemTime::UNIX_EPOCH.checked_sub(Duration::from_secs(2)).expect("representable");
    let expected = two_seconds_before + Duration::from_nanos(nsec.unsigned_abs());
    assert_eq!(reading.system_time(), Some(expected));
}

#[test]
fn order_is_certain_only_where_intervals_do_not_touch() {
    let page = MockPage::new();
    let clock = page.clock();
    let first = clock.now().expect("time");
    page.advance(Duration::from_nanos(1_999));
    let near = clock.now().expect("time");
    page.advance(Duration::from_nanos(4));
    let later = clock.now().expect("time");
    assert_eq!((first.is_before(&near), first.is_after(&near)), (Certainty::CannotTell, Certainty::CannotTell));
    assert_eq!((first.is_before(&later), first.is_after(&later)), (Certainty::Yes, Certainty::No));
    assert_eq!((later.is_before(&first), later.is_after(&first)), (Certainty::No, Certainty::Yes));

    // A page that states no bounds decides nothing.
    page.update(|page| page.flags = page.flags.without(Flags::TIME_MAXERROR_VALID));
    page.advance(Duration::from_secs(1000));
    let unbounded = clock.now().expect("time");
    assert_eq!((unbounded.max_error_nanos(), unbounded.interval()), (None, None));
    assert_eq!(first.is_before(&unbounded), Certainty::CannotTell);

    // TAI and UTC compare in TAI; without an offset they do not.
    let as_utc = |flags: Flags| {
        MockPage::new().contents().with(|page| {
            page.time_type = TimeType::UTC;
            page.flags = flags;
        })
    };
    let flags = MockPage::new().contents().flags;
    let later_by_37 = MockPage::with(as_utc(flags)).clock().now().expect("time");
    assert_eq!(first.is_before(&later_by_37), Certainty::Yes);
    let unknown = MockPage::with(as_utc(flags.without(Flags::TAI_OFFSET_VALID))).clock().now().expect("time");
    assert_eq!(first.is_before(&unknown), Certainty::CannotTell);
}

#[test]
fn a_cross_timestamp_brackets_the_systems_clocks() {
    // A page calibrated here and now: CLOCK_REALTIME, by this CPU's counter.
    let mut page = good_page();
    let realtime = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let (start, counter) = (realtime(), counter::read_ordered());
    let enough = start + Duration::from_millis(50);
    while realtime() < enough {
        std::hint::spin_loop();
    }
    let (end, ticks) = (realtime(), counter::read_ordered().wrapping_sub(counter));
    let span = end.abs_diff(start).as_nanos();
    let period = vmclock_core::calibration::Period::from_ratio(
        (span << 64) / 1_000_000_000,
        ticks.try_into().expect("the counter runs"),
    )
    .expect("a period");
    page.time_type = TimeType::UTC;
    page.clock_status = ClockStatus::FREE_RUNNING;
    (page.counter_value, page.time_sec) = (counter, start.as_secs());
    page.time_frac_sec = u64::try_from((u128::from(start.subsec_nanos()) << 64) / 1_000_000_000).expect("below one");
    (page.counter_period_frac_sec, page.counter_period_shift) = (period.frac(), period.shift());
    page.time_maxerror_nanosec = 1_000_000_000;
    let folder = Folder::with(&region(&page));
    let clock = VmClock::open_at(folder.path()).expect("a page");
    let cross = clock.cross_timestamp().expect("time");
    let (low, high) = cross.realtime_ahead_nanos().expect("UTC and bounds");
    assert!(low <= 0 && 0 <= high, "{low}..{high}");
    assert!(high - low >= 2_000_000_000, "the page's own error counts");
    assert!(cross.realtime.after >= cross.realtime.before && cross.monotonic_raw.after >= cross.monotonic_raw.before);
    assert!(cross.realtime.time.floor_nanos() > 0 && cross.monotonic_raw.time.floor_nanos() > 0);
}

#[test]
fn a_reading_shows_what_it_knows() {
    let page = MockPage::new();
    let shown = format!("{:?}", page.clock().now().expect("time"));
    assert_eq!(
        shown,
        "Reading { tai: 2033-05-18T03:33:20.000000000 TAI, utc: 2033-05-18T03:32:43.000000000Z, max_error: 1000 ns, \
         status: synchronized, time_type: tai, leap_indicator: none, disruption_marker: 0x1, generation: 0x1, counter: 0 }"
    );
    page.update(|page| {
        page.time_type = TimeType::MONOTONIC;
        page.flags = Flags::NONE;
    });
    let shown = format!("{:?}", page.clock().now().expect("time"));
    assert!(shown.starts_with("Reading { time: 2000000000.000000000 s page, max_error: unknown, "), "{shown}");
    assert!(shown.contains("generation: none"), "{shown}");
}
