// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock qemu`: runs an unmodified QEMU with a clock.
//!
//! | file | what it is |
//! |---|---|
//! | `arguments` | the user's command line, and what is added to it |
//! | `attach` | a QEMU that somebody else starts |
//! | `process` | QEMU's process, ours or somebody else's |
//! | `session` | the guest's life, and what the page says of it |
//! | `source` | where the guest's counter is known from: TCG's device state, KVM's debugfs |
//! | `kvm` | debugfs |
//! | `second_page` | a counter that the guest hands over |
//! | `qmp` | QEMU's monitor |

mod arguments;
mod attach;
mod kvm;
mod process;
mod qmp;
mod second_page;
mod session;
mod source;

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Child, Command, ExitCode};

use anyhow::{ensure, Context};
use vmclock_vmm::acpi::{table, Doorbell, Place};

use crate::cli::QemuArgs;
use crate::command::serve::config::Plan;
use crate::command::serve::control::{path_for, Control};
use crate::command::serve::publisher::Publisher;
use crate::command::serve::stop_signal;
use crate::output::print;

use arguments::{quoted, Additions, Analysis, BELL_IO, REGION_LEN};
use attach::beside;
use process::Process;
use session::{Facts, Log, Session};

pub(crate) fn run(args: &QemuArgs) -> anyhow::Result<ExitCode> {
    if let (true, Some(page)) = (args.attach, &args.page) {
        return attach::run(args, page);
    }
    let slot = (!args.read_only_page).then_some(args.slot);
    let irq = (!args.no_notify).then_some(args.irq);
    let analysis = Analysis::of(&args.command, slot, irq)?;
    ensure!(
        !(args.read_only_page && analysis.incoming.is_some()),
        "--read-only-page with -incoming: QEMU crashes when it loads into a read-only page; leave one of the two out"
    );
    let folder = tempfile::Builder::new().prefix("vmclock-").tempdir().context("cannot make a temporary folder")?;
    let page = args.page.clone().unwrap_or_else(|| folder.path().join("page"));
    // QEMU has its own working directory in mind as soon as somebody uses -chroot or the like.
    let page = std::path::absolute(&page).with_context(|| format!("{}: is no path", page.display()))?;
    let table_path = args.table.clone().unwrap_or_else(|| folder.path().join("table.aml"));
    let place = slot.map_or_else(|| Place::Fixed(analysis.nvdimm_address()), Place::PciSlot);
    let aml = table(place, irq.map(|irq| Doorbell { io: BELL_IO, irq }));
    std::fs::write(&table_path, aml)
        .with_context(|| format!("{}: cannot write the ACPI table", table_path.display()))?;
    let additions = Additions { page: &page, table: &table_path, place, monitor: "", bell: None };
    if args.print_args {
        return print_arguments(&analysis, additions, irq);
    }
    // Before anything is published, so that no signal finds us without the means to take the page back.
    let stop = stop_signal()?;
    let log = Log { json: args.json };
    let (mut publisher, opened) = Publisher::open(planned(args, &page)?)?;
    publisher.set_guest_counter(None);
    make_room(&page, if args.read_only_page { 4096 } else { REGION_LEN })?;
    let control = Control::listen(&path_for(&page, args.control.as_deref()))?;
    opened.iter().try_for_each(|report| log.report(report.event, &report.text, Some(publisher.contents()), &[]))?;

    let (child, monitor, bell) = start(&analysis, additions, irq)?;
    let facts = Facts {
        accelerator: analysis.accelerator,
        incoming: analysis.incoming.clone(),
        lets_go_on: !analysis.stopped,
        nvdimm: if let Place::Fixed(address) = place { Some(address) } else { None },
    };
    let process = Process::Ours(child);
    let folder = folder.path().to_path_buf();
    let mut session = Session { args, log, publisher, control, stop, process, bell, page, folder };
    session.run(&analysis.program, &facts, monitor)
}

fn print_arguments(analysis: &Analysis, additions: Additions<'_>, irq: Option<u8>) -> anyhow::Result<ExitCode> {
    let beside = |what: &str| beside(additions.page, what).display().to_string().replace(',', ",,");
    let monitor = format!("path={},server=on,wait=off", beside(".qmp"));
    let bell =
        format!("local.type=unix,local.path={},remote.type=unix,remote.path={}", beside(".bell"), beside(".bell-host"));
    let all = analysis.with(&Additions { monitor: &monitor, bell: irq.map(|irq| (bell.as_str(), irq)), ..additions });
    let words: Vec<String> = std::iter::once(&analysis.program).chain(&all).map(|word| quoted(word)).collect();
    print(&format!("{}\n", words.join(" ")))?;
    Ok(ExitCode::SUCCESS)
}

/// What publishing for a guest has in common with publishing for this machine.
fn planned(args: &QemuArgs, page: &Path) -> anyhow::Result<Plan> {
    Plan::simple(page, args.reference, Some(args.refresh), args.tai_offset)
}

fn make_room(page: &Path, len: u64) -> anyhow::Result<()> {
    let file = std::fs::File::options().write(true).open(page);
    file.and_then(|file| file.set_len(len))
        .with_context(|| format!("{}: cannot make it {len} bytes long", page.display()))
}

/// Starts QEMU with our ends of its monitor and its doorbell: no paths, so nothing is left over and nobody else gets in.
fn start(
    analysis: &Analysis,
    additions: Additions<'_>,
    irq: Option<u8>,
) -> anyhow::Result<(Child, UnixStream, Option<UnixDatagram>)> {
    let (monitor, qemus_monitor) = UnixStream::pair().context("cannot make a socket pair")?;
    let (bell, qemus_bell) = UnixDatagram::pair().context("cannot make a socket pair")?;
    bell.set_nonblocking(true).context("cannot make the doorbell non-blocking")?;
    // Copies that survive the exec.
    let inherited = |fd: OwnedFd| rustix::io::dup(fd).context("cannot copy a socket");
    let qemus_monitor = inherited(qemus_monitor.into())?;
    let qemus_bell = inherited(qemus_bell.into())?;
    let netdev = format!("local.type=fd,local.str={}", qemus_bell.as_raw_fd());
    let all = analysis.with(&Additions {
        monitor: &format!("fd={}", qemus_monitor.as_raw_fd()),
        bell: irq.map(|irq| (netdev.as_str(), irq)),
        ..additions
    });
    let child = Command::new(&analysis.program)
        .args(&all)
        .spawn()
        .with_context(|| format!("{}: cannot be started; is QEMU installed?", analysis.program))?;
    Ok((child, monitor, irq.map(|_| bell)))
}
