// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is checked, in scenarios: each boots a machine, and has a list of checks for it.

mod agent;
mod arm64;
mod attach;
mod chrony;
mod drivers;
mod feed;
mod hostile;
mod judge;
mod life;
mod live;
mod nested;
mod notify;
mod other;
mod served;
mod watched;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::arm::Arm;
use crate::machine::Kernel;
use crate::report::{Job, Report};
use crate::{Lab, Tools};

/// Since 2017; and what the page must say, with the other sign.
pub(crate) const TAI_MINUS_UTC: i64 = 37;

/// How often it is tried to do something quickly enough: a guest that is put off meanwhile takes longer, and that is no
/// defect.
const ATTEMPTS: usize = 10;

/// A machine and the checks for it.
type Scenario = fn(&Lab, &Kernel, &mut Report);

/// A check that boots its own machine, and gives its figures.
type Check = fn(&Lab, &Kernel) -> Result<String>;

/// In the order of their worth.
const SCENARIOS: [(&str, Scenario); 4] =
    [("live", live::run), ("life", life::run), ("no-notify", notify::run_without), ("attach", attach::run)];

/// The same with programs of the host's.
type CheckWith = fn(&Lab, &Kernel, &Tools) -> Result<String>;

const RESTORED: &str = "agent-restored";
/// The guest agent's, the longest first.
const OF_THE_AGENT: [(&str, CheckWith); 13] = [
    ("beside-others", |lab, kernel, tools| agent::beside_others(lab, kernel, &tools.chronyd)),
    ("kept-by-others", |lab, kernel, tools| agent::kept_by_others(lab, kernel, &tools.chronyd)),
    ("agent-steady", |lab, kernel, _| agent::discipline(lab, kernel)),
    ("agent-resumed", |lab, kernel, _| agent::resumed(lab, kernel, lab.restores)),
    ("fed-chronyd", |lab, kernel, tools| agent::fed(lab, kernel, agent::Fed::Chronyd, &tools.chronyd)),
    ("fed-ntpd-rs", |lab, kernel, tools| agent::fed(lab, kernel, agent::Fed::NtpdRs, &tools.ntp_daemon)),
    (RESTORED, |lab, kernel, _| agent::restores(lab, kernel, lab.restores)),
    ("agent-hostile", |lab, kernel, _| agent::hostile(lab, kernel)),
    ("agent-asks-chronyd", |lab, kernel, tools| agent::asked_chronyd(lab, kernel, &tools.chronyd)),
    ("agent-killed", |lab, kernel, _| agent::killed(lab, kernel)),
    ("agent-warm", |lab, kernel, _| agent::warm(lab, kernel, lab.restores)),
    ("agent-tells", |lab, kernel, _| agent::told(lab, kernel)),
    ("agent-bare", |lab, kernel, _| agent::bare(lab, kernel)),
];
/// They say nothing of what is right, and what they measure wants the machine for itself: only where they are named.
const FOR_FIGURES: [&str; 3] = ["beside-others", "kept-by-others", "agent-resumed"];

/// Runs what is wanted: all of it where nothing is named.
pub(crate) fn run(lab: &Lab, kernels: &[Kernel], tools: &Tools, only: &[String], report: &mut Report) {
    let wanted = |name: &str| is_wanted(name, only);
    if wanted("table") {
        report.check("table", || other::table(lab, &tools.iasl));
    }
    if wanted("chrony") {
        report.check("chrony", || chrony::run(lab, &tools.chronyd));
    }
    if wanted("feed") {
        report.check("feed", || feed::run(lab, tools));
    }
    let mut jobs = Vec::<Job>::new();
    for kernel in kernels {
        for (name, scenario) in SCENARIOS {
            let name = format!("{} {name}", kernel.version);
            if wanted(&name) {
                jobs.push(Box::new(move |report| scenario(lab, kernel, report)));
            }
        }
    }
    for (index, kernel) in kernels.iter().enumerate() {
        // On the other kernels the one that says most; all, where they are named with the kernel's version.
        let is_named = only.iter().any(|word| word.contains(kernel.version.as_str()));
        for (name, check) in OF_THE_AGENT {
            let full = format!("{} {name}", kernel.version);
            let is_usual = index == 0 && !(only.is_empty() && FOR_FIGURES.contains(&name)) || name == RESTORED;
            if (is_usual || is_named) && wanted(&full) {
                jobs.push(Box::new(move |report| {
                    report.check(&full, || check(lab, kernel, tools));
                }));
            }
        }
    }
    report.beside_one_another(cpus(), jobs);
    if let Some(kernel) = kernels.first() {
        let checks: [(&str, Check); 5] = [
            ("stock", other::stock),
            ("read-only", other::read_only),
            ("pc", other::pc),
            ("load", life::load),
            ("served", served::run),
        ];
        for (name, check) in checks {
            let name = format!("{} {name}", kernel.version);
            if wanted(&name) {
                report.check(&name, || check(lab, kernel));
            }
        }
    }
}

/// What is run where nothing is named: with both drivers on the first of some kernels, and they are compared ...
const ON_THE_FIRST: [&str; 6] = ["live", "life", "no-notify", "stock", DRIVERS, COST];
/// ... and with ours alone on the others: what depends on a kernel's interfaces. Only then is nothing said of costs.
const ON_THE_OTHERS: [&str; 2] = ["live", DRIVERS];
const DRIVERS: &str = "drivers";
const COST: &str = "drivers cost";

/// Kernels with Linux's own driver and with ours, and the two compared; on arm64 too, if there is one. Most of their
/// time guests wait for something to happen or not to happen: some are looked at beside one another, and only what
/// calls cost alone.
pub(crate) fn run_side_by_side(
    lab: &Lab,
    kernels: &[(Kernel, PathBuf)],
    arm: Option<&Arm>,
    only: &[String],
    report: &mut Report,
) {
    let (mut longest, mut others, mut costs) = (Vec::<Job>::new(), Vec::<Job>::new(), Vec::new());
    for (index, (kernel, driver)) in kernels.iter().enumerate() {
        let is_first = index == 0;
        let usual = if is_first { &ON_THE_FIRST[..] } else { &ON_THE_OTHERS[..] };
        let wanted = |kernel: &Kernel, name: &str| match only {
            [] => usual.contains(&name),
            words => is_wanted(&format!("{} {name}", kernel.version), words),
        };
        let ours =
            Kernel { version: format!("{}-rust", kernel.version), driver: Some(driver.clone()), ..kernel.clone() };
        if wanted(kernel, DRIVERS) {
            let ours = ours.clone();
            longest.push(Box::new(move |report| drivers::run(lab, kernel, &ours, report)));
        }
        if is_first && wanted(kernel, COST) {
            costs.push((kernel, ours.clone()));
        }
        for kernel in [kernel, &ours] {
            if only.is_empty() && !is_first && kernel.version != ours.version {
                continue;
            }
            for (name, scenario) in SCENARIOS {
                if wanted(kernel, name) {
                    let kernel = kernel.clone();
                    others.push(Box::new(move |report| scenario(lab, &kernel, report)));
                }
            }
            if wanted(kernel, "stock") {
                let kernel = kernel.clone();
                others.push(Box::new(move |report| {
                    report.check(&format!("{} stock", kernel.version), || other::stock(lab, &kernel));
                }));
            }
        }
    }
    if let Some(arm) = arm.filter(|_| is_wanted("arm64", only)) {
        longest.insert(0, Box::new(|report| arm64::run(lab, arm, report)));
    }
    longest.append(&mut others);
    // One more than there are CPUs, as one of them waits.
    report.beside_one_another(cpus() + 1, longest);
    for (kernel, ours) in costs {
        drivers::compare_costs(lab, kernel, &ours, report);
    }
}

/// Cross timestamps where the system's clock is KVM's: one kernel, both drivers.
pub(crate) fn run_nested(lab: &Lab, kernels: &[(Kernel, PathBuf)], root: &Path, report: &mut Report) {
    if let Some((kernel, driver)) = kernels.first() {
        report.check(&format!("{} nested", kernel.version), || nested::run(lab, kernel, driver, root));
    }
}

/// Kernels that watch memory and locks.
pub(crate) fn run_watched(
    lab: &Lab,
    kernels: &[(Kernel, PathBuf)],
    fixed: &[(Kernel, PathBuf)],
    only: &[String],
    report: &mut Report,
) {
    for (kernel, driver) in kernels {
        let fixed = fixed.iter().find(|(other, _)| other.version == kernel.version);
        watched::run(lab, kernel, driver, fixed.map(|(_, driver)| driver.as_path()), only, report);
    }
}

/// How many CPUs there are.
fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// All names are where none is named.
fn is_wanted(name: &str, only: &[String]) -> bool {
    only.is_empty() || only.iter().any(|word| name.contains(word.as_str()))
}

/// Whether the kernel's driver has poll, and its PTP clock reports TAI: both came with Linux 7.0.
fn is_new(kernel: &Kernel) -> bool {
    kernel.version.split('.').next().and_then(|major| major.parse::<u32>().ok()).is_some_and(|major| major >= 7)
}

/// A percentile of numbers that are sorted.
fn percentile(sorted: &[i128], percent: usize) -> i128 {
    sorted.get(sorted.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default()
}

/// Nanoseconds as microseconds, to print.
#[allow(clippy::cast_precision_loss)] // of figures that are printed
fn micros(nanos: i128) -> String {
    format!("{:.1} us", nanos as f64 / 1e3)
}

/// The items of an array that the guest sends.
fn items<'a>(value: &'a Value, name: &str) -> Result<&'a Vec<Value>> {
    value[name].as_array().with_context(|| format!("the guest sends no list of {name}: {value}"))
}
