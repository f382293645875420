// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! KVM on arm64: one offset for a whole machine, since Linux 6.4.

use std::os::fd::AsRawFd;

use kvm_bindings::kvm_arm_counter_offset;
use kvm_ioctls::{Cap, Error as Errno, Kvm, VcpuFd, VmFd};

use vmclock_core::counter;
use vmclock_core::guest_counter::GuestCounter;

use super::KvmError;

/// `KVM_ARM_SET_COUNTER_OFFSET`: `_IOW(KVMIO, 0xb5, struct kvm_arm_counter_offset)`.
const SET_COUNTER_OFFSET: libc::Ioctl = 0x4010_aeb5_u32 as libc::Ioctl;
/// `KVM_REG_ARM_TIMER_CNT`: the virtual counter.
const TIMER_COUNT: u64 = 0x6030_0000_0013_df1a;

/// Sets how far all counters of a machine are behind the host's, and says what the guest's counter is then: exactly
/// that. Once, before the vCPUs run; writes to a vCPU's counter have no effect afterwards.
///
/// `EOPNOTSUPP` without `KVM_CAP_COUNTER_OFFSET`: [`guest_counter`] measures it then.
pub fn set_counter_offset(kvm: &Kvm, machine: &VmFd, behind: u64) -> Result<GuestCounter, KvmError> {
    let failed = KvmError::of("KVM_ARM_SET_COUNTER_OFFSET");
    if !kvm.check_extension(Cap::CounterOffset) {
        return Err(failed(Errno::new(libc::EOPNOTSUPP)));
    }
    let offset = kvm_arm_counter_offset { counter_offset: behind, reserved: 0 };
    // SAFETY: the kernel reads these 16 bytes, which live longer than the call, and the file is open for as long as
    // `machine` lives.
    let result = unsafe { libc::ioctl(machine.as_raw_fd(), SET_COUNTER_OFFSET, &raw const offset) };
    if result == 0 {
        Ok(GuestCounter::exact(behind.wrapping_neg(), None))
    } else {
        Err(failed(Errno::last()))
    }
}

/// A vCPU's counter, measured: to within the time that asking takes. The vCPU must not run.
pub fn guest_counter(cpu: &VcpuFd) -> Result<GuestCounter, KvmError> {
    let mut bytes = [0; 8];
    let before = counter::read_ordered();
    let read = cpu.get_one_reg(TIMER_COUNT, &mut bytes);
    let after = counter::read_ordered();
    read.map_err(KvmError::of("KVM_GET_ONE_REG of the virtual counter"))?;
    let width = after.wrapping_sub(before);
    let (below, middle) = (width.div_ceil(2), before.wrapping_add(width / 2));
    // Where it was read later, the offset is smaller.
    Ok(GuestCounter::within(u64::from_le_bytes(bytes).wrapping_sub(middle), below, below, None))
}
