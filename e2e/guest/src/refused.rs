// SPDX-License-Identifier: MIT OR Apache-2.0
//! Other devices like the clock's, many of which our driver must not take, as the memory that they name cannot be a
//! page's.
#![forbid(unsafe_code)]

use std::fs;

use anyhow::{ensure, Context, Result};
use rustix::io::Errno;
use serde_json::{json, Map, Value};
use vmclock_e2e_guest::REFUSED;

use crate::driver::{log, name, DEVICES, DRIVERS};

/// Tries to give each of them to our driver. Gives the answers, and what the kernel's log has of each since.
pub(crate) fn all() -> Result<Value> {
    let mut found = Map::new();
    for entry in fs::read_dir(DEVICES).with_context(|| format!("cannot list {DEVICES}"))?.flatten() {
        let device = entry.file_name().to_string_lossy().into_owned();
        if device.ends_with(REFUSED) {
            ensure!(!entry.path().join("driver").exists(), "a driver has {device} already");
            let before = log(&device)?.len();
            let answer = match fs::write(format!("{DRIVERS}/ptp_vmclock_rust/bind"), &device) {
                Ok(()) => "bound".to_owned(),
                Err(error) => Errno::from_io_error(&error).map_or(error.to_string(), name),
            };
            // What is taken is given back.
            if answer == "bound" {
                fs::write(format!("{DRIVERS}/ptp_vmclock_rust/unbind"), &device).context("cannot unbind")?;
            }
            let lines = log(&device)?.split_off(before);
            found.insert(device, json!({ "answer": answer, "log": lines }));
        }
    }
    Ok(found.into())
}
