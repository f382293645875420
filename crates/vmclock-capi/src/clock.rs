// SPDX-License-Identifier: MIT OR Apache-2.0
//! Opening a clock and asking it.
#![allow(unsafe_code)] // the names that the linker sees, and text from C

use std::ffi::{c_char, CString};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use vmclock::{OpenError, OpenOptions, ReadError, Reading, Timestamp, VmClock};

use crate::border::{self, guarded, guarded_or, put_reading, put_words};
use crate::error::{give, vmclock_error, vmclock_result, Failure};
use crate::reading::vmclock_reading;
use crate::state::{vmclock_epoch, vmclock_state};
use crate::time::{vmclock_scale, vmclock_time};

/// An open clock. Any number of threads may use one at the same time, without slowing each other down.
pub struct vmclock_clock {
    clock: VmClock,
    path: CString,
}

impl vmclock_clock {
    pub(crate) fn new(clock: VmClock) -> Self {
        // A path that was opened has no zero in it.
        let path = CString::new(clock.path().as_os_str().as_bytes()).unwrap_or_default();
        Self { clock, path }
    }

    #[inline(always)]
    pub(crate) const fn clock(&self) -> &VmClock {
        &self.clock
    }
}

/// Do not map plain files: no SIGBUS handler is installed, and every reading of a plain file costs system calls.
/// Devices are mapped without a handler.
pub const VMCLOCK_OPEN_FILES_UNMAPPED: u32 = 1;
/// Map nothing: every reading costs system calls.
pub const VMCLOCK_OPEN_UNMAPPED: u32 = 2;

/// How to open a clock: fill it with `vmclock_options_default()`, then change what should be different.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct vmclock_options {
    /// How many bytes the structure has for the program, by which the library knows what fields there are.
    pub size: u32,
    /// `VMCLOCK_OPEN_` flags.
    pub flags: u32,
    /// How many nanoseconds a reading waits for an update in progress before it fails with `VMCLOCK_ERROR_BUSY`: 100 ms
    /// by default, as in Linux's driver.
    pub max_wait_ns: u64,
}

#[allow(clippy::cast_possible_truncation)] // it has 16 bytes
const OPTIONS_SIZE: u32 = size_of::<vmclock_options>() as u32;

const NO_CLOCK: &str = "clock is NULL";

/// The version of the library, as `0.1.0`; never NULL.
#[no_mangle]
pub extern "C" fn vmclock_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// Fills in the defaults, which `vmclock_open()` uses. `size` is `sizeof(struct vmclock_options)`; the macro
/// `VMCLOCK_OPTIONS_DEFAULT(options)` passes it. Does nothing where `options` is NULL.
#[no_mangle]
pub unsafe extern "C" fn vmclock_options_default(options: *mut vmclock_options, size: usize) {
    let default = vmclock_options { size: OPTIONS_SIZE, flags: 0, max_wait_ns: 100_000_000 };
    // Never more than the program has, nor more than there is.
    if !options.is_null() && size >= size_of::<vmclock_options>() {
        // SAFETY: the caller's promise; a program of a newer header has more, which keeps what it had.
        unsafe { options.write(default) };
    }
}

/// Opens the clock at `path`, a VMClock device or a plain file with a page in it; for NULL, the one that the
/// environment variable `VMCLOCK_PAGE` names, otherwise the first of `/dev/vmclock0` and `/run/vmclock/page` that
/// exists.
///
/// On success `*clock` is the clock, to be closed with `vmclock_close()`; otherwise it is NULL. That a machine has no
/// VMClock is a normal case: `VMCLOCK_ERROR_NO_DEVICE`. For a plain file a SIGBUS handler is installed, in case the
/// file is cut short; it passes on whatever is not about a page.
#[no_mangle]
pub unsafe extern "C" fn vmclock_open(
    path: *const c_char,
    clock: Option<&mut MaybeUninit<Option<Box<vmclock_clock>>>>,
    error: Option<&mut MaybeUninit<vmclock_error>>,
) -> vmclock_result {
    // SAFETY: the caller's promise.
    let path = unsafe { border::path(path) };
    give_clock(clock, error, || match path {
        Some(path) => VmClock::open_at(path),
        None => VmClock::open(),
    })
}

/// Opens a clock as `vmclock_open()` does, with options.
#[no_mangle]
pub unsafe extern "C" fn vmclock_open_with(
    path: *const c_char,
    options: Option<&vmclock_options>,
    clock: Option<&mut MaybeUninit<Option<Box<vmclock_clock>>>>,
    error: Option<&mut MaybeUninit<vmclock_error>>,
) -> vmclock_result {
    // SAFETY: the caller's promise.
    let path = unsafe { border::path(path) };
    let options = options.filter(|options| options.size >= OPTIONS_SIZE);
    let Some(options) = options else {
        return guarded(error, |error| {
            Failure::Argument("options is NULL, or vmclock_options_default() did not fill it").report(error)
        });
    };
    if options.flags & !(VMCLOCK_OPEN_FILES_UNMAPPED | VMCLOCK_OPEN_UNMAPPED) != 0 {
        return guarded(error, |error| {
            Failure::Argument("options has a flag that this version of libvmclock does not know").report(error)
        });
    }
    let rust = OpenOptions::new()
        .max_wait(Duration::from_nanos(options.max_wait_ns))
        .map_files(options.flags & VMCLOCK_OPEN_FILES_UNMAPPED == 0)
        .map(options.flags & VMCLOCK_OPEN_UNMAPPED == 0);
    give_clock(clock, error, || match path {
        Some(path) => rust.open(path),
        None => rust.open(vmclock::default_page()),
    })
}

/// Opens the clock at the same path in the same way once more: what to do after `VMCLOCK_ERROR_VANISHED`. The old one
/// stays open until it is closed.
#[no_mangle]
pub extern "C" fn vmclock_reopen(
    clock: Option<&vmclock_clock>,
    reopened: Option<&mut MaybeUninit<Option<Box<vmclock_clock>>>>,
    error: Option<&mut MaybeUninit<vmclock_error>>,
) -> vmclock_result {
    let Some(clock) = clock else {
        return give_clock_or(reopened, error, || Err(Failure::Argument(NO_CLOCK)));
    };
    give_clock(reopened, error, || clock.clock.reopen())
}

/// Closes a clock. NULL is allowed. No other thread may still use it; events that were opened on it stay open.
#[no_mangle]
pub extern "C" fn vmclock_close(clock: Option<Box<vmclock_clock>>) {
    guarded_or((), || drop(clock));
}

/// Where the clock was opened, as an absolute path, valid until it is closed; NULL for NULL.
#[no_mangle]
pub extern "C" fn vmclock_path(clock: Option<&vmclock_clock>) -> *const c_char {
    clock.map_or(std::ptr::null(), |clock| clock.path.as_ptr())
}

/// Whether the page is mapped. Otherwise every reading costs system calls.
#[no_mangle]
pub extern "C" fn vmclock_is_mapped(clock: Option<&vmclock_clock>) -> bool {
    clock.is_some_and(|clock| clock.clock.is_mapped())
}

/// Writes the time now, with its error bounds, to `reading`: no system call, no lock, no allocation.
///
/// The counter is read after everything that the program loaded before, and before the page is checked to be still the
/// same: two readings by one thread, or by two that wait for one another, are in order. What the reading says, the
/// `vmclock_reading_` functions tell. On failure `reading` is no reading, and they all say so.
///
/// `VMCLOCK_ERROR_NO_TIME` and `VMCLOCK_ERROR_BUSY` may pass. After `VMCLOCK_ERROR_VANISHED` and
/// `VMCLOCK_ERROR_NOT_A_PAGE` open the clock again. Where `error` is NULL, a reading of a mapped page may be taken in a
/// signal handler.
#[no_mangle]
pub extern "C" fn vmclock_now(
    clock: Option<&vmclock_clock>,
    reading: Option<&mut MaybeUninit<vmclock_reading>>,
    error: Option<&mut MaybeUninit<vmclock_error>>,
) -> vmclock_result {
    read::<true>(clock, reading, error)
}

/// Writes the time now as `vmclock_now()` does, without ordering: at half the price, and some tens of nanoseconds early
/// or late relative to the instructions around it. For timing things, not for ordering them.
#[no_mangle]
pub extern "C" fn vmclock_now_unordered(
    clock: Option<&vmclock_clock>,
    reading: Option<&mut MaybeUninit<vmclock_reading>>,
    error: Option<&mut MaybeUninit<vmclock_error>>,
) -> vmclock_result {
    read::<false>(clock, reading, error)
}

/// The first attempt cannot panic, so that nothing has to be guarded. It stores each word where C wants it.
#[inline(always)]
fn read<const ORDERED: bool>(
    clock: Option<&vmclock_clock>,
    mut place: Option<&mut MaybeUninit<vmclock_reading>>,
    error: Option<&mut MaybeUninit<vmclock_error>>,
) -> vmclock_result {
    if let (Some(clock), Some(place)) = (clock, &mut place) {
        let clock = &clock.clock;
        let done = if ORDERED {
            put_words(place, |put| clock.try_put_now(put))
        } else {
            put_words(place, |put| clock.try_put_now_unordered(put))
        };
        if done {
            return vmclock_result::VMCLOCK_OK;
        }
    }
    let read = if ORDERED { VmClock::now } else { VmClock::now_unordered };
    read_with_care(clock, place, error, read)
}

#[cold]
#[inline(never)]
fn read_with_care(
    clock: Option<&vmclock_clock>,
    place: Option<&mut MaybeUninit<vmclock_reading>>,
    error: Option<&mut MaybeUninit<vmclock_error>>,
    read: fn(&VmClock) -> Result<Reading, ReadError>,
) -> vmclock_result {
    guarded(error, |error| {
        let Some(place) = place else { return Failure::Argument("reading is NULL").report(error) };
        *place = MaybeUninit::zeroed();
        let Some(clock) = clock else { return Failure::Argument(NO_CLOCK).report(error) };
        match read(&clock.clock) {
            Ok(reading) => {
                put_reading(place, reading);
                vmclock_result::VMCLOCK_OK
            }
            Err(failure) => Failure::from(failure).report(error),
        }
    })
}

/// Writes the machine's present epoch to `epoch`, for `vmclock_is_current()`.
#[no_mangle]
pub extern "C" fn vmclock_get_epoch(
    clock: Option<&vmclock_clock>,
    epoch: Option<&mut MaybeUninit<vmclock_epoch>>,
    error: Option<&mut MaybeUninit<vmclock_error>>,
) -> vmclock_result {
    ask(clock, epoch, error, |clock| Ok(clock.epoch()?.into()))
}

/// Whether this is certainly still the same epoch: neither was the counter disrupted, nor the machine restored or
/// cloned.
///
/// Takes a nanosecond or two, so that it can be called before every use of what must be unique. Where it is false,
/// something happened, or it cannot be known: call `vmclock_get_epoch()`, which tells why, *before* renewing what must
/// be unique, so that nothing that happens from then on is missed.
#[no_mangle]
pub extern "C" fn vmclock_is_current(clock: Option<&vmclock_clock>, epoch: Option<&vmclock_epoch>) -> bool {
    let (Some(clock), Some(epoch)) = (clock, epoch) else { return false };
    // This cannot panic either.
    if epoch.known().is_some_and(|epoch| clock.clock.is_certainly_current(&epoch)) {
        return true;
    }
    is_current_with_care(clock, epoch)
}

#[cold]
#[inline(never)]
fn is_current_with_care(clock: &vmclock_clock, epoch: &vmclock_epoch) -> bool {
    guarded_or(false, || epoch.known().is_some_and(|epoch| clock.clock.is_current(&epoch).unwrap_or(false)))
}

/// Writes the page without its calibration to `state`, whether or not it gives a time.
#[no_mangle]
pub extern "C" fn vmclock_get_state(
    clock: Option<&vmclock_clock>,
    state: Option<&mut MaybeUninit<vmclock_state>>,
    error: Option<&mut MaybeUninit<vmclock_error>>,
) -> vmclock_result {
    ask(clock, state, error, |clock| Ok((&clock.snapshot()?).into()))
}

/// Whether the page is still the one at the path where the clock was opened, and still a page: `VMCLOCK_OK`, or how it
/// was lost.
///
/// A reading does not find out: a file that was removed or replaced stays mapped, but no publisher writes to it any
/// more. Takes two or three system calls: call it now and then, or use events, which check as well.
#[no_mangle]
pub extern "C" fn vmclock_check(
    clock: Option<&vmclock_clock>,
    error: Option<&mut MaybeUninit<vmclock_error>>,
) -> vmclock_result {
    guarded(error, |error| match clock {
        None => Failure::Argument(NO_CLOCK).report(error),
        Some(clock) => match clock.clock.check() {
            Ok(()) => vmclock_result::VMCLOCK_OK,
            Err(vanished) => Failure::from(vanished).report(error),
        },
    })
}

/// Between how many nanoseconds and how many the system's `CLOCK_REALTIME` is ahead of true UTC (negative: behind),
/// counting in the page's error bounds and the time that the comparison took.
#[no_mangle]
pub extern "C" fn vmclock_realtime_ahead(
    clock: Option<&vmclock_clock>,
    low_ns: Option<&mut MaybeUninit<i64>>,
    high_ns: Option<&mut MaybeUninit<i64>>,
    error: Option<&mut MaybeUninit<vmclock_error>>,
) -> vmclock_result {
    guarded(error, |error| {
        let (Some(low_ns), Some(high_ns)) = (low_ns, high_ns) else {
            return Failure::Argument("low_ns or high_ns is NULL").report(error);
        };
        high_ns.write(0);
        let ahead = || {
            let clock = clock.ok_or(Failure::Argument(NO_CLOCK))?;
            let ahead = clock.clock.cross_timestamp()?.realtime_ahead_nanos();
            let (low, high) = ahead.ok_or(Failure::NotStated("UTC, or no maximum error"))?;
            Ok((i64::try_from(low).map_err(|_| Failure::Range)?, i64::try_from(high).map_err(|_| Failure::Range)?))
        };
        let ahead = ahead().map(|(low, high)| {
            high_ns.write(high);
            low
        });
        give(low_ns, ahead, error)
    })
}

/// Waits until every clock has certainly passed `reading`: from then on no clock with true bounds, here or elsewhere,
/// gives a time that may be before it. That is a database's commit-wait. It takes about twice the maximum error; it
/// sleeps for most of that, and spins for the last 100 us.
///
/// Gives up after `limit_ns` nanoseconds with `VMCLOCK_ERROR_TIMED_OUT`; with `VMCLOCK_ERROR_DISRUPTED` as soon as the
/// epoch is not the reading's any more, as what was to be committed may then be another machine's too; and as soon as
/// the page gives no time or states no bounds. `after`, if not NULL, gets a reading that is certainly after.
#[no_mangle]
pub extern "C" fn vmclock_wait_until_after(
    clock: Option<&vmclock_clock>,
    reading: Option<&vmclock_reading>,
    limit_ns: u64,
    after: Option<&mut MaybeUninit<vmclock_reading>>,
    error: Option<&mut MaybeUninit<vmclock_error>>,
) -> vmclock_result {
    wait(clock, after, error, |clock| {
        Ok(clock.wait_until_after_within(&border::reading(reading)?, Duration::from_nanos(limit_ns))?)
    })
}

/// Waits until every clock has certainly passed an instant in TAI, as that of another machine's commit. Gives up as
/// `vmclock_wait_until_after()` does; the epoch is that of the call.
#[no_mangle]
pub extern "C" fn vmclock_wait_until_past(
    clock: Option<&vmclock_clock>,
    instant: Option<&vmclock_time>,
    limit_ns: u64,
    after: Option<&mut MaybeUninit<vmclock_reading>>,
    error: Option<&mut MaybeUninit<vmclock_error>>,
) -> vmclock_result {
    wait(clock, after, error, |clock| {
        let instant = instant.filter(|instant| instant.scale == vmclock_scale::VMCLOCK_SCALE_TAI as u8);
        let instant = instant.ok_or(Failure::Argument("instant is NULL, or not in TAI"))?;
        Ok(clock.wait_until_past(Timestamp::from_nanos(instant.nanos()), Duration::from_nanos(limit_ns))?)
    })
}

fn wait(
    clock: Option<&vmclock_clock>,
    mut after: Option<&mut MaybeUninit<vmclock_reading>>,
    error: Option<&mut MaybeUninit<vmclock_error>>,
    wait: impl FnOnce(&VmClock) -> Result<Reading, Failure>,
) -> vmclock_result {
    guarded(error, |error| {
        if let Some(after) = &mut after {
            **after = MaybeUninit::zeroed();
        }
        match clock.ok_or(Failure::Argument(NO_CLOCK)).and_then(|clock| wait(&clock.clock)) {
            Ok(reading) => {
                if let Some(after) = after {
                    put_reading(after, reading);
                }
                vmclock_result::VMCLOCK_OK
            }
            Err(failure) => failure.report(error),
        }
    })
}

/// Asks an open clock for something that is written where C wants it.
fn ask<T: Copy>(
    clock: Option<&vmclock_clock>,
    place: Option<&mut MaybeUninit<T>>,
    error: Option<&mut MaybeUninit<vmclock_error>>,
    question: impl FnOnce(&VmClock) -> Result<T, Failure>,
) -> vmclock_result {
    guarded(error, |error| {
        let Some(place) = place else {
            return Failure::Argument("the place for the result is NULL").report(error);
        };
        let answer = clock.ok_or(Failure::Argument(NO_CLOCK)).and_then(|clock| question(&clock.clock));
        give(place, answer, error)
    })
}

fn give_clock(
    place: Option<&mut MaybeUninit<Option<Box<vmclock_clock>>>>,
    error: Option<&mut MaybeUninit<vmclock_error>>,
    open: impl FnOnce() -> Result<VmClock, OpenError>,
) -> vmclock_result {
    give_clock_or(place, error, || open().map_err(Failure::from))
}

/// Gives C a clock of its own, or NULL.
pub(crate) fn give_clock_or(
    place: Option<&mut MaybeUninit<Option<Box<vmclock_clock>>>>,
    error: Option<&mut MaybeUninit<vmclock_error>>,
    open: impl FnOnce() -> Result<VmClock, Failure>,
) -> vmclock_result {
    guarded(error, |error| {
        let Some(place) = place else {
            return Failure::Argument("the place for the clock is NULL").report(error);
        };
        place.write(None);
        match open() {
            Ok(clock) => {
                place.write(Some(Box::new(vmclock_clock::new(clock))));
                vmclock_result::VMCLOCK_OK
            }
            Err(failure) => failure.report(error),
        }
    })
}
