// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock serve` with a real chronyd for its source, which has another real chronyd for its server. Neither touches
//! this machine's clock.

use std::fs::{self, File};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use vmclock_host::source::chrony::protocol::{self, Command as Request};

use crate::patience::{until, PATIENCE};
use crate::Lab;

use super::{micros, TAI_MINUS_UTC};

pub(super) fn run(lab: &Lab, chronyd: &Path) -> Result<String> {
    let folder = lab.folder.join("chrony");
    fs::create_dir_all(&folder)?;
    let (ntp, servers_command, command) = (free_port()?, free_port()?, free_port()?);
    let server = format!("local stratum 3\nport {ntp}\nallow 127.0.0.1\ncmdport {servers_command}");
    // It is polled 64 times a second, so that it is synchronised at once.
    let client = format!("server 127.0.0.1 port {ntp} iburst minpoll -6 maxpoll -6\nport 0\ncmdport {command}");
    let _server = Daemon::start(chronyd, &folder, "server", &server)?;
    let daemon = Daemon::start(chronyd, &folder, "client", &client)?;
    // Else it would be unreachable from the start, which is said once.
    until("chronyd is synchronized", PATIENCE, || Ok(track(command)?.is_some_and(|tracking| tracking.reference != 0)))?;
    let config = folder.join("serve.toml");
    let text = "refresh = \"50ms\"\n[[source]]\nkind = \"chrony\"\n[estimator]\nholdover = \"500ms\"\n";
    fs::write(&config, text.replace("\"chrony\"", &format!("\"chrony\"\naddress = \"127.0.0.1:{command}\"")))?;

    let page = folder.join("page");
    let output = File::create(folder.join("output"))?;
    let offset = format!("--tai-offset=-{TAI_MINUS_UTC}");
    let mut serve = Command::new(&lab.vmclock);
    serve.args(["serve", &offset, "--config"]).arg(&config).arg("--page").arg(&page);
    serve.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let _serve = Daemon(serve.spawn().context("cannot start `vmclock serve`")?);
    let said = || fs::read_to_string(folder.join("output")).unwrap_or_default();
    let show = || -> Result<Value> {
        let shown = Command::new(&lab.vmclock).args(["show", "--json", "--page"]).arg(&page).output()?;
        Ok(serde_json::from_slice(&shown.stdout).unwrap_or_default())
    };
    let is = |status: &str| until(status, PATIENCE, || Ok(show()?["clock_status"] == status)).with_context(said);
    is("synchronized")?;
    let mut bound = 0;
    // chronyd's own is large until it has measured for a while.
    until("the bounds are those of a chronyd", PATIENCE, || {
        bound = show()?["time_maxerror_nanosec"].as_u64().unwrap_or_default();
        Ok((1..1_000_000_000).contains(&bound))
    })
    .with_context(said)?;
    drop(daemon);
    is("free-running")?;
    until("it says why", PATIENCE, || Ok(said().contains("is chronyd running?"))).with_context(said)?;
    let _daemon = Daemon::start(chronyd, &folder, "client", &client)?;
    is("synchronized")?;
    Ok(format!("synchronized ± {}, free-running without it, and synchronized again", micros(bound.into())))
}

/// Killed when dropped.
pub(super) struct Daemon(pub(super) Child);

impl Daemon {
    /// Starts a chronyd that leaves this machine's clock alone.
    pub(super) fn start(chronyd: &Path, folder: &Path, name: &str, config: &str) -> Result<Self> {
        let path = |suffix: &str| -> PathBuf { folder.join(format!("{name}.{suffix}")) };
        let own = format!("\npidfile {}\nbindcmdaddress 127.0.0.1\n", path("pid").display());
        fs::write(path("conf"), config.to_owned() + &own)?;
        let log = File::create(path("log"))?;
        let mut command = Command::new(chronyd);
        // Without control of the clock, in the foreground, as whoever we are: the package's own user is not there.
        let user = Command::new("id").arg("-un").output().context("cannot find out who we are")?;
        let user = String::from_utf8(user.stdout)?;
        command.args(["-x", "-d", "-U", "-u", user.trim(), "-f"]).arg(path("conf"));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Self(command.spawn().with_context(|| format!("cannot start {}", chronyd.display()))?))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port that nobody has, just now.
pub(super) fn free_port() -> Result<u16> {
    Ok(UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// What chronyd says of itself.
pub(super) struct Tracking {
    /// What it is synchronized to; 0: nothing.
    pub(super) reference: u32,
    /// What it would correct this machine's clock by, in nanoseconds.
    pub(super) correction: i128,
}

/// Asks the chronyd with this command port; `None` where it does not answer, perhaps not yet.
pub(super) fn track(port: u16) -> Result<Option<Tracking>> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(("127.0.0.1", port))?;
    socket.set_read_timeout(Some(Duration::from_millis(250)))?;
    let mut reply = [0; 200];
    if socket.send(&Request::Tracking.request(1, 0)).is_err() {
        return Ok(None);
    }
    let Ok(len) = socket.recv(&mut reply) else { return Ok(None) };
    let body = Request::Tracking.parse_reply(&reply[..len], 1)?;
    let word = |at: usize| u32::from_be_bytes([body[at], body[at + 1], body[at + 2], body[at + 3]]);
    // Positive where the clock is slow.
    #[allow(clippy::cast_possible_truncation)]
    let correction = (protocol::number(word(40)) * 1e9).round() as i128;
    Ok(Some(Tracking { reference: word(0), correction }))
}
