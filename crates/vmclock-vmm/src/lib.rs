// SPDX-License-Identifier: MIT OR Apache-2.0
//! VMClock for virtual machine monitors.
//!
//! | module | what it is |
//! |---|---|
//! | [`acpi`] | the ACPI table by which a guest finds the clock, and by which it is notified |
#![forbid(unsafe_code)]

pub mod acpi;
