// SPDX-License-Identifier: MIT OR Apache-2.0
//! `discipline = true`: keeps the clock on the page, unless a time daemon does something of the kind.

use std::io;
use std::time::Duration;

use vmclock_core::leap::LeapKind;
use vmclock_core::tai::TaiOffset;

use crate::clock::{Quality, SystemClock};
use crate::config::ClockConfig;
use crate::discipline::Servo;
use crate::feed::{daemons, Leap};
use crate::measure::Measured;
use crate::policy::Moment;
use crate::report::{Level, Report};

#[derive(Debug, Default)]
pub(super) struct Steady {
    servo: Option<Servo>,
    interval: Duration,
    next: Moment,
    frequency: Option<i64>,
    tai_offset: Option<TaiOffset>,
    failed: bool,
}

impl Steady {
    pub(super) fn configure(&mut self, config: &ClockConfig, clock: &mut impl SystemClock) -> Vec<Report> {
        *self = Self { interval: config.discipline_interval, ..Self::default() };
        if !config.discipline {
            return Vec::new();
        }
        let others: Vec<_> = daemons::running().unwrap_or_default().iter().map(ToString::to_string).collect();
        if !others.is_empty() {
            let text = format!("{} runs: the clock is left to it, but for steps after events", others.join(", "));
            return vec![Report::new(Level::Warning, "discipline", text)];
        }
        match clock.frequency() {
            Ok(frequency) => {
                self.servo = Some(Servo::new(frequency));
                vec![Report::new(Level::Info, "discipline", "the clock is kept on the page".to_owned())]
            }
            Err(error) => vec![Report::new(Level::Error, "discipline", format!("adjtimex: {error}"))],
        }
    }

    pub(super) const fn is_active(&self) -> bool {
        self.servo.is_some()
    }

    pub(super) fn due(&self) -> Option<Moment> {
        self.servo.as_ref().map(|_| self.next)
    }

    pub(super) fn is_due(&self, now: Moment) -> bool {
        self.due().is_some_and(|at| at <= now)
    }

    pub(super) fn restart(&mut self) {
        if let Some(servo) = &mut self.servo {
            servo.restart();
        }
    }

    /// There is no time to go by.
    pub(super) fn skip(&mut self, now: Moment) {
        self.next = now + self.interval;
    }

    /// Adjusts frequency, quality and TAI offset.
    pub(super) fn adjust(&mut self, measured: &Measured, now: Moment, clock: &mut impl SystemClock) -> Vec<Report> {
        self.skip(now);
        let leap_today = match Leap::of(measured) {
            Leap::Far => None,
            Leap::Today(kind, _) => Some(kind),
            Leap::Close => return Vec::new(),
        };
        match self.try_adjust(measured, leap_today, now, clock) {
            Ok(()) => {
                self.failed = false;
                Vec::new()
            }
            Err(_) if self.failed => Vec::new(),
            Err(error) => {
                self.failed = true;
                vec![Report::new(Level::Error, "discipline", format!("adjtimex: {error}: it takes CAP_SYS_TIME"))]
            }
        }
    }

    fn try_adjust(
        &mut self,
        measured: &Measured,
        leap_today: Option<LeapKind>,
        now: Moment,
        clock: &mut impl SystemClock,
    ) -> io::Result<()> {
        let Some(servo) = &mut self.servo else { return Ok(()) };
        #[allow(clippy::cast_precision_loss)] // nanoseconds, of which few matter
        let (ahead, width) =
            (measured.ahead.middle() as f64, (measured.ahead.uncertainty() - i128::from(measured.max_error)) as f64);
        if let Some(frequency) = servo.sample(now, ahead, width.max(1.0)).filter(|new| self.frequency != Some(*new)) {
            clock.set_frequency(frequency)?;
            self.frequency = Some(frequency);
        }
        let bound = measured.ahead.low.unsigned_abs().max(measured.ahead.high.unsigned_abs());
        clock.set_quality(&Quality {
            synchronized: measured.synchronized,
            max_error: u64::try_from(bound).unwrap_or(u64::MAX),
            estimated_error: measured.estimated_error.saturating_add(nanos(ahead)),
            leap_today,
        })?;
        if measured.leap.tai_offset.is_some() && measured.leap.tai_offset != self.tai_offset {
            self.tai_offset = measured.leap.tai_offset;
            self.tai_offset.map_or(Ok(()), |offset| clock.set_tai_offset(offset))?;
        }
        Ok(())
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // not negative, and a cast saturates
fn nanos(nanos: f64) -> u64 {
    nanos.abs().ceil() as u64
}
