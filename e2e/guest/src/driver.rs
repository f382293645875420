// SPDX-License-Identifier: MIT OR Apache-2.0
//! The driver itself: which one has the device, what it allows and refuses, and what it costs.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::mm::{mmap, mprotect, munmap, MapFlags, MprotectFlags, ProtFlags};
use rustix::net::netlink::{SocketAddrNetlink, KOBJECT_UEVENT};
use rustix::net::{bind, recv, socket, AddressFamily, RecvFlags, SocketType};
use serde_json::{json, Value};
use vmclock::{Loss, Notice, VmClock, DEVICE_PATH};
use vmclock_core::abi::{Snapshot, MAGIC, STRUCTURE_LEN};
use vmclock_core::counter;

use crate::{fault, ptp, trace};

/// Where the harness puts our driver into the initramfs.
const OURS: &str = "/ptp_vmclock_rust.ko.xz";
pub(crate) const DRIVERS: &str = "/sys/bus/platform/drivers";
pub(crate) const DEVICES: &str = "/sys/bus/platform/devices";
const PAGE: usize = 4096;
/// How long our library may take to find that a device is gone, however busy the machine is.
const VANISHED_WITHIN: Duration = Duration::from_secs(60);

/// What stays between two of the harness's words.
#[derive(Default)]
pub(crate) struct Held {
    uevents: Option<OwnedFd>,
    node: Option<File>,
}

pub(crate) fn run(words: &[&str], held: &mut Held) -> Result<Value> {
    match words {
        ["load", parameters @ ..] => load(&parameters.join(" ")),
        ["unload"] => Ok(unload()),
        ["bind", driver] => bind_to(driver),
        ["unbind"] => unbind().map(|()| Value::Null),
        ["facts"] => facts(),
        ["time"] => Ok(time()),
        ["read"] => Ok(read()),
        ["fresh-poll"] => fresh_poll(),
        ["has-ptp"] => Ok(ptp::path().is_ok().into()),
        ["attributes"] => attributes(),
        ["log"] => Ok(log(&device()?)?.into()),
        ["listen"] => {
            let socket = socket(AddressFamily::NETLINK, SocketType::DGRAM, Some(KOBJECT_UEVENT))?;
            bind(&socket, &SocketAddrNetlink::new(0, 1))?;
            held.uevents = Some(socket);
            Ok(Value::Null)
        }
        ["hold"] => {
            held.node = Some(File::open(DEVICE_PATH)?);
            Ok(Value::Null)
        }
        ["let-go"] => {
            held.node = None;
            Ok(Value::Null)
        }
        ["work", millis] => trace::work_within(Duration::from_millis(millis.parse()?)),
        ["uevents"] => uevents(held.uevents.as_ref().context("nobody listens")?),
        ["outlive"] => outlive(),
        ["cost", calls] => cost(calls.parse()?),
        ["wakes", count] => wakes(count.parse()?),
        ["churn", driver, cycles] => churn(driver, cycles.parse()?),
        ["other-counter"] => other_counter(),
        ["leaks"] => leaks(),
        ["fail-binding", driver] => {
            fault::each_allocation(format!("{}/bind", folder_of(driver)?).as_ref(), &device()?, unbind)
        }
        ["fail", "all"] => fault::all_allocations(true),
        ["fail", "none"] => fault::all_allocations(false),
        ["suspend"] => fault::suspend(),
        other => bail!("the guest does not know the words {other:?} of a driver"),
    }
}

/// Loads our driver as it is.
pub(crate) fn load_ours() -> Result<Value> {
    load("")
}

fn load(parameters: &str) -> Result<Value> {
    let module = File::open(OURS).with_context(|| format!("cannot open {OURS}"))?;
    let parameters = std::ffi::CString::new(parameters)?;
    match crate::boot::load(&module, &parameters) {
        Ok(()) => Ok("loaded".into()),
        Err(errno) => Ok(name(errno).into()),
    }
}

/// Takes our driver out of the kernel, from whatever device it has.
fn unload() -> Value {
    rustix::system::delete_module(c"ptp_vmclock_rust", 0).map_or_else(name, |()| "unloaded".to_owned()).into()
}

/// What ACPI or the device tree makes of the device's name.
fn device() -> Result<String> {
    let entries = fs::read_dir(DEVICES).with_context(|| format!("cannot list {DEVICES}"))?;
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names
        .into_iter()
        .find(|name| name.starts_with("AMZNC10C") || name.rsplit('.').next() == Some("ptp"))
        .context("there is no VMClock among the platform's devices")
}

fn folder_of(driver: &str) -> Result<String> {
    Ok(format!(
        "{DRIVERS}/{}",
        match driver {
            "c" => "vmclock",
            "rust" => "ptp_vmclock_rust",
            other => bail!("there is no driver {other:?}"),
        }
    ))
}

fn unbind() -> Result<()> {
    let device = device()?;
    let driver = format!("{DEVICES}/{device}/driver");
    if fs::exists(&driver)? {
        fs::write(format!("{driver}/unbind"), &device).context("cannot unbind")?;
    }
    Ok(())
}

fn bind_only(driver: &str) -> io::Result<()> {
    let write = || -> Result<()> { Ok(fs::write(format!("{}/bind", folder_of(driver)?), device()?)?) };
    write().map_err(|error| error.downcast().unwrap_or_else(io::Error::other))
}

/// Takes the device from whoever has it, and gives it to another. What the driver says to that is an answer too.
pub(crate) fn bind_to(driver: &str) -> Result<Value> {
    unbind()?;
    Ok(match bind_only(driver) {
        Ok(()) => "bound".into(),
        Err(error) => Errno::from_io_error(&error).map_or(error.to_string(), name).into(),
    })
}

/// The error's name in C, of those that may come.
pub(crate) fn name(errno: Errno) -> String {
    let known = [
        (Errno::ROFS, "EROFS"),
        (Errno::ACCESS, "EACCES"),
        (Errno::INVAL, "EINVAL"),
        (Errno::OPNOTSUPP, "EOPNOTSUPP"),
        (Errno::TIMEDOUT, "ETIMEDOUT"),
        (Errno::NODEV, "ENODEV"),
        (Errno::IO, "EIO"),
        (Errno::FAULT, "EFAULT"),
        (Errno::PERM, "EPERM"),
        (Errno::NODATA, "ENODATA"),
        (Errno::NOMEM, "ENOMEM"),
    ];
    let found = known.into_iter().find(|(known, _)| *known == errno);
    found.map_or_else(|| format!("error {}", errno.raw_os_error()), |(_, name)| name.to_owned())
}

fn outcome(result: Result<(), Errno>) -> String {
    result.map_or_else(name, |()| "allowed".to_owned())
}

/// The kernel's lines about a device.
pub(crate) fn log(device: &str) -> Result<Vec<String>> {
    let log = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg")?;
    let mut lines = Vec::new();
    let mut record = [0; 8192];
    loop {
        match rustix::io::read(&log, &mut record) {
            Ok(len) => {
                let text = String::from_utf8_lossy(&record[..len]);
                // "level,number,time,flags;text", and more lines with facts.
                let line = text.lines().next().and_then(|line| line.split_once(';')).map_or("", |(_, line)| line);
                // The driver's own: the core has one more for each that fails.
                if line.contains(device) && !line.contains("probe with driver") {
                    lines.push(line.to_owned());
                }
            }
            // Overwritten before it was read.
            Err(Errno::PIPE) => {}
            Err(Errno::AGAIN) => return Ok(lines),
            Err(error) => return Err(error.into()),
        }
    }
}

/// What the driver allows and refuses, whatever the page says.
fn facts() -> Result<Value> {
    let file = File::options().read(true).write(true).open(DEVICE_PATH)?;
    let mode = file.metadata()?.mode() & 0o7777;
    let map = |len: usize, access: ProtFlags, offset: u64, later: MprotectFlags| {
        // SAFETY: a new mapping, at a place that the kernel chooses, which nobody looks at.
        let place = unsafe { mmap(null_mut(), len, access, MapFlags::SHARED, &file, offset) }?;
        // SAFETY: as above: it is read-only still, or refused.
        let protected = unsafe { mprotect(place, len, MprotectFlags::READ | later) };
        // SAFETY: it is what was mapped, and nobody has a reference to it.
        unsafe { munmap(place, len) }?;
        Ok::<_, Errno>(protected)
    };
    let both = ProtFlags::READ | ProtFlags::WRITE;
    let write = MprotectFlags::WRITE;
    let refused = |len, access, offset| outcome(map(len, access, offset, write).map(|_| ()));
    let mut buffer = [0; 16];
    Ok(json!({
        "mode": format!("{mode:04o}"),
        "mmap": outcome(map(PAGE, ProtFlags::READ, 0, write).map(|_| ())),
        "mmap to write": refused(PAGE, both, 0),
        "mprotect to write": map(PAGE, ProtFlags::READ, 0, write).map_or_else(name, outcome),
        "mmap to execute": refused(PAGE, ProtFlags::READ | ProtFlags::EXEC, 0),
        "mprotect to execute": map(PAGE, ProtFlags::READ, 0, MprotectFlags::EXEC).map_or_else(name, outcome),
        "mmap of two pages": refused(2 * PAGE, ProtFlags::READ, 0),
        "mmap of the second page": refused(PAGE, ProtFlags::READ, PAGE as u64),
        "read at the page's end": file.read_at(&mut buffer, PAGE as u64 - 4)?,
        "read behind it": file.read_at(&mut buffer, PAGE as u64)?,
        "write": outcome(rustix::io::write(&file, &buffer).map(|_| ())),
        "set time": ptp::set_time().map_or_else(name, |()| "allowed".to_owned()),
        "cross timestamp": cross_timestamp(),
    }))
}

/// Whether the driver's cross timestamps agree with ours. Between two of them the machine may have been put off.
fn cross_timestamp() -> String {
    let mut least = i128::MAX;
    for _ in 0..10 {
        match ptp::precise() {
            Err(error) => return format!("{error:#}"),
            Ok(apart) if apart <= 2_000 => return "agrees".to_owned(),
            Ok(apart) => least = least.min(apart),
        }
    }
    format!("{least} ns apart, at least")
}

/// One reading of the PTP clock: nanoseconds, or the error. Those beyond 2262 are all the same.
fn time() -> Value {
    match ptp::read_once() {
        Ok(nanos) => i64::try_from(nanos).unwrap_or(i64::MAX).into(),
        Err(error) => name_of(&error).into(),
    }
}

fn name_of(error: &anyhow::Error) -> String {
    error.root_cause().downcast_ref::<Errno>().map_or_else(|| format!("{error:#}"), |errno| name(*errno))
}

/// One read(2) of the structure: the outcome, the milliseconds that it took, and whether it slept meanwhile.
fn read() -> Value {
    let sleeps = || fs::read_to_string("/proc/thread-self/status").ok().and_then(|status| voluntary_switches(&status));
    let (slept, start) = (sleeps(), Instant::now());
    let result = File::open(DEVICE_PATH).and_then(|file| file.read_exact_at(&mut [0; STRUCTURE_LEN], 0));
    let text = result.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
    let millis = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    json!([outcome(text), millis, sleeps() > slept])
}

/// How often a thread has given up the CPU by itself, of its `status` in `/proc`.
fn voluntary_switches(status: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?.trim().parse().ok()
}

fn flags_now(file: &impl AsFd) -> Result<PollFlags> {
    let mut ready = [PollFd::new(file, PollFlags::IN)];
    poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(ready[0].revents())
}

fn words(flags: PollFlags) -> String {
    let names = [(PollFlags::IN, "IN"), (PollFlags::HUP, "HUP"), (PollFlags::ERR, "ERR")];
    let set: Vec<&str> = names.into_iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, name)| name).collect();
    if set.is_empty() {
        "nothing".to_owned()
    } else {
        set.join(" ")
    }
}

/// What poll(2) says of a file that was never read, and of the same after it was.
fn fresh_poll() -> Result<Value> {
    let file = File::open(DEVICE_PATH)?;
    let before = words(flags_now(&file)?);
    file.read_exact_at(&mut [0; STRUCTURE_LEN], 0)?;
    Ok(format!("{before}, then {}", words(flags_now(&file)?)).into())
}

/// The attributes of the device node, and who may read them.
pub(crate) fn attributes() -> Result<Value> {
    let folder = "/sys/class/misc/vmclock0";
    let mut found = BTreeMap::new();
    for name in ["marker", "generation", "status", "tai_offset", "time_type"] {
        let path = format!("{folder}/{name}");
        if let Ok(text) = fs::read_to_string(&path) {
            let mode = fs::metadata(&path)?.mode() & 0o777;
            found.insert(name, json!([text.trim_end(), format!("{mode:03o}")]));
        }
    }
    Ok(json!(found))
}

/// The clock's events that were told since one listens: event, marker and generation, in the kernel's words.
fn uevents(socket: &OwnedFd) -> Result<Value> {
    let mut told = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        match recv(socket, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((_, len)) => {
                let text = String::from_utf8_lossy(&buffer[..len]);
                let word = |name: &str| text.split('\0').find_map(|word| word.strip_prefix(name));
                if let Some(event) = word("VMCLOCK_EVENT=") {
                    told.push(json!([event, word("VMCLOCK_MARKER="), word("VMCLOCK_GENERATION=")]));
                }
            }
            Err(Errno::AGAIN) => return Ok(told.into()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Unbinds the device while a file is open, mapped and polled, and uses it afterwards.
fn outlive() -> Result<Value> {
    let file = File::open(DEVICE_PATH)?;
    file.read_exact_at(&mut [0; STRUCTURE_LEN], 0)?;
    // SAFETY: a new mapping, at a place that the kernel chooses.
    let place = unsafe { mmap(null_mut(), PAGE, ProtFlags::READ, MapFlags::SHARED, &file, 0) }?;
    let poller = {
        let file = file.try_clone()?;
        thread::spawn(move || -> Result<String> {
            let mut ready = [PollFd::new(&file, PollFlags::IN)];
            // The page does not change: nothing but the end can wake it.
            poll(&mut ready, Some(&Timespec { tv_sec: 120, tv_nsec: 0 }))?;
            Ok(words(ready[0].revents()))
        })
    };
    let mut events = VmClock::open()?.events()?;
    let notified_before = events.is_notified();
    unbind()?;
    // The page is still mapped, but nothing more will be announced there.
    let notice = events.wait(Some(VANISHED_WITHIN))?;
    let vanished = matches!(notice, Some(Notice::Vanished(vanished)) if vanished.loss == Loss::Device);
    let read = file
        .read_exact_at(&mut [0; STRUCTURE_LEN], 0)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
    // SAFETY: the mapping is of memory that stays; four bytes that never change.
    let magic = unsafe { place.cast::<u32>().read_volatile() };
    // SAFETY: it is what was mapped, and nobody has a reference to it.
    unsafe { munmap(place, PAGE) }?;
    let polled = poller.join().map_err(|_| anyhow::anyhow!("the poller panicked"))??;
    Ok(json!({ "read": outcome(read),
        "poll": polled,
        "mapping": magic == MAGIC,
        "events": [notified_before, vanished, events.is_notified()],
    }))
}

/// The best nanoseconds a call of a few batches, by this CPU's counter: read(2) of the structure, and the PTP clock.
fn cost(calls: u32) -> Result<Value> {
    const BATCHES: usize = 20;
    let node = File::open(DEVICE_PATH)?;
    let clock = ptp::open()?.1;
    let best = |call: &mut dyn FnMut() -> Result<()>| -> Result<f64> {
        let mut best = f64::MAX;
        for _ in 0..BATCHES {
            let start = Instant::now();
            for _ in 0..calls {
                call()?;
            }
            best = best.min(start.elapsed().as_secs_f64() * 1e9 / f64::from(calls));
        }
        Ok(best)
    };
    let mut buffer = [0; STRUCTURE_LEN];
    let read = best(&mut || Ok(node.read_exact_at(&mut buffer, 0)?))?;
    let time = best(&mut || ptp::gettime(&clock).map(|_| ()))?;
    Ok(json!({ "read": read, "gettime": time }))
}

/// How long after the calibration on the page poll(2) returned, again and again, in nanoseconds.
fn wakes(count: usize) -> Result<Value> {
    let node = File::open(DEVICE_PATH)?;
    let mut bytes = [0; STRUCTURE_LEN];
    node.read_exact_at(&mut bytes, 0)?;
    let mut late = Vec::new();
    while late.len() < count {
        let mut ready = [PollFd::new(&node, PollFlags::IN)];
        ensure!(
            poll(&mut ready, Some(&Timespec { tv_sec: 120, tv_nsec: 0 }))? == 1,
            "nothing woke poll(2) for two minutes"
        );
        let awake = counter::read_ordered();
        node.read_exact_at(&mut bytes, 0)?;
        let page = Snapshot::from_bytes(&bytes);
        let ticks = u128::from(awake.wrapping_sub(page.counter_value));
        let span = (ticks * u128::from(page.counter_period_frac_sec)) >> page.counter_period_shift;
        late.push(u64::try_from(((span >> 32) * 1_000_000_000) >> 32).unwrap_or(u64::MAX));
    }
    Ok(late.into())
}

/// What became of what was tried, by name.
#[derive(Default)]
struct Tally([AtomicU64; 9]);

impl Tally {
    const NAMES: [&'static str; 9] = [
        "reads",
        "reads of a device that is gone",
        "looks at a mapping",
        "looks at the mapping of a device that is gone",
        "wakes",
        "hang-ups of a device that is gone",
        "attributes",
        "PTP times",
        "cross timestamps",
    ];

    fn count(&self, name: &str) {
        if let Some(index) = Self::NAMES.iter().position(|known| *known == name) {
            self.0[index].fetch_add(1, Relaxed);
        }
    }

    fn to_json(&self) -> Value {
        let counted = Self::NAMES.iter().zip(&self.0).map(|(name, count)| (*name, count.load(Relaxed)));
        json!(counted.collect::<BTreeMap<_, _>>())
    }
}

/// Binds and unbinds, while others read, map, poll, show attributes and read the PTP clock, of files from before and
/// after. Gives what they saw, all of which should have happened.
fn churn(driver: &str, cycles: u32) -> Result<Value> {
    let ended = AtomicBool::new(false);
    let tally = Tally::default();
    // Linux 7.2 lets a PTP clock be opened before `posix_clock_register` has noted its device, and then drops a
    // reference that was never taken. That is no driver's business: here nobody opens one while it is being registered.
    // While it is unregistered, everybody may.
    let registering = Mutex::new(());
    let alone = || registering.lock().unwrap_or_else(PoisonError::into_inner);
    let gone = |result: &io::Result<usize>| {
        let errno = result.as_ref().err().and_then(Errno::from_io_error);
        errno == Some(Errno::NODEV)
    };
    thread::scope(|scope| -> Result<()> {
        let again = |work: &(dyn Fn() + Sync)| {
            while !ended.load(Relaxed) {
                work();
            }
        };
        let reader = || {
            let Ok(file) = File::open(DEVICE_PATH) else { return };
            // Held over some unbindings.
            for _ in 0..200 {
                match file.read_at(&mut [0; PAGE], 0) {
                    Ok(PAGE) => tally.count("reads"),
                    other if gone(&other) => tally.count("reads of a device that is gone"),
                    _ => {}
                }
                if flags_now(&file).is_ok_and(|flags| flags.contains(PollFlags::HUP)) {
                    tally.count("hang-ups of a device that is gone");
                }
            }
        };
        let mapper = || {
            let Ok(file) = File::open(DEVICE_PATH) else { return };
            // SAFETY: a new mapping, at a place that the kernel chooses.
            let Ok(place) = (unsafe { mmap(null_mut(), PAGE, ProtFlags::READ, MapFlags::SHARED, &file, 0) }) else {
                return;
            };
            for _ in 0..200 {
                // SAFETY: the mapping is of memory that stays; four bytes that never change.
                if unsafe { place.cast::<u32>().read_volatile() } == MAGIC {
                    tally.count("looks at a mapping");
                    if gone(&file.read_at(&mut [0; 4], 0)) {
                        tally.count("looks at the mapping of a device that is gone");
                    }
                }
                thread::yield_now();
            }
            // SAFETY: it is what was mapped, and nobody has a reference to it.
            let _ = unsafe { munmap(place, PAGE) };
        };
        let sleeper = || {
            let Ok(file) = File::open(DEVICE_PATH) else { return };
            let mut ready = [PollFd::new(&file, PollFlags::IN)];
            let _ = file.read_at(&mut [0; STRUCTURE_LEN], 0);
            if poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 50_000_000 })) == Ok(1) {
                tally.count("wakes");
            }
        };
        let shower = || {
            if attributes().is_ok_and(|found| found.get("marker").is_some()) {
                tally.count("attributes");
            }
            let opened = {
                let _alone = alone();
                ptp::open()
            };
            if let Ok((_, clock)) = opened {
                for _ in 0..50 {
                    if ptp::gettime(&clock).is_ok() {
                        tally.count("PTP times");
                    }
                }
                let _alone = alone();
                if ptp::precise().is_ok() {
                    tally.count("cross timestamps");
                }
            }
        };
        scope.spawn(move || again(&reader));
        scope.spawn(move || again(&mapper));
        scope.spawn(move || again(&sleeper));
        scope.spawn(move || again(&shower));
        let cycle = || -> Result<()> {
            for _ in 0..cycles {
                unbind()?;
                {
                    let _alone = alone();
                    bind_only(driver).context("cannot bind again")?;
                }
                // Let the others have it for a while.
                thread::sleep(Duration::from_millis(5));
            }
            Ok(())
        };
        let result = cycle();
        ended.store(true, Relaxed);
        result
    })?;
    Ok(json!({ "cycles": cycles, "seen": tally.to_json() }))
}

/// With the system's clock made of another counter than the page's: what a cross timestamp gives, and the PTP clock
/// beside our reader.
fn other_counter() -> Result<Value> {
    const FOLDER: &str = "/sys/devices/system/clocksource/clocksource0";
    let chosen = format!("{FOLDER}/current_clocksource");
    let own = fs::read_to_string(&chosen)?;
    let available = fs::read_to_string(format!("{FOLDER}/available_clocksource"))?;
    let other = available.split_whitespace().find(|name| *name != own.trim());
    let other = other.with_context(|| format!("this machine has only {available:?}"))?;
    fs::write(&chosen, other)?;
    let look = || -> Result<Value> {
        let cross = ptp::precise().map_or_else(|error| name_of(&error), |_| "allowed".to_owned());
        Ok(json!({ "counter": other, "cross timestamp": cross, "samples": ptp::compare(20)?["ioctl"] }))
    };
    let seen = look();
    fs::write(&chosen, &own)?;
    seen
}

/// What the kernel has allocated, and nobody refers to any more, in its own words: of a kernel that can tell.
fn leaks() -> Result<Value> {
    let file = "/sys/kernel/debug/kmemleak";
    fault::mount_debugfs()?;
    // What is younger than five seconds is not reported.
    thread::sleep(Duration::from_secs(6));
    for _ in 0..2 {
        fs::write(file, "scan").with_context(|| format!("cannot write {file}"))?;
    }
    Ok(fs::read_to_string(file)?.into())
}

/// For `clock_settime` on a clock that is a file.
pub(crate) fn clock_id(file: &File) -> libc::clockid_t {
    // FD_TO_CLOCKID of Linux's posix-timers.h.
    (!file.as_raw_fd() << 3) | 3
}
