// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a publisher needs of the machine that it runs on, and where its page is: real ones and simulated ones.

use std::io;

use vmclock_core::abi::{CounterId, Snapshot};
use vmclock_core::calibration::Period;
use vmclock_core::tai::TaiOffset;
use vmclock_core::time::{Time, Utc};

use crate::continuity::Witness;
use crate::leap_seconds::{LeapSeconds, ListError};
use crate::page_file::PageFileError;
use crate::state::StateError;

/// The machine that publishes.
pub trait Host {
    /// This CPU's counter, ordered after what was done before.
    fn counter(&self) -> u64;

    /// The counter's name in the ABI.
    fn counter_id(&self) -> CounterId;

    /// The counter's period before anything was measured, good to [`Settings::nominal_error`]. Takes some milliseconds.
    /// `None` where it cannot be known: the counter is stopped.
    ///
    /// [`Settings::nominal_error`]: crate::estimator::Settings::nominal_error
    fn nominal_period(&self) -> Option<Period>;

    /// Whether the kernel trusts the counter to keep time. `None` where that is unknown.
    fn counter_is_trusted(&self) -> Option<bool>;

    /// What tells later whether the counter went on since now. `None` where this machine cannot tell.
    fn witness(&self) -> Option<Witness> {
        None
    }

    /// A value for a marker or a generation that was never used before, and is not 0.
    fn fresh_identity(&mut self) -> io::Result<u64>;

    /// The time of day, as good as it may be: to look up what a list says of it.
    fn utc(&self) -> Time<Utc>;

    /// TAI-UTC, where the kernel was told.
    fn kernel_tai_offset(&self) -> Option<TaiOffset>;

    /// The system's list of leap seconds.
    fn leap_seconds(&self) -> Result<LeapSeconds, ListError>;
}

/// Where a publisher keeps what it knows, for the process that comes after it.
pub trait StateStore {
    /// What was saved last, if anything was.
    fn load(&mut self) -> Result<Option<Vec<u8>>, StateError>;

    /// Replaces it, at once or not at all.
    fn save(&mut self, state: &[u8]) -> Result<(), StateError>;

    /// Removes it, as it is not true any more.
    fn remove(&mut self) -> Result<(), StateError>;
}

/// A page that one publisher writes.
pub trait PageSink {
    /// What the page says.
    fn contents(&self) -> &Snapshot;

    /// Whether the page is still there for readers, under its name. Asked each round.
    fn check(&mut self) -> Result<(), PageFileError> {
        Ok(())
    }

    /// Changes the page in one update of the sequence count.
    fn update(&mut self, change: &mut dyn FnMut(&mut Snapshot)) -> Result<(), PageFileError>;

    /// The same, but `change` runs while the sequence count is odd: for what depends on the moment at which readers
    /// lost the old contents.
    fn update_late(&mut self, change: &mut dyn FnMut(&mut Snapshot)) -> Result<(), PageFileError>;

    /// Lets the next update continue behind this sequence count.
    fn continue_after(&mut self, seq_count: u32);

    /// Marks the page unreliable for whoever has it mapped, whatever became of its name.
    fn give_up(&mut self);
}
