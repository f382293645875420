// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! How a guest is notified that its page changed.

use std::error::Error;
use std::sync::Arc;

#[cfg(all(feature = "eventfd", target_os = "linux"))]
pub use vmm_sys_util::eventfd::EventFd;

/// Why something outside of this crate failed: an interrupt, memory.
pub type Cause = Box<dyn Error + Send + Sync>;

/// Raises the device's interrupt.
///
/// ```
/// use std::sync::atomic::{AtomicU32, Ordering};
/// use vmclock_vmm::trigger::{Cause, Trigger};
///
/// /// A line of an interrupt controller in the monitor.
/// struct Line(AtomicU32);
///
/// impl Trigger for Line {
///     fn trigger(&self) -> Result<(), Cause> {
///         self.0.fetch_add(1, Ordering::Relaxed);
///         Ok(())
///     }
/// }
///
/// let line = Line(AtomicU32::new(0));
/// let any: &dyn Trigger = &line;
/// any.trigger()?;
/// assert_eq!(line.0.load(Ordering::Relaxed), 1);
/// # Ok::<(), Cause>(())
/// ```
pub trait Trigger {
    /// Whether it raises anything: the page states it. A guest that will be notified sleeps until then. It is asked
    /// when a device is made or loaded, and has to stay as it is.
    fn notifies(&self) -> bool {
        true
    }

    /// Raises it once. It must not wait.
    fn trigger(&self) -> Result<(), Cause>;
}

/// A guest that is not notified of updates, and knows that from the page.
impl Trigger for () {
    fn notifies(&self) -> bool {
        false
    }

    fn trigger(&self) -> Result<(), Cause> {
        Ok(())
    }
}

macro_rules! pointers {
    ($($pointer:ty),*) => {$(
        impl<T: Trigger + ?Sized> Trigger for $pointer {
            fn notifies(&self) -> bool {
                (**self).notifies()
            }

            fn trigger(&self) -> Result<(), Cause> {
                (**self).trigger()
            }
        }
    )*};
}

pointers!(&T, Arc<T>, Box<T>);

/// A closure as a trigger: for what a monitor has already, as vm-superio's `Trigger`.
///
/// ```
/// use std::cell::Cell;
/// use std::convert::Infallible;
/// use vm_superio::Trigger as _;
/// use vmclock_vmm::trigger::{Cause, FromFn, Trigger};
///
/// struct Legacy(Cell<u32>);
///
/// impl vm_superio::Trigger for Legacy {
///     type E = Infallible;
///
///     fn trigger(&self) -> Result<(), Infallible> {
///         self.0.set(self.0.get() + 1);
///         Ok(())
///     }
/// }
///
/// let legacy = Legacy(Cell::new(0));
/// let trigger = FromFn(|| legacy.trigger().map_err(Cause::from));
/// Trigger::trigger(&trigger)?;
/// assert_eq!(legacy.0.get(), 1);
/// # Ok::<(), Cause>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct FromFn<F>(
    /// Raises the interrupt once.
    pub F,
);

impl<F: Fn() -> Result<(), Cause>> Trigger for FromFn<F> {
    fn trigger(&self) -> Result<(), Cause> {
        self.0()
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
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
#[cfg(all(feature = "eventfd", target_os = "linux"))]
impl Trigger for EventFd {
    fn trigger(&self) -> Result<(), Cause> {
        match self.write(1) {
            // Full: it is raised as much as it can be.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(()),
            result => Ok(result?),
        }
    }
}

#[cfg(all(test, feature = "eventfd", target_os = "linux"))]
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
        let interrupt = Arc::new(EventFd::new(EFD_NONBLOCK).expect("an eventfd"));
        let of_any: Arc<dyn Trigger + Send + Sync> = interrupt.clone();
        let boxed: Box<dyn Trigger> = Box::new(Arc::clone(&of_any));
        boxed.trigger().expect("raised");
        assert_eq!(interrupt.read().expect("raised"), 1);
        assert!(interrupt.notifies() && of_any.notifies() && boxed.notifies() && FromFn(|| Ok(())).notifies());
        assert!(!().notifies() && !Arc::new(()).notifies());
    }
}
