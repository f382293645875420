// SPDX-License-Identifier: GPL-2.0
//! Generated from `helpers.h`: PTP clocks, and the inline functions of `helpers.c`.
#![allow(dead_code, non_camel_case_types, non_upper_case_globals, missing_docs, clippy::all, unreachable_pub)]
// Empty structures of locks that do not debug.
#![allow(improper_ctypes)]
// bindgen writes unions with functions that call `transmute`.
#![allow(unsafe_op_in_unsafe_fn)]

use kernel::bindings::*;
use kernel::ffi;

include!("../bindings_generated.rs");

/// For features that this clock does not have.
#[repr(C)]
pub(crate) struct ptp_clock_request {
    _opaque: [u8; 0],
}

/// As above.
#[repr(C)]
pub(crate) struct ptp_pin_desc {
    _opaque: [u8; 0],
}
