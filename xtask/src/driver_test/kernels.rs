// SPDX-License-Identifier: MIT OR Apache-2.0
//! Kernels to build a driver for: Debian's stock kernel, whose tree is only prepared, and one of the same source that watches memory and locks.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::{remove_folder, Cache};
use crate::debian::{self, Freshness, Request, Tree};
use crate::guest_test::{Kernel, KERNEL_SUITE};
use crate::project::Project;
use crate::shell::{say, Cmd};

use super::workshop::Workshop;

/// What of the source no module's build looks at: most of it.
const UNUSED: &str = "--exclude='*/Documentation/*/*' --exclude='*/tools/testing/*' --exclude='*/sound/*.[ch]' --exclude='*/drivers/gpu/drm/*.c' \
                      --exclude='*/drivers/gpu/drm/amd/*.[ch]' --exclude='*/drivers/net/*.[ch]' --exclude='*/drivers/media/*.[ch]' --exclude='*/fs/*.c'";

/// Of what `make` has to be told that of stock kernels is Debian's own.
const STOCK_MAKE: &str = "make -s -j$(nproc) CROSS_COMPILE=x86_64-linux-gnu- CC=x86_64-linux-gnu-gcc-14";
const ARM64_MAKE: &str = "make -s -j$(nproc) ARCH=arm64 CROSS_COMPILE=aarch64-linux-gnu- CC=aarch64-linux-gnu-gcc-14";
const WATCHED_MAKE: &str = "make -s -j$(nproc) LLVM=-19";

/// What all kernels here are made of.
pub(super) struct Kernels {
    workshop: Workshop,
    source: Tree,
    /// `7.2`
    series: String,
    /// `7.2.12+deb13-cloud-amd64`
    release: String,
}

/// A kernel's tree that modules can be built for.
pub(super) struct BuildTree {
    folder: PathBuf,
    /// How to call `make` for it, inside the workshop.
    make: String,
    /// What removes from a module what only a debugger wants.
    strip: &'static str,
    name: &'static str,
}

/// A kernel that we built.
pub(super) struct Watched {
    pub(super) image: PathBuf,
    /// Linux's own driver.
    pub(super) driver: PathBuf,
    pub(super) tree: BuildTree,
}

impl Kernels {
    /// Brings compilers and the source of a stock kernel.
    pub(super) fn fetch(cache: &Cache, kernel: &Kernel, workshop: Workshop) -> Result<Self> {
        let series = kernel.version.rsplit_once('.').map_or(kernel.version.as_str(), |(series, _)| series).to_owned();
        let version = &kernel.package_version;
        let packages =
            [format!("linux-source-{series}={version}"), format!("linux-headers-{}={version}", kernel.release)];
        let request = Request {
            name: "kernel-source",
            suite: KERNEL_SUITE,
            alone: &[&packages[0], &packages[1]],
            with_dependencies: &[],
            freshness: Freshness::Any,
        };
        let source = debian::fetch(cache, &request)?;
        debian::forget_others(cache, "kernel-source", &source)?;
        Ok(Self { workshop, source, series, release: kernel.release.clone() })
    }

    /// The tree of Debian's stock kernel.
    pub(super) fn stock(&self, cache: &Cache) -> Result<BuildTree> {
        let make = format!("{STOCK_MAKE} KERNELRELEASE={}", self.release);
        let script = self.prepare(&make, &format!("/mnt/packages/usr/src/linux-headers-{}", self.release));
        let folder = self.made(cache, "stock", &script, &[])?;
        Ok(BuildTree { folder, make, strip: "strip", name: "stock" })
    }

    /// The same for arm64, of its own headers and the same source.
    pub(super) fn arm64(&self, cache: &Cache, release: &str, headers: &Tree) -> Result<BuildTree> {
        let make = format!("{ARM64_MAKE} KERNELRELEASE={release}");
        let script = self.prepare(&make, &format!("/mnt/headers/usr/src/linux-headers-{release}"));
        let folder = self.made(cache, "arm64", &script, &[("headers", &headers.path(""))])?;
        Ok(BuildTree { folder, make, strip: "aarch64-linux-gnu-strip", name: "arm64" })
    }

    /// Makes a tree for modules of the source and a kernel's headers.
    fn prepare(&self, make: &str, headers: &str) -> String {
        format!(
            "{}\ncp {headers}/.config .\n{make} olddefconfig\n{make} modules_prepare\ncp {headers}/Module.symvers .",
            self.unpack(UNUSED)
        )
    }

    /// A small kernel with KASAN and lockdep.
    pub(super) fn watched(&self, cache: &Cache, project: &Project) -> Result<Watched> {
        let configuration = project.path("linux/tests");
        let script = format!(
            "{}\n{WATCHED_MAKE} tinyconfig\nscripts/kconfig/merge_config.sh -m .config /mnt/config/small.config /mnt/config/watched.config\n\
             {WATCHED_MAKE} olddefconfig\ngrep -q ^CONFIG_RUST=y .config && grep -q ^CONFIG_KASAN=y .config && grep -q ^CONFIG_PROVE_LOCKING=y .config\n\
             {WATCHED_MAKE} bzImage modules\nxz --check=crc32 --keep --force drivers/ptp/ptp_vmclock.ko",
            self.unpack("--exclude='*/Documentation/*/*'")
        );
        let text = |name: &str| {
            let path = configuration.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let recipe = format!("{script}\n{}{}", text("small.config")?, text("watched.config")?);
        let folder = self.made_as(cache, "watched", &script, &recipe, &[("config", &configuration)])?;
        Ok(Watched {
            image: folder.join("arch/x86/boot/bzImage"),
            driver: folder.join("drivers/ptp/ptp_vmclock.ko.xz"),
            tree: BuildTree { folder, make: WATCHED_MAKE.to_owned(), strip: "strip", name: "watched" },
        })
    }

    pub(super) fn workshop(&self) -> &Workshop {
        &self.workshop
    }

    /// The driver as a module for a kernel, compressed as Debian's are.
    pub(super) fn build_driver(&self, project: &Project, kernel: &BuildTree) -> Result<PathBuf> {
        let build = project.target(format!("driver/{}", kernel.name));
        remove_folder(&build)?;
        // A copy, so that nothing is written into the clone.
        for (from, to) in [("linux", "linux"), ("crates/vmclock-core/src", "crates/vmclock-core/src")] {
            let to = build.join(to);
            let parent = to.parent().context("a folder without a parent")?;
            fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
            Cmd::new("cp").arg("-r").arg(project.path(from)).arg(&to).read()?;
        }
        say(&format!("building the driver for the {} kernel (Linux {})", kernel.name, self.series));
        let script = format!(
            "cd /mnt/build/linux\n{} -C /mnt/kernel M=/mnt/build/linux modules\n{} --strip-debug ptp_vmclock_rust.ko\n\
             xz --check=crc32 --force ptp_vmclock_rust.ko",
            kernel.make, kernel.strip
        );
        let said = self.workshop.run(&[("kernel", &kernel.folder), ("build", &build)], &script)?;
        if let Some(warning) = said.lines().find(|line| line.contains("warning:") || line.contains("WARNING")) {
            anyhow::bail!("the driver builds with a warning: {warning}\n{said}");
        }
        Ok(build.join("linux/ptp_vmclock_rust.ko.xz"))
    }

    /// The source into the folder that it is made in.
    fn unpack(&self, exclude: &str) -> String {
        let archive = format!("/mnt/packages/usr/src/linux-source-{}.tar.xz", self.series);
        format!("cd /mnt/kernel\ntar -xf {archive} --strip-components=1 {exclude}")
    }

    fn made(&self, cache: &Cache, name: &str, script: &str, folders: &[(&str, &Path)]) -> Result<PathBuf> {
        self.made_as(cache, name, script, script, folders)
    }

    /// The folder that a script makes, unless it was made before by this recipe out of this source.
    fn made_as(
        &self,
        cache: &Cache,
        name: &str,
        script: &str,
        recipe: &str,
        folders: &[(&str, &Path)],
    ) -> Result<PathBuf> {
        let kernels = cache.path("kernels");
        fs::create_dir_all(&kernels).with_context(|| format!("cannot make {}", kernels.display()))?;
        let made = kernels.join(format!("{name}-{:016x}", debian::hash(&(recipe, self.source.name()?))));
        if made.is_dir() {
            return Ok(made);
        }
        say(&format!("making the {name} kernel's tree of Linux {}: some minutes", self.series));
        let scratch = cache.scratch()?;
        let (source, half) = (self.source.path(""), scratch.path().join("kernel"));
        fs::create_dir(&half).with_context(|| format!("cannot make {}", half.display()))?;
        let own: [(&str, &Path); 2] = [("kernel", &half), ("packages", &source)];
        self.workshop.run(&[&own[..], folders].concat(), script)?;
        for old in fs::read_dir(&kernels).with_context(|| format!("cannot list {}", kernels.display()))?.flatten() {
            if old.file_name().to_string_lossy().starts_with(&format!("{name}-")) {
                remove_folder(&old.path())?;
            }
        }
        fs::rename(&half, &made).with_context(|| format!("cannot move {} to {}", half.display(), made.display()))?;
        Ok(made)
    }
}
