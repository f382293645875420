// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! Instants and spans, typed by time scale so that scales never mix by accident.
//!
//! [`Time`] and [`Span`] count in 2⁻⁶⁴ s, the unit of the page; [`Timestamp`] and [`Interval`] count whole nanoseconds,
//! the unit in which error bounds are rounded (always outwards).
//!
//! ```compile_fail
//! use vmclock_core::time::{Tai, Time, Utc};
//! let tai = Time::<Tai>::from_parts(2_000_000_000, 0);
//! let utc = Time::<Utc>::from_parts(2_000_000_000, 0);
//! let _ = tai.since(utc); // two scales: does not compile
//! ```

use core::cmp::Ordering;
use core::fmt;
use core::hash::{Hash, Hasher};
use core::marker::PhantomData;

use crate::fixed::{div_rem, widening_mul, NANOS_PER_SEC};

mod arithmetic;
mod format;
mod interval;
mod scale;

pub use arithmetic::NegativeSpan;
#[cfg(feature = "std")]
pub use arithmetic::OutOfSystemTime;
pub use interval::{Certainty, Interval};
pub use scale::{Monotonic, PageScale, Scale, SmearedUtc, Tai, Utc};

/// An instant on scale `S`, in 2^-64 s since that scale's epoch. Covers ±2^63 s.
///
/// ```
/// use vmclock_core::time::{Span, Tai, Time};
///
/// let noon = Time::<Tai>::from_parts(2_000_000_000, 1 << 63); // half a second past
/// assert_eq!((noon.seconds(), noon.subsec_nanos()), (2_000_000_000, 500_000_000));
/// let later = noon.checked_add(Span::from_nanos(1_500_000_000)).unwrap();
/// assert_eq!(later.floor_nanos() - noon.floor_nanos(), 1_500_000_000);
/// assert!(later > noon);
/// ```
pub struct Time<S> {
    raw: i128,
    scale: PhantomData<S>,
}

impl<S> Time<S> {
    /// From 2^-64 s since the epoch.
    #[inline]
    pub const fn from_raw(raw: i128) -> Self {
        Self { raw, scale: PhantomData }
    }

    /// From whole seconds since the epoch (rounded down) and the fraction in 2^-64 s.
    #[inline]
    pub const fn from_parts(seconds: i64, frac: u64) -> Self {
        Self::from_raw((seconds as i128) << 64 | frac as i128)
    }

    /// 2^-64 s since the epoch.
    #[inline]
    pub const fn raw(self) -> i128 {
        self.raw
    }

    /// Whole seconds since the epoch, rounded down.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // the upper half of 128 bits has 64
    pub const fn seconds(self) -> i64 {
        (self.raw >> 64) as i64
    }

    /// The fraction of the second, in 2^-64 s.
    #[inline]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // the lower half is what is wanted
    pub const fn frac(self) -> u64 {
        self.raw as u64
    }

    /// The fraction of the second in nanoseconds, rounded down: `floor(frac * 10^9 / 2^64)`.
    #[inline]
    pub const fn subsec_nanos(self) -> u32 {
        nanos_floor(self.frac())
    }

    /// Nanoseconds since the epoch, rounded down.
    #[inline]
    pub const fn floor_nanos(self) -> i128 {
        (self.seconds() as i128).wrapping_mul(NANOS_PER_SEC.get() as i128).wrapping_add(self.subsec_nanos() as i128)
    }

    /// Nanoseconds since the epoch, rounded up.
    #[inline]
    pub const fn ceil_nanos(self) -> i128 {
        let exact = widening_mul(self.frac(), NANOS_PER_SEC.get() as u64) & u64::MAX as u128 == 0;
        self.floor_nanos().wrapping_add(!exact as i128)
    }

    /// The same instant in whole nanoseconds, rounded down.
    #[inline]
    pub const fn timestamp(self) -> Timestamp<S> {
        Timestamp::from_nanos(self.floor_nanos())
    }

    /// From a number of nanoseconds since the epoch, rounded up by less than 2^-64 s so that
    /// [`floor_nanos`](Self::floor_nanos) gives `nanos` again. `None` beyond ±2^63 s.
    pub fn from_nanos(nanos: i128) -> Option<Self> {
        let (seconds, subsec) = split_nanos(nanos);
        let (whole, lost) = div_rem(u128::from(subsec) << 64, NANOS_PER_SEC);
        let frac = whole.wrapping_add(u128::from(lost != 0));
        Some(Self::from_parts(i64::try_from(seconds).ok()?, u64::try_from(frac).ok()?))
    }

    /// From what a clock of the system shows, in seconds and nanoseconds (`struct timespec`). Rounded up by less than
    /// 2^-64 s, as by [`from_nanos`](Self::from_nanos), and clamped to ±2^63 s.
    ///
    /// ```
    /// use vmclock_core::time::{Monotonic, Time};
    /// let uptime = Time::<Monotonic>::from_timespec(1_234, 5); // as CLOCK_MONOTONIC_RAW has it
    /// assert_eq!(uptime.floor_nanos(), 1_234_000_000_005);
    /// ```
    pub fn from_timespec(seconds: i64, nanos: i64) -> Self {
        let per_second = i128::from(NANOS_PER_SEC.get());
        let total = i128::from(seconds).wrapping_mul(per_second).wrapping_add(i128::from(nanos));
        let limit = if total < 0 { i128::MIN } else { i128::MAX };
        Self::from_nanos(total).unwrap_or(Self::from_raw(limit))
    }

    /// This instant and a span more, or `None` beyond ±2^63 s.
    #[inline]
    pub fn checked_add(self, span: Span) -> Option<Self> {
        self.raw.checked_add(span.0).map(Self::from_raw)
    }

    /// The span from `earlier` to this instant (negative where `earlier` is later). `None` where it exceeds ±2^63 s.
    #[inline]
    pub fn since(self, earlier: Self) -> Option<Span> {
        self.raw.checked_sub(earlier.raw).map(Span)
    }

    /// The same number on another scale. Only for those who know why that is right.
    #[inline]
    pub(crate) const fn on<T>(self) -> Time<T> {
        Time::from_raw(self.raw)
    }

    /// Some whole seconds more (or less), or `None` beyond ±2^63 s.
    #[inline]
    pub(crate) fn plus_seconds(self, seconds: i64) -> Option<Self> {
        self.raw.checked_add(i128::from(seconds) << 64).map(Self::from_raw)
    }
}

/// A whole number of nanoseconds since the epoch of scale `S`.
///
/// ```
/// use vmclock_core::time::{Timestamp, Utc};
/// let before_the_epoch = Timestamp::<Utc>::from_nanos(-1);
/// assert_eq!((before_the_epoch.seconds(), before_the_epoch.subsec_nanos()), (-1, 999_999_999));
/// ```
pub struct Timestamp<S> {
    nanos: i128,
    scale: PhantomData<S>,
}

impl<S> Timestamp<S> {
    /// From nanoseconds since the epoch. Numbers beyond ±2^63 s are clamped to that.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // whether it truncates is the question
    pub const fn from_nanos(nanos: i128) -> Self {
        // What has 64 bits, as all of 1678 to 2262 does, is far from either limit.
        let nanos = if nanos as i64 as i128 == nanos { nanos } else { clamp_nanos(nanos) };
        Self { nanos, scale: PhantomData }
    }

    /// Nanoseconds since the epoch.
    #[inline]
    pub const fn nanos(self) -> i128 {
        self.nanos
    }

    /// Whole seconds since the epoch, rounded down.
    #[allow(clippy::cast_possible_truncation)] // `from_nanos` clamps
    pub fn seconds(self) -> i64 {
        split_nanos(self.nanos).0 as i64
    }

    /// Nanoseconds of the second.
    pub fn subsec_nanos(self) -> u32 {
        split_nanos(self.nanos).1
    }

    /// Some nanoseconds more (or less), clamped to ±2^63 s.
    #[must_use]
    pub const fn plus_nanos(self, nanos: i128) -> Self {
        Self::from_nanos(self.nanos.saturating_add(nanos))
    }
}

macro_rules! plain_value {
    ($type:ident, $field:ident, |$value:ident, $f:ident| $debug:expr) => {
        // By hand, because derives would ask the same of the scale.
        impl<S> Clone for $type<S> {
            #[inline]
            fn clone(&self) -> Self {
                *self
            }
        }
        impl<S> Copy for $type<S> {}
        impl<S> PartialEq for $type<S> {
            #[inline]
            fn eq(&self, other: &Self) -> bool {
                self.$field == other.$field
            }
        }
        impl<S> Eq for $type<S> {}
        impl<S> PartialOrd for $type<S> {
            #[inline]
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }
        impl<S> Ord for $type<S> {
            #[inline]
            fn cmp(&self, other: &Self) -> Ordering {
                self.$field.cmp(&other.$field)
            }
        }
        impl<S> Hash for $type<S> {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.$field.hash(state);
            }
        }
        impl<S: Scale> fmt::Debug for $type<S> {
            fn fmt(&self, $f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let $value = *self;
                $debug
            }
        }
    };
}

plain_value!(Time, raw, |time, f| write!(f, "{} {}s + {:#018x}/2^64", S::NAME, time.seconds(), time.frac()));
plain_value!(Timestamp, nanos, |stamp, f| write!(f, "{} {}.{:09}", S::NAME, stamp.seconds(), stamp.subsec_nanos()));

/// A length of time in 2^-64 s, of either sign, up to ±2^63 s.
///
/// ```
/// use vmclock_core::time::Span;
/// assert_eq!(Span::from_nanos(-1).floor_nanos(), -1);
/// assert_eq!(Span::from_raw(1).ceil_nanos(), 1);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span(i128);

impl Span {
    /// From 2^-64 s.
    #[inline]
    pub const fn from_raw(raw: i128) -> Self {
        Self(raw)
    }

    /// From nanoseconds, rounded up by less than 2^-64 s so that [`floor_nanos`](Self::floor_nanos) gives them again.
    pub fn from_nanos(nanos: i64) -> Self {
        // Cannot fail: 64 bits of nanoseconds are fewer than 2^63 s.
        Time::<Monotonic>::from_nanos(i128::from(nanos)).map_or(Self(0), |time| Self(time.raw))
    }

    /// 2^-64 s.
    #[inline]
    pub const fn raw(self) -> i128 {
        self.0
    }

    /// Nanoseconds, rounded down.
    #[inline]
    pub const fn floor_nanos(self) -> i128 {
        Time::<Monotonic>::from_raw(self.0).floor_nanos()
    }

    /// Nanoseconds, rounded up.
    #[inline]
    pub const fn ceil_nanos(self) -> i128 {
        Time::<Monotonic>::from_raw(self.0).ceil_nanos()
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ns", self.floor_nanos())
    }
}

/// `floor(frac * 10^9 / 2^64)`.
#[inline]
#[allow(clippy::cast_possible_truncation)] // below 10^9
const fn nanos_floor(frac: u64) -> u32 {
    (widening_mul(frac, NANOS_PER_SEC.get() as u64) >> 64) as u32
}

/// `ceil(span * 10^9 / 2^64)` for a span in 2^-64 s.
#[inline]
#[allow(clippy::cast_possible_truncation)] // the two halves are what is wanted
pub(crate) const fn nanos_ceil(span: u128) -> u128 {
    let per_sec = NANOS_PER_SEC.get() as u64;
    let fraction = widening_mul(span as u64, per_sec).wrapping_add(u64::MAX as u128) >> 64;
    match (span >> 64) as u64 {
        0 => fraction,
        whole => widening_mul(whole, per_sec).wrapping_add(fraction),
    }
}

/// The nearest number of nanoseconds that is within ±2^63 s.
#[cold]
const fn clamp_nanos(nanos: i128) -> i128 {
    const LIMIT: i128 = (1i128 << 63).wrapping_mul(NANOS_PER_SEC.get() as i128);
    if nanos < -LIMIT {
        -LIMIT
    } else if nanos >= LIMIT {
        LIMIT.wrapping_sub(1)
    } else {
        nanos
    }
}

/// Seconds, rounded down, and the nanoseconds of the second.
fn split_nanos(nanos: i128) -> (i128, u32) {
    let (seconds, subsec) = div_rem(nanos.unsigned_abs(), NANOS_PER_SEC);
    // A quotient by 10^9 has far fewer than 127 bits.
    #[allow(clippy::cast_possible_wrap)]
    let seconds = seconds as i128;
    match (nanos < 0, subsec) {
        (false, _) => (seconds, subsec),
        (true, 0) => (seconds.wrapping_neg(), 0),
        (true, _) => (seconds.wrapping_neg().wrapping_sub(1), NANOS_PER_SEC.get().wrapping_sub(subsec)),
    }
}

#[cfg(test)]
#[allow(clippy::pedantic)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: i128 = (1 << 63) * 1_000_000_000;

    fn near(limit: i128) -> impl Strategy<Value = i128> {
        (-2..=2i128).prop_map(move |more| limit + more)
    }

    proptest! {
        #[test]
        fn timestamps_are_clamped_to_63_bits_of_seconds(
            nanos in prop_oneof![
                any::<i128>(),
                any::<i64>().prop_map(i128::from),
                near(LIMIT), near(-LIMIT), near(i64::MAX.into()), near(i64::MIN.into()),
                Just(i128::MIN), Just(i128::MAX),
            ],
        ) {
            prop_assert_eq!(Timestamp::<Tai>::from_nanos(nanos).nanos(), nanos.clamp(-LIMIT, LIMIT - 1));
        }

        #[test]
        fn operators_are_arithmetic_that_is_clamped(
            a in prop_oneof![any::<i128>(), any::<i64>().prop_map(i128::from)],
            b in prop_oneof![any::<i128>(), any::<i64>().prop_map(i128::from)],
        ) {
            let (one, other) = (Time::<Tai>::from_raw(a), Time::<Tai>::from_raw(b));
            let span = one - other;
            prop_assert_eq!(span.raw(), a.saturating_sub(b));
            prop_assert_eq!((other + span).raw(), b.saturating_add(span.raw()));
            prop_assert_eq!((one - span).raw(), a.saturating_sub(span.raw()));
            let (one, other) = (Timestamp::<Tai>::from_nanos(a), Timestamp::<Tai>::from_nanos(b));
            let exact = one.nanos() - other.nanos();
            prop_assert_eq!((one - other).floor_nanos(), exact.clamp(-LIMIT, LIMIT - 1));
            let duration = core::time::Duration::try_from(one - other);
            prop_assert_eq!(duration.is_ok(), exact >= 0);
            if let Ok(duration) = duration {
                prop_assert_eq!(duration.as_nanos(), exact.clamp(0, LIMIT - 1).unsigned_abs());
                prop_assert_eq!(other + duration, Timestamp::from_nanos(other.nanos() + exact.min(LIMIT - 1)));
            }
        }

        #[test]
        fn a_timespec_is_as_many_nanoseconds(
            seconds in prop_oneof![any::<i64>(), Just(i64::MIN), Just(i64::MAX)],
            nanos in prop_oneof![0..1_000_000_000i64, any::<i64>()],
        ) {
            let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
            let time = Time::<Utc>::from_timespec(seconds, nanos);
            prop_assert_eq!(time.timestamp().nanos(), total.clamp(-LIMIT, LIMIT - 1));
        }
    }
}
