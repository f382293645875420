// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a host's clock to a VMClock page.
//!
//! | module | what it is |
//! |---|---|
//! | [`source`] | where a host knows the time from: its kernel, PTP hardware, chronyd, another page |
//! | [`utc`] | TAI-UTC and leap seconds, and what sources on UTC mean |
//! | [`estimator`] | measurements of sources to a calibration with bounds |
//! | [`policy`] | all decisions of a publisher, a function of what it was given |
//! | [`trace`] | all that decisions depend on, to replay them |
//! | [`clock`] | measures in rounds, and knows the time as a function of the counter |
//! | [`publisher`] | a clock, and the page that it keeps up to date |
//! | [`service`] | a publisher, and the pages of many guests; the protocol of its clients |
//! | [`event`] | what a publisher reports |
//! | [`rounds`] | when to start and to finish its rounds |
//! | [`world`], [`this_host`] | what a publisher needs of its machine and of its page; the real machine |
//! | [`page_file`] | the file that a page is published in |
//! | [`schedule`] | how TAI-UTC and the leap indicator pass a leap second |
//! | [`leap_seconds`] | the system's `leap-seconds.list` |
//! | [`identity`] | values for markers and generations |
//! | [`kernel`] | the kernel's clock: samples, and what the kernel says of its quality |
//!
//! The clock that is published is a function of the raw counter, never of a clock that it steers (feed-forward). How to
//! publish a page: [`publisher`].
#![deny(unsafe_code)]

pub mod clock;
pub mod continuity;
pub mod estimator;
pub mod event;
pub mod identity;
mod interval;
mod journal;
pub mod kernel;
pub mod leap_seconds;
pub mod page_file;
mod plain;
pub mod policy;
mod publication;
pub mod publisher;
pub mod rounds;
pub mod schedule;
pub mod service;
pub mod source;
pub mod state;
mod sys;
pub mod this_host;
pub mod trace;
pub mod utc;
pub mod world;
