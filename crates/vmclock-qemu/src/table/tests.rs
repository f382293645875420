// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table, byte by byte and as the reference disassembler reads it.

use std::path::Path;
use std::process::Command;

use super::{table, Doorbell, Place, Slot};

const BELL: Option<Doorbell> = Some(Doorbell { io: 0x300, irq: 5 });

fn in_slot(slot: u8, bell: Option<Doorbell>) -> Vec<u8> {
    table(Place::PciSlot(Slot::new(slot).expect("below 32")), bell)
}

/// Guests have booted with these very bytes: `GOLDEN=write cargo test -p vmclock-qemu` renews them after a change on
/// purpose.
#[test]
fn the_bytes_are_those_that_guests_have_booted_with() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let cases = [
        ("slot-1d-bell.aml", in_slot(0x1d, BELL)),
        ("slot-1d.aml", in_slot(0x1d, None)),
        ("fixed-bell.aml", table(Place::Fixed(0x1_0000_0000), BELL)),
    ];
    for (name, bytes) in cases {
        let path = golden.join(name);
        if std::env::var_os("GOLDEN").is_some_and(|word| word == "write") {
            std::fs::create_dir_all(&golden).expect("a folder");
            std::fs::write(&path, &bytes).expect("written");
        }
        assert_eq!(std::fs::read(&path).expect("committed"), bytes, "{name}");
    }
}

#[test]
fn slots_end_at_32() {
    assert_eq!(Slot::new(31).map(Slot::get), Some(31));
    assert_eq!(Slot::new(32), None);
}

#[test]
fn header_and_checksum() {
    for bytes in [in_slot(0, BELL), in_slot(31, None), table(Place::Fixed(0), None)] {
        let length = u32::from_le_bytes(bytes[4..8].try_into().expect("four bytes"));
        assert_eq!((&bytes[..4], length as usize), (&b"SSDT"[..], bytes.len()));
        assert_eq!(bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte)), 0);
    }
}

/// The table's source by iasl (Debian: acpica-tools), without layout and comments; `None` where that is not installed,
/// which continuous integration does not allow.
fn disassemble(bytes: &[u8]) -> Option<String> {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("table.aml"), bytes).expect("written");
    let Ok(output) = Command::new("iasl").current_dir(folder.path()).args(["-d", "table.aml"]).output() else {
        assert!(std::env::var_os("CI").is_none_or(|value| value != "true"), "iasl (Debian: acpica-tools) does not run");
        eprintln!("skipped: there is no iasl (Debian: acpica-tools)");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let source = std::fs::read_to_string(folder.path().join("table.dsl")).expect("disassembled");
    let uncommented = source.lines().map(|line| line.split("//").next().unwrap_or_default());
    Some(uncommented.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" "))
}

fn assert_has(source: &str, parts: &[&str]) {
    for part in parts {
        assert!(source.contains(part), "{part:?} is not in\n{source}");
    }
}

#[test]
fn iasl_reads_what_was_meant() {
    for slot in [0x0a, 0x1d] {
        let Some(source) = disassemble(&in_slot(slot, BELL)) else { return };
        let function = format!("\\_SB.PCI0.S{:02X}", slot << 3);
        assert_has(
            &source,
            &[
                "DefinitionBlock (\"\", \"SSDT\", 2, \"VMCLK \", \"VMCLOCK \", 0x00000001)",
                &format!("Scope ({function}"),
                "Device (VCLK)",
                "Name (_HID, \"AMZNC10C\")",
                "Name (_CID, \"VMCLOCK\"",
                "Name (_DDN, \"VMCLOCK\"",
                "OperationRegion (CFG, PCI_Config, Zero, 0x0100)",
                "Offset (0x18)",
                "QWordMemory (ResourceConsumer, PosDecode, MinFixed, MaxFixed, Cacheable, ReadOnly,",
                "Method (_CRS, 0, Serialized)",
                "BARL & 0xFFFFFFF0",
                "Name (_HID, \"ACPI0013\"",
                "Interrupt (ResourceConsumer, Level, ActiveHigh, Exclusive, ,, ) { 0x00000005, }",
                "Method (_EVT, 1, Serialized)",
                ".VCLK, 0x80)",
                "IO (Decode16, 0x0300, 0x0300, 0x01, 0x20, )",
            ],
        );
    }
}

#[test]
fn iasl_reads_a_fixed_place_without_a_doorbell() {
    let Some(source) = disassemble(&table(Place::Fixed(0x1_8000_0000), None)) else { return };
    assert_has(&source, &["Scope (\\_SB)", "0x0000000180000000,", "0x0000000180000FFF,", "0x0000000000001000,"]);
    assert!(!source.contains("ACPI0013"), "{source}");
}
