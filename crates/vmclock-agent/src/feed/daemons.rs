// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which time daemons run: who else may be disciplining the system's clock.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;

/// A time daemon.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Daemon {
    /// chrony's.
    Chronyd,
    /// Any that is called so, as that of NTP's reference implementation is.
    Ntpd,
    /// ntpd-rs (`ntp-daemon`).
    NtpdRs,
    /// systemd's.
    Timesyncd,
    /// linuxptp's, from PTP hardware to the system's clock.
    Phc2sys,
    /// ClockBound's, which writes the segment that [`ClockBound`](super::clockbound::ClockBound) writes; version 3
    /// disciplines the clock too.
    Clockbound,
}

impl Daemon {
    /// By what the kernel calls a process, of which it keeps 15 bytes.
    fn of_comm(comm: &str) -> Option<Self> {
        Some(match comm {
            "chronyd" => Self::Chronyd,
            "ntpd" => Self::Ntpd,
            "ntp-daemon" => Self::NtpdRs,
            "systemd-timesyn" => Self::Timesyncd,
            "phc2sys" => Self::Phc2sys,
            "clockbound" => Self::Clockbound,
            _ => return None,
        })
    }
}

impl fmt::Display for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chronyd => "chronyd",
            Self::Ntpd => "ntpd",
            Self::NtpdRs => "ntpd-rs",
            Self::Timesyncd => "systemd-timesyncd",
            Self::Phc2sys => "phc2sys",
            Self::Clockbound => "clockbound",
        })
    }
}

/// The time daemons that run in this PID namespace, each once: not those of containers inside it. They are found by
/// their names, so a process of a user's that is called like one counts too.
///
/// ```
/// for daemon in vmclock_agent::feed::daemons::running()? {
///     println!("{daemon} may be disciplining the clock");
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn running() -> io::Result<Vec<Daemon>> {
    running_in(Path::new("/proc"))
}

fn running_in(proc: &Path) -> io::Result<Vec<Daemon>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(proc)? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        // A process may end at any time: then there is nothing to read.
        let Ok(comm) = fs::read(entry.path().join("comm")) else { continue };
        let Some(daemon) = std::str::from_utf8(&comm).ok().and_then(|comm| Daemon::of_comm(comm.trim_end())) else {
            continue;
        };
        if fs::read_to_string(entry.path().join("status")).is_ok_and(|status| is_of_this_namespace(&status)) {
            found.push(daemon);
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Whether `/proc/PID/status` is that of a process without a PID namespace of its own: `NSpid` has a number for each
/// namespace from that of `/proc` on. A zombie runs no more.
fn is_of_this_namespace(status: &str) -> bool {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let is_nested = field("NSpid:").is_some_and(|numbers| numbers.split_ascii_whitespace().count() > 1);
    let is_dead = field("State:").is_some_and(|state| state.trim_start().starts_with(['Z', 'X']));
    !is_nested && !is_dead
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn daemons_are_found_by_name_and_namespace() {
        let proc = tempfile::tempdir().expect("a folder");
        let process = |pid: &str, comm: &str, status: &str| {
            let folder = proc.path().join(pid);
            fs::create_dir(&folder).expect("made");
            fs::write(folder.join("comm"), comm).expect("written");
            fs::write(folder.join("status"), status).expect("written");
        };
        let ours = "Name:\tx\nState:\tS (sleeping)\nNSpid:\t7\n";
        process("1", "systemd\n", ours);
        process("20", "systemd-timesyn\n", ours);
        process("21", "chronyd\n", "State:\tS (sleeping)\nNSpid:\t21\t3\n"); // in a container
        process("22", "ntp-daemon\n", ours);
        process("23", "ntp-daemon\n", ours);
        process("24", "phc2sys\n", "State:\tZ (zombie)\nNSpid:\t24\n");
        process("25", "chronyd-helper\n", ours);
        process("self", "ntpd\n", ours);
        fs::create_dir(proc.path().join("26")).expect("made"); // it has just ended
        assert_eq!(running_in(proc.path()).expect("read"), [Daemon::NtpdRs, Daemon::Timesyncd]);
        assert!(running_in(&proc.path().join("none")).is_err());
    }

    #[test]
    fn this_machine_can_be_asked() {
        running().expect("/proc is there");
    }

    #[test]
    fn names() {
        assert_eq!(serde_json::to_string(&Daemon::NtpdRs).expect("JSON"), "\"ntpd-rs\"");
        assert_eq!(Daemon::Timesyncd.to_string(), "systemd-timesyncd");
    }
}
