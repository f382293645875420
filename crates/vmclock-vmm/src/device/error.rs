// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! Why an operation fails.

use std::error::Error as StdError;
use std::fmt;

use crate::memory::RegionError;
use crate::state::StateError;
use crate::trigger::Cause;

/// Why an operation was not done, or not all of it. What is behind it, where there is more, is its `source`.
///
/// After [`Memory`](Self::Memory) and [`NotNotified`](Self::NotNotified) a device keeps what it was to publish, [is
/// behind](super::VmClockDevice::is_behind), and publishes it with the next operation, or with
/// [`retry`](super::VmClockDevice::retry). After the others nothing has changed.
///
/// Where a constructor fails, there is no device, and nothing to retry but that; the page may be half written.
///
/// ```
/// use vmclock_vmm::device::Error;
/// assert!(Error::BeforeEpoch.to_string().contains("before 1970"));
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A word of the page could not be written (or, when a device is made, its sequence count read). Until that
    /// succeeds, the guest sees the old page, or that an update is in progress.
    Memory(Cause),
    /// The page is as it should be, but the guest could not be notified.
    NotNotified(NotNotified),
    /// The device has no counter.
    NoCounter,
    /// The calibration's time is before 1970.
    BeforeEpoch,
    /// A state that cannot be taken up. Nothing was written.
    State(StateError),
    /// Memory that cannot be a page's, by its length. Nothing was written.
    Region(RegionError),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(_) => f.write_str("the VMClock page cannot be written; retry, or stop the guest"),
            Self::NotNotified(error) => error.fmt(f),
            Self::NoCounter => f.write_str(
                "the VMClock device was made without a counter, so its page gives no time; \
                 State::with_counter gives an incoming machine a counter",
            ),
            Self::BeforeEpoch => f.write_str("the VMClock page cannot give a time before 1970"),
            Self::State(error) => error.fmt(f),
            Self::Region(error) => write!(f, "the VMClock page cannot be in {error}"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Memory(cause) => Some(&**cause),
            Self::NotNotified(error) => error.source(),
            Self::State(error) => error.source(),
            Self::NoCounter | Self::BeforeEpoch | Self::Region(_) => None,
        }
    }
}

/// The page is as it should be, but the guest could not be notified of that: one that sleeps until it is notified
/// sleeps on. [Retry](super::VmClockDevice::retry). The `source` is the trigger's error.
#[derive(Debug)]
pub struct NotNotified(pub(super) Cause);

impl fmt::Display for NotNotified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the guest cannot be notified of an update of its VMClock page; retry")
    }
}

impl StdError for NotNotified {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.0)
    }
}

impl From<NotNotified> for Error {
    fn from(error: NotNotified) -> Self {
        Self::NotNotified(error)
    }
}

/// The result of an operation.
pub type Outcome = Result<(), Error>;

/// Whether a guest was notified of the page that its new device begins with.
pub type Notified = Result<(), NotNotified>;
