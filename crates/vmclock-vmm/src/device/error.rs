// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why an operation fails.

use std::error::Error as StdError;
use std::fmt;

use vmclock_core::page::PageMemory;

use crate::memory::RegionError;
use crate::state::StateError;
use crate::trigger::Trigger;

/// Why an operation was not done, or not all of it.
///
/// After [`Memory`](Self::Memory) and [`Trigger`](Self::Trigger) a device keeps what it was to publish, [is
/// behind](super::Device::is_behind), and publishes it with the next operation, or with
/// [`retry`](super::Device::retry). After the others nothing has changed.
///
/// Where a constructor fails, there is no device, and nothing to retry but that; the page may be half written. A
/// trigger that fails there is no error: the device is made, and is behind.
///
/// ```
/// use vmclock_vmm::device::Error;
/// let error: Error<std::io::Error, std::io::Error> = Error::NoTime("it is before 1970");
/// assert!(error.to_string().contains("before 1970"));
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Error<M, T> {
    /// A word of the page could not be written (or, when a device is made, its sequence count read). Until that
    /// succeeds, the guest sees the old page, or that an update is in progress.
    Memory(M),
    /// The page is as it should be, but the guest could not be notified.
    Trigger(T),
    /// The device has no counter, or the time is before 1970.
    NoTime(&'static str),
    /// A state that cannot be taken up. Nothing was written.
    State(StateError),
    /// Memory that cannot be a page's, by its length. Nothing was written.
    Region(RegionError),
}

impl<M: fmt::Display, T: fmt::Display> fmt::Display for Error<M, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(error) => write!(f, "the VMClock page cannot be written: {error}; retry, or stop the guest"),
            Self::Trigger(error) => {
                write!(f, "the guest cannot be notified of an update of its VMClock page: {error}; retry")
            }
            Self::NoTime(reason) => write!(f, "the VMClock page cannot give this time: {reason}"),
            Self::State(error) => error.fmt(f),
            Self::Region(error) => write!(f, "the VMClock page cannot be in {error}"),
        }
    }
}

impl<M: StdError, T: StdError> StdError for Error<M, T> {}

/// The result of an operation.
pub type Outcome<M, T> = Result<(), Error<<M as PageMemory>::Error, <T as Trigger>::Error>>;
