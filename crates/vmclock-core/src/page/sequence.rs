// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! The sequence count: both halves of the protocol.

use core::convert::Infallible;
use core::fmt;

#[cfg(not(loom))]
use core::sync::atomic::{fence, AtomicU32, Ordering};
#[cfg(loom)]
use loom::sync::atomic::{fence, AtomicU32, Ordering};

/// The sequence count stayed odd, or kept changing, for as long as the reader was willing to wait.
///
/// ```
/// let busy = vmclock_core::page::Busy::at(7);
/// assert!(busy.to_string().contains("odd"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Busy {
    /// The last count seen.
    pub seq_count: u32,
}

impl Busy {
    /// With the last count seen.
    pub const fn at(seq_count: u32) -> Self {
        Self { seq_count }
    }
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seq_count } = *self;
        if seq_count & 1 != 0 {
            write!(f, "the page stayed in the middle of an update (sequence count {seq_count} is odd); ")?;
            f.write_str("whoever publishes it may have died: restart the publisher, which repairs the page")
        } else {
            write!(f, "the page changed faster than it could be read (sequence count is at {seq_count}); ")?;
            f.write_str("its publisher updates it without a pause")
        }
    }
}

impl core::error::Error for Busy {}

/// The sequence count by itself: both halves of the protocol, for any data beside it.
#[derive(Debug)]
#[repr(transparent)]
pub struct SeqCount(AtomicU32);

impl SeqCount {
    /// A new count.
    #[cfg(not(loom))]
    pub const fn new(value: u32) -> Self {
        Self(AtomicU32::new(value.to_le()))
    }

    /// A new count.
    #[cfg(loom)]
    pub fn new(value: u32) -> Self {
        Self(AtomicU32::new(value.to_le()))
    }

    /// The count at this moment.
    #[inline]
    pub fn get(&self) -> u32 {
        u32::from_le(self.0.load(Ordering::Relaxed))
    }

    /// Runs `read` until what it returns is known to belong together, for as long as `wait` says yes.
    ///
    /// `read` must do nothing but relaxed atomic loads and reading the counter: its result may be inconsistent, and is
    /// then dropped. `wait` is asked once before every further attempt, and not at all when the first succeeds.
    #[inline]
    pub fn read<T>(&self, mut read: impl FnMut() -> T, wait: impl FnMut() -> bool) -> Result<T, Busy> {
        match self.try_read(&mut read) {
            Some(value) => Ok(value),
            None => self.read_again(read, wait),
        }
    }

    #[inline(always)]
    pub(super) fn try_read<T>(&self, read: &mut impl FnMut() -> T) -> Option<T> {
        let before = self.get();
        if before & 1 != 0 {
            return None;
        }
        // Keeps the reads below behind the count above: pairs with the release store in `update`.
        fence(Ordering::Acquire);
        let value = read();
        // Keeps the reads above before the count below. An acquire load of the count would not: it orders what comes
        // after it. Had a read above seen a word of a later update, the fence in `update` makes the count differ.
        fence(Ordering::Acquire);
        (self.get() == before).then_some(value)
    }

    #[cold]
    fn read_again<T>(&self, mut read: impl FnMut() -> T, mut wait: impl FnMut() -> bool) -> Result<T, Busy> {
        loop {
            pause();
            if !wait() {
                return Err(Busy { seq_count: self.get() });
            }
            if let Some(value) = self.try_read(&mut read) {
                return Ok(value);
            }
        }
    }

    /// Runs `write` while the count is odd, and leaves it even and new, but never 0. `count` is the writer's own copy
    /// of the count, which it never reads back: a guest may be able to write the page.
    ///
    /// There may be only one writer at a time; two would not be undefined behaviour, but their updates would mix.
    #[inline]
    pub fn write(&self, count: &mut u32, write: impl FnOnce()) {
        let store = |count, order| {
            self.store(count, order);
            Ok::<_, Infallible>(())
        };
        let Ok(()) = update(count, store, || {
            write();
            Ok(())
        });
    }

    #[inline]
    pub(super) fn store(&self, count: u32, order: Ordering) {
        self.0.store(count.to_le(), order);
    }
}

/// The count after the last odd one. Not 0: some readers, as ClockBound 3, take that for a page that nobody has written
/// yet. A function of its own, so that it is a branch that is never taken, not a longer way from each count to the
/// next.
#[cold]
const fn after_the_end() -> u32 {
    2
}

/// The writer's half of the protocol, wherever the count is: `store` stores it. What fails leaves the count in memory
/// odd, or all as it was, and `count` as it was.
#[inline(always)]
pub(super) fn update<E>(
    count: &mut u32,
    store: impl Fn(u32, Ordering) -> Result<(), E>,
    write: impl FnOnce() -> Result<(), E>,
) -> Result<(), E> {
    let odd = *count | 1;
    store(odd, Ordering::Relaxed)?;
    // Keeps the stores below behind the odd count.
    fence(Ordering::Release);
    write()?;
    let even = match odd.wrapping_add(1) {
        0 => after_the_end(),
        even => even,
    };
    // Keeps the stores above before the even count.
    store(even, Ordering::Release)?;
    *count = even;
    Ok(())
}

#[inline]
fn pause() {
    #[cfg(not(loom))]
    core::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
}
