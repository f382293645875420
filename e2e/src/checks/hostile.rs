// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages that no publisher would write, under a driver that runs: programs get errors, and nothing hangs.

use std::hash::{BuildHasher, Hasher, RandomState};

use anyhow::{bail, ensure, Context, Result};
use vmclock_core::abi::{ClockStatus, CounterId, Snapshot, TimeType, STRUCTURE_LEN};

use crate::machine::Machine;

use super::ATTEMPTS;

type Bytes = [u8; STRUCTURE_LEN];

/// How long a program may wait for one thing, in milliseconds: the driver and our reader wait 100 ms for a page in the
/// middle of an update, and opening reads it more than once.
const LONGEST: u64 = 1_500;

/// Every hostile page in turn, under a driver that was bound to a good one.
pub(super) fn run(machine: &mut Machine) -> Result<String> {
    let slowest = machine.while_publisher_stands(|machine| each(machine, |machine| attempt(machine, false)))?;
    after(machine)?;
    Ok(format!("{} pages, no time from any; the slowest answer took {slowest} ms", count()))
}

/// The same with our driver, whose PTP clock has no time to give either; and with it being bound to each of them.
pub(super) fn run_rust(machine: &mut Machine) -> Result<String> {
    let mut refused = 0;
    machine.while_publisher_stands(|machine| {
        each(machine, |machine| attempt(machine, true))?;
        each(machine, |machine| {
            refused += u32::from(machine.ask("driver bind rust")? != "bound");
            attempt(machine, true)
        })
    })?;
    ensure!(machine.ask("driver bind rust")? == "bound", "after all that, our driver cannot be bound");
    after(machine)?;
    Ok(format!("{} pages, no time from any, neither of PTP; {refused} of them refused when bound to", count()))
}

/// Puts each page in the place of the publisher's, and tells the guest where we can. Gives how long the slowest look
/// took, in milliseconds.
fn each(machine: &mut Machine, mut look: impl FnMut(&mut Machine) -> Result<u64>) -> Result<u64> {
    let kept = machine.region()?.bytes()?;
    let mut slowest = 0;
    for (name, bytes) in pages(&kept) {
        machine.region()?.set_bytes(&bytes)?;
        machine.ring()?;
        let result = look(machine).with_context(|| format!("a page that is hostile ({name})"));
        machine.region()?.set_bytes(&kept)?;
        machine.ring()?;
        slowest = slowest.max(result?);
    }
    Ok(slowest)
}

/// A good page works again.
fn after(machine: &mut Machine) -> Result<()> {
    let seen = machine.ask("fields").context("after all that, a good page")?;
    ensure!(seen["now"].is_null(), "after all that, a good page gives no time: {}", seen["now"]);
    Ok(())
}

fn count() -> usize {
    pages(&[0; STRUCTURE_LEN]).len()
}

/// Hostile pages, made of one that is not.
fn pages(good: &Bytes) -> Vec<(&'static str, Bytes)> {
    let changed = |change: &dyn Fn(&mut Snapshot)| {
        let mut page = Snapshot::from_bytes(good);
        change(&mut page);
        page.to_bytes()
    };
    vec![
        ("in the middle of an update for ever", changed(&|page| page.seq_count |= 1)),
        ("all ones", [0xff; STRUCTURE_LEN]),
        ("all zeros", [0; STRUCTURE_LEN]),
        ("random", random()),
        ("random behind the constant fields", {
            let mut bytes = *good;
            bytes[0x10..].copy_from_slice(&random()[0x10..]);
            // A random status is hardly ever one that gives time; neither by chance.
            bytes[0x22] = ClockStatus::UNRELIABLE.0;
            bytes
        }),
        ("another magic", changed(&|page| page.magic = !page.magic)),
        ("size 0", changed(&|page| page.size = 0)),
        (
            "the largest size, another counter",
            changed(&|page| {
                page.size = u32::MAX;
                let ours = page.counter_id == CounterId::X86_TSC;
                page.counter_id = if ours { CounterId::ARM_CNTVCT } else { CounterId::X86_TSC };
            }),
        ),
        ("shift 200", changed(&|page| page.counter_period_shift = 200)),
        (
            "shift 255 and the longest period",
            changed(&|page| {
                page.counter_period_shift = 255;
                page.counter_period_frac_sec = u64::MAX;
            }),
        ),
        ("period 0", changed(&|page| page.counter_period_frac_sec = 0)),
        ("a scale that there is not", changed(&|page| page.time_type = TimeType(200))),
        ("no counter", changed(&|page| page.counter_id = CounterId::NONE)),
    ]
}

/// Lets the guest's programs try everything, PTP among what must fail or not. Gives how long the slowest took, in
/// milliseconds.
fn attempt(machine: &mut Machine, ptp: bool) -> Result<u64> {
    let mut slowest = attempt_once(machine, ptp)?;
    // A guest that was put off took longer than it should.
    for _ in 1..ATTEMPTS {
        if slowest.millis >= LONGEST {
            slowest = attempt_once(machine, ptp)?;
        }
    }
    ensure!(slowest.millis < LONGEST, "{} took {} ms, {ATTEMPTS} times", slowest.what, slowest.millis);
    Ok(slowest.millis)
}

/// What took longest.
#[derive(Default)]
struct Slowest {
    what: String,
    millis: u64,
}

fn attempt_once(machine: &mut Machine, ptp: bool) -> Result<Slowest> {
    let outcomes = machine.ask("attempts")?;
    let mut slowest = Slowest::default();
    for outcome in outcomes.as_array().context("the guest sends no outcomes")? {
        let (Some(name), Some(text), Some(millis)) = (outcome[0].as_str(), outcome[1].as_str(), outcome[2].as_u64())
        else {
            bail!("the guest sends an outcome that is none: {outcome}");
        };
        let must_fail = name.starts_with("now") || (ptp && name.starts_with("PTP"));
        ensure!(!must_fail || text.starts_with("error"), "{name} gives a time: {text}");
        if millis > slowest.millis {
            slowest = Slowest { what: format!("{name} ({text})"), millis };
        }
    }
    Ok(slowest)
}

/// Other bytes in every run.
fn random() -> Bytes {
    let mut bytes = [0; STRUCTURE_LEN];
    for (index, chunk) in bytes.chunks_mut(8).enumerate() {
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_usize(index);
        chunk.copy_from_slice(&hasher.finish().to_le_bytes());
    }
    bytes[0x0c] &= !1;
    bytes
}
