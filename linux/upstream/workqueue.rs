// SPDX-License-Identifier: GPL-2.0
//! A piece of work that can be put off, and cancelled for good: the `kernel` crate's cannot.

use kernel::bindings;
use kernel::ffi::{c_int, c_ulong};
use kernel::prelude::*;
use kernel::types::Opaque;

use super::bindings::vmclock_rust_init_delayed_work;

/// What does the work.
///
/// # Safety
///
/// `from_work` must give the value whose field the work is.
pub(crate) unsafe trait Worker: Sync {
    /// The value of which `work` is a field.
    ///
    /// # Safety
    ///
    /// `work` must be a field of a value of this type that lives during `'a`.
    unsafe fn from_work<'a>(work: *mut DelayedWork) -> &'a Self;

    fn run(&self);
}

#[pin_data]
#[repr(transparent)]
pub(crate) struct DelayedWork {
    #[pin]
    inner: Opaque<bindings::delayed_work>,
}

// SAFETY: the workqueue locks it.
unsafe impl Send for DelayedWork {}
// SAFETY: as above.
unsafe impl Sync for DelayedWork {}

impl DelayedWork {
    /// # Safety
    ///
    /// It must become a field of a `W`, as [`Worker::from_work`] has it, and be [cancelled](Self::cancel) before that goes.
    pub(crate) unsafe fn new<W: Worker>() -> impl PinInit<Self> {
        pin_init!(Self {
            // SAFETY: the place is for a piece of work that is not used yet.
            inner <- Opaque::ffi_init(|place: *mut bindings::delayed_work| unsafe {
                vmclock_rust_init_delayed_work(place, Some(run::<W>));
            }),
        })
    }

    /// Has it done as soon as can be, even if it was put off before. From any context.
    pub(crate) fn queue(&self) {
        // SAFETY: it was made by `new`. Whoever made it cancels it before it goes.
        unsafe { bindings::mod_delayed_work_on(ANY_CPU, bindings::system_percpu_wq, self.inner.get(), 0) };
    }

    /// Has it done after so many milliseconds, unless it will be done earlier anyway.
    pub(crate) fn queue_after(&self, millis: u32) {
        let delay: c_ulong = kernel::time::msecs_to_jiffies(millis);
        // SAFETY: as above.
        unsafe { bindings::queue_delayed_work_on(ANY_CPU, bindings::system_percpu_wq, self.inner.get(), delay) };
    }

    /// It is not being done any more when this returns, and will not be done again unless it is queued from elsewhere.
    pub(crate) fn cancel(&self) {
        // SAFETY: it was made by `new`; we may sleep, as our callers may.
        unsafe { bindings::cancel_delayed_work_sync(self.inner.get()) };
    }
}

const ANY_CPU: c_int = bindings::wq_misc_consts_WORK_CPU_UNBOUND as c_int;

/// # Safety
///
/// To be called by the workqueue, for a piece of work that was made for `W`.
unsafe extern "C" fn run<W: Worker>(work: *mut bindings::work_struct) {
    // SAFETY: it is the first field of what is the only field of `DelayedWork`, which is a field of a `W` that lives until it was cancelled.
    unsafe { W::from_work(work.cast()) }.run();
}
