// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hybrid logical clocks of machines whose clocks are wrong within their bounds, and of one whose bounds are wrong.

use proptest::prelude::*;
use vmclock::hybrid::{HybridClock, Stamp, StampError};
use vmclock::{Interval, Tai, Timestamp};

const START: i64 = 2_000_000_000_000_000_000;

/// What happens on a machine.
#[derive(Clone, Copy, Debug)]
struct Step {
    machine: usize,
    /// How much later in true time than the step before.
    after: i64,
    /// How far the bounds reach to either side of true time.
    error: (i64, i64),
    /// Which earlier event's stamp arrives with it, if any.
    message: Option<prop::sample::Index>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let error = || prop_oneof![Just(0), 0..10i64, 0..10_000i64];
    let step = (
        0..4usize,
        prop_oneof![Just(0), 0..5i64, 0..20_000i64],
        error(),
        error(),
        any::<Option<prop::sample::Index>>(),
    )
        .prop_map(|(machine, after, before, behind, message)| Step {
            machine,
            after,
            error: (before, behind),
            message,
        });
    prop::collection::vec(step, 1..60)
}

fn interval(earliest: i64, latest: i64) -> Interval<Tai> {
    Interval { earliest: Timestamp::from_nanos(earliest.into()), latest: Timestamp::from_nanos(latest.into()) }
}

struct Happened {
    machine: usize,
    truth: i64,
    now: Interval<Tai>,
    stamp: Stamp,
    cause: Option<usize>,
}

fn run(steps: &[Step]) -> Vec<Happened> {
    let mut clocks = [HybridClock::new(); 4];
    let mut truth = START;
    let mut happened: Vec<Happened> = Vec::new();
    for step in steps {
        truth += step.after;
        let now = interval(truth - step.error.0, truth + step.error.1);
        let cause = step.message.filter(|_| !happened.is_empty()).map(|index| index.index(happened.len()));
        let clock = &mut clocks[step.machine];
        let stamp = match cause {
            Some(cause) => clock.receive(happened[cause].stamp, Some(now)),
            None => clock.stamp(Some(now)),
        };
        let stamp = stamp.expect("all bounds hold");
        happened.push(Happened { machine: step.machine, truth, now, stamp, cause });
    }
    happened
}

proptest! {
    #[test]
    fn stamps_are_ordered_as_causes_are(steps in steps()) {
        let happened = run(&steps);
        for (index, effect) in happened.iter().enumerate() {
            for cause in &happened[..index] {
                if cause.machine == effect.machine {
                    prop_assert!(cause.stamp < effect.stamp);
                }
            }
            if let Some(cause) = effect.cause {
                prop_assert!(happened[cause].stamp < effect.stamp);
            }
        }
    }

    #[test]
    fn no_stamp_is_ahead_of_true_time_nor_before_the_bounds(steps in steps()) {
        for event in run(&steps) {
            prop_assert!(event.stamp.nanos() <= event.truth);
            prop_assert!(event.stamp.time() >= event.now.earliest);
        }
    }

    #[test]
    fn what_is_certainly_before_has_the_smaller_stamp(steps in steps()) {
        let happened = run(&steps);
        for one in &happened {
            for other in happened.iter().filter(|other| one.now.certainly_before(other.now)) {
                prop_assert!(one.stamp < other.stamp, "on machines {} and {}", one.machine, other.machine);
            }
        }
    }

    #[test]
    fn a_stamp_from_the_future_is_refused_and_changes_nothing(steps in steps(), ahead in 1..1_000_000i64, error in 0..1_000i64) {
        let last = run(&steps).pop().expect("at least one");
        let mut clock = HybridClock::continuing(last.stamp);
        let now = interval(last.truth - error, last.truth + error);
        let theirs = Stamp::from_parts(last.truth + error + ahead, 0);
        let before = clock;
        prop_assert_eq!(clock.receive(theirs, Some(now)), Err(StampError::Ahead { stamp: theirs, latest: now.latest }));
        prop_assert_eq!(clock, before);
        prop_assert_eq!(clock.receive(Stamp::from_parts(last.truth + error, 0), Some(now)).map(|stamp| stamp > last.stamp), Ok(true));
    }

    #[test]
    fn bytes_are_in_the_order_of_stamps(a in any::<(i64, u32)>(), b in any::<(i64, u32)>()) {
        let [a, b] = [a, b].map(|(nanos, count)| Stamp::from_parts(nanos, count));
        prop_assert_eq!(a.to_bytes().cmp(&b.to_bytes()), a.cmp(&b));
        prop_assert_eq!(Stamp::from_bytes(a.to_bytes()), a);
    }
}

#[test]
fn the_ends_of_the_numbers_are_errors_or_carried() {
    let at = |nanos| Some(interval(nanos, nanos));
    let mut clock = HybridClock::continuing(Stamp::from_parts(START, u32::MAX));
    assert_eq!(clock.stamp(at(START)), Ok(Stamp::from_parts(START + 1, 0)));
    let mut clock = HybridClock::continuing(Stamp::from_parts(i64::MAX, u32::MAX));
    assert_eq!(clock.stamp(at(i64::MAX)), Err(StampError::OutOfRange));
    let far = Timestamp::from_nanos(i128::from(i64::MAX) + 1);
    assert_eq!(clock.stamp(Some(Interval { earliest: far, latest: far })), Err(StampError::OutOfRange));
    assert_eq!(clock.receive(Stamp::MIN, None), Err(StampError::NoBounds));
}
