// SPDX-License-Identifier: MIT OR Apache-2.0
//! The scenarios: worlds of a kind, drawn from a seed.

use vmclock_core::leap::LeapKind;

use crate::calendar::{Calendar, Leap};
use crate::chance::Chance;
use crate::clock::{ClockSpec, Episode, ErrorModel, Falsehood, Stated};
use crate::counter::{Change, OscillatorSpec, Steadiness, Steering, Wander};
use crate::network_guest::server;
use crate::spec::{Delay, Demanded, Incident, Knowledge, Meanwhile, PublisherSpec, Reach, SourceSpec, Stop, WorldSpec};
use crate::units::{rounded, Nanos, DAY, HOUR, MICRO, MILLI, MINUTE, PPM, SECOND};

/// 2026-12-30 00:00:00 TAI: two days before a month ends, and with it half a year.
pub(crate) const EPOCH: i64 = 1_798_588_800;
/// 2027-01-01 00:00:00 UTC, in seconds since 1970.
pub(crate) const MONTH: i64 = 1_798_761_600;

/// A scenario.
///
/// ```
/// let names: Vec<&str> = vmclock_sim::SCENARIOS.iter().map(|scenario| scenario.name).collect();
/// assert!(names.contains(&"ptp") && names.contains(&"falseticker"));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// What it is called.
    pub name: &'static str,
    /// What happens in it.
    pub about: &'static str,
    /// Whether its source is always good to a microsecond, and nothing happens to the host.
    pub is_microsecond_grade: bool,
    /// Whether it has a single server over a network, that is always reachable and right: then a guest with an NTP
    /// daemon can be compared.
    pub has_server: bool,
    /// No run is longer, in days.
    pub(crate) longest: f64,
    /// Makes it so, out of a world in which nothing happens.
    shape: fn(&mut WorldSpec, &mut Chance),
}

const fn scenario(name: &'static str, about: &'static str, shape: fn(&mut WorldSpec, &mut Chance)) -> Scenario {
    Scenario { name, about, is_microsecond_grade: false, has_server: false, longest: 5.0, shape }
}

/// All scenarios.
pub static SCENARIOS: [Scenario; 41] = [
    Scenario {
        has_server: true,
        longest: 1.0,
        ..scenario("network", "a server over a network", |world, chance| network(world, chance, 1))
    },
    Scenario { is_microsecond_grade: true, ..scenario("ptp", "a PTP clock, good to a microsecond", ptp) },
    Scenario {
        is_microsecond_grade: true,
        ..scenario("monotonic", "a PTP clock, and the time never goes back", |world, chance| {
            ptp(world, chance);
            world.publisher.monotonic = true;
        })
    },
    Scenario {
        is_microsecond_grade: true,
        ..scenario("temperature", "a PTP clock, and temperature steps", |world, chance| {
            ptp(world, chance);
            world.oscillator.wander = Wander::Crystal(Steadiness::UNSTEADY);
        })
    },
    Scenario {
        is_microsecond_grade: true,
        ..scenario("measured", "a PTP clock, and the frequency wander is measured", |world, chance| {
            ptp(world, chance);
            world.publisher.measured = true;
        })
    },
    scenario(
        "ptp-outages",
        "a PTP clock that is unreachable for up to half a day; temperature steps",
        |world, chance| {
            ptp(world, chance);
            world.oscillator.wander = Wander::Crystal(Steadiness::UNSTEADY);
            world.sources[0].reach = OUTAGES;
        },
    ),
    scenario("outages", "a server that is unreachable for up to half a day; temperature steps", |world, chance| {
        network(world, chance, 1);
        world.oscillator.wander = Wander::Crystal(Steadiness::UNSTEADY);
        world.sources[0].reach = OUTAGES;
    }),
    scenario("steps", "a server that is off by up to seconds, for minutes", |world, chance| {
        network(world, chance, 1);
        episodes(world, chance, 0, 6 * HOUR, |chance| {
            let size = rounded(chance.log_between(100e6, 5e9)) * chance.sign();
            (chance.between(10 * SECOND, 290 * SECOND), Falsehood::Constant(size))
        });
        // A single clock that is wrong is a majority; what saves the page is that it does not persist.
        world.demands = Demanded { a1: false, time: false };
    }),
    scenario(
        "falseticker-synchronized",
        "three servers that are not synchronized, and a falseticker that is",
        |world, chance| {
            network(world, chance, 4);
            for clock in &mut world.clocks[..3] {
                clock.synchronized = false;
            }
            let size = rounded(chance.log_between(100e6, 2e9)) * chance.sign();
            let falsehood = Falsehood::Constant(size);
            world.clocks[3].estimated = 1;
            world.episodes = vec![Episode { clock: 3, from: 0, until: world.length, falsehood }];
        },
    ),
    scenario("falseticker", "four servers, of which one is a falseticker", |world, chance| {
        network(world, chance, 4);
        episodes(world, chance, 2, HOUR, |chance| (chance.wait(3 * HOUR), falsehood(chance)));
    }),
    scenario(
        "falseticker-outages",
        "three servers: a falseticker that is outvoted, and two that become unreachable",
        |world, chance| {
            network(world, chance, 3);
            episodes(world, chance, 0, HOUR, |chance| {
                let size = chance.pick([5 * MILLI, 5 * MILLI, 50 * MILLI, 900 * MILLI]) * chance.sign();
                (chance.between(HOUR, 5 * HOUR), Falsehood::Constant(size))
            });
            together(world, chance, &[1, 2]);
        },
    ),
    scenario("disagreement", "three servers that disagree when the publisher starts", |world, chance| {
        network(world, chance, 3);
        // One is false for minutes, and for a while the third cannot be reached to settle it.
        let size = rounded(chance.log_between(30e6, 2e9)) * chance.sign();
        let until = chance.between(2 * MINUTE, 10 * MINUTE);
        world.episodes = vec![Episode { clock: 1, from: 0, until, falsehood: Falsehood::Constant(size) }];
        world.sources[2].reach = Reach::Except(vec![(0, chance.between(10 * SECOND, until))]);
    }),
    scenario(
        "two-servers",
        "two servers, of which one is off by seconds when the other is unreachable",
        |world, chance| {
            network(world, chance, 2);
            episodes(world, chance, 0, HOUR, |chance| {
                let size = rounded(chance.log_between(100e6, 5e9)) * chance.sign();
                (chance.between(10 * MINUTE, 3 * HOUR), Falsehood::Constant(size))
            });
            // A while after they have contradicted one another, the honest one cannot be reached any more.
            let closed = world.episodes.iter().map(|episode| (episode.from + 5 * MINUTE, episode.until));
            world.sources[1].reach = Reach::Except(closed.collect());
            world.demands = Demanded { a1: false, time: false };
        },
    ),
    scenario(
        "minutes-a-day",
        "a PTP clock that is reachable for minutes a day; day and night differ by 3 ppm",
        |world, chance| {
            ptp(world, chance);
            minutes_a_day(world, chance);
        },
    ),
    scenario("minutes-a-day-measured", "the same, and the frequency wander is measured", |world, chance| {
        ptp(world, chance);
        minutes_a_day(world, chance);
        world.publisher.measured = true;
    }),
    Scenario {
        longest: 4.0,
        ..scenario(
            "first-of-month",
            "three UTC clocks, of which one is off by a second on the first of a month",
            |world, chance| {
                utc(world, chance, 3);
                let first = world.calendar.instant(MONTH + 37);
                let size = (600 * MILLI + chance.between(0, 800 * MILLI)) * chance.sign();
                let from = first - chance.between(0, HOUR);
                let wrong = Episode { clock: 2, from, until: first + DAY, falsehood: Falsehood::Constant(size) };
                let kind = chance.pick([LeapKind::Inserted, LeapKind::Deleted]);
                let announcement = first - chance.between(HOUR, 20 * HOUR);
                let false_leap = Falsehood::FalseLeap(kind);
                world.episodes =
                    vec![Episode { clock: 2, from: announcement, until: from, falsehood: false_leap }, wrong];
            },
        )
    },
    Scenario {
        longest: 1.0,
        ..scenario(
            "nominal-error",
            "a nominal frequency that is good to 5 ppm, and a wander of 15 ppm",
            |world, chance| {
                ptp(world, chance);
                world.publisher.refresh = 8 * SECOND;
                world.publisher.nominal_error = 5 * PPM.unsigned_abs();
                world.nominal_part = chance.sign() as f64;
                let length = |chance: &mut Chance| rounded(chance.log_between(60e9, 40_000e9));
                world.oscillator.wander = Wander::Square { high: length(chance), low: length(chance) };
            },
        )
    },
    Scenario {
        longest: 1.0,
        ..scenario(
            "wide-brackets",
            "a nominal frequency that is off by 0.5 %, and brackets of seconds",
            |world, chance| {
                network(world, chance, 1);
                world.publisher.nominal_error = 5_000 * PPM.unsigned_abs();
                world.nominal_part = chance.sign() as f64;
                // The clock is read at one end of the bracket.
                let long = Delay { fixed: chance.between(SECOND, 3 * SECOND), queue: 0 };
                let ways = if chance.happens(0.5) { (long, Delay::default()) } else { (Delay::default(), long) };
                (world.sources[0].before, world.sources[0].after) = ways;
                world.clocks[0].stated = Stated::Constant(MICRO);
                world.clocks[0].error = ErrorModel::Extreme(chance.sign() as f64);
                world.publisher.deadline = 5 * SECOND;
            },
        )
    },
    scenario("relearned", "a frequency that is learned again and again between publications", |world, chance| {
        ptp(world, chance);
        world.publisher.refresh = 2 * SECOND;
        world.sources[0].lost = 0.05;
        world.sources[0].late = 0.05;
        world.sources[0].reach = Reach::Outages { mean: 10 * MINUTE, least: 5 * SECOND, most: 10 * MINUTE };
        world.clocks[0].stated = Stated::Changing { least: 2 * MICRO, most: 500 * MICRO, mean: 20 * SECOND };
        world.clocks[0].error = ErrorModel::Flip { half: chance.between(10 * SECOND, 5 * MINUTE) };
        let length = |chance: &mut Chance| rounded(chance.log_between(30e9, 10_500e9));
        world.oscillator.wander = Wander::Square { high: length(chance), low: length(chance) };
    }),
    scenario("counter-jumps", "a PTP clock, and a counter that jumps by 1 to 9 ms", |world, chance| {
        ptp(world, chance);
        every(world, chance, 3 * HOUR, |world, chance, at| {
            let size = chance.between(MILLI, 9 * MILLI) * chance.sign();
            world.oscillator.changes.push((at, Change::Jump(size)));
        });
    }),
    scenario("frequency-change", "a PTP clock, and a frequency that changes by 20 ppm for good", |world, chance| {
        ptp(world, chance);
        every(world, chance, 5 * HOUR, |world, chance, at| {
            world.oscillator.changes.push((at, Change::Shift(20 * PPM * chance.sign())));
        });
    }),
    scenario(
        "frequency-change-measured",
        "the same with 1.5 ppm or more, and the wander is measured",
        |world, chance| {
            ptp(world, chance);
            world.publisher.measured = true;
            let at = 30 * HOUR + chance.between(0, 10 * HOUR);
            let by = chance.pick([1_500_000, 1_500_000, 4 * PPM, 20 * PPM]) * chance.sign();
            world.oscillator.changes.push((at, Change::Shift(by)));
        },
    ),
    scenario(
        "same-clock-twice",
        "three sources, of which two read one clock, which is a falseticker",
        |world, chance| {
            network(world, chance, 3);
            let twice = SourceSpec { clock: 0, ..world.sources[0].clone() };
            world.sources.insert(1, twice);
            episodes(world, chance, 0, HOUR, |chance| (chance.wait(3 * HOUR), falsehood(chance)));
        },
    ),
    scenario("host-clock", "the host's clock, assumed exact, and a daemon that steers it", |world, chance| {
        host_clock(world, chance);
    }),
    scenario(
        "grandmaster-lost",
        "a PTP clock that loses its grandmaster, and states an error that grows",
        |world, chance| {
            ptp(world, chance);
            world.clocks[0].stated = Stated::Growth { least: MICRO, by: chance.between(PPM / 10, 10 * PPM) };
        },
    ),
    scenario(
        "preemption",
        "the kernel's clock, and every fifth measurement interrupted for up to 60 ms",
        |world, chance| {
            kernel(world, chance);
            world.publisher.refresh = 4 * SECOND;
            world.preempted = 0.2;
        },
    ),
    scenario("kernel-monotonic", "the kernel's clock, and the time never goes back", |world, chance| {
        kernel(world, chance);
        world.publisher.monotonic = true;
        world.oscillator.wander = Wander::Crystal(Steadiness::UNSTEADY);
    }),
    scenario("migration", "a PTP clock, and hosts with other oscillators every few hours", |world, chance| {
        ptp(world, chance);
        world.publisher.refresh = 2 * SECOND;
        every(world, chance, 2 * HOUR, |world, _, at| world.incidents.push((at, Incident::Migrate)));
    }),
    scenario("suspend", "the kernel's clock, and a host that sleeps", |world, chance| {
        kernel(world, chance);
        every(world, chance, 4 * HOUR, |world, chance, at| {
            let length = chance.between(HOUR / 100, 3 * HOUR);
            // Past all doubt: a counter that starts anew.
            let jump = if chance.happens(0.2) { chance.between(HOUR, DAY) * chance.sign() } else { 0 };
            world.incidents.push((at, Incident::Sleep { length, stopped: chance.happens(0.5), jump }));
        });
    }),
    scenario("fault", "a PTP clock, and a counter that stops, runs away, or jumps", |world, chance| {
        ptp(world, chance);
        world.publisher.refresh = 2 * SECOND;
        every(world, chance, 4 * HOUR, |world, chance, at| {
            let fault = match chance.index(3) {
                0 => Change::Stop,
                1 => Change::Faster(chance.between(600 * PPM, 5_000 * PPM)),
                _ => Change::Jump(chance.between(MILLI, 500 * SECOND) * chance.sign()),
            };
            world.oscillator.changes.push((at, fault));
            if !matches!(fault, Change::Jump(_)) {
                let end = at + chance.between(10 * SECOND, HOUR);
                world.oscillator.changes.push((end, Change::Recover));
            }
        });
    }),
    scenario(
        "fault-lossy",
        "three servers whose answers get lost, and a counter that stops, or jumps twice in a row",
        |world, chance| {
            network(world, chance, 3);
            world.publisher.refresh = 8 * SECOND;
            for source in &mut world.sources {
                (source.lost, source.late) = (0.3, 0.1);
            }
            every(world, chance, 4 * HOUR, |world, chance, at| {
                if chance.happens(0.5) {
                    world.oscillator.changes.push((at, Change::Stop));
                    world.oscillator.changes.push((at + chance.between(MINUTE, HOUR), Change::Recover));
                } else {
                    let mut jump = |at| {
                        let size = chance.between(SECOND, 500 * SECOND) * chance.sign();
                        world.oscillator.changes.push((at, Change::Jump(size)));
                    };
                    jump(at);
                    jump(at + 20 * SECOND);
                }
            });
        },
    ),
    scenario(
        "reference-page",
        "another page and two servers; the page knows when the counter was disrupted, also without a time",
        |world, chance| {
            network(world, chance, 3);
            world.sources[0].knows_epoch = true;
            world.sources[0].reach = Reach::Outages { mean: HOUR, least: MINUTE, most: HOUR };
            for source in &mut world.sources[1..] {
                source.late = 0.2;
            }
            every(world, chance, 3 * HOUR, |world, chance, at| {
                let size = rounded(chance.log_between(1e6, 1e12)) * chance.sign();
                world.oscillator.changes.push((at, Change::Jump(size)));
            });
        },
    ),
    scenario("distrusted", "a PTP clock, and a counter that the kernel does not trust at times", |world, chance| {
        ptp(world, chance);
        world.publisher.monotonic = chance.happens(0.5);
        every(world, chance, 3 * HOUR, |world, chance, at| {
            world.incidents.push((at, Incident::Distrust(chance.between(SECOND, HOUR))));
        });
    }),
    Scenario {
        longest: 4.0,
        ..scenario("leap", "the kernel's clock on UTC over a leap second, announced or not", |world, chance| {
            utc(world, chance, 1);
            leap(world, chance);
        })
    },
    Scenario {
        longest: 4.0,
        ..scenario("leap-majority", "three UTC clocks over a leap second; one is a falseticker", |world, chance| {
            utc(world, chance, 3);
            leap(world, chance);
            let first = world.calendar.instant(MONTH + 37);
            let size = (600 * MILLI + chance.between(0, 800 * MILLI)) * chance.sign();
            let falsehood = Falsehood::Constant(size);
            world.episodes = vec![Episode { clock: 1, from: first - 5 * HOUR, until: first + 9 * HOUR, falsehood }];
        })
    },
    Scenario {
        longest: 4.0,
        ..scenario("list-expires", "TAI-UTC from a list that expires, and is renewed or not", |world, chance| {
            utc(world, chance, 1);
            let expires = chance.between(6 * HOUR, 3 * DAY);
            world.knowledge.lists = vec![(0, expires)];
            if chance.happens(0.5) {
                world.knowledge.lists.push((expires + chance.between(-HOUR, 6 * HOUR), 100 * DAY));
            }
        })
    },
    scenario("offset-later", "a publisher that starts before the kernel knows TAI-UTC", |world, chance| {
        utc(world, chance, 1);
        let from = chance.between(SECOND, 2 * DAY);
        world.knowledge = Knowledge { kernel_from: Some(from), lists: Vec::new(), lists_leap: false };
    }),
    scenario(
        "restarts",
        "a publisher that is stopped, killed, or killed in the middle of an update",
        |world, chance| {
            if chance.happens(0.5) {
                network(world, chance, 3);
            } else {
                ptp(world, chance);
            }
            world.publisher.monotonic = chance.happens(0.3);
            every(world, chance, 2 * HOUR, |world, chance, at| {
                let pause = rounded(chance.log_between(1e9, 3600e9));
                let incident = match chance.index(3) {
                    0 => Incident::Restart(pause),
                    1 => Incident::Kill { mid_update: false, pause },
                    _ => Incident::Kill { mid_update: true, pause },
                };
                world.incidents.push((at, incident));
            });
        },
    ),
    scenario(
        "planned-restarts",
        "a publisher that is stopped in order, and continued by another one, if the counter went on",
        |world, chance| continued(world, chance, &[Stop::Planned]),
    ),
    scenario(
        "killed-restarts",
        "a publisher that is killed at any moment, and continued by another one, if the counter went on",
        |world, chance| continued(world, chance, &[Stop::Killed, Stop::Saved, Stop::MidUpdate]),
    ),
    scenario(
        "slow-answers",
        "servers whose answers are late, lost, or there in a later round only",
        |world, chance| {
            network(world, chance, 3);
            for source in &mut world.sources {
                source.late = 0.2;
                source.lost = 0.2;
                source.latency.queue = 100 * MILLI;
            }
            episodes(world, chance, 1, HOUR, |chance| (chance.wait(2 * HOUR), falsehood(chance)));
        },
    ),
];

/// Publishers that find what the one before saved.
fn continued(world: &mut WorldSpec, chance: &mut Chance, stops: &[Stop]) {
    match chance.index(4) {
        0 => network(world, chance, 3),
        1 => kernel(world, chance),
        2 => {
            ptp(world, chance);
            world.publisher.measured = true;
        }
        _ => ptp(world, chance),
    }
    world.publisher.monotonic = chance.happens(0.3);
    every(world, chance, HOUR, |world, chance, at| {
        let stop = stops[chance.index(stops.len())];
        let pause = rounded(chance.log_between(1e8, 3600e9));
        let meanwhile = if chance.happens(0.7) { Meanwhile::Nothing } else { any_doubt(chance) };
        world.incidents.push((at, Incident::Continue { stop, pause, meanwhile }));
    });
}

/// What can happen while nobody publishes.
pub(crate) fn any_doubt(chance: &mut Chance) -> Meanwhile {
    let stopped = chance.happens(0.5);
    let jump = rounded(chance.log_between(1e9, 1e12)) * chance.sign();
    let others = [Meanwhile::Booted, Meanwhile::Switched, Meanwhile::Garbled, Meanwhile::Lost];
    match chance.index(6) {
        0 => Meanwhile::Slept { stopped },
        1 => Meanwhile::Jumped(jump),
        other => others[other - 2],
    }
}

const OUTAGES: Reach = Reach::Outages { mean: 8 * HOUR, least: 6 * MINUTE, most: 12 * HOUR };

impl Scenario {
    /// A world of this kind, of this length in nanoseconds.
    pub(crate) fn world(&self, seed: u64, length: Nanos) -> WorldSpec {
        let mut chance = Chance::stream(seed, "scenario", 0);
        let mut world = quiet(seed, length, &mut chance);
        (self.shape)(&mut world, &mut chance);
        world.oscillator.changes.sort_by_key(|change| change.0);
        world.incidents.sort_by_key(|incident| incident.0);
        world.episodes.sort_by_key(|episode| episode.from);
        world
    }
}

/// A world without any source, in which nothing happens.
fn quiet(seed: u64, length: Nanos, chance: &mut Chance) -> WorldSpec {
    let offset = 50e-6 * chance.signed_unit();
    WorldSpec {
        seed,
        length,
        calendar: Calendar { epoch: EPOCH, leap: None },
        publisher: PublisherSpec::DEFAULT,
        oscillator: OscillatorSpec {
            hertz: chance.between(1_000_000_000, 4_000_000_000) as f64 * (1.0 + offset),
            band: 15 * PPM,
            wander: Wander::Crystal(Steadiness::SERVER),
            step: 10 * SECOND,
            // Often enough it wraps in the middle of a run.
            start: if chance.happens(0.2) { u64::MAX - (chance.seed() >> 14) } else { chance.seed() },
            steering: None,
            changes: Vec::new(),
        },
        nominal_part: 0.2 * chance.signed_unit(),
        clocks: Vec::new(),
        sources: Vec::new(),
        episodes: Vec::new(),
        incidents: Vec::new(),
        knowledge: Knowledge::list(),
        preempted: 0.001,
        late: 0.0,
        reads: 1,
        demands: Demanded::ALL,
    }
}

/// So many servers over a network.
fn network(world: &mut WorldSpec, chance: &mut Chance, servers: usize) {
    for number in 0..servers {
        let (clock, [before, after]) = server(chance);
        world.clocks.push(clock);
        world.sources.push(SourceSpec {
            clock: number,
            before,
            after,
            latency: Delay { fixed: MILLI, queue: 0 },
            lost: 0.02,
            late: 0.0,
            reach: Reach::Always,
            reports_steering: false,
            knows_epoch: false,
        });
    }
}

/// A PTP hardware clock, asked each second.
fn ptp(world: &mut WorldSpec, chance: &mut Chance) {
    world.publisher.refresh = SECOND;
    world.oscillator.step = 4 * SECOND;
    world.clocks.push(ClockSpec {
        tai: true,
        stated: Stated::Constant(MICRO),
        error: ErrorModel::Bias { deviation: 250, follows: HOUR, limit: 850, noise: 100 },
        estimated: 300,
        synchronized: true,
        announces: 0,
        knows_offset: false,
        turns: None,
    });
    let way = |chance: &mut Chance| Delay { fixed: chance.between(300, 600), queue: 30 };
    world.sources.push(SourceSpec {
        clock: world.clocks.len() - 1,
        before: way(chance),
        after: way(chance),
        latency: Delay::default(),
        lost: 0.001,
        late: 0.0,
        reach: Reach::Always,
        reports_steering: false,
        knows_epoch: false,
    });
}

/// The kernel's clock, kept by a daemon: a narrow measurement of a clock that is off by tens of microseconds, and
/// states at least a millisecond.
fn kernel(world: &mut WorldSpec, _: &mut Chance) {
    world.publisher.refresh = 8 * SECOND;
    world.clocks.push(ClockSpec {
        tai: true,
        stated: Stated::Sawtooth(MILLI),
        error: ErrorModel::Bias { deviation: 15 * MICRO, follows: 10 * MINUTE, limit: 150 * MICRO, noise: 0 },
        estimated: 20_000,
        synchronized: true,
        announces: 0,
        knows_offset: true,
        turns: None,
    });
    world.sources.push(SourceSpec {
        clock: world.clocks.len() - 1,
        before: Delay { fixed: 12, queue: 0 },
        after: Delay { fixed: 14, queue: 0 },
        latency: Delay::default(),
        lost: 0.0,
        late: 0.0,
        reach: Reach::Always,
        reports_steering: false,
        knows_epoch: false,
    });
}

/// So many clocks on UTC.
fn utc(world: &mut WorldSpec, chance: &mut Chance, clocks: usize) {
    for _ in 0..clocks {
        kernel(world, chance);
    }
    for clock in &mut world.clocks {
        clock.tai = false;
    }
}

/// A leap second at the end of the month, announced by all, or in the list, or not at all.
fn leap(world: &mut WorldSpec, chance: &mut Chance) {
    let kind = chance.pick([LeapKind::Inserted, LeapKind::Deleted]);
    world.calendar.leap = Some(Leap { month: MONTH, kind });
    let lead = chance.pick([0, 2, 3_600, 86_000]);
    for clock in &mut world.clocks {
        clock.announces = lead;
    }
    world.knowledge = match chance.index(3) {
        0 => Knowledge::list(),
        1 => Knowledge::kernel(),
        // One that ends before.
        _ => Knowledge { kernel_from: None, lists: vec![(0, DAY)], lists_leap: false },
    };
}

/// The host's clock, which a daemon steers: 2 ms every 17 minutes, by up to 12 ppm.
fn host_clock(world: &mut WorldSpec, _: &mut Chance) {
    world.publisher.refresh = SECOND;
    world.publisher.drift = PPM.unsigned_abs();
    world.publisher.probation = 0;
    world.oscillator.step = 4 * SECOND;
    world.oscillator.band = PPM;
    world.oscillator.steering = Some(Steering { every: 17 * MINUTE, offset: 2 * MILLI, most: 12 * PPM });
    world.clocks.push(ClockSpec {
        tai: true,
        stated: Stated::Constant(0),
        error: ErrorModel::Extreme(0.0),
        estimated: 0,
        synchronized: true,
        announces: 0,
        knows_offset: true,
        turns: None,
    });
    world.sources.push(SourceSpec {
        clock: 0,
        before: Delay { fixed: 12, queue: 0 },
        after: Delay { fixed: 14, queue: 0 },
        latency: Delay::default(),
        lost: 0.0,
        late: 0.0,
        reach: Reach::Always,
        reports_steering: true,
        knows_epoch: false,
    });
}

fn minutes_a_day(world: &mut WorldSpec, chance: &mut Chance) {
    world.oscillator.wander = Wander::Crystal(Steadiness::DAILY);
    world.sources[0].reach = Reach::Windows { period: DAY, open: chance.between(5 * MINUTE, 10 * MINUTE) };
}

/// A wander that uses all of the band.
pub(crate) fn any_wander(chance: &mut Chance) -> Wander {
    let length = |chance: &mut Chance| rounded(chance.log_between(5e9, 2.0 * DAY as f64));
    match chance.index(7) {
        0 | 1 => Wander::Square { high: length(chance), low: length(chance) },
        2 => Wander::Triangle { period: length(chance).max(MINUTE) },
        3 => Wander::Sine { period: length(chance).max(MINUTE) },
        4 => Wander::Walk { hourly: chance.log_between(0.01, 3.0) },
        5 => Wander::Hops { mean: length(chance) },
        _ => Wander::Constant(chance.pick([0.0, 0.5, 1.0])),
    }
}

/// How a plain falseticker is false: by far more than it states, by a constant or ever more.
fn falsehood(chance: &mut Chance) -> Falsehood {
    if chance.happens(0.3) {
        Falsehood::Drift(chance.between(PPM, 100 * PPM) * chance.sign())
    } else {
        Falsehood::Constant(rounded(chance.log_between(2e6, 2e9)) * chance.sign())
    }
}

/// A clock is a falseticker every now and then.
fn episodes(
    world: &mut WorldSpec,
    chance: &mut Chance,
    clock: usize,
    every: Nanos,
    draw: impl Fn(&mut Chance) -> (Nanos, Falsehood),
) {
    let mut at = chance.wait(every);
    while at < world.length {
        let (length, falsehood) = draw(chance);
        world.episodes.push(Episode { clock, from: at, until: at + length, falsehood });
        at += length + 10 * MINUTE + chance.wait(every);
    }
}

/// Several sources become unreachable together, every now and then.
fn together(world: &mut WorldSpec, chance: &mut Chance, sources: &[usize]) {
    let mut closed = Vec::new();
    let mut at = chance.wait(HOUR);
    while at < world.length {
        let until = at + rounded(chance.log_between(20e9, 10_000e9));
        closed.push((at, until));
        at = until + chance.wait(HOUR);
    }
    for source in sources {
        world.sources[*source].reach = Reach::Except(closed.clone());
    }
}

/// Something happens every now and then, but never twice within a probation and ten minutes, or so soon after the
/// start.
fn every(
    world: &mut WorldSpec,
    chance: &mut Chance,
    mean: Nanos,
    mut happens: impl FnMut(&mut WorldSpec, &mut Chance, Nanos),
) {
    let apart = world.publisher.probation + 90 * MINUTE;
    let mut at = apart / 2 + chance.wait(mean);
    while at < world.length {
        happens(world, chance, at);
        at += apart + chance.wait(mean);
    }
}
