// SPDX-License-Identifier: MIT OR Apache-2.0
//! Decisions that go on in another process: as if nothing had happened, or not at all.

use std::num::NonZeroU64;

use proptest::prelude::*;
use serde_json::Value;
use vmclock_core::tai::TaiOffset;
use vmclock_core::time::Span;

use super::*;
use crate::source::Stamp;
use crate::utc::Origin;

const SECOND: i64 = 1_000_000_000;

fn start(clocks: usize, settings: Settings) -> Start {
    Start {
        settings,
        nominal: Period::from_frequency(NonZeroU64::new(1_000_000_000).expect("not 0")),
        roles: (0..clocks).map(|clock| Role { clock, is_tai: clock % 2 == 0 }).collect(),
        knowledge: Knowledge { stated: TaiOffset::from_seconds(37), ..Knowledge::default() },
        utc: Time::from_parts(1_800_000_000, 0),
    }
}

/// What happens in a round: how long it is, and by how much each source is off, where it answers; in nanoseconds.
type Round = (i64, Vec<Option<i64>>);

fn rounds(clocks: usize) -> impl Strategy<Value = Vec<Round>> {
    let off = prop_oneof![8 => -900..900_i64, 1 => -5 * SECOND..5 * SECOND];
    let length = prop_oneof![8 => SECOND / 2..5 * SECOND, 1 => 40 * SECOND..20_000 * SECOND];
    let round = (length, prop::collection::vec(prop::option::weighted(0.8, off), clocks));
    prop::collection::vec(round, 1..60)
}

/// A counter that ticks each nanosecond, and what the policy is told of it.
struct Told {
    counter: u64,
    tai: i128,
}

impl Told {
    fn new() -> Self {
        Self { counter: u64::MAX - 20_000_000_000, tai: 1_800_000_037 * i128::from(SECOND) }
    }

    fn pass(&mut self, (length, off): &Round, policies: &mut [&mut Policy]) -> u64 {
        self.counter = self.counter.wrapping_add(length.cast_unsigned());
        self.tai += i128::from(*length);
        for (source, off) in off.iter().enumerate() {
            let Some(off) = off else { continue };
            let (before, after) = (self.counter, self.counter.wrapping_add(100));
            let tai = self.tai + 50 + i128::from(*off);
            let at = |nanos| Time::from_nanos(nanos).expect("in range");
            let stamp = if source % 2 == 0 {
                Stamp::Tai(Sample { before, time: at(tai), after })
            } else {
                let utc = TaiOffset::from_seconds(37).expect("in range").utc(at(tai)).expect("in range");
                Stamp::Utc(Sample { before, time: utc, after })
            };
            for policy in &mut *policies {
                policy.measured(source, &Measurement::new(stamp, 1_000));
            }
        }
        self.counter.wrapping_add(200)
    }
}

fn saved(policy: &Policy) -> Vec<u8> {
    serde_json::to_vec(policy).expect("numbers")
}

/// As the next process reads it.
fn read(json: &[u8]) -> Policy {
    serde_json::from_slice(json).expect("what was saved")
}

proptest! {
    #[test]
    fn decisions_go_on_bit_for_bit(
        rounds in (1..5_usize).prop_flat_map(rounds),
        stops in prop::collection::vec(any::<bool>(), 60),
        monotonic: bool,
        measured: bool,
    ) {
        let settings = Settings { monotonic, measured_wander: measured.then_some(1_000_000), ..Settings::default() };
        let start = start(rounds[0].1.len(), settings);
        let (mut one, mut other) = (Policy::new(&start), Policy::new(&start));
        let mut told = Told::new();
        for (round, stops) in rounds.iter().zip(stops) {
            if stops {
                other = read(&saved(&other)).resume(&start, true, false).expect("the same");
                // Its one page returned.
                other.release();
            }
            let now = told.pass(round, &mut [&mut one, &mut other]);
            let (decided, decided_again) = (one.conclude(now), other.conclude(now));
            // With the sign of each zero.
            prop_assert_eq!(format!("{decided:?}"), format!("{decided_again:?}"));
            if monotonic && decided.conclusion.publish.is_some() {
                prop_assert_eq!(one.settle(now + 300), other.settle(now + 300));
            }
            prop_assert_eq!(saved(&one), saved(&other));
        }
    }

    #[test]
    fn nonsense_never_panics(
        rounds in rounds(2),
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<i64>(), 0..6_u8), 1..4),
        more in rounds(2),
    ) {
        let start = start(2, Settings::default());
        let mut policy = Policy::new(&start);
        let mut told = Told::new();
        for round in &rounds {
            let now = told.pass(round, &mut [&mut policy]);
            policy.conclude(now);
        }
        let mut json: Value = serde_json::from_slice(&saved(&policy)).expect("what was saved");
        for (place, number, how) in places {
            let mut leaves = Vec::new();
            leaves_of(&mut json, &mut leaves);
            let count = leaves.len();
            let leaf = leaves.swap_remove(place.index(count));
            *leaf = match how {
                0 => Value::Null,
                1 => number.into(),
                2 => number.cast_unsigned().into(),
                #[allow(clippy::cast_precision_loss)] // any number
                3 => (number as f64 / 3e9).into(),
                4 => (number & 1 == 1).into(),
                _ => Value::Array(vec![leaf.clone(); number.rem_euclid(40) as usize]),
            };
        }
        let text = serde_json::to_vec(&json).expect("JSON");
        let Ok(resumed) = serde_json::from_slice::<Policy>(&text) else { return Ok(()) };
        for was_killed in [false, true] {
            let Ok(mut resumed) = resumed.clone().resume(&start, true, was_killed) else { continue };
            for round in &more {
                let now = told.pass(round, &mut [&mut resumed]);
                resumed.update(start.knowledge, start.utc, now);
                if resumed.conclude(now).conclusion.publish.is_some() {
                    resumed.settle(now + 100);
                }
                resumed.leap_status(resumed.time_at(now));
            }
        }
    }
}

/// All numbers, words and empty places.
fn leaves_of<'v>(value: &'v mut Value, leaves: &mut Vec<&'v mut Value>) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| leaves_of(item, leaves)),
        Value::Object(fields) => fields.values_mut().for_each(|field| leaves_of(field, leaves)),
        leaf => leaves.push(leaf),
    }
}

/// After 50 rounds of a second.
fn settled(start: &Start) -> (Policy, Told) {
    let (mut policy, mut told) = (Policy::new(start), Told::new());
    let round = (SECOND, vec![Some(0); start.roles.len()]);
    for _ in 0..50 {
        let now = told.pass(&round, &mut [&mut policy]);
        policy.conclude(now);
    }
    (policy, told)
}

/// The distance of true time from the published one, and the maximum error, a while later.
fn error_after(policy: &mut Policy, told: &mut Told, seconds: i64) -> (i128, u128) {
    let sources = policy.sources.len();
    let now = told.pass(&(seconds * SECOND, vec![None; sources]), &mut [policy]);
    policy.conclude(now);
    let last = policy.estimator().last().expect("a time");
    let truth = Time::from_nanos(told.tai + 200).expect("in range");
    let off = truth.since(last.time_at(now).expect("in range")).map_or(0, Span::floor_nanos);
    (off, last.max_error_at(now).expect("bounds"))
}

#[test]
fn other_sources_leave_what_is_known_of_time_and_frequency() {
    let before = start(3, Settings::default());
    let (policy, mut told) = settled(&before);
    let now = start(1, Settings::default());
    let mut policy = policy.resume(&now, false, false).expect("other sources");
    assert_eq!((policy.clocks(), policy.standing(0)), (1, Standing::Unreachable));
    // A minute without an answer of the new one: 15 ppm of it are 900 us.
    let (off, error) = error_after(&mut policy, &mut told, 60);
    assert!(off.unsigned_abs() <= error && error < 1_000_000, "{off} ± {error} ns");
    let decision = {
        let now = told.pass(&(SECOND, vec![Some(0)]), &mut [&mut policy]);
        policy.conclude(now)
    };
    assert!(!decision.conclusion.disrupted);
    assert!(policy.standing(0).is_selected());
    // One that says another time is believed no sooner than ever.
    let now = told.pass(&(SECOND, vec![Some(SECOND)]), &mut [&mut policy]);
    assert!(policy.conclude(now).conclusion.disrupted);
}

#[test]
fn what_is_assumed_may_become_more_but_not_less() {
    let wander = |wander| Settings { wander, ..Settings::default() };
    let (policy, mut told) = settled(&start(1, wander(15_000_000)));
    let refused = |settings| policy.clone().resume(&start(1, settings), true, false).expect_err("less");
    let less = [wander(16_000_000), Settings { nominal_error: 600_000_000, ..Settings::default() }];
    for settings in less {
        assert!(matches!(refused(settings), CannotResume::AssumesLess { .. }));
    }
    let measured = |least| Settings { measured_wander: least, ..Settings::default() };
    let assumes_less = |now: Option<u64>, before| measured(now).assume_less_than(&measured(before)).is_some();
    assert!(assumes_less(None, Some(1)) && assumes_less(Some(2), Some(1)));
    assert!(!assumes_less(Some(1), None) && !assumes_less(Some(1), Some(2)));
    // 1000 s at 15 ppm are 15 ms, at 1 ppm 1 ms: the gap is of the time in which 15 ppm were assumed.
    let mut policy = policy.resume(&start(1, wander(1_000_000)), true, false).expect("more is assumed");
    let (_, error) = error_after(&mut policy, &mut told, 1_000);
    assert!((15_000_000..16_000_000).contains(&error), "{error} ns");
    assert_eq!(policy.estimator().wander(), 1_000_000, "from then on");
}

#[test]
fn after_a_kill_the_next_calibration_is_nested_in_both_that_may_be_on_the_page() {
    let start = start(1, Settings::default());
    let (policy, mut told) = settled(&start);
    let kept: Vec<Calibration<Tai>> = {
        let mut resumed = read(&saved(&policy));
        resumed = resumed.resume(&start, true, true).expect("the same");
        resumed.estimator().left().copied().collect()
    };
    assert_eq!(kept.len(), 2, "the last one, or the one before");
    let mut policy = policy.resume(&start, true, true).expect("the same");
    let now = told.pass(&(30 * SECOND, vec![Some(900)]), &mut [&mut policy]);
    let next = policy.conclude(now).conclusion.publish.expect("in any case");
    for calibration in kept {
        let interval = calibration.interval_at(now).expect("in range").expect("bounds");
        let time = next.time_at(now).expect("in range");
        assert!(interval.earliest.nanos() <= time.floor_nanos() && time.ceil_nanos() <= interval.latest.nanos());
    }
    assert_eq!(policy.utc().origin(), Origin::Stated);
}
