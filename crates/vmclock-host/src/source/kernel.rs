// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's clock as a source.

use crate::kernel::{KernelClock, Quality};

use super::{LeapNotice, Measure, Measurement, SourceError, Stamp};

/// What every source that reads the kernel's clock names as its [`clock`](Measure::clock).
pub(super) const SYSTEM_CLOCK: &str = "system";

/// Who states the error of the kernel's clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Trust {
    /// The kernel: its `maxerror` and `esterror`.
    Kernel,
    /// Nobody: the clock is assumed exact, however its daemon disciplines it.
    HostClock,
}

/// The kernel's clock: `CLOCK_TAI` where the kernel knows TAI-UTC, and `CLOCK_REALTIME` where not.
///
/// ```
/// use vmclock_host::source::{kernel::{KernelSource, Trust}, Measure};
/// let measurement = KernelSource::new(Trust::HostClock).measure()?;
/// assert_eq!(measurement.max_error, 0);
/// assert!(measurement.steering.is_some());
/// # Ok::<(), vmclock_host::source::SourceError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct KernelSource {
    trust: Trust,
    is_tai: bool,
}

impl KernelSource {
    /// A source whose error is stated by `trust`.
    pub fn new(trust: Trust) -> Self {
        Self { trust, is_tai: knows_tai() }
    }
}

impl Measure for KernelSource {
    fn name(&self) -> &str {
        match self.trust {
            Trust::Kernel => "kernel",
            Trust::HostClock => "host-clock",
        }
    }

    fn clock(&self) -> String {
        SYSTEM_CLOCK.into()
    }

    fn is_tai(&self) -> bool {
        self.is_tai
    }

    fn measure(&mut self) -> Result<Measurement, SourceError> {
        let quality = quality()?;
        let exact = measurement(&quality);
        Ok(match self.trust {
            Trust::Kernel => Measurement {
                max_error: quality.max_error,
                estimated_error: quality.estimated_error,
                synchronized: quality.synchronized,
                ..exact
            },
            Trust::HostClock => Measurement { steering: Some(quality.steering), ..exact },
        })
    }
}

/// Whether the kernel knows TAI-UTC, so that `CLOCK_TAI` is on TAI.
pub(super) fn knows_tai() -> bool {
    Quality::now().is_ok_and(|quality| quality.tai_offset.is_some())
}

/// What the kernel states of its clock.
pub(super) fn quality() -> Result<Quality, SourceError> {
    Quality::now().map_err(|error| SourceError::Io {
        name: "the kernel's clock".into(),
        what: "cannot be asked for its quality",
        error,
    })
}

/// A measurement of the kernel's clock as if it were exact.
pub(super) fn measurement(quality: &Quality) -> Measurement {
    Measurement {
        stamp: match quality.tai_offset {
            Some(_) => Stamp::Tai(KernelClock::tai().sample()),
            None => Stamp::Utc(KernelClock::realtime().sample()),
        },
        max_error: 0,
        estimated_error: 0,
        synchronized: true,
        leap: LeapNotice { today: quality.leap_today, now: quality.in_leap_second, tai_offset: quality.tai_offset },
        era: 0,
        steering: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_errors_are_its_own() {
        let before = quality().expect("the kernel answers");
        let mut source = KernelSource::new(Trust::Kernel);
        let measured = source.measure().expect("a time");
        let after = quality().expect("the kernel answers");
        // The maximum error grows each second, and shrinks when a daemon sets it.
        let (low, high) = (before.max_error.min(after.max_error), before.max_error.max(after.max_error));
        assert!((low..=high).contains(&measured.max_error), "{measured:?}");
        assert_eq!(measured.synchronized, after.synchronized);
        assert_eq!(measured.steering, None, "steering is the host clock's");
        assert!(measured.stamp.after().wrapping_sub(measured.stamp.before()) < 1 << 32);
    }

    #[test]
    fn a_clock_is_on_tai_where_the_kernel_knows_the_offset() {
        let known = Quality { tai_offset: vmclock_core::tai::TaiOffset::from_seconds(37), ..quality().expect("one") };
        assert!(matches!(measurement(&known).stamp, Stamp::Tai(_)));
        assert!(matches!(measurement(&Quality { tai_offset: None, ..known }).stamp, Stamp::Utc(_)));
    }

    #[test]
    fn whoever_states_its_error_it_is_one_clock() {
        let clocks = [Trust::Kernel, Trust::HostClock].map(|trust| KernelSource::new(trust).clock());
        assert_eq!(clocks[0], clocks[1]);
    }
}
