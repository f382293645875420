// SPDX-License-Identifier: MIT OR Apache-2.0
//! poll(2) on the device, and our own events on top of it.
#![forbid(unsafe_code)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering::Release;
use std::time::{Duration, Instant};

use anyhow::{bail, Result};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::time::{clock_gettime, ClockId};
use serde_json::{json, Value};
use vmclock::{Snapshot, VmClock, DEVICE_PATH};
use vmclock_core::abi::STRUCTURE_LEN;
use vmclock_e2e_guest::{WAKES, WOKEN_AT};

use crate::region::Region;

/// Sleeps in poll(2) until woken, again and again, and tells the host of each time.
pub(crate) fn poll_until_end(region: &Region) -> Result<Value> {
    let device = File::open(DEVICE_PATH)?;
    let mut seen = vec![sequence(&device)?];
    region.word(WOKEN_AT).store(seen[0].into(), Release);
    region.word(WAKES).store(0, Release);
    let mut wakes = 0;
    while !region.ended() {
        let flags = poll_once(&device, Duration::from_millis(100))?;
        if flags.is_empty() {
            continue;
        }
        if flags != PollFlags::IN {
            bail!("poll(2) says {flags:?}, not POLLIN");
        }
        wakes += 1;
        seen.push(sequence(&device)?);
        region.word(WOKEN_AT).store(seen[seen.len() - 1].into(), Release);
        region.word(WAKES).store(wakes, Release);
    }
    Ok(json!({ "wakes": wakes, "sequences": seen }))
}

/// What poll(2) says at once, and whether our events know to use a timer instead.
pub(crate) fn without_notifications() -> Result<Value> {
    let device = File::open(DEVICE_PATH)?;
    sequence(&device)?;
    let start = Instant::now();
    let flags = poll_once(&device, Duration::from_secs(2))?;
    let waited = start.elapsed().as_millis();
    let events = VmClock::open()?.events()?;
    Ok(json!({
        "flags": format!("{flags:?}"),
        "hup": flags.contains(PollFlags::HUP),
        "millis": u64::try_from(waited)?,
        "notified": events.is_notified(),
    }))
}

/// Waits for real events that do not come, and says what that cost the CPU.
pub(crate) fn idle(time: Duration) -> Result<Value> {
    let cpu = || clock_gettime(ClockId::ProcessCPUTime);
    let mut events = VmClock::open()?.events()?;
    let (before, start, mut changes) = (cpu(), Instant::now(), 0);
    while let Some(left) = time.checked_sub(start.elapsed()) {
        changes += u32::from(events.wait(Some(left))?.is_some());
    }
    let after = cpu();
    let micros = (after.tv_sec - before.tv_sec) * 1_000_000 + (after.tv_nsec - before.tv_nsec) / 1000;
    Ok(json!({ "notified": events.is_notified(), "changes": changes, "cpu_micros": micros }))
}

fn poll_once(device: &File, timeout: Duration) -> Result<PollFlags> {
    let mut ready = [PollFd::new(device, PollFlags::IN)];
    poll(&mut ready, Some(&Timespec::try_from(timeout)?))?;
    Ok(ready[0].revents())
}

/// The sequence count, read so that the driver knows that we have seen it.
fn sequence(device: &File) -> Result<u32> {
    let mut bytes = [0; STRUCTURE_LEN];
    device.read_exact_at(&mut bytes, 0)?;
    Ok(Snapshot::from_bytes(&bytes).seq_count)
}
