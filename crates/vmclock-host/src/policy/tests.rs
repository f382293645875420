// SPDX-License-Identifier: MIT OR Apache-2.0
//! Leap seconds, and what UTC sources mean by them, in small simulations.

use std::num::NonZeroU64;

use super::*;
use crate::source::Stamp;
use crate::utc::{Listed, Origin};
use vmclock_core::abi::{ClockStatus, LeapIndicator, TimeType};
use vmclock_core::tai::TaiOffset;

/// 2017-01-01, before which a second was inserted; and 2017-02-01, before which none was.
const JANUARY: i64 = 1_483_228_800;
const FEBRUARY: i64 = JANUARY + 31 * 86_400;
const SECOND: i128 = 1_000_000_000;

fn offset(seconds: i16) -> TaiOffset {
    TaiOffset::from_seconds(seconds).expect("in range")
}

/// Clocks on UTC over a leap second before `month`, or over none. The counter has one tick a nanosecond.
struct Simulation {
    policy: Policy,
    /// TAI in nanoseconds.
    now: i128,
    began: i128,
    leap: Option<LeapSecond>,
    found: Vec<UtcFinding>,
    disruptions: u32,
    without: u32,
}

impl Simulation {
    /// So many clocks on UTC, so many seconds before the month begins, with this list.
    fn new(clocks: usize, month: i64, leap: Option<LeapKind>, before: i64, list: Option<Listed>) -> Self {
        let utc = month - before;
        let knowledge = Knowledge { stated: None, kernel: (list.is_none()).then(|| offset(36)), list };
        let start = Start {
            settings: Settings::default(),
            nominal: Period::from_frequency(NonZeroU64::new(1_000_000_000).expect("not 0")),
            roles: (0..clocks).map(|clock| Role { clock, is_tai: false }).collect(),
            knowledge,
            utc: Time::from_parts(utc, 0),
        };
        let now = i128::from(utc + 36) * SECOND;
        Self {
            policy: Policy::new(&start),
            now,
            began: now,
            leap: leap.map(|kind| LeapSecond { month, kind }),
            found: Vec::new(),
            disruptions: 0,
            without: 0,
        }
    }

    fn counter(&self) -> u64 {
        u64::try_from(self.now - self.began + 1_000_000).expect("it runs forward")
    }

    /// POSIX time as a kernel shows it, which sets it over a leap second; and whether it is inside 23:59:60.
    fn posix(&self) -> (i128, bool) {
        let by_old = self.now - 36 * SECOND;
        let Some(LeapSecond { month, kind }) = self.leap else { return (by_old, false) };
        let (from, step) = match kind {
            LeapKind::Inserted => (i128::from(month) * SECOND, -SECOND),
            LeapKind::Deleted => (i128::from(month - 1) * SECOND, SECOND),
        };
        let is_over = by_old >= from;
        (if is_over { by_old + step } else { by_old }, kind == LeapKind::Inserted && is_over && by_old < from + SECOND)
    }

    /// A round, half a second later. `each` says of each clock by how much it is off, and what it announces.
    fn round(&mut self, clocks: usize, each: impl Fn(usize, i128) -> Option<(i128, LeapNotice)>) -> Decision {
        self.now += SECOND / 2;
        let (shown, _) = self.posix();
        for source in 0..clocks {
            let Some((off, leap)) = each(source, shown / SECOND) else { continue };
            let sample = Sample {
                before: self.counter(),
                time: Time::from_nanos(shown + off).expect("in range"),
                after: self.counter() + 100,
            };
            self.policy.measured(
                source,
                &Measurement {
                    stamp: Stamp::Utc(sample),
                    max_error: 1_000_000,
                    estimated_error: 10_000,
                    synchronized: true,
                    leap,
                    era: 0,
                    steering: None,
                },
            );
        }
        let decision = self.policy.conclude(self.counter() + 200);
        self.found.extend(&decision.utc_findings);
        self.disruptions += u32::from(decision.conclusion.disrupted);
        self.without += u32::from(!decision.conclusion.status.gives_time());
        let shown = self.policy.time_at(self.counter()).floor_nanos();
        if decision.conclusion.status.gives_time() {
            assert!((shown - self.now).abs() < 2_000_000, "TAI is off by {} ns", shown - self.now);
        }
        decision
    }

    fn said(&self) -> (i16, LeapIndicator) {
        let status = self.policy.leap_status(self.policy.time_at(self.counter()));
        (status.tai_offset.expect("known").seconds(), status.indicator)
    }
}

fn announced_by(lead: i64, kind: LeapKind) -> impl Fn(usize, i128) -> Option<(i128, LeapNotice)> {
    move |_, shown| {
        let is_due = (i128::from(JANUARY - lead)..i128::from(JANUARY)).contains(&shown);
        Some((0, LeapNotice { today: is_due.then_some(kind), now: false, tai_offset: None }))
    }
}

#[test]
fn a_leap_second_passes_announced_or_not() {
    for kind in [LeapKind::Inserted, LeapKind::Deleted] {
        for lead in [86_400, 3_600, 10, 1, 0] {
            for clocks in [1, 3] {
                let mut simulation = Simulation::new(clocks, JANUARY, Some(kind), 60, None);
                for _ in 0..600 {
                    simulation.round(clocks, announced_by(lead, kind));
                }
                assert_eq!((simulation.disruptions, simulation.without), (0, 0), "{kind}, {lead} s before");
                let expected = match kind {
                    LeapKind::Inserted => (37, LeapIndicator::POST_POSITIVE),
                    LeapKind::Deleted => (35, LeapIndicator::POST_NEGATIVE),
                };
                assert_eq!(simulation.said(), expected, "{kind}, {lead} s before, {clocks} clocks");
            }
        }
    }
}

/// A clock a second off on the first of a month, with others, or a list, that know better.
#[test]
fn a_falseticker_a_second_off_is_no_leap_second() {
    let current = Listed { offset: offset(36), next: None, expires: JANUARY + 100 * 86_400 };
    for month in [JANUARY, FEBRUARY] {
        for off in [0.6, 0.99, 1.0, 1.4, -1.0] {
            let off = (off * 1e9) as i128;
            let mut simulation = Simulation::new(3, month, None, 60, None);
            for round in 0..600 {
                simulation.round(3, |source, _| {
                    let is_false = source == 2 && round > 200;
                    Some((if is_false { off } else { 0 }, LeapNotice::default()))
                });
            }
            assert_eq!((simulation.disruptions, simulation.without), (0, 0));
            assert_eq!((simulation.said(), &simulation.found[..]), ((36, LeapIndicator::NONE), &[][..]));
            assert_eq!(simulation.policy.standing(2), Standing::Falseticker);

            // Alone, it is a contradiction where there can be no leap second: by a list, or by the month.
            if month == FEBRUARY || off == 1_400_000_000 {
                let list = (month == JANUARY).then_some(current);
                let mut simulation = Simulation::new(1, month, None, 60, list);
                for round in 0..300 {
                    simulation.round(1, |_, _| Some((if round > 200 { off } else { 0 }, LeapNotice::default())));
                }
                assert_eq!(simulation.disruptions, 1, "{off}");
                assert_eq!((simulation.said(), &simulation.found[..]), ((36, LeapIndicator::NONE), &[][..]));
            }
        }
    }
}

#[test]
fn announcements_take_a_majority_and_must_be_possible() {
    let kind = LeapKind::Inserted;
    let mut simulation = Simulation::new(3, JANUARY, None, 3_600, None);
    for _ in 0..100 {
        simulation.round(3, |source, _| {
            let today = (source == 1).then_some(kind);
            Some((0, LeapNotice { today, now: false, tai_offset: None }))
        });
    }
    assert_eq!(simulation.found, [], "one of three announces it");
    let list = Listed { offset: offset(36), next: None, expires: JANUARY + 86_400 };
    let mut simulation = Simulation::new(1, JANUARY, None, 3_600, Some(list));
    for _ in 0..100 {
        simulation.round(1, |_, _| Some((0, LeapNotice { today: Some(kind), now: false, tai_offset: None })));
    }
    assert_eq!(simulation.found, [], "a current list has none");
    let mut simulation = Simulation::new(1, JANUARY, None, 3_600, Some(Listed { expires: JANUARY - 86_400, ..list }));
    for _ in 0..3 {
        assert_eq!(simulation.found, []);
        simulation.round(1, |_, _| Some((0, LeapNotice { today: Some(kind), now: false, tai_offset: None })));
    }
    let leap = LeapSecond { month: JANUARY, kind };
    assert_eq!(simulation.found, [UtcFinding::Expected(leap)], "an expired list knows nothing");
    for _ in 0..3 {
        simulation.round(1, |_, _| Some((0, LeapNotice::default())));
    }
    assert_eq!(simulation.found, [UtcFinding::Expected(leap), UtcFinding::CalledOff(leap)]);
}

#[test]
fn what_was_announced_once_is_no_announcement() {
    let today = Some(LeapKind::Inserted);
    let mut simulation = Simulation::new(1, JANUARY, None, 3_600, None);
    simulation.round(1, |_, _| Some((0, LeapNotice { today, now: false, tai_offset: None })));
    for _ in 0..50 {
        simulation.round(1, |_, _| None);
    }
    assert_eq!(simulation.found, [], "however long it counts");
}

#[test]
fn one_that_does_not_come_is_called_off_without_a_disruption() {
    let mut simulation = Simulation::new(1, JANUARY, None, 60, None);
    for _ in 0..600 {
        simulation.round(1, announced_by(3_600, LeapKind::Inserted));
    }
    let leap = LeapSecond { month: JANUARY, kind: LeapKind::Inserted };
    assert_eq!(simulation.found, [UtcFinding::Expected(leap), UtcFinding::CalledOff(leap)]);
    assert_eq!((simulation.disruptions, simulation.said()), (0, (36, LeapIndicator::NONE)));
}

#[test]
fn a_list_has_it_long_before() {
    let leap = LeapSecond { month: JANUARY, kind: LeapKind::Inserted };
    let list = Listed { offset: offset(36), next: Some(leap), expires: JANUARY + 86_400 };
    let mut simulation = Simulation::new(1, JANUARY, Some(LeapKind::Inserted), 60, Some(list));
    simulation.round(1, |_, _| Some((0, LeapNotice::default())));
    assert_eq!(simulation.said(), (36, LeapIndicator::PRE_POSITIVE));
    for _ in 0..300 {
        simulation.round(1, |_, _| Some((0, LeapNotice::default())));
    }
    assert_eq!((simulation.disruptions, simulation.without), (0, 0));
    assert_eq!(simulation.said(), (37, LeapIndicator::POST_POSITIVE));
}

#[test]
fn an_expired_list_makes_nothing_worse_and_a_new_one_is_taken() {
    let list = Listed { offset: offset(36), next: None, expires: JANUARY - 30 };
    let mut simulation = Simulation::new(1, JANUARY, None, 60, Some(list));
    let round = |simulation: &mut Simulation, list: Option<Listed>| {
        let status = simulation.round(1, |_, _| Some((0, LeapNotice::default()))).conclusion.status;
        assert_eq!(status, ClockStatus::SYNCHRONIZED);
        let utc = Time::from_nanos(simulation.now - 36 * SECOND).expect("in range");
        let counter = simulation.counter();
        simulation.policy.update(Knowledge { stated: None, kernel: None, list }, utc, counter)
    };
    let mut found = Vec::new();
    for _ in 0..200 {
        found.extend(round(&mut simulation, None));
    }
    assert_eq!(found, [UtcFinding::ListExpired(JANUARY - 30)], "reported once");
    assert_eq!(simulation.said().0, 36, "a clock on UTC would show a leap second");
    let new = Listed { offset: offset(36), next: None, expires: JANUARY + 86_400 };
    assert_eq!(round(&mut simulation, Some(new)), []);
    assert_eq!(simulation.policy.utc().origin(), Origin::List);
}

#[test]
fn an_offset_that_becomes_known_later_is_published_also_on_utc() {
    let mut simulation = Simulation::new(1, FEBRUARY, None, 60, None);
    let knowledge = Knowledge::default();
    let utc = Time::from_parts(FEBRUARY - 60, 0);
    let roles = vec![Role { clock: 0, is_tai: false }];
    let start = Start { settings: Settings::default(), nominal: simulation.policy.nominal(), roles, knowledge, utc };
    simulation.policy = Policy::new(&start);
    assert_eq!(simulation.policy.utc().time_type(), TimeType::UTC);
    let about = Time::from_parts(FEBRUARY, 0);
    assert_eq!(simulation.policy.leap_status(about).tai_offset, None);
    let known = Knowledge { kernel: Some(offset(36)), ..knowledge };
    let found = simulation.policy.update(known, utc, simulation.counter());
    assert_eq!(found, [UtcFinding::Offset(Some(offset(36)), Origin::Kernel)]);
    assert_eq!(simulation.policy.leap_status(about).tai_offset, Some(offset(36)));
    assert_eq!(simulation.policy.utc().time_type(), TimeType::UTC, "for as long as the page lives");
}

#[test]
fn a_source_on_tai_needs_no_offset() {
    let utc = Time::from_parts(FEBRUARY, 0);
    let roles = vec![Role { clock: 0, is_tai: true }];
    let nominal = Period::from_frequency(NonZeroU64::new(1_000_000_000).expect("not 0"));
    let start = Start { settings: Settings::default(), nominal, roles, knowledge: Knowledge::default(), utc };
    let policy = Policy::new(&start);
    assert_eq!(policy.utc().time_type(), TimeType::TAI);
    assert_eq!(policy.leap_status(Time::from_parts(FEBRUARY, 0)).tai_offset, None);
}
