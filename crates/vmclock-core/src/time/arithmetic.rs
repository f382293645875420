// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! Instants and spans as operands, and as the standard library's types.
//!
//! Operators have no way to fail: what is beyond ±2^63 s (292 billion years) is clamped to that.

use core::fmt;
use core::ops::{Add, Neg, Sub};
use core::time::Duration;

use super::{Span, Time, Timestamp};

/// The span from the other instant to this one, negative where the other is later.
///
/// ```
/// use vmclock_core::time::{Tai, Time};
/// let (noon, later) = (Time::<Tai>::from_parts(2_000_000_000, 0), Time::from_parts(2_000_000_001, 1 << 63));
/// assert_eq!((later - noon).floor_nanos(), 1_500_000_000);
/// assert_eq!(later - noon, -(noon - later));
/// ```
impl<S> Sub for Time<S> {
    type Output = Span;

    #[inline]
    fn sub(self, earlier: Self) -> Span {
        Span(self.raw.saturating_sub(earlier.raw))
    }
}

impl<S> Add<Span> for Time<S> {
    type Output = Self;

    #[inline]
    fn add(self, span: Span) -> Self {
        Self::from_raw(self.raw.saturating_add(span.0))
    }
}

impl<S> Sub<Span> for Time<S> {
    type Output = Self;

    #[inline]
    fn sub(self, span: Span) -> Self {
        Self::from_raw(self.raw.saturating_sub(span.0))
    }
}

/// The span from the other timestamp to this one, negative where the other is later.
///
/// ```
/// use std::time::Duration;
/// use vmclock_core::time::{Tai, Timestamp};
/// let (one, other) = (Timestamp::<Tai>::from_nanos(5), Timestamp::from_nanos(12));
/// assert_eq!((other - one).floor_nanos(), 7);
/// assert_eq!(Duration::try_from(other - one)?, Duration::from_nanos(7));
/// assert_eq!(one + Duration::from_nanos(7), other);
/// # Ok::<(), vmclock_core::time::NegativeSpan>(())
/// ```
impl<S> Sub for Timestamp<S> {
    type Output = Span;

    fn sub(self, earlier: Self) -> Span {
        let nanos = self.nanos.saturating_sub(earlier.nanos);
        let limit = if nanos < 0 { i128::MIN } else { i128::MAX };
        Span(Time::<S>::from_nanos(nanos).map_or(limit, Time::raw))
    }
}

impl<S> Add<Duration> for Timestamp<S> {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        self.plus_nanos(nanos(duration))
    }
}

impl<S> Sub<Duration> for Timestamp<S> {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        self.plus_nanos(nanos(duration).wrapping_neg())
    }
}

impl Neg for Span {
    type Output = Self;

    fn neg(self) -> Self {
        Self(self.0.saturating_neg())
    }
}

/// A duration has fewer than 2^94 nanoseconds.
#[allow(clippy::cast_possible_wrap)]
fn nanos(duration: Duration) -> i128 {
    duration.as_nanos() as i128
}

/// A [`Duration`] cannot be negative, and this span is.
///
/// ```
/// use std::time::Duration;
/// use vmclock_core::time::{NegativeSpan, Span};
/// assert_eq!(Duration::try_from(Span::from_nanos(-5)), Err(NegativeSpan { span: Span::from_nanos(-5) }));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NegativeSpan {
    /// The span.
    pub span: Span,
}

impl fmt::Display for NegativeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no duration, as it is negative: subtract the other way round", self.span)
    }
}

impl core::error::Error for NegativeSpan {}

/// Rounded down to nanoseconds.
impl TryFrom<Span> for Duration {
    type Error = NegativeSpan;

    fn try_from(span: Span) -> Result<Self, NegativeSpan> {
        let time = Time::<super::Monotonic>::from_raw(span.0);
        let seconds = u64::try_from(time.seconds()).map_err(|_| NegativeSpan { span })?;
        Ok(Self::new(seconds, time.subsec_nanos()))
    }
}

/// Rounded up by less than 2^-64 s, so that its nanoseconds are the duration's; clamped to 2^63 s.
impl From<Duration> for Span {
    fn from(duration: Duration) -> Self {
        Self(Time::<super::Monotonic>::from_nanos(nanos(duration)).map_or(i128::MAX, Time::raw))
    }
}

#[cfg(feature = "std")]
mod system {
    use core::fmt;
    use core::time::Duration;
    use std::time::SystemTime;

    use super::nanos;
    use crate::time::{Timestamp, Utc};

    /// The system's type cannot hold a timestamp.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// use vmclock_core::time::{Timestamp, Utc};
    /// let before_the_epoch = SystemTime::try_from(Timestamp::<Utc>::from_nanos(-1))?;
    /// assert_eq!(before_the_epoch, SystemTime::UNIX_EPOCH - Duration::from_nanos(1));
    /// assert_eq!(Timestamp::from(before_the_epoch).nanos(), -1);
    /// # Ok::<(), vmclock_core::time::OutOfSystemTime>(())
    /// ```
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct OutOfSystemTime {
        /// The timestamp.
        pub timestamp: Timestamp<Utc>,
    }

    impl fmt::Display for OutOfSystemTime {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{} is beyond what this system's SystemTime can hold", self.timestamp)
        }
    }

    impl core::error::Error for OutOfSystemTime {}

    impl TryFrom<Timestamp<Utc>> for SystemTime {
        type Error = OutOfSystemTime;

        fn try_from(timestamp: Timestamp<Utc>) -> Result<Self, OutOfSystemTime> {
            let magnitude = Duration::new(timestamp.seconds().unsigned_abs(), 0);
            let whole = if timestamp.seconds() < 0 {
                Self::UNIX_EPOCH.checked_sub(magnitude)
            } else {
                Self::UNIX_EPOCH.checked_add(magnitude)
            };
            let fraction = Duration::from_nanos(timestamp.subsec_nanos().into());
            whole.and_then(|whole| whole.checked_add(fraction)).ok_or(OutOfSystemTime { timestamp })
        }
    }

    /// What the system's clock shows, as UTC.
    impl From<SystemTime> for Timestamp<Utc> {
        fn from(time: SystemTime) -> Self {
            match time.duration_since(SystemTime::UNIX_EPOCH) {
                Ok(since) => Self::from_nanos(nanos(since)),
                Err(before) => Self::from_nanos(nanos(before.duration()).wrapping_neg()),
            }
        }
    }
}

#[cfg(feature = "std")]
pub use system::OutOfSystemTime;
