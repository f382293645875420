// SPDX-License-Identifier: MIT OR Apache-2.0
//! TAI-UTC and leap seconds: what is known of them, from where, and what UTC sources mean by it.
//!
//! A leap second is believed from a current list, or from a majority of the configured clocks, in several rounds.

use serde::{Deserialize, Serialize};
use vmclock_core::abi::{LeapIndicator, TimeType};
use vmclock_core::leap::{begins_half_year, next_month_start, LeapKind};
use vmclock_core::lifecycle::LeapStatus;
use vmclock_core::sample::Sample;
use vmclock_core::tai::TaiOffset;
use vmclock_core::time::{Span, Tai, Time, Utc};

use crate::leap_seconds::LeapSeconds;
use crate::schedule::{LeapSecond, UtcSchedule};
use crate::source::{LeapNotice, Stamp};

const DAY: i64 = 86_400;
/// TAI-UTC since 2017: what is assumed between the two where nobody says it. On a page on UTC it cancels out.
const SINCE_2017: i16 = 37;
/// So many rounds in a row a majority must show the same before it is believed.
const ROUNDS: u32 = 3;

/// What the world says of TAI-UTC. Looked up again each minute.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Knowledge {
    /// What the operator stated.
    pub stated: Option<TaiOffset>,
    /// What the kernel was told.
    pub kernel: Option<TaiOffset>,
    /// What the system's list of leap seconds says.
    pub list: Option<Listed>,
}

/// What a list says of a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Listed {
    /// TAI-UTC at that moment.
    #[serde(with = "crate::plain")]
    pub offset: TaiOffset,
    /// The next leap second after it.
    pub next: Option<LeapSecond>,
    /// UTC, in seconds since 1970, from which the list knows nothing.
    pub expires: i64,
}

impl Listed {
    /// What a list says of a moment in UTC; `None` from its expiry on.
    pub fn at(list: &LeapSeconds, utc: Time<Utc>) -> Option<Self> {
        let offset = list.tai_offset(utc.seconds()).ok()?;
        let next = list.next_after(utc.seconds()).map(|(month, kind)| LeapSecond { month, kind });
        Some(Self { offset, next, expires: list.expires() })
    }
}

/// Where TAI-UTC is known from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Origin {
    /// From the operator.
    Stated,
    /// From the kernel.
    Kernel,
    /// From the system's list of leap seconds.
    List,
    /// From nowhere.
    Unknown,
}

/// What changed of what is known of UTC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum UtcFinding {
    /// TAI-UTC is known from somewhere else than before, or is another one.
    Offset(Option<TaiOffset>, Origin),
    /// The list expired at this second of UTC. What it said last is kept as long as nothing contradicts it.
    ListExpired(i64),
    /// A leap second is believed.
    Expected(LeapSecond),
    /// One that was announced is called off, or did not come.
    CalledOff(LeapSecond),
    /// One that nobody announced came.
    Unannounced(LeapSecond),
}

/// A leap second that explains what a clock shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Claim {
    /// One that nobody announced came.
    Came(LeapSecond),
    /// The one that is expected did not come.
    DidNotCome,
}

impl Claim {
    /// The leap second that it is about, where it names one.
    pub(crate) const fn leap(&self) -> Option<LeapSecond> {
        match self {
            Self::Came(leap) => Some(*leap),
            Self::DidNotCome => None,
        }
    }
}

/// A measurement on TAI.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reading {
    /// Nothing is to be explained.
    Plain(Sample<Tai>),
    /// So vague that it is consistent in several ways: true time is within so many nanoseconds more of it.
    Vague(Sample<Tai>, u64),
    /// It is inconsistent, and would be consistent if a claim was true.
    Claimed { plain: Sample<Tai>, explained: Sample<Tai>, claim: Claim },
}

/// What is known of UTC.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UtcKeeper {
    schedule: UtcSchedule,
    /// What the page is on. Where nobody knew TAI-UTC at the start, what most of the clocks are on: the others cannot
    /// be used as long as it is not known.
    #[serde(with = "crate::plain")]
    time_type: TimeType,
    /// On a page on UTC whose TAI-UTC became known later: by how much that is more than what was assumed.
    correction: i16,
    origin: Origin,
    list: Option<Listed>,
    is_expiry_reported: bool,
    /// Whether the leap second in the schedule comes from announcements of sources.
    is_announced: bool,
    /// In how many rounds, with none to the contrary between them, a majority announced a leap second that is not in
    /// the schedule, or none where one is.
    announcing: u32,
    /// In how many rounds in a row a majority made the same claim.
    claiming: Option<(Claim, u32)>,
}

impl UtcKeeper {
    /// With what the world says now. `prefers_tai`: more clocks are on TAI than on UTC.
    pub fn new(knowledge: Knowledge, utc: Time<Utc>, prefers_tai: bool) -> Self {
        let (offset, origin) = Self::known(&knowledge, utc.seconds());
        let assumed = TaiOffset::from_seconds(SINCE_2017);
        let offset = offset.or(knowledge.list.map(|list| list.offset)).or(assumed);
        // 37 is in the range.
        let offset = offset.unwrap_or_else(|| unreachable!("{SINCE_2017} s is a TAI offset"));
        let mut keeper = Self {
            schedule: UtcSchedule { offset, leap: None },
            time_type: if prefers_tai || origin != Origin::Unknown { TimeType::TAI } else { TimeType::UTC },
            correction: 0,
            origin,
            list: knowledge.list,
            is_expiry_reported: false,
            is_announced: false,
            announcing: 0,
            claiming: None,
        };
        keeper.follow_list(utc.seconds());
        keeper
    }

    fn known(knowledge: &Knowledge, utc: i64) -> (Option<TaiOffset>, Origin) {
        let list = knowledge.list.filter(|list| utc < list.expires);
        match (knowledge.stated, knowledge.kernel, list) {
            (Some(stated), _, _) => (Some(stated), Origin::Stated),
            (None, Some(kernel), _) => (Some(kernel), Origin::Kernel),
            (None, None, Some(list)) => (Some(list.offset), Origin::List),
            (None, None, None) => (None, Origin::Unknown),
        }
    }

    /// TAI-UTC and leap second as they are expected, on the estimator's scale: what converts UTC to it and back.
    pub const fn schedule(&self) -> &UtcSchedule {
        &self.schedule
    }

    /// The scale of the page, for as long as it lives.
    pub const fn time_type(&self) -> TimeType {
        self.time_type
    }

    /// Whether a stamp can be put on the page's scale.
    pub(crate) fn reads(&self, stamp: &Stamp) -> bool {
        let own = match stamp {
            Stamp::Tai(_) => TimeType::TAI,
            Stamp::Utc(_) => TimeType::UTC,
        };
        self.time_type == own || self.origin != Origin::Unknown
    }

    /// Where TAI-UTC is known from.
    pub const fn origin(&self) -> Origin {
        self.origin
    }

    /// TAI-UTC as it is to be published where `scheduled` holds by the schedule. `None` where it is unknown.
    pub fn published(&self, scheduled: TaiOffset) -> Option<TaiOffset> {
        match self.origin {
            Origin::Unknown => None,
            _ => TaiOffset::from_seconds(scheduled.seconds().checked_add(self.correction)?),
        }
    }

    /// Whether no number is beyond what can be, in one that was saved.
    pub(crate) fn is_plausible(&self) -> bool {
        let Self { schedule, list, correction, announcing, claiming, .. } = self;
        let claimed = claiming.and_then(|(claim, _)| claim.leap());
        let leaps = [schedule.leap, list.and_then(|list| list.next), claimed];
        leaps.iter().flatten().all(LeapSecond::is_plausible)
            && list.is_none_or(|list| (0..=i64::MAX / 4).contains(&list.expires))
            && correction.unsigned_abs() < 3_600
            && *announcing < ROUNDS
            && claiming.is_none_or(|(_, rounds)| rounds < ROUNDS)
    }

    /// What a page is to say of TAI-UTC and leap seconds at a reference time, by a schedule.
    pub fn leap_status(&self, schedule: &UtcSchedule, time: Time<Tai>) -> LeapStatus {
        let (scheduled, indicator) = schedule.at(time);
        let tai_offset = self.published(scheduled);
        // Without it, the indicator means something on a page on UTC only.
        let is_meant = tai_offset.is_some() || self.time_type == TimeType::UTC;
        LeapStatus { tai_offset, indicator: if is_meant { indicator } else { LeapIndicator::NONE } }
    }

    /// Takes what an operator announces: a leap second, or that there is none.
    pub(crate) fn announce(&mut self, leap: Option<LeapSecond>) {
        self.schedule.leap = leap;
        self.is_announced = false;
    }

    /// Takes what the world says now. `time`: as the estimator has it. `sees_utc`: a clock on UTC would show a leap
    /// second that no list has.
    pub(crate) fn update(&mut self, knowledge: Knowledge, time: Time<Tai>, sees_utc: bool) -> Vec<UtcFinding> {
        let mut findings = Vec::new();
        self.schedule = self.schedule.settled(time);
        let (scheduled, _) = self.schedule.at(time);
        let utc = time.seconds().saturating_sub(scheduled.seconds().into());
        let before = (self.published(scheduled), self.origin);
        if knowledge.list.is_some() && knowledge.list != self.list {
            (self.list, self.is_expiry_reported) = (knowledge.list, false);
        }
        match (Self::known(&Knowledge { list: self.list, ..knowledge }, utc), self.list) {
            ((Some(offset), origin), _) => {
                self.origin = origin;
                if self.time_type == TimeType::UTC {
                    self.correction = offset.seconds() - scheduled.seconds();
                } else if self.schedule.leap.is_none() {
                    self.schedule.offset = offset;
                }
            }
            // Until the end of the month in which a list expired there can be no leap second that it does not have;
            // after that it takes a clock that would show one.
            ((None, _), Some(list)) if self.origin == Origin::List => {
                if !std::mem::replace(&mut self.is_expiry_reported, true) {
                    findings.push(UtcFinding::ListExpired(list.expires));
                }
                if !sees_utc && utc >= next_month_start(list.expires) {
                    self.origin = Origin::Unknown;
                }
            }
            // The kernel forgot: nothing that was known became wrong by that.
            ((None, _), _) => {}
        }
        let after = (self.published(scheduled), self.origin);
        if after != before {
            findings.push(UtcFinding::Offset(after.0, after.1));
        }
        self.follow_list(utc);
        findings
    }

    /// A current list has leap seconds long before any source announces them, and has none that are not.
    fn follow_list(&mut self, utc: i64) {
        let Some(list) = self.list.filter(|list| utc < list.expires) else { return };
        if self.schedule.leap.is_none() {
            self.schedule.leap = list.next;
            self.is_announced = false;
        }
    }

    /// Whether there can be such a leap second, by what a current list says.
    fn is_possible(&self, leap: LeapSecond, utc: i64) -> bool {
        match self.list.filter(|list| utc < list.expires && leap.month <= list.expires) {
            Some(list) => list.next == Some(leap),
            None => true,
        }
    }

    /// Takes what a majority of the configured clocks announces for the end of this UTC day: `None` if there is no
    /// majority for any. `against`: whether a majority announces none.
    pub(crate) fn hear(&mut self, announced: Option<LeapKind>, against: bool, time: Time<Tai>) -> Option<UtcFinding> {
        let (scheduled, _) = self.schedule.at(time);
        let utc = time.seconds().saturating_sub(scheduled.seconds().into());
        let month = next_month_start(utc);
        let news = match (announced, self.schedule.leap) {
            (Some(kind), None) => month - utc <= DAY && self.is_possible(LeapSecond { month, kind }, utc),
            // A round in which too few answer says neither.
            (None, _) if !against => return None,
            (None, Some(leap)) => self.is_announced && utc < leap.month - 1,
            _ => false,
        };
        self.announcing = if news { self.announcing + 1 } else { 0 };
        if self.announcing < ROUNDS {
            return None;
        }
        self.announcing = 0;
        match (announced, self.schedule.leap.take()) {
            (Some(kind), _) => {
                let leap = LeapSecond { month, kind };
                (self.schedule.leap, self.is_announced) = (Some(leap), true);
                Some(UtcFinding::Expected(leap))
            }
            (None, leap) => leap.map(UtcFinding::CalledOff),
        }
    }

    /// A stamp on TAI. `residual`: the distance of a sample from where it can be, 0 if it is consistent; `None` while
    /// nothing is known. `None` beyond ±2^63 s.
    pub(crate) fn read(
        &self,
        stamp: Stamp,
        notice: LeapNotice,
        residual: impl Fn(Sample<Tai>) -> Option<f64>,
    ) -> Option<Reading> {
        let sample = match stamp {
            // What the estimator has is TAI less what was assumed wrongly.
            Stamp::Tai(sample) => {
                let correction = Span::from_nanos(i64::from(self.correction) * -1_000_000_000);
                return Some(Reading::Plain(sample.with_time(sample.time.checked_add(correction)?)));
            }
            Stamp::Utc(sample) => sample,
        };
        let utc = sample.time.seconds();
        let with = |offset: TaiOffset| Some(sample.with_time(offset.tai(sample.time)?));
        let plain = with(self.schedule.offset)?;
        if residual(plain).is_none() {
            return self.first(utc, plain, notice, with);
        }
        let fits = |sample: &Sample<Tai>| residual(*sample).is_some_and(|off| off.abs() <= 0.0);
        let Some(leap) = self.schedule.leap else {
            let claims = self.late(utc).into_iter().flatten();
            let claims = claims.filter_map(|leap| Some((with(self.schedule.after(leap.kind))?, Claim::Came(leap))));
            return Some(resolve(plain, claims, fits));
        };
        let after = with(self.schedule.after(leap.kind))?;
        let is_over = utc >= leap.month || notice.now;
        if (utc - leap.month).abs() <= 2 && !notice.now {
            // The source may not say in which of the two seconds it is, but the counter knows.
            return Some(match (fits(&plain), fits(&after)) {
                (true, true) => hull(plain, [after]),
                (true, false) => Reading::Plain(plain),
                (false, true) => Reading::Plain(after),
                (false, false) => Reading::Plain(if is_over { after } else { plain }),
            });
        }
        if !is_over {
            return Some(Reading::Plain(plain));
        }
        let may_have_failed = self.is_announced && utc < leap.month + DAY;
        Some(resolve(after, may_have_failed.then_some((plain, Claim::DidNotCome)), fits))
    }

    /// A stamp while nothing is known to compare it with.
    fn first(
        &self,
        utc: i64,
        plain: Sample<Tai>,
        notice: LeapNotice,
        with: impl Fn(TaiOffset) -> Option<Sample<Tai>>,
    ) -> Option<Reading> {
        match self.schedule.leap {
            Some(leap) if utc >= leap.month || notice.now => {
                Some(Reading::Plain(with(self.schedule.after(leap.kind))?))
            }
            _ => Some(Reading::Plain(plain)),
        }
    }

    /// The leap seconds that may have come unannounced, by what a source on UTC shows: they show when they are over, as
    /// UTC is off by a second since the month began. All leap seconds so far came at the end of June or December.
    fn late(&self, utc: i64) -> [Option<LeapSecond>; 2] {
        // The month that began in the last day, if one did. An inserted second has been repeated before it begins.
        let month = next_month_start(utc - DAY);
        let is_near = (month - 1..month + DAY).contains(&utc) && begins_half_year(month);
        [LeapKind::Inserted, LeapKind::Deleted].map(|kind| {
            let leap = LeapSecond { month, kind };
            (is_near && self.is_possible(leap, utc - DAY)).then_some(leap)
        })
    }

    /// Takes what a majority of the configured clocks claims in this round: `None` if there is no majority for any.
    /// Says whether it is believed from now on.
    pub(crate) fn weigh(&mut self, claim: Option<Claim>) -> Option<UtcFinding> {
        let Some(claim) = claim else {
            self.claiming = None;
            return None;
        };
        let rounds = self.claiming.filter(|(before, _)| *before == claim).map_or(1, |(_, rounds)| rounds + 1);
        self.claiming = Some((claim, rounds));
        if rounds < ROUNDS {
            return None;
        }
        self.claiming = None;
        match claim {
            Claim::Came(leap) => {
                (self.schedule.leap, self.is_announced) = (Some(leap), true);
                Some(UtcFinding::Unannounced(leap))
            }
            Claim::DidNotCome => self.schedule.leap.take().map(UtcFinding::CalledOff),
        }
    }
}

/// A sample that is as it looks, unless only a claim makes it consistent; or too vague to say.
fn resolve(
    plain: Sample<Tai>,
    claims: impl IntoIterator<Item = (Sample<Tai>, Claim)>,
    fits: impl Fn(&Sample<Tai>) -> bool,
) -> Reading {
    let consistent: Vec<_> = claims.into_iter().filter(|(explained, _)| fits(explained)).collect();
    match (fits(&plain), consistent.first()) {
        (_, None) => Reading::Plain(plain),
        (false, Some((explained, claim))) => Reading::Claimed { plain, explained: *explained, claim: *claim },
        (true, Some(_)) => hull(plain, consistent.into_iter().map(|(explained, _)| explained)),
    }
}

/// A sample that may be any of these, which are whole seconds apart.
fn hull(sample: Sample<Tai>, others: impl IntoIterator<Item = Sample<Tai>>) -> Reading {
    let time = sample.time;
    let range =
        others.into_iter().fold((time, time), |(first, last), other| (first.min(other.time), last.max(other.time)));
    let half = Span::from_raw(range.1.since(range.0).unwrap_or_default().raw() / 2);
    let middle = range.0.checked_add(half).unwrap_or(time);
    Reading::Vague(sample.with_time(middle), u64::try_from(half.ceil_nanos()).unwrap_or(u64::MAX))
}
