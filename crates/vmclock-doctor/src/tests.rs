// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whole machines, made of files in a folder.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use vmclock::{ClockStatus, CounterId, Snapshot, TimeType};
use vmclock_core::abi::Flags;
use vmclock_core::calibration::Period;
use vmclock_core::counter;

use super::*;

const OPTION: &str = "CONFIG_PTP_1588_CLOCK_VMCLOCK";
const ACPI: &str = "sys/bus/acpi/devices/AMZNC10C:00";

/// A machine that is taken down with the test.
struct FakeMachine {
    root: tempfile::TempDir,
    ptp_nanos: fn(&File) -> io::Result<i128>,
}

impl FakeMachine {
    /// A virtual machine without a VMClock.
    fn new() -> Self {
        let machine = Self { root: tempfile::tempdir().unwrap(), ptp_nanos: |_| panic!("no PTP clock was expected") };
        machine
            .file("proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu tsc hypervisor constant_tsc\n")
            .file("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n")
            .file("sys/devices/system/clocksource/clocksource0/available_clocksource", "tsc kvm-clock \n")
            .kernel("6.18.44-fc-v657")
    }

    fn path(&self, path: &str) -> PathBuf {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn file(self, path: &str, contents: impl AsRef<[u8]>) -> Self {
        fs::write(self.path(path), contents).unwrap();
        self
    }

    fn link(self, path: &str, target: &str) -> Self {
        symlink(target, self.path(path)).unwrap();
        self
    }

    fn kernel(self, release: &str) -> Self {
        self.file("proc/sys/kernel/osrelease", format!("{release}\n"))
    }

    fn config_gz(self, lines: &str) -> Self {
        let file = File::create(self.path("proc/config.gz")).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        gzip.write_all(lines.as_bytes()).unwrap();
        gzip.finish().unwrap();
        self
    }

    fn acpi_device(self) -> Self {
        self.file(&format!("{ACPI}/path"), "\\_SB_.VCLK\n")
            .file(&format!("{ACPI}/status"), "15\n")
            .file(&format!("{ACPI}/hid"), "AMZNC10C\n")
            .file(
                "proc/iomem",
                "00001000-0009fbff : System RAM\n0009fc00-000fffff : Reserved\n  000de000-000defff : AMZNC10C:00\n",
            )
    }

    /// The driver as a module that has taken the device, and what it makes of it but for the clocks.
    fn driver(self) -> Self {
        self.file("sys/bus/platform/drivers/vmclock/uevent", "")
            .file("sys/module/ptp_vmclock/initstate", "live\n")
            .link(&format!("{ACPI}/physical_node"), "../../../../devices/platform/AMZNC10C:00")
            .link("sys/devices/platform/AMZNC10C:00/driver", "../../../bus/platform/drivers/vmclock")
            .file("sys/class/misc/vmclock0/dev", "10:122\n")
    }

    fn device_node(self, page: &Snapshot, mode: u32) -> Self {
        let machine = self.file("dev/vmclock0", padded(page));
        fs::set_permissions(machine.path("dev/vmclock0"), fs::Permissions::from_mode(mode)).unwrap();
        machine
    }

    /// A PTP clock of the driver's, which shows what `nanos` says.
    fn ptp_clock(mut self, nanos: fn(&File) -> io::Result<i128>) -> Self {
        self.ptp_nanos = nanos;
        self.file("sys/class/ptp/ptp0/clock_name", "vmclock0\n").file("dev/ptp0", "")
    }

    fn process(self, id: u32, name: &str) -> Self {
        self.file(&format!("proc/{id}/comm"), format!("{name}\n"))
    }

    fn machine(&self) -> Machine {
        Machine::fake(self.root.path(), self.ptp_nanos)
    }

    fn examine(&self) -> Report {
        self.examine_page(&self.root.path().join("dev/vmclock0"))
    }

    fn examine_page(&self, page: &Path) -> Report {
        let report = examine(&self.machine(), page);
        println!("{}", report.to_text()); // shown where a test fails
        report
    }
}

impl Report {
    fn finding(&self, check: &str) -> &Finding {
        self.findings.iter().find(|finding| finding.check == check).unwrap_or_else(|| panic!("no finding {check}"))
    }

    fn state(&self, check: &str) -> State {
        self.finding(check).state
    }

    fn found(&self, check: &str) -> &str {
        &self.finding(check).found
    }

    fn todo(&self, check: &str) -> &str {
        self.finding(check).todo.as_deref().unwrap_or_default()
    }
}

fn padded(page: &Snapshot) -> Vec<u8> {
    let mut bytes = page.to_bytes().to_vec();
    bytes.resize(4096, 0);
    bytes
}

fn utc_nanos() -> i128 {
    i128::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

/// A page that gives this machine's own time, good to some milliseconds for as long as a test takes, shifted by some
/// seconds.
fn page_ahead_by(seconds: i64) -> Snapshot {
    let (since, ticks) = (Instant::now(), counter::read_ordered());
    std::thread::sleep(Duration::from_millis(20));
    let (elapsed, ticks) = (since.elapsed().as_nanos(), counter::read_ordered().wrapping_sub(ticks));
    let frequency = u64::try_from(u128::from(ticks) * 1_000_000_000 / elapsed).unwrap();
    let period = Period::from_frequency(frequency.try_into().unwrap());

    let nanos = utc_nanos() + i128::from(37 + seconds) * 1_000_000_000;
    Snapshot::BLANK.with(|page| {
        page.counter_id = counter::ID;
        page.time_type = TimeType::TAI;
        page.disruption_marker = 5;
        page.flags = Flags::TAI_OFFSET_VALID
            .with(Flags::TIME_MAXERROR_VALID)
            .with(Flags::PERIOD_MAXERROR_VALID)
            .with(Flags::VM_GEN_COUNTER_PRESENT);
        page.clock_status = ClockStatus::SYNCHRONIZED;
        page.tai_offset_sec = -37;
        page.counter_period_shift = period.shift();
        page.counter_value = counter::read_ordered();
        page.counter_period_frac_sec = period.frac();
        page.counter_period_maxerror_rate_frac_sec = period.error_rate(1_000_000_000);
        page.time_sec = u64::try_from(nanos / 1_000_000_000).unwrap();
        page.time_frac_sec = u64::try_from(((nanos % 1_000_000_000) << 64) / 1_000_000_000).unwrap();
        page.time_maxerror_nanosec = 50_000_000;
        page.vm_generation_counter = 7;
    })
}

/// Ticks a second, to some billionths.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn frequency(page: &Snapshot) -> u64 {
    (2f64.powi(64 + i32::from(page.counter_period_shift)) / page.counter_period_frac_sec as f64) as u64
}

fn good_page() -> Snapshot {
    page_ahead_by(0)
}

#[test]
fn a_machine_without_anything() {
    let report = FakeMachine::new().config_gz("CONFIG_MODULES=y\n").examine();
    assert_eq!(report.verdict, Verdict::Nothing);
    assert_eq!(report.state("device"), State::Missing);
    assert!(report.todo("device").contains("-device vmclock"));
    for check in ["kernel", "driver", "device node", "PTP clock", "page"] {
        assert_eq!(report.state(check), State::Missing, "{check}");
        assert_eq!(report.finding(check).todo, None, "{check}: without a device nothing is to be done about it");
    }
    assert_eq!(report.state("system clock"), State::Unknown);
    assert!(report.summary.ends_with("begin with the device"), "{}", report.summary);
}

#[test]
fn bare_metal() {
    let machine = FakeMachine::new().file("proc/cpuinfo", "flags\t\t: fpu tsc\n");
    let report = machine.file("sys/class/dmi/id/sys_vendor", "Dell Inc.\n").examine();
    assert_eq!(report.state("hypervisor"), State::Missing);
}

#[test]
fn a_device_and_a_kernel_that_has_neither_driver_nor_modules() {
    let machine = FakeMachine::new().acpi_device();
    let report = machine.config_gz(&format!("# CONFIG_MODULES is not set\n# {OPTION} is not set\n")).examine();
    assert_eq!(report.verdict, Verdict::Nothing);
    assert_eq!(report.state("device"), State::Ok);
    assert_eq!(report.found("device"), "AMZNC10C:00 in ACPI at \\_SB_.VCLK, status 15, 4096 bytes at 0xde000-0xdefff");
    assert_eq!(report.state("kernel"), State::Missing);
    assert_eq!(report.found("kernel"), format!("6.18.44-fc-v657, {OPTION} is not set (/proc/config.gz)"));
    assert!(report.todo("kernel").contains(&format!("6.13 or later with {OPTION}=y (")), "{}", report.todo("kernel"));
    assert_eq!(report.found("driver"), "none: this kernel was built without it");
    assert_eq!(report.finding("device node").todo, None);
    assert!(report.summary.ends_with("begin with the kernel"), "{}", report.summary);
}

#[test]
fn a_kernel_from_before_the_driver() {
    let machine = FakeMachine::new().acpi_device().kernel("6.1.0-28-amd64");
    let report = machine.file("boot/config-6.1.0-28-amd64", "CONFIG_MODULES=y\n").examine();
    assert_eq!(report.state("kernel"), State::Missing);
    assert!(report.found("kernel").contains("Linux has it since 6.13"), "{}", report.found("kernel"));
    assert!(report.todo("kernel").contains("=m or =y"));
}

#[test]
fn a_kernel_of_which_nothing_is_known() {
    let report = FakeMachine::new().acpi_device().examine();
    assert_eq!(report.state("kernel"), State::Unknown);
    assert_eq!(report.state("driver"), State::Missing);
    assert!(report.todo("driver").contains("modprobe ptp_vmclock"));
    assert!(report.summary.ends_with("begin with the driver"), "{}", report.summary);
}

#[test]
fn a_damaged_configuration_counts_as_none() {
    let report = FakeMachine::new().acpi_device().file("proc/config.gz", "not gzip").examine();
    assert_eq!(report.state("kernel"), State::Unknown);
}

#[test]
fn a_module_that_is_not_loaded() {
    let machine = FakeMachine::new().acpi_device().config_gz(&format!("CONFIG_MODULES=y\n{OPTION}=m\n"));
    let machine = machine.file("lib/modules/6.18.44-fc-v657/modules.dep", "kernel/drivers/ptp/ptp_vmclock.ko.xz:\n");
    let report = machine.examine();
    assert_eq!((report.state("kernel"), report.state("driver")), (State::Ok, State::Missing));
    assert_eq!(report.found("driver"), "the module ptp_vmclock is there, but not loaded");
    assert!(report.todo("driver").starts_with("`modprobe ptp_vmclock`"));
    assert!(report.summary.ends_with("begin with the driver"), "{}", report.summary);

    let report = machine.file("lib/modules/6.18.44-fc-v657/modules.dep", "kernel/fs/ext4.ko:\n").examine();
    assert!(report.todo("driver").starts_with("install the rest of this kernel's modules"));
}

#[test]
fn module_lists_stand_in_for_a_configuration() {
    let list = |name: &str| format!("lib/modules/6.18.44-fc-v657/{name}");
    let module = FakeMachine::new().acpi_device();
    let report = module.file(&list("modules.dep"), "kernel/drivers/ptp/ptp_vmclock.ko: kernel/x.ko\n").examine();
    assert!(report.found("kernel").contains("=m (/lib/modules/6.18.44-fc-v657/modules.dep)"));
    assert_eq!(report.state("driver"), State::Missing);

    let built_in = FakeMachine::new().acpi_device();
    let report = built_in.file(&list("modules.builtin"), "kernel/drivers/ptp/ptp_vmclock.ko\n").examine();
    assert!(report.found("kernel").contains("=y"));
    assert!(report.todo("driver").contains("dmesg"));
}

#[test]
fn a_driver_that_does_not_take_the_device() {
    let machine = FakeMachine::new().acpi_device().file("sys/bus/platform/drivers/vmclock/uevent", "");
    let report = machine.examine();
    assert_eq!(report.state("driver"), State::Problem);
    assert!(report.todo("driver").contains("dmesg"));
}

#[test]
fn a_device_that_the_firmware_switched_off() {
    let report = FakeMachine::new().acpi_device().file(&format!("{ACPI}/status"), "0\n").examine();
    assert_eq!(report.state("device"), State::Problem);
    assert!(report.found("device").contains("switched off"));
}

#[test]
fn a_device_by_its_compatible_id_only() {
    let machine = FakeMachine::new().file("sys/bus/acpi/devices/QEMUVCLK:00/modalias", "acpi:QEMUVCLK:VMCLOCK:\n");
    let report = machine.file("sys/bus/acpi/devices/QEMUVCLK:00/hid", "QEMUVCLK\n").examine();
    assert_eq!(report.found("device"), "QEMUVCLK:00 in ACPI");
}

#[test]
fn addresses_that_the_kernel_hides_are_not_shown() {
    let machine = FakeMachine::new().acpi_device().file("proc/iomem", "00000000-00000000 : AMZNC10C:00\n");
    assert_eq!(machine.examine().found("device"), "AMZNC10C:00 in ACPI at \\_SB_.VCLK, status 15");
}

#[test]
fn a_region_smaller_than_a_page() {
    let machine = FakeMachine::new().acpi_device().driver();
    fs::remove_dir_all(machine.path("sys/class/misc")).unwrap();
    let mut large_pages = machine.machine();
    large_pages.page_size = 65536;
    let report = examine(&large_pages, &machine.path("dev/vmclock0"));
    assert_eq!(report.state("device"), State::Problem);
    assert!(report.found("device").contains("4096 bytes, a page of this kernel 65536"), "{}", report.found("device"));
    assert_eq!(report.state("device node"), State::Missing);
    assert!(report.found("device node").contains("although vmclock has taken AMZNC10C:00"));
}

#[test]
fn a_container_without_the_node() {
    let report = FakeMachine::new().acpi_device().driver().examine();
    assert_eq!(report.state("device node"), State::Missing);
    assert!(report.todo("device node").contains("--device /dev/vmclock0"));
    assert!(report.summary.ends_with("begin with the device node"), "{}", report.summary);
}

#[test]
fn a_node_for_root_only() {
    let machine = FakeMachine::new().acpi_device().driver().device_node(&good_page(), 0o600);
    let report = machine.examine();
    // Root may read it all the same, and gets the advice for the sake of the others.
    if rustix::process::geteuid().is_root() {
        assert_eq!((report.state("device node"), report.verdict), (State::Ok, Verdict::Time));
    } else {
        assert_eq!((report.state("device node"), report.state("page")), (State::Ok, State::Ok));
        // its owner
    }
    assert!(report.found("device node").contains("mode 0600"));
    assert!(report.todo("device node").contains("udev"));

    fs::set_permissions(machine.path("dev/vmclock0"), fs::Permissions::from_mode(0o000)).unwrap();
    if !rustix::process::geteuid().is_root() {
        let report = machine.examine();
        assert_eq!((report.state("device node"), report.state("page")), (State::Problem, State::Problem));
        assert_eq!(report.verdict, Verdict::Nothing);
        assert!(report.summary.ends_with("begin with the device node"), "{}", report.summary);
    }
}

#[test]
fn everything_fine() {
    let report = FakeMachine::new()
        .acpi_device()
        .driver()
        .kernel("7.2.3")
        .config_gz(&format!("CONFIG_MODULES=y\n{OPTION}=m\n"))
        .device_node(&good_page(), 0o444)
        .ptp_clock(|_| Ok(utc_nanos() + 37_000_000_000))
        .process(312, "chronyd")
        .file("etc/chrony/chrony.conf", "leapsectz right/UTC\nrefclock PHC /dev/ptp0 poll 2 dpoll -2 tai\n")
        .examine();
    assert_eq!(report.verdict, Verdict::Time);
    for finding in &report.findings {
        // The node is a plain file in this machine, and cannot notify.
        let expected = if finding.check == "notification" { State::Missing } else { State::Ok };
        assert_eq!((finding.state, finding.todo.as_deref()), (expected, None), "{}", finding.check);
    }
    assert!(report.found("PTP clock").contains("runs TAI, by comparison with the page"));
    assert!(report.found("system clock").starts_with("CLOCK_REALTIME agrees with the page ("));
    assert!(report.found("time daemon").ends_with("on the right scale"));
    assert!(report.found("time").contains("TAI-UTC = +37 s"));
    assert!(report.found("generation").starts_with("0x0000000000000007, marker 0x0000000000000005"));
}

#[test]
fn a_ptp_clock_on_utc_that_chrony_takes_for_tai() {
    let machine = FakeMachine::new()
        .acpi_device()
        .driver()
        .device_node(&good_page(), 0o444)
        .ptp_clock(|_| Ok(utc_nanos()))
        .process(312, "chronyd")
        .link("dev/ptp_vmclock", "ptp0")
        .file("etc/chrony.d/ptp.conf", "refclock PHC /dev/ptp_vmclock tai\n");
    let report = machine.examine();
    assert!(report.found("PTP clock").contains("runs UTC"));
    assert_eq!(report.state("time daemon"), State::Problem);
    assert!(report.found("time daemon").contains("but it runs UTC"), "{}", report.found("time daemon"));

    let report = machine.file("etc/chrony.d/ptp.conf", "").examine();
    assert_eq!(report.state("time daemon"), State::Ok);
    assert!(report.todo("time daemon").contains("`refclock PHC /dev/ptp0 poll 2 dpoll -2`"));
}

#[test]
fn a_ptp_clock_without_a_page_is_compared_with_the_system_clock() {
    let machine = FakeMachine::new().acpi_device().driver().ptp_clock(|_| Ok(utc_nanos() + 37_000_000_000));
    let report = machine.examine();
    assert!(report.found("PTP clock").contains("runs TAI, by comparison with CLOCK_REALTIME"));
    assert!(report.todo("time daemon").contains("tai` and `leapsectz right/UTC`"));

    let report = FakeMachine::new().driver().ptp_clock(|_| Ok(1_000_000_000)).examine();
    assert_eq!(report.state("PTP clock"), State::Problem);
    assert!(report.found("PTP clock").contains(" h behind CLOCK_REALTIME"), "{}", report.found("PTP clock"));
}

#[test]
fn a_ptp_clock_that_refuses() {
    let machine = FakeMachine::new().acpi_device().driver();
    let report = machine.ptp_clock(|_| Err(io::ErrorKind::PermissionDenied.into())).examine();
    assert_eq!(report.state("PTP clock"), State::Problem);
    assert!(report.found("PTP clock").contains("you may not read it"));

    let report =
        FakeMachine::new().acpi_device().driver().ptp_clock(|_| Err(io::ErrorKind::InvalidInput.into())).examine();
    assert!(report.found("PTP clock").contains("cannot be read"));
    assert!(report.todo("PTP clock").contains("unreliable"));
}

#[test]
fn another_ptp_clock_is_mentioned() {
    let machine = FakeMachine::new().file("sys/class/ptp/ptp0/clock_name", "KVM virtual PTP\n");
    let report = machine.examine();
    assert_eq!(report.state("PTP clock"), State::Missing);
    assert!(report.found("PTP clock").ends_with("there is /dev/ptp0 (KVM virtual PTP)"));
}

#[test]
fn events_without_time() {
    let page = Snapshot::BLANK.with(|page| page.disruption_marker = 9);
    let report = FakeMachine::new().acpi_device().driver().device_node(&page, 0o444).examine();
    assert_eq!(report.verdict, Verdict::EventsOnly);
    assert_eq!(report.state("page"), State::Ok, "that it gives no time is said once, by the time's finding");
    assert_eq!(report.state("time"), State::Missing);
    assert!(report.found("time").contains("it has no counter"));
    assert_eq!((report.state("bounds"), report.state("generation")), (State::Missing, State::Missing));
    assert!(report.found("generation").contains("only the marker 0x0000000000000009"));
    assert_eq!(report.state("system clock"), State::Unknown);
}

#[test]
fn a_page_too_short_for_events() {
    let page = Snapshot::BLANK.with(|page| page.size = 0x10);
    let report = FakeMachine::new().device_node(&page, 0o444).examine();
    assert_eq!(report.verdict, Verdict::Nothing);
}

#[test]
fn what_is_odd_is_said_once() {
    let page = good_page().with(|page| {
        page.tai_offset_sec = 37;
        page.flags = good_page().flags.without(Flags::TIME_MAXERROR_VALID);
    });
    let report = FakeMachine::new().acpi_device().driver().device_node(&page, 0o444).examine();
    assert_eq!(report.verdict, Verdict::Time);
    assert_eq!(report.state("page"), State::Problem);
    assert!(report.found("page").ends_with("warnings: tai_offset_sec is +37, the wrong sign; taken as -37"));
    assert_eq!(report.state("bounds"), State::Missing);
    assert!(report.found("system clock").contains("the page has no bounds"));
}

#[test]
fn a_page_without_utc() {
    let page = good_page().with(|page| page.flags = Flags::NONE);
    let report = FakeMachine::new().acpi_device().driver().device_node(&page, 0o444).examine();
    assert_eq!((report.verdict, report.state("time")), (Verdict::Time, State::Problem));
    assert!(report.found("time").ends_with("no UTC, as the page has no valid TAI-UTC"), "{}", report.found("time"));
    assert_eq!(report.found("system clock"), "the page gives no UTC to compare CLOCK_REALTIME with");
}

#[test]
fn a_utc_page_without_tai() {
    let page = page_ahead_by(-37).with(|page| {
        page.flags = Flags::NONE;
        page.time_type = TimeType::UTC;
    });
    let report = FakeMachine::new().device_node(&page, 0o444).examine();
    assert_eq!((report.state("time"), report.state("system clock")), (State::Ok, State::Ok));
    assert!(report.todo("time").contains("--tai-offset"));
}

#[test]
fn a_page_in_a_file_that_nobody_refreshes() {
    let page = good_page();
    let hour = 3_600 * frequency(&page);
    let page = page.with(|next| {
        next.counter_value = page.counter_value.wrapping_sub(hour);
        next.time_sec = page.time_sec - 3_600;
    });
    let report = FakeMachine::new().device_node(&page, 0o444).examine();
    assert_eq!((report.verdict, report.state("page")), (Verdict::Time, State::Problem));
    assert!(report.found("page").contains("its publisher seems to be gone"), "{}", report.found("page"));
}

#[test]
fn a_restored_machine_whose_clock_nobody_stepped() {
    let machine = FakeMachine::new().acpi_device().driver().device_node(&page_ahead_by(3 * 86_400), 0o444);
    let report = machine.examine();
    assert_eq!((report.verdict, report.state("system clock")), (Verdict::Time, State::Problem));
    assert!(report.found("system clock").contains("restored from a snapshot"));
    assert!(report.todo("system clock").contains("date -u -s"));

    let report = machine.process(77, "chronyd").examine();
    assert_eq!(report.todo("system clock"), "`chronyc makestep`");
    let report = FakeMachine::new().process(5, "systemd-timesyn").device_node(&page_ahead_by(60), 0o444).examine();
    assert_eq!(report.todo("system clock"), "`systemctl restart systemd-timesyncd`");
}

#[test]
fn a_page_that_calls_tai_utc() {
    let page = good_page().with(|page| page.time_type = TimeType::UTC);
    let report = FakeMachine::new().device_node(&page, 0o444).examine();
    assert_eq!(report.state("system clock"), State::Problem);
    assert!(report.found("system clock").contains("on the other scale"), "{}", report.found("system clock"));
}

#[test]
fn a_page_for_another_cpu() {
    let other = if counter::ID == CounterId::X86_TSC { CounterId::ARM_CNTVCT } else { CounterId::X86_TSC };
    let page = good_page().with(|page| page.counter_id = other);
    let report = FakeMachine::new().device_node(&page, 0o444).examine();
    assert_eq!((report.verdict, report.state("time")), (Verdict::EventsOnly, State::Missing));
}

#[test]
fn a_device_tree() {
    let node = "sys/firmware/devicetree/base/soc/ptp@80000000";
    let machine = FakeMachine::new().kernel("6.19.2").config_gz(&format!("CONFIG_MODULES=y\n# {OPTION} is not set\n"));
    let machine = machine.file(&format!("{node}/compatible"), "amazon,vmclock\0");
    let report = machine.examine();
    assert_eq!(report.state("device"), State::Ok);
    assert_eq!(report.found("device"), "/soc/ptp@80000000 in the device tree (amazon,vmclock)");
    assert!(report.todo("kernel").contains("Linux 7.0"), "{}", report.todo("kernel"));

    let machine = machine.file(&format!("{node}/status"), "disabled\0");
    assert_eq!(machine.examine().state("device"), State::Problem);
}

#[test]
fn a_device_tree_node_with_its_driver() {
    let report = FakeMachine::new()
        .kernel("7.2.3")
        .file("sys/firmware/devicetree/base/ptp@80000000/compatible", "amazon,vmclock\0")
        .link("sys/bus/platform/devices/80000000.ptp/of_node", "../../../../firmware/devicetree/base/ptp@80000000")
        .file("sys/bus/platform/drivers/vmclock/uevent", "")
        .link("sys/bus/platform/devices/80000000.ptp/driver", "../../drivers/vmclock")
        .device_node(&good_page(), 0o444)
        .examine();
    assert_eq!(report.found("device"), "80000000.ptp in the device tree (amazon,vmclock)");
    assert_eq!(report.found("driver"), "vmclock has taken 80000000.ptp");
    assert_eq!(report.verdict, Verdict::Time);
}

#[test]
fn a_page_in_a_file_beside_a_machine_without_a_driver() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page");
    fs::write(&page, padded(&good_page())).unwrap();
    let machine = FakeMachine::new().acpi_device().config_gz(&format!("# {OPTION} is not set\n"));
    let report = machine.examine_page(&page);
    assert_eq!(report.verdict, Verdict::Time);
    assert_eq!((report.state("kernel"), report.state("page")), (State::Missing, State::Ok));
    assert!(report.found("notification").contains("a plain file cannot notify"));

    fs::write(&page, padded(&good_page().with(|page| page.clock_status = ClockStatus::UNRELIABLE))).unwrap();
    let report = machine.examine_page(&page);
    assert_eq!(report.verdict, Verdict::EventsOnly);
    assert!(report.todo("time").contains("vmclock serve --page"), "{}", report.todo("time"));

    let report = machine.examine_page(&folder.path().join("absent"));
    assert_eq!(report.verdict, Verdict::Nothing);
    assert!(report.todo("page").contains("vmclock serve --page"));
    assert!(report.summary.ends_with("begin with the page"), "{}", report.summary);
}

#[test]
fn what_is_not_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page");
    fs::write(&page, [0xff; 4096]).unwrap();
    let machine = FakeMachine::new();
    assert_eq!(machine.examine_page(&page).state("page"), State::Problem);
    let report = machine.examine_page(folder.path());
    assert_eq!((report.verdict, report.state("page")), (Verdict::Nothing, State::Problem));
    assert!(report.found("page").ends_with("is a directory"));
}

#[test]
fn text_and_json_say_the_same() {
    let report = FakeMachine::new().acpi_device().config_gz(&format!("# {OPTION} is not set\n")).examine();
    let text = report.to_text();
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["verdict"], "nothing");
    for (finding, json) in report.findings.iter().zip(json["findings"].as_array().unwrap()) {
        assert_eq!(json["check"], finding.check);
        assert!(["ok", "missing", "problem", "unknown"].contains(&json["state"].as_str().unwrap()));
        assert!(text.contains(json["found"].as_str().unwrap()));
        assert_eq!(json["todo"].as_str(), finding.todo.as_deref());
        assert!(finding.todo.as_ref().is_none_or(|todo| text.contains(&format!("  do: {todo}\n"))));
    }
    assert!(text.ends_with(&format!("\n\nverdict: {}\n", report.summary)));
}
