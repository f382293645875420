// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! The device object, as the reference disassembler reads it.
#![cfg(not(loom))]

mod common;

use acpi_tables::sdt::Sdt;
use vmclock_vmm::acpi::{Aml, Clock, Notification};

fn disassemble(bytes: &[u8]) -> Option<String> {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("table.aml"), bytes).expect("written");
    let output = common::run("iasl", "acpica-tools", folder.path(), &["-d", "table.aml"])?;
    assert!(!output.contains("Error"), "{output}");
    let source = std::fs::read_to_string(folder.path().join("table.dsl")).expect("disassembled");
    // Layout and comments are iasl's own affair.
    let uncommented = source.lines().map(|line| line.split("//").next().unwrap_or_default());
    Some(uncommented.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" "))
}

fn assert_has(source: &str, parts: &[&str]) {
    for part in parts {
        assert!(source.contains(part), "{part:?} is not in\n{source}");
    }
}

fn among_others(clock: Clock) -> Vec<u8> {
    let mut table = Sdt::new(*b"SSDT", 36, 2, *b"VMCLK ", *b"VMCLOCK ", 1);
    let mut body = Vec::new();
    clock.to_aml_bytes(&mut body);
    table.append_slice(&body);
    table.as_slice().to_vec()
}

#[test]
fn iasl_reads_what_a_monitor_puts_among_its_own() {
    let clock = Clock::new(0xfeff_0000, 0x1_0000).notified_by(Notification::Interrupt(20));
    let Some(source) = disassemble(&among_others(clock)) else { return };
    assert_has(
        &source,
        &[
            "Device (VCLK)",
            "Name (_STA, 0x0F)",
            "QWordMemory (ResourceConsumer, PosDecode, MinFixed, MaxFixed, Cacheable, ReadOnly,",
            "0x00000000FEFF0000,",
            "0x00000000FEFFFFFF,",
            "0x0000000000010000,",
            "Device (VGED)",
            "Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive, ,, ) { 0x00000014, }",
            "Notify (\\_SB.VCLK, 0x80)",
        ],
    );
    let clock = clock.notified_by(Notification::GeneralPurposeEvent(0x0a));
    let Some(source) = disassemble(&among_others(clock)) else { return };
    assert_has(&source, &["Scope (\\_GPE)", "Method (_E0A, 0, Serialized)", "Notify (\\_SB.VCLK, 0x80)"]);
    assert!(!source.contains("VGED"), "{source}");
    let quiet = among_others(Clock::new(clock.address, clock.len));
    assert!(!quiet.windows(4).any(|bytes| bytes == b"VGED" || bytes == b"_GPE"));
}
