// SPDX-License-Identifier: MIT OR Apache-2.0
//! The C interface: `adjtimex(2)` and `sched_setscheduler(2)`, which no safe library offers.
#![allow(unsafe_code)]

use std::io;

/// A `timex` that asks for nothing.
pub(crate) fn no_change() -> libc::timex {
    // SAFETY: `timex` is plain numbers, for which zeros are valid.
    unsafe { std::mem::zeroed() }
}

/// `adjtimex(2)`: changes what `timex.modes` says, and fills in the rest.
pub(crate) fn adjtimex(timex: &mut libc::timex) -> io::Result<()> {
    // SAFETY: the reference is to a `timex` of ours, which the kernel fills in.
    match unsafe { libc::adjtimex(timex) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Runs before all that is not real-time; what is started from here on does not.
pub(crate) fn run_before_others() -> io::Result<()> {
    // SAFETY: it takes numbers only.
    let policy = unsafe { libc::sched_getscheduler(0) };
    // SAFETY: it takes numbers only.
    let lowest = unsafe { libc::sched_get_priority_min(libc::SCHED_FIFO) };
    if [libc::SCHED_FIFO, libc::SCHED_RR, libc::SCHED_DEADLINE].contains(&(policy & !libc::SCHED_RESET_ON_FORK)) {
        // Somebody has chosen.
        return Ok(());
    }
    // SAFETY: `sched_param` is plain numbers, for which zeros are valid.
    let mut parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    parameters.sched_priority = lowest;
    // SAFETY: the pointer is to a `sched_param` of ours, which the kernel reads.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const parameters) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
