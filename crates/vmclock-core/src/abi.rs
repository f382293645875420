// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bytes of the page: fields, offsets, constants and flags.
//!
//! Everything here is as in Linux's `include/uapi/linux/vmclock-abi.h`, the canonical reference; the UAPI Group's
//! specification UAPI.13 "VMClock" describes the same structure (its version 1.0 misprints two offsets and two flags).
//! All fields are little-endian and naturally aligned. A value that we do not know stays the number that it is: no
//! byte of the page becomes a Rust `enum`.

use core::fmt;
use core::mem::{offset_of, size_of};

/// The bytes `VCLK`, at the very start of the page.
pub const MAGIC: u32 = 0x4b4c_4356;

/// The only version of the structure so far. It grows by flags and by size, not by version.
pub const VERSION: u16 = 1;

/// Length of the structure in bytes, as of Linux 7.0.
pub const STRUCTURE_LEN: usize = 0x70;

/// The shortest region that can be a VMClock: it ends behind the sequence count.
pub const MIN_REGION_LEN: usize = 0x10;

macro_rules! numbers {
    ($(#[$doc:meta])* $name:ident($repr:ty), $unknown:literal: $($(#[$value_doc:meta])* $constant:ident = $value:literal, $word:literal;)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(transparent)]
        pub struct $name(pub $repr);

        impl $name {
            $($(#[$value_doc])* pub const $constant: Self = Self($value);)*

            /// The name of the value, where it has one.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some($word),)*
                    _ => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.name() {
                    Some(name) => f.pad(name),
                    None => write!(f, concat!($unknown, " {}"), self.0),
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

numbers! {
    /// Which CPU counter the calibration is for (`counter_id`).
    ///
    /// ```
    /// use vmclock_core::abi::CounterId;
    /// assert_eq!(CounterId::X86_TSC.to_string(), "x86-tsc");
    /// assert_eq!(CounterId(77).to_string(), "unknown counter 77");
    /// ```
    CounterId(u8), "unknown counter":
        /// The Arm architecture's virtual counter, `CNTVCT_EL0`.
        ARM_CNTVCT = 0, "arm-cntvct";
        /// The x86 time-stamp counter.
        X86_TSC = 1, "x86-tsc";
        /// No counter: the page says nothing about time.
        NONE = 0xff, "none";
}

numbers! {
    /// The time scale of the page (`time_type`).
    ///
    /// ```
    /// use vmclock_core::abi::TimeType;
    /// assert_eq!(TimeType(1), TimeType::TAI);
    /// ```
    TimeType(u8), "unknown time type":
        /// UTC as POSIX counts it, from 1970-01-01 00:00:00.
        UTC = 0, "utc";
        /// TAI, counted from 1970-01-01 00:00:00 TAI.
        TAI = 1, "tai";
        /// Monotonic, from an epoch that is not defined.
        MONOTONIC = 2, "monotonic";
        /// A smeared UTC. No page may say this: it gives no time.
        INVALID_SMEARED = 3, "smeared (invalid)";
        /// A UTC that may be smeared. No page may say this: it gives no time.
        INVALID_MAYBE_SMEARED = 4, "maybe smeared (invalid)";
}

numbers! {
    /// How far the clock can be trusted (`clock_status`).
    ///
    /// ```
    /// use vmclock_core::abi::ClockStatus;
    /// assert!(ClockStatus::FREE_RUNNING.gives_time());
    /// assert!(!ClockStatus(200).gives_time());
    /// ```
    ClockStatus(u8), "unknown status":
        /// The host does not say. Gives no time.
        UNKNOWN = 0, "unknown";
        /// The host is still calibrating. Gives no time.
        INITIALIZING = 1, "initializing";
        /// Synchronised to a reference.
        SYNCHRONIZED = 2, "synchronized";
        /// Running on after the reference was lost, or without one; the bounds say how far off it may be.
        FREE_RUNNING = 3, "free-running";
        /// Broken. Gives no time.
        UNRELIABLE = 4, "unreliable";
}

impl ClockStatus {
    /// Whether time may be derived from a page of this status: `synchronized` and `free-running` only (UAPI.13).
    #[inline]
    pub const fn gives_time(self) -> bool {
        matches!(self, Self::SYNCHRONIZED | Self::FREE_RUNNING)
    }
}

numbers! {
    /// How a guest that wants a smeared clock should smear (`leap_second_smearing_hint`). The page itself is never smeared.
    ///
    /// ```
    /// use vmclock_core::abi::SmearingHint;
    /// assert_eq!(SmearingHint(2), SmearingHint::UTC_SLS);
    /// ```
    SmearingHint(u8), "unknown smearing":
        /// Not at all.
        STRICT = 0, "strict";
        /// Linearly from the noon before to the noon after.
        NOON_LINEAR = 1, "noon-linear";
        /// UTC-SLS: over the last 1000 seconds of the leap day.
        UTC_SLS = 2, "utc-sls";
}

numbers! {
    /// Where the reference time stands relative to a leap second (`leap_indicator`).
    ///
    /// ```
    /// use vmclock_core::abi::LeapIndicator;
    /// assert_eq!(LeapIndicator::PRE_POSITIVE.to_string(), "pre-positive");
    /// ```
    LeapIndicator(u8), "unknown leap indicator":
        /// No leap second nearby.
        NONE = 0, "none";
        /// A second will be inserted at the end of this UTC month.
        PRE_POSITIVE = 1, "pre-positive";
        /// A second will be left out at the end of this UTC month.
        PRE_NEGATIVE = 2, "pre-negative";
        /// The reference time is inside 23:59:60.
        POSITIVE = 3, "positive";
        /// A second was inserted at the start of this UTC month.
        POST_POSITIVE = 4, "post-positive";
        /// A second was left out at the start of this UTC month.
        POST_NEGATIVE = 5, "post-negative";
}

/// The `flags` of the page. Bits that we do not know are ignored and kept.
///
/// ```
/// use vmclock_core::abi::Flags;
/// let flags = Flags::TAI_OFFSET_VALID.with(Flags::DISRUPTION_SOON).with(Flags(1 << 60));
/// assert!(flags.contains(Flags::DISRUPTION_SOON));
/// assert_eq!(flags.unknown(), Flags(1 << 60));
/// assert_eq!(flags.without(Flags::DISRUPTION_SOON).names().count(), 1);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Flags(pub u64);

macro_rules! flags {
    ($($(#[$doc:meta])* $constant:ident = $bit:literal, $word:literal;)*) => {
        impl Flags {
            $($(#[$doc])* pub const $constant: Self = Self(1 << $bit);)*

            const KNOWN: u64 = $(Self::$constant.0)|*;
            const NAMES: &'static [(Self, &'static str)] = &[$((Self::$constant, $word)),*];
        }
    };
}

flags! {
    /// `tai_offset_sec` means something.
    TAI_OFFSET_VALID = 0, "tai-offset-valid";
    /// A disruption is expected within about a day.
    DISRUPTION_SOON = 1, "disruption-soon";
    /// A disruption is expected within about an hour.
    DISRUPTION_IMMINENT = 2, "disruption-imminent";
    /// `counter_period_esterror_rate_frac_sec` means something.
    PERIOD_ESTERROR_VALID = 3, "period-esterror-valid";
    /// `counter_period_maxerror_rate_frac_sec` means something.
    PERIOD_MAXERROR_VALID = 4, "period-maxerror-valid";
    /// `time_esterror_nanosec` means something.
    TIME_ESTERROR_VALID = 5, "time-esterror-valid";
    /// `time_maxerror_nanosec` means something.
    TIME_MAXERROR_VALID = 6, "time-maxerror-valid";
    /// The host makes sure that no update of the page sets the time back.
    TIME_MONOTONIC = 7, "time-monotonic";
    /// `vm_generation_counter` means something.
    VM_GEN_COUNTER_PRESENT = 8, "vm-gen-counter-present";
    /// The device notifies the guest after every update.
    NOTIFICATION_PRESENT = 9, "notification-present";
}

impl Flags {
    /// No flag.
    pub const NONE: Self = Self(0);

    /// Whether all of `other` are set.
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These flags and those of `other`.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These flags without those of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The bits that no version of the header that we know gives a meaning.
    #[must_use]
    pub const fn unknown(self) -> Self {
        Self(self.0 & !Self::KNOWN)
    }

    /// The names of the known flags that are set, in the order of their bits.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.iter().filter(move |(flag, _)| self.contains(*flag)).map(|(_, name)| *name)
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flags({:#x})", self.0)
    }
}

/// One consistent copy of the page's structure, field by field.
///
/// This is a value, not the shared memory: readers get it from [`page`](crate::page) after validation, writers hand it
/// over to be published. A field that lies outside `size` holds zero; the accessor methods say whether a field is
/// *present*, which takes the size and, where the field has one, its flag.
///
/// ```
/// use vmclock_core::abi::{Flags, Snapshot};
///
/// let page = Snapshot { flags: Flags::VM_GEN_COUNTER_PRESENT, vm_generation_counter: 7, ..Snapshot::BLANK };
/// assert_eq!(page.generation(), Some(7));
/// assert_eq!(Snapshot::from_prefix(&page.to_bytes()), Ok(page));
///
/// let short = Snapshot { size: 0x68, ..page };
/// assert_eq!(short.generation(), None);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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
    /// UTC - TAI in seconds at the reference time: -37 since 2017. See [`Snapshot::tai_offset`].
    pub tai_offset_sec: i16,
    /// Where the reference time stands relative to a leap second.
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

/// Why some bytes are not a page.
///
/// ```
/// use vmclock_core::abi::{ParseError, Snapshot};
/// assert_eq!(Snapshot::from_prefix(b"VCLK"), Err(ParseError::TooShort { len: 4 }));
/// assert_eq!(Snapshot::from_prefix(&[0; 112]), Err(ParseError::Magic { found: 0 }));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ParseError {
    /// Fewer bytes than a page's header has.
    TooShort {
        /// How many there are.
        len: usize,
    },
    /// The first four bytes are not `VCLK`.
    Magic {
        /// What they are, as a little-endian number.
        found: u32,
    },
    /// A version of the structure that we do not know.
    Version {
        /// The version.
        found: u16,
    },
    /// `size` is smaller than the header, or larger than the bytes that there are.
    Size {
        /// What the page says.
        size: u32,
        /// How many bytes there are.
        len: usize,
    },
    /// The sequence count is odd: an update was in progress when these bytes were copied.
    Updating {
        /// The sequence count.
        seq_count: u32,
    },
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooShort { len } => {
                write!(f, "{len} bytes are too few for a VMClock page, whose header alone takes {MIN_REGION_LEN}")
            }
            Self::Magic { found } => {
                write!(f, "magic is {found:#010x}, not {MAGIC:#010x} (\"VCLK\"): this is not a VMClock page")
            }
            Self::Version { found } => {
                write!(f, "version is {found}; only version {VERSION} of the VMClock page is known")
            }
            Self::Size { size, len } => write!(
                f,
                "the page's size field is {size}, which is not between {MIN_REGION_LEN} and the {len} bytes that there are"
            ),
            Self::Updating { seq_count } => {
                write!(f, "sequence count {seq_count} is odd: the page was copied during an update")
            }
        }
    }
}

impl core::error::Error for ParseError {}

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

    /// Decodes the copy of a page that starts with `bytes`, and checks magic, version, size and that the copy was not
    /// taken during an update. For bytes at rest (a file, a recording); live pages go through [`page`](crate::page).
    pub fn from_prefix(bytes: &[u8]) -> Result<Self, ParseError> {
        if bytes.len() < MIN_REGION_LEN {
            return Err(ParseError::TooShort { len: bytes.len() });
        }
        let mut structure = [0; STRUCTURE_LEN];
        structure.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        let snapshot = Self::from_bytes(&structure);
        snapshot.validate(bytes.len())?;
        if snapshot.seq_count & 1 != 0 {
            return Err(ParseError::Updating { seq_count: snapshot.seq_count });
        }
        Ok(snapshot.clipped())
    }

    /// Checks what is constant for the life of a device, against the `len` bytes that there really are. All fields
    /// that `size` promises must be there; what follows the structure need not be.
    pub fn validate(&self, len: usize) -> Result<(), ParseError> {
        if self.magic != MAGIC {
            return Err(ParseError::Magic { found: self.magic });
        }
        if self.version != VERSION {
            return Err(ParseError::Version { found: self.version });
        }
        let size = self.region_len();
        if size < MIN_REGION_LEN || size.min(STRUCTURE_LEN) > len {
            return Err(ParseError::Size { size: self.size, len });
        }
        Ok(())
    }

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
    const fn region_len(&self) -> usize {
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

    /// UTC - TAI in seconds at the reference time, where the page has one that can be believed.
    ///
    /// UAPI.13 1.0 printed the offset with the wrong sign, and producers exist that follow it: a value in +10..=+60 is
    /// taken as its negative. After that anything outside -60..=-10 is no TAI offset and counts as absent.
    #[inline]
    pub fn tai_offset(&self) -> Option<i16> {
        if !self.flags.contains(Flags::TAI_OFFSET_VALID)
            || !self.has(offset_of!(Self, tai_offset_sec), size_of::<i16>())
        {
            return None;
        }
        match self.tai_offset_sec {
            offset @ -60..=-10 => Some(offset),
            swapped @ 10..=60 => Some(swapped.wrapping_neg()),
            _ => None,
        }
    }

    /// Whether the page's TAI offset has the wrong sign, which [`tai_offset`](Self::tai_offset) mends.
    pub fn tai_offset_has_wrong_sign(&self) -> bool {
        self.tai_offset_sec > 0 && self.tai_offset().is_some()
    }

    /// Whether the device notifies after every update.
    #[inline]
    pub const fn notifies(&self) -> bool {
        self.flags.contains(Flags::NOTIFICATION_PRESENT)
    }
}

/// The structure in little-endian words: the form in which it is loaded and stored. It is cheaper to carry around than
/// a [`Snapshot`], into which it converts.
///
/// ```
/// use vmclock_core::abi::{Snapshot, Words};
/// assert_eq!(Words::from(Snapshot::BLANK).decode(), Snapshot::BLANK);
/// ```
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
pub const CHANGING_WORDS: usize = (STRUCTURE_LEN - offset_of!(Snapshot, disruption_marker)) / size_of::<u64>();

impl Words {
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

    /// The words of the facts that stay true for a reading, for a reader that keeps just these: see
    /// [`facts`](Self::facts).
    #[inline]
    pub const fn from_facts(facts: Facts) -> Self {
        let Facts { size, identity, disruption_marker, flags, state, time_sec, vm_generation_counter } = facts;
        Self {
            magic: MAGIC,
            size,
            identity,
            seq_count: 0,
            changing: [disruption_marker, flags, state, 0, 0, 0, 0, time_sec, 0, 0, 0, vm_generation_counter],
        }
    }

    /// What is left of a page once its calibration has given the time.
    #[inline]
    pub const fn facts(&self) -> Facts {
        let [disruption_marker, flags, state, _, _, _, _, time_sec, .., vm_generation_counter] = self.changing;
        Facts {
            size: self.size,
            identity: self.identity,
            disruption_marker,
            flags,
            state,
            time_sec,
            vm_generation_counter,
        }
    }
}

/// The words of a page without sequence count, calibration and errors: what a reading of its time carries along.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Facts {
    size: u32,
    identity: u32,
    disruption_marker: u64,
    flags: u64,
    state: u64,
    time_sec: u64,
    vm_generation_counter: u64,
}

impl Facts {
    /// The facts, decoded; all else is zero.
    #[inline]
    pub fn decode(self) -> Snapshot {
        Words::from_facts(self).decode()
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
