// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages in memory: recordings and test vectors.
#![allow(unsafe_code)] // the names that the linker sees, and bytes from C

use std::ffi::c_void;
use std::mem::MaybeUninit;

use vmclock::{CounterId, Reading, Snapshot};

use crate::border::{self, guarded, put_reading};
use crate::error::{give, vmclock_error, vmclock_result, Failure};
use crate::reading::vmclock_reading;
use crate::state::{vmclock_counter, vmclock_state};

/// Writes what a copy of a page says at a value of its counter to `reading`: for recordings, tests and tools. Where
/// somebody writes to the page meanwhile, it is no copy: open it as a clock.
///
/// `page` has `length` bytes, of which the first 112 matter. `counter_id` says which counter the CPU has, one of `enum
/// vmclock_counter`; a page about another one gives no time.
#[no_mangle]
pub unsafe extern "C" fn vmclock_page_reading(
    page: *const c_void,
    length: usize,
    counter: u64,
    counter_id: i32,
    reading: Option<&mut MaybeUninit<vmclock_reading>>,
    error: Option<&mut MaybeUninit<vmclock_error>>,
) -> vmclock_result {
    // SAFETY: the caller's promise.
    let page = unsafe { border::bytes(page, length) };
    guarded(error, |error| {
        let Some(place) = reading else { return Failure::Argument("reading is NULL").report(error) };
        let reading = || {
            let cpu = if counter_id == vmclock_counter::VMCLOCK_COUNTER_THIS_CPU as i32 {
                vmclock::counter::ID
            } else {
                let number = u8::try_from(counter_id);
                CounterId(number.map_err(|_| Failure::Argument("counter_id is none of enum vmclock_counter"))?)
            };
            Ok(Reading::new(&parse(page)?, counter, cpu)?)
        };
        match reading() {
            Ok(reading) => {
                put_reading(place, reading);
                vmclock_result::VMCLOCK_OK
            }
            Err(failure) => {
                *place = MaybeUninit::zeroed();
                Failure::report(failure, error)
            }
        }
    })
}

/// Writes what a copy of a page says without its calibration to `state`, whether or not it gives a time.
#[no_mangle]
pub unsafe extern "C" fn vmclock_page_state(
    page: *const c_void,
    length: usize,
    state: Option<&mut MaybeUninit<vmclock_state>>,
    error: Option<&mut MaybeUninit<vmclock_error>>,
) -> vmclock_result {
    // SAFETY: the caller's promise.
    let page = unsafe { border::bytes(page, length) };
    guarded(error, |error| {
        let Some(place) = state else { return Failure::Argument("state is NULL").report(error) };
        give(place, parse(page).map(|page| (&page).into()), error)
    })
}

fn parse(page: Option<&[u8]>) -> Result<Snapshot, Failure> {
    Snapshot::from_prefix(page.ok_or(Failure::Argument("page is NULL"))?).map_err(Failure::NotAPage)
}
