// SPDX-License-Identifier: MIT OR Apache-2.0
//! A clock for the guest of an unmodified QEMU.
//!
//! QEMU is given a page in shared memory, an ACPI table that declares it a VMClock, a monitor and a doorbell, all on
//! its command line ([`Launch`]); or somebody else starts it so, and it is found ([`Attach`]). From then on [`machine`]
//! decides what is on the page, a pure function of what QEMU sent and in which order, and the session does it.
//!
//! | module | what it is |
//! |---|---|
//! | `arguments`, `launch` | the user's command line, what is added to it, and a QEMU of ours |
//! | `table` | the ACPI table with the page's place, and the doorbell |
//! | `attach`, `process` | a QEMU that somebody else starts |
//! | `qmp`, `monitor` | QEMU's protocol; its socket, and the host's counter at each message |
//! | [`machine`] | the guest's state, and what follows from each event |
//! | [`page`] | what a step of the guest's life does to its page |
//! | `counter`, [`kvm`] | where the guest's counter is known from: TCG's device state, KVM's debugfs |
//! | `second_page` | a counter that the guest hands over |
//! | [`keeper`] | whoever keeps the page up to date: a publisher of its own, or [the host's service](service) |
//! | `session`, `wiring` | waits, reads and writes |
//! | [`event`], [`error`] | what is reported |
//!
//! # States
//!
//! ```text
//!        a QEMU of ours (-S)               somebody else's
//!         │               │                       │ query-status
//!         │ -incoming     │            inmigrate  │  running
//!         │      ┌────────┼────────────┬──────────┼──────────┐
//!         ▼      ▼        │            │ other    │          │
//!       Incoming          │            ▼          │          │
//!         │  MIGRATION    │         Paused ◀──────┘          │
//!         │  completed    └────────▶   │ ▲                   │
//!         ├─────────────────────────▶  │ │                   │
//!         │                    RESUME  │ │ STOP              │
//!         │ RESUME                     ▼ │                   │
//!         └─────────────────────▶  Resumed ◀─────────────────┘
//!                                      │ ▲
//!                 its counter is read  │ │ RESET under KVM
//!                                      ▼ │
//!                                   Running
//! ```
//!
//! | state | page |
//! |---|---|
//! | Incoming | `initializing`, until the guest's memory brings another host's page |
//! | Paused, Resumed | no time: the guest's counter continues at another offset, which is not known yet |
//! | Running | time; or `unknown` and no counter, where that cannot be known |
//!
//! On the way out of Incoming there is a new marker, before the guest runs if we continue it; and a new generation for
//! whatever may have been saved. A page in memory that is not the one that was published, or an old mark beside it, is
//! that of a snapshot: new marker and new generation at the next RESUME.
//!
//! Commands are sent one at a time, and only when everything was handled that QEMU has sent: a RESUME that is known
//! makes reading the paused counter needless. QEMU sends answers and events in the order in which it does things, so an
//! answer after a STOP without a RESUME between them is about a paused guest, however the two crossed on their way.
//!
//! Tests: `tests/conversations` is a script for each order that matters, `tests/world` a model of QEMU that does
//! anything in any order, `tests/session.rs` a thread that speaks QMP.
#![deny(unsafe_code)]

mod arguments;
mod attach;
mod counter;
pub mod error;
pub mod event;
pub mod keeper;
pub mod kvm;
mod launch;
pub mod machine;
mod monitor;
pub mod page;
mod process;
mod qmp;
mod second_page;
pub mod service;
mod session;
mod table;
mod wiring;

use std::process::ExitStatus;
use std::time::{Duration, Instant};

use arguments::{accelerator_of, REGION_LEN};
pub use attach::{beside, Attach};
use error::Error;
use event::Event;
use keeper::{Keeper, Region};
pub use launch::{Launch, LaunchOptions};
use machine::Start;
use process::Process;
use session::Guest;
pub use table::Slot;
pub use wiring::{Control, Options, Wiring};

/// How long a QEMU of ours may take until its monitor answers.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Starts QEMU and publishes its guest's page, which was just opened at [`Launch::page`], until QEMU ends. Signals end
/// QEMU. The page says `unreliable` afterwards.
pub fn launch<K: Keeper, C: Control>(launch: &Launch, mut wiring: Wiring<'_, K, C>) -> Result<ExitStatus, Error> {
    let region = Region::new(launch.page(), launch.region_len());
    let region = region.notifying(launch.has_bell()).incoming(launch.guest().is_incoming());
    let started = wiring.keeper.prepare(region).and_then(|()| launch.start());
    let launched = started.inspect_err(|_| wiring.keeper.give_up())?;
    let guest = Guest {
        program: launch.program(),
        process: Process::Ours(launched.child),
        accelerator: launch.accelerator(),
        start: launch.guest(),
        nvdimm: launch.nvdimm(),
        page: launch.page(),
        folder: launch.folder(),
        by: Instant::now() + START_TIMEOUT,
        timeout: START_TIMEOUT,
    };
    let status = session::run(guest, launched.monitor, launched.bell, &mut wiring)?;
    status.ok_or_else(|| Error::Refused("QEMU has no exit status".into()))
}

/// Waits for a QEMU that somebody else starts, and publishes its guest's page, which was just opened at `page` (an
/// absolute path), until QEMU ends, or until a signal. The page says `unreliable` afterwards.
pub fn attach<K: Keeper, C: Control>(
    page: &std::path::Path,
    attach: &Attach,
    mut wiring: Wiring<'_, K, C>,
) -> Result<(), Error> {
    let result = follow(page, attach, &mut wiring);
    wiring.keeper.give_up();
    match result {
        Err(Error::Interrupted) => Ok(()),
        result => result,
    }
}

fn follow<K: Keeper, C: Control>(
    page: &std::path::Path,
    attach: &Attach,
    wiring: &mut Wiring<'_, K, C>,
) -> Result<(), Error> {
    wiring.keeper.prepare(Region::new(page, REGION_LEN).notifying(attach.bell.is_some()))?;
    let folder = launch::temporary_folder()?;
    (wiring.report)(&Event::Waiting { monitor: attach.monitor.clone() }, &wiring.keeper.contents());
    let by = Instant::now() + attach.timeout;
    let signals = &wiring.signals;
    signals.set_nonblocking(true).map_err(Error::system("make a socket non-blocking"))?;
    let (monitor, bell) = attach.connect(by, signals, &mut || session::is_interrupted(signals, None))?;
    let process = Process::behind(&monitor)?;
    let command = process.command()?;
    let guest = Guest {
        program: command.first().map(|program| program.to_string_lossy().into_owned()).unwrap_or_default(),
        process,
        accelerator: accelerator_of(&command),
        start: Start::Attached,
        nvdimm: None,
        page,
        folder: folder.path(),
        by,
        timeout: attach.timeout,
    };
    session::run(guest, monitor, bell, wiring).map(|_| ())
}
