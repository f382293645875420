// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a host knows the time from.
//!
//! | module | what it is |
//! |---|---|
//! | [`kernel`] | the kernel's clock, with the kernel's own idea of its error |
//! | [`ptp`] | a PTP hardware clock, `/dev/ptpN` |
//! | [`page`] | another VMClock page: this host is itself a guest |
//! | [`chrony`] | the kernel's clock, with chronyd's idea of its error |

pub mod chrony;
pub mod kernel;
pub mod page;
pub mod ptp;

use vmclock_core::time::{Tai, Time, Utc};

/// A source's time, on its own scale.
///
/// ```
/// use vmclock_core::time::Time;
/// use vmclock_host::source::Stamp;
/// assert_ne!(Stamp::Tai(Time::from_parts(1_800_000_037, 0)), Stamp::Utc(Time::from_parts(1_800_000_000, 0)));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stamp {
    /// TAI, in seconds since 1970-01-01 TAI.
    Tai(Time<Tai>),
    /// UTC as POSIX counts it: a leap second is the second before it again.
    Utc(Time<Utc>),
}

/// What a source says of leap seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LeapNotice {
    /// One is due at the end of this UTC day: inserted (`true`) or left out.
    pub today: Option<bool>,
    /// It is inside 23:59:60 just now.
    pub now: bool,
    /// TAI - UTC in seconds, where the source knows it.
    pub tai_minus_utc: Option<i16>,
}

/// One look at a source: at some counter value between the two, true time was within `max_error` of `stamp`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Observation {
    /// The counter before.
    pub before: u64,
    /// The counter after.
    pub after: u64,
    /// The source's time.
    pub stamp: Stamp,
    /// How far off the source's time may be, in ± nanoseconds, as the source itself says. The time between the two
    /// counter readings comes on top.
    pub max_error: u64,
    /// How far off it is thought to be, in ± nanoseconds.
    pub estimated_error: u64,
    /// Whether the source is synchronised to something better. If not, its `max_error` is still true.
    pub synchronized: bool,
    /// What it says of leap seconds.
    pub leap: LeapNotice,
    /// Which life of the counter this is: another number means that the counter was disturbed (this host was itself
    /// migrated or restored). Always 0 where a source cannot tell.
    pub era: u64,
}

/// Why a source gives no time, for now.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It cannot be asked.
    #[error("{name}: {what}: {error}")]
    Io {
        /// The source: a path or an address.
        name: String,
        /// What was tried.
        what: &'static str,
        /// What the system says.
        error: std::io::Error,
    },
    /// It was asked, and says that it has no time.
    #[error("{name}: {reason}")]
    NoTime {
        /// The source: a path or an address.
        name: String,
        /// Why, and what to do.
        reason: String,
    },
}

/// Something that knows the time.
pub trait Source {
    /// The source as a configuration names it: a kind, and a path or an address.
    fn name(&self) -> &str;

    /// Looks at it once, or several times and takes the narrowest look. Takes milliseconds at most.
    fn observe(&mut self) -> Result<Observation, SourceError>;
}
