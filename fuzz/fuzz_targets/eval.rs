// SPDX-License-Identifier: MIT OR Apache-2.0
//! The path of `vmclock eval`: any bytes as a page, read at any counter value. Whatever they are, there is a reading
//! that keeps its promises or a typed reason why there is none; never a panic.
//!
//! An input is a counter (8 bytes, little-endian), the ABI's number of the CPU's counter (1 byte), and a page.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vmclock::{Certainty, CounterId, Reading, Smearing, Snapshot, TimeType};
use vmclock_core::calibration::Calibration;
use vmclock_core::event::Epoch;

/// A second on the axis of `Time::raw`.
const SECOND: i128 = 1 << 64;

fuzz_target!(|input: &[u8]| {
    let Some((counter, rest)) = input.split_first_chunk() else { return };
    let Some((cpu, page)) = rest.split_first() else { return };
    let (counter, cpu) = (u64::from_le_bytes(*counter), CounterId(*cpu));

    let snapshot = match Snapshot::from_prefix(page) {
        Ok(snapshot) => snapshot,
        Err(reason) => return assert_ne!(reason.to_string(), ""),
    };
    match Reading::new(&snapshot, counter, cpu) {
        Ok(reading) => {
            assert_eq!((reading.counter(), snapshot.counter_id), (counter, cpu));
            check_what_the_page_said(&reading, &snapshot);
            check_formula(&reading, &snapshot);
            check_bounds(&reading);
            check_scales(&reading, &snapshot);
            check_system_forms(&reading);
            check_neighbour(&reading, &snapshot);
            check_inverse(&reading, &snapshot);
        }
        Err(reason) => assert_ne!(reason.to_string(), ""),
    }
});

/// A reading says what the page said, and comes only from a page that gives time.
fn check_what_the_page_said(reading: &Reading, snapshot: &Snapshot) {
    assert!(reading.status().gives_time() && reading.time_type().0 <= TimeType::MONOTONIC.0);
    assert!(snapshot.counter_period_frac_sec != 0 && snapshot.counter_period_shift < 128);
    assert_eq!(reading.status(), snapshot.clock_status);
    assert_eq!(reading.time_type(), snapshot.time_type);
    assert_eq!(reading.smearing_hint(), snapshot.leap_second_smearing_hint);
    assert_eq!(reading.disruption_marker(), snapshot.disruption_marker);
    assert_eq!(reading.generation(), snapshot.generation());
    assert_eq!(reading.epoch(), Epoch::of(snapshot));
}

/// The time is that of the formula, here with plain 128-bit integers: `T1 + floor((C - C1) * period / 2^shift)`.
fn check_formula(reading: &Reading, snapshot: &Snapshot) {
    #[allow(clippy::cast_possible_wrap)] // the nearer direction of a wrapping counter
    let ticks = i128::from(reading.counter().wrapping_sub(snapshot.counter_value) as i64);
    let elapsed = (ticks * i128::from(snapshot.counter_period_frac_sec)) >> snapshot.counter_period_shift;
    let reference = i128::from(snapshot.time_sec) * SECOND + i128::from(snapshot.time_frac_sec);
    assert_eq!(reading.time().raw(), reference + elapsed);
    let (error, least) = (reading.max_error_nanos(), snapshot.time_maxerror());
    assert!(error.is_none_or(|error| least.is_some_and(|least| error >= least.into())), "{error:?}, {least:?}");
}

/// The interval holds the time, is as wide as the error says, and makes no reading earlier than itself.
fn check_bounds(reading: &Reading) {
    let time = reading.time().timestamp();
    assert_eq!(reading.interval().is_some(), reading.max_error_nanos().is_some());
    if let (Some(interval), Some(error)) = (reading.interval(), reading.max_error_nanos()) {
        assert!(interval.earliest <= time && time <= interval.latest, "{interval:?} without {time:?}");
        assert!(interval.contains(time) && interval.width_nanos() <= 2 * error + 1, "{interval:?} for {error}");
    }
    if let (Some(interval), Some(tai)) = (reading.tai_interval(), reading.tai()) {
        assert!(interval.contains(tai.timestamp()), "{interval:?} without {tai:?}");
    }
    assert_ne!(reading.is_before(reading), Certainty::Yes);
    assert_ne!(reading.is_after(reading), Certainty::Yes);
}

/// TAI and UTC differ by the page's offset, give or take the leap second; smeared UTC never leaves UTC by more.
fn check_scales(reading: &Reading, snapshot: &Snapshot) {
    assert_eq!(reading.monotonic().is_some(), reading.time_type() == TimeType::MONOTONIC);
    if reading.monotonic().is_some() {
        assert_eq!((reading.tai(), reading.utc(), reading.smeared_utc_by_hint()), (None, None, None));
    }
    let Some(utc) = reading.utc() else { return };
    if let (Some(tai), Some(offset)) = (reading.tai(), snapshot.tai_offset()) {
        let leap = utc.time.raw() - tai.raw() + i128::from(offset.seconds()) * SECOND;
        assert!([-SECOND, 0, SECOND].contains(&leap), "{utc:?} is not {tai:?} and {offset}");
    }
    let by_hint = reading.smeared_utc_by_hint();
    for smearing in [Smearing::NoonLinear, Smearing::UtcSls] {
        let Some(smeared) = reading.smeared_utc(smearing) else { continue };
        assert!(smeared.raw().abs_diff(utc.time.raw()) <= SECOND.unsigned_abs(), "{smeared:?} is far from {utc:?}");
        assert!(Smearing::from_hint(reading.smearing_hint()) != Some(smearing) || by_hint == Some(smeared));
    }
}

/// The forms that the operating system likes are the same instant.
fn check_system_forms(reading: &Reading) {
    let stamp = reading.utc_timestamp();
    assert_eq!(stamp, reading.utc().map(|utc| utc.time.timestamp()));
    assert_eq!(reading.timespec(), stamp.map(|stamp| (stamp.seconds(), stamp.subsec_nanos().into())));
    if let (Some(system), Some(stamp)) = (reading.system_time(), stamp) {
        let nanos = match system.duration_since(std::time::UNIX_EPOCH) {
            Ok(after) => i128::try_from(after.as_nanos()),
            Err(before) => i128::try_from(before.duration().as_nanos()).map(|nanos| -nanos),
        };
        assert_eq!(nanos, Ok(stamp.nanos()));
    }
}

/// A tick later it is not earlier, but where the counter's circle is farthest from the reference.
fn check_neighbour(reading: &Reading, snapshot: &Snapshot) {
    let next = reading.counter().wrapping_add(1);
    let turns_round = next.wrapping_sub(snapshot.counter_value) == 1 << 63;
    if let (Ok(later), false) = (Reading::new(snapshot, next, snapshot.counter_id), turns_round) {
        assert!(reading.time() <= later.time(), "{reading:?} {later:?}");
        assert_ne!(later.is_before(reading), Certainty::Yes);
    }
}

/// The calibration alone says the same, and the counter at a time is one that shows that time or an earlier one.
fn check_inverse(reading: &Reading, snapshot: &Snapshot) {
    let calibration = match Calibration::from_snapshot(snapshot, snapshot.counter_id) {
        Ok(calibration) => calibration,
        Err(reason) => panic!("a reading of a page that gives no time ({reason}): {reading:?}"),
    };
    assert_eq!(calibration.time_at(reading.counter()), Ok(reading.time()));
    assert_eq!(calibration.max_error_at(reading.counter()), reading.max_error_nanos());
    let _ = calibration.estimated_error_at(reading.counter());
    if let Some(counter) = calibration.counter_at(reading.time()) {
        let time = calibration.time_at(counter);
        assert!(time.is_ok_and(|time| time <= reading.time()), "{counter} shows {time:?}, not {reading:?}");
    }
}
