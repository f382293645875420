// SPDX-License-Identifier: MIT OR Apache-2.0
//! The first process of a test guest. It mounts what programs expect, loads Linux's own VMClock driver, and then
//! does what the harness on the host asks for, word for word (see [`run`]), until the machine is switched off.
//!
//! | module | what it is |
//! |---|---|
//! | [`boot`] | what an init has to do |
//! | [`region`] | the shared words behind the page |
//! | [`page`] | our own reader, in both its ways, also on hostile pages |
//! | [`ptp`] | the PTP clock of Linux's driver, beside our reader |
//! | [`notify`] | poll(2), and our events |
//! | [`observe`] | a look at the clock every few microseconds, over whatever happens to the machine |
//! | [`driver`] | which driver has the device, what it allows, what it costs |
//! | [`refused`] | other devices like the clock's, which our driver takes or not |
//! | [`nested`] | a guest of KVM in a guest |
//! | [`fault`] | a kernel in which allocations fail on demand |
//! | [`trace`] | what the kernel traces of the drivers' work |
//! | [`source`] | a publisher in here, with the page or the PTP clock for its source |
//! | [`command`] | the `vmclock` command, run in here |
//! | [`agent`] | the guest agent, and a workload that stamps records |

mod agent;
mod boot;
mod command;
mod driver;
mod fault;
mod nested;
mod notify;
mod observe;
mod page;
mod ptp;
mod refused;
mod region;
mod source;
mod trace;

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{bail, Context, Result};
use serde_json::{json, Value};
use vmclock_core::counter;

use crate::command::Watch;
use crate::region::Region;
use vmclock_e2e_guest::{MEASURED, PORT};

fn main() {
    if let Some(result) = agent::is_called_otherwise() {
        if let Err(error) = result {
            println!("vmclock-e2e: {error:#}");
            std::process::exit(1);
        }
        return;
    }
    // Nobody is there to take an error: the console is all there is, and the harness shows it.
    if let Err(error) = serve() {
        println!("vmclock-e2e: {error:#}");
    }
    loop {
        sleep(Duration::from_secs(60));
    }
}

fn serve() -> Result<()> {
    boot::mount_all()?;
    boot::use_console();
    let driver = boot::load_driver();
    match nested::run() {
        Ok(false) => {}
        result => {
            // The last line, by which the harness knows that all is said.
            println!("{MEASURED} end: {:?}", result.err().map(|error| format!("{error:#}")));
            nested::end();
        }
    }
    println!("vmclock-e2e: the driver: {driver:?}");
    // Not there with QEMU's own device.
    let region = Region::find();
    println!("vmclock-e2e: the shared region: {:?}", region.as_ref().map(|_| "mapped"));

    let path = boot::find_port(PORT, Duration::from_secs(120))?;
    let port = OpenOptions::new().read(true).write(true).open(&path).with_context(|| format!("cannot open {path}"))?;
    let mut writer = port.try_clone()?;
    let mut reader = BufReader::new(port);
    let mut watch = None;
    let mut held = driver::Held::default();
    let mut processes = agent::Processes::default();
    writeln!(
        writer,
        "{}",
        json!({ "ready": boot::kernel(), "driver": driver.map_err(|error| error.to_string()).err() })
    )?;
    loop {
        let mut line = String::new();
        // Nothing to read means that the host has hung up: after a restore or a migration another one calls.
        if !matches!(reader.read_line(&mut line), Ok(1..)) {
            sleep(Duration::from_millis(2));
            continue;
        }
        let mut words = line.split_whitespace();
        // The harness numbers its questions, and gets the number back with the answer.
        let number = words.next().and_then(|number| number.parse::<u64>().ok());
        let words: Vec<&str> = words.collect();
        let answer = match run(&words, region.as_ref(), &mut watch, &mut held, &mut processes) {
            Ok(value) => json!({ "to": number, "ok": value }),
            Err(error) => json!({ "to": number, "error": format!("{error:#}") }),
        };
        // Lost where the host has hung up meanwhile: it knows.
        let _ = writeln!(writer, "{answer}");
    }
}

/// Does what the harness asks for.
fn run(
    words: &[&str],
    region: Result<&Region, &anyhow::Error>,
    watch: &mut Option<Watch>,
    held: &mut driver::Held,
    processes: &mut agent::Processes,
) -> Result<Value> {
    let region = || region.map_err(|error| anyhow::anyhow!("{error:#}"));
    match words {
        ["counter"] => Ok(counter::read_ordered().into()),
        ["fields"] => page::fields(),
        ["readings", count, pause] => page::readings(count.parse()?, Duration::from_micros(pause.parse()?), region()?),
        ["attempts"] => Ok(page::attempts()),
        ["ptp", count] => ptp::compare(count.parse()?),
        ["beacon"] => {
            region()?.answer_until_end();
            Ok(Value::Null)
        }
        ["poll"] => notify::poll_until_end(region()?),
        ["hangup"] => notify::without_notifications(),
        ["idle", millis] => notify::idle(Duration::from_millis(millis.parse()?)),
        ["observe"] => observe::until_end(region()?),
        ["vmclock", arguments @ ..] => command::run(arguments),
        ["c-readings", arguments @ ..] => command::run_c_program(arguments),
        ["agent", words @ ..] => agent::run(words, region(), processes),
        ["watch"] => {
            *watch = Some(Watch::start()?);
            Ok(Value::Null)
        }
        ["c-watch", notified] => {
            *watch = Some(Watch::start_c(notified)?);
            Ok(Value::Null)
        }
        ["refusals"] => refused::all(),
        ["driver", words @ ..] => driver::run(words, held),
        ["serve-from", kind, scale] => source::serve_from(kind, scale),
        ["saw", events] => Ok(watch.as_ref().context("nothing is being watched")?.saw(events.parse()?)),
        ["watched"] => watch.take().context("nothing was being watched")?.stop(),
        // "count 3\nunhandled 1\nlast_unhandled 7 ms"
        ["unhandled", interrupt] => {
            let text = std::fs::read_to_string(format!("/proc/irq/{interrupt}/spurious"))?;
            let count = text.lines().find_map(|line| line.strip_prefix("unhandled "));
            Ok(count.with_context(|| format!("no count in {text:?}"))?.trim().parse::<u64>()?.into())
        }
        ["interrupts"] => Ok(std::fs::read_to_string("/proc/interrupts")?.into()),
        other => bail!("the guest does not know the words {other:?}"),
    }
}
