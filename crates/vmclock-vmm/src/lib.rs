// SPDX-License-Identifier: MIT OR Apache-2.0
//! VMClock for virtual machine monitors: what a monitor embeds to give its guests a clock, or at least to notify them
//! of its disruptions.
//!
//! | module | what it is |
//! |---|---|
//! | [`device`] | the page, with its guest's memory and interrupt |
//! | [`memory`] | the guest memory that the page is in |
//! | [`trigger`] | how the guest is notified |
//! | [`state`] | what goes with a guest to another host or into a file |
//! | [`counter`] | the guest's counter as a function of the host's |
//! | `kvm` | the same, asked of KVM (feature `kvm`, x86-64) |
//! | [`lineage`] | values for markers and generations |
//! | [`acpi`], [`fdt`] | the firmware's tables by which the guest finds the clock, and is notified |
//!
//! How to embed it: `docs/embedding.md`. `cargo run -p vmclock-vmm --example lifecycle` walks through every operation.
#![deny(unsafe_code)]

pub mod acpi;
pub mod device;
pub mod fdt;
#[cfg(all(feature = "kvm", target_arch = "x86_64"))]
pub mod kvm;
pub mod lineage;
pub mod memory;
pub mod state;
pub mod trigger;

/// The guest's counter as a function of the host's.
pub mod counter {
    pub use vmclock_core::guest_counter::{GuestCounter, Scale};
}
