// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a publisher reports: typed, with one text and one serialized form.

use std::fmt;

use serde::Serialize;
use vmclock_core::abi::ClockStatus;
use vmclock_core::leap::LeapKind;

use crate::continuity::{Doubt, Seconds};
use crate::service::protocol::Step;
use crate::utc::Origin;

/// Something that a publisher did or found out.
///
/// Serialized, it is an object whose `event` is its [name](Self::name), with the fields of the variant beside it.
/// Names of sources are those of the configuration; nanoseconds are positive where the source is ahead.
///
/// ```
/// use vmclock_host::event::Event;
/// let event = Event::Holdover;
/// assert_eq!(event.name(), "holdover");
/// assert!(event.to_string().contains("the counter alone"));
/// ```
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Event {
    /// A new page was made.
    Created {
        /// Where.
        page: String,
    },
    /// A page that another publisher left was taken over.
    TookOver {
        /// Where.
        page: String,
        /// The status that it had.
        #[serde(serialize_with = "as_text")]
        status: ClockStatus,
        /// Whether its publisher was killed in the middle of an update.
        interrupted: bool,
    },
    /// A page that another publisher left continues: so did the counter, the marker is the same, and so are the bounds.
    Continued {
        /// Where.
        page: String,
        /// Since what the other publisher knew was saved, in nanoseconds.
        gap_ns: u64,
    },
    /// What another publisher left is not continued: all starts anew, with a new marker.
    NotContinued {
        /// Why.
        #[serde(flatten)]
        doubt: Doubt,
    },
    /// This machine's clock is assumed exact.
    Reference,
    /// The page's clock is not this machine's.
    Imaginary,
    /// TAI-UTC became known, or changed.
    Offset {
        /// TAI-UTC in seconds, +37 since 2017; none where it is unknown.
        tai_minus_utc: Option<i16>,
        /// Where it is known from.
        #[serde(serialize_with = "as_text")]
        origin: Origin,
        /// Why it is unknown.
        reason: Option<String>,
    },
    /// The list of leap seconds expired.
    ListExpired {
        /// When, in seconds of UTC since 1970.
        expires: i64,
    },
    /// A leap second is expected, was called off, or came unannounced.
    Leap {
        /// Inserted or deleted; none where none is expected any more.
        #[serde(serialize_with = "as_optional_text")]
        kind: Option<LeapKind>,
        /// 00:00:00 of the month that begins then, in seconds of UTC since 1970.
        month: i64,
        /// How it became known.
        news: LeapNews,
    },
    /// A source became reachable or unreachable.
    Source {
        /// Which.
        source: String,
        /// Whether it is reachable now.
        reachable: bool,
        /// Why it is not.
        reason: Option<String>,
    },
    /// Two sources read one clock, and have one vote.
    SharedClock {
        /// The sources.
        sources: Vec<String>,
    },
    /// A source is excluded from selection: it contradicts what a majority proves.
    Falseticker {
        /// Which.
        source: String,
        /// Its distance from where true time can be.
        ahead_ns: f64,
    },
    /// A falseticker is consistent again.
    ReAccepted {
        /// Which.
        source: String,
    },
    /// No majority of the configured clocks is consistent.
    NoMajority {
        /// How many clocks are configured.
        configured: usize,
    },
    /// What the sources prove contradicts what was published.
    Rejected {
        /// The distance from where true time can be.
        ahead_ns: f64,
    },
    /// A contradiction persisted, or a majority has it: it is accepted.
    StepAccepted,
    /// No calibration is nested in the bounds that were published.
    NotNested,
    /// The counter's frequency changed by more than it may.
    Unstable {
        /// By how much more, in ppm (positive: the counter is slower).
        change_ppm: f64,
        /// How much it may, in ppm.
        wander_ppm: f64,
    },
    /// Too few sources are reachable.
    Holdover,
    /// A majority agrees again.
    Resumed,
    /// The page says `synchronized`, which it did not before.
    Synchronized {
        /// Maximum error of the page's time, in ± nanoseconds.
        max_error_ns: u64,
    },
    /// The page was brought up to date.
    Refreshed {
        /// What it says.
        #[serde(serialize_with = "as_text")]
        status: ClockStatus,
        /// Maximum error of its time, in ± nanoseconds.
        max_error_ns: u64,
    },
    /// This host's own counter was disrupted, as a source says.
    Disrupted,
    /// The kernel's trust in the counter changed.
    Counter {
        /// Whether it trusts it.
        trusted: bool,
    },
    /// Somebody reported what happened to the machine.
    Signal {
        /// What.
        #[serde(serialize_with = "as_text")]
        signal: Signal,
        /// The page's sequence count after that.
        seq_count: u32,
    },
    /// A guest's page is published from now on.
    GuestAdded {
        /// Which guest.
        guest: String,
        /// Its page.
        page: String,
    },
    /// A guest's page is not published any more, as a client said.
    GuestRemoved {
        /// Which guest.
        guest: String,
    },
    /// A guest's page cannot be published any more.
    GuestLost {
        /// Which guest.
        guest: String,
        /// Why.
        reason: String,
    },
    /// Something happened to a guest, and its page says so.
    GuestStep {
        /// Which guest.
        guest: String,
        /// What.
        #[serde(serialize_with = "as_text")]
        step: Step,
        /// The page's sequence count after that.
        seq_count: u32,
        /// The page's disruption marker.
        disruption_marker: u64,
        /// The page's generation.
        vm_generation_counter: u64,
    },
    /// Something to know.
    Warning {
        /// What.
        text: String,
    },
    /// The configuration was read again.
    Reloaded {
        /// Which, and what of it takes effect.
        text: String,
    },
    /// The publisher left the page to the next one: its bounds hold.
    AtRest {
        /// What the page says.
        #[serde(serialize_with = "as_text")]
        status: ClockStatus,
    },
    /// The publisher gave up the page, which says `unreliable`.
    Stopped,
}

/// How a leap second became known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum LeapNews {
    /// By a list, a majority of the sources, or an operator.
    Expected,
    /// It came, and nobody had announced it.
    Unannounced,
    /// It was announced, and is not any more, or did not come.
    CalledOff,
}

/// What can be reported of the machine that a page is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// It was migrated live.
    Migrate,
    /// It was restored from a snapshot.
    Snapshot,
    /// It was cloned while it ran.
    Clone,
    /// A disruption is expected within about a day.
    Soon,
    /// A disruption is expected within about an hour.
    Imminent,
    /// No disruption is expected any more.
    Clear,
    /// A leap second is expected at the end of the month, or none.
    Leap(Option<LeapKind>),
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Migrate => "migrate",
            Self::Snapshot => "snapshot",
            Self::Clone => "clone",
            Self::Soon => "soon",
            Self::Imminent => "imminent",
            Self::Clear => "clear",
            Self::Leap(_) => "leap",
        })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stated => "stated",
            Self::Kernel => "kernel",
            Self::List => "list",
            Self::Unknown => "unknown",
        })
    }
}

impl Event {
    /// The event's name: what `event` is in the serialized form.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Created { .. } => "created",
            Self::TookOver { .. } => "took-over",
            Self::Continued { .. } => "continued",
            Self::NotContinued { .. } => "not-continued",
            Self::Reference => "reference",
            Self::Imaginary => "imaginary",
            Self::Offset { .. } => "offset",
            Self::ListExpired { .. } => "list-expired",
            Self::Leap { .. } => "leap",
            Self::Source { .. } => "source",
            Self::SharedClock { .. } => "shared-clock",
            Self::Falseticker { .. } => "falseticker",
            Self::ReAccepted { .. } => "re-accepted",
            Self::NoMajority { .. } => "no-majority",
            Self::Rejected { .. } => "rejected",
            Self::StepAccepted => "step-accepted",
            Self::NotNested => "not-nested",
            Self::Unstable { .. } => "unstable",
            Self::Holdover => "holdover",
            Self::Resumed => "resumed",
            Self::Synchronized { .. } => "synchronized",
            Self::Refreshed { .. } => "refreshed",
            Self::Disrupted => "disrupted",
            Self::Counter { .. } => "counter",
            Self::Signal { .. } => "signal",
            Self::GuestAdded { .. } => "guest-added",
            Self::GuestRemoved { .. } => "guest-removed",
            Self::GuestLost { .. } => "guest-lost",
            Self::GuestStep { .. } => "guest-step",
            Self::Warning { .. } => "warning",
            Self::Reloaded { .. } => "reloaded",
            Self::AtRest { .. } => "at-rest",
            Self::Stopped => "stopped",
        }
    }

    /// Whether it comes with each refresh, and matters to nobody who does not ask for it.
    pub const fn is_routine(&self) -> bool {
        matches!(self, Self::Refreshed { .. })
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Created { page } => write!(f, "{page}: a new page"),
            Self::TookOver { page, interrupted: true, .. } => {
                write!(f, "{page}: its last publisher was killed in the middle of an update")
            }
            Self::TookOver { page, status, .. } => write!(f, "{page}: its last publisher left it {status}"),
            Self::Continued { page, gap_ns } => {
                let gap = Seconds(i64::try_from(*gap_ns).unwrap_or(i64::MAX));
                write!(f, "{page}: the counter went on, and the page continues with the same marker after a gap of {gap}")
            }
            Self::NotContinued { doubt } => write!(f, "a new marker, as it is in doubt whether the counter went on: {doubt}"),
            Self::Reference => {
                f.write_str("this machine's clock is assumed exact: bounds cover only what publishing adds")
            }
            Self::Imaginary => f.write_str("the page's clock is not this machine's"),
            Self::Offset { tai_minus_utc: Some(seconds), origin, .. } => {
                let origin = match origin {
                    Origin::Stated => "as stated",
                    Origin::Kernel => "from the kernel",
                    Origin::List | Origin::Unknown => "from the system's leap-seconds.list",
                };
                write!(f, "TAI-UTC is {seconds:+} s, {origin}")
            }
            Self::Offset { tai_minus_utc: None, reason, .. } => {
                f.write_str("TAI-UTC is unknown")?;
                if let Some(reason) = reason {
                    write!(f, " ({reason})")?;
                }
                f.write_str(
                    ": the page has only one of TAI and UTC, and Linux makes no PTP clock of one on UTC; state TAI-UTC \
                     with --tai-offset, install tzdata, or let chronyd set it",
                )
            }
            Self::ListExpired { expires } => write!(
                f,
                "the list of leap seconds expired at {expires} (UTC, seconds since 1970): its last TAI-UTC is kept; update \
                 the package tzdata"
            ),
            Self::Leap { kind: Some(kind), month, news: LeapNews::Expected } => {
                write!(f, "a leap second is {kind} before {} UTC", Day(*month))
            }
            Self::Leap { kind: Some(kind), month, news: LeapNews::Unannounced } => {
                write!(f, "a leap second was {kind} before {} UTC, which nobody announced", Day(*month))
            }
            Self::Leap { month, .. } => write!(f, "no leap second before {} UTC", Day(*month)),
            Self::Source { source, reachable: true, .. } => write!(f, "{source} is reachable"),
            Self::Source { source, reason, .. } => match reason {
                Some(reason) => f.write_str(reason),
                None => write!(f, "{source} is unreachable"),
            },
            Self::SharedClock { sources } => {
                write!(f, "{} read one clock, and have one vote together", sources.join(" and "))
            }
            Self::Falseticker { source, ahead_ns } => {
                write!(f, "{source} is a falseticker, {ahead_ns:.0} ns from where true time can be: excluded")
            }
            Self::ReAccepted { source } => write!(f, "{source} is consistent again"),
            Self::NoMajority { configured } => {
                write!(f, "no majority of the {configured} configured clocks is consistent: the page gives no time")
            }
            Self::Rejected { ahead_ns } => write!(
                f,
                "the sources are {ahead_ns:.0} ns from where true time can be by what was published: a new marker, and no time"
            ),
            Self::StepAccepted => f.write_str("the contradiction persists: the step is accepted"),
            Self::NotNested => {
                f.write_str("no calibration is right for what was read before: a new marker, and no time")
            }
            Self::Unstable { change_ppm, wander_ppm } => write!(
                f,
                "the counter's frequency changed by {change_ppm:.3} ppm more than the {wander_ppm} ppm that it may wander"
            ),
            Self::Holdover => {
                f.write_str("too few sources are reachable for a majority: the clock runs on the counter alone")
            }
            Self::Resumed => f.write_str("a majority of the sources agrees again"),
            Self::Synchronized { max_error_ns } => write!(f, "synchronized, {}", Error(*max_error_ns)),
            Self::Refreshed { status, max_error_ns } => write!(f, "{status} {}", Error(*max_error_ns)),
            Self::Disrupted => f.write_str("this host's own counter was disrupted: starting anew"),
            Self::Counter { trusted: true } => f.write_str("the kernel trusts this CPU's counter again"),
            Self::Counter { trusted: false } => {
                f.write_str("the kernel does not trust this CPU's counter: a new marker, and no time")
            }
            Self::Signal { signal, seq_count } => write!(f, "{signal} published with sequence count {seq_count}"),
            Self::GuestAdded { guest, page } => write!(f, "{guest}: its page {page} is published from now on"),
            Self::GuestRemoved { guest } => write!(f, "{guest}: is gone"),
            Self::GuestLost { guest, reason } => write!(f, "{guest}: its page is not published any more: {reason}"),
            Self::GuestStep { guest, step, seq_count, .. } => {
                write!(f, "{guest}: {step}, published with sequence count {seq_count}")
            }
            Self::Warning { text } | Self::Reloaded { text } => f.write_str(text),
            Self::AtRest { status } => write!(f, "the page is at rest, {status}, until the next publisher continues it"),
            Self::Stopped => f.write_str("the page now says unreliable"),
        }
    }
}

/// An error in the unit that suits it.
struct Error(u64);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[allow(clippy::cast_precision_loss)] // to print
        let nanos = self.0 as f64;
        match self.0 {
            0..1_000 => write!(f, "± {nanos} ns"),
            1_000..1_000_000 => write!(f, "± {:.1} us", nanos / 1e3),
            1_000_000..1_000_000_000 => write!(f, "± {:.1} ms", nanos / 1e6),
            _ => write!(f, "± {:.1} s", nanos / 1e9),
        }
    }
}

/// The date of a second of UTC, which is a midnight.
struct Day(i64);

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = vmclock_core::leap::date(self.0);
        write!(f, "{year:04}-{month:02}-{day:02} 00:00:00")
    }
}

fn as_text<T: fmt::Display, S: serde::Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

#[allow(clippy::ref_option)] // as serde calls it
fn as_optional_text<T: fmt::Display, S: serde::Serializer>(
    value: &Option<T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}
