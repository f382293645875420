// SPDX-License-Identifier: MIT OR Apache-2.0
//! When to start and to finish a publisher's rounds.

use std::time::{Duration, Instant};

/// The first rounds come sooner, as the frequency is the better known the longer it was measured.
const FIRST: Duration = Duration::from_millis(100);
/// How long sources have to answer; less where rounds are more frequent, so that none of them holds up the page.
const ANSWER: Duration = Duration::from_millis(500);
const SHORTEST_ANSWER: Duration = Duration::from_millis(5);

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Start a round.
    Start,
    /// Finish the round that was started.
    Finish,
    /// Nothing until then, or until a source answers.
    Wait(Instant),
}

/// A schedule of rounds.
///
/// ```
/// use std::time::{Duration, Instant};
/// use vmclock_host::rounds::{Rounds, Step};
///
/// let now = Instant::now();
/// let mut rounds = Rounds::new(Duration::from_secs(1), now);
/// assert_eq!(rounds.next(now, true), Step::Start);
/// assert!(matches!(rounds.next(now, false), Step::Wait(_)), "a source has not answered");
/// assert_eq!(rounds.next(now, true), Step::Finish);
/// assert_eq!(rounds.next(now, true), Step::Wait(now + Duration::from_millis(100)));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Rounds {
    refresh: Duration,
    /// From the start of a round to that of the next; it doubles until it is `refresh`.
    interval: Duration,
    due: Instant,
    /// When the round that was started has to be finished.
    by: Option<Instant>,
}

impl Rounds {
    /// Rounds so far apart, from now on.
    pub fn new(refresh: Duration, now: Instant) -> Self {
        Self { refresh, interval: FIRST.min(refresh), due: now, by: None }
    }

    /// From now on rounds so far apart.
    pub fn set_refresh(&mut self, refresh: Duration) {
        self.refresh = refresh;
        self.interval = self.interval.min(refresh);
    }

    /// How long until the next round starts; `None` while one is under way.
    pub fn until_next(&self, now: Instant) -> Option<Duration> {
        self.by.is_none().then(|| self.due.saturating_duration_since(now))
    }

    /// What is to be done now, which the caller then does. `complete`: all sources have answered.
    pub fn next(&mut self, now: Instant, complete: bool) -> Step {
        match self.by {
            Some(by) if complete || now >= by => {
                self.by = None;
                Step::Finish
            }
            Some(by) => Step::Wait(by),
            None if now >= self.due => {
                self.by = Some(now + self.refresh.clamp(SHORTEST_ANSWER, ANSWER));
                self.due = now + self.interval;
                self.interval = (self.interval * 2).min(self.refresh);
                Step::Start
            }
            None => Step::Wait(self.due),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_slow_down_to_the_refresh() {
        let mut now = Instant::now();
        let mut rounds = Rounds::new(Duration::from_secs(1), now);
        let mut starts = Vec::new();
        for _ in 0..18 {
            match rounds.next(now, true) {
                Step::Start => starts.push(now),
                Step::Finish => {}
                Step::Wait(until) => now = until,
            }
        }
        let apart: Vec<u128> = starts.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
        assert_eq!(apart, [100, 200, 400, 800, 1_000]);
    }

    #[test]
    fn a_source_that_does_not_answer_delays_no_round() {
        for (refresh, most) in [(1, 5), (100, 100), (60_000, 500)] {
            let now = Instant::now();
            let mut rounds = Rounds::new(Duration::from_millis(refresh), now);
            assert_eq!(rounds.next(now, false), Step::Start);
            let by = now + Duration::from_millis(most);
            assert_eq!(rounds.next(now, false), Step::Wait(by));
            assert_eq!(rounds.next(by, false), Step::Finish);
        }
    }
}
