// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a guest's session is connected to: its publisher, its doorbell, its user.

use std::os::fd::BorrowedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::Duration;

use vmclock_core::abi::Snapshot;
use vmclock_core::guest_counter::GuestCounter;
use vmclock_host::event::{Event as HostEvent, Signal};
use vmclock_host::publisher::{PublishError, Publisher};
use vmclock_host::world::{Host, PageSink};

use crate::error::Error;
use crate::event::Event;
use crate::page::{GuestPage, PageChange};

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
pub struct Wiring<'a, H, S, C> {
    /// Publishes the guest's page.
    pub publisher: Publisher<H, S>,
    /// Where signals for the guest's page are sent to.
    pub control: C,
    /// Has a byte for each SIGTERM or the like.
    pub signals: UnixStream,
    /// What is published about the guest, and how often.
    pub options: Options,
    /// Is given each event, and what the page says then.
    pub report: &'a mut dyn FnMut(&Event, &Snapshot),
}

impl<'a, H, S, C> Wiring<'a, H, S, C> {
    /// All of it.
    pub const fn new(
        publisher: Publisher<H, S>,
        control: C,
        signals: UnixStream,
        options: Options,
        report: &'a mut dyn FnMut(&Event, &Snapshot),
    ) -> Self {
        Self { publisher, control, signals, options, report }
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
}

impl Options {
    /// For a guest that is not said to be saved state, and that no program in it helps.
    pub const fn new(refresh: Duration) -> Self {
        Self { refresh, second_page: false, restored: false }
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
pub(crate) struct Output<'s, 'w, H, S, C> {
    pub(crate) wiring: &'s mut Wiring<'w, H, S, C>,
    pub(crate) bell: Option<UnixDatagram>,
}

impl<H: Host, S: PageSink, C> Output<'_, '_, H, S, C> {
    pub(crate) fn report(&mut self, event: &Event) {
        (self.wiring.report)(event, self.wiring.publisher.contents());
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
        let Wiring { publisher, control, report, .. } = &mut **wiring;
        control.answer(&mut |signal| {
            if is_incoming {
                return Err("the guest is not here yet: send the signal when it is".into());
            }
            let event = publisher.signal(signal).map_err(|error| error.to_string())?;
            ring(bell.as_ref());
            report(&Event::Published(event), publisher.contents());
            Ok(*publisher.contents())
        });
    }

    pub(crate) fn change(&mut self, change: PageChange) -> Result<(), Error> {
        let before = self.contents().seq_count;
        let events = change.perform(self)?;
        // Without an update there is nothing to read, whatever the next one's count will be.
        if self.contents().seq_count != before && !matches!(change, PageChange::ContinueAfter(_)) {
            self.ring();
        }
        for event in events {
            self.report(&Event::Published(event));
        }
        Ok(())
    }
}

impl<H: Host, S: PageSink, C> GuestPage for Output<'_, '_, H, S, C> {
    type Error = PublishError;

    fn contents(&self) -> &Snapshot {
        self.wiring.publisher.contents()
    }

    fn update(&mut self, change: &mut dyn FnMut(&mut Snapshot)) -> Result<(), PublishError> {
        self.wiring.publisher.update(change)
    }

    fn continue_after(&mut self, seq_count: u32) {
        self.wiring.publisher.continue_after(seq_count);
    }

    fn set_guest_counter(&mut self, counter: Option<GuestCounter>) {
        self.wiring.publisher.set_guest_counter(counter);
    }

    fn publish(&mut self) -> Result<Vec<HostEvent>, PublishError> {
        self.wiring.publisher.publish_known()
    }

    fn conclude_unwritten(&mut self) -> Result<Vec<HostEvent>, PublishError> {
        self.wiring.publisher.conclude_unwritten()
    }

    fn finish_round(&mut self) -> Result<Vec<HostEvent>, PublishError> {
        self.wiring.publisher.finish_round()
    }

    fn fresh_identity(&mut self) -> Result<u64, PublishError> {
        self.wiring.publisher.fresh_identity()
    }
}
