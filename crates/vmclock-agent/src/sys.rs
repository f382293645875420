// SPDX-License-Identifier: MIT OR Apache-2.0
//! The C interface: `adjtimex(2)`, which no safe library offers.
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
