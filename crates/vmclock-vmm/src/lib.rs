// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! VMClock for virtual machine monitors: what a monitor embeds to give its guests a clock, or at least to notify them
//! of its disruptions.
//!
//! | module | what it is | feature |
//! |---|---|---|
//! | [`device`] | the page, with its guest's memory and interrupt | |
//! | [`memory`] | the memory that the page is in | `vm-memory` for rust-vmm's |
//! | [`trigger`] | how the guest is notified | `eventfd` for vmm-sys-util's |
//! | [`state`] | what goes with a guest to another host or into a file | `serde` for its formats |
//! | [`counter`] | the guest's counter as a function of the host's | |
//! | `kvm` | the same, asked of KVM | `kvm`, Linux |
//! | [`lineage`] | values for markers and generations | `getrandom` for fresh ones |
//! | `acpi`, `fdt` | the firmware's tables by which the guest finds the clock, and is notified | `acpi`, `fdt` |
//!
//! No feature is on by default, and without features there is one dependency: a keyed hash.
//!
//! How to embed it: `docs/embedding.md`. `cargo run -p vmclock-vmm --all-features --example lifecycle` walks through
//! every operation.
#![deny(unsafe_code)]

pub use vmclock_core;

#[cfg(feature = "acpi")]
pub mod acpi;
pub mod device;
#[cfg(feature = "fdt")]
pub mod fdt;
#[cfg(all(feature = "kvm", target_os = "linux"))]
pub mod kvm;
pub mod lineage;
pub mod memory;
pub mod state;
pub mod trigger;

/// The guest's counter as a function of the host's.
pub mod counter {
    pub use vmclock_core::guest_counter::{GuestCounter, Scale};
}

pub use device::VmClockDevice;
#[cfg(feature = "vm-memory")]
pub use memory::VmClockPage;

/// Random bits of the system, for keys and for what operations call `fresh`.
///
/// ```
/// let key: [u64; 2] = vmclock_vmm::fresh()?;
/// assert_ne!(key, vmclock_vmm::fresh()?);
/// # Ok::<(), getrandom::Error>(())
/// ```
#[cfg(feature = "getrandom")]
pub fn fresh<const N: usize>() -> Result<[u64; N], getrandom::Error> {
    let mut words = [0; N];
    for word in &mut words {
        *word = getrandom::u64()?;
    }
    Ok(words)
}

// The examples on the registry's page are tested too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
