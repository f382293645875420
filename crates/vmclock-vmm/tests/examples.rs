// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! What the examples show is so.
#![cfg(not(loom))]

#[path = "../examples/lifecycle.rs"]
mod lifecycle;

#[cfg(feature = "kvm")]
#[path = "../examples/vcpu.rs"]
mod vcpu;

#[test]
fn the_lifecycle() {
    lifecycle::main().expect("each operation is what it means");
}

#[cfg(all(feature = "kvm", target_arch = "x86_64"))]
#[test]
fn the_vcpu() {
    if let Err(error) = kvm_ioctls::Kvm::new() {
        eprintln!("skipped: no /dev/kvm, or not for us: {error}");
        return;
    }
    vcpu::main().expect("the guest's time is right");
}
