// SPDX-License-Identifier: MIT OR Apache-2.0
//! What tells the agent that something happened: the page; where there is none, the kernel's word that `VMGenID`
//! changed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::{SocketAddrNetlink, KOBJECT_UEVENT};
use rustix::net::{bind, recv, socket_with, AddressFamily, RecvFlags, SocketFlags, SocketType};
use vmclock::{Event, Events, Notice, OpenError, VmClock};
use vmclock_core::event::Epoch;

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Happened {
    /// The machine was disrupted or restored: the names of the events, and the epoch now.
    Epoch {
        /// The names.
        names: Vec<&'static str>,
        /// The epoch, where there is a page.
        epoch: Option<Epoch>,
    },
    /// Maintenance was announced or cancelled.
    Announced(&'static str),
    /// There is time, or none, or another.
    TimeChanged,
    /// The page is gone, or is there again.
    Vanished(String),
}

/// What is watched.
#[derive(Debug)]
pub enum Watch {
    /// A page.
    Page(Box<Events>),
    /// The kernel's events.
    VmGenId(Uevents),
}

impl Watch {
    /// Watches a page.
    pub fn page(clock: &VmClock, interval: Duration) -> Result<Self, String> {
        let mut events = clock.events().map_err(|error| error.to_string())?;
        events.set_interval(interval).map_err(|error| error.to_string())?;
        Ok(Self::Page(Box::new(events)))
    }

    /// Watches what there is: the page at `path` or at the default place, otherwise `VMGenID`. Where there is neither,
    /// the error says why.
    pub fn open(path: Option<&Path>, interval: Duration) -> Result<Self, String> {
        let path = path.map_or_else(vmclock::default_page, PathBuf::from);
        match VmClock::open_at(&path) {
            Ok(clock) => Self::page(&clock, interval),
            // A page is there: to go by less would miss what it says.
            Err(error @ (OpenError::Busy { .. } | OpenError::NotAPage { .. })) => Err(error.to_string()),
            Err(error) if Uevents::has_vmgenid() => {
                Uevents::open().map(Self::VmGenId).map_err(|uevents| format!("{error}; the kernel's events: {uevents}"))
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// The clock of the page.
    pub fn clock(&self) -> Option<&VmClock> {
        match self {
            Self::Page(events) => Some(events.clock()),
            Self::VmGenId(_) => None,
        }
    }

    /// What it is, for people.
    pub fn name(&self) -> String {
        match self {
            Self::Page(events) => {
                let how = if events.is_notified() { "notifies" } else { "is polled" };
                format!("page {}, which {how}", events.clock().path().display())
            }
            Self::VmGenId(_) => "VMGenID, by the kernel's events".to_owned(),
        }
    }

    /// What happened since the last call; does not wait.
    pub fn poll(&mut self) -> Result<Vec<Happened>, String> {
        match self {
            Self::Page(events) => {
                let notice = events.wait(Some(Duration::ZERO)).map_err(|error| error.to_string())?;
                Ok(notice.map_or_else(Vec::new, |notice| happened(&notice)))
            }
            Self::VmGenId(uevents) => {
                let changed = uevents.poll().map_err(|error| format!("the kernel's events: {error}"))?;
                Ok(if changed { vec![Happened::Epoch { names: vec!["restored"], epoch: None }] } else { Vec::new() })
            }
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Page(events) => events.as_fd(),
            Self::VmGenId(uevents) => uevents.0.as_fd(),
        }
    }
}

fn happened(notice: &Notice) -> Vec<Happened> {
    let Some(changes) = notice.changes() else {
        return vec![Happened::Vanished("the page vanished: there is no time until it is back".to_owned())];
    };
    let mut list = Vec::new();
    if matches!(notice, Notice::Returned(_)) {
        list.push(Happened::Vanished("the page is back".to_owned()));
        list.push(Happened::TimeChanged);
    }
    let mut names = Vec::new();
    for event in changes.iter() {
        match event {
            Event::Disrupted { .. } | Event::Restored { .. } => names.push(event.name()),
            Event::Maintenance { .. } => list.push(Happened::Announced(event.name())),
            Event::Status { .. } | Event::Counter { .. } | Event::TimeScale { .. } => list.push(Happened::TimeChanged),
            _ => {}
        }
    }
    if !names.is_empty() {
        list.push(Happened::Epoch { names, epoch: Some(Epoch::of(&changes.after)) });
    }
    list
}

/// The kernel's events, by netlink. Linux says `NEW_VMGENID=1` after it has added the new identity to its entropy.
#[derive(Debug)]
pub struct Uevents(OwnedFd);

/// The longest message of the kernel's is 2 KiB and its header.
const LONGEST: usize = 8192;

impl Uevents {
    /// Listens.
    pub fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(KOBJECT_UEVENT))?;
        bind(&socket, &SocketAddrNetlink::new(0, 1))?;
        Ok(Self(socket))
    }

    /// Whether this machine has a `VMGenID` device that the kernel has a driver for.
    pub fn has_vmgenid() -> bool {
        ["/sys/bus/acpi/drivers/vmgenid", "/sys/bus/platform/drivers/vmgenid"].iter().any(|driver| {
            std::fs::read_dir(driver).is_ok_and(|mut entries| {
                entries.any(|entry| entry.is_ok_and(|entry| entry.path().join("uevent").exists()))
            })
        })
    }

    /// Whether there was a new `VMGenID` since the last call.
    fn poll(&mut self) -> io::Result<bool> {
        let mut new = false;
        let mut bytes = [0; LONGEST];
        loop {
            match recv(&self.0, &mut bytes[..], RecvFlags::empty()) {
                Ok((len, _)) => new |= says_new_vmgenid(&bytes[..len.min(LONGEST)]),
                // Some were lost: one of them may have been ours.
                Err(Errno::NOBUFS) => new = true,
                Err(Errno::AGAIN) => return Ok(new),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// A message is `change@/devices/..` and lines that end with NUL.
fn says_new_vmgenid(message: &[u8]) -> bool {
    message.starts_with(b"change@") && message.split(|byte| *byte == 0).any(|line| line == b"NEW_VMGENID=1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmclock::mock::MockPage;

    #[test]
    fn each_event_of_a_page_happens_once() {
        let page = MockPage::new();
        let mut watch = Watch::page(&page.clock(), Duration::from_millis(1)).expect("watched");
        assert_eq!(watch.poll(), Ok(Vec::new()));
        page.restore();
        let happened = watch.poll().expect("readable");
        let epoch = Some(Epoch::of(&page.contents()));
        let [.., Happened::Epoch { names, epoch: seen }] = &happened[..] else { panic!("{happened:?}") };
        assert!(names.contains(&"restored") && names.contains(&"disrupted"), "{names:?}");
        assert_eq!(*seen, epoch);
        assert_eq!(watch.poll(), Ok(Vec::new()));
    }

    #[test]
    fn only_the_kernels_word_for_a_new_vmgenid_counts() {
        assert!(says_new_vmgenid(b"change@/devices/x\0ACTION=change\0NEW_VMGENID=1\0SEQNUM=1\0"));
        for message in [
            &b"change@/devices/x\0NEW_VMGENID=10\0"[..],
            b"add@/devices/x\0NEW_VMGENID=1\0",
            b"libudev\0NEW_VMGENID=1\0",
            b"",
        ] {
            assert!(!says_new_vmgenid(message), "{message:?}");
        }
    }
}
