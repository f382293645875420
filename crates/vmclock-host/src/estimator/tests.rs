// SPDX-License-Identifier: MIT OR Apache-2.0
//! The estimator in small simulations; `vmclock simulate` has the large ones.

use std::num::NonZeroU64;

use proptest::prelude::*;
use vmclock_core::abi::ClockStatus;

use super::base::{scaled, Base};
use super::*;
use vmclock_core::time::Time;

const HERTZ: f64 = 2.5e9;
const MILLI: f64 = 1e6;

/// A counter against true time, and sources of it.
struct Simulation {
    /// True nanoseconds.
    now: f64,
    ticks: f64,
    origin: u64,
    /// The counter's relative frequency.
    rate: f64,
    estimator: Estimator,
}

impl Simulation {
    fn new(settings: Settings, sources: usize) -> Self {
        // 80 ppm off, which the estimator has to find out.
        let nominal = Period::from_frequency(NonZeroU64::new(2_500_200_000).expect("not 0"));
        let origin = u64::MAX - 7_000_000_000;
        let clocks: Vec<usize> = (0..sources).collect();
        Self { now: 0.0, ticks: 0.0, origin, rate: 1.0, estimator: Estimator::new(settings, nominal, &clocks) }
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

    fn measure(&mut self, source: usize, error: f64, max_error: u64) {
        let before = self.counter();
        let time = Time::from_nanos(self.truth().floor_nanos() + error as i128).expect("in range");
        self.pass(50.0);
        let after = self.counter();
        self.estimator.observe(&Evidence {
            source,
            sample: Sample { before, time, after },
            max_error,
            estimated_error: max_error / 4,
            synchronized: true,
            steering: None,
        });
    }

    fn conclude(&mut self) -> Conclusion {
        self.estimator.conclude(self.counter())
    }

    /// Rounds of one second with one source that is right.
    fn settle(&mut self, rounds: usize, max_error: u64) -> Conclusion {
        let mut last = None;
        for _ in 0..rounds {
            self.pass(SECOND);
            self.measure(0, 0.0, max_error);
            last = Some(self.conclude());
        }
        last.expect("some rounds")
    }

    /// How far the published time is from the true one, and how far it may be.
    fn error(&self) -> (f64, f64) {
        let last = self.estimator.last().expect("published");
        let shown = last.time_at(self.counter()).expect("in range");
        let off = shown.since(self.truth()).expect("in range").floor_nanos();
        (off as f64, last.max_error_at(self.counter()).expect("known") as f64)
    }

    fn assert_right(&self) {
        let (off, most) = self.error();
        assert!(off.abs() <= most, "{off} ns off, and {most} ns are allowed");
    }
}

/// The period's maximum error in parts per 10^12.
fn parts(calibration: &Calibration<Tai>) -> u64 {
    let relative = calibration.period_max_error_rate().expect("known") as f64 / calibration.period().frac() as f64;
    (relative * PARTS_PER_TRILLION) as u64
}

fn nanos_per_tick(period: Period) -> f64 {
    Base::at(0, Time::from_parts(0, 0), period).nanos_per_tick()
}

#[test]
fn the_first_measurement_gives_a_time_and_the_frequency_is_found() {
    let mut simulation = Simulation::new(Settings::default(), 1);
    assert_eq!(simulation.conclude().status, ClockStatus::INITIALIZING, "nothing was measured");
    let first = simulation.settle(1, 1_000).publish.expect("a calibration");
    assert!(parts(&first) > 500_000_000, "the nominal period may be off by 500 ppm: {first:?}");
    simulation.assert_right();
    let later = simulation.settle(100, 1_000);
    assert_eq!((later.status, later.disrupted), (ClockStatus::SYNCHRONIZED, false));
    let last = *simulation.estimator.last().expect("published");
    // The drift, and what a microsecond over tens of seconds leaves.
    assert!((15_000_000..15_200_000).contains(&parts(&last)), "{last:?}");
    assert!(last.time_max_error() < Some(1_100), "{last:?}");
    let expected = SECOND / HERTZ;
    assert!((nanos_per_tick(last.period()) / expected - 1.0).abs() < 2e-7);
    assert!(last.period().frac() >> 63 == 1, "all its bits are used");
    simulation.assert_right();
}

#[test]
fn a_vague_measurement_makes_nothing_worse() {
    let mut simulation = Simulation::new(Settings::default(), 1);
    simulation.settle(50, 1_000);
    let (_, before) = simulation.error();
    for _ in 0..20 {
        simulation.pass(SECOND);
        simulation.measure(0, 40.0 * MILLI, 50_000_000);
        simulation.conclude();
        simulation.assert_right();
    }
    let (_, after) = simulation.error();
    assert!(after < before + 20.0 * 16_000.0, "it grows by the drift alone: {before} {after}");
}

#[test]
fn without_sources_it_runs_free_and_resumes() {
    let mut simulation = Simulation::new(Settings::default(), 1);
    simulation.settle(50, 1_000);
    let mut statuses = Vec::new();
    for _ in 0..60 {
        simulation.pass(SECOND);
        let conclusion = simulation.conclude();
        assert!(!conclusion.disrupted);
        statuses.push(conclusion.status);
        simulation.assert_right();
    }
    assert_eq!(statuses[5], ClockStatus::SYNCHRONIZED);
    assert_eq!(statuses[59], ClockStatus::FREE_RUNNING);
    simulation.pass(SECOND);
    simulation.measure(0, 0.0, 1_000);
    let back = simulation.conclude();
    assert_eq!((back.status, back.disrupted), (ClockStatus::SYNCHRONIZED, false));
    assert_eq!(back.findings, [Finding::Resumed]);
    simulation.assert_right();
}

#[test]
fn a_single_clock_that_contradicts_itself_costs_the_time_until_it_returns() {
    let mut simulation = Simulation::new(Settings::default(), 1);
    simulation.settle(50, 1_000);
    let mut markers = 0;
    for round in 0..100 {
        simulation.pass(SECOND);
        simulation.measure(0, 30.0 * MILLI, 1_000);
        let conclusion = simulation.conclude();
        let contradicted = matches!(conclusion.findings[..], [Finding::Contradicted { .. }]);
        assert_eq!(contradicted, round == 0, "{:?}", conclusion.findings);
        assert_eq!((conclusion.status, conclusion.publish), (ClockStatus::UNRELIABLE, None));
        markers += u32::from(conclusion.disrupted);
    }
    assert_eq!(markers, 1, "what was published was, or may have been, wrong");
    let mut statuses = Vec::new();
    for _ in 0..3 {
        simulation.pass(SECOND);
        simulation.measure(0, 0.0, 1_000);
        statuses.push(simulation.conclude().status);
    }
    let [_, doubtful, good] = statuses[..] else { panic!("{statuses:?}") };
    assert_eq!((doubtful, good), (ClockStatus::UNRELIABLE, ClockStatus::SYNCHRONIZED), "one may be a coincidence");
    simulation.assert_right();
}

/// A single clock, after something happened to the counter, second by second: when there is time again.
fn recovers(settings: Settings, disrupt: impl FnOnce(&mut Simulation)) -> usize {
    let mut simulation = Simulation::new(settings, 1);
    simulation.settle(200, 1_000);
    disrupt(&mut simulation);
    let (mut accepted, mut markers) = (None, 0);
    for round in 0..400 {
        simulation.pass(SECOND);
        simulation.measure(0, 0.0, 1_000);
        let conclusion = simulation.conclude();
        markers += u32::from(conclusion.disrupted);
        if conclusion.findings.contains(&Finding::StepAccepted) {
            accepted = accepted.or(Some(round));
        }
        if accepted.is_some() {
            assert!(conclusion.status.gives_time(), "round {round}: {conclusion:?}");
            simulation.assert_right();
        }
    }
    assert_eq!(markers, 1, "when it was rejected; no time was given under that marker before it was accepted");
    accepted.expect("it persisted")
}

const MINUTE_OF_PROBATION: Settings = Settings {
    probation: 60_000_000_000,
    wander: 15_000_000,
    measured_wander: None,
    nominal_error: 500_000_000,
    source_timeout: 30_000_000_000,
    monotonic: false,
};

#[test]
fn jumps_of_any_size_are_accepted_after_the_probation() {
    // Also those that what is known grows over within the probation: 15 ppm of a minute are 0.9 ms.
    for milliseconds in [0.1, 0.5, 1.0, 5.0, 9.0, 1_000.0] {
        let round = recovers(MINUTE_OF_PROBATION, |simulation| simulation.ticks += HERTZ / 1e3 * milliseconds);
        assert!((59..=62).contains(&round), "{milliseconds} ms: {round}");
    }
}

#[test]
fn a_counter_that_is_set_back_is_noticed_at_once() {
    // Also after an earlier contradiction, whose votes are dropped.
    for contradicted in [false, true] {
        let mut simulation = Simulation::new(MINUTE_OF_PROBATION, 1);
        simulation.settle(50, 1_000);
        if contradicted {
            simulation.measure(0, 30.0 * MILLI, 1_000);
            assert_eq!(simulation.conclude().status, ClockStatus::UNRELIABLE);
            assert_eq!(simulation.settle(100, 1_000).status, ClockStatus::SYNCHRONIZED);
        }
        simulation.ticks -= 30.0 * HERTZ;
        let disrupted = simulation.settle(1, 1_000);
        assert_eq!((disrupted.status, disrupted.disrupted), (ClockStatus::INITIALIZING, true));
        assert_eq!(disrupted.findings, [Finding::SetBack]);
        let next = simulation.settle(1, 1_000);
        assert_eq!((next.status, next.disrupted), (ClockStatus::SYNCHRONIZED, false));
        simulation.assert_right();
    }
}

#[test]
fn a_counter_that_is_set_back_while_no_source_answers_is_noticed_too() {
    let mut simulation = Simulation::new(Settings::default(), 1);
    simulation.settle(50, 1_000);
    simulation.pass(SECOND);
    assert!(simulation.conclude().status.gives_time());
    simulation.ticks -= 2.0 * HERTZ;
    let disrupted = simulation.conclude();
    assert_eq!((disrupted.status, disrupted.disrupted), (ClockStatus::INITIALIZING, true));
    // The last measurement is recent again by then, and nothing follows from it.
    for _ in 0..10 {
        simulation.pass(SECOND);
        assert_eq!(simulation.conclude().status, ClockStatus::INITIALIZING);
    }
}

#[test]
fn a_falseticker_that_is_unreachable_meanwhile_is_reported_once() {
    let settings = Settings { source_timeout: 1_500_000_000, ..Settings::default() };
    let mut simulation = Simulation::new(settings, 3);
    let mut reported = 0;
    for round in 0..40 {
        simulation.pass(SECOND);
        (0..2).for_each(|source| simulation.measure(source, 0.0, 1_000));
        if round % 4 == 0 {
            simulation.measure(2, 30.0 * MILLI, 1_000);
        }
        let findings = simulation.conclude().findings;
        reported += findings.iter().filter(|finding| matches!(finding, Finding::Falseticker { .. })).count();
    }
    assert_eq!(reported, 1);
    assert_eq!(simulation.estimator.standing(2), Standing::Unreachable);
}

#[test]
fn a_frequency_that_changed_for_good_is_accepted_after_the_probation() {
    for ppm in [20.0, -20.0, 40.0, 200.0] {
        let round = recovers(MINUTE_OF_PROBATION, |simulation| simulation.rate += ppm * 1e-6);
        assert!((59..=75).contains(&round), "{ppm} ppm: {round}");
    }
}

#[test]
fn a_majority_of_several_clocks_is_believed_after_a_jump_without_a_probation() {
    let mut simulation = Simulation::new(Settings::default(), 3);
    let round = |simulation: &mut Simulation| {
        simulation.pass(SECOND);
        (0..3).for_each(|source| simulation.measure(source, 0.0, 1_000_000));
        simulation.conclude()
    };
    (0..50).for_each(|_| assert!(round(&mut simulation).status.gives_time()));
    simulation.ticks += HERTZ;
    let conclusions: Vec<_> = (0..5).map(|_| round(&mut simulation)).collect();
    assert_eq!(conclusions.iter().filter(|conclusion| conclusion.disrupted).count(), 1);
    assert_eq!(conclusions[0].status, ClockStatus::UNRELIABLE);
    assert_eq!(conclusions[4].status, ClockStatus::SYNCHRONIZED);
    simulation.assert_right();
}

#[test]
fn a_second_jump_before_there_is_time_again_gets_a_marker_of_its_own() {
    for is_repeated in [false, true] {
        let mut simulation = Simulation::new(Settings::default(), 3);
        let round = |simulation: &mut Simulation| {
            simulation.pass(SECOND);
            (0..3).for_each(|source| simulation.measure(source, 0.0, 1_000_000));
            simulation.conclude()
        };
        (0..50).for_each(|_| assert!(round(&mut simulation).status.gives_time()));
        simulation.ticks += HERTZ;
        let mut conclusions = vec![round(&mut simulation), round(&mut simulation)];
        simulation.ticks += if is_repeated { HERTZ } else { 0.0 };
        conclusions.extend((0..5).map(|_| round(&mut simulation)));
        let disrupted = conclusions.iter().filter(|conclusion| conclusion.disrupted);
        assert_eq!(disrupted.count(), 1 + usize::from(is_repeated));
        let given = conclusions.iter().find(|conclusion| conclusion.status.gives_time()).expect("a time");
        assert_eq!(given.disrupted, is_repeated, "with the time, whoever reads it has the marker");
        simulation.assert_right();
    }
}

#[test]
fn what_was_measured_once_agrees_once() {
    let mut simulation = Simulation::new(Settings::default(), 3);
    let round = |simulation: &mut Simulation, sources: &[usize]| {
        simulation.pass(SECOND);
        for source in sources {
            simulation.measure(*source, 0.0, 1_000);
        }
        simulation.conclude()
    };
    (0..50).for_each(|_| assert!(round(&mut simulation, &[0, 1, 2]).status.gives_time()));
    // Of a counter that stands still all measurements are of this moment, and two agreed.
    simulation.rate = 0.0;
    round(&mut simulation, &[0, 1, 2]);
    round(&mut simulation, &[0, 1]);
    for _ in 0..10 {
        assert_eq!(round(&mut simulation, &[2]).status, ClockStatus::UNRELIABLE);
    }
    // Nor does a single clock return by one measurement.
    let mut simulation = Simulation::new(Settings::default(), 1);
    simulation.settle(50, 1_000);
    simulation.pass(SECOND);
    simulation.measure(0, 30.0 * MILLI, 1_000);
    assert_eq!(simulation.conclude().status, ClockStatus::UNRELIABLE);
    assert_eq!(simulation.settle(1, 1_000).status, ClockStatus::UNRELIABLE);
    for _ in 0..10 {
        simulation.pass(SECOND);
        assert_eq!(simulation.conclude().status, ClockStatus::UNRELIABLE);
    }
    assert_eq!(simulation.settle(2, 1_000).status, ClockStatus::SYNCHRONIZED);
}

#[test]
fn a_clock_that_becomes_synchronized_needs_no_probation() {
    let mut simulation = Simulation::new(Settings::default(), 1);
    let (before, time) = (simulation.counter(), simulation.truth());
    // Days off, and it states no error that would cover it.
    let time = time.checked_add(Span::from_nanos(200_000_000_000_000)).expect("in range");
    let early = Evidence {
        source: 0,
        sample: Sample { before, time, after: before },
        max_error: 16_000_000_000,
        estimated_error: 16_000_000_000,
        synchronized: false,
        steering: None,
    };
    simulation.estimator.observe(&early);
    assert_eq!(simulation.conclude().status, ClockStatus::FREE_RUNNING);
    let mut disrupted = false;
    for _ in 0..4 {
        simulation.pass(SECOND);
        simulation.measure(0, 0.0, 1_000);
        disrupted |= simulation.conclude().disrupted;
    }
    assert!(disrupted);
    assert_eq!(simulation.conclude().status, ClockStatus::SYNCHRONIZED);
    simulation.assert_right();
}

#[test]
fn unreachable_clocks_make_the_rest_no_majority() {
    for error in [900.0 * MILLI, 5.0 * MILLI] {
        let mut simulation = Simulation::new(Settings::default(), 3);
        for _ in 0..300 {
            simulation.pass(SECOND);
            for (source, off) in [(0, 0.0), (1, error), (2, 0.0)] {
                simulation.measure(source, off, 1_000_000);
            }
            assert_eq!(simulation.conclude().status, ClockStatus::SYNCHRONIZED);
        }
        assert_eq!(simulation.estimator.standing(1), Standing::Falseticker);
        for round in 0..300 {
            simulation.pass(SECOND);
            simulation.measure(1, error, 1_000_000);
            let conclusion = simulation.conclude();
            assert!(conclusion.status.gives_time() && !conclusion.disrupted, "round {round}");
            assert!(round < 31 || conclusion.status == ClockStatus::FREE_RUNNING, "round {round}: {conclusion:?}");
            simulation.assert_right();
        }
    }
}

#[test]
fn a_start_without_agreement_is_no_knowledge() {
    let mut simulation = Simulation::new(Settings::default(), 2);
    let round = |simulation: &mut Simulation, errors: [f64; 2]| {
        simulation.pass(SECOND);
        (0..2).for_each(|source| simulation.measure(source, errors[source], 100_000));
        simulation.conclude()
    };
    for _ in 0..20 {
        assert_eq!(round(&mut simulation, [0.0, 5.5 * MILLI]).status, ClockStatus::INITIALIZING);
    }
    for _ in 0..20 {
        assert_eq!(round(&mut simulation, [0.0, 0.0]).status, ClockStatus::SYNCHRONIZED);
        simulation.assert_right();
    }
}

#[test]
fn unreachability_ends_no_contradiction() {
    let mut simulation = Simulation::new(Settings::default(), 2);
    for _ in 0..50 {
        simulation.pass(SECOND);
        (0..2).for_each(|source| simulation.measure(source, 0.0, 1_000_000));
        assert_eq!(simulation.conclude().status, ClockStatus::SYNCHRONIZED);
    }
    for round in 0..1_000 {
        simulation.pass(SECOND);
        if round < 100 {
            simulation.measure(0, 0.0, 1_000_000);
        }
        simulation.measure(1, 5.0 * SECOND, 1_000_000);
        assert_eq!(simulation.conclude().status, ClockStatus::UNRELIABLE, "round {round}");
    }
}

#[test]
fn sources_of_one_clock_have_one_vote() {
    let nominal = Period::from_frequency(NonZeroU64::new(2_500_200_000).expect("not 0"));
    let mut simulation = Simulation::new(Settings::default(), 3);
    simulation.estimator = Estimator::new(Settings::default(), nominal, &[0, 1, 1]);
    for _ in 0..50 {
        simulation.pass(SECOND);
        for (source, off) in [(0, 0.0), (1, 5.0 * MILLI), (2, 5.0 * MILLI)] {
            simulation.measure(source, off, 1_000_000);
        }
        assert_eq!(simulation.conclude().status, ClockStatus::INITIALIZING, "one against one");
    }
}

#[test]
fn the_nominal_error_bounds_the_frequency_at_the_start_only() {
    let settings = Settings { nominal_error: 100_000_000, wander: 15_000_000, ..Settings::default() };
    let mut simulation = Simulation::new(settings, 1);
    simulation.rate = 1.0 - 13e-6;
    for _ in 0..2_000 {
        simulation.pass(SECOND);
        simulation.measure(0, 0.0, 1_000);
        let conclusion = simulation.conclude();
        assert!(conclusion.status.gives_time() && !conclusion.disrupted, "{conclusion:?}");
        simulation.assert_right();
    }
    // 93 ppm from the nominal one; and on, by less than the wander, to 106.
    simulation.rate -= 13e-6;
    for _ in 0..2_000 {
        simulation.pass(SECOND);
        simulation.measure(0, 0.0, 1_000);
        let conclusion = simulation.conclude();
        assert!(conclusion.status.gives_time() && !conclusion.disrupted, "{conclusion:?}");
        simulation.assert_right();
    }
}

#[test]
fn a_steered_clock_is_followed_without_a_disruption() {
    let settings = Settings { probation: 0, ..Settings::default() };
    let mut simulation = Simulation::new(settings, 1);
    let (mut shown, mut steering) = (0.0, 0.0);
    for round in 0..10_000_u32 {
        simulation.pass(SECOND);
        shown += steering * SECOND;
        if round % 1_000 == 500 {
            steering = 40e-6;
        } else if round % 1_000 == 550 {
            steering = 0.0;
        }
        let (before, after) = (simulation.counter(), simulation.counter());
        let time = simulation.truth().checked_add(Span::from_nanos(shown as i64)).expect("in range");
        simulation.estimator.observe(&Evidence {
            source: 0,
            sample: Sample { before, time, after },
            max_error: 0,
            estimated_error: 0,
            synchronized: true,
            steering: Some((steering * PARTS_PER_TRILLION) as i64),
        });
        let conclusion = simulation.conclude();
        assert_eq!(
            (conclusion.status, conclusion.disrupted),
            (ClockStatus::SYNCHRONIZED, false),
            "round {round}: {conclusion:?}"
        );
    }
}

#[test]
fn of_four_clocks_one_may_be_wrong_and_of_two_none() {
    for (sources, survives) in [(4, true), (3, true), (2, false)] {
        let mut simulation = Simulation::new(Settings::default(), sources);
        for off in [0.0, 0.0, 0.0, 5.0 * MILLI, 5.0 * MILLI, 5.0 * MILLI] {
            for _ in 0..20 {
                simulation.pass(SECOND);
                for source in 0..sources {
                    simulation.measure(source, if source == 1 { off } else { 0.0 }, 1_000_000);
                }
                let conclusion = simulation.conclude();
                assert_eq!(conclusion.status.gives_time(), survives || off == 0.0, "{sources}: {conclusion:?}");
                if conclusion.status.gives_time() {
                    simulation.assert_right();
                }
            }
        }
    }
}

#[test]
fn a_falseticker_from_the_start_is_outvoted() {
    let mut simulation = Simulation::new(Settings::default(), 3);
    for _ in 0..100 {
        simulation.pass(SECOND);
        for (source, error) in [(0, 0.2 * MILLI), (1, -0.3 * MILLI), (2, 900.0 * MILLI)] {
            simulation.measure(source, error, 1_000_000);
        }
        assert_eq!(simulation.conclude().status, ClockStatus::SYNCHRONIZED);
        simulation.assert_right();
    }
}

#[test]
fn a_counter_that_is_stopped_gives_no_time() {
    let mut simulation = Simulation::new(Settings::default(), 1);
    simulation.settle(50, 1_000);
    simulation.rate = 0.0;
    for _ in 0..20 {
        simulation.pass(SECOND);
        simulation.measure(0, 0.0, 1_000);
        assert_eq!(simulation.conclude().status, ClockStatus::UNRELIABLE);
    }
}

#[test]
fn a_frequency_that_creeps_away_is_found_out() {
    // So vague a source that 300 ppm do not contradict its times, for minutes.
    let settings = Settings { wander: 1_000_000, nominal_error: 100_000_000, ..Settings::default() };
    let mut simulation = Simulation::new(settings, 1);
    simulation.settle(20_000, 3_000_000);
    simulation.rate = 1.0 + 300e-6;
    let mut statuses = Vec::new();
    for _ in 0..2_000 {
        simulation.pass(SECOND);
        simulation.measure(0, 0.0, 3_000_000);
        statuses.push(simulation.conclude().status);
    }
    let unreliable = statuses.iter().position(|status| *status == ClockStatus::UNRELIABLE).expect("found out");
    assert!(unreliable < 60, "{unreliable}");
}

#[test]
fn a_measured_wander_is_narrower_until_a_holdover_or_a_restart() {
    let mut simulation = Simulation::new(Settings { measured_wander: Some(1_000_000), ..Settings::default() }, 1);
    for minute in 0..3_000 {
        // ± 0.3 ppm over the day.
        simulation.rate = 1.0 + 0.3e-6 * (f64::from(minute) / 1440.0 * std::f64::consts::TAU).sin();
        for _ in 0..6 {
            simulation.pass(10.0 * SECOND);
            simulation.measure(0, 0.0, 1_000);
            simulation.conclude();
            simulation.assert_right();
        }
        let expected = if minute < 1_165 { 15_000_000..15_000_001 } else { 1_000_000..15_000_001 };
        assert!(
            expected.contains(&simulation.estimator.wander()),
            "minute {minute}: {}",
            simulation.estimator.wander()
        );
    }
    assert!(
        (1_700_000..2_500_000).contains(&simulation.estimator.wander()),
        "three times 0.6 ppm: {}",
        simulation.estimator.wander()
    );
    for _ in 0..60 {
        simulation.pass(SECOND);
        simulation.conclude();
        simulation.assert_right();
    }
    assert_eq!(simulation.estimator.wander(), 15_000_000, "in holdover");
    simulation.estimator.restart(simulation.estimator.nominal);
    assert_eq!((simulation.estimator.wander(), simulation.estimator.last()), (15_000_000, None));
    assert_eq!(simulation.conclude().status, ClockStatus::INITIALIZING);
}

#[test]
fn guests_are_woken_no_more_often_than_needed() {
    // Bounds of 10 ms grow by a quarter in three minutes.
    let mut simulation = Simulation::new(Settings::default(), 1);
    let mut updates = 0;
    for _ in 0..3_600 {
        simulation.pass(SECOND);
        simulation.measure(0, 0.0, 10_000_000);
        updates += u32::from(simulation.conclude().publish.is_some());
    }
    assert!((59..90).contains(&updates), "{updates} an hour");
}

/// What a reader was given: the counter, and the bounds.
fn given(simulation: &Simulation, counter: u64) -> Option<(i128, i128)> {
    let last = simulation.estimator.last()?;
    let time = last.time_at(counter).ok()?;
    let error = i128::try_from(last.max_error_at(counter)?).ok()?;
    Some((time.floor_nanos() - error, time.ceil_nanos() + error))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever an honest source shows, in whatever rhythm, with a frequency that wanders as far as it may: bounds
    /// hold, each calibration is inside the bounds of the one before, and, if that is asked for, time never goes back.
    #[test]
    fn bounds_hold_and_are_nested(
        monotonic in any::<bool>(),
        max_error in 200_u64..5_000_000,
        rounds in prop::collection::vec((0.01..20.0_f64, -1.0..1.0_f64, -0.9..0.9_f64, 1.0..2_000.0_f64), 5..150),
    ) {
        let settings = Settings { monotonic, ..Settings::default() };
        let mut simulation = Simulation::new(settings, 1);
        let mut seen: Vec<(u64, (i128, i128), usize)> = Vec::new();
        let (mut updates, mut shown) = (0, i128::MIN);
        for (pause, error, rate, width) in rounds {
            simulation.rate = 1.0 + rate * 7e-6;
            simulation.pass(pause * SECOND);
            // The last moment of the old calibration.
            if let Some(bounds) = given(&simulation, simulation.counter()) {
                simulation.assert_right();
                seen.push((simulation.counter(), bounds, updates));
                shown = shown.max(simulation.estimator.last().and_then(|last| last.time_at(simulation.counter()).ok()).expect("given").raw());
            }
            simulation.pass(width);
            simulation.measure(0, error * max_error as f64, max_error);
            let conclusion = simulation.conclude();
            prop_assert!(conclusion.status.gives_time() && !conclusion.disrupted, "{conclusion:?}");
            if conclusion.publish.is_none() {
                continue;
            }
            updates += 1;
            simulation.pass(100_000.0);
            if monotonic {
                prop_assert!(simulation.estimator.settle(simulation.counter()).is_some());
                let now = simulation.estimator.last().and_then(|last| last.time_at(simulation.counter()).ok()).expect("in range").raw();
                prop_assert!(now >= shown, "back by {}", shown - now);
            }
            simulation.assert_right();
            for (counter, (earliest, latest), at) in &seen {
                if updates - at > 1 {
                    continue;
                }
                let placed = simulation.estimator.last().and_then(|last| last.time_at(*counter).ok()).expect("in range");
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
        let changed = scaled(period, by).expect("in range");
        prop_assert!(changed.frac() >> 63 == 1);
        let ratio = nanos_per_tick(changed) / nanos_per_tick(period);
        prop_assert!((ratio - 1.0 - by).abs() < 1e-15);
        prop_assert_eq!(scaled(period, 0.0), Some(period));
    }
}

/// A source that says that true time is in this interval, of milliseconds from where it is.
fn hear(simulation: &mut Simulation, source: usize, (low, high): (f64, f64)) {
    simulation.measure(source, f64::midpoint(low, high) * MILLI, ((high - low) / 2.0 * MILLI) as u64);
}

#[test]
fn what_was_measured_before_the_contradiction_is_no_evidence_of_another_time() {
    for is_in_doubt in [false, true] {
        let mut simulation = Simulation::new(Settings::default(), 5);
        let round = |simulation: &mut Simulation, measurements: [(f64, f64); 5]| {
            simulation.pass(SECOND);
            for (source, interval) in measurements.into_iter().enumerate() {
                hear(simulation, source, interval);
            }
            simulation.conclude()
        };
        for _ in 0..100 {
            round(&mut simulation, [(-1.0, 1.0); 5]);
        }
        if is_in_doubt {
            simulation.now += SECOND;
            assert!(round(&mut simulation, [(-1.0, 1.0); 5]).disrupted);
            round(&mut simulation, [(-1.0, 1.0); 5]);
        }
        // Two answer late, and by then the counter has missed 100 ms. The falseticker contradicts what was known, as the
        // two others do that are right; and those that are late agree with it.
        simulation.pass(SECOND / 2.0);
        hear(&mut simulation, 3, (-30.0, 10.0));
        hear(&mut simulation, 4, (-5.0, 15.0));
        simulation.now += 100.0 * MILLI;
        hear(&mut simulation, 0, (-5.0, 30.0));
        hear(&mut simulation, 1, (-2.0, 40.0));
        hear(&mut simulation, 2, (-94.0, -80.0));
        assert_eq!(simulation.conclude().status, ClockStatus::UNRELIABLE);
        // All that is right is too vague to tell.
        let vague = [(-96.0, 30.0), (-96.0, 30.0), (-94.0, -80.0), (-105.0, 30.0), (-105.0, 30.0)];
        let accepted = (0..10).any(|_| round(&mut simulation, vague).status.gives_time());
        assert!(accepted);
        simulation.assert_right();
    }
}
