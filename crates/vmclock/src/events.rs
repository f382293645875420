// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting for something to happen.
//!
//! Where the device notifies, the kernel wakes us after each update; where it does not, a timer does, often enough
//! that an application hardly notices the difference. Either way only real changes are reported: most updates are
//! mere refreshes of the calibration.
//!
//! A page can vanish, as when its file is removed. Then its path is tried at every tick of the timer until there is a
//! page again. The two are compared like any two snapshots, so that no disruption between them is missed.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::io::Errno;
use rustix::time::{
    timerfd_create, timerfd_settime, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec,
};
use vmclock_core::abi::Snapshot;
use vmclock_core::event::{changes, Event};

use crate::clock::VmClock;
use crate::error::ReadError;
use crate::source::pread;
use crate::vanished::{Loss, Vanished};

/// How often a page is polled whose device does not notify.
const DEFAULT_INTERVAL: Duration = Duration::from_millis(10);

/// What [`Events::wait`] waits for.
///
/// ```
/// use vmclock::{mock::MockPage, Event, Notice};
///
/// let page = MockPage::new();
/// let mut events = page.clock().events()?;
/// page.remove(); // the page's file is removed
/// assert!(matches!(events.wait(None)?, Some(Notice::Vanished(_))));
/// page.publish_again();
/// let notice = events.wait(None)?.expect("there is no time limit");
/// assert!(matches!(notice, Notice::Returned(_)));
/// assert!(notice.iter().any(|event| matches!(event, Event::Disrupted { .. })));
/// # Ok::<(), vmclock::ReadError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Notice {
    /// The page changed.
    Changed(Changes),
    /// The page vanished: its time is not to be used. [`Events`] then waits for a page at the same path, and
    /// meanwhile reports what a retiring publisher still writes to the old one.
    Vanished(Vanished),
    /// There is a page again, and these are the changes since the old one, which may be none. Programs that read the
    /// time take the new clock from [`Events::clock`].
    Returned(Changes),
}

impl Notice {
    /// The page before and now; `None` when it vanished.
    pub const fn changes(&self) -> Option<&Changes> {
        match self {
            Self::Changed(changes) | Self::Returned(changes) => Some(changes),
            Self::Vanished(_) => None,
        }
    }

    /// The events, one by one. Several at once are normal; none when the page vanished.
    pub fn iter(&self) -> impl Iterator<Item = Event> {
        self.changes().map(Changes::iter).into_iter().flatten()
    }
}

/// What happened between two snapshots of a page.
///
/// ```
/// use vmclock::{mock::MockPage, Event};
/// use std::time::Duration;
///
/// let page = MockPage::new();
/// let mut events = page.clock().events()?;
/// page.disrupt();
/// let notice = events.wait(Some(Duration::from_secs(10)))?.expect("a change");
/// let changes = notice.changes().expect("the page is there");
/// assert!(changes.iter().any(|event| matches!(event, Event::Disrupted { .. })));
/// # Ok::<(), vmclock::ReadError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Changes {
    /// The page before.
    pub before: Snapshot,
    /// The page now.
    pub after: Snapshot,
}

impl Changes {
    /// Between two snapshots of your own.
    pub const fn between(before: Snapshot, after: Snapshot) -> Self {
        Self { before, after }
    }

    /// The events, one by one. Several at once are normal.
    pub fn iter(&self) -> impl Iterator<Item = Event> {
        changes(&self.before, &self.after)
    }
}

/// The events of a machine, from the moment when this was made.
///
/// Either [`wait`](Self::wait) for the next notice; or register the file descriptor ([`AsFd`], [`AsRawFd`]) with an
/// event loop of your own, and call `wait` with a timeout of zero whenever it is readable. It stays the same
/// descriptor, also when the page vanishes and returns. `examples/tokio.rs` does so with tokio.
#[derive(Debug)]
pub struct Events {
    clock: VmClock,
    last: Snapshot,
    /// The page that is open is not the published one any more, but its last publisher may still write to it.
    vanished: bool,
    refreshes: bool,
    interval: Duration,
    epoll: OwnedFd,
    timer: OwnedFd,
    /// The device, opened anew, as the kernel keeps for each open file what it has seen.
    device: Option<File>,
    /// Whether the device can be waited for at all.
    can_poll: bool,
    waking: Waking,
}

/// What wakes us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Waking {
    Device,
    Timer,
}

impl Events {
    pub(crate) fn of(clock: VmClock) -> Result<Self, ReadError> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(ReadError::of_system)?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)
            .map_err(ReadError::of_system)?;
        let device = reopen_device(&clock);
        let last = clock.snapshot()?;
        let mut events = Self {
            clock,
            last,
            vanished: false,
            refreshes: false,
            interval: DEFAULT_INTERVAL,
            epoll,
            timer,
            device,
            can_poll: true,
            waking: Waking::Timer,
        };
        epoll::add(&events.epoll, &events.timer, epoll::EventData::new_u64(0), epoll::EventFlags::IN)
            .map_err(ReadError::of_system)?;
        events.set_timer(events.interval)?;
        events.choose_waking()?;
        Ok(events)
    }

    /// Whether refreshes of the calibration count as changes too. Not by default.
    #[must_use]
    pub fn with_refreshes(mut self, refreshes: bool) -> Self {
        self.refreshes = refreshes;
        self
    }

    /// How often to poll a page whose device does not notify, and the path of a page that vanished: every 10 ms by
    /// default, and at most every 100 us.
    pub fn set_interval(&mut self, interval: Duration) -> Result<(), ReadError> {
        self.interval = interval.max(Duration::from_micros(100));
        if self.waking == Waking::Timer {
            self.set_timer(self.interval)?;
        }
        Ok(())
    }

    /// Whether the device wakes us, rather than a timer.
    pub fn is_notified(&self) -> bool {
        self.waking == Waking::Device
    }

    /// The clock whose page is watched: after [`Notice::Returned`] another than the one that this was made of.
    pub const fn clock(&self) -> &VmClock {
        &self.clock
    }

    /// Waits for the next notice, for as long as `timeout` says, or without a limit. `None` when time is up.
    ///
    /// An error is no end: the next call tries again. [`ReadError::Busy`] ends when the page's publisher is replaced.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<Option<Notice>, ReadError> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            if let Some(notice) = self.poll()? {
                return Ok(Some(notice));
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
            if let Some(loss) = self.sleep(left)? {
                return self.lose(loss).map(Some);
            }
        }
    }

    /// Compares the page with how it was.
    fn poll(&mut self) -> Result<Option<Notice>, ReadError> {
        // How often it expired does not matter, nor whether it did.
        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
        if !self.vanished {
            if let Some(loss) = self.acknowledge()? {
                return self.lose(loss).map(Some);
            }
        } else if let Some(changes) = self.reopen()? {
            return Ok(Some(Notice::Returned(changes)));
        }
        let now = match self.snapshot() {
            Ok(now) => now,
            Err(_) if self.vanished => return Ok(None),
            Err(error) => return Loss::of(error).map_or(Err(error), |loss| self.lose(loss).map(Some)),
        };
        let changes = Changes { before: self.last, after: now };
        self.last = now;
        self.choose_waking()?;
        let reported = |event| self.refreshes || event != Event::Refreshed;
        Ok(changes.iter().any(reported).then_some(Notice::Changed(changes)))
    }

    /// The page. One that vanished in the middle of an update will not be repaired: there is nothing to wait for.
    fn snapshot(&self) -> Result<Snapshot, ReadError> {
        if self.vanished {
            self.clock.source().snapshot_with_counter(Duration::ZERO).map(|(snapshot, _)| snapshot)
        } else {
            self.clock.snapshot()
        }
    }

    /// Marks all updates up to now as seen, so that the device wakes us after the next. Returns how the page was lost,
    /// if it was.
    fn acknowledge(&self) -> Result<Option<Loss>, ReadError> {
        let Some(device) = &self.device else { return Ok(self.clock.source().check().err()) };
        match pread(device) {
            Ok(_) => Ok(None),
            Err(error) => Loss::of(error).map_or(Err(error), |loss| Ok(Some(loss))),
        }
    }

    /// From now on a timer has us try the path.
    fn lose(&mut self, loss: Loss) -> Result<Notice, ReadError> {
        self.vanished = true;
        self.wake_by(Waking::Timer)?;
        self.device = None;
        Ok(Notice::Vanished(self.clock.vanished(loss)))
    }

    /// The page that is at the path by now, if there is one.
    fn reopen(&mut self) -> Result<Option<Changes>, ReadError> {
        // Asked first, as `open` would find out why there is none.
        if self.clock.source().origin().is_some_and(|origin| !origin.path.exists()) {
            return Ok(None);
        }
        // Whatever is wrong with it: its publisher may not have finished.
        let Ok(clock) = self.clock.reopen() else { return Ok(None) };
        let Ok(now) = clock.snapshot() else { return Ok(None) };
        let changes = Changes { before: self.last, after: now };
        self.device = reopen_device(&clock);
        (self.clock, self.last, self.vanished, self.can_poll) = (clock, now, false, true);
        self.choose_waking()?;
        Ok(Some(changes))
    }

    /// Sleeps until it is time to poll, or the device is lost.
    fn sleep(&mut self, timeout: Option<Duration>) -> Result<Option<Loss>, ReadError> {
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let mut ready = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }];
        match epoll::wait(&self.epoll, &mut ready, timeout.as_ref()) {
            // The driver has lost the device: whatever is written to the page, it will not notify us.
            Ok(1) if { ready[0].flags }.contains(epoll::EventFlags::ERR) => Ok(Some(Loss::Device)),
            // The device does not notify any more, so that polling it returns at once.
            Ok(1) if { ready[0].flags }.contains(epoll::EventFlags::HUP) => self.wake_by(Waking::Timer).map(|()| None),
            Ok(_) | Err(Errno::INTR) => Ok(None),
            Err(errno) => Err(ReadError::of_system(errno)),
        }
    }

    /// Whether the device notifies is a flag of the page, which can change (a migration to another host).
    fn choose_waking(&mut self) -> Result<(), ReadError> {
        let notifies = self.last.notifies() && self.can_poll && self.device.is_some();
        self.wake_by(if notifies { Waking::Device } else { Waking::Timer })
    }

    fn wake_by(&mut self, waking: Waking) -> Result<(), ReadError> {
        if waking == self.waking {
            return Ok(());
        }
        if let Some(device) = &self.device {
            match waking {
                Waking::Device => {
                    match epoll::add(&self.epoll, device, epoll::EventData::new_u64(1), epoll::EventFlags::IN) {
                        // A driver without poll (Linux before 7.0), whatever the page's flags are: to poll(2) its
                        // device is always readable, and we would never sleep. Only epoll refuses it, here.
                        Err(Errno::PERM) => {
                            self.can_poll = false;
                            return Ok(());
                        }
                        added => added.map_err(ReadError::of_system)?,
                    }
                    self.set_timer(Duration::ZERO)?;
                }
                Waking::Timer => {
                    epoll::delete(&self.epoll, device).map_err(ReadError::of_system)?;
                    self.set_timer(self.interval)?;
                }
            }
        }
        self.waking = waking;
        Ok(())
    }

    /// Lets the timer expire every `interval`, or never where that is zero.
    fn set_timer(&self, interval: Duration) -> Result<(), ReadError> {
        let interval = Timespec {
            tv_sec: i64::try_from(interval.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: interval.subsec_nanos().into(),
        };
        let spec = Itimerspec { it_interval: interval, it_value: interval };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec).map_err(ReadError::of_system)?;
        Ok(())
    }
}

/// Readable whenever it is time to call [`Events::wait`].
impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// As [`AsFd`], for event loops that take numbers.
impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }
}

/// A second open file of a clock's device; `None` for plain files, which never notify.
fn reopen_device(clock: &VmClock) -> Option<File> {
    use std::os::unix::fs::FileTypeExt;
    let file = &clock.source().origin()?.file;
    let is_device = file.metadata().is_ok_and(|metadata| metadata.file_type().is_char_device());
    is_device.then(|| File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).or_else(|_| file.try_clone()).ok())?
}
