// SPDX-License-Identifier: MIT OR Apache-2.0
//! The host's service, which keeps the pages of many guests.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{bail, ensure, Context, Result};
use rustix::process::{kill_process, Pid, Signal};
use serde_json::Value;

use crate::checks::TAI_MINUS_UTC;
use crate::patience::{until, PATIENCE};
use crate::Lab;

/// `vmclock serve`, with a page of its own.
pub(crate) struct Service {
    folder: PathBuf,
    process: Child,
}

impl Service {
    /// Starts one, and waits until it answers.
    pub(crate) fn start(lab: &Lab, name: &str) -> Result<Self> {
        let folder = lab.folder.join(name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let process = Self::spawn(lab, &folder)?;
        let mut service = Self { folder, process };
        service.wait_until_up()?;
        Ok(service)
    }

    fn spawn(lab: &Lab, folder: &std::path::Path) -> Result<Child> {
        let log = File::options().create(true).append(true).open(folder.join("log"))?;
        let mut command = Command::new(&lab.vmclock);
        // Not every machine knows the offset: neither its kernel nor a list of leap seconds may say it.
        command.args(["serve", "--json", "--reference", "host-clock", &format!("--tai-offset={TAI_MINUS_UTC}")]);
        command.arg("--page").arg(folder.join("page")).arg("--state").arg(folder.join("state")).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        command.spawn().context("cannot start `vmclock serve`")
    }

    fn wait_until_up(&mut self) -> Result<()> {
        let socket = self.folder.join("page.control");
        until("the service answers", PATIENCE, || match self.process.try_wait()? {
            Some(status) => bail!("`vmclock serve` ended: {status}: {}", self.log()),
            None => Ok(UnixStream::connect(&socket).is_ok()),
        })
    }

    /// Its own page, by which guests find it.
    pub(crate) fn page(&self) -> PathBuf {
        self.folder.join("page")
    }

    /// Ends it in order, and starts it again.
    pub(crate) fn restart(&mut self, lab: &Lab) -> Result<()> {
        kill_process(Pid::from_child(&self.process), Signal::TERM)?;
        let status = self.process.wait()?;
        ensure!(status.success(), "`vmclock serve` ended: {status}: {}", self.log());
        self.process = Self::spawn(lab, &self.folder)?;
        self.wait_until_up()
    }

    /// The guests, as `vmclock guests` lists them.
    pub(crate) fn guests(&self, lab: &Lab) -> Result<Vec<Value>> {
        let output = Command::new(&lab.vmclock).args(["guests", "--json", "--service"]).arg(self.page()).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "`vmclock guests` failed: {}", String::from_utf8_lossy(&output.stderr));
        text.lines().map(|line| serde_json::from_str(line).with_context(|| format!("{line:?}"))).collect()
    }

    /// The last lines of what it said, but for the refreshes.
    pub(crate) fn log(&self) -> String {
        let text = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|line| !line.contains("\"refreshed\"")).collect();
        lines[lines.len().saturating_sub(20)..].join("\n    ")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
