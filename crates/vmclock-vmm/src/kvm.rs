// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's counter as KVM has it, on x86-64 and with the feature `kvm`.
//!
//! ```no_run
//! use kvm_ioctls::Kvm;
//! use vmclock_vmm::kvm::Host;
//!
//! let kvm = Kvm::new()?;
//! let machine = kvm.create_vm()?;
//! let cpu = machine.create_vcpu(0)?;
//! let host = Host::new(&kvm, &cpu)?; // before the guest gets a frequency of its own
//! cpu.set_tsc_khz(1_000_000)?;
//! let counter = host.guest_counter(&cpu)?;
//! println!("the guest's counter is now {}", counter.at(vmclock_core::counter::read_ordered()));
//! # Ok::<(), kvm_ioctls::Error>(())
//! ```
// KVM_GET_DEVICE_ATTR writes to an address that it is given, and kvm-ioctls knows the vCPU's attributes on other
// architectures only.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd};

use kvm_bindings::{kvm_device_attr, KVM_MAX_CPUID_ENTRIES, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET};
use kvm_ioctls::{Cap, DeviceFd, Error, Kvm, VcpuFd};
use libc::{EOPNOTSUPP, ERANGE};

use vmclock_core::guest_counter::{GuestCounter, Scale};

/// How far a guest's frequency has to be from the host's, in parts per million, for KVM to scale its counter: the
/// module parameter `tsc_tolerance_ppm`, as Linux has it by default.
const TOLERANCE: u64 = 250;

/// The host's counter, as KVM scales it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Host {
    khz: u32,
    fraction_bits: u8,
    /// `KVM_CAP_TSC_CONTROL`.
    can_scale: bool,
}

impl Host {
    /// By a vCPU for which no frequency was set: its `KVM_GET_TSC_KHZ` is the host's.
    pub fn new(kvm: &Kvm, cpu: &VcpuFd) -> Result<Self, Error> {
        let leaves = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
        let is_intel =
            leaves.as_slice().iter().any(|leaf| leaf.function == 0 && leaf.ebx == u32::from_le_bytes(*b"Genu"));
        // AMD's manual, volume 2, "TSC Ratio MSR"; Intel's, volume 3, "TSC multiplier".
        let fraction_bits = if is_intel { 48 } else { 32 };
        Ok(Self { khz: cpu.get_tsc_khz()?, fraction_bits, can_scale: kvm.check_extension(Cap::TscControl) })
    }

    /// The host's frequency, in kHz.
    pub const fn khz(&self) -> u32 {
        self.khz
    }

    /// How a vCPU's counter is scaled; `None` where it is not.
    ///
    /// `EOPNOTSUPP` where a frequency was set that this host cannot scale to: KVM answers with the wish all the same,
    /// and either moves the counter by hand each time that the vCPU enters, or does nothing. What the guest reads is
    /// then no function of the host's counter; give it the host's frequency, or a device without a counter. `ERANGE`
    /// where no ratio expresses it.
    pub fn scale(&self, cpu: &VcpuFd) -> Result<Option<Scale>, Error> {
        self.scale_to(cpu.get_tsc_khz()?)
    }

    fn scale_to(self, khz: u32) -> Result<Option<Scale>, Error> {
        let (host, guest) = (u64::from(self.khz), u64::from(khz));
        // As Linux computes them.
        let tolerated = host * (1_000_000 - TOLERANCE) / 1_000_000..=host * (1_000_000 + TOLERANCE) / 1_000_000;
        if tolerated.contains(&guest) {
            return Ok(None);
        }
        if !self.can_scale {
            return Err(Error::new(EOPNOTSUPP));
        }
        let scale = Scale::between(self.khz, khz, self.fraction_bits);
        scale.map(Some).ok_or(Error::new(ERANGE))
    }

    /// A vCPU's counter, exactly; with the errors of [`scale`](Self::scale).
    pub fn guest_counter(&self, cpu: &VcpuFd) -> Result<GuestCounter, Error> {
        Ok(GuestCounter::exact(counter_offset(cpu)?, self.scale(cpu)?))
    }
}

/// What KVM adds to the host's (scaled) counter, wrapping: `KVM_VCPU_TSC_OFFSET`. Since Linux 5.16.
pub fn counter_offset(cpu: &VcpuFd) -> Result<u64, Error> {
    let mut offset = 0_u64;
    let mut attribute = offset_attribute(&mut offset);
    // SAFETY: KVM writes the eight bytes of this attribute to `offset`, which is of that size and lives longer than the
    // call.
    unsafe { attributes(cpu)?.get_device_attr(&mut attribute) }?;
    Ok(offset)
}

/// Sets it: on a destination, for each vCPU, before the guest runs.
/// [`State::guest_counter`](crate::state::State::guest_counter) has its value. A KVM that accepts that without
/// doing it (one that is a guest itself may) gives `EOPNOTSUPP`: the guest's counter is then what
/// [`Host::guest_counter`] gives, and the page has to be about that.
pub fn set_counter_offset(cpu: &VcpuFd, offset: u64) -> Result<(), Error> {
    attributes(cpu)?.set_device_attr(&offset_attribute(&mut { offset }))?;
    if counter_offset(cpu)? == offset {
        Ok(())
    } else {
        Err(Error::new(EOPNOTSUPP))
    }
}

fn offset_attribute(offset: &mut u64) -> kvm_device_attr {
    let addr = std::ptr::from_mut(offset) as u64;
    kvm_device_attr { group: KVM_VCPU_TSC_CTRL, attr: KVM_VCPU_TSC_OFFSET.into(), addr, flags: 0 }
}

/// A vCPU takes the calls of a device.
fn attributes(cpu: &VcpuFd) -> Result<DeviceFd, Error> {
    // SAFETY: it is the file of `cpu`, and open as long as that lives, which is longer than this borrow.
    let file = unsafe { BorrowedFd::borrow_raw(cpu.as_raw_fd()) };
    let own = file.try_clone_to_owned().map_err(|error| Error::new(error.raw_os_error().unwrap_or_default()))?;
    // SAFETY: the file was duplicated for this, and nothing else owns its number.
    Ok(unsafe { DeviceFd::from_raw_fd(own.into_raw_fd()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frequency_is_scaled_where_the_cpu_can_and_beyond_the_tolerance() {
        let intel = Host { khz: 2_000_000, fraction_bits: 48, can_scale: true };
        let (amd, none) = (Host { fraction_bits: 32, ..intel }, Host { can_scale: false, ..intel });
        for host in [intel, amd, none] {
            for khz in [1_999_500, 2_000_000, 2_000_500] {
                assert_eq!(host.scale_to(khz), Ok(None), "{khz}");
            }
        }
        for khz in [1, 1_000_000, 1_999_499, 2_000_501, 4_000_000] {
            for host in [intel, amd] {
                let Ok(Some(Scale { ratio, fraction_bits })) = host.scale_to(khz) else {
                    panic!("{khz} is not scaled")
                };
                assert_eq!(fraction_bits, host.fraction_bits);
                assert_eq!(
                    u128::from(ratio),
                    (u128::from(khz) << fraction_bits) / 2_000_000,
                    "rounded down, as by KVM"
                );
            }
            assert_eq!(none.scale_to(khz).map_err(Error::errno), Err(EOPNOTSUPP));
        }
        assert_eq!(intel.scale_to(0).map_err(Error::errno), Err(ERANGE), "not a counter that does not run");
    }
}
