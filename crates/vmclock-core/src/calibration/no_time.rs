// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! Why a page gives no time.

use core::fmt;

use crate::abi::{ClockStatus, CounterId, Snapshot, TimeType};

/// Why a page gives no time. Never a guess: a page that is not certain to give the time gives none.
///
/// ```
/// use vmclock_core::{abi::{ClockStatus, CounterId, Snapshot}, calibration::{Calibration, NoTime}};
/// let no_time = Calibration::from_snapshot(&Snapshot::BLANK, CounterId::X86_TSC).unwrap_err();
/// assert_eq!(no_time, NoTime::Counter { page: CounterId::NONE, cpu: CounterId::X86_TSC });
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum NoTime {
    /// `size` ends before the fields of the time.
    FieldsOutsideSize {
        /// The page's.
        size: u32,
    },
    /// The page is about another counter than this CPU's, or about none.
    Counter {
        /// The page's counter.
        page: CounterId,
        /// This CPU's.
        cpu: CounterId,
    },
    /// The status is `unknown`, `initializing` or `unreliable`, or a number without a meaning.
    Status(ClockStatus),
    /// The period is zero.
    PeriodZero,
    /// The shift is 128 or more.
    Shift(u8),
    /// The scale is smeared, which a page may not be, or a number without a meaning.
    TimeType(TimeType),
    /// The time is beyond ±2^63 s of the epoch.
    OutOfRange,
}

impl NoTime {
    /// Which of the conditions for a [`Calibration`](super::Calibration) does not hold.
    #[cold]
    pub(super) fn of(page: &Snapshot, cpu: CounterId) -> Self {
        if !page.has_time_fields() {
            Self::FieldsOutsideSize { size: page.size }
        } else if page.counter_id != cpu || cpu == CounterId::NONE {
            Self::Counter { page: page.counter_id, cpu }
        } else if !page.clock_status.gives_time() {
            Self::Status(page.clock_status)
        } else if page.counter_period_frac_sec == 0 {
            Self::PeriodZero
        } else if page.counter_period_shift >= 128 {
            Self::Shift(page.counter_period_shift)
        } else if !matches!(page.time_type, TimeType::TAI | TimeType::UTC | TimeType::MONOTONIC) {
            Self::TimeType(page.time_type)
        } else {
            Self::OutOfRange
        }
    }
}

impl fmt::Display for NoTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the page gives no time: ")?;
        match *self {
            Self::FieldsOutsideSize { size } => {
                write!(f, "its size, {size} bytes, ends before the time fields; the hypervisor offers events only")
            }
            Self::Counter { page: CounterId::NONE, .. } => {
                f.write_str("it has no counter; the hypervisor offers events only, so far")
            }
            Self::Counter { page, cpu } => {
                write!(f, "it is about counter {page}, this CPU has {cpu}; use a hypervisor built for this machine")
            }
            Self::Status(ClockStatus::INITIALIZING) => {
                f.write_str("the clock's status is initializing; wait until the host has calibrated it")
            }
            Self::Status(status) => {
                write!(f, "the clock's status is {status}; wait, or ask whoever runs the host for a working clock")
            }
            Self::PeriodZero => f.write_str("the counter period is 0; the host has not calibrated it"),
            Self::Shift(shift) => write!(f, "the period's shift is {shift}, which must be below 128"),
            Self::TimeType(kind) => write!(f, "its time type is {kind}; only utc, tai and monotonic are allowed"),
            Self::OutOfRange => f.write_str("its time lies beyond 2^63 seconds; the page is damaged"),
        }
    }
}

impl core::error::Error for NoTime {}
