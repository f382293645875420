// SPDX-License-Identifier: MIT OR Apache-2.0
//! A publisher in here, for which the page of this machine, or Linux's PTP clock of it, is the source: as on a host
//! that is itself a guest.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use serde_json::{json, Value};
use vmclock::{Reading, VmClock, DEVICE_PATH};

use crate::command::COMMAND;
use crate::ptp;

const CONFIG: &str = "/tmp/serve.toml";
const PAGE: &str = "/tmp/serve.page";
const OUTPUT: &str = "/tmp/serve.output";
const COMPARISONS: usize = 200;

/// Serves from a source, and compares the page that comes of it with the machine's own.
pub(crate) fn serve_from(kind: &str, scale: &str) -> Result<Value> {
    let source = match kind {
        "vmclock" => format!("kind = \"vmclock\"\npath = \"{DEVICE_PATH}\"\n"),
        // Reading it takes microseconds in an interpreter; it has no bounds of its own.
        "ptp" => format!("kind = \"ptp\"\npath = \"{}\"\nscale = \"{scale}\"\nmax_error = \"50us\"\n", ptp::path()?),
        other => bail!("no source is called {other:?}"),
    };
    fs::write(CONFIG, format!("refresh = \"100ms\"\ntai_offset = -37\n[[source]]\n{source}"))?;
    let _ = fs::remove_file(PAGE);
    let output = File::create(OUTPUT)?;
    let mut command = Command::new(COMMAND);
    command.args(["serve", "--config", CONFIG, "--page", PAGE]).stdin(Stdio::null());
    let mut server = Server(command.stdout(output.try_clone()?).stderr(output).spawn().context("cannot start it")?);
    let served = server.wait_for_time().with_context(|| fs::read_to_string(OUTPUT).unwrap_or_default())?;
    let device = VmClock::open()?;
    let (mut apart, mut bounds) = (0, Vec::new());
    for _ in 0..COMPARISONS {
        let before = interval(&device.now()?)?;
        let (earliest, latest) = interval(&served.now()?)?;
        let after = interval(&device.now()?)?;
        // Somewhere between the two is the moment of the one in the middle.
        apart += u32::from(latest < before.0 || earliest > after.1);
        bounds.push((latest - earliest) / 2);
        sleep(Duration::from_millis(2));
    }
    bounds.sort_unstable();
    let status = served.snapshot()?.clock_status.to_string();
    Ok(
        json!({ "comparisons": COMPARISONS, "apart": apart, "status": status, "bound": i64::try_from(bounds[COMPARISONS / 2])? }),
    )
}

fn interval(reading: &Reading) -> Result<(i128, i128)> {
    let interval = reading.interval().context("no bounds")?;
    Ok((interval.earliest.nanos(), interval.latest.nanos()))
}

/// Killed when dropped.
struct Server(Child);

impl Server {
    fn wait_for_time(&mut self) -> Result<VmClock> {
        let start = Instant::now();
        loop {
            if let Ok(clock) = VmClock::open_at(PAGE) {
                if clock.now().is_ok() {
                    return Ok(clock);
                }
            }
            ensure!(self.0.try_wait()?.is_none(), "the publisher ended");
            ensure!(start.elapsed() < Duration::from_secs(120), "the publisher gives no time");
            sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
