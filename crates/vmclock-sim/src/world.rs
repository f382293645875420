// SPDX-License-Identifier: MIT OR Apache-2.0
//! A simulated world: true time, the counter, the clocks, the page, and the judge.
//!
//! Time passes where somebody waits, and a little where somebody works. Nothing is stepped through: between two moments
//! at which something happens all is a line.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::rc::Rc;

use vmclock_core::calibration::Period;
use vmclock_core::page::Page;
use vmclock_core::sample::Sample;
use vmclock_core::time::Time;
use vmclock_host::continuity::Witness;
use vmclock_host::leap_seconds::{LeapSeconds, ListError};

use crate::calendar::{Calendar, OFFSET};
use crate::chance::Chance;
use crate::clock::{Clock, ClockSpec, Shown, Stated};
use crate::counter::{Change, Counter};
use crate::judge::{seconds, Demands, Judge, Moment, Rule, COUNTER};
use crate::ledger::{Delivered, Ledger, Notice, NO_MARKER};
use crate::source::preemption;
use crate::spec::{Demanded, Reach, SourceSpec, WorldSpec, LATEST};
use crate::statistics::Statistics;
use crate::units::{part_of, rounded, Nanos, HOUR, MILLI, MINUTE, ONE, PPM, SECOND};

/// Between 1900-01-01, from which a list of leap seconds counts, and 1970-01-01.
const NTP_TO_UNIX: i64 = 2_208_988_800;
/// 2017-01-01, when TAI-UTC became 37 s, in UTC seconds since 1970.
const SINCE: i64 = 1_483_228_800;
/// How many lines a trace keeps.
const TRACED: usize = 120;

/// From when on a publisher can know of the leap second.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum LeapKnowledge {
    /// Before it comes: from a list, or a majority that announces it.
    InTime,
    /// When a majority of the clocks was reachable for long enough.
    FromClocks,
    /// When the kernel was told.
    FromKernel,
    /// Not at all.
    Never,
}

/// Who looks after the page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Caretaker {
    /// A publisher.
    Alive,
    /// A publisher that will be killed in the middle of its next update.
    Doomed,
    /// One that will be killed when it has saved its state the next time.
    Saving,
    /// It was.
    Killed,
    /// Nobody.
    Gone,
}

/// What publishers save for the next one.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// Whether they do.
    pub(crate) is_on: bool,
    /// The state, and when it was saved.
    pub(crate) state: Option<(Vec<u8>, Nanos)>,
    /// How often since the host last slept: two show how its raw clock goes with its counter.
    pub(crate) saves: u32,
    /// Whether the kernel trusted the counter then.
    pub(crate) was_trusted: bool,
    /// The page is as the publisher before left it, until the first round.
    pub(crate) is_waiting: bool,
    /// How many continued with the same marker.
    pub(crate) continued: u64,
}

/// The kernel's clocks, as far as they tell whether the counter went on.
#[derive(Debug, Default)]
pub(crate) struct Kernel {
    /// How often the machine was booted.
    pub(crate) boots: u32,
    /// Whether the clocksource is another one than the counter.
    pub(crate) is_switched: bool,
    /// For how long the machine was suspended, and what the counter counted meanwhile.
    suspended: Nanos,
    not_counted: u64,
    /// The raw clock: where it began, and its frequency in Hz.
    raw_start: u64,
    raw_hertz: u64,
}

/// A world at a moment.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) seed: u64,
    /// The present.
    pub(crate) now: Nanos,
    pub(crate) calendar: Calendar,
    pub(crate) counter: Counter,
    /// The guest's counter minus the host's, wrapping.
    pub(crate) guest_offset: u64,
    pub(crate) clocks: Vec<Clock>,
    pub(crate) page: Rc<Page>,
    pub(crate) judge: Judge,
    pub(crate) ledger: Ledger,
    /// What is measured for people, where anybody wants it.
    pub(crate) statistics: Option<Statistics>,
    /// The last things that happened, where anybody wants them.
    pub(crate) trace: Option<VecDeque<String>>,
    pub(crate) preempted: f64,
    pub(crate) caretaker: Caretaker,
    pub(crate) chance: Chance,
    identities: Chance,
    /// When the answer of each source is there.
    ready: Vec<Nanos>,
    /// What happens to the counter, to be excused; and how often something did.
    changes: VecDeque<(Nanos, Change)>,
    disruptions: u64,
    /// Until when the kernel does not trust the counter.
    distrusted_until: Nanos,
    hertz_error: f64,
    drift: u64,
    lists: Vec<(Nanos, LeapSeconds)>,
    /// From when on each is installed, and when it expires.
    list_expiries: Vec<(Nanos, Nanos)>,
    /// How long a round may take to come.
    slack: Nanos,
    /// When the host last slept.
    woke: Nanos,
    kernel_from: Option<Nanos>,
    kernel_leaps_at: Nanos,
    /// From when on UTC is demanded again after the leap second, where it is not known in time.
    leap: LeapKnowledge,
    demands: Demanded,
    steering: i64,
    pub(crate) kept: Kept,
    pub(crate) kernel: Kernel,
    /// Nobody reads: the host sleeps, or the guest is paused.
    pub(crate) is_paused: bool,
    /// Fewer than half of the clocks have always been wrong.
    pub(crate) kept_a1: bool,
}

impl World {
    pub(crate) fn new(spec: &WorldSpec) -> Self {
        let publisher = &spec.publisher;
        let clock =
            |(number, clock)| Clock::new(clock, number, &spec.episodes, Chance::stream(spec.seed, "clock", number));
        let nominal_error = publisher.nominal_error as f64 / ONE as f64;
        let mut world = Self {
            seed: spec.seed,
            now: 0,
            calendar: spec.calendar,
            counter: Counter::new(&spec.oscillator, Chance::stream(spec.seed, "oscillator", 0)),
            guest_offset: 0,
            clocks: spec.clocks.iter().enumerate().map(clock).collect(),
            page: Rc::new(Page::new()),
            judge: Judge::new(),
            ledger: Ledger::new(spec.clocks.len(), publisher, if spec.late > 0.0 { LATEST } else { 0 }),
            statistics: None,
            trace: None,
            preempted: spec.preempted,
            caretaker: Caretaker::Gone,
            chance: Chance::stream(spec.seed, "host", 0),
            identities: Chance::stream(spec.seed, "identities", 0),
            ready: vec![0; spec.sources.len()],
            changes: spec.oscillator.changes.iter().copied().collect(),
            disruptions: 0,
            distrusted_until: Nanos::MIN,
            // A little less than allowed, as it becomes a whole number of Hz.
            hertz_error: (nominal_error - 1.0 / spec.oscillator.hertz).max(0.0) * spec.nominal_part.clamp(-1.0, 1.0),
            drift: if publisher.measured { publisher.drift.min(PPM.unsigned_abs()) } else { publisher.drift },
            lists: lists(spec),
            list_expiries: spec.knowledge.lists.clone(),
            woke: Nanos::MIN,
            slack: 2 * publisher.refresh + publisher.deadline + if spec.late > 0.0 { LATEST } else { 0 },
            kernel_from: spec.knowledge.kernel_from,
            kernel_leaps_at: Nanos::MAX,
            leap: LeapKnowledge::InTime,
            demands: spec.demands,
            steering: 0,
            kept: Kept { is_on: spec.keeps_state(), was_trusted: true, ..Kept::default() },
            kernel: Kernel {
                raw_start: spec.oscillator.start,
                raw_hertz: rounded(spec.oscillator.hertz).unsigned_abs().max(1),
                ..Kernel::default()
            },
            is_paused: false,
            kept_a1: true,
        };
        world.plan_leap(spec);
        world
    }

    /// Who can know of the leap second, and when.
    fn plan_leap(&mut self, spec: &WorldSpec) {
        let leaps_at = self.calendar.leaps_at();
        if self.calendar.leap.is_none() {
            return;
        }
        // What is answered later than a round waits counts in the next one.
        let answer = |source: &SourceSpec| {
            [source.before, source.after, source.latency].iter().map(|delay| delay.fixed + delay.queue).sum::<Nanos>()
        };
        let latest = spec.sources.iter().map(answer).max().unwrap_or(0);
        let lead = 5 * (spec.publisher.refresh + spec.publisher.deadline.max(latest));
        let listed = spec.knowledge.lists_leap && spec.knowledge.list_at(leaps_at).is_some_and(|end| end > leaps_at);
        let announcing = |number: &usize| spec.clocks[*number].announces.saturating_mul(SECOND) > lead;
        let always = |number: &usize| {
            let is_steady =
                |source: &SourceSpec| matches!(source.reach, Reach::Always) && source.lost < 0.05 && source.late == 0.0;
            spec.sources.iter().any(|source| source.clock == *number && is_steady(source))
                && spec.episodes.iter().all(|episode| episode.clock != *number)
        };
        let count = (0..spec.clocks.len()).filter(|number| announcing(number) && always(number)).count();
        // A clock that is as vague as that shows no leap second.
        let is_vague = |clock: &ClockSpec| match clock.stated {
            Stated::Constant(error) | Stated::Sawtooth(error) => error > 100 * MILLI,
            Stated::Growth { .. } | Stated::Changing { .. } => true,
        };
        let announced = count > spec.clocks.len() / 2;
        let in_time = leaps_at > lead;
        let kernel_knows = listed || count > 0;
        self.kernel_leaps_at = leaps_at + if kernel_knows { 0 } else { 10 * MINUTE };
        self.leap = if in_time && (announced || listed) && spec.late == 0.0 {
            LeapKnowledge::InTime
        } else if spec.clocks.iter().all(|clock| !clock.tai && !is_vague(clock)) {
            LeapKnowledge::FromClocks
        } else if self.kernel_from.is_some_and(|from| from < leaps_at) {
            LeapKnowledge::FromKernel
        } else {
            LeapKnowledge::Never
        };
    }

    /// Makes the counter known up to an instant.
    pub(crate) fn extend(&mut self, until: Nanos) {
        self.counter.extend(self.now, until);
    }

    /// What a clock shows at an instant, and whether that is TAI.
    pub(crate) fn show(&mut self, clock: usize, at: Nanos) -> (Shown, bool) {
        let clock = &mut self.clocks[clock];
        (clock.show(at, &self.calendar), clock.spec.tai)
    }

    /// TAI-UTC as the kernel has it, in seconds.
    pub(crate) fn kernel_offset(&self, at: Nanos) -> Option<i64> {
        self.kernel_from.filter(|from| *from <= at)?;
        Some(if at < self.kernel_leaps_at { OFFSET } else { self.calendar.offset(at) })
    }

    /// The same, where a clock says it.
    pub(crate) fn told_offset(&self, clock: usize, at: Nanos) -> Option<i64> {
        self.kernel_offset(at).filter(|_| self.clocks[clock].spec.knows_offset)
    }

    /// The list of leap seconds that is installed.
    pub(crate) fn leap_seconds(&self) -> Result<LeapSeconds, ListError> {
        let list = self.lists.iter().rev().find(|list| list.0 <= self.now);
        list.map(|list| list.1.clone()).ok_or(ListError::Incomplete { what: "entries" })
    }

    /// A source's answer is there at an instant.
    pub(crate) fn expect(&mut self, source: usize, ready: Nanos) {
        self.ready[source] = ready;
    }

    /// When all answers are there that are on their way.
    pub(crate) fn all_ready(&self) -> Nanos {
        self.ready.iter().copied().max().unwrap_or(0)
    }

    /// A measurement is given to the publisher.
    pub(crate) fn deliver(&mut self, delivered: Delivered) {
        if self.trace.is_some() {
            let Delivered { clock, began, ended, earliest, latest, wrong, .. } = delivered;
            let (middle, half) = ((earliest + latest) / 2, (latest - earliest) / 2);
            let error = middle - self.calendar.tai(began + (ended - began) / 2);
            let wrong = if wrong { ", WRONG" } else { "" };
            self.note(&format!("clock {clock}: {error} ± {half} ns, bracket {} ns{wrong}", ended - began));
        }
        let is_plausible = plausible(&self.judge, self.guest_offset, self.drift);
        self.ledger.delivered(delivered, self.now, is_plausible);
    }

    /// The host's counter, read by the publisher.
    pub(crate) fn read_counter(&mut self) -> u64 {
        let took = 20 + self.chance.between(0, 40);
        self.advance(self.now + took);
        self.counter.at(self.now)
    }

    /// The counter's period as the kernel measured it once.
    pub(crate) fn nominal_period(&mut self) -> Period {
        if self.kept.is_on {
            // As long as the real one takes.
            self.advance(self.now + 10 * MILLI);
        }
        self.extend(self.now);
        let hertz = self.counter.hertz(self.now) * (1.0 + self.hertz_error);
        Period::from_frequency(NonZeroU64::new(rounded(hertz).unsigned_abs()).unwrap_or(NonZeroU64::MIN))
    }

    /// The epoch of the counter at an instant, as another page states it.
    pub(crate) fn epoch(&self, at: Nanos) -> u64 {
        self.disruptions + self.changes.iter().take_while(|change| change.0 <= at).count() as u64
    }

    /// Whether the kernel trusts the counter.
    pub(crate) fn is_trusted(&self) -> bool {
        self.now >= self.distrusted_until
    }

    /// The kernel does not trust the counter for so long.
    pub(crate) fn distrust(&mut self, length: Nanos) {
        self.distrusted_until = self.now + length;
        self.ledger.distrusted(self.distrusted_until);
    }

    /// What tells later whether the counter went on. The kernel's raw clock counts the counter, but not while the machine
    /// is suspended.
    pub(crate) fn witness(&mut self) -> Witness {
        let before = self.read_counter();
        let ticks = self.read_counter();
        let after = self.read_counter();
        let counted = ticks.wrapping_sub(self.kernel.not_counted).wrapping_sub(self.kernel.raw_start);
        // The counter may have been set back to before the raw clock began.
        #[allow(clippy::cast_possible_wrap)]
        let counted = counted as i64;
        let nanos = i128::from(counted) * i128::from(SECOND) / i128::from(self.kernel.raw_hertz);
        Witness {
            boot: format!("boot {}", self.kernel.boots),
            counter: COUNTER.0,
            clocksource: Some(if self.kernel.is_switched { "hpet" } else { "tsc" }.into()),
            is_counter: !self.kernel.is_switched,
            is_trusted: Some(self.is_trusted()),
            raw: Sample { before, time: Time::from_nanos(nanos).unwrap_or(Time::from_raw(0)), after },
            suspended: (self.kernel.suspended - 20, self.kernel.suspended + 20),
        }
    }

    /// How old the saved state is.
    pub(crate) fn age_of_state(&self) -> Option<Nanos> {
        self.kept.state.as_ref().map(|(_, at)| self.now - at)
    }

    /// The marker that the page has by the saved state.
    pub(crate) fn saved_marker(&self) -> Option<u64> {
        let text = String::from_utf8_lossy(&self.kept.state.as_ref()?.0).into_owned();
        let (_, marker) = text.split_once("\"marker\":")?;
        marker.split(',').next()?.parse().ok()
    }

    /// A bit of the saved state is another one.
    pub(crate) fn garble_state(&mut self) {
        let Some((bytes, _)) = &mut self.kept.state else { return };
        let index = self.chance.index(bytes.len());
        bytes[index] ^= 1 << self.chance.index(5);
    }

    /// Somebody writes to the counter now.
    pub(crate) fn jump(&mut self, by: Nanos) {
        self.counter.jump(self.now, by);
        self.disrupt(by);
    }

    /// A value that was never used before.
    pub(crate) fn fresh_identity(&mut self) -> u64 {
        self.identities.seed().max(1)
    }

    /// The publisher is about to write: the last moment of what is on the page.
    pub(crate) fn before_update(&mut self) {
        let took = 100 + self.chance.between(0, 300) + preemption(&mut self.chance, self.preempted);
        self.pass(self.now + took, 0);
        self.read();
    }

    /// The publisher has written: the first moment of what is on the page now.
    pub(crate) fn after_update(&mut self) {
        let moment = moment(self.now, &self.counter, self.guest_offset, &self.calendar);
        self.judge.page_changed(&self.page, &moment, self.demands());
        self.read();
        if self.trace.is_some() {
            let page = self.judge.snapshot();
            let text = format!(
                "page: {}, marker {:#x}, count {}, ± {} ns",
                page.clock_status, page.disruption_marker, page.seq_count, page.time_maxerror_nanosec
            );
            self.note(&text);
        }
    }

    /// Lets time pass, while somebody reads so many times at random, and wherever the counter's frequency changes.
    pub(crate) fn pass(&mut self, until: Nanos, reads: usize) {
        self.extend(until);
        let mut left = reads;
        while self.now < until {
            let bend = self.counter.next_bend(self.now, until);
            let read = (left > 0).then(|| self.now + 1 + self.chance.between(0, (until - self.now) / left as i64));
            left = left.saturating_sub(1);
            let next = read.into_iter().chain(bend).min().unwrap_or(until).min(until);
            if bend == Some(next) && read != Some(next) {
                left += usize::from(read.is_some());
            }
            self.advance(next);
            if read == Some(next) || bend == Some(next) {
                self.read();
            }
        }
    }

    /// What a page must do now.
    fn demands(&self) -> Demands {
        let is_orphaned = self.kept.is_waiting || matches!(self.caretaker, Caretaker::Killed | Caretaker::Gone);
        let is_timed = self.demands.time && !is_orphaned;
        Demands {
            bounds: self.ledger.demands_bounds(),
            utc: self.demands_utc(),
            offset: !is_orphaned && self.demands_offset(),
            time_since: is_timed.then(|| self.ledger.demands_time(self.now)).flatten(),
            // Of a publisher that is gone the last word stays.
            synchronized: is_orphaned
                || self.ledger.is_synchronized(self.now, plausible(&self.judge, self.guest_offset, self.drift)),
        }
    }

    /// Reads the page as a guest does, now.
    pub(crate) fn read(&mut self) {
        if self.is_paused {
            return;
        }
        let demands = self.demands();
        let moment = moment(self.now, &self.counter, self.guest_offset, &self.calendar);
        let reading = self.judge.read(&moment, demands);
        if let (Some(reading), Some(statistics)) = (reading, &mut self.statistics) {
            statistics.read(self.now, reading);
        }
    }

    /// Whether TAI-UTC has been known for some minutes, so that even the same publisher has looked it up.
    fn demands_offset(&self) -> bool {
        let before = self.now - 3 * MINUTE - self.slack;
        if self.woke > before {
            return false;
        }
        let is_listed = |at: Nanos| {
            let list = self.list_expiries.iter().rev().find(|list| list.0 <= at);
            list.is_some_and(|list| list.1 > self.now + SECOND)
        };
        self.kernel_from.is_some_and(|from| from <= before) || before > 0 && is_listed(before) && is_listed(self.now)
    }

    fn demands_utc(&self) -> bool {
        let since = self.now.saturating_sub(self.calendar.leaps_at());
        since < 0
            || match self.leap {
                LeapKnowledge::InTime => true,
                LeapKnowledge::FromClocks => {
                    self.ledger.demands_time(self.now).is_some() && self.ledger.took_probation(since)
                }
                LeapKnowledge::FromKernel => since > 15 * MINUTE,
                LeapKnowledge::Never => false,
            }
    }

    /// Before the publisher concludes: what is given to it contradicts the page, or not.
    pub(crate) fn notice(&self) -> Notice {
        self.ledger.notice(self.now, |counter| self.judge.interval(counter.wrapping_add(self.guest_offset)))
    }

    /// After the publisher has concluded.
    pub(crate) fn concluded(&mut self, notice: Notice) {
        let page = *self.judge.snapshot();
        if notice == Notice::Demonstrated(page.disruption_marker) && self.caretaker == Caretaker::Alive {
            self.judge.violated(Rule::Marker, self.now, || "a disruption shows, and the marker is the same".into());
        }
        self.ledger.concluded(self.now, notice, page.disruption_marker, page.clock_status.gives_time());
        self.kept_a1 &= 2 * self.ledger.wrong(self.now) < self.clocks.len();
    }

    /// The host sleeps.
    pub(crate) fn sleep(&mut self, length: Nanos, stopped: bool, jump: Nanos) {
        let until = self.now + length;
        let fell_asleep = self.counter.at(self.now);
        self.counter.sleep(self.now, until, stopped, jump);
        self.is_paused = true;
        if stopped || jump != 0 {
            self.disruptions += 1;
            self.disrupt(if jump == 0 { -length } else { jump });
        }
        self.advance(until);
        self.is_paused = false;
        self.kernel.suspended += length;
        self.kept.saves = 0;
        self.kernel.not_counted =
            self.kernel.not_counted.wrapping_add(self.counter.at(until).wrapping_sub(fell_asleep));
        self.woke = until;
        self.ledger.slept(length);
    }

    /// The counter is disrupted, by so many nanoseconds.
    fn disrupt(&mut self, by: Nanos) {
        let heals = by.unsigned_abs() as f64 / self.drift.max(1) as f64 * ONE as f64;
        // One that does not show is also in the frequency, if that is measured over it.
        let until = self.now.saturating_add(rounded(heals)).saturating_add(6 * HOUR);
        let marker = self.judge.snapshot().disruption_marker;
        self.ledger.disrupted(self.now, marker, until, Nanos::MIN);
        self.judge.forget();
    }

    fn advance(&mut self, to: Nanos) {
        self.extend(to);
        self.now = to;
        let steering = self.counter.steering(to);
        if std::mem::replace(&mut self.steering, steering) != steering {
            // Until it is reported nobody can know; and it is no reason for another marker.
            self.note(&format!("steered by {steering} parts per 10^12"));
            self.ledger.disrupted(to, NO_MARKER, to + 10 * MINUTE, Nanos::MIN);
            self.judge.forget();
        }
        while let Some((at, change)) = self.changes.front().copied().filter(|change| change.0 <= to) {
            self.changes.pop_front();
            self.disruptions += 1;
            self.note(&format!("the counter: {change:?} at {}", seconds(at)));
            match change {
                Change::Jump(by) => self.disrupt(by),
                Change::Shift(_) | Change::Stop | Change::Faster(_) | Change::Recover => {
                    let faulty_until =
                        if matches!(change, Change::Stop | Change::Faster(_)) { Nanos::MAX } else { Nanos::MIN };
                    if change == Change::Recover {
                        self.ledger.recovered();
                    }
                    let marker = self.judge.snapshot().disruption_marker;
                    self.ledger.disrupted(at, marker, at + 10 * MINUTE, faulty_until);
                    self.judge.forget();
                }
            }
        }
    }

    /// Notes something that happened.
    pub(crate) fn note(&mut self, text: &str) {
        let Some(trace) = &mut self.trace else { return };
        if trace.len() == TRACED {
            trace.pop_front();
        }
        trace.push_back(format!("{:>18} {text}", seconds(self.now)));
    }
}

/// A falseticker whose interval overlaps the page's cannot be recognized; and what is nearly that may become so while
/// it counts.
fn plausible(judge: &Judge, guest_offset: u64, drift: u64) -> impl Fn(&Delivered) -> bool + '_ {
    move |delivered| {
        let grown = i128::from(delivered.ended - delivered.began)
            + i128::from(part_of(MINUTE, 4 * drift as i64))
            + (delivered.latest - delivered.earliest);
        judge.interval(delivered.before.wrapping_add(guest_offset)).is_none_or(|(earliest, latest)| {
            delivered.earliest - grown <= latest && earliest <= delivered.latest + grown
        })
    }
}

fn moment<'a>(now: Nanos, counter: &Counter, guest_offset: u64, calendar: &'a Calendar) -> Moment<'a> {
    Moment { at: now, counter: counter.at(now).wrapping_add(guest_offset), calendar }
}

/// The lists of leap seconds of a world.
fn lists(spec: &WorldSpec) -> Vec<(Nanos, LeapSeconds)> {
    let calendar = &spec.calendar;
    let list = |(from, expires): &(Nanos, Nanos)| {
        let expires = calendar.epoch - OFFSET + expires / SECOND + NTP_TO_UNIX;
        let leap = calendar.leap.filter(|_| spec.knowledge.lists_leap).map_or_else(String::new, |leap| {
            let after = if leap.kind == vmclock_core::leap::LeapKind::Inserted { OFFSET + 1 } else { OFFSET - 1 };
            format!("{} {after}\n", leap.month + NTP_TO_UNIX)
        });
        let text = format!("#@ {expires}\n{} {OFFSET}\n{leap}", SINCE + NTP_TO_UNIX);
        Some((*from, LeapSeconds::parse(&text).ok()?))
    };
    spec.knowledge.lists.iter().filter_map(list).collect()
}
