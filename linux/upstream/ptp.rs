// SPDX-License-Identifier: GPL-2.0
//! PTP clocks: `/dev/ptpN`.

use kernel::bindings;
use kernel::device::Device;
use kernel::error::from_err_ptr;
use kernel::ffi::{c_int, c_long};
use kernel::prelude::*;
use kernel::types::Opaque;

use super::bindings::{
    ptp_clock, ptp_clock_info, ptp_clock_register, ptp_clock_request, ptp_clock_unregister, ptp_system_timestamp,
};
use super::raw;
use super::timekeeping::{snapshot, CrossTimestamp, Snapshot, SystemClock};

/// A clock that can be read, and neither be set nor adjusted.
pub(crate) trait PtpClock: Send + Sync + 'static {
    /// The time; and the system's before and after, where somebody wants to know.
    fn time(&self, system: Option<&mut SystemTimestamps>) -> Result<bindings::timespec64>;

    /// The time and the system's at one instant.
    fn cross_timestamp(&self, stamp: &mut CrossTimestamp) -> Result;
}

/// The system's time before and after a clock was read.
#[repr(transparent)]
pub(crate) struct SystemTimestamps(ptp_system_timestamp);

impl SystemTimestamps {
    /// Takes the first, and gives it.
    pub(crate) fn take_first(&mut self) -> &Snapshot {
        self.0.pre_sts = snapshot(self.clock());
        &self.0.pre_sts
    }

    fn clock(&self) -> SystemClock {
        // SAFETY: the PTP layer has checked that it is one of these.
        unsafe { SystemClock::from_raw(self.0.clockid) }
    }

    /// Takes the second.
    pub(crate) fn take_second(&mut self) {
        self.0.post_sts = snapshot(self.clock());
    }

    /// The clock was read at the very instant of the first.
    pub(crate) fn second_is_first(&mut self) {
        self.0.post_sts = self.0.pre_sts;
    }
}

/// A registered PTP clock.
///
/// # Invariants
///
/// `registered` is the clock that was registered with `info`, for as long as this lives; null where the kernel has no
/// PTP clocks.
#[pin_data(PinnedDrop)]
#[repr(C)]
pub(crate) struct Registration<T: PtpClock> {
    #[pin]
    info: Opaque<ptp_clock_info>,
    clock: T,
    registered: *mut ptp_clock,
}

// SAFETY: `info` and `registered` are the PTP layer's own; `T` is `Send` and `Sync`.
unsafe impl<T: PtpClock> Send for Registration<T> {}
// SAFETY: a shared reference gives nothing of `info` and `registered`; `T` is `Send` and `Sync`.
unsafe impl<T: PtpClock> Sync for Registration<T> {}

impl<T: PtpClock> Registration<T> {
    /// Registers a clock of this name, cut off where the kernel has no room for more.
    pub(crate) fn new<'a>(parent: &'a Device, name: &'a CStr, clock: T) -> impl PinInit<Self, Error> + use<'a, T> {
        // SAFETY: zeros are valid: numbers, null pointers, and functions that there are not.
        let mut info: ptp_clock_info = unsafe { core::mem::zeroed() };
        info.owner = crate::compat::this_module();
        // The last one stays zero.
        let room = info.name.len() - 1;
        for (to, from) in info.name.iter_mut().take(room).zip(name.to_bytes()) {
            *to = *from;
        }
        info.adjfine = Some(adjust_rate);
        info.adjtime = Some(adjust_time);
        info.settime64 = Some(set_time);
        info.enable = Some(enable);
        info.gettimex64 = Some(Self::time);
        info.getcrosststamp = Some(Self::cross_timestamp);
        try_pin_init!(&this in Self {
            info: Opaque::new(info),
            clock,
            // INVARIANT: registered, or there is no value. SAFETY: `info` and `clock` are there, and do not move;
            // nobody who is called looks at `registered`. It is unregistered before it goes.
            registered: from_err_ptr(unsafe { ptp_clock_register((*this.as_ptr()).info.get(), raw(parent)) })?,
        })
    }

    /// # Safety
    ///
    /// `info` must be that of a clock that is registered, or being registered, as a `T`.
    unsafe fn of<'a>(info: *mut ptp_clock_info) -> &'a T {
        // SAFETY: a registration begins with it. No more of it is referred to than `clock`, which is there before it is
        // registered.
        unsafe { &*(&raw const (*info.cast::<Self>()).clock) }
    }

    /// # Safety
    ///
    /// To be called by the PTP layer, for such a clock.
    unsafe extern "C" fn time(
        info: *mut ptp_clock_info,
        time: *mut bindings::timespec64,
        system: *mut ptp_system_timestamp,
    ) -> c_int {
        // SAFETY: as the caller says; the PTP layer gives a place for the system's time, or none.
        let (clock, system) = unsafe { (Self::of(info), system.cast::<SystemTimestamps>().as_mut()) };
        match clock.time(system) {
            Ok(read) => {
                // SAFETY: the PTP layer gives a place for it.
                unsafe { *time = read };
                0
            }
            Err(error) => error.to_errno(),
        }
    }

    /// # Safety
    ///
    /// To be called by the PTP layer, for such a clock.
    unsafe extern "C" fn cross_timestamp(
        info: *mut ptp_clock_info,
        stamp: *mut bindings::system_device_crosststamp,
    ) -> c_int {
        // SAFETY: as the caller says; the PTP layer gives a place for the answer.
        let (clock, stamp) = unsafe { (Self::of(info), CrossTimestamp::from_raw(stamp)) };
        clock.cross_timestamp(stamp).map_or_else(Error::to_errno, |()| 0)
    }
}

#[pinned_drop]
impl<T: PtpClock> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        if !self.registered.is_null() {
            // SAFETY: it is registered, by the invariants. Nobody calls into it once this returns.
            unsafe { ptp_clock_unregister(self.registered) };
        }
    }
}

/// The clock is what it is: neither its time nor its rate can be set.
const NOT_SUPPORTED: c_int = -(bindings::EOPNOTSUPP as c_int);

/// # Safety
///
/// None; it looks at nothing.
unsafe extern "C" fn adjust_rate(_info: *mut ptp_clock_info, _scaled_ppm: c_long) -> c_int {
    NOT_SUPPORTED
}

/// # Safety
///
/// None; it looks at nothing.
unsafe extern "C" fn adjust_time(_info: *mut ptp_clock_info, _nanos: i64) -> c_int {
    NOT_SUPPORTED
}

/// # Safety
///
/// None; it looks at nothing.
unsafe extern "C" fn set_time(_info: *mut ptp_clock_info, _time: *const bindings::timespec64) -> c_int {
    NOT_SUPPORTED
}

/// # Safety
///
/// None; it looks at nothing.
unsafe extern "C" fn enable(_info: *mut ptp_clock_info, _request: *mut ptp_clock_request, _on: c_int) -> c_int {
    NOT_SUPPORTED
}
