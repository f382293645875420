// SPDX-License-Identifier: MIT OR Apache-2.0
//! Instants and intervals.
#![allow(unsafe_code)] // the names that the linker sees

use std::ffi::c_char;
use std::fmt;
use std::mem::MaybeUninit;

use vmclock::{Interval, Monotonic, Scale, SmearedUtc, Tai, Time, Timestamp, UtcTime};

use crate::border::{guarded, guarded_or, write_text};
use crate::error::{give, vmclock_result, Failure};

/// Time scales: `scale` in `struct vmclock_time` and `struct vmclock_state`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum vmclock_scale {
    /// None: there is no time.
    VMCLOCK_SCALE_NONE = 0,
    /// TAI, in seconds since 1970-01-01 00:00:00 TAI. Every second is there once: what to compare and to subtract.
    VMCLOCK_SCALE_TAI = 1,
    /// UTC, in seconds as POSIX counts them since 1970-01-01 00:00:00; `leap_second` tells 23:59:60 from 23:59:59.
    VMCLOCK_SCALE_UTC = 2,
    /// Monotonic, in seconds since an epoch that is not defined.
    VMCLOCK_SCALE_MONOTONIC = 3,
    /// UTC smeared around leap seconds: never goes back, but some of its seconds are longer or shorter.
    VMCLOCK_SCALE_SMEARED_UTC = 4,
}

/// An instant, rounded down to nanoseconds.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct vmclock_time {
    /// Whole seconds since the scale's epoch, rounded down: negative before 1970.
    pub sec: i64,
    /// Nanoseconds of the second, from 0 to 999999999.
    pub nsec: u32,
    /// The time scale: one of `enum vmclock_scale`.
    pub scale: u8,
    /// 1 during the leap second 23:59:60 UTC, in which `sec` is that of 23:59:59; otherwise 0.
    pub leap_second: u8,
    /// Zero.
    pub reserved: [u8; 2],
}

impl vmclock_time {
    pub(crate) fn of<S: Scale>(time: Time<S>, scale: vmclock_scale) -> Self {
        Self::new(time.seconds(), time.subsec_nanos(), scale)
    }

    const fn new(sec: i64, nsec: u32, scale: vmclock_scale) -> Self {
        Self { sec, nsec, scale: scale as u8, leap_second: 0, reserved: [0; 2] }
    }

    fn rounded<S: Scale>(timestamp: Timestamp<S>, scale: vmclock_scale) -> Self {
        // All of 1678 to 2262 fits 64 bits, whose division is cheap.
        if let Ok(nanos) = i64::try_from(timestamp.nanos()) {
            let nsec = u32::try_from(nanos.rem_euclid(NANOS_PER_SEC)).unwrap_or_default();
            return Self::new(nanos.div_euclid(NANOS_PER_SEC), nsec, scale);
        }
        Self::new(timestamp.seconds(), timestamp.subsec_nanos(), scale)
    }

    /// Nanoseconds since the epoch.
    pub(crate) fn nanos(&self) -> i128 {
        i128::from(self.sec) * i128::from(NANOS_PER_SEC) + i128::from(self.nsec)
    }

    /// What instants of one scale are compared by. Within 23:59:60 it is that of the second before, and later.
    const fn key(&self) -> (i64, u8, u32) {
        (self.sec, self.leap_second, self.nsec)
    }
}

const NANOS_PER_SEC: i64 = 1_000_000_000;

/// Where true time is: nowhere before `earliest`, nowhere after `latest`. Both ends are on the same scale and rounded
/// outwards to nanoseconds.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct vmclock_interval {
    /// True time is not before this.
    pub earliest: vmclock_time,
    /// True time is not after this.
    pub latest: vmclock_time,
}

impl vmclock_interval {
    #[inline]
    pub(crate) fn of<S: Scale>(interval: Interval<S>, scale: vmclock_scale) -> Self {
        Self {
            earliest: vmclock_time::rounded(interval.earliest, scale),
            latest: vmclock_time::rounded(interval.latest, scale),
        }
    }
}

/// What is known of the order of two instants of which only bounds are known. Negative, zero and positive as with
/// `strcmp`, but zero does not mean that they are the same instant.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum vmclock_order {
    /// The first is certainly before the second: their intervals do not even touch.
    VMCLOCK_CERTAINLY_BEFORE = -1,
    /// The intervals overlap, are not known, or are on different scales.
    VMCLOCK_CANNOT_TELL = 0,
    /// The first is certainly after the second.
    VMCLOCK_CERTAINLY_AFTER = 1,
}

/// Compares two intervals, which may come from different machines. `VMCLOCK_CANNOT_TELL` also where one is NULL or they
/// are on different scales. UTC goes back at a leap second in all but `leap_second`: compare in TAI.
#[no_mangle]
pub extern "C" fn vmclock_interval_compare(
    one: Option<&vmclock_interval>,
    other: Option<&vmclock_interval>,
) -> vmclock_order {
    let (Some(one), Some(other)) = (one, other) else { return vmclock_order::VMCLOCK_CANNOT_TELL };
    let scale = one.earliest.scale;
    let scales = [one.latest.scale, other.earliest.scale, other.latest.scale];
    if scale == vmclock_scale::VMCLOCK_SCALE_NONE as u8 || scales.iter().any(|its| *its != scale) {
        vmclock_order::VMCLOCK_CANNOT_TELL
    } else if one.latest.key() < other.earliest.key() {
        vmclock_order::VMCLOCK_CERTAINLY_BEFORE
    } else if one.earliest.key() > other.latest.key() {
        vmclock_order::VMCLOCK_CERTAINLY_AFTER
    } else {
        vmclock_order::VMCLOCK_CANNOT_TELL
    }
}

/// Writes an instant as nanoseconds since its scale's epoch to `nanoseconds`. `VMCLOCK_ERROR_RANGE` where 64 bits do
/// not hold them, that is, before 1677-09-21 and after 2262-04-11. During a leap second it repeats the second before.
#[no_mangle]
pub extern "C" fn vmclock_time_ns(
    time: Option<&vmclock_time>,
    nanoseconds: Option<&mut MaybeUninit<i64>>,
) -> vmclock_result {
    guarded(None, |_| {
        let Some(nanoseconds) = nanoseconds else { return Failure::Argument("nanoseconds is NULL").report(None) };
        let Some(time) = time else { return give(nanoseconds, Err(Failure::Argument("time is NULL")), None) };
        give(nanoseconds, i64::try_from(time.nanos()).map_err(|_| Failure::Range), None)
    })
}

/// Writes an instant as text to `buffer`, which has `size` bytes.
///
/// UTC is as RFC 3339 has it, `2016-12-31T23:59:60.500000000Z`, leap second included; TAI and smeared UTC have their
/// name in place of the `Z`; monotonic time is in seconds. What does not fit is cut off, and the text ends with a zero.
/// Returns how long the whole text is without the zero, as `snprintf` does: with a `size` of 0, `buffer` may be NULL.
#[no_mangle]
pub unsafe extern "C" fn vmclock_time_format(time: Option<&vmclock_time>, buffer: *mut c_char, size: usize) -> usize {
    guarded_or(0, || {
        let text: &dyn fmt::Display = time.map_or(&"", |time| time);
        // SAFETY: C's promise is the same as ours.
        unsafe { write_text(buffer, size, text) }
    })
}

impl fmt::Display for vmclock_time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const TAI: u8 = vmclock_scale::VMCLOCK_SCALE_TAI as u8;
        const UTC: u8 = vmclock_scale::VMCLOCK_SCALE_UTC as u8;
        const MONOTONIC: u8 = vmclock_scale::VMCLOCK_SCALE_MONOTONIC as u8;
        const SMEARED: u8 = vmclock_scale::VMCLOCK_SCALE_SMEARED_UTC as u8;
        match self.scale {
            TAI => Timestamp::<Tai>::from_nanos(self.nanos()).fmt(f),
            UTC => {
                let time = Time::from_nanos(self.nanos()).ok_or(fmt::Error)?;
                UtcTime { time, leap_second: self.leap_second != 0 }.fmt(f)
            }
            MONOTONIC => Timestamp::<Monotonic>::from_nanos(self.nanos()).fmt(f),
            SMEARED => Timestamp::<SmearedUtc>::from_nanos(self.nanos()).fmt(f),
            _ => f.write_str("no time"),
        }
    }
}
