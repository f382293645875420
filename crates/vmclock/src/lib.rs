// SPDX-License-Identifier: MIT OR Apache-2.0
//! Time inside a virtual machine, with its error bounds, and the machine's events, from a VMClock page.
//!
//! ```no_run
//! let clock = vmclock::VmClock::open()?; // $VMCLOCK_PAGE; else /dev/vmclock0 or /run/vmclock/page
//! let reading = clock.now()?;
//! if let (Some(utc), Some(interval)) = (reading.utc(), reading.tai_interval()) {
//!     println!("UTC {:?}, within {} ns", utc.time, interval.width_nanos() / 2);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`VmClock::now`] costs less than `clock_gettime`: no system call, no lock, no allocation. [`VmClock::is_current`]
//! says, for about a nanosecond, whether anything happened to the machine; [`VmClock::events`] waits for it.
//! [`VmClock::check`] says whether the page is still published: its file may have been removed or replaced. Events
//! notice that too, and continue with the new page. Where a page gives no time, so does this library, with the reason;
//! where it gives no error bounds, there are none.
//!
//! [`VmClock::wait_until_after`] is a database's commit-wait, and [`hybrid`] a hybrid logical clock that no bad clock
//! drags into the future.
//!
//! With `default-features = false` the crate is `no_std` and consists of [`Reading`] and [`hybrid`]. The features
//! `jiff` and `chrono` convert a reading's UTC to these crates' types.
#![cfg_attr(not(feature = "std"), no_std)]
#![deny(unsafe_code)]

// The examples on the registry's page are tested too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod convert;
pub mod hybrid;
mod reading;

#[cfg(feature = "std")]
mod clock;
#[cfg(feature = "std")]
mod cross;
#[cfg(feature = "std")]
mod error;
#[cfg(feature = "std")]
mod events;
#[cfg(feature = "std")]
mod mapping;
#[cfg(feature = "std")]
pub mod mock;
#[cfg(feature = "std")]
mod path;
#[cfg(feature = "std")]
mod source;
#[cfg(feature = "std")]
mod vanished;
#[cfg(feature = "std")]
mod wait;

pub use convert::ConversionError;
pub use reading::Reading;
pub use vmclock_core::abi::{
    ClockStatus, CounterId, Flags, LeapIndicator, ParseError, SmearingHint, Snapshot, TimeType,
};
pub use vmclock_core::calibration::NoTime;
pub use vmclock_core::event::{Epoch, Event, Maintenance};
pub use vmclock_core::leap::{LeapStatus, UtcTime};
pub use vmclock_core::page::Busy;
pub use vmclock_core::sample::Sample;
pub use vmclock_core::smear::Smearing;
pub use vmclock_core::tai::TaiOffset;
pub use vmclock_core::time::{
    Certainty, Interval, Monotonic, NegativeSpan, PageScale, Scale, SmearedUtc, Span, Tai, Time, Timestamp, Utc,
};

/// The CPU's counter, for those who evaluate a page themselves: see [`Reading::new`].
pub mod counter {
    pub use vmclock_core::counter::{read_ordered, read_unordered, ID};
}

#[cfg(feature = "std")]
pub use clock::{OpenOptions, VmClock};
#[cfg(feature = "std")]
pub use cross::CrossTimestamp;
#[cfg(feature = "std")]
pub use error::{OpenError, ReadError};
#[cfg(feature = "std")]
pub use events::{Changes, Events, Notice};
#[cfg(feature = "std")]
pub use path::{default_page, DEVICE_PATH, PAGE_VARIABLE, PUBLISHED_PATH};
#[cfg(feature = "std")]
pub use vanished::{Loss, Vanished};
#[cfg(feature = "std")]
pub use vmclock_core::time::OutOfSystemTime;
#[cfg(feature = "std")]
pub use wait::WaitError;
