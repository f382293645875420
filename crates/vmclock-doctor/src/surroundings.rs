// SPDX-License-Identifier: MIT OR Apache-2.0
//! The hypervisor, as far as it shows, and the kernel's own clock source.

use crate::finding::Finding;
use crate::machine::Machine;

/// Which hypervisor runs this machine, by whatever it left its name in.
pub(crate) fn hypervisor(machine: &Machine) -> Finding {
    const CHECK: &str = "hypervisor";
    let name = name(machine);
    // Firmware names itself on bare metal too; only the CPU's flag tells a virtual machine for certain.
    match (has_cpu_flag(machine), name) {
        (Some(true), Some(name)) => Finding::ok(CHECK, name),
        (Some(true), None) => Finding::ok(CHECK, "there is one, which does not give its name here"),
        (Some(false), _) => Finding::missing(
            CHECK,
            "the CPU shows none: bare metal, or a hypervisor that hides. A VMClock is for virtual machines",
        ),
        (None, Some(name)) => {
            Finding::unknown(CHECK, format!("this kind of CPU does not show it; the machine is {name}"))
        }
        (None, None) => Finding::unknown(CHECK, "this kind of CPU does not show it"),
    }
}

fn name(machine: &Machine) -> Option<String> {
    let dmi = || {
        let parts = ["sys_vendor", "product_name"].map(|name| machine.text(&format!("/sys/class/dmi/id/{name}")));
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| format!("{}, by DMI", parts.join(" ")))
    };
    let device_tree = || machine.text("/sys/firmware/devicetree/base/hypervisor/compatible");
    machine
        .text("/sys/hypervisor/type")
        .map(|name| format!("{name}, by /sys/hypervisor"))
        .or_else(dmi)
        .or_else(|| Some(format!("{}, by the device tree", device_tree()?)))
        .or_else(|| Some(format!("{}, by its ACPI tables", acpi_maker(machine)?)))
}

/// Whether the CPU's flags name a hypervisor; `None` on CPUs that have no such flag (all but x86).
fn has_cpu_flag(machine: &Machine) -> Option<bool> {
    let cpus = machine.text("/proc/cpuinfo")?;
    let flags = cpus.lines().find_map(|line| line.strip_prefix("flags")?.split_once(':').map(|(_, flags)| flags))?;
    Some(flags.split_whitespace().any(|flag| flag == "hypervisor"))
}

/// Who made the ACPI tables: for a virtual machine that is the hypervisor. Readable by root only.
fn acpi_maker(machine: &Machine) -> Option<String> {
    let table = machine.bytes("/sys/firmware/acpi/tables/FACP").ok()?;
    let maker = String::from_utf8_lossy(table.get(10..16)?).trim_matches(|c: char| c == '\0' || c == ' ').to_owned();
    // As the makers write themselves into the six bytes that there are.
    let name = match maker.as_str() {
        "FIRECK" => "Firecracker",
        "BOCHS" => "QEMU or the like",
        "CLOUDH" => "Cloud Hypervisor",
        "AMAZON" => "Amazon EC2",
        "VRTUAL" | "MSFTVM" => "Hyper-V",
        _ => return (!maker.is_empty()).then_some(maker),
    };
    Some(name.into())
}

/// What the kernel counts time by. A page's time is the CPU counter's, so one that the kernel has given up is bad news.
pub(crate) fn clocksource(machine: &Machine) -> Finding {
    const CHECK: &str = "clocksource";
    let folder = "/sys/devices/system/clocksource/clocksource0";
    let Some(current) = machine.text(&format!("{folder}/current_clocksource")) else {
        return Finding::unknown(CHECK, format!("{folder}/current_clocksource cannot be read"));
    };
    let available = machine.text(&format!("{folder}/available_clocksource")).unwrap_or_default();
    let found = format!("{current}, of {available}");
    match current.as_str() {
        "tsc" | "arch_sys_counter" => Finding::ok(CHECK, format!("{found}: the counter that a page is about")),
        _ if available.split_whitespace().any(|name| matches!(name, "tsc" | "arch_sys_counter")) => {
            Finding::ok(CHECK, format!("{found}; a page is about the CPU's counter all the same"))
        }
        "kvm-clock" => Finding::ok(CHECK, format!("{found}: made of the counter that a page is about")),
        _ => Finding::problem(CHECK, format!("{found}: the kernel does not trust the counter that a page is about"))
            .todo(
                "see why in the kernel's log: `dmesg | grep -i -e tsc -e clocksource`; `vmclock now` may be wrong here",
            ),
    }
}
