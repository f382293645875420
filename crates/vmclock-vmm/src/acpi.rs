// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! What a guest's firmware tables say of the clock, for a monitor that makes its own: the clock's device object
//! ([`Clock`]) and how the guest is notified ([`Notification`]); and the parts that those are made of.
//!
//! ```
//! use vmclock_vmm::acpi::{Aml, Clock, Notification};
//!
//! let mut dsdt = Vec::new();
//! let clock = Clock::new(0xfeff_b000, 0x1000).notified_by(Notification::Interrupt(20));
//! clock.to_aml_bytes(&mut dsdt);
//! assert!(dsdt.windows(8).any(|bytes| bytes == b"AMZNC10C"));
//! ```

use acpi_tables::aml::{Device, Interrupt, Method, Name, Notify, Path, ResourceTemplate, Scope};
pub use acpi_tables::{Aml, AmlSink};

/// The path of the clock's device object.
pub const CLOCK_PATH: &str = "\\_SB_.VCLK";

/// The clock at an address that never changes, for a monitor that makes its own tables: into a DSDT or an SSDT, at its
/// root.
///
/// A monitor with a Generic Event Device of its own rather adds the interrupt and `Notify(\\_SB_.VCLK, 0x80)` to that,
/// and leaves the notification out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Clock {
    /// Where the region begins in the guest's memory. It must not be in the memory map's RAM: leave it out, or say
    /// "reserved" (e820 type 2).
    pub address: u64,
    /// The region's length, 4 KiB or 64 KiB.
    pub len: u64,
    /// How the guest is notified, where it is.
    pub notification: Option<Notification>,
}

impl Clock {
    /// At this address, with a region of this length, 4 KiB or 64 KiB, and without notification.
    pub const fn new(address: u64, len: u64) -> Self {
        Self { address, len, notification: None }
    }

    /// The same with a notification.
    #[must_use]
    pub const fn notified_by(self, notification: Notification) -> Self {
        Self { notification: Some(notification), ..self }
    }
}

/// What notifies a guest's driver that the page was updated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Notification {
    /// A global system interrupt, edge-triggered as an eventfd with `KVM_IRQFD` raises it. A Generic Event Device
    /// listens to it: for hardware-reduced ACPI, and for any other where the interrupt is free.
    Interrupt(u32),
    /// An event of the first general-purpose block, for monitors with ACPI's own registers: its number, edge-triggered.
    GeneralPurposeEvent(u8),
}

impl Aml for Clock {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let [hid, cid, ddn, status] = identity();
        let range = MemoryRange { first: self.address, last: self.address.saturating_add(self.len.saturating_sub(1)) };
        let resources = Name::new(path("_CRS"), &ResourceTemplate::new(vec![&range]));
        let clock = Device::new(path("VCLK"), vec![&hid, &cid, &ddn, &status, &resources]);
        Scope::new(path("\\_SB_"), vec![&clock]).to_aml_bytes(sink);
        let (clock, value) = (path(CLOCK_PATH), 0x80_u8);
        let notify = Notify::new(&clock, &value);
        match self.notification {
            None => {}
            Some(Notification::Interrupt(gsi)) => {
                let interrupt = Interrupt::new(true, true, false, false, gsi);
                let event = Method::new(path("_EVT"), 1, true, vec![&notify]);
                let device = EventDevice { interrupt: &interrupt, methods: &[&event] };
                Scope::new(path("\\_SB_"), vec![&device]).to_aml_bytes(sink);
            }
            Some(Notification::GeneralPurposeEvent(number)) => {
                // ACPI 6.5, 5.6.4.1: "E" for an edge, and the number in hexadecimal.
                let event = Method::new(path(&format!("_E{number:02X}")), 0, true, vec![&notify]);
                Scope::new(path("\\_GPE"), vec![&event]).to_aml_bytes(sink);
            }
        }
    }
}

/// By what the guest's driver knows the clock (UAPI.13): `_HID`, `_CID`, `_DDN` and `_STA`.
pub fn identity() -> [Name; 4] {
    [
        Name::new(path("_HID"), &"AMZNC10C"),
        Name::new(path("_CID"), &"VMCLOCK"),
        Name::new(path("_DDN"), &"VMCLOCK"),
        Name::new(path("_STA"), &0x0f_u8),
    ]
}

/// A Generic Event Device, `VGED`, that listens to one interrupt.
#[derive(Clone, Copy)]
pub struct EventDevice<'a> {
    /// What it listens to.
    pub interrupt: &'a Interrupt,
    /// Its methods: `_EVT`, and others.
    pub methods: &'a [&'a dyn Aml],
}

impl Aml for EventDevice<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let hid = Name::new(path("_HID"), &"ACPI0013");
        let uid = Name::new(path("_UID"), &"VMCLOCK");
        let resources = Name::new(path("_CRS"), &ResourceTemplate::new(vec![self.interrupt]));
        let mut all: Vec<&dyn Aml> = vec![&hid, &uid, &resources];
        all.extend(self.methods);
        Device::new(path("VGED"), all).to_aml_bytes(sink);
    }
}

fn path(name: &str) -> Path {
    Path::new(name)
}

/// A range of memory that the device itself uses. (`acpi_tables::aml::AddressSpace` makes only ranges that a bridge
/// hands on: it has no way to state `ResourceConsumer`.)
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryRange {
    /// Its first address.
    pub first: u64,
    /// Its last address, at least the first.
    pub last: u64,
}

impl MemoryRange {
    /// Where the first address is in a resource template that begins with this: behind tag and length (3 bytes), flags
    /// (3 bytes), and granularity.
    pub const FIRST: u8 = 3 + 3 + 8;
    /// Where the last address is.
    pub const LAST: u8 = Self::FIRST + 8;
}

impl Aml for MemoryRange {
    /// ACPI 6.5, 6.4.3.5.1: `QWord` address space descriptor.
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.byte(0x8a);
        sink.word(3 + 5 * 8);
        sink.byte(0); // memory
        sink.byte(1 | 1 << 2 | 1 << 3); // consumer; first and last are fixed
        sink.byte(1 << 1); // cacheable, read-only
        let len = self.last.wrapping_sub(self.first).wrapping_add(1);
        for quad in [0, self.first, self.last, 0, len] {
            sink.qword(quad);
        }
    }
}
