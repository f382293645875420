// SPDX-License-Identifier: MIT OR Apache-2.0
//! The clocks that a host knows the time from.
//!
//! | module | what it is |
//! |---|---|
//! | [`kernel`] | the kernel's clock, with the error that the kernel states |
//! | [`ptp`] | a PTP hardware clock, `/dev/ptpN` |
//! | [`page`] | another VMClock page: this host is itself a guest |
//! | [`chrony`] | the kernel's clock, with the error that chronyd states |
//! | [`background`] | a source that may take long, in a thread of its own |

pub mod background;
pub mod chrony;
pub mod kernel;
pub mod page;
pub mod ptp;

use std::os::fd::BorrowedFd;

use serde::{Deserialize, Serialize};
use vmclock_core::leap::LeapKind;
use vmclock_core::sample::Sample;
use vmclock_core::tai::TaiOffset;
use vmclock_core::time::{Tai, Utc};

/// A clock read between two readings of the counter, on the clock's own scale.
///
/// ```
/// use vmclock_core::{sample::Sample, time::Time};
/// use vmclock_host::source::Stamp;
/// let tai = Stamp::Tai(Sample { before: 5, time: Time::from_parts(1_800_000_037, 0), after: 9 });
/// assert_eq!(tai.middle(), 7);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stamp {
    /// TAI, in seconds since 1970-01-01 TAI.
    Tai(Sample<Tai>),
    /// UTC as POSIX counts it: a leap second is the second before it again.
    Utc(Sample<Utc>),
}

impl Stamp {
    /// The counter before.
    pub const fn before(&self) -> u64 {
        match self {
            Self::Tai(sample) => sample.before,
            Self::Utc(sample) => sample.before,
        }
    }

    /// The counter after.
    pub const fn after(&self) -> u64 {
        match self {
            Self::Tai(sample) => sample.after,
            Self::Utc(sample) => sample.after,
        }
    }

    /// The counter half way.
    pub const fn middle(&self) -> u64 {
        match self {
            Self::Tai(sample) => sample.middle(),
            Self::Utc(sample) => sample.middle(),
        }
    }
}

/// What a source announces of leap seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LeapNotice {
    /// One is due at the end of this UTC day.
    #[serde(with = "crate::plain::option")]
    pub today: Option<LeapKind>,
    /// It is inside 23:59:60 just now.
    pub now: bool,
    /// TAI-UTC, where the source knows it.
    #[serde(with = "crate::plain::option")]
    pub tai_offset: Option<TaiOffset>,
}

/// One measurement of a source: at some counter value within the stamp's bracket, true time was within `max_error` of
/// its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Measurement {
    /// The source's time.
    pub stamp: Stamp,
    /// Maximum error of the source's time, in ± nanoseconds, as the source itself states it. The time between the two
    /// counter readings is not in it.
    pub max_error: u64,
    /// Estimated error, in ± nanoseconds.
    pub estimated_error: u64,
    /// Whether the source is synchronized to something better. If not, its `max_error` still holds.
    pub synchronized: bool,
    /// What it announces of leap seconds.
    pub leap: LeapNotice,
    /// The epoch of the counter: another number means that the counter was disrupted (this host was itself migrated or
    /// restored). Always 0 where a source does not know.
    pub era: u64,
    /// The frequency that somebody gives to the clock on purpose, against the raw counter, in parts per 10^12; only for
    /// a disciplined clock that is itself assumed exact, and so is the only source.
    pub steering: Option<i64>,
}

impl Measurement {
    /// Of a source that is synchronized, announces nothing, and is disciplined by nobody. `max_error` is its estimated
    /// error too, until that is set.
    pub fn new(stamp: Stamp, max_error: u64) -> Self {
        let (estimated_error, leap) = (max_error, LeapNotice::default());
        Self { stamp, max_error, estimated_error, synchronized: true, leap, era: 0, steering: None }
    }
}

/// Why a source gives no time, for now.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// It cannot be asked.
    #[error("{name}: {what}: {error}")]
    Io {
        /// The source, or the file or daemon that it depends on.
        name: String,
        /// What was tried.
        what: &'static str,
        /// The system's error.
        error: std::io::Error,
    },
    /// It was asked, and has no time.
    #[error("{name}: {reason}")]
    NoTime {
        /// The source, or the file or daemon that it depends on.
        name: String,
        /// Why, and what to do.
        reason: String,
    },
    /// It was asked, and has no time; but it says which epoch of the counter this is.
    #[error("{name}: {reason}")]
    NoTimeInEra {
        /// The source.
        name: String,
        /// Why.
        reason: String,
        /// See [`Measurement::era`].
        era: u64,
    },
    /// It was asked, and did not answer in time.
    #[error("{name}: no answer within {milliseconds} ms")]
    Timeout {
        /// The source, or the file or daemon that it depends on.
        name: String,
        /// How long it was waited for.
        milliseconds: u64,
    },
}

impl SourceError {
    /// The epoch of the counter, where the source knows it although it gives no time: see [`Measurement::era`].
    pub const fn era(&self) -> Option<u64> {
        match self {
            Self::NoTimeInEra { era, .. } => Some(*era),
            Self::Io { .. } | Self::NoTime { .. } | Self::Timeout { .. } => None,
        }
    }
}

/// Something that can be asked for the time, and may take a while.
pub trait Measure: Send + 'static {
    /// The source as a configuration names it: a kind, and a path or an address.
    fn name(&self) -> &str;

    /// Which clock it reads. Sources that read the same clock have one vote together.
    fn clock(&self) -> String;

    /// Whether the clock is on TAI; on UTC otherwise. What it was when it was opened: a kernel may learn
    /// TAI-UTC later.
    fn is_tai(&self) -> bool;

    /// Measures once, or several times and takes the narrowest.
    fn measure(&mut self) -> Result<Measurement, SourceError>;
}

/// A source as a publisher polls it: nothing here ever waits.
pub trait Source {
    /// The source as a configuration names it: a kind, and a path or an address.
    fn name(&self) -> &str;

    /// Which clock it reads. Sources that read the same clock have one vote together.
    fn clock(&self) -> String;

    /// Whether the clock is on TAI; on UTC otherwise.
    fn is_tai(&self) -> bool;

    /// Starts a measurement, unless one is under way.
    fn start(&mut self);

    /// The measurement that was started, once. `None` while it is under way.
    fn result(&mut self) -> Option<Result<Measurement, SourceError>>;

    /// What becomes readable when there is a result. `None` where that is so as soon as it was started.
    fn ready(&self) -> Option<BorrowedFd<'_>>;
}

/// A source that answers at once.
///
/// ```
/// use vmclock_host::source::kernel::{KernelSource, Trust};
/// use vmclock_host::source::{Immediate, Source};
/// let mut source = Immediate::new(KernelSource::new(Trust::HostClock));
/// source.start();
/// assert_eq!(source.result().expect("at once")?.max_error, 0);
/// # Ok::<(), vmclock_host::source::SourceError>(())
/// ```
#[derive(Debug)]
pub struct Immediate<M> {
    inner: M,
    started: bool,
}

impl<M: Measure> Immediate<M> {
    /// Of something that takes microseconds.
    pub const fn new(inner: M) -> Self {
        Self { inner, started: false }
    }
}

impl<M: Measure> Source for Immediate<M> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn clock(&self) -> String {
        self.inner.clock()
    }

    fn is_tai(&self) -> bool {
        self.inner.is_tai()
    }

    fn start(&mut self) {
        self.started = true;
    }

    fn result(&mut self) -> Option<Result<Measurement, SourceError>> {
        std::mem::take(&mut self.started).then(|| self.inner.measure())
    }

    fn ready(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
