// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the harness and the guest's program agree on.
//!
//! They talk over a virtio serial port, a line each way: a number and words to the guest, a JSON value with that number
//! back. What has to be faster
//! than that goes through words of the region in which the page lies, far behind the page.
#![forbid(unsafe_code)]

use std::fmt::Write;

/// How large the region is in which the page lies.
pub const REGION_LEN: usize = 0x1_0000;

/// Where one side asks the other for its counter.
#[derive(Clone, Copy, Debug)]
pub struct Exchange {
    /// The host writes a number here that it has never written before ...
    pub ask: usize,
    /// ... the guest answers with its counter here ...
    pub counter: usize,
    /// ... and then with the number here.
    pub answered: usize,
}

/// What the harness uses to learn the truth.
pub const BEACON: Exchange = Exchange { ask: 0x8000, counter: 0x8010, answered: 0x8008 };

/// What `vmclock qemu --second-page` uses to publish it.
pub const SECOND_PAGE: Exchange = Exchange { ask: 0x1000, counter: 0x1010, answered: 0x1008 };

/// The host ends what the guest does until told otherwise by writing a number here that is not zero.
pub const END: usize = 0x8018;
/// The guest counts here how often poll(2) has woken it ...
pub const WAKES: usize = 0x8020;
/// ... and says here which sequence count it saw then.
pub const WOKEN_AT: usize = 0x8028;

/// Bytes in hexadecimal, as a page goes over the serial port.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // a String takes anything
        text
    })
}

/// How nodes of the device tree are called that are like the clock's and that no driver may take.
pub const REFUSED: &str = "-clock";

/// The name of the serial port in QEMU.
pub const PORT: &str = "vmclock-e2e";

/// A word of the kernel's command line, for machines that nobody talks to: `=outer`, or how many samples to take.
pub const MEASURE: &str = "vmclock.measure";
/// How a line with what was measured begins, and the last line of all.
pub const MEASURED: &str = "vmclock-e2e-measured";
/// KVM's modules, in the order in which they are loaded.
pub const MODULES: [&str; 3] = ["irqbypass", "kvm", "kvm-amd"];
/// The name of the virtio serial port through which the agent tells the host.
pub const TOLD_PORT: &str = "vmclock-told";
/// vsock's modules, with which a machine is its own host.
pub const VSOCK_MODULES: [&str; 3] = ["vsock", "vmw_vsock_virtio_transport_common", "vsock_loopback"];
/// The kernel of the inner machine, and its first file system.
pub const INNER_IMAGE: &str = "/inner-image";
/// See [`INNER_IMAGE`].
pub const INNER_INITRAMFS: &str = "/inner-initramfs";
