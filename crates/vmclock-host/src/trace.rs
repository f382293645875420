// SPDX-License-Identifier: MIT OR Apache-2.0
//! All that an estimator was told, and what it concluded, as text: to find out later why it did, and to see that it does the
//! same again, bit for bit.
//!
//! A line for each call, words with a space between them; numbers are whole: counters, 2^-64 s, nanoseconds, and parts per
//! 10^12, as in the types. The first line is `vmclock-trace 1`.

use std::fmt;
use std::io::{self, BufRead, Write};
use std::str::FromStr;

use vmclock_core::abi::ClockStatus;
use vmclock_core::calibration::Period;
use vmclock_core::time::Time;

use crate::estimator::{Conclusion, Estimate, Estimator, Evidence, Finding, Settings};

const HEADER: &str = "vmclock-trace 1";

/// A line of a trace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// [`Estimator::new`]
    New(Settings, Period, usize),
    /// [`Estimator::restart`]
    Restart(Period),
    /// [`Estimator::observe`]
    Look(Evidence),
    /// [`Estimator::conclude`]
    Conclude(u64),
    /// [`Estimator::settle`]
    Settle(u64),
    /// What came of the last conclusion: the status, whether it is a disruption, and what is to be published.
    Concluded(ClockStatus, bool, Option<Estimate>),
    /// What came of settling.
    Settled(Option<Estimate>),
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let period = |period: &Period| format!("{} {}", period.frac(), period.shift());
        match self {
            Self::New(settings, nominal, sources) => {
                let Settings { drift, least_drift, nominal_error, holdover, probation, monotonic } = settings;
                write!(
                    f,
                    "new {drift} {least_drift} {nominal_error} {holdover} {probation} {} {} {sources}",
                    u8::from(*monotonic),
                    period(nominal)
                )
            }
            Self::Restart(nominal) => write!(f, "restart {}", period(nominal)),
            Self::Look(Evidence { source, before, after, time, max_error, estimated_error, synchronized }) => write!(
                f,
                "look {source} {before} {after} {} {max_error} {estimated_error} {}",
                time.raw(),
                u8::from(*synchronized)
            ),
            Self::Conclude(now) => write!(f, "conclude {now}"),
            Self::Settle(counter) => write!(f, "settle {counter}"),
            Self::Concluded(status, disrupted, estimate) => {
                write!(f, "concluded {} {}{}", status.0, u8::from(*disrupted), words(estimate.as_ref()))
            }
            Self::Settled(estimate) => write!(f, "settled{}", words(estimate.as_ref())),
        }
    }
}

fn words(estimate: Option<&Estimate>) -> String {
    estimate.map_or_else(String::new, |estimate| {
        format!(
            " {} {} {} {} {} {} {} {}",
            estimate.counter,
            estimate.time.raw(),
            estimate.period.frac(),
            estimate.period.shift(),
            estimate.time_max_error,
            estimate.time_estimated_error,
            estimate.period_max_error,
            estimate.period_estimated_error
        )
    })
}

/// The words of a line, taken from the front.
struct Words<'a>(std::str::SplitAsciiWhitespace<'a>);

impl Words<'_> {
    fn next<T: FromStr>(&mut self) -> Option<T> {
        self.0.next()?.parse().ok()
    }

    fn flag(&mut self) -> Option<bool> {
        self.next::<u8>().filter(|flag| *flag <= 1).map(|flag| flag == 1)
    }

    fn period(&mut self) -> Option<Period> {
        Period::from_parts(self.next()?, self.next()?)
    }

    fn is_at_end(&self) -> bool {
        self.0.clone().next().is_none()
    }

    fn estimate(&mut self) -> Option<Estimate> {
        Some(Estimate {
            counter: self.next()?,
            time: Time::from_raw(self.next()?),
            period: self.period()?,
            time_max_error: self.next()?,
            time_estimated_error: self.next()?,
            period_max_error: self.next()?,
            period_estimated_error: self.next()?,
        })
    }
}

impl Entry {
    fn parse(line: &str) -> Option<Self> {
        let mut words = Words(line.split_ascii_whitespace());
        let entry = match words.0.next()? {
            "new" => {
                let settings = Settings {
                    drift: words.next()?,
                    least_drift: words.next()?,
                    nominal_error: words.next()?,
                    holdover: words.next()?,
                    probation: words.next()?,
                    monotonic: words.flag()?,
                };
                Self::New(settings, words.period()?, words.next()?)
            }
            "restart" => Self::Restart(words.period()?),
            "look" => Self::Look(Evidence {
                source: words.next()?,
                before: words.next()?,
                after: words.next()?,
                time: Time::from_raw(words.next()?),
                max_error: words.next()?,
                estimated_error: words.next()?,
                synchronized: words.flag()?,
            }),
            "conclude" => Self::Conclude(words.next()?),
            "settle" => Self::Settle(words.next()?),
            "concluded" => {
                let (status, disrupted) = (ClockStatus(words.next()?), words.flag()?);
                Self::Concluded(status, disrupted, if words.is_at_end() { None } else { Some(words.estimate()?) })
            }
            "settled" if words.is_at_end() => Self::Settled(None),
            "settled" => Self::Settled(Some(words.estimate()?)),
            _ => return None,
        };
        words.is_at_end().then_some(entry)
    }
}

/// An estimator that writes down all that it is told.
#[derive(Debug)]
pub struct Recorder<W> {
    estimator: Estimator,
    out: Option<W>,
    /// The first error of writing, after which nothing more is written: a clock is worth more than its records.
    error: Option<io::Error>,
}

impl<W: Write> Recorder<W> {
    /// Like [`Estimator::new`], with a place to write to.
    pub fn new(settings: Settings, nominal: Period, sources: usize, out: Option<W>) -> Self {
        let mut recorder = Self { estimator: Estimator::new(settings, nominal, sources), out, error: None };
        recorder.line(&HEADER);
        recorder.line(&Entry::New(settings, nominal, sources));
        recorder
    }

    /// The estimator.
    pub const fn estimator(&self) -> &Estimator {
        &self.estimator
    }

    /// Why nothing is written any more, once.
    pub const fn take_error(&mut self) -> Option<io::Error> {
        self.error.take()
    }

    /// [`Estimator::restart`]
    pub fn restart(&mut self, nominal: Period) {
        self.line(&Entry::Restart(nominal));
        self.estimator.restart(nominal);
    }

    /// [`Estimator::observe`]
    pub fn observe(&mut self, evidence: &Evidence) -> Option<Finding> {
        self.line(&Entry::Look(*evidence));
        self.estimator.observe(evidence)
    }

    /// [`Estimator::conclude`]
    pub fn conclude(&mut self, now: u64) -> Conclusion {
        let conclusion = self.estimator.conclude(now);
        self.line(&Entry::Conclude(now));
        self.line(&Entry::Concluded(conclusion.status, conclusion.disrupted, conclusion.publish));
        conclusion
    }

    /// [`Estimator::settle`]. Nothing is written yet, as readers wait: [`settled`](Self::settled) does it.
    pub fn settle(&mut self, counter: u64) -> Option<Estimate> {
        self.estimator.settle(counter)
    }

    /// Writes down what was settled at a counter value.
    pub fn settled(&mut self, counter: u64, estimate: Option<Estimate>) {
        self.line(&Entry::Settle(counter));
        self.line(&Entry::Settled(estimate));
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
    /// Looks at sources.
    pub looks: u64,
    /// Calibrations that were published.
    pub calibrations: u64,
    /// Conclusions that were not the same again, to the last bit.
    pub different: u64,
}

/// Why a trace cannot be replayed.
#[derive(Debug, thiserror::Error)]
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
    #[error("line {line}: {text:?} is no line of a trace; is the file from `vmclock serve --record`?")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What it says.
        text: String,
    },
}

/// Does all of a trace again, and compares. `each` gets every calibration, as it comes out now.
pub fn replay(trace: impl BufRead, mut each: impl FnMut(&Estimate)) -> Result<Replay, ReplayError> {
    let mut estimator: Option<Estimator> = None;
    let mut outcome = Replay::default();
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
        match (entry, &mut estimator) {
            (Entry::New(settings, nominal, sources), _) if sources <= 64 => {
                estimator = Some(Estimator::new(settings, nominal, sources));
            }
            (Entry::Restart(nominal), Some(estimator)) => estimator.restart(nominal),
            (Entry::Look(evidence), Some(estimator)) => {
                outcome.looks += 1;
                estimator.observe(&evidence);
            }
            (Entry::Conclude(now), Some(estimator)) => concluded = Some(estimator.conclude(now)),
            (Entry::Settle(counter), Some(estimator)) => settled = Some(estimator.settle(counter)),
            (Entry::Concluded(status, disrupted, estimate), Some(_)) => {
                let again = concluded.take().ok_or_else(nonsense)?;
                outcome.different +=
                    u64::from((again.status, again.disrupted, again.publish) != (status, disrupted, estimate));
                if let Some(estimate) = &again.publish {
                    outcome.calibrations += 1;
                    each(estimate);
                }
            }
            (Entry::Settled(estimate), Some(_)) => {
                outcome.different += u64::from(settled.take().ok_or_else(nonsense)? != estimate);
            }
            _ => return Err(nonsense()),
        }
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU64;

    fn evidence(second: u64, off: i64) -> Evidence {
        let counter = second.wrapping_mul(2_500_000_000).wrapping_add(u64::MAX - 5_000_000_000);
        let nanos = i128::from(1_800_000_000 + second) * 1_000_000_000 + i128::from(off);
        Evidence {
            source: 0,
            before: counter,
            after: counter.wrapping_add(100),
            time: Time::from_nanos(nanos).expect("in range"),
            max_error: 500,
            estimated_error: 50,
            synchronized: true,
        }
    }

    fn record(monotonic: bool) -> Vec<u8> {
        let nominal = Period::from_frequency(NonZeroU64::new(2_500_100_000).expect("not 0"));
        let settings = Settings { monotonic, ..Settings::default() };
        let mut trace = Vec::new();
        let mut recorder = Recorder::new(settings, nominal, 1, Some(&mut trace));
        for second in 0..200 {
            let look = evidence(second, if second % 3 == 0 { 300 } else { -200 });
            recorder.observe(&look);
            recorder.conclude(look.after);
            if monotonic {
                let settled = recorder.settle(look.after + 1_000);
                recorder.settled(look.after + 1_000, settled);
            }
            if second == 150 {
                recorder.restart(nominal);
            }
        }
        assert!(recorder.take_error().is_none());
        trace
    }

    #[test]
    fn a_trace_gives_the_same_again() {
        for monotonic in [false, true] {
            let trace = record(monotonic);
            let mut seen = 0;
            let outcome = replay(&trace[..], |_| seen += 1).expect("a trace");
            assert_eq!((outcome.looks, outcome.different), (200, 0));
            assert!(outcome.calibrations > 100 && seen == outcome.calibrations, "{outcome:?}");
        }
    }

    #[test]
    fn a_difference_is_found_and_nonsense_refused() {
        let text = String::from_utf8(record(false)).expect("text");
        let (index, line) =
            text.lines().enumerate().filter(|(_, line)| line.starts_with("look")).nth(20).expect("a look");
        let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let time: i128 = words[4].parse().expect("a number");
        words[4] = (time + (1 << 40)).to_string();
        let changed = words.join(" ");
        let other: Vec<&str> =
            text.lines().enumerate().map(|(at, line)| if at == index { changed.as_str() } else { line }).collect();
        let outcome = replay(other.join("\n").as_bytes(), |_| ()).expect("a trace");
        assert!(outcome.different > 0, "{outcome:?}");
        for (nonsense, line) in [
            ("", None),
            ("vmclock-trace 2\n", Some(1)),
            ("vmclock-trace 1\nconclude 5\n", Some(2)),
            ("vmclock-trace 1\nnew 1 1 1 1 1 0 9223372036854775808 31 1\nlook 0 1 2 3 4 5\n", Some(3)),
            ("vmclock-trace 1\nnew 1 1 1 1 1 0 9223372036854775808 31 1\nconcluded 2 0\n", Some(3)),
            ("vmclock-trace 1\nnew 1 1 1 1 1 0 9223372036854775808 31 99999999999\n", Some(2)),
        ] {
            match (replay(nonsense.as_bytes(), |_| ()), line) {
                (Ok(outcome), None) => assert_eq!(outcome, Replay::default()),
                (Err(ReplayError::Line { line: found, .. }), Some(line)) => assert_eq!(found, line, "{nonsense:?}"),
                (other, _) => panic!("{nonsense:?}: {other:?}"),
            }
        }
    }
}
