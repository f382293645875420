// SPDX-License-Identifier: GPL-2.0
//! The system's clocks, and the counters that they are made of.

use core::ptr::null_mut;

use kernel::bindings;
use kernel::error::to_result;
use kernel::ffi::{c_int, c_void};
use kernel::prelude::*;

/// What a counter is called, so that values of the same can be told from others.
pub(crate) type CounterId = bindings::clocksource_ids;

/// The value of a counter that the system's clock is, or can be, made of.
pub(crate) type SystemCounter = bindings::system_counterval_t;

/// The system's clock and its counter at one instant.
pub(crate) type Snapshot = bindings::system_time_snapshot;

/// One of the system's clocks.
#[derive(Clone, Copy)]
pub(crate) struct SystemClock(c_int);

impl SystemClock {
    pub(crate) const REALTIME: Self = Self(bindings::CLOCK_REALTIME as c_int);

    /// The clock of a number.
    ///
    /// # Safety
    ///
    /// There must be a clock of this number that snapshots can be taken of.
    pub(super) const unsafe fn from_raw(number: c_int) -> Self {
        Self(number)
    }
}

/// Takes a snapshot of a clock.
pub(crate) fn snapshot(clock: SystemClock) -> Snapshot {
    let mut snapshot = Snapshot::default();
    // SAFETY: the place is ours, and there is such a clock.
    unsafe { bindings::ktime_get_snapshot_id(clock.0, &mut snapshot) };
    snapshot
}

/// A device's clock and the system's clocks at one instant.
#[repr(transparent)]
pub(crate) struct CrossTimestamp(bindings::system_device_crosststamp);

impl CrossTimestamp {
    /// # Safety
    ///
    /// `stamp` must be valid during `'a`, and nobody else use it.
    pub(super) unsafe fn from_raw<'a>(stamp: *mut bindings::system_device_crosststamp) -> &'a mut Self {
        // SAFETY: as the caller says; it is a transparent wrapper.
        unsafe { &mut *stamp.cast() }
    }

    /// Fills it in, of what `capture` gives: the device's time in nanoseconds, and the counter at that instant, which
    /// must be what the system's clock is made of just then: `ENODEV` otherwise. It may be called again, and must not
    /// sleep.
    pub(crate) fn fill<F: FnMut() -> Result<(i64, SystemCounter)>>(&mut self, mut capture: F) -> Result {
        let context = (&raw mut capture).cast::<c_void>();
        // SAFETY: the context is what `captured` expects, for as long as this call.
        to_result(unsafe {
            bindings::get_device_system_crosststamp(Some(captured::<F>), context, null_mut(), &mut self.0)
        })
    }
}

/// # Safety
///
/// `context` must be an `F` that nobody else uses, the others places for the answer.
unsafe extern "C" fn captured<F: FnMut() -> Result<(i64, SystemCounter)>>(
    time: *mut bindings::ktime_t,
    counter: *mut bindings::system_counterval_t,
    context: *mut c_void,
) -> c_int {
    // SAFETY: as the caller says.
    let capture = unsafe { &mut *context.cast::<F>() };
    match capture() {
        Ok(captured) => {
            // SAFETY: as the caller says.
            unsafe { (*time, *counter) = captured };
            0
        }
        Err(error) => error.to_errno(),
    }
}
