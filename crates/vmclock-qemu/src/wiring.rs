// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a guest's session is connected to: who keeps its page, its doorbell, its user.

use std::os::fd::BorrowedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::Duration;

use vmclock_core::abi::Snapshot;
use vmclock_host::event::Signal;

use crate::error::Error;
use crate::event::Event;
use crate::keeper::{Changed, Keeper, News};
use crate::page::PageChange;

/// A datagram that the doorbell's card takes for a frame: a broadcast of the shortest length.
const RING: [u8; 60] = [0xff; 60];

/// What a guest's session is connected to.
///
/// ```no_run
/// use std::os::unix::net::UnixStream;
/// use std::time::Duration;
/// use vmclock_host::page_file::FilePage;
/// use vmclock_host::publisher::{Plan, Prepared};
/// use vmclock_host::source::{kernel::{KernelSource, Trust}, Immediate};
/// use vmclock_host::this_host::ThisHost;
/// use vmclock_qemu::{launch, Launch, LaunchOptions, Options, Wiring};
///
/// let command = ["qemu-system-x86_64", "-accel", "kvm"].map(Into::into).to_vec();
/// let qemu = Launch::new(LaunchOptions::new(command))?;
/// let mut plan = Plan::default();
/// plan.sources.push(Box::new(Immediate::new(KernelSource::new(Trust::HostClock))));
/// let prepared = Prepared::new(ThisHost, plan)?;
/// let (page, found) = FilePage::open(qemu.page(), prepared.blank())?;
/// let (publisher, _events) = prepared.on(page, found, "page")?;
/// let (signals, _signal) = UnixStream::pair()?;
/// let options = Options::new(Duration::from_secs(1));
/// let mut report = |event: &_, _: &_| println!("{event}");
/// let status = launch(&qemu, Wiring::new(publisher, (), signals, options, &mut report))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[non_exhaustive]
pub struct Wiring<'a, K, C> {
    /// Keeps the guest's page up to date.
    pub keeper: K,
    /// Where signals for the guest's page are sent to.
    pub control: C,
    /// Has a byte for each SIGTERM or the like.
    pub signals: UnixStream,
    /// What is published about the guest, and how often.
    pub options: Options,
    /// Is given each event, and what the page says then.
    pub report: &'a mut dyn FnMut(&Event, &Snapshot),
}

impl<'a, K, C> Wiring<'a, K, C> {
    /// All of it.
    pub const fn new(
        keeper: K,
        control: C,
        signals: UnixStream,
        options: Options,
        report: &'a mut dyn FnMut(&Event, &Snapshot),
    ) -> Self {
        Self { keeper, control, signals, options, report }
    }
}

/// How a guest's page is published.
///
/// ```
/// use std::time::Duration;
/// use vmclock_qemu::Options;
/// let mut options = Options::new(Duration::from_secs(1));
/// options.restored = true;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// How often the calibration is refreshed.
    pub refresh: Duration,
    /// Whether a program in the guest may hand its counter over through the second page.
    pub second_page: bool,
    /// Whether an incoming guest is saved state, also where its address is that of a live migration.
    pub restored: bool,
    /// How long a QEMU of ours waits for the time before its guest may start; `None`: not at all.
    pub require_time: Option<Duration>,
}

impl Options {
    /// For a guest that is not said to be saved state, and that no program in it helps.
    pub const fn new(refresh: Duration) -> Self {
        Self { refresh, second_page: false, restored: false, require_time: None }
    }
}

/// Where signals for a guest's page are sent to.
///
/// ```
/// use std::os::fd::BorrowedFd;
/// use vmclock_core::abi::Snapshot;
/// use vmclock_host::event::Signal;
/// use vmclock_qemu::Control;
///
/// /// One signal, at once.
/// struct Once(Option<Signal>);
///
/// impl Control for Once {
///     fn fds(&self) -> Vec<BorrowedFd<'_>> {
///         Vec::new()
///     }
///
///     fn answer(&mut self, apply: &mut dyn FnMut(Signal) -> Result<Snapshot, String>) {
///         if let Some(signal) = self.0.take() {
///             let _answer = apply(signal);
///         }
///     }
/// }
/// # Once(Some(Signal::Soon)).answer(&mut |_| Ok(Snapshot::BLANK));
/// ```
pub trait Control {
    /// What becomes readable when there is one.
    fn fds(&self) -> Vec<BorrowedFd<'_>>;

    /// Takes the signals that are there, and gives each to `apply`, which returns what the page says after it, or why
    /// it was not done.
    fn answer(&mut self, apply: &mut dyn FnMut(Signal) -> Result<Snapshot, String>);
}

/// No signals.
impl Control for () {
    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    fn answer(&mut self, _apply: &mut dyn FnMut(Signal) -> Result<Snapshot, String>) {}
}

/// Notifies the guest that the page has changed. A full queue means that it has not yet seen an earlier ring.
fn ring(bell: Option<&UnixDatagram>) {
    if let Some(bell) = bell {
        let _ = bell.send(&RING);
    }
}

/// What a session writes to: the page, the doorbell, the user.
pub(crate) struct Output<'s, 'w, K, C> {
    pub(crate) wiring: &'s mut Wiring<'w, K, C>,
    pub(crate) bell: Option<UnixDatagram>,
}

impl<K: Keeper, C> Output<'_, '_, K, C> {
    pub(crate) fn report(&mut self, event: &Event) {
        (self.wiring.report)(event, &self.wiring.keeper.contents());
    }

    /// Notifies the guest that the page has changed.
    pub(crate) fn ring(&self) {
        ring(self.bell.as_ref());
    }

    /// Takes the signals for the guest's page that are there.
    pub(crate) fn answer_control(&mut self, is_incoming: bool)
    where
        C: Control,
    {
        let Self { wiring, bell, .. } = self;
        let Wiring { keeper, control, report, .. } = &mut **wiring;
        control.answer(&mut |signal| {
            if is_incoming {
                return Err("the guest is not here yet: send the signal when it is".into());
            }
            let changed = keeper.signal(signal).map_err(|error| error.to_string())?;
            if changed.is_updated {
                ring(bell.as_ref());
            }
            let page = keeper.contents();
            for event in changed.events {
                report(&Event::Published(event), &page);
            }
            Ok(page)
        });
    }

    pub(crate) fn change(&mut self, change: PageChange) -> Result<(), Error> {
        let Changed { events, is_updated } = self.wiring.keeper.change(change)?;
        if is_updated {
            self.ring();
        }
        for event in events {
            self.report(&Event::Published(event));
        }
        Ok(())
    }

    /// What came by itself.
    pub(crate) fn attend(&mut self) -> Result<(), Error> {
        let News { events, is_updated } = self.wiring.keeper.attend()?;
        if is_updated {
            self.ring();
        }
        for event in events {
            self.report(&event);
        }
        Ok(())
    }
}
