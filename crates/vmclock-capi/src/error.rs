// SPDX-License-Identifier: MIT OR Apache-2.0
//! Result codes, and what is written beside them for people.
#![allow(unsafe_code)] // the names that the linker sees

use std::ffi::{c_char, CStr};
use std::fmt;
use std::mem::MaybeUninit;

use vmclock::{Loss, NoTime, OpenError, ParseError, ReadError, Vanished, WaitError};

use crate::border::text_in;

/// What a function has to say. Values are added over time, and keep their numbers.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum vmclock_result {
    /// Done.
    VMCLOCK_OK = 0,
    /// A pointer is NULL that must not be, or a structure was not filled by this library.
    VMCLOCK_ERROR_ARGUMENT = 1,
    /// There is no device at the path, and no sign of a VMClock in this machine.
    VMCLOCK_ERROR_NO_DEVICE = 2,
    /// The hypervisor offers a VMClock, but the kernel has no driver for it, or has not loaded it.
    VMCLOCK_ERROR_NO_DRIVER = 3,
    /// There is no file at the path: no publisher has made a page there.
    VMCLOCK_ERROR_NO_FILE = 4,
    /// The path exists, but may not be read.
    VMCLOCK_ERROR_PERMISSION = 5,
    /// The path is neither a character device nor a plain file.
    VMCLOCK_ERROR_WRONG_KIND = 6,
    /// What is there is not a VMClock page, or not any more.
    VMCLOCK_ERROR_NOT_A_PAGE = 7,
    /// The page stayed in the middle of an update for as long as was allowed.
    VMCLOCK_ERROR_BUSY = 8,
    /// The page is valid but gives no time now; `reason` in `struct vmclock_error` says why. It may give one later.
    VMCLOCK_ERROR_NO_TIME = 9,
    /// The page's file was cut short, removed or replaced while it was open, or the device was removed: open the clock
    /// again.
    VMCLOCK_ERROR_VANISHED = 10,
    /// The system refused; `system_errno` in `struct vmclock_error` is its error number.
    VMCLOCK_ERROR_SYSTEM = 11,
    /// The page does not state what was asked for: no TAI offset, so no UTC of a page in TAI; no maximum error, so no
    /// interval; no smearing hint.
    VMCLOCK_ERROR_NOT_STATED = 12,
    /// The number does not fit: a time beyond the range of the result.
    VMCLOCK_ERROR_RANGE = 13,
    /// Time was up before anything happened.
    VMCLOCK_ERROR_TIMED_OUT = 14,
    /// The counter was disrupted, or the machine restored, while waiting: what was waited for means nothing now.
    VMCLOCK_ERROR_DISRUPTED = 15,
    /// A defect of this library. Nothing was done; please report it.
    VMCLOCK_ERROR_INTERNAL = 16,
}

use vmclock_result::{
    VMCLOCK_ERROR_ARGUMENT, VMCLOCK_ERROR_BUSY, VMCLOCK_ERROR_DISRUPTED, VMCLOCK_ERROR_INTERNAL,
    VMCLOCK_ERROR_NOT_A_PAGE, VMCLOCK_ERROR_NOT_STATED, VMCLOCK_ERROR_NO_DEVICE, VMCLOCK_ERROR_NO_DRIVER,
    VMCLOCK_ERROR_NO_FILE, VMCLOCK_ERROR_NO_TIME, VMCLOCK_ERROR_PERMISSION, VMCLOCK_ERROR_RANGE, VMCLOCK_ERROR_SYSTEM,
    VMCLOCK_ERROR_TIMED_OUT, VMCLOCK_ERROR_VANISHED, VMCLOCK_ERROR_WRONG_KIND, VMCLOCK_OK,
};

/// Why a valid page gives no time: `reason` in `struct vmclock_error`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum vmclock_no_time {
    /// The error is another than `VMCLOCK_ERROR_NO_TIME`.
    VMCLOCK_NO_TIME_NONE = 0,
    /// The page ends before the fields of the time: the hypervisor offers events only.
    VMCLOCK_NO_TIME_FIELDS = 1,
    /// The page is about another counter than this CPU's, or about none.
    VMCLOCK_NO_TIME_COUNTER = 2,
    /// The clock's status is unknown, initializing or unreliable.
    VMCLOCK_NO_TIME_STATUS = 3,
    /// The counter's period is zero.
    VMCLOCK_NO_TIME_PERIOD = 4,
    /// The period's shift is 128 or more.
    VMCLOCK_NO_TIME_SHIFT = 5,
    /// The time scale is one that no page may have.
    VMCLOCK_NO_TIME_SCALE = 6,
    /// The time is beyond 2^63 s from the epoch.
    VMCLOCK_NO_TIME_RANGE = 7,
    /// A reason that this header does not know: see `text`.
    VMCLOCK_NO_TIME_OTHER = 255,
}

/// How many bytes `text` in `struct vmclock_error` has, the zero at its end included.
pub const VMCLOCK_ERROR_TEXT_SIZE: usize = 496;

/// What went wrong, in full: for a log, or for whoever has to put it right. Every function that takes a pointer to one
/// takes NULL as well; on success it writes nothing there.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct vmclock_error {
    /// The result code that the function returned: one of `enum vmclock_result`.
    pub code: i32,
    /// Why there is no time, where `code` is `VMCLOCK_ERROR_NO_TIME`: one of `enum vmclock_no_time`.
    pub reason: i32,
    /// The system's error number (`errno`), where `code` is `VMCLOCK_ERROR_SYSTEM`; otherwise 0.
    pub system_errno: i32,
    /// Zero.
    pub reserved: i32,
    /// What went wrong and what to do, in English and UTF-8, without a line feed, ended with a zero; cut short where it
    /// is too long.
    pub text: [c_char; VMCLOCK_ERROR_TEXT_SIZE],
}

/// What went wrong, before C is told.
pub(crate) enum Failure {
    Argument(&'static str),
    Open(OpenError),
    Read(ReadError),
    Vanished(Vanished),
    Wait(WaitError),
    NotStated(&'static str),
    Range,
    TimedOut,
    Internal,
    NotAPage(ParseError),
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        Self::Open(error)
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

impl From<Vanished> for Failure {
    fn from(error: Vanished) -> Self {
        Self::Vanished(error)
    }
}

impl From<WaitError> for Failure {
    fn from(error: WaitError) -> Self {
        match error {
            WaitError::Read(error) => Self::Read(error),
            WaitError::Vanished(error) => Self::Vanished(error),
            error => Self::Wait(error),
        }
    }
}

impl From<NoTime> for Failure {
    fn from(error: NoTime) -> Self {
        Self::Read(ReadError::NoTime(error))
    }
}

impl Failure {
    fn code(&self) -> vmclock_result {
        match self {
            Self::Argument(_) => VMCLOCK_ERROR_ARGUMENT,
            Self::Open(error) => match error {
                OpenError::NoDevice { .. } => VMCLOCK_ERROR_NO_DEVICE,
                OpenError::NoDriver { .. } => VMCLOCK_ERROR_NO_DRIVER,
                OpenError::NoFile { .. } => VMCLOCK_ERROR_NO_FILE,
                OpenError::Permission { .. } => VMCLOCK_ERROR_PERMISSION,
                OpenError::WrongKind { .. } => VMCLOCK_ERROR_WRONG_KIND,
                OpenError::NotAPage { .. } => VMCLOCK_ERROR_NOT_A_PAGE,
                OpenError::Busy { .. } => VMCLOCK_ERROR_BUSY,
                OpenError::Io { .. } => VMCLOCK_ERROR_SYSTEM,
                _ => VMCLOCK_ERROR_INTERNAL,
            },
            Self::Read(error) => match error {
                ReadError::NoTime(_) => VMCLOCK_ERROR_NO_TIME,
                ReadError::Busy(_) => VMCLOCK_ERROR_BUSY,
                ReadError::Vanished { .. } => VMCLOCK_ERROR_VANISHED,
                ReadError::NotAPage(_) => VMCLOCK_ERROR_NOT_A_PAGE,
                ReadError::Io { .. } => VMCLOCK_ERROR_SYSTEM,
                _ => VMCLOCK_ERROR_INTERNAL,
            },
            Self::Vanished(Vanished { loss: Loss::Overwritten(_), .. }) | Self::NotAPage(_) => VMCLOCK_ERROR_NOT_A_PAGE,
            Self::Vanished(_) => VMCLOCK_ERROR_VANISHED,
            Self::Wait(error) => match error {
                WaitError::Disrupted { .. } => VMCLOCK_ERROR_DISRUPTED,
                WaitError::NoBounds | WaitError::NotComparable => VMCLOCK_ERROR_NOT_STATED,
                WaitError::TimedOut { .. } => VMCLOCK_ERROR_TIMED_OUT,
                _ => VMCLOCK_ERROR_INTERNAL,
            },
            Self::NotStated(_) => VMCLOCK_ERROR_NOT_STATED,
            Self::Range => VMCLOCK_ERROR_RANGE,
            Self::TimedOut => VMCLOCK_ERROR_TIMED_OUT,
            Self::Internal => VMCLOCK_ERROR_INTERNAL,
        }
    }

    fn reason(&self) -> vmclock_no_time {
        use vmclock_no_time::{
            VMCLOCK_NO_TIME_COUNTER, VMCLOCK_NO_TIME_FIELDS, VMCLOCK_NO_TIME_NONE, VMCLOCK_NO_TIME_OTHER,
            VMCLOCK_NO_TIME_PERIOD, VMCLOCK_NO_TIME_RANGE, VMCLOCK_NO_TIME_SCALE, VMCLOCK_NO_TIME_SHIFT,
            VMCLOCK_NO_TIME_STATUS,
        };
        let Self::Read(ReadError::NoTime(reason)) = self else { return VMCLOCK_NO_TIME_NONE };
        match reason {
            NoTime::FieldsOutsideSize { .. } => VMCLOCK_NO_TIME_FIELDS,
            NoTime::Counter { .. } => VMCLOCK_NO_TIME_COUNTER,
            NoTime::Status(_) => VMCLOCK_NO_TIME_STATUS,
            NoTime::PeriodZero => VMCLOCK_NO_TIME_PERIOD,
            NoTime::Shift(_) => VMCLOCK_NO_TIME_SHIFT,
            NoTime::TimeType(_) => VMCLOCK_NO_TIME_SCALE,
            NoTime::OutOfRange => VMCLOCK_NO_TIME_RANGE,
            _ => VMCLOCK_NO_TIME_OTHER,
        }
    }

    fn system_errno(&self) -> i32 {
        match self {
            Self::Open(OpenError::Io { error, .. }) => error.raw_os_error().unwrap_or(0),
            Self::Read(ReadError::Io { errno }) => *errno,
            _ => 0,
        }
    }

    /// Tells C.
    #[cold]
    #[inline(never)]
    pub(crate) fn report(self, error: Option<&mut MaybeUninit<vmclock_error>>) -> vmclock_result {
        let code = self.code();
        if let Some(error) = error {
            error.write(vmclock_error {
                code: code as i32,
                reason: self.reason() as i32,
                system_errno: self.system_errno(),
                reserved: 0,
                text: text_in(&self),
            });
        }
        code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argument(what) => write!(f, "{what}"),
            Self::Open(error) => error.fmt(f),
            Self::Read(error) => error.fmt(f),
            Self::Vanished(error) => error.fmt(f),
            Self::NotAPage(error) => error.fmt(f),
            Self::Wait(error) => error.fmt(f),
            Self::NotStated(what) => write!(f, "the page does not state {what}"),
            Self::Range | Self::TimedOut | Self::Internal => {
                f.write_str(words(self.code()).to_str().unwrap_or_default())
            }
        }
    }
}

/// Gives what is promised to C, on failure all zeros: a stale value must not be taken for a new one.
#[inline(always)]
pub(crate) fn give<T: Copy>(
    place: &mut MaybeUninit<T>,
    result: Result<T, Failure>,
    error: Option<&mut MaybeUninit<vmclock_error>>,
) -> vmclock_result {
    match result {
        Ok(value) => {
            place.write(value);
            VMCLOCK_OK
        }
        Err(failure) => {
            *place = MaybeUninit::zeroed();
            failure.report(error)
        }
    }
}

fn words(code: vmclock_result) -> &'static CStr {
    match code {
        VMCLOCK_OK => c"done",
        VMCLOCK_ERROR_ARGUMENT => c"an argument is NULL, or was not filled by this library",
        VMCLOCK_ERROR_NO_DEVICE => c"there is no VMClock device: ask the hypervisor's operator for one",
        VMCLOCK_ERROR_NO_DRIVER => c"the hypervisor offers a VMClock, but the kernel has no driver for it",
        VMCLOCK_ERROR_NO_FILE => c"there is no such file: start the page's publisher",
        VMCLOCK_ERROR_PERMISSION => c"permission denied",
        VMCLOCK_ERROR_WRONG_KIND => c"neither a character device nor a plain file",
        VMCLOCK_ERROR_NOT_A_PAGE => c"not a VMClock page",
        VMCLOCK_ERROR_BUSY => c"the page stayed in the middle of an update",
        VMCLOCK_ERROR_NO_TIME => c"the page gives no time now",
        VMCLOCK_ERROR_VANISHED => c"the page has vanished: open the clock again",
        VMCLOCK_ERROR_SYSTEM => c"the system refused",
        VMCLOCK_ERROR_NOT_STATED => c"the page does not state it",
        VMCLOCK_ERROR_RANGE => c"the time is beyond the range of the result",
        VMCLOCK_ERROR_TIMED_OUT => c"time was up before anything happened",
        VMCLOCK_ERROR_DISRUPTED => c"the counter was disrupted, or the machine restored, while waiting",
        VMCLOCK_ERROR_INTERNAL => c"a defect of libvmclock: please report it",
    }
}

/// What a result code means, in a few words of English that stay valid forever; never NULL. `text` in `struct
/// vmclock_error` says more: it names the path, the value and the next step.
#[no_mangle]
pub extern "C" fn vmclock_result_text(code: i32) -> *const c_char {
    let known = ALL.iter().copied().find(|known| *known as i32 == code);
    known.map_or(c"a result code of another version of libvmclock", words).as_ptr()
}

const ALL: [vmclock_result; 17] = [
    VMCLOCK_OK,
    VMCLOCK_ERROR_ARGUMENT,
    VMCLOCK_ERROR_NO_DEVICE,
    VMCLOCK_ERROR_NO_DRIVER,
    VMCLOCK_ERROR_NO_FILE,
    VMCLOCK_ERROR_PERMISSION,
    VMCLOCK_ERROR_WRONG_KIND,
    VMCLOCK_ERROR_NOT_A_PAGE,
    VMCLOCK_ERROR_BUSY,
    VMCLOCK_ERROR_NO_TIME,
    VMCLOCK_ERROR_VANISHED,
    VMCLOCK_ERROR_SYSTEM,
    VMCLOCK_ERROR_NOT_STATED,
    VMCLOCK_ERROR_RANGE,
    VMCLOCK_ERROR_TIMED_OUT,
    VMCLOCK_ERROR_DISRUPTED,
    VMCLOCK_ERROR_INTERNAL,
];
