// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! The guest's counter as KVM has it, against the register that is the counter. Needs `/dev/kvm`.
#![cfg(all(not(loom), feature = "kvm", target_arch = "x86_64"))]

use kvm_bindings::{kvm_msr_entry, Msrs};
use kvm_ioctls::{Cap, Kvm, VcpuFd};
use vmclock_core::counter;
use vmclock_vmm::counter::GuestCounter;
use vmclock_vmm::kvm::{continue_clock, sample, set_counter_offset, Host, KvmError};

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
    let host = Host::from_cpu(&kvm, &cpu).expect("a frequency");
    match Host::from_vm(&kvm, &machine) {
        Ok(of_machine) => assert_eq!(of_machine, host),
        Err(error) => eprintln!("this KVM has no frequency of a machine: {error}"),
    }
    assert!(host.khz() > 100_000, "{host:?}");
    assert_eq!(host.scale(&cpu).expect("asked"), None);
    assert_is(&host.guest_counter([&cpu]).expect("asked"), &cpu);

    // As a destination sets it.
    let wanted = GuestCounter::continuing(1 << 62, counter::read_ordered(), None);
    match set_counter_offset(&cpu, wanted.offset()) {
        Ok(()) => assert_eq!(host.guest_counter([&cpu]).expect("asked"), wanted),
        Err(error) => eprintln!("this KVM sets no offset: {error}"),
    }
    assert_is(&host.guest_counter([&cpu]).expect("asked"), &cpu);

    let can_scale = kvm.check_extension(Cap::TscControl);
    // Faster by what KVM would do by hand, slower by what it would refuse.
    for khz in [host.khz() / 100 * 105, host.khz() / 3] {
        let set = cpu.set_tsc_khz(khz);
        assert_eq!(cpu.get_tsc_khz().expect("asked"), khz, "it gives what was asked for, also where it did nothing");
        if can_scale {
            set.expect("set");
            assert!(host.scale(&cpu).expect("asked").is_some());
            assert_is(&host.guest_counter([&cpu]).expect("asked"), &cpu);
        } else {
            assert!(matches!(host.scale(&cpu), Err(KvmError::CannotScale { guest_khz, .. }) if guest_khz == khz));
            assert!(matches!(host.guest_counter([&cpu]), Err(KvmError::CannotScale { .. })));
        }
    }
    // At the host's own frequency it is known again.
    if cpu.set_tsc_khz(host.khz()).is_ok() {
        assert_eq!(host.scale(&cpu).expect("asked"), None);
    }
}

#[test]
fn vcpus_that_differ_are_refused_by_name() {
    let Ok(kvm) = Kvm::new() else {
        eprintln!("skipped: no /dev/kvm, or not for us");
        return;
    };
    let machine = kvm.create_vm().expect("a machine");
    let cpus = [0, 1].map(|id| machine.create_vcpu(id).expect("a vCPU"));
    let host = Host::from_cpu(&kvm, &cpus[0]).expect("a frequency");
    let counter = host.guest_counter(&cpus);
    let alike = host.cpu_counter(&cpus[0]).expect("asked") == host.cpu_counter(&cpus[1]).expect("asked");
    assert_eq!(counter.is_ok(), alike);
    assert!(matches!(host.guest_counter([]), Err(KvmError::NoCpu)));
    let first = host.cpu_counter(&cpus[0]).expect("asked").offset();
    if let Err(error) = set_counter_offset(&cpus[1], first.wrapping_add(1 << 40)) {
        eprintln!("this KVM sets no offset: {error}");
        return;
    }
    let Err(KvmError::Apart { cpu: 1, counter, first }) = host.guest_counter(&cpus) else { panic!("they are apart") };
    assert_eq!(counter.offset().wrapping_sub(first.offset()), 1 << 40);
}

#[test]
fn kvms_clock_is_a_sample_of_the_hosts() {
    let Ok(kvm) = Kvm::new() else {
        eprintln!("skipped: no /dev/kvm, or not for us");
        return;
    };
    let machine = kvm.create_vm().expect("a machine");
    let _cpu = machine.create_vcpu(0).expect("a vCPU");
    let before = (counter::read_ordered(), std::time::SystemTime::now());
    match sample(&machine) {
        Ok(sample) => {
            let after = (counter::read_ordered(), std::time::SystemTime::now());
            let nanos = |time: std::time::SystemTime| {
                let since = time.duration_since(std::time::UNIX_EPOCH).expect("after 1970");
                i128::try_from(since.as_nanos()).expect("small")
            };
            assert!((before.0..=after.0).contains(&sample.before) && sample.width() == 0);
            assert!((nanos(before.1)..=nanos(after.1)).contains(&sample.time.floor_nanos()));
        }
        Err(error) => eprintln!("this KVM gives no sample: {error}"),
    }
    // On the same host a clock continues as if nothing had happened.
    let saved = machine.get_clock().expect("asked");
    continue_clock(&machine, &saved).expect("set");
    assert!(machine.get_clock().expect("asked").clock >= saved.clock);
}
