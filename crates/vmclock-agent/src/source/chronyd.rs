// SPDX-License-Identifier: MIT OR Apache-2.0
//! chronyd as who vouches for the time, where there is neither a page with time nor a hypervisor's PTP clock.
//!
//! After a disruption what chronyd has measured is of the clock as it was: it is told to drop that, and asked until it
//! has measured anew. It has the clock, and so is told to step it.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use vmclock_core::leap::LeapStatus;
use vmclock_host::kernel::KernelClock;
use vmclock_host::source::chrony::Tracking;

use crate::feed::chronyd::{Chronyd, Command, Conversation};
use crate::measure::{Ahead, Measured};

/// An answer counts for so long.
const FRESH: Duration = Duration::from_secs(1);

/// A chronyd that is asked for the time. Nothing here waits: [`Self::measure`] asks, and gives the answer when it is
/// called again after [`Self::advance`] has said that there is one.
///
/// ```
/// use std::time::Instant;
/// use vmclock_agent::source::AskedChronyd;
/// let mut chronyd = AskedChronyd::new("/nonexistent/chronyd.sock");
/// let error = chronyd.measure(Instant::now()).unwrap_err();
/// assert!(error.contains("/nonexistent/chronyd.sock"));
/// assert!(!chronyd.is_asked());
/// ```
#[derive(Debug)]
pub struct AskedChronyd {
    chronyd: Chronyd,
    name: String,
    /// What is under way, and since when.
    conversation: Option<(Conversation, Instant)>,
    answer: Option<Result<(Tracking, Instant), String>>,
    /// What it has measured is of the clock before a disruption.
    has_to_reset: bool,
}

impl AskedChronyd {
    /// The one with this socket for commands.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let chronyd = Chronyd::new(path);
        let name = format!("chronyd {}", chronyd.path().display());
        Self { chronyd, name, conversation: None, answer: None, has_to_reset: false }
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it was asked and has not answered yet.
    pub const fn is_asked(&self) -> bool {
        self.conversation.is_some()
    }

    /// To be polled for reading.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.conversation.as_ref().map(|(conversation, _)| conversation.as_fd())
    }

    /// When to call [`advance`](Self::advance) even though there is nothing to read.
    pub fn deadline(&self) -> Option<Instant> {
        self.conversation.as_ref().map(|(conversation, _)| conversation.deadline())
    }

    /// How far chronyd has `CLOCK_REALTIME` ahead of UTC; where there is no answer, it is asked.
    ///
    /// # Errors
    ///
    /// It was only just asked, it cannot be asked, or it has no time.
    pub fn measure(&mut self, now: Instant) -> Result<Measured, String> {
        match self.answer.take() {
            Some(Ok((tracking, asked))) if now.saturating_duration_since(asked) < FRESH => {
                let age = now.saturating_duration_since(asked);
                return measured(&tracking, age).ok_or_else(|| {
                    format!("{} is not synchronized, or only to itself: see `chronyc sources`", self.name)
                });
            }
            Some(Err(error)) => return Err(error),
            _ => {}
        }
        if self.conversation.is_none() {
            self.start(&[Command::Tracking], now)?;
        }
        Err(format!("{} was asked", self.name))
    }

    /// The counter or the clock is not what it was: what chronyd knows does not hold.
    pub fn disrupted(&mut self) {
        (self.conversation, self.answer, self.has_to_reset) = (None, None, true);
    }

    /// Has it step the clock by what it has still to correct, and asks it again.
    pub fn step(&mut self, now: Instant) {
        self.answer = None;
        if let Err(error) = self.start(&[Command::MakeStep, Command::Tracking], now) {
            self.answer = Some(Err(error));
        }
    }

    /// Takes what has come; says whether there is an answer, or an error for one.
    pub fn advance(&mut self, now: Instant) -> bool {
        let Some((conversation, asked)) = &mut self.conversation else { return false };
        let Some(result) = conversation.advance(now) else { return false };
        self.answer = Some(match (result, conversation.tracking()) {
            (Ok(()), Some(tracking)) => {
                self.has_to_reset = false;
                Ok((tracking, *asked))
            }
            (Ok(()), None) => Err(format!("{} gave no answer", self.name)),
            (Err(error), _) => Err(error.to_string()),
        });
        self.conversation = None;
        true
    }

    fn start(&mut self, commands: &[Command], now: Instant) -> Result<(), String> {
        let reset = self.has_to_reset.then_some(Command::ResetSources);
        let commands: Vec<Command> = reset.into_iter().chain(commands.iter().copied()).collect();
        let conversation = self.chronyd.start(&commands, now).map_err(|error| error.to_string())?;
        self.conversation = Some((conversation, now));
        Ok(())
    }
}

fn measured(tracking: &Tracking, age: Duration) -> Option<Measured> {
    let (low, high) = tracking.ahead(age)?;
    let ahead = Ahead { low, high };
    let max_error = u64::try_from(ahead.uncertainty()).unwrap_or(u64::MAX);
    Some(Measured {
        ahead,
        realtime: KernelClock::realtime().time(),
        max_error,
        estimated_error: max_error,
        synchronized: true,
        leap: LeapStatus::UNKNOWN,
        epoch: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::chronyd::tests::Daemon;

    /// Lets it answer what it is asked until there is an answer, and gives the numbers of the commands.
    fn answered(daemon: &Daemon, chronyd: &mut AskedChronyd, now: Instant, offset: f64) -> Vec<u16> {
        let mut commands = Vec::new();
        while let Some(mut asked) = daemon.asked() {
            asked.track(offset);
            daemon.answer(&asked);
            commands.push(asked.command);
            if chronyd.advance(now) {
                break;
            }
        }
        commands
    }

    #[test]
    fn after_a_disruption_what_was_measured_is_dropped_before_anything_is_believed() {
        let (daemon, chronyd) = Daemon::new();
        let mut chronyd = AskedChronyd::new(chronyd.path());
        let now = Instant::now();
        chronyd.measure(now).expect_err("it was asked");
        assert!(chronyd.is_asked() && chronyd.fd().is_some() && chronyd.deadline().is_some());
        assert_eq!(answered(&daemon, &mut chronyd, now, 0.25), [33]);
        let ahead = chronyd.measure(now).expect("an answer").ahead;
        assert_eq!(ahead.middle(), -250_000_000, "a clock that is slow is behind");
        assert!(ahead.uncertainty() >= 4_882_813, "root dispersion and half the delay: {ahead}");

        chronyd.measure(now).expect_err("each answer counts once");
        chronyd.disrupted();
        daemon.asked().expect("of before: nobody waits for the answer any more");
        chronyd.measure(now).expect_err("it was asked anew");
        assert_eq!(answered(&daemon, &mut chronyd, now, 0.25), [66, 33], "dropped first");
        chronyd.measure(now).expect("an answer");
        chronyd.measure(now).expect_err("asked");
        assert_eq!(answered(&daemon, &mut chronyd, now, 0.25), [33], "once is enough");

        chronyd.step(now);
        assert_eq!(answered(&daemon, &mut chronyd, now, 0.0), [43, 33]);
        assert!(chronyd.measure(now).expect("an answer").ahead.may_be_right());
    }

    #[test]
    fn an_answer_grows_old_and_one_without_synchronization_is_none() {
        let (daemon, chronyd) = Daemon::new();
        let mut chronyd = AskedChronyd::new(chronyd.path());
        let now = Instant::now();
        let _ = chronyd.measure(now);
        answered(&daemon, &mut chronyd, now, 0.0);
        chronyd.measure(now + FRESH).expect_err("asked again");
        let mut asked = daemon.asked().expect("asked");
        asked.track(0.0);
        asked.unsynchronize();
        daemon.answer(&asked);
        assert!(chronyd.advance(now));
        assert!(chronyd.measure(now).expect_err("no time").contains("not synchronized"));
    }
}
