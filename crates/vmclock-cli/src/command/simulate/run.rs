// SPDX-License-Identifier: MIT OR Apache-2.0
//! One run of a world: sources are looked at, the estimator concludes, the page is updated, the guest reads.

use std::num::NonZeroU64;

use rand::{RngExt, SeedableRng};
use rand_distr::Exp1;
use rand_xoshiro::Xoshiro256PlusPlus;
use vmclock::{ClockStatus, Snapshot, Time, TimeType, Utc};
use vmclock_core::abi::Flags;
use vmclock_core::calibration::Period;
use vmclock_core::page::{Page, Writer};
use vmclock_host::estimator::{Conclusion, Estimator, Evidence, Settings};
use vmclock_host::schedule::UtcSchedule;
use vmclock_host::source::{LeapNotice, Stamp};
use vmclock_host::timescale::TaiFollower;

use crate::calibration;

use super::guest::{Guest, COUNTER};
use super::network_guest::NetworkGuest;
use super::oscillator::{Fault, Oscillator};
use super::reference::{preemption, Kind, Look, Reference};
use super::scenario::{Disturbance, Scenario};

const SECOND: f64 = 1e9;
const HOUR: f64 = 3600.0 * SECOND;
/// 2026-12-30 00:00:00 TAI: two days before a month ends.
const EPOCH: i64 = 1_798_588_800;
/// UTC - TAI in this world, before its leap second, and where a month begins, in UTC seconds.
const UTC_MINUS_TAI: i16 = -37;
const MONTH: i64 = 1_798_761_600;

/// One point for a picture.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub(super) hours: f64,
    pub(super) error: f64,
    pub(super) bound: f64,
}

/// The leap second of this world.
#[derive(Clone, Copy, Debug)]
struct Leap {
    inserted: bool,
    /// How many seconds before it is announced. 0: never.
    lead: i64,
}

struct World<'a> {
    scenario: &'a Scenario,
    random: Xoshiro256PlusPlus,
    oscillator: Oscillator,
    references: Vec<Reference>,
    leap: Option<Leap>,
    /// True nanoseconds since the epoch.
    now: f64,
    /// When the sources were last looked at, and when something happens to the host.
    looked: f64,
    next_disturbance: f64,
    fault_ends: f64,
    /// For so many rounds something has happened that nobody can have noticed yet.
    unnoticed: u32,
}

/// Runs `days` of a scenario. `draw` gets each reading.
pub(super) fn run(
    scenario: &Scenario,
    days: f64,
    seed: u64,
    network: &mut NetworkGuest,
    draw: &mut dyn FnMut(Point),
) -> Guest {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let oscillator = Oscillator::new(&mut random, scenario.steadiness);
    let references =
        scenario.sources.iter().map(|(kind, behaviour)| Reference::new(*kind, *behaviour, &mut random)).collect();
    let leap = (scenario.disturbance == Disturbance::Leap)
        .then(|| Leap { inserted: random.random_bool(0.5), lead: [0, 2, 3_600, 86_000][random.random_range(0..4)] });
    let mut world = World {
        scenario,
        random,
        oscillator,
        references,
        leap,
        now: 0.0,
        looked: 0.0,
        next_disturbance: HOUR,
        fault_ends: f64::MAX,
        unnoticed: 0,
    };
    let page = Page::new();
    let mut host = Host::new(scenario, &page, &mut world);
    let mut guest = Guest::new();
    let end = days * 24.0 * HOUR;
    while world.now < end {
        let wait = scenario.poll * world.random.random_range(0.95..1.05);
        let part = world.random.random_range(0.0..1.0);
        world.pass(wait * part, network);
        world.read(&page, &mut guest, draw);
        world.pass(wait * (1.0 - part), network);
        world.disturb(&mut host, network);
        let heard = host.look(&mut world);
        // The last moment of the old calibration, unless what it could not know has just happened.
        world.read(&page, &mut guest, draw);
        world.unnoticed = world.unnoticed.saturating_sub(u32::from(heard));
        if host.conclude(&mut world) {
            guest.compare(&page);
        }
        world.read(&page, &mut guest, draw);
    }
    guest
}

impl World<'_> {
    /// Lets time go by.
    fn pass(&mut self, nanos: f64, network: &mut NetworkGuest) {
        let before = self.oscillator.counter();
        self.advance(nanos);
        #[allow(clippy::cast_precision_loss)]
        let counted =
            self.oscillator.counter().wrapping_sub(before) as f64 * (SECOND / self.oscillator.nominal_hertz());
        network.advance(nanos, counted - nanos, &mut self.random);
    }

    fn advance(&mut self, nanos: f64) {
        self.now += nanos;
        self.oscillator.advance(nanos, &mut self.random);
    }

    /// The true time in nanoseconds of TAI.
    fn truth(&self) -> i128 {
        #[allow(clippy::cast_possible_truncation)]
        let since = self.now as i128;
        i128::from(EPOCH) * 1_000_000_000 + since
    }

    fn read(&self, page: &Page, guest: &mut Guest, draw: &mut dyn FnMut(Point)) {
        if self.unnoticed > 0 {
            return;
        }
        if let Some((error, half)) = guest.read(page, self.oscillator.counter(), self.truth(), self.now) {
            #[allow(clippy::cast_precision_loss)]
            draw(Point { hours: self.now / HOUR, error: error as f64, bound: half as f64 });
        }
    }

    /// What happens to the host now and then.
    fn disturb(&mut self, host: &mut Host<'_>, network: &mut NetworkGuest) {
        if self.now >= self.fault_ends {
            self.oscillator.fault = Fault::None;
            self.fault_ends = f64::MAX;
            self.unnoticed = 1;
        }
        if self.now < self.next_disturbance {
            return;
        }
        let pause: f64 = self.random.sample(Exp1);
        self.next_disturbance = self.now + 2.0 * HOUR * (0.1 + pause);
        match self.scenario.disturbance {
            Disturbance::None | Disturbance::Leap => self.next_disturbance = f64::MAX,
            Disturbance::Migration => {
                self.oscillator = Oscillator::new(&mut self.random, self.scenario.steadiness);
                host.migrated(self);
            }
            Disturbance::Suspend => {
                let stands = self.random.random_bool(0.5);
                self.oscillator.fault = if stands { Fault::Stopped } else { Fault::None };
                let asleep = self.random.random_range(0.01..3.0) * HOUR;
                self.pass(asleep, network);
                self.oscillator.fault = Fault::None;
                if self.random.random_bool(0.2) {
                    self.oscillator.jump(self.random.random());
                }
                self.unnoticed = 1;
            }
            Disturbance::Fault => {
                // One that lasts shows in the round after this.
                self.unnoticed = 2;
                match self.random.random_range(0..3) {
                    0 => self.oscillator.fault = Fault::Stopped,
                    1 => self.oscillator.fault = Fault::Faster(self.random.random_range(600e-6..5e-3)),
                    _ => self.oscillator.jump(self.random.random_range(1 << 20..1 << 40)),
                }
                if self.oscillator.fault != Fault::None {
                    self.fault_ends = self.now + self.random.random_range(10.0..3600.0) * SECOND;
                }
            }
        }
    }

    /// Looks at a source, which takes time.
    fn look(&mut self, source: usize) -> Option<(u64, u64, Stamp, LeapNotice, Look)> {
        let preempted = self.scenario.preempted;
        let elapsed = self.now - self.looked;
        let look = self.references[source].look(elapsed, &mut self.random)?;
        let before = self.oscillator.counter();
        let late = preemption(&mut self.random, preempted);
        self.advance(look.before + late);
        #[allow(clippy::cast_possible_truncation)]
        let tai = self.truth() + look.error as i128;
        let (stamp, notice) = self.stamp(tai, self.references[source].kind);
        let late = preemption(&mut self.random, preempted);
        self.advance(look.after + late);
        Some((before, self.oscillator.counter(), stamp, notice, look))
    }

    /// A time as the source shows it: UTC in a world with a leap second, where the kernel sets its clock.
    fn stamp(&self, tai: i128, kind: Kind) -> (Stamp, LeapNotice) {
        let Some(Leap { inserted, lead }) = self.leap.filter(|_| kind == Kind::Kernel) else {
            return (Stamp::Tai(Time::from_nanos(tai).unwrap_or(Time::from_raw(0))), LeapNotice::default());
        };
        let second = 1_000_000_000;
        let by_old = tai + i128::from(UTC_MINUS_TAI) * second;
        let begins = (i128::from(MONTH) - i128::from(!inserted)) * second;
        let is_over = by_old >= begins;
        let shown = match (is_over, inserted) {
            (false, _) => by_old,
            (true, true) => by_old - second,
            (true, false) => by_old + second,
        };
        let notice = LeapNotice {
            today: (!is_over && lead > 0 && by_old >= begins - i128::from(lead) * second).then_some(inserted),
            // Who was not told of it is not in it either, but set later.
            now: inserted && lead > 0 && (begins..begins + second).contains(&by_old),
            tai_minus_utc: None,
        };
        (Stamp::Utc(Time::<Utc>::from_nanos(shown).unwrap_or(Time::from_raw(0))), notice)
    }
}

/// The host: the estimator, and the page.
struct Host<'p> {
    estimator: Estimator,
    follower: TaiFollower,
    writer: Writer<&'p Page>,
    monotonic: bool,
    next_marker: u64,
}

impl<'p> Host<'p> {
    fn new(scenario: &Scenario, page: &'p Page, world: &mut World<'_>) -> Self {
        let settings = Settings { monotonic: scenario.monotonic, ..Settings::default() };
        let blank = Snapshot {
            counter_id: COUNTER,
            time_type: TimeType::TAI,
            clock_status: ClockStatus::INITIALIZING,
            disruption_marker: 1,
            ..Snapshot::BLANK
        };
        Self {
            estimator: Estimator::new(settings, nominal(world), scenario.sources.len()),
            follower: TaiFollower::new(UtcSchedule { utc_minus_tai: UTC_MINUS_TAI, leap: None }),
            writer: Writer::create(page, blank),
            monotonic: scenario.monotonic,
            next_marker: 2,
        }
    }

    /// A round of looks. Says whether any source was heard.
    fn look(&mut self, world: &mut World<'_>) -> bool {
        let (began, mut heard) = (world.now, false);
        for source in 0..world.references.len() {
            let Some((before, after, stamp, notice, look)) = world.look(source) else { continue };
            let evidence = |time| Evidence {
                source,
                before,
                after,
                time,
                max_error: look.max_error,
                estimated_error: look.estimated_error,
                synchronized: true,
            };
            let estimator = &self.estimator;
            let tai = self.follower.to_tai(stamp, notice, |time| estimator.surprise(&evidence(time)));
            if let Some(tai) = tai {
                self.estimator.observe(&evidence(tai));
                heard = true;
            }
        }
        world.looked = began;
        heard
    }

    /// Brings the page up to date. Says whether it changed.
    fn conclude(&mut self, world: &mut World<'_>) -> bool {
        let counter = world.oscillator.counter();
        let Conclusion { status, publish, disrupted, .. } = self.estimator.conclude(counter);
        if !disrupted && publish.is_none() && status == self.writer.contents().clock_status {
            return false;
        }
        // It takes a while until it is on the page.
        let late = preemption(&mut world.random, world.scenario.preempted);
        world.advance(200.0 + late);
        let counter = world.oscillator.counter();
        let wanted = publish.is_some();
        let publish = match publish {
            Some(_) if self.monotonic => self.estimator.settle(counter),
            publish => publish,
        };
        let marker = self.next_marker;
        self.next_marker += u64::from(disrupted);
        let monotonic = if self.monotonic { Flags::TIME_MONOTONIC } else { Flags::NONE };
        self.writer.update(|page| {
            if disrupted {
                page.disruption_marker = marker;
            }
            let put = publish.and_then(|estimate| calibration::of(&estimate, status).put_on(page));
            page.clock_status = status;
            match put {
                Some(()) => page.flags = page.flags.with(monotonic),
                // What was concluded could not be settled.
                None if wanted => page.clock_status = ClockStatus::UNRELIABLE,
                None => {}
            }
        });
        true
    }

    /// The guest is on another host, and its page says so before it runs.
    fn migrated(&mut self, world: &mut World<'_>) {
        self.estimator.restart(nominal(world));
        let marker = self.next_marker;
        self.next_marker += 1;
        self.writer.update(|page| {
            page.clock_status = ClockStatus::INITIALIZING;
            page.disruption_marker = marker;
        });
    }
}

/// What the kernel says of the counter's frequency: right to 100 ppm.
fn nominal(world: &mut World<'_>) -> Period {
    let hertz = world.oscillator.nominal_hertz() * (1.0 + world.random.random_range(-1e-4..1e-4));
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let hertz = NonZeroU64::new(hertz as u64).unwrap_or(NonZeroU64::MIN);
    Period::from_frequency(hertz)
}
