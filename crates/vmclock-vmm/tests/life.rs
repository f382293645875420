// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! Random lifecycles of machines on correct hosts, and what their guests see.
#![cfg(not(loom))]

mod machine;

use std::collections::HashSet;
use std::num::NonZeroU64;

use proptest::prelude::*;
use vmclock_core::abi::{ClockStatus, Flags, LeapIndicator, Snapshot};
use vmclock_core::calibration::{Calibration, Period};
use vmclock_core::event::{changes, Maintenance};
use vmclock_core::guest_counter::Scale;
use vmclock_core::lifecycle::{Calibrated, LeapStatus};
use vmclock_core::tai::TaiOffset;
use vmclock_core::time::{Interval, PageScale, Tai, Time};
use vmclock_vmm::device::Arrival;
use vmclock_vmm::VmClockDevice;

use machine::{arrived, calibration, clock_on, guest, known, options, region, seen, Interrupt};

#[derive(Clone, Copy, Debug)]
enum Step {
    Pause,
    Resume(bool),
    Reset(bool),
    ResumeIn(bool),
    Migrate(bool),
    Restore(bool),
    Clone,
    CloneIn,
    Disrupt,
    Distrust,
    Maintenance(Maintenance),
    Calibrate,
    Leap(LeapStatus),
}

impl Step {
    /// Whether it is one with a calibration.
    fn calibrates(self) -> bool {
        use Step::{Calibrate, Migrate, Reset, Restore, Resume, ResumeIn};
        matches!(self, Calibrate | Resume(true) | Reset(true) | ResumeIn(true) | Migrate(true) | Restore(true))
    }

    /// The rows of the table: whether marker and generation are new.
    fn row(self) -> (bool, bool) {
        match self {
            Self::Migrate(_) | Self::Disrupt => (true, false),
            Self::Restore(_) => (true, true),
            Self::Clone | Self::CloneIn => (false, true),
            _ => (false, false),
        }
    }
}

fn leap_statuses() -> impl Strategy<Value = LeapStatus> {
    (prop::option::of(10_i16..=60), (0_u8..6).prop_map(LeapIndicator))
        .prop_map(|(offset, indicator)| LeapStatus { tai_offset: offset.and_then(TaiOffset::from_seconds), indicator })
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Pause),
        any::<bool>().prop_map(Step::Resume),
        any::<bool>().prop_map(Step::Reset),
        any::<bool>().prop_map(Step::ResumeIn),
        any::<bool>().prop_map(Step::Migrate),
        any::<bool>().prop_map(Step::Restore),
        Just(Step::Clone),
        Just(Step::CloneIn),
        Just(Step::Disrupt),
        Just(Step::Distrust),
        prop_oneof![Just(Maintenance::None), Just(Maintenance::Soon), Just(Maintenance::Imminent)]
            .prop_map(Step::Maintenance),
        // More often than the others.
        Just(Step::Calibrate),
        Just(Step::Calibrate),
        Just(Step::Calibrate),
        leap_statuses().prop_map(Step::Leap),
    ]
}

/// How a correct calibration deviates from true time.
#[derive(Clone, Copy, Debug)]
struct Deviation {
    /// In nanoseconds.
    off: i64,
    /// How much more than that it may be off, in nanoseconds.
    vague: u64,
    /// By how much the period is off, in parts per 10^12; it may be 15,000,000.
    period_off: i64,
    leap: LeapStatus,
}

fn deviations() -> impl Strategy<Value = Deviation> {
    (-100_i64..100, 0_u64..900, -14_900_000_i64..14_900_000, leap_statuses())
        .prop_map(|(off, vague, period_off, leap)| Deviation { off, vague, period_off, leap })
}

/// What can happen to a guest's counter.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Runs,
    Jumps,
    Moves,
}

fn happenings() -> impl Strategy<Value = Happening> {
    prop_oneof![6 => Just(Happening::Runs), 1 => Just(Happening::Jumps), 1 => Just(Happening::Moves)]
}

/// The true time of a counter that has about 2 GHz: its ticks are longer than that by so many parts in 10^12.
struct Simulation {
    start: u64,
    start_nanos: i128,
    counter: u64,
    drift: i64,
}

impl Simulation {
    fn new(counter: u64, nanos: i128, drift: i64) -> Self {
        Self { start: counter, start_nanos: nanos, counter, drift }
    }

    fn run(&mut self, ticks: u64) {
        self.counter = self.counter.wrapping_add(ticks);
    }

    /// The counter is another one: it jumped, or it is another host's.
    fn move_to(&mut self, counter: u64, ticks_later: u64, drift: i64) {
        *self = Self::new(counter, self.nanos() + i128::from(ticks_later), drift);
    }

    /// In TAI, rounded down: nothing adds up.
    fn nanos(&self) -> i128 {
        let ticks = i128::from(self.counter.wrapping_sub(self.start));
        self.start_nanos + ticks * (1_000_000_000_000 + i128::from(self.drift)) / 2_000_000_000_000
    }

    /// A correct one: its error is inside its bounds.
    fn calibration(&self, deviation: Deviation) -> Calibrated {
        let time = Time::<Tai>::from_nanos(self.nanos() + i128::from(deviation.off)).expect("in range");
        // To half a part in 10^9, which is why the period is off by less than it may be.
        let hertz = 2_000_000_000 - (self.drift + deviation.period_off) / 500;
        let hertz = NonZeroU64::new(hertz.unsigned_abs()).expect("not 0");
        Calibrated {
            calibration: Calibration::new(self.counter, time, Period::from_frequency(hertz))
                .with_max_error(deviation.off.unsigned_abs() + deviation.vague + 1, 15_000_000),
            leap: deviation.leap,
            ..calibration(0, 0)
        }
    }
}

/// Whether the time is inside.
fn is_inside(interval: &Interval<PageScale>, time: Time<PageScale>) -> bool {
    interval.earliest.nanos() <= time.ceil_nanos() && time.floor_nanos() <= interval.latest.nanos()
}

proptest! {
    /// After each step the guest sees the events of the table, none missed and none invented, and no identity twice;
    /// the page has what was published, and no more; its bounds have the true time in them; and what it gave before
    /// under the same marker, for all counter values from its reference on, holds.
    #[test]
    fn a_lifecycle(
        drift in -10_000_000_i64..10_000_000,
        lifecycle in prop::collection::vec((steps(), 1_u64..40_000_000_000, deviations(), any::<[u64; 3]>()), 1..60),
    ) {
        let memory = guest();
        let interrupt = Interrupt::default();
        let mut device = VmClockDevice::new(region(&memory), &interrupt, (), options(), [1, 2]).expect("written");
        let mut simulation = Simulation::new(1 << 40, 1_800_000_000_000_000_000, drift);
        let mut before = seen(&memory);
        let mut known = HashSet::from([before.disruption_marker, before.vm_generation_counter]);
        let mut published = LeapStatus::UNKNOWN;
        let mut announced = Maintenance::None;
        // The last page that gave time, if there is no new marker since.
        let mut last_with_time: Option<Snapshot> = None;
        for (step, ticks, deviation, fresh) in lifecycle {
            simulation.run(ticks);
            let (is_disrupted, is_restored) = step.row();
            if matches!(step, Step::Migrate(_) | Step::Restore(_)) {
                simulation.move_to(fresh[2], ticks, -simulation.drift);
            }
            let time = simulation.calibration(deviation);
            // It takes a moment until it is on the page.
            simulation.run(ticks / 1000);
            let raised = interrupt.raised.get();
            // As a monitor has to do it.
            let is_consistent = device.is_consistent(&time, simulation.counter);
            let is_inconsistent = step.calibrates() && !is_disrupted && !is_consistent;
            if is_inconsistent {
                device.disrupt(fresh[2]).expect("written");
            }
            let calibration = step.calibrates().then_some(&time);
            let state = device.save();
            let place = || region(&memory);
            match step {
                Step::Pause => device.pause(),
                Step::Resume(_) => device.resume(calibration),
                Step::Reset(_) => device.reset(calibration),
                Step::ResumeIn(_) => {
                    arrived(place(), &interrupt, &state, Arrival::SameHost, calibration, [0, 0]).map(|made| device = made)
                }
                Step::Migrate(_) => {
                    let state = device.save();
                    arrived(place(), &interrupt, &state, Arrival::Migration, calibration, [fresh[0], 0]).map(|made| device = made)
                }
                Step::Restore(_) => {
                    let fresh = [fresh[0], fresh[1]];
                    arrived(place(), &interrupt, &state, Arrival::Restore, calibration, fresh).map(|made| device = made)
                }
                Step::Clone => device.clone_running(fresh[0]),
                Step::CloneIn => arrived(place(), &interrupt, &state, Arrival::Clone, None, [0, fresh[0]]).map(|made| device = made),
                Step::Disrupt => device.disrupt(fresh[0]),
                Step::Distrust => device.distrust(),
                Step::Maintenance(announced) => device.maintenance(announced),
                Step::Calibrate => device.calibrate(&time),
                Step::Leap(status) => device.leap_status(status),
            }.expect("nothing fails here");

            let after = seen(&memory);
            prop_assert_eq!(&after, device.page());
            let updates = u32::from(!matches!(step, Step::Pause | Step::Resume(false))) + u32::from(is_inconsistent);
            prop_assert_eq!(interrupt.raised.get() - raised, updates, "update and notification are one");
            prop_assert_eq!(after.seq_count == before.seq_count, updates == 0);
            prop_assert!(after.seq_count.wrapping_sub(before.seq_count) >> 31 == 0, "it only advances");
            let names: Vec<&str> = changes(&before, &after).map(|event| event.name()).collect();
            let has = |name: &str| names.contains(&name);
            let is_disrupted = is_disrupted || is_inconsistent;
            let seen_to_happen = (has("disrupted"), has("restored"));
            prop_assert_eq!(seen_to_happen, (is_disrupted, is_restored), "{:?}: {:?}", step, names);
            prop_assert!(!is_disrupted || known.insert(after.disruption_marker), "a marker is there twice");
            prop_assert!(!is_restored || known.insert(after.vm_generation_counter), "a generation is there twice");

            // What was published, and nothing of another host.
            let is_incoming = matches!(step, Step::Migrate(_) | Step::Restore(_));
            match step {
                Step::Leap(status) => published = status,
                step if step.calibrates() => published = deviation.leap,
                _ if is_incoming => published = LeapStatus::UNKNOWN,
                _ => {}
            }
            match step {
                Step::Maintenance(now) => announced = now,
                _ if is_incoming => announced = Maintenance::None,
                _ => {}
            }
            prop_assert_eq!(LeapStatus::of(&after), published);
            prop_assert_eq!(Maintenance::of(&after), announced);
            prop_assert_eq!(after.flags.contains(Flags::TAI_OFFSET_VALID), published.tai_offset.is_some());
            prop_assert!(after.notifies() && !after.flags.contains(Flags::TIME_MONOTONIC), "it is not enforced");
            let status = match step {
                step if step.calibrates() => ClockStatus::SYNCHRONIZED,
                _ if is_disrupted => ClockStatus::INITIALIZING,
                Step::Distrust if before.clock_status.gives_time() => ClockStatus::UNRELIABLE,
                _ => before.clock_status,
            };
            prop_assert_eq!(after.clock_status, status);

            let clock = clock_on(&after);
            prop_assert_eq!(clock.is_some(), status.gives_time());
            if is_disrupted {
                last_with_time = None;
            }
            if let Some(clock) = clock {
                let interval = clock.interval_at(simulation.counter).expect("in range").expect("bounds");
                let true_nanos = simulation.nanos();
                prop_assert!(interval.earliest.nanos() <= true_nanos + 1 && true_nanos <= interval.latest.nanos());
                if let Some(last_with_time) = &last_with_time {
                    let old = clock_on(last_with_time).expect("it gave time");
                    let age = simulation.counter.wrapping_sub(last_with_time.counter_value);
                    for ago in [0, age / 1000, age / 3, age - age / 7, age] {
                        let counter = simulation.counter.wrapping_sub(ago);
                        let interval = old.interval_at(counter).expect("in range").expect("bounds");
                        let time = clock.time_at(counter).expect("in range");
                        prop_assert!(is_inside(&interval, time), "{} is outside {:?}", time.floor_nanos(), interval);
                    }
                }
                last_with_time = Some(after);
            }
            before = after;
        }
    }

    /// A guest's interval always contains true time; and under one marker, the next page's time for a reading
    /// is inside the interval of its own page.
    #[test]
    fn a_guests_time(
        drift in -10_000_000_i64..10_000_000,
        lifecycle in prop::collection::vec((happenings(), 1_u64..40_000_000_000, deviations(), any::<u64>()), 1..60),
    ) {
        let memory = guest();
        let mut simulation = Simulation::new(1 << 40, 1_800_000_000_000_000_000, drift);
        let mut device = VmClockDevice::new(region(&memory), (), (), options(), [1, 2]).expect("written");
        // The last reading since the marker changed: the counter, and its interval.
        let mut given: Option<(u64, Interval<PageScale>)> = None;
        for (happening, ticks, deviation, fresh) in lifecycle {
            let before = seen(&memory).disruption_marker;
            match happening {
                Happening::Runs => simulation.run(ticks),
                Happening::Jumps => {
                    simulation.move_to(simulation.counter.wrapping_add(ticks), 0, simulation.drift);
                    device.disrupt(fresh).expect("written");
                }
                Happening::Moves => {
                    let state = device.save();
                    simulation.move_to(fresh, ticks, -simulation.drift);
                    let known = simulation.calibration(deviation);
                    device = arrived(region(&memory), (), &state, Arrival::Migration, Some(&known), [fresh, 0]).expect("written");
                }
            }
            let known = simulation.calibration(deviation);
            if !device.is_consistent(&known, simulation.counter) {
                device.disrupt(fresh).expect("written");
            }
            device.calibrate(&known).expect("written");

            let page = seen(&memory);
            if page.disruption_marker != before {
                given = None;
            }
            let clock = clock_on(&page).expect("a time");
            if let Some((counter, interval)) = given {
                let time = clock.time_at(counter).expect("in range");
                prop_assert!(is_inside(&interval, time), "{} is outside {:?}", time.floor_nanos(), interval);
            }
            simulation.run(ticks / 2);
            let interval = clock.interval_at(simulation.counter).expect("in range").expect("bounds");
            let true_nanos = simulation.nanos();
            prop_assert!(interval.earliest.nanos() <= true_nanos + 1 && true_nanos <= interval.latest.nanos());
            given = Some((simulation.counter, interval));
        }
    }
}

/// A generator of numbers as good as random, from a seed (splitmix64).
struct Chance(u64);

impl Chance {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        u64::try_from((u128::from(self.draw()) * u128::from(end)) >> 64).expect("below the end")
    }

    /// On either side of 0.
    fn within(&mut self, limit: i64) -> i64 {
        limit - i64::try_from(self.below(2 * limit.unsigned_abs() + 1)).expect("below the end")
    }
}

/// A host's counter: its nominal frequency, and how much longer than that its ticks really are, in parts
/// per 10^12.
#[derive(Clone, Copy, Debug)]
struct Oscillator {
    hertz: u64,
    drift: i64,
}

impl Oscillator {
    fn drawn(chance: &mut Chance) -> Self {
        Self { hertz: 1000 * (24_000 + chance.below(4_000_000)), drift: chance.within(14_999_000) }
    }

    /// So many ticks in nanoseconds, rounded down.
    fn nanos(self, ticks: u64) -> i128 {
        let (ticks, hertz) = (i128::from(ticks), i128::from(self.hertz));
        ticks * 1_000_000_000 / hertz + ticks * i128::from(self.drift) / (hertz * 1000)
    }

    /// How many ticks there are in so many nanoseconds.
    fn ticks(self, nanos: i128) -> i128 {
        let million = 1_000_000_000_000_i128;
        nanos * i128::from(self.hertz) * 1000 / (million + i128::from(self.drift))
    }

    fn calibration(self, counter: u64, nanos: i128, off: i64) -> Calibrated {
        known(counter, Time::from_nanos(nanos + i128::from(off)).expect("in range"), self.hertz)
    }
}

/// From host to host, of another frequency and another drift, with or without scaling, and with the guest's counter set
/// so that it continues: no reading is outside its interval.
#[test]
fn migration_keeps_the_time() {
    let memory = guest();
    let place = region(&memory);
    let mut chance = Chance(0x243f_6a88_85a3_08d3);
    let mut scaled = 0_u32;
    for turn in 0..100_000 {
        let (source, host) = (Oscillator::drawn(&mut chance), Oscillator::drawn(&mut chance));
        let start = 1_800_000_000_000_000_000_i128;
        let guest_counter = chance.draw();
        let mut device = VmClockDevice::new(&place, (), (), options(), [1, 2]).expect("written");
        let known = source.calibration(guest_counter, start, chance.within(490));
        device.calibrate(&known).expect("written");
        let state = device.save();

        // The destination knows its own counter's time. It may be able to keep the guest's frequency.
        let down = i128::from(1_000_000 + chance.below(60_000_000_000));
        let host_counter = chance.draw() >> 1;
        let known = host.calibration(host_counter, start + down, chance.within(490));
        let bits = if chance.below(2) == 0 { 32 } else { 48 };
        let khz = |hertz: u64| u32::try_from(hertz / 1000).expect("small");
        let scale =
            (chance.below(3) > 0).then(|| Scale::between(khz(host.hertz), khz(source.hertz), bits).expect("fits"));
        scaled += u32::from(scale.is_some());
        let (counter, error) = state.guest_counter(&known.calibration, scale).expect("it had a time");
        assert_eq!((counter.error(), counter.scale()), (0, scale));
        let guests = Calibrated { calibration: counter.calibration(&known.calibration).expect("it runs"), ..known };
        arrived(&place, (), &state, Arrival::Migration, Some(&guests), [2, 0]).expect("written");

        // The guest reads a while later, or on a CPU that is a little behind.
        let context = || format!("turn {turn}: {source:?}, {host:?}, {scale:?}");
        let clock = clock_on(&seen(&memory)).expect("a time");
        let later = chance.below(1 << 34);
        let true_nanos = start + down + host.nanos(later);
        let interval = clock.interval_at(counter.at(host_counter + later)).expect("in range").expect("bounds");
        let is_right = interval.earliest.nanos() <= true_nanos + 1 && true_nanos - 1 <= interval.latest.nanos();
        assert!(is_right, "{}: {true_nanos} is not in {interval:?}", context());

        // And at that moment the counter is what it would have been, to within the error bound.
        let ideal = guest_counter.wrapping_add(u64::try_from(source.ticks(down)).expect("ahead"));
        let apart = u128::from(counter.at(host_counter).wrapping_sub(ideal).cast_signed().unsigned_abs());
        let apart = apart * 1_000_000_000 / u128::from(source.hertz);
        assert!(apart <= error + 1, "{}: {apart} ns, and {error} are allowed", context());
        // Which is no more than 15 ppm, both hosts' errors, and a tick of the slowest.
        let most = u128::try_from(down).expect("ahead") * 15 / 1_000_000 + 2 * 500;
        assert!(error <= most + 60 && error + 60 >= most, "{}: {error} ns, not {most}", context());
    }
    assert!((60_000..73_000).contains(&scaled), "{scaled}");
}
