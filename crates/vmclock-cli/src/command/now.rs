// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock now`: one reading.

use std::process::ExitCode;

use vmclock::{Reading, VmClock};

use crate::cli::PageArgs;
use crate::output::{civil, civil_utc, error, print, print_json, reading_json};

pub(crate) fn run(args: &PageArgs) -> anyhow::Result<ExitCode> {
    let clock = VmClock::open_at(&args.page)?;
    let reading = clock.now()?;
    if args.json {
        let mut map = reading_json(&reading);
        map.insert("status".into(), reading.status().to_string().into());
        map.insert(
            "max_error_nsec".into(),
            reading.max_error_nanos().and_then(|error| u64::try_from(error).ok()).into(),
        );
        map.insert("disruption_marker".into(), reading.disruption_marker().into());
        map.insert("vm_generation_counter".into(), reading.generation().into());
        map.insert("counter".into(), reading.counter().into());
        print_json(&map)?;
    } else {
        print(&format!("{}\n", line(&reading)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// TAI, UTC and the error on one line.
pub(crate) fn line(reading: &Reading) -> String {
    let tai = reading.tai().map_or_else(|| "unknown".into(), civil);
    let utc = reading.utc().map_or_else(|| "unknown".into(), civil_utc);
    let error = reading.max_error_nanos().map_or_else(|| "no bounds".into(), error);
    match reading.monotonic() {
        Some(time) => {
            format!("monotonic {}.{:09} s  {error}  {}", time.seconds(), time.subsec_nanos(), reading.status())
        }
        None => format!("TAI {tai}  UTC {utc}  {error}  {}", reading.status()),
    }
}
