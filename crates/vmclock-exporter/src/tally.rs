// SPDX-License-Identifier: MIT OR Apache-2.0
//! How often each event of the service came, and the last ones.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What is counted from the start, so that the first one is an increase.
const EVENTS: [&str; 18] = [
    "continued",
    "not-continued",
    "source",
    "falseticker",
    "re-accepted",
    "no-majority",
    "rejected",
    "step-accepted",
    "not-nested",
    "unstable",
    "holdover",
    "resumed",
    "synchronized",
    "disrupted",
    "counter",
    "guest-added",
    "guest-removed",
    "guest-lost",
];
/// The steps of a guest, as the protocol has them.
pub(crate) const STEPS: [&str; 9] =
    ["paused", "resumed", "incoming", "restored", "migrated-in", "migrated-out", "reset", "cloned", "disrupted"];
/// How many names of events are counted: a bound that no service reaches.
const MOST_NAMES: usize = 64;
/// How many events are kept of the host, and how many of guests.
const MOST_KEPT: usize = 100;
/// How much of an event's text is kept, in characters.
const LONGEST_TEXT: usize = 300;

/// An event that is kept.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Kept {
    /// Its number, from 1 on.
    id: u64,
    /// When, in milliseconds since the exporter's start.
    at_ms: u64,
    event: String,
    guest: Option<String>,
    text: String,
}

/// An event as the service sends it; the rest of it is in its text.
#[derive(Deserialize)]
struct Line {
    event: String,
    #[serde(default)]
    text: String,
    guest: Option<String>,
    step: Option<String>,
}

/// Counters of events.
#[derive(Debug)]
pub(crate) struct Tally {
    start: Instant,
    events: BTreeMap<String, u64>,
    steps: [u64; STEPS.len()],
    guests: BTreeMap<String, [u64; STEPS.len()]>,
    /// Of the host, and of guests: a storm of the one leaves the other.
    kept: [VecDeque<Kept>; 2],
    last_id: u64,
    gaps: u64,
    has_begun: bool,
    /// Guests may have gone while events were missed.
    is_stale: bool,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            events: EVENTS.iter().map(|name| ((*name).to_owned(), 0)).collect(),
            steps: [0; STEPS.len()],
            guests: BTreeMap::new(),
            kept: Default::default(),
            last_id: 0,
            gaps: 0,
            has_begun: false,
            is_stale: false,
        }
    }
}

impl Tally {
    /// Milliseconds since the exporter's start.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// From now on all events come. Says whether some may have been missed since the last time.
    pub(crate) fn begin(&mut self) -> bool {
        let is_again = std::mem::replace(&mut self.has_begun, true);
        self.gaps += u64::from(is_again);
        self.is_stale |= is_again;
        is_again
    }

    pub(crate) fn note(&mut self, event: &Value) {
        // What is no event is none.
        let Ok(line) = Line::deserialize(event) else { return };
        // It comes with each update, and says nothing that a poll does not.
        if line.event == "refreshed" {
            return;
        }
        if line.event == "guest-step" {
            self.note_step(&line);
        } else if let Some(count) = self.events.get_mut(&line.event) {
            *count += 1;
        } else if self.events.len() < MOST_NAMES {
            self.events.insert(line.event.clone(), 1);
        }
        if let ("guest-removed" | "guest-lost", Some(guest)) = (line.event.as_str(), &line.guest) {
            self.guests.remove(guest);
        }
        self.keep(line);
    }

    fn note_step(&mut self, line: &Line) {
        let Some(index) = STEPS.iter().position(|step| Some(*step) == line.step.as_deref()) else { return };
        self.steps[index] += 1;
        if let Some(guest) = &line.guest {
            self.guests.entry(guest.clone()).or_default()[index] += 1;
        }
    }

    fn keep(&mut self, line: Line) {
        self.last_id += 1;
        let text = line.text.chars().take(LONGEST_TEXT).collect();
        let kept = Kept { id: self.last_id, at_ms: self.now_ms(), event: line.event, guest: line.guest, text };
        let list = &mut self.kept[usize::from(kept.guest.is_some())];
        if list.len() == MOST_KEPT {
            list.pop_front();
        }
        list.push_back(kept);
    }

    /// These are all guests: those that went away while events were missed are forgotten.
    pub(crate) fn settle<'a>(&mut self, guests: impl Iterator<Item = &'a str>) {
        if std::mem::take(&mut self.is_stale) {
            let guests: BTreeSet<&str> = guests.collect();
            self.guests.retain(|guest, _| guests.contains(guest.as_str()));
        }
    }

    /// How often each event came, by name.
    pub(crate) fn events(&self) -> impl Iterator<Item = (&str, u64)> {
        self.events.iter().map(|(name, count)| (name.as_str(), *count))
    }

    /// How often each step happened to any guest.
    pub(crate) fn steps(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        STEPS.into_iter().zip(self.steps)
    }

    /// How often each step happened to this guest, of those that did.
    pub(crate) fn steps_of(&self, guest: &str) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.guests.get(guest).copied().unwrap_or_default();
        STEPS.into_iter().zip(counts).filter(|(_, count)| *count > 0)
    }

    /// How often events may have been missed.
    pub(crate) const fn gaps(&self) -> u64 {
        self.gaps
    }

    /// The last events since then, in their order.
    pub(crate) fn kept_since(&self, at_ms: u64) -> Vec<&Kept> {
        let mut kept: Vec<_> = self.kept.iter().flatten().filter(|kept| kept.at_ms >= at_ms).collect();
        kept.sort_by_key(|kept| kept.id);
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn step(guest: &str, step: &str) -> Value {
        json!({"event": "guest-step", "guest": guest, "step": step, "seq_count": 4, "text": "it happened"})
    }

    fn count(tally: &Tally, name: &str) -> Option<u64> {
        tally.events().find(|(other, _)| *other == name).map(|(_, count)| count)
    }

    #[test]
    fn events_are_counted_for_the_host_and_for_each_guest() {
        let mut tally = Tally::default();
        assert_eq!(count(&tally, "holdover"), Some(0), "from the start: its first one is an increase");
        for event in [
            json!({"event": "holdover", "text": "x"}),
            json!({"event": "something-new", "text": "x"}),
            json!({"event": "refreshed", "text": "x"}),
            step("a", "restored"),
            step("a", "restored"),
            step("b", "paused"),
            step("b", "teleported"),
            json!({"ok": true}),
            json!(4),
        ] {
            tally.note(&event);
        }
        assert_eq!((count(&tally, "holdover"), count(&tally, "something-new")), (Some(1), Some(1)));
        assert_eq!(count(&tally, "refreshed"), None);
        assert_eq!(tally.steps().filter(|(_, count)| *count > 0).collect::<Vec<_>>(), [("paused", 1), ("restored", 2)]);
        assert_eq!(tally.steps_of("a").collect::<Vec<_>>(), [("restored", 2)]);
        assert_eq!(tally.steps_of("c").count(), 0);
        assert_eq!(tally.kept_since(0).len(), 6);
        tally.note(&json!({"event": "guest-removed", "guest": "a", "text": "gone"}));
        assert_eq!(tally.steps_of("a").count(), 0);
        assert_eq!(tally.steps().map(|(_, count)| count).sum::<u64>(), 3, "what happened stays counted");
    }

    #[test]
    fn a_gap_is_counted_and_guests_that_went_meanwhile_are_forgotten() {
        let mut tally = Tally::default();
        assert!(!tally.begin());
        tally.note(&step("a", "reset"));
        tally.note(&step("b", "reset"));
        tally.settle(["b"].into_iter());
        assert_eq!(tally.steps_of("a").count(), 1, "nothing was missed: the list may be older than the event");
        assert!(tally.begin());
        tally.settle(["b"].into_iter());
        assert_eq!((tally.gaps(), tally.steps_of("a").count(), tally.steps_of("b").count()), (1, 0, 1));
    }

    #[test]
    fn a_storm_is_bounded_and_leaves_what_the_host_did() {
        let mut tally = Tally::default();
        tally.note(&json!({"event": "falseticker", "text": "x".repeat(10_000)}));
        for number in 0..10_000 {
            tally.note(&step(&format!("guest-{}", number % 50), "restored"));
            tally.note(&json!({"event": format!("new-{number}"), "guest": "a", "text": ""}));
        }
        let kept = tally.kept_since(0);
        assert_eq!(
            (kept.len(), kept[0].event.as_str(), kept[0].text.len()),
            (1 + MOST_KEPT, "falseticker", LONGEST_TEXT)
        );
        assert_eq!(tally.events().count(), MOST_NAMES);
        assert_eq!(tally.steps().map(|(_, count)| count).sum::<u64>(), 10_000);
    }
}
