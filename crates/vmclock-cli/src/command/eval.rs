// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock eval`: what a page at rest gives at a counter value.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{bail, Context};
use serde_json::Value;
use vmclock::{CounterId, Reading, Snapshot};

use crate::cli::{CpuCounter, EvalArgs};
use crate::exit;
use crate::output::{print, print_json, reading_json};

pub(crate) fn run(args: &EvalArgs) -> anyhow::Result<ExitCode> {
    let page = read_page(&args.page)?;
    let cpu = match args.cpu_counter {
        Some(CpuCounter::X86Tsc) => CounterId::X86_TSC,
        Some(CpuCounter::ArmCntvct) => CounterId::ARM_CNTVCT,
        None => vmclock_core::counter::ID,
    };
    let reading = Reading::new(&page, args.counter, cpu);
    if args.json {
        let mut map = match &reading {
            Ok(reading) => reading_json(reading),
            Err(reason) => ["time", "earliest", "latest", "tai", "utc"]
                .into_iter()
                .map(|key| (key.to_owned(), Value::Null))
                .chain([("reason".to_owned(), reason.to_string().into())])
                .collect(),
        };
        map.insert("status".into(), page.clock_status.to_string().into());
        map.insert("disruption_marker".into(), page.disruption_marker.into());
        map.insert("vm_generation_counter".into(), page.generation().into());
        print_json(&map)?;
    } else {
        print(&match &reading {
            Ok(reading) => format!("{reading}\n"),
            Err(reason) => format!("{reason}\n"),
        })?;
    }
    Ok(reading.map_or(ExitCode::from(exit::NO_TIME), |_| ExitCode::SUCCESS))
}

/// Reads the first bytes of a file that nobody writes to.
fn read_page(path: &Path) -> anyhow::Result<Snapshot> {
    let name = path.display();
    // Not blocking, so that a FIFO does not hang us.
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = File::options()
        .read(true)
        .custom_flags(nonblocking)
        .open(path)
        .with_context(|| format!("{name}: cannot open the page"))?;
    if !file.metadata().with_context(|| format!("{name}: cannot look at it"))?.is_file() {
        bail!("{name}: not a plain file; for a device, copy its page first: head -c 4096 {name} > page.bin");
    }
    let mut bytes = Vec::new();
    file.take(4096).read_to_end(&mut bytes).with_context(|| format!("{name}: cannot read the page"))?;
    Snapshot::from_prefix(&bytes).with_context(|| name.to_string())
}
