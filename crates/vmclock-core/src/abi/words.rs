// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! The page as it is loaded and stored: words and bytes.

use core::mem::offset_of;

use super::{ClockStatus, CounterId, Flags, LeapIndicator, SmearingHint, Snapshot, TimeType, MAGIC, STRUCTURE_LEN};

/// The structure in little-endian words: the form in which it is loaded and stored. It is cheaper to carry around than
/// a [`Snapshot`], into which it converts.
///
/// ```
/// use vmclock_core::abi::{Snapshot, Words};
/// assert_eq!(Words::from(Snapshot::BLANK).decode(), Snapshot::BLANK);
/// ```
#[doc(hidden)] // between this crate and the guest library
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Words {
    /// At 0x00.
    pub magic: u32,
    /// At 0x04.
    pub size: u32,
    /// At 0x08: version, counter and time type.
    pub identity: u32,
    /// At 0x0c.
    pub seq_count: u32,
    /// From 0x10, the disruption marker, on.
    pub changing: [u64; CHANGING_WORDS],
}

/// How many 64-bit words there are behind the sequence count.
#[doc(hidden)]
pub const CHANGING_WORDS: usize = (STRUCTURE_LEN - offset_of!(Snapshot, disruption_marker)) / size_of::<u64>();

impl Words {
    /// All words: a bit for each, in their order.
    pub const ALL: u16 = u16::MAX;

    /// Those that tell of updates: sequence count, disruption marker, flags and generation.
    pub const OF_UPDATES: u16 = 0b1000_0000_0011_1000;

    /// Those that the time itself depends on, and whether there is one: without sequence count, marker, generation and
    /// all errors. Flags may promise those all the same.
    pub const OF_TIME: u16 = 0b0001_1001_1110_0111;

    /// Decodes the words. Fields outside `size` keep what lies there; see [`Snapshot::clipped`].
    #[inline(always)]
    pub fn decode(self) -> Snapshot {
        let [disruption_marker, flags, state, counter_value, period, period_est, period_max, rest @ ..] = self.changing;
        let [time_sec, time_frac_sec, time_esterror_nanosec, time_maxerror_nanosec, vm_generation_counter] = rest;
        let [version_0, version_1, counter_id, time_type] = self.identity.to_le_bytes();
        let [pad_0, pad_1, clock_status, smearing, tai_0, tai_1, leap_indicator, shift] = state.to_le_bytes();
        Snapshot {
            magic: self.magic,
            size: self.size,
            version: u16::from_le_bytes([version_0, version_1]),
            counter_id: CounterId(counter_id),
            time_type: TimeType(time_type),
            seq_count: self.seq_count,
            disruption_marker,
            flags: Flags(flags),
            pad: [pad_0, pad_1],
            clock_status: ClockStatus(clock_status),
            leap_second_smearing_hint: SmearingHint(smearing),
            tai_offset_sec: i16::from_le_bytes([tai_0, tai_1]),
            leap_indicator: LeapIndicator(leap_indicator),
            counter_period_shift: shift,
            counter_value,
            counter_period_frac_sec: period,
            counter_period_esterror_rate_frac_sec: period_est,
            counter_period_maxerror_rate_frac_sec: period_max,
            time_sec,
            time_frac_sec,
            time_esterror_nanosec,
            time_maxerror_nanosec,
            vm_generation_counter,
        }
    }

    /// The words that the page's time depends on.
    #[inline]
    pub const fn time_words(&self) -> TimeWords {
        let [disruption_marker, flags, state, counter_value, period, _, period_maxerror, rest @ ..] = self.changing;
        let [time_sec, time_frac_sec, _, time_maxerror, vm_generation_counter] = rest;
        let (size, identity) = (self.size, self.identity);
        TimeWords {
            size,
            identity,
            disruption_marker,
            flags,
            state,
            counter_value,
            period,
            period_maxerror,
            time_sec,
            time_frac_sec,
            time_maxerror,
            vm_generation_counter,
        }
    }
}

/// The words of a page that its time depends on: without sequence count and estimated errors.
#[doc(hidden)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimeWords {
    pub(crate) size: u32,
    pub(crate) identity: u32,
    pub(crate) disruption_marker: u64,
    pub(crate) flags: u64,
    pub(crate) state: u64,
    pub(crate) counter_value: u64,
    pub(crate) period: u64,
    pub(crate) period_maxerror: u64,
    pub(crate) time_sec: u64,
    pub(crate) time_frac_sec: u64,
    pub(crate) time_maxerror: u64,
    pub(crate) vm_generation_counter: u64,
}

impl TimeWords {
    /// The words, decoded; all else is zero.
    #[inline(always)]
    pub fn decode(self) -> Snapshot {
        Words {
            magic: MAGIC,
            size: self.size,
            identity: self.identity,
            seq_count: 0,
            changing: [
                self.disruption_marker,
                self.flags,
                self.state,
                self.counter_value,
                self.period,
                0,
                self.period_maxerror,
                self.time_sec,
                self.time_frac_sec,
                0,
                self.time_maxerror,
                self.vm_generation_counter,
            ],
        }
        .decode()
    }

    /// The same, word by word: a copy that the compiler need not make in memory.
    #[inline(always)]
    #[must_use]
    pub const fn by_words(&self) -> Self {
        Self {
            size: self.size,
            identity: self.identity,
            disruption_marker: self.disruption_marker,
            flags: self.flags,
            state: self.state,
            counter_value: self.counter_value,
            period: self.period,
            period_maxerror: self.period_maxerror,
            time_sec: self.time_sec,
            time_frac_sec: self.time_frac_sec,
            time_maxerror: self.time_maxerror,
            vm_generation_counter: self.vm_generation_counter,
        }
    }

    /// The words in an array, for whoever keeps them elsewhere.
    #[inline(always)]
    pub const fn to_array(&self) -> [u64; Self::LEN] {
        [
            (self.identity as u64) << 32 | self.size as u64,
            self.disruption_marker,
            self.flags,
            self.state,
            self.counter_value,
            self.period,
            self.period_maxerror,
            self.time_sec,
            self.time_frac_sec,
            self.time_maxerror,
            self.vm_generation_counter,
        ]
    }

    /// How many there are in the array.
    pub const LEN: usize = 11;

    /// The opposite.
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation)] // the lower half of the first word
    pub const fn from_array(words: &[u64; Self::LEN]) -> Self {
        Self {
            size: words[0] as u32,
            identity: (words[0] >> 32) as u32,
            disruption_marker: words[1],
            flags: words[2],
            state: words[3],
            counter_value: words[4],
            period: words[5],
            period_maxerror: words[6],
            time_sec: words[7],
            time_frac_sec: words[8],
            time_maxerror: words[9],
            vm_generation_counter: words[10],
        }
    }

    /// The maximum errors of time and period, where the page has both: with one it has no bounds.
    #[inline(always)]
    pub(crate) fn max_errors(&self) -> Option<(u64, u64)> {
        const BOTH: Flags = Flags::TIME_MAXERROR_VALID.with(Flags::PERIOD_MAXERROR_VALID);
        const END: usize = offset_of!(Snapshot, time_maxerror_nanosec) + size_of::<u64>();
        if Flags(self.flags).contains(BOTH) && self.size as usize >= END {
            Some((self.time_maxerror, self.period_maxerror))
        } else {
            None
        }
    }

    /// The generation counter, or what is in its place.
    #[inline(always)]
    pub const fn generation_word(&self) -> u64 {
        self.vm_generation_counter
    }

    /// Whether the page, which has all fields, gives a time at every counter value, for a CPU whose counter is `cpu`: a
    /// test in few instructions, of page words only, that every ordinary page passes. Where it says no,
    /// [`Calibration`](crate::calibration::Calibration) knows.
    #[inline(always)]
    pub const fn certainly_give_time(&self, cpu: CounterId) -> bool {
        Self::certain_identity(self.size, self.identity, cpu)
            && Self::certain_state(self.state)
            && Self::certain_period(self.period)
            && Self::certain_seconds(self.time_sec)
    }

    #[inline(always)]
    pub(crate) const fn certain_period(period: u64) -> bool {
        period != 0
    }

    #[inline(always)]
    pub(crate) const fn certain_seconds(time_sec: u64) -> bool {
        time_sec >> 62 == 0
    }

    #[inline(always)]
    pub(crate) const fn certain_identity(size: u32, identity: u32, cpu: CounterId) -> bool {
        let [_, _, counter_id, time_type] = identity.to_le_bytes();
        size as usize >= STRUCTURE_LEN && counter_id == cpu.0 && time_type <= TimeType::MONOTONIC.0
    }

    #[inline(always)]
    pub(crate) const fn certain_state(state: u64) -> bool {
        /// Less, and the time may be out of range: a product of 127 bits shifted by this is below 2^61 s.
        const LEAST_SHIFT: u8 = 2;
        let [_, _, clock_status, _, _, _, _, shift] = state.to_le_bytes();
        ClockStatus(clock_status).gives_time() && shift >= LEAST_SHIFT && shift < 64
    }
}

impl From<Snapshot> for Words {
    #[inline]
    fn from(snapshot: Snapshot) -> Self {
        let [version_0, version_1] = snapshot.version.to_le_bytes();
        let identity = u32::from_le_bytes([version_0, version_1, snapshot.counter_id.0, snapshot.time_type.0]);
        let [pad_0, pad_1] = snapshot.pad;
        let [tai_0, tai_1] = snapshot.tai_offset_sec.to_le_bytes();
        let state = [
            pad_0,
            pad_1,
            snapshot.clock_status.0,
            snapshot.leap_second_smearing_hint.0,
            tai_0,
            tai_1,
            snapshot.leap_indicator.0,
            snapshot.counter_period_shift,
        ];
        Self {
            magic: snapshot.magic,
            size: snapshot.size,
            identity,
            seq_count: snapshot.seq_count,
            changing: [
                snapshot.disruption_marker,
                snapshot.flags.0,
                u64::from_le_bytes(state),
                snapshot.counter_value,
                snapshot.counter_period_frac_sec,
                snapshot.counter_period_esterror_rate_frac_sec,
                snapshot.counter_period_maxerror_rate_frac_sec,
                snapshot.time_sec,
                snapshot.time_frac_sec,
                snapshot.time_esterror_nanosec,
                snapshot.time_maxerror_nanosec,
                snapshot.vm_generation_counter,
            ],
        }
    }
}

impl Snapshot {
    /// Decodes the structure from its bytes, checking nothing.
    pub fn from_bytes(bytes: &[u8; STRUCTURE_LEN]) -> Self {
        let (header, changing_bytes) = bytes.split_at(offset_of!(Self, disruption_marker));
        let mut halves = [0; 4];
        for (half, chunk) in halves.iter_mut().zip(header.chunks_exact(size_of::<u32>())) {
            *half = chunk.iter().rev().fold(0, |half, byte| half << 8 | u32::from(*byte));
        }
        let mut changing = [0; CHANGING_WORDS];
        for (word, chunk) in changing.iter_mut().zip(changing_bytes.chunks_exact(size_of::<u64>())) {
            *word = chunk.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        }
        let [magic, size, identity, seq_count] = halves;
        Words { magic, size, identity, seq_count, changing }.decode()
    }

    /// Encodes the structure into its bytes.
    pub fn to_bytes(&self) -> [u8; STRUCTURE_LEN] {
        let Words { magic, size, identity, seq_count, changing } = Words::from(*self);
        let header = [magic, size, identity, seq_count].into_iter().flat_map(u32::to_le_bytes);
        let mut bytes = [0; STRUCTURE_LEN];
        for (byte, from) in bytes.iter_mut().zip(header.chain(changing.into_iter().flat_map(u64::to_le_bytes))) {
            *byte = from;
        }
        bytes
    }
}
