// SPDX-License-Identifier: MIT OR Apache-2.0
//! A clock read between two readings of the counter.

use vmclock_core::time::{Tai, Time};

/// A clock's time, and the counter before and after it was read: at some counter value between the two, the clock
/// showed this time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    /// The counter before.
    pub before: u64,
    /// The counter after.
    pub after: u64,
    /// The clock's time, in TAI.
    pub time: Time<Tai>,
}

impl Sample {
    /// The time between the two counter readings, in ticks.
    pub const fn width(&self) -> u64 {
        self.after.wrapping_sub(self.before)
    }

    /// The counter half way.
    pub const fn middle(&self) -> u64 {
        self.before.wrapping_add(self.width() / 2)
    }

    /// The narrowest of `count` samples. A reader that is interrupted gets a wide one, and never a wrong one.
    pub fn narrowest(count: usize, mut take: impl FnMut() -> Self) -> Self {
        let first = take();
        (1..count).map(|_| take()).fold(first, |best, next| if next.width() < best.width() { next } else { best })
    }
}
