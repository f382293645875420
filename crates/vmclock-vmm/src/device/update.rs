// SPDX-License-Identifier: MIT OR Apache-2.0
//! One update of the page and one interrupt, and what is left of them where one fails.

use vmclock_core::page::publish;

use super::{published_bounds, Device, Error, Events, Outcome};
use crate::memory::Region;
use crate::trigger::Trigger;

impl<M: Region, T: Trigger, E: Events> Device<M, T, E> {
    /// Raises the interrupt without an update: for a monitor that loads its interrupt controller's state after it made
    /// the device by [`restore`](Self::restore) or [`migrate_in`](Self::migrate_in). Those raise it too, but what is
    /// loaded then overwrites that, and a guest that sleeps until it is notified would miss the event.
    pub fn notify(&mut self) -> Outcome<M, T> {
        if self.is_written {
            self.raise()
        } else {
            self.publish()
        }
    }

    /// Whether the last operation has to be [retried](Self::retry).
    pub const fn is_behind(&self) -> bool {
        !(self.is_written && self.is_notified)
    }

    /// Does what is left of operations that failed.
    pub fn retry(&mut self) -> Outcome<M, T> {
        match (self.is_written, self.is_notified) {
            (false, _) => self.publish(),
            (true, false) => self.raise(),
            (true, true) => Ok(()),
        }
    }

    pub(super) fn publish(&mut self) -> Outcome<M, T> {
        self.publish_quietly()?;
        self.raise()
    }

    /// An update without an interrupt. What fails leaves the sequence count odd, or all as it was.
    pub(super) fn publish_quietly(&mut self) -> Outcome<M, T> {
        self.is_written = false;
        if let Err(error) = publish(&self.memory, &mut self.page) {
            self.events.failed();
            return Err(Error::Memory(error));
        }
        self.is_written = true;
        self.published = published_bounds(&self.page).or(self.published);
        self.events.updated(&self.page);
        Ok(())
    }

    fn raise(&mut self) -> Outcome<M, T> {
        self.is_notified = !T::NOTIFIES;
        if self.is_notified {
            return Ok(());
        }
        match self.trigger.trigger() {
            Ok(()) => {
                self.is_notified = true;
                Ok(())
            }
            Err(error) => {
                self.events.failed();
                Err(Error::Trigger(error))
            }
        }
    }
}
