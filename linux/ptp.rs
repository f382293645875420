// SPDX-License-Identifier: GPL-2.0
//! The PTP clock: the page's time, in TAI, read only.

use core::ptr::null_mut;

use kernel::bindings;
use kernel::device::Device;
use kernel::error::from_err_ptr;
use kernel::ffi::{c_int, c_long, c_void};
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::Arc;
use kernel::types::Opaque;
use vmclock_core::abi::{CounterId, Snapshot, TimeType};
use vmclock_core::calibration::Calibration;
use vmclock_core::counter;
use vmclock_core::leap;
use vmclock_core::time::{Tai, Time};

use crate::bindings::{
    ptp_clock, ptp_clock_info, ptp_clock_register, ptp_clock_request, ptp_clock_unregister, ptp_system_timestamp,
    vmclock_rust_kvm_clock,
};
use crate::clock::{patience, timed_out, Clock};
use crate::device::raw;

/// What the system calls the counter that the page is about.
#[cfg(CONFIG_X86)]
const CLOCKSOURCE: bindings::clocksource_ids = bindings::clocksource_ids_CSID_X86_TSC;
#[cfg(CONFIG_ARM64)]
const CLOCKSOURCE: bindings::clocksource_ids = bindings::clocksource_ids_CSID_ARM_ARCH_COUNTER;

/// The clock is what it is: neither its time nor its rate can be set.
const NOT_SUPPORTED: c_int = -(bindings::EOPNOTSUPP as c_int);

/// A registered PTP clock.
///
/// # Invariants
///
/// `registered` is the clock that was registered with `info`, for as long as this lives; null where the kernel has no PTP clocks.
#[pin_data(PinnedDrop)]
#[repr(C)]
pub(crate) struct PtpClock {
    #[pin]
    info: Opaque<ptp_clock_info>,
    clock: Arc<Clock>,
    /// The system's clock source, as far as it was needed.
    system: Atomic<u32>,
    registered: *mut ptp_clock,
}

// SAFETY: `info` and `registered` are the PTP layer's own; all else may be shared.
unsafe impl Send for PtpClock {}
// SAFETY: as above.
unsafe impl Sync for PtpClock {}

impl PtpClock {
    /// Whether a page has what a PTP clock needs. Its status may still forbid to read it.
    pub(crate) fn can_be_of(page: &Snapshot) -> bool {
        let is_ours = counter::ID != CounterId::NONE && page.counter_id == counter::ID;
        let gives_tai = match page.time_type {
            TimeType::TAI => true,
            TimeType::UTC => page.tai_offset().is_some(),
            _ => false,
        };
        is_ours && gives_tai && page.has_time_fields()
    }

    pub(crate) fn register<'a>(
        parent: &'a Device,
        name: &'a CStr,
        clock: Arc<Clock>,
    ) -> impl PinInit<Self, Error> + 'a {
        // SAFETY: zeros are valid: numbers, null pointers, and functions that there are not.
        let mut info: ptp_clock_info = unsafe { core::mem::zeroed() };
        info.owner = crate::THIS_MODULE.as_ptr();
        // The last one stays zero.
        let room = info.name.len() - 1;
        for (to, from) in info.name.iter_mut().take(room).zip(name.to_bytes()) {
            *to = *from;
        }
        info.adjfine = Some(adjust_rate);
        info.adjtime = Some(adjust_time);
        info.settime64 = Some(set_time);
        info.enable = Some(enable);
        info.gettimex64 = Some(get_time);
        info.getcrosststamp = Some(get_cross_timestamp);
        try_pin_init!(&this in Self {
            info: Opaque::new(info),
            clock,
            system: Atomic::new(CLOCKSOURCE),
            // INVARIANT: registered, or there is no value.
            // SAFETY: all else is there, and does not move. It is unregistered before it goes.
            registered: from_err_ptr(unsafe { ptp_clock_register((*this.as_ptr()).info.get(), raw(parent)) })?,
        })
    }

    /// # Safety
    ///
    /// `info` must be that of a registered clock of ours.
    unsafe fn of<'a>(info: *mut ptp_clock_info) -> &'a Self {
        // SAFETY: it is the first field.
        unsafe { &*info.cast::<Self>() }
    }
}

#[pinned_drop]
impl PinnedDrop for PtpClock {
    fn drop(self: Pin<&mut Self>) {
        if !self.registered.is_null() {
            // SAFETY: it is registered, by the invariants. Nobody calls into it once this returns.
            unsafe { ptp_clock_unregister(self.registered) };
        }
    }
}

/// The time in TAI, and the counter that it was at. `capture` reads the counter, between the two looks at the sequence count.
fn read(clock: &Clock, capture: impl FnMut() -> u64) -> Result<(Time<Tai>, u64)> {
    // The hypervisor should say so on the page; but it may not know.
    #[cfg(CONFIG_X86)]
    // SAFETY: it only looks.
    if unsafe { bindings::check_tsc_unstable() } != 0 {
        return Err(EINVAL);
    }
    let (words, counter) = clock.page().words_with(capture, patience()).map_err(timed_out)?;
    let page = words.decode().clipped();
    let calibration = Calibration::from_snapshot(&page, counter::ID).map_err(|_| EINVAL)?;
    let time = calibration.time_at(counter).map_err(|_| EINVAL)?;
    Ok((leap::tai(&page, time).ok_or(EINVAL)?, counter))
}

/// # Safety
///
/// To be called by the PTP layer, for a registered clock of ours.
unsafe extern "C" fn get_time(
    info: *mut ptp_clock_info,
    time: *mut bindings::timespec64,
    system: *mut ptp_system_timestamp,
) -> c_int {
    // SAFETY: as the caller says.
    let ptp = unsafe { PtpClock::of(info) };
    // SAFETY: the PTP layer gives a place for them, or none.
    let mut system = unsafe { system.as_mut() };
    let result = read(&ptp.clock, || match &mut system {
        Some(system) => between(system),
        None => counter::read_ordered(),
    });
    match result {
        Ok((tai, _)) => {
            // SAFETY: as above.
            unsafe { *time = bindings::timespec64 { tv_sec: tai.seconds(), tv_nsec: tai.subsec_nanos() as c_long } };
            0
        }
        Err(error) => error.to_errno(),
    }
}

/// The counter, with the system's time before and after. Where the system's clock is made of the same counter, all three are of
/// one reading of it.
fn between(system: &mut ptp_system_timestamp) -> u64 {
    // SAFETY: the places are ours.
    unsafe { bindings::ktime_get_snapshot_id(system.clockid, &mut system.pre_sts) };
    let before = &system.pre_sts;
    let same = if before.cs_id == CLOCKSOURCE {
        Some(before.cycles)
    } else {
        (before.hw_csid == CLOCKSOURCE && before.hw_cycles != 0).then_some(before.hw_cycles)
    };
    if let Some(counter) = same {
        system.post_sts = system.pre_sts;
        return counter;
    }
    let counter = counter::read_ordered();
    // SAFETY: as above.
    unsafe { bindings::ktime_get_snapshot_id(system.clockid, &mut system.post_sts) };
    counter
}

/// # Safety
///
/// To be called by the PTP layer, for a registered clock of ours.
unsafe extern "C" fn get_cross_timestamp(
    info: *mut ptp_clock_info,
    stamp: *mut bindings::system_device_crosststamp,
) -> c_int {
    // SAFETY: as the caller says.
    let ptp = unsafe { PtpClock::of(info) };
    // SAFETY: the context is what `capture` expects, for as long as this call; `stamp` is the caller's.
    let take = || unsafe {
        let context = core::ptr::from_ref(ptp).cast_mut().cast();
        bindings::get_device_system_crosststamp(Some(capture), context, null_mut(), stamp)
    };
    let result = take();
    if result != ENODEV.to_errno() {
        return result;
    }
    // The system's clock may be made of the KVM clock, which we can make of the counter.
    let mut now = bindings::system_time_snapshot::default();
    // SAFETY: the place is ours.
    unsafe { bindings::ktime_get_snapshot_id(bindings::CLOCK_REALTIME as c_int, &mut now) };
    if now.cs_id != CLOCKSOURCE && now.cs_id != bindings::clocksource_ids_CSID_X86_KVM_CLK {
        return result;
    }
    ptp.system.store(now.cs_id, Relaxed);
    take()
}

/// # Safety
///
/// `context` must be a PTP clock of ours, the others places for the answer.
unsafe extern "C" fn capture(
    time: *mut bindings::ktime_t,
    counted: *mut bindings::system_counterval_t,
    context: *mut c_void,
) -> c_int {
    // SAFETY: as the caller says.
    let ptp = unsafe { &*context.cast::<PtpClock>() };
    let (tai, counter) = match read(&ptp.clock, counter::read_ordered) {
        Ok(read) => read,
        Err(error) => return error.to_errno(),
    };
    let mut system = bindings::system_counterval_t { cycles: counter, cs_id: CLOCKSOURCE, use_nsecs: false };
    if ptp.system.load(Relaxed) == bindings::clocksource_ids_CSID_X86_KVM_CLK {
        // SAFETY: the place is ours.
        if !unsafe { vmclock_rust_kvm_clock(counter, &mut system.cycles) } {
            return ENODEV.to_errno();
        }
        system.cs_id = bindings::clocksource_ids_CSID_X86_KVM_CLK;
    }
    // Beyond the year 2262 the kernel's own time ends.
    let Ok(nanos) = i64::try_from(tai.floor_nanos()) else { return ERANGE.to_errno() };
    // SAFETY: as the caller says.
    unsafe {
        *time = nanos;
        *counted = system;
    }
    0
}

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
