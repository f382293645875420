// SPDX-License-Identifier: MIT OR Apache-2.0
//! What happened, for whoever watches: a name and keys for programs, a text for people.

use std::fmt;
use std::path::PathBuf;

use serde_json::Value;
use vmclock_core::guest_counter::GuestCounter;
use vmclock_host::event::Event as HostEvent;

/// Something that happened to the guest, to QEMU or to the page.
///
/// ```
/// use vmclock_qemu::event::Event;
/// let event = Event::Migration { status: "completed".into() };
/// assert_eq!((event.name(), event.to_string().as_str()), ("migration", "completed"));
/// assert_eq!(event.details()[0].0, "status");
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// QEMU was started.
    Started {
        /// The program.
        program: String,
        /// Its process id.
        pid: u32,
    },
    /// A QEMU that somebody else started was found.
    Attached {
        /// The program.
        program: String,
        /// Its process id.
        pid: u32,
    },
    /// No QEMU listens yet at the monitor's socket.
    Waiting {
        /// The socket.
        monitor: PathBuf,
    },
    /// QEMU's monitor answers.
    Connected {
        /// Where the guest's counter is known from: `kvm`, `tcg` or `unknown`.
        accelerator: &'static str,
    },
    /// The guest is not here yet.
    Incoming {
        /// From where it is expected, as `-incoming` has it; `None` where somebody else decides that.
        uri: Option<String>,
    },
    /// The guest was paused when we attached.
    Standing,
    /// The guest was paused.
    Paused,
    /// The guest runs again.
    Resumed,
    /// The guest's counter is known, and the page is about it.
    Calibrated {
        /// Where it is known from.
        accelerator: &'static str,
        /// What is known of it.
        counter: Known,
    },
    /// The guest handed its counter over, which is known better now.
    HandedOver {
        /// What is known of it.
        counter: Known,
        /// How often the guest answered.
        rounds: u32,
    },
    /// The guest is here, out of another host's memory or out of a file.
    Loaded {
        /// Whether it is taken for saved state, of which there may be copies.
        restored: bool,
    },
    /// A snapshot was loaded into the running QEMU.
    SnapshotLoaded,
    /// A migration, to here or from here, has another status.
    Migration {
        /// QEMU's name for it.
        status: String,
    },
    /// The guest was reset.
    Reset {
        /// QEMU's name for the cause.
        reason: String,
    },
    /// The guest shut down.
    Shutdown {
        /// QEMU's name for the cause.
        reason: String,
    },
    /// The guest's counter is not known.
    NoCounter {
        /// Why.
        reason: String,
    },
    /// The guest's counter is another one, and no event of QEMU's explains it.
    Disrupted,
    /// Something is not as it should be.
    Warning {
        /// What.
        text: String,
    },
    /// It is over, and the page says `unreliable`.
    Ended {
        /// QEMU's exit status, and its description; `None` where QEMU is somebody else's.
        status: Option<(i32, String)>,
    },
    /// The host's service publishes the page.
    Served {
        /// What it calls the guest.
        guest: String,
    },
    /// The host's service does not answer.
    ServiceLost {
        /// Why.
        reason: String,
    },
    /// What the page's publisher did or found out.
    Published(HostEvent),
}

/// What is known of a guest's counter.
///
/// ```
/// use vmclock_core::guest_counter::GuestCounter;
/// use vmclock_qemu::event::Known;
/// // It was 500 at some time between 1000 and 1600 of a host's counter at 3 GHz, most likely at 1000.
/// let known = Known::of(&GuestCounter::resumed(500, 1_000, 1_000, 1_600), 3_000_000);
/// assert_eq!((known.guest_minus_host, known.window_ns, known.error_ns), (-500, 200, 200));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The guest's counter minus the host's, in ticks.
    pub guest_minus_host: i64,
    /// The width of the window in which that difference lies, in nanoseconds.
    pub window_ns: u64,
    /// The error bound of the difference, in ± nanoseconds.
    pub error_ns: u64,
}

impl Known {
    /// Of a counter of so many ticks in a millisecond.
    pub fn of(counter: &GuestCounter, ticks_per_ms: u64) -> Self {
        let nanos = |ticks: u64| {
            let nanos = (u128::from(ticks) * 1_000_000).div_ceil(ticks_per_ms.max(1).into());
            u64::try_from(nanos).unwrap_or(u64::MAX)
        };
        Self {
            guest_minus_host: counter.offset().cast_signed(),
            window_ns: nanos(counter.window()),
            error_ns: nanos(counter.error()),
        }
    }

    fn details(&self) -> [(&'static str, Value); 3] {
        [
            ("guest_minus_host", self.guest_minus_host.into()),
            ("window_ns", self.window_ns.into()),
            ("error_ns", self.error_ns.into()),
        ]
    }
}

impl Event {
    /// The name, for programs. Names are stable.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Started { .. } => "started",
            Self::Attached { .. } => "attached",
            Self::Waiting { .. } => "waiting",
            Self::Connected { .. } => "connected",
            Self::Incoming { .. } => "incoming",
            Self::Standing => "standing",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::Calibrated { .. } => "calibrated",
            Self::HandedOver { .. } => "handover",
            Self::Loaded { .. } => "loaded",
            Self::SnapshotLoaded => "snapshot-loaded",
            Self::Migration { .. } => "migration",
            Self::Reset { .. } => "reset",
            Self::Shutdown { .. } => "shutdown",
            Self::NoCounter { .. } => "no-counter",
            Self::Disrupted => "disrupted",
            Self::Warning { .. } => "warning",
            Self::Ended { .. } => "ended",
            Self::Served { .. } => "served",
            Self::ServiceLost { .. } => "service-lost",
            Self::Published(event) => event.name(),
        }
    }

    /// What programs may want of it, by name. Names are stable.
    pub fn details(&self) -> Vec<(&'static str, Value)> {
        match self {
            Self::Started { pid, .. } | Self::Attached { pid, .. } => vec![("pid", (*pid).into())],
            Self::Connected { accelerator } => vec![("accel", (*accelerator).into())],
            Self::Calibrated { accelerator, counter } => {
                [("accel", (*accelerator).into())].into_iter().chain(counter.details()).collect()
            }
            Self::HandedOver { counter, rounds } => {
                [("rounds", (*rounds).into())].into_iter().chain(counter.details()).collect()
            }
            Self::Loaded { restored } => vec![("restored", (*restored).into())],
            Self::Migration { status } => vec![("status", status.as_str().into())],
            Self::Reset { reason } | Self::Shutdown { reason } | Self::ServiceLost { reason } => {
                vec![("reason", reason.as_str().into())]
            }
            Self::Served { guest } => vec![("guest", guest.as_str().into())],
            Self::Ended { status: Some((status, _)) } => vec![("status", (*status).into())],
            _ => Vec::new(),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started { program, pid } | Self::Attached { program, pid } => {
                write!(f, "{program} with process id {pid}")
            }
            Self::Waiting { monitor } => write!(f, "for QEMU's monitor at {}", monitor.display()),
            Self::Connected { accelerator } => write!(f, "to QEMU's monitor; accelerator {accelerator}"),
            Self::Incoming { uri: Some(uri) } => f.write_str(uri),
            Self::Incoming { uri: None } => f.write_str("waits for migrate-incoming or for the incoming guest"),
            Self::Standing => f.write_str("the guest is paused; the page gives time as soon as it resumes"),
            Self::Paused => f.write_str("the guest is paused; the page gives no time until it resumes"),
            Self::Resumed => f.write_str("the guest runs"),
            Self::Calibrated { counter, .. } | Self::HandedOver { counter, .. } => {
                write!(f, "the guest's counter is known to ± {} ns", counter.error_ns)
            }
            Self::Loaded { restored: true } => f.write_str("saved state: new marker, new generation"),
            Self::Loaded { restored: false } => f.write_str("a live migration: new marker"),
            Self::SnapshotLoaded => {
                f.write_str("the page is not what was published: a snapshot was loaded; new marker, new generation")
            }
            Self::Migration { status: text }
            | Self::Reset { reason: text }
            | Self::Shutdown { reason: text }
            | Self::Warning { text } => f.write_str(text),
            Self::NoCounter { reason } => {
                write!(f, "the guest gets marker and generation, but no time: {reason}")
            }
            Self::Disrupted => f.write_str("the guest's counter changed without an event: new marker"),
            Self::Ended { status: Some((_, status)) } => write!(f, "QEMU ended: {status}; the page says unreliable"),
            Self::Ended { status: None } => f.write_str("the page says unreliable"),
            Self::Served { guest } => write!(f, "the host's service publishes the page of {guest}"),
            Self::ServiceLost { reason } => {
                write!(f, "the host's service does not answer, and is asked again: {reason}")
            }
            Self::Published(event) => event.fmt(f),
        }
    }
}
