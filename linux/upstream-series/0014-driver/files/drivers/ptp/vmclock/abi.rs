// SPDX-License-Identifier: GPL-2.0
//! One copy of the page, field by field.
//!
//! All values of the page are those of `include/uapi/linux/vmclock-abi.h`. A value that is not known
//! stays the number that it is: no byte of the page becomes a Rust `enum`.

use core::{
    fmt,
    mem::offset_of, //
};
use kernel::uapi;

use crate::tai::TaiOffset;

/// The bytes `VCLK`, at the very start of the page.
pub(crate) const MAGIC: u32 = uapi::VMCLOCK_MAGIC;

/// The only version of the structure so far. It grows by flags and by size, not by version.
pub(crate) const VERSION: u16 = 1;

/// Length of the structure in bytes.
pub(crate) const STRUCTURE_LEN: usize = size_of::<uapi::vmclock_abi>();

/// The shortest region that can be a VMClock: it ends behind the sequence count.
pub(crate) const MIN_REGION_LEN: usize = offset_of!(uapi::vmclock_abi, disruption_marker);

macro_rules! numbers {
    ($(
        $(#[$doc:meta])* $name:ident {
            $($(#[$condition:meta])* $constant:ident = $value:ident,)*
        }
    )*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(transparent)]
        pub(crate) struct $name(pub(crate) u8);

        impl $name {
            $(
                $(#[$condition])*
                pub(crate) const $constant: Self = Self(uapi::$value as u8);
            )*
        }
    )*};
}

numbers! {
    /// Which CPU counter the calibration is for.
    CounterId {
        #[cfg(CONFIG_ARM64)]
        ARM_CNTVCT = VMCLOCK_COUNTER_ARM_VCNT,
        #[cfg(CONFIG_X86)]
        X86_TSC = VMCLOCK_COUNTER_X86_TSC,
        NONE = VMCLOCK_COUNTER_INVALID,
    }
    /// The time scale of the page.
    TimeType {
        UTC = VMCLOCK_TIME_UTC,
        TAI = VMCLOCK_TIME_TAI,
        MONOTONIC = VMCLOCK_TIME_MONOTONIC,
    }
    /// How far the clock can be trusted.
    ClockStatus {
        UNKNOWN = VMCLOCK_STATUS_UNKNOWN,
        INITIALIZING = VMCLOCK_STATUS_INITIALIZING,
        SYNCHRONIZED = VMCLOCK_STATUS_SYNCHRONIZED,
        FREE_RUNNING = VMCLOCK_STATUS_FREERUNNING,
        UNRELIABLE = VMCLOCK_STATUS_UNRELIABLE,
    }
    /// How a guest that wants a smeared clock should smear.
    SmearingHint {
        STRICT = VMCLOCK_SMEARING_STRICT,
    }
    /// Where the reference time is relative to a leap second.
    LeapIndicator {
        NONE = VMCLOCK_LEAP_NONE,
    }
}

impl fmt::Display for TimeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::UTC => f.write_str("utc"),
            Self::TAI => f.write_str("tai"),
            Self::MONOTONIC => f.write_str("monotonic"),
            Self(other) => write!(f, "unknown time type {other}"),
        }
    }
}

impl fmt::Display for ClockStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::UNKNOWN => f.write_str("unknown"),
            Self::INITIALIZING => f.write_str("initializing"),
            Self::SYNCHRONIZED => f.write_str("synchronized"),
            Self::FREE_RUNNING => f.write_str("free-running"),
            Self::UNRELIABLE => f.write_str("unreliable"),
            Self(other) => write!(f, "unknown status {other}"),
        }
    }
}

//@ abi/numbers.rs: ClockStatus::gives_time
/// The flags of the page. Bits that are not known are ignored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub(crate) struct Flags(pub(crate) u64);

impl Flags {
    pub(crate) const TAI_OFFSET_VALID: Self = Self(uapi::VMCLOCK_FLAG_TAI_OFFSET_VALID as u64);
    pub(crate) const VM_GEN_COUNTER_PRESENT: Self =
        Self(uapi::VMCLOCK_FLAG_VM_GEN_COUNTER_PRESENT as u64);
    pub(crate) const NOTIFICATION_PRESENT: Self =
        Self(uapi::VMCLOCK_FLAG_NOTIFICATION_PRESENT as u64);
    pub(crate) const NONE: Self = Self(0);
}

//@ abi/flags.rs: Flags::contains
//@ abi/snapshot.rs: Snapshot
macro_rules! assert_same_layout {
    ($($field:ident)*) => {
        const _: () = {
            assert!(size_of::<Snapshot>() == STRUCTURE_LEN);
            $(assert!(offset_of!(Snapshot, $field) == offset_of!(uapi::vmclock_abi, $field));)*
        };
    };
}

assert_same_layout! {
    magic size version counter_id time_type seq_count disruption_marker flags pad clock_status
    leap_second_smearing_hint tai_offset_sec leap_indicator counter_period_shift counter_value
    counter_period_frac_sec counter_period_esterror_rate_frac_sec
    counter_period_maxerror_rate_frac_sec time_sec time_frac_sec time_esterror_nanosec
    time_maxerror_nanosec vm_generation_counter
}

//@ abi/snapshot.rs: Snapshot::BLANK, Snapshot::clipped, Snapshot::clipped_to_short_region, Snapshot::region_len, Snapshot::has, Snapshot::present, Snapshot::has_time_fields, Snapshot::generation, Snapshot::tai_offset, Snapshot::tai_offset_has_wrong_sign, Snapshot::notifies
//@ abi/words.rs: Words, CHANGING_WORDS, Words::ALL, Words::OF_UPDATES, Words::OF_TIME, Words::decode
/// Why this is not a page.
#[derive(Clone, Copy)]
pub(crate) enum ParseError {
    /// The first four bytes are not `VCLK`.
    Magic {
        /// What they are, as a little-endian number.
        found: u32,
    },
    /// A version of the structure that is not known.
    Version {
        /// The version.
        found: u16,
    },
    /// `size` is smaller than the header, or larger than the region.
    Size {
        /// The page's.
        size: u32,
        /// How many bytes there are.
        len: usize,
    },
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Magic { found } => write!(f, "magic is {found:#010x}, not {MAGIC:#010x}"),
            Self::Version { found } => write!(f, "version is {found}, not {VERSION}"),
            Self::Size { size, len } => write!(f, "size is {size}, of {len} bytes"),
        }
    }
}

//@ abi/parse.rs: Snapshot::validate
