// SPDX-License-Identifier: MIT OR Apache-2.0
//! The device: the page, and the operation for each step of a machine's lifecycle.
//!
//! | operation | disruption marker | generation | time |
//! |---|---|---|---|
//! | [`new`](Device::new), [`reset`](Device::reset), [`resume`](Device::resume) | same | same | kept, or refreshed |
//! | [`resume_in`](Device::resume_in) | same | same | kept, or refreshed |
//! | [`migrate_in`](Device::migrate_in) | new | same | this host's |
//! | [`restore`](Device::restore) | new | new | this host's |
//! | [`clone_running`](Device::clone_running), [`clone_in`](Device::clone_in) | same | new | kept |
//! | [`disrupt`](Device::disrupt) | new | same | none, until calibrated |

use vmclock_core::abi::{ClockStatus, CounterId, Snapshot};
use vmclock_core::calibration::Calibration;
use vmclock_core::event::Maintenance;
use vmclock_core::lifecycle::{self, Calibrated, LeapStatus};

mod error;
mod events;
mod making;
mod update;

pub use error::{Error, Outcome};
pub use events::Events;
pub use making::Options;

use crate::memory::Region;
use crate::state::{Identities, State};
use crate::trigger::Trigger;

/// A VMClock. It has no thread and no policy: whoever runs the machine calls its operations. Each updates the page and
/// notifies the guest once, except those that are documented to change nothing.
///
/// ```
/// use vm_memory::{GuestAddress, GuestMemoryMmap};
/// use vmclock_core::abi::CounterId;
/// use vmclock_vmm::device::{Device, Options};
/// use vmclock_vmm::memory::GuestRegion;
/// use vmclock_vmm::trigger::EventFd;
/// use vmm_sys_util::eventfd::EFD_NONBLOCK;
///
/// let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 1 << 20)])?;
/// let region = GuestRegion::new(&memory, GuestAddress(0xff000), 0x1000)?;
/// let interrupt = EventFd::new(EFD_NONBLOCK)?; // for register_irqfd
/// let random = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344]; // of your system's randomness, really
/// let mut clock = Device::new(region, interrupt, (), Options::new(CounterId::X86_TSC, random), [42, 43])?;
/// clock.disrupt(44)?;
/// assert_eq!(clock.page().seq_count, 4);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Device<M, T, E = ()> {
    memory: M,
    trigger: T,
    events: E,
    page: Snapshot,
    identities: Identities,
    /// The last calibration by which a guest could read the time, and the marker under which it was published.
    published: Option<(u64, Calibration)>,
    /// Whether `page` is in memory.
    is_written: bool,
    /// Whether the guest was notified of it.
    is_notified: bool,
}

/// The marker and the calibration of a page that gives time.
#[inline]
fn published_bounds(page: &Snapshot) -> Option<(u64, Calibration)> {
    let calibration = Calibration::from_snapshot(page, page.counter_id).ok()?;
    Some((page.disruption_marker, calibration))
}

impl<M: Region, T: Trigger, E: Events> Device<M, T, E> {
    /// The page's contents, or what they will be as soon as they can be written.
    pub const fn page(&self) -> &Snapshot {
        &self.page
    }

    /// Where the page is.
    pub const fn memory(&self) -> &M {
        &self.memory
    }

    /// What raises the interrupt.
    pub const fn trigger(&self) -> &T {
        &self.trigger
    }

    /// What observes the updates.
    pub const fn events(&self) -> &E {
        &self.events
    }

    /// The guest is paused. Nothing changes, and nothing is written unless something was left to do: what changed in
    /// the pause is [`resume`](Self::resume)'s to publish.
    pub fn pause(&mut self) -> Outcome<M, T> {
        self.retry()
    }

    /// The guest resumes, on this host. Marker and generation stay, as UAPI.13 has it.
    ///
    /// `None`: its counter continued as if nothing had happened, and the last calibration still holds; there is nothing
    /// to update. If the counter stopped meanwhile or was set, give a new calibration: then the page is right again,
    /// but a calibration that a guest kept from before is not. To have guests drop that, call
    /// [`disrupt`](Self::disrupt) before, and also where the new calibration is not known yet.
    pub fn resume(&mut self, calibration: Option<&Calibrated>) -> Outcome<M, T> {
        match calibration {
            Some(calibration) => self.calibrate(calibration),
            None => self.retry(),
        }
    }

    /// The guest boots anew. Marker and generation stay, as UAPI.13 has it, and the page is written again, as the guest
    /// may have been able to.
    ///
    /// `None`: its counter continues, and the last calibration still holds. If it is set back, as by a monitor that
    /// resets the vCPUs with it, or stopped, give a new calibration, or [`disrupt`](Self::disrupt), as with
    /// [`resume`](Self::resume).
    pub fn reset(&mut self, calibration: Option<&Calibrated>) -> Outcome<M, T> {
        match calibration {
            Some(calibration) => self.calibrate(calibration),
            None => self.publish(),
        }
    }

    /// The guest is about to go to another host, or into a file: what has to go with it.
    pub fn save(&self) -> State {
        State::of(&self.page, self.identities)
    }

    /// [`save`](Self::save), by the name of the step.
    pub fn migrate_out(&self) -> State {
        self.save()
    }

    /// The machine was cloned while it runs, on this host: this is one of the two.
    pub fn clone_running(&mut self, fresh: u64) -> Outcome<M, T> {
        let generation = self.identities.next(self.page.vm_generation_counter, fresh);
        lifecycle::cloned(&mut self.page, generation);
        self.publish()
    }

    /// The guest's counter was disrupted. It has no time until it is calibrated.
    pub fn disrupt(&mut self, fresh: u64) -> Outcome<M, T> {
        let marker = self.identities.next(self.page.disruption_marker, fresh);
        lifecycle::disrupted(&mut self.page, marker);
        self.publish()
    }

    /// A disruption is announced, is nearer, or is cancelled.
    pub fn maintenance(&mut self, maintenance: Maintenance) -> Outcome<M, T> {
        lifecycle::announced(&mut self.page, maintenance);
        self.publish()
    }

    /// Whether a calibration is consistent with the bounds of the last page that gave time under this marker: for every
    /// counter value from that page's reference to `now` (the guest's counter about when the calibration will be on the
    /// page) its time is inside the bounds that a guest could read there. If it is not, the counter was disrupted or
    /// the host's clock was stepped: call [`disrupt`](Self::disrupt) before [`calibrate`](Self::calibrate).
    ///
    /// The bounds outlive [`distrust`](Self::distrust) and pauses; only a new marker ends them. Where there are none,
    /// every calibration is consistent. They are those of the last page alone: from page to page the time of an old
    /// counter value can move, and UAPI.13 wants bounds that hold for *any* earlier one. For that the calibrations have
    /// to come from an estimator that remembers all bounds that were published, as `vmclock-host`'s does.
    pub fn is_consistent(&self, calibration: &Calibrated, now: u64) -> bool {
        let Some((_, old)) = self.published.filter(|(marker, _)| *marker == self.page.disruption_marker) else {
            return true;
        };
        let mut next = self.page;
        let Some(()) = calibration.put_on(&mut next) else { return false };
        // Counter and time are judged, whatever the status is.
        next.clock_status = ClockStatus::SYNCHRONIZED;
        let Ok(new) = Calibration::from_snapshot(&next, next.counter_id) else { return false };
        // Both are straight lines, and the bound is one on each side of its reference: if it holds at two points, it
        // does between.
        [old.reference_counter(), new.reference_counter(), now].into_iter().all(|counter| {
            let (Ok(interval), Ok(time)) = (old.interval_at(counter), new.time_at(counter)) else { return false };
            interval.is_none_or(|interval| {
                interval.earliest.nanos() <= time.floor_nanos() && time.ceil_nanos() <= interval.latest.nanos()
            })
        })
    }

    /// The time by the guest's counter, its status, and the leap status: all in one update, as they hold at one
    /// reference time.
    pub fn calibrate(&mut self, calibration: &Calibrated) -> Outcome<M, T> {
        if self.page.counter_id == CounterId::NONE {
            return Err(Error::NoTime(
                "the device was made without a counter; State::with_counter gives an incoming one a counter",
            ));
        }
        calibration.put_on(&mut self.page).ok_or(Error::NoTime("it is before 1970"))?;
        self.publish()
    }

    /// The time is not to be trusted any more, though the counter was not disrupted: the host has lost its own clock.
    pub fn distrust(&mut self) -> Outcome<M, T> {
        lifecycle::distrusted(&mut self.page);
        self.publish()
    }

    /// TAI-UTC and the leap indicator, both at the reference time that is on the page now: for what became known after
    /// the last calibration. Each calibration has its own.
    pub fn leap_status(&mut self, status: LeapStatus) -> Outcome<M, T> {
        lifecycle::leap_status(&mut self.page, status);
        self.publish()
    }
}
