// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! The time scales, as types.

use core::fmt;

mod sealed {
    pub trait Sealed {}
}

/// A time scale. Sealed: the scales are those of the specification.
pub trait Scale: sealed::Sealed + Copy + Eq + fmt::Debug + 'static {
    /// The name of the scale.
    const NAME: &'static str;

    #[doc(hidden)]
    const NOTATION: Notation;
}

/// How instants are written.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub enum Notation {
    /// As date and time of day, with this behind.
    Civil(&'static str),
    /// As seconds: there is no calendar.
    Seconds,
}

macro_rules! scales {
    ($($(#[$doc:meta])* $scale:ident = $name:literal, $notation:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $scale {}
        impl sealed::Sealed for $scale {}
        impl Scale for $scale {
            const NAME: &'static str = $name;
            const NOTATION: Notation = $notation;
        }
    )*};
}

scales! {
    /// International Atomic Time, counted from 1970-01-01 00:00:00 TAI.
    Tai = "TAI", Notation::Civil(" TAI");
    /// UTC as POSIX counts it: 86,400 seconds a day, so that a leap second repeats or skips a number.
    Utc = "UTC", Notation::Civil("Z");
    /// UTC with leap seconds spread over many seconds (see [`smear`](crate::smear)).
    SmearedUtc = "smeared UTC", Notation::Civil(" smeared UTC");
    /// A scale that only runs forward, from an epoch that is not defined.
    Monotonic = "monotonic", Notation::Seconds;
    /// The scale of the page at hand: TAI, UTC or monotonic. Seconds of this scale are always SI seconds;
    /// where it is UTC, numbers continue through a leap second instead of repeating.
    PageScale = "page", Notation::Seconds;
}
