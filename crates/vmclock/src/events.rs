// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting for something to happen.
//!
//! Where the device notifies, the kernel wakes us after each update; where it does not, a timer does, often enough
//! that an application hardly notices the difference. Either way only real changes are reported: most updates are
//! mere refreshes of the calibration.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
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

/// How often the page is looked at when its device does not notify.
const DEFAULT_INTERVAL: Duration = Duration::from_millis(10);

/// What happened between two looks at a page.
///
/// ```
/// use vmclock::{mock::MockPage, Event};
/// use std::time::Duration;
///
/// let page = MockPage::new();
/// let mut events = page.clock().events()?;
/// page.disrupt();
/// let changes = events.wait(Some(Duration::from_secs(10)))?.expect("a change");
/// assert!(changes.iter().any(|event| matches!(event, Event::Disrupted { .. })));
/// # Ok::<(), vmclock::ReadError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Changes {
    /// The page before.
    pub before: Snapshot,
    /// The page now.
    pub after: Snapshot,
}

impl Changes {
    /// The events, one by one. Several at once are normal.
    pub fn iter(&self) -> impl Iterator<Item = Event> {
        changes(&self.before, &self.after)
    }
}

/// The events of a machine, from the moment when this was made.
///
/// Either [`wait`](Self::wait) for the next change; or register the file descriptor ([`AsFd`]) with an event loop of
/// your own, and call `wait` with a timeout of zero whenever it is readable.
#[derive(Debug)]
pub struct Events {
    clock: VmClock,
    last: Snapshot,
    refreshes: bool,
    interval: Duration,
    epoll: OwnedFd,
    timer: OwnedFd,
    /// The device, opened anew, as the kernel keeps for each open file what it has seen.
    device: Option<File>,
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
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        let device = clock.source().file().and_then(reopen_device);
        let last = clock.snapshot()?;
        let interval = DEFAULT_INTERVAL;
        let mut events = Self { clock, last, refreshes: false, interval, epoll, timer, device, waking: Waking::Timer };
        epoll::add(&events.epoll, &events.timer, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
        events.set_timer(interval)?;
        events.choose_waking(&last)?;
        Ok(events)
    }

    /// Whether refreshes of the calibration count as changes too. Not by default.
    #[must_use]
    pub fn with_refreshes(mut self, refreshes: bool) -> Self {
        self.refreshes = refreshes;
        self
    }

    /// How often to look at a page whose device does not notify: every 10 ms by default.
    pub fn set_interval(&mut self, interval: Duration) -> Result<(), ReadError> {
        self.interval = interval.max(Duration::from_micros(100));
        if self.waking == Waking::Timer {
            self.set_timer(self.interval)?;
        }
        Ok(())
    }

    /// Whether the device wakes us, rather than a timer.
    pub fn notified(&self) -> bool {
        self.waking == Waking::Device
    }

    /// Waits for the next change, for as long as `timeout` says, or without a limit. `None` when time is up.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<Option<Changes>, ReadError> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            if let Some(changes) = self.look()? {
                return Ok(Some(changes));
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
            self.sleep(left)?;
        }
    }

    /// Compares the page with how it was. First tells whoever wakes us that we are about to look, so that what comes
    /// after the look wakes us again.
    fn look(&mut self) -> Result<Option<Changes>, ReadError> {
        match (self.waking, &self.device) {
            (Waking::Device, Some(device)) => match pread(device) {
                Ok(_) => {}
                Err(ReadError::Io { errno: libc::ENODEV }) => self.lose_device()?,
                Err(error) => return Err(error),
            },
            _ => {
                // How often it expired does not matter, nor whether it did.
                let _ = rustix::io::read(&self.timer, &mut [0; 8]);
            }
        }
        let now = self.clock.snapshot()?;
        self.choose_waking(&now)?;
        let changes = Changes { before: self.last, after: now };
        self.last = now;
        let reported = |event| self.refreshes || event != Event::Refreshed;
        Ok(changes.iter().any(reported).then_some(changes))
    }

    fn sleep(&mut self, timeout: Option<Duration>) -> Result<(), ReadError> {
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let mut ready = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }];
        match epoll::wait(&self.epoll, &mut ready, timeout.as_ref()) {
            // The driver has lost the device: whatever the page goes on to say, it is silent.
            Ok(1) if { ready[0].flags }.contains(epoll::EventFlags::ERR) => self.lose_device(),
            // The device does not notify any more, so that polling it returns at once.
            Ok(1) if { ready[0].flags }.contains(epoll::EventFlags::HUP) => self.wake_by(Waking::Timer),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// From now on a timer wakes us. The page may still be mapped, and go on.
    fn lose_device(&mut self) -> Result<(), ReadError> {
        self.wake_by(Waking::Timer)?;
        self.device = None;
        Ok(())
    }

    /// The page says whether its device notifies, and may change its mind (a migration to another host).
    fn choose_waking(&mut self, page: &Snapshot) -> Result<(), ReadError> {
        let waking = if page.notifies() && self.device.is_some() { Waking::Device } else { Waking::Timer };
        self.wake_by(waking)
    }

    fn wake_by(&mut self, waking: Waking) -> Result<(), ReadError> {
        if waking == self.waking {
            return Ok(());
        }
        if let Some(device) = &self.device {
            match waking {
                Waking::Device => {
                    match epoll::add(&self.epoll, device, epoll::EventData::new_u64(1), epoll::EventFlags::IN) {
                        // A driver without poll (Linux before 7.0), whatever the page promises: to poll(2) its device
                        // is always readable, and we would go round and round. Only epoll says so, here.
                        Err(Errno::PERM) => {
                            self.device = None;
                            return Ok(());
                        }
                        added => added?,
                    }
                    self.set_timer(Duration::ZERO)?;
                }
                Waking::Timer => {
                    epoll::delete(&self.epoll, device)?;
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
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec)?;
        Ok(())
    }
}

/// Readable whenever it is time to call [`Events::wait`].
impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// A second open file of the same device; `None` for plain files, which never notify.
fn reopen_device(file: &File) -> Option<File> {
    use std::os::unix::fs::FileTypeExt;
    let is_device = file.metadata().is_ok_and(|metadata| metadata.file_type().is_char_device());
    is_device.then(|| File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).or_else(|_| file.try_clone()).ok())?
}
