// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! KVM on x86-64: an offset and a scale for each vCPU.

use std::arch::x86_64::__cpuid;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd};

use kvm_bindings::{
    kvm_clock_data, kvm_device_attr, KVM_CLOCK_HOST_TSC, KVM_CLOCK_REALTIME, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET,
};
use kvm_ioctls::{Cap, DeviceFd, Error as Errno, Kvm, VcpuFd, VmFd};

use vmclock_core::guest_counter::{GuestCounter, Scale};
use vmclock_core::sample::Sample;
use vmclock_core::time::{Time, Utc};

use super::{of_all, KvmError};

/// How far a guest's frequency has to be from the host's, in parts per million, for KVM to scale its counter: the
/// module parameter `tsc_tolerance_ppm`, as Linux has it by default.
const TOLERANCE: u64 = 250;

/// `KVM_GET_TSC_KHZ`: `_IO(KVMIO, 0xa3)`.
const GET_TSC_KHZ: libc::Ioctl = 0xaea3;

/// The attribute `KVM_VCPU_TSC_SCALE` of kernels that have it, and its `struct kvm_vcpu_tsc_scale`.
const TSC_SCALE: u64 = 1;

#[derive(Default)]
#[repr(C)]
struct TscScale {
    ratio: u64,
    fraction_bits: u64,
}

/// The host's counter, as KVM scales it.
///
/// ```no_run
/// use kvm_ioctls::Kvm;
/// use vmclock_vmm::kvm::Host;
///
/// let kvm = Kvm::new()?;
/// let machine = kvm.create_vm()?;
/// let host = Host::from_vm(&kvm, &machine)?; // before the guest gets a frequency of its own
/// let cpus = [machine.create_vcpu(0)?, machine.create_vcpu(1)?];
/// let counter = host.guest_counter(&cpus)?;
/// println!("the guest's counter is now {}", counter.at(vmclock_vmm::vmclock_core::counter::read_ordered()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Host {
    khz: u32,
    fraction_bits: u8,
    /// `KVM_CAP_TSC_CONTROL`.
    can_scale: bool,
}

impl Host {
    /// By a vCPU for which no frequency was set: its `KVM_GET_TSC_KHZ` is the host's.
    pub fn from_cpu(kvm: &Kvm, cpu: &VcpuFd) -> Result<Self, KvmError> {
        let khz = cpu.get_tsc_khz().map_err(KvmError::of("KVM_GET_TSC_KHZ"))?;
        Ok(Self::from_parts(khz, fraction_bits(), kvm.check_extension(Cap::TscControl)))
    }

    /// By a machine for which no frequency was set, before it has vCPUs. Since Linux 5.17.
    pub fn from_vm(kvm: &Kvm, machine: &VmFd) -> Result<Self, KvmError> {
        // SAFETY: this request has no argument, and the file is open for as long as `machine` lives.
        let khz = unsafe { libc::ioctl(machine.as_raw_fd(), GET_TSC_KHZ, 0) };
        let khz = u32::try_from(khz).map_err(|_| KvmError::of("KVM_GET_TSC_KHZ of a machine")(Errno::last()))?;
        Ok(Self::from_parts(khz, fraction_bits(), kvm.check_extension(Cap::TscControl)))
    }

    /// The host's frequency in kHz, how many bits of a ratio are behind the binary point, and whether the CPU can scale
    /// (`KVM_CAP_TSC_CONTROL`): for a monitor that asks KVM by itself.
    pub const fn from_parts(khz: u32, fraction_bits: u8, can_scale: bool) -> Self {
        Self { khz, fraction_bits, can_scale }
    }

    /// The host's frequency, in kHz.
    pub const fn khz(&self) -> u32 {
        self.khz
    }

    /// How a vCPU's counter is scaled; `None` where it is not. [`KvmError::CannotScale`] where what the guest reads is
    /// no function of the host's counter.
    pub fn scale(&self, cpu: &VcpuFd) -> Result<Option<Scale>, KvmError> {
        match scale_of(cpu)? {
            Some(TscScale { ratio, fraction_bits }) => {
                let bits = u8::try_from(fraction_bits).unwrap_or(u8::MAX);
                let is_whole = 1_u64.checked_shl(bits.into()) == Some(ratio);
                Ok((!is_whole).then_some(Scale { ratio, fraction_bits: bits }))
            }
            None => self.scale_to(cpu.get_tsc_khz().map_err(KvmError::of("KVM_GET_TSC_KHZ"))?),
        }
    }

    fn scale_to(self, khz: u32) -> Result<Option<Scale>, KvmError> {
        let (host, guest) = (u64::from(self.khz), u64::from(khz));
        // As Linux computes them.
        let tolerated = host * (1_000_000 - TOLERANCE) / 1_000_000..=host * (1_000_000 + TOLERANCE) / 1_000_000;
        if tolerated.contains(&guest) {
            return Ok(None);
        }
        let scale = Scale::between(self.khz, khz, self.fraction_bits).filter(|_| self.can_scale);
        scale.map(Some).ok_or(KvmError::CannotScale { host_khz: self.khz, guest_khz: khz })
    }

    /// A vCPU's counter, exactly.
    pub fn cpu_counter(&self, cpu: &VcpuFd) -> Result<GuestCounter, KvmError> {
        Ok(GuestCounter::exact(counter_offset(cpu)?, self.scale(cpu)?))
    }

    /// The counter of a guest, by asking all its vCPUs: [`KvmError::Apart`] where they differ.
    pub fn guest_counter<'a>(&self, cpus: impl IntoIterator<Item = &'a VcpuFd>) -> Result<GuestCounter, KvmError> {
        let counters: Result<Vec<_>, _> = cpus.into_iter().map(|cpu| self.cpu_counter(cpu)).collect();
        of_all(counters?)
    }
}

/// How many bits of a ratio are behind the binary point: 48 with Intel's virtualization ("TSC multiplier"), 32 with
/// AMD's ("TSC Ratio MSR"), whoever made the CPU.
fn fraction_bits() -> u8 {
    /// `CPUID.1:ECX.VMX`.
    const VMX: u32 = 1 << 5;
    // `cpuid` is unsafe in older Rusts; every x86-64 CPU has it.
    #[allow(unused_unsafe)]
    // SAFETY: as said.
    let features = unsafe { __cpuid(1) };
    if features.ecx & VMX != 0 {
        48
    } else {
        32
    }
}

/// What KVM adds to the host's (scaled) counter, wrapping: `KVM_VCPU_TSC_OFFSET`. Since Linux 5.16.
pub fn counter_offset(cpu: &VcpuFd) -> Result<u64, KvmError> {
    let mut offset = 0_u64;
    let mut attribute = attribute(KVM_VCPU_TSC_OFFSET.into(), &mut offset);
    let failed = KvmError::of("KVM_GET_DEVICE_ATTR of the counter's offset");
    // SAFETY: KVM writes the eight bytes of this attribute to `offset`, which is of that size and lives longer than the
    // call.
    unsafe { attributes(cpu)?.get_device_attr(&mut attribute) }.map_err(failed)?;
    Ok(offset)
}

/// A vCPU's scale, where the kernel has an attribute for it and the CPU can scale.
fn scale_of(cpu: &VcpuFd) -> Result<Option<TscScale>, KvmError> {
    let mut scale = TscScale::default();
    let mut attribute = attribute(TSC_SCALE, &mut scale);
    let attributes = attributes(cpu)?;
    if attributes.has_device_attr(&attribute).is_err() {
        return Ok(None);
    }
    // SAFETY: KVM writes the 16 bytes of this attribute to `scale`, which is of that layout and lives longer than the
    // call.
    unsafe { attributes.get_device_attr(&mut attribute) }
        .map_err(KvmError::of("KVM_GET_DEVICE_ATTR of the counter's scale"))?;
    Ok(Some(scale))
}

/// Sets it: on a destination, for each vCPU, before the guest runs.
/// [`State::guest_counter`](crate::state::State::guest_counter) has its value. [`KvmError::NotSet`] where the guest's
/// counter is another all the same: that is what [`Host::guest_counter`] gives, and the page has to be about that.
pub fn set_counter_offset(cpu: &VcpuFd, offset: u64) -> Result<(), KvmError> {
    let attribute = attribute(KVM_VCPU_TSC_OFFSET.into(), &mut { offset });
    attributes(cpu)?
        .set_device_attr(&attribute)
        .map_err(KvmError::of("KVM_SET_DEVICE_ATTR of the counter's offset"))?;
    match counter_offset(cpu)? {
        found if found == offset => Ok(()),
        found => Err(KvmError::NotSet { wanted: offset, found }),
    }
}

/// A sample of the host's `CLOCK_REALTIME` (UTC) at one value of its counter, by `KVM_GET_CLOCK`: the kernel reads both
/// at once, so that it is no wider than the nanosecond of the clock. [`KvmError::NoSample`] where it does not.
pub fn sample(machine: &VmFd) -> Result<Sample<Utc>, KvmError> {
    let clock = machine.get_clock().map_err(KvmError::of("KVM_GET_CLOCK"))?;
    sample_of(&clock).ok_or(KvmError::NoSample)
}

fn sample_of(clock: &kvm_clock_data) -> Option<Sample<Utc>> {
    let wanted = KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC;
    let time = Time::from_nanos(clock.realtime.into()).filter(|_| clock.flags & wanted == wanted)?;
    Some(Sample { before: clock.host_tsc, time, after: clock.host_tsc })
}

/// Continues a machine's kvmclock where `KVM_GET_CLOCK` saved it, by the time that has passed by the hosts'
/// `CLOCK_REALTIME`, where it has that: so guests that use kvmclock agree with a page whose counter continues by
/// [`State::guest_counter`](crate::state::State::guest_counter). After the counters' offsets were set, as KVM derives
/// kvmclock from them.
pub fn continue_clock(machine: &VmFd, saved: &kvm_clock_data) -> Result<(), KvmError> {
    let flags = saved.flags & KVM_CLOCK_REALTIME;
    let clock = kvm_clock_data { clock: saved.clock, realtime: saved.realtime, flags, ..kvm_clock_data::default() };
    machine.set_clock(&clock).map_err(KvmError::of("KVM_SET_CLOCK"))
}

fn attribute<T>(attr: u64, value: &mut T) -> kvm_device_attr {
    let addr = std::ptr::from_mut(value) as u64;
    kvm_device_attr { group: KVM_VCPU_TSC_CTRL, attr, addr, flags: 0 }
}

/// A vCPU takes the calls of a device.
fn attributes(cpu: &VcpuFd) -> Result<DeviceFd, KvmError> {
    // SAFETY: it is the file of `cpu`, and open as long as that lives, which is longer than this borrow.
    let file = unsafe { BorrowedFd::borrow_raw(cpu.as_raw_fd()) };
    let own = file
        .try_clone_to_owned()
        .map_err(|error| KvmError::of("copying a vCPU's file")(Errno::new(error.raw_os_error().unwrap_or_default())))?;
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
                assert!(matches!(host.scale_to(khz), Ok(None)), "{khz}");
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
            assert!(matches!(none.scale_to(khz), Err(KvmError::CannotScale { .. })));
        }
        assert!(matches!(intel.scale_to(0), Err(KvmError::CannotScale { .. })), "not a counter that does not run");
    }

    #[test]
    fn a_sample_is_what_the_kernel_says_it_is() {
        let flags = KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC;
        let clock = kvm_clock_data { realtime: 1_800_000_000_000_000_007, host_tsc: 77, flags, ..Default::default() };
        let sample = sample_of(&clock).expect("both");
        assert_eq!((sample.before, sample.after, sample.time.seconds()), (77, 77, 1_800_000_000));
        for flags in [0, KVM_CLOCK_REALTIME, KVM_CLOCK_HOST_TSC] {
            assert_eq!(sample_of(&kvm_clock_data { flags, ..clock }), None);
        }
    }
}
