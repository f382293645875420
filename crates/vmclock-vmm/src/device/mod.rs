// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! The device: the page, and the operation for each step of a machine's lifecycle.
//!
//! | operation | disruption marker | generation | time |
//! |---|---|---|---|
//! | [`new`](VmClockDevice::new), [`reset`](VmClockDevice::reset), [`resume`](VmClockDevice::resume) | same | same | kept, or refreshed |
//! | [`from_state`](VmClockDevice::from_state), [`load`](VmClockDevice::load) | see [`Arrival`] | | |
//! | [`clone_running`](VmClockDevice::clone_running) | same | new | kept |
//! | [`disrupt`](VmClockDevice::disrupt) | new | same | none, until calibrated |
//! | [`follow`](VmClockDevice::follow) | new where the host's is | same | the host's |

use std::sync::Arc;

use vmclock_core::abi::{ClockStatus, CounterId, Snapshot};
use vmclock_core::calibration::Calibration;
use vmclock_core::event::Maintenance;
use vmclock_core::guest_counter::GuestCounter;
use vmclock_core::lifecycle::{self, Calibrated, LeapStatus};

mod error;
mod events;
mod making;
mod update;

pub use error::{Error, NotNotified, Notified, Outcome};
pub use events::Events;
pub use making::{Arrival, Options};

use crate::memory::Region;
use crate::state::{Identities, State};
use crate::trigger::Trigger;

/// A VMClock. It has no thread and no policy: whoever runs the machine calls its operations. Each updates the page and
/// notifies the guest once, except those that are documented to change nothing.
///
/// It may be sent and shared between threads where its memory, trigger and events may; its operations take it mutably,
/// so a monitor with several threads keeps it in a mutex.
///
/// ```
/// use vmclock_vmm::device::Options;
/// use vmclock_vmm::memory::HostPage;
/// use vmclock_vmm::vmclock_core::{abi::CounterId, page::Page};
/// use vmclock_vmm::VmClockDevice;
///
/// let memory = HostPage::new(Box::new(Page::new()), 0x1000)?; // the mapping of the guest's page, really
/// let random = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344]; // of your system's randomness, really
/// let mut clock = VmClockDevice::new(memory, (), (), Options::new(CounterId::X86_TSC, random), [42, 43])?;
/// clock.disrupt(44)?;
/// assert_eq!(clock.page().seq_count, 4);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct VmClockDevice<M, T = Arc<dyn Trigger + Send + Sync>, E = ()> {
    memory: M,
    trigger: T,
    events: E,
    page: Snapshot,
    identities: Identities,
    /// The last calibration by which a guest could read the time, and the marker under which it was published.
    published: Option<Bounds>,
    /// What was followed last.
    followed: Option<Followed>,
    /// Whether `page` is in memory.
    is_written: bool,
    /// Whether the guest was notified of it.
    is_notified: bool,
}

/// The marker of the host's page, and the guest's counter; none where that may have been set since.
#[derive(Clone, Copy, Debug)]
struct Followed {
    marker: u64,
    counter: Option<GuestCounter>,
}

impl Followed {
    /// Whether the guest's counter is not what it was.
    fn is_disrupted(self, marker: u64, counter: &GuestCounter) -> bool {
        self.marker != marker || self.counter.is_some_and(|before| !before.may_be(counter))
    }
}

/// The marker and the calibration of a page that gave time.
type Bounds = (u64, Calibration);

#[inline]
fn published_bounds(page: &Snapshot) -> Option<Bounds> {
    let calibration = Calibration::from_snapshot(page, page.counter_id).ok()?;
    Some((page.disruption_marker, calibration))
}

impl<M: Region, T: Trigger, E: Events> VmClockDevice<M, T, E> {
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
    pub fn pause(&mut self) -> Outcome {
        self.retry()
    }

    /// The guest resumes, on this host. Marker and generation stay, as UAPI.13 has it.
    ///
    /// `None`: its counter continued as if nothing had happened, and the last calibration still holds; there is nothing
    /// to update. If the counter stopped meanwhile or was set, give a new calibration: then the page is right again,
    /// but a calibration that a guest kept from before is not. To have guests drop that, call
    /// [`disrupt`](Self::disrupt) before, and also where the new calibration is not known yet.
    pub fn resume(&mut self, calibration: Option<&Calibrated>) -> Outcome {
        self.forget_counter();
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
    pub fn reset(&mut self, calibration: Option<&Calibrated>) -> Outcome {
        self.forget_counter();
        match calibration {
            Some(calibration) => self.calibrate(calibration),
            None => self.publish(),
        }
    }

    /// The guest is about to go to another host, or into a file: what has to go with it.
    pub fn save(&self) -> State {
        State::of(&self.page, self.identities)
    }

    /// The machine was cloned while it runs, on this host: this is one of the two.
    pub fn clone_running(&mut self, fresh: u64) -> Outcome {
        let generation = self.identities.next(self.page.vm_generation_counter, fresh);
        lifecycle::cloned(&mut self.page, generation);
        self.publish()
    }

    /// The guest's counter was disrupted. It has no time until it is calibrated.
    pub fn disrupt(&mut self, fresh: u64) -> Outcome {
        self.forget_counter();
        let marker = self.identities.next(self.page.disruption_marker, fresh);
        lifecycle::disrupted(&mut self.page, marker);
        self.publish()
    }

    /// A disruption is announced, is nearer, or is cancelled.
    pub fn maintenance(&mut self, maintenance: Maintenance) -> Outcome {
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
    pub fn calibrate(&mut self, calibration: &Calibrated) -> Outcome {
        making::put(&mut self.page, calibration)?;
        self.publish()
    }

    /// All that the host's own page says, on this one: for a monitor, or thousands of them, whose host has one calibrated
    /// page (`vmclock serve`'s `/run/vmclock/page`). `host` is a snapshot of that; `counter` is the guest's as a
    /// function of the host's. Call it after each update of the host's page, and at least once a second.
    ///
    /// A new marker there is a new one here, made of `fresh`, as the counter of each guest was disrupted with the
    /// host's; and so is a counter that became another without [`resume`](Self::resume), [`reset`](Self::reset) or a
    /// [`disrupt`](Self::disrupt). Where the host has no time, the guest has none: the status is unreliable until it is back.
    ///
    /// [`Error::NoCounter`] where this device has no counter; nothing has changed then.
    pub fn follow(&mut self, host: &Snapshot, counter: &GuestCounter, fresh: u64) -> Outcome {
        if self.page.counter_id == CounterId::NONE {
            return Err(Error::NoCounter);
        }
        let marker = host.disruption_marker;
        let before = self.followed.replace(Followed { marker, counter: Some(*counter) });
        if before.is_some_and(|before| before.is_disrupted(marker, counter)) {
            let marker = self.identities.next(self.page.disruption_marker, fresh);
            lifecycle::disrupted(&mut self.page, marker);
        }
        let known = Calibrated::from_page(host, self.page.counter_id).ok();
        let put = known.and_then(|known| counter.calibrated(&known)?.put_on(&mut self.page));
        if put.is_none() {
            lifecycle::distrusted(&mut self.page);
        }
        self.publish()
    }

    /// The guest's counter may be another from now on, and that is known.
    const fn forget_counter(&mut self) {
        if let Some(followed) = &mut self.followed {
            followed.counter = None;
        }
    }

    /// The time is not to be trusted any more, though the counter was not disrupted: the host has lost its own clock.
    pub fn distrust(&mut self) -> Outcome {
        lifecycle::distrusted(&mut self.page);
        self.publish()
    }

    /// TAI-UTC and the leap indicator, both at the reference time that is on the page now: for what became known after
    /// the last calibration. Each calibration has its own.
    pub fn leap_status(&mut self, status: LeapStatus) -> Outcome {
        lifecycle::leap_status(&mut self.page, status);
        self.publish()
    }
}
