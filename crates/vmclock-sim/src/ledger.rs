// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a publisher could know: which clocks were right and reachable, and whether a majority of them shows that the
//! counter was disrupted.

use crate::spec::PublisherSpec;
use crate::units::{Nanos, MINUTE, SECOND};

/// No page has this marker.
pub(crate) const NO_MARKER: u64 = 0;

/// A measurement that a publisher was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Delivered {
    pub(crate) clock: usize,
    /// When the counter was read before and after.
    pub(crate) began: Nanos,
    pub(crate) ended: Nanos,
    /// The counter then, of the publisher.
    pub(crate) before: u64,
    pub(crate) after: u64,
    /// The clock's time, on true TAI (the second that it means), minus and plus its stated error, in nanoseconds.
    pub(crate) earliest: i128,
    pub(crate) latest: i128,
    /// True time was outside of that all the while.
    pub(crate) is_off: bool,
    /// It was, or the clock announced what will not be.
    pub(crate) wrong: bool,
    pub(crate) synchronized: bool,
}

/// A disruption of the counter that the publisher may not have noticed yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Disruption {
    at: Nanos,
    /// The page's marker then.
    marker: u64,
    /// A majority was heard before: what the publisher knows by then, also where it gives no time yet, is as vague as
    /// the clocks, and the disruption may hide in that.
    may_hide: bool,
    /// After this it cannot show any more, or has to have shown.
    until: Nanos,
}

/// What became of a disruption in a round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Notice {
    /// There is none, or nobody can have noticed it yet.
    Nothing,
    /// A majority contradicts what the page said before this round: it needs another marker than this.
    Demonstrated(u64),
}

/// The record of one run.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    /// For how long a measurement counts for the publisher; for how long a clock is what it was, in whatever rounds;
    /// and for how long after that a page may say what followed from it.
    source_timeout: Nanos,
    timeout: Nanos,
    slack: Nanos,
    /// How long a round can take.
    round_length: Nanos,
    /// How long a decision may take: the probation, five minutes, and some rounds where these take long.
    decision: Nanos,
    clocks: Vec<Record>,
    round: Vec<Delivered>,
    disruption: Option<Disruption>,
    /// Since when a majority has been right and reachable, but for single rounds.
    right_since: Option<Nanos>,
    /// The rounds since then, and those of them in which it was not; and whether that was so in the last one.
    rounds: u32,
    missed: u32,
    has_missed: bool,
    /// Until when the counter is no counter.
    faulty_until: Nanos,
}

/// Of one clock.
#[derive(Clone, Copy, Debug)]
struct Record {
    right_at: Nanos,
    synchronized_at: Nanos,
    /// The last measurement in which it said that it is synchronized, and when that was delivered.
    claimed: Option<(Delivered, Nanos)>,
    wrong_until: Nanos,
}

const NEVER: Nanos = Nanos::MIN / 2;

impl Ledger {
    /// For so many clocks, polled by this publisher in rounds that are late by up to `late`.
    pub(crate) fn new(clocks: usize, publisher: &PublisherSpec, late: Nanos) -> Self {
        let PublisherSpec { refresh, source_timeout, probation, .. } = *publisher;
        let record = Record { right_at: NEVER, synchronized_at: NEVER, claimed: None, wrong_until: NEVER };
        Self {
            source_timeout,
            timeout: source_timeout.max(2 * refresh + 2 * SECOND),
            decision: probation + 5 * MINUTE + 4 * (refresh - 20 * SECOND).max(0),
            round_length: SECOND + publisher.deadline,
            slack: 2 * refresh + 2 * SECOND + publisher.deadline + late,
            clocks: vec![record; clocks],
            round: Vec::new(),
            disruption: None,
            right_since: None,
            rounds: 0,
            missed: 0,
            has_missed: false,
            faulty_until: NEVER,
        }
    }

    /// Notes a measurement when the publisher is given it. Plausible is what overlaps with what the page says.
    pub(crate) fn delivered(&mut self, delivered: Delivered, now: Nanos, is_plausible: impl Fn(&Delivered) -> bool) {
        let record = &mut self.clocks[delivered.clock];
        if delivered.wrong {
            record.wrong_until = now + self.timeout;
        }
        // How old it is, the publisher knows by its counter only: near the timeout it may count or not.
        let (age, tolerance) = (now - delivered.ended, self.source_timeout / 100);
        if age > self.source_timeout + tolerance {
            return;
        }
        if !delivered.wrong && age <= self.source_timeout {
            record.right_at = delivered.ended;
        }
        if delivered.synchronized {
            record.claimed = Some((delivered, now));
            if is_plausible(&delivered) || !delivered.is_off {
                record.synchronized_at = now;
            }
        }
        if age <= self.source_timeout {
            self.round.push(delivered);
        }
    }

    /// More than half of the configured clocks.
    pub(crate) fn majority(&self) -> usize {
        self.clocks.len() / 2 + 1
    }

    /// How many clocks were wrong of late. A1 says that it is fewer than half of all.
    pub(crate) fn wrong(&self, now: Nanos) -> usize {
        self.clocks.iter().filter(|record| record.wrong_until > now).count()
    }

    /// The counter is disrupted, at an instant, while the page has this marker. It can show until `until`, and is no
    /// counter until `faulty_until`.
    pub(crate) fn disrupted(&mut self, at: Nanos, marker: u64, until: Nanos, faulty_until: Nanos) {
        let may_hide = self.right_since.is_some();
        self.disruption = Some(Disruption { at, marker, may_hide, until });
        self.right_since = None;
        self.faulty_until = self.faulty_until.max(faulty_until);
    }

    /// A publisher starts: it has as long as any.
    pub(crate) fn starts(&mut self) {
        self.right_since = None;
        self.round.clear();
    }

    /// It has begun to publish, and need not be excused for what happened before.
    pub(crate) fn started(&mut self) {
        self.disruption = None;
    }

    /// So much time passed in which nobody measured.
    pub(crate) fn slept(&mut self, length: Nanos) {
        self.right_since = None;
        for record in &mut self.clocks {
            record.synchronized_at += length;
        }
    }

    /// The kernel does not trust the counter until then.
    pub(crate) fn distrusted(&mut self, until: Nanos) {
        self.right_since = None;
        self.faulty_until = self.faulty_until.max(until);
    }

    /// The fault is over.
    pub(crate) fn recovered(&mut self) {
        self.faulty_until = NEVER;
    }

    /// Whether the page has to be right.
    pub(crate) fn demands_bounds(&self) -> bool {
        self.disruption.is_none()
    }

    /// A page that has to give a time, because a majority has been right and reachable for long enough, must not have
    /// been without one since before this moment.
    pub(crate) fn demands_time(&self, now: Nanos) -> Option<Nanos> {
        let since = self.right_since.filter(|_| self.demands_bounds())?;
        self.took_probation(now - since).then_some(now - self.decision)
    }

    /// Whether something was so long ago that a publisher has to have decided on it.
    pub(crate) const fn took_probation(&self, since: Nanos) -> bool {
        since > self.decision
    }

    /// Whether a clock that is right, or cannot be told from one, said of late that it is synchronized. Plausible is
    /// what overlaps with what the page says by now: what it said when that was measured may have been disproved.
    pub(crate) fn is_synchronized(&self, now: Nanos, is_plausible: impl Fn(&Delivered) -> bool) -> bool {
        let is_recent = |at: Nanos| now - at <= self.timeout + self.slack;
        let claims = |(delivered, at): &(Delivered, Nanos)| is_recent(*at) && is_plausible(delivered);
        self.clocks
            .iter()
            .any(|record| is_recent(record.synchronized_at) || record.claimed.as_ref().is_some_and(claims))
    }

    /// Before the publisher concludes a round: whether what was measured in it contradicts the page, whose interval at
    /// a counter value is `interval`.
    pub(crate) fn notice(&self, now: Nanos, interval: impl Fn(u64) -> Option<(i128, i128)>) -> Notice {
        let Some(disruption) = self.disruption else { return Notice::Nothing };
        // What the publisher knows is a little wider than what it last published.
        let wider = |(earliest, latest): (i128, i128)| {
            let more = (latest - earliest) / 2;
            (earliest - more, latest + more)
        };
        let contradicts = |delivered: &&Delivered| {
            let earliest = interval(delivered.before).map(|interval| wider(interval).0);
            let latest = interval(delivered.after).map(|interval| wider(interval).1);
            // Answers of earlier rounds are as vague as the counter's frequency by now.
            delivered.began > disruption.at.max(now - self.round_length)
                && (earliest.is_some_and(|earliest| delivered.latest < earliest)
                    || latest.is_some_and(|latest| delivered.earliest > latest))
        };
        let count = self.count(|delivered| contradicts(&delivered));
        if count >= self.majority() {
            Notice::Demonstrated(disruption.marker)
        } else {
            Notice::Nothing
        }
    }

    /// After the publisher has concluded a round: the page has this marker, and gives a time or not.
    pub(crate) fn concluded(&mut self, now: Nanos, notice: Notice, marker: u64, gives_time: bool) {
        if let Some(disruption) = self.disruption {
            let heard = self.count(|delivered| delivered.began > disruption.at) >= self.majority();
            // Without a time nothing needs to be excused, unless something was known in which it hides.
            let is_new = ![marker, NO_MARKER].contains(&disruption.marker);
            let may_hide = disruption.may_hide && disruption.marker == marker;
            let over = now > disruption.until || is_new || !(gives_time || may_hide);
            if notice != Notice::Nothing || heard && over {
                self.disruption = None;
                // However late it shows, it is to be decided on from then on.
                self.right_since = None;
            }
        }
        self.round.clear();
        let is_right = |record: &&Record| now - record.right_at <= self.source_timeout && record.wrong_until <= now;
        let right = self.clocks.iter().filter(is_right).count() >= self.majority() && now >= self.faulty_until;
        self.rounds += 1;
        self.missed += u32::from(!right);
        // Answers are lost, but not many of them.
        let missed_before = std::mem::replace(&mut self.has_missed, !right);
        let is_patchy = !right && missed_before || self.missed > 1 + self.rounds / 8;
        if is_patchy || self.right_since.is_none() {
            (self.rounds, self.missed, self.right_since) = (0, 0, right.then_some(now));
        }
    }

    /// How many clocks have a measurement like this in this round.
    fn count(&self, is_counted: impl Fn(&Delivered) -> bool) -> usize {
        let clock = |clock: usize| self.round.iter().any(|delivered| delivered.clock == clock && is_counted(delivered));
        (0..self.clocks.len()).filter(|number| clock(*number)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        let publisher = PublisherSpec { refresh: SECOND, probation: MINUTE, ..PublisherSpec::DEFAULT };
        Ledger::new(3, &publisher, 0)
    }

    #[test]
    fn near_the_timeout_an_answer_may_count_and_need_not() {
        const START: Nanos = 60 * MINUTE;
        let mut ledger = ledger();
        let timeout = ledger.source_timeout;
        for (age, may, must) in [(timeout, true, true), (timeout + 1_000, true, false), (timeout * 2, false, false)] {
            let now = START + age;
            ledger.clocks.fill(Ledger::new(1, &PublisherSpec::DEFAULT, 0).clocks[0]);
            ledger.round.clear();
            ledger.delivered(delivered(0, START, false), now, |_| true);
            assert_eq!(ledger.is_synchronized(now, |_| true), may, "{age}");
            assert_eq!((ledger.clocks[0].right_at == START, ledger.round.len()), (must, usize::from(must)), "{age}");
        }
    }

    fn delivered(clock: usize, at: Nanos, wrong: bool) -> Delivered {
        let time = i128::from(at);
        Delivered {
            clock,
            began: at,
            ended: at,
            before: at.unsigned_abs(),
            after: at.unsigned_abs(),
            earliest: time - 10,
            latest: time + 10,
            is_off: wrong,
            wrong,
            synchronized: true,
        }
    }

    /// Three clocks each second, of which those in `wrong` are wrong.
    fn round(ledger: &mut Ledger, at: Nanos, wrong: &[usize], page_is_off: i128) -> Notice {
        for clock in 0..3 {
            ledger.delivered(delivered(clock, at, wrong.contains(&clock)), at, |_| false);
        }
        let notice = ledger.notice(at, |counter| {
            let shown = i128::from(counter) + page_is_off;
            Some((shown - 5, shown + 5))
        });
        ledger.concluded(at + 1, notice, 77, true);
        notice
    }

    #[test]
    fn time_is_demanded_when_a_majority_was_right_for_long_enough() {
        let mut ledger = ledger();
        assert_eq!(ledger.majority(), 2);
        for second in 0..1_000 {
            let wrong: &[usize] = if second == 100 { &[0, 1] } else { &[2] };
            round(&mut ledger, second * SECOND, wrong, 0);
            let demanded = ledger.demands_time(second * SECOND + 2).is_some();
            // 6 minutes after the two were wrong for the last time within 30 s.
            assert_eq!(demanded, second >= 100 + 30 + 360, "{second}");
        }
        assert_eq!(ledger.wrong(1_000 * SECOND), 1);
    }

    #[test]
    fn a_disruption_is_excused_until_a_majority_shows_it() {
        let mut ledger = ledger();
        round(&mut ledger, 0, &[], 0);
        ledger.disrupted(SECOND, 77, 500 * SECOND, NEVER);
        assert!(!ledger.demands_bounds());
        // Nobody can tell 20 ns from the widths of both.
        assert_eq!(round(&mut ledger, 2 * SECOND, &[], 20), Notice::Nothing);
        assert!(!ledger.demands_bounds());
        assert_eq!(round(&mut ledger, 3 * SECOND, &[], 21), Notice::Demonstrated(77));
        assert!(ledger.demands_bounds());
        ledger.disrupted(4 * SECOND, 78, 500 * SECOND, NEVER);
        // It can show no more.
        assert_eq!(round(&mut ledger, 501 * SECOND, &[], 0), Notice::Nothing);
        assert!(ledger.demands_bounds());
    }

    #[test]
    fn what_was_measured_before_a_disruption_shows_nothing() {
        let mut ledger = ledger();
        ledger.disrupted(SECOND, 77, 500 * SECOND, NEVER);
        assert_eq!(round(&mut ledger, SECOND, &[], 1_000), Notice::Nothing);
        assert!(!ledger.demands_bounds());
    }
}
