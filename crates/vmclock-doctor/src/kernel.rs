// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel: whether it was built with the driver, and whether the driver has the device.

use crate::device::{DescribedIn, Device};
use crate::finding::Finding;
use crate::machine::Machine;

const OPTION: &str = "CONFIG_PTP_1588_CLOCK_VMCLOCK";
const DRIVERS: &str = "/sys/bus/platform/drivers";
const MODULE: &str = "ptp_vmclock";

/// What is known of the running kernel.
pub(crate) struct Kernel {
    pub(crate) release: Release,
    option: Setting,
    /// Where the option was found, or was looked for.
    source: Option<String>,
    /// A kernel without modules must have the driver built in.
    loads_modules: bool,
}

/// How the kernel was configured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Setting {
    BuiltIn,
    Module,
    Off,
    /// There is a configuration, and it does not know the option.
    NotMentioned,
    /// There is no configuration to be seen.
    Unknown,
}

/// A release like `6.18.44-fc`.
pub(crate) struct Release(Option<String>);

pub(crate) fn look(machine: &Machine) -> Kernel {
    let release = Release(machine.text("/proc/sys/kernel/osrelease"));
    let (option, source, loads_modules) = match configuration(machine, &release) {
        Some((text, source)) => {
            let loads_modules = setting(&text, "CONFIG_MODULES") == Setting::BuiltIn;
            (setting(&text, OPTION), Some(source), loads_modules)
        }
        None => match from_module_lists(machine, &release) {
            Some((setting, source)) => (setting, Some(source), true),
            None => (Setting::Unknown, None, true),
        },
    };
    Kernel { release, option, source, loads_modules }
}

impl Release {
    pub(crate) fn name(&self) -> &str {
        self.0.as_deref().unwrap_or("of unknown release")
    }

    /// The three numbers at its start; absent ones are 0.
    fn numbers(&self) -> Option<(u32, u32, u32)> {
        let text = self.0.as_deref()?;
        let plain = text.split(|c: char| c != '.' && !c.is_ascii_digit()).next()?;
        let mut numbers = plain.split('.').map(|number| number.parse::<u32>().unwrap_or_default());
        let major = numbers.next().filter(|major| *major > 0)?;
        Some((major, numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default()))
    }

    fn is_before(&self, major: u32, minor: u32) -> bool {
        self.numbers().is_some_and(|(ours, our_minor, _)| (ours, our_minor) < (major, minor))
    }

    /// Whether a mainline kernel of this release lets whoever may read the device write to the page too
    /// (CVE-2026-80724). Vendors may have mended theirs.
    pub(crate) fn lets_readers_write(&self) -> bool {
        match self.numbers() {
            Some((6, 18, patch)) => patch < 47,
            Some((7, 1, patch)) => patch < 11,
            Some((7, 2, patch)) => patch < 1,
            Some(numbers) => ((6, 13, 0)..(7, 1, 0)).contains(&numbers),
            None => false,
        }
    }
}

/// The kernel's configuration, and where it was found.
fn configuration(machine: &Machine, Release(release): &Release) -> Option<(String, String)> {
    let embedded = "/proc/config.gz";
    if let Some(text) = machine.gzipped_text(embedded) {
        return Some((text, embedded.into()));
    }
    let release = release.as_deref()?;
    [
        format!("/boot/config-{release}"),
        format!("/lib/modules/{release}/config"),
        format!("/lib/modules/{release}/build/.config"),
    ]
    .into_iter()
    .find_map(|path| Some((machine.text(&path)?, path)))
}

fn setting(configuration: &str, option: &str) -> Setting {
    let of = |line: &str| match line.strip_prefix(option)? {
        "=y" => Some(Setting::BuiltIn),
        "=m" => Some(Setting::Module),
        "=n" => Some(Setting::Off),
        _ => None,
    };
    let off = format!("# {option} is not set");
    configuration
        .lines()
        .find_map(|line| of(line).or_else(|| (line == off).then_some(Setting::Off)))
        .unwrap_or(Setting::NotMentioned)
}

/// Without a configuration, the lists that come with a kernel's modules show where the driver is, if they name it.
/// That they do not name it shows little: it may be in a package that is not installed.
fn from_module_lists(machine: &Machine, Release(release): &Release) -> Option<(Setting, String)> {
    let release = release.as_deref()?;
    [("modules.builtin", Setting::BuiltIn), ("modules.dep", Setting::Module)].into_iter().find_map(|(list, setting)| {
        let path = format!("/lib/modules/{release}/{list}");
        machine.text(&path)?.contains("/ptp_vmclock.ko").then_some((setting, path))
    })
}

/// How the kernel was built.
pub(crate) fn option_finding(kernel: &Kernel, device: Option<&Device>, driver: &Driver) -> Finding {
    const CHECK: &str = "kernel";
    let release = kernel.release.name();
    let source = kernel.source.as_deref().unwrap_or("its configuration");
    let finding = match kernel.option {
        Setting::BuiltIn => return Finding::ok(CHECK, format!("{release}, {OPTION}=y ({source})")),
        Setting::Module => return Finding::ok(CHECK, format!("{release}, {OPTION}=m ({source})")),
        Setting::Off => Finding::missing(CHECK, format!("{release}, {OPTION} is not set ({source})")),
        Setting::NotMentioned if kernel.release.is_before(6, 13) => {
            Finding::missing(CHECK, format!("{release} has no {OPTION} ({source}): Linux has it since 6.13"))
        }
        Setting::NotMentioned => Finding::missing(
            CHECK,
            format!("{release}, no {OPTION} in {source}: what it depends on (CONFIG_PTP_1588_CLOCK) is off"),
        ),
        Setting::Unknown if !matches!(driver, Driver::Absent) => {
            return Finding::ok(CHECK, format!("{release}, which has the driver"))
        }
        Setting::Unknown => Finding::unknown(
            CHECK,
            format!(
                "{release}; how it was built is not known: \
                 no /proc/config.gz, no /boot/config-{release}, nothing in /lib/modules/{release}"
            ),
        ),
    };
    // What a kernel lacks matters once there is a device for it.
    match (device, driver) {
        (None, _) | (_, Driver::Bound { .. } | Driver::Idle { .. }) => finding,
        (Some(_), _) if kernel.option == Setting::Unknown => finding,
        (Some(device), _) => finding.todo(kernel_to_boot(kernel, device)),
    }
}

fn kernel_to_boot(kernel: &Kernel, device: &Device) -> String {
    let since = match device.described_in {
        DescribedIn::Acpi => "6.13",
        DescribedIn::DeviceTree => "7.0, which brought the device tree,",
    };
    let (settings, why) = if kernel.loads_modules {
        ("=m or =y", "")
    } else {
        ("=y", " (the kernel that runs loads no modules, so =m would not do in one built like it)")
    };
    format!("boot a kernel of Linux {since} or later with {OPTION}{settings}{why}")
}

/// Where the driver is.
#[derive(Debug)]
pub(crate) enum Driver {
    /// It has taken the device.
    Bound { name: String },
    /// It is in the kernel, without the device.
    Idle { name: String },
    /// It is not in the kernel.
    Absent,
}

pub(crate) fn look_for_driver(machine: &Machine, device: Option<&Device>) -> Driver {
    if let Some(name) = device.and_then(|device| device.driver.clone()) {
        return Driver::Bound { name };
    }
    let ours = |name: &String| name.starts_with("vmclock") || name.starts_with(MODULE);
    match machine.names(DRIVERS).into_iter().find(ours) {
        Some(name) => {
            let has = |device: &Device| machine.exists(&format!("{DRIVERS}/{name}/{}", device.name));
            if device.is_some_and(has) {
                Driver::Bound { name }
            } else {
                Driver::Idle { name }
            }
        }
        None if machine.exists(&format!("/sys/module/{MODULE}")) => Driver::Idle { name: MODULE.into() },
        None => Driver::Absent,
    }
}

/// Whether the driver is loaded and has the device.
pub(crate) fn driver_finding(machine: &Machine, kernel: &Kernel, device: Option<&Device>, driver: &Driver) -> Finding {
    const CHECK: &str = "driver";
    match (driver, device) {
        (Driver::Bound { name }, Some(device)) => {
            let module = if machine.exists(&format!("/sys/module/{MODULE}")) { " (module ptp_vmclock)" } else { "" };
            Finding::ok(CHECK, format!("{name}{module} has taken {}", device.name))
        }
        (Driver::Bound { name } | Driver::Idle { name }, None) => {
            Finding::ok(CHECK, format!("{name} is loaded, and has no device to take"))
        }
        (Driver::Idle { name }, Some(device)) => {
            Finding::problem(CHECK, format!("{name} is loaded, but has not taken {}", device.name))
                .todo("see why in the kernel's log: `dmesg | grep -i vmclock`; then report it to whoever runs the host")
        }
        (Driver::Absent, _) => {
            let (found, todo) = why_absent(machine, kernel);
            Finding::missing(CHECK, found).maybe_todo(todo.filter(|_| device.is_some()))
        }
    }
}

/// Why the driver is not there, and what to do where that is not just another kernel, which the kernel's finding says.
fn why_absent(machine: &Machine, kernel: &Kernel) -> (String, Option<String>) {
    let release = kernel.release.name();
    let load = "`modprobe ptp_vmclock`; for every boot: `echo ptp_vmclock > /etc/modules-load.d/vmclock.conf`";
    match kernel.option {
        Setting::Module => {
            let modules = format!("/lib/modules/{release}");
            let listed = machine.text(&format!("{modules}/modules.dep")).map(|list| list.contains("/ptp_vmclock.ko"));
            match listed {
                Some(true) => ("the module ptp_vmclock is there, but not loaded".into(), Some(load.into())),
                Some(false) => (
                    format!("the module ptp_vmclock is not loaded, and not in {modules}"),
                    Some(format!(
                        "install the rest of this kernel's modules (linux-modules-extra-{release} on Ubuntu, \
                         kernel-modules-extra on Fedora); then {load}"
                    )),
                ),
                None => (
                    format!("the module ptp_vmclock is not loaded; {modules} is not to be seen here"),
                    Some(format!("on the machine itself, where this is a container: {load}")),
                ),
            }
        }
        Setting::BuiltIn => (
            "it is built into the kernel, but did not register".into(),
            Some("see why in the kernel's log: `dmesg | grep -i vmclock`".into()),
        ),
        Setting::Off | Setting::NotMentioned => ("none: this kernel was built without it".into(), None),
        Setting::Unknown => (
            "not loaded".into(),
            Some(format!("try {load}; if there is no such module: boot a kernel of Linux 6.13 or later with {OPTION}")),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(text: &str) -> Release {
        Release(Some(text.into()))
    }

    #[test]
    fn releases_are_read_as_vendors_write_them() {
        assert_eq!(release("6.18.44-fc-v657").numbers(), Some((6, 18, 44)));
        assert_eq!(release("7.2-rc1").numbers(), Some((7, 2, 0)));
        assert_eq!(release("6.1.0-28-cloud-amd64").numbers(), Some((6, 1, 0)));
        assert_eq!(release("6.12.0+bpo").numbers(), Some((6, 12, 0)));
        assert_eq!(release("linux").numbers(), None);
        assert!(release("6.12.9").is_before(6, 13) && !release("6.13").is_before(6, 13));
        assert!(!release("7.0.1").is_before(6, 13) && !release("custom").is_before(6, 13));
    }

    #[test]
    fn releases_before_the_fix_let_readers_write() {
        for bad in ["6.18.46", "6.13.1", "6.19.9", "7.0.30", "7.1.10", "7.2.0"] {
            assert!(release(bad).lets_readers_write(), "{bad}");
        }
        for good in ["6.18.47", "7.1.11-cloud", "7.2.1", "7.3.0", "8.0", "6.12.80", "custom"] {
            assert!(!release(good).lets_readers_write(), "{good}");
        }
    }

    #[test]
    fn an_option_is_found_by_its_whole_name() {
        let configuration = "CONFIG_PTP_1588_CLOCK_VMCLOCK_MORE=y\n# CONFIG_B is not set\nCONFIG_C=m\nCONFIG_D=y\n";
        assert_eq!(setting(configuration, OPTION), Setting::NotMentioned);
        assert_eq!(setting(configuration, "CONFIG_B"), Setting::Off);
        assert_eq!(setting(configuration, "CONFIG_C"), Setting::Module);
        assert_eq!(setting(configuration, "CONFIG_D"), Setting::BuiltIn);
    }
}
