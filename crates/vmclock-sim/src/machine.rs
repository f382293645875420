// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine that publishes, and the page in memory that it writes.

use std::cell::RefCell;
use std::io;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::rc::Rc;

use vmclock_core::abi::{CounterId, Snapshot};
use vmclock_core::calibration::Period;
use vmclock_core::page::{Page, TakenOver, Writer};
use vmclock_core::tai::TaiOffset;
use vmclock_core::time::{Time, Utc};
use vmclock_host::continuity::Witness;
use vmclock_host::leap_seconds::{LeapSeconds, ListError};
use vmclock_host::page_file::{Found, PageFileError};
use vmclock_host::state::StateError;
use vmclock_host::world::{Host, PageSink, StateStore};

use crate::judge::COUNTER;
use crate::source::offset;
use crate::world::{Caretaker, World};

/// The machine.
#[derive(Debug)]
pub(crate) struct Machine(pub(crate) Rc<RefCell<World>>);

impl Host for Machine {
    fn counter(&self) -> u64 {
        self.0.borrow_mut().read_counter()
    }

    fn counter_id(&self) -> CounterId {
        COUNTER
    }

    fn nominal_period(&self) -> Option<Period> {
        Some(self.0.borrow_mut().nominal_period())
    }

    fn counter_is_trusted(&self) -> Option<bool> {
        Some(self.0.borrow().is_trusted())
    }

    fn witness(&self) -> Option<Witness> {
        let mut world = self.0.borrow_mut();
        world.kept.is_on.then(|| world.witness())
    }

    fn fresh_identity(&mut self) -> io::Result<u64> {
        Ok(self.0.borrow_mut().fresh_identity())
    }

    fn utc(&self) -> Time<Utc> {
        let world = self.0.borrow();
        Time::from_nanos(world.calendar.posix(world.now)).unwrap_or(Time::from_raw(0))
    }

    fn kernel_tai_offset(&self) -> Option<TaiOffset> {
        let world = self.0.borrow();
        world.kernel_offset(world.now).and_then(offset)
    }

    fn leap_seconds(&self) -> Result<LeapSeconds, ListError> {
        self.0.borrow().leap_seconds()
    }
}

/// Where the machine keeps what publishers know.
#[derive(Debug)]
pub(crate) struct KeptState(pub(crate) Rc<RefCell<World>>);

impl StateStore for KeptState {
    fn load(&mut self) -> Result<Option<Vec<u8>>, StateError> {
        Ok(self.0.borrow().kept.state.as_ref().map(|(bytes, _)| bytes.clone()))
    }

    fn save(&mut self, state: &[u8]) -> Result<(), StateError> {
        let mut world = self.0.borrow_mut();
        if world.caretaker != Caretaker::Killed {
            world.kept.state = Some((state.to_vec(), world.now));
            world.kept.saves += 1;
            world.kept.was_trusted = world.is_trusted();
        }
        if world.caretaker == Caretaker::Saving {
            world.caretaker = Caretaker::Killed;
        }
        Ok(())
    }

    fn remove(&mut self) -> Result<(), StateError> {
        self.0.borrow_mut().kept.state = None;
        Ok(())
    }
}

/// The page in memory, through the real writer. The world sees every update: what readers get at the last moment before
/// it, and at the first one after it.
#[derive(Debug)]
pub(crate) struct MemoryPage {
    world: Rc<RefCell<World>>,
    writer: Writer<Rc<Page>>,
}

impl MemoryPage {
    /// The page, as a publisher finds it: a new one with these contents, or what another publisher left.
    pub(crate) fn open(world: &Rc<RefCell<World>>, blank: Snapshot) -> (Self, Found) {
        let page = || Rc::clone(&world.borrow().page);
        let own = |writer| Self { world: Rc::clone(world), writer };
        match Writer::take_over(page(), 4096) {
            Ok((TakenOver::Static, writer)) => {
                let last = *writer.contents();
                (own(writer), Found::AtRest(last))
            }
            Ok((TakenOver::Interrupted, writer)) => {
                let last = *writer.contents();
                (own(writer), Found::Interrupted(last))
            }
            Err(_) => {
                let writer = Writer::create(page(), blank);
                world.borrow_mut().after_update();
                (own(writer), Found::New)
            }
        }
    }

    fn write(&mut self, write: impl FnOnce(&mut Writer<Rc<Page>>)) {
        self.world.borrow_mut().before_update();
        write(&mut self.writer);
        self.world.borrow_mut().after_update();
    }

    /// The publisher is killed while the sequence count is odd: what follows is never written.
    fn is_killed(&mut self) -> bool {
        let caretaker = self.world.borrow().caretaker;
        if caretaker == Caretaker::Doomed {
            self.world.borrow_mut().caretaker = Caretaker::Killed;
            self.world.borrow_mut().before_update();
            let writer = &mut self.writer;
            // Unwinds out of the update without a message, as nothing went wrong here.
            let _ = catch_unwind(AssertUnwindSafe(|| writer.update_observed(|_| (), || resume_unwind(Box::new(())))));
            self.world.borrow_mut().after_update();
            return true;
        }
        caretaker == Caretaker::Killed
    }
}

impl PageSink for MemoryPage {
    fn contents(&self) -> &Snapshot {
        self.writer.contents()
    }

    fn update(&mut self, change: &mut dyn FnMut(&mut Snapshot)) -> Result<(), PageFileError> {
        if !self.is_killed() {
            self.write(|writer| writer.update(change));
        }
        Ok(())
    }

    fn update_late(&mut self, change: &mut dyn FnMut(&mut Snapshot)) -> Result<(), PageFileError> {
        if !self.is_killed() {
            self.write(|writer| writer.update_late(change));
        }
        Ok(())
    }

    fn continue_after(&mut self, seq_count: u32) {
        self.writer.continue_after(seq_count);
    }

    fn give_up(&mut self) {
        if !self.is_killed() {
            self.write(|writer| writer.update(vmclock_core::lifecycle::distrusted));
        }
    }
}
