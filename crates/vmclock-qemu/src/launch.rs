// SPDX-License-Identifier: MIT OR Apache-2.0
//! A QEMU of ours: its command line, its table, its start.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use tempfile::TempDir;

use crate::arguments::{escaped, quoted, Accelerator, Additions, Analysis, BELL_IO, REGION_LEN};
use crate::attach::beside;
use crate::error::Error;
use crate::machine::Start;
use crate::table::{table, Doorbell, Place, Slot};

/// What to run.
///
/// ```
/// use vmclock_qemu::{Launch, LaunchOptions};
///
/// let command = ["qemu-system-x86_64", "-machine", "q35"].map(Into::into).to_vec();
/// let launch = Launch::new(LaunchOptions::new(command))?;
/// let line = launch.command_line().into_string().expect("text");
/// assert!(line.starts_with("qemu-system-x86_64 -object ") && line.ends_with(" -S"));
/// assert!(!launch.page().exists(), "somebody has to publish it first");
/// # Ok::<(), vmclock_qemu::error::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LaunchOptions {
    /// QEMU and the user's arguments.
    pub command: Vec<OsString>,
    /// The page's file; none for a temporary one.
    pub page: Option<PathBuf>,
    /// The ACPI table's file, which is written; none for a temporary one.
    pub table: Option<PathBuf>,
    /// The slot of the guest's first PCI bus for the page; none for a read-only NVDIMM.
    pub slot: Option<Slot>,
    /// The interrupt of the doorbell; none for a guest that is not notified.
    pub irq: Option<u8>,
}

impl LaunchOptions {
    /// With temporary files, the page in slot 0x1d, and interrupt 5.
    pub const fn new(command: Vec<OsString>) -> Self {
        Self { command, page: None, table: None, slot: Slot::new(0x1d), irq: Some(5) }
    }
}

/// A QEMU that can be started: see [`LaunchOptions`].
#[derive(Debug)]
pub struct Launch {
    analysis: Analysis,
    place: Place,
    irq: Option<u8>,
    page: PathBuf,
    table: PathBuf,
    folder: TempDir,
}

/// A QEMU that was started.
pub(crate) struct Launched {
    pub(crate) child: Child,
    pub(crate) monitor: UnixStream,
    pub(crate) bell: Option<UnixDatagram>,
}

impl Launch {
    /// Checks the user's arguments, and writes the table. Nothing is started, and there is no page yet.
    pub fn new(options: LaunchOptions) -> Result<Self, Error> {
        let LaunchOptions { command, page, table: table_path, slot, irq } = options;
        let analysis = Analysis::of(&command, slot, irq)?;
        if slot.is_none() && analysis.incoming.is_some() {
            return Err(Error::Argument {
                argument: "--read-only-page with -incoming".into(),
                reason: "QEMU crashes when it loads into a read-only page; leave one of the two out".into(),
            });
        }
        let folder = temporary_folder()?;
        let page = page.unwrap_or_else(|| folder.path().join("page"));
        // QEMU has another working directory as soon as it is given -chroot or the like.
        let page = std::path::absolute(&page).map_err(Error::file(&page, "use it as a path"))?;
        let table_path = table_path.unwrap_or_else(|| folder.path().join("table.aml"));
        let place = slot.map_or_else(|| Place::Fixed(analysis.nvdimm_address()), Place::PciSlot);
        let aml = table(place, irq.map(|irq| Doorbell { io: BELL_IO, irq }));
        std::fs::write(&table_path, aml).map_err(Error::file(&table_path, "write the ACPI table"))?;
        Ok(Self { analysis, place, irq, page, table: table_path, folder })
    }

    /// The page's file.
    pub fn page(&self) -> &Path {
        &self.page
    }

    /// The whole command line as words of a shell, for a QEMU that somebody else starts: its monitor and its doorbell
    /// are sockets beside the page.
    pub fn command_line(&self) -> OsString {
        let mut monitor = OsString::from("server=on,wait=off,path=");
        monitor.push(escaped(&beside(&self.page, ".qmp")));
        let mut bell = OsString::from("local.type=unix,remote.type=unix");
        for (key, suffix) in [(",local.path=", ".bell"), (",remote.path=", ".bell-host")] {
            bell.push(key);
            bell.push(escaped(&beside(&self.page, suffix)));
        }
        let mut line = quoted(&self.analysis.program);
        for word in self.arguments(&monitor, &bell) {
            line.push(" ");
            line.push(quoted(&word));
        }
        line
    }

    pub(crate) fn program(&self) -> String {
        self.analysis.program.to_string_lossy().into_owned()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn has_bell(&self) -> bool {
        self.irq.is_some()
    }

    pub(crate) fn accelerator(&self) -> Accelerator {
        self.analysis.accelerator
    }

    pub(crate) fn guest(&self) -> Start {
        Start::Ours { continues: !self.analysis.stopped, incoming: self.analysis.incoming.clone() }
    }

    /// How long the page's file has to be.
    pub(crate) fn region_len(&self) -> u64 {
        match self.place {
            Place::PciSlot(_) => REGION_LEN,
            Place::Fixed(_) => 4096,
        }
    }

    /// Where the page's NVDIMM has to be.
    pub(crate) fn nvdimm(&self) -> Option<u64> {
        match self.place {
            Place::PciSlot(_) => None,
            Place::Fixed(address) => Some(address),
        }
    }

    /// Starts QEMU with our ends of its monitor and its doorbell: no paths, so nothing is left over and nobody else
    /// connects.
    pub(crate) fn start(&self) -> Result<Launched, Error> {
        let pair = Error::system("make a socket pair");
        let (monitor, qemus_monitor) = UnixStream::pair().map_err(pair)?;
        let (bell, qemus_bell) = UnixDatagram::pair().map_err(Error::system("make a socket pair"))?;
        bell.set_nonblocking(true).map_err(Error::system("make the doorbell non-blocking"))?;
        // Copies that survive the exec.
        let inherited = |fd: OwnedFd| rustix::io::dup(fd).map_err(|errno| Error::system("copy a socket")(errno.into()));
        let qemus_monitor = inherited(qemus_monitor.into())?;
        let qemus_bell = inherited(qemus_bell.into())?;
        let netdev = format!("local.type=fd,local.str={}", qemus_bell.as_raw_fd());
        let arguments = self.arguments(format!("fd={}", qemus_monitor.as_raw_fd()).as_ref(), netdev.as_ref());
        let program = &self.analysis.program;
        let child = Command::new(program)
            .args(arguments)
            .spawn()
            .map_err(|error| Error::NotStarted { program: program.into(), error })?;
        Ok(Launched { child, monitor, bell: self.irq.map(|_| bell) })
    }

    fn arguments(&self, monitor: &OsStr, bell: &OsStr) -> Vec<OsString> {
        let Self { page, table, place, .. } = self;
        let bell = self.irq.map(|irq| (bell, irq));
        self.analysis.with(&Additions { page, table, place: *place, monitor, bell })
    }
}

pub(crate) fn temporary_folder() -> Result<TempDir, Error> {
    tempfile::Builder::new().prefix("vmclock-").tempdir().map_err(Error::system("make a temporary folder"))
}
