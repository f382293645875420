// SPDX-License-Identifier: MIT OR Apache-2.0
//! Kernels to build a driver for: Debian's stock kernels, whose trees are only prepared, and one of the same source
//! that watches memory and locks.

use std::fs;
use std::hash::Hash;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::{mark_used, remove_folder, Cache};
use crate::debian::{self, Tree};
use crate::guest_test::{Release, Series};
use crate::project::Project;
use crate::shell::{say, Cmd};

use super::arm64;
use super::workshop::Workshop;

/// What of the source no module's build looks at: most of it.
const UNUSED: &str = "--exclude='*/Documentation/*/*' --exclude='*/tools/testing/*' --exclude='*/sound/*.[ch]' --exclude='*/drivers/gpu/drm/*.c' \
                      --exclude='*/drivers/gpu/drm/amd/*.[ch]' --exclude='*/drivers/net/*.[ch]' --exclude='*/drivers/media/*.[ch]' --exclude='*/fs/*.c'";

/// What is taken out of a stock kernel's configuration, and whether it is.
const BARE: [&str; 2] = [
    "scripts/config --disable ACPI --disable SUSPEND --disable HIBERNATION --disable KVM_GUEST --disable XEN --enable OF",
    "if grep -E '^CONFIG_(ACPI|PM_SLEEP|KVM_GUEST)=' .config; then exit 1; fi",
];
/// Of what `make` has to be told that of stock kernels is Debian's own.
const STOCK_MAKE: &str = "make -s -j$(nproc) CROSS_COMPILE=x86_64-linux-gnu- CC=x86_64-linux-gnu-gcc-14";
const ARM64_MAKE: &str = "make -s -j$(nproc) ARCH=arm64 CROSS_COMPILE=aarch64-linux-gnu- CC=aarch64-linux-gnu-gcc-14";
const NEWEST_MAKE: &str = "make -s -j$(nproc) CROSS_COMPILE=x86_64-linux-gnu-";
const WATCHED_MAKE: &str = "make -s -j$(nproc) LLVM=-19";

/// What a kernel's tree is made of: its source, and what its build left in the package of its headers.
pub(super) struct Source {
    code: Tree,
    headers: Tree,
    series: Series,
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
    /// What it is called among the others, as `7.2-amd64`.
    name: String,
}

/// A kernel that we built.
pub(super) struct Watched {
    pub(super) image: PathBuf,
    /// Linux's own driver.
    pub(super) driver: PathBuf,
    pub(super) tree: BuildTree,
}

impl Source {
    /// The packages that it comes from, for this machine's architecture (an empty word) or another.
    pub(super) fn packages(architecture: &str) -> [&'static str; 2] {
        [
            if architecture == arm64::ARCHITECTURE { arm64::HEADERS } else { "linux-headers-RELEASE" },
            "linux-source-SERIES",
        ]
    }

    /// Which series of Linux it is of.
    pub(super) fn series(&self) -> Series {
        self.series
    }

    /// Brings it to the cache.
    pub(super) fn fetch(cache: &Cache, release: &Release, architecture: &str) -> Result<Self> {
        let [headers, source] = Self::packages(architecture);
        let code = release.fetch(cache, "source", &[source])?;
        let what = if architecture.is_empty() { "headers".to_owned() } else { format!("headers-{architecture}") };
        let headers = release.fetch(cache, &what, &[headers])?;
        Ok(Self { code, headers, series: release.series, release: release.name.clone() })
    }

    /// The tree of Debian's stock kernel.
    pub(super) fn stock(&self, cache: &Cache, workshop: &Workshop) -> Result<BuildTree> {
        self.prepare(cache, workshop, "amd64", STOCK_MAKE, "strip", None)
    }

    /// The same for arm64.
    pub(super) fn arm64(&self, cache: &Cache, workshop: &Workshop) -> Result<BuildTree> {
        self.prepare(cache, workshop, "arm64", ARM64_MAKE, "aarch64-linux-gnu-strip", None)
    }

    /// The tree of a kernel without much of what the driver can make use of: on x86-64, ...
    pub(super) fn bare(&self, cache: &Cache, workshop: &Workshop) -> Result<BuildTree> {
        self.prepare(cache, workshop, "amd64-bare", STOCK_MAKE, "strip", Some(BARE))
    }

    /// ... and on arm64, as machines have it that know device trees only.
    pub(super) fn bare_arm64(&self, cache: &Cache, workshop: &Workshop) -> Result<BuildTree> {
        self.prepare(cache, workshop, "arm64-bare", ARM64_MAKE, "aarch64-linux-gnu-strip", Some(BARE))
    }

    /// The tree of Debian's stock kernel, were it built by other compilers.
    pub(super) fn by_newest(&self, cache: &Cache, workshop: &Workshop) -> Result<BuildTree> {
        // Each of them needs a tree of its own.
        let make = format!("COMPILERS={} {NEWEST_MAKE}", workshop.tree().name()?);
        self.prepare(cache, workshop, "amd64-newest", &make, "strip", None)
    }

    /// Makes a tree for modules of the source and a kernel's headers.
    fn prepare(
        &self,
        cache: &Cache,
        workshop: &Workshop,
        kind: &str,
        make: &str,
        strip: &'static str,
        without: Option<[&str; 2]>,
    ) -> Result<BuildTree> {
        let make = format!("{make} KERNELRELEASE={}", self.release);
        let headers = format!("/mnt/headers/usr/src/linux-headers-{}", self.release);
        let [change, check] = without.map_or_else(Default::default, |lines| lines.map(|line| format!("{line}\n")));
        let script = format!(
            "{}\ncp {headers}/.config .\n{change}{make} olddefconfig\n{check}{make} modules_prepare\ncp {headers}/Module.symvers .",
            self.unpack(UNUSED)
        );
        let headers = self.headers.path("");
        let recipe = (&script, self.headers.name()?);
        let folder = self.made(cache, workshop, kind, &script, &recipe, &[("headers", &headers)])?;
        Ok(BuildTree { folder, make, strip, name: self.name(kind) })
    }

    /// A small kernel with KASAN and lockdep.
    pub(super) fn watched(&self, cache: &Cache, project: &Project, workshop: &Workshop) -> Result<Watched> {
        let configuration = project.path("linux/tests");
        let script = format!(
            "{}\n{WATCHED_MAKE} tinyconfig\nscripts/kconfig/merge_config.sh -m .config /mnt/config/small.config /mnt/config/watched.config\n\
             {WATCHED_MAKE} olddefconfig\ngrep -q ^CONFIG_RUST=y .config && grep -q ^CONFIG_KASAN=y .config && grep -q ^CONFIG_PROVE_LOCKING=y .config\n\
             grep -q ^CONFIG_FAILSLAB=y .config && grep -q ^CONFIG_FAULT_INJECTION_STACKTRACE_FILTER=y .config && grep -q ^CONFIG_PM_DEBUG=y .config\n\
             {WATCHED_MAKE} bzImage modules\nxz --check=crc32 --keep --force drivers/ptp/ptp_vmclock.ko",
            self.unpack("--exclude='*/Documentation/*/*'")
        );
        let text = |name: &str| {
            let path = configuration.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let recipe = (&script, text("small.config")?, text("watched.config")?);
        let folder = self.made(cache, workshop, "watched", &script, &recipe, &[("config", &configuration)])?;
        Ok(Watched {
            image: folder.join("arch/x86/boot/bzImage"),
            driver: folder.join("drivers/ptp/ptp_vmclock.ko.xz"),
            tree: BuildTree { folder, make: WATCHED_MAKE.to_owned(), strip: "strip", name: self.name("watched") },
        })
    }

    /// All of the source but for what no small kernel needs.
    pub(super) fn unpack_all(&self, workshop: &Workshop, folder: &Path) -> Result<()> {
        let script = self.unpack("--exclude='*/Documentation/*/*' --exclude='*/drivers/gpu/drm/amd/*.[ch]'");
        workshop.run(&[("kernel", folder), ("packages", &self.code.path(""))], &script).map(|_| ())
    }

    /// Some files of the source alone.
    pub(super) fn unpack_only(&self, workshop: &Workshop, files: &[&str], folder: &Path) -> Result<()> {
        let names: Vec<String> = files.iter().map(|file| format!("linux-source-{}/{file}", self.series)).collect();
        let script = format!(
            "tar -xf /mnt/packages/usr/src/linux-source-{}.tar.xz -C /mnt/kernel --strip-components=1 {}",
            self.series,
            names.join(" ")
        );
        workshop.run(&[("kernel", folder), ("packages", &self.code.path(""))], &script).map(|_| ())
    }

    fn name(&self, kind: &str) -> String {
        format!("{}-{kind}", self.series)
    }

    /// The source into the folder that it is made in.
    fn unpack(&self, exclude: &str) -> String {
        let archive = format!("/mnt/packages/usr/src/linux-source-{}.tar.xz", self.series);
        format!("cd /mnt/kernel\ntar -xf {archive} --strip-components=1 {exclude}")
    }

    /// The folder that a script makes, unless it was made before by this recipe out of this source.
    fn made(
        &self,
        cache: &Cache,
        workshop: &Workshop,
        kind: &str,
        script: &str,
        recipe: &impl Hash,
        folders: &[(&str, &Path)],
    ) -> Result<PathBuf> {
        let kernels = cache.path("kernels");
        fs::create_dir_all(&kernels).with_context(|| format!("cannot make {}", kernels.display()))?;
        let name = format!("linux-{}-{:016x}", self.name(kind), debian::hash(&(recipe, self.code.name()?)));
        let made = kernels.join(name);
        if !made.is_dir() {
            say(&format!("making the tree {} of Linux: some minutes", self.name(kind)));
            let scratch = cache.scratch()?;
            let (source, half) = (self.code.path(""), scratch.path().join("kernel"));
            fs::create_dir(&half).with_context(|| format!("cannot make {}", half.display()))?;
            let own: [(&str, &Path); 2] = [("kernel", &half), ("packages", &source)];
            workshop.run(&[&own[..], folders].concat(), script)?;
            match fs::rename(&half, &made) {
                // Another process was quicker; its tree is the same.
                Err(_) if made.is_dir() => Ok(()),
                renamed => renamed.with_context(|| format!("cannot move {} to {}", half.display(), made.display())),
            }?;
            cache.forget_unused("kernels", &made);
        }
        mark_used(&made);
        Ok(made)
    }
}

impl BuildTree {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// How to call `make` for it, inside the workshop.
    pub(super) fn make(&self) -> &str {
        &self.make
    }

    /// The driver compiled for a kernel that nobody has built: what it needs of that kernel is not known to be there,
    /// but for ACPI, which is not.
    pub(super) fn compile_driver(&self, project: &Project, workshop: &Workshop) -> Result<()> {
        self.compile(project, workshop, |line| line.ends_with("undefined!") && !line.contains("acpi"))
    }

    /// The same by compilers that no kernel was built with: nothing in Rust that it needs is there.
    pub(super) fn compile_driver_alone(&self, project: &Project, workshop: &Workshop) -> Result<()> {
        self.compile(project, workshop, |line| line.starts_with("WARNING: modpost: "))
    }

    /// Without a warning, but for those that are no wonder.
    fn compile(&self, project: &Project, workshop: &Workshop, is_no_wonder: fn(&str) -> bool) -> Result<()> {
        let said = self.make_driver(project, workshop, "KBUILD_MODPOST_WARN=1")?;
        match said.lines().find(|line| is_warning(line) && !is_no_wonder(line)) {
            Some(line) => anyhow::bail!("the driver builds with a warning: {line}\n{said}"),
            None => Ok(()),
        }
    }

    /// The driver as a module for this kernel, compressed as Debian's are.
    pub(super) fn build_driver(&self, project: &Project, workshop: &Workshop) -> Result<PathBuf> {
        let said = self.make_driver(project, workshop, "")?;
        if let Some(warning) = said.lines().find(|line| is_warning(line)) {
            anyhow::bail!("the driver builds with a warning: {warning}\n{said}");
        }
        Ok(self.build_folder(project).join("linux/ptp_vmclock_rust.ko.xz"))
    }

    fn build_folder(&self, project: &Project) -> PathBuf {
        project.target(format!("driver/{}", self.name))
    }

    /// Gives what the compilers said.
    fn make_driver(&self, project: &Project, workshop: &Workshop, options: &str) -> Result<String> {
        let build = self.build_folder(project);
        remove_folder(&build)?;
        // A copy, so that nothing is written into the clone.
        for (from, to) in [("linux", "linux"), ("crates/vmclock-core/src", "crates/vmclock-core/src")] {
            let to = build.join(to);
            let parent = to.parent().context("a folder without a parent")?;
            fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
            Cmd::new("cp").arg("-r").arg(project.path(from)).arg(&to).read()?;
        }
        say(&format!("building the driver for Linux {}", self.name));
        let script = format!(
            "cd /mnt/build/linux\n{} -C /mnt/kernel M=/mnt/build/linux {options} modules\n{} --strip-debug ptp_vmclock_rust.ko\n\
             xz --check=crc32 --force ptp_vmclock_rust.ko",
            self.make, self.strip
        );
        workshop.run(&[("kernel", &self.folder), ("build", &build)], &script)
    }

    /// Linux's own driver with our patches, of `linux/c-series`.
    pub(super) fn build_fixed_c_driver(&self, project: &Project, workshop: &Workshop) -> Result<PathBuf> {
        let build = project.target(format!("driver/{}-c", self.name));
        remove_folder(&build)?;
        let folder = build.join("drivers/ptp");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Cmd::new("cp").arg(self.folder.join("drivers/ptp/ptp_vmclock.c")).arg(&folder).read()?;
        let series = project.path("linux/c-series");
        let entries = fs::read_dir(&series).with_context(|| format!("cannot list {}", series.display()))?;
        let mut patches: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        patches.sort();
        for patch in patches {
            // Above this folder there is a repository of ours, which it would look into.
            let apply = Cmd::new("git").args(["apply", "--whitespace=error"]).arg(&patch).current_dir(&build);
            apply.env("GIT_CEILING_DIRECTORIES", build.parent().context("a folder without a parent")?).read()?;
            let check = "perl /mnt/kernel/scripts/checkpatch.pl --root=/mnt/kernel --no-tree --strict --quiet \
                         --ignore UNKNOWN_COMMIT_ID";
            let name = patch.file_name().context("a patch without a name")?.to_string_lossy();
            workshop.run(&[("kernel", &self.folder), ("series", &series)], &format!("{check} /mnt/series/{name}"))?;
        }
        say(&format!("building Linux's own driver with our patches for Linux {}", self.name));
        let script = format!(
            "cd /mnt/build/drivers/ptp\necho 'obj-m := ptp_vmclock.o' > Kbuild\n\
             {} -C /mnt/kernel M=/mnt/build/drivers/ptp modules\n{} --strip-debug ptp_vmclock.ko\n\
             xz --check=crc32 --force ptp_vmclock.ko",
            self.make, self.strip
        );
        let said = workshop.run(&[("kernel", &self.folder), ("build", &build)], &script)?;
        if let Some(warning) = said.lines().find(|line| is_warning(line)) {
            anyhow::bail!("Linux's driver with our patches builds with a warning: {warning}\n{said}");
        }
        Ok(folder.join("ptp_vmclock.ko.xz"))
    }
}

fn is_warning(line: &str) -> bool {
    line.contains("warning:") || line.contains("WARNING")
}
