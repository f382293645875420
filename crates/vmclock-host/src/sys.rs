// SPDX-License-Identifier: MIT OR Apache-2.0
//! The C interface: what no safe library offers.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// What the kernel states of its clock: `adjtimex(2)` with nothing to change, and the clock's state.
pub(crate) fn adjtimex() -> io::Result<(libc::timex, i32)> {
    read_timex(0)
}

/// What adjtime(3) has left for later seconds, in microseconds.
pub(crate) fn adjtime_remaining() -> io::Result<i64> {
    Ok(read_timex(libc::ADJ_OFFSET_SS_READ)?.0.offset)
}

/// `adjtimex(2)` with modes that change nothing.
fn read_timex(modes: libc::c_uint) -> io::Result<(libc::timex, i32)> {
    // SAFETY: `timex` is plain numbers, for which zeros are valid.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    timex.modes = modes;
    // SAFETY: the pointer is to a `timex` of ours, which the kernel fills in.
    match unsafe { libc::adjtimex(&raw mut timex) } {
        -1 => Err(io::Error::last_os_error()),
        state => Ok((timex, state)),
    }
}

/// A clock that always exists, in seconds and nanoseconds since its epoch. Through the vDSO: no system call.
pub(crate) fn clock_gettime(clock: libc::clockid_t) -> (i64, i64) {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a `timespec` of ours. It fails for unknown clocks only, and leaves zeros then.
    unsafe { libc::clock_gettime(clock, &raw mut now) };
    (now.tv_sec, now.tv_nsec)
}

/// `struct ptp_clock_time`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PtpTime {
    pub(crate) sec: i64,
    pub(crate) nsec: u32,
    reserved: u32,
}

/// How many samples the kernel takes in one call. Its limit is 25.
pub(crate) const PTP_SAMPLES: usize = 10;

/// `struct ptp_sys_offset_extended`: the system's clock, the device's, and the system's again, for each sample.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct PtpSysOffsetExtended {
    n_samples: u32,
    /// Reserved before Linux 6.12, which refuses anything but 0 there: that is `CLOCK_REALTIME`.
    clock: libc::clockid_t,
    reserved: [u32; 2],
    samples: [[PtpTime; 3]; 25],
}

/// `struct ptp_sys_offset_precise`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct PtpSysOffsetPrecise {
    device: PtpTime,
    realtime: PtpTime,
    monotonic_raw: PtpTime,
    reserved: [u32; 4],
}

/// `_IOWR('=', number, T)`
const fn ptp_request<T>(number: libc::c_ulong) -> libc::c_ulong {
    3 << 30 | (size_of::<T>() as libc::c_ulong) << 16 | (b'=' as libc::c_ulong) << 8 | number
}

/// The device's clock between two readings of one of the system's, some times in a row.
pub(crate) fn ptp_sys_offset_extended(
    device: BorrowedFd<'_>,
    clock: libc::clockid_t,
) -> io::Result<[[PtpTime; 3]; PTP_SAMPLES]> {
    const REQUEST: libc::c_ulong = ptp_request::<PtpSysOffsetExtended>(9);
    let n_samples = u32::try_from(PTP_SAMPLES).map_err(io::Error::other)?;
    let mut argument = PtpSysOffsetExtended { n_samples, clock, ..PtpSysOffsetExtended::default() };
    // SAFETY: the request takes a pointer to this very structure, whose size is part of the request, and writes within
    // it.
    if unsafe { libc::ioctl(device.as_raw_fd(), REQUEST, &raw mut argument) } == -1 {
        return Err(io::Error::last_os_error());
    }
    let mut samples = [[PtpTime::default(); 3]; PTP_SAMPLES];
    samples.copy_from_slice(&argument.samples[..PTP_SAMPLES]);
    Ok(samples)
}

/// The device's clock and `CLOCK_MONOTONIC_RAW` at one moment, where the hardware can.
pub(crate) fn ptp_sys_offset_precise(device: BorrowedFd<'_>) -> io::Result<(PtpTime, PtpTime)> {
    const REQUEST: libc::c_ulong = ptp_request::<PtpSysOffsetPrecise>(8);
    let mut argument = PtpSysOffsetPrecise::default();
    // SAFETY: the request takes a pointer to this very structure, whose size is part of the request, and writes within
    // it.
    if unsafe { libc::ioctl(device.as_raw_fd(), REQUEST, &raw mut argument) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok((argument.device, argument.monotonic_raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_those_of_the_linux_header() {
        // As a C compiler has them from linux/ptp_clock.h, on x86-64 and aarch64.
        assert_eq!(ptp_request::<PtpSysOffsetPrecise>(8), 0xc040_3d08);
        assert_eq!(ptp_request::<PtpSysOffsetExtended>(9), 0xc4c0_3d09);
    }
}
