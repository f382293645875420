// SPDX-License-Identifier: MIT OR Apache-2.0
//! Real time daemons in the guest: fed by the agent, and in its place.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{bail, ensure, Context, Result};
use serde_json::Value;
use vmclock_e2e_guest::hex;

use super::{
    figures, kept, nanos, observe_and_save, of_clock, start, times, translated, Restore, CONFIG, KEPT, OPTIONS, SETTLED,
};
use crate::checks::{is_new, TAI_MINUS_UTC};
use crate::machine::{Clock, Kernel, Machine};
use crate::patience::{until, PATIENCE};
use crate::Lab;

/// Where the daemons' binaries look for their loader. Their libraries are beside them.
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";
/// What a daemon that is fed has to keep within, in nanoseconds.
const WELL: i128 = 50_000;
/// How long a daemon is watched after a restore, in ms: longer than it may take to go astray.
const FOLLOWED: u32 = 10_000;

/// How long the clock is wrong after a restore with the agent, with chronyd on the page's PTP clock, and with what people
/// write who have neither.
pub(crate) fn beside_others(lab: &Lab, kernel: &Kernel, chronyd: &Path) -> Result<String> {
    let kernel = with_daemon(kernel, "chrony", chronyd)?;
    let mut rows = Vec::new();
    for who in ["agent", "chronyd", "script"] {
        let name = format!("beside-{who}");
        let mut machine = Machine::boot_calibrated(lab, &kernel, &name, &Clock::Ours(&OPTIONS))?.0;
        let begun = (|| {
            match who {
                "agent" => start(&mut machine, CONFIG)?,
                "chronyd" => drop(machine.ask(&format!("agent others chronyd {}", ptp_offset(&kernel)))?),
                other => drop(machine.ask(&format!("agent others {other}"))?),
            }
            observe_and_save(&mut machine)
        })();
        let saved = begun.map_err(|error| machine.explain(error))?;
        machine.quit()?;
        let mut restores = Vec::new();
        for restore in 1..=lab.restores {
            let mut restored = Machine::incoming(lab, &kernel, &format!("{name}-{restore}"), &OPTIONS, &saved.uri)?;
            let answer = restored.answer(saved.question).map_err(|error| restored.explain(error))?;
            let counter = |key: &str| answer[key].as_u64().with_context(|| format!("{key} in {answer}"));
            let (seen, timed, right) = (counter("seen")?, counter("timed")?, counter("right")?);
            restores.push(Restore {
                right_after: lab.nanos(right - saved.counter),
                seen_after: lab.nanos(seen - saved.counter),
                timed_after: lab.nanos(timed - saved.counter),
                agent_took: None,
                blocks: translated(&mut restored)?,
                stamps: 0,
                wrong: 0,
            });
            restored.quit()?;
        }
        rows.push(format!("{who}: {}", times(&restores)));
    }
    Ok(rows.join("; "))
}

/// How well the clock is kept on the page, and what that costs: the agent's discipline, and chronyd with the page's PTP
/// clock.
pub(crate) fn kept_by_others(lab: &Lab, kernel: &Kernel, chronyd: &Path) -> Result<String> {
    let kernel = with_daemon(kernel, "chrony", chronyd)?;
    let mut rows = Vec::new();
    for who in ["agent", "chronyd"] {
        let options = Clock::Ours(&["--refresh", "1s"]);
        let (machine, _) = Machine::boot_calibrated(lab, &kernel, &format!("kept-by-{who}"), &options)?;
        rows.push(machine.do_and_quit(|machine| {
            match who {
                "agent" => start(machine, &CONFIG.replace("[hooks]", KEPT))?,
                other => drop(machine.ask(&format!("agent others {other} {}", ptp_offset(&kernel)))?),
            }
            let (seen, ticks, resident) = kept(lab, machine, SETTLED)?;
            Ok(format!("{who}: {}; {} ms of CPU, {resident} KiB resident", figures(&seen), ticks * 10))
        })?);
    }
    Ok(format!("{} s: {}", lab.steady_seconds, rows.join("; ")))
}

/// A daemon that has the clock and takes the time from the agent.
#[derive(Clone, Copy)]
pub(crate) enum Fed {
    Chronyd,
    NtpdRs,
}

impl Fed {
    /// What the guest calls it.
    const fn name(self) -> &'static str {
        match self {
            Self::Chronyd => "chronyd",
            Self::NtpdRs => "ntpd-rs",
        }
    }

    /// The agent's feed.
    const fn config(self) -> &'static str {
        match self {
            Self::Chronyd => "chrony = \"/tmp/fed.sock\"\nchronyd = \"/tmp/chronyd/sock\"",
            Self::NtpdRs => "ntpd_rs = \"/tmp/fed.sock\"",
        }
    }
}

/// The daemon is fed until it has the time; then the machine is saved and restored.
pub(crate) fn fed(lab: &Lab, kernel: &Kernel, fed: Fed, daemon: &Path) -> Result<String> {
    let who = fed.name();
    let kernel = with_daemon(kernel, who, daemon)?;
    let mut machine = Machine::boot_calibrated(lab, &kernel, &format!("fed-{who}"), &Clock::Ours(&OPTIONS))?.0;
    let begun = (|| {
        machine.ask(&format!("agent fed {who}"))?;
        let feed = format!("[feed]\n{}\nmax_error = \"10ms\"\n[hooks]", fed.config());
        start(&mut machine, &CONFIG.replace("[hooks]", &feed))?;
        machine.ask(&format!("agent selected {who}"))?;
        let settled = settle(&mut machine)?;
        Ok((settled, observe_and_save(&mut machine)?))
    })();
    let (settled, saved) = begun.map_err(|error| machine.explain(error))?;
    machine.quit()?;
    let mut restored = Machine::incoming(lab, &kernel, &format!("fed-{who}-restored"), &OPTIONS, &saved.uri)?;
    let outcome = (|| {
        restored.answer(saved.question)?;
        restored.ask("agent ready")?;
        let followed = restored.ask(&format!("agent follow {FOLLOWED} {WELL}"))?;
        let again = settle(&mut restored)?;
        let log = restored.ask("agent daemon-log")?;
        let resets = log.as_str().unwrap_or_default().matches("Reset all sources").count();
        let told = match fed {
            Fed::Chronyd => format!("; it forgot what it had measured {resets} times by then"),
            Fed::NtpdRs => String::new(),
        };
        let last = followed["last"].as_u64().map(|last| lab.nanos(last.saturating_sub(saved.counter)) / 1_000_000);
        Ok(format!(
            "{who}, fed each second: {settled}; after a restore last off by more than 50 us {}, worst {} us; then {again}{told}",
            last.map_or_else(|| "never".to_owned(), |last| format!("after {last} ms")),
            followed["worst"].as_u64().unwrap_or_default() / 1_000,
        ))
    })();
    let figures = outcome.map_err(|error| restored.explain(error))?;
    restored.quit()?;
    Ok(figures)
}

/// A page that has a generation and no time, no PTP clock; but a chronyd, which is asked.
pub(crate) fn asked_chronyd(lab: &Lab, kernel: &Kernel, chronyd: &Path) -> Result<String> {
    let kernel = with_daemon(kernel, "chronyd", chronyd)?;
    let (machine, _) = Machine::boot_calibrated(lab, &kernel, "asked", &Clock::Ours(&OPTIONS))?;
    machine.do_and_quit(|machine| {
        machine.ask("agent bare-page")?;
        machine.ask(&format!("agent asked-chronyd {}", ptp_offset(&kernel)))?;
        let time = "path = \"/tmp/bare-page\"\n[time]\nchronyd = \"/tmp/chronyd/sock\"\n";
        let config = CONFIG.replace("interval = \"10ms\"", &format!("interval = \"10ms\"\n{time}"));
        machine.ask(&format!("agent start {}", hex(config.as_bytes())))?;
        until("chronyd vouches for the time", PATIENCE, || {
            Ok(machine.ask("agent ready")?["time_source"] == "chronyd /tmp/chronyd/sock")
        })?;
        let ahead = machine.ask("agent bare-restore 7200")?;
        let status = machine.ask("agent ready")?;
        ensure!(status["events"] == 1, "another number of events: {status}");
        let hooks = machine.ask("agent hooks")?;
        ensure!(hooks.to_string().contains("0x0000000000000002"), "no hook ran for the new generation: {hooks}");
        let took = status["recovery_ns"].as_u64().unwrap_or_default() / 1_000_000;
        Ok(format!("two hours were lost; {took} ms later CLOCK_REALTIME was {} to {} ns ahead", ahead[0], ahead[1]))
    })
}

/// UTC less the PTP clock of Linux's driver, in seconds.
fn ptp_offset(kernel: &Kernel) -> i64 {
    if is_new(kernel) {
        -TAI_MINUS_UTC
    } else {
        0
    }
}

/// Waits until the clock stays on the page for 3 s: what a time daemon, too, can be asked for.
fn settle(machine: &mut Machine) -> Result<String> {
    let mut seen = Value::Null;
    let begun = Instant::now();
    until("the clock is within 50 us of the page", PATIENCE, || {
        seen = machine.ask("agent steady 3000 50")?;
        Ok(nanos(&seen["realtime"][3]).is_some_and(|worst| worst < WELL))
    })?;
    Ok(format!("{} in 3 s, after {:.0} s", of_clock(&seen, "realtime"), begun.elapsed().as_secs_f64()))
}

/// A kernel for guests with a daemon.
fn with_daemon(kernel: &Kernel, name: &str, script: &Path) -> Result<Kernel> {
    let files = with_libraries(script)?;
    Ok(Kernel { version: format!("{}-{name}", kernel.version), files, ..kernel.clone() })
}

/// A daemon and its libraries, as the guest finds them. Here it is started by a script that names the loader, the
/// libraries' folder and the program.
fn with_libraries(script: &Path) -> Result<Vec<(String, PathBuf)>> {
    let text = fs::read_to_string(script)?;
    let line = text.lines().find_map(|line| line.strip_prefix("exec ")).context("no program in the daemon's script")?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let [loader, "--library-path", folder, program, ..] = words[..] else {
        bail!("the daemon's script is not: {line}")
    };
    let name = |path: &str| Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned());
    let list = Command::new(loader).args(["--library-path", folder, "--list", program]).output()?;
    let program_name = name(program).context("a daemon without a name")?;
    let mut files =
        vec![(format!("daemon/{program_name}"), program.into()), (LOADER.to_owned(), PathBuf::from(loader))];
    for line in String::from_utf8(list.stdout)?.lines() {
        if let Some((name, rest)) = line.trim().split_once(" => ") {
            let path = rest.split_whitespace().next().context("a library without a path")?;
            files.push((format!("daemon/{name}"), path.into()));
        }
    }
    Ok(files)
}
