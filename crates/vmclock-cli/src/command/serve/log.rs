// SPDX-License-Identifier: MIT OR Apache-2.0
//! The publisher's log on standard output: a line for each event, with a priority where journald reads it. What comes
//! again and again does not flood it.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use vmclock_host::event::Event;

use crate::output::{log, log_json};

use super::as_json;

/// So many lines of one kind, of one source or guest, within that time.
const MOST: u32 = 10;
const WITHIN: Duration = Duration::from_secs(60);
/// So many things whose lines are counted at once; those beyond are counted together.
const MOST_KINDS: usize = 20_000;

/// Writes what is reported.
pub(super) struct Log {
    json: bool,
    /// Whether journald reads it.
    priorities: bool,
    kinds: HashMap<(&'static str, String), Kind>,
}

/// Lines of one kind.
#[derive(Clone, Copy)]
struct Kind {
    since: Instant,
    count: u32,
}

impl Log {
    pub(super) fn new(json: bool) -> Self {
        Self { json, priorities: !json && is_journal(), kinds: HashMap::new() }
    }

    /// With JSON each event is a line. As text what is routine is left out, and what comes too often.
    pub(super) fn event(&mut self, event: &Event) {
        if self.json {
            log_json(as_json(event));
        } else if !event.is_routine() {
            for line in self.lines(event, Instant::now()) {
                log(&line);
            }
        }
    }

    pub(super) fn events(&mut self, events: &[Event]) {
        for event in events {
            self.event(event);
        }
    }

    /// What is to be written of an event.
    fn lines(&mut self, event: &Event, now: Instant) -> Vec<String> {
        let prefix = if self.priorities { format!("<{}>", priority(event)) } else { String::new() };
        let line = |text: &dyn std::fmt::Display| format!("{prefix}{:<12} {text}\n", event.name());
        let mut key = (event.name(), subject(event));
        if self.kinds.len() >= MOST_KINDS && !self.kinds.contains_key(&key) {
            self.kinds.retain(|_, kind| now.saturating_duration_since(kind.since) < WITHIN);
            if self.kinds.len() >= MOST_KINDS {
                key.1 = String::new();
            }
        }
        let kind = self.kinds.entry(key).or_insert(Kind { since: now, count: 0 });
        let mut lines = Vec::new();
        if now.saturating_duration_since(kind.since) >= WITHIN {
            if let left_out @ 1.. = kind.count.saturating_sub(MOST) {
                lines.push(line(&format_args!("{left_out} lines like the next were left out")));
            }
            *kind = Kind { since: now, count: 0 };
        }
        kind.count = kind.count.saturating_add(1);
        if kind.count <= MOST {
            // One line an event, whatever is in its text.
            lines.push(line(&event.to_string().replace(['\n', '\r'], " ")));
        }
        if kind.count == MOST {
            lines.push(line(&format_args!("more lines like this are left out for {WITHIN:?}")));
        }
        lines
    }
}

/// Whether standard output goes to journald.
fn is_journal() -> bool {
    let Some(stream) = std::env::var("JOURNAL_STREAM").ok() else { return false };
    let Ok(output) = std::fs::metadata("/proc/self/fd/1") else { return false };
    stream == format!("{}:{}", output.dev(), output.ino())
}

/// Which source or guest it is about.
fn subject(event: &Event) -> String {
    match event {
        Event::Source { source, .. } | Event::Falseticker { source, .. } | Event::ReAccepted { source } => {
            source.clone()
        }
        Event::GuestAdded { guest, .. }
        | Event::GuestRemoved { guest }
        | Event::GuestLost { guest, .. }
        | Event::GuestStep { guest, .. } => guest.clone(),
        _ => String::new(),
    }
}

/// As `syslog(3)` has them: 3 is an error, 4 a warning, 5 is to be noticed, 6 is information.
fn priority(event: &Event) -> u8 {
    match event {
        Event::NoMajority { .. } | Event::NotNested | Event::Counter { trusted: false } => 3,
        Event::Warning { .. }
        | Event::Falseticker { .. }
        | Event::Rejected { .. }
        | Event::Unstable { .. }
        | Event::Holdover
        | Event::Disrupted
        | Event::ListExpired { .. }
        | Event::Source { reachable: false, .. }
        | Event::Offset { tai_minus_utc: None, .. }
        | Event::TookOver { interrupted: true, .. }
        | Event::GuestLost { .. } => 4,
        Event::StepAccepted | Event::Resumed | Event::Synchronized { .. } | Event::Leap { .. } | Event::Stopped => 5,
        _ => 6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(guest: &str) -> Event {
        Event::GuestLost { guest: guest.into(), reason: "cut\nshort".into() }
    }

    #[test]
    fn what_flaps_does_not_flood() {
        let mut log = Log { json: false, priorities: true, kinds: HashMap::new() };
        let now = Instant::now();
        let flapping: Vec<_> = (0..1000).flat_map(|_| log.lines(&lost("web-7"), now)).collect();
        assert_eq!(flapping.len(), 11, "{flapping:?}");
        assert!(flapping[0].starts_with("<4>guest-lost") && flapping[0].ends_with("cut short\n"), "{flapping:?}");
        assert!(flapping[10].contains("left out for 60s"));
        assert_eq!(log.lines(&lost("web-8"), now).len(), 1, "another guest");
        assert_eq!(log.lines(&Event::Holdover, now).len(), 1, "another event");
        let later = log.lines(&lost("web-7"), now + WITHIN);
        assert!(later.len() == 2 && later[0].contains("990 lines like the next were left out"), "{later:?}");
    }

    #[test]
    fn as_many_names_as_somebody_likes_take_no_more_memory() {
        let mut log = Log { json: false, priorities: false, kinds: HashMap::new() };
        let now = Instant::now();
        for guest in 0..MOST_KINDS + 5_000 {
            log.lines(&lost(&guest.to_string()), now);
        }
        assert!(log.kinds.len() <= MOST_KINDS + 1);
    }
}
