// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the time was some while ago, to measure the counter's frequency from.

use serde::{Deserialize, Serialize};

use super::SECOND;
use crate::interval::Range;

/// The longest time that the frequency is averaged over is between 2^LEVELS / 2 and 2^LEVELS seconds: some hours.
const LEVELS: usize = 15;
/// The frequency is averaged over the shortest time in which it becomes as exact as this part of its wander: the
/// shorter, the nearer to now.
const PART_OF_DRIFT: f64 = 8.0;
/// Where the time was at a counter value, in nanoseconds from the estimator's base.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Anchor {
    counter: u64,
    known: Range,
}

/// Two anchors for each power of two seconds: one at least that old, and one that is to become so.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
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
