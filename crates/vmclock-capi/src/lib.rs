// SPDX-License-Identifier: MIT OR Apache-2.0
//! libvmclock: the guest library for C and C++.
//!
//! Everything here is called by C. Its documentation is that of `include/vmclock.h`, which cbindgen makes of these
//! files (a test compares), and of the manual pages, which `cargo xtask install-c` makes of the header. So it is
//! written for a reader of C, and the names are those of C.
//!
//! | module | what it is |
//! |---|---|
//! | [`border`] | what may be wrong with what C passes: pointers, text, panics |
//! | [`error`] | result codes and their text |
//! | [`time`] | instants and intervals |
//! | [`state`] | the page without its calibration |
//! | [`clock`] | opening a clock and asking it |
//! | [`reading`] | what a reading says |
//! | [`stored`] | pages in memory: recordings and test vectors |
//! | [`events`] | waiting for something to happen |
//!
//! A pointer that C passes is an `Option` of a reference, which has the same representation: no function body has to
//! be unsafe, and none can forget NULL.
#![deny(unsafe_code)]
#![allow(non_camel_case_types)] // C's names
#![allow(clippy::missing_safety_doc)] // what C has to keep to is in the text itself

pub mod border;
pub mod clock;
pub mod error;
pub mod events;
pub mod reading;
pub mod state;
pub mod stored;
pub mod time;
