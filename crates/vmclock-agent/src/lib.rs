// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest agent: the right time in the system clock, from the first moment after a restore.
//!
//! | module | what it is |
//! |---|---|
//! | [`measure`] | how far `CLOCK_REALTIME` is from UTC, with bounds, and who vouches for it |
//! | [`hook`] | executables that repair what a restore broke: where they come from, and what they ask for |
//! | [`runner`] | runs them, in a process of its own |
//! | [`cgroup`] | freezes the workload, and thaws it |
//!
//! The binary `vmclock-agent` runs all of it; each module is of use by itself.
#![deny(unsafe_code)]

pub mod cgroup;
pub mod hook;
pub mod measure;
pub mod runner;
