// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest agent: the right time in the system clock, from the first moment after a restore.
//!
//! | module | what it is |
//! |---|---|
//! | [`feed`] | time for daemons, and for programs that ask for error bounds |
//! | [`measure`] | how far `CLOCK_REALTIME` is from UTC, with bounds, and who vouches for it |
//!
//! The binary `vmclock-agent` runs all of it; each module is of use by itself.
#![deny(unsafe_code)]

pub mod feed;
pub mod measure;
