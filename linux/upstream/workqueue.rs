// SPDX-License-Identifier: GPL-2.0
//! A piece of work that can be put off, and cancelled for good: the `kernel` crate's cannot.

use kernel::bindings;
use kernel::ffi::{c_int, c_ulong};
use kernel::prelude::*;
use kernel::sync::{ArcBorrow, LockClassKey};
use kernel::types::Opaque;

/// What does the work. A type may have several pieces of it, told apart by `ID`.
///
/// # Safety
///
/// `from_work` must give the value whose field the work is, and which is in an `Arc`.
pub(crate) unsafe trait Worker<const ID: u64 = 0>: Send + Sync {
    /// The value of which `work` is a field.
    ///
    /// # Safety
    ///
    /// `work` must be the field number `ID` of a value of this type that lives during `'a`.
    unsafe fn from_work<'a>(work: *mut DelayedWork) -> ArcBorrow<'a, Self>;

    fn run(value: ArcBorrow<'_, Self>);
}

/// When work that was put off is done.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timer {
    /// When its time has come.
    Exact,
    /// Not before that, and not before the CPU is awake anyway: it wakes none.
    Deferrable,
}

#[pin_data]
#[repr(transparent)]
pub(crate) struct DelayedWork {
    #[pin]
    inner: Opaque<bindings::delayed_work>,
}

// SAFETY: the workqueue locks it.
unsafe impl Send for DelayedWork {}
// SAFETY: the workqueue locks it.
unsafe impl Sync for DelayedWork {}

/// A [`DelayedWork`] with lock classes of its own.
macro_rules! new_delayed_work {
    ($worker:ty, $id:literal, $timer:expr, $name:literal) => {
        $crate::upstream::workqueue::DelayedWork::new::<$worker, $id>(
            $timer,
            (::kernel::c_str!($name), ::kernel::static_lock_class!()),
            (::kernel::c_str!(::core::concat!($name, "_timer")), ::kernel::static_lock_class!()),
        )
    };
}
pub(crate) use new_delayed_work;

/// The name and the class of a lock.
type Lock = (&'static CStr, Pin<&'static LockClassKey>);

impl DelayedWork {
    /// To be called by [`new_delayed_work`].
    ///
    /// # Safety
    ///
    /// It must become the field number `ID` of a `W`, as [`Worker::from_work`] has it, and be [cancelled](Self::cancel)
    /// before that goes.
    pub(crate) unsafe fn new<W: Worker<ID>, const ID: u64>(
        timer: Timer,
        work: Lock,
        alarm: Lock,
    ) -> impl PinInit<Self> {
        let flags = match timer {
            Timer::Exact => bindings::TIMER_IRQSAFE,
            Timer::Deferrable => bindings::TIMER_IRQSAFE | bindings::TIMER_DEFERRABLE,
        };
        pin_init!(Self {
            inner <- Opaque::ffi_init(move |place: *mut bindings::delayed_work| {
                // SAFETY: the place is for a piece of work that is not used yet, and `run` is for such a piece; names
                // and classes are static; the function of the timer is that of all delayed work, which asks for the
                // flag `IRQSAFE`.
                unsafe {
                    bindings::init_work_with_key(
                        &raw mut (*place).work,
                        Some(run::<W, ID>),
                        false,
                        work.0.as_char_ptr(),
                        work.1.as_ptr(),
                    );
                    bindings::timer_init_key(
                        &raw mut (*place).timer,
                        Some(bindings::delayed_work_timer_fn),
                        flags,
                        alarm.0.as_char_ptr(),
                        alarm.1.as_ptr(),
                    );
                }
            }),
        })
    }

    /// Has it done as soon as can be, even if it was put off before. From any context.
    pub(crate) fn queue(&self) {
        // SAFETY: it was made by `new`. Whoever made it cancels it before it goes.
        unsafe { bindings::mod_delayed_work_on(ANY_CPU, bindings::system_power_efficient_wq, self.inner.get(), 0) };
    }

    /// Has it done after so many milliseconds, unless it will be done earlier anyway.
    pub(crate) fn queue_after(&self, millis: u32) {
        let delay: c_ulong = kernel::time::msecs_to_jiffies(millis);
        // SAFETY: it was made by `new`. Whoever made it cancels it before it goes.
        unsafe {
            bindings::queue_delayed_work_on(ANY_CPU, bindings::system_power_efficient_wq, self.inner.get(), delay)
        };
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
/// To be called by the workqueue, for a piece of work that was made for `W` and `ID`.
unsafe extern "C" fn run<W: Worker<ID>, const ID: u64>(work: *mut bindings::work_struct) {
    // SAFETY: it is the first field of what is the only field of `DelayedWork`, which is a field of a `W` that lives
    // until it was cancelled.
    W::run(unsafe { W::from_work(work.cast()) });
}
