// SPDX-License-Identifier: MIT OR Apache-2.0
//! A reading's UTC as other crates' types.
#![cfg(all(feature = "std", feature = "jiff", feature = "chrono"))]

use std::time::{Duration, SystemTime};

use vmclock::mock::MockPage;
use vmclock::{ConversionError, Flags, LeapIndicator, TimeType};

#[test]
fn all_types_agree_with_our_own_text() {
    let page = MockPage::new();
    page.advance(Duration::from_nanos(123_456_789));
    let reading = page.clock().now().expect("time");
    let text = reading.utc().expect("UTC").to_string();
    assert_eq!(text, "2033-05-18T03:32:43.123456789Z");
    assert_eq!(jiff::Timestamp::try_from(&reading).expect("in range").to_string(), text);
    let chrono = chrono::DateTime::<chrono::Utc>::try_from(&reading).expect("in range");
    assert_eq!(chrono.to_rfc3339_opts(chrono::SecondsFormat::Nanos, true), text);
    let since_epoch = SystemTime::try_from(&reading).expect("in range").duration_since(SystemTime::UNIX_EPOCH);
    assert_eq!(since_epoch.expect("after 1970").as_nanos(), 1_999_999_963_123_456_789);
}

#[test]
fn a_leap_second_is_one_where_the_type_has_it() {
    // A quarter of a second into the last second of 2016.
    let page = MockPage::with(MockPage::new().contents().with(|page| {
        page.time_type = TimeType::UTC;
        (page.time_sec, page.time_frac_sec) = (1_483_228_800, 1 << 62);
        page.leap_indicator = LeapIndicator::POSITIVE;
    }));
    let reading = page.clock().now().expect("time");
    let text = "2016-12-31T23:59:60.250000000Z";
    assert_eq!(reading.utc().expect("UTC").to_string(), text);
    let chrono = chrono::DateTime::<chrono::Utc>::try_from(&reading).expect("in range");
    assert_eq!(chrono.to_rfc3339_opts(chrono::SecondsFormat::Nanos, true), text);
    assert_eq!(jiff::Timestamp::try_from(&reading).expect("in range").to_string(), "2016-12-31T23:59:59.25Z");
}

#[test]
fn without_utc_there_is_nothing_to_convert() {
    let page = MockPage::new();
    page.update(|page| page.flags = page.flags.without(Flags::TAI_OFFSET_VALID));
    let reading = page.clock().now().expect("time");
    assert_eq!(SystemTime::try_from(&reading), Err(ConversionError::NoUtc));
    assert_eq!(jiff::Timestamp::try_from(&reading), Err(ConversionError::NoUtc));
    assert_eq!(chrono::DateTime::<chrono::Utc>::try_from(&reading), Err(ConversionError::NoUtc));
    page.update(|page| (page.flags, page.time_sec) = (Flags::TAI_OFFSET_VALID, 1 << 60));
    let reading = page.clock().now().expect("time");
    assert_eq!(jiff::Timestamp::try_from(&reading), Err(ConversionError::OutOfRange));
    assert_eq!(chrono::DateTime::<chrono::Utc>::try_from(&reading), Err(ConversionError::OutOfRange));
}
