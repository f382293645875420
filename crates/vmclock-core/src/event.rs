// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! What changed between two snapshots.

use core::fmt;

use crate::abi::{ClockStatus, CounterId, Flags, Snapshot};
use crate::leap::LeapStatus;
use crate::tai::TaiOffset;

/// A machine's epoch: as long as it stays the same, neither was the counter disrupted nor the machine
/// restored.
///
/// ```
/// use vmclock_core::{abi::Snapshot, event::Epoch};
/// let before = Epoch::of(&Snapshot::BLANK.with(|page| page.disruption_marker = 7));
/// let after = Epoch::of(&Snapshot::BLANK.with(|page| page.disruption_marker = 8));
/// assert_ne!(before, after);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Epoch {
    /// The disruption marker.
    pub disruption_marker: u64,
    /// The generation counter, where the page has one.
    pub generation: Option<u64>,
}

impl Epoch {
    /// The epoch of a snapshot.
    #[inline]
    pub fn of(page: &Snapshot) -> Self {
        Self { disruption_marker: page.disruption_marker, generation: page.generation() }
    }
}

/// How near a maintenance event is that will disrupt the counter.
///
/// ```
/// use vmclock_core::{abi::{Flags, Snapshot}, event::Maintenance};
/// let page = Snapshot::BLANK.with(|page| page.flags = Flags::DISRUPTION_SOON.with(Flags::DISRUPTION_IMMINENT));
/// assert_eq!(Maintenance::of(&page), Maintenance::Imminent);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Maintenance {
    /// None is announced.
    None,
    /// Within about a day.
    Soon,
    /// Within about an hour.
    Imminent,
}

impl Maintenance {
    /// What a page announces; the nearer of the two where it announces both.
    pub const fn of(page: &Snapshot) -> Self {
        if page.flags.contains(Flags::DISRUPTION_IMMINENT) {
            Self::Imminent
        } else if page.flags.contains(Flags::DISRUPTION_SOON) {
            Self::Soon
        } else {
            Self::None
        }
    }

    /// The one word for it: `none`, `soon`, `imminent`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Soon => "soon",
            Self::Imminent => "imminent",
        }
    }
}

/// One thing that happened to the clock or to the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The counter was disrupted: whoever calibrated it must start anew.
    Disrupted {
        /// The old marker.
        from: u64,
        /// The new one.
        to: u64,
    },
    /// The machine was restored from saved state, or cloned: what must be unique is so no longer.
    Restored {
        /// The old generation.
        from: u64,
        /// The new one.
        to: u64,
    },
    /// A maintenance event was announced, is nearer, or was cancelled.
    Maintenance {
        /// What was announced before.
        from: Maintenance,
        /// What is announced now.
        to: Maintenance,
    },
    /// The clock's status changed.
    Status {
        /// The old status.
        from: ClockStatus,
        /// The new one.
        to: ClockStatus,
    },
    /// The page's counter changed, as a rule from none to one.
    Counter {
        /// The old counter.
        from: CounterId,
        /// The new one.
        to: CounterId,
    },
    /// The TAI offset or the leap indicator changed.
    TimeScale {
        /// The old leap status.
        from: LeapStatus,
        /// The new one.
        to: LeapStatus,
    },
    /// Only the calibration was refreshed.
    Refreshed,
}

impl Event {
    /// The one word for this event: `disrupted`, `restored`, `maintenance-soon`, `maintenance-imminent`,
    /// `maintenance-cleared`, `status`, `counter`, `time-scale`, `refreshed`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Disrupted { .. } => "disrupted",
            Self::Restored { .. } => "restored",
            Self::Maintenance { to: Maintenance::Soon, .. } => "maintenance-soon",
            Self::Maintenance { to: Maintenance::Imminent, .. } => "maintenance-imminent",
            Self::Maintenance { to: Maintenance::None, .. } => "maintenance-cleared",
            Self::Status { .. } => "status",
            Self::Counter { .. } => "counter",
            Self::TimeScale { .. } => "time-scale",
            Self::Refreshed => "refreshed",
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disrupted { from, to } => write!(
                f,
                "the counter was disrupted (marker {from:#x} -> {to:#x}): drop what was measured with it before"
            ),
            Self::Restored { from, to } => write!(
                f,
                "the machine was restored from saved state or cloned (generation {from:#x} -> {to:#x}): \
                 renew what must be unique"
            ),
            Self::Maintenance { to: Maintenance::Soon, .. } => {
                f.write_str("a disruption is announced, within about a day")
            }
            Self::Maintenance { to: Maintenance::Imminent, .. } => {
                f.write_str("a disruption is imminent, within about an hour")
            }
            Self::Maintenance { to: Maintenance::None, .. } => f.write_str("no disruption is announced any more"),
            Self::Status { from, to } => write!(f, "the clock's status changed from {from} to {to}"),
            Self::Counter { from, to } => write!(f, "the clock's counter changed from {from} to {to}"),
            Self::TimeScale { from, to } => {
                let mut separator = "";
                if from.tai_offset != to.tai_offset {
                    let offset = |f: &mut fmt::Formatter<'_>, offset: Option<TaiOffset>| match offset {
                        Some(offset) => offset.fmt(f),
                        None => f.write_str("unknown"),
                    };
                    f.write_str("TAI-UTC changed from ")?;
                    offset(f, from.tai_offset)?;
                    f.write_str(" to ")?;
                    offset(f, to.tai_offset)?;
                    separator = ", ";
                }
                if from.indicator != to.indicator {
                    write!(f, "{separator}the leap indicator changed from {} to {}", from.indicator, to.indicator)?;
                }
                Ok(())
            }
            Self::Refreshed => f.write_str("the calibration was refreshed"),
        }
    }
}

/// All that happened between two snapshots of one page, in the order of [`Event`]'s variants. Several at once is
/// normal: a restore usually also disrupts.
///
/// ```
/// use vmclock_core::{abi::Snapshot, event::{Event, changes}};
///
/// let before = Snapshot::BLANK.with(|page| page.disruption_marker = 7);
/// let after = before.with(|page| {
///     page.disruption_marker = 8;
///     page.seq_count = 2;
/// });
/// assert_eq!(changes(&before, &after).collect::<Vec<_>>(), [Event::Disrupted { from: 7, to: 8 }]);
/// assert_eq!(changes(&after, &after).count(), 0);
/// ```
pub fn changes(before: &Snapshot, after: &Snapshot) -> impl Iterator<Item = Event> {
    let disrupted = (before.disruption_marker != after.disruption_marker)
        .then_some(Event::Disrupted { from: before.disruption_marker, to: after.disruption_marker });
    let restored = match (before.generation(), after.generation()) {
        (Some(from), Some(to)) if from != to => Some(Event::Restored { from, to }),
        _ => None,
    };
    let (from, to) = (Maintenance::of(before), Maintenance::of(after));
    let maintenance = (from != to).then_some(Event::Maintenance { from, to });
    let (from, to) = (before.clock_status, after.clock_status);
    let status = (from != to).then_some(Event::Status { from, to });
    let (from, to) = (before.counter_id, after.counter_id);
    let counter = (from != to).then_some(Event::Counter { from, to });
    let (from, to) = (LeapStatus::of(before), LeapStatus::of(after));
    let time_scale = (from != to).then_some(Event::TimeScale { from, to });

    let real = [disrupted, restored, maintenance, status, counter, time_scale];
    let refreshed = before.seq_count != after.seq_count && real.iter().all(Option::is_none);
    real.into_iter().flatten().chain(refreshed.then_some(Event::Refreshed))
}
