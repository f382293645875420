// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! What a monitor may observe of a device.

use std::sync::Arc;

use vmclock_core::abi::Snapshot;

/// Observes each update, for metrics and logs. By default it does nothing.
///
/// ```
/// use std::cell::Cell;
/// use vmclock_core::abi::Snapshot;
/// use vmclock_vmm::device::Events;
///
/// #[derive(Default)]
/// struct Updates(Cell<u64>);
///
/// impl Events for Updates {
///     fn updated(&self, _page: &Snapshot) {
///         self.0.set(self.0.get() + 1);
///     }
/// }
///
/// let updates = Updates::default();
/// (&updates).updated(&Snapshot::BLANK);
/// assert_eq!(updates.0.get(), 1);
/// ```
pub trait Events {
    /// The page was updated to these contents.
    fn updated(&self, _page: &Snapshot) {}

    /// An operation failed, and is to be retried.
    fn failed(&self) {}
}

impl Events for () {}

macro_rules! pointers {
    ($($pointer:ty),*) => {$(
        impl<E: Events + ?Sized> Events for $pointer {
            fn updated(&self, page: &Snapshot) {
                (**self).updated(page);
            }

            fn failed(&self) {
                (**self).failed();
            }
        }
    )*};
}

pointers!(&E, Arc<E>, Box<E>);
