// SPDX-License-Identifier: MIT OR Apache-2.0
//! What keeps the system's clock right, and whether it follows the PTP clock on the right scale.

use crate::finding::Finding;
use crate::machine::Machine;
use crate::ptp::{ClockScale, PtpClock};

const CHECK: &str = "time daemon";

/// A program that steers the system's clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Daemon {
    /// What the kernel calls its process: at most 15 bytes.
    process: &'static str,
    name: &'static str,
    /// What makes it step the clock now, however far that is.
    pub(crate) step: &'static str,
}

const CHRONY: &str = "chronyd";

const DAEMONS: [Daemon; 6] = [
    Daemon { process: "chronyd", name: CHRONY, step: "chronyc makestep" },
    Daemon { process: "ntpd", name: "ntpd", step: "systemctl restart ntpd" },
    Daemon { process: "ntp-daemon", name: "ntpd-rs", step: "systemctl restart ntpd-rs" },
    Daemon { process: "systemd-timesyn", name: "systemd-timesyncd", step: "systemctl restart systemd-timesyncd" },
    Daemon { process: "phc2sys", name: "phc2sys", step: "systemctl restart phc2sys" },
    Daemon { process: "timemaster", name: "timemaster", step: "systemctl restart timemaster" },
];

/// The first of those that run, among the processes that can be seen from here.
pub(crate) fn look(machine: &Machine) -> Option<Daemon> {
    let processes = machine.names("/proc").into_iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    let names: Vec<_> = processes.filter_map(|id| machine.text(&format!("/proc/{id}/comm"))).collect();
    DAEMONS.into_iter().find(|daemon| names.iter().any(|name| name == daemon.process))
}

pub(crate) fn finding(machine: &Machine, daemon: Option<&Daemon>, clock: Option<&PtpClock>) -> Finding {
    match (daemon, clock) {
        (None, None) => {
            Finding::missing(CHECK, "none among the processes to be seen here: nobody steers CLOCK_REALTIME")
                .todo("run chrony or another time daemon, unless the system's clock does not matter here")
        }
        (None, Some(clock)) => {
            Finding::missing(CHECK, "none among the processes to be seen here: nobody steers CLOCK_REALTIME")
                .todo(format!("run chrony, with {} in its configuration", refclock_line(clock)))
        }
        (Some(daemon), None) => {
            Finding::ok(CHECK, format!("{} runs; there is no PTP clock that it could follow", daemon.name))
        }
        (Some(daemon), Some(clock)) if daemon.name == CHRONY => chrony(machine, clock),
        (Some(Daemon { name: name @ ("phc2sys" | "timemaster"), .. }), Some(_)) => {
            Finding::ok(CHECK, format!("{name} runs"))
        }
        (Some(daemon), Some(clock)) => {
            Finding::ok(CHECK, format!("{} runs, which cannot follow /dev/{}", daemon.name, clock.name))
                .todo(format!("for a better clock: chrony, with {} in its configuration", refclock_line(clock)))
        }
    }
}

/// What chrony should be told of the clock.
fn refclock_line(clock: &PtpClock) -> String {
    let plain = format!("refclock PHC /dev/{} poll 2 dpoll -2", clock.name);
    match clock.scale() {
        Some(ClockScale::Tai) => format!("`{plain} tai` and `leapsectz right/UTC`"),
        Some(ClockScale::Utc) => format!("`{plain}`"),
        None => format!("`{plain}` (and `tai` at its end once the clock is known to run TAI)"),
    }
}

fn chrony(machine: &Machine, clock: &PtpClock) -> Finding {
    let refclocks = refclocks(machine);
    let device = format!("/dev/{}", clock.name);
    let Some(refclock) = refclocks.iter().find(|refclock| machine.same_file(&refclock.device, &device)) else {
        return Finding::ok(CHECK, format!("chronyd runs, and does not follow {device}"))
            .todo(format!("to follow it: add {} to its configuration, then restart it", refclock_line(clock)));
    };
    let Refclock { file, tai, offset, .. } = refclock;
    let found = format!("chronyd runs and follows {device} ({file})");
    match (clock.scale(), tai) {
        // Whoever set an offset of whole seconds knows what for.
        _ if offset.abs() >= 1.0 => Finding::ok(CHECK, format!("{found}, with an offset of {offset} s of its own")),
        (Some(ClockScale::Tai), false) => {
            Finding::problem(CHECK, format!("{found} as if it ran UTC, but it runs TAI: some 37 s off"))
                .todo(format!("in {file}: {}, then restart chronyd", refclock_line(clock)))
        }
        (Some(ClockScale::Utc), true) => {
            Finding::problem(CHECK, format!("{found} as if it ran TAI, but it runs UTC: some 37 s off"))
                .todo(format!("in {file}: {} without `tai`, then restart chronyd", refclock_line(clock)))
        }
        (Some(_), _) => Finding::ok(CHECK, format!("{found} on the right scale")),
        (None, _) => Finding::unknown(CHECK, format!("{found}; on the right scale or not cannot be told")),
    }
}

/// A `refclock PHC` line of chrony's configuration.
#[derive(Debug)]
struct Refclock {
    file: String,
    device: String,
    tai: bool,
    offset: f64,
}

fn refclocks(machine: &Machine) -> Vec<Refclock> {
    let mut files = vec!["/etc/chrony.conf".to_owned(), "/etc/chrony/chrony.conf".to_owned()];
    for folder in ["/etc/chrony/conf.d", "/etc/chrony.d", "/run/chrony.d"] {
        files.extend(machine.names(folder).iter().map(|name| format!("{folder}/{name}")));
    }
    let mut refclocks = Vec::new();
    for file in files {
        let text = machine.text(&file).unwrap_or_default();
        refclocks.extend(text.lines().filter_map(|line| refclock(&file, line)));
    }
    refclocks
}

fn refclock(file: &str, line: &str) -> Option<Refclock> {
    let mut words = line.split_whitespace();
    if !words.next()?.eq_ignore_ascii_case("refclock") || !words.next()?.eq_ignore_ascii_case("PHC") {
        return None;
    }
    // The device may carry options of its own: `/dev/ptp0:nocrossts`.
    let device = words.next()?.split(':').next()?.to_owned();
    let options: Vec<_> = words.collect();
    let tai = options.iter().any(|word| word.eq_ignore_ascii_case("tai"));
    let place = options.iter().position(|word| word.eq_ignore_ascii_case("offset"));
    let offset = place.and_then(|place| options.get(place + 1)?.parse().ok()).unwrap_or_default();
    Some(Refclock { file: file.into(), device, tai, offset })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refclock_lines_are_read_as_chrony_reads_them() {
        let read = |line| refclock("/etc/chrony.conf", line);
        let plain = read("refclock PHC /dev/ptp0:nocrossts poll 3 dpoll -2 offset 0 stratum 2").unwrap();
        assert_eq!((plain.device.as_str(), plain.tai), ("/dev/ptp0", false));
        assert!(plain.offset.abs() < 1.0);
        let tai = read("  RefClock phc /dev/ptp_vmclock tai offset -37.5").unwrap();
        assert_eq!((tai.device.as_str(), tai.tai), ("/dev/ptp_vmclock", true));
        assert!(tai.offset.abs() > 37.0);
        for other in ["# refclock PHC /dev/ptp0", "refclock PPS /dev/pps0", "refclock PHC", "server pool.ntp.org", ""] {
            assert!(read(other).is_none(), "{other:?}");
        }
    }
}
