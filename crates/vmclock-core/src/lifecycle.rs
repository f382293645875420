// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! What each step of a machine's lifecycle changes on its page: the table of UAPI.13, as pure functions on a
//! snapshot. A device or a publisher makes one update of each.
//!
//! Markers and generations are the caller's to make, never used before in the machine's lineage.
//!
//! ```
//! use vmclock_core::abi::{ClockStatus, CounterId, Snapshot};
//! use vmclock_core::lifecycle::{incoming, Incoming};
//!
//! let (counter_id, clock_status) = (CounterId::X86_TSC, ClockStatus::SYNCHRONIZED);
//! let mut page = Snapshot::BLANK.with(|page| {
//!     page.counter_id = counter_id;
//!     page.clock_status = clock_status;
//! });
//! incoming(&mut page, Incoming::Migration, 7);
//! assert_eq!((page.disruption_marker, page.vm_generation_counter), (7, 0));
//! assert_eq!(page.clock_status, ClockStatus::INITIALIZING); // of this host's clock nothing is known yet
//! ```

use crate::abi::{ClockStatus, CounterId, Flags, Snapshot, TimeType};
use crate::calibration::{Calibration, NoTime};
use crate::event::Maintenance;
use crate::leap;
pub use crate::leap::LeapStatus;
use crate::tai::TaiOffset;
use crate::time::{PageScale, Scale, Tai, Time};

/// How far an incoming machine is ahead of the sequence count in its memory: its source may have
/// continued to publish after the memory was copied, for 37 hours at one update each millisecond.
const SEQUENCE_AHEAD: u32 = 1 << 28;

/// How a machine gets here that did not boot here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Incoming {
    /// By live migration: it is the only one of its kind.
    Migration,
    /// From a snapshot, a backup, an image: there may be others like it. With the new generation.
    SavedState(u64),
}

/// A calibration as a writer puts it on a page, with the status that it deserves and the leap status at its reference
/// time.
///
/// ```
/// use vmclock_core::abi::{ClockStatus, CounterId, LeapIndicator, Snapshot};
/// use vmclock_core::calibration::{Calibration, Period};
/// use vmclock_core::lifecycle::{Calibrated, LeapStatus};
/// use vmclock_core::{tai::TaiOffset, time::Time};
///
/// let period = Period::from_frequency(2_500_000_000.try_into()?);
/// let of_host = Calibrated {
///     calibration: Calibration::new(5_000, Time::from_parts(1_800_000_000, 0), period)
///         .with_max_error(500, 15_000_000) // 15 ppm
///         .with_estimated_error(50, 10_000),
///     status: ClockStatus::SYNCHRONIZED,
///     leap: LeapStatus { tai_offset: TaiOffset::from_seconds(37), indicator: LeapIndicator::NONE },
/// };
/// let mut page = Snapshot::BLANK.with(|page| page.counter_id = CounterId::X86_TSC);
/// of_host.offset_by(7).put_on(&mut page).ok_or("the time is before 1970")?;
/// assert_eq!((page.counter_value, page.time_sec, page.tai_offset_sec), (5_007, 1_800_000_000, -37));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Calibrated {
    /// Counter and TAI.
    pub calibration: Calibration<Tai>,
    /// Synchronized or free-running; with any other the page gives no time.
    pub status: ClockStatus,
    /// What holds at the reference time.
    pub leap: LeapStatus,
}

impl Calibrated {
    /// What another page says of the counter `cpu`, on TAI: for guests whose pages are derived from their host's one.
    ///
    /// A page on UTC has to state TAI-UTC, and none may be on a monotonic scale ([`NoTime::TimeType`]). The page's marker
    /// is not part of this: when that changes, the counter was disrupted, and so was every guest's.
    ///
    /// ```
    /// use vmclock_core::abi::{ClockStatus, CounterId, Snapshot};
    /// use vmclock_core::calibration::NoTime;
    /// use vmclock_core::lifecycle::Calibrated;
    ///
    /// let host = Snapshot::BLANK.with(|page| {
    ///     page.counter_id = CounterId::X86_TSC;
    ///     page.clock_status = ClockStatus::SYNCHRONIZED;
    ///     page.counter_period_frac_sec = 1 << 32;
    ///     page.time_sec = 1_800_000_000;
    /// });
    /// let known = Calibrated::from_page(&host, CounterId::X86_TSC)?;
    /// assert_eq!(known.calibration.reference_time().seconds(), 1_800_000_000);
    /// assert_eq!(Calibrated::from_page(&Snapshot::BLANK, CounterId::X86_TSC).unwrap_err(),
    ///     NoTime::Counter { page: CounterId::NONE, cpu: CounterId::X86_TSC });
    /// # Ok::<(), NoTime>(())
    /// ```
    pub fn from_page(page: &Snapshot, cpu: CounterId) -> Result<Self, NoTime> {
        let of_page = Calibration::from_snapshot(page, cpu)?;
        let time = leap::tai(page, of_page.reference_time()).ok_or(NoTime::TimeType(page.time_type))?;
        Ok(Self {
            calibration: of_page.with_reference_time(time),
            status: page.clock_status,
            leap: LeapStatus { tai_offset: page.tai_offset(), indicator: page.leap_indicator },
        })
    }

    /// Writes all of it to a page's contents, on the page's scale. `None` if the time is before 1970, if the page is on
    /// UTC and TAI-UTC is unknown, and for a page on another scale than TAI or UTC; then nothing is written.
    #[inline]
    pub fn put_on(&self, page: &mut Snapshot) -> Option<()> {
        let time = page_time(page.time_type, self.calibration.reference_time(), self.leap.tai_offset)?;
        put(page, time, &self.calibration, self.status, self.leap)
    }

    /// The same for a counter that is ahead of this one by `offset`, wrapping: from a host's to its guest's, where the
    /// guest's counter is not scaled.
    #[must_use]
    pub const fn offset_by(self, offset: u64) -> Self {
        Self { calibration: self.calibration.offset_by(offset), ..self }
    }
}

/// An incoming machine, which does not run yet: `marker` is new, and time, leap status and announcements were the
/// other host's.
pub fn incoming(page: &mut Snapshot, from: Incoming, marker: u64) {
    disrupted(page, marker);
    if let Incoming::SavedState(generation) = from {
        page.vm_generation_counter = generation;
    }
    announced(page, Maintenance::None);
    leap_status(page, LeapStatus::UNKNOWN);
}

/// The counter was disrupted: `marker` is new, and there is no time until there is a calibration.
pub fn disrupted(page: &mut Snapshot, marker: u64) {
    page.disruption_marker = marker;
    page.clock_status = without_time(page.counter_id);
}

/// The machine was cloned while it runs, on one host: `generation` is new, and the clock continues.
pub fn cloned(page: &mut Snapshot, generation: u64) {
    page.vm_generation_counter = generation;
}

/// A disruption is announced, is nearer, or is cancelled.
pub fn announced(page: &mut Snapshot, maintenance: Maintenance) {
    let (soon, imminent) = (Flags::DISRUPTION_SOON, Flags::DISRUPTION_IMMINENT);
    let flags = page.flags.without(soon).without(imminent);
    page.flags = match maintenance {
        Maintenance::None => flags,
        Maintenance::Soon => flags.with(soon),
        Maintenance::Imminent => flags.with(soon).with(imminent),
    };
}

/// The time is not to be trusted any more, though the counter was not disrupted.
pub fn distrusted(page: &mut Snapshot) {
    if page.clock_status.gives_time() {
        page.clock_status = ClockStatus::UNRELIABLE;
    }
}

/// TAI-UTC and the leap indicator, both at the page's reference time.
#[inline]
pub fn leap_status(page: &mut Snapshot, status: LeapStatus) {
    page.tai_offset_sec = status.tai_offset.map_or(0, TaiOffset::page_field);
    page.leap_indicator = status.indicator;
    let flags = page.flags.without(Flags::TAI_OFFSET_VALID);
    page.flags = if status.tai_offset.is_some() { flags.with(Flags::TAI_OFFSET_VALID) } else { flags };
}

/// A calibration on the page's own scale, with the status that it deserves (synchronized or free-running; with any
/// other the page gives no time) and the leap status at its reference time. `None` if the time is before 1970; then
/// nothing is written.
pub fn calibrated(
    page: &mut Snapshot,
    calibration: &Calibration<PageScale>,
    status: ClockStatus,
    leap: LeapStatus,
) -> Option<()> {
    put(page, calibration.reference_time(), calibration, status, leap)
}

/// A calibration with its reference time on the page's scale.
#[inline]
fn put<S: Scale>(
    page: &mut Snapshot,
    time: Time<PageScale>,
    calibration: &Calibration<S>,
    status: ClockStatus,
    leap: LeapStatus,
) -> Option<()> {
    page.time_sec = u64::try_from(time.seconds()).ok()?;
    page.time_frac_sec = time.frac();
    page.clock_status = status;
    let period = calibration.period();
    page.counter_value = calibration.reference_counter();
    page.counter_period_shift = period.shift();
    page.counter_period_frac_sec = period.frac();
    let mut flags = page.flags;
    let mut stated = |flag, error: Option<u64>| {
        flags = if error.is_some() { flags.with(flag) } else { flags.without(flag) };
        error.unwrap_or(0)
    };
    page.counter_period_esterror_rate_frac_sec =
        stated(Flags::PERIOD_ESTERROR_VALID, calibration.period_estimated_error_rate());
    page.counter_period_maxerror_rate_frac_sec =
        stated(Flags::PERIOD_MAXERROR_VALID, calibration.period_max_error_rate());
    page.time_esterror_nanosec = stated(Flags::TIME_ESTERROR_VALID, calibration.time_estimated_error());
    page.time_maxerror_nanosec = stated(Flags::TIME_MAXERROR_VALID, calibration.time_max_error());
    page.flags = flags;
    leap_status(page, leap);
    Some(())
}

/// A calibration on TAI, on the scale of a page of this type: for a page on UTC with the TAI-UTC that holds at the
/// reference time. `None` for other types, for a page on UTC where TAI-UTC is unknown, and out of range.
pub fn on_scale_of(
    time_type: TimeType,
    calibration: &Calibration<Tai>,
    offset: Option<TaiOffset>,
) -> Option<Calibration<PageScale>> {
    Some(calibration.with_reference_time(page_time(time_type, calibration.reference_time(), offset)?))
}

/// TAI on the scale of a page of this type.
#[inline]
fn page_time(time_type: TimeType, tai: Time<Tai>, offset: Option<TaiOffset>) -> Option<Time<PageScale>> {
    match time_type {
        TimeType::TAI => Some(tai.on()),
        TimeType::UTC => Some(offset?.utc(tai)?.on()),
        _ => None,
    }
}

/// The status before anything is known of the time.
pub const fn without_time(counter: CounterId) -> ClockStatus {
    match counter {
        CounterId::NONE => ClockStatus::UNKNOWN,
        _ => ClockStatus::INITIALIZING,
    }
}

/// An even sequence count, not 0, that no guest has seen whose memory has the count `seen`, by migration or from a
/// file.
pub const fn unseen_after(seen: u32) -> u32 {
    match (seen | 1).wrapping_add(1).wrapping_add(SEQUENCE_AHEAD) {
        0 => 2,
        unseen => unseen,
    }
}

/// The later of two wrapping sequence counts. 0 is that of memory to which no page was written: it is later than none.
pub const fn later(one: u32, other: u32) -> u32 {
    if one == 0 || other != 0 && other.wrapping_sub(one) >> 31 == 0 {
        other
    } else {
        one
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::LeapIndicator;

    #[test]
    fn a_page_without_a_counter_gains_no_status() {
        let mut page = Snapshot { counter_id: CounterId::NONE, ..Snapshot::BLANK };
        incoming(&mut page, Incoming::SavedState(9), 7);
        assert_eq!((page.clock_status, page.vm_generation_counter), (ClockStatus::UNKNOWN, 9));
        distrusted(&mut page);
        assert_eq!(page.clock_status, ClockStatus::UNKNOWN);
    }

    #[test]
    fn sequence_counts_wrap() {
        for (one, other, expected) in [
            (4, 6, 6),
            (5, 5, 5),
            (u32::MAX - 1, 2, 2),
            (u32::MAX, u32::MAX - 1, u32::MAX),
            (0, 6, 6),
            (0, u32::MAX - 1, u32::MAX - 1), // that of a page, not of memory that has none
            (0, 0, 0),
        ] {
            assert_eq!((later(one, other), later(other, one)), (expected, expected), "{one} {other}");
        }
        assert_eq!(unseen_after(5), 6 + SEQUENCE_AHEAD);
        assert_eq!(unseen_after(u32::MAX), SEQUENCE_AHEAD);
        let before_0 = 0u32.wrapping_sub(SEQUENCE_AHEAD + 2);
        assert_eq!(unseen_after(before_0 - 2), u32::MAX - 1);
        assert_eq!([unseen_after(before_0), unseen_after(before_0 + 1), unseen_after(before_0 + 2)], [2, 2, 2]);
    }

    #[test]
    fn a_calibration_reads_back_from_the_page_as_it_was_put() {
        let period = crate::calibration::Period::from_frequency(core::num::NonZeroU64::new(2_500_000_000).unwrap());
        let calibration =
            Calibration::new(77, Time::<Tai>::from_parts(2_000_000_000, 5), period).with_max_error(50, 15_000_000);
        let leap = LeapStatus { tai_offset: TaiOffset::from_seconds(37), indicator: LeapIndicator::PRE_POSITIVE };
        let known = Calibrated { calibration, status: ClockStatus::SYNCHRONIZED, leap };
        for (time_type, seconds) in [(TimeType::TAI, 2_000_000_000), (TimeType::UTC, 2_000_000_000 - 37)] {
            let mut page = Snapshot { counter_id: CounterId::X86_TSC, time_type, ..Snapshot::BLANK };
            known.put_on(&mut page).unwrap();
            assert_eq!((page.time_sec, page.tai_offset_sec), (seconds, -37));
            assert_eq!((page.clock_status, page.leap_indicator), (known.status, leap.indicator));
            let read = Calibration::from_snapshot(&page, CounterId::X86_TSC).unwrap();
            assert_eq!(crate::leap::tai(&page, read.reference_time()), Some(calibration.reference_time()));
            assert_eq!(read.with_reference_time(calibration.reference_time()), calibration);
            // What is not known any more is taken back.
            let vague = Calibration::new(78, calibration.reference_time(), period).with_estimated_error(5, 1);
            Calibrated { calibration: vague, ..known }.put_on(&mut page).unwrap();
            assert_eq!((page.time_maxerror(), page.period_maxerror(), page.time_esterror()), (None, None, Some(5)));
        }
    }

    #[test]
    fn what_was_put_on_a_page_is_what_another_page_is_derived_from() {
        let period = crate::calibration::Period::from_frequency(core::num::NonZeroU64::new(2_500_000_000).unwrap());
        let calibration = Calibration::new(77, Time::<Tai>::from_parts(2_000_000_000, 5), period)
            .with_max_error(50, 15_000_000)
            .with_estimated_error(5, 1_000_000);
        let leap = LeapStatus { tai_offset: TaiOffset::from_seconds(37), indicator: LeapIndicator::PRE_NEGATIVE };
        let known = Calibrated { calibration, status: ClockStatus::FREE_RUNNING, leap };
        for time_type in [TimeType::TAI, TimeType::UTC] {
            let mut page = Snapshot { counter_id: CounterId::X86_TSC, time_type, ..Snapshot::BLANK };
            known.put_on(&mut page).unwrap();
            assert_eq!(Calibrated::from_page(&page, CounterId::X86_TSC), Ok(known));
            distrusted(&mut page);
            assert_eq!(Calibrated::from_page(&page, CounterId::X86_TSC), Err(NoTime::Status(ClockStatus::UNRELIABLE)));
        }
        let mut page = Snapshot { counter_id: CounterId::X86_TSC, time_type: TimeType::UTC, ..Snapshot::BLANK };
        known.put_on(&mut page).unwrap();
        leap_status(&mut page, LeapStatus::UNKNOWN);
        assert_eq!(Calibrated::from_page(&page, CounterId::X86_TSC), Err(NoTime::TimeType(TimeType::UTC)));
    }

    #[test]
    fn what_a_page_cannot_state_leaves_it_as_it_was() {
        let period = crate::calibration::Period::from_frequency(core::num::NonZeroU64::new(2_500_000_000).unwrap());
        let at = |seconds| Calibration::new(77, Time::<Tai>::from_parts(seconds, 5), period).with_max_error(50, 1);
        let leap = LeapStatus { tai_offset: TaiOffset::from_seconds(37), indicator: LeapIndicator::NONE };
        for (time_type, seconds, leap) in [
            (TimeType::TAI, -1, leap),
            (TimeType::UTC, 36, leap), // 1969 in UTC
            (TimeType::UTC, 2_000_000_000, LeapStatus::UNKNOWN),
            (TimeType::MONOTONIC, 2_000_000_000, leap),
        ] {
            let blank = Snapshot { counter_id: CounterId::X86_TSC, time_type, ..Snapshot::BLANK };
            let mut page = blank;
            let known = Calibrated { calibration: at(seconds), status: ClockStatus::SYNCHRONIZED, leap };
            assert_eq!((known.put_on(&mut page), page), (None, blank), "{time_type} {seconds}");
        }
    }
}
