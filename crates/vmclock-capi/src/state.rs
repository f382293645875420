// SPDX-License-Identifier: MIT OR Apache-2.0
//! The page without its calibration: what a program acts on that does not want to know the time.

use vmclock::{Epoch, Maintenance, Snapshot, TimeType};

use crate::time::vmclock_scale;

/// How far the clock can be trusted. Other numbers are possible, and give no time.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum vmclock_status {
    /// The host does not state it. Gives no time.
    VMCLOCK_STATUS_UNKNOWN = 0,
    /// The host is still calibrating. Gives no time.
    VMCLOCK_STATUS_INITIALIZING = 1,
    /// Synchronized to a reference.
    VMCLOCK_STATUS_SYNCHRONIZED = 2,
    /// Running after the reference was lost, or without one; the error bounds grow.
    VMCLOCK_STATUS_FREE_RUNNING = 3,
    /// Broken. Gives no time.
    VMCLOCK_STATUS_UNRELIABLE = 4,
}

/// CPU counters. Other numbers are possible, and are no CPU's that this library knows.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum vmclock_counter {
    /// For `vmclock_page_reading()`: the counter of the CPU that the program runs on.
    VMCLOCK_COUNTER_THIS_CPU = -1,
    /// The Arm architecture's virtual counter, `CNTVCT_EL0`.
    VMCLOCK_COUNTER_ARM_CNTVCT = 0,
    /// The x86 time-stamp counter.
    VMCLOCK_COUNTER_X86_TSC = 1,
    /// No counter: the page gives no time.
    VMCLOCK_COUNTER_NONE = 255,
}

/// How near a disruption is that the hypervisor's operator has announced.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum vmclock_maintenance {
    /// None is announced.
    VMCLOCK_MAINTENANCE_NONE = 0,
    /// Within about a day.
    VMCLOCK_MAINTENANCE_SOON = 1,
    /// Within about an hour.
    VMCLOCK_MAINTENANCE_IMMINENT = 2,
}

/// Where the page's reference time is relative to a leap second. Other numbers are possible, and give no UTC.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum vmclock_leap {
    /// No leap second is near.
    VMCLOCK_LEAP_NONE = 0,
    /// A second will be inserted at the end of this UTC month.
    VMCLOCK_LEAP_PRE_POSITIVE = 1,
    /// A second will be deleted at the end of this UTC month.
    VMCLOCK_LEAP_PRE_NEGATIVE = 2,
    /// The reference time is inside 23:59:60.
    VMCLOCK_LEAP_POSITIVE = 3,
    /// A second was inserted at the start of this UTC month.
    VMCLOCK_LEAP_POST_POSITIVE = 4,
    /// A second was deleted at the start of this UTC month.
    VMCLOCK_LEAP_POST_NEGATIVE = 5,
}

/// A machine's epoch: as long as it stays the same, neither was the counter disrupted (a live migration), nor the
/// machine restored from saved state or cloned.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct vmclock_epoch {
    /// Takes a new value whenever the counter was disrupted: drop what was measured with it.
    pub disruption_marker: u64,
    /// Takes a new value whenever the machine was restored or cloned: renew what must be unique. Zero where the page
    /// has none.
    pub generation: u64,
    /// 1 where the page has a generation, otherwise 0.
    pub has_generation: u32,
    /// 1 where this library has filled the structure.
    pub filled: u32,
}

impl From<Epoch> for vmclock_epoch {
    #[inline]
    fn from(epoch: Epoch) -> Self {
        Self {
            disruption_marker: epoch.disruption_marker,
            generation: epoch.generation.unwrap_or(0),
            has_generation: epoch.generation.is_some().into(),
            filled: 1,
        }
    }
}

impl vmclock_epoch {
    #[inline]
    pub(crate) fn known(&self) -> Option<Epoch> {
        (self.filled == 1).then(|| Epoch {
            disruption_marker: self.disruption_marker,
            generation: (self.has_generation != 0).then_some(self.generation),
        })
    }
}

/// The page without its calibration.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct vmclock_state {
    /// The machine's epoch.
    pub epoch: vmclock_epoch,
    /// How far the clock can be trusted: as a rule one of `enum vmclock_status`.
    pub status: i32,
    /// What disruption is announced: one of `enum vmclock_maintenance`.
    pub maintenance: i32,
    /// The counter that the page is about: as a rule one of `enum vmclock_counter`.
    pub counter: i32,
    /// The page's time scale: one of `enum vmclock_scale`, `VMCLOCK_SCALE_NONE` for those that no page may have.
    pub scale: i32,
    /// Where the reference time is relative to a leap second: as a rule one of `enum vmclock_leap`.
    pub leap: i32,
    /// TAI-UTC at the reference time in seconds, +37 since 2017; zero where `has_tai_offset` is.
    pub tai_offset: i32,
    /// 1 where TAI-UTC is known, otherwise 0.
    pub has_tai_offset: u32,
    /// The page's sequence count, which is even, and other after each update.
    pub sequence: u32,
    /// How many bytes the page's region has, as the page says.
    pub size: u32,
    /// How a guest that wants a smeared UTC should smear: 0 not at all, 1 linearly from noon to noon, 2 as UTC-SLS.
    pub smearing_hint: u32,
    /// Zero.
    pub reserved: [u64; 4],
}

impl From<&Snapshot> for vmclock_state {
    fn from(page: &Snapshot) -> Self {
        let offset = page.tai_offset();
        Self {
            epoch: Epoch::of(page).into(),
            status: page.clock_status.0.into(),
            maintenance: match Maintenance::of(page) {
                Maintenance::Soon => vmclock_maintenance::VMCLOCK_MAINTENANCE_SOON,
                Maintenance::Imminent => vmclock_maintenance::VMCLOCK_MAINTENANCE_IMMINENT,
                _ => vmclock_maintenance::VMCLOCK_MAINTENANCE_NONE,
            } as i32,
            counter: page.counter_id.0.into(),
            scale: scale_of(page.time_type) as i32,
            leap: page.leap_indicator.0.into(),
            tai_offset: offset.map_or(0, |offset| offset.seconds().into()),
            has_tai_offset: offset.is_some().into(),
            sequence: page.seq_count,
            size: page.size,
            smearing_hint: page.leap_second_smearing_hint.0.into(),
            reserved: [0; 4],
        }
    }
}

pub(crate) fn scale_of(time_type: TimeType) -> vmclock_scale {
    match time_type {
        TimeType::TAI => vmclock_scale::VMCLOCK_SCALE_TAI,
        TimeType::UTC => vmclock_scale::VMCLOCK_SCALE_UTC,
        TimeType::MONOTONIC => vmclock_scale::VMCLOCK_SCALE_MONOTONIC,
        _ => vmclock_scale::VMCLOCK_SCALE_NONE,
    }
}
