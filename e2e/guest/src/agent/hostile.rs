// SPDX-License-Identifier: MIT OR Apache-2.0
//! What may go wrong around the agent: hooks, and the disk.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{bail, Context, Result};
use rustix::mount::{mount, MountFlags};
use serde_json::Value;

use super::HOOKS;

/// What they do, and how long they may take: those that never end, little.
const BAD_HOOKS: [(&str, &str); 4] =
    [("10-fails", "120s"), ("10-floods", "500ms"), ("20-forks", "120s"), ("30-hangs", "500ms")];
/// One that is required.
const HANGING_HOOK: &str = "40-hangs";
const DISK: &str = "/tmp/disk";
const FILLING: &str = "/tmp/disk/filling";
/// The agent's, on that disk.
pub(super) const STATE: &str = "/tmp/disk/agent.state";
/// How many processes a hook leaves behind.
const FORKS: u32 = 20;

/// Does what a bad hook does, if this program is called as one.
pub(super) fn is_bad_hook(name: &str) -> Option<Result<()>> {
    let (_, what) = name.strip_prefix(HOOKS)?.split_once('-')?;
    Some(match what {
        "fails" => Err(anyhow::anyhow!("as it is to")),
        "floods" => flood(),
        "forks" => fork(),
        "hangs" => loop {
            sleep(Duration::from_secs(3_600));
        },
        _ => return None,
    })
}

fn flood() -> Result<()> {
    loop {
        io::stdout().write_all(&[b'x'; 1_024])?;
    }
}

/// They keep what this process writes to open.
fn fork() -> Result<()> {
    for _ in 0..FORKS {
        Command::new(Path::new(HOOKS).join(HANGING_HOOK)).spawn()?;
    }
    Ok(())
}

pub(super) fn bad_hooks() -> Result<Value> {
    for (name, timeout) in BAD_HOOKS {
        add(name, &format!("events = [\"restored\"]\ntimeout = \"{timeout}\"\n"))?;
    }
    // For the processes that are left behind.
    add(HANGING_HOOK, "events = [\"maintenance-soon\"]\n")
}

pub(super) fn hanging_hook() -> Result<Value> {
    add(HANGING_HOOK, "events = [\"restored\"]\ntimeout = \"1h\"\nrequired = true\n")
}

/// Only the one that was there at first.
pub(super) fn good_hooks() -> Result<Value> {
    for name in BAD_HOOKS.map(|(name, _)| name).into_iter().chain([HANGING_HOOK]) {
        let hook = Path::new(HOOKS).join(name);
        for file in [hook.with_extension("toml"), hook] {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => bail!("{}: {error}", file.display()),
                _ => {}
            }
        }
    }
    Ok(Value::Null)
}

fn add(name: &str, settings: &str) -> Result<Value> {
    let hook = Path::new(HOOKS).join(name);
    if !hook.exists() {
        fs::copy("/init", &hook)?;
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755))?;
    }
    fs::write(hook.with_extension("toml"), settings)?;
    Ok(Value::Null)
}

/// A disk of its own, with room.
pub(super) fn free_disk() -> Result<Value> {
    if fs::create_dir(DISK).is_ok() {
        mount("tmpfs", DISK, "tmpfs", MountFlags::empty(), Some(c"size=32k")).context("cannot mount a small disk")?;
    }
    match fs::remove_file(FILLING) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => bail!("{FILLING}: {error}"),
        _ => Ok(Value::Null),
    }
}

/// Fills it.
pub(super) fn fill_disk() -> Result<Value> {
    let mut file = File::create(FILLING)?;
    loop {
        match file.write_all(&[0; 512]) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(Value::Null),
            Err(error) => bail!("{FILLING}: {error}"),
        }
    }
}
