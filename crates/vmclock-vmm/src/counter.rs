// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's counter as a function of the host's, as KVM and QEMU make it, and a host's calibration as the guest has
//! to see it.

use vmclock_core::calibration::Period;

use crate::device::Calibration;

/// `guest = offset + floor(host * ratio / 2^fraction_bits)`, wrapping.
///
/// ```
/// use vmclock_vmm::counter::GuestCounter;
/// assert_eq!(GuestCounter::exact(5_u64.wrapping_neg(), None).at(7), 2);
/// ```
///
/// On KVM these are the numbers of `KVM_VCPU_TSC_OFFSET` and of debugfs' `tsc-offset`, `tsc-scaling-ratio` and
/// `tsc-scaling-ratio-frac-bits`. The offset may be known to a window only; `low` and `high` say how far the true one
/// may be below and above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestCounter {
    offset: u64,
    low: u64,
    high: u64,
    scale: Option<Scale>,
}

/// How fast the guest's counter runs, in ticks of the host's: `ratio / 2^fraction_bits`.
///
/// ```
/// use vmclock_vmm::counter::Scale;
/// let half = Scale { ratio: 1 << 47, fraction_bits: 48 };
/// assert_eq!(Scale::between(2_000_000, 1_000_000, 48), Some(half));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// The ratio.
    pub ratio: u64,
    /// Of how many of its bits are behind the point: 48 on Intel, 32 on AMD.
    pub fraction_bits: u8,
}

impl Scale {
    /// The ratio that KVM takes for a guest of so many kHz (`KVM_SET_TSC_KHZ`) on a host of so many (`KVM_GET_TSC_KHZ`
    /// of a machine without a guest's wish). `None` where it does not fit.
    pub fn between(host_khz: u32, guest_khz: u32, fraction_bits: u8) -> Option<Self> {
        let ratio = u128::from(guest_khz).checked_shl(fraction_bits.into())?.checked_div(host_khz.into())?;
        Some(Self { ratio: u64::try_from(ratio).ok().filter(|ratio| *ratio != 0)?, fraction_bits })
    }

    /// The hardware keeps the product whole, and drops the fraction and what is above 64 bits.
    #[allow(clippy::cast_possible_truncation)]
    fn apply(self, host: u64) -> u64 {
        (u128::from(host) * u128::from(self.ratio)).checked_shr(self.fraction_bits.into()).unwrap_or(0) as u64
    }
}

impl GuestCounter {
    /// A counter that is known exactly, as KVM tells it.
    pub fn exact(offset: u64, scale: Option<Scale>) -> Self {
        Self { offset, low: 0, high: 0, scale }
    }

    /// A counter that is `value` when the host's is `host`, and goes on from there: what a destination has to make of
    /// it.
    pub fn going_on(value: u64, host: u64, scale: Option<Scale>) -> Self {
        let unset = Self::exact(0, scale);
        Self { offset: value.wrapping_sub(unset.at(host)), ..unset }
    }

    /// A counter that went on from `value` when the host's was `likely`, but at any rate between `earliest` and
    /// `latest`.
    pub fn resumed(value: u64, earliest: u64, likely: u64, latest: u64) -> Self {
        let latest = if ahead(latest, earliest) < 0 { earliest } else { latest };
        let likely = match likely {
            likely if ahead(likely, earliest) < 0 => earliest,
            likely if ahead(latest, likely) < 0 => latest,
            likely => likely,
        };
        // The later it went on, the smaller the offset.
        let (low, high) = (latest.wrapping_sub(likely), likely.wrapping_sub(earliest));
        Self { offset: value.wrapping_sub(likely), low, high, scale: None }
    }

    /// The guest's minus the host's.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How fast it runs, in ticks of the host's; `None` where it runs as the host's does.
    pub const fn scale(&self) -> Option<Scale> {
        self.scale
    }

    /// How wide the window is in which the offset lies, in ticks.
    pub fn window(&self) -> u64 {
        self.low.saturating_add(self.high)
    }

    /// How far off [`at`](Self::at) may be, in ± ticks.
    pub fn error(&self) -> u64 {
        self.low.max(self.high)
    }

    /// The guest's counter when the host's is `host`.
    pub fn at(&self, host: u64) -> u64 {
        self.offset.wrapping_add(self.scale.map_or(host, |scale| scale.apply(host)))
    }

    /// What remains if the offset is between `low` and `high` too; `None` if it cannot be both.
    pub fn narrowed(&self, low: u64, high: u64) -> Option<Self> {
        let (first, last) = (self.offset.wrapping_sub(self.low), self.offset.wrapping_add(self.high));
        let first = if ahead(low, first) > 0 { low } else { first };
        let last = if ahead(last, high) > 0 { high } else { last };
        let width = u64::try_from(ahead(last, first)).ok()?;
        let middle = first.wrapping_add(width / 2);
        Some(Self { offset: middle, low: width / 2, high: width - width / 2, ..*self })
    }

    /// The host's calibration, told of the guest's counter. `None` where the guest's counter stands or the numbers are
    /// beyond what a page can say.
    pub fn calibration(&self, host: &Calibration) -> Option<Calibration> {
        let (period_frac, period_shift) = match self.scale {
            None => (host.period.frac(), host.period.shift()),
            Some(scale) => slower(host.period.frac(), host.period.shift(), scale)?,
        };
        // A scaled counter is rounded down to its tick.
        let ticks = u128::from(self.error()) + u128::from(self.scale.is_some());
        let nanos = nanos_of(ticks, period_frac, period_shift)?;
        Some(Calibration {
            counter: self.at(host.counter),
            period: Period::from_parts(period_frac, period_shift)?,
            // A scaled period is rounded, by less than one part in 2^62.
            period_max_error: host.period_max_error.saturating_add(u64::from(self.scale.is_some())),
            time_max_error: host.time_max_error.saturating_add(nanos),
            // Where in its window it is, nobody knows: a third of it is a fair guess.
            time_estimated_error: host.time_estimated_error.saturating_add(nanos / 3),
            ..*host
        })
    }
}

/// How long so many ticks are, in nanoseconds rounded up.
pub(crate) fn nanos_of(ticks: u128, period_frac: u64, period_shift: u8) -> Option<u64> {
    // In 2^-64 s, of which there are 2^34 to a nanosecond and some.
    let span = ticks.checked_mul(period_frac.into())?.checked_shr(period_shift.into())?.checked_add(1)?;
    let nanos = u128::from(u64::try_from(span >> 32).ok()?) * 1_000_000_000;
    // One for the fraction, one for what was cut off before.
    u64::try_from((nanos >> 32) + 2).ok()
}

/// A period divided by a ratio: with all its 64 bits.
fn slower(frac: u64, shift: u8, scale: Scale) -> Option<(u64, u8)> {
    let dividend = u128::from(frac);
    // As far to the left as it goes, for the precision.
    let left = dividend.leading_zeros();
    let quotient = (dividend << left).checked_div(scale.ratio.into())?;
    // quotient = frac * 2^left / ratio, and wanted is frac * 2^fraction_bits / ratio: the rest goes into the shift.
    let surplus = 64_u32.saturating_sub(quotient.leading_zeros());
    let frac = u64::try_from(quotient >> surplus).ok()?;
    let shift = i64::from(shift) + i64::from(left) - i64::from(scale.fraction_bits) - i64::from(surplus);
    let shift = u8::try_from(shift).ok().filter(|shift| *shift < 128)?;
    (frac != 0).then_some((frac, shift))
}

/// How far `a` is ahead of `b`, in the nearer direction of a wrapping counter.
#[allow(clippy::cast_possible_wrap)]
fn ahead(a: u64, b: u64) -> i64 {
    a.wrapping_sub(b) as i64
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use proptest::prelude::*;
    use vmclock_core::abi::{ClockStatus, CounterId, Flags, LeapIndicator, Snapshot};
    use vmclock_core::calibration::Calibration as OnPage;
    use vmclock_core::time::{Span, Tai, Time};

    use super::*;

    fn estimate(counter: u64, hz: u64) -> Calibration {
        Calibration {
            counter,
            time: Time::from_parts(2_000_000_000, 0),
            period: Period::from_frequency(NonZeroU64::new(hz).expect("not 0")),
            time_max_error: 100,
            time_estimated_error: 50,
            period_max_error: 1_000_000,
            period_estimated_error: 1_000,
            status: ClockStatus::SYNCHRONIZED,
            utc_minus_tai: None,
            leap_indicator: LeapIndicator::NONE,
        }
    }

    fn time_of(host: &Calibration, counter: u64) -> Time<Tai> {
        let span = (u128::from(counter - host.counter) * u128::from(host.period.frac())) >> host.period.shift();
        host.time.checked_add(Span::from_raw(i128::try_from(span).expect("in range"))).expect("in range")
    }

    /// What a guest makes of the calibration.
    fn seen(calibration: &Calibration) -> OnPage {
        let page = Snapshot {
            counter_id: CounterId::X86_TSC,
            clock_status: ClockStatus::SYNCHRONIZED,
            flags: Flags::TIME_MAXERROR_VALID.with(Flags::PERIOD_MAXERROR_VALID),
            counter_value: calibration.counter,
            counter_period_frac_sec: calibration.period.frac(),
            counter_period_shift: calibration.period.shift(),
            counter_period_maxerror_rate_frac_sec: calibration.period.error_rate(calibration.period_max_error),
            time_sec: 2_000_000_000,
            time_maxerror_nanosec: calibration.time_max_error,
            ..Snapshot::BLANK
        };
        OnPage::from_snapshot(&page, CounterId::X86_TSC).expect("gives time")
    }

    fn scales() -> impl Strategy<Value = Option<Scale>> {
        // From a tenth of the host's rate to ten times: 48 bits of fraction on Intel, 32 on AMD.
        let factor = 0.1..10.0_f64;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        #[allow(clippy::cast_precision_loss)]
        let scale = (factor, prop_oneof![Just(32_u8), Just(48)])
            .prop_map(|(factor, bits)| Scale { ratio: (factor * (1_u64 << bits) as f64) as u64, fraction_bits: bits });
        prop::option::of(scale)
    }

    proptest! {
        #[test]
        fn the_hosts_time_is_inside_the_guests_bounds(
            hz in 100_000_000..6_000_000_000_u64, counter in 0..u64::MAX / 1024, offset in any::<u64>(), scale in scales(),
            true_offset in -1.0..1.0_f64, width in 0..10_000_000_u64, later in 0..600_000_000_000_u64,
        ) {
            let host = estimate(counter, hz);
            let guest = GuestCounter { offset, low: width, high: width, scale };
            let Some(calibration) = guest.calibration(&host) else { panic!("no calibration for {guest:?}") };
            let at = counter + later;
            // What the guest reads is off by what is unknown of the offset.
            #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
            let read = guest.at(at).wrapping_add_signed((width as f64 * true_offset) as i64);
            let truth = time_of(&host, at);
            let seen = seen(&calibration);
            let error = seen.time_at(read).expect("in range").timestamp().nanos() - truth.timestamp().nanos();
            let allowed = seen.max_error_at(read).expect("bounds");
            // The period's rounding, one part in 2^63 of 600 s, and the nanosecond of each stamp.
            prop_assert!(error.unsigned_abs() <= allowed + 2, "{error} > {allowed}");
        }

        #[test]
        fn narrowing_keeps_the_truth(base in any::<u64>(), low in 0..1_000_000_u64, high in 0..1_000_000_u64, truth in 0.0..1.0_f64, a in 0..1_000_000_u64, b in 0..1_000_000_u64) {
            let known = GuestCounter { offset: base, low, high, scale: None };
            #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]
            let truth = base.wrapping_sub(low).wrapping_add((known.window() as f64 * truth) as u64);
            let narrowed = known.narrowed(truth.wrapping_sub(a), truth.wrapping_add(b)).expect("both have the truth");
            prop_assert!(narrowed.window() <= known.window().min(a + b));
            prop_assert!(ahead(truth, narrowed.offset).unsigned_abs() <= narrowed.error());
            prop_assert_eq!(known.narrowed(base.wrapping_add(high + 1), base.wrapping_add(high + 9)), None);
        }

        #[test]
        fn resuming_keeps_the_window(value in any::<u64>(), earliest in any::<u64>(), width in 0..1_000_000_u64, likely in -1_000..1_001_000_i64, truth in 0.0..1.0_f64) {
            let likely = earliest.wrapping_add_signed(likely);
            let guest = GuestCounter::resumed(value, earliest, likely, earliest.wrapping_add(width));
            prop_assert_eq!(guest.window(), width);
            #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]
            let zero = earliest.wrapping_add((width as f64 * truth) as u64);
            prop_assert!(ahead(guest.at(zero), value).unsigned_abs() <= guest.error());
        }
    }

    #[test]
    fn scaling_is_exact() {
        let half = GuestCounter::exact(5, Some(Scale { ratio: 1 << 47, fraction_bits: 48 }));
        assert_eq!(half.at(7), 5 + 3);
        assert_eq!(half.at(u64::MAX), 5 + (u64::MAX >> 1));
        let twice = GuestCounter::exact(u64::MAX, Some(Scale { ratio: 2 << 32, fraction_bits: 32 }));
        assert_eq!(twice.at(1 << 63), u64::MAX, "wraps, as the hardware's");
        assert_eq!(twice.at(1), 1);
        let destination = GuestCounter::going_on(1_000, 77_777, half.scale);
        assert_eq!((destination.at(77_777), destination.at(77_779), destination.error()), (1_000, 1_001, 0));
        let host = estimate(1_000, 2_000_000_000);
        let calibration = half.calibration(&host).expect("a calibration");
        let expected = Period::from_frequency(NonZeroU64::new(1_000_000_000).expect("not 0"));
        assert_eq!(
            (calibration.period.frac() >> 2, calibration.period.shift()),
            (expected.frac() >> 2, expected.shift())
        );
        assert_eq!(GuestCounter::exact(0, Some(Scale { ratio: 0, fraction_bits: 48 })).calibration(&host), None);
        // A hundredth: its ticks are 50 ns, and the reference may be anywhere in one.
        let slow = GuestCounter::exact(0, Some(Scale { ratio: (1 << 48) / 100, fraction_bits: 48 }));
        let errors = slow.calibration(&host).expect("a calibration").time_max_error - host.time_max_error;
        assert!((50..55).contains(&errors), "{errors}");
    }
}
