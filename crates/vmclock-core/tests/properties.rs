// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! Arithmetic over the full range of every field, against integers that cannot overflow; UTC against hifitime.
#![cfg(not(loom))]
#![allow(clippy::pedantic)]

use core::num::NonZeroU64;

use hifitime::{Epoch, TimeScale, Unit};
use num_bigint::BigInt;
use proptest::prelude::*;
use vmclock_core::abi::{
    ClockStatus, CounterId, Flags, LeapIndicator, SmearingHint, Snapshot, TimeType, TimeWords, Words, STRUCTURE_LEN,
};
use vmclock_core::calibration::{Calibration, NoTime, Period};
use vmclock_core::event::changes;
use vmclock_core::leap::{tai, UtcRule};
use vmclock_core::page::{Page, Writer};
use vmclock_core::smear::Smearing;
use vmclock_core::time::{PageScale, Span, Time};

const CPU: CounterId = CounterId::X86_TSC;

/// Any bytes at all.
fn any_page() -> impl Strategy<Value = Snapshot> {
    prop::array::uniform32(any::<u8>()).prop_flat_map(|head| {
        prop::collection::vec(any::<u8>(), STRUCTURE_LEN - 32).prop_map(move |tail| {
            let mut bytes = [0; STRUCTURE_LEN];
            bytes[..32].copy_from_slice(&head);
            bytes[32..].copy_from_slice(&tail);
            Snapshot::from_bytes(&bytes)
        })
    })
}

/// Numbers of every magnitude, the extremes among them.
fn any_magnitude() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), (0..64u32, any::<u64>()).prop_map(|(shift, bits)| bits >> shift), Just(0), Just(u64::MAX)]
}

prop_compose! {
    /// A page that gives time, with everything else arbitrary.
    fn timely_page()(
        (counter, period, period_max, period_est) in (any_magnitude(), 1..=u64::MAX, any_magnitude(), any_magnitude()),
        shift in prop_oneof![0..128u8, 20..34u8],
        (sec, frac) in (any_magnitude().prop_map(|sec| sec >> 1), any::<u64>()),
        (max, est) in (any_magnitude(), any_magnitude()),
        (tai_offset, leap, time_type) in (any::<i16>(), 0..8u8, 0..3u8),
        (flags, status, hint) in (any::<u64>(), 2..4u8, 0..4u8),
    ) -> Snapshot {
        Snapshot::BLANK.with(|page| {
            page.counter_id = CPU;
            page.time_type = TimeType(time_type);
            page.clock_status = ClockStatus(status);
            page.leap_second_smearing_hint = SmearingHint(hint);
            page.flags = Flags(flags);
            page.tai_offset_sec = tai_offset;
            page.leap_indicator = LeapIndicator(leap);
            page.counter_period_shift = shift;
            page.counter_value = counter;
            page.counter_period_frac_sec = period;
            page.counter_period_maxerror_rate_frac_sec = period_max;
            page.counter_period_esterror_rate_frac_sec = period_est;
            page.time_sec = sec;
            page.time_frac_sec = frac;
            page.time_maxerror_nanosec = max;
            page.time_esterror_nanosec = est;
        })
    }
}

/// `floor(numerator / 2^shift)`: shifting a `BigInt` rounds down, for negative numbers too.
fn floor_shift(numerator: &BigInt, shift: u32) -> BigInt {
    numerator >> shift
}

fn ceil_shift(numerator: &BigInt, shift: u32) -> BigInt {
    -floor_shift(&-numerator, shift)
}

fn signed_ticks(page: &Snapshot, counter: u64) -> i64 {
    counter.wrapping_sub(page.counter_value) as i64
}

/// T1 + floor(d * period / 2^shift), as semantics.md has it, in 2^-64 s.
fn exact_time(page: &Snapshot, counter: u64) -> BigInt {
    let elapsed = BigInt::from(signed_ticks(page, counter)) * page.counter_period_frac_sec;
    (BigInt::from(page.time_sec) << 64u32)
        + page.time_frac_sec
        + floor_shift(&elapsed, page.counter_period_shift.into())
}

/// time error + ceil_ns(ceil(|d| * period error / 2^shift)), in nanoseconds.
fn exact_error(page: &Snapshot, counter: u64, time: u64, period: u64) -> BigInt {
    let ticks = BigInt::from(signed_ticks(page, counter).unsigned_abs());
    let span = ceil_shift(&(ticks * period), page.counter_period_shift.into());
    ceil_shift(&(span * 1_000_000_000u32), 64) + time
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_page_and_no_counter_can_break_anything(page in any_page(), other in any_page(), counter: u64, cpu: u8) {
        let page = page.clipped();
        let _ = (format!("{page:?}"), page.validate(4096), page.flags.names().count());
        for cpu in [page.counter_id, CounterId(cpu)] {
            match Calibration::from_snapshot(&page, cpu) {
                Ok(calibration) => { let _ = (calibration.time_at(counter), calibration.max_error_at(counter),
                    calibration.estimated_error_at(counter), calibration.interval_at(counter)); }
                Err(reason) => prop_assert!(!reason.to_string().is_empty()),
            }
        }
        for event in changes(&page, &other) {
            prop_assert!(!event.to_string().is_empty());
        }
    }

    #[test]
    fn bytes_and_words_are_the_same_page(page in any_page()) {
        prop_assert_eq!(Snapshot::from_bytes(&page.to_bytes()), page);
        prop_assert_eq!(Words::from(page).decode(), page);
    }

    #[test]
    fn the_cheap_test_of_a_page_is_never_wrong_and_ordinary_pages_pass(
        page in prop_oneof![timely_page(), any_page()], counter in any_magnitude(), cpu in prop_oneof![Just(CPU.0), any::<u8>()],
    ) {
        let words = Words::from(page).time_words();
        let exact = Calibration::from_snapshot(&page, CounterId(cpu));
        if words.certainly_give_time(CounterId(cpu)) {
            let exact = exact.expect("certain");
            let quick = Calibration::of_time_words(words);
            prop_assert_eq!(exact.time_at(counter), Ok(quick.time_in_range_at(counter)));
            prop_assert_eq!(exact.max_error_at(counter), quick.max_error_at(counter));
        } else if let Ok(exact) = exact {
            let period = exact.period();
            let is_ordinary = (2..64).contains(&period.shift()) && page.time_sec >> 62 == 0 && page.size >= 0x70;
            prop_assert!(!is_ordinary, "{page:?}");
        }
        prop_assert_eq!(words.by_words(), words);
    }

    #[test]
    fn words_put_one_by_one_are_the_same_words(
        page in prop_oneof![timely_page(), any_page()], counter: u64, without_generation: bool, plain: bool,
    ) {
        let page = page.with(|page| {
            page.seq_count &= !1;
            if without_generation {
                page.vm_generation_counter = 0;
            }
        });
        let memory = Page::new();
        let _ = Writer::create(&memory, page);
        let (words, _) = memory.try_time_words(|| ()).expect("nobody writes");
        prop_assert_eq!(TimeWords::from_array(&words.to_array()), words);
        let mut kept = [None; TimeWords::LEN + 1];
        let good = memory.try_put_time_words(CPU, plain, |index, word| kept[index] = Some(word), || counter);
        prop_assert_eq!(good, words.certainly_give_time(CPU) && !(plain && words.generation_word() == 0));
        if good {
            let expected: Vec<_> = words.to_array().into_iter().chain([counter]).map(Some).collect();
            prop_assert_eq!(kept.to_vec(), expected);
        }
    }

    #[test]
    fn some_words_are_enough_for_what_they_are_for(
        page in prop_oneof![timely_page(), any_page()], counter in any_magnitude(),
    ) {
        let memory = Page::new();
        let _ = Writer::create(&memory, page.with(|page| page.seq_count &= !1));
        let (all, ()) = memory.words_with(|| (), || false).expect("nobody writes");
        let (time, ()) = memory.try_some_words_with::<{ Words::OF_TIME }, ()>(|| ()).expect("nobody writes");
        let time_of = |words: Words| {
            let page = words.decode().clipped();
            let calibration = Calibration::from_snapshot(&page, CPU).ok();
            (page.magic, page.version, calibration.and_then(|calibration| tai(&page, calibration.time_at(counter).ok()?)))
        };
        prop_assert_eq!(time_of(time), time_of(all));
        let (updates, ()) =
            memory.try_some_words_with::<{ Words::OF_UPDATES }, ()>(|| ()).expect("nobody writes");
        let seen = |words: Words| {
            let page = words.decode();
            (page.seq_count, page.disruption_marker, page.vm_generation_counter, page.notifies())
        };
        prop_assert_eq!(seen(updates), seen(all));
        // Nothing else is loaded: each word is that of the page, or zero.
        for (mask, some) in [(Words::OF_TIME, time), (Words::OF_UPDATES, updates)] {
            let halves = |words: Words| [words.magic, words.size, words.identity, words.seq_count].map(u64::from);
            let [all, some] = [all, some].map(|words| [&halves(words)[..], &words.changing].concat());
            for (place, (all, some)) in all.into_iter().zip(some).enumerate() {
                prop_assert_eq!(some, if mask >> place & 1 == 1 { all } else { 0 });
            }
        }
    }

    #[test]
    fn time_and_errors_are_exact(page in timely_page(), counter in any_magnitude()) {
        let calibration = Calibration::from_snapshot(&page, CPU).expect("made to give time");
        let exact = exact_time(&page, counter);
        match calibration.time_at(counter) {
            Ok(time) => prop_assert_eq!(BigInt::from(time.raw()), exact.clone()),
            Err(reason) => {
                prop_assert_eq!(reason, NoTime::OutOfRange);
                prop_assert!(i128::try_from(exact.clone()).is_err());
            }
        }
        let flags = page.flags;
        let both = |time, period| flags.contains(time) && flags.contains(period);
        let (max, est) = (calibration.max_error_at(counter), calibration.estimated_error_at(counter));
        prop_assert_eq!(max.is_some(), both(Flags::TIME_MAXERROR_VALID, Flags::PERIOD_MAXERROR_VALID));
        prop_assert_eq!(est.is_some(), both(Flags::TIME_ESTERROR_VALID, Flags::PERIOD_ESTERROR_VALID));
        if let Some(max) = max {
            let (time, period) = (page.time_maxerror_nanosec, page.counter_period_maxerror_rate_frac_sec);
            let exact = exact_error(&page, counter, time, period);
            prop_assert_eq!(BigInt::from(max), exact);
        }
        if let Some(est) = est {
            let (time, period) = (page.time_esterror_nanosec, page.counter_period_esterror_rate_frac_sec);
            let exact = exact_error(&page, counter, time, period);
            prop_assert_eq!(BigInt::from(est), exact);
        }
        if let Ok(Some(interval)) = calibration.interval_at(counter) {
            let limit = BigInt::from(1_000_000_000) << 63u32;
            let error = BigInt::from(max.expect("an interval has an error"));
            let floor = floor_shift(&(exact.clone() * 1_000_000_000u32), 64);
            let ceil = ceil_shift(&(exact * 1_000_000_000u32), 64);
            prop_assert_eq!(BigInt::from(interval.earliest.nanos()), (floor - error.clone()).max(-limit.clone()));
            prop_assert_eq!(BigInt::from(interval.latest.nanos()), (ceil + error).min(limit - 1));
        }
    }

    #[test]
    fn a_counter_value_is_found_again_by_its_time(page in timely_page(), ticks: i64) {
        let calibration = Calibration::from_snapshot(&page, CPU).expect("made to give time");
        let counter = page.counter_value.wrapping_add_signed(ticks);
        let Ok(time) = calibration.time_at(counter) else { return Ok(()) };
        let Some(found) = calibration.counter_at(time) else { return Ok(()) };
        // The last counter value of those that show a time not after this one, give or take the rounding of both.
        let shown = calibration.time_at(found).expect("nearer than `counter`");
        prop_assert!(shown <= time);
        if let Ok(next) = calibration.time_at(found.wrapping_add(1)) {
            prop_assert!(next >= time || signed_ticks(&page, found) == i64::MAX, "{next:?} < {time:?}");
        }
    }

    #[test]
    fn periods_keep_63_bits(span in 1u128..=u128::MAX >> 1, ticks: NonZeroU64, hz: NonZeroU64, ppt in any_magnitude()) {
        let exact = |period: Period, span: BigInt, ticks: u64| -> Result<(), TestCaseError> {
            // period = floor(span * 2^shift / ticks): within one unit, and of 64 bits.
            let scaled = span << u32::from(period.shift());
            let unit = BigInt::from(ticks);
            let low = BigInt::from(period.frac()) * &unit;
            prop_assert!(low <= scaled && scaled < low + unit);
            prop_assert_eq!(period.frac() >> 63, 1);
            prop_assert!(period.shift() < 128);
            Ok(())
        };
        match Period::from_ratio(span, ticks) {
            Some(period) => exact(period, BigInt::from(span), ticks.get())?,
            None => {
                let too_long = span >> 64 >= u128::from(ticks.get());
                let too_short = BigInt::from(span) << 127u32 < BigInt::from(ticks.get()) << 63u32;
                prop_assert!(too_long || too_short, "{span} / {ticks} has a period");
            }
        }
        let period = Period::from_frequency(hz);
        if hz.get() > 1 {
            exact(period, BigInt::from(1) << 64u32, hz.get())?;
        }
        let rate: BigInt = (BigInt::from(period.frac()) * ppt + 999_999_999_999u64) / 1_000_000_000_000u64;
        prop_assert_eq!(BigInt::from(period.error_rate(ppt)), rate.min(u64::MAX.into()));
    }

    #[test]
    fn nanoseconds_survive_the_unit_of_the_page(nanos in any::<i64>(), frac: u64, sec: i64) {
        prop_assert_eq!(Span::from_nanos(nanos).floor_nanos(), i128::from(nanos));
        let time = Time::<PageScale>::from_parts(sec, frac);
        prop_assert_eq!((time.seconds(), time.frac()), (sec, frac));
        let nanos = floor_shift(&(BigInt::from(time.raw()) * 1_000_000_000u32), 64);
        prop_assert_eq!(BigInt::from(time.floor_nanos()), nanos.clone());
        let stamp = time.timestamp();
        prop_assert_eq!(BigInt::from(stamp.seconds()) * 1_000_000_000u32 + stamp.subsec_nanos(), nanos);
        prop_assert!(stamp.subsec_nanos() < 1_000_000_000);
        prop_assert!(time.ceil_nanos() - time.floor_nanos() <= 1);
    }

    #[test]
    fn utc_and_smears_never_break(page in timely_page(), raw: i128) {
        let time = Time::<PageScale>::from_raw(raw);
        let _ = tai(&page, time);
        if let Some(rule) = UtcRule::from_snapshot(&page) {
            let _ = (rule.utc(time), Smearing::NoonLinear.smear(&rule, time), Smearing::UtcSls.smear(&rule, time));
        }
    }
}

/// The last leap seconds that there were: POSIX seconds of the month that began after each, and the page's TAI offset
/// before.
const LEAP_SECONDS: [(i64, i16); 2] = [(1_435_708_800, -35), (1_483_228_800, -36)];

/// Every page that may be published around a leap second, by where its reference is: TAI or UTC pages, before, in
/// (both ways in which producers fill that in) and after it.
fn pages_around(month: i64, before: i16, inserted: bool) -> Vec<(Snapshot, &'static str)> {
    let after = if inserted { before - 1 } else { before + 1 };
    // TAI at which the change begins and at which it is over, and POSIX time that goes with it.
    let begins = month - i64::from(before) - i64::from(!inserted);
    let page = |tai: i64, offset: i16, leap| {
        Snapshot::BLANK.with(|page| {
            page.time_type = TimeType::TAI;
            page.time_sec = tai.unsigned_abs();
            page.time_frac_sec = 1 << 62;
            page.flags = Flags::TAI_OFFSET_VALID;
            page.tai_offset_sec = offset;
            page.leap_indicator = leap;
        })
    };
    let (pre, post) = if inserted {
        (LeapIndicator::PRE_POSITIVE, LeapIndicator::POST_POSITIVE)
    } else {
        (LeapIndicator::PRE_NEGATIVE, LeapIndicator::POST_NEGATIVE)
    };
    let mut pages = vec![
        (page(begins - 86_400 * 3, before, pre), "days before"),
        (page(begins - 1, before, pre), "the second before"),
        (page(begins + i64::from(inserted), after, post), "the second after"),
        (page(begins + 86_400 * 3, after, post), "days after"),
    ];
    if inserted {
        pages.push((page(begins, before, LeapIndicator::POSITIVE), "in it, old offset"));
        pages.push((page(begins, after, LeapIndicator::POSITIVE), "in it, new offset"));
    }
    let as_utc = pages.clone().into_iter().map(|(page, name)| {
        let sec = page.time_sec as i64 + i64::from(page.tai_offset_sec);
        (
            page.with(|page| {
                page.time_type = TimeType::UTC;
                page.time_sec = sec.unsigned_abs();
            }),
            name,
        )
    });
    pages.into_iter().chain(as_utc.collect::<Vec<_>>()).collect()
}

/// An instant given in TAI, on the scale of a page: a UTC page counts on with the offset of its reference.
fn on_page(page: &Snapshot, tai: Time<PageScale>) -> Time<PageScale> {
    let offset = if page.time_type == TimeType::UTC { i128::from(page.tai_offset_sec) } else { 0 };
    Time::from_raw(tai.raw() + (offset << 64))
}

/// UTC as semantics.md has it, written down independently, in seconds of TAI.
fn expected(tai: i64, month: i64, before: i16, inserted: bool) -> (i64, bool) {
    let utc = tai + i64::from(before);
    match (inserted, utc) {
        (true, utc) if utc == month => (month - 1, true),
        (true, utc) if utc > month => (utc - 1, false),
        (false, utc) if utc >= month - 1 => (utc + 1, false),
        (_, utc) => (utc, false),
    }
}

#[test]
fn every_page_around_a_leap_second_gives_the_same_utc() {
    for (month, before) in LEAP_SECONDS {
        for inserted in [true, false] {
            for (page, name) in pages_around(month, before, inserted) {
                let rule = UtcRule::from_snapshot(&page).expect("a valid page");
                let is_post =
                    matches!(page.leap_indicator, LeapIndicator::POST_POSITIVE | LeapIndicator::POST_NEGATIVE);
                let begins = month - i64::from(before) - i64::from(!inserted);
                for second in -200_000..200_000i64 {
                    // Just behind a second's start, in its middle, at its very end.
                    let frac = [1, 1 << 63, u64::MAX][usize::try_from(second.rem_euclid(3)).expect("small")];
                    let tai_time = Time::from_parts(begins + second, frac);
                    // A page that only remembers the leap second does not take earlier times back across it.
                    if is_post && second < i64::from(inserted) {
                        continue;
                    }
                    let utc = rule.utc(on_page(&page, tai_time)).expect("in range");
                    let wanted = expected(begins + second, month, before, inserted);
                    assert_eq!(
                        (utc.time.seconds(), utc.leap_second, utc.time.frac()),
                        (wanted.0, wanted.1, frac),
                        "{second} s from the leap, {name}, {:?}",
                        page.time_type
                    );
                    assert_eq!(tai(&page, on_page(&page, tai_time)).map(Time::raw), Some(tai_time.raw()), "{name}");
                }
            }
        }
    }
}

#[test]
fn real_leap_seconds_are_as_hifitime_has_them() {
    let epoch = Epoch::from_gregorian_tai_at_midnight(1970, 1, 1);
    for (month, before) in LEAP_SECONDS {
        let page = pages_around(month, before, true).swap_remove(0).0;
        let rule = UtcRule::from_snapshot(&page).expect("a valid page");
        // hifitime changes its offset when TAI, not UTC, reaches the month: for some tens of seconds it is no oracle.
        for second in (-100_000..-40i64).chain(1..100_000) {
            let tai_seconds = month - i64::from(before) + second;
            let utc = rule.utc(Time::from_parts(tai_seconds, 0)).expect("in range");
            let (year, month, day, hour, minute, sec, _) =
                (epoch + Unit::Second * tai_seconds).to_gregorian(TimeScale::UTC);
            let posix = (Epoch::from_gregorian_tai(year, month, day, hour, minute, sec, 0) - epoch).to_seconds();
            assert_eq!((posix, false), (utc.time.seconds() as f64, utc.leap_second), "{second} s from the leap");
        }
    }
}

#[test]
fn smearing_is_continuous_monotonic_and_utc_outside() {
    for inserted in [true, false] {
        for (page, name) in pages_around(1_483_228_800, -36, inserted) {
            let rule = UtcRule::from_snapshot(&page).expect("a valid page");
            for smearing in [Smearing::NoonLinear, Smearing::UtcSls] {
                check_smear(&page, &rule, smearing, inserted, name);
            }
        }
    }
}

/// The stretch in linear UTC (as if there were no leap second), in seconds: start, SI seconds, smeared seconds.
fn stretch(smearing: Smearing, inserted: bool) -> (i64, i64, i64) {
    let month = 1_483_228_800;
    match (smearing, inserted) {
        (Smearing::NoonLinear, true) => (month - 43_200, 86_401, 86_400),
        (Smearing::NoonLinear, false) => (month - 43_200, 86_399, 86_400),
        (Smearing::UtcSls, true) => (month - 999, 1_000, 999),
        (Smearing::UtcSls, false) => (month - 1_001, 1_000, 1_001),
        (other, _) => panic!("not tested: {other:?}"),
    }
}

fn check_smear(page: &Snapshot, rule: &UtcRule, smearing: Smearing, inserted: bool, name: &str) {
    let (start, si_seconds, smeared_seconds) = stretch(smearing, inserted);
    let smear = |linear: i128| {
        // Linear UTC to TAI by the offset before the leap second.
        let tai_time = Time::from_raw(linear + (36 << 64));
        smearing.smear(rule, on_page(page, tai_time)).expect("in range").raw()
    };
    let second = |seconds: i64| i128::from(seconds) << 64;
    let step: i128 = if inserted { -second(1) } else { second(1) };
    let end = start + si_seconds;

    assert_eq!(smear(second(start) - 1), second(start) - 1, "{name}: UTC before");
    assert_eq!(smear(second(start)), second(start), "{name}: begins where UTC is");
    assert_eq!(smear(second(end)), second(start + smeared_seconds), "{name}: ends where UTC is");
    assert_eq!(smear(second(end)), second(end) + step, "{name}: a second off by the end");
    assert_eq!(smear(second(end + 86_400)), second(end + 86_400) + step, "{name}: UTC after");
    let half = smear(second(start) + second(si_seconds) / 2) - second(start);
    assert!((half - second(smeared_seconds) / 2).abs() <= 1, "{name}: half way");

    let mut last = smear(second(start - 10));
    let near_edges = |edge: i64| (-20..20).map(move |step| second(edge) + step);
    let instants = near_edges(start)
        .chain((0..si_seconds).step_by(7).map(|seconds| second(start + seconds)))
        .chain(near_edges(end))
        .chain((1..10).map(|seconds| second(end + seconds)));
    for instant in instants.filter(|instant| *instant > second(start - 10)) {
        let now = smear(instant);
        assert!(now >= last || instant < second(start) + 20, "{name}: went back at {instant}");
        last = now;
        // Continuous: 2^-64 s on the one axis is at most 2^-63 s on the other.
        let next = smear(instant + 1);
        assert!((0..=2).contains(&(next - now)), "{name}: a jump of {} at {instant}", next - now);
    }
}
