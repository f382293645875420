// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest on a host that refreshes its page ten times a second.

use std::fmt::Write;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};
use serde_json::{json, Value};
use vmclock_core::abi::{Flags, Snapshot};
use vmclock_e2e_guest::hex;

use crate::machine::{Clock, Kernel, Machine};
use crate::report::Report;
use crate::truth::{Offset, Reading};
use crate::Lab;

use super::judge::Begun;
use super::{hostile, is_new, items, micros, notify, percentile, TAI_MINUS_UTC};

const READINGS: usize = 10_000;
/// Between two readings, in microseconds: all of them together outlast some refreshes.
const PAUSE: u32 = 100;
/// What half of all readings must be better than, in nanoseconds, under TCG.
const MEDIAN: i128 = 20_000;
/// How far Linux's PTP clock and our reader may differ, in nanoseconds.
const AGREEMENT: i128 = 2_000;

pub(super) fn run(lab: &Lab, kernel: &Kernel, report: &mut Report) {
    let name = |check: &str| format!("{} {check}", kernel.version);
    let mut booted = None;
    report.check(&name("boot"), || {
        let options = Clock::Ours(&["--second-page", "--refresh", "100ms"]);
        let (machine, line) = Machine::boot_calibrated(lab, kernel, "live", &options)?;
        booted = Some(machine);
        Ok(format!("the guest's counter is known within {} ns", line["window_ns"]))
    });
    let Some(mut machine) = booted else { return };
    let machine = &mut machine;
    let mut check = |what: &str, check: &mut dyn FnMut(&mut Machine) -> Result<String>| {
        report.check_on(machine, &name(what), check);
    };
    check("fields", &mut fields);
    check("every-field", &mut every_field);
    check("accuracy", &mut |machine| accuracy(lab, machine, "readings"));
    if lab.c_program.is_some() {
        check("c", &mut |machine| accuracy(lab, machine, "c-readings"));
    }
    let mut scale = None;
    check("ptp", &mut |machine| {
        let figures = ptp(machine, &mut scale)?;
        ensure!(scale == Some(Scale::Tai) || !is_new(kernel), "since Linux 7.0 it should be TAI: {figures}");
        Ok(figures)
    });
    if let Some(scale) = scale {
        check("doctor", &mut |machine| doctor(scale, machine));
        check("sources", &mut |machine| sources(scale, machine));
    }
    check("idle", &mut |machine| notify::idle(machine, is_new(kernel)));
    check("pause", &mut |machine| pause(lab, machine));
    check("hostile", &mut hostile::run);
    check("reset", &mut |machine| reset(lab, machine));
}

/// Every field, as the publisher has it on the page now.
pub(super) fn fields(machine: &mut Machine) -> Result<String> {
    for _ in 0..20 {
        let before = machine.region()?.page()?;
        let seen = machine.ask("fields")?;
        if machine.region()?.page()? == before {
            ensure!(seen["now"].is_null(), "the page gives no time: {}", seen["now"]);
            same(&seen, &before)?;
            ensure!(i64::from(before.tai_offset_sec) == -TAI_MINUS_UTC, "TAI offset {}", before.tai_offset_sec);
            return Ok(format!(
                "over mmap and over read as published: {}",
                before.flags.names().collect::<Vec<_>>().join(" ")
            ));
        }
    }
    bail!("in none of 20 attempts did the page stay as it was")
}

/// Every field, each with a value that no other has.
fn every_field(machine: &mut Machine) -> Result<String> {
    machine.while_publisher_stands(|machine| {
        let kept = machine.region()?.bytes()?;
        let page = Snapshot::from_bytes(&kept);
        let mut bytes = page.to_bytes();
        // The constant ones stay; and the sequence count remains even.
        for (index, byte) in bytes.iter_mut().enumerate().skip(0x10) {
            *byte = u8::try_from(index)?;
        }
        let mut page = Snapshot::from_bytes(&bytes);
        page.flags = Flags(0x3ff);
        machine.region()?.set_bytes(&page.to_bytes())?;
        let seen = machine.ask("fields");
        machine.region()?.set_bytes(&kept)?;
        same(&seen?, &page)
    })?;
    Ok("as written, over mmap and over read".to_owned())
}

fn same(seen: &Value, page: &Snapshot) -> Result<()> {
    ensure!(seen["is_mapped"] == true, "the page is not mapped where it should be, or the other way round");
    let published = hex(&page.to_bytes());
    for way in ["mmap", "read"] {
        ensure!(
            seen[way] == published.as_str(),
            "over {way} the guest sees\n  {}, published is\n  {published:?}",
            seen[way]
        );
    }
    Ok(())
}

/// Lets the guest tell its counter for a while: to us, and to the publisher, whose idea of it is waited for to become
/// narrow, where that is wanted. With one CPU it never would. Says whether it did.
fn exchange(machine: &mut Machine, to_publisher: bool) -> Result<(Offset, bool)> {
    machine.region()?.begin()?;
    let question = machine.say("beacon")?;
    let exchanged: Result<_> = (|| {
        let apart = machine.apart()?;
        let is_narrow = |line: &Value| line["error_ns"].as_i64().is_some_and(|error| i128::from(error) < MEDIAN / 10);
        let waits = to_publisher && apart.is_some();
        // On a busy machine it takes the publisher more than one attempt.
        while waits && !is_narrow(&machine.wait_for("handover")?) {}
        Ok((machine.region()?.guest_minus_host()?, waits))
    })();
    // However it went: the guest must not go on with it for ever.
    machine.region()?.end()?;
    let exchanged = exchanged?;
    machine.answer(question)?;
    Ok(exchanged)
}

/// True time is inside every interval, and half of the errors are small: of readings by the Rust library (`readings`),
/// or by a program in C (`c-readings`).
fn accuracy(lab: &Lab, machine: &mut Machine, question: &str) -> Result<String> {
    machine.forget_lines();
    let (before, is_narrow) = exchange(machine, true)?;
    let first_count = machine.region()?.page()?.seq_count;
    let taken = machine.ask(&format!("{question} {READINGS} {PAUSE}"))?;
    let updates = machine.region()?.page()?.seq_count.wrapping_sub(first_count) / 2;
    let offset = before.intersection(exchange(machine, false)?.0);
    ensure!(offset.low <= offset.high, "the guest's counter moved against the host's meanwhile: {offset:?}");

    let errors = items(&taken, "errors")?;
    ensure!(errors.is_empty(), "{} readings failed, the first: {}", errors.len(), errors[0]);
    let readings = items(&taken, "readings")?.iter().map(Reading::parse).collect::<Result<Vec<_>>>()?;
    ensure!(readings.len() == READINGS, "the guest took {} readings", readings.len());
    let slack = lab.nanos(offset.width());
    let (mut wrong, mut errors, mut bounds) = (0, Vec::new(), Vec::new());
    for reading in &readings {
        wrong += u32::from(!reading.holds(&lab.truth, offset, slack)?);
        errors.push(reading.error(&lab.truth, offset)?.abs());
        bounds.push(reading.bound());
    }
    errors.sort_unstable();
    bounds.sort_unstable();
    let figures = format!(
        "{READINGS} readings over {updates} updates, {wrong} outside; error median {}, 99 % {}, worst {}; \
         interval median ± {}, worst ± {}; truth is known within {slack} ns",
        micros(percentile(&errors, 50)),
        micros(percentile(&errors, 99)),
        micros(percentile(&errors, 100)),
        micros(percentile(&bounds, 50)),
        micros(percentile(&bounds, 100)),
    );
    ensure!(wrong == 0 && updates > 0, "{figures}");
    ensure!(!is_narrow || percentile(&errors, 50) < MEDIAN, "{figures}");
    Ok(figures)
}

/// What Linux's PTP clock counts in; which of them is told by comparing, as some vendors change it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    Tai,
    Utc,
}

impl Scale {
    fn name(self) -> &'static str {
        match self {
            Self::Tai => "TAI",
            Self::Utc => "UTC",
        }
    }

    /// By how many nanoseconds it is behind TAI.
    fn behind(self) -> i128 {
        match self {
            Self::Tai => 0,
            Self::Utc => i128::from(TAI_MINUS_UTC) * 1_000_000_000,
        }
    }
}

/// Linux's PTP clock against our reader; which scale it has is found out on the way.
pub(super) fn ptp(machine: &mut Machine, scale: &mut Option<Scale>) -> Result<String> {
    let compared = machine.ask("ptp 200")?;
    let first = compared["gettime"][0][0].as_i64().context("the guest sends no number")?;
    let found = if first < -1_000_000_000 { Scale::Utc } else { Scale::Tai };
    *scale = Some(found);
    let mut figures = format!("{} reports {}", compared["device"].as_str().unwrap_or_default(), found.name());
    for way in ["gettime", "ioctl"] {
        let ahead = |pair: &Value| -> Result<(i128, i128)> {
            let nanos = |index: usize| pair[index].as_i64().map(i128::from).context("the guest sends no number");
            Ok((nanos(0)? + found.behind(), nanos(1)?))
        };
        let pairs = items(&compared, way)?.iter().map(ahead).collect::<Result<Vec<_>>>()?;
        let mut differences: Vec<i128> = pairs.iter().map(|(ahead, _)| ahead.abs()).collect();
        // By how much they differ for certain: the rest is that they were not read at one instant.
        let mut certain: Vec<i128> = pairs.iter().map(|(ahead, apart)| (ahead.abs() - apart).max(0)).collect();
        differences.sort_unstable();
        certain.sort_unstable();
        write!(
            figures,
            "; {way}: {} times, median {}, apart for certain by at most {} ns",
            pairs.len(),
            micros(percentile(&differences, 50)),
            percentile(&certain, 100)
        )?;
        ensure!(percentile(&certain, 100) <= AGREEMENT, "{figures}");
    }
    Ok(figures)
}

/// The command's own findings name the scale of the PTP clock.
fn doctor(scale: Scale, machine: &mut Machine) -> Result<String> {
    let said = machine.ask("vmclock doctor")?;
    let text = said["stdout"].as_str().unwrap_or_default();
    ensure!(said["status"] == 0, "doctor ends with {}: {text}{}", said["status"], said["stderr"]);
    let scale = scale.name();
    let line = text.lines().find(|line| line.contains("/dev/ptp") && line.contains(scale));
    let line = line.with_context(|| format!("no line names the PTP clock's scale {scale}:\n{text}"))?;
    Ok(format!("{:?}", line.trim()))
}

/// A publisher in the guest, whose sources are the page and the PTP clock.
fn sources(scale: Scale, machine: &mut Machine) -> Result<String> {
    let mut figures = Vec::new();
    for kind in ["vmclock", "ptp"] {
        let compared = machine.ask(&format!("serve-from {kind} {}", scale.name().to_lowercase()))?;
        ensure!(compared["apart"] == 0, "served from {kind}, the intervals do not overlap: {compared}");
        ensure!(compared["status"] == "synchronized", "served from {kind}: {compared}");
        let bound = compared["bound"].as_i64().context("the guest sends no bound")?;
        figures.push(format!(
            "from {kind}: {} comparisons, 0 apart, ± {}",
            compared["comparisons"],
            micros(bound.into())
        ));
    }
    Ok(figures.join("; "))
}

/// Pause and continue: no event, and no reading wrong.
pub(super) fn pause(lab: &Lab, machine: &mut Machine) -> Result<String> {
    let observation = Begun::begin(machine)?;
    machine.qmp.run("stop", &json!({}))?;
    let stopped = observation.guest_counter();
    sleep(Duration::from_millis(300));
    machine.forget_lines();
    machine.qmp.run("cont", &json!({}))?;
    machine.wait_for("calibrated")?;
    observation.end(machine, stopped)?.judge(lab, &[])
}

/// A reset: the guest boots again with the same marker and generation, and a right clock.
fn reset(lab: &Lab, machine: &mut Machine) -> Result<String> {
    let before = machine.region()?.page()?;
    machine.forget_lines();
    machine.qmp.run("system_reset", &json!({}))?;
    machine.wait_for("reset")?;
    machine.wait_until_ready_again()?;
    let after = machine.region()?.page()?;
    let facts = |page: &Snapshot| (page.disruption_marker, page.vm_generation_counter);
    ensure!(facts(&before) == facts(&after), "marker and generation changed: {before:?}, {after:?}");
    let observation = Begun::begin(machine)?;
    let now = observation.guest_counter();
    observation.end(machine, now)?.judge(lab, &[])
}
