// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a real guest consists of, out of Debian's archive: QEMU, the assembler of ACPI tables, and kernels.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure, Context, Result};

use crate::cache::Cache;
use crate::debian::{self, Freshness, Request, Tree};
use crate::shell::{say, Cmd};

use super::archive::{Archive, Release, Series, KERNEL_SUITE};

/// Where QEMU comes from: the first release whose QEMU is 10.
pub(crate) const QEMU_SUITE: &str = "trixie";

/// The first QEMU of which it is known that our page, its migration and the stock device work as we say.
const OLDEST_QEMU: u32 = 10;

/// The kernels for clouds on x86-64.
pub(crate) const FLAVOUR: &str = "cloud-amd64";

/// The packages of a kernel and its modules, from 6.19 on.
pub(crate) const KERNEL: [&str; 2] = ["linux-binary-RELEASE", "linux-modules-RELEASE"];
/// The same before.
const OLD_KERNEL: [&str; 1] = ["linux-image-RELEASE"];

/// The first series with Linux's own driver, and the last of the generation that has its kernels in one package.
const FIRST: Series = Series(6, 13);
const LAST_OLD: Series = Series(6, 18);

/// All that the harness needs and this project does not make, but for the kernels.
pub(crate) struct Assets {
    /// A script that runs QEMU as `qemu-system-x86_64`.
    pub(crate) qemu: PathBuf,
    /// The folder that QEMU's package, with all that it depends on, is in.
    pub(crate) qemu_root: PathBuf,
    /// A script that runs iasl.
    pub(crate) iasl: PathBuf,
    /// A script that runs chronyd.
    pub(crate) chronyd: PathBuf,
    /// A script that runs the daemon of ntpd-rs.
    pub(crate) ntp_daemon: PathBuf,
}

/// One of Debian's stock kernels for clouds.
pub(crate) struct Kernel {
    /// `7.2.12`
    pub(crate) version: String,
    pub(crate) image: PathBuf,
    /// Linux's own driver, as Debian packs it.
    pub(crate) driver: PathBuf,
}

impl Assets {
    /// Brings everything to the cache.
    pub(crate) fn fetch(cache: &Cache) -> Result<Self> {
        let (qemu, iasl, qemu_root) = fetch_qemu(cache)?;
        let chronyd = fetch_daemon(cache, "chrony", "usr/sbin/chronyd")?;
        let ntp_daemon = fetch_daemon(cache, "ntpd-rs", "usr/bin/ntp-daemon")?;
        Ok(Self { qemu, qemu_root, iasl, chronyd, ntp_daemon })
    }
}

/// The newest kernel: its driver has poll and the generation counter, and its PTP clock reports TAI. And the newest of
/// the generation before: its driver has no poll, its PTP clock reports UTC. The newest comes first; what the archive
/// does not hold is said, and left out.
pub(crate) fn fetch_kernels(cache: &Cache) -> Result<Vec<Kernel>> {
    Archive::with(cache, &[], |archive| {
        let mut kernels = Vec::new();
        match archive.newest(FLAVOUR, &KERNEL)?.first() {
            Some(newest) => kernels.push(Kernel::fetch(cache, newest)?),
            None => say(&format!("note: Debian's {KERNEL_SUITE} has no kernel for clouds with its modules")),
        }
        let is_old = |release: &&Release| (FIRST..=LAST_OLD).contains(&release.series);
        match archive.newest(FLAVOUR, &OLD_KERNEL)?.iter().find(is_old) {
            Some(old) => kernels.push(Kernel::fetch_old(cache, old)?),
            None => say(&format!(
                "note: Debian's {KERNEL_SUITE} has no kernel 6.13 to 6.18 for the cloud any more: \
                 Linux's first driver, which has no poll and whose PTP clock reports UTC, is not tested"
            )),
        }
        Ok(kernels)
    })
}

/// The newest kernel of each series that the archive holds whole, from the first with Linux's driver on; the newest
/// comes first.
pub(crate) fn fetch_every_kernel(cache: &Cache) -> Result<Vec<Kernel>> {
    Archive::with(cache, &[], |archive| {
        let news = archive.newest(FLAVOUR, &KERNEL)?;
        let olds = archive.newest(FLAVOUR, &OLD_KERNEL)?;
        let olds = olds.iter().filter(|release| (FIRST..=LAST_OLD).contains(&release.series));
        let olds = olds.map(|release| Kernel::fetch_old(cache, release));
        news.iter().map(|release| Kernel::fetch(cache, release)).chain(olds).collect()
    })
}

fn fetch_qemu(cache: &Cache) -> Result<(PathBuf, PathBuf, PathBuf)> {
    let tree = debian::fetch(
        cache,
        &Request {
            name: "qemu",
            suite: QEMU_SUITE,
            alone: &["acpica-tools"],
            with_dependencies: &["qemu-system-x86"],
            freshness: Freshness::Any,
        },
    )?;
    // QEMU looks for its firmware where it is installed, which it is not.
    let firmware = ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"].map(|folder| tree.path(folder));
    let options: Vec<&OsStr> = firmware.iter().flat_map(|folder| [OsStr::new("-L"), folder.as_os_str()]).collect();
    let qemu = tree.script("usr/bin/qemu-system-x86_64", &options)?;
    let version = Cmd::new(&qemu).arg("--version").read().context("Debian's QEMU does not run on this machine")?;
    let version = version.lines().next().unwrap_or_default().trim_start_matches("QEMU emulator version ");
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_none_or(|major| major < OLDEST_QEMU) {
        bail!("Debian's {QEMU_SUITE} has QEMU {version:?}, older than {OLDEST_QEMU}: name a newer suite here");
    }
    say(&format!("with QEMU {version}"));
    Ok((qemu, tree.script("usr/bin/iasl", &[])?, tree.path("")))
}

/// A script that runs a package's program.
fn fetch_daemon(cache: &Cache, package: &str, program: &str) -> Result<PathBuf> {
    let request = Request {
        name: package,
        suite: QEMU_SUITE,
        alone: &[],
        with_dependencies: &[package],
        freshness: Freshness::Any,
    };
    debian::fetch(cache, &request)?.script(program, &[])
}

impl Kernel {
    /// A kernel of today, in two packages.
    pub(crate) fn fetch(cache: &Cache, release: &Release) -> Result<Self> {
        let image = format!("usr/lib/modules/{}/vmlinuz", release.name);
        Self::find(&release.fetch(cache, "kernel", &KERNEL)?, release, &image)
    }

    /// One of before 6.19, in one.
    fn fetch_old(cache: &Cache, release: &Release) -> Result<Self> {
        let image = format!("boot/vmlinuz-{}", release.name);
        Self::find(&release.fetch(cache, "kernel", &OLD_KERNEL)?, release, &image)
    }

    fn find(tree: &Tree, release: &Release, image: &str) -> Result<Self> {
        let driver = format!("usr/lib/modules/{}/kernel/drivers/ptp/ptp_vmclock.ko.xz", release.name);
        let file = |path: &str| -> Result<PathBuf> {
            let path = tree.path(path);
            ensure!(Path::is_file(&path), "Debian's kernel {} does not have {}", release.name, path.display());
            Ok(path)
        };
        Ok(Self { version: release.version(), image: file(image)?, driver: file(&driver)? })
    }
}
