// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the guest on arm64 consists of, on a machine that is x86-64: QEMU, Debian's kernel, the driver for it, and the
//! guest's program.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context, Result};

use crate::cache::Cache;
use crate::debian::{self, Freshness, Request, Tree};
use crate::guest_test::{Release, QEMU_SUITE};
use crate::project::Project;
use crate::shell::{say, Cmd};
use crate::toolchain;

use super::workshop::Workshop;

/// What Debian calls it.
pub(super) const ARCHITECTURE: &str = "arm64";

/// The kernels for clouds, and their packages.
pub(super) const FLAVOUR: &str = "cloud-arm64";
pub(super) const KERNEL: &str = "linux-binary-RELEASE:arm64";
pub(super) const HEADERS: &str = "linux-headers-RELEASE:arm64";

const TARGET: &str = "aarch64-unknown-linux-gnu";

/// The guest's program runs where no C library is. Linked by the linker alone, as a compiler would call programs by
/// names that are not there.
const STATIC: &str = "-Clinker-flavor=ld -Ctarget-feature=+crt-static -Crelocation-model=static";

/// Where Debian's cross compiler has its C library, and itself.
const LIBRARIES: &str = "usr/aarch64-linux-gnu/lib";
const COMPILER: &str = "usr/lib/gcc-cross/aarch64-linux-gnu/14";

/// What comes from Debian.
pub(super) struct Arm64 {
    /// A script that runs QEMU as `qemu-system-aarch64`.
    qemu: PathBuf,
    /// A script that runs fdtoverlay.
    fdtoverlay: PathBuf,
    /// The oldest Rust, as this machine's own need not know arm64.
    rustc: PathBuf,
    /// The kernel's image.
    image: PathBuf,
}

impl Arm64 {
    /// Brings everything to the cache.
    pub(super) fn fetch(cache: &Cache, release: &Release) -> Result<Self> {
        let tools = debian::fetch(
            cache,
            &Request {
                name: "qemu-arm",
                suite: QEMU_SUITE,
                alone: &[],
                with_dependencies: &["qemu-system-arm", "device-tree-compiler"],
                freshness: Freshness::Any,
            },
        )?;
        let firmware = tools.path("usr/share/qemu");
        let qemu = tools.script("usr/bin/qemu-system-aarch64", &["-L".as_ref(), firmware.as_os_str()])?;
        Cmd::new(&qemu).arg("--version").read().context("Debian's QEMU does not run on this machine")?;

        let kernel = release.fetch(cache, "kernel-arm64", &[KERNEL])?;
        let image = kernel.path(&format!("usr/lib/modules/{}/vmlinuz", release.name));
        ensure!(Path::is_file(&image), "Debian's kernel {} does not have {}", release.name, image.display());
        let fdtoverlay = tools.script("usr/bin/fdtoverlay", &[])?;
        Ok(Self { qemu, fdtoverlay, rustc: toolchain::fetch(cache)?, image })
    }

    /// Builds the guest's program, and tells the harness of it, of the driver, and of everything else.
    pub(super) fn add_to(&self, harness: Cmd, project: &Project, workshop: &Workshop, driver: &Path) -> Result<Cmd> {
        let init = self.build_init(project, workshop.tree())?;
        let harness = harness.arg("--arm-qemu").arg(&self.qemu).arg("--arm-fdtoverlay").arg(&self.fdtoverlay);
        let harness = harness.arg("--arm-kernel").arg(&self.image).arg("--arm-driver").arg(driver);
        Ok(harness.arg("--arm-init").arg(init))
    }

    fn build_init(&self, project: &Project, tools: &Tree) -> Result<PathBuf> {
        say(&format!("building the guest's program for {TARGET}"));
        let target = project.target("guest-arm64");
        let build = project.cargo("build").args(["--release", "--target", TARGET, "--package=vmclock-e2e-guest"]);
        build
            .arg("--target-dir")
            .arg(&target)
            .env("RUSTC", &self.rustc)
            .env("RUSTFLAGS", STATIC)
            .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", linker(tools)?)
            // A wrapper would be asked about a compiler that it does not know.
            .env_remove("RUSTC_WRAPPER")
            .env_remove("RUSTC_WORKSPACE_WRAPPER")
            .run()?;
        Ok(target.join(TARGET).join("release/vmclock-e2e-guest"))
    }
}

/// A script that links as the C compiler would have told the linker to.
fn linker(tools: &Tree) -> Result<PathBuf> {
    let libraries = tools.path(LIBRARIES);
    let option = |option: &str, path: &Path| {
        let mut word = OsString::from(option);
        word.push(path);
        word
    };
    let mut words = vec![option("--sysroot=", &tools.path(""))];
    words.extend(["crt1.o", "crti.o", "crtn.o"].map(|file| libraries.join(file).into_os_string()));
    words.extend([option("-L", &libraries), option("-L", &tools.path(COMPILER))]);
    let words: Vec<_> = words.iter().map(OsString::as_os_str).collect();
    tools.script("usr/bin/aarch64-linux-gnu-ld.bfd", &words)
}
