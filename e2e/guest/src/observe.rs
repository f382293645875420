// SPDX-License-Identifier: MIT OR Apache-2.0
//! A look at the clock every few microseconds, over whatever happens to the machine meanwhile.
//!
//! Within one state of the page the time is a straight line over the counter. So the first and the last reading of
//! each state stand for all between them: if both are right, all are.
#![forbid(unsafe_code)]

use anyhow::Result;
use serde_json::{json, Value};
use vmclock::{Event, ReadError, Reading, Snapshot, VmClock};
use vmclock_core::event::changes;

use crate::page::judgeable;
use crate::region::Region;

/// What was read of one state of the page.
struct State {
    page: Snapshot,
    first: Option<Result<Reading, ReadError>>,
    last: Option<Result<Reading, ReadError>>,
}

impl State {
    fn of(page: Snapshot) -> Self {
        Self { page, first: None, last: None }
    }

    fn add(&mut self, reading: Result<Reading, ReadError>) {
        self.first.get_or_insert(reading);
        self.last = Some(reading);
    }
}

/// Observes until the host says so, and answers its questions for the counter meanwhile.
pub(crate) fn until_end(region: &Region) -> Result<Value> {
    let clock = VmClock::open()?;
    let mut states = vec![State::of(clock.snapshot()?)];
    // Readings that fell between two states; they can be of either.
    let mut between = Vec::new();
    let mut events = Vec::new();
    let mut failures = Vec::new();
    loop {
        // Not before there is a reading of the last state: the page may have changed just now.
        let is_over = region.ended();
        if is_over && states.last().is_none_or(|state| state.last.is_some()) {
            break;
        }
        region.answer();
        let reading = clock.now();
        let page = match clock.snapshot() {
            Ok(page) => page,
            Err(error) => {
                failures.push(error.to_string());
                if is_over {
                    break;
                }
                continue;
            }
        };
        let current = states.len() - 1;
        if page == states[current].page {
            states[current].add(reading);
        } else {
            events.extend(changes(&states[current].page, &page).filter(|event| *event != Event::Refreshed));
            between.push(reading);
            states.push(State::of(page));
        }
    }
    let states = states.iter().map(describe).collect::<Result<Vec<_>>>()?;
    let between = between.iter().map(outcome).collect::<Result<Vec<_>>>()?;
    let events: Vec<_> = events.iter().map(|event| json!([event.name(), event.to_string()])).collect();
    Ok(json!({ "states": states, "between": between, "events": events, "failures": failures }))
}

fn describe(state: &State) -> Result<Value> {
    let State { page, first, last } = state;
    Ok(json!({
        "seq_count": page.seq_count,
        "marker": page.disruption_marker,
        "generation": page.generation(),
        "status": page.clock_status.to_string(),
        "first": first.as_ref().map(outcome).transpose()?,
        "last": last.as_ref().map(outcome).transpose()?,
    }))
}

/// A reading as the harness judges it, or the words why there was none.
fn outcome(reading: &Result<Reading, ReadError>) -> Result<Value> {
    match reading {
        Ok(reading) => judgeable(reading),
        Err(error) => Ok(error.to_string().into()),
    }
}
