// SPDX-License-Identifier: MIT OR Apache-2.0
//! All that a publisher's decisions depend on, and what was decided, as text: to find out later why, and to see that
//! the same is decided again, bit for bit.
//!
//! What sources said is recorded as they said it, before UTC is turned into TAI: so decisions about leap seconds are
//! replayed too. A line for each step, words with a space between them; numbers are whole: counters, 2^-64 s,
//! nanoseconds, parts per 10^12, seconds, as in the types; `-` where there is none. The first line is
//! `vmclock-trace 2`.

use std::fmt::{self, Write as _};
use std::io::{self, BufRead, Write};
use std::str::FromStr;

use vmclock_core::abi::ClockStatus;
use vmclock_core::calibration::{Calibration, Period};
use vmclock_core::leap::LeapKind;
use vmclock_core::lifecycle::LeapStatus;
use vmclock_core::sample::Sample;
use vmclock_core::tai::TaiOffset;
use vmclock_core::time::{Tai, Time, Utc};

use crate::estimator::Settings;
use crate::policy::{Decision, Policy, Role, Start};
use crate::schedule::LeapSecond;
use crate::source::{LeapNotice, Measurement, Stamp};
use crate::utc::{Knowledge, Listed, UtcFinding};

const HEADER: &str = "vmclock-trace 2";
/// More sources than a publisher takes.
const MOST_SOURCES: usize = 64;

/// A line of a trace.
#[derive(Clone, Debug)]
enum Entry {
    New(Start),
    /// What another process saved, from where decisions go on.
    Resume(Box<Policy>),
    Found(Option<[i128; 8]>),
    Renew,
    Release,
    Rest(u64),
    Restart(Period),
    Update(Knowledge, Time<Utc>, u64),
    Announce(Option<LeapKind>, u64),
    Measured(usize, Measurement),
    Conclude(u64),
    Settle(u64),
    /// What came of it: the status, whether it is a disruption, what is to be published, and what it says of UTC.
    Concluded(Outcome),
    Settled(Option<[i128; 8]>),
}

/// What a decision is compared by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Outcome {
    status: ClockStatus,
    disrupted: bool,
    calibration: Option<[i128; 8]>,
    leap: (Option<TaiOffset>, u8),
}

/// A calibration as numbers: counter, time, period, shift, and errors, -1 where there is none.
fn numbers(calibration: &Calibration<Tai>) -> [i128; 8] {
    let error = |error: Option<u64>| error.map_or(-1, i128::from);
    [
        calibration.reference_counter().into(),
        calibration.reference_time().raw(),
        calibration.period().frac().into(),
        calibration.period().shift().into(),
        error(calibration.time_max_error()),
        error(calibration.time_estimated_error()),
        error(calibration.period_max_error_rate()),
        error(calibration.period_estimated_error_rate()),
    ]
}

/// A calibration of such numbers, with all errors.
fn calibration(numbers: &[i128; 8]) -> Option<Calibration<Tai>> {
    let number = |index: usize| u64::try_from(numbers[index]).ok();
    let period = Period::from_parts(number(2)?, u8::try_from(numbers[3]).ok()?)?;
    let calibration = Calibration::new(number(0)?, Time::from_raw(numbers[1]), period);
    // Time and period, maximum and estimated.
    Some(calibration.with_errors((number(4)?, number(6)?), (number(5)?, number(7)?)))
}

impl Outcome {
    fn of(decision: &Decision, leap: LeapStatus) -> Self {
        let conclusion = &decision.conclusion;
        Self {
            status: conclusion.status,
            disrupted: conclusion.disrupted,
            calibration: conclusion.publish.as_ref().map(numbers),
            leap: (leap.tai_offset, leap.indicator.0),
        }
    }
}

/// The words of a line that is written.
#[derive(Default)]
struct Line(String);

impl Line {
    fn new(kind: &str) -> Self {
        Self(kind.to_owned())
    }

    fn word(mut self, word: impl fmt::Display) -> Self {
        // A String takes anything.
        let _ = write!(self.0, " {word}");
        self
    }

    fn flag(self, flag: bool) -> Self {
        self.word(u8::from(flag))
    }

    fn option(self, word: Option<impl fmt::Display>) -> Self {
        match word {
            Some(word) => self.word(word),
            None => self.word('-'),
        }
    }

    fn period(self, period: Period) -> Self {
        self.word(period.frac()).word(period.shift())
    }

    fn offset(self, offset: Option<TaiOffset>) -> Self {
        self.option(offset.map(TaiOffset::seconds))
    }

    fn kind(self, kind: Option<LeapKind>) -> Self {
        self.option(kind)
    }

    fn knowledge(self, knowledge: &Knowledge) -> Self {
        let line = self.offset(knowledge.stated).offset(knowledge.kernel);
        let Some(list) = knowledge.list else { return line.word('-') };
        let line = line.offset(Some(list.offset)).word(list.expires).option(list.next.map(|next| next.month));
        line.kind(list.next.map(|next| next.kind))
    }

    fn numbers(self, numbers: Option<&[i128; 8]>) -> Self {
        numbers.into_iter().flatten().fold(self, Line::word)
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = match self {
            Self::New(Start { settings, nominal, roles, knowledge, utc }) => {
                let Settings { wander, measured_wander, nominal_error, source_timeout, probation, monotonic } =
                    settings;
                let line = Line::new("new").word(wander).option(*measured_wander).word(nominal_error);
                let line = line.word(source_timeout).word(probation).flag(*monotonic).period(*nominal);
                let line = line.word(utc.raw()).knowledge(knowledge).word(roles.len());
                roles.iter().fold(line, |line, role| line.word(role.clock).flag(role.is_tai))
            }
            // Numbers and names, without a space.
            Self::Resume(policy) => Line::new("resume").word(serde_json::to_string(policy).map_err(|_| fmt::Error)?),
            Self::Found(calibration) => Line::new("found").numbers(calibration.as_ref()),
            Self::Renew => Line::new("renew"),
            Self::Release => Line::new("release"),
            Self::Rest(now) => Line::new("rest").word(now),
            Self::Restart(nominal) => Line::new("restart").period(*nominal),
            Self::Update(knowledge, utc, now) => Line::new("update").word(utc.raw()).word(now).knowledge(knowledge),
            Self::Announce(kind, now) => Line::new("announce").kind(*kind).word(now),
            Self::Measured(source, measurement) => {
                let Measurement { stamp, max_error, estimated_error, synchronized, leap, era, steering } = measurement;
                let (scale, raw) = match stamp {
                    Stamp::Tai(sample) => ("tai", sample.time.raw()),
                    Stamp::Utc(sample) => ("utc", sample.time.raw()),
                };
                let line = Line::new("measured").word(source).word(scale).word(stamp.before()).word(stamp.after());
                let line = line.word(raw).word(max_error).word(estimated_error).flag(*synchronized);
                line.kind(leap.today).flag(leap.now).offset(leap.tai_offset).word(era).option(*steering)
            }
            Self::Conclude(now) => Line::new("conclude").word(now),
            Self::Settle(counter) => Line::new("settle").word(counter),
            Self::Concluded(Outcome { status, disrupted, calibration, leap }) => Line::new("concluded")
                .word(status.0)
                .flag(*disrupted)
                .offset(leap.0)
                .word(leap.1)
                .numbers(calibration.as_ref()),
            Self::Settled(calibration) => Line::new("settled").numbers(calibration.as_ref()),
        };
        f.write_str(&line.0)
    }
}

/// The words of a line that is read, taken from the front.
struct Words<'a>(std::str::SplitAsciiWhitespace<'a>);

#[allow(clippy::option_option)] // whether it makes sense, and whether there is one
impl Words<'_> {
    fn next<T: FromStr>(&mut self) -> Option<T> {
        self.0.next()?.parse().ok()
    }

    fn option<T: FromStr>(&mut self) -> Option<Option<T>> {
        match self.0.next()? {
            "-" => Some(None),
            word => word.parse().ok().map(Some),
        }
    }

    fn flag(&mut self) -> Option<bool> {
        self.next::<u8>().filter(|flag| *flag <= 1).map(|flag| flag == 1)
    }

    fn period(&mut self) -> Option<Period> {
        Period::from_parts(self.next()?, self.next()?)
    }

    fn offset(&mut self) -> Option<Option<TaiOffset>> {
        match self.option()? {
            None => Some(None),
            Some(seconds) => TaiOffset::from_seconds(seconds).map(Some),
        }
    }

    fn kind(&mut self) -> Option<Option<LeapKind>> {
        Some(match self.0.next()? {
            "-" => None,
            "inserted" => Some(LeapKind::Inserted),
            "deleted" => Some(LeapKind::Deleted),
            _ => return None,
        })
    }

    fn knowledge(&mut self) -> Option<Knowledge> {
        let (stated, kernel) = (self.offset()?, self.offset()?);
        let list = match self.offset()? {
            None => None,
            Some(offset) => {
                let (expires, month, kind) = (self.next()?, self.option()?, self.kind()?);
                let next = month.zip(kind).map(|(month, kind)| LeapSecond { month, kind });
                Some(Listed { offset, next, expires })
            }
        };
        Some(Knowledge { stated, kernel, list })
    }

    fn numbers(&mut self) -> Option<Option<[i128; 8]>> {
        if self.is_at_end() {
            return Some(None);
        }
        let mut numbers = [0; 8];
        for number in &mut numbers {
            *number = self.next()?;
        }
        Some(Some(numbers))
    }

    fn is_at_end(&self) -> bool {
        self.0.clone().next().is_none()
    }
}

impl Entry {
    fn parse(line: &str) -> Option<Self> {
        let mut words = Words(line.split_ascii_whitespace());
        let entry = match words.0.next()? {
            "new" => {
                let settings = Settings {
                    wander: words.next()?,
                    measured_wander: words.option()?,
                    nominal_error: words.next()?,
                    source_timeout: words.next()?,
                    probation: words.next()?,
                    monotonic: words.flag()?,
                };
                let (nominal, utc) = (words.period()?, Time::from_raw(words.next()?));
                let (knowledge, count) = (words.knowledge()?, words.next::<usize>()?);
                let mut roles = Vec::new();
                for _ in 0..Some(count).filter(|count| *count <= MOST_SOURCES)? {
                    let clock = words.next().filter(|clock| *clock < MOST_SOURCES)?;
                    roles.push(Role { clock, is_tai: words.flag()? });
                }
                Self::New(Start { settings, nominal, roles, knowledge, utc })
            }
            "resume" => Self::Resume(serde_json::from_str(words.0.next()?).ok()?),
            "found" => Self::Found(words.numbers()?),
            "renew" => Self::Renew,
            "release" => Self::Release,
            "rest" => Self::Rest(words.next()?),
            "restart" => Self::Restart(words.period()?),
            "update" => {
                let (utc, now) = (Time::from_raw(words.next()?), words.next()?);
                Self::Update(words.knowledge()?, utc, now)
            }
            "announce" => Self::Announce(words.kind()?, words.next()?),
            "measured" => {
                let (source, scale) = (words.next()?, words.0.next()?);
                let (before, after, raw) = (words.next()?, words.next()?, words.next()?);
                let stamp = match scale {
                    "tai" => Stamp::Tai(Sample { before, time: Time::from_raw(raw), after }),
                    "utc" => Stamp::Utc(Sample { before, time: Time::from_raw(raw), after }),
                    _ => return None,
                };
                let (max_error, estimated_error, synchronized) = (words.next()?, words.next()?, words.flag()?);
                let leap = LeapNotice { today: words.kind()?, now: words.flag()?, tai_offset: words.offset()? };
                let (era, steering) = (words.next()?, words.option()?);
                let measurement = Measurement { stamp, max_error, estimated_error, synchronized, leap, era, steering };
                Self::Measured(source, measurement)
            }
            "conclude" => Self::Conclude(words.next()?),
            "settle" => Self::Settle(words.next()?),
            "concluded" => {
                let (status, disrupted) = (ClockStatus(words.next()?), words.flag()?);
                let leap = (words.offset()?, words.next()?);
                Self::Concluded(Outcome { status, disrupted, calibration: words.numbers()?, leap })
            }
            "settled" => Self::Settled(words.numbers()?),
            _ => return None,
        };
        words.is_at_end().then_some(entry)
    }
}

/// Decisions that are recorded, with all that they depend on.
pub struct Recorder {
    policy: Policy,
    out: Option<Box<dyn Write>>,
    /// The first error of writing, after which nothing more is written: a clock is worth more than its records.
    error: Option<io::Error>,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("policy", &self.policy).field("error", &self.error).finish_non_exhaustive()
    }
}

impl Recorder {
    /// Decisions start, with a place to write to.
    pub fn new(start: Start, out: Option<Box<dyn Write>>) -> Self {
        let mut recorder = Self { policy: Policy::new(&start), out, error: None };
        recorder.line(&HEADER);
        recorder.line(&Entry::New(start));
        recorder
    }

    /// Decisions go on from what another process saved.
    pub fn resume(start: Start, policy: Policy, out: Option<Box<dyn Write>>) -> Self {
        let mut recorder = Self { policy, out, error: None };
        recorder.line(&HEADER);
        recorder.line(&Entry::New(start));
        if recorder.out.is_some() {
            let policy = Box::new(recorder.policy.clone());
            recorder.line(&Entry::Resume(policy));
        }
        recorder
    }

    /// The decisions.
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Why nothing is written any more, once.
    pub const fn take_error(&mut self) -> Option<io::Error> {
        self.error.take()
    }

    /// [`Policy::found`]
    pub fn found(&mut self, on_page: Option<&Calibration<Tai>>) {
        self.line(&Entry::Found(on_page.map(numbers)));
        self.policy.found(on_page);
    }

    /// [`Policy::renew`]
    pub fn renew(&mut self) {
        self.line(&Entry::Renew);
        self.policy.renew();
    }

    /// [`Policy::release`]
    pub fn release(&mut self) {
        self.line(&Entry::Release);
        self.policy.release();
    }

    /// [`Policy::rest`]
    pub fn rest(&mut self, now: u64) -> bool {
        self.line(&Entry::Rest(now));
        self.policy.rest(now)
    }

    /// [`Policy::restart`]
    pub fn restart(&mut self, nominal: Period) {
        self.line(&Entry::Restart(nominal));
        self.policy.restart(nominal);
    }

    /// [`Policy::update`]
    pub fn update(&mut self, knowledge: Knowledge, utc: Time<Utc>, now: u64) -> Vec<UtcFinding> {
        self.line(&Entry::Update(knowledge, utc, now));
        self.policy.update(knowledge, utc, now)
    }

    /// [`Policy::announce`]
    pub fn announce(&mut self, kind: Option<LeapKind>, now: u64) -> i64 {
        self.line(&Entry::Announce(kind, now));
        self.policy.announce(kind, now)
    }

    /// [`Policy::measured`]
    pub fn measured(&mut self, source: usize, measurement: &Measurement) {
        self.line(&Entry::Measured(source, *measurement));
        self.policy.measured(source, measurement);
    }

    /// [`Policy::conclude`]
    pub fn conclude(&mut self, now: u64) -> Decision {
        let decision = self.policy.conclude(now);
        if self.out.is_some() {
            let leap = self.policy.leap_status(self.policy.time_at(now));
            self.line(&Entry::Conclude(now));
            self.line(&Entry::Concluded(Outcome::of(&decision, leap)));
        }
        decision
    }

    /// [`Policy::settle`]. Nothing is written yet, as readers wait: [`settled`](Self::settled) does it.
    pub fn settle(&mut self, counter: u64) -> Option<Calibration<Tai>> {
        self.policy.settle(counter)
    }

    /// Writes down what was settled at a counter value.
    pub fn settled(&mut self, counter: u64, calibration: Option<&Calibration<Tai>>) {
        self.line(&Entry::Settle(counter));
        self.line(&Entry::Settled(calibration.map(numbers)));
    }

    fn line(&mut self, line: &dyn fmt::Display) {
        let Some(out) = &mut self.out else { return };
        if let Err(error) = writeln!(out, "{line}").and_then(|()| out.flush()) {
            self.error = Some(error);
            self.out = None;
        }
    }
}

/// What became of a trace.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Replay {
    /// Measurements of sources.
    pub measurements: u64,
    /// Calibrations that were published.
    pub calibrations: u64,
    /// Conclusions that were not the same again, to the last bit.
    pub different: u64,
}

/// Why a trace cannot be replayed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// It cannot be read.
    #[error("line {line}: cannot be read: {error}")]
    Io {
        /// Counted from 1.
        line: usize,
        /// What the system says.
        error: io::Error,
    },
    /// A line makes no sense.
    #[error("line {line}: {text:?} is no line of a trace; is the file from this version's `vmclock serve --record`?")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What it says.
        text: String,
    },
}

/// Does all of a trace again, and compares. `each` gets every calibration, as it comes out now.
pub fn replay(trace: impl BufRead, mut each: impl FnMut(&Calibration<Tai>)) -> Result<Replay, ReplayError> {
    let mut policy: Option<Policy> = None;
    let mut result = Replay::default();
    let mut concluded = None;
    let mut settled = None;
    for (index, text) in trace.lines().enumerate() {
        let line = index + 1;
        let text = text.map_err(|error| ReplayError::Io { line, error })?;
        if index == 0 && text == HEADER {
            continue;
        }
        // Whoever was killed in the middle of a line wrote half of it: that ends a trace.
        let nonsense = || ReplayError::Line { line, text: text.chars().take(80).collect() };
        let entry = Entry::parse(&text).filter(|_| index > 0).ok_or_else(nonsense)?;
        match (entry, &mut policy) {
            (Entry::New(start), _) => policy = Some(Policy::new(&start)),
            (Entry::Resume(saved), Some(policy)) => *policy = *saved,
            (Entry::Found(numbers), Some(policy)) => {
                let on_page = numbers.map(|numbers| calibration(&numbers).ok_or_else(nonsense)).transpose()?;
                policy.found(on_page.as_ref());
            }
            (Entry::Renew, Some(policy)) => policy.renew(),
            (Entry::Release, Some(policy)) => policy.release(),
            (Entry::Rest(now), Some(policy)) => {
                policy.rest(now);
            }
            (Entry::Restart(nominal), Some(policy)) => policy.restart(nominal),
            (Entry::Update(knowledge, utc, now), Some(policy)) => {
                policy.update(knowledge, utc, now);
            }
            (Entry::Announce(kind, now), Some(policy)) => {
                policy.announce(kind, now);
            }
            (Entry::Measured(source, measurement), Some(policy)) => {
                result.measurements += 1;
                policy.measured(source, &measurement);
            }
            (Entry::Conclude(now), Some(policy)) => {
                let decision = policy.conclude(now);
                let leap = policy.leap_status(policy.time_at(now));
                concluded = Some((Outcome::of(&decision, leap), decision.conclusion.publish));
            }
            (Entry::Settle(counter), Some(policy)) => settled = Some(policy.settle(counter)),
            (Entry::Concluded(outcome), Some(_)) => {
                let (again, publish) = concluded.take().ok_or_else(nonsense)?;
                result.different += u64::from(again != outcome);
                if let Some(calibration) = &publish {
                    result.calibrations += 1;
                    each(calibration);
                }
            }
            (Entry::Settled(numbers_then), Some(_)) => {
                let again = settled.take().ok_or_else(nonsense)?;
                result.different += u64::from(again.as_ref().map(numbers) != numbers_then);
            }
            _ => return Err(nonsense()),
        }
    }
    Ok(result)
}

#[cfg(test)]
mod tests;
