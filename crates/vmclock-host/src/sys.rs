// SPDX-License-Identifier: MIT OR Apache-2.0
//! The C interface: what no safe library offers.
#![allow(unsafe_code)]

use std::io;

/// What the kernel says of its clock: `adjtimex(2)` with nothing to change, and the clock's state.
pub(crate) fn adjtimex() -> io::Result<(libc::timex, i32)> {
    // SAFETY: `timex` is plain numbers, for which zeros are valid; modes 0 asks to change nothing.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
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
