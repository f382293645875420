// SPDX-License-Identifier: MIT OR Apache-2.0
//! What goes with a guest to another host or into a file.

use std::fmt;

use vmclock_core::abi::{CounterId, Flags, ParseError, SmearingHint, Snapshot, TimeType, STRUCTURE_LEN};
use vmclock_core::calibration::{Calibration, NoTime};
use vmclock_core::guest_counter::{GuestCounter, Scale};
use vmclock_core::time::Tai;
use vmclock_core::{leap, lifecycle};

use crate::lineage::Lineage;
use crate::memory::is_length;

/// How markers and generations are made.
///
/// ```
/// use vmclock_vmm::lineage::Lineage;
/// use vmclock_vmm::state::Identities;
/// let identities = Identities::Unpredictable(Lineage::new([1, 2]));
/// assert_eq!(format!("{identities:?}"), "Unpredictable(Lineage { count: 0, .. })"); // the key is private
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Identities {
    /// Never used before, and not to be guessed.
    Unpredictable(Lineage),
    /// The old value and one.
    Counting,
}

impl Identities {
    pub(crate) fn next(&mut self, old: u64, fresh: u64) -> u64 {
        match self {
            Self::Unpredictable(lineage) => lineage.next(fresh),
            Self::Counting => old.wrapping_add(1),
        }
    }
}

/// A device's saved state: plain numbers, with a version. With the feature `serde` any of serde's formats writes and
/// reads it; without, whoever keeps it does. It has the key of the markers and generations to come, so it is as secret
/// as the guest's memory.
///
/// It is validated when a device is made of it, so it may be from anywhere.
///
/// ```
/// use vm_memory::{GuestAddress, GuestMemoryMmap};
/// use vmclock_core::abi::CounterId;
/// use vmclock_vmm::device::{Device, Options};
/// use vmclock_vmm::memory::GuestRegion;
/// use vmclock_vmm::state::{State, StateError};
///
/// let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 1 << 20)])?;
/// let region = || GuestRegion::new(&memory, GuestAddress(0xff000), 0x1000);
/// let clock = Device::new(region()?, (), (), Options::new(CounterId::X86_TSC, [1, 2]), [3, 4])?;
/// let saved = clock.save();
/// assert_eq!((saved.version, saved.page.len()), (State::VERSION, 14));
///
/// let newer = State::from_parts(7, saved.page, saved.identities);
/// let error = Device::restore(region()?, (), (), &newer, None, [5, 6]).unwrap_err();
/// assert!(error.to_string().contains("version 7"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct State {
    /// [`State::VERSION`], for a state that this crate wrote.
    pub version: u32,
    /// The page's 14 words of eight bytes, each as a number. Its sequence count is even: it is what an update in
    /// progress was about to write.
    pub page: Vec<u64>,
    /// How the next markers and generations are made.
    pub identities: Identities,
}

/// Why a state cannot be taken up.
///
/// ```
/// use vmclock_vmm::state::StateError;
/// let error = StateError::Version { found: 2, known: 1 };
/// assert!(error.to_string().ends_with("take it up with a newer monitor"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum StateError {
    /// It is of a newer version of this crate, or of one that there never was.
    Version {
        /// The state's.
        found: u32,
        /// The newest that is known.
        known: u32,
    },
    /// Its page has another number of words than 14.
    Length(usize),
    /// What is in it is no page.
    Page(ParseError),
    /// Its page is of a region of another length.
    Region {
        /// The region's length in bytes, as the page states it.
        found: u32,
        /// The length of the memory that there is for it, in bytes.
        memory: u32,
    },
    /// Its page is about a counter that there is not, or on a scale that no device has with that.
    Counter {
        /// The counter.
        counter: CounterId,
        /// The scale: TAI with a counter, UTC without.
        time_type: TimeType,
    },
    /// Its guest has another counter than the one that was named.
    OtherCounter {
        /// The guest's.
        found: CounterId,
        /// The one that was named.
        named: CounterId,
    },
    /// Its page is to give time, and cannot.
    Time(NoTime),
    /// It has used more markers and generations than one key gives.
    Count(u32),
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the saved state of the VMClock device cannot be taken up: ")?;
        match self {
            Self::Version { found, known } if found > known => write!(
                f,
                "it is of version {found}, and the newest known here is {known}; take it up with a newer monitor"
            ),
            Self::Version { found, known } => {
                write!(f, "it is of version {found}, and there are 1 to {known}; it is damaged")
            }
            Self::Length(words) => write!(f, "its page has {words} words, not {WORDS}; it is damaged"),
            Self::Page(error) => write!(f, "{error}; it is damaged"),
            Self::Region { found, memory } if is_length((*found).into()) => write!(
                f,
                "its guest knows a region of {found:#x} bytes, and here it has {memory:#x}; make it as long as it was"
            ),
            Self::Region { found, .. } => {
                write!(f, "its page is of a region of {found:#x} bytes, not 0x1000 or 0x10000; it is damaged")
            }
            Self::Counter { counter, time_type } => {
                write!(f, "its page is about the counter {counter} on the scale {time_type}; it is damaged")
            }
            Self::OtherCounter { found, named } => write!(
                f,
                "its guest has the counter {found}, not {named}; take it up on a machine of the kind that it was on"
            ),
            Self::Time(error) => write!(f, "{error}; it is damaged"),
            Self::Count(count) => write!(f, "it counts {count} markers and generations of one key; it is damaged"),
        }
    }
}

impl std::error::Error for StateError {}

const WORDS: usize = STRUCTURE_LEN / 8;

/// The flags that a state keeps. The others are the destination's to set, or claim what no device here enforces.
const FLAGS: Flags = Flags::TAI_OFFSET_VALID
    .with(Flags::DISRUPTION_SOON)
    .with(Flags::DISRUPTION_IMMINENT)
    .with(Flags::PERIOD_ESTERROR_VALID)
    .with(Flags::PERIOD_MAXERROR_VALID)
    .with(Flags::TIME_ESTERROR_VALID)
    .with(Flags::TIME_MAXERROR_VALID);

impl State {
    /// The version that is written. Older ones are read.
    pub const VERSION: u32 = 1;

    /// A state that was kept without `serde`.
    pub const fn from_parts(version: u32, page: Vec<u64>, identities: Identities) -> Self {
        Self { version, page, identities }
    }

    pub(crate) fn of(page: &Snapshot, identities: Identities) -> Self {
        let words = page
            .to_bytes()
            .chunks_exact(8)
            .map(|word| word.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
            .collect();
        Self { version: Self::VERSION, page: words, identities }
    }

    /// The same for a destination that can give time where the source could not: a device that only signalled events
    /// gets a counter, and from its first calibration on it gives time. Before
    /// [`restore`](crate::device::Device::restore) or [`migrate_in`](crate::device::Device::migrate_in).
    ///
    /// [`StateError::OtherCounter`] where the guest has another one, or `counter` is none that a page can be about; a
    /// state that already has it stays as it is.
    pub fn with_counter(self, counter: CounterId) -> Result<Self, StateError> {
        let (page, identities) = self.open()?;
        match (page.counter_id, counter) {
            (found, named) if found == named => Ok(self),
            (CounterId::NONE, CounterId::X86_TSC | CounterId::ARM_CNTVCT) => {
                // Without a counter the scale meant nothing.
                let clock_status = lifecycle::without_time(counter);
                let page = page.with(|page| {
                    page.counter_id = counter;
                    page.time_type = TimeType::TAI;
                    page.clock_status = clock_status;
                });
                Ok(Self::of(&page, identities))
            }
            (found, named) => Err(StateError::OtherCounter { found, named }),
        }
    }

    /// The guest's counter on a destination as if it had never stopped, and its maximum error, in ± nanoseconds by
    /// which it is ahead or behind. `host`: the calibration of the destination's own counter. `scale`: how the
    /// destination scales its counter for the guest, where it does. `None` where the state gives no time, or one of the
    /// two has no maximum error.
    ///
    /// The destination sets the guest's offset to that of this counter, and gives the guest's page a calibration of it.
    /// Even where the counter could not be set, the page's bounds hold for the counter that its calibration is about.
    ///
    /// ```
    /// use vm_memory::{GuestAddress, GuestMemoryMmap};
    /// use vmclock_core::abi::{ClockStatus, CounterId};
    /// use vmclock_core::calibration::{Calibration, Period};
    /// use vmclock_core::lifecycle::{Calibrated, LeapStatus};
    /// use vmclock_core::time::{Tai, Time};
    /// use vmclock_vmm::device::{Device, Options};
    /// use vmclock_vmm::memory::GuestRegion;
    ///
    /// let period = Period::from_frequency(2_000_000_000.try_into()?);
    /// let at = |counter, seconds| {
    ///     Calibration::<Tai>::new(counter, Time::from_parts(seconds, 0), period).with_max_error(500, 1_000_000)
    /// };
    /// let synchronized = |calibration| Calibrated {
    ///     calibration,
    ///     status: ClockStatus::SYNCHRONIZED,
    ///     leap: LeapStatus::UNKNOWN,
    /// };
    /// let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 1 << 20)])?;
    /// let region = || GuestRegion::new(&memory, GuestAddress(0xff000), 0x1000);
    /// let mut source = Device::new(region()?, (), (), Options::new(CounterId::X86_TSC, [1, 2]), [3, 4])?;
    /// source.calibrate(&synchronized(at(7_000, 1_800_000_000)))?;
    /// let state = source.migrate_out();
    ///
    /// // Ten seconds later, on a host whose counter was 123.
    /// let host = at(123, 1_800_000_010);
    /// let (counter, error) = state.guest_counter(&host, None).ok_or("the source had no time")?;
    /// assert_eq!(counter.at(123), 20_000_007_000);
    /// assert!((11_000..11_010).contains(&error)); // 1 ppm of ten seconds, and both maximum errors of the time
    /// let calibration = counter.calibration(&host).ok_or("the guest's counter does not run")?;
    /// Device::migrate_in(region()?, (), (), &state, Some(&synchronized(calibration)), 5)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn guest_counter(&self, host: &Calibration<Tai>, scale: Option<Scale>) -> Option<(GuestCounter, u128)> {
        let (page, _) = self.open().ok()?;
        let source = Calibration::from_snapshot(&page, page.counter_id).ok()?;
        let source = source.with_reference_time(leap::tai(&page, source.reference_time())?);
        let value = source.counter_at(host.reference_time())?;
        // The value is rounded down to a tick.
        let error =
            source.max_error_at(value)? + u128::from(host.time_max_error()?.saturating_add(source.nanos_at_most(1)));
        Some((GuestCounter::continuing(value, host.reference_counter(), scale), error))
    }

    /// The page, and how its next values are made: as some device could have left them.
    pub(crate) fn open(&self) -> Result<(Snapshot, Identities), StateError> {
        check_version(self.version)?;
        if self.page.len() != WORDS {
            return Err(StateError::Length(self.page.len()));
        }
        let bytes: Vec<u8> = self.page.iter().flat_map(|word| word.to_le_bytes()).collect();
        let page = Snapshot::from_prefix(&bytes).map_err(StateError::Page)?;
        let Snapshot { counter_id, time_type, .. } = page;
        if !matches!(
            (counter_id, time_type),
            (CounterId::NONE, TimeType::UTC) | (CounterId::X86_TSC | CounterId::ARM_CNTVCT, TimeType::TAI)
        ) {
            return Err(StateError::Counter { counter: counter_id, time_type });
        }
        if page.clock_status.gives_time() {
            Calibration::from_snapshot(&page, counter_id).map_err(StateError::Time)?;
        }
        if let Identities::Unpredictable(lineage) = &self.identities {
            if !lineage.is_in_range() {
                return Err(StateError::Count(lineage.count));
            }
        }
        let flags = Flags(page.flags.0 & FLAGS.0).with(Flags::VM_GEN_COUNTER_PRESENT);
        let page = page.with(|page| {
            page.flags = flags;
            page.pad = [0; 2];
            page.leap_second_smearing_hint = SmearingHint::STRICT;
        });
        Ok((page, self.identities))
    }
}

const fn check_version(found: u32) -> Result<(), StateError> {
    match found {
        State::VERSION => Ok(()),
        _ => Err(StateError::Version { found, known: State::VERSION }),
    }
}

/// The version first: a newer state may have any shape.
#[cfg(feature = "serde")]
mod reading {
    use std::fmt;

    use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

    use super::{check_version, Identities, State};

    const FIELDS: [&str; 3] = ["version", "page", "identities"];

    /// A field before the version.
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Early<T> {
        Known(T),
        Other(IgnoredAny),
    }

    impl<'de> Deserialize<'de> for State {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_struct("State", &FIELDS, Fields)
        }
    }

    struct Fields;

    impl<'de> Visitor<'de> for Fields {
        type Value = State;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the saved state of a VMClock device")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut fields: A) -> Result<State, A::Error> {
            let version = fields.next_element()?.ok_or_else(|| Error::invalid_length(0, &self))?;
            check_version(version).map_err(Error::custom)?;
            let page = fields.next_element()?.ok_or_else(|| Error::invalid_length(1, &self))?;
            let identities = fields.next_element()?.ok_or_else(|| Error::invalid_length(2, &self))?;
            Ok(State { version, page, identities })
        }

        fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<State, A::Error> {
            let (mut version, mut page, mut identities) = (None, None, None);
            while let Some(name) = fields.next_key::<String>()? {
                match (name.as_str(), version) {
                    ("version", None) => {
                        let found = fields.next_value()?;
                        check_version(found).map_err(Error::custom)?;
                        version = Some(found);
                    }
                    ("version", Some(_)) => return Err(Error::duplicate_field("version")),
                    ("page", None) => page = Some(fields.next_value::<Early<Vec<u64>>>()?),
                    ("page", Some(_)) => page = Some(Early::Known(fields.next_value()?)),
                    ("identities", None) => identities = Some(fields.next_value::<Early<Identities>>()?),
                    ("identities", Some(_)) => identities = Some(Early::Known(fields.next_value()?)),
                    _ => {
                        fields.next_value::<IgnoredAny>()?;
                    }
                }
            }
            let version = version.ok_or_else(|| Error::missing_field("version"))?;
            Ok(State { version, page: known(page, "page")?, identities: known(identities, "identities")? })
        }
    }

    fn known<T, E: Error>(field: Option<Early<T>>, name: &'static str) -> Result<T, E> {
        match field {
            Some(Early::Known(value)) => Ok(value),
            Some(Early::Other(_)) => Err(Error::custom(format_args!("`{name}` is not what it is in this version"))),
            None => Err(Error::missing_field(name)),
        }
    }
}
