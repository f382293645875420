// SPDX-License-Identifier: MIT OR Apache-2.0
//! The estimator in small worlds; `vmclock simulate` has the large ones.

use std::num::NonZeroU64;

use proptest::prelude::*;
use vmclock_core::abi::ClockStatus;

use super::*;

const HERTZ: f64 = 2.5e9;
const MILLI: f64 = 1e6;

/// A counter against true time, and sources that tell it.
struct World {
    /// True nanoseconds.
    now: f64,
    ticks: f64,
    origin: u64,
    /// The counter's relative frequency.
    rate: f64,
    estimator: Estimator,
}

impl World {
    fn new(settings: Settings, sources: usize) -> Self {
        // 80 ppm off, which the estimator has to find out.
        let nominal = Period::from_frequency(NonZeroU64::new(2_500_200_000).expect("not 0"));
        let origin = u64::MAX - 7_000_000_000;
        Self { now: 0.0, ticks: 0.0, origin, rate: 1.0, estimator: Estimator::new(settings, nominal, sources) }
    }

    fn pass(&mut self, nanos: f64) {
        self.now += nanos;
        self.ticks += nanos * HERTZ / SECOND * self.rate;
    }

    fn counter(&self) -> u64 {
        self.origin.wrapping_add(self.ticks as u64)
    }

    fn truth(&self) -> Time<Tai> {
        Time::from_nanos(1_800_000_000_000_000_000 + self.now as i128).expect("in range")
    }

    fn look(&mut self, source: usize, error: f64, max_error: u64) -> Option<Finding> {
        let before = self.counter();
        let time = Time::from_nanos(self.truth().floor_nanos() + error as i128).expect("in range");
        self.pass(50.0);
        let after = self.counter();
        self.estimator.observe(&Evidence {
            source,
            before,
            after,
            time,
            max_error,
            estimated_error: max_error / 4,
            synchronized: true,
        })
    }

    fn conclude(&mut self) -> Conclusion {
        self.estimator.conclude(self.counter())
    }

    /// Rounds of one second with one source that is right.
    fn settle(&mut self, rounds: usize, max_error: u64) -> Conclusion {
        let mut last = None;
        for _ in 0..rounds {
            self.pass(SECOND);
            assert_eq!(self.look(0, 0.0, max_error), None);
            last = Some(self.conclude());
        }
        last.expect("some rounds")
    }

    /// How far the published time is from the true one, and how far it may be.
    fn error(&self) -> (f64, f64) {
        let last = self.estimator.last().expect("published");
        let shown = last.time_at(self.counter()).expect("in range");
        let off = shown.since(self.truth()).expect("in range").floor_nanos();
        (off as f64, last.max_error_at(self.counter()) as f64)
    }

    fn assert_right(&self) {
        let (off, most) = self.error();
        assert!(off.abs() <= most, "{off} ns off, and {most} ns are allowed");
    }
}

#[test]
fn the_first_look_gives_a_time_and_the_rate_is_found() {
    let mut world = World::new(Settings::default(), 1);
    assert_eq!(world.conclude().status, ClockStatus::INITIALIZING, "nothing was heard");
    let first = world.settle(1, 1_000).publish.expect("a calibration");
    assert!(first.period_max_error > 500_000_000, "the nominal rate may be off by 500 ppm: {first:?}");
    world.assert_right();
    let later = world.settle(100, 1_000);
    assert_eq!((later.status, later.disrupted), (ClockStatus::SYNCHRONIZED, false));
    let last = *world.estimator.last().expect("published");
    // The drift, and what a microsecond over tens of seconds leaves.
    assert!((15_000_000..15_200_000).contains(&last.period_max_error), "{last:?}");
    assert!(last.time_max_error < 1_100, "{last:?}");
    let expected = SECOND / HERTZ;
    assert!((nanos_per_tick(last.period) / expected - 1.0).abs() < 2e-7);
    assert!(last.period.frac() >> 63 == 1, "all its bits are used");
    world.assert_right();
}

#[test]
fn a_vague_look_makes_nothing_worse() {
    let mut world = World::new(Settings::default(), 1);
    world.settle(50, 1_000);
    let (_, before) = world.error();
    for _ in 0..20 {
        world.pass(SECOND);
        world.look(0, 40.0 * MILLI, 50_000_000);
        world.conclude();
        world.assert_right();
    }
    let (_, after) = world.error();
    assert!(after < before + 20.0 * 16_000.0, "it grows by the drift alone: {before} {after}");
}

#[test]
fn without_sources_it_runs_free_and_resumes() {
    let mut world = World::new(Settings::default(), 1);
    world.settle(50, 1_000);
    let mut statuses = Vec::new();
    for _ in 0..60 {
        world.pass(SECOND);
        let conclusion = world.conclude();
        assert!(!conclusion.disrupted);
        statuses.push(conclusion.status);
        world.assert_right();
    }
    assert_eq!(statuses[5], ClockStatus::SYNCHRONIZED);
    assert_eq!(statuses[59], ClockStatus::FREE_RUNNING);
    world.pass(SECOND);
    world.look(0, 0.0, 1_000);
    let back = world.conclude();
    assert_eq!((back.status, back.disrupted), (ClockStatus::SYNCHRONIZED, false));
    assert_eq!(back.findings, [Finding::Resumed]);
    world.assert_right();
}

#[test]
fn a_source_that_contradicts_itself_costs_the_time_until_it_returns() {
    let mut world = World::new(Settings::default(), 1);
    world.settle(50, 1_000);
    let mut markers = 0;
    for round in 0..100 {
        world.pass(SECOND);
        let finding = world.look(0, 30.0 * MILLI, 1_000);
        assert_eq!(matches!(finding, Some(Finding::Doubted { .. })), round == 0, "{finding:?}");
        let conclusion = world.conclude();
        assert_eq!((conclusion.status, conclusion.publish), (ClockStatus::UNRELIABLE, None));
        markers += u32::from(conclusion.disrupted);
    }
    assert_eq!(markers, 1, "what was published was, or may have been, wrong");
    let mut findings = Vec::new();
    for _ in 0..3 {
        world.pass(SECOND);
        findings.extend(world.look(0, 0.0, 1_000));
        assert_eq!(world.conclude().status.gives_time(), !findings.is_empty(), "one look may be a coincidence");
    }
    assert_eq!(findings, [Finding::Vindicated { source: 0 }]);
    world.assert_right();
}

#[test]
fn a_source_that_insists_is_believed_with_a_new_marker() {
    let settings = Settings { probation: 60_000_000_000, ..Settings::default() };
    let mut world = World::new(settings, 1);
    world.settle(50, 1_000);
    // The counter was written to: from now on it is a second ahead.
    world.ticks += HERTZ;
    let (mut believed, mut markers) = (None, 0);
    for round in 0..80 {
        world.pass(SECOND);
        let finding = world.look(0, 0.0, 1_000);
        let conclusion = world.conclude();
        markers += u32::from(conclusion.disrupted);
        if finding == Some(Finding::Stepped { source: 0 }) {
            believed = Some(round);
        }
        assert_eq!(conclusion.status.gives_time(), believed.is_some(), "round {round}: {conclusion:?}");
        if believed.is_some() {
            world.assert_right();
        }
    }
    assert!((59..=61).contains(&believed.expect("it insisted")), "{believed:?}");
    assert_eq!(markers, 2, "when it was doubted, and when it was believed");
}

#[test]
fn a_clock_that_comes_to_be_synchronised_is_believed_at_once() {
    let mut world = World::new(Settings::default(), 1);
    let (before, time) = (world.counter(), world.truth());
    let early = Evidence {
        source: 0,
        before,
        after: before,
        // Days off, and with no idea of it.
        time: time.checked_add(Span::from_nanos(200_000_000_000_000)).expect("in range"),
        max_error: 16_000_000_000,
        estimated_error: 16_000_000_000,
        synchronized: false,
    };
    world.estimator.observe(&early);
    assert_eq!(world.conclude().status, ClockStatus::FREE_RUNNING);
    world.pass(SECOND);
    assert_eq!(world.look(0, 0.0, 1_000), Some(Finding::Stepped { source: 0 }));
    let conclusion = world.conclude();
    assert_eq!((conclusion.status, conclusion.disrupted), (ClockStatus::SYNCHRONIZED, true));
    world.assert_right();
}

#[test]
fn of_four_sources_one_may_lie_and_of_two_none() {
    for (sources, survives) in [(4, true), (3, true), (2, false)] {
        let mut world = World::new(Settings::default(), sources);
        for lie in [0.0, 0.0, 0.0, 5.0 * MILLI, 5.0 * MILLI, 5.0 * MILLI] {
            for _ in 0..20 {
                world.pass(SECOND);
                for source in 0..sources {
                    world.look(source, if source == 1 { lie } else { 0.0 }, 1_000_000);
                }
                let conclusion = world.conclude();
                assert_eq!(conclusion.status.gives_time(), survives || lie == 0.0, "{sources}: {conclusion:?}");
                if conclusion.status.gives_time() {
                    world.assert_right();
                }
            }
        }
    }
}

#[test]
fn a_liar_from_the_start_is_outvoted() {
    let mut world = World::new(Settings::default(), 3);
    for _ in 0..100 {
        world.pass(SECOND);
        for (source, error) in [(0, 0.2 * MILLI), (1, -0.3 * MILLI), (2, 900.0 * MILLI)] {
            world.look(source, error, 1_000_000);
        }
        assert_eq!(world.conclude().status, ClockStatus::SYNCHRONIZED);
        world.assert_right();
    }
}

#[test]
fn a_counter_that_stands_gives_no_time() {
    let mut world = World::new(Settings::default(), 1);
    world.settle(50, 1_000);
    world.rate = 0.0;
    for _ in 0..20 {
        world.pass(SECOND);
        world.look(0, 0.0, 1_000);
        assert_eq!(world.conclude().status, ClockStatus::UNRELIABLE);
    }
}

#[test]
fn a_rate_that_creeps_away_unseen_is_found_out() {
    // So vague a source that 300 ppm do not contradict its times, for minutes.
    let settings =
        Settings { drift: 1_000_000, least_drift: 1_000_000, nominal_error: 100_000_000, ..Settings::default() };
    let mut world = World::new(settings, 1);
    world.settle(20_000, 3_000_000);
    world.rate = 1.0 + 300e-6;
    let mut statuses = Vec::new();
    for _ in 0..2_000 {
        world.pass(SECOND);
        world.look(0, 0.0, 3_000_000);
        statuses.push(world.conclude().status);
    }
    let unreliable = statuses.iter().position(|status| *status == ClockStatus::UNRELIABLE).expect("found out");
    assert!(unreliable < 60, "{unreliable}");
}

#[test]
fn a_days_steadiness_narrows_the_drift_and_a_restart_forgets_it() {
    let mut world = World::new(Settings::default(), 1);
    for minute in 0..3_000 {
        // ± 0.3 ppm over the day.
        world.rate = 1.0 + 0.3e-6 * (f64::from(minute) / 1440.0 * std::f64::consts::TAU).sin();
        for _ in 0..6 {
            world.pass(10.0 * SECOND);
            world.look(0, 0.0, 1_000);
            world.conclude();
            world.assert_right();
        }
        let expected = if minute < 1_400 { 15_000_000..15_000_001 } else { 1_000_000..15_000_001 };
        assert!(expected.contains(&world.estimator.drift()), "minute {minute}: {}", world.estimator.drift());
    }
    assert!(
        (1_700_000..2_500_000).contains(&world.estimator.drift()),
        "three times 0.6 ppm: {}",
        world.estimator.drift()
    );
    let nominal = world.estimator.nominal();
    world.estimator.restart(nominal);
    assert_eq!((world.estimator.drift(), world.estimator.last()), (15_000_000, None));
    assert_eq!(world.conclude().status, ClockStatus::INITIALIZING);
}

#[test]
fn guests_are_woken_no_more_often_than_needed() {
    // Bounds of 10 ms grow by a quarter in three minutes.
    let mut world = World::new(Settings::default(), 1);
    let mut updates = 0;
    for _ in 0..3_600 {
        world.pass(SECOND);
        world.look(0, 0.0, 10_000_000);
        updates += u32::from(world.conclude().publish.is_some());
    }
    assert!((59..90).contains(&updates), "{updates} an hour");
}

/// What a reader was given: the counter, and the bounds.
fn given(world: &World, counter: u64) -> Option<(i128, i128)> {
    let last = world.estimator.last()?;
    let time = last.time_at(counter)?;
    let error = i128::from(last.max_error_at(counter));
    Some((time.floor_nanos() - error, time.ceil_nanos() + error))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever an honest source says, in whatever rhythm, with a rate that wanders within the drift: bounds hold, each calibration stays
    /// inside the bounds of the one before, and, if that is asked for, time never goes back.
    #[test]
    fn promises_hold(
        monotonic in any::<bool>(),
        max_error in 200_u64..5_000_000,
        rounds in prop::collection::vec((0.01..20.0_f64, -1.0..1.0_f64, -0.9..0.9_f64, 1.0..2_000.0_f64), 5..150),
    ) {
        let settings = Settings { monotonic, ..Settings::default() };
        let mut world = World::new(settings, 1);
        let mut seen: Vec<(u64, (i128, i128), usize)> = Vec::new();
        let (mut updates, mut shown) = (0, i128::MIN);
        for (pause, error, rate, width) in rounds {
            world.rate = 1.0 + rate * 7e-6;
            world.pass(pause * SECOND);
            // The last moment of the old calibration.
            if let Some(bounds) = given(&world, world.counter()) {
                world.assert_right();
                seen.push((world.counter(), bounds, updates));
                shown = shown.max(world.estimator.last().and_then(|last| last.time_at(world.counter())).expect("given").raw());
            }
            world.pass(width);
            world.look(0, error * max_error as f64, max_error);
            let conclusion = world.conclude();
            prop_assert!(conclusion.status.gives_time() && !conclusion.disrupted, "{conclusion:?}");
            if conclusion.publish.is_none() {
                continue;
            }
            updates += 1;
            world.pass(100_000.0);
            if monotonic {
                prop_assert!(world.estimator.settle(world.counter()).is_some());
                let now = world.estimator.last().and_then(|last| last.time_at(world.counter())).expect("in range").raw();
                prop_assert!(now >= shown, "back by {}", shown - now);
            }
            world.assert_right();
            for (counter, (earliest, latest), at) in &seen {
                if updates - at > 1 {
                    continue;
                }
                let placed = world.estimator.last().and_then(|last| last.time_at(*counter)).expect("in range");
                // A nanosecond, as both are rounded to them.
                prop_assert!(
                    earliest - 1 <= placed.ceil_nanos() && placed.floor_nanos() <= latest + 1,
                    "{placed:?} is not between {earliest} and {latest}, {} updates later", updates - at
                );
            }
        }
    }

    #[test]
    fn a_period_is_scaled_with_all_its_bits(hertz in 1_000_000_u64..10_000_000_000, by in -1e-3..1e-3_f64) {
        let period = Period::from_frequency(NonZeroU64::new(hertz).expect("not 0"));
        let scaled = scaled(period, by).expect("in range");
        prop_assert!(scaled.frac() >> 63 == 1);
        let ratio = nanos_per_tick(scaled) / nanos_per_tick(period);
        prop_assert!((ratio - 1.0 - by).abs() < 1e-15);
        prop_assert_eq!(super::scaled(period, 0.0), Some(period));
    }
}
