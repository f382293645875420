// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! The fields that are one of a few numbers.

use core::fmt;

macro_rules! numbers {
    (
        $(#[$doc:meta])* $name:ident($repr:ty), $unknown:literal:
        $($(#[$value_doc:meta])* $constant:ident = $value:literal, $word:literal;)*
    ) => {
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
        /// No counter: the page gives no time.
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
        /// The host does not state it. Gives no time.
        UNKNOWN = 0, "unknown";
        /// The host is still calibrating. Gives no time.
        INITIALIZING = 1, "initializing";
        /// Synchronized to a reference.
        SYNCHRONIZED = 2, "synchronized";
        /// Running after the reference was lost, or without one; the error bounds grow.
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
    /// How a guest that wants a smeared clock should smear (`leap_second_smearing_hint`). The page itself is never
    /// smeared.
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
    /// Where the reference time is relative to a leap second (`leap_indicator`).
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
        /// A second will be deleted at the end of this UTC month.
        PRE_NEGATIVE = 2, "pre-negative";
        /// The reference time is inside 23:59:60.
        POSITIVE = 3, "positive";
        /// A second was inserted at the start of this UTC month.
        POST_POSITIVE = 4, "post-positive";
        /// A second was deleted at the start of this UTC month.
        POST_NEGATIVE = 5, "post-negative";
}
