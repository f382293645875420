// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's clock as a source.

use crate::kernel::{KernelClock, Quality};

use super::{LeapNotice, Observation, Source, SourceError, Stamp};

/// Whose idea of the kernel's clock's error counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trust {
    /// The kernel's: its `maxerror` and `esterror`.
    Kernel,
    /// The clock is taken for the truth: it has no error.
    HostClock,
}

/// The kernel's clock: `CLOCK_TAI` where the kernel was told of the offset, and `CLOCK_REALTIME` where not.
///
/// ```
/// use vmclock_host::source::{kernel::{KernelSource, Trust}, Source};
/// let mut source = KernelSource::new(Trust::HostClock);
/// let observation = source.observe()?;
/// assert_eq!(observation.max_error, 0);
/// # Ok::<(), vmclock_host::source::SourceError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct KernelSource {
    trust: Trust,
}

impl KernelSource {
    /// A source with somebody's idea of its error.
    pub const fn new(trust: Trust) -> Self {
        Self { trust }
    }
}

impl Source for KernelSource {
    fn name(&self) -> &str {
        match self.trust {
            Trust::Kernel => "kernel",
            Trust::HostClock => "host-clock",
        }
    }

    fn observe(&mut self) -> Result<Observation, SourceError> {
        let quality = Quality::now().map_err(|error| SourceError::Io {
            name: "the kernel's clock".into(),
            what: "cannot ask after its quality",
            error,
        })?;
        Ok(observation(self.trust, &quality))
    }
}

/// A look at the kernel's clock, of which this is known.
pub(super) fn observation(trust: Trust, quality: &Quality) -> Observation {
    let clock = match quality.tai_minus_utc {
        Some(_) => KernelClock::tai(),
        None => KernelClock::realtime_plus(0),
    };
    let sample = clock.sample();
    let stamp = match quality.tai_minus_utc {
        Some(_) => Stamp::Tai(sample.time),
        None => Stamp::Utc(vmclock_core::time::Time::from_raw(sample.time.raw())),
    };
    let (max_error, estimated_error, synchronized) = match trust {
        Trust::Kernel => (quality.max_error, quality.estimated_error, quality.synchronized),
        Trust::HostClock => (0, 0, true),
    };
    Observation {
        before: sample.before,
        after: sample.after,
        stamp,
        max_error,
        estimated_error,
        synchronized,
        leap: LeapNotice {
            today: quality.leap_today,
            now: quality.in_leap_second,
            tai_minus_utc: quality.tai_minus_utc,
        },
        era: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_errors_are_its_own() {
        let quality = Quality::now().expect("the kernel answers");
        let trusted = observation(Trust::Kernel, &quality);
        assert_eq!((trusted.max_error, trusted.synchronized), (quality.max_error, quality.synchronized));
        assert_eq!(matches!(trusted.stamp, Stamp::Tai(_)), quality.tai_minus_utc.is_some());
        assert!(trusted.after.wrapping_sub(trusted.before) < 1 << 32);
    }
}
