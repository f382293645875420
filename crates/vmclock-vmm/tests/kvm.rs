// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's counter as KVM has it, against the register that is the counter. Needs `/dev/kvm`.
#![cfg(all(not(loom), feature = "kvm", target_arch = "x86_64"))]

use kvm_bindings::{kvm_msr_entry, Msrs};
use kvm_ioctls::{Cap, Kvm, VcpuFd};
use vmclock_core::counter;
use vmclock_vmm::counter::GuestCounter;
use vmclock_vmm::kvm::{set_counter_offset, Host};

/// The model-specific register that is the counter.
const COUNTER: u32 = 0x10;

/// The register, between two readings of the host's counter.
fn register(cpu: &VcpuFd) -> (u64, u64, u64) {
    let entry = kvm_msr_entry { index: COUNTER, ..kvm_msr_entry::default() };
    let mut registers = Msrs::from_entries(&[entry]).expect("one");
    let before = counter::read_ordered();
    assert_eq!(cpu.get_msrs(&mut registers).expect("read"), 1);
    (before, registers.as_slice()[0].data, counter::read_ordered())
}

fn assert_is(known: &GuestCounter, cpu: &VcpuFd) {
    for _ in 0..100 {
        let (before, value, after) = register(cpu);
        let (from, to) = (known.at(before), known.at(after));
        assert!(value.wrapping_sub(from) <= to.wrapping_sub(from), "{from:#x} <= {value:#x} <= {to:#x}, {known:?}");
    }
}

#[test]
fn the_counter_is_what_kvm_says() {
    let Ok(kvm) = Kvm::new() else {
        eprintln!("skipped: no /dev/kvm, or not for us");
        return;
    };
    let machine = kvm.create_vm().expect("a machine");
    let cpu = machine.create_vcpu(0).expect("a vCPU");
    cpu.set_cpuid2(&kvm.get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES).expect("leaves")).expect("set");
    let host = Host::new(&kvm, &cpu).expect("a frequency");
    assert!(host.khz() > 100_000, "{host:?}");
    assert_eq!(host.scale(&cpu).expect("asked"), None);
    assert_is(&host.guest_counter(&cpu).expect("asked"), &cpu);

    // As a destination sets it.
    let wanted = GuestCounter::continuing(1 << 62, counter::read_ordered(), None);
    match set_counter_offset(&cpu, wanted.offset()) {
        Ok(()) => assert_eq!(host.guest_counter(&cpu).expect("asked"), wanted),
        Err(error) => eprintln!("this KVM sets no offset: {error}"),
    }
    assert_is(&host.guest_counter(&cpu).expect("asked"), &cpu);

    let can_scale = kvm.check_extension(Cap::TscControl);
    // Faster by what KVM would do by hand, slower by what it would refuse.
    for khz in [host.khz() / 100 * 105, host.khz() / 3] {
        let set = cpu.set_tsc_khz(khz);
        assert_eq!(cpu.get_tsc_khz().expect("asked"), khz, "it gives what was asked for, also where it did nothing");
        if can_scale {
            set.expect("set");
            assert!(host.scale(&cpu).expect("asked").is_some());
            assert_is(&host.guest_counter(&cpu).expect("asked"), &cpu);
        } else {
            assert_eq!(host.scale(&cpu).expect_err("a wish").errno(), libc::EOPNOTSUPP);
            assert_eq!(host.guest_counter(&cpu).expect_err("a wish").errno(), libc::EOPNOTSUPP);
        }
    }
    // At the host's own frequency it is known again.
    if cpu.set_tsc_khz(host.khz()).is_ok() {
        assert_eq!(host.scale(&cpu).expect("asked"), None);
    }
}
