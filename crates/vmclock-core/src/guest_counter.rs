// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! The guest's counter as a function of the host's, as KVM and QEMU make it, and a host's calibration as one of the
//! guest's counter.

use core::num::{NonZeroU32, NonZeroU64};

use crate::calibration::{Calibration, Period};
use crate::fixed::{div_rem, mul_shift, shl_div};
use crate::lifecycle::Calibrated;
use crate::time::Tai;

/// `guest = offset + floor(host * ratio / 2^fraction_bits)`, wrapping.
///
/// ```
/// use vmclock_core::guest_counter::GuestCounter;
/// assert_eq!(GuestCounter::exact(5_u64.wrapping_neg(), None).at(7), 2);
/// ```
///
/// On KVM these are the numbers of `KVM_VCPU_TSC_OFFSET` and of debugfs' `tsc-offset`, `tsc-scaling-ratio` and
/// `tsc-scaling-ratio-frac-bits`. The offset may be known to a window only; `low` and `high` are how far the true one
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
/// use vmclock_core::guest_counter::Scale;
/// let half = Scale { ratio: 1 << 47, fraction_bits: 48 };
/// assert_eq!(Scale::between(2_000_000, 1_000_000, 48), Some(half));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// The ratio.
    pub ratio: u64,
    /// How many of its bits are behind the binary point: 48 on Intel, 32 on AMD.
    pub fraction_bits: u8,
}

impl Scale {
    /// The ratio that KVM takes for a guest of so many kHz (`KVM_SET_TSC_KHZ`) on a host of so many (`KVM_GET_TSC_KHZ`
    /// of a machine for which no frequency was set). `None` where it does not fit.
    pub fn between(host_khz: u32, guest_khz: u32, fraction_bits: u8) -> Option<Self> {
        let shifted = u128::from(guest_khz).checked_shl(fraction_bits.into())?;
        let (ratio, _) = div_rem(shifted, NonZeroU32::new(host_khz)?);
        Some(Self { ratio: u64::try_from(ratio).ok().filter(|ratio| *ratio != 0)?, fraction_bits })
    }

    /// The hardware keeps the product whole, and drops the fraction and what is above 64 bits.
    #[allow(clippy::cast_possible_truncation)]
    fn apply(self, host: u64) -> u64 {
        if self.fraction_bits < 128 {
            mul_shift(host, self.ratio, self.fraction_bits) as u64
        } else {
            0
        }
    }
}

impl GuestCounter {
    /// A counter that is known exactly, as from KVM.
    pub const fn exact(offset: u64, scale: Option<Scale>) -> Self {
        Self { offset, low: 0, high: 0, scale }
    }

    /// A counter whose offset is at most `below` less and at most `above` more than this, in ticks.
    pub const fn within(offset: u64, below: u64, above: u64, scale: Option<Scale>) -> Self {
        Self { offset, low: below, high: above, scale }
    }

    /// A counter that continues from `value` when the host's is `host`: as a destination sets it.
    pub fn continuing(value: u64, host: u64, scale: Option<Scale>) -> Self {
        let unset = Self::exact(0, scale);
        Self { offset: value.wrapping_sub(unset.at(host)), ..unset }
    }

    /// A counter that resumed at `value` when the host's was between `earliest` and `latest`, most likely at `likely`.
    pub fn resumed(value: u64, earliest: u64, likely: u64, latest: u64) -> Self {
        let latest = if ahead(latest, earliest) < 0 { earliest } else { latest };
        let likely = match likely {
            likely if ahead(likely, earliest) < 0 => earliest,
            likely if ahead(latest, likely) < 0 => latest,
            likely => likely,
        };
        // The later it resumed, the smaller the offset.
        let (low, high) = (latest.wrapping_sub(likely), likely.wrapping_sub(earliest));
        Self { offset: value.wrapping_sub(likely), low, high, scale: None }
    }

    /// The guest's minus the host's.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// How fast it runs, in ticks of the host's; `None` where it runs as the host's does.
    pub const fn scale(&self) -> Option<Scale> {
        self.scale
    }

    /// How far the true offset may be below and above that, in ticks.
    pub const fn tolerance(&self) -> (u64, u64) {
        (self.low, self.high)
    }

    /// How wide the window is in which the offset lies, in ticks.
    pub const fn window(&self) -> u64 {
        self.low.saturating_add(self.high)
    }

    /// The error bound of [`at`](Self::at), in ± ticks.
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
        let below = width >> 1;
        Some(Self { offset: first.wrapping_add(below), low: below, high: width.wrapping_sub(below), ..*self })
    }

    /// Whether the two may be one and the same: they have a scale, and offsets in their windows, in common.
    ///
    /// ```
    /// use vmclock_core::guest_counter::GuestCounter;
    /// let vague = GuestCounter::within(1_000, 10, 10, None);
    /// assert!(vague.may_be(&GuestCounter::exact(1_010, None)) && !vague.may_be(&GuestCounter::exact(1_011, None)));
    /// ```
    pub fn may_be(&self, other: &Self) -> bool {
        let (first, last) = (other.offset.wrapping_sub(other.low), other.offset.wrapping_add(other.high));
        self.scale == other.scale && self.narrowed(first, last).is_some()
    }

    /// A calibration of the host's counter as one of the guest's, whose bounds contain the host's. `None` where the
    /// guest's counter does not run, or its period is beyond what a page can state.
    ///
    /// ```
    /// use vmclock_core::calibration::{Calibration, Period};
    /// use vmclock_core::guest_counter::{GuestCounter, Scale};
    /// use vmclock_core::time::Time;
    ///
    /// let host = Calibration::new(3_000, Time::from_parts(1_800_000_000, 0), Period::from_parts(1 << 63, 30).unwrap())
    ///     .with_max_error(500, 15_000_000);
    /// let half = GuestCounter::exact(7, Some(Scale { ratio: 1 << 47, fraction_bits: 48 }));
    /// let guest = half.calibration(&host).unwrap();
    /// assert_eq!((guest.reference_counter(), guest.period()), (1_507, Period::from_parts(1 << 63, 29).unwrap()));
    /// ```
    #[inline]
    pub fn calibration(&self, host: &Calibration<Tai>) -> Option<Calibration<Tai>> {
        let at_reference = self.at(host.reference_counter());
        let guest = match self.scale {
            None => host.with_reference_counter(at_reference),
            Some(scale) => scaled(host, at_reference, scale)?,
        };
        // A scaled counter is rounded down to its tick.
        let ticks = self.error().saturating_add(u64::from(self.scale.is_some()));
        let nanos = guest.nanos_at_most(ticks);
        // Any offset in the window may be the true one: a third of it is about one standard deviation.
        Some(guest.with_more_time_error(nanos, nanos / 3))
    }

    /// The same with the status and the leap status that belong to it.
    #[inline]
    pub fn calibrated(&self, host: &Calibrated) -> Option<Calibrated> {
        Some(Calibrated { calibration: self.calibration(&host.calibration)?, ..*host })
    }
}

/// A calibration of a counter that is `counter` at the reference time and runs at another frequency.
fn scaled(host: &Calibration<Tai>, counter: u64, scale: Scale) -> Option<Calibration<Tai>> {
    let ratio = NonZeroU64::new(scale.ratio)?;
    let (frac, shift) = (host.period().frac(), host.period().shift());
    // As far to the left as it goes, for the precision: the quotient has 64 bits or more.
    let left = u8::try_from(u128::from(frac).leading_zeros()).ok()?;
    let quotient = shl_div(frac.into(), left, ratio)?;
    let surplus = u8::try_from(64_u32.saturating_sub(quotient.leading_zeros())).ok()?;
    // The quotient is frac * 2^left / ratio. The period is frac * 2^fraction_bits / ratio: the shift has the rest.
    let unit = left.checked_sub(surplus)?;
    let shift = i16::from(shift).checked_add(unit.into())?.checked_sub(scale.fraction_bits.into())?;
    let frac = u64::try_from(quotient.wrapping_shr(surplus.into())).ok()?;
    let period = Period::from_parts(frac, u8::try_from(shift).ok()?)?;
    // What was cut off of the period is less than 1 part in 2^62.
    let rounding = period.error_rate(1);
    let error_rate = |of_host: u64| {
        let floor =
            shl_div(of_host.into(), unit, ratio).and_then(|floor| u64::try_from(floor).ok()).unwrap_or(u64::MAX);
        floor.saturating_add(1).saturating_add(rounding)
    };
    Some(host.with_reference_counter(counter).with_period(period, error_rate))
}

/// How far `a` is ahead of `b`, in the nearer direction of a wrapping counter.
#[allow(clippy::cast_possible_wrap)]
const fn ahead(a: u64, b: u64) -> i64 {
    a.wrapping_sub(b) as i64
}

#[cfg(test)]
#[allow(clippy::pedantic)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::time::Time;

    const BILLION: i128 = 1_000_000_000;

    fn host_calibration(counter: u64, hz: u64, period_error: u64) -> Calibration<Tai> {
        let period = Period::from_frequency(NonZeroU64::new(hz).unwrap());
        Calibration::new(counter, Time::from_parts(2_000_000_000, 0), period)
            .with_max_error(100, period_error)
            .with_estimated_error(50, 1_000)
    }

    fn scales() -> impl Strategy<Value = Option<Scale>> {
        // From a tenth of the host's frequency to ten times: 48 bits of fraction on Intel, 32 on AMD.
        let scale = (0.1..10.0_f64, prop_oneof![Just(32_u8), Just(48)])
            .prop_map(|(factor, bits)| Scale { ratio: (factor * (1_u64 << bits) as f64) as u64, fraction_bits: bits });
        prop::option::of(scale)
    }

    /// The earliest and the latest time that the calibration allows for, exactly, in 2^-64 ns.
    fn bounds(calibration: &Calibration<Tai>, counter: u64) -> (i128, i128) {
        let time = calibration.time_at(counter).unwrap().raw() * BILLION;
        let ticks = u128::from((counter.wrapping_sub(calibration.reference_counter()) as i64).unsigned_abs());
        let rate = u128::from(calibration.period_max_error_rate().unwrap());
        let error = i128::try_from((ticks * rate) >> calibration.period().shift()).unwrap() * BILLION
            + (i128::from(calibration.time_max_error().unwrap()) << 64);
        (time - error, time + error)
    }

    proptest! {
        #[test]
        fn the_hosts_bounds_are_inside_the_guests(
            hz in 100_000_000..6_000_000_000_u64, counter in 1 << 50..u64::MAX / 1024, offset: u64, scale in scales(),
            period_error in 0..500_000_000_u64, (low, high) in (0..50_000_000_u64, 0..50_000_000_u64),
            position in prop_oneof![0.0..=1.0_f64, Just(0.0), Just(1.0)], later in -60_000_000_000..600_000_000_000_i64,
        ) {
            let host = host_calibration(counter, hz, period_error);
            let guest = GuestCounter { offset, low, high, scale };
            let of_guest = guest.calibration(&host).unwrap();
            let at = counter.wrapping_add_signed(later);
            // The guest reads what it does by the true offset, which is anywhere in the window.
            let read = guest.at(at).wrapping_sub(low).wrapping_add(((low + high) as f64 * position) as u64);
            let (earliest, latest) = bounds(&host, at);
            let seen = of_guest.interval_at(read).unwrap().unwrap();
            prop_assert!(seen.earliest.nanos() << 64 <= earliest, "{seen:?} begins after {earliest}");
            prop_assert!(seen.latest.nanos() << 64 >= latest, "{seen:?} ends before {latest}");
            // And no wider than by what is unknown of the counter, and a few nanoseconds.
            let unknown = of_guest.nanos_at_most(low + high + 1);
            // The bounds grow over these ticks too.
            let growth = 2 * u128::from(unknown) * u128::from(period_error) / 1_000_000_000_000 + 2;
            let width = u128::try_from((latest - earliest) >> 64).unwrap() + u128::from(2 * unknown) + growth;
            let rounding = width / 1_000_000_000 + (later.unsigned_abs() / hz) as u128;
            prop_assert!(seen.width_nanos() <= width + rounding + 8, "{} > {width} + {rounding}", seen.width_nanos());
        }

        #[test]
        fn narrowing_keeps_the_true_offset(
            base: u64, low in 0..1_000_000_u64, high in 0..1_000_000_u64, truth in 0.0..1.0_f64,
            a in 0..1_000_000_u64, b in 0..1_000_000_u64,
        ) {
            let known = GuestCounter { offset: base, low, high, scale: None };
            let truth = base.wrapping_sub(low).wrapping_add((known.window() as f64 * truth) as u64);
            let narrowed = known.narrowed(truth.wrapping_sub(a), truth.wrapping_add(b)).unwrap();
            prop_assert!(narrowed.window() <= known.window().min(a + b));
            prop_assert!(ahead(truth, narrowed.offset).unsigned_abs() <= narrowed.error());
            prop_assert_eq!(known.narrowed(base.wrapping_add(high + 1), base.wrapping_add(high + 9)), None);
        }

        #[test]
        fn resuming_keeps_the_window(
            value: u64, earliest: u64, width in 0..1_000_000_u64, likely in -1_000..1_001_000_i64,
            truth in 0.0..1.0_f64,
        ) {
            let likely = earliest.wrapping_add_signed(likely);
            let guest = GuestCounter::resumed(value, earliest, likely, earliest.wrapping_add(width));
            prop_assert_eq!(guest.window(), width);
            let zero = earliest.wrapping_add((width as f64 * truth) as u64);
            prop_assert!(ahead(guest.at(zero), value).unsigned_abs() <= guest.error());
        }

        #[test]
        fn no_numbers_panic(
            values: [u64; 4], numbers: [u64; 4], (period_shift, fraction_bits) in (0_u8..128, any::<u8>()), ratio: u64,
        ) {
            let [offset, low, high, at] = values;
            let [frac, counter, time_error, period_error] = numbers;
            let Some(period) = Period::from_parts(frac, period_shift) else { return Ok(()) };
            let host = Calibration::new(counter, Time::from_parts(2_000_000_000, 0), period)
                .with_max_error(time_error, period_error);
            for scale in [None, Some(Scale { ratio, fraction_bits })] {
                let guest = GuestCounter { offset, low, high, scale };
                guest.at(at);
                guest.narrowed(at, counter);
                let Some(calibration) = guest.calibration(&host) else { continue };
                prop_assert!(calibration.time_max_error() >= host.time_max_error());
                prop_assert_eq!(calibration.time_estimated_error(), None);
            }
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
        let destination = GuestCounter::continuing(1_000, 77_777, half.scale);
        assert_eq!((destination.at(77_777), destination.at(77_779), destination.error()), (1_000, 1_001, 0));
        let host = host_calibration(1_000, 2_000_000_000, 1_000_000);
        let calibration = half.calibration(&host).unwrap();
        let expected = Period::from_frequency(NonZeroU64::new(1_000_000_000).unwrap());
        assert_eq!(calibration.period().shift(), expected.shift());
        assert_eq!(calibration.period().frac() >> 2, expected.frac() >> 2);
        assert_eq!(GuestCounter::exact(0, Some(Scale { ratio: 0, fraction_bits: 48 })).calibration(&host), None);
        assert_eq!(GuestCounter::exact(0, Some(Scale { ratio: 1, fraction_bits: 200 })).at(u64::MAX), 0);
        // A hundredth: its ticks are 50 ns, and the reference may be anywhere in one.
        let slow = GuestCounter::exact(0, Some(Scale { ratio: (1 << 48) / 100, fraction_bits: 48 }));
        let more = slow.calibration(&host).unwrap().time_max_error().unwrap() - host.time_max_error().unwrap();
        assert!((50..55).contains(&more), "{more}");
    }

    #[test]
    fn a_counter_that_is_known_exactly_costs_no_width() {
        let host = host_calibration(1_000, 2_000_000_000, 1_000_000);
        let guest = GuestCounter::exact(77, None).calibration(&host);
        assert_eq!(guest, Some(host.offset_by(77)));
        // And one that is scaled one tick, and one part in 10^12.
        let half = GuestCounter::exact(77, Some(Scale { ratio: 1 << 47, fraction_bits: 48 }));
        let guest = half.calibration(&host).unwrap();
        assert_eq!((guest.time_max_error(), guest.time_estimated_error()), (Some(100 + 2), Some(50)));
        let rate = guest.period_max_error_rate().unwrap();
        assert!((guest.period().error_rate(1_000_001)..=guest.period().error_rate(1_000_001) + 4).contains(&rate));
    }

    #[test]
    fn what_the_host_does_not_know_the_guest_does_not_either() {
        let host = Calibration::new(0, Time::from_parts(2_000_000_000, 0), Period::from_parts(1 << 63, 31).unwrap());
        for scale in [None, Some(Scale { ratio: 1 << 47, fraction_bits: 48 })] {
            let guest = GuestCounter { offset: 7, low: 100, high: 100, scale }.calibration(&host).unwrap();
            assert_eq!((guest.max_error_at(7), guest.estimated_error_at(7)), (None, None));
        }
    }
}
