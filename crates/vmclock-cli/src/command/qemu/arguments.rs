// SPDX-License-Identifier: MIT OR Apache-2.0
//! The user's QEMU command line, as far as it concerns us, and what is added to it.

use std::path::Path;

use anyhow::{bail, ensure, Context};
use vmclock_vmm::acpi::{Place, Slot};

/// The doorbell's I/O ports: where an NE2000 was always looked for.
pub(super) const BELL_IO: u16 = 0x300;
/// The region behind the PCI device: two pages are used, and a guest with 64 KiB pages shows it to programs only if it has
/// one of them.
pub(super) const REGION_LEN: u64 = 64 << 10;
const GIB: u64 = 1 << 30;

/// What the user's arguments say.
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Analysis {
    pub(super) program: String,
    /// What comes behind it, without `-incoming`.
    pub(super) arguments: Vec<String>,
    pub(super) chipset: Chipset,
    pub(super) accelerator: Accelerator,
    /// The main memory's size as the user states it (`4G`), and in bytes.
    memory: (String, u64),
    /// The user says where the memory comes from.
    own_memory: bool,
    has_memory_slots: bool,
    default_network: bool,
    default_monitor: bool,
    nographic: bool,
    default_serial: bool,
    pub(super) incoming: Option<String>,
    /// The user gave `-S`.
    pub(super) stopped: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chipset {
    Q35,
    Pc,
}

/// Where the guest's counter comes from, as far as the arguments tell. Whether it is KVM, QEMU says later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accelerator {
    Kvm,
    /// TCG, or whichever of several there is.
    MaybeTcg,
    /// The guest's counter counts instructions.
    InstructionCount,
    Other,
}

/// What to add.
#[derive(Clone, Copy, Debug)]
pub(super) struct Additions<'a> {
    pub(super) page: &'a Path,
    pub(super) table: &'a Path,
    pub(super) place: Place,
    /// How QEMU gets at our ends: the options of a socket chardev, and of a datagram netdev (none without a doorbell).
    pub(super) monitor: &'a str,
    pub(super) bell: Option<(&'a str, u8)>,
}

impl Analysis {
    pub(super) fn of(command: &[String], slot: Option<Slot>, irq: Option<u8>) -> anyhow::Result<Self> {
        let (program, arguments) =
            command.split_first().context("no QEMU is named: vmclock qemu -- qemu-system-x86_64 ..")?;
        let options = options(arguments);
        let values = |names: &'static [&'static str]| {
            options.iter().filter(move |(name, _)| names.contains(name)).map(|(_, value)| *value)
        };
        let has = |names: &'static [&'static str]| values(names).next().is_some();
        if let Some(other) = Path::new(program).file_name().and_then(|name| name.to_str()?.strip_prefix("qemu-system-"))
        {
            ensure!(
                matches!(other, "x86_64" | "i386"),
                "{program}: only guests of x86 are supported here; run qemu-system-x86_64"
            );
        }
        ensure!(
            !has(&["daemonize"]),
            "-daemonize: vmclock has to outlive QEMU; leave it out and put vmclock in the background"
        );
        ensure!(!has(&["no-acpi"]), "-no-acpi: the guest finds the clock through ACPI; leave it out");
        let machine: Vec<&str> = values(&["machine", "M"]).collect();
        ensure!(
            machine.iter().all(|machine| value_of(machine, "acpi") != Some("off")),
            "-machine acpi=off: the guest finds the clock through ACPI; leave it out"
        );
        let chipset = chipset(&machine)?;
        if let Some(slot) = slot {
            let usb = has(&["usb"]) || machine.iter().any(|machine| value_of(machine, "usb") == Some("on"));
            check_slot(slot, chipset, usb, values(&["device"]))?;
        }
        if let Some(irq) = irq {
            let isa = |device: &&str| value_of(device, "irq").and_then(number) == Some(irq.into());
            if let Some(device) = values(&["device"]).find(isa) {
                bail!("-device {device}: has interrupt {irq}, which the doorbell needs; name another one with --irq");
            }
        }
        let own_memory = has(&["mem-path", "mem-prealloc", "numa"])
            || machine.iter().any(|machine| value_of(machine, "memory-backend").is_some())
            || values(&["object"]).any(|object| value_of(object, "id") == Some("pc.ram"));
        let memory = values(&["m"]).filter_map(|memory| first_or(memory, "size")).next_back().unwrap_or("128M");
        let bytes = size(memory).with_context(|| format!("-m {memory}: is not a size like 512M or 4G"))?;
        Ok(Self {
            program: program.clone(),
            arguments: without_incoming(arguments),
            chipset,
            accelerator: accelerator(&options),
            memory: (
                if memory.ends_with(|c: char| c.is_ascii_digit()) { format!("{memory}M") } else { memory.into() },
                bytes,
            ),
            own_memory,
            has_memory_slots: values(&["m"]).any(|memory| value_of(memory, "maxmem").is_some()),
            default_network: !has(&["nodefaults", "net", "netdev", "nic"]),
            default_monitor: !has(&["nodefaults", "monitor", "mon", "qmp", "qmp-pretty"]),
            nographic: has(&["nographic"]),
            default_serial: !has(&["serial"]),
            incoming: values(&["incoming"]).next_back().map(str::to_owned),
            stopped: has(&["S"]),
        })
    }

    /// Where QEMU's NVDIMM will be: QEMU puts the memory that is plugged in behind the main memory, which leaves a hole
    /// below 4 GiB, at the next whole GiB.
    pub(super) fn nvdimm_address(&self) -> u64 {
        let (limit, low) = match self.chipset {
            Chipset::Q35 => (0xb000_0000, 0x8000_0000),
            Chipset::Pc => (0xe000_0000, 0xc000_0000),
        };
        let above = if self.memory.1 >= limit { self.memory.1 - low } else { 0 };
        (4 * GIB + above).next_multiple_of(GIB)
    }

    /// All of QEMU's arguments.
    pub(super) fn with(&self, additions: &Additions<'_>) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        let mut add = |name: &str, value: String| all.extend([name.to_owned(), value]);
        // QEMU 10 with TCG dies at the end of a migration if our memory was made before the guest's (an assertion about
        // the first block of memory), and the guest's is made last unless it is made here.
        let memory_first = self.accelerator != Accelerator::Kvm && !self.own_memory;
        if memory_first {
            add("-object", format!("memory-backend-ram,id=pc.ram,size={}", self.memory.0));
        }
        let page = escape(additions.page);
        match additions.place {
            Place::PciSlot(slot) => {
                add("-object", format!("memory-backend-file,id=vmclock,size={REGION_LEN},mem-path={page},share=on"));
                let bus = if self.chipset == Chipset::Q35 { "pcie.0" } else { "pci.0" };
                // With `master=on` the page migrates with the guest; without, QEMU refuses to migrate.
                add("-device", format!("ivshmem-plain,memdev=vmclock,master=on,bus={bus},addr={:#x}", slot.get()));
            }
            Place::Fixed(address) => {
                let file = "memory-backend-file,id=vmclock,size=4096,share=on,readonly=on,rom=on";
                add("-object", format!("{file},mem-path={page}"));
                add("-device", format!("nvdimm,memdev=vmclock,id=vmclock-page,addr={address:#x},unarmed=on"));
            }
        }
        add("-acpitable", format!("file={}", escape(additions.table)));
        add("-chardev", format!("socket,id=vmclock-qmp,{}", additions.monitor));
        add("-mon", "chardev=vmclock-qmp,mode=control".into());
        if let Some((netdev, irq)) = additions.bell {
            add("-netdev", format!("dgram,id=vmclock-bell,{netdev}"));
            add("-device", format!("ne2k_isa,irq={irq},iobase={BELL_IO:#x},netdev=vmclock-bell"));
        }
        // What QEMU would have had by itself, had we added nothing.
        if self.default_network && additions.bell.is_some() {
            add("-nic", "user".into());
        }
        if self.default_monitor {
            match (self.nographic, self.default_serial) {
                (true, true) => add("-serial", "mon:stdio".into()),
                (true, false) => add("-monitor", "stdio".into()),
                (false, _) => add("-monitor", "vc".into()),
            }
        }
        all.extend(self.arguments.iter().cloned());
        // Behind the user's own, as they add to these.
        let mut add = |name: &str, value: &str| all.extend([name.to_owned(), value.to_owned()]);
        if memory_first {
            add("-machine", "memory-backend=pc.ram");
        }
        if matches!(additions.place, Place::Fixed(_)) {
            add("-machine", "nvdimm=on");
            if !self.has_memory_slots {
                add("-m", &format!("slots=1,maxmem={}M", (self.memory.1 >> 20) + 4096));
            }
        }
        if self.incoming.is_some() {
            add("-incoming", "defer");
        }
        if !self.stopped {
            all.push("-S".into());
        }
        all
    }
}

/// The options with their values, which are empty for those that have none: QEMU takes one dash or two.
fn options(arguments: &[String]) -> Vec<(&str, &str)> {
    let is_option = |argument: &str| argument.starts_with('-') && argument.len() > 1;
    let named = arguments.iter().enumerate().filter(|(_, argument)| is_option(argument));
    let value_of = |index: usize| arguments.get(index + 1).filter(|value| !is_option(value)).map_or("", String::as_str);
    named.map(|(index, name)| (name.trim_start_matches('-'), value_of(index))).collect()
}

fn without_incoming(arguments: &[String]) -> Vec<String> {
    let mut kept = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if argument == "-incoming" || argument == "--incoming" {
            rest.next();
        } else {
            kept.push(argument.clone());
        }
    }
    kept
}

/// The value of `key=value` among options separated by commas.
fn value_of<'a>(options: &'a str, key: &str) -> Option<&'a str> {
    options.split(',').find_map(|option| option.strip_prefix(key)?.strip_prefix('='))
}

/// The first option, if it has no key, or that of a key.
fn first_or<'a>(options: &'a str, key: &str) -> Option<&'a str> {
    let first = options.split(',').next().filter(|first| !first.contains('=') && !first.is_empty());
    first.or_else(|| value_of(options, key))
}

fn chipset(machine: &[&str]) -> anyhow::Result<Chipset> {
    let kind = machine.iter().filter_map(|machine| first_or(machine, "type")).next_back().unwrap_or("pc");
    match kind {
        "q35" => Ok(Chipset::Q35),
        "pc" | "ubuntu" => Ok(Chipset::Pc),
        kind if kind.starts_with("pc-q35-") => Ok(Chipset::Q35),
        kind if kind.starts_with("pc-i440fx-") => Ok(Chipset::Pc),
        "microvm" => bail!("-machine microvm: it takes no ACPI tables from outside; use -machine q35"),
        kind => bail!("-machine {kind}: only q35 and pc are supported; use -machine q35"),
    }
}

/// The accelerator of a QEMU that was started with these words.
pub(super) fn accelerator_of(command: &[String]) -> Accelerator {
    accelerator(&options(command.get(1..).unwrap_or_default()))
}

fn accelerator(options: &[(&str, &str)]) -> Accelerator {
    let given = |name: &str| options.iter().any(|(option, _)| *option == name);
    if given("icount") {
        return Accelerator::InstructionCount;
    }
    let mut named: Vec<&str> = Vec::new();
    for (option, value) in options {
        match *option {
            "accel" => named.extend(first_or(value, "accel")),
            "machine" | "M" => named.extend(value_of(value, "accel").into_iter().flat_map(|list| list.split(':'))),
            "enable-kvm" => named.push("kvm"),
            _ => {}
        }
    }
    if named.is_empty() || named.contains(&"tcg") {
        Accelerator::MaybeTcg
    } else if named.iter().all(|name| *name == "kvm") {
        Accelerator::Kvm
    } else {
        Accelerator::Other
    }
}

fn check_slot<'a>(
    slot: Slot,
    chipset: Chipset,
    usb: bool,
    devices: impl Iterator<Item = &'a str>,
) -> anyhow::Result<()> {
    let number = slot.get();
    let own: &[u8] = if chipset == Chipset::Q35 { &[0x00, 0x1f] } else { &[0x00, 0x01] };
    ensure!(!own.contains(&number), "--slot {number:#x}: the machine has its own devices there; name another slot");
    ensure!(
        !(usb && chipset == Chipset::Q35 && number == 0x1d),
        "--slot {number:#x}: QEMU's USB controllers are there with usb=on; name another slot with --slot, e.g. 0x1c"
    );
    for device in devices {
        let root = value_of(device, "bus").is_none_or(|bus| bus == "pcie.0" || bus == "pci.0");
        let taken = value_of(device, "addr").and_then(|address| {
            // QEMU reads it as hexadecimal, with 0x or without.
            let slot = address.split('.').next()?;
            u8::from_str_radix(slot.strip_prefix("0x").unwrap_or(slot), 16).ok()
        });
        ensure!(
            !(root && taken == Some(number)),
            "-device {device}: has slot {number:#x}, which the clock needs; move one of the two: --slot takes any free slot"
        );
    }
    Ok(())
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// `512`, `512M` or `1.5G`, in bytes: without a unit it is MiB.
fn size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit {
        "" | "M" | "m" => 20,
        "b" | "B" => 0,
        "k" | "K" => 10,
        "g" | "G" => 30,
        "t" | "T" => 40,
        _ => return None,
    };
    let number: f64 = number.parse().ok()?;
    let unit: u64 = 1 << shift;
    #[allow(clippy::cast_precision_loss)] // a power of two
    let bytes = number * unit as f64;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    (bytes > 0.0 && bytes < 1e15).then_some(bytes as u64)
}

/// A path as a value among options: QEMU wants commas twice.
fn escape(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// As one word of a shell's command line.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+.,:/@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn analysis(command: &str) -> anyhow::Result<Analysis> {
        let command: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        Analysis::of(&command, Slot::new(0x1d), Some(5))
    }

    fn complaint(command: &str) -> String {
        analysis(command).expect_err(command).to_string()
    }

    fn arguments(command: &str, place: Place) -> String {
        let additions = Additions {
            page: Path::new("/tmp/a,b"),
            table: Path::new("/tmp/t"),
            place,
            monitor: "fd=7",
            bell: Some(("local.type=fd,local.str=8", 5)),
        };
        analysis(command).expect(command).with(&additions).join(" ")
    }

    fn slot() -> Place {
        Place::PciSlot(Slot::new(0x1d).expect("below 32"))
    }

    #[test]
    fn accelerators() {
        for (given, expected) in [
            ("", Accelerator::MaybeTcg),
            ("-accel tcg,thread=multi", Accelerator::MaybeTcg),
            ("-machine q35,accel=kvm:tcg", Accelerator::MaybeTcg),
            ("-accel kvm -accel tcg", Accelerator::MaybeTcg),
            ("-enable-kvm", Accelerator::Kvm),
            ("--accel kvm", Accelerator::Kvm),
            ("-M accel=kvm", Accelerator::Kvm),
            ("-accel xen", Accelerator::Other),
            ("-accel tcg -icount shift=auto", Accelerator::InstructionCount),
        ] {
            assert_eq!(analysis(&format!("qemu-system-x86_64 {given}")).expect(given).accelerator, expected, "{given}");
        }
    }

    #[test]
    fn machines() {
        for (given, expected) in
            [("-M pc-q35-9.2", Chipset::Q35), ("", Chipset::Pc), ("-machine accel=kvm,type=q35", Chipset::Q35)]
        {
            assert_eq!(analysis(&format!("qemu {given}")).expect(given).chipset, expected, "{given}");
        }
        assert!(complaint("qemu -machine microvm").contains("use -machine q35"));
        assert!(complaint("qemu -M virt").contains("-machine virt"));
        assert!(complaint("qemu -machine q35,acpi=off").contains("acpi=off"));
        assert!(complaint("/usr/bin/qemu-system-aarch64").contains("qemu-system-aarch64: only guests of x86"));
        assert!(complaint("qemu -daemonize").contains("-daemonize"));
        assert!(Analysis::of(&[], None, None).expect_err("nothing").to_string().contains("no QEMU is named"));
    }

    #[test]
    fn clashes() {
        for device in ["e1000,addr=1d", "e1000,addr=0x1d.1,bus=pci.0"] {
            let error = complaint(&format!("qemu -device {device}"));
            assert!(error.contains(device) && error.contains("slot 0x1d") && error.contains("--slot"), "{error}");
        }
        analysis("qemu -device e1000,addr=0x1d,bus=rp1 -device e1000,addr=0x1c").expect("no clash");
        assert!(complaint("qemu -M q35 -usb").contains("USB"));
        analysis("qemu -M pc -usb").expect("elsewhere on pc");
        assert!(complaint("qemu -device isa-serial,irq=5").contains("--irq"));
        let own = Analysis::of(&["qemu".into(), "-M".into(), "q35".into()], Slot::new(0x1f), None);
        assert!(own.expect_err("taken").to_string().contains("its own devices"));
    }

    #[test]
    fn what_is_added() {
        let all =
            arguments("qemu -M q35 -m 4G,slots=2 -nodefaults -qmp unix:/q,server=on -incoming tcp:0:4444", slot());
        assert_eq!(
            all,
            "-object memory-backend-ram,id=pc.ram,size=4G \
-object memory-backend-file,id=vmclock,size=65536,mem-path=/tmp/a,,b,share=on \
-device ivshmem-plain,memdev=vmclock,master=on,bus=pcie.0,addr=0x1d -acpitable file=/tmp/t \
-chardev socket,id=vmclock-qmp,fd=7 -mon chardev=vmclock-qmp,mode=control \
-netdev dgram,id=vmclock-bell,local.type=fd,local.str=8 -device ne2k_isa,irq=5,iobase=0x300,netdev=vmclock-bell \
-M q35 -m 4G,slots=2 -nodefaults -qmp unix:/q,server=on -machine memory-backend=pc.ram -incoming defer -S"
        );
    }

    #[test]
    fn the_users_own_memory_monitor_network_and_stop_stay() {
        let all = arguments(
            "qemu -S -m size=1024 -machine pc,memory-backend=mine -object memory-backend-memfd,id=mine",
            slot(),
        );
        assert!(!all.contains("pc.ram") && all.matches("-S").count() == 1 && all.contains("bus=pci.0"), "{all}");
        // QEMU leaves these defaults out as soon as it is told of another network or monitor.
        assert!(all.contains("-nic user") && all.contains("-monitor vc"), "{all}");
        assert!(arguments("qemu -nographic", slot()).contains("-serial mon:stdio"));
        assert!(arguments("qemu -nographic -serial null", slot()).contains("-monitor stdio"));
        assert!(!arguments("qemu -enable-kvm", slot()).contains("pc.ram"));
        let incoming = analysis("qemu -incoming file:/snap").expect("fine");
        assert_eq!((incoming.incoming.as_deref(), incoming.arguments.len()), (Some("file:/snap"), 0));
    }

    #[test]
    fn read_only_page() {
        for (command, address) in [
            ("qemu -M q35 -m 512M", 4 * GIB),
            ("qemu -M q35 -m 2816M", 5 * GIB),
            ("qemu -M q35 -m 4G", 6 * GIB),
            ("qemu -M pc -m 3G", 4 * GIB),
            ("qemu -M pc -m 4096", 5 * GIB),
        ] {
            let place = Place::Fixed(analysis(command).expect(command).nvdimm_address());
            assert_eq!(place, Place::Fixed(address), "{command}");
            let all = arguments(command, place);
            assert!(
                all.contains("-machine nvdimm=on -m slots=1,maxmem=") && all.contains("readonly=on,rom=on"),
                "{all}"
            );
        }
        assert!(!arguments("qemu -m 1G,slots=4,maxmem=8G", Place::Fixed(4 * GIB)).contains("-m slots"));
        assert!(complaint("qemu -m lots").contains("-m lots"));
    }

    #[test]
    fn quoting() {
        assert_eq!(quoted("-device"), "-device");
        assert_eq!(quoted("it's"), "'it'\\''s'");
        assert_eq!(quoted(""), "''");
    }
}
