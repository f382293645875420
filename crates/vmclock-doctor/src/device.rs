// SPDX-License-Identifier: MIT OR Apache-2.0
//! The device as the hypervisor describes it to the kernel: in ACPI or in the device tree.

use std::fmt::Write;

use crate::finding::Finding;
use crate::machine::Machine;

const CHECK: &str = "device";
const ACPI: &str = "/sys/bus/acpi/devices";
const DEVICE_TREE: &str = "/sys/firmware/devicetree/base";
const PLATFORM: &str = "/sys/bus/platform/devices";

/// Bits of an ACPI device's `_STA`: present, and functioning. (A device that is merely not enabled keeps its memory.)
const STA_PRESENT: u32 = 1 << 0;
const STA_FUNCTIONING: u32 = 1 << 3;

/// A VMClock that the hypervisor offers.
pub(crate) struct Device {
    /// What the kernel calls it, like `AMZNC10C:00`.
    pub(crate) name: String,
    pub(crate) described_in: DescribedIn,
    /// The driver that has taken it.
    pub(crate) driver: Option<String>,
    /// Where its memory begins and ends, where we may know.
    region: Option<(u64, u64)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum DescribedIn {
    Acpi,
    DeviceTree,
}

/// The first VMClock of the machine.
pub(crate) fn look(machine: &Machine) -> Option<Device> {
    in_acpi(machine).or_else(|| in_device_tree(machine))
}

pub(crate) fn finding(machine: &Machine, device: Option<&Device>) -> Finding {
    match device {
        None => Finding::missing(CHECK, "none: no AMZNC10C in ACPI, no amazon,vmclock in a device tree").todo(
            "ask whoever runs the host for a VMClock (QEMU 10 or later: `-device vmclock`; Firecracker has one since \
             1.15); to try things without one: `vmclock serve --page ./page --reference host-clock`",
        ),
        Some(device) if device.described_in == DescribedIn::Acpi => acpi_finding(machine, device),
        Some(device) => device_tree_finding(machine, device),
    }
}

impl Device {
    /// Bytes of its memory, where we may know.
    fn region_len(&self) -> Option<u64> {
        let (start, end) = self.region?;
        end.checked_sub(start)?.checked_add(1)
    }

    /// Why the kernel makes no device node even with a driver: its pages are larger than the region.
    pub(crate) fn too_small_for_a_node(&self, machine: &Machine) -> Option<String> {
        let len = self.region_len().filter(|len| *len < machine.page_size)?;
        Some(format!("its region has {len} bytes, a page of this kernel {}", machine.page_size))
    }

    fn describe_region(&self, text: &mut String) {
        if let (Some((start, end)), Some(len)) = (self.region, self.region_len()) {
            // Writing to a String cannot fail.
            let _ = write!(text, ", {len} bytes at {start:#x}-{end:#x}");
        }
    }

    fn ok_or_too_small(&self, machine: &Machine, found: String) -> Finding {
        match self.too_small_for_a_node(machine) {
            Some(why) => Finding::problem(CHECK, format!("{found}: too small for a device node, as {why}"))
                .todo("ask whoever runs the host for a region of 64 KiB, or boot a kernel with smaller pages"),
            None => Finding::ok(CHECK, found),
        }
    }
}

fn in_acpi(machine: &Machine) -> Option<Device> {
    let names = machine.names(ACPI);
    // The hardware ID, and the compatible ID that Linux also goes by since 7.0.
    let by_hid = names.iter().find(|name| name.starts_with("AMZNC10C"));
    let by_cid = || {
        names
            .iter()
            .find(|name| machine.text(&format!("{ACPI}/{name}/modalias")).is_some_and(|modalias| has_cid(&modalias)))
    };
    let name = by_hid.or_else(by_cid)?.clone();
    let driver = machine
        .link_name(&format!("{ACPI}/{name}/physical_node/driver"))
        .or_else(|| machine.link_name(&format!("{PLATFORM}/{name}/driver")));
    let region = region(machine, &name);
    Some(Device { name, described_in: DescribedIn::Acpi, driver, region })
}

fn has_cid(modalias: &str) -> bool {
    modalias.split(':').any(|id| id == "VMCLOCK")
}

/// The memory of a device of this name. To all but root the kernel shows every address as zero.
fn region(machine: &Machine, name: &str) -> Option<(u64, u64)> {
    let iomem = machine.text("/proc/iomem")?;
    let (range, _) =
        iomem.lines().filter_map(|line| line.trim().split_once(" : ")).find(|(_, owner)| *owner == name)?;
    let (start, end) = range.split_once('-')?;
    let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    (start < end).then_some((start, end))
}

fn acpi_finding(machine: &Machine, device: &Device) -> Finding {
    let folder = format!("{ACPI}/{}", device.name);
    let path = machine.text(&format!("{folder}/path"));
    let hid = machine.text(&format!("{folder}/hid"));
    let status = machine.text(&format!("{folder}/status")).and_then(|status| status.parse::<u32>().ok());

    let mut found = format!("{} in ACPI", device.name);
    // Writing to a String cannot fail.
    if let Some(path) = path {
        let _ = write!(found, " at {path}");
    }
    if let Some(hid) = hid.filter(|hid| !device.name.starts_with(hid.as_str())) {
        let _ = write!(found, ", hardware ID {hid}");
    }
    if let Some(status) = status {
        let _ = write!(found, ", status {status}");
    }
    device.describe_region(&mut found);

    // A device without a status counts as present.
    if status.is_some_and(|status| status & STA_PRESENT == 0 || status & STA_FUNCTIONING == 0) {
        return Finding::problem(CHECK, format!("{found}: switched off by the firmware"))
            .todo("ask whoever runs the host why the device's _STA says that it is absent or broken");
    }
    device.ok_or_too_small(machine, found)
}

fn in_device_tree(machine: &Machine) -> Option<Device> {
    // A node that Linux made a platform device of: there the driver shows.
    for name in machine.names(PLATFORM) {
        if is_vmclock(machine, &format!("{PLATFORM}/{name}/of_node")) {
            let driver = machine.link_name(&format!("{PLATFORM}/{name}/driver"));
            let region = region(machine, &name);
            return Some(Device { name, described_in: DescribedIn::DeviceTree, driver, region });
        }
    }
    // One that it did not: disabled, or below a bus that it does not know.
    let name = node_below(machine, DEVICE_TREE, 6)?;
    Some(Device { name, described_in: DescribedIn::DeviceTree, driver: None, region: None })
}

fn is_vmclock(machine: &Machine, node: &str) -> bool {
    let compatible = machine.bytes(&format!("{node}/compatible")).unwrap_or_default();
    compatible.split(|byte| *byte == 0).any(|name| name == b"amazon,vmclock")
}

/// The path of a VMClock in the tree below `folder`, no deeper than device trees are.
fn node_below(machine: &Machine, folder: &str, depth: u32) -> Option<String> {
    if is_vmclock(machine, folder) {
        return Some(folder.strip_prefix(DEVICE_TREE).unwrap_or(folder).to_owned());
    }
    let depth = depth.checked_sub(1)?;
    machine.folders(folder).iter().find_map(|name| node_below(machine, &format!("{folder}/{name}"), depth))
}

fn device_tree_finding(machine: &Machine, device: &Device) -> Finding {
    let of_node = format!("{PLATFORM}/{}/of_node", device.name);
    let node = if machine.exists(&of_node) { of_node } else { format!("{DEVICE_TREE}{}", device.name) };
    let mut found = format!("{} in the device tree (amazon,vmclock)", device.name);
    device.describe_region(&mut found);
    match machine.text(&format!("{node}/status")) {
        Some(status) if !matches!(status.as_str(), "okay" | "ok") => {
            Finding::problem(CHECK, format!("{found}: its status is {status:?}"))
                .todo("ask whoever runs the host to enable the node in the guest's device tree")
        }
        _ => device.ok_or_too_small(machine, found),
    }
}
