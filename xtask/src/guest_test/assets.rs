// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a real guest consists of, out of Debian's archive: QEMU, the assembler of ACPI tables, and two kernels.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure, Context, Result};

use crate::cache::Cache;
use crate::debian::{self, Freshness, Request, Tree};
use crate::shell::{say, Cmd};

/// Where QEMU comes from: the first release whose QEMU is 10.
pub(crate) const QEMU_SUITE: &str = "trixie";

/// Where kernels come from: the suite that always has the newest, and keeps some of the older ones.
pub(crate) const KERNEL_SUITE: &str = "trixie-backports";

/// The first QEMU of which it is known that our page, its migration and the stock device work as we say.
const OLDEST_QEMU: u32 = 10;

/// All that the harness needs and this project does not make.
pub(crate) struct Assets {
    /// A script that runs QEMU as `qemu-system-x86_64`.
    pub(crate) qemu: PathBuf,
    /// A script that runs iasl.
    pub(crate) iasl: PathBuf,
    /// A script that runs chronyd.
    pub(crate) chronyd: PathBuf,
    /// The newest kernel first.
    pub(crate) kernels: Vec<Kernel>,
}

/// One of Debian's stock kernels for clouds.
pub(crate) struct Kernel {
    /// `7.2.12`
    pub(crate) version: String,
    /// `7.2.12+deb13-cloud-amd64`
    pub(crate) release: String,
    /// `7.2.12-1~bpo13+1`
    pub(crate) package_version: String,
    pub(crate) image: PathBuf,
    /// Linux's own driver, as Debian packs it.
    pub(crate) driver: PathBuf,
}

impl Assets {
    /// Brings everything to the cache.
    pub(crate) fn fetch(cache: &Cache) -> Result<Self> {
        let (qemu, iasl) = fetch_qemu(cache)?;
        let chronyd = fetch_chrony(cache)?;
        let kernels = vec![fetch_new_kernel(cache)?, fetch_old_kernel(cache)?];
        Ok(Self { qemu, iasl, chronyd, kernels })
    }

    /// The newest kernel of a series (`[7, 2]`): one of those here, or one more.
    pub(crate) fn kernel_of(self, cache: &Cache, series: &[u32]) -> Result<(Self, Kernel)> {
        let Self { qemu, iasl, chronyd, kernels } = self;
        let is_of_it = |kernel: &Kernel| kernel.version.split('.').zip(series).all(|(a, b)| a == b.to_string());
        let known = kernels.iter().position(is_of_it);
        let kernel = match known {
            Some(index) => kernels.into_iter().nth(index).context("counted")?,
            None => fetch_newest_of(cache, "kernel-driver", series)?,
        };
        Ok((Self { qemu, iasl, chronyd, kernels: Vec::new() }, kernel))
    }
}

fn fetch_qemu(cache: &Cache) -> Result<(PathBuf, PathBuf)> {
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
    Ok((qemu, tree.script("usr/bin/iasl", &[])?))
}

fn fetch_chrony(cache: &Cache) -> Result<PathBuf> {
    let request = Request {
        name: "chrony",
        suite: QEMU_SUITE,
        alone: &[],
        with_dependencies: &["chrony"],
        freshness: Freshness::Any,
    };
    debian::fetch(cache, &request)?.script("usr/sbin/chronyd", &[])
}

/// The newest kernel: its driver has poll and the generation counter, and its PTP clock reports TAI.
fn fetch_new_kernel(cache: &Cache) -> Result<Kernel> {
    fetch_newest_of(cache, "kernel-new", &[])
}

/// The newest kernel whose version begins like this.
fn fetch_newest_of(cache: &Cache, name: &str, series: &[u32]) -> Result<Kernel> {
    let (images, modules) = (Names::fetch(cache, "linux-binary-")?, Names::fetch(cache, "linux-modules-")?);
    let newest =
        images.0.into_iter().filter(|(version, release)| version.starts_with(series) && modules.has(release)).max();
    let (version, release) = newest.with_context(|| {
        format!("Debian's {KERNEL_SUITE} has no linux-binary-* with linux-modules-* for the cloud, version {series:?}")
    })?;
    let packages = [format!("linux-binary-{release}"), format!("linux-modules-{release}")];
    let tree = fetch_kernel(cache, name, &[&packages[0], &packages[1]])?;
    Kernel::find(&tree, &release, &version, &format!("usr/lib/modules/{release}/vmlinuz"))
}

/// The newest kernel of the generation before: its driver has no poll, its PTP clock reports UTC. From 6.19 on Debian
/// splits its kernels in two packages, of which the archive does not keep both for long.
fn fetch_old_kernel(cache: &Cache) -> Result<Kernel> {
    let images = Names::fetch(cache, "linux-image-")?;
    let old = |version: &[u32]| matches!(version, [6, 13..=18, ..]);
    let newest = images.0.into_iter().filter(|(version, _)| old(version)).max();
    let (version, release) =
        newest.with_context(|| format!("Debian's {KERNEL_SUITE} has no kernel 6.13 to 6.18 for the cloud any more"))?;
    let package = format!("linux-image-{release}");
    let tree = fetch_kernel(cache, "kernel-old", &[&package])?;
    Kernel::find(&tree, &release, &version, &format!("boot/vmlinuz-{release}"))
}

fn fetch_kernel(cache: &Cache, name: &str, packages: &[&str]) -> Result<Tree> {
    let freshness = Freshness::Daily;
    debian::fetch(cache, &Request { name, suite: KERNEL_SUITE, alone: packages, with_dependencies: &[], freshness })
}

impl Kernel {
    fn find(tree: &Tree, release: &str, version: &[u32], image: &str) -> Result<Self> {
        let driver = format!("usr/lib/modules/{release}/kernel/drivers/ptp/ptp_vmclock.ko.xz");
        let version = version.iter().map(u32::to_string).collect::<Vec<_>>().join(".");
        let file = |path: &str| -> Result<PathBuf> {
            let path = tree.path(path);
            ensure!(Path::is_file(&path), "Debian's kernel {release} does not have {}", path.display());
            Ok(path)
        };
        let packages = tree.packages()?;
        let package = packages.first().and_then(|file| file.split('_').nth(1));
        let package_version = package.context("a package without a version")?.replace("%3a", ":");
        Ok(Self { image: file(image)?, driver: file(&driver)?, version, release: release.to_owned(), package_version })
    }
}

/// The kernels for which there is a package of a kind: version and release, `[7, 2, 12]` and
/// `7.2.12+deb13-cloud-amd64`.
struct Names(Vec<(Vec<u32>, String)>);

impl Names {
    fn fetch(cache: &Cache, prefix: &str) -> Result<Self> {
        let names = debian::names(cache, KERNEL_SUITE, prefix)?;
        Ok(Self(names.iter().filter_map(|name| parse_release(name.strip_prefix(prefix)?)).collect()))
    }

    fn has(&self, release: &str) -> bool {
        self.0.iter().any(|(_, other)| other == release)
    }
}

/// `None` for the other flavours, for debugging symbols, and for meta packages.
fn parse_release(release: &str) -> Option<(Vec<u32>, String)> {
    let (numbers, _) = release.strip_suffix("-cloud-amd64")?.split_once('+')?;
    let version = numbers.split('.').map(str::parse).collect::<Result<Vec<u32>, _>>().ok()?;
    Some((version, release.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_told_from_other_packages_and_sorted_by_number() {
        let release = |name: &str| parse_release(name).map(|(version, _)| version);
        assert_eq!(release("7.2.12+deb13-cloud-amd64"), Some(vec![7, 2, 12]));
        assert!(release("6.9.1+deb13-cloud-amd64") < release("6.18.15+deb13-cloud-amd64"));
        for other in ["cloud-amd64", "7.2.12+deb13-amd64", "7.2.12+deb13-cloud-amd64-dbg", "7.2-rc1+deb13-cloud-amd64"]
        {
            assert_eq!(release(other), None, "{other}");
        }
    }
}
