// SPDX-License-Identifier: MIT OR Apache-2.0
//! The PTP clock that Linux's driver makes of the page, beside our own reader.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::time::Instant;

use anyhow::{bail, Context, Result};
use rustix::io::Errno;
use rustix::ioctl::{ioctl, opcode, Updater};
use rustix::time::{clock_gettime_dynamic, DynamicClockId};
use serde_json::{json, Value};
use vmclock::{counter, CrossTimestamp, Reading, VmClock};

use crate::driver;

/// How many samples one `PTP_SYS_OFFSET_EXTENDED` takes.
const SAMPLES: usize = 5;

/// `struct ptp_clock_time` of Linux's `ptp_clock.h`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct PtpClockTime {
    sec: i64,
    nsec: u32,
    reserved: u32,
}

impl PtpClockTime {
    fn nanos(self) -> i128 {
        i128::from(self.sec) * 1_000_000_000 + i128::from(self.nsec)
    }
}

/// `struct ptp_sys_offset_extended`: each sample is the system's clock before, the device's, the system's after.
#[repr(C)]
#[derive(Default)]
struct SysOffsetExtended {
    samples: u32,
    /// 0 is `CLOCK_REALTIME`, which older kernels, for whom this is reserved, take too.
    clock: i32,
    reserved: [u32; 2],
    times: [[PtpClockTime; 3]; 25],
}

/// How far the PTP clock is ahead of our reader in nanoseconds, `count` times in each of two ways; and by how much
/// each of these may be off, as the two clocks are not read at one instant.
pub(crate) fn compare(count: usize) -> Result<Value> {
    let (path, file) = open()?;
    let clock = VmClock::open()?;
    let mut by_gettime = Vec::with_capacity(count);
    for _ in 0..count {
        let before = tai(&clock)?;
        let device = gettime(&file)?;
        let after = tai(&clock)?;
        by_gettime.push(json!([to_i64(device - (before + after) / 2)?, to_i64((after - before) / 2)?]));
    }
    let mut by_ioctl = Vec::with_capacity(count);
    for _ in 0..count.div_ceil(SAMPLES) {
        let cross = clock.cross_timestamp()?;
        let (realtime_ahead, unknown) = (realtime_ahead(&cross)?, half_width(&cross)?);
        for [before, device, after] in sys_offset_extended(&file)? {
            let ours = (before + after) / 2 - realtime_ahead;
            by_ioctl.push(json!([to_i64(device - ours)?, to_i64((after - before) / 2 + unknown)?]));
        }
    }
    Ok(json!({ "device": path, "gettime": by_gettime, "ioctl": by_ioctl }))
}

/// `struct ptp_sys_offset_precise`.
#[repr(C)]
#[derive(Default)]
struct SysOffsetPrecise {
    device: PtpClockTime,
    realtime: PtpClockTime,
    monotonic_raw: PtpClockTime,
    reserved: [u32; 4],
}

/// By how many nanoseconds a cross timestamp of the driver's and one of ours differ for certain.
pub(crate) fn precise() -> Result<i128> {
    let cross = VmClock::open()?.cross_timestamp()?;
    let stamp = sys_offset_precise()?;
    let ours = stamp.realtime.nanos() - realtime_ahead(&cross)?;
    Ok(((stamp.device.nanos() - ours).abs() - half_width(&cross)?).max(0))
}

/// Many cross timestamps of the driver's, each between two of ours: how far apart they are, at most for certain, and
/// what the driver's cost; in nanoseconds. The system's clock runs on at another rate: the two of ours are what it was
/// before and after.
pub(crate) fn precise_many(count: usize) -> Result<Value> {
    let clock = VmClock::open()?;
    let (_, file) = open()?;
    let (mut differences, mut costs, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    let mut apart = 0i128;
    for _ in 0..count {
        let before = clock.cross_timestamp()?;
        let start = Instant::now();
        let stamp = sys_offset_precise_of(&file);
        let cost = start.elapsed().as_nanos();
        let after = clock.cross_timestamp()?;
        let stamp = match stamp {
            Ok(stamp) => stamp,
            Err(error) => {
                errors.push(format!("{error:#}"));
                continue;
            }
        };
        let ahead = stamp.realtime.nanos() - stamp.device.nanos();
        let (first, last) = (realtime_ahead(&before)?, realtime_ahead(&after)?);
        let unknown = half_width(&before)?.max(half_width(&after)?);
        let (least, most) = (first.min(last) - unknown, first.max(last) + unknown);
        apart = apart.max(least - ahead).max(ahead - most);
        differences.push(to_i64((ahead - (first + last) / 2).abs())?);
        costs.push(i64::try_from(cost)?);
    }
    errors.sort_unstable();
    errors.dedup();
    differences.sort_unstable();
    costs.sort_unstable();
    let at = |sorted: &[i64], percent: usize| sorted.get(sorted.len().saturating_sub(1) * percent / 100).copied();
    Ok(json!({
        "samples": differences.len(), "errors": errors, "apart": to_i64(apart)?,
        "median": at(&differences, 50), "p99": at(&differences, 99), "cost": at(&costs, 50),
    }))
}

/// Sets the clock, which it should not allow.
pub(crate) fn set_time() -> Result<(), Errno> {
    let file = path().ok().and_then(|path| File::options().read(true).write(true).open(path).ok());
    let file = file.ok_or(Errno::NODEV)?;
    let time = libc::timespec { tv_sec: 1, tv_nsec: 0 };
    // SAFETY: the clock's identifier is of an open file, and the time lives longer than the call.
    match unsafe { libc::clock_settime(driver::clock_id(&file), &raw const time) } {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}

/// What the clock says, in nanoseconds.
pub(crate) fn read_once() -> Result<i128> {
    gettime(&open()?.1)
}

/// The same by way of a cross timestamp.
pub(crate) fn cross() -> Result<i128> {
    Ok(sys_offset_precise()?.device.nanos())
}

/// The same by way of samples between the system's clock.
pub(crate) fn read_beside() -> Result<i128> {
    let samples = sys_offset_extended(&open()?.1)?;
    Ok(samples.first().context("no samples")?[1])
}

/// The device of the VMClock's PTP clock.
pub(crate) fn path() -> Result<String> {
    Ok(open()?.0)
}

/// The PTP clock of the VMClock.
pub(crate) fn open() -> Result<(String, File)> {
    for entry in fs::read_dir("/sys/class/ptp").into_iter().flatten().flatten() {
        let name = fs::read_to_string(entry.path().join("clock_name")).unwrap_or_default();
        if name.starts_with("vmclock") {
            let path = format!("/dev/{}", entry.file_name().to_string_lossy());
            let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
            return Ok((path, file));
        }
    }
    bail!("there is no PTP clock named vmclock")
}

pub(crate) fn gettime(file: &File) -> Result<i128> {
    let time =
        clock_gettime_dynamic(DynamicClockId::Dynamic(file.as_fd())).context("clock_gettime on the PTP clock")?;
    Ok(i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec))
}

fn sys_offset_precise() -> Result<SysOffsetPrecise> {
    sys_offset_precise_of(&open()?.1)
}

fn sys_offset_precise_of(file: &File) -> Result<SysOffsetPrecise> {
    const PTP_SYS_OFFSET_PRECISE: u32 = opcode::read_write::<SysOffsetPrecise>(b'=', 8);
    let mut stamp = SysOffsetPrecise::default();
    // SAFETY: number and structure belong together, as linux/ptp_clock.h says.
    let request = unsafe { Updater::<PTP_SYS_OFFSET_PRECISE, _>::new(&mut stamp) };
    // SAFETY: the kernel writes nothing but the structure, which outlives the call.
    unsafe { ioctl(file, request) }.context("PTP_SYS_OFFSET_PRECISE")?;
    Ok(stamp)
}

fn sys_offset_extended(file: &File) -> Result<Vec<[i128; 3]>> {
    const PTP_SYS_OFFSET_EXTENDED: u32 = opcode::read_write::<SysOffsetExtended>(b'=', 9);
    let mut offsets = SysOffsetExtended { samples: u32::try_from(SAMPLES)?, ..SysOffsetExtended::default() };
    // SAFETY: number and structure belong together, as linux/ptp_clock.h says.
    let request = unsafe { Updater::<PTP_SYS_OFFSET_EXTENDED, _>::new(&mut offsets) };
    // SAFETY: the kernel writes nothing but the structure, which outlives the call.
    unsafe { ioctl(file, request) }.context("PTP_SYS_OFFSET_EXTENDED")?;
    Ok(offsets.times[..SAMPLES].iter().map(|sample| sample.map(PtpClockTime::nanos)).collect())
}

fn tai(clock: &VmClock) -> Result<i128> {
    Ok(clock.now()?.tai().context("the page gives no TAI")?.timestamp().nanos())
}

/// How far the guest's `CLOCK_REALTIME` is ahead of the page's TAI. That it is 37 s more behind it than it should be,
/// or years, is no matter.
fn realtime_ahead(cross: &CrossTimestamp) -> Result<i128> {
    let tai = cross.reading.tai().context("the page gives no TAI")?;
    Ok(cross.realtime.time.floor_nanos() - tai.timestamp().nanos())
}

/// By how many nanoseconds the middle of a cross timestamp may be off: in an interpreter a system call takes
/// microseconds.
fn half_width(cross: &CrossTimestamp) -> Result<i128> {
    let at = |counter| Reading::new(&cross.page, counter, counter::ID).map(|reading| reading.time());
    let width = at(cross.realtime.after)?.since(at(cross.realtime.before)?).context("a sample of centuries")?;
    Ok(width.ceil_nanos() / 2 + 1)
}

fn to_i64(nanos: i128) -> Result<i64> {
    i64::try_from(nanos).context("a difference of more than 292 years")
}
