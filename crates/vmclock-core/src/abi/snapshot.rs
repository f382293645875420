// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! One copy of the page, field by field, and which fields are present.

use core::mem::offset_of;

use super::{ClockStatus, CounterId, Flags, LeapIndicator, SmearingHint, TimeType, MAGIC, STRUCTURE_LEN, VERSION};
use crate::tai::TaiOffset;

/// One consistent copy of the page's structure, field by field.
///
/// This is a value, not the shared memory: readers get it from [`page`](crate::page) after validation, writers hand it
/// over to be published. A field that lies outside `size` holds zero; the accessor methods say whether a field is
/// *present*, which takes the size and, where the field has one, its flag.
///
/// Other crates make one of [`Snapshot::BLANK`] or another snapshot, by [`with`](Self::with): a version of the
/// structure that has more fields then breaks nobody.
///
/// ```
/// use vmclock_core::abi::{Flags, Snapshot};
///
/// let page = Snapshot::BLANK.with(|page| {
///     page.flags = Flags::VM_GEN_COUNTER_PRESENT;
///     page.vm_generation_counter = 7;
/// });
/// assert_eq!(page.generation(), Some(7));
/// assert_eq!(Snapshot::from_prefix(&page.to_bytes()), Ok(page));
///
/// let short = page.with(|page| page.size = 0x68);
/// assert_eq!(short.generation(), None);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
#[repr(C)]
pub struct Snapshot {
    /// [`MAGIC`].
    pub magic: u32,
    /// Bytes in the whole region, from `magic` on; typically 4096.
    pub size: u32,
    /// [`VERSION`].
    pub version: u16,
    /// Which counter this is about.
    pub counter_id: CounterId,
    /// The scale of `time_sec` and `time_frac_sec`.
    pub time_type: TimeType,
    /// Odd while an update is in progress; in a validated snapshot it is even.
    pub seq_count: u32,
    /// Takes a new value whenever the counter was disrupted (live migration, restore): drop every calibration.
    pub disruption_marker: u64,
    /// Which fields mean something, and notices of maintenance.
    pub flags: Flags,
    /// Padding, kept as it is.
    pub pad: [u8; 2],
    /// How far the clock can be trusted.
    pub clock_status: ClockStatus,
    /// How a guest should smear, if it wants to.
    pub leap_second_smearing_hint: SmearingHint,
    /// The negative of TAI-UTC in seconds, at the reference time: -37 since 2017. See [`Snapshot::tai_offset`].
    pub tai_offset_sec: i16,
    /// Where the reference time is relative to a leap second.
    pub leap_indicator: LeapIndicator,
    /// Shift of the three `counter_period_*` fields.
    pub counter_period_shift: u8,
    /// The counter at the reference time.
    pub counter_value: u64,
    /// Seconds per tick, in 2^-(64 + shift) s.
    pub counter_period_frac_sec: u64,
    /// Estimated (one sigma) error of the period, in 2^-(64 + shift) s per tick.
    pub counter_period_esterror_rate_frac_sec: u64,
    /// Maximum error of the period, in 2^-(64 + shift) s per tick.
    pub counter_period_maxerror_rate_frac_sec: u64,
    /// The reference time's whole seconds, on the scale of `time_type`.
    pub time_sec: u64,
    /// The reference time's fraction, in 2^-64 s.
    pub time_frac_sec: u64,
    /// Estimated error of the reference time, ± nanoseconds.
    pub time_esterror_nanosec: u64,
    /// Maximum error of the reference time, ± nanoseconds.
    pub time_maxerror_nanosec: u64,
    /// Takes a new value whenever the guest was loaded from saved state (restore, clone).
    pub vm_generation_counter: u64,
}

// The offsets of Linux's header. `Snapshot` has the very layout of the page, so these bind both.
const _: () = {
    assert!(size_of::<Snapshot>() == STRUCTURE_LEN);
    assert!(offset_of!(Snapshot, magic) == 0x00);
    assert!(offset_of!(Snapshot, size) == 0x04);
    assert!(offset_of!(Snapshot, version) == 0x08);
    assert!(offset_of!(Snapshot, counter_id) == 0x0a);
    assert!(offset_of!(Snapshot, time_type) == 0x0b);
    assert!(offset_of!(Snapshot, seq_count) == 0x0c);
    assert!(offset_of!(Snapshot, disruption_marker) == 0x10);
    assert!(offset_of!(Snapshot, flags) == 0x18);
    assert!(offset_of!(Snapshot, pad) == 0x20);
    assert!(offset_of!(Snapshot, clock_status) == 0x22);
    assert!(offset_of!(Snapshot, leap_second_smearing_hint) == 0x23);
    assert!(offset_of!(Snapshot, tai_offset_sec) == 0x24);
    assert!(offset_of!(Snapshot, leap_indicator) == 0x26);
    assert!(offset_of!(Snapshot, counter_period_shift) == 0x27);
    assert!(offset_of!(Snapshot, counter_value) == 0x28);
    assert!(offset_of!(Snapshot, counter_period_frac_sec) == 0x30);
    assert!(offset_of!(Snapshot, counter_period_esterror_rate_frac_sec) == 0x38);
    assert!(offset_of!(Snapshot, counter_period_maxerror_rate_frac_sec) == 0x40);
    assert!(offset_of!(Snapshot, time_sec) == 0x48);
    assert!(offset_of!(Snapshot, time_frac_sec) == 0x50);
    assert!(offset_of!(Snapshot, time_esterror_nanosec) == 0x58);
    assert!(offset_of!(Snapshot, time_maxerror_nanosec) == 0x60);
    assert!(offset_of!(Snapshot, vm_generation_counter) == 0x68);
};

impl Default for Snapshot {
    /// [`Snapshot::BLANK`].
    fn default() -> Self {
        Self::BLANK
    }
}

impl Snapshot {
    /// An empty page: no counter, no time, status `unknown`, marker 0. The start of every page that is written.
    pub const BLANK: Self = Self {
        magic: MAGIC,
        size: 4096,
        version: VERSION,
        counter_id: CounterId::NONE,
        time_type: TimeType::TAI,
        seq_count: 0,
        disruption_marker: 0,
        flags: Flags::NONE,
        pad: [0; 2],
        clock_status: ClockStatus::UNKNOWN,
        leap_second_smearing_hint: SmearingHint::STRICT,
        tai_offset_sec: 0,
        leap_indicator: LeapIndicator::NONE,
        counter_period_shift: 0,
        counter_value: 0,
        counter_period_frac_sec: 0,
        counter_period_esterror_rate_frac_sec: 0,
        counter_period_maxerror_rate_frac_sec: 0,
        time_sec: 0,
        time_frac_sec: 0,
        time_esterror_nanosec: 0,
        time_maxerror_nanosec: 0,
        vm_generation_counter: 0,
    };

    /// The same with some fields changed.
    ///
    /// ```
    /// use vmclock_core::abi::{ClockStatus, Snapshot};
    /// let page = Snapshot::BLANK.with(|page| page.clock_status = ClockStatus::INITIALIZING);
    /// assert!(!page.clock_status.gives_time());
    /// ```
    #[inline]
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// The same with every field that does not lie wholly inside `size` set to zero.
    #[inline]
    #[must_use]
    pub fn clipped(self) -> Self {
        if self.region_len() >= STRUCTURE_LEN {
            self
        } else {
            self.clipped_to_short_region()
        }
    }

    #[cold]
    fn clipped_to_short_region(mut self) -> Self {
        macro_rules! clip {
            ($($field:ident: $type:ty),* $(,)?) => {$(
                if !self.has(offset_of!(Self, $field), size_of::<$type>()) {
                    self.$field = Self::BLANK.$field;
                }
            )*};
        }
        clip! {
            disruption_marker: u64, flags: u64, pad: [u8; 2], clock_status: u8, leap_second_smearing_hint: u8,
            tai_offset_sec: i16, leap_indicator: u8, counter_period_shift: u8, counter_value: u64,
            counter_period_frac_sec: u64, counter_period_esterror_rate_frac_sec: u64,
            counter_period_maxerror_rate_frac_sec: u64, time_sec: u64, time_frac_sec: u64,
            time_esterror_nanosec: u64, time_maxerror_nanosec: u64, vm_generation_counter: u64,
        }
        self
    }

    #[inline]
    pub(super) const fn region_len(&self) -> usize {
        self.size as usize
    }

    #[inline]
    const fn has(&self, offset: usize, len: usize) -> bool {
        offset.saturating_add(len) <= self.region_len()
    }

    /// The value at `offset` if it lies inside `size` and all of `flags` are set.
    #[inline]
    fn present(&self, flags: Flags, offset: usize, value: u64) -> Option<u64> {
        (self.flags.contains(flags) && self.has(offset, size_of::<u64>())).then_some(value)
    }

    /// Whether counter, period and reference time lie inside `size`.
    #[inline]
    pub const fn has_time_fields(&self) -> bool {
        self.has(offset_of!(Self, time_frac_sec), size_of::<u64>())
    }

    /// The estimated error of the period in 2^-(64 + shift) s per tick, where the page has one.
    #[inline]
    pub fn period_esterror(&self) -> Option<u64> {
        let offset = offset_of!(Self, counter_period_esterror_rate_frac_sec);
        self.present(Flags::PERIOD_ESTERROR_VALID, offset, self.counter_period_esterror_rate_frac_sec)
    }

    /// The maximum error of the period in 2^-(64 + shift) s per tick, where the page has one.
    #[inline]
    pub fn period_maxerror(&self) -> Option<u64> {
        let offset = offset_of!(Self, counter_period_maxerror_rate_frac_sec);
        self.present(Flags::PERIOD_MAXERROR_VALID, offset, self.counter_period_maxerror_rate_frac_sec)
    }

    /// The estimated error of the reference time in ± nanoseconds, where the page has one.
    #[inline]
    pub fn time_esterror(&self) -> Option<u64> {
        let offset = offset_of!(Self, time_esterror_nanosec);
        self.present(Flags::TIME_ESTERROR_VALID, offset, self.time_esterror_nanosec)
    }

    /// The maximum error of the reference time in ± nanoseconds, where the page has one.
    #[inline]
    pub fn time_maxerror(&self) -> Option<u64> {
        let offset = offset_of!(Self, time_maxerror_nanosec);
        self.present(Flags::TIME_MAXERROR_VALID, offset, self.time_maxerror_nanosec)
    }

    /// The generation counter, where the page has one.
    #[inline]
    pub fn generation(&self) -> Option<u64> {
        let offset = offset_of!(Self, vm_generation_counter);
        self.present(Flags::VM_GEN_COUNTER_PRESENT, offset, self.vm_generation_counter)
    }

    /// TAI-UTC at the reference time, where the page has one: see [`TaiOffset::from_page_field`].
    #[inline]
    pub fn tai_offset(&self) -> Option<TaiOffset> {
        let is_present = self.flags.contains(Flags::TAI_OFFSET_VALID)
            && self.has(offset_of!(Self, tai_offset_sec), size_of::<i16>());
        is_present.then(|| TaiOffset::from_page_field(self.tai_offset_sec))?
    }

    /// Whether the page's TAI offset has the wrong sign, which [`tai_offset`](Self::tai_offset) corrects.
    pub fn tai_offset_has_wrong_sign(&self) -> bool {
        self.tai_offset().is_some_and(|offset| offset.page_field() != self.tai_offset_sec)
    }

    /// Whether the device notifies after every update.
    #[inline]
    pub const fn notifies(&self) -> bool {
        self.flags.contains(Flags::NOTIFICATION_PRESENT)
    }
}
