// SPDX-License-Identifier: GPL-2.0
//! The end of the system's sleep.

use kernel::bindings;
use kernel::error::to_result;
use kernel::ffi::{c_int, c_ulong, c_void};
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::types::Opaque;

use super::bindings::{vmclock_rust_register_pm_notifier, vmclock_rust_unregister_pm_notifier};

/// Is notified when the system goes on.
pub(crate) trait Resumed: Send + Sync + 'static {
    /// Called after a suspension or a hibernation, or an attempt at it; all devices work again. It may sleep.
    fn resumed(&self);
}

/// A registered [`Resumed`].
///
/// # Invariants
///
/// `block` is registered for as long as this lives.
#[pin_data(PinnedDrop)]
#[repr(C)]
pub(crate) struct Registration<T: Resumed> {
    #[pin]
    block: Opaque<bindings::notifier_block>,
    to: Arc<T>,
}

// SAFETY: the chain of notifiers locks `block`, and `T` is `Send` and `Sync`.
unsafe impl<T: Resumed> Send for Registration<T> {}
// SAFETY: the chain of notifiers locks `block`, and `T` is `Send` and `Sync`.
unsafe impl<T: Resumed> Sync for Registration<T> {}

impl<T: Resumed> Registration<T> {
    pub(crate) fn new(to: Arc<T>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            to,
            block <- Opaque::try_ffi_init(|block: *mut bindings::notifier_block| {
                // SAFETY: this is the place for it.
                unsafe {
                    block.write(bindings::notifier_block {
                        notifier_call: Some(notified::<T>),
                        ..pin_init::zeroed()
                    });
                }
                // INVARIANT: registered, or there is no value.
                // SAFETY: it is complete, as is the field beside it, does not move, and is unregistered before it goes.
                to_result(unsafe { vmclock_rust_register_pm_notifier(block) })
            }),
        })
    }
}

#[pinned_drop]
impl<T: Resumed> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: it is registered, by the invariants. This waits for a notifier that runs.
        unsafe { vmclock_rust_unregister_pm_notifier(self.block.get()) };
    }
}

/// # Safety
///
/// To be called by the chain of notifiers, with the block of a [`Registration<T>`].
unsafe extern "C" fn notified<T: Resumed>(
    block: *mut bindings::notifier_block,
    action: c_ulong,
    _data: *mut c_void,
) -> c_int {
    let ends = [bindings::PM_POST_SUSPEND, bindings::PM_POST_HIBERNATION, bindings::PM_POST_RESTORE];
    if ends.iter().any(|end| *end as c_ulong == action) {
        // SAFETY: a registration begins with its block, and lives until it is unregistered. No more of it is referred
        // to than `to`.
        unsafe { &*(&raw const (*block.cast::<Registration<T>>()).to) }.resumed();
    }
    bindings::NOTIFY_OK as c_int
}
