// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask upstream-series`: the driver in the form in which Linux could take it, as patches for the newest kernel
//! source in Debian's archive; and whether they apply, build, are in the kernel's style, and work.

mod extract;
mod make;
mod wrap;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context, Result};

use crate::cache::{remove_folder, Cache};
use crate::guest_test::{self, Archive, Assets, Kernel, Series, FLAVOUR};
use crate::project::Project;
use crate::shell::{say, Cmd};

use super::kernels::Source;
use super::workshop::Workshop;
use super::{nothing_supported, SUPPORTED};

/// What of the kernel's source the series touches, and its style.
const TOUCHED: [&str; 7] = [
    ".rustfmt.toml",
    "Documentation/ABI/testing",
    "MAINTAINERS",
    "drivers/ptp",
    "include/uapi/linux/vmclock-abi.h",
    "rust",
    "samples/rust",
];

/// What a guest shows of a driver: its node, its PTP clock, updates, and a page that does not notify.
const SCENARIOS: [&str; 2] = ["live", "no-notify"];

/// Suites of `KUnit` tests, in which each line of an answer is `ok` or `not ok`.
const SUITES: &str = "ptp_vmclock*";

/// Make the driver's patches for Linux, in target/upstream-series
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Apply them to the newest kernel source, check their style, build that kernel, run its tests and the driver in
    /// guests. Builds a kernel
    #[arg(long)]
    check: bool,

    /// With --check: build each patch by itself, on top of those before it
    #[arg(long, requires = "check")]
    each: bool,

    /// Only commit them to this folder, a repository with the kernel's files
    #[arg(long, conflicts_with = "check")]
    commit_to: Option<PathBuf>,
}

pub(crate) fn run(project: &Project, options: &Options) -> Result<()> {
    let patches = project.target("upstream-series");
    remove_folder(&patches)?;
    if let Some(tree) = &options.commit_to {
        return make::series(project, tree, &patches);
    }
    let cache = Cache::open()?;
    let source = Archive::with(&cache, &[], |archive| {
        let newest = archive.newest(FLAVOUR, &Source::packages(""))?;
        let release =
            newest.iter().find(|release| SUPPORTED.contains(&release.series)).with_context(nothing_supported)?;
        Source::fetch(&cache, release, "")
    })?;
    let workshop = Workshop::fetch_with_clang(&cache)?;
    let scratch = cache.scratch()?;
    let repository = |name: &str| -> Result<PathBuf> {
        let folder = scratch.path().join(name);
        fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        source.unpack_only(&workshop, &TOUCHED, &folder)?;
        make::git(&folder).args(["init", "--quiet"]).read()?;
        make::git(&folder).args(["add", "--all", "--force", "."]).read()?;
        make::git(&folder).args(["commit", "--quiet", "--message", "The kernel's source"]).read()?;
        Ok(folder)
    };
    make::series(project, &repository("made")?, &patches)?;
    say(&format!("made {}", patches.display()));
    if !options.check {
        return Ok(());
    }
    // The kernel that watches memory and locks: what the patches do not touch need not be built again.
    let built = source.watched(&cache, project, &workshop)?.tree;
    let (source_tree, folder) = (repository("applied")?, scratch.path().join("tree"));
    let tree =
        Tree { repository: source_tree, folder, workshop: &workshop, make: built.make(), series: source.series() };
    Cmd::new("cp").args(["-a", "--reflink=auto"]).arg(built.folder()).arg(&tree.folder).read()?;
    tree.apply(&patches, options.each)?;
    tree.check_style(&patches)?;
    tree.build("")?;
    let assets = Assets::fetch(&cache)?;
    tree.run_kunit(&assets)?;
    tree.run_driver(project, &assets)
}

/// The patches in their order, without the letter.
fn listed(patches: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(patches).with_context(|| format!("cannot list {}", patches.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("0000-")));
    paths.sort();
    ensure!(!paths.is_empty(), "no patches in {}", patches.display());
    Ok(paths)
}

/// A kernel's tree that was built before the patches.
struct Tree<'a> {
    /// What the series touches, for git.
    repository: PathBuf,
    folder: PathBuf,
    workshop: &'a Workshop,
    /// How to call `make` for it.
    make: &'a str,
    series: Series,
}

impl Tree<'_> {
    fn apply(&self, patches: &Path, build_each: bool) -> Result<()> {
        let patches = listed(patches)?;
        for patch in &patches {
            let git = || make::git(&self.repository);
            git().args(["am", "--quiet", "--whitespace=error"]).arg(patch).read()?;
            for name in git().args(["diff", "--name-only", "HEAD~1"]).read()?.lines() {
                let to = self.folder.join(name);
                let folder = to.parent().context("a file without a folder")?;
                fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
                fs::copy(self.repository.join(name), &to).with_context(|| format!("cannot copy {}", to.display()))?;
            }
            if build_each {
                self.make("prepare drivers/ptp/ samples/rust/")?;
                say(&format!("ok     builds: {}", name(patch)));
            }
        }
        say(&format!("ok     {} patches apply", patches.len()));
        Ok(())
    }

    /// The kernel's own tools: its configuration of rustfmt, and checkpatch.
    fn check_style(&self, patches: &Path) -> Result<()> {
        let count = listed(patches)?.len();
        let changed = make::git(&self.repository).args(["diff", "--name-only", &format!("HEAD~{count}")]).read()?;
        let sources = changed.lines().filter(|name| make::is_rust(Path::new(name)));
        make::rustfmt(&self.repository).arg("--check").args(sources).read()?;
        // Commits before it are not there to be looked up; the new files are below folders that have maintainers.
        let check = "perl scripts/checkpatch.pl --root=. --no-tree --strict --quiet \
                     --ignore UNKNOWN_COMMIT_ID,FILE_PATH_CHANGES /mnt/patches/*.patch";
        self.workshop.run(&[("kernel", &self.folder), ("patches", patches)], &format!("cd /mnt/kernel\n{check}"))?;
        say("ok     rustfmt and checkpatch --strict");
        Ok(())
    }

    fn build(&self, configure: &str) -> Result<()> {
        let enable =
            "scripts/config --enable PTP_1588_CLOCK_VMCLOCK_RUST --enable PTP_1588_CLOCK_VMCLOCK_RUST_KUNIT_TEST";
        let configure = if configure.is_empty() { enable } else { configure };
        let said = self.make_after(&format!("{configure}\n{} olddefconfig", self.make), "bzImage modules")?;
        if let Some(warning) = said.lines().find(|line| line.contains("warning:") || line.contains("WARNING")) {
            anyhow::bail!("the kernel builds with a warning: {warning}\n{said}");
        }
        say("ok     the kernel builds with them");
        Ok(())
    }

    fn make(&self, targets: &str) -> Result<String> {
        self.make_after("true", targets)
    }

    fn make_after(&self, before: &str, targets: &str) -> Result<String> {
        let script = format!("cd /mnt/kernel\n{before}\n{} {targets}", self.make);
        self.workshop.run(&[("kernel", &self.folder)], &script)
    }

    fn image(&self) -> PathBuf {
        self.folder.join("arch/x86/boot/bzImage")
    }

    /// Boots the kernel, which runs the tests, finds no first program, and stops.
    fn run_kunit(&self, assets: &Assets) -> Result<()> {
        let line = format!("console=ttyS0 panic=-1 kunit.filter_glob={SUITES}");
        let qemu = Cmd::new("timeout").arg("300").arg(&assets.qemu);
        let qemu = qemu.args(["-accel", "tcg", "-machine", "q35", "-cpu", "max", "-m", "512", "-nodefaults"]);
        let qemu = qemu.args(["-no-reboot", "-display", "none", "-serial", "stdio", "-append", &line, "-kernel"]);
        let said = qemu.arg(self.image()).read()?;
        // "[    1.234567] ", where the kernel has times.
        let untimed = |line: &'_ str| -> String {
            let time = line.split_once("] ").filter(|(time, _)| time.starts_with('['));
            time.map_or(line, |(_, rest)| rest).trim_end().to_owned()
        };
        let results = || said.lines().map(untimed);
        ensure!(!results().any(|line| line.trim_start().starts_with("not ok")), "a KUnit test fails:\n{said}");
        let passed = results().filter(|line| line.starts_with("    ok ")).count();
        ensure!(passed > 0, "no KUnit test ran:\n{said}");
        say(&format!("ok     {passed} KUnit tests"));
        Ok(())
    }

    /// The driver as a module of this kernel, in guests.
    fn run_driver(&self, project: &Project, assets: &Assets) -> Result<()> {
        self.build(
            "scripts/config --module PTP_1588_CLOCK_VMCLOCK_RUST --disable PTP_1588_CLOCK_VMCLOCK_RUST_KUNIT_TEST",
        )?;
        let module = self.folder.join("drivers/ptp/vmclock/ptp_vmclock_rust.ko");
        let pack = "cd /mnt/kernel/drivers/ptp/vmclock\nxz --check=crc32 --keep --force ptp_vmclock_rust.ko";
        self.workshop.run(&[("kernel", &self.folder)], pack)?;
        let kernel = Kernel {
            version: format!("{}-series", self.series),
            image: self.image(),
            driver: module.with_extension("ko.xz"),
        };
        let harness = guest_test::with_kernel(guest_test::harness(project, assets)?, &kernel);
        harness.args(SCENARIOS.iter().flat_map(|name| ["--only", name])).run()
    }
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
