// SPDX-License-Identifier: MIT OR Apache-2.0
//! Worlds that attack, each drawn from one number.

use vmclock_core::leap::LeapKind;

use crate::calendar::{Calendar, Leap, OFFSET};
use crate::chance::Chance;
use crate::clock::{any_falsehood, ClockSpec, Episode, ErrorModel, Stated};
use crate::counter::{Change, OscillatorSpec, Steadiness, Steering, Wander};
use crate::scenario::{any_doubt, any_wander};
use crate::spec::{Delay, Demanded, Incident, Knowledge, Meanwhile, PublisherSpec, Reach, SourceSpec, Stop, WorldSpec};
use crate::units::{rounded, Nanos, DAY, HOUR, MICRO, MILLI, MINUTE, PPM, SECOND};

/// Ends of months, in UTC seconds since 1970: 2027-01-01, 2027-07-01, at which there may be a leap second, and
/// 2027-03-01.
const MONTHS: [i64; 3] = [1_798_761_600, 1_814_400_000, 1_803_859_200];

/// The world of a number.
pub(crate) fn draw(seed: u64) -> WorldSpec {
    let mut chance = Chance::stream(seed, "world", 0);
    let chance = &mut chance;
    let refresh = if chance.happens(0.8) { chance.log_between(4e9, 60e9) } else { chance.log_between(1e8, 4e9) };
    let rounds = chance.log_between(2_000.0, 20_000.0);
    let length = rounded((refresh * rounds).min(5.0 * DAY as f64));
    let publisher = publisher(chance, rounded(refresh));
    let clocks = 1 + chance.pick([0, 0, 1, 2, 2, 2, 2, 3, 3, 4, 4, 5, 6]);
    let oscillator = oscillator(chance, &publisher);
    let mut world = WorldSpec {
        seed,
        length,
        calendar: calendar(chance, length),
        publisher,
        oscillator,
        nominal_part: if chance.happens(0.5) { chance.sign() as f64 } else { chance.signed_unit() },
        clocks: Vec::new(),
        sources: Vec::new(),
        episodes: Vec::new(),
        incidents: Vec::new(),
        knowledge: Knowledge::list(),
        preempted: chance.pick([0.0, 0.001, 0.1]),
        late: chance.pick([0.0, 0.0, 0.03]),
        reads: 1,
        demands: Demanded::ALL,
    };
    world.clocks = clock_specs(chance, clocks, world.calendar.leap.is_some());
    sources(chance, &mut world);
    know(chance, &mut world);
    if is_ambiguous(&world) {
        // Whoever hears nothing for a day after a leap second cannot know any more what it was.
        world.sources.iter_mut().for_each(|source| source.reach = Reach::Always);
    }
    falsetickers(chance, &mut world);
    show_leap(&mut world);
    attack_counter(chance, &mut world);
    attack_host(chance, &mut world);
    // Of numbers of its own, so that a world stays what it was in all that is older than these.
    attack_assumptions(&mut Chance::stream(seed, "assumptions", 0), &mut world);
    keep_state(&mut Chance::stream(seed, "state", 0), &mut world);
    world
}

/// What is rare, and all the same allowed: brackets of seconds, clocks that are synchronized now and then, sources that
/// know when the counter was disrupted, a kernel that does not trust it, a steered clock that is assumed exact.
fn attack_assumptions(chance: &mut Chance, world: &mut WorldSpec) {
    // A clock that is that vague shows no leap second, and no change of the counter that is smaller.
    if chance.happens(0.15) && !is_ambiguous(world) && world.oscillator.changes.is_empty() {
        let index = chance.index(world.sources.len());
        let long = Delay { fixed: rounded(chance.log_between(2e8, 4e9)), queue: 0 };
        let source = &mut world.sources[index];
        // The clock is read at one end of the bracket, or in the middle.
        match chance.index(3) {
            0 => source.before = long,
            1 => source.after = long,
            _ => (source.before, source.after) = (long, long),
        }
        world.publisher.deadline = chance.pick([SECOND / 2, 5 * SECOND, 10 * SECOND]);
    }
    for clock in &mut world.clocks {
        clock.turns = chance.happens(0.1).then(|| rounded(chance.log_between(5e9, 2e13)));
    }
    let has_fault = world.oscillator.changes.iter().any(|change| matches!(change.1, Change::Stop | Change::Faster(_)));
    if chance.happens(0.4) && !has_fault {
        let which = chance.unit();
        for source in &mut world.sources {
            source.knows_epoch = chance.happens(which);
        }
    }
    if chance.happens(0.05) && !has_fault && !is_ambiguous(world) {
        let mean = rounded(chance.log_between(1e12, 1e14));
        let mut at = chance.wait(mean);
        while at < world.length {
            let length = rounded(chance.log_between(1e9, 3.6e12));
            world.incidents.push((at, Incident::Distrust(length)));
            at += length + chance.wait(mean);
        }
        world.incidents.sort_by_key(|incident| incident.0);
    }
    // While the host sleeps nobody refreshes what the daemon steers.
    let sleeps = world.incidents.iter().any(|(_, incident)| matches!(incident, Incident::Sleep { .. }));
    let is_plain = world.sources.len() == 1 && world.oscillator.changes.is_empty() && world.clocks[0].tai;
    if chance.happens(0.2) && is_plain && !sleeps {
        assume_exact(chance, world);
    }
}

/// The host's own clock, and a daemon that steers it within what is assumed between two refreshes.
fn assume_exact(chance: &mut Chance, world: &mut WorldSpec) {
    world.publisher.refresh = world.publisher.refresh.min(4 * SECOND);
    world.length = world.length.min(20_000 * world.publisher.refresh);
    world.oscillator.step = 4 * SECOND;
    world.oscillator.steering = Some(Steering {
        every: rounded(chance.log_between(6e11, 1e13)),
        offset: rounded(chance.log_between(1e5, 1e7)),
        most: rounded(chance.log_between(1e6, 1e8)),
    });
    (world.clocks[0].stated, world.clocks[0].error) = (Stated::Constant(0), ErrorModel::Extreme(0.0));
    world.clocks[0].estimated = 0;
    world.preempted = 0.0;
    for source in &mut world.sources {
        (source.before, source.after) = (Delay { fixed: 12, queue: 0 }, Delay { fixed: 14, queue: 0 });
        (source.latency, source.reach) = (Delay::default(), Reach::Always);
        (source.lost, source.late, source.reports_steering) = (0.0, 0.0, true);
    }
    world.late = 0.0;
}

fn publisher(chance: &mut Chance, refresh: Nanos) -> PublisherSpec {
    let ppm = |chance: &mut Chance, low, high| rounded(chance.log_between(low, high) * PPM as f64).unsigned_abs();
    PublisherSpec {
        refresh,
        deadline: chance.pick([SECOND / 2, SECOND / 2, SECOND / 20, 3 * SECOND]),
        drift: if chance.happens(0.5) { 15 * PPM.unsigned_abs() } else { ppm(chance, 0.1, 100.0) },
        measured: chance.happens(0.1),
        nominal_error: if chance.happens(0.5) { 500 * PPM.unsigned_abs() } else { ppm(chance, 1.0, 5_000.0) },
        source_timeout: if chance.happens(0.6) { 30 * SECOND } else { rounded(chance.log_between(5e9, 120e9)) },
        probation: if chance.happens(0.4) { 10 * MINUTE } else { rounded(chance.log_between(1e9, 1800e9)) },
        monotonic: chance.happens(0.25),
    }
}

/// An oscillator that uses its band, often to the ends.
fn oscillator(chance: &mut Chance, publisher: &PublisherSpec) -> OscillatorSpec {
    let hertz = chance.pick([24e6, 54e6, 100e6, 1e9, 2.1e9, 3e9, 4e9]) * (1.0 + 100e-6 * chance.signed_unit());
    let wander = if publisher.measured {
        // What was seen in a day says what comes.
        let part = chance.unit();
        chance.pick([
            Wander::Crystal(Steadiness::SERVER),
            Wander::Crystal(Steadiness::UNSTEADY),
            Wander::Constant(part),
        ])
    } else if chance.happens(0.1) {
        Wander::Crystal(Steadiness::UNSTEADY)
    } else if chance.happens(0.2) {
        let length = |chance: &mut Chance| rounded(publisher.refresh as f64 * chance.log_between(0.3, 30.0));
        Wander::Square { high: length(chance), low: length(chance) }
    } else {
        any_wander(chance)
    };
    OscillatorSpec {
        hertz: hertz.round(),
        band: publisher.drift as i64,
        wander,
        step: publisher.refresh.clamp(SECOND, 30 * SECOND),
        start: if chance.happens(0.3) { u64::MAX - (chance.seed() >> 16) } else { chance.seed() },
        steering: None,
        changes: Vec::new(),
    }
}

/// Somewhere near a month's end, with or without a leap second.
fn calendar(chance: &mut Chance, length: Nanos) -> Calendar {
    let is_leap = chance.happens(0.25);
    let month = MONTHS[if is_leap { chance.index(2) } else { chance.index(3) }];
    // Not at once: a kernel that is told late would mislead whoever starts then.
    let into = chance.between(1_200, (length / SECOND).max(1_201));
    let kind = chance.pick([LeapKind::Inserted, LeapKind::Inserted, LeapKind::Deleted]);
    Calendar { epoch: month + OFFSET - into, leap: is_leap.then_some(Leap { month, kind }) }
}

fn clock_specs(chance: &mut Chance, count: usize, is_leap: bool) -> Vec<ClockSpec> {
    // All on TAI, all on UTC, or some on each.
    let tai = chance.pick([1.0, 1.0, 0.0, 0.5]);
    let announces = if is_leap { chance.pick([0, 2, 3_600, 86_000, 86_000]) } else { 0 };
    let knows_offset = chance.happens(0.5);
    // Of one class of quality, or of any.
    let class = chance.happens(0.5).then(|| chance.log_between(50.0, 1e8));
    let clock = |chance: &mut Chance| {
        let least = rounded(match class {
            Some(class) => class * chance.log_between(0.5, 2.0),
            None => chance.log_between(50.0, 1e8),
        });
        let stated = match chance.index(8) {
            0 => Stated::Sawtooth(least),
            1 => Stated::Growth { least, by: rounded(chance.log_between(1e4, 5e8)) },
            2 => Stated::Changing { least, most: least * 1_000, mean: chance.between(MINUTE, HOUR) },
            _ => Stated::Constant(least),
        };
        let error = match chance.index(5) {
            0 => {
                let deviation = (least / 4).max(1);
                ErrorModel::Bias {
                    deviation,
                    follows: chance.between(MINUTE, 3 * HOUR),
                    limit: least,
                    noise: least / 8,
                }
            }
            1 => ErrorModel::Extreme(chance.signed_unit().signum()),
            2 => ErrorModel::Flip { half: rounded(chance.log_between(1e9, 3.6e13)) },
            3 => ErrorModel::Sine { period: rounded(chance.log_between(1e10, 1e14)) },
            _ => ErrorModel::Uniform,
        };
        ClockSpec {
            tai: chance.happens(tai),
            stated,
            error,
            estimated: (least / 3).unsigned_abs(),
            synchronized: chance.happens(0.85),
            announces,
            knows_offset,
            turns: None,
        }
    };
    (0..count).map(|_| clock(chance)).collect()
}

/// A way to each clock, and to some of them two.
fn sources(chance: &mut Chance, world: &mut WorldSpec) {
    let reachable = chance.pick([1.0, 0.7, 0.3]);
    let lossy = chance.pick([0.0, 0.0, 0.02, 0.3]);
    let late = chance.pick([0.0, 0.0, 0.0, 0.1]);
    let count = world.clocks.len();
    let mut clocks: Vec<usize> = (0..count).collect();
    while clocks.len() < 7 && chance.happens(0.15) {
        clocks.push(chance.index(count));
    }
    for clock in clocks {
        let way = |chance: &mut Chance, is_network: bool| {
            if is_network {
                Delay { fixed: rounded(chance.log_between(1e4, 1e8)), queue: rounded(chance.log_between(1e4, 3e6)) }
            } else {
                Delay { fixed: chance.between(0, MICRO), queue: 0 }
            }
        };
        let is_network = chance.happens(0.4);
        let reach = if chance.happens(reachable) {
            Reach::Always
        } else if chance.happens(0.7) {
            let least = rounded(chance.log_between(1e9, 1e12));
            let most = least * chance.between(2, 30);
            Reach::Outages { mean: rounded(chance.log_between(3e10, 3e13)), least, most }
        } else {
            let period = rounded(chance.log_between(6e10, 9e13));
            Reach::Windows { period, open: rounded(period as f64 * chance.log_between(0.01, 0.9)).max(SECOND) }
        };
        let source = SourceSpec {
            clock,
            before: way(chance, is_network),
            after: way(chance, is_network),
            latency: Delay { fixed: if is_network { MILLI } else { 0 }, queue: chance.pick([0, 0, 20 * MILLI]) },
            lost: lossy,
            late,
            reach,
            reports_steering: false,
            knows_epoch: false,
        };
        world.sources.push(source);
    }
}

/// What the host knows of TAI-UTC: something that is true.
fn know(chance: &mut Chance, world: &mut WorldSpec) {
    let leaps_at = world.calendar.leaps_at();
    let length = world.length;
    let kernel = |from| Knowledge { kernel_from: Some(from), lists: Vec::new(), lists_leap: false };
    world.knowledge = match chance.index(8) {
        0..=2 => Knowledge::list(),
        3 | 4 => kernel(0),
        5 => kernel(chance.between(0, length)),
        6 => Knowledge { kernel_from: None, lists: Vec::new(), lists_leap: false },
        _ => {
            // A list that expires, and another one that comes before or after that.
            let expires = chance.between(0, length);
            let renewed = (expires + chance.between(-HOUR, HOUR)).max(1);
            let lists =
                if chance.happens(0.6) { vec![(0, expires), (renewed, 1_000 * DAY)] } else { vec![(0, expires)] };
            Knowledge { kernel_from: None, lists, lists_leap: true }
        }
    };
    let is_mixed = world.clocks.iter().any(|clock| clock.tai != world.clocks[0].tai);
    if is_mixed && world.calendar.leap.is_some() {
        // A clock on UTC is as good as wrong for whoever does not know of a leap second.
        world.knowledge = Knowledge::list();
    } else if is_mixed {
        // Without TAI-UTC a clock on UTC cannot be compared with one on TAI.
        let lists = &world.knowledge.lists;
        let is_listed = lists.first().is_some_and(|list| list.0 == 0) && lists.iter().all(|list| list.1 > length);
        world.demands.time = is_listed || world.knowledge.kernel_from == Some(0);
    }
    // A list has a leap second, or expires before it.
    if world.calendar.leap.is_some() && !is_mixed && chance.happens(0.3) {
        let expires = leaps_at.min(length) - HOUR;
        world.knowledge.lists.retain(|list| list.0 < expires);
        for list in &mut world.knowledge.lists {
            list.1 = list.1.min(expires);
        }
        world.knowledge.lists_leap = false;
    }
}

/// Fewer than half of the clocks are falsetickers at any time: always the same, or in turns.
fn falsetickers(chance: &mut Chance, world: &mut WorldSpec) {
    let count = world.clocks.len();
    let publisher = &world.publisher;
    // Until nothing counts any more that was measured of it, however late.
    let apart = publisher.source_timeout.max(2 * publisher.refresh + 2 * SECOND)
        + 2 * publisher.refresh
        + publisher.deadline
        + 2 * MINUTE;
    let in_turns = chance.happens(0.5);
    let mut busy: Vec<(usize, Nanos, Nanos)> = Vec::new();
    for slot in 0..(count - 1) / 2 {
        let mean = rounded(chance.log_between(1e11, 3e13));
        let mut at = if chance.happens(0.3) { 0 } else { chance.wait(mean) };
        while at < world.length {
            let until = at + rounded(chance.log_between(1e10, 5e13));
            let clock = if in_turns { chance.index(count) } else { slot };
            let overlaps =
                |other: &(usize, Nanos, Nanos)| other.0 == clock && at < other.2 + apart && other.1 < until + apart;
            if !busy.iter().any(overlaps) {
                let falsehood = any_falsehood(chance);
                world.episodes.push(Episode { clock, from: at, until, falsehood });
                busy.push((clock, at, until));
                at = until;
            }
            at += apart + chance.wait(mean);
        }
    }
    world.episodes.sort_by_key(|episode| episode.from);
}

/// A leap second that is neither listed nor announced is shown by a majority (A6): of clocks that are right, and clear
/// enough to show it.
fn show_leap(world: &mut WorldSpec) {
    if !is_ambiguous(world) {
        return;
    }
    let leaps_at = world.calendar.leaps_at();
    let is_meanwhile = |episode: &Episode| episode.from < leaps_at + HOUR && episode.until > leaps_at - HOUR;
    let is_clear = |number: &usize| match world.clocks[*number].stated {
        Stated::Constant(error) => error < SECOND / 5,
        Stated::Changing { most, .. } => most < SECOND / 5,
        Stated::Sawtooth(_) | Stated::Growth { .. } => false,
    };
    let is_right =
        |number: &usize| !world.episodes.iter().any(|episode| episode.clock == *number && is_meanwhile(episode));
    let clear: Vec<usize> = (0..world.clocks.len()).filter(is_clear).collect();
    let is_shown = 2 * clear.len() > world.clocks.len();
    if !is_shown && world.clocks.iter().any(|clock| !clock.tai && clock.announces < HOUR / SECOND) {
        world.calendar.leap = None;
        world.clocks.iter_mut().for_each(|clock| clock.announces = 0);
    } else if 2 * clear.iter().filter(|number| is_right(number)).count() <= world.clocks.len() {
        world.episodes.retain(|episode| !is_meanwhile(episode));
    }
}

/// Whether an unannounced leap second makes it unknowable what UTC sources mean by a publisher that starts anew.
fn is_ambiguous(world: &WorldSpec) -> bool {
    world.calendar.leap.is_some() && !(world.knowledge.lists_leap && world.knowledge.kernel_from.is_none())
}

/// Whether clocks on UTC may show a leap second that nobody announced: then a counter that jumps by about a second
/// cannot be told from one.
fn may_leap(world: &WorldSpec) -> bool {
    let is_half_year = MONTHS[..2].iter().any(|month| {
        let begins = world.calendar.instant(month + OFFSET);
        (-DAY..world.length + DAY).contains(&begins)
    });
    let is_listed = world.knowledge.list_at(0).is_some_and(|expires| expires > world.length);
    is_half_year && !is_listed && world.clocks.iter().any(|clock| !clock.tai)
}

/// Whether a majority of the clocks is right and reachable all the time. Without, nobody gives the time again before
/// the counter may be disrupted the next time; and then a second disruption hides behind the first.
fn has_steady_majority(world: &WorldSpec) -> bool {
    let is_steady = |clock: &usize| {
        world.episodes.iter().all(|episode| episode.clock != *clock)
            && world
                .sources
                .iter()
                .any(|source| source.clock == *clock && source.lost < 0.1 && matches!(source.reach, Reach::Always))
    };
    2 * (0..world.clocks.len()).filter(is_steady).count() > world.clocks.len()
}

/// What breaks A2 for a moment.
fn attack_counter(chance: &mut Chance, world: &mut WorldSpec) {
    // Where not all clocks can be compared, a majority of them shows nothing.
    if !chance.happens(0.2) || is_ambiguous(world) || may_leap(world) || !world.demands.time {
        return;
    }
    let is_steady = has_steady_majority(world);
    // A change that is not larger than what the clocks state shows late, or never.
    let is_precise =
        world.clocks.iter().all(|clock| matches!(clock.stated, Stated::Constant(error) if error < 10 * MICRO))
            && world.sources.iter().all(|source| source.before.queue == 0 && matches!(source.reach, Reach::Always))
            && world.preempted < 0.01
            && !world.publisher.measured;
    let apart = world.publisher.probation + 10 * MINUTE;
    let mean = rounded(chance.log_between(1e12, 1e14));
    let mut at = apart + chance.wait(mean);
    while at < world.length {
        match chance.index(if is_precise { 4 } else { 2 }) {
            0 | 1 => {
                let size = rounded(chance.log_between(1e6, 1e11)) * chance.sign();
                world.oscillator.changes.push((at, Change::Jump(size)));
            }
            2 => {
                let by = rounded(world.publisher.drift as f64 * chance.log_between(1.5, 10.0)) * chance.sign();
                world.oscillator.changes.push((at, Change::Shift(by)));
            }
            _ => {
                let fault = chance.pick([Change::Stop, Change::Faster(PPM * 3_000)]);
                world.oscillator.changes.push((at, fault));
                at += rounded(chance.log_between(1e10, 3.6e12));
                world.oscillator.changes.push((at, Change::Recover));
            }
        }
        if !is_steady {
            return;
        }
        at += apart + chance.wait(mean);
    }
}

/// What happens to the host and to the publisher.
fn attack_host(chance: &mut Chance, world: &mut WorldSpec) {
    // While the counter is at fault nobody can start to publish.
    let has_fault = world.oscillator.changes.iter().any(|change| matches!(change.1, Change::Stop | Change::Faster(_)));
    if !chance.happens(0.35) || is_ambiguous(world) || has_fault {
        return;
    }
    let sleeps = chance.happens(0.3);
    let migrates = chance.happens(0.2) && world.oscillator.changes.is_empty();
    let mean = rounded(chance.log_between(1e12, 1e14));
    let mut at = chance.wait(mean);
    let leaps_at = world.calendar.leaps_at();
    while at < world.length {
        let pause = rounded(chance.log_between(1e8, 3.6e12));
        // What was measured before a host sleeps is given to its publisher when it wakes: when another clock may have
        // become a falseticker.
        let awake = at + pause + 5 * MINUTE + 2 * world.publisher.refresh;
        let is_steady = !world.episodes.iter().any(|episode| (at..awake).contains(&episode.from));
        let incident = match chance.index(5) {
            0 if migrates => Incident::Migrate,
            1 if sleeps && is_steady => {
                let stopped = chance.happens(0.5)
                    && world.oscillator.changes.is_empty()
                    && world.demands.time
                    && !may_leap(world);
                Incident::Sleep { length: pause, stopped, jump: 0 }
            }
            2 => Incident::Kill { mid_update: true, pause },
            3 => Incident::Kill { mid_update: false, pause },
            _ => Incident::Restart(pause),
        };
        let apart = (at - leaps_at.min(world.length * 2)).abs();
        if apart > pause + 10 * MINUTE {
            world.incidents.push((at, incident));
        }
        at += pause + chance.wait(mean);
    }
}

/// Publishers that save what they know, and go on where the one before stopped, or must not.
fn keep_state(chance: &mut Chance, world: &mut WorldSpec) {
    // A publisher of this host's own page; that of a guest is with whoever publishes it.
    let migrates = world.incidents.iter().any(|(_, incident)| *incident == Incident::Migrate);
    if !chance.happens(0.6) || migrates {
        return;
    }
    // A jump shows only where the clocks are good enough, and not another one behind it.
    let may_jump =
        world.oscillator.changes.is_empty() && has_steady_majority(world) && world.demands.time && !may_leap(world);
    for (_, incident) in &mut world.incidents {
        let (Incident::Restart(pause) | Incident::Kill { pause, .. }) = *incident else { continue };
        let stop = chance.pick([Stop::Planned, Stop::Planned, Stop::Killed, Stop::Saved, Stop::MidUpdate]);
        let doubt = any_doubt(chance);
        let is_excluded = matches!(doubt, Meanwhile::Jumped(_) | Meanwhile::Slept { stopped: true }) && !may_jump;
        let meanwhile = if chance.happens(0.7) || is_excluded { Meanwhile::Nothing } else { doubt };
        *incident = Incident::Continue { stop, pause, meanwhile };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_a_world() {
        for seed in 0..300 {
            let world = draw(seed);
            assert_eq!(format!("{world:?}"), format!("{:?}", draw(seed)));
            assert!((1..=7).contains(&world.sources.len()));
            let false_ones: std::collections::BTreeSet<usize> =
                world.episodes.iter().map(|episode| episode.clock).collect();
            assert!(false_ones.is_empty() || world.clocks.len() >= 3);
            assert!(world.episodes.is_sorted_by_key(|episode| episode.from));
            assert!(world.oscillator.changes.is_sorted_by_key(|change| change.0));
            assert!(world.incidents.is_sorted_by_key(|incident| incident.0));
        }
    }
}
