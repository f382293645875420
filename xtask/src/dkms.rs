// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask dkms`: the Debian package `vmclock-dkms`, by which machines with Debian's stock kernels build the Linux
//! driver for themselves; and whether it does what it should in clean Debian systems, and the module in a guest with
//! that very kernel.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{ensure, Context, Result};

use crate::cache::Cache;
use crate::deb::Deb;
use crate::debian;
use crate::driver_test::{self, enter};
use crate::guest_test::{self, Assets, Kernel, Release, KERNEL_SUITE};
use crate::project::Project;
use crate::shell::{say, Cmd};

/// The release on which machines install the package.
const SUITE: &str = "trixie";

/// Build the package vmclock-dkms.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Install, upgrade and remove it in a clean Debian system for each kernel that the driver supports, and load the
    /// module in a guest with that kernel. Needs root, 5 GB, and some ten minutes a kernel
    #[arg(long)]
    test: bool,

    /// With --test: only kernels of this series, such as 7.3
    #[arg(long, requires = "test")]
    series: Option<String>,
}

pub(crate) fn run(project: &Project, options: &Options) -> Result<()> {
    let version = version(project)?;
    let packages = project.target("dkms");
    let package = build(project, &packages, &version)?;
    say(&format!("built {}", package.display()));
    if !options.test {
        return Ok(());
    }
    let next = build(project, &packages, &format!("{version}+next"))?;
    let cache = Cache::open()?;
    let releases = driver_test::supported(&cache)?;
    let wanted =
        |release: &&Release| options.series.as_ref().is_none_or(|series| *series == release.series.to_string());
    let wanted: Vec<_> = releases.iter().filter(wanted).collect();
    ensure!(!wanted.is_empty(), "Debian's {KERNEL_SUITE} has none of these kernels with its headers and source");
    wanted.into_iter().try_for_each(|release| test(project, &cache, release, &package, &next))
}

/// The driver's version is in one place.
pub(crate) fn version(project: &Project) -> Result<String> {
    let path = project.path("linux/dkms.conf");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let version = text.lines().find_map(|line| line.strip_prefix("PACKAGE_VERSION=\"")?.strip_suffix('"'));
    Ok(version.with_context(|| format!("no PACKAGE_VERSION in {}", path.display()))?.to_owned())
}

/// The package, in a folder of packages.
pub(crate) fn build(project: &Project, packages: &Path, version: &str) -> Result<PathBuf> {
    let deb = Deb::begin(project, packages, "vmclock-dkms", version)?;
    let source = format!("usr/src/vmclock-rust-{version}");
    let place = deb.folder(&source)?;
    let copy = |from: &str, to: &Path| Cmd::new("cp").arg("-r").arg(project.path(from)).arg(to).read().map(|_| ());
    for name in ["Kbuild", "Makefile", "dkms-make", "helpers.c", "helpers.h", "upstream"] {
        copy(&format!("linux/{name}"), &place)?;
    }
    for entry in fs::read_dir(project.path("linux"))?.flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "rs") {
            copy(&format!("linux/{}", entry.file_name().to_string_lossy()), &place)?;
        }
    }
    copy("crates/vmclock-core/src", &place.join("vmclock-core"))?;
    let conf = fs::read_to_string(project.path("linux/dkms.conf"))?;
    let conf: String = conf
        .lines()
        .map(|line| match line.split_once('=') {
            Some((name @ "PACKAGE_VERSION", _)) => format!("{name}=\"{version}\"\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    deb.text(&format!("{source}/dkms.conf"), &conf)?;
    let parts = project.path("packaging/debian/vmclock-dkms");
    deb.copy(&parts.join("modprobe.conf"), "etc/modprobe.d/vmclock-dkms.conf", 0o644)?;
    deb.copy(&project.path("linux/README.md"), "usr/share/doc/vmclock-dkms/README.md", 0o644)?;
    deb.copy(&parts.join("copyright"), "usr/share/doc/vmclock-dkms/copyright", 0o644)?;
    deb.build(&[&parts])
}

/// What is done in the clean system, where `/mnt/packages` has the packages. Each line that begins with `=` is a
/// figure.
const SCRIPT: &str = r#"
name=vmclock-rust
[ -e /lib/modules/$release/build/.config ]
before=$(du -sxm / | cut -f1)
start=$(date +%s)
dpkg --install /mnt/packages/vmclock-dkms_${version}_all.deb
module() { find /lib/modules/$release/updates/dkms -name 'ptp_vmclock_rust.ko*'; }
dkms status -m $name -v $version -k $release | grep -q ': installed'
[ "$(module | wc -l)" = 1 ]
echo "= built and installed in $(($(date +%s) - start)) s; takes $(($(du -sxm / | cut -f1) - before)) MB"
echo "= made for $(modinfo -F vermagic $(module)); signed by: $(modinfo -F signer $(module))"
modprobe --showconfig | grep -q '^blacklist ptp_vmclock$'
modinfo -F alias $(module) | grep -q AMZNC10C
[ -n "$(modinfo -F signer $(module))" ]
case $(module) in
*.ko.xz) cat $(module) ;;
*.ko) xz --check=crc32 --stdout $(module) ;;
esac >/mnt/packages/$release.ko.xz
xz --test /mnt/packages/$release.ko.xz
dpkg --install /mnt/packages/vmclock-dkms_${version}+next_all.deb
dkms status -m $name -v $version+next -k $release | grep -q ': installed'
[ -z "$(dkms status -m $name -v $version)" ]
[ "$(module | wc -l)" = 1 ]
echo "= upgraded"
dpkg --purge vmclock-dkms
[ -z "$(dkms status -m $name)" ]
[ -z "$(find /lib/modules -name 'ptp_vmclock_rust*')" ]
for left in /usr/src/$name-* /var/lib/dkms/$name /etc/modprobe.d/vmclock-dkms.conf; do [ ! -e "$left" ]; done
echo "= removed without a trace; all of this system takes $(du -sxm / | cut -f1) MB"
"#;

fn test(project: &Project, cache: &Cache, release: &Release, package: &Path, next: &Path) -> Result<()> {
    let start = Instant::now();
    say(&format!("making a clean Debian {SUITE} with the headers and the source of Linux {}", release.name));
    let scratch = cache.scratch()?;
    let root = scratch.path().join("root");
    bootstrap(cache, release, package, &root)?;
    say(&format!("made in {:.0} s", start.elapsed().as_secs_f64()));
    let packages = package.parent().context("a package without a folder")?;
    ensure!(next.parent() == Some(packages), "packages in two folders");
    let version = package.file_name().and_then(|name| name.to_str()).and_then(|name| name.split('_').nth(1));
    let version = version.context("a package without a version")?;
    let script = format!("release={}\nversion={version}\n{SCRIPT}", release.name);
    let said = enter(&root, &[("packages", packages)], &script)?;
    for line in said.lines().filter_map(|line| line.strip_prefix("= ")) {
        say(&format!("ok     {} {line}", release.version()));
    }
    load(project, cache, release, &packages.join(format!("{}.ko.xz", release.name)))?;
    say(&format!("ok     {} all of it in {:.0} s", release.version(), start.elapsed().as_secs_f64()));
    Ok(())
}

/// Loads the module in a guest with Debian's own kernel, where it is to show a host's page.
fn load(project: &Project, cache: &Cache, release: &Release, module: &Path) -> Result<()> {
    let kernel = Kernel::fetch(cache, release)?;
    let kernel = Kernel { version: format!("{}-dkms", kernel.version), driver: module.to_owned(), ..kernel };
    let harness = guest_test::harness(project, &Assets::fetch(cache)?)?;
    guest_test::with_kernel(harness, &kernel).args(["--only", "live"]).run()
}

/// A Debian system with all that the package depends on.
fn bootstrap(cache: &Cache, release: &Release, package: &Path, root: &Path) -> Result<()> {
    let depends = Cmd::new("dpkg-deb").arg("--field").arg(package).arg("Depends").read()?;
    let own = ["linux-headers-RELEASE", "linux-source-SERIES"].map(|pattern| release.package(pattern));
    let names = depends.split(',').filter_map(|depend| depend.split_whitespace().next());
    let names = names.filter(|name| !name.starts_with("linux-source")).map(str::to_owned);
    let include: Vec<String> = names.chain(own).collect();
    debian::make_system(cache, &[SUITE, KERNEL_SUITE], &include, root)
}
