// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! The two smeared clocks, which a guest makes for itself; a page is never smeared.
//!
//! Both are UTC except near a leap second, where they take some seconds a little longer or shorter than SI seconds, so
//! that no second repeats and none is deleted. They are continuous and never go back.

use core::num::NonZeroU32;

use crate::abi::SmearingHint;
use crate::fixed::div_rem;
use crate::leap::{Leap, LeapKind, UtcRule};
use crate::time::{PageScale, SmearedUtc, Time, Utc};

/// How to smear.
///
/// ```
/// use vmclock_core::{abi::SmearingHint, smear::Smearing};
/// assert_eq!(Smearing::from_hint(SmearingHint::NOON_LINEAR), Some(Smearing::NoonLinear));
/// assert_eq!(Smearing::from_hint(SmearingHint::STRICT), None);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Smearing {
    /// From 12:00 before the leap second to 12:00 after it, 86,401 (or 86,399) SI seconds pass as 86,400.
    NoonLinear,
    /// UTC-SLS: the last 1,000 SI seconds of the leap day pass as 999 (or 1,001).
    UtcSls,
}

impl Smearing {
    /// What a page hints at; `None` for `strict` and for numbers without a meaning.
    pub const fn from_hint(hint: SmearingHint) -> Option<Self> {
        match hint {
            SmearingHint::NOON_LINEAR => Some(Self::NoonLinear),
            SmearingHint::UTC_SLS => Some(Self::UtcSls),
            _ => None,
        }
    }

    /// Smeared UTC at an instant of a page, or `None` beyond ±2^63 s.
    ///
    /// ```
    /// use vmclock_core::{abi::*, leap::UtcRule, smear::Smearing, time::Time};
    ///
    /// let page = Snapshot::BLANK.with(|page| {
    ///     page.time_type = TimeType::UTC;
    ///     page.time_sec = 1_483_228_770; // half a minute before the end of 2016
    ///     page.leap_indicator = LeapIndicator::PRE_POSITIVE;
    /// });
    /// let rule = UtcRule::from_snapshot(&page).unwrap();
    /// let midnight = Smearing::NoonLinear.smear(&rule, Time::from_parts(1_483_228_800, 0)).unwrap();
    /// assert_eq!((midnight.seconds(), midnight.subsec_nanos()), (1_483_228_799, 500_005_786)); // half way there
    /// ```
    pub fn smear(self, rule: &UtcRule, time: Time<PageScale>) -> Option<Time<SmearedUtc>> {
        let linear = rule.linear(time)?;
        let Some(leap) = rule.leap() else {
            return rule.after(time);
        };
        let stretch = self.stretch(leap);
        let into = linear.since(Time::<Utc>::from_parts(stretch.start, 0))?;
        match u128::try_from(into.raw()) {
            Err(_) => Some(linear.on()),
            Ok(into) if into >= u128::from(stretch.si_seconds.get()) << 64 => rule.after(time),
            Ok(into) => {
                // Over the whole stretch the clock gains or loses one second, so `into / length` of one by now.
                let (share, _) = div_rem(into, stretch.si_seconds);
                let smeared = match leap.kind {
                    LeapKind::Inserted => into.wrapping_sub(share),
                    LeapKind::Deleted => into.wrapping_add(share),
                };
                let since_start = crate::time::Span::from_raw(i128::try_from(smeared).ok()?);
                Time::from_parts(stretch.start, 0).checked_add(since_start)
            }
        }
    }

    fn stretch(self, leap: Leap) -> Stretch {
        const HALF_DAY: i64 = 43_200;
        let (start, seconds) = match (self, leap.kind) {
            (Self::NoonLinear, LeapKind::Inserted) => (leap.month.wrapping_sub(HALF_DAY), NonZeroU32::new(86_401)),
            (Self::NoonLinear, LeapKind::Deleted) => (leap.month.wrapping_sub(HALF_DAY), NonZeroU32::new(86_399)),
            // The leap second is one of the last thousand, or would have been one of a thousand and one.
            (Self::UtcSls, LeapKind::Inserted) => (leap.month.wrapping_sub(999), NonZeroU32::new(1_000)),
            (Self::UtcSls, LeapKind::Deleted) => (leap.month.wrapping_sub(1_001), NonZeroU32::new(1_000)),
        };
        Stretch { start, si_seconds: seconds.unwrap_or(NonZeroU32::MIN) }
    }
}

/// The seconds that are stretched or squeezed.
struct Stretch {
    /// The first, in linear UTC.
    start: i64,
    /// How many SI seconds it lasts.
    si_seconds: NonZeroU32,
}
