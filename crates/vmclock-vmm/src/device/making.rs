// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! A device for a machine that boots, and for one that was saved.

use std::mem::offset_of;
use std::sync::atomic::Ordering;

use vmclock_core::abi::{ClockStatus, CounterId, Flags, Snapshot, TimeType};
use vmclock_core::lifecycle::{self, Calibrated, Incoming};
use vmclock_core::page::write_initial;

use super::{published_bounds, Bounds, Error, Events, Notified, Outcome, VmClockDevice};
use crate::lineage::Lineage;
use crate::memory::{is_length, Region, RegionError};
use crate::state::{Identities, State, StateError};
use crate::trigger::Trigger;

/// What a device is made with. All else is known from its memory and its trigger.
///
/// ```
/// use vmclock_vmm::device::Options;
/// use vmclock_vmm::vmclock_core::abi::CounterId;
/// let random = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344]; // of your system's randomness, really
/// let signals = Options::new(CounterId::NONE, random);
/// assert_ne!(signals.identities, Options::compatible().identities);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Options {
    /// The guest's counter; none for a device that only signals events. Later, only an incoming machine can gain one
    /// ([`State::with_counter`]).
    pub counter: CounterId,
    /// How markers and generations are made.
    pub identities: Identities,
}

impl Options {
    /// For a guest that is to get time, or with [`CounterId::NONE`] events only: on TAI, with markers and generations
    /// that cannot be guessed. `key`: random bits, from the system (`vmclock_vmm::fresh`, with the feature
    /// `getrandom`).
    pub const fn new(counter: CounterId, key: [u64; 2]) -> Self {
        Self { counter, identities: Identities::Unpredictable(Lineage::new(key)) }
    }

    /// As in Firecracker 1.15: no time, and markers and generations that count by one. Two machines restored from one
    /// image get the same values, so take this only where something depends on it.
    pub const fn compatible() -> Self {
        Self { counter: CounterId::NONE, identities: Identities::Counting }
    }
}

/// How a saved machine gets here.
///
/// | | disruption marker | generation | time without a calibration |
/// |---|---|---|---|
/// | `SameHost` | same | same | the saved one |
/// | `Clone` | same | new | the saved one |
/// | `Migration` | new | same | none |
/// | `Restore` | new | new | none |
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Arrival {
    /// The same machine, on the same host and with the same counter, in another process: the monitor was restarted or
    /// upgraded, or reboots the machine by making it anew. As with [`resume`](VmClockDevice::resume), a counter that
    /// was set back or stopped meanwhile takes a new calibration.
    SameHost,
    /// A clone of a machine that runs on this host, in a process of its own. The clone's counter has to be what the
    /// original's is; where it is not, that is `Restore`.
    Clone,
    /// From another host by live migration: it is the only one of its kind. The other host's leap status and
    /// maintenance notices are dropped.
    Migration,
    /// From a snapshot, a backup, an image: there may be others like it. What was saved of leap status and maintenance
    /// notices is dropped.
    Restore,
}

const SEQ_COUNT: u64 = offset_of!(Snapshot, seq_count) as u64;

fn region_len<M: Region>(memory: &M) -> Result<u32, Error> {
    let len = memory.region_len();
    let size = u32::try_from(len).ok().filter(|_| is_length(len));
    size.ok_or(Error::Region(RegionError::Length(len)))
}

/// The flags of a device with such a trigger.
const fn notification(flags: Flags, notifies: bool) -> Flags {
    if notifies {
        flags.with(Flags::NOTIFICATION_PRESENT)
    } else {
        flags.without(Flags::NOTIFICATION_PRESENT)
    }
}

/// A calibration on a page.
#[inline]
pub(super) fn put(page: &mut Snapshot, calibration: &Calibrated) -> Result<(), Error> {
    if page.counter_id == CounterId::NONE {
        return Err(Error::NoCounter);
    }
    calibration.put_on(page).ok_or(Error::BeforeEpoch)
}

/// A saved machine as it arrives: what its device begins with. Nothing of it is written yet.
struct Arrived {
    page: Snapshot,
    identities: Identities,
    published: Option<Bounds>,
}

impl Arrived {
    /// `memory` has the guest's, as it was loaded.
    fn new<M: Region>(
        memory: &M,
        notifies: bool,
        state: &State,
        arrival: Arrival,
        calibration: Option<&Calibrated>,
        fresh: [u64; 2],
    ) -> Result<Self, Error> {
        let (saved, mut identities) = state.open().map_err(Error::State)?;
        let size = region_len(memory)?;
        if saved.size != size {
            return Err(Error::State(StateError::Region { found: saved.size, memory: size }));
        }
        let mut page = saved.with(|page| page.flags = notification(saved.flags, notifies));
        if !matches!(identities, Identities::Counting) {
            // The memory may be newer than the state. The guest may have written it: it is a count, and no more.
            let in_memory =
                memory.load_u32(SEQ_COUNT, Ordering::Relaxed).map_err(|error| Error::Memory(error.into()))?;
            page.seq_count = lifecycle::unseen_after(lifecycle::later(saved.seq_count, in_memory));
        }
        // The saved page's bounds still hold, as long as its marker does.
        let status = match page.clock_status {
            ClockStatus::UNRELIABLE => ClockStatus::SYNCHRONIZED,
            status => status,
        };
        let published = published_bounds(&page.with(|page| page.clock_status = status));
        let mut marker = |page: &Snapshot| identities.next(page.disruption_marker, fresh[0]);
        match arrival {
            Arrival::SameHost => {}
            Arrival::Clone => {
                let generation = identities.next(page.vm_generation_counter, fresh[1]);
                lifecycle::cloned(&mut page, generation);
            }
            Arrival::Migration => {
                let marker = marker(&page);
                lifecycle::incoming(&mut page, Incoming::Migration, marker);
            }
            Arrival::Restore => {
                let marker = marker(&page);
                let generation = identities.next(page.vm_generation_counter, fresh[1]);
                lifecycle::incoming(&mut page, Incoming::SavedState(generation), marker);
            }
        }
        if let Some(calibration) = calibration {
            put(&mut page, calibration)?;
        }
        Ok(Self { page, identities, published })
    }
}

impl<M: Region, T: Trigger, E: Events> VmClockDevice<M, T, E> {
    /// A machine that boots. `fresh`, here and elsewhere: random bits, drawn now; 64 for the marker, and as many more
    /// for the generation. No interrupt is raised, as no guest runs yet.
    pub fn new(memory: M, trigger: T, events: E, options: Options, fresh: [u64; 2]) -> Result<Self, Error> {
        let size = region_len(&memory)?;
        let mut identities = options.identities;
        let is_compatible = matches!(identities, Identities::Counting);
        let page = Snapshot::BLANK.with(|page| {
            page.size = size;
            page.counter_id = options.counter;
            // Without a counter there is no time either, and then other monitors have 0 there.
            page.time_type = if options.counter == CounterId::NONE { TimeType::UTC } else { TimeType::TAI };
            page.clock_status = lifecycle::without_time(options.counter);
            page.flags = notification(Flags::VM_GEN_COUNTER_PRESENT, trigger.notifies());
            page.disruption_marker = if is_compatible { 0 } else { identities.next(0, fresh[0]) };
            page.vm_generation_counter = if is_compatible { 0 } else { identities.next(0, fresh[1]) };
        });
        let mut device = Self::unwritten(memory, trigger, events, &Arrived { page, identities, published: None });
        if is_compatible {
            // Firecracker's page begins with count 0, which no update leaves.
            write_initial(&device.memory, &device.page).map_err(|error| Error::Memory(error.into()))?;
            device.is_written = true;
        } else {
            device.publish_quietly()?;
        }
        Ok(device)
    }

    const fn unwritten(memory: M, trigger: T, events: E, arrived: &Arrived) -> Self {
        let Arrived { page, identities, published } = *arrived;
        let followed = None;
        Self { memory, trigger, events, page, identities, published, followed, is_written: false, is_notified: true }
    }

    /// A device for a machine that was saved and does not run yet, with the guest's memory as it was loaded. A new
    /// calibration is of the guest's counter here; without one the guest's time is what [`Arrival`] says.
    ///
    /// A guest that cannot be notified is no reason to have no device: the second value says whether it was.
    ///
    /// ```
    /// use vmclock_vmm::device::{Arrival, Options};
    /// use vmclock_vmm::memory::HostPage;
    /// use vmclock_vmm::state::State;
    /// use vmclock_vmm::vmclock_core::{abi::CounterId, page::Page};
    /// use vmclock_vmm::VmClockDevice;
    ///
    /// let page = || HostPage::new(Box::new(Page::new()), 0x1000);
    /// let device = VmClockDevice::new(page()?, (), (), Options::new(CounterId::X86_TSC, [1, 2]), [3, 4])?;
    /// let saved = device.save().to_bytes();
    ///
    /// let state = State::from_bytes(&saved)?;
    /// let (restored, notified) =
    ///     VmClockDevice::from_state(page()?, (), (), &state, Arrival::Restore, None, [5, 6])?;
    /// notified?;
    /// assert_ne!(restored.page().generation(), device.page().generation());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn from_state(
        memory: M,
        trigger: T,
        events: E,
        state: &State,
        arrival: Arrival,
        calibration: Option<&Calibrated>,
        fresh: [u64; 2],
    ) -> Result<(Self, Notified), Error> {
        let arrived = Arrived::new(&memory, trigger.notifies(), state, arrival, calibration, fresh)?;
        let mut device = Self::unwritten(memory, trigger, events, &arrived);
        device.publish_quietly()?;
        let notified = device.raise();
        Ok((device, notified))
    }

    /// [`from_state`](Self::from_state) in place, for a monitor that makes its devices first and loads their states
    /// then. The guest's memory has to be loaded before: it has the old page. What fails with another error than
    /// [`Error::Memory`] or [`Error::NotNotified`] leaves the device as it was.
    pub fn load(
        &mut self,
        state: &State,
        arrival: Arrival,
        calibration: Option<&Calibrated>,
        fresh: [u64; 2],
    ) -> Outcome {
        let notifies = self.trigger.notifies();
        let arrived = Arrived::new(&self.memory, notifies, state, arrival, calibration, fresh)?;
        let Arrived { page, identities, published } = arrived;
        (self.page, self.identities, self.published, self.followed) = (page, identities, published, None);
        self.publish()
    }
}
