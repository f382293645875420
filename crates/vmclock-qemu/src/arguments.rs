// SPDX-License-Identifier: MIT OR Apache-2.0
//! The user's QEMU command line, as far as it concerns us, and what is added to it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use crate::error::Error;
use crate::table::{Place, Slot};

/// The doorbell's I/O ports: those where NE2000 cards used to be.
pub(crate) const BELL_IO: u16 = 0x300;
/// The region behind the PCI device: two pages of 4 KiB are used, and a guest with pages of 64 KiB maps it for programs
/// only if it fills one of those.
pub(crate) const REGION_LEN: u64 = 64 << 10;
const GIB: u64 = 1 << 30;

/// What the user's arguments say.
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Analysis {
    pub(crate) program: OsString,
    /// What follows it, without `-incoming`.
    arguments: Vec<OsString>,
    chipset: Chipset,
    pub(crate) accelerator: Accelerator,
    /// The main memory's size as the user states it (`4G`), and in bytes.
    memory: (String, u64),
    /// The user configures the memory's backend.
    own_memory: bool,
    has_memory_slots: bool,
    default_network: bool,
    default_monitor: bool,
    nographic: bool,
    default_serial: bool,
    pub(crate) incoming: Option<String>,
    /// The user gave `-S`.
    pub(crate) stopped: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chipset {
    Q35,
    Pc,
}

/// The accelerator, as far as the arguments determine it. Whether it is KVM, QEMU answers later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accelerator {
    Kvm,
    /// TCG, or whichever of several there is.
    MaybeTcg,
    /// The guest's counter counts instructions.
    InstructionCount,
    Other,
}

/// What to add.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Additions<'a> {
    pub(crate) page: &'a Path,
    pub(crate) table: &'a Path,
    pub(crate) place: Place,
    /// How QEMU connects to our ends: the options of a socket chardev, and of a datagram netdev (none without a
    /// doorbell).
    pub(crate) monitor: &'a OsStr,
    pub(crate) bell: Option<(&'a OsStr, u8)>,
}

fn refused(argument: impl Into<String>, reason: impl Into<String>) -> Error {
    Error::Argument { argument: argument.into(), reason: reason.into() }
}

fn ensure(holds: bool, error: impl FnOnce() -> Error) -> Result<(), Error> {
    if holds {
        Ok(())
    } else {
        Err(error())
    }
}

impl Analysis {
    pub(crate) fn of(command: &[OsString], slot: Option<Slot>, irq: Option<u8>) -> Result<Self, Error> {
        let (program, arguments) = command.split_first().ok_or(Error::NoProgram)?;
        // Whatever is not text is nothing that matters here.
        let words: Vec<String> = arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let options = options(&words);
        let values = |names: &'static [&'static str]| {
            options.iter().filter(move |(name, _)| names.contains(name)).map(|(_, value)| *value)
        };
        let has = |names: &'static [&'static str]| values(names).next().is_some();
        let name = Path::new(program).file_name().and_then(OsStr::to_str).unwrap_or_default();
        let target = name.strip_prefix("qemu-system-");
        ensure(target.is_none_or(|target| matches!(target, "x86_64" | "i386")), || {
            refused(program.to_string_lossy(), "only guests of x86 are supported; run qemu-system-x86_64")
        })?;
        ensure(!has(&["daemonize"]), || {
            refused("-daemonize", "vmclock has to outlive QEMU; leave it out and run vmclock in the background")
        })?;
        let needs_acpi = "the guest finds the clock through ACPI; leave it out";
        ensure(!has(&["no-acpi"]), || refused("-no-acpi", needs_acpi))?;
        let machine: Vec<&str> = values(&["machine", "M"]).collect();
        ensure(machine.iter().all(|machine| value_of(machine, "acpi") != Some("off")), || {
            refused("-machine acpi=off", needs_acpi)
        })?;
        let chipset = chipset(&machine)?;
        if let Some(slot) = slot {
            let usb = has(&["usb"]) || machine.iter().any(|machine| value_of(machine, "usb") == Some("on"));
            check_slot(slot, chipset, usb, values(&["device"]))?;
        }
        if let Some(irq) = irq {
            let isa = |device: &&str| value_of(device, "irq").and_then(number) == Some(irq.into());
            if let Some(device) = values(&["device"]).find(isa) {
                let reason = format!("has interrupt {irq}, which the doorbell needs; name another one with --irq");
                return Err(refused(format!("-device {device}"), reason));
            }
        }
        let own_memory = has(&["mem-path", "mem-prealloc", "numa"])
            || machine.iter().any(|machine| value_of(machine, "memory-backend").is_some())
            || values(&["object"]).any(|object| value_of(object, "id") == Some("pc.ram"));
        let memory = values(&["m"]).filter_map(|memory| first_or(memory, "size")).next_back().unwrap_or("128M");
        let bytes = size(memory).ok_or_else(|| refused(format!("-m {memory}"), "is not a size like 512M or 4G"))?;
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
    pub(crate) fn nvdimm_address(&self) -> u64 {
        let (limit, low) = match self.chipset {
            Chipset::Q35 => (0xb000_0000, 0x8000_0000),
            Chipset::Pc => (0xe000_0000, 0xc000_0000),
        };
        let above = if self.memory.1 >= limit { self.memory.1 - low } else { 0 };
        (4 * GIB + above).next_multiple_of(GIB)
    }

    /// All of QEMU's arguments.
    pub(crate) fn with(&self, additions: &Additions<'_>) -> Vec<OsString> {
        let mut all = Arguments::default();
        // QEMU 10 with TCG dies at the end of a migration if our memory was made before the guest's (an assertion about
        // the first block of memory), and the guest's is made last unless it is made here.
        let memory_first = self.accelerator != Accelerator::Kvm && !self.own_memory;
        if memory_first {
            all.add("-object", format!("memory-backend-ram,id=pc.ram,size={}", self.memory.0));
        }
        let page = escaped(additions.page);
        match additions.place {
            Place::PciSlot(slot) => {
                let file = format!("memory-backend-file,id=vmclock,size={REGION_LEN},share=on,mem-path=");
                all.add("-object", joined([file.as_ref(), &page]));
                let bus = if self.chipset == Chipset::Q35 { "pcie.0" } else { "pci.0" };
                // With `master=on` the page migrates with the guest; without, QEMU refuses to migrate.
                all.add("-device", format!("ivshmem-plain,memdev=vmclock,master=on,bus={bus},addr={:#x}", slot.get()));
            }
            Place::Fixed(address) => {
                let file = "memory-backend-file,id=vmclock,size=4096,share=on,readonly=on,rom=on,mem-path=";
                all.add("-object", joined([file.as_ref(), &page]));
                all.add("-device", format!("nvdimm,memdev=vmclock,id=vmclock-page,addr={address:#x},unarmed=on"));
            }
        }
        all.add("-acpitable", joined(["file=".as_ref(), &escaped(additions.table)]));
        all.add("-chardev", joined(["socket,id=vmclock-qmp,".as_ref(), additions.monitor]));
        all.add("-mon", "chardev=vmclock-qmp,mode=control");
        if let Some((netdev, irq)) = additions.bell {
            all.add("-netdev", joined(["dgram,id=vmclock-bell,".as_ref(), netdev]));
            all.add("-device", format!("ne2k_isa,irq={irq},iobase={BELL_IO:#x},netdev=vmclock-bell"));
        }
        // What QEMU would have had by itself, had we added nothing.
        if self.default_network && additions.bell.is_some() {
            all.add("-nic", "user");
        }
        if self.default_monitor {
            match (self.nographic, self.default_serial) {
                (true, true) => all.add("-serial", "mon:stdio"),
                (true, false) => all.add("-monitor", "stdio"),
                (false, _) => all.add("-monitor", "vc"),
            }
        }
        all.0.extend(self.arguments.iter().cloned());
        // Behind the user's own, as they add to these.
        if memory_first {
            all.add("-machine", "memory-backend=pc.ram");
        }
        if matches!(additions.place, Place::Fixed(_)) {
            all.add("-machine", "nvdimm=on");
            if !self.has_memory_slots {
                all.add("-m", format!("slots=1,maxmem={}M", (self.memory.1 >> 20) + 4096));
            }
        }
        if self.incoming.is_some() {
            all.add("-incoming", "defer");
        }
        if !self.stopped {
            all.0.push("-S".into());
        }
        all.0
    }
}

#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn add(&mut self, name: &str, value: impl Into<OsString>) {
        self.0.extend([name.into(), value.into()]);
    }
}

fn joined<const N: usize>(parts: [&OsStr; N]) -> OsString {
    parts.into_iter().collect()
}

/// The options with their values, which are empty for those that have none: QEMU takes one dash or two.
fn options(arguments: &[String]) -> Vec<(&str, &str)> {
    let is_option = |argument: &str| argument.starts_with('-') && argument.len() > 1;
    let named = arguments.iter().enumerate().filter(|(_, argument)| is_option(argument));
    let value_of = |index: usize| arguments.get(index + 1).filter(|value| !is_option(value)).map_or("", String::as_str);
    named.map(|(index, name)| (name.trim_start_matches('-'), value_of(index))).collect()
}

fn without_incoming(arguments: &[OsString]) -> Vec<OsString> {
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

fn chipset(machine: &[&str]) -> Result<Chipset, Error> {
    let kind = machine.iter().filter_map(|machine| first_or(machine, "type")).next_back().unwrap_or("pc");
    match kind {
        "q35" => Ok(Chipset::Q35),
        "pc" | "ubuntu" => Ok(Chipset::Pc),
        kind if kind.starts_with("pc-q35-") => Ok(Chipset::Q35),
        kind if kind.starts_with("pc-i440fx-") => Ok(Chipset::Pc),
        "microvm" => Err(refused("-machine microvm", "it takes no ACPI tables from outside; use -machine q35")),
        kind => Err(refused(format!("-machine {kind}"), "only q35 and pc are supported; use -machine q35")),
    }
}

/// The accelerator of a QEMU that was started with these words.
pub(crate) fn accelerator_of(command: &[OsString]) -> Accelerator {
    let words: Vec<String> = command.iter().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    accelerator(&options(&words))
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
) -> Result<(), Error> {
    let number = slot.get();
    let own: &[u8] = if chipset == Chipset::Q35 { &[0x00, 0x1f] } else { &[0x00, 0x01] };
    let refused_slot = |reason| refused(format!("--slot {number:#x}"), reason);
    ensure(!own.contains(&number), || refused_slot("the machine has its own devices there; name another slot"))?;
    ensure(!(usb && chipset == Chipset::Q35 && number == 0x1d), || {
        refused_slot("QEMU's USB controllers are there with usb=on; name another slot with --slot, e.g. 0x1c")
    })?;
    for device in devices {
        let root = value_of(device, "bus").is_none_or(|bus| bus == "pcie.0" || bus == "pci.0");
        let taken = value_of(device, "addr").and_then(|address| {
            // QEMU reads it as hexadecimal, with 0x or without.
            let slot = address.split('.').next()?;
            u8::from_str_radix(slot.strip_prefix("0x").unwrap_or(slot), 16).ok()
        });
        ensure(!(root && taken == Some(number)), || {
            let reason =
                format!("has slot {number:#x}, which the clock needs; move one of the two: --slot takes any free slot");
            refused(format!("-device {device}"), reason)
        })?;
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
pub(crate) fn escaped(path: &Path) -> OsString {
    let twice = |byte: &u8| std::iter::repeat_n(*byte, if *byte == b',' { 2 } else { 1 });
    OsString::from_vec(path.as_os_str().as_bytes().iter().flat_map(twice).collect())
}

/// As one word of a shell's command line.
pub(crate) fn quoted(word: &OsStr) -> OsString {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_=+.,:/@%".contains(byte);
    if !word.is_empty() && word.as_bytes().iter().all(plain) {
        return word.into();
    }
    let mut quoted = vec![b'\''];
    for byte in word.as_bytes() {
        match byte {
            b'\'' => quoted.extend(b"'\\''"),
            byte => quoted.push(*byte),
        }
    }
    quoted.push(b'\'');
    OsString::from_vec(quoted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn analysis(command: &str) -> Result<Analysis, Error> {
        let command: Vec<OsString> = command.split_whitespace().map(OsString::from).collect();
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
            monitor: "fd=7".as_ref(),
            bell: Some(("local.type=fd,local.str=8".as_ref(), 5)),
        };
        let all = analysis(command).expect(command).with(&additions);
        all.join(" ".as_ref()).into_string().expect("text")
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
-object memory-backend-file,id=vmclock,size=65536,share=on,mem-path=/tmp/a,,b \
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
        // QEMU leaves these defaults out as soon as another network or monitor is configured.
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
        for (word, expected) in [("-device", "-device"), ("it's", "'it'\\''s'"), ("", "''"), ("a b", "'a b'")] {
            assert_eq!(quoted(word.as_ref()), expected);
        }
    }

    #[test]
    fn paths_need_not_be_text() {
        let path = Path::new(OsStr::from_bytes(b"/tmp/a, \xff"));
        assert_eq!(escaped(path).as_bytes(), b"/tmp/a,, \xff");
        let command = [OsString::from("qemu"), OsString::from_vec(b"-append\xff".to_vec())];
        let analysis = Analysis::of(&command, None, None).expect("nothing is wrong with it");
        let (page, table) = (path, Path::new("/tmp/t"));
        let place = Place::Fixed(1 << 32);
        let all = analysis.with(&Additions { page, table, place, monitor: "fd=7".as_ref(), bell: None });
        assert!(all.contains(&command[1]));
        assert!(all.iter().any(|word| word.as_bytes().ends_with(b"mem-path=/tmp/a,, \xff")));
    }
}
