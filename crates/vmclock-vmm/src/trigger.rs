// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a guest is notified that its page changed.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::sync::Arc;

pub use vmm_sys_util::eventfd::EventFd;

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
    /// Whether it raises anything: the page states it. A guest that will be notified sleeps until then.
    const NOTIFIES: bool = true;

    /// Why it cannot.
    type Error: Error + Send + Sync + 'static;

    /// Raises it once. It must not wait.
    fn trigger(&self) -> Result<(), Self::Error>;
}

/// A guest that is not notified of updates, and knows that from the page.
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

impl<T: Trigger + ?Sized> Trigger for Arc<T> {
    const NOTIFIES: bool = T::NOTIFIES;

    type Error = T::Error;

    fn trigger(&self) -> Result<(), T::Error> {
        (**self).trigger()
    }
}

/// An eventfd, as rust-vmm has it and KVM turns it into an interrupt (`VmFd::register_irqfd`). Make it with
/// `EFD_NONBLOCK`, or it waits where 2^64 - 2 notifications are not taken.
///
/// ```
/// use vmclock_vmm::trigger::{EventFd, Trigger};
/// use vmm_sys_util::eventfd::EFD_NONBLOCK;
///
/// let interrupt = EventFd::new(EFD_NONBLOCK)?;
/// interrupt.trigger()?;
/// interrupt.trigger()?;
/// assert_eq!(interrupt.read()?, 2);
/// # Ok::<(), std::io::Error>(())
/// ```
impl Trigger for EventFd {
    type Error = io::Error;

    fn trigger(&self) -> io::Result<()> {
        match self.write(1) {
            // Full: it is raised as much as it can be.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            result => result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    #[test]
    fn an_eventfd_that_is_full_is_raised() {
        let interrupt = Arc::new(EventFd::new(EFD_NONBLOCK).expect("an eventfd"));
        interrupt.write(u64::MAX - 1).expect("not full");
        interrupt.trigger().expect("as raised as it can be");
        assert_eq!(interrupt.read().expect("raised"), u64::MAX - 1);
        Arc::clone(&interrupt).trigger().expect("raised");
        assert_eq!(interrupt.read().expect("raised"), 1);
    }

    #[test]
    fn pointers_to_a_trigger_notify_as_it_does() {
        const fn notifies<T: Trigger>(_: &T) -> bool {
            T::NOTIFIES
        }
        let interrupt = Arc::new(EventFd::new(EFD_NONBLOCK).expect("an eventfd"));
        assert!(notifies(&interrupt) && notifies(&&*interrupt));
        assert!(!notifies(&()) && !notifies(&&()) && !notifies(&Arc::new(())));
    }
}
