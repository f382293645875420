// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! The bytes of the page: fields, offsets, constants and flags.
//!
//! Everything here is as in Linux's `include/uapi/linux/vmclock-abi.h`, the canonical reference; the UAPI Group's
//! specification UAPI.13 "VMClock" describes the same structure (its version 1.0 misprints two offsets and two flags).
//! All fields are little-endian and naturally aligned. A value that we do not know stays the number that it is: no
//! byte of the page becomes a Rust `enum`.

mod flags;
mod numbers;
mod parse;
mod snapshot;
mod words;

pub use flags::Flags;
pub use numbers::{ClockStatus, CounterId, LeapIndicator, SmearingHint, TimeType};
pub use parse::ParseError;
pub use snapshot::Snapshot;
#[doc(hidden)]
pub use words::{TimeWords, Words, CHANGING_WORDS};

/// The bytes `VCLK`, at the very start of the page.
pub const MAGIC: u32 = 0x4b4c_4356;

/// The only version of the structure so far. It grows by flags and by size, not by version.
pub const VERSION: u16 = 1;

/// Length of the structure in bytes, as of Linux 7.0.
pub const STRUCTURE_LEN: usize = 0x70;

/// The shortest region that can be a VMClock: it ends behind the sequence count.
pub const MIN_REGION_LEN: usize = 0x10;
