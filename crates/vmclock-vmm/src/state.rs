// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
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

/// A device's saved state: plain numbers, with a version. [`to_bytes`](Self::to_bytes) writes it; with the feature `serde`
/// so does any of serde's formats. It has the key of the markers and generations to come, so it is as secret as the
/// guest's memory.
///
/// It is validated when a device is made of it, so it may be from anywhere.
///
/// ```
/// use vmclock_vmm::state::{State, StateError};
///
/// let state = State::default();
/// let mut bytes = state.to_bytes();
/// assert_eq!(State::from_bytes(&bytes), Ok(state));
/// bytes[8] = 7;
/// let newer = State::from_bytes(&bytes).unwrap_err();
/// assert!(newer.to_string().contains("version 7"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct State {
    /// [`State::VERSION`], for a state that this crate wrote.
    pub version: u32,
    /// The page's 14 words of eight bytes, each as a number. Its sequence count is even: it is what an update in
    /// progress was about to write.
    pub page: [u64; WORDS],
    /// How the next markers and generations are made.
    pub identities: Identities,
}

/// The state of a device that only signals events, and counts, as it boots: for structures of a monitor that have to
/// have one.
impl Default for State {
    fn default() -> Self {
        let page = Snapshot::BLANK.with(|page| {
            page.time_type = TimeType::UTC;
            page.flags = Flags::VM_GEN_COUNTER_PRESENT;
        });
        Self::of(&page, Identities::Counting)
    }
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
    /// The bytes do not begin as those of a state do.
    Magic,
    /// There are not as many bytes as a state of this version has.
    Length(usize),
    /// Its markers and generations are made in a way that is not known.
    Identities(u32),
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
            Self::Magic => f.write_str("it does not begin with VMCLKDEV; it is not one, or damaged"),
            Self::Length(bytes) => write!(f, "it has {bytes} bytes, not {}; it is damaged", State::LEN),
            Self::Identities(kind) => write!(f, "its markers are of kind {kind}, and there are 0 and 1; it is damaged"),
            Self::Page(_) => f.write_str("what is to be its page is none; it is damaged"),
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
            Self::Time(_) => f.write_str("its page is to give time, and cannot; it is damaged"),
            Self::Count(count) => write!(f, "it counts {count} markers and generations of one key; it is damaged"),
        }
    }
}

impl std::error::Error for StateError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Page(error) => Some(error),
            Self::Time(error) => Some(error),
            _ => None,
        }
    }
}

const WORDS: usize = STRUCTURE_LEN / 8;
/// What the bytes of a state begin with.
const MAGIC: [u8; 8] = *b"VMCLKDEV";

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

    /// How many bytes [`to_bytes`](Self::to_bytes) gives.
    pub const LEN: usize = MAGIC.len() + 4 + 4 + STRUCTURE_LEN + 16 + 8;

    /// A state of its fields.
    pub const fn from_parts(version: u32, page: [u64; WORDS], identities: Identities) -> Self {
        Self { version, page, identities }
    }

    /// The state as bytes that are the same on every machine: `VMCLKDEV`; version, and how markers are made (0: they
    /// count, 1: unpredictable), of four bytes each; the page's 14 words, the key's two, and the count, of eight bytes
    /// each. All numbers are little-endian.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let (kind, key, count) = match self.identities {
            Identities::Counting => (0_u32, [0; 2], 0),
            Identities::Unpredictable(Lineage { key, count }) => (1, key, count),
        };
        let mut bytes = [0; Self::LEN];
        let (magic, rest) = bytes.split_at_mut(MAGIC.len());
        magic.copy_from_slice(&MAGIC);
        let (numbers, words) = rest.split_at_mut(8);
        for (place, number) in numbers.chunks_exact_mut(4).zip([self.version, kind]) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        for (place, word) in words.chunks_exact_mut(8).zip(self.page.iter().chain(&key).chain(&[count.into()])) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// The state of these bytes. What is in it is validated when a device is made of it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StateError> {
        let rest = bytes.strip_prefix(&MAGIC).ok_or(StateError::Magic)?;
        let (version, rest) = rest.split_first_chunk().ok_or(StateError::Length(bytes.len()))?;
        // A newer version may have any length.
        let version = u32::from_le_bytes(*version);
        check_version(version)?;
        let (kind, words) = rest.split_first_chunk().ok_or(StateError::Length(bytes.len()))?;
        if bytes.len() != Self::LEN {
            return Err(StateError::Length(bytes.len()));
        }
        let mut words = words.chunks_exact(8).map(number);
        let mut next = || words.next().unwrap_or_default();
        let page = std::array::from_fn(|_| next());
        let (key, count) = ([next(), next()], next());
        let identities = match u32::from_le_bytes(*kind) {
            0 => Identities::Counting,
            // What is too large a count is so when it is cut down, too.
            1 => Identities::Unpredictable(Lineage { key, count: u32::try_from(count).unwrap_or(u32::MAX) }),
            kind => return Err(StateError::Identities(kind)),
        };
        Ok(Self { version, page, identities })
    }

    pub(crate) fn of(page: &Snapshot, identities: Identities) -> Self {
        let bytes = page.to_bytes();
        let mut words = bytes.chunks_exact(8).map(number);
        let page = std::array::from_fn(|_| words.next().unwrap_or_default());
        Self { version: Self::VERSION, page, identities }
    }

    /// The same for a destination that can give time where the source could not: a device that only signalled events
    /// gets a counter, and from its first calibration on it gives time.
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
    /// use vmclock_vmm::device::{Arrival, Options};
    /// use vmclock_vmm::memory::{HostPage, Page};
    /// use vmclock_vmm::vmclock_core::abi::{ClockStatus, CounterId};
    /// use vmclock_vmm::vmclock_core::calibration::{Calibration, Period};
    /// use vmclock_vmm::vmclock_core::lifecycle::{Calibrated, LeapStatus};
    /// use vmclock_vmm::vmclock_core::time::{Tai, Time};
    /// use vmclock_vmm::VmClockDevice;
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
    /// let page = || HostPage::new(Box::new(Page::new()), 0x1000);
    /// let mut source = VmClockDevice::new(page()?, (), (), Options::new(CounterId::X86_TSC, [1, 2]), [3, 4])?;
    /// source.calibrate(&synchronized(at(7_000, 1_800_000_000)))?;
    /// let state = source.save();
    ///
    /// // Ten seconds later, on a host whose counter was 123.
    /// let host = at(123, 1_800_000_010);
    /// let (counter, error) = state.guest_counter(&host, None).ok_or("the source had no time")?;
    /// assert_eq!(counter.at(123), 20_000_007_000);
    /// assert!((11_000..11_010).contains(&error)); // 1 ppm of ten seconds, and both maximum errors of the time
    /// let known = counter.calibrated(&synchronized(host)).ok_or("the guest's counter does not run")?;
    /// let (_device, notified) =
    ///     VmClockDevice::from_state(page()?, (), (), &state, Arrival::Migration, Some(&known), [5, 6])?;
    /// notified?;
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
        let mut bytes = [0; STRUCTURE_LEN];
        for (place, word) in bytes.chunks_exact_mut(8).zip(self.page) {
            place.copy_from_slice(&word.to_le_bytes());
        }
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

/// Eight bytes, or fewer, as a number.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
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
                    ("page", None) => page = Some(fields.next_value::<Early<[u64; super::WORDS]>>()?),
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
