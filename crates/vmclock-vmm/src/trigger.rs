// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a guest is told that its page changed.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{eventfd, EventfdFlags};

/// Raises the device's interrupt.
///
/// ```
/// use std::cell::Cell;
/// use std::convert::Infallible;
/// use vmclock_vmm::trigger::Trigger;
///
/// /// A line of an interrupt controller in the monitor.
/// struct Line<'a>(&'a Cell<u32>);
///
/// impl Trigger for Line<'_> {
///     type Error = Infallible;
///
///     fn trigger(&self) -> Result<(), Infallible> {
///         self.0.set(self.0.get() + 1);
///         Ok(())
///     }
/// }
///
/// let raised = Cell::new(0);
/// Line(&raised).trigger()?;
/// assert_eq!(raised.get(), 1);
/// # Ok::<(), Infallible>(())
/// ```
pub trait Trigger {
    /// Whether it raises anything: the page tells the guest so. A guest that is told that it will be notified sleeps until then.
    const NOTIFIES: bool = true;

    /// Why it cannot.
    type Error: Error + Send + Sync + 'static;

    /// Raises it once. It must not wait.
    fn trigger(&self) -> Result<(), Self::Error>;
}

/// A guest that is not told of updates, and knows that from the page.
impl Trigger for () {
    const NOTIFIES: bool = false;

    type Error = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        Ok(())
    }
}

impl<T: Trigger + ?Sized> Trigger for &T {
    const NOTIFIES: bool = T::NOTIFIES;

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
