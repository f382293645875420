// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a host's clock to a VMClock page.
//!
//! | module | what it is |
//! |---|---|
//! | [`sample`] | a clock read between two readings of the counter |
//! | [`kernel`] | the kernel's clock: samples, and what the kernel says of its quality |
//! | [`leap_seconds`] | the system's `leap-seconds.list` |
//! | [`estimator`] | samples to a calibration with bounds |
//! | [`schedule`] | how offset and leap indicator pass a leap second |
//! | [`identity`] | values for markers and generations |
//! | [`page_file`] | the file that a page is published in |
//!
//! The clock that is published is a function of the raw counter, never of a clock that it steers (feed-forward).
//!
//! ```
//! use vmclock_host::{estimator::Estimator, kernel::KernelClock};
//!
//! let clock = KernelClock::realtime_plus(37);
//! let mut estimator = Estimator::new(1_000_000); // the counter's rate may change by up to 1 ppm
//! estimator.add(clock.sample());
//! std::thread::sleep(std::time::Duration::from_millis(20));
//! let estimate = estimator.add(clock.sample()).expect("two samples make a line");
//! assert!(estimate.time_max_error < 1_000_000);
//! ```
#![deny(unsafe_code)]

pub mod estimator;
pub mod identity;
pub mod kernel;
pub mod leap_seconds;
pub mod page_file;
pub mod sample;
pub mod schedule;
mod sys;
