// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock doctor`: what this machine has of a VMClock, why not, and what to do.
//!
//! Time gets to a program along a chain: hypervisor, device, kernel, driver, device node, page. Each link has a module,
//! which looks at it and gives one finding; the findings come in the chain's order, so that the first that is not in
//! order is the one to see to. Beside the chain stand the PTP clock, the system's clock and what steers it.

#![forbid(unsafe_code)]

use std::path::Path;

use page::LookedAt;

pub use finding::{Finding, Report, State, Verdict};
pub use machine::Machine;

pub mod anomaly;
mod daemon;
mod device;
mod finding;
mod kernel;
mod machine;
mod node;
mod page;
mod ptp;
mod surroundings;
mod system_clock;
#[cfg(test)]
mod tests;
mod wording;

/// Looks at a machine, and at the page at this path.
///
/// ```
/// use vmclock_doctor::{examine, Machine, Verdict};
/// let report = examine(&Machine::this(), "/no/page".as_ref());
/// assert_eq!(report.verdict, Verdict::Nothing);
/// print!("{}", report.to_text());
/// ```
pub fn examine(machine: &Machine, path: &Path) -> Report {
    let device = device::look(machine);
    let device = device.as_ref();
    let kernel = kernel::look(machine);
    let driver = kernel::look_for_driver(machine, device);
    let page = LookedAt::new(path);
    let ptp_clock = ptp::look(machine, &page);
    let ptp_clock = ptp_clock.as_ref();
    let daemon = daemon::look(machine);
    let daemon = daemon.as_ref();

    let mut findings = vec![
        surroundings::hypervisor(machine),
        device::finding(machine, device),
        kernel::option_finding(&kernel, device, &driver),
        kernel::driver_finding(machine, &kernel, device, &driver),
        node::finding(machine, &kernel, device, &driver),
        ptp::finding(machine, ptp_clock, &driver, &page),
    ];
    let own = page.findings(machine);
    let verdict = page.verdict();
    // With a page in a file, the machine's own chain is not to blame for what the page lacks.
    let blamed = if machine.is_for_device_nodes(path) { [&findings[..], &own].concat() } else { own.clone() };
    let summary = summary(verdict, path, &blamed);
    findings.extend(own);
    findings.extend([
        system_clock::finding(&page, daemon),
        surroundings::clocksource(machine),
        daemon::finding(machine, daemon, ptp_clock),
    ]);
    Report { verdict, summary, page: path.into(), findings }
}

fn summary(verdict: Verdict, path: &Path, findings: &[Finding]) -> String {
    let path = path.display();
    let said = match verdict {
        Verdict::Time => return format!("time: programs here can get time from {path}"),
        Verdict::EventsOnly => return format!("events only: programs here can get events from {path}, but no time"),
        Verdict::Nothing => format!("nothing: programs here can get neither time nor events from {path}"),
    };
    // The first link of the chain that is broken and can be mended.
    let broken = |finding: &&Finding| finding.state != State::Ok && finding.todo.is_some();
    match findings.iter().find(broken) {
        Some(finding) => format!("{said}; begin with the {}", finding.check),
        None => said,
    }
}
