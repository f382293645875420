// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a reading says.
#![allow(unsafe_code)] // the names that the linker sees

use std::mem::MaybeUninit;

use vmclock::{Reading, Smearing};

use crate::border::{self, guarded, guarded_or};
use crate::error::{give, vmclock_result, Failure};
use crate::state::{scale_of, vmclock_epoch};
use crate::time::{vmclock_interval, vmclock_order, vmclock_scale, vmclock_time};

/// Marks a reading that was filled: the letters `vmclock1`.
pub(crate) const FILLED: u64 = u64::from_le_bytes(*b"vmclock1");

/// The time at one moment, with its error bounds and the rest of the page at that moment.
///
/// It may be copied and compared with others, in this process. What it holds is private to the library, undecoded, as
/// that is what makes a reading cheap: the `vmclock_reading_` functions decode it. They return `VMCLOCK_ERROR_ARGUMENT`
/// for NULL and for what is no reading, and `VMCLOCK_ERROR_NOT_STATED` where the page does not state what was asked
/// for; on failure the result is all zeros.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct vmclock_reading {
    /// Private.
    pub words: [u64; 14],
    /// Private.
    pub filled: u64,
    /// Private.
    pub reserved: u64,
}

/// Ways to smear UTC around a leap second, in which no second repeats and none is missing.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum vmclock_smearing {
    /// As the page hints.
    VMCLOCK_SMEARING_AS_HINTED = 0,
    /// Linearly, from the noon before the leap second to the noon after it.
    VMCLOCK_SMEARING_NOON_LINEAR = 1,
    /// UTC-SLS: over the last 1000 seconds of the leap day.
    VMCLOCK_SMEARING_UTC_SLS = 2,
}

/// Writes the time in TAI: what to compare with other machines, and to subtract. Not stated by a page on a monotonic
/// scale, and by a page in UTC without a TAI offset.
#[no_mangle]
pub extern "C" fn vmclock_reading_tai(
    reading: Option<&vmclock_reading>,
    time: Option<&mut MaybeUninit<vmclock_time>>,
) -> vmclock_result {
    tell(reading, time, |reading| {
        let tai = reading.tai().ok_or(Failure::NotStated("TAI"))?;
        Ok(vmclock_time::of(tai, vmclock_scale::VMCLOCK_SCALE_TAI))
    })
}

/// Writes the time in UTC, also across a leap second that the page announces: `leap_second` is 1 during 23:59:60. Not
/// stated by a page on a monotonic scale, by a page in TAI without a TAI offset, and with a leap indicator that has no
/// meaning.
#[no_mangle]
pub extern "C" fn vmclock_reading_utc(
    reading: Option<&vmclock_reading>,
    time: Option<&mut MaybeUninit<vmclock_time>>,
) -> vmclock_result {
    tell(reading, time, |reading| {
        let utc = reading.utc().ok_or(Failure::NotStated("UTC"))?;
        let leap_second = utc.leap_second.into();
        Ok(vmclock_time { leap_second, ..vmclock_time::of(utc.time, vmclock_scale::VMCLOCK_SCALE_UTC) })
    })
}

/// Writes the time on a UTC smeared around leap seconds in one of the ways of `enum vmclock_smearing`. Not stated where
/// UTC is not, nor as hinted by a page that hints at none.
#[no_mangle]
pub extern "C" fn vmclock_reading_smeared_utc(
    reading: Option<&vmclock_reading>,
    smearing: i32,
    time: Option<&mut MaybeUninit<vmclock_time>>,
) -> vmclock_result {
    tell(reading, time, |reading| {
        let time = match smearing {
            0 => reading.smeared_utc_by_hint(),
            1 => reading.smeared_utc(Smearing::NoonLinear),
            2 => reading.smeared_utc(Smearing::UtcSls),
            _ => return Err(Failure::Argument("smearing is none of enum vmclock_smearing")),
        };
        Ok(vmclock_time::of(time.ok_or(Failure::NotStated("smeared UTC"))?, vmclock_scale::VMCLOCK_SCALE_SMEARED_UTC))
    })
}

/// Writes the time on the page's own scale, which `scale` of the result names: TAI, UTC or monotonic.
#[no_mangle]
pub extern "C" fn vmclock_reading_time(
    reading: Option<&vmclock_reading>,
    time: Option<&mut MaybeUninit<vmclock_time>>,
) -> vmclock_result {
    tell(reading, time, |reading| Ok(vmclock_time::of(reading.time(), scale_of(reading.time_type()))))
}

/// Writes the interval that contains true time, in TAI. Not stated where TAI is not, and by a page without maximum
/// error.
#[no_mangle]
pub extern "C" fn vmclock_reading_tai_interval(
    reading: Option<&vmclock_reading>,
    interval: Option<&mut MaybeUninit<vmclock_interval>>,
) -> vmclock_result {
    tell(reading, interval, |reading| {
        let interval = reading.tai_interval().ok_or(Failure::NotStated("TAI, or no maximum error"))?;
        Ok(vmclock_interval::of(interval, vmclock_scale::VMCLOCK_SCALE_TAI))
    })
}

/// Writes the interval that contains true time, on the page's own scale. Not stated by a page without maximum error.
#[no_mangle]
pub extern "C" fn vmclock_reading_interval(
    reading: Option<&vmclock_reading>,
    interval: Option<&mut MaybeUninit<vmclock_interval>>,
) -> vmclock_result {
    tell(reading, interval, |reading| {
        let interval = reading.interval().ok_or(Failure::NotStated("a maximum error"))?;
        Ok(vmclock_interval::of(interval, scale_of(reading.time_type())))
    })
}

/// Writes the maximum error in nanoseconds, to either side, rounded up; `UINT64_MAX` stands for all that is greater.
/// Not stated by a page without maximum error.
#[no_mangle]
pub extern "C" fn vmclock_reading_max_error_ns(
    reading: Option<&vmclock_reading>,
    nanoseconds: Option<&mut MaybeUninit<u64>>,
) -> vmclock_result {
    tell(reading, nanoseconds, |reading| {
        let error = reading.max_error_nanos().ok_or(Failure::NotStated("a maximum error"))?;
        Ok(u64::try_from(error).unwrap_or(u64::MAX))
    })
}

/// Writes TAI-UTC at this reading, in seconds: +37 since 2017, and during 23:59:60 what it was before. Not stated where
/// TAI or UTC is not.
#[no_mangle]
pub extern "C" fn vmclock_reading_tai_offset(
    reading: Option<&vmclock_reading>,
    seconds: Option<&mut MaybeUninit<i32>>,
) -> vmclock_result {
    tell(reading, seconds, |reading| {
        let (Some(tai), Some(utc)) = (reading.tai(), reading.utc()) else {
            return Err(Failure::NotStated("TAI-UTC"));
        };
        let apart = i128::from(tai.seconds()) - i128::from(utc.time.seconds()) - i128::from(utc.leap_second);
        i32::try_from(apart).map_err(|_| Failure::Range)
    })
}

/// Writes the epoch, to compare with others.
#[no_mangle]
pub extern "C" fn vmclock_reading_epoch(
    reading: Option<&vmclock_reading>,
    epoch: Option<&mut MaybeUninit<vmclock_epoch>>,
) -> vmclock_result {
    tell(reading, epoch, |reading| Ok(reading.epoch().into()))
}

/// How far the clock could be trusted: `VMCLOCK_STATUS_SYNCHRONIZED` or `VMCLOCK_STATUS_FREE_RUNNING`, as with the
/// others there is no reading; `VMCLOCK_STATUS_UNKNOWN` for what is no reading.
#[no_mangle]
pub extern "C" fn vmclock_reading_status(reading: Option<&vmclock_reading>) -> i32 {
    guarded_or(0, || border::reading(reading).map_or(0, |reading| reading.status().0.into()))
}

/// The value of the CPU's counter at this reading; zero for what is no reading.
#[no_mangle]
pub extern "C" fn vmclock_reading_counter(reading: Option<&vmclock_reading>) -> u64 {
    guarded_or(0, || border::reading(reading).map_or(0, |reading| reading.counter()))
}

/// Compares two readings by true time. Readings of different pages are compared in TAI, and so are readings on either
/// side of a restore or a migration. `VMCLOCK_CANNOT_TELL` also where one has no error bounds, or is no reading.
#[no_mangle]
pub extern "C" fn vmclock_compare(one: Option<&vmclock_reading>, other: Option<&vmclock_reading>) -> vmclock_order {
    guarded_or(vmclock_order::VMCLOCK_CANNOT_TELL, || {
        let (Ok(one), Ok(other)) = (border::reading(one), border::reading(other)) else {
            return vmclock_order::VMCLOCK_CANNOT_TELL;
        };
        if one.certainly_before(&other) {
            vmclock_order::VMCLOCK_CERTAINLY_BEFORE
        } else if one.certainly_after(&other) {
            vmclock_order::VMCLOCK_CERTAINLY_AFTER
        } else {
            vmclock_order::VMCLOCK_CANNOT_TELL
        }
    })
}

/// Whether `one` was certainly taken before `other`, by true time. False where it was not, and where nobody can tell.
#[no_mangle]
pub extern "C" fn vmclock_certainly_before(one: Option<&vmclock_reading>, other: Option<&vmclock_reading>) -> bool {
    vmclock_compare(one, other) == vmclock_order::VMCLOCK_CERTAINLY_BEFORE
}

/// Tells something of a reading, written where C wants it.
#[inline(always)]
fn tell<T: Copy>(
    reading: Option<&vmclock_reading>,
    place: Option<&mut MaybeUninit<T>>,
    of: impl FnOnce(&Reading) -> Result<T, Failure>,
) -> vmclock_result {
    guarded(None, |_| {
        let Some(place) = place else { return Failure::Argument("the place for the result is NULL").report(None) };
        give(place, border::reading(reading).and_then(|reading| of(&reading)), None)
    })
}
