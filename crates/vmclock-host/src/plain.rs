// SPDX-License-Identifier: MIT OR Apache-2.0
//! Types of `vmclock-core` as plain numbers, for what is saved: `#[serde(with = "crate::plain")]`, and
//! `crate::plain::option` where there may be none. `vmclock-core` itself has no dependencies.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use vmclock_core::abi::{ClockStatus, TimeType};
use vmclock_core::calibration::{Calibration, Period};
use vmclock_core::leap::LeapKind;
use vmclock_core::sample::Sample;
use vmclock_core::tai::TaiOffset;
use vmclock_core::time::{Scale, Tai, Time};

/// A type that is saved as numbers.
pub(crate) trait Plain: Sized {
    /// The numbers.
    type Numbers: Serialize + DeserializeOwned;

    fn numbers(&self) -> Self::Numbers;

    /// `None` where the numbers make no sense.
    fn of(numbers: Self::Numbers) -> Option<Self>;
}

pub(crate) fn serialize<T: Plain, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    value.numbers().serialize(serializer)
}

pub(crate) fn deserialize<'de, T: Plain, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    T::of(T::Numbers::deserialize(deserializer)?).ok_or_else(nonsense::<T, D::Error>)
}

fn nonsense<T, E: serde::de::Error>() -> E {
    E::custom(format_args!("no {}", std::any::type_name::<T>()))
}

/// The same where there may be none.
pub(crate) mod option {
    use super::{nonsense, Deserialize, Deserializer, Plain, Serialize, Serializer};

    #[allow(clippy::ref_option)] // as serde calls it
    pub(crate) fn serialize<T: Plain, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        value.as_ref().map(T::numbers).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, T: Plain, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
        let numbers = Option::<T::Numbers>::deserialize(deserializer)?;
        numbers.map(|numbers| T::of(numbers).ok_or_else(nonsense::<T, D::Error>)).transpose()
    }
}

impl<S> Plain for Time<S> {
    type Numbers = i128;

    fn numbers(&self) -> i128 {
        self.raw()
    }

    fn of(numbers: i128) -> Option<Self> {
        Some(Self::from_raw(numbers))
    }
}

impl<S: Scale> Plain for Sample<S> {
    type Numbers = (u64, i128, u64);

    fn numbers(&self) -> Self::Numbers {
        (self.before, self.time.raw(), self.after)
    }

    fn of((before, time, after): Self::Numbers) -> Option<Self> {
        Some(Self { before, time: Time::from_raw(time), after })
    }
}

impl Plain for Period {
    type Numbers = (u64, u8);

    fn numbers(&self) -> Self::Numbers {
        (self.frac(), self.shift())
    }

    fn of((frac, shift): Self::Numbers) -> Option<Self> {
        Self::from_parts(frac, shift)
    }
}

/// With all errors, as the estimator makes them.
impl Plain for Calibration<Tai> {
    type Numbers = (u64, i128, (u64, u8), [u64; 4]);

    fn numbers(&self) -> Self::Numbers {
        let errors = [
            self.time_max_error(),
            self.period_max_error_rate(),
            self.time_estimated_error(),
            self.period_estimated_error_rate(),
        ];
        let errors = errors.map(|error| error.unwrap_or(u64::MAX));
        (self.reference_counter(), self.reference_time().raw(), self.period().numbers(), errors)
    }

    fn of((counter, time, period, errors): Self::Numbers) -> Option<Self> {
        let [time_max, period_max, time_estimated, period_estimated] = errors;
        let calibration = Self::new(counter, Time::from_raw(time), Period::of(period)?);
        Some(calibration.with_errors((time_max, period_max), (time_estimated, period_estimated)))
    }
}

impl Plain for TaiOffset {
    type Numbers = i16;

    fn numbers(&self) -> i16 {
        self.seconds()
    }

    fn of(numbers: i16) -> Option<Self> {
        Self::from_seconds(numbers)
    }
}

/// By how much it changes TAI-UTC.
impl Plain for LeapKind {
    type Numbers = i16;

    fn numbers(&self) -> i16 {
        self.seconds()
    }

    fn of(numbers: i16) -> Option<Self> {
        [Self::Inserted, Self::Deleted].into_iter().find(|kind| kind.seconds() == numbers)
    }
}

impl Plain for ClockStatus {
    type Numbers = u8;

    fn numbers(&self) -> u8 {
        self.0
    }

    fn of(numbers: u8) -> Option<Self> {
        Some(Self(numbers))
    }
}

impl Plain for TimeType {
    type Numbers = u8;

    fn numbers(&self) -> u8 {
        self.0
    }

    fn of(numbers: u8) -> Option<Self> {
        let own = [Self::TAI, Self::UTC];
        own.contains(&Self(numbers)).then_some(Self(numbers))
    }
}
