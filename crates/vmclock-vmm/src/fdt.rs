// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! The device tree's node by which a guest finds the clock.
//!
//! ```
//! use vm_fdt::FdtWriter;
//! use vmclock_vmm::fdt::{add_node, Interrupt};
//!
//! let mut tree = FdtWriter::new()?;
//! let root = tree.begin_node("")?;
//! tree.property_u32("#address-cells", 2)?;
//! tree.property_u32("#size-cells", 2)?;
//! add_node(&mut tree, 0x8fff_f000, 0x1000, Some(Interrupt { spi: 37 }))?;
//! tree.end_node(root)?;
//! let blob = tree.finish()?;
//! assert!(blob.windows(14).any(|bytes| bytes == b"amazon,vmclock"));
//! # Ok::<(), vm_fdt::Error>(())
//! ```

use vm_fdt::{Error, FdtWriter};

/// An interrupt of Arm's generic controller, with three cells: a shared one, by the rising edge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interrupt {
    /// Its number among the shared ones: 0 is the controller's 32.
    pub spi: u32,
}

/// `GIC_SPI`, and `IRQ_TYPE_EDGE_RISING`.
const SHARED: u32 = 0;
const RISING_EDGE: u32 = 1;

/// Adds the node to the node that is open, whose `#address-cells` and `#size-cells` are 2, and whose interrupt parent
/// is known to it.
///
/// The memory must not be the guest's to use: leave it out of the `memory` nodes, or reserve it.
pub fn add_node(tree: &mut FdtWriter, address: u64, len: u64, interrupt: Option<Interrupt>) -> Result<(), Error> {
    // A unit address is hexadecimal, without 0x or leading zeros.
    let node = tree.begin_node(&format!("ptp@{address:x}"))?;
    tree.property_string("compatible", "amazon,vmclock")?;
    tree.property_array_u64("reg", &[address, len])?;
    if let Some(Interrupt { spi }) = interrupt {
        tree.property_array_u32("interrupts", &[SHARED, spi, RISING_EDGE])?;
    }
    tree.end_node(node)
}
