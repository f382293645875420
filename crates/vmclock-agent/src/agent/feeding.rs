// SPDX-License-Identifier: MIT OR Apache-2.0
//! Time daemons and programs that are fed, as configured.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::config::FeedConfig;
use crate::feed::chronyd::{Chronyd, Command, Conversation};
use crate::feed::clockbound::v3::{self, ClockBound3};
use crate::feed::clockbound::{ClockBound, Settings};
use crate::feed::sock::{Receiver, Sock};
use crate::feed::{Feed, FeedError};
use crate::measure::Measured;
use crate::policy::Moment;
use crate::report::{Level, Report};

/// Who is fed, and when.
#[derive(Debug, Default)]
pub(super) struct Feeding {
    feeds: Vec<Box<dyn Feed>>,
    chronyd: Option<Chronyd>,
    conversation: Option<Conversation>,
    interval: Duration,
    next: Moment,
    /// What went wrong with each feed, so that it is said once.
    errors: HashMap<String, String>,
}

impl Feeding {
    /// `page` is where a feed that needs one finds it.
    pub(super) fn configure(&mut self, config: &FeedConfig, page: &Path) -> Vec<Report> {
        let max_error = u64::try_from(config.max_error.as_nanos()).unwrap_or(u64::MAX);
        let sock = |receiver, path| -> Result<Box<dyn Feed>, FeedError> {
            Ok(Box::new(Sock::new(receiver, path, max_error)?))
        };
        // Before others take its place: a segment is locked.
        self.feeds.clear();
        let mut opened = Vec::new();
        opened.extend(config.chrony.as_ref().map(|path| sock(Receiver::Chrony, path)));
        opened.extend(config.ntpd_rs.as_ref().map(|path| sock(Receiver::NtpdRs, path)));
        let max_drift_ppb = config.max_drift_ppm.saturating_mul(1_000);
        opened.extend(config.clockbound.as_ref().map(|path| -> Result<Box<dyn Feed>, FeedError> {
            Ok(Box::new(ClockBound::open(Settings { path: path.clone(), max_drift_ppb, ..Settings::default() })?))
        }));
        opened.extend(config.clockbound3.as_ref().map(|path| -> Result<Box<dyn Feed>, FeedError> {
            Ok(Box::new(ClockBound3::open(v3::Settings { path: path.clone(), ..v3::Settings::default() }, page)?))
        }));
        (self.interval, self.next) = (config.interval, Moment::ZERO);
        self.chronyd = config.chronyd.as_ref().map(Chronyd::new);
        self.errors.clear();
        let mut reports = Vec::new();
        for feed in opened {
            match feed {
                Ok(feed) => self.feeds.push(feed),
                Err(error) => reports.push(Report::new(Level::Error, "feed", error.to_string())),
            }
        }
        reports
    }

    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.conversation.iter().map(AsFd::as_fd)
    }

    /// After how long there is something to do.
    pub(super) fn due(&self, now: Moment) -> Option<Duration> {
        let conversation = self
            .conversation
            .as_ref()
            .map(|conversation| conversation.deadline().saturating_duration_since(Instant::now()));
        let next = (!self.feeds.is_empty()).then(|| self.next.saturating_sub(now));
        [conversation, next].into_iter().flatten().min()
    }

    pub(super) fn is_due(&self, now: Moment) -> bool {
        !self.feeds.is_empty() && self.next <= now
    }

    /// There is no time to pass on.
    pub(super) fn skip(&mut self, now: Moment) {
        self.next = now + self.interval;
    }

    /// Passes on a measurement of the clock as it is.
    pub(super) fn update(&mut self, measured: &Measured, now: Moment) -> Vec<Report> {
        self.skip(now);
        self.each(|feed| feed.update(measured))
    }

    /// What was passed on does not hold any more.
    pub(super) fn disrupted(&mut self, now: Moment) -> Vec<Report> {
        self.next = now;
        let mut reports = self.each(|feed| feed.disrupted());
        reports.extend(self.tell_chronyd(&[Command::ResetSources, Command::MakeStep]));
        reports
    }

    /// The clock was stepped: what chronyd measured meanwhile is of the clock as it was. No `makestep` here: before
    /// 4.3, chronyd takes our step for the length of a slew that it had under way.
    pub(super) fn stepped(&mut self) -> Option<Report> {
        self.tell_chronyd(&[Command::ResetSources])
    }

    /// What is under way is given up for it.
    fn tell_chronyd(&mut self, commands: &[Command]) -> Option<Report> {
        self.conversation = None;
        match self.chronyd.as_ref()?.start(commands, Instant::now()) {
            Ok(conversation) => self.conversation = Some(conversation),
            Err(error) => return Some(Report::new(Level::Warning, "chronyd", error.to_string())),
        }
        None
    }

    /// Goes on with what is under way.
    pub(super) fn advance(&mut self) -> Vec<Report> {
        let Some(result) = self.conversation.as_mut().and_then(|conversation| conversation.advance(Instant::now()))
        else {
            return Vec::new();
        };
        self.conversation = None;
        vec![match result {
            Ok(()) => Report::new(Level::Info, "chronyd", "chronyd forgot what it had measured".to_owned()),
            Err(error) => Report::new(Level::Warning, "chronyd", error.to_string()),
        }]
    }

    fn each(&mut self, mut act: impl FnMut(&mut dyn Feed) -> Result<(), FeedError>) -> Vec<Report> {
        let mut reports = Vec::new();
        for feed in &mut self.feeds {
            let name = feed.name().to_owned();
            match act(feed.as_mut()) {
                Ok(()) => {
                    if self.errors.remove(&name).is_some() {
                        reports.push(Report::new(Level::Info, "feed", format!("{name}: fed again")));
                    }
                }
                Err(error) => {
                    // Numbers in it may change with each: the kind of error counts.
                    let kind = format!("{:?}", std::mem::discriminant(&error));
                    if self.errors.insert(name, kind.clone()) != Some(kind) {
                        reports.push(Report::new(Level::Warning, "feed", error.to_string()));
                    }
                }
            }
        }
        reports
    }
}
