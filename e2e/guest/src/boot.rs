// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the first process of a machine has to do before anything works.
#![forbid(unsafe_code)]

use std::ffi::CStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use rustix::io::Errno;
use rustix::mount::{mount, MountFlags};

/// Where the harness puts the driver into the initramfs.
const DRIVER: &str = "/ptp_vmclock.ko.xz";
/// `MODULE_INIT_COMPRESSED_FILE` (linux/module.h): the kernel unpacks the module itself.
const COMPRESSED: i32 = 4;

pub(crate) fn mount_all() -> Result<()> {
    for (kind, place) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys"), ("tmpfs", "/tmp")] {
        fs::create_dir_all(place)?;
        mount(kind, place, kind, MountFlags::empty(), None).with_context(|| format!("cannot mount {place}"))?;
    }
    Ok(())
}

/// The kernel gave us a console before there was a `/dev`, or none.
pub(crate) fn use_console() {
    if let Ok(console) = OpenOptions::new().read(true).write(true).open("/dev/console") {
        let _ = rustix::stdio::dup2_stdin(&console);
        let _ = rustix::stdio::dup2_stdout(&console);
        let _ = rustix::stdio::dup2_stderr(&console);
    }
}

/// Loads Linux's own driver, unless it is built in, and the harness has given us none.
pub(crate) fn load_driver() -> io::Result<()> {
    match File::open(DRIVER) {
        Ok(driver) => Ok(load(&driver, c"")?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

pub(crate) fn load(module: &File, parameters: &CStr) -> Result<(), Errno> {
    rustix::system::finit_module(module, parameters, COMPRESSED)
}

/// What the kernel says it is.
pub(crate) fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// The device of the virtio serial port with this name. Its driver starts about when we do.
pub(crate) fn find_port(wanted: &str, patience: Duration) -> Result<String> {
    let start = Instant::now();
    while start.elapsed() < patience {
        for entry in fs::read_dir("/sys/class/virtio-ports").into_iter().flatten().flatten() {
            let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            let device = Path::new("/dev").join(entry.file_name());
            if name.trim() == wanted && device.exists() {
                return Ok(device.to_string_lossy().into_owned());
            }
        }
        sleep(Duration::from_millis(10));
    }
    bail!("there is no virtio serial port named {wanted:?}: start QEMU with one")
}
