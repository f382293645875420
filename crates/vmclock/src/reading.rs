// SPDX-License-Identifier: MIT OR Apache-2.0
//! One reading of the clock.

use core::fmt;

use vmclock_core::abi::{ClockStatus, CounterId, SmearingHint, Snapshot, TimeType, TimeWords, Words};
use vmclock_core::calibration::{Calibration, NoTime};
use vmclock_core::event::Epoch;
use vmclock_core::leap::{self, UtcRule, UtcTime};
use vmclock_core::smear::Smearing;
#[cfg(feature = "std")]
use vmclock_core::time::Scale;
use vmclock_core::time::{Certainty, Interval, Monotonic, PageScale, SmearedUtc, Tai, Time, Timestamp, Utc};

/// The time at one counter value, with its error bounds and the rest of the page at that moment.
///
/// ```
/// use vmclock::{mock::MockPage, Certainty};
///
/// let page = MockPage::new();
/// let clock = page.clock();
/// let first = clock.now()?;
/// page.advance(std::time::Duration::from_secs(1));
/// let second = clock.now()?;
///
/// assert_eq!(second.tai().unwrap().since(first.tai().unwrap()).unwrap().floor_nanos(), 1_000_000_000);
/// assert!(first.certainly_before(&second));
/// assert_eq!(first.is_before(&first), Certainty::CannotTell);
/// # Ok::<(), vmclock::ReadError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Undecoded, and nothing is computed yet: to copy words while the CPU waits for its counter costs nothing, and
    /// what is computed of the counter comes on top.
    words: TimeWords,
    counter: u64,
}

impl Reading {
    /// The time that a validated page gives at a value of its counter, on a CPU whose counter is `cpu`.
    ///
    /// ```
    /// use vmclock::{mock::MockPage, Reading};
    /// let page = MockPage::new().contents();
    /// let reading = Reading::new(&page, page.counter_value, page.counter_id)?;
    /// assert_eq!(reading.time().seconds(), 2_000_000_000);
    /// # Ok::<(), vmclock::NoTime>(())
    /// ```
    pub fn new(page: &Snapshot, counter: u64, cpu: CounterId) -> Result<Self, NoTime> {
        Calibration::from_snapshot(page, cpu)?.time_at(counter)?;
        Ok(Self { words: Words::from(*page).time_words(), counter })
    }

    /// The same of words that certainly give a time; `None` where [`new`](Self::new) knows.
    #[cfg(feature = "std")]
    #[inline(always)]
    pub(crate) fn of_words(words: TimeWords, counter: u64, cpu: CounterId) -> Option<Self> {
        words.certainly_give_time(cpu).then_some(Self { words, counter })
    }

    /// The reading as words, of the page and the counter, for bindings, which keep them elsewhere.
    #[doc(hidden)]
    #[inline(always)]
    pub fn to_words(&self) -> [u64; Self::WORDS] {
        let mut words = [self.counter; Self::WORDS];
        for (word, of_page) in words.iter_mut().zip(self.words.to_array()) {
            *word = of_page;
        }
        words
    }

    /// How many words there are.
    #[doc(hidden)]
    pub const WORDS: usize = TimeWords::LEN + 1;

    /// The opposite. Any words make a reading, though only those of a reading make a true one.
    #[doc(hidden)]
    #[inline(always)]
    pub fn from_words(words: &[u64; Self::WORDS]) -> Self {
        let [page @ .., counter] = words;
        Self { words: TimeWords::from_array(page), counter: *counter }
    }

    /// The same, word by word.
    #[cfg(feature = "std")]
    #[inline(always)]
    pub(crate) fn by_words(&self) -> Self {
        Self { words: self.words.by_words(), counter: self.counter }
    }

    /// The page, but for the estimated errors.
    #[inline(always)]
    fn page(&self) -> Snapshot {
        self.words.decode()
    }

    #[inline(always)]
    fn calibration(&self) -> Calibration {
        Calibration::of_time_words(self.words)
    }

    /// The time on the page's own scale, which [`time_type`](Self::time_type) names.
    #[inline(always)]
    pub fn time(&self) -> Time<PageScale> {
        self.calibration().time_in_range_at(self.counter)
    }

    /// The maximum error in ± nanoseconds, rounded up; `None` where the page states none.
    #[inline(always)]
    pub fn max_error_nanos(&self) -> Option<u128> {
        self.calibration().max_error_at(self.counter)
    }

    /// The interval, from earliest to latest, that contains true time, on the page's own scale; `None` where the page
    /// states no maximum error.
    #[inline(always)]
    pub fn interval(&self) -> Option<Interval<PageScale>> {
        Some(Interval::around(self.time(), self.max_error_nanos()?))
    }

    /// The time in TAI; `None` on a monotonic page, and on a UTC page without a valid offset.
    #[inline(always)]
    pub fn tai(&self) -> Option<Time<Tai>> {
        leap::tai(&self.page(), self.time())
    }

    /// The interval that contains true time, in TAI; `None` also where [`tai`](Self::tai) is.
    #[inline(always)]
    pub fn tai_interval(&self) -> Option<Interval<Tai>> {
        Some(Interval::around(self.tai()?, self.max_error_nanos()?))
    }

    /// The time in UTC, also across a leap second that the page announces; `None` on a monotonic page, and on a TAI
    /// page without a valid offset.
    #[inline(always)]
    pub fn utc(&self) -> Option<UtcTime> {
        leap::utc(&self.page(), self.time())
    }

    /// The time as POSIX counts it, in whole nanoseconds: what `clock_gettime(CLOCK_REALTIME)` would give were it
    /// right. During a leap second it repeats the second before.
    #[inline(always)]
    pub fn utc_timestamp(&self) -> Option<Timestamp<Utc>> {
        Some(self.utc()?.time.timestamp())
    }

    /// The time on a UTC smeared around leap seconds, in the way that the caller asks for.
    pub fn smeared_utc(&self, smearing: Smearing) -> Option<Time<SmearedUtc>> {
        smearing.smear(&self.utc_rule()?, self.time())
    }

    /// The time on a UTC smeared in the way that the page hints at; `None` also where it hints at none.
    pub fn smeared_utc_by_hint(&self) -> Option<Time<SmearedUtc>> {
        self.smeared_utc(Smearing::from_hint(self.smearing_hint())?)
    }

    /// How the page would like the clock to be smeared.
    pub fn smearing_hint(&self) -> SmearingHint {
        self.page().leap_second_smearing_hint
    }

    /// The time on the page's monotonic scale; `None` on a page of another.
    pub fn monotonic(&self) -> Option<Time<Monotonic>> {
        leap::monotonic(&self.page(), self.time())
    }

    /// UTC as a [`SystemTime`](std::time::SystemTime), rounded down to nanoseconds.
    #[cfg(feature = "std")]
    pub fn system_time(&self) -> Option<std::time::SystemTime> {
        self.utc_timestamp()?.try_into().ok()
    }

    /// UTC as `(tv_sec, tv_nsec)`, the two members of C's `struct timespec`.
    pub fn timespec(&self) -> Option<(i64, i64)> {
        let utc = self.utc_timestamp()?;
        Some((utc.seconds(), utc.subsec_nanos().into()))
    }

    /// Whether this reading was taken before `other`, by true time: whatever the clocks of others say.
    ///
    /// Both must have error bounds. Readings of different pages are compared in TAI, and so are readings on either
    /// side of a restore or a migration: true time is compared, not the counter.
    pub fn is_before(&self, other: &Self) -> Certainty {
        if let (Some(this), Some(other)) = (self.tai_interval(), other.tai_interval()) {
            this.is_before(other)
        } else if let (Some(this), Some(other), true) = (self.interval(), other.interval(), self.is_on_scale_of(other))
        {
            this.is_before(other)
        } else {
            Certainty::CannotTell
        }
    }

    /// Whether numbers of the two pages' own scales can be compared: not where a leap second may be between them.
    fn is_on_scale_of(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.page(), other.page());
        (ours.time_type, ours.leap_indicator) == (theirs.time_type, theirs.leap_indicator)
    }

    /// By how many nanoseconds the earliest bound of this is after the latest one of `other`: positive where this is
    /// certainly after it. `None` where they cannot be compared.
    #[cfg(feature = "std")]
    pub(crate) fn earliest_minus_latest_of(&self, other: &Self) -> Option<i128> {
        fn difference<S: Scale>(this: Interval<S>, other: Interval<S>) -> i128 {
            this.earliest.nanos().saturating_sub(other.latest.nanos())
        }
        if let (Some(this), Some(other)) = (self.tai_interval(), other.tai_interval()) {
            Some(difference(this, other))
        } else if self.is_on_scale_of(other) {
            Some(difference(self.interval()?, other.interval()?))
        } else {
            None
        }
    }

    /// Whether this reading was taken after `other`, by true time.
    pub fn is_after(&self, other: &Self) -> Certainty {
        other.is_before(self)
    }

    /// Whether this reading was certainly taken before `other`: [`is_before`](Self::is_before) says yes.
    pub fn certainly_before(&self, other: &Self) -> bool {
        self.is_before(other).is_yes()
    }

    /// Whether this reading was certainly taken after `other`: [`is_after`](Self::is_after) says yes.
    pub fn certainly_after(&self, other: &Self) -> bool {
        self.is_after(other).is_yes()
    }

    /// The scale of [`time`](Self::time).
    #[inline]
    pub fn time_type(&self) -> TimeType {
        self.page().time_type
    }

    /// How far the clock can be trusted: `synchronized` or `free-running`, as the others give no time.
    #[inline]
    pub fn status(&self) -> ClockStatus {
        self.page().clock_status
    }

    /// The disruption marker.
    #[inline]
    pub fn disruption_marker(&self) -> u64 {
        self.page().disruption_marker
    }

    /// The generation counter, where the page has one.
    #[inline]
    pub fn generation(&self) -> Option<u64> {
        self.page().generation()
    }

    /// The epoch, that is, marker and generation, to compare with those of other readings.
    #[inline]
    pub fn epoch(&self) -> Epoch {
        Epoch::of(&self.page())
    }

    /// The value of the CPU's counter at this reading.
    #[inline]
    pub const fn counter(&self) -> u64 {
        self.counter
    }

    fn utc_rule(&self) -> Option<UtcRule> {
        UtcRule::from_snapshot(&self.page())
    }
}

/// For people, on one line: TAI and UTC as RFC 3339 has them, the error bound, the status.
///
/// ```
/// let reading = vmclock::mock::MockPage::new().clock().now()?;
/// let text = reading.to_string();
/// assert!(text.contains(" TAI  20") && text.ends_with("Z  ± 1000 ns  synchronized"), "{text}");
/// # Ok::<(), vmclock::ReadError>(())
/// ```
impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.tai(), self.utc()) {
            (None, None) => write!(f, "{}", self.time())?,
            (Some(tai), Some(utc)) => write!(f, "{tai}  {utc}")?,
            (Some(tai), None) => write!(f, "{tai}  UTC unknown")?,
            (None, Some(utc)) => write!(f, "TAI unknown  {utc}")?,
        }
        match self.max_error_nanos() {
            Some(error) => write!(f, "  ± {error} ns")?,
            None => f.write_str("  no bounds")?,
        }
        write!(f, "  {}", self.status())
    }
}

/// Decoded: the time in UTC, or else on the page's scale, and what else the page states.
#[allow(clippy::missing_fields_in_debug)] // `words` are what is decoded
impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let page = self.page();
        let mut shown = f.debug_struct("Reading");
        match (self.tai(), self.utc()) {
            (None, None) => shown.field("time", &format_args!("{}", self.time())),
            (tai, utc) => {
                if let Some(tai) = tai {
                    shown.field("tai", &format_args!("{tai}"));
                }
                if let Some(utc) = utc {
                    shown.field("utc", &format_args!("{utc}"));
                }
                &mut shown
            }
        };
        match self.max_error_nanos() {
            Some(error) => shown.field("max_error", &format_args!("{error} ns")),
            None => shown.field("max_error", &format_args!("unknown")),
        };
        shown.field("status", &page.clock_status).field("time_type", &page.time_type);
        shown.field("leap_indicator", &page.leap_indicator);
        shown.field("disruption_marker", &format_args!("{:#x}", page.disruption_marker));
        match page.generation() {
            Some(generation) => shown.field("generation", &format_args!("{generation:#x}")),
            None => shown.field("generation", &format_args!("none")),
        };
        shown.field("counter", &self.counter).finish()
    }
}
