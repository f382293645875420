// SPDX-License-Identifier: MIT OR Apache-2.0
//! Simulated worlds that drive the real publisher, and a judge who knows the true time.
//!
//! The publisher is the one that the command and the service run, [`vmclock_host::publisher::Publisher`]; simulated are
//! the machine that it runs on, the clocks that its sources read, and the memory that its page is in. A world is data,
//! drawn from one number: by a [scenario](SCENARIOS), or, to attack, by [`fuzz()`]. Time is not stepped through:
//! between two moments at which something happens the counter is a line, so that a round costs little more than the
//! publisher's own work.
//!
//! # What is assumed, and judged
//!
//! The names are those of `docs/bounds.md`.
//!
//! | | a world keeps to this | unless it is what the world is about |
//! |---|---|---|
//! | A1 | At any time fewer than half of the *configured* clocks are wrong. A measurement is wrong if true time is outside its stated error for the whole of its bracket, or if it announces a leap second that does not come; a clock is wrong until its last wrong measurement is older than the source timeout. | `steps`, `two-servers`: the page must not be wrong all the same |
//! | A2 | The counter's frequency stays for ever within a band whose width is the configured wander, of its lower end. | jumps, lasting changes, faults, hosts that sleep: the time from that moment until the end of the round in which a majority of clocks, measured after it, contradicts the page is excused, and nothing else |
//! | A3 | At the start the frequency is within the nominal error of the nominal one. It may leave that later, within the band. | |
//! | A4 | Where the wander is measured, the frequency stays within three times the range that was seen in a day. | `frequency-change-measured` |
//! | A5 | A steered clock says how it is steered: what nobody can know until the next measurement is excused. | |
//! | A6 | A leap second comes as a list, announcements of a majority, or a majority of clocks that are exact enough show it. | excused until it could be known |
//!
//! What must always hold is a [`Rule`] each. All of it is in whole nanoseconds and 2^-64 s, through the real bytes of
//! the page and the real reader, without tolerance.
//!
//! # Modules
//!
//! | module | what it is |
//! |---|---|
//! | `scenario`, `fuzz` | worlds by name, and worlds that attack; the simplest that fails |
//! | `spec` | a world, as data |
//! | `simulate` | many runs on several threads |
//! | `run`, `world` | one run: what happens, and when |
//! | `publisher`, `machine`, `source` | the real publisher in a world: its machine, its page, its sources |
//! | `counter`, `clock`, `calendar` | what is true: the counter over time, clocks and their errors, UTC |
//! | `judge`, `ledger` | whether the page is right, and what it could know |
//! | `statistics`, `network_guest` | how good the time is, and how good it is without a page |
//! | `chance`, `units` | what they are built from |
#![forbid(unsafe_code)]
// Physics is in floating point, pages and true time are in integers; what crosses over is far below 2^53, or rounded on
// purpose.
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap
)]

mod calendar;
mod chance;
mod clock;
mod counter;
mod fuzz;
mod judge;
mod ledger;
mod machine;
mod network_guest;
mod publisher;
mod run;
mod scenario;
mod simulate;
mod source;
mod spec;
mod statistics;
mod units;
mod world;

pub use fuzz::{fuzz, reproduce, Campaign, Failure, Reproduction};
pub use judge::{Rule, Violations};
pub use scenario::{Scenario, SCENARIOS};
pub use simulate::{simulate, Account, Outcome, Request, Tally};
pub use statistics::{Point, Quantiles, Statistics};
