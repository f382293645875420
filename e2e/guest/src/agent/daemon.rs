// SPDX-License-Identifier: MIT OR Apache-2.0
//! Time daemons, which the harness put into the initramfs with their libraries.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use serde_json::Value;

use super::{DAEMON_LOG, PATIENCE};

const FOLDER: &str = "/daemon";
const USER: &str = "_chrony";
const CONFIG: &str = "/tmp/daemon.conf";

/// chronyd, which sets the clock, with a source: as a user of its own, whose folder its socket is in.
pub(super) fn chronyd(source: &str) -> Result<Child> {
    fs::write(CONFIG, format!("{source}cmdport 0\nbindcmdaddress /tmp/chronyd/sock\npidfile /tmp/chronyd.pid\n"))?;
    start("chronyd", &["-d", "-u", USER, "-f", CONFIG])
}

/// The page's PTP clock as a source of chronyd's: it is ahead of UTC by so many seconds, with the other sign.
pub(super) fn ptp_clock(offset: &str) -> String {
    format!("refclock PHC /dev/ptp0 refid PHC0 poll 0 dpoll -2 offset {offset}\n")
}

/// ntpd-rs, which sets the clock, and has the agent for its only source: right within 10 us, as the variance says.
pub(super) fn ntpd_rs() -> Result<Child> {
    let source = "[[source]]\nmode = \"sock\"\npath = \"/tmp/fed.sock\"\nmeasurement_noise_estimate = 1e-10\n";
    let rest = "[synchronization]\nminimum-agreeing-sources = 1\n[observability]\nlog-level = \"info\"\n";
    fs::write(CONFIG, format!("{source}{rest}"))?;
    start("ntp-daemon", &["--config", CONFIG])
}

fn start(name: &str, arguments: &[&str]) -> Result<Child> {
    fs::create_dir_all("/etc")?;
    fs::write("/etc/passwd", format!("root:x:0:0:root:/:/bin/sh\n{USER}:x:100:100::/:/bin/sh\n"))?;
    let log = File::create(DAEMON_LOG)?;
    let mut command = Command::new(format!("{FOLDER}/{name}"));
    command.args(arguments).env("LD_LIBRARY_PATH", FOLDER);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().with_context(|| format!("cannot start {name}"))
}

/// What the daemon has said.
pub(super) fn log() -> Result<Value> {
    Ok(fs::read_to_string(DAEMON_LOG)?.into())
}

/// Waits until the daemon's log has these words.
pub(super) fn wait_for(words: &str) -> Result<Value> {
    let start = Instant::now();
    loop {
        let log = fs::read_to_string(DAEMON_LOG)?;
        if log.contains(words) {
            return Ok(log.into());
        }
        ensure!(start.elapsed() < PATIENCE, "the daemon does not say {words:?}: {log}");
        sleep(Duration::from_millis(10));
    }
}
