// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device for a machine that boots, and for one that was saved.

use std::mem::offset_of;
use std::sync::atomic::Ordering;

use vmclock_core::abi::{ClockStatus, CounterId, Flags, Snapshot, TimeType};
use vmclock_core::lifecycle::{self, Calibrated, Incoming};
use vmclock_core::page::write_initial;

use super::{published_bounds, Device, Error, Events};
use crate::lineage::Lineage;
use crate::memory::{is_length, Region, RegionError};
use crate::state::{Identities, State, StateError};
use crate::trigger::Trigger;

/// What a device is made with. All else is known from its memory and its trigger.
///
/// ```
/// use vmclock_core::abi::CounterId;
/// use vmclock_vmm::device::Options;
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
    /// that cannot be guessed. `key`: random bits, from the system.
    pub const fn new(counter: CounterId, key: [u64; 2]) -> Self {
        Self { counter, identities: Identities::Unpredictable(Lineage::new(key)) }
    }

    /// As in Firecracker 1.15: no time, and markers and generations that count by one. Two machines restored from one
    /// image get the same values, so take this only where something depends on it.
    pub const fn compatible() -> Self {
        Self { counter: CounterId::NONE, identities: Identities::Counting }
    }
}

const SEQ_COUNT: u64 = offset_of!(Snapshot, seq_count) as u64;

fn region_len<M: Region, T>(memory: &M) -> Result<u32, Error<M::Error, T>> {
    let len = memory.region_len();
    let size = u32::try_from(len).ok().filter(|_| is_length(len));
    size.ok_or(Error::Region(RegionError::Length(len)))
}

/// The flags of a device with such a trigger.
const fn notification<T: Trigger>(flags: Flags) -> Flags {
    if T::NOTIFIES {
        flags.with(Flags::NOTIFICATION_PRESENT)
    } else {
        flags.without(Flags::NOTIFICATION_PRESENT)
    }
}

impl<M: Region, T: Trigger, E: Events> Device<M, T, E> {
    /// A machine that boots. `fresh`, here and elsewhere: random bits, drawn now; 64 for the marker, and as many more
    /// for the generation where that is new too.
    pub fn new(
        memory: M,
        trigger: T,
        events: E,
        options: Options,
        fresh: [u64; 2],
    ) -> Result<Self, Error<M::Error, T::Error>> {
        let size = region_len(&memory)?;
        let mut identities = options.identities;
        let is_compatible = matches!(identities, Identities::Counting);
        let page = Snapshot::BLANK.with(|page| {
            page.size = size;
            page.counter_id = options.counter;
            // Without a counter there is no time either, and then other monitors have 0 there.
            page.time_type = if options.counter == CounterId::NONE { TimeType::UTC } else { TimeType::TAI };
            page.clock_status = lifecycle::without_time(options.counter);
            page.flags = notification::<T>(Flags::VM_GEN_COUNTER_PRESENT);
            page.disruption_marker = if is_compatible { 0 } else { identities.next(0, fresh[0]) };
            page.vm_generation_counter = if is_compatible { 0 } else { identities.next(0, fresh[1]) };
        });
        let mut device = Self::unwritten(memory, trigger, events, page, identities);
        if is_compatible {
            // Firecracker's page begins with count 0, which no update leaves.
            write_initial(&device.memory, &device.page).map_err(Error::Memory)?;
            device.is_written = true;
        } else {
            device.publish_quietly()?;
        }
        Ok(device)
    }

    const fn unwritten(memory: M, trigger: T, events: E, page: Snapshot, identities: Identities) -> Self {
        Self { memory, trigger, events, page, identities, published: None, is_written: false, is_notified: true }
    }

    /// The same machine, on the same host and with the same counter, in another process: the monitor was restarted or
    /// upgraded, or reboots the machine by making it anew. Marker and generation stay; without a calibration the saved
    /// one does, too.
    ///
    /// As with [`resume`](Self::resume), a counter that was set back or stopped meanwhile takes a new calibration.
    pub fn resume_in(
        memory: M,
        trigger: T,
        events: E,
        state: &State,
        calibration: Option<&Calibrated>,
    ) -> Result<Self, Error<M::Error, T::Error>> {
        Self::take_up(memory, trigger, events, state)?.begin(calibration)
    }

    /// A clone of a machine that runs on this host, in a process of its own: [`clone_running`](Self::clone_running) for
    /// one whose device has to be made. The generation is new. Marker and calibration stay, so the clone's counter has
    /// to be what the original's is.
    pub fn clone_in(
        memory: M,
        trigger: T,
        events: E,
        state: &State,
        fresh: u64,
    ) -> Result<Self, Error<M::Error, T::Error>> {
        let mut device = Self::take_up(memory, trigger, events, state)?;
        let generation = device.identities.next(device.page.vm_generation_counter, fresh);
        lifecycle::cloned(&mut device.page, generation);
        device.begin(None)
    }

    /// A guest is incoming from another host, and does not run yet. Without a calibration it has no time until there is
    /// one; the other host's leap status and maintenance notices are dropped either way.
    pub fn migrate_in(
        memory: M,
        trigger: T,
        events: E,
        state: &State,
        calibration: Option<&Calibrated>,
        fresh: u64,
    ) -> Result<Self, Error<M::Error, T::Error>> {
        let mut device = Self::take_up(memory, trigger, events, state)?;
        let marker = device.identities.next(device.page.disruption_marker, fresh);
        lifecycle::incoming(&mut device.page, Incoming::Migration, marker);
        device.begin(calibration)
    }

    /// A guest is loaded from saved state, and does not run yet. Without a calibration it has no time until there is
    /// one; the saved leap status and maintenance notices are dropped either way.
    pub fn restore(
        memory: M,
        trigger: T,
        events: E,
        state: &State,
        calibration: Option<&Calibrated>,
        fresh: [u64; 2],
    ) -> Result<Self, Error<M::Error, T::Error>> {
        let mut device = Self::take_up(memory, trigger, events, state)?;
        let marker = device.identities.next(device.page.disruption_marker, fresh[0]);
        let generation = device.identities.next(device.page.vm_generation_counter, fresh[1]);
        lifecycle::incoming(&mut device.page, Incoming::SavedState(generation), marker);
        device.begin(calibration)
    }

    /// The saved page, for this memory, to which nothing is written yet.
    fn take_up(memory: M, trigger: T, events: E, state: &State) -> Result<Self, Error<M::Error, T::Error>> {
        let (saved, identities) = state.open().map_err(Error::State)?;
        let size = region_len(&memory)?;
        if saved.size != size {
            return Err(Error::State(StateError::Region { found: saved.size, memory: size }));
        }
        let mut page = saved.with(|page| page.flags = notification::<T>(saved.flags));
        if !matches!(identities, Identities::Counting) {
            // The memory may be newer than the state. The guest may have written it: it is a count, and no more.
            let in_memory = memory.load_u32(SEQ_COUNT, Ordering::Relaxed).map_err(Error::Memory)?;
            page.seq_count = lifecycle::unseen_after(lifecycle::later(saved.seq_count, in_memory));
        }
        let mut device = Self::unwritten(memory, trigger, events, page, identities);
        // The saved page's bounds still hold, as long as its marker does.
        let status = match page.clock_status {
            ClockStatus::UNRELIABLE => ClockStatus::SYNCHRONIZED,
            status => status,
        };
        device.published = published_bounds(&page.with(|page| page.clock_status = status));
        Ok(device)
    }

    /// The first page. A guest that cannot be notified of it is no reason to have no device.
    fn begin(mut self, calibration: Option<&Calibrated>) -> Result<Self, Error<M::Error, T::Error>> {
        let outcome = match calibration {
            Some(calibration) => self.calibrate(calibration),
            None => self.publish(),
        };
        match outcome {
            Ok(()) | Err(Error::Trigger(_)) => Ok(self),
            Err(error) => Err(error),
        }
    }
}
