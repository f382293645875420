// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a monitor may observe of a device.

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

impl<E: Events + ?Sized> Events for &E {
    fn updated(&self, page: &Snapshot) {
        (**self).updated(page);
    }

    fn failed(&self) {
        (**self).failed();
    }
}
