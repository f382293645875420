// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock bench`: what reading and publishing cost, beside the system's clock and the bare counter.
//!
//! Everything is measured in one run and in turn, and of many short rounds the best one counts: what a thing costs
//! when nothing disturbs it, which is the one figure that a busy machine gives twice alike.

mod accuracy;
mod alone;
mod best;
mod contended;
mod page;
mod service;

use std::process::ExitCode;

use serde_json::{json, Value};

use crate::cli::BenchArgs;
use crate::output::{print, print_json};
use alone::Costs;
use best::Best;
use contended::Contention;
use page::PageUnderTest;

pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<ExitCode> {
    if args.accuracy {
        accuracy::run(args.time, args.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.service {
        service::run(&args.guests, args.rounds, args.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut page = PageUnderTest::publish()?;
    let costs = alone::measure(&mut page, args.rounds)?;
    let contention = contended::measure(&mut page, args.rounds)?;
    let machine = Machine::this();
    if args.json {
        print_json(&to_json(&machine, args.rounds, &costs, &contention))?;
    } else {
        print(&to_text(&machine, args.rounds, &costs, &contention))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What was measured on.
struct Machine {
    cpu: String,
    cpus: usize,
    /// What the system's clock reads, and so `clock_gettime`.
    clocksource: Option<String>,
    /// The kernel's release, whose vDSO is measured.
    kernel: Option<String>,
}

impl Machine {
    fn this() -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let clocksource = std::fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource");
        Self {
            cpu: model.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            clocksource: clocksource.ok().map(|name| name.trim().to_owned()),
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease").ok().map(|name| name.trim().to_owned()),
        }
    }

    /// Whether `clock_gettime` reads the counter that we read. Otherwise it may be a system call, and it is no feat to
    /// be faster.
    fn vdso_reads_counter(&self) -> bool {
        matches!(self.clocksource.as_deref(), Some("tsc" | "arch_sys_counter"))
    }
}

fn to_json(machine: &Machine, rounds: u32, costs: &Costs, contention: &Contention) -> Value {
    let nanos = |best: Best| rounded(best.nanos());
    let ratio = |best: Best, unit| rounded(best.per(unit));
    json!({
        "cpu": machine.cpu,
        "cpus": machine.cpus,
        "clocksource": machine.clocksource,
        "kernel": machine.kernel,
        "rounds": rounds,
        "counter_ns": nanos(costs.counter),
        "counter_ordered_ns": nanos(costs.counter_ordered),
        "rdtscp_ns": nanos(costs.rdtscp),
        "floor_ns": nanos(costs.floor()),
        "vdso_ns": nanos(costs.vdso),
        "now_ns": nanos(costs.now),
        "now_vs_vdso": ratio(costs.now, costs.vdso),
        "now_vs_floor": ratio(costs.now, costs.floor()),
        "now_vs_rdtscp": ratio(costs.now, costs.rdtscp),
        "now_interval_ns": nanos(costs.now_interval),
        "now_interval_vs_vdso": ratio(costs.now_interval, costs.vdso),
        "interval_vs_vdso": ratio(costs.now_interval, costs.vdso),
        "utc_ns": nanos(costs.utc),
        "utc_vs_vdso": ratio(costs.utc, costs.vdso),
        "unordered_ns": nanos(costs.unordered),
        "unordered_vs_vdso": ratio(costs.unordered, costs.vdso),
        "check_ns": nanos(costs.check),
        "check_vs_vdso": ratio(costs.check, costs.vdso),
        "publish_ns": nanos(costs.publish),
        "odd_ns": nanos(costs.odd),
        "quiet_ns": nanos(contention.quiet),
        "contended_ns": nanos(contention.contended),
        "contended_rounds": contention.counted,
        "contended_vs_quiet": ratio(contention.contended, contention.quiet),
        "quiet_mean_ns": nanos(contention.quiet_mean),
        "contended_mean_ns": nanos(contention.contended_mean),
        "contended_mean_vs_quiet": ratio(contention.contended_mean, contention.quiet_mean),
    })
}

/// Three digits behind the point.
fn rounded(number: Option<f64>) -> Option<f64> {
    number.map(|number| (number * 1e3).round() / 1e3)
}

fn to_text(machine: &Machine, rounds: u32, costs: &Costs, contention: &Contention) -> String {
    let clocksource = machine.clocksource.as_deref().unwrap_or("unknown");
    let kernel = machine.kernel.as_deref().unwrap_or("unknown");
    let head = format!(
        "{}, {} CPUs, clocksource {clocksource}, kernel {kernel}; nanoseconds a call, the best of {rounds} rounds\n\n",
        machine.cpu, machine.cpus
    );
    let [counter, counter_ordered] = COUNTER_INSTRUCTIONS;
    let clock = (costs.vdso, "vDSO");
    let vdso = Some(clock);
    let rows = [
        (counter, costs.counter, vdso),
        (counter_ordered, costs.counter_ordered, vdso),
        ("rdtscp", costs.rdtscp, vdso),
        ("clock_gettime(CLOCK_REALTIME), vDSO", costs.vdso, vdso),
        ("now(): a reading, nothing computed yet", costs.now, vdso),
        ("now() and the ends of its interval", costs.now_interval, vdso),
        ("now() and its UTC in nanoseconds", costs.utc, vdso),
        ("now_unordered()", costs.unordered, vdso),
        ("is_current(): marker and generation", costs.check, vdso),
        ("publish, until all CPUs see it", costs.publish, None),
        ("  of which the sequence count is odd", costs.odd, None),
        ("now() by two threads", contention.quiet, None),
        ("  while a third publishes at 10 kHz", contention.contended, Some((contention.quiet, "quiet"))),
        ("  and takes the CPU from one of them", contention.contended_mean, Some((contention.quiet_mean, "quiet"))),
    ];
    let rows = rows.map(|(what, best, unit)| {
        let cost = best.nanos().map_or_else(|| "-".into(), |cost| format!("{cost:.2}"));
        let ratio = unit.and_then(|(unit, name)| Some(format!("{:8.2} x {name}", best.per(unit)?)));
        let floor = unit.filter(|unit| *unit == clock).and(best.per(costs.floor()));
        let floor = floor.map(|ratio| format!("{ratio:8.2} x counter in order"));
        format!("{what:<41}{cost:>7}{}{}\n", ratio.unwrap_or_default(), floor.unwrap_or_default())
    });
    let mut notes = String::new();
    if !machine.vdso_reads_counter() {
        notes.push_str(
            "\nThe system's clock does not read the CPU's counter: clock_gettime may be a system call here.\n",
        );
    }
    if contention.contended.nanos().is_none() {
        notes.push_str("\nThe writer never got the CPU often enough: the machine is busy.\n");
    }
    head + &rows.concat() + &notes
}

/// What reading the counter is called.
const COUNTER_INSTRUCTIONS: [&str; 2] =
    if cfg!(target_arch = "x86_64") { ["rdtsc", "lfence; rdtsc"] } else { ["mrs cntvct_el0", "isb; mrs cntvct_el0"] };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_is_there_and_sane() {
        let mut page = PageUnderTest::publish().expect("a page");
        let costs = alone::measure(&mut page, 1).expect("measured");
        let contention = contended::measure(&mut page, 1).expect("measured");
        let machine = Machine::this();
        let json = to_json(&machine, 1, &costs, &contention);
        for key in ["now_vs_vdso", "unordered_vs_vdso", "check_ns", "publish_ns", "odd_ns"] {
            assert!(json[key].as_f64().is_some_and(|number| number > 0.0), "{key} in {json}");
        }
        for key in ["now_vs_floor", "interval_vs_vdso", "utc_vs_vdso", "check_vs_vdso", "floor_ns"] {
            assert!(json[key].as_f64().is_some_and(|number| number > 0.0), "{key} in {json}");
        }
        assert!(json["kernel"].is_string() && json["cpu"].is_string(), "{json}");
        assert!(json["floor_ns"].as_f64() <= json["counter_ordered_ns"].as_f64(), "{json}");
        for key in ["now_vs_rdtscp", "contended_vs_quiet"] {
            assert!(json.get(key).is_some(), "{key}, known or not, in {json}");
        }
        let text = to_text(&machine, 1, &costs, &contention);
        assert!(text.contains("now_unordered()") && text.lines().all(|line| line.len() < 120), "{text}");
    }
}
