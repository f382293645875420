// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether this machine's counter went on while nobody published. What can hide in such a gap: `docs/bounds.md`.
//!
//! A publisher saves a [`Witness`] with what it knows, and the next one compares it with the machine as it is then. Any
//! [`Doubt`] means that all starts anew, with a new disruption marker.

use std::fmt;

use serde::{Deserialize, Serialize};
use vmclock_core::sample::Sample;
use vmclock_core::time::{Monotonic, Time};

use crate::interval::Range;

/// A jump of the counter by less may hide in a gap, behind the frequency wander that is assumed: what NTP still slews and
/// does not step (RFC 5905, `STEPT`), in nanoseconds.
const HIDDEN: f64 = 128e6;
/// What a clock's reading is rounded to, in nanoseconds.
const RESOLUTION: f64 = 1.0;
const PARTS_PER_TRILLION: f64 = 1e12;

/// What tells of a moment whether the counter went on since another one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Witness {
    /// Which boot of the kernel it is.
    pub boot: String,
    /// The counter's name in the ABI.
    pub counter: u8,
    /// The kernel's clocksource; none where it does not say.
    pub clocksource: Option<String>,
    /// Whether that is the counter itself, so that the raw clock is a line over it.
    pub is_counter: bool,
    /// Whether the kernel trusts the counter to keep time. `None` where that is unknown.
    pub is_trusted: Option<bool>,
    /// `CLOCK_MONOTONIC_RAW` between two readings of the counter.
    #[serde(with = "crate::plain")]
    pub raw: Sample<Monotonic>,
    /// `CLOCK_BOOTTIME` less `CLOCK_MONOTONIC`, which is how long the machine was suspended since it was booted: at least
    /// and at most, in nanoseconds.
    pub suspended: (i64, i64),
}

impl Witness {
    /// Whether the raw clock was the same line over the counter all the while since another one.
    pub(crate) fn is_comparable(&self, before: &Self) -> bool {
        self.clocksource == before.clocksource && self.suspended_since(before) <= 0
    }

    /// For how long at least the machine was suspended since another one, in nanoseconds.
    fn suspended_since(&self, before: &Self) -> i64 {
        let apart = |from: (i64, i64), to: (i64, i64)| to.0.saturating_sub(from.1);
        apart(before.suspended, self.suspended).max(apart(self.suspended, before.suspended))
    }
}

/// Why nobody knows whether the counter went on.
///
/// ```
/// use vmclock_host::continuity::Doubt;
/// let doubt = Doubt::Suspended { at_least_ns: 5_000_000_000 };
/// assert_eq!(doubt.to_string(), "the machine was suspended meanwhile, for 5.0 s at least");
/// ```
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(tag = "doubt", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Doubt {
    /// The saved state cannot be read.
    Unreadable {
        /// Why.
        reason: String,
    },
    /// It can be read, and is not what was saved, or is of another version.
    Corrupt {
        /// What is wrong with it.
        reason: String,
    },
    /// The configuration assumes less than it did.
    AssumesLess {
        /// What changed.
        reason: String,
    },
    /// A source that knows of disruptions of the counter is not configured any more.
    SourceRemoved {
        /// Which.
        source: String,
    },
    /// The kernel does not say what there is to compare.
    NoWitness,
    /// The machine was booted.
    Booted {
        /// The boot of then.
        then: String,
        /// The boot of now.
        now: String,
    },
    /// The kernel's clocksource is another one, or the CPU's counter is.
    Clocksource {
        /// What it was.
        then: String,
        /// What it is.
        now: String,
    },
    /// The kernel does not trust the counter, or did not.
    Untrusted,
    /// The machine was suspended.
    Suspended {
        /// How long, in nanoseconds.
        at_least_ns: i64,
    },
    /// The counter is behind.
    SetBack {
        /// What it was.
        then: u64,
        /// What it is.
        now: u64,
    },
    /// The kernel's raw clock did not go on with the counter as it did before.
    RawClock {
        /// How far it is from where it can be, in nanoseconds (positive: ahead).
        ahead_ns: f64,
        /// The gap by the raw clock, in nanoseconds.
        gap_ns: u64,
    },
    /// The state is so old that too much could hide.
    TooOld {
        /// Its age, in nanoseconds.
        age_ns: u64,
        /// The largest age, in nanoseconds.
        most_ns: u64,
    },
    /// A page is not as the state has it.
    Page {
        /// Which.
        page: String,
        /// What differs.
        reason: String,
    },
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { reason } => write!(f, "the saved state cannot be read: {reason}"),
            Self::Corrupt { reason } => write!(f, "the saved state is not in order: {reason}"),
            Self::AssumesLess { reason } => f.write_str(reason),
            Self::SourceRemoved { source } => {
                write!(f, "{source}, which knows of disruptions of the counter, is not configured any more")
            }
            Self::NoWitness => f.write_str("the kernel does not say which boot this is"),
            Self::Booted { then, now } => write!(f, "the machine was booted meanwhile: boot {then} then, {now} now"),
            Self::Clocksource { then, now } => write!(f, "the kernel's clocksource was {then}, and is {now}"),
            Self::Untrusted => f.write_str("the kernel does not trust this CPU's counter, or did not"),
            Self::Suspended { at_least_ns } => {
                write!(f, "the machine was suspended meanwhile, for {} at least", Seconds(*at_least_ns))
            }
            Self::SetBack { then, now } => write!(f, "the counter was set back: {then} then, {now} now"),
            Self::RawClock { ahead_ns, gap_ns } => write!(
                f,
                "CLOCK_MONOTONIC_RAW is {ahead_ns:.0} ns from where the counter says it must be, after {}",
                Seconds(i64::try_from(*gap_ns).unwrap_or(i64::MAX))
            ),
            Self::TooOld { age_ns, most_ns } => write!(
                f,
                "the saved state is {} old, and may be {} at most",
                Seconds(i64::try_from(*age_ns).unwrap_or(i64::MAX)),
                Seconds(i64::try_from(*most_ns).unwrap_or(i64::MAX))
            ),
            Self::Page { page, reason } => write!(f, "{page}: {reason}"),
        }
    }
}

/// Nanoseconds, printed in seconds.
pub(crate) struct Seconds(pub(crate) i64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[allow(clippy::cast_precision_loss)] // to print
        let seconds = self.0 as f64 / 1e9;
        write!(f, "{seconds:.1} s")
    }
}

/// The largest age of a saved state, in nanoseconds, where the frequency wander is this, in parts per 10^12.
///
/// What is known of the time grows by twice the wander; a jump of the counter by less than that does not show when the
/// sources are measured again. It is to be no more than what NTP takes for an offset to slew.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)] // some minutes
pub fn longest_gap(wander: u64) -> u64 {
    (HIDDEN / (2.0 * wander.max(1) as f64 / PARTS_PER_TRILLION)).min(u64::MAX as f64) as u64
}

/// Whether the counter went on: how long the gap was, in nanoseconds.
///
/// `began` and `saved` are of the publisher that stopped: the further apart they are, the better it is known how the raw
/// clock goes with the counter. `wander`: the frequency wander, in parts per 10^12.
pub(crate) fn compare(began: &Witness, saved: &Witness, now: &Witness, wander: u64) -> Result<u64, Doubt> {
    let Witness { boot, counter, clocksource, is_trusted, .. } = saved;
    if *boot != now.boot {
        return Err(Doubt::Booted { then: boot.clone(), now: now.boot.clone() });
    }
    if (*counter, clocksource) != (now.counter, &now.clocksource) {
        let name = |witness: &Witness| {
            let clocksource = witness.clocksource.as_deref().unwrap_or("unknown");
            format!("{clocksource} (counter {})", witness.counter)
        };
        return Err(Doubt::Clocksource { then: name(saved), now: name(now) });
    }
    if *is_trusted == Some(false) || *is_trusted != now.is_trusted {
        return Err(Doubt::Untrusted);
    }
    let suspended = now.suspended_since(saved);
    if suspended > 0 {
        return Err(Doubt::Suspended { at_least_ns: suspended });
    }
    if ticks(saved.raw.after, now.raw.before) < 0.0 {
        return Err(Doubt::SetBack { then: saved.raw.after, now: now.raw.before });
    }
    compare_raw(began, saved, now, wander)
}

fn compare_raw(began: &Witness, saved: &Witness, now: &Witness, wander: u64) -> Result<u64, Doubt> {
    let watched = elapsed(&began.raw, &saved.raw);
    let (fewest, most) = ticks_between(&began.raw, &saved.raw);
    let gap = elapsed(&saved.raw, &now.raw);
    let (least, longest) = ticks_between(&saved.raw, &now.raw);
    // Over no time, nothing was seen of how the one goes with the other.
    let most_per_tick = if fewest > 0.0 { watched.high / fewest } else { f64::INFINITY };
    let mut expected = Range::new(least * (watched.low / most.max(1.0)), longest * most_per_tick);
    if !now.is_counter {
        // Another oscillator, which wanders against it.
        #[allow(clippy::cast_precision_loss)] // parts per 10^12
        let wander = wander as f64 / PARTS_PER_TRILLION;
        expected = expected.wider(2.0 * wander * gap.high.max(0.0));
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // not negative
    let gap_ns = gap.middle().max(0.0) as u64;
    let ahead = expected.distance_to(gap);
    if !expected.high.is_finite() || ahead.abs() > 0.0 {
        return Err(Doubt::RawClock { ahead_ns: ahead, gap_ns });
    }
    let most_ns = longest_gap(wander);
    if gap_ns > most_ns {
        return Err(Doubt::TooOld { age_ns: gap_ns, most_ns });
    }
    Ok(gap_ns)
}

/// From one sample to another, in nanoseconds of the raw clock.
fn elapsed(from: &Sample<Monotonic>, to: &Sample<Monotonic>) -> Range {
    let nanos = |time: Time<Monotonic>| time.floor_nanos();
    #[allow(clippy::cast_precision_loss)] // days, to a nanosecond
    let elapsed = nanos(to.time).wrapping_sub(nanos(from.time)) as f64;
    Range::around(elapsed, RESOLUTION)
}

/// From one sample to another, at least and at most.
fn ticks_between(from: &Sample<Monotonic>, to: &Sample<Monotonic>) -> (f64, f64) {
    (ticks(from.after, to.before).max(0.0), ticks(from.before, to.after))
}

/// The nearer direction of a wrapping counter.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_wrap)] // days, to a tick
fn ticks(from: u64, to: u64) -> f64 {
    to.wrapping_sub(from) as i64 as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const WANDER: u64 = 15_000_000;

    /// After so many seconds, of a counter that ticks each nanosecond, read within 50 ns.
    fn witness(seconds: u64) -> Witness {
        let nanos = seconds * SECOND;
        let time = Time::from_nanos(i128::from(nanos) + 7_000).expect("in range");
        Witness {
            boot: "a".into(),
            counter: 1,
            clocksource: Some("tsc".into()),
            is_counter: true,
            is_trusted: Some(true),
            raw: Sample { before: 500 + nanos - 25, time, after: 500 + nanos + 25 },
            suspended: (1_000, 1_050),
        }
    }

    /// What is thought of a machine that is like this 30 s after the state was saved.
    fn after(change: impl FnOnce(&mut Witness)) -> Result<u64, Doubt> {
        let mut now = witness(1_030);
        change(&mut now);
        compare(&witness(0), &witness(1_000), &now, WANDER)
    }

    fn ahead_by(witness: &mut Witness, nanos: i64) {
        let span = vmclock_core::time::Span::from_nanos(nanos);
        witness.raw.time = witness.raw.time.checked_add(span).expect("in range");
    }

    #[test]
    fn a_counter_that_goes_on_leaves_no_doubt() {
        assert_eq!(after(|_| ()), Ok(30 * SECOND));
        let sampled = |now: &mut Witness| now.suspended = (980, 1_000);
        assert_eq!(after(sampled), Ok(30 * SECOND), "read with other errors");
    }

    #[test]
    fn each_doubt_is_one() {
        assert!(matches!(after(|now| now.boot = "b".into()), Err(Doubt::Booted { .. })));
        assert!(matches!(after(|now| now.clocksource = Some("hpet".into())), Err(Doubt::Clocksource { .. })));
        assert!(matches!(after(|now| now.clocksource = None), Err(Doubt::Clocksource { .. })));
        assert!(matches!(after(|now| now.counter = 2), Err(Doubt::Clocksource { .. })));
        assert_eq!(after(|now| now.is_trusted = Some(false)), Err(Doubt::Untrusted));
        assert_eq!(after(|now| now.is_trusted = None), Err(Doubt::Untrusted));
        assert_eq!(after(|now| now.suspended = (1_051, 1_080)), Err(Doubt::Suspended { at_least_ns: 1 }));
        let back = after(|now| (now.raw.before, now.raw.after) = (400, 450));
        assert!(matches!(back, Err(Doubt::SetBack { .. })), "{back:?}");
    }

    #[test]
    fn the_raw_clock_shows_all_but_what_reading_it_hides() {
        // 30 s of 50 ns in 1000 s, and 25 ns at both ends.
        for hidden in [-50_i64, 50] {
            assert_eq!(after(|now| ahead_by(now, hidden)), Ok((30 * SECOND).wrapping_add_signed(hidden)));
        }
        for seen in [-60_i64, 60, 1_000, -1_000_000_000] {
            let Err(Doubt::RawClock { ahead_ns, .. }) = after(|now| ahead_by(now, seen)) else { panic!("{seen}") };
            assert_eq!(ahead_ns > 0.0, seen > 0, "{ahead_ns} of {seen}");
        }
        let another = |nanos| {
            after(|now| {
                now.is_counter = false;
                ahead_by(now, nanos);
            })
        };
        assert!(another(800_000).is_ok(), "another oscillator, within twice 15 ppm of 30 s");
        assert!(another(1_000_000).is_err());
    }

    #[test]
    fn nothing_is_concluded_from_nothing() {
        let (saved, now) = (witness(1_000), witness(1_030));
        assert!(matches!(compare(&saved, &saved, &now, WANDER), Err(Doubt::RawClock { .. })));
    }

    #[test]
    fn a_state_ages() {
        assert_eq!(longest_gap(WANDER) / SECOND, 4_266, "71 minutes at 15 ppm");
        let compared = |seconds: u64| compare(&witness(0), &witness(1_000), &witness(1_000 + seconds), WANDER);
        assert!(compared(4_266).is_ok());
        assert!(matches!(compared(4_267), Err(Doubt::TooOld { .. })));
    }
}
