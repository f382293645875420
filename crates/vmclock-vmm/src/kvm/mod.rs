// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! The guest's counter as KVM has it, with the feature `kvm`, on x86-64 and arm64.
//!
//! A guest's counter is a function of the host's for as long as nobody sets it. Ask again after whatever may have:
//!
//! - the vCPUs are made, reset, restored (`KVM_SET_MSRS` with `IA32_TSC` or `IA32_TSC_ADJUST`), or one is plugged in;
//! - the monitor sets a frequency (`KVM_SET_TSC_KHZ`) or an offset;
//! - the guest itself writes `IA32_TSC` or `IA32_TSC_ADJUST`: KVM tells the monitor of such writes if it asks for it
//!   (`KVM_CAP_X86_USER_SPACE_MSR` and a filter of these registers);
//! - the host was suspended.
//!
//! Asking costs one or two system calls for each vCPU: simplest is to ask with each update of the page.
//! [`VmClockDevice::follow`](crate::VmClockDevice::follow) takes a counter that became another for a disruption.
// KVM_GET_DEVICE_ATTR and others write to an address that they are given, and kvm-ioctls does not have them all.
#![allow(unsafe_code)]

use std::fmt;

use kvm_ioctls::Error as Errno;

use vmclock_core::guest_counter::GuestCounter;

mod protection;

pub use protection::Protection;

#[cfg(target_arch = "aarch64")]
mod arm64;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "aarch64")]
pub use arm64::{guest_counter, set_counter_offset};
#[cfg(target_arch = "x86_64")]
pub use x86::{continue_clock, counter_offset, sample, set_counter_offset, Host};

/// Why a guest's counter is not known, or cannot be set.
///
/// ```
/// use vmclock_vmm::kvm::KvmError;
/// let error = KvmError::CannotScale { host_khz: 2_000_000, guest_khz: 1_000_000 };
/// assert!(error.to_string().contains("1000000 kHz"));
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum KvmError {
    /// A system call failed.
    Call {
        /// Which, by the name of its request.
        call: &'static str,
        /// Why.
        error: Errno,
    },
    /// The guest was given a frequency that this host cannot scale to. KVM answers with the wish all the same, and
    /// either moves the counter by hand each time that the vCPU enters, or does nothing.
    CannotScale {
        /// The host's frequency.
        host_khz: u32,
        /// The guest's.
        guest_khz: u32,
    },
    /// Not all vCPUs have the same counter, so no page can be right for all of them.
    Apart {
        /// The first vCPU with another counter than vCPU 0, by its place in the list.
        cpu: usize,
        /// Its counter.
        counter: GuestCounter,
        /// That of vCPU 0.
        first: GuestCounter,
    },
    /// There is no vCPU to ask.
    NoCpu,
    /// KVM accepted an offset and has another all the same, as one that is a guest itself may.
    NotSet {
        /// What was to be set.
        wanted: u64,
        /// What it is.
        found: u64,
    },
    /// The guest's counter is not the host's affair.
    Protected(Protection),
    /// KVM does not say when by the host's counter it read the time: its clock is not the counter, or Linux is older
    /// than 5.16.
    NoSample,
}

impl KvmError {
    pub(crate) fn of(call: &'static str) -> impl FnOnce(Errno) -> Self {
        move |error| Self::Call { call, error }
    }
}

impl fmt::Display for KvmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call { call, .. } => write!(f, "{call} failed"),
            Self::CannotScale { host_khz, guest_khz } => write!(
                f,
                "the guest's counter is to run at {guest_khz} kHz, and this host's runs at {host_khz} kHz and cannot be \
                 scaled to that; give the guest the host's frequency, or a device without a counter"
            ),
            Self::Apart { cpu, counter, first } => write!(
                f,
                "vCPU {cpu} has the offset {:#x}, and vCPU 0 has {:#x}; set them alike, or give the guest a device \
                 without a counter",
                counter.offset(),
                first.offset()
            ),
            Self::NoCpu => f.write_str("there is no vCPU to ask for its counter"),
            Self::NotSet { wanted, found } => write!(
                f,
                "KVM accepted the counter offset {wanted:#x} and has {found:#x}; give the page the counter that it has"
            ),
            Self::Protected(protection) => protection.fmt(f),
            Self::NoSample => f.write_str(
                "KVM_GET_CLOCK gives no counter of the host; use a host whose clock source is tsc, with Linux 5.16 or newer",
            ),
        }
    }
}

impl std::error::Error for KvmError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Call { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// The counter of a whole guest, from those of all its vCPUs, for monitors whose vCPUs are asked by their own threads.
///
/// ```
/// use vmclock_vmm::counter::GuestCounter;
/// use vmclock_vmm::kvm::of_all;
///
/// let (one, other) = (GuestCounter::exact(5, None), GuestCounter::exact(6, None));
/// assert_eq!(of_all([one, one]).ok(), Some(one));
/// assert!(of_all([one, other]).unwrap_err().to_string().starts_with("vCPU 1 has the offset 0x6"));
/// ```
pub fn of_all(counters: impl IntoIterator<Item = GuestCounter>) -> Result<GuestCounter, KvmError> {
    let mut counters = counters.into_iter().enumerate();
    let (_, first) = counters.next().ok_or(KvmError::NoCpu)?;
    match counters.find(|(_, counter)| *counter != first) {
        Some((cpu, counter)) => Err(KvmError::Apart { cpu, counter, first }),
        None => Ok(first),
    }
}
