// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! The device tree's node, as the reference compiler reads it.
#![cfg(not(loom))]

mod common;

use vm_fdt::FdtWriter;
use vmclock_vmm::fdt::{add_node, Interrupt};

/// The tree's source, of a machine with one memory and one interrupt controller.
fn source(address: u64, len: u64, interrupt: Option<Interrupt>) -> Option<String> {
    let mut tree = FdtWriter::new().expect("a tree");
    let root = tree.begin_node("").expect("a node");
    tree.property_u32("#address-cells", 2).expect("a property");
    tree.property_u32("#size-cells", 2).expect("a property");
    tree.property_u32("interrupt-parent", 1).expect("a property");
    let controller = tree.begin_node("intc@8000000").expect("a node");
    tree.property_string("compatible", "arm,gic-v3").expect("a property");
    tree.property_null("interrupt-controller").expect("a property");
    tree.property_u32("#interrupt-cells", 3).expect("a property");
    tree.property_u32("#address-cells", 0).expect("a property");
    tree.property_array_u64("reg", &[0x800_0000, 0x1_0000]).expect("a property");
    tree.property_u32("phandle", 1).expect("a property");
    tree.end_node(controller).expect("its end");
    add_node(&mut tree, address, len, interrupt).expect("our node");
    tree.end_node(root).expect("its end");
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("tree.dtb"), tree.finish().expect("a blob")).expect("written");
    let arguments = ["-I", "dtb", "-O", "dts", "-o", "tree.dts", "tree.dtb"];
    let output = common::run("dtc", "device-tree-compiler", folder.path(), &arguments)?;
    // It checks unit addresses, cells and interrupts, and warns.
    assert_eq!(output.trim(), "", "dtc complains");
    let source = std::fs::read_to_string(folder.path().join("tree.dts")).expect("written");
    Some(source.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[test]
fn dtc_reads_what_was_meant() {
    let Some(notified) = source(0x1_8fff_0000, 0x1_0000, Some(Interrupt { spi: 37 })) else { return };
    let node = "ptp@18fff0000 { compatible = \"amazon,vmclock\"; reg = <0x01 0x8fff0000 0x00 0x10000>; \
                interrupts = <0x00 0x25 0x01>; };";
    assert!(notified.contains(node), "{notified}");
    let quiet = source(0xf000, 0x1000, None).expect("as before");
    let node = "ptp@f000 { compatible = \"amazon,vmclock\"; reg = <0x00 0xf000 0x00 0x1000>; };";
    assert!(quiet.contains(node), "{quiet}");
}
