// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a guest is told that its page changed.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{eventfd, EventfdFlags};

/// Raises the device's interrupt.
pub trait Trigger {
    /// Why it cannot.
    type Error: Error + Send + Sync + 'static;

    /// Raises it once. It must not wait.
    fn trigger(&self) -> Result<(), Self::Error>;
}

/// A guest that is not told: for a device whose options say so.
impl Trigger for () {
    type Error = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        Ok(())
    }
}

impl<T: Trigger + ?Sized> Trigger for &T {
    type Error = T::Error;

    fn trigger(&self) -> Result<(), T::Error> {
        (**self).trigger()
    }
}

/// An eventfd, which KVM turns into an interrupt (`KVM_IRQFD`).
///
/// ```
/// use vmclock_vmm::trigger::{EventFd, Trigger};
/// let interrupt = EventFd::new()?;
/// interrupt.trigger()?;
/// interrupt.trigger()?;
/// assert_eq!(interrupt.take()?, 2);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// A new one, that does not block and is not inherited.
    pub fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// How often it was triggered since the last time; for a monitor without `KVM_IRQFD`.
    pub fn take(&self) -> io::Result<u64> {
        let mut count = [0; 8];
        match rustix::io::read(&self.0, &mut count) {
            Ok(_) => Ok(u64::from_ne_bytes(count)),
            Err(rustix::io::Errno::AGAIN) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }
}

impl Trigger for EventFd {
    type Error = io::Error;

    fn trigger(&self) -> io::Result<()> {
        match rustix::io::write(&self.0, &1_u64.to_ne_bytes()) {
            // Full: it is raised as much as it can be.
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
