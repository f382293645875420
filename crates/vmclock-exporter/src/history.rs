// SPDX-License-Identifier: MIT OR Apache-2.0
//! Offsets and bounds of the last hour, for the page.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;
use vmclock_host::service::protocol::{SourceState, Tracking};

/// How far back it goes.
const REACH: Duration = Duration::from_secs(3600);
/// How many sources it has at most, by their names since the start; more are in the metrics only.
const MOST_SOURCES: usize = 32;

/// What the service said once; nothing but the time where it did not answer.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Point {
    /// In milliseconds since the exporter's start.
    pub(crate) at_ms: u64,
    /// The status of the published clock.
    pub(crate) status: Option<String>,
    /// Maximum error of its time then.
    pub(crate) max_error_ns: Option<u64>,
    /// Of each source, in the order of `sources`: how far ahead of the published clock its last measurement was.
    pub(crate) offsets_ns: Vec<Option<f64>>,
}

/// The last hour.
#[derive(Debug)]
pub(crate) struct History {
    interval: Duration,
    most: usize,
    sources: Vec<String>,
    points: VecDeque<Point>,
}

impl History {
    /// With a point each `interval`.
    pub(crate) fn new(interval: Duration) -> Self {
        let most = REACH.as_millis() / interval.as_millis().max(1);
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        Self { interval, most, sources: Vec::new(), points: VecDeque::new() }
    }

    /// Adds what the service said; `None`: nothing.
    pub(crate) fn add(&mut self, at_ms: u64, said: Option<(&Tracking, &[SourceState])>) {
        if self.points.len() >= self.most {
            self.points.pop_front();
        }
        let point = match said {
            None => Point { at_ms, status: None, max_error_ns: None, offsets_ns: Vec::new() },
            Some((tracking, sources)) => Point {
                at_ms,
                status: Some(tracking.status.clone()),
                max_error_ns: tracking.max_error_ns,
                offsets_ns: self.offsets(sources),
            },
        };
        self.points.push_back(point);
    }

    fn offsets(&mut self, sources: &[SourceState]) -> Vec<Option<f64>> {
        let mut offsets = vec![None; self.sources.len()];
        for source in sources {
            let index = self.sources.iter().position(|name| *name == source.source);
            if index.is_none() && self.sources.len() == MOST_SOURCES {
                continue;
            }
            let index = index.unwrap_or_else(|| {
                self.sources.push(source.source.clone());
                offsets.push(None);
                self.sources.len() - 1
            });
            // An old measurement is no offset of now.
            let is_reachable = source.reach & 1 == 1;
            offsets[index] = source.offset_ns.filter(|offset| is_reachable && offset.is_finite());
        }
        offsets
    }

    pub(crate) const fn interval(&self) -> Duration {
        self.interval
    }

    pub(crate) fn sources(&self) -> &[String] {
        &self.sources
    }

    /// The points since then.
    pub(crate) fn since(&self, at_ms: u64) -> Vec<&Point> {
        self.points.iter().filter(|point| point.at_ms >= at_ms).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{source, tracking};

    #[test]
    fn it_is_an_hour_and_no_more() {
        let mut history = History::new(Duration::from_secs(60));
        for minute in 0..200 {
            history.add(minute * 60_000, None);
        }
        assert_eq!(history.since(0).len(), 60);
        assert_eq!(history.since(199 * 60_000).len(), 1);
    }

    #[test]
    fn a_source_keeps_its_place_and_silence_is_no_offset() {
        let mut history = History::new(Duration::from_secs(5));
        let (a, b) = (source("a", 1), source("b", 0b10));
        history.add(0, Some((&tracking(), std::slice::from_ref(&a))));
        history.add(1, None);
        history.add(2, Some((&tracking(), &[b, a])));
        assert_eq!(history.sources(), ["a", "b"]);
        let points = history.since(0);
        assert_eq!(points[0].offsets_ns, [Some(-5e8)]);
        assert_eq!((points[1].status.as_ref(), points[1].offsets_ns.len()), (None, 0));
        assert_eq!(points[2].offsets_ns, [Some(-5e8), None], "b did not answer in the last round");
    }

    #[test]
    fn ever_new_names_are_bounded() {
        let mut history = History::new(Duration::from_secs(1));
        for number in 0..1_000 {
            history.add(number, Some((&tracking(), &[source(&number.to_string(), 1)])));
        }
        assert_eq!(history.sources().len(), MOST_SOURCES);
        assert!(history.since(0).iter().all(|point| point.offsets_ns.len() <= MOST_SOURCES));
    }
}
