// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a host's clock to a VMClock page.
//!
//! | module | what it is |
//! |---|---|
//! | [`source`] | where a host knows the time from: its kernel, PTP hardware, chronyd, another page |
//! | [`timescale`] | from a source's scale to TAI, across leap seconds |
//! | [`estimator`] | looks at sources to a calibration with bounds |
//! | [`trace`] | all that an estimator was told, to do it again |
//! | [`schedule`] | how offset and leap indicator pass a leap second |
//! | [`leap_seconds`] | the system's `leap-seconds.list` |
//! | [`page_file`] | the file that a page is published in |
//! | [`identity`] | values for markers and generations |
//! | [`kernel`] | the kernel's clock: samples, and what the kernel says of its quality |
//! | [`sample`] | a clock read between two readings of the counter |
//!
//! The clock that is published is a function of the raw counter, never of a clock that it steers (feed-forward).
//!
//! ```
//! use std::time::Duration;
//! use vmclock_core::counter;
//! use vmclock_host::estimator::{Estimator, Evidence, Settings};
//! use vmclock_host::kernel::{nominal_period, KernelClock};
//!
//! let nominal = nominal_period(Duration::from_millis(1)).expect("a counter");
//! let mut estimator = Estimator::new(Settings::default(), nominal, 1);
//! let look = KernelClock::realtime_plus(37).sample();
//! estimator.observe(&Evidence {
//!     source: 0,
//!     before: look.before,
//!     after: look.after,
//!     time: look.time,
//!     max_error: 0, // the kernel's clock is the truth here
//!     estimated_error: 0,
//!     synchronized: true,
//! });
//! let estimate = estimator.conclude(counter::read_ordered()).publish.expect("one look is enough");
//! assert!(estimate.time_max_error < 1_000_000);
//! ```
#![deny(unsafe_code)]

pub mod estimator;
pub mod identity;
mod interval;
pub mod kernel;
pub mod leap_seconds;
pub mod page_file;
pub mod sample;
pub mod schedule;
pub mod source;
mod sys;
pub mod timescale;
pub mod trace;
