// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock doctor` on the machine that the test runs on, whatever that has.
//!
//! What the findings must say is worked out from what the test itself sees in `/sys`, so it holds on any Linux machine:
//! without a VMClock, with one but no driver, and with everything.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use vmclock::{ClockStatus, Snapshot, TimeType, VmClock, DEVICE_PATH};
use vmclock_core::abi::Flags;
use vmclock_core::calibration::Period;
use vmclock_core::counter;

const CHECKS: [&str; 9] = [
    "hypervisor",
    "device",
    "kernel",
    "driver",
    "device node",
    "PTP clock",
    "system clock",
    "clocksource",
    "time daemon",
];

fn doctor(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vmclock")).arg("doctor").args(arguments).output().unwrap()
}

/// The report, after a check of all that every report has.
fn report(arguments: &[&str]) -> Value {
    let output = doctor(&[arguments, &["--json"]].concat());
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let status = match report["verdict"].as_str() {
        Some("time") => 0,
        Some("events-only") => 3,
        Some("nothing") => 1,
        other => panic!("verdict {other:?}"),
    };
    assert_eq!(output.status.code(), Some(status));
    for check in CHECKS {
        finding(&report, check);
    }
    for finding in report["findings"].as_array().unwrap() {
        let state = finding["state"].as_str().unwrap();
        assert!(["ok", "missing", "problem", "unknown"].contains(&state), "{finding}");
        assert!(!finding["found"].as_str().unwrap().is_empty(), "{finding}");
        assert!(finding["todo"].is_null() || finding["todo"].is_string(), "{finding}");
    }
    report
}

fn finding<'a>(report: &'a Value, check: &str) -> &'a Value {
    let findings = report["findings"].as_array().unwrap();
    findings.iter().find(|finding| finding["check"] == check).unwrap_or_else(|| panic!("no {check} in {report}"))
}

fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The machine's VMClock in ACPI.
fn acpi_device() -> Option<String> {
    names("/sys/bus/acpi/devices").into_iter().find(|name| name.starts_with("AMZNC10C"))
}

/// Whether there is any other way in which the machine may have one.
fn device_may_be_elsewhere() -> bool {
    let by_compatible_id = names("/sys/bus/acpi/devices").iter().any(|name| {
        let modalias = fs::read_to_string(format!("/sys/bus/acpi/devices/{name}/modalias"));
        modalias.is_ok_and(|modalias| modalias.contains("VMCLOCK"))
    });
    by_compatible_id || Path::new("/sys/firmware/devicetree/base").exists()
}

fn has_driver() -> bool {
    names("/sys/bus/platform/drivers").iter().any(|name| name.contains("vmclock"))
        || Path::new("/sys/module/ptp_vmclock").exists()
}

#[test]
fn the_findings_are_what_this_machine_shows() {
    let report = report(&[]);
    assert_eq!(report["page"], DEVICE_PATH);
    let state = |check| finding(&report, check)["state"].as_str().unwrap();
    let found = |check| finding(&report, check)["found"].as_str().unwrap();

    let device = acpi_device();
    if let Some(name) = &device {
        assert!(["ok", "problem"].contains(&state("device")), "{report}");
        assert!(found("device").starts_with(name.as_str()), "{report}");
        if let Ok(path) = fs::read_to_string(format!("/sys/bus/acpi/devices/{name}/path")) {
            assert!(found("device").contains(path.trim()), "{report}");
        }
    } else if !device_may_be_elsewhere() {
        assert_eq!(state("device"), "missing", "{report}");
        assert!(finding(&report, "device")["todo"].is_string(), "{report}");
    }

    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert!(found("kernel").starts_with(release.trim()), "{report}");

    if has_driver() {
        assert_ne!(state("driver"), "missing", "{report}");
    } else {
        assert_eq!(state("driver"), "missing", "{report}");
    }
    if device.is_some() && !has_driver() {
        // Something is to be done, and it is about the kernel or its driver.
        assert!(["kernel", "driver"].iter().any(|check| finding(&report, check)["todo"].is_string()), "{report}");
    }

    let nodes = names("/dev").iter().any(|name| name.starts_with("vmclock"));
    assert_eq!(state("device node") == "missing", !nodes, "{report}");
    if let Ok(clock) = VmClock::open() {
        assert_eq!(report["verdict"] == "time", clock.now().is_ok(), "{report}");
    } else {
        assert_eq!(report["verdict"], "nothing");
        assert_eq!(state("system clock"), "unknown", "{report}");
    }
}

#[test]
fn a_device_without_a_driver_is_said_to_be_just_that() {
    if acpi_device().is_none() || has_driver() || Path::new(DEVICE_PATH).exists() {
        return; // this machine has another case
    }
    let report = report(&[]);
    let state = |check| finding(&report, check)["state"].as_str().unwrap();
    assert_eq!(state("device"), "ok", "{report}");
    for check in ["driver", "device node", "PTP clock", "page"] {
        assert_eq!(state(check), "missing", "{report}");
    }
    assert_eq!(report["verdict"], "nothing");
    let summary = report["summary"].as_str().unwrap();
    assert!(summary.ends_with("begin with the kernel") || summary.ends_with("begin with the driver"), "{summary}");
}

#[test]
fn people_read_the_same_in_lines() {
    let report = report(&[]);
    let output = doctor(&[]);
    assert_eq!(output.status.code() == Some(0), report["verdict"] == "time");
    let text = String::from_utf8(output.stdout).unwrap();
    for finding in report["findings"].as_array().unwrap() {
        let mark = match finding["state"].as_str().unwrap() {
            "ok" => "ok  ",
            "missing" => "--  ",
            "problem" => "!!  ",
            _ => "??  ",
        };
        let start = format!("{mark}{} ", finding["check"].as_str().unwrap());
        assert!(text.lines().any(|line| line.starts_with(&start)), "{start:?} in {text}");
        if let Some(todo) = finding["todo"].as_str() {
            assert!(text.contains(&format!("  do: {todo}\n")), "{text}");
        }
    }
    assert_eq!(text.lines().last(), Some(format!("verdict: {}", report["summary"].as_str().unwrap()).as_str()));
}

#[test]
fn a_page_in_a_file_is_judged_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("page");
    let page = page();

    let report_of = |contents: &[u8]| {
        fs::write(&path, contents).unwrap();
        report(&["--page", path.to_str().unwrap()])
    };
    let good = report_of(&padded(&page));
    assert_eq!((&good["verdict"], &good["page"]), (&"time".into(), &path.to_str().unwrap().into()));
    for check in ["page", "time", "bounds", "generation", "system clock"] {
        assert_eq!(finding(&good, check)["state"], "ok", "{good}");
    }
    // What the machine has does not change by that.
    let machine = report(&[]);
    for check in ["hypervisor", "device", "kernel", "driver", "device node"] {
        assert_eq!(finding(&good, check), finding(&machine, check));
    }

    let unreliable = report_of(&padded(&page.with(|page| page.clock_status = ClockStatus::UNRELIABLE)));
    assert_eq!(unreliable["verdict"], "events-only");
    assert!(finding(&unreliable, "time")["todo"].as_str().unwrap().contains("vmclock serve"));

    let behind = report_of(&padded(&page.with(|next| next.time_sec = page.time_sec + 7_200)));
    assert_eq!((&behind["verdict"], &finding(&behind, "system clock")["state"]), (&"time".into(), &"problem".into()));

    let broken = report_of(b"VCLK");
    assert_eq!((&broken["verdict"], &finding(&broken, "page")["state"]), (&"nothing".into(), &"problem".into()));

    fs::remove_file(&path).unwrap();
    let absent = report(&["--page", path.to_str().unwrap()]);
    assert_eq!((&absent["verdict"], &finding(&absent, "page")["state"]), (&"nothing".into(), &"missing".into()));
}

#[test]
fn a_page_that_one_may_not_read() {
    let Some((folder, program)) = for_nobody() else {
        return; // only root can become somebody else
    };
    let page_path = folder.path().join("page");
    fs::write(&page_path, padded(&page())).unwrap();
    let doctor = || {
        let mut command = Command::new(&program);
        let output =
            command.args(["doctor", "--json", "--page"]).arg(&page_path).uid(65_534).gid(65_534).output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), report)
    };
    fs::set_permissions(&page_path, fs::Permissions::from_mode(0o600)).unwrap();
    let (status, report) = doctor();
    assert_eq!((status, &finding(&report, "page")["state"]), (Some(1), &"problem".into()), "{report}");
    assert!(finding(&report, "page")["todo"].as_str().unwrap().contains("chmod a+r"), "{report}");

    fs::set_permissions(&page_path, fs::Permissions::from_mode(0o644)).unwrap();
    let (status, report) = doctor();
    assert_eq!((status, &report["verdict"]), (Some(0), &"time".into()), "{report}");
}

/// A folder that everyone may enter, with the program in it; `None` for all but root.
fn for_nobody() -> Option<(tempfile::TempDir, PathBuf)> {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(folder.path(), Some(0), None).ok()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("vmclock");
    fs::copy(env!("CARGO_BIN_EXE_vmclock"), &program).unwrap();
    Some((folder, program))
}

fn padded(page: &Snapshot) -> Vec<u8> {
    let mut bytes = page.to_bytes().to_vec();
    bytes.resize(4096, 0);
    bytes
}

/// A page that gives this machine's own time, good to some milliseconds for as long as a test takes.
fn page() -> Snapshot {
    let (since, ticks) = (Instant::now(), counter::read_ordered());
    std::thread::sleep(Duration::from_millis(20));
    let (elapsed, ticks) = (since.elapsed().as_nanos(), counter::read_ordered().wrapping_sub(ticks));
    let frequency = u64::try_from(u128::from(ticks) * 1_000_000_000 / elapsed).unwrap();
    let period = Period::from_frequency(frequency.try_into().unwrap());

    let tai = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(37);
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
        page.time_sec = tai.as_secs();
        page.time_frac_sec = u64::try_from((u128::from(tai.subsec_nanos()) << 64) / 1_000_000_000).unwrap();
        page.time_maxerror_nanosec = 50_000_000;
        page.vm_generation_counter = 7;
    })
}
