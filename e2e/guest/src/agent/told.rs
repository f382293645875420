// SPDX-License-Identifier: MIT OR Apache-2.0
//! The host's end of what the agent tells: sockets of vsock, which this machine has by itself where nobody offers it a
//! host's.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::Read;
use std::sync::Mutex;
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use serde_json::Value;
use socket2::{Domain, SockAddr, Socket, Type};
use vmclock_e2e_guest::{TOLD_PORT, VSOCK_MODULES};

use super::PATIENCE;
use crate::boot;

/// Where the agent finds systemd's credentials.
pub(super) const CREDENTIALS: &str = "/tmp/credentials";
/// Any address that this machine has.
const ANY: u32 = u32::MAX;
/// A socket of messages, to which the configuration sends.
const MESSAGES: u32 = 1_234;
/// A stream, which a credential names.
const STREAM: u32 = 1_235;

/// What came, each time with its port.
static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Listens, and gives the port that is connected to the harness.
pub(super) fn listen() -> Result<Value> {
    for module in VSOCK_MODULES {
        let path = format!("/{module}.ko.xz");
        let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        boot::load(&file, &CString::default()).with_context(|| format!("cannot load {path}"))?;
    }
    fs::create_dir_all(CREDENTIALS)?;
    fs::write(format!("{CREDENTIALS}/vmm.notify_socket"), format!("vsock-stream:1:{STREAM}\n"))?;
    for (kind, port) in [(Type::SEQPACKET, MESSAGES), (Type::STREAM, STREAM)] {
        let socket = Socket::new(Domain::VSOCK, kind, None).context("no vsock")?;
        socket.bind(&SockAddr::vsock(ANY, port))?;
        socket.listen(8)?;
        spawn(move || {
            while let Ok((mut caller, _)) = socket.accept() {
                let (mut text, mut bytes) = (String::new(), [0; 4096]);
                // A message has to be read at once: what there is no room for is lost.
                while let Ok(len @ 1..) = caller.read(&mut bytes) {
                    text += &String::from_utf8_lossy(&bytes[..len]);
                }
                if let Ok(mut told) = TOLD.lock() {
                    told.push(format!("{port}: {text}"));
                }
            }
        });
    }
    Ok(boot::find_port(TOLD_PORT, PATIENCE)?.into())
}

/// Waits until so many messages have come, and gives all.
pub(super) fn told(count: usize) -> Result<Value> {
    let start = Instant::now();
    loop {
        let told = TOLD.lock().map(|told| told.clone()).unwrap_or_default();
        if told.len() >= count {
            return Ok(told.into());
        }
        ensure!(start.elapsed() < PATIENCE, "{} of {count} messages have come: {told:?}", told.len());
        sleep(Duration::from_millis(10));
    }
}
