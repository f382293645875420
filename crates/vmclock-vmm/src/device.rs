// SPDX-License-Identifier: MIT OR Apache-2.0
//! The device: what is on the page, and what each step of a machine's life does to it.
//!
//! | operation | disruption marker | generation | time |
//! |---|---|---|---|
//! | [`new`](Device::new), [`reset`](Device::reset), [`resume`](Device::resume) | same | same | kept, or refreshed |
//! | [`resume_in`](Device::resume_in) | same | same | kept, or refreshed |
//! | [`migrate_in`](Device::migrate_in) | new | same | this host's |
//! | [`restore`](Device::restore) | new | new | this host's |
//! | [`clone_running`](Device::clone_running), [`clone_in`](Device::clone_in) | same | new | kept |
//! | [`disrupt`](Device::disrupt) | new | same | none, until calibrated |

use std::error::Error as StdError;
use std::fmt;
use std::mem::offset_of;
use std::sync::atomic::Ordering;

#[cfg(loom)]
use loom::sync::atomic::fence;
#[cfg(not(loom))]
use std::sync::atomic::fence;

use vmclock_core::abi::{ClockStatus, CounterId, Flags, LeapIndicator, Snapshot, TimeType, Words};
use vmclock_core::calibration::{self as page, Period};
use vmclock_core::event::Maintenance;
use vmclock_core::time::{Tai, Time};

use crate::lifecycle::{self, Came};
use crate::lineage::Lineage;
use crate::memory::{is_length, PageMemory, RegionError};
use crate::state::{Identities, State, StateError};
use crate::trigger::Trigger;

const SEQUENCE: u64 = offset_of!(Snapshot, seq_count) as u64;
/// From here on the page is of words of eight bytes.
const CHANGING: u64 = offset_of!(Snapshot, disruption_marker) as u64;

/// What a device is made with. All else is known from its memory and its trigger.
///
/// ```
/// use vmclock_core::abi::CounterId;
/// use vmclock_vmm::device::Options;
/// let random = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344]; // of your system's randomness, really
/// let signals = Options { counter: CounterId::NONE, ..Options::new(CounterId::X86_TSC, random) };
/// assert_ne!(signals.identities, Options::compatible().identities);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// The guest's counter; none for a device that only signals events. Later, only a machine that arrives somewhere
    /// can gain one ([`State::with_counter`]).
    pub counter: CounterId,
    /// How markers and generations are made.
    pub identities: Identities,
}

impl Options {
    /// For a guest that is to get time: on TAI, with markers and generations that nobody can guess. `key`: random bits,
    /// from the system.
    pub const fn new(counter: CounterId, key: [u64; 2]) -> Self {
        Self { counter, identities: Identities::Unpredictable(Lineage::new(key)) }
    }

    /// As Firecracker 1.15 does it: no time, and markers and generations that count by one. Two machines restored from
    /// one image get the same values, so take this only where something depends on it.
    pub const fn compatible() -> Self {
        Self { counter: CounterId::NONE, identities: Identities::Counting }
    }
}

/// The guest's counter and the time, with how far off they may be, and what goes with that time to make UTC of it.
///
/// ```
/// use vmclock_core::abi::{ClockStatus, LeapIndicator};
/// use vmclock_core::calibration::Period;
/// use vmclock_core::time::Time;
/// use vmclock_vmm::device::Calibration;
///
/// let calibration = Calibration {
///     counter: 5_000_000_000,
///     time: Time::from_parts(1_800_000_000, 0),
///     period: Period::from_frequency(2_500_000_000.try_into()?),
///     time_max_error: 500,
///     time_estimated_error: 50,
///     period_max_error: 15_000_000, // 15 ppm
///     period_estimated_error: 10_000,
///     status: ClockStatus::SYNCHRONIZED,
///     utc_minus_tai: Some(-37),
///     leap_indicator: LeapIndicator::NONE,
/// };
/// assert_eq!(calibration.offset_by(7).counter, 5_000_000_007);
/// # Ok::<(), std::num::TryFromIntError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Calibration {
    /// The guest's counter at the reference time.
    pub counter: u64,
    /// The reference time, in TAI.
    pub time: Time<Tai>,
    /// Seconds per tick of the guest's counter.
    pub period: Period,
    /// How far off the reference time may be, in ± nanoseconds.
    pub time_max_error: u64,
    /// How far off it is thought to be, in ± nanoseconds.
    pub time_estimated_error: u64,
    /// How far off the period may be, in parts per 10^12.
    pub period_max_error: u64,
    /// How far off it is thought to be, in parts per 10^12.
    pub period_estimated_error: u64,
    /// Synchronized or free-running; with any other the page gives no time.
    pub status: ClockStatus,
    /// UTC - TAI in seconds at the reference time: -37 since 2017. `None` where it is not known; then a guest has no
    /// UTC.
    pub utc_minus_tai: Option<i16>,
    /// Where the reference time stands relative to a leap second.
    pub leap_indicator: LeapIndicator,
}

impl Calibration {
    /// Writes all of it to what a page is to say. `None` if the time is before 1970; then nothing is written.
    pub fn put_on(&self, page: &mut Snapshot) -> Option<()> {
        page.time_sec = u64::try_from(self.time.seconds()).ok()?;
        page.clock_status = self.status;
        page.flags = page
            .flags
            .with(Flags::PERIOD_ESTERROR_VALID)
            .with(Flags::PERIOD_MAXERROR_VALID)
            .with(Flags::TIME_ESTERROR_VALID)
            .with(Flags::TIME_MAXERROR_VALID);
        page.counter_value = self.counter;
        page.counter_period_shift = self.period.shift();
        page.counter_period_frac_sec = self.period.frac();
        page.counter_period_maxerror_rate_frac_sec = rate(self.period, self.period_max_error);
        page.counter_period_esterror_rate_frac_sec = rate(self.period, self.period_estimated_error);
        page.time_frac_sec = self.time.frac();
        page.time_maxerror_nanosec = self.time_max_error;
        page.time_esterror_nanosec = self.time_estimated_error;
        lifecycle::scaled(page, self.utc_minus_tai, self.leap_indicator);
        Some(())
    }

    /// The same for a counter that is ahead of the calibration's by `offset`, wrapping: from a host's to its guest's,
    /// where the guest's counter is not scaled.
    #[must_use]
    pub const fn offset_by(self, offset: u64) -> Self {
        Self { counter: self.counter.wrapping_add(offset), ..self }
    }
}

/// Why an operation was not done, or not all of it.
///
/// After [`Memory`](Self::Memory) and [`Trigger`](Self::Trigger) a device knows what it wanted to say, [is
/// behind](Device::is_behind), and says it with the next operation, or with [`Device::retry`]. After the others nothing
/// has changed.
///
/// Where it is a device's making that failed, there is no device, and nothing to retry but that; the page may be half
/// written. A trigger that fails there is no error: the device is made, and is behind.
///
/// ```
/// use vmclock_vmm::device::Error;
/// let error: Error<std::io::Error, std::io::Error> = Error::NoTime("it is before 1970");
/// assert!(error.to_string().contains("before 1970"));
/// ```
#[derive(Debug)]
pub enum Error<M, T> {
    /// A word of the page could not be written (or, when a device is made, its sequence count read). Until that
    /// succeeds, the guest sees the old page, or that an update is in progress.
    Memory(M),
    /// The page is as it should be, but the guest could not be told.
    Trigger(T),
    /// The device has no counter, or the time is before 1970.
    NoTime(&'static str),
    /// A state that cannot be taken up. Nothing was written.
    State(StateError),
    /// Memory that cannot be a page's, by its length. Nothing was written.
    Region(RegionError),
}

impl<M: fmt::Display, T: fmt::Display> fmt::Display for Error<M, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(error) => write!(f, "the VMClock page cannot be written: {error}; retry, or stop the guest"),
            Self::Trigger(error) => {
                write!(f, "the guest cannot be told of an update of its VMClock page: {error}; retry")
            }
            Self::NoTime(reason) => write!(f, "the VMClock page cannot give this time: {reason}"),
            Self::State(error) => error.fmt(f),
            Self::Region(error) => write!(f, "the VMClock page cannot be in {error}"),
        }
    }
}

impl<M: StdError, T: StdError> StdError for Error<M, T> {}

/// What became of an operation.
pub type Outcome<M, T> = Result<(), Error<<M as PageMemory>::Error, <T as Trigger>::Error>>;

/// Sees each update, for metrics and logs. It does nothing by default.
///
/// ```
/// use std::cell::Cell;
/// use vmclock_core::abi::Snapshot;
/// use vmclock_vmm::device::Events;
///
/// #[derive(Default)]
/// struct Updates(Cell<u64>);
///
/// impl Events for Updates {
///     fn updated(&self, _page: &Snapshot) {
///         self.0.set(self.0.get() + 1);
///     }
/// }
///
/// let updates = Updates::default();
/// (&updates).updated(&Snapshot::BLANK);
/// assert_eq!(updates.0.get(), 1);
/// ```
pub trait Events {
    /// The page was updated, and says this now.
    fn updated(&self, _page: &Snapshot) {}

    /// An operation failed, and is to be retried.
    fn failed(&self) {}
}

impl Events for () {}

impl<E: Events + ?Sized> Events for &E {
    fn updated(&self, page: &Snapshot) {
        (**self).updated(page);
    }

    fn failed(&self) {
        (**self).failed();
    }
}

/// A VMClock. It has no thread and no policy: whoever runs the machine calls its operations, each of which updates the
/// page and tells the guest, once; but for those that say that nothing changes.
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
    /// The last relation of counter and time by which a guest could read the time, and the marker that it was under.
    promised: Option<(u64, page::Calibration)>,
    /// What the page should say is not on it yet.
    is_written: bool,
    /// The guest was not yet told of it.
    is_told: bool,
}

/// What [`Period::error_rate`] gives, by a division of 128 bits, which a kernel has not but is faster.
fn rate(period: Period, parts_per_trillion: u64) -> u64 {
    let rate = (u128::from(period.frac()) * u128::from(parts_per_trillion)).div_ceil(1_000_000_000_000);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

/// What a page promises that gives time.
fn promise(page: &Snapshot) -> Option<(u64, page::Calibration)> {
    let relation = page::Calibration::from_snapshot(page, page.counter_id).ok()?;
    Some((page.disruption_marker, relation))
}

fn region_len<M: PageMemory, T>(memory: &M) -> Result<u32, Error<M::Error, T>> {
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

impl<M: PageMemory, T: Trigger, E: Events> Device<M, T, E> {
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
        let page = Snapshot {
            size,
            counter_id: options.counter,
            // Without a counter there is no time either, and then 0 is what others have there.
            time_type: if options.counter == CounterId::NONE { TimeType::UTC } else { TimeType::TAI },
            clock_status: lifecycle::without_time(options.counter),
            flags: notification::<T>(Flags::VM_GEN_COUNTER_PRESENT),
            disruption_marker: if is_compatible { 0 } else { identities.next(0, fresh[0]) },
            vm_generation_counter: if is_compatible { 0 } else { identities.next(0, fresh[1]) },
            ..Snapshot::BLANK
        };
        let mut device = Self::unwritten(memory, trigger, events, page, identities);
        if is_compatible {
            // The guest does not run yet: no update, just the page.
            device.store_words().map_err(Error::Memory)?;
            device.memory.store_u32(SEQUENCE, 0, Ordering::Release).map_err(Error::Memory)?;
            device.is_written = true;
        } else {
            device.publish_quietly()?;
        }
        Ok(device)
    }

    const fn unwritten(memory: M, trigger: T, events: E, page: Snapshot, identities: Identities) -> Self {
        Self { memory, trigger, events, page, identities, promised: None, is_written: false, is_told: true }
    }

    /// What the page says, or will as soon as it can be written.
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

    /// What sees the updates.
    pub const fn events(&self) -> &E {
        &self.events
    }

    /// Raises the interrupt without an update: for a monitor that loads its interrupt controller's state after it made
    /// the device by [`restore`](Self::restore) or [`migrate_in`](Self::migrate_in). Those raise it too, but what is
    /// loaded then has overwritten that, and a guest that sleeps until it is notified would miss the event.
    pub fn notify(&mut self) -> Outcome<M, T> {
        if self.is_written {
            self.tell()
        } else {
            self.publish()
        }
    }

    /// Whether the last operation has to be [retried](Self::retry).
    pub const fn is_behind(&self) -> bool {
        !(self.is_written && self.is_told)
    }

    /// Does what is left of operations that failed.
    pub fn retry(&mut self) -> Outcome<M, T> {
        match (self.is_written, self.is_told) {
            (false, _) => self.publish(),
            (true, false) => self.tell(),
            (true, true) => Ok(()),
        }
    }

    /// The guest stands. Nothing changes, and nothing is written unless something was left to do: the next word is
    /// [`resume`](Self::resume)'s.
    pub fn pause(&mut self) -> Outcome<M, T> {
        self.retry()
    }

    /// The guest goes on, on this host. Marker and generation stay, as UAPI.13 has it.
    ///
    /// `None`: its counter went on as if nothing had happened, and the last calibration still holds; there is nothing
    /// to update. If the counter stood still meanwhile or was set, give a new calibration: then the page is right
    /// again, though what a guest kept from before is of another relation. To have guests drop that, call
    /// [`disrupt`](Self::disrupt) before, and so where the new relation is not known yet.
    pub fn resume(&mut self, calibration: Option<&Calibration>) -> Outcome<M, T> {
        match calibration {
            Some(calibration) => self.calibrate(calibration),
            None => self.retry(),
        }
    }

    /// The guest boots anew. Marker and generation stay, as UAPI.13 has it, and the page is written again, as the guest
    /// may have been able to.
    ///
    /// `None`: its counter goes on, and the last calibration still holds. If it is set back, as by a monitor that
    /// resets the vCPUs with it, or stood still, give a new calibration, or [`disrupt`](Self::disrupt), as with
    /// [`resume`](Self::resume).
    pub fn reset(&mut self, calibration: Option<&Calibration>) -> Outcome<M, T> {
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

    /// The same machine, on the same host and with the same counter, in another process: the monitor was restarted or
    /// upgraded, or reboots the machine by making it anew. Marker and generation stay; without a calibration the saved
    /// one does, too.
    ///
    /// As with [`resume`](Self::resume), a counter that was set back or stood still meanwhile takes a new calibration.
    pub fn resume_in(
        memory: M,
        trigger: T,
        events: E,
        state: &State,
        calibration: Option<&Calibration>,
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

    /// A guest came from another host and does not run yet. Without a calibration it has no time until there is one;
    /// what the other host knew of UTC and of maintenance is gone either way.
    pub fn migrate_in(
        memory: M,
        trigger: T,
        events: E,
        state: &State,
        calibration: Option<&Calibration>,
        fresh: u64,
    ) -> Result<Self, Error<M::Error, T::Error>> {
        let mut device = Self::take_up(memory, trigger, events, state)?;
        let marker = device.identities.next(device.page.disruption_marker, fresh);
        lifecycle::arrived(&mut device.page, Came::FromAnotherHost, marker);
        device.begin(calibration)
    }

    /// A guest came out of saved state and does not run yet. Without a calibration it has no time until there is one;
    /// what the page said of UTC and of maintenance is gone either way.
    pub fn restore(
        memory: M,
        trigger: T,
        events: E,
        state: &State,
        calibration: Option<&Calibration>,
        fresh: [u64; 2],
    ) -> Result<Self, Error<M::Error, T::Error>> {
        let mut device = Self::take_up(memory, trigger, events, state)?;
        let marker = device.identities.next(device.page.disruption_marker, fresh[0]);
        let generation = device.identities.next(device.page.vm_generation_counter, fresh[1]);
        lifecycle::arrived(&mut device.page, Came::OutOfSavedState(generation), marker);
        device.begin(calibration)
    }

    /// What was saved, on this memory, which nothing was written to yet.
    fn take_up(memory: M, trigger: T, events: E, state: &State) -> Result<Self, Error<M::Error, T::Error>> {
        let (saved, identities) = state.open().map_err(Error::State)?;
        let size = region_len(&memory)?;
        if saved.size != size {
            return Err(Error::State(StateError::Region { found: saved.size, memory: size }));
        }
        let mut page = Snapshot { flags: notification::<T>(saved.flags), ..saved };
        if !matches!(identities, Identities::Counting) {
            // The memory may be newer than the state. The guest may have written it: it is a count, and no more.
            let came = memory.load_u32(SEQUENCE, Ordering::Relaxed).map_err(Error::Memory)?;
            page.seq_count = lifecycle::unseen_after(lifecycle::later(saved.seq_count, came));
        }
        let mut device = Self::unwritten(memory, trigger, events, page, identities);
        // What the saved page promised still holds, as long as its marker does.
        let status = match page.clock_status {
            ClockStatus::UNRELIABLE => ClockStatus::SYNCHRONIZED,
            status => status,
        };
        device.promised = promise(&Snapshot { clock_status: status, ..page });
        Ok(device)
    }

    /// The first page. A guest that cannot be told of it is no reason to have no device.
    fn begin(mut self, calibration: Option<&Calibration>) -> Result<Self, Error<M::Error, T::Error>> {
        let outcome = match calibration {
            Some(calibration) => self.calibrate(calibration),
            None => self.publish(),
        };
        match outcome {
            Ok(()) | Err(Error::Trigger(_)) => Ok(self),
            Err(error) => Err(error),
        }
    }

    /// The machine was cloned while it runs, on this host: this is one of the two.
    pub fn clone_running(&mut self, fresh: u64) -> Outcome<M, T> {
        let generation = self.identities.next(self.page.vm_generation_counter, fresh);
        lifecycle::cloned(&mut self.page, generation);
        self.publish()
    }

    /// The guest's counter was disturbed. It has no time until it is calibrated.
    pub fn disrupt(&mut self, fresh: u64) -> Outcome<M, T> {
        let marker = self.identities.next(self.page.disruption_marker, fresh);
        lifecycle::disrupted(&mut self.page, marker);
        self.publish()
    }

    /// A disruption is announced, comes nearer, or is off.
    pub fn maintenance(&mut self, maintenance: Maintenance) -> Outcome<M, T> {
        lifecycle::announced(&mut self.page, maintenance);
        self.publish()
    }

    /// Whether a calibration keeps what the last page that gave time promised under this marker: that for no counter
    /// value from that page's reference to `now` (the guest's counter about when the calibration will be on the page)
    /// the time is outside the bounds that a guest could read there. With one that does not, something happened to the
    /// counter or to the host's clock: call [`disrupt`](Self::disrupt) before [`calibrate`](Self::calibrate).
    ///
    /// The promise outlives [`distrust`](Self::distrust) and pauses; only a new marker ends it. Where there is none,
    /// all agrees. It is the promise of the last page alone: from page to page the time of an old counter value can
    /// move on, and UAPI.13 wants bounds that hold for *any* earlier one. For that the calibrations have to come from
    /// an estimator that remembers all that it promised, as `vmclock-host`'s does.
    pub fn agrees(&self, calibration: &Calibration, now: u64) -> bool {
        let Some((_, old)) = self.promised.filter(|(marker, _)| *marker == self.page.disruption_marker) else {
            return true;
        };
        let mut next = self.page;
        let Some(()) = calibration.put_on(&mut next) else { return false };
        // Whatever the status is: it is the relation that is judged.
        next.clock_status = ClockStatus::SYNCHRONIZED;
        let Ok(new) = page::Calibration::from_snapshot(&next, next.counter_id) else { return false };
        // Both are straight lines, and the bound is one on each side of its reference: if it holds at two points, it
        // does between.
        [old.reference_counter(), new.reference_counter(), now].into_iter().all(|counter| {
            let (Ok(interval), Ok(time)) = (old.interval_at(counter), new.time_at(counter)) else { return false };
            interval.is_none_or(|interval| {
                interval.earliest.nanos() <= time.floor_nanos() && time.ceil_nanos() <= interval.latest.nanos()
            })
        })
    }

    /// The time, by the guest's counter, and the facts that make UTC of it: all in one update, as they hold at one
    /// reference time.
    pub fn calibrate(&mut self, calibration: &Calibration) -> Outcome<M, T> {
        if self.page.counter_id == CounterId::NONE {
            return Err(Error::NoTime(
                "the device was made without a counter; on arrival, State::with_counter gives it one",
            ));
        }
        calibration.put_on(&mut self.page).ok_or(Error::NoTime("it is before 1970"))?;
        self.publish()
    }

    /// The time is not to be trusted any more, though the counter was not disturbed: the host has lost its own clock.
    pub fn distrust(&mut self) -> Outcome<M, T> {
        lifecycle::distrusted(&mut self.page);
        self.publish()
    }

    /// UTC - TAI in seconds, and what is known of a leap second nearby, both at the reference time that is on the page
    /// now: for what became known after the last calibration. What holds at the next reference time comes with the next
    /// calibration. `None`: UTC is not known.
    pub fn leap(&mut self, utc_minus_tai: Option<i16>, indicator: LeapIndicator) -> Outcome<M, T> {
        lifecycle::scaled(&mut self.page, utc_minus_tai, indicator);
        self.publish()
    }

    fn publish(&mut self) -> Outcome<M, T> {
        self.publish_quietly()?;
        self.tell()
    }

    /// One update of the sequence count. What fails leaves it odd, or all as it was.
    fn publish_quietly(&mut self) -> Outcome<M, T> {
        self.is_written = false;
        let result = self.write();
        if let Err(error) = result {
            self.events.failed();
            return Err(Error::Memory(error));
        }
        self.is_written = true;
        self.promised = promise(&self.page).or(self.promised);
        self.events.updated(&self.page);
        Ok(())
    }

    fn write(&mut self) -> Result<(), M::Error> {
        let odd = self.page.seq_count | 1;
        self.memory.store_u32(SEQUENCE, odd, Ordering::Relaxed)?;
        // The count is seen odd before any of the words.
        fence(Ordering::Release);
        self.store_words()?;
        let even = odd.wrapping_add(1);
        self.memory.store_u32(SEQUENCE, even, Ordering::Release)?;
        self.page.seq_count = even;
        Ok(())
    }

    /// All but the sequence count.
    fn store_words(&self) -> Result<(), M::Error> {
        let Words { magic, size, identity, seq_count: _, changing } = self.page.into();
        for (offset, half) in [(0x00, magic), (0x04, size), (0x08, identity)] {
            self.memory.store_u32(offset, half, Ordering::Relaxed)?;
        }
        for (offset, word) in (CHANGING..).step_by(8).zip(changing) {
            self.memory.store_u64(offset, word, Ordering::Relaxed)?;
        }
        Ok(())
    }

    fn tell(&mut self) -> Outcome<M, T> {
        self.is_told = !T::NOTIFIES;
        if self.is_told {
            return Ok(());
        }
        match self.trigger.trigger() {
            Ok(()) => {
                self.is_told = true;
                Ok(())
            }
            Err(error) => {
                self.events.failed();
                Err(Error::Trigger(error))
            }
        }
    }
}
