// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! The page's flags.

use core::fmt;

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
