// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can be said on the command line. Help, completions and man pages are all made from this.

use std::env;
#[cfg(feature = "qemu")]
use std::ffi::OsString;
#[cfg(feature = "exporter")]
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use vmclock_core::guest_counter::GuestCounter;
use vmclock_core::leap;
use vmclock_core::tai::TaiOffset;
use vmclock_host::service::protocol::{GuestName, Relation, Step};

const EXIT_STATUS: &str = "\
Exit status:
  0  done
  1  failure: no device, no permission, bad page, I/O error, failed check
  2  the command line is wrong
  3  the page is in order but gives no time, or vanished while it was open (wait: not within the timeout)
  4  watch: a command of --exec failed, or took too long

With --json, errors are objects too, a line each on standard error: {\"error\": .., \"exit_status\": ..}, without exit_status where the
command continues. docs/output.schema.json describes all that is printed.";

/// Time inside virtual machines: read, watch, publish and check VMClock pages.
#[derive(Debug, Parser)]
#[command(name = "vmclock", version, after_help = EXIT_STATUS, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show every field of a page, decoded, and its anomalies
    #[command(
        after_help = "Examples:\n  vmclock show\n  vmclock show --page /run/vmclock/page --json | jq .clock_status"
    )]
    Show(PageArgs),

    /// Print the time now: TAI and UTC, with the interval [earliest, latest] that contains true time
    #[command(after_help = "Examples:\n  vmclock now\n  vmclock now --json | jq .utc.sec")]
    Now(PageArgs),

    /// Print one line for each event: disruptions, restores, maintenance notices, status, leap seconds
    #[command(
        after_help = "The command of --exec runs after each event with, in its environment: VMCLOCK_EVENT (the event's name), \
VMCLOCK_FROM and VMCLOCK_TO (what changed), VMCLOCK_MARKER, VMCLOCK_GENERATION, VMCLOCK_STATUS and VMCLOCK_PAGE. Its standard input is \
empty; with --json its standard output goes to standard error. A page whose file was removed or replaced is the event `vanished`, \
without marker, generation and status; a new one at its path is `returned`.\n\n\
Exit status: 4 if a command failed or took too long, and all else went well.\n\n\
Examples:\n  vmclock watch\n  vmclock watch --on restored --exec-timeout 10s --exec 'systemctl restart chronyd'"
    )]
    Watch(WatchArgs),

    /// Wait until the clock is good enough
    #[command(after_help = "Examples:\n  vmclock wait --max-error 1ms --timeout 10s && exec my-database")]
    Wait(WaitArgs),

    /// Compute the time that a static page gives at a counter value; reads no counter
    #[command(after_help = "Examples:\n  vmclock eval --page page.bin --counter 123456789 --json")]
    Eval(EvalArgs),

    /// Diagnose this machine: which VMClock it has, or why none, and what to do
    #[command(
        after_help = "Exit status: 0 if programs here can get time from a VMClock, 3 if events only, 1 if nothing.\n\nExamples:\n  vmclock doctor\n  vmclock doctor --page /run/vmclock/page"
    )]
    Doctor(PageArgs),

    /// Publish a page: calibrate this machine's counter against its clock, and keep the page fresh
    #[command(
        after_help = "Examples:\n  vmclock serve --page /run/vmclock/page\n  vmclock serve --page ./page --reference host-clock --refresh 100ms"
    )]
    Serve(ServeArgs),

    /// Say whether the configuration of `serve` is in order, and whether its sources are reachable
    #[command(after_help = "Examples:\n  vmclock check-config\n  vmclock check-config ./vmclock.toml")]
    CheckConfig(CheckConfigArgs),

    #[cfg(feature = "qemu")]
    /// Run QEMU with a clock: publish the guest's page, and follow what happens to the guest
    #[command(
        after_help = "Exit status: QEMU's own (128 and the signal's number where a signal ended it); 1 where vmclock failed.\n\n\
Examples:\n  vmclock qemu -- qemu-system-x86_64 -machine q35 -accel kvm -m 4G disk.img\n  \
vmclock qemu --print-args --page /run/vmclock/guest --table /run/vmclock/guest.aml -- qemu-system-x86_64 -machine q35\n  \
vmclock qemu --attach --page /run/vmclock/guest --timeout 24h"
    )]
    Qemu(QemuArgs),

    /// Notify a running publisher of what happens to the machine
    #[command(
        after_help = "Examples:\n  vmclock signal migrate --page ./page\n  vmclock signal leap positive --page ./page\n  \
vmclock signal soon --guest web-7"
    )]
    Signal(SignalArgs),

    /// List the guests of the host's service, or add, remove and change one
    #[command(
        after_help = "RELATION is how a guest's counter relates to this machine's: unknown, none, host (the guest reads this machine's \
counter), an offset in ticks such as -4096 or 0xfffffffffffff000, or an object as in docs/control.md.\n\n\
Examples:\n  vmclock guests\n  vmclock guests add web-7 --page /run/vmclock/web-7 --counter host\n  \
vmclock guests step web-7 restored --counter host\n  vmclock guests remove web-7"
    )]
    Guests(GuestsArgs),

    /// List the sources of the host's service, as `chronyc sources` does
    #[command(
        after_help = "The mark: * selected, x falseticker, - not needed or not synchronized, ? unreachable. Reach: which of the last \
eight rounds the source answered in, a bit each, in octal. Offset: how far ahead of the published clock its last measurement was.\n\n\
Examples:\n  vmclock sources\n  vmclock sources --json | jq 'select(.standing == \"falseticker\")'"
    )]
    Sources(ServiceArgs),

    /// Show the clock of the host's service: state, marker, bounds, frequency, last update and next
    #[command(after_help = "Examples:\n  vmclock tracking\n  vmclock tracking --json | jq .max_error_ns")]
    Tracking(ServiceArgs),

    /// Serve what the host's service says over HTTP: /metrics for Prometheus, /status.json for programs, a page for people
    #[cfg(feature = "exporter")]
    #[command(
        after_help = "It needs no rights but to connect to the service's socket. docs/exporter.md lists the metrics.\n\n\
Examples:\n  vmclock exporter\n  vmclock exporter --listen 127.0.0.1:9999 --most-guests 200"
    )]
    Exporter(ExporterArgs),

    /// Run the real publisher and the real page in simulations, and count violations
    #[command(
        after_help = "Exit status: 0 if there was no violation, 1 if there was one.\n\nExamples:\n  vmclock simulate --days 1000 --seed 1 --json\n  vmclock simulate --scenario ptp --days 2 --plot ptp.svg"
    )]
    Simulate(SimulateArgs),

    /// See it all: a publisher, a reader, a migration, a restore, a maintenance notice and a leap second
    #[command(after_help = "Examples:\n  vmclock demo\n  vmclock demo --plot demo.svg")]
    Demo(DemoArgs),

    /// Measure what reading and publishing cost, beside the system's clock
    #[command(
        after_help = "It measures on a page of its own, a plain file in the temporary folder with this machine's counter calibrated in it. \
Everything is measured in turn, each in many rounds of some 100 us, and the best round counts: what a call costs when nothing \
disturbs it.\n\n\
publish and odd: from before an update until every CPU sees all of it, and the part of it in which the sequence count is odd; both \
with a fence and a counter reading that publishing itself does without.\n\
contended: now() in the better of two threads, each on a CPU of its own, in rounds of some 2 ms in which a third thread, which \
sleeps in between, updates the page at 10 kHz. With only two CPUs, the third takes one from a reader for every update; \
contended_mean, over both threads, includes that.\n\n\
Examples:\n  vmclock bench\n  vmclock bench --json | jq .now_vs_vdso\n  vmclock bench --service --guests 1000"
    )]
    Bench(BenchArgs),

    /// Print the completions for a shell
    #[command(after_help = "Examples:\n  vmclock completions bash > /etc/bash_completion.d/vmclock")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },

    /// Write the man pages, one for each subcommand
    #[command(after_help = "Examples:\n  vmclock man --out /usr/local/share/man/man1")]
    Man {
        /// The folder to write them to
        #[arg(long, value_name = "FOLDER")]
        out: PathBuf,
    },
}

impl Command {
    /// Whether JSON is asked for.
    pub(crate) fn prints_json(&self) -> bool {
        match self {
            Self::Show(args) | Self::Now(args) | Self::Doctor(args) => args.json,
            Self::Watch(args) => args.page.json,
            Self::Wait(args) => args.page.json,
            Self::Eval(args) => args.json,
            Self::Serve(args) => args.json,
            Self::CheckConfig(args) => args.json,
            #[cfg(feature = "qemu")]
            Self::Qemu(args) => args.json,
            Self::Signal(args) => args.json,
            Self::Guests(args) => args.service.json,
            Self::Sources(args) | Self::Tracking(args) => args.json,
            #[cfg(feature = "exporter")]
            Self::Exporter(args) => args.service.json,
            Self::Simulate(args) => args.json,
            Self::Demo(args) => args.json,
            Self::Bench(args) => args.json,
            Self::Completions { .. } | Self::Man { .. } => false,
        }
    }
}

/// Where publishers put their page: as [`vmclock::default_page`], but never a device.
pub(crate) fn published_page() -> PathBuf {
    let named = env::var_os(vmclock::PAGE_VARIABLE).filter(|named| !named.is_empty());
    named.map_or_else(|| vmclock::PUBLISHED_PATH.into(), PathBuf::from)
}

/// Which page, and in which form to print.
#[derive(Args, Clone, Debug)]
pub(crate) struct PageArgs {
    /// The device, or a file with a page in it (default: `$VMCLOCK_PAGE`; else /dev/vmclock0 or /run/vmclock/page,
    /// whichever exists)
    #[arg(long, value_name = "PATH", default_value_os_t = vmclock::default_page(), hide_default_value = true)]
    pub(crate) page: PathBuf,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// The names of what `watch` reports.
const EVENTS: [&str; 11] = [
    "disrupted",
    "restored",
    "maintenance-soon",
    "maintenance-imminent",
    "maintenance-cleared",
    "status",
    "counter",
    "time-scale",
    "vanished",
    "returned",
    "refreshed",
];

#[derive(Args, Debug)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    pub(crate) page: PageArgs,

    /// Run this with `sh -c` after each event
    #[arg(long, value_name = "CMD")]
    pub(crate) exec: Option<String>,

    /// Kill the command, and all that it started, after this long, e.g. 10s (default: never)
    #[arg(long, value_name = "TIME", value_parser = duration, requires = "exec")]
    pub(crate) exec_timeout: Option<Duration>,

    /// Only these events (may be given more than once; default: all but refreshed)
    #[arg(long, value_name = "EVENT", value_parser = EVENTS)]
    pub(crate) on: Vec<String>,

    /// Stop after so many events
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,

    /// Stop after this long, e.g. 30s
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,

    /// Report mere refreshes of the calibration too
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Args, Debug)]
pub(crate) struct WaitArgs {
    #[command(flatten)]
    pub(crate) page: PageArgs,

    /// Wait until the maximum error is at most this, e.g. 1ms
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) max_error: Duration,

    /// Give up after this long, e.g. 10s (default: never)
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
}

#[derive(Args, Debug)]
pub(crate) struct EvalArgs {
    /// A file with a page in it
    #[arg(long, value_name = "FILE")]
    pub(crate) page: PathBuf,

    /// The counter value
    #[arg(long, value_name = "N")]
    pub(crate) counter: u64,

    /// The counter of the CPU that is asked about (default: this CPU's)
    #[arg(long, value_name = "COUNTER")]
    pub(crate) cpu_counter: Option<CpuCounter>,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum CpuCounter {
    /// The x86 time-stamp counter
    X86Tsc,
    /// The Arm virtual counter
    ArmCntvct,
}

#[derive(Args, Clone, Debug)]
#[allow(clippy::struct_excessive_bools)] // flags are what a command line is made of
pub(crate) struct ServeArgs {
    /// The file to publish the page in (default: `$VMCLOCK_PAGE`; else /run/vmclock/page)
    #[arg(long, value_name = "PATH", default_value_os_t = published_page(), hide_default_value = true)]
    pub(crate) page: PathBuf,

    /// Where to listen for `vmclock signal` (default: the page's path and `.control`)
    #[arg(long, value_name = "PATH")]
    pub(crate) control: Option<PathBuf>,

    /// The reference clock (default: kernel)
    #[arg(long, value_name = "REFERENCE", conflicts_with = "config")]
    pub(crate) reference: Option<Reference>,

    /// How often to poll the sources, from 1ms to 60s (default: 1s); the page is refreshed when that makes it better
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) refresh: Option<Duration>,

    /// TAI-UTC in seconds, e.g. 37, where you know better than the kernel and the system's leap-seconds.list (-37 is
    /// taken too)
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true, value_parser = tai_offset)]
    pub(crate) tai_offset: Option<TaiOffset>,

    /// Publish an imaginary clock that starts at this UTC time, e.g. 2026-12-31T23:59:58Z (for tests of leap seconds)
    #[arg(long, value_name = "TIME")]
    pub(crate) start_at: Option<jiff::Timestamp>,

    /// Announce a leap second at the end of this UTC month from the start
    #[arg(long, value_name = "KIND")]
    pub(crate) leap: Option<LeapKind>,

    /// Sources and assumptions, as in docs/serve.toml (default: /etc/vmclock/vmclock.toml where that is, and no --reference);
    /// SIGHUP reads it again
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// The group that may connect to the control socket: its name in /etc/group, or its number (default: none)
    #[arg(long, value_name = "GROUP")]
    pub(crate) group: Option<String>,

    /// Publish nothing: say whether --config is in order, and whether its sources are reachable
    #[arg(long, requires = "config")]
    pub(crate) check_config: bool,

    /// Record all measurements and decisions in a new file, for `vmclock simulate --replay`
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,

    /// Where to save what is known, for the next publisher: after SIGTERM or a crash it continues with the same marker and
    /// bounds, if the counter went on (default: /run/vmclock/state, where the page is /run/vmclock/page; else nowhere)
    #[arg(long, value_name = "FOLDER", conflicts_with = "start_at")]
    pub(crate) state: Option<PathBuf>,

    /// Save nothing: whoever stops the publisher makes the page unreliable, and the next one gives it a new marker
    #[arg(long, conflicts_with = "state")]
    pub(crate) no_state: bool,

    /// Print one JSON line for each thing that the publisher does
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct CheckConfigArgs {
    /// The file
    #[arg(value_name = "FILE", default_value = crate::command::DEFAULT_CONFIG)]
    pub(crate) file: PathBuf,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(feature = "qemu")]
#[derive(Args, Clone, Debug)]
#[allow(clippy::struct_excessive_bools)] // flags are what a command line is made of
pub(crate) struct QemuArgs {
    /// The file to publish the guest's page in (default: a temporary one)
    #[arg(long, value_name = "PATH")]
    pub(crate) page: Option<PathBuf>,

    /// Where to listen for `vmclock signal` (default: the page's path and `.control`)
    #[arg(long, value_name = "PATH")]
    pub(crate) control: Option<PathBuf>,

    /// Where to write the ACPI table (default: a temporary file)
    #[arg(long, value_name = "PATH")]
    pub(crate) table: Option<PathBuf>,

    /// The slot of the guest's first PCI bus in which the page is
    #[arg(long, value_name = "SLOT", value_parser = slot, default_value = "0x1d", conflicts_with = "read_only_page")]
    pub(crate) slot: vmclock_qemu::Slot,

    /// Put the page in a read-only NVDIMM, so that the guest cannot write it
    #[arg(long)]
    pub(crate) read_only_page: bool,

    /// Do not notify the guest of updates: it gets no doorbell
    #[arg(long)]
    pub(crate) no_notify: bool,

    /// The doorbell's interrupt
    #[arg(long, value_name = "IRQ", default_value_t = 5, value_parser = clap::value_parser!(u8).range(3..=15))]
    pub(crate) irq: u8,

    /// Let a program in the guest hand its counter over through the second page (see docs/qemu.md)
    #[arg(long, conflicts_with = "read_only_page")]
    pub(crate) second_page: bool,

    /// What comes with `-incoming` is a snapshot, not a live migration (as is taken for granted of file: and exec:)
    #[arg(long)]
    pub(crate) restored: bool,

    /// Let the host's service publish the page: the service's own page, or its socket (default: `$VMCLOCK_PAGE`, else
    /// /run/vmclock/page, where a service answers and nothing says that this command is to publish the page itself)
    #[arg(long, value_name = "PATH", conflicts_with_all = ["no_service", "config", "reference", "tai_offset"])]
    pub(crate) service: Option<PathBuf>,

    /// Publish the page here, also where a service runs
    #[arg(long)]
    pub(crate) no_service: bool,

    /// What the service calls the guest (default: the page's file name, or `qemu-` and a process id)
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<vmclock_host::service::protocol::GuestName>,

    /// Do not let the guest start before there is a time for it; end after so long without one
    #[arg(long, value_name = "TIME", value_parser = duration, num_args = 0..=1, default_missing_value = "60s",
          require_equals = true, conflicts_with = "attach")]
    pub(crate) require_time: Option<Duration>,

    /// Publish the page here, from the sources in this file (TOML: see docs/serve.toml)
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Publish the page here, from this reference clock (default: kernel)
    #[arg(long, value_name = "REFERENCE")]
    pub(crate) reference: Option<Reference>,

    /// How often to refresh the calibration, from 1ms to 60s (default: 1s). Where a service publishes the page: how often
    /// to find out whether the guest has another counter
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) refresh: Option<Duration>,

    /// Publish the page here, with this TAI-UTC in seconds, e.g. 37, where you know better than the kernel and the system's
    /// leap-seconds.list (-37 is taken too)
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true, value_parser = tai_offset)]
    pub(crate) tai_offset: Option<TaiOffset>,

    /// Start nothing: write the table and print the command line with what is to be added
    #[arg(long, requires = "page", requires = "table")]
    pub(crate) print_args: bool,

    /// Publish for a QEMU that somebody else starts, e.g. libvirt, with what --print-args prints; start this first
    #[arg(long, requires = "page", conflicts_with_all = ["command", "table", "print_args", "read_only_page", "slot", "irq"])]
    pub(crate) attach: bool,

    /// With --attach: the socket of QEMU's monitor (default: the page's path and `.qmp`)
    #[arg(long, value_name = "PATH", requires = "attach")]
    pub(crate) qmp: Option<PathBuf>,

    /// With --attach: the socket of QEMU's doorbell (default: the page's path and `.bell`)
    #[arg(long, value_name = "PATH", requires = "attach", conflicts_with = "no_notify")]
    pub(crate) bell: Option<PathBuf>,

    /// With --attach: how long to wait for QEMU
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "60s", requires = "attach")]
    pub(crate) timeout: Duration,

    /// Print one JSON line for each thing that happens
    #[arg(long)]
    pub(crate) json: bool,

    /// QEMU and its arguments
    #[arg(last = true, required_unless_present = "attach", value_name = "QEMU")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Reference {
    /// The kernel's clock with the error that the kernel itself states
    Kernel,
    /// This machine's clock, assumed exact: the bounds cover only what publishing adds to it
    HostClock,
}

#[derive(Args, Debug)]
pub(crate) struct SignalArgs {
    /// What happens
    #[command(subcommand)]
    pub(crate) signal: Signal,

    /// The file of the page whose publisher is meant (default: `$VMCLOCK_PAGE`; else /run/vmclock/page)
    #[arg(long, value_name = "PATH", default_value_os_t = published_page(), hide_default_value = true, global = true)]
    pub(crate) page: PathBuf,

    /// Where its publisher listens (default: the page's path and `.control`)
    #[arg(long, value_name = "PATH", global = true)]
    pub(crate) control: Option<PathBuf>,

    /// It happens to this guest of the service, not to the machine that the page is for
    #[arg(long, value_name = "NAME", global = true)]
    pub(crate) guest: Option<GuestName>,

    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub(crate) enum Signal {
    /// A live migration: new marker, calibration from the new host
    Migrate,
    /// A restore from a snapshot: new marker, new generation
    Snapshot,
    /// A clone on the same running host: new generation
    Clone,
    /// A disruption is expected within about a day
    Soon,
    /// A disruption is expected within about an hour
    Imminent,
    /// No disruption is expected any more
    Clear,
    /// A leap second at the end of this UTC month
    Leap {
        /// Which
        kind: LeapKind,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LeapKind {
    /// One is inserted
    Positive,
    /// One is deleted
    Negative,
    /// None, after all
    None,
}

impl From<LeapKind> for Option<leap::LeapKind> {
    fn from(kind: LeapKind) -> Self {
        match kind {
            LeapKind::Positive => Some(leap::LeapKind::Inserted),
            LeapKind::Negative => Some(leap::LeapKind::Deleted),
            LeapKind::None => None,
        }
    }
}

/// Which service, and in which form to print.
#[derive(Args, Clone, Debug)]
pub(crate) struct ServiceArgs {
    /// The service's own page (default: `$VMCLOCK_PAGE`; else /run/vmclock/page)
    #[arg(long, value_name = "PATH", default_value_os_t = published_page(), hide_default_value = true, global = true)]
    pub(crate) service: PathBuf,

    /// Where the service listens (default: its page's path and `.control`)
    #[arg(long, value_name = "PATH", global = true)]
    pub(crate) control: Option<PathBuf>,

    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[cfg(feature = "exporter")]
#[derive(Args, Debug)]
pub(crate) struct ExporterArgs {
    /// Where to listen. There is neither TLS nor a password: put a proxy in front for other machines
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9977")]
    pub(crate) listen: SocketAddr,

    /// With more guests than this, no metrics for each guest, only for all
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub(crate) most_guests: usize,

    /// How often the service is polled for the page's history of an hour
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub(crate) interval: u64,

    #[command(flatten)]
    pub(crate) service: ServiceArgs,
}

#[derive(Args, Debug)]
pub(crate) struct GuestsArgs {
    /// What to do (default: list them)
    #[command(subcommand)]
    pub(crate) action: Option<GuestsAction>,

    #[command(flatten)]
    pub(crate) service: ServiceArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GuestsAction {
    /// The service publishes the page of a guest from now on
    Add {
        /// The guest's name: up to 128 bytes without `/`
        guest: GuestName,

        /// The file of its page; made if there is none
        #[arg(long, value_name = "PATH")]
        page: PathBuf,

        /// Its counter
        #[arg(long, value_name = "RELATION", value_parser = relation, default_value = "unknown", allow_hyphen_values = true)]
        counter: Relation,

        /// Whoever runs the guest notifies it of updates: sets the page's flag
        #[arg(long)]
        notify: bool,

        /// What is known of the guest (default: it boots, or runs on)
        #[arg(long, value_name = "STEP", value_parser = step)]
        step: Option<Step>,
    },

    /// A guest is gone: its page says `unreliable` from now on
    Remove {
        /// The guest
        guest: GuestName,
    },

    /// Something happened to a guest
    Step {
        /// The guest
        guest: GuestName,

        /// What: paused, resumed, incoming, restored, migrated-in, migrated-out, reset, cloned or disrupted
        #[arg(value_parser = step)]
        step: Step,

        /// Its counter from now on, where it is known
        #[arg(long, value_name = "RELATION", value_parser = relation, allow_hyphen_values = true)]
        counter: Option<Relation>,
    },

    /// A guest's counter is known from now on, or is not any more
    Counter {
        /// The guest
        guest: GuestName,

        /// Its counter
        #[arg(value_name = "RELATION", value_parser = relation, allow_hyphen_values = true)]
        counter: Relation,
    },
}

#[derive(Args, Debug)]
pub(crate) struct SimulateArgs {
    /// How many days, over all scenarios together
    #[arg(long, value_name = "N", default_value = "28", value_parser = days)]
    pub(crate) days: f64,

    /// The seed of all random numbers: the same seed gives the same simulation
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub(crate) seed: u64,

    /// Which scenario: network, ptp, leap and so on, or all
    #[arg(long, value_name = "NAME", default_value = "all")]
    pub(crate) scenario: String,

    /// Instead, replay what `vmclock serve --record` recorded, and compare
    #[arg(long, value_name = "FILE", conflicts_with_all = ["days", "seed", "scenario", "plot"])]
    pub(crate) replay: Option<PathBuf>,

    /// Draw the clock's error in the first scenario, with the interval around it, as SVG
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// Draw the clock's error over the run, with the interval around it, as SVG
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,

    /// Print JSON lines
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    /// Instead, measure how good the time of `vmclock serve --reference host-clock` is on this machine while it is busy
    #[arg(long)]
    pub(crate) accuracy: bool,

    /// With --accuracy: for how long
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "30s", requires = "accuracy")]
    pub(crate) time: Duration,

    /// Instead, measure the host's service: `vmclock serve` with many guests, and as many publishers of one page each
    #[arg(long, conflicts_with = "accuracy")]
    pub(crate) service: bool,

    /// With --service: with how many guests
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,10,100,1000,10000", requires = "service", value_parser = guests)]
    pub(crate) guests: Vec<usize>,

    /// Rounds to take the best of; with --service a fifth of the refreshes that are watched
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) rounds: u32,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(feature = "qemu")]
/// A PCI slot: `0x1d` or `29`.
fn slot(text: &str) -> Result<vmclock_qemu::Slot, String> {
    let number =
        text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |digits| u8::from_str_radix(digits, 16).ok());
    let slot = number.and_then(vmclock_qemu::Slot::new);
    slot.ok_or_else(|| format!("{text:?} is no PCI slot: they are 0 to 0x1f"))
}

/// A guest's counter: a word, an offset in ticks, or an object of the protocol's.
fn relation(text: &str) -> Result<Relation, String> {
    let offset = text.parse().ok().or_else(|| text.parse().ok().map(i64::cast_unsigned)).or_else(|| {
        let digits = text.strip_prefix("0x")?;
        u64::from_str_radix(digits, 16).ok()
    });
    if let Some(offset) = offset {
        return Ok(Relation::Known(GuestCounter::exact(offset, None)));
    }
    let json = if text.starts_with('{') { text.to_owned() } else { format!("{text:?}") };
    serde_json::from_str(&json).map_err(|_| {
        format!("{text:?}: is neither unknown, none, host, an offset in ticks, nor an object with an offset")
    })
}

/// A step of a guest's life, by its word.
fn step(text: &str) -> Result<Step, String> {
    let known = "paused, resumed, incoming, restored, migrated-in, migrated-out, reset, cloned, disrupted";
    serde_json::from_value(text.into()).map_err(|_| format!("{text:?} is none of {known}"))
}

/// How many guests: the service takes 16,384.
fn guests(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=16_384).contains(number));
    number.ok_or_else(|| format!("{text:?} is no number of guests from 1 to 16384"))
}

/// A number of days, which may be a fraction.
fn days(text: &str) -> Result<f64, String> {
    let days: f64 = text.parse().map_err(|_| format!("{text:?} is not a number of days"))?;
    if days > 0.0 && days <= 1e6 {
        Ok(days)
    } else {
        Err(format!("{text:?}: must be more than 0, and at most a million"))
    }
}

/// TAI-UTC in seconds, with its sign or, as pages have it, the other one.
fn tai_offset(text: &str) -> Result<TaiOffset, String> {
    let number = text.parse().map_err(|_| format!("{text:?} is not a number of seconds, such as 37"))?;
    TaiOffset::from_page_field(number)
        .ok_or_else(|| format!("{number}: TAI-UTC is between 10 and 60 s; it is 37 since 2017"))
}

/// A length of time with its unit: `500us`, `1ms`, `1.5s`, `2m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "ns" => 1e-9,
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{text:?} has no unit: write it like 500us, 10ms, 1.5s or 2m")),
    };
    let number: f64 =
        number.parse().map_err(|_| format!("{number:?} is not a number: write 500us, 10ms, 1.5s or 2m"))?;
    Duration::try_from_secs_f64(number * seconds).map_err(|error| format!("{text:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definition_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn both_signs_of_the_offset_are_taken() {
        let known = TaiOffset::from_seconds(37);
        assert_eq!((tai_offset("37").ok(), tai_offset("-37").ok()), (known, known));
        for wrong in ["", "0", "-9", "61", "x"] {
            assert!(tai_offset(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn relations() {
        let known = |offset: u64| Ok(Relation::Known(GuestCounter::exact(offset, None)));
        assert_eq!((relation("host"), relation("none")), (Ok(Relation::Host), Ok(Relation::None)));
        assert_eq!((relation("-5"), relation("0x1f")), (known(5_u64.wrapping_neg()), known(31)));
        assert_eq!(relation("18446744073709551615"), known(u64::MAX));
        assert_eq!(relation(r#"{"offset": "0x7"}"#), known(7));
        for wrong in ["", "hosts", "0x", "1.5", "18446744073709551616", "{}", "\"host\""] {
            assert!(relation(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration("1.5ms"), Ok(Duration::from_micros(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "5", "ms", "-1s", "1 s", "1e400s", "nans"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
    }
}
