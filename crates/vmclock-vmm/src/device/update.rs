// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! One update of the page and one interrupt, and what is left of them where one fails.

use vmclock_core::page::publish;

use super::{published_bounds, Error, Events, NotNotified, Notified, Outcome, VmClockDevice};
use crate::memory::Region;
use crate::trigger::Trigger;

impl<M: Region, T: Trigger, E: Events> VmClockDevice<M, T, E> {
    /// Raises the interrupt without an update: for a monitor that loads its interrupt controller's state after it made
    /// the device by [`from_state`](Self::from_state) or [`load`](Self::load). Those raise it too, but what is loaded
    /// then overwrites that, and a guest that sleeps until it is notified would miss the event.
    pub fn notify(&mut self) -> Outcome {
        if self.is_written {
            Ok(self.raise()?)
        } else {
            self.publish()
        }
    }

    /// Whether the last operation has to be [retried](Self::retry).
    pub const fn is_behind(&self) -> bool {
        !(self.is_written && self.is_notified)
    }

    /// Does what is left of operations that failed.
    pub fn retry(&mut self) -> Outcome {
        match (self.is_written, self.is_notified) {
            (false, _) => self.publish(),
            (true, false) => Ok(self.raise()?),
            (true, true) => Ok(()),
        }
    }

    pub(super) fn publish(&mut self) -> Outcome {
        self.publish_quietly()?;
        Ok(self.raise()?)
    }

    /// An update without an interrupt. What fails leaves the sequence count odd, or all as it was.
    pub(super) fn publish_quietly(&mut self) -> Outcome {
        self.is_written = false;
        if let Err(error) = publish(&self.memory, &mut self.page) {
            self.events.failed();
            return Err(Error::Memory(error.into()));
        }
        self.is_written = true;
        self.published = published_bounds(&self.page).or(self.published);
        self.events.updated(&self.page);
        Ok(())
    }

    pub(super) fn raise(&mut self) -> Notified {
        self.is_notified = !self.trigger.notifies();
        if self.is_notified {
            return Ok(());
        }
        match self.trigger.trigger() {
            Ok(()) => {
                self.is_notified = true;
                Ok(())
            }
            Err(cause) => {
                self.events.failed();
                Err(NotNotified(cause))
            }
        }
    }
}
