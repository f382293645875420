// SPDX-License-Identifier: MIT OR Apache-2.0
//! What clients of the service send and receive: one JSON object a line. `docs/control.md` is this for writers of other
//! clients.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};
use vmclock_core::guest_counter::{GuestCounter, Scale};

use crate::event::Event;

/// The version of the protocol, which a request may state. What is added to requests and answers does not change it.
pub const VERSION: u64 = 1;
/// The longest line, in bytes.
pub const LONGEST_LINE: usize = 16 * 1024;
/// The longest name of a guest, in bytes.
const LONGEST_NAME: usize = 128;

/// The name of a guest: 1 to 128 bytes without `/` and control characters.
///
/// ```
/// use vmclock_host::service::protocol::GuestName;
/// let name: GuestName = "web-7".parse()?;
/// assert_eq!(name.as_str(), "web-7");
/// assert!("../etc".parse::<GuestName>().is_err());
/// # Ok::<(), vmclock_host::service::protocol::Refusal>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(transparent)]
pub struct GuestName(String);

impl GuestName {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GuestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for GuestName {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let is_name = (1..=LONGEST_NAME).contains(&text.len())
            && !text.contains(|c: char| c == '/' || c.is_control())
            && !matches!(text, "." | "..");
        if is_name {
            Ok(Self(text.to_owned()))
        } else {
            Err(Refusal::new(
                Kind::BadRequest,
                format!("{text:?}: is no name for a guest: 1 to {LONGEST_NAME} bytes without / and control characters"),
            ))
        }
    }
}

impl<'de> Deserialize<'de> for GuestName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(|refusal: Refusal| de::Error::custom(refusal.text))
    }
}

/// A number of 64 bits. It is written as `"0x..."`, since in many languages a JSON number has 53; both are read.
///
/// ```
/// use vmclock_host::service::protocol::Wide;
/// let wide: Wide = serde_json::from_str("\"0x1f\"")?;
/// assert_eq!(wide, serde_json::from_str("31")?);
/// assert_eq!(serde_json::to_string(&wide)?, "\"0x1f\"");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wide(pub u64);

impl Serialize for Wide {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:#x}", self.0))
    }
}

impl<'de> Deserialize<'de> for Wide {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(number) => Ok(Self(number)),
            Written::Text(text) => {
                let digits =
                    text.strip_prefix("0x").filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
                let number = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
                number
                    .map(Self)
                    .ok_or_else(|| de::Error::custom(format!("{text:?}: is no number of 64 bits like 0x1f")))
            }
        }
    }
}

/// How a guest's counter relates to this machine's.
///
/// In JSON: `"unknown"`, `"none"`, `"host"`, or `{"offset": "0x...", "scale": {"ratio": "0x...", "fraction_bits": 48}, "below":
/// "0x0", "above": "0x0"}`, of which all but the offset may be left out.
///
/// ```
/// use vmclock_core::guest_counter::GuestCounter;
/// use vmclock_host::service::protocol::Relation;
/// let relation: Relation = serde_json::from_str(r#"{"offset": "0xfffffffffffffffb"}"#)?;
/// assert_eq!(relation.counter(), Some(GuestCounter::exact(5_u64.wrapping_neg(), None)));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Relation {
    /// It is not known: the page gives no time.
    #[default]
    Unknown,
    /// The guest has none that could ever be known: the page says so, too.
    None,
    /// The guest reads this machine's counter.
    Host,
    /// `guest = offset + floor(host * ratio / 2^fraction_bits)`.
    Known(GuestCounter),
}

impl Relation {
    /// The guest's counter, if it is known.
    pub const fn counter(self) -> Option<GuestCounter> {
        match self {
            Self::Unknown | Self::None => None,
            Self::Host => Some(GuestCounter::exact(0, None)),
            Self::Known(counter) => Some(counter),
        }
    }
}

/// A relation as it is written.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum WrittenRelation {
    Word(RelationWord),
    Known(WrittenCounter),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RelationWord {
    Unknown,
    None,
    Host,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenCounter {
    offset: Wide,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scale: Option<WrittenScale>,
    #[serde(default)]
    below: Wide,
    #[serde(default)]
    above: Wide,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenScale {
    ratio: Wide,
    fraction_bits: u8,
}

impl Serialize for Relation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let written = match self {
            Self::Unknown => WrittenRelation::Word(RelationWord::Unknown),
            Self::None => WrittenRelation::Word(RelationWord::None),
            Self::Host => WrittenRelation::Word(RelationWord::Host),
            Self::Known(counter) => {
                let scale = counter.scale().map(|Scale { ratio, fraction_bits }| (Wide(ratio), fraction_bits));
                let (below, above) = counter.tolerance();
                WrittenRelation::Known(WrittenCounter {
                    offset: Wide(counter.offset()),
                    scale: scale.map(|(ratio, fraction_bits)| WrittenScale { ratio, fraction_bits }),
                    below: Wide(below),
                    above: Wide(above),
                })
            }
        };
        written.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Relation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let why = "is neither \"unknown\", \"none\" nor \"host\", nor an object with an offset";
        let written = WrittenRelation::deserialize(deserializer).map_err(|_| de::Error::custom(why))?;
        Ok(match written {
            WrittenRelation::Word(RelationWord::Unknown) => Self::Unknown,
            WrittenRelation::Word(RelationWord::None) => Self::None,
            WrittenRelation::Word(RelationWord::Host) => Self::Host,
            WrittenRelation::Known(WrittenCounter { offset, scale, below, above }) => {
                let scale = scale.map(|WrittenScale { ratio, fraction_bits }| Scale { ratio: ratio.0, fraction_bits });
                Self::Known(GuestCounter::within(offset.0, below.0, above.0, scale))
            }
        })
    }
}

/// Where a guest's page is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// A file, by its absolute path. Only for root and the user that the service runs as.
    Path(PathBuf),
    /// The file descriptor that comes with the request (`SCM_RIGHTS`): of a memfd or a plain file, open for reading and
    /// writing.
    Descriptor,
}

/// What happened to a guest, as far as its page is concerned: UAPI.13's table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Step {
    /// It is paused, and will resume with another counter: no time until that is known.
    Paused,
    /// It resumed, on this host and from this host's memory.
    Resumed,
    /// It will be loaded from elsewhere, and its page is written by the loader until it is.
    Incoming,
    /// It was loaded from saved state, of which there may be copies: new marker, new generation.
    Restored,
    /// It was migrated to this host: new marker.
    MigratedIn,
    /// It was migrated from this host, or is about to be: no time.
    MigratedOut,
    /// It was reset: no time until its counter is known.
    Reset,
    /// It was cloned while it runs: new generation.
    Cloned,
    /// Its counter was disrupted otherwise: new marker, no time until the counter is known.
    Disrupted,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::Incoming => "incoming",
            Self::Restored => "restored",
            Self::MigratedIn => "migrated-in",
            Self::MigratedOut => "migrated-out",
            Self::Reset => "reset",
            Self::Cloned => "cloned",
            Self::Disrupted => "disrupted",
        })
    }
}

/// What is announced to guests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Notice {
    /// No disruption is expected.
    None,
    /// Within about a day.
    Soon,
    /// Within about an hour.
    Imminent,
}

/// What is announced for the end of the month.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeapWord {
    /// No leap second.
    None,
    /// An inserted one.
    Positive,
    /// A deleted one.
    Negative,
}

/// What a client asks for.
///
/// ```
/// use vmclock_host::service::protocol::{Call, Request, Step};
/// let line = r#"{"request": "lifecycle", "guest": "web-7", "step": "paused", "id": 3}"#;
/// let call = Call::parse(line).map_err(|(_, refusal)| refusal)?;
/// assert_eq!(call.id, Some(3.into()));
/// assert!(matches!(call.request, Request::Lifecycle { step: Step::Paused, counter: None, .. }));
/// # Ok::<(), vmclock_host::service::protocol::Refusal>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Request {
    /// Which version the service speaks. Answer: [`Version`].
    Version {},
    /// From now on the service publishes a guest's page. Answer: [`PageState`].
    AddGuest {
        /// The guest's name, which no other guest has.
        guest: GuestName,
        /// Its page.
        page: Place,
        /// Its counter.
        #[serde(default)]
        counter: Relation,
        /// Whether the guest is notified of each update: sets the page's flag. With [`Place::Path`] the first
        /// descriptor of the request, else the second, is an eventfd that is written 1 then, if there is one; the
        /// client may instead notify the guest itself. Doorbells are taken from root and the service's user only.
        #[serde(default)]
        notify: bool,
        /// What is known of the guest: by default it boots, or runs on.
        #[serde(default)]
        step: Option<Step>,
    },
    /// A guest is gone: its page says `unreliable` from now on. Answer: [`Done`].
    RemoveGuest {
        /// Which.
        guest: GuestName,
    },
    /// Something happened to a guest. Answer, when the page says so: [`PageState`].
    Lifecycle {
        /// Which.
        guest: GuestName,
        /// What.
        step: Step,
        /// Its counter from now on, where that is known already.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        counter: Option<Relation>,
        /// The guest may have seen sequence counts up to this: the next update continues behind it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seen: Option<u32>,
        /// The generation of a page that was migrated here, which it keeps.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        generation: Option<Wide>,
    },
    /// A guest's counter is known from now on, or is not any more. Answer, when the page says so: [`PageState`].
    SetCounter {
        /// Which guest.
        guest: GuestName,
        /// Its counter.
        counter: Relation,
    },
    /// A disruption is expected, or not any more. Answer: [`Done`].
    Announce {
        /// For which guest. Without it for all, and on the host's own page: for root and the service's user.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        guest: Option<GuestName>,
        /// What.
        notice: Notice,
    },
    /// A leap second at the end of this month, or none: for root and the service's user. Answer: [`Done`].
    Leap {
        /// Which.
        kind: LeapWord,
    },
    /// What is in the memory of a guest's page beside what was published. Answer: [`Inspection`].
    Inspect {
        /// Which guest.
        guest: GuestName,
    },
    /// All guests. Answer: [`GuestList`].
    Guests {},
    /// All sources. Answer: [`SourceList`].
    Sources {},
    /// The clock. Answer: [`Tracking`].
    Tracking {},
    /// From now on each event is sent, as a line whose `event` is its name. Answer: [`Done`].
    Subscribe {},
}

impl Request {
    /// Whether it changes nothing: for whoever can connect.
    pub const fn is_read_only(&self) -> bool {
        matches!(self, Self::Version {} | Self::Guests {} | Self::Sources {} | Self::Tracking {} | Self::Subscribe {})
    }
}

/// A request with what tells its answer from others.
#[derive(Clone, PartialEq, Debug)]
pub struct Call {
    /// Comes back in the answer: any JSON.
    pub id: Option<Value>,
    /// The request.
    pub request: Request,
}

impl Call {
    /// Reads a line. What cannot be read is refused, with the id if there is one.
    pub fn parse(line: &str) -> Result<Self, (Option<Value>, Refusal)> {
        let refuse = |id: &Option<Value>, text: String| (id.clone(), Refusal::new(Kind::BadRequest, text));
        let mut object: Map<String, Value> =
            serde_json::from_str(line).map_err(|error| refuse(&None, format!("is no JSON object: {error}")))?;
        let id = object.remove("id");
        match object.remove("vmclock").map(|version| version.as_u64().ok_or(version)) {
            None | Some(Ok(VERSION)) => {}
            Some(version) => {
                let version = version.map_or_else(|other| other.to_string(), |number| number.to_string());
                let text = format!("\"vmclock\": {version}: this service speaks version {VERSION} of the protocol");
                return Err((id, Refusal::new(Kind::Unsupported, text)));
            }
        }
        match serde_json::from_value(Value::Object(object)) {
            Ok(request) => Ok(Self { id, request }),
            Err(error) => Err(refuse(&id, error.to_string())),
        }
    }

    /// As a line, with its end.
    pub fn line(&self) -> String {
        // A request is an object of strings and numbers.
        let mut object = serde_json::to_value(&self.request).unwrap_or_default();
        object["vmclock"] = VERSION.into();
        if let Some(id) = &self.id {
            object["id"] = id.clone();
        }
        format!("{object}\n")
    }
}

/// Why a request is refused, for programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Kind {
    /// It makes no sense.
    BadRequest,
    /// The protocol's version is another.
    Unsupported,
    /// The client may not do that.
    Denied,
    /// There is no such guest.
    NoSuchGuest,
    /// There is such a guest already.
    Exists,
    /// There are too many guests.
    TooMany,
    /// The page cannot be published in.
    BadPage,
    /// It was not possible.
    Failed,
}

/// A request that is refused, and has changed nothing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// Why, for programs.
    pub kind: Kind,
    /// Why, and what to do.
    pub text: String,
}

impl Refusal {
    /// With a reason.
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }
}

/// What the service speaks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Version {
    /// The version of the protocol.
    pub version: u64,
    /// The version of the program.
    pub program: String,
}

/// It was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Done {}

/// What a guest's page says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PageState {
    /// Its sequence count, never odd.
    pub seq_count: u32,
    /// Its disruption marker.
    pub disruption_marker: Wide,
    /// Its generation.
    pub vm_generation_counter: Wide,
    /// Its status.
    pub clock_status: String,
    /// Maximum error at its reference time, in ± nanoseconds. None where it gives no bounds.
    pub max_error_ns: Option<u64>,
}

/// What is in a page's memory beside what was published.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Inspection {
    /// Whether it is what was published.
    pub is_published: bool,
    /// The sequence count that was published last.
    pub published: u32,
    /// The sequence count in the memory.
    pub seq_count: u32,
    /// The generation in the memory, if that is a page which has one.
    pub generation: Option<Wide>,
}

/// A guest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GuestState {
    /// Its name.
    pub guest: GuestName,
    /// Its page: a path, or `descriptor`.
    pub page: String,
    /// The user that added it.
    pub user: u32,
    /// Its counter.
    pub counter: Relation,
    /// What happened last.
    pub step: Option<Step>,
    /// What its page says.
    #[serde(flatten)]
    pub state: PageState,
}

/// All guests, by name.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct GuestList {
    /// The guests.
    pub guests: Vec<GuestState>,
}

/// A source.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SourceState {
    /// Its name, as configured.
    pub source: String,
    /// Which clock it reads.
    pub clock: String,
    /// `selected`, `falseticker`, `candidate` or `unreachable`.
    pub standing: String,
    /// Which of the last eight rounds it answered in, a bit each, the last one the lowest.
    pub reach: u8,
    /// How far ahead of the published clock its last measurement was, in nanoseconds. None where that is unknown.
    pub offset_ns: Option<f64>,
    /// Its own maximum error at that measurement, in ± nanoseconds.
    pub max_error_ns: Option<u64>,
    /// Whether it was synchronized then.
    pub synchronized: Option<bool>,
    /// How long ago that was, in nanoseconds.
    pub age_ns: Option<u64>,
    /// Why it did not answer in the last round.
    pub reason: Option<String>,
}

/// All sources, as configured.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct SourceList {
    /// The sources.
    pub sources: Vec<SourceState>,
}

/// The clock that is published.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Tracking {
    /// `initializing`, `synchronized`, `free-running` or `unreliable`.
    pub status: String,
    /// The marker of the host's own page.
    pub disruption_marker: Wide,
    /// The scale of the pages: `tai` or `utc`.
    pub time_type: String,
    /// TAI-UTC in seconds, +37 since 2017. None where it is unknown.
    pub tai_minus_utc: Option<i16>,
    /// Where that is known from: `stated`, `kernel`, `list` or `unknown`.
    pub tai_origin: String,
    /// The host's own page's leap indicator.
    pub leap_indicator: String,
    /// Maximum error of the time now, in ± nanoseconds. None where there is no time.
    pub max_error_ns: Option<u64>,
    /// Estimated error of the time at the last update, in ± nanoseconds.
    pub estimated_error_ns: Option<u64>,
    /// How far the counter's frequency is from what the kernel measured at boot, in ppm (positive: faster).
    pub frequency_ppm: Option<f64>,
    /// The frequency wander that is assumed now, in ppm.
    pub drift_ppm: f64,
    /// The selected sources.
    pub selected: Vec<String>,
    /// How many clocks are configured, and so how many a majority is of.
    pub clocks: usize,
    /// How long ago the pages were last brought up to date, in nanoseconds.
    pub update_age_ns: Option<u64>,
    /// How long until the sources are polled again, in nanoseconds. None while they are.
    pub next_round_ns: Option<u64>,
    /// How many guests there are.
    pub guests: usize,
}

/// What is answered.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Answer {
    /// To [`Request::Version`].
    Version(Version),
    /// To what has no other answer.
    Done(Done),
    /// To what changes a guest's page.
    Page(PageState),
    /// To [`Request::Inspect`].
    Inspection(Inspection),
    /// To [`Request::Guests`].
    Guests(GuestList),
    /// To [`Request::Sources`].
    Sources(SourceList),
    /// To [`Request::Tracking`].
    Tracking(Tracking),
}

/// An answer, or a refusal, as a line with its end: `{"ok": true, ...}` or `{"ok": false, "error": {"kind": ...,
/// "text": ...}}`, with the request's id.
pub fn answer_line(id: Option<&Value>, answer: &Result<Answer, Refusal>) -> String {
    // Both are objects of strings, numbers and lists.
    let mut object = match answer {
        Ok(answer) => serde_json::to_value(answer).unwrap_or_default(),
        Err(refusal) => serde_json::json!({"error": refusal}),
    };
    object["ok"] = answer.is_ok().into();
    if let Some(id) = id {
        object["id"] = id.clone();
    }
    format!("{object}\n")
}

/// An event as a line with its end: its fields, and its `text`.
///
/// ```
/// use vmclock_host::event::Event;
/// use vmclock_host::service::protocol::event_line;
/// assert!(event_line(&Event::Holdover).starts_with(r#"{"event":"holdover","text":"#));
/// ```
pub fn event_line(event: &Event) -> String {
    // An event is an object of strings and numbers.
    let mut line = serde_json::to_value(event).unwrap_or_default();
    line["text"] = event.to_string().into();
    format!("{line}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn name() -> GuestName {
        "web-7".parse().expect("a name")
    }

    #[test]
    fn requests_read_back_as_they_were_written() {
        let scaled = GuestCounter::within(7, 3, u64::MAX, Some(Scale { ratio: 1 << 63, fraction_bits: 48 }));
        let requests = [
            Request::Version {},
            Request::AddGuest {
                guest: name(),
                page: Place::Path("/run/page".into()),
                counter: Relation::Host,
                notify: true,
                step: Some(Step::Incoming),
            },
            Request::AddGuest {
                guest: name(),
                page: Place::Descriptor,
                counter: Relation::Known(scaled),
                notify: false,
                step: None,
            },
            Request::Lifecycle {
                guest: name(),
                step: Step::MigratedIn,
                counter: Some(Relation::None),
                seen: Some(8),
                generation: Some(Wide(u64::MAX)),
            },
            Request::Announce { guest: None, notice: Notice::Imminent },
            Request::Leap { kind: LeapWord::Negative },
            Request::Subscribe {},
        ];
        for request in requests {
            let call = Call { id: Some(json!("x")), request };
            let line = call.line();
            assert_eq!(Call::parse(&line), Ok(call), "{line}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_id() {
        for (line, id, words) in [
            ("", None, "no JSON object"),
            ("[]", None, "no JSON object"),
            (r#"{"id":4}"#, Some(json!(4)), "request"),
            (r#"{"request":"explode","id":4}"#, Some(json!(4)), "explode"),
            (r#"{"request":"guests","id":4,"gest":"x"}"#, Some(json!(4)), "gest"),
            (r#"{"request":"remove-guest","guest":"a/b"}"#, None, "no name for a guest"),
            (r#"{"request":"remove-guest","guest":""}"#, None, "no name for a guest"),
            (r#"{"request":"guests","vmclock":2}"#, None, "version 1"),
            (r#"{"request":"guests","vmclock":"1"}"#, None, "version 1"),
            (r#"{"request":"set-counter","guest":"x","counter":"hosts"}"#, None, "neither"),
            (r#"{"request":"set-counter","guest":"x","counter":{"offset":"0x+1"}}"#, None, "neither"),
        ] {
            let (found, refusal) = Call::parse(line).expect_err(line);
            assert_eq!(found, id, "{line}");
            assert!(refusal.text.contains(words), "{line}: {refusal}");
        }
    }
}
