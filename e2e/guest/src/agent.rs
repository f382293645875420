// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest agent, which the harness put into the initramfs, and what it is for: a workload that stamps records.
#![forbid(unsafe_code)]

mod daemon;
mod hostile;
mod told;

use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering::Release;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use rustix::mount::{mount, MountFlags};
use rustix::time::{clock_gettime, clock_settime, ClockId, Timespec};
use serde_json::{json, Value};
use vmclock::{Reading, Snapshot, TaiOffset, VmClock, DEVICE_PATH};
use vmclock_core::abi::Flags;
use vmclock_core::counter;
use vmclock_core::event::Epoch;
use vmclock_e2e_guest::WOKEN_AT;
use vmclock_host::kernel::{KernelClock, Quality};

use crate::region::Region;

const AGENT: &str = "/vmclock-agent";
const CONFIG: &str = "/tmp/agent.toml";
const LOG: &str = "/tmp/agent.log";
const DAEMON_LOG: &str = "/tmp/daemon.log";
const HOOKS: &str = "/tmp/agent.d";
/// What the hook leaves, a line each time that it runs.
const HOOK_RAN: &str = "/tmp/hook-ran";
const HOOK: &str = "50-note";
const CGROUPS: &str = "/sys/fs/cgroup";
const WORKLOAD: &str = "/sys/fs/cgroup/workload";
const BARE_PAGE: &str = "/tmp/bare-page";
const STAMPS: &str = "/tmp/stamps";
/// The word with which this program is the workload.
const STAMP: &str = "stamp";
/// The word with which this program is what people run where they have no agent.
const SCRIPT: &str = "script";
const PATIENCE: Duration = Duration::from_secs(120);

/// What runs beside us.
#[derive(Default)]
pub(crate) struct Processes {
    agent: Option<Child>,
    daemon: Option<Child>,
    workload: Option<Child>,
}

/// Whether this program is called as the workload or as a hook, and not as the first process of a machine.
pub(crate) fn is_called_otherwise() -> Option<Result<()>> {
    let mut arguments = env::args();
    let name = arguments.next().unwrap_or_default();
    if name.ends_with(HOOK) {
        return Some(hook());
    }
    if let Some(result) = hostile::is_bad_hook(&name) {
        return Some(result);
    }
    match arguments.next().as_deref() {
        Some(STAMP) => Some(stamp()),
        Some(SCRIPT) => Some(script()),
        _ => None,
    }
}

/// Does what the harness asks for.
pub(crate) fn run(words: &[&str], region: Result<&Region>, processes: &mut Processes) -> Result<Value> {
    match words {
        ["start", hex] => start(hex, processes),
        ["others", "chronyd", offset] => {
            processes.agent = Some(daemon::chronyd(&format!("{}makestep 0.01 -1\n", daemon::ptp_clock(offset)))?);
            daemon::wait_for("Selected source PHC0")
        }
        // It is asked for the time: no step but as it is told to.
        ["asked-chronyd", offset] => {
            processes.daemon = Some(daemon::chronyd(&daemon::ptp_clock(offset))?);
            daemon::wait_for("Selected source PHC0")
        }
        // Beside the agent, which feeds it: no step but ours.
        ["fed", "chronyd"] => {
            let config = "refclock SOCK /tmp/fed.sock refid VMCL poll 0 precision 1e-6 delay 0.002\n";
            processes.daemon = Some(daemon::chronyd(config)?);
            Ok(Value::Null)
        }
        ["fed", "ntpd-rs"] => {
            processes.daemon = Some(daemon::ntpd_rs()?);
            Ok(Value::Null)
        }
        ["selected", "chronyd"] => daemon::wait_for("Selected source VMCL"),
        // It has an offset as soon as it has a source.
        ["selected", "ntpd-rs"] => daemon::wait_for("Offset: "),
        ["daemon-log"] => daemon::log(),
        ["bad-hooks"] => hostile::bad_hooks(),
        ["hanging-hook"] => hostile::hanging_hook(),
        ["good-hooks"] => hostile::good_hooks(),
        ["disk", "full"] => hostile::fill_disk(),
        ["disk", "free"] => hostile::free_disk(),
        ["state"] => Ok(fs::read_to_string(hostile::STATE)?.into()),
        ["listen"] => told::listen(),
        ["told", count] => told::told(count.parse()?),
        ["others", "script"] => start_script(processes),
        // A start that is not waited for.
        ["restart"] => {
            processes.agent = Some(spawn()?);
            Ok(Value::Null)
        }
        ["kill", micros] => {
            let agent = processes.agent.as_mut().context("no agent runs")?;
            sleep(Duration::from_micros(micros.parse()?));
            agent.kill()?;
            agent.wait()?;
            Ok(Value::Null)
        }
        ["ready"] => wait_until_ready(),
        ["run", arguments @ ..] => ask(arguments),
        ["log"] => Ok(fs::read_to_string(LOG)?.into()),
        ["hooks"] => Ok(fs::read_to_string(HOOK_RAN).unwrap_or_default().lines().collect()),
        ["follow", millis, within] => follow(Duration::from_millis(millis.parse()?), within.parse()?),
        ["observe"] => observe(region?),
        ["set-back", seconds] => set_back(seconds.parse()?),
        ["lose", seconds] => lose(seconds.parse()?, region?),
        ["cost"] => cost(processes),
        ["idle", millis] => {
            sleep(Duration::from_millis(millis.parse()?));
            cost(processes)
        }
        ["steady", millis, pause] => {
            steady(Duration::from_millis(millis.parse()?), Duration::from_millis(pause.parse()?))
        }
        ["workload"] => start_workload(processes),
        ["bare-page"] => write_bare_page(2, 1),
        ["bare-restore", lost] => bare_restore(lost.parse()?),
        ["stamps"] => stamps(),
        other => bail!("the guest does not know the words {other:?} of the agent"),
    }
}

fn start(hex: &str, processes: &mut Processes) -> Result<Value> {
    let bytes = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16));
    fs::write(CONFIG, bytes.collect::<Result<Vec<u8>, _>>()?)?;
    if fs::create_dir_all(CGROUPS).is_ok() && !Path::new(CGROUPS).join("cgroup.procs").exists() {
        mount("cgroup2", CGROUPS, "cgroup2", MountFlags::empty(), None).context("cannot mount cgroup2")?;
    }
    fs::create_dir_all(WORKLOAD)?;
    fs::create_dir_all(HOOKS)?;
    let hook = Path::new(HOOKS).join(HOOK);
    fs::copy("/init", &hook)?;
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755))?;
    fs::write(hook.with_extension("toml"), "events = [\"restored\", \"disrupted\"]\nrequired = true\n")?;
    processes.agent = Some(spawn()?);
    wait_until_ready()
}

fn spawn() -> Result<Child> {
    let log = File::options().create(true).append(true).open(LOG)?;
    let mut command = Command::new(AGENT);
    command.env("CREDENTIALS_DIRECTORY", told::CREDENTIALS);
    command.args(["run", "--config", CONFIG]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().with_context(|| format!("cannot run {AGENT}"))
}

/// The agent's status, once it has dealt with all that happened.
fn wait_until_ready() -> Result<Value> {
    let start = Instant::now();
    loop {
        let answer = ask(&["status", "--json", "--socket", "/tmp/agent.sock"])?;
        if answer["status"] == 0 {
            let text = answer["stdout"].as_str().unwrap_or_default();
            return serde_json::from_str(text).with_context(|| format!("the agent's status is no JSON: {text:?}"));
        }
        let log = || fs::read_to_string(LOG).unwrap_or_default();
        ensure!(start.elapsed() < PATIENCE, "the agent does not become ready: {answer}; its log:\n{}", log());
        sleep(Duration::from_millis(5));
    }
}

fn ask(arguments: &[&str]) -> Result<Value> {
    let output = Command::new(AGENT).args(arguments).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {AGENT}"))?;
    Ok(json!({
        "status": output.status.code(),
        "stdout": String::from_utf8_lossy(&output.stdout),
        "stderr": String::from_utf8_lossy(&output.stderr),
    }))
}

fn start_script(processes: &mut Processes) -> Result<Value> {
    let mut command = Command::new("/init");
    processes.agent = Some(command.arg(SCRIPT).stdin(Stdio::null()).spawn().context("cannot start the script")?);
    Ok(Value::Null)
}

/// Asks for the time each 200 ms and sets the clock where it is off.
fn script() -> Result<()> {
    let clock = VmClock::open()?;
    loop {
        sleep(Duration::from_millis(200));
        let Ok(reading) = clock.now() else { continue };
        let Some(utc) = reading.utc() else { continue };
        let (_, now, _) = realtime();
        if (now - utc.time.floor_nanos()).abs() > 10_000_000 {
            let time = Timespec { tv_sec: utc.time.seconds(), tv_nsec: utc.time.subsec_nanos().into() };
            clock_settime(ClockId::Realtime, time)?;
        }
    }
}

/// `CLOCK_REALTIME` in nanoseconds of UTC, and the counter before and after.
fn realtime() -> (u64, i128, u64) {
    let before = counter::read_ordered();
    let now = clock_gettime(ClockId::Realtime);
    let after = counter::read_ordered();
    (before, i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec), after)
}

/// By how many nanoseconds a time that was read between two counter values was certainly outside of what a page says;
/// 0 where it may be right. `None` where the page gives no time.
fn outside(page: &Snapshot, (before, nanos, after): (u64, i128, u64)) -> Option<i128> {
    let bounds = |at| {
        let reading = Reading::new(page, at, counter::ID).ok()?;
        let error = i128::try_from(reading.max_error_nanos()?).ok()?;
        let utc = reading.utc()?.time.floor_nanos();
        Some((utc - error, utc + error + 1))
    };
    let (earliest, latest) = (bounds(before)?.0, bounds(after)?.1);
    Some((earliest - nanos).max(nanos - latest).max(0))
}

/// From now until the machine is in another epoch and `CLOCK_REALTIME` is right again: the counter when the new epoch
/// was first seen, when its page first gave a time, and when the clock was right.
fn observe(region: &Region) -> Result<Value> {
    let clock = VmClock::open()?;
    let epoch = Epoch::of(&clock.snapshot()?);
    region.word(WOKEN_AT).store(1, Release);
    while clock.is_current(&epoch)? {
        std::thread::yield_now();
    }
    let seen = counter::read_ordered();
    let mut timed = None;
    loop {
        let stamp = realtime();
        let off = clock.snapshot().ok().and_then(|page| outside(&page, stamp));
        if off.is_some() && timed.is_none() {
            timed = Some(stamp.0);
        }
        if off == Some(0) {
            return Ok(json!({ "seen": seen, "timed": timed, "right": stamp.0 }));
        }
        std::thread::yield_now();
    }
}

/// The clock loses so many seconds, as in a restore; then observes.
fn lose(seconds: i64, region: &Region) -> Result<Value> {
    set_back(seconds)?;
    observe(region)
}

fn set_back(seconds: i64) -> Result<Value> {
    let mut now = clock_gettime(ClockId::Realtime);
    now.tv_sec -= seconds;
    clock_settime(ClockId::Realtime, now)?;
    Ok(Value::Null)
}

/// How the clock is kept for so long from now on: the counter when it was last further from the page than so many
/// nanoseconds, and how far it was at most.
fn follow(time: Duration, within: i128) -> Result<Value> {
    let clock = VmClock::open()?;
    let (mut last, mut worst) = (None, 0);
    let start = Instant::now();
    while start.elapsed() < time {
        sleep(Duration::from_millis(5));
        let cross = clock.cross_timestamp()?;
        let (low, high) = cross.realtime_ahead_nanos().context("the page has no bounds")?;
        let Some(off) = middle(low, high, i128::try_from(cross.reading.max_error_nanos().unwrap_or(0))?) else {
            continue;
        };
        worst = worst.max(off);
        if off > within {
            last = Some(cross.reading.counter());
        }
    }
    Ok(json!({ "last": last, "worst": u64::try_from(worst)? }))
}

/// How far `CLOCK_REALTIME` and `CLOCK_TAI` are from the page's UTC and TAI for so long: quantiles in nanoseconds, of
/// comparisons that were not interrupted; and whether the kernel's own maximum error was true. Within 60 ms of a leap
/// second's beginning and end the kernel may not have noticed, and nothing is compared.
fn steady(time: Duration, pause: Duration) -> Result<Value> {
    const NEAR: i128 = 60_000_000;
    let clock = VmClock::open()?;
    let (mut realtimes, mut tais) = (Vec::new(), Vec::new());
    let (mut untrue, mut leaps, mut offsets) = (0, 0, Vec::new());
    let start = Instant::now();
    while start.elapsed() < time {
        sleep(pause);
        let max_error = Quality::now()?.max_error;
        let tai_before = counter::read_ordered();
        let tai = KernelClock::tai().time().floor_nanos();
        let tai_after = counter::read_ordered();
        let cross = clock.cross_timestamp()?;
        let utc = cross.reading.utc().context("the page gives no UTC")?;
        let to_second = utc.time.floor_nanos().rem_euclid(86_400_000_000_000);
        let is_near = utc.leap_second && to_second.rem_euclid(1_000_000_000) < NEAR
            || !(NEAR..86_400_000_000_000 - NEAR).contains(&to_second);
        leaps += u32::from(utc.leap_second);
        if is_near {
            continue;
        }
        let (low, high) = cross.realtime_ahead_nanos().context("the page has no bounds")?;
        realtimes.extend(middle(low, high, i128::try_from(cross.reading.max_error_nanos().unwrap_or(0))?));
        untrue += u32::from(low > i128::from(max_error) || high < -i128::from(max_error));
        let at = |counter| {
            let reading = Reading::new(&cross.page, counter, counter::ID).ok()?;
            Some(reading.tai()?.floor_nanos())
        };
        let (Some(before), Some(after)) = (at(tai_before), at(tai_after)) else { bail!("the page gives no TAI") };
        tais.extend(middle(tai - after, tai - before, 0));
        let offset = Quality::now()?.tai_offset.map(TaiOffset::seconds);
        if offsets.last() != Some(&offset) {
            offsets.push(offset);
        }
    }
    Ok(json!({
        "realtime": quantiles(realtimes), "tai": quantiles(tais), "untrue": untrue, "leaps": leaps, "offsets": offsets,
    }))
}

/// How far the middle of an interval is from zero, unless the comparison that it is of was interrupted: `counted` of its
/// half width is no error of the comparison.
fn middle(low: i128, high: i128, counted: i128) -> Option<i128> {
    const INTERRUPTED: i128 = 10_000;
    let half = (high - low) / 2 - counted;
    (half < INTERRUPTED).then_some(((low + high) / 2).abs())
}

/// How many, the median, the 99.9th percentile and the largest.
fn quantiles(mut list: Vec<i128>) -> Value {
    list.sort_unstable();
    let at = |part: usize| list.get(((list.len() * part) / 1_000).min(list.len().saturating_sub(1)));
    json!([
        list.len(),
        at(500).map(ToString::to_string),
        at(999).map(ToString::to_string),
        list.last().map(ToString::to_string)
    ])
}

/// A page with a generation and nothing else, as Firecracker has it.
fn write_bare_page(seq_count: u32, generation: u64) -> Result<Value> {
    let page = Snapshot::BLANK.with(|page| {
        (page.seq_count, page.vm_generation_counter) = (seq_count, generation);
        page.flags = Flags::VM_GEN_COUNTER_PRESENT;
    });
    let mut bytes = page.to_bytes().to_vec();
    bytes.resize(4096, 0);
    if generation == 1 {
        fs::write(BARE_PAGE, bytes)?;
    } else {
        File::options().write(true).open(BARE_PAGE)?.write_all_at(&bytes, 0)?;
    }
    Ok(Value::Null)
}

/// The clock loses so many seconds and the bare page has a new generation: how far the clock is from the driver's page
/// when the agent has set it, in nanoseconds.
fn bare_restore(lost: i64) -> Result<Value> {
    let clock = VmClock::open_at(DEVICE_PATH)?;
    set_back(lost)?;
    write_bare_page(4, 2)?;
    let start = Instant::now();
    loop {
        let (low, high) = clock.cross_timestamp()?.realtime_ahead_nanos().context("the page gives no UTC")?;
        if high > -500_000_000 {
            return Ok(json!([i64::try_from(low)?, i64::try_from(high)?]));
        }
        ensure!(start.elapsed() < PATIENCE, "the clock stays between {low} and {high} ns ahead");
        sleep(Duration::from_millis(1));
    }
}

/// What the agent has cost: CPU time in ticks of 1/100 s, its context switches, and its memory in KiB.
fn cost(processes: &Processes) -> Result<Value> {
    let agent = processes.agent.as_ref().context("no agent runs")?.id();
    let stat = fs::read_to_string(format!("/proc/{agent}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    let status = fs::read_to_string(format!("/proc/{agent}/status"))?;
    let number = |key: &str| -> Result<u64> {
        let line = status.lines().find(|line| line.starts_with(key)).with_context(|| format!("no {key}"))?;
        Ok(line.split_whitespace().nth(1).unwrap_or_default().parse()?)
    };
    Ok(json!({
        "ticks": ticks,
        "switches": number("voluntary_ctxt_switches")?,
        "resident_kib": number("VmRSS")?,
    }))
}

fn start_workload(processes: &mut Processes) -> Result<Value> {
    let _ = fs::remove_file(STAMPS);
    let mut child =
        Command::new("/init").arg(STAMP).stdin(Stdio::null()).spawn().context("cannot start the workload")?;
    let moved = fs::write(Path::new(WORKLOAD).join("cgroup.procs"), child.id().to_string());
    if let Err(error) = moved {
        let _ = child.kill();
        return Err(error).context("cannot put the workload into its cgroup");
    }
    processes.workload = Some(child);
    let start = Instant::now();
    while stamps()?["total"] == 0 {
        ensure!(start.elapsed() < PATIENCE, "the workload does not stamp records");
        sleep(Duration::from_millis(1));
    }
    Ok(Value::Null)
}

fn stamps() -> Result<Value> {
    match fs::read_to_string(STAMPS) {
        Ok(text) if text.ends_with('\n') => Ok(serde_json::from_str(&text)?),
        _ => Ok(json!({"total": 0, "wrong": 0, "epochs": 0})),
    }
}

/// The workload: stamps records with `CLOCK_REALTIME`, as any program does, and judges each by the page of the epoch
/// that it was stamped in, as soon as that has time.
fn stamp() -> Result<()> {
    let clock = VmClock::open()?;
    let mut epoch = Epoch::of(&clock.snapshot()?);
    let (mut total, mut wrong, mut epochs) = (0_u64, 0_u64, 0_u64);
    let mut unjudged = Vec::new();
    loop {
        let stamp = realtime();
        let Ok(page) = clock.snapshot() else { continue };
        if Epoch::of(&page) == epoch {
            unjudged.push(stamp);
        } else {
            // Read before or after the restore, nobody knows.
            epoch = Epoch::of(&page);
            epochs += 1;
            unjudged.clear();
        }
        if unjudged.first().is_some_and(|stamp| outside(&page, *stamp).is_some()) {
            for stamp in unjudged.drain(..) {
                total += 1;
                wrong += u64::from(outside(&page, stamp).is_some_and(|off| off > 0));
            }
        }
        // A record that is renamed is whole.
        let mut file = File::create("/tmp/stamps.new")?;
        writeln!(file, "{}", json!({"total": total, "wrong": wrong, "epochs": epochs}))?;
        fs::rename("/tmp/stamps.new", STAMPS)?;
    }
}

/// The hook: notes what it was told, and whether the clock was right by then.
fn hook() -> Result<()> {
    let clock = VmClock::open()?;
    let stamp = realtime();
    let line = json!({
        "events": env::var("VMCLOCK_EVENTS")?,
        "generation": env::var("VMCLOCK_GENERATION").ok(),
        "outside_ns": outside(&clock.snapshot()?, stamp).map(|off| off.to_string()),
    });
    writeln!(File::options().create(true).append(true).open(HOOK_RAN)?, "{line}")?;
    Ok(())
}
