// SPDX-License-Identifier: MIT OR Apache-2.0
//! Our own reader, over mmap(2) and over read(2).
#![forbid(unsafe_code)]

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{json, Value};
use vmclock::{OpenError, OpenOptions, Reading, VmClock, DEVICE_PATH};
use vmclock_e2e_guest::hex;

use crate::region::Region;
use crate::{driver, ptp};

fn open(mapped: bool) -> Result<VmClock, OpenError> {
    OpenOptions::new().map(mapped).open(DEVICE_PATH)
}

/// The page as our reader sees it in both ways, each as the bytes of the structure in hexadecimal.
pub(crate) fn fields() -> Result<Value> {
    let (mapped, read) = (open(true)?, open(false)?);
    let (by_mmap, by_read) = (hex(&mapped.snapshot()?.to_bytes()), hex(&read.snapshot()?.to_bytes()));
    Ok(json!({
        "is_mapped": mapped.is_mapped() && !read.is_mapped(),
        "mmap": by_mmap,
        "read": by_read,
        "now": mapped.now().map_err(|error| error.to_string()).err(),
    }))
}

/// A reading as the harness judges it: the counter, and the TAI nanoseconds before, in and after which true time is.
pub(crate) fn judgeable(reading: &Reading) -> Result<Value> {
    let tai = reading.tai().context("the page gives no TAI")?.timestamp();
    let interval = reading.tai_interval().context("the page states no maximum error")?;
    Ok(json!([
        reading.counter(),
        // JSON has no 128-bit numbers; nanoseconds since 1970 fit into 64 bits until 2262.
        i64::try_from(interval.earliest.nanos())?,
        i64::try_from(tai.nanos())?,
        i64::try_from(interval.latest.nanos())?,
    ]))
}

/// Many readings, first taken and then written down. Between them the host is told our counter when it asks.
pub(crate) fn readings(count: usize, pause: Duration, region: &Region) -> Result<Value> {
    let clock = open(true)?;
    let mut taken = Vec::with_capacity(count);
    for _ in 0..count {
        taken.push(clock.now());
        let until = Instant::now() + pause;
        while Instant::now() < until {
            region.answer();
        }
    }
    let (mut readings, mut errors) = (Vec::new(), Vec::new());
    for reading in taken {
        match reading {
            Ok(reading) => readings.push(judgeable(&reading)?),
            Err(error) => errors.push(error.to_string()),
        }
    }
    Ok(json!({ "readings": readings, "errors": errors }))
}

/// Everything that a program may try on a page, and what came of it, each with its milliseconds: for hostile pages.
pub(crate) fn attempts() -> Value {
    let mut outcomes = Vec::new();
    let mut attempt = |name: &str, what: &mut dyn FnMut() -> Result<String, String>| {
        let start = Instant::now();
        let outcome = what().unwrap_or_else(|error| format!("error: {error}"));
        outcomes.push(json!([name, outcome, start.elapsed().as_millis().try_into().unwrap_or(u64::MAX)]));
    };
    let text = |error: &dyn std::fmt::Display| error.to_string();
    for (name, mapped) in [("mmap", true), ("read", false)] {
        let mut opened = None;
        attempt(&format!("open by {name}"), &mut || {
            opened = Some(open(mapped).map_err(|error| text(&error))?);
            Ok("opened".to_owned())
        });
        let Some(clock) = opened else { continue };
        attempt(&format!("now by {name}"), &mut || {
            let reading = clock.now().map_err(|error| text(&error))?;
            Ok(format!("{:?} ± {:?} ns", reading.time(), reading.max_error_nanos()))
        });
        attempt(&format!("events by {name}"), &mut || {
            let mut events = clock.events().map_err(|error| text(&error))?;
            let waited = events.wait(Some(Duration::from_millis(20))).map_err(|error| text(&error))?;
            Ok(if waited.is_some() { "a change" } else { "no change" }.to_owned())
        });
    }
    let nanos = |time: Result<i128>| time.map(|time| format!("{time} ns")).map_err(|error| format!("{error:#}"));
    attempt("PTP time", &mut || nanos(ptp::read_once()));
    attempt("PTP time beside the system's", &mut || nanos(ptp::read_beside()));
    attempt("PTP cross timestamp", &mut || nanos(ptp::cross()));
    attempt("attributes", &mut || {
        driver::attributes().map(|found| found.to_string()).map_err(|error| format!("{error:#}"))
    });
    // What is on its way to other programs gets its turn, as there is but one CPU.
    sleep(Duration::from_millis(1));
    json!(outcomes)
}
