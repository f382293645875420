// SPDX-License-Identifier: MIT OR Apache-2.0
//! What one source has said.

use super::{grown, Evidence};
use crate::interval::Range;

/// How many looks must agree before what contradicts earlier ones is believed, however short the probation.
const INSISTENCE: u32 = 3;
/// The weight of the newest surprise in the estimated error.
const NEWEST: f64 = 1.0 / 16.0;

/// One source. Times are nanoseconds from the estimator's base.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Track {
    /// What all its looks allow, at the counter `at`.
    range: Option<Range>,
    at: u64,
    heard: u64,
    synchronized: bool,
    estimated_error: f64,
    doubt: Option<Doubt>,
}

/// Another time that the source insists on.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    range: Range,
    at: u64,
    since: u64,
    /// How many looks agree with it, and how many in a row with what was said before.
    count: u32,
    vindications: u32,
}

/// What a look is in the light of those before.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Verdict {
    Fits,
    /// It contradicts the ones before by so many nanoseconds (positive: ahead).
    Doubted {
        ahead: f64,
    },
    Vindicated,
    Stepped,
}

impl Track {
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    pub(super) fn is_synchronized(&self) -> bool {
        self.synchronized
    }

    pub(super) fn estimated_error(&self) -> f64 {
        if self.range.is_some() {
            self.estimated_error
        } else {
            f64::MAX
        }
    }

    pub(super) fn is_heard_within(&self, nanos: f64, age: impl Fn(u64) -> f64) -> bool {
        self.range.is_some() && age(self.heard) <= nanos
    }

    /// Where the time is by what it said before, after so many nanoseconds.
    pub(super) fn expected(&self, elapsed: f64, rates: Range) -> Option<Range> {
        self.range.map(|range| grown(range, elapsed, rates))
    }

    /// The same, from a source that does not contradict itself.
    pub(super) fn vote(&self, elapsed: f64, rates: Range) -> Option<Range> {
        self.expected(elapsed, rates).filter(|_| self.doubt.is_none())
    }

    /// Takes what the source said at the counter `at`. `elapsed` is the time from one counter value to another.
    pub(super) fn hear(
        &mut self,
        at: u64,
        said: Range,
        elapsed: impl Fn(u64, u64) -> f64,
        rates: Range,
        evidence: &Evidence,
        probation: f64,
    ) -> Verdict {
        let improved = evidence.synchronized && !self.synchronized;
        self.heard = at;
        self.synchronized = evidence.synchronized;
        let Some(expected) = self.expected(elapsed(self.at, at), rates) else {
            self.estimated_error = evidence.estimated_error as f64;
            self.begin(at, said);
            return Verdict::Fits;
        };
        let doubted = self.doubt.and_then(|doubt| {
            let range = grown(doubt.range, elapsed(doubt.at, at), rates).and(said)?;
            Some((doubt, range))
        });
        match (expected.and(said), doubted) {
            // So vague a look settles nothing.
            (Some(_), Some(_)) => return Verdict::Fits,
            (Some(_), None) if self.doubt.is_some_and(|doubt| doubt.vindications + 1 < INSISTENCE) => {
                // One may be a coincidence.
                self.doubt = self.doubt.map(|doubt| Doubt { vindications: doubt.vindications + 1, ..doubt });
                return Verdict::Fits;
            }
            (Some(both), None) => {
                let surprise = (said.middle() - expected.middle()).abs().max(evidence.estimated_error as f64);
                self.estimated_error += (surprise - self.estimated_error) * NEWEST;
                let was_doubted = self.doubt.is_some();
                self.begin(at, both);
                return if was_doubted { Verdict::Vindicated } else { Verdict::Fits };
            }
            (None, _) => {}
        }
        if improved {
            // What it said before, it said without a clock to go by.
            self.begin(at, said);
            return Verdict::Stepped;
        }
        let ahead = expected.distance_to(said);
        let Some((doubt, range)) = doubted else {
            self.doubt = Some(Doubt { range: said, at, since: at, count: 1, vindications: 0 });
            return Verdict::Doubted { ahead };
        };
        let count = doubt.count + 1;
        if count >= INSISTENCE && elapsed(doubt.since, at) >= probation {
            self.begin(at, range);
            return Verdict::Stepped;
        }
        self.doubt = Some(Doubt { range, at, count, vindications: 0, ..doubt });
        Verdict::Fits
    }

    fn begin(&mut self, at: u64, range: Range) {
        (self.range, self.at, self.doubt) = (Some(range), at, None);
    }

    /// Lets times be relative to another base: `shift` says how far a counter value's times move.
    pub(super) fn rebase(&mut self, shift: impl Fn(u64) -> f64) {
        self.range = self.range.map(|range| range.shifted(shift(self.at)));
        if let Some(doubt) = &mut self.doubt {
            doubt.range = doubt.range.shifted(shift(doubt.at));
        }
    }
}
