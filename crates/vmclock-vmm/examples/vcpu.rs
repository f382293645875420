// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! A guest of sixteen-bit instructions under KVM: it reads its counter and the page, and what it read gives the time.
//! Needs `/dev/kvm`, and an x86-64 host, whose clock is assumed exact.

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn main() {
    println!("the guest's instructions are for x86-64");
}

#[cfg(target_arch = "x86_64")]
pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    x86::run()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    // A virtual machine's memory has to be given to the kernel by its address.
    #![allow(unsafe_code)]

    use std::error::Error;
    use std::time::Duration;

    use kvm_bindings::kvm_userspace_memory_region;
    use kvm_ioctls::{Cap, Kvm, VcpuExit};
    use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
    use vmclock_core::abi::{ClockStatus, CounterId, Snapshot, STRUCTURE_LEN};
    use vmclock_core::calibration::Calibration;
    use vmclock_core::counter;
    use vmclock_core::lifecycle::{Calibrated, LeapStatus};
    use vmclock_core::tai::TaiOffset;
    use vmclock_core::time::Tai;
    use vmclock_host::estimator::{Estimator, Evidence, Settings};
    use vmclock_host::kernel::{nominal_period, KernelClock};
    use vmclock_vmm::device::Options;
    use vmclock_vmm::kvm::Host;
    use vmclock_vmm::{VmClockDevice, VmClockPage};

    const CODE: GuestAddress = GuestAddress(0x1000);
    const COPY: GuestAddress = GuestAddress(0x2000);
    const PAGE: GuestAddress = GuestAddress(0x3000);
    const MEMORY: usize = 0x10000;

    /// Reads the counter, and copies the page, as a guest that knows that there are no writes meanwhile.
    #[rustfmt::skip]
    const PROGRAM: [u8; 28] = [
        0x0f, 0xae, 0xe8,             // lfence
        0x0f, 0x31,                   // rdtsc
        0x66, 0xa3, 0x80, 0x20,       // mov [0x2080], eax
        0x66, 0x89, 0x16, 0x84, 0x20, // mov [0x2084], edx
        0xbe, 0x00, 0x30,             // mov si, 0x3000
        0xbf, 0x00, 0x20,             // mov di, 0x2000
        0xb9, 0x70, 0x00,             // mov cx, 112
        0xfc, 0xf3, 0xa4,             // cld; rep movsb
        0xf4, 0xf4,                   // hlt
    ];

    pub(super) fn run() -> Result<(), Box<dyn Error>> {
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY)])?;
        memory.write_slice(&PROGRAM, CODE)?;
        let key = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344];
        let region = VmClockPage::new(&memory, PAGE, 0x1000)?;
        let options = Options::new(CounterId::X86_TSC, key);
        let mut clock = VmClockDevice::new(region, (), (), options, [0xa409_3822, 2])?;

        let kvm = Kvm::new()?;
        let machine = kvm.create_vm()?;
        let slot = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: MEMORY as u64,
            userspace_addr: memory.get_host_address(GuestAddress(0))? as u64,
        };
        // SAFETY: the memory is ours, of that length, and outlives the machine, which is dropped before it.
        unsafe { machine.set_user_memory_region(slot) }?;
        let mut cpu = machine.create_vcpu(0)?;
        cpu.set_cpuid2(&kvm.get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)?)?;
        let mut segments = cpu.get_sregs()?;
        segments.cs.base = 0;
        segments.cs.selector = 0;
        cpu.set_sregs(&segments)?;

        // A guest at half the host's frequency, where the CPU can do that.
        let counter = Host::from_cpu(&kvm, &cpu)?;
        if kvm.check_extension(Cap::TscControl) {
            cpu.set_tsc_khz(counter.khz() / 2)?;
        }
        let counter = counter.guest_counter([&cpu])?;
        let host = host_time().ok_or("the kernel's clock gives no time")?;
        let calibration = counter.calibration(&host).ok_or("the guest's counter does not run")?;
        clock.calibrate(&Calibrated { calibration, status: ClockStatus::SYNCHRONIZED, leap: LeapStatus::UNKNOWN })?;

        let mut registers = cpu.get_regs()?;
        (registers.rip, registers.rflags) = (CODE.0, 2);
        cpu.set_regs(&registers)?;
        let tai = |time| offset().and_then(|offset| offset.tai(time)).ok_or("the host's clock is out of range");
        let before = tai(KernelClock::realtime().time())?;
        let exit = cpu.run()?;
        let after = tai(KernelClock::realtime().time())?;
        if !matches!(exit, VcpuExit::Hlt) {
            return Err(format!("the guest did not halt: {exit:?}").into());
        }
        let mut bytes = [0; STRUCTURE_LEN];
        memory.read_slice(&mut bytes, COPY)?;
        let seen: u64 = memory.read_obj(GuestAddress(COPY.0 + 0x80))?;
        let page = Snapshot::from_prefix(&bytes)?;
        let interval = Calibration::from_snapshot(&page, CounterId::X86_TSC)?.interval_at(seen)?;
        let interval = interval.ok_or("the page has no bounds")?;
        println!("{counter:x?}; the guest's counter was {seen:#x}");
        println!("by the page it was between {} and {}", interval.earliest.nanos(), interval.latest.nanos());
        println!("by the host's clock between {} and {}", before.floor_nanos(), after.ceil_nanos());
        if interval.latest.nanos() < before.floor_nanos() || interval.earliest.nanos() > after.ceil_nanos() {
            return Err("the guest's time is wrong".into());
        }
        println!("which is the same time");
        Ok(())
    }

    /// The host's counter and the host's clock, put on TAI.
    fn host_time() -> Option<Calibration<Tai>> {
        let nominal = nominal_period(Duration::from_millis(20))?;
        let mut estimator = Estimator::new(Settings::default(), nominal, &[0]);
        let sample = KernelClock::realtime().sample();
        estimator.observe(&Evidence::new(0, sample.with_time(offset()?.tai(sample.time)?), 0));
        estimator.conclude(counter::read_ordered()).publish
    }

    /// TAI-UTC since 2017. Whatever it is, it cancels out.
    fn offset() -> Option<TaiOffset> {
        TaiOffset::from_seconds(37)
    }
}
