// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! The VMClock page and its arithmetic.
//!
//! A VMClock is one page of shared memory in which a hypervisor states for a guest how the CPU's counter relates to
//! real time, that the counter was disrupted, and that the guest was restored from a snapshot. This crate is what every
//! side of that page has in common: the guest library, the host's calibration, the device, and the Linux driver, which
//! compiles this very source.
//!
//! The modules, in the order in which data flows:
//!
//! | module | what it is |
//! |---|---|
//! | [`abi`] | the bytes: fields, offsets, constants, flags |
//! | [`page`] | the sequence count: reader and writer |
//! | [`counter`] | the CPU's counter and its name in the ABI |
//! | [`calibration`] | counter value to time, and back, with error bounds |
//! | [`time`] | instants and spans in 2⁻⁶⁴ s, typed by time scale |
//! | [`leap`] | UTC across a month's end |
//! | [`smear`] | the two smeared clocks |
//! | [`event`] | what changed between two snapshots |
//! | [`lifecycle`] | what each step of a machine's lifecycle changes on its page |
//! | [`guest_counter`] | the guest's counter as a function of the host's |
//! | [`tai`] | TAI-UTC and its sign |
//! | [`sample`] | a clock read between two readings of the counter |
//!
//! Nothing here allocates, divides 128-bit numbers, uses floating point, or can panic, whatever a page contains.
//!
//! ```
//! use vmclock_core::{abi::{CounterId, Snapshot}, calibration::Calibration};
//!
//! // A 1 GHz counter that was 0 when TAI was 2_000_000_000 s: half a second later it reads 500 million.
//! let snapshot = Snapshot::BLANK.with(|page| {
//!     page.counter_id = CounterId::X86_TSC;
//!     page.clock_status = vmclock_core::abi::ClockStatus::SYNCHRONIZED;
//!     page.counter_period_frac_sec = (1u128 << 64).div_ceil(1_000_000_000) as u64;
//!     page.time_sec = 2_000_000_000;
//! });
//! let calibration = Calibration::from_snapshot(&snapshot, CounterId::X86_TSC)?;
//! assert_eq!(calibration.time_at(500_000_000)?.floor_nanos(), 2_000_000_000_500_000_000);
//! # Ok::<(), vmclock_core::calibration::NoTime>(())
//! ```
//!
//! The feature `std` adds conversions to and from `SystemTime`.
#![no_std]
#![deny(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unwrap_used,
        clippy::expect_used
    )
)]

#[cfg(feature = "std")]
extern crate std;

// The examples on the registry's page are tested too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub mod abi;
pub mod calibration;
pub mod counter;
pub mod event;
mod fixed;
pub mod guest_counter;
pub mod leap;
pub mod lifecycle;
pub mod page;
pub mod sample;
pub mod smear;
pub mod tai;
pub mod time;
