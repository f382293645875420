// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ACPI table by which the guest of an unmodified QEMU finds the clock.
//!
//! The table has the address of the page ([`Place`]) and, with a [`Doorbell`], how the guest learns that it changed: a
//! Generic Event Device listens to the doorbell's interrupt and notifies the clock's driver (`Notify(VCLK, 0x80)`).

use acpi_tables::aml::{
    Add, And, CreateDWordField, Device, EISAName, Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule,
    If, Interrupt, Local, Method, MethodCall, Name, Notify, OpRegion, OpRegionSpace, Path, ResourceTemplate, Return,
    Scope, Store, IO, ONE, ZERO,
};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};
use vmclock_vmm::acpi::{identity, Clock, EventDevice, MemoryRange, CLOCK_PATH};

/// The bytes of the page that the guest's driver claims.
const PAGE_LEN: u64 = 0x1000;

/// A slot of the guest's first PCI bus, below 32.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot(u8);

impl Slot {
    /// The slot, if there is one of that number.
    pub const fn new(slot: u8) -> Option<Self> {
        if slot < 32 {
            Some(Self(slot))
        } else {
            None
        }
    }

    /// Its number.
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// Where the page is in the guest's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// At the start of BAR 2 of the PCI function in this slot of `\_SB.PCI0`, wherever the guest's firmware puts that.
    /// The slot's device object must have the name that QEMU gives it.
    PciSlot(Slot),
    /// At this address, which never changes.
    Fixed(u64),
}

/// An NE2000 on the ISA bus, which no driver of the guest takes: not being plug and play, it is not searched for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Doorbell {
    /// The first of its 32 I/O ports.
    pub(crate) io: u16,
    /// Its interrupt.
    pub(crate) irq: u8,
}

/// The table, complete with header and checksum: for QEMU's `-acpitable file=..`, or to be put among a monitor's own.
pub(crate) fn table(place: Place, doorbell: Option<Doorbell>) -> Vec<u8> {
    let mut body = Vec::new();
    let clock = match place {
        Place::PciSlot(slot) => clock_in_slot(slot, &mut body),
        Place::Fixed(address) => {
            Clock::new(address, PAGE_LEN).to_aml_bytes(&mut body);
            CLOCK_PATH.into()
        }
    };
    if let Some(doorbell) = doorbell {
        bell(doorbell, &clock, &mut body);
    }
    let mut table = Sdt::new(*b"SSDT", 36, 2, *b"VMCLK ", *b"VMCLOCK ", 1);
    // All at once, as each piece that is appended has the whole table summed anew.
    table.append_slice(&body);
    table.as_slice().to_vec()
}

/// The clock as a child of a PCI function. It must be one: as a child of `\_SB` its range would clash with the
/// function's BAR, Linux would move the BAR, and the driver would find nothing.
fn clock_in_slot(slot: Slot, body: &mut Vec<u8>) -> String {
    // QEMU names the object of a slot after devfn, the slot's number times eight.
    let function = format!("\\_SB_.PCI0.S{:02X}_", slot.get() << 3);
    let range = MemoryRange { first: 0, last: PAGE_LEN - 1 };
    let buffer = Name::new(path("RBUF"), &ResourceTemplate::new(vec![&range]));
    let (min_low, min_high) = (path("MINL"), path("MINH"));
    let (max_low, max_high) = (path("MAXL"), path("MAXH"));
    let (bar_low, bar_high, range) = (path("BARL"), path("BARH"), path("RBUF"));
    let resources = Term::of(&Method::new(
        path("_CRS"),
        0,
        true,
        vec![
            // In two halves: QEMU's DSDT is of revision 1, and then the integers of every table have 32 bits
            // (ACPI 6.5, 5.2.11.2), too few for a BAR above 4 GiB.
            &CreateDWordField::new(&min_low, &range, &MemoryRange::FIRST),
            &CreateDWordField::new(&min_high, &range, &(MemoryRange::FIRST + 4)),
            &CreateDWordField::new(&max_low, &range, &MemoryRange::LAST),
            &CreateDWordField::new(&max_high, &range, &(MemoryRange::LAST + 4)),
            &And::new(&min_low, &bar_low, &0xffff_fff0_u32),
            &Store::new(&min_high, &bar_high),
            // Without a carry, as a BAR is aligned to its size.
            &Add::new(&max_low, &min_low, &0xfff_u16),
            &Store::new(&max_high, &bar_high),
            &Return::new(&range),
        ],
    ));
    let [hid, cid, ddn, status] = identity();
    Scope::new(
        path(&function),
        vec![
            &OpRegion::new(path("CFG_"), OpRegionSpace::PCIConfig, &ZERO, &0x100_u16),
            &Field::new(
                path("CFG_"),
                FieldAccessType::DWord,
                FieldLockRule::NoLock,
                FieldUpdateRule::Preserve,
                vec![
                    FieldEntry::Reserved(0x18 * 8), // BAR 2, in bits
                    FieldEntry::Named(*b"BARL", 32),
                    FieldEntry::Named(*b"BARH", 32),
                ],
            ),
            &Device::new(path("VCLK"), vec![&hid, &cid, &ddn, &status, &buffer, &resources]),
        ],
    )
    .to_aml_bytes(body);
    format!("{function}.VCLK")
}

/// The doorbell and what listens to it. A frame that the card receives raises its interrupt; the interrupt is shared
/// with nobody, level-triggered, and stays until `ACK_` has seen to it.
fn bell(doorbell: Doorbell, clock: &str, body: &mut Vec<u8>) {
    let card = card(doorbell.io);
    let card: Vec<&dyn Aml> = card.iter().map(|term| term as &dyn Aml).collect();
    let interrupt = Interrupt::new(true, false, false, false, doorbell.irq.into());
    let arm = MethodCall::new(path("\\_SB_.VBEL.ARM_"), vec![]);
    let begin = Method::new(path("_INI"), 0, false, vec![&arm]);
    let acknowledge = MethodCall::new(path("\\_SB_.VBEL.ACK_"), vec![]);
    let (clock, value) = (path(clock), 0x80_u8);
    let notify = Notify::new(&clock, &value);
    let notify = If::new(&acknowledge, vec![&notify]);
    let event = Method::new(path("_EVT"), 1, true, vec![&notify]);
    let listener = EventDevice { interrupt: &interrupt, methods: &[&begin, &event] };
    Scope::new(path("\\_SB_"), vec![&Device::new(path("VBEL"), card), &listener]).to_aml_bytes(body);
}

/// The card: its 8390 registers and the methods that start it and take its interrupt back. The numbers are those of
/// National Semiconductor's DP8390 data sheet.
fn card(io: u16) -> Vec<Term> {
    let registers =
        (0..16_usize).map(|n| FieldEntry::Named([b'R', b'E', b'G', b"0123456789ABCDEF"[n]], 8)).collect::<Vec<_>>();
    let set = |register: &'static str, value: u8| Term::of(&Store::new(&path(register), &value));
    let start = [
        // Stopped, and no interrupts yet.
        set("REG0", 0x21),
        set("REGF", 0x00),
        // A ring of pages 0x40 to 0x80 for frames, with a boundary beyond its end, so that it never becomes full: a
        // frame that is refused raises no interrupt, and those before the guest's driver is there may be many.
        set("REG1", 0x40),
        set("REG2", 0x80),
        set("REG3", 0xbf),
        set("REGC", 0x10),
        // Old interrupts away; on register page 1, where the next frame goes.
        set("REG7", 0xff),
        set("REG0", 0x61),
        set("REG7", 0x40),
        // Running, with an interrupt for each frame received.
        set("REG0", 0x22),
        set("REGF", 0x01),
    ];
    let status = path("REG7");
    vec![
        Term::of(&Name::new(path("_HID"), &EISAName::new("PNP0C02"))), // so that its ports are taken
        Term::of(&Name::new(path("_UID"), &"VMCLOCK")),
        Term::of(&Name::new(path("_CRS"), &ResourceTemplate::new(vec![&IO::new(io, io, 1, 0x20)]))),
        Term::of(&OpRegion::new(path("NEIO"), OpRegionSpace::SystemIO, &io, &0x10_u8)),
        Term::of(&Field::new(
            path("NEIO"),
            FieldAccessType::Byte,
            FieldLockRule::NoLock,
            FieldUpdateRule::WriteAsZeroes,
            registers,
        )),
        Term::of(&Method::new(path("ARM_"), 0, true, start.iter().map(|term| term as &dyn Aml).collect())),
        // Whether it was the card's interrupt. The frames are nobody's.
        Term::of(&Method::new(
            path("ACK_"),
            0,
            true,
            vec![
                &And::new(&Local(0), &status, &ONE),
                &If::new(&Local(0), vec![&Store::new(&status, &0xff_u8)]),
                &Return::new(&Local(0)),
            ],
        )),
        // After a suspend to memory the card is as at power on.
        Term::of(&Method::new(path("_PS0"), 0, true, vec![&MethodCall::new(path("ARM_"), vec![])])),
        Term::of(&Method::new(path("_PS3"), 0, true, vec![])),
    ]
}

fn path(name: &str) -> Path {
    Path::new(name)
}

/// A term that is encoded already, as the crate's terms borrow their parts.
struct Term(Vec<u8>);

impl Term {
    fn of(term: &dyn Aml) -> Self {
        let mut bytes = Vec::new();
        term.to_aml_bytes(&mut bytes);
        Self(bytes)
    }
}

impl Aml for Term {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

#[cfg(test)]
mod tests;
