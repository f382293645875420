// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the time was some while ago, to measure the counter's rate from; and how much that rate has changed.

use super::SECOND;
use crate::interval::Range;

/// The longest time that the rate is measured over is between 2^LEVELS / 2 and 2^LEVELS seconds: some hours.
const LEVELS: usize = 15;
/// A rate is measured over the shortest time in which it becomes as exact as this part of what it may drift: the shorter, the nearer to now.
const PART_OF_DRIFT: f64 = 8.0;
/// How long the rate is watched before its changes count as measured.
const WATCHED: f64 = 86_400.0 * SECOND;
/// A crystal follows its temperature in some minutes.
const SHOWN: f64 = 300.0 * SECOND;
/// How many times the range of the changes that were seen is to be expected.
const EXPECTED: f64 = 3.0;

/// Where the time was at a counter value, in nanoseconds from the estimator's base.
#[derive(Clone, Copy, Debug)]
struct Anchor {
    counter: u64,
    known: Range,
}

/// Two anchors for each power of two seconds: one at least that old, and one that is to become so.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Anchors {
    levels: [(Option<Anchor>, Option<Anchor>); LEVELS],
}

impl Anchors {
    /// The average rate between an anchor and now, and how long that was.
    pub(super) fn rate(&self, known: Range, age: impl Fn(u64) -> f64, drift: f64) -> Option<(Range, f64)> {
        let mut best: Option<(Range, f64)> = None;
        for (anchor, _) in &self.levels {
            let Some(anchor) = anchor else { break };
            let age = age(anchor.counter);
            if age <= 0.0 {
                continue;
            }
            let rate = Range::new((known.low - anchor.known.high) / age, (known.high - anchor.known.low) / age);
            if best.is_none_or(|(best, _)| rate.width() < best.width()) {
                best = Some((rate, age));
            }
            if rate.width() / 2.0 <= drift / PART_OF_DRIFT {
                break;
            }
        }
        best
    }

    /// Keeps where the time is now.
    pub(super) fn note(&mut self, now: u64, known: Range, age: impl Fn(u64) -> f64) {
        let mut span = SECOND / 2.0;
        for (old, new) in &mut self.levels {
            span *= 2.0;
            if new.is_none_or(|new| age(new.counter) >= span) {
                *old = new.take().or(*old);
                *new = Some(Anchor { counter: now, known });
            }
            if old.is_none() {
                // The levels above have the same.
                *old = *new;
            }
        }
    }

    pub(super) fn rebase(&mut self, shift: impl Fn(u64) -> f64) {
        for anchor in self.levels.iter_mut().flat_map(|(old, new)| [old, new]).flatten() {
            anchor.known = anchor.known.shifted(shift(anchor.counter));
        }
    }
}

/// How much the counter's rate has changed since it is watched, against the estimator's base.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wander {
    seen: Option<(Range, u64)>,
    watched: f64,
}

impl Wander {
    pub(super) fn is_measured(&self) -> bool {
        self.watched >= WATCHED
    }

    /// How far the rate may go from where it is: as measured, between a least and a most.
    pub(super) fn drift(&self, least: f64, most: f64) -> f64 {
        match self.seen {
            Some((range, _)) if self.is_measured() => (range.width() * EXPECTED).max(least).min(most),
            _ => most,
        }
    }

    /// Whether a rate over so many nanoseconds shows its changes: over hours they average out.
    pub(super) fn shows(over: f64) -> bool {
        over <= SHOWN
    }

    /// Takes the rate of now.
    pub(super) fn note(&mut self, rate: f64, now: u64, age: impl Fn(u64) -> f64) {
        let (range, since) = self.seen.map_or((Range::new(rate, rate), now), |(range, since)| {
            (Range::new(range.low.min(rate), range.high.max(rate)), since)
        });
        self.seen = Some((range, since));
        self.watched = self.watched.max(age(since));
    }

    pub(super) fn rebase(&mut self, relative: impl Fn(f64) -> f64) {
        if let Some((range, _)) = &mut self.seen {
            *range = Range::new(relative(range.low), relative(range.high));
        }
    }
}
