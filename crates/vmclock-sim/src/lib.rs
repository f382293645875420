// SPDX-License-Identifier: MIT OR Apache-2.0
//! Simulated worlds that drive the real publisher, and a judge who knows the true time.
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
mod source;
mod spec;
mod statistics;
mod units;
mod world;

pub use fuzz::{fuzz, replay, Campaign, Failure, Replay};
pub use judge::{Rule, Violations};
mod scenario;
mod simulate;
pub use scenario::{Scenario, SCENARIOS};
pub use simulate::{simulate, Account, Outcome, Request, Tally};
pub use statistics::{Point, Quantiles, Statistics};
