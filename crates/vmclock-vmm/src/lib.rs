// SPDX-License-Identifier: MIT OR Apache-2.0
//! VMClock for virtual machine monitors: what a monitor embeds to give its guests a clock, or at least the news of its
//! disruptions.
//!
//! | module | what it is |
//! |---|---|
//! | [`device`] | the page, and what each step of a machine's life does to it |
//! | [`memory`] | the guest memory that the page is in |
//! | [`trigger`] | how the guest is told |
//! | [`state`] | what goes with a guest to another host or into a file |
//! | [`counter`] | the guest's counter as a function of the host's |
//! | [`lineage`] | values for markers and generations |
//! | [`acpi`], [`fdt`] | the firmware's tables by which the guest finds the clock, and is notified |
//!
//! How to embed it: `docs/embedding.md`. `cargo run -p vmclock-vmm --example lifecycle` walks through every operation.
#![forbid(unsafe_code)]

pub mod acpi;
pub mod counter;
pub mod device;
pub mod fdt;
pub mod lineage;
pub mod memory;
pub mod state;
pub mod trigger;
