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

/// The driver with its tests in the kernel.
const WITH_TESTS: [[&str; 2]; 3] =
    [["KUNIT", "y"], ["PTP_1588_CLOCK_VMCLOCK_RUST", "y"], ["PTP_1588_CLOCK_VMCLOCK_RUST_KUNIT_TEST", "y"]];

/// The driver as guests load it, in the place of Linux's own, and the sample that the abstractions change.
const AS_MODULE: [[&str; 2]; 5] = [
    ["PTP_1588_CLOCK_VMCLOCK", "n"],
    ["PTP_1588_CLOCK_VMCLOCK_RUST", "m"],
    ["SAMPLES", "y"],
    ["SAMPLES_RUST", "y"],
    ["SAMPLE_RUST_MISC_DEVICE", "y"],
];

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
    let applied = Repository { folder: repository("applied")?, workshop: &workshop };
    // The kernel that watches memory and locks: what the patches do not touch need not be built again.
    let watched = source.watched(&cache, project, &workshop)?.tree;
    let tree = Tree { folder: project.target("upstream-tree"), make: watched.make(), workshop: &workshop };
    tree.make_once(&watched.folder().display().to_string(), || {
        Cmd::new("cp").args(["-a", "--reflink=auto"]).arg(watched.folder()).arg(&tree.folder).read().map(|_| ())
    })?;
    applied.apply(&patches, options.each.then_some(&tree))?;
    applied.check_style(&patches, watched.folder())?;
    let assets = Assets::fetch(&cache)?;

    // Another kernel for its tests: KUnit changes a structure that nearly all of a kernel is built with.
    let tiny = Tree { folder: project.target("upstream-kunit"), make: watched.make(), workshop: &workshop };
    let configuration = project.path("linux/tests/kunit.config");
    let settings =
        fs::read_to_string(&configuration).with_context(|| format!("cannot read {}", configuration.display()))?;
    tiny.make_once(&format!("{}\n{settings}", watched.folder().display()), || {
        fs::create_dir_all(&tiny.folder).with_context(|| format!("cannot make {}", tiny.folder.display()))?;
        source.unpack_all(&workshop, &tiny.folder)?;
        fs::copy(&configuration, tiny.folder.join("kunit.config"))?;
        let script = format!(
            "cd /mnt/kernel\n{0} tinyconfig\nscripts/kconfig/merge_config.sh -m .config kunit.config",
            tiny.make
        );
        workshop.run(&[("kernel", &tiny.folder)], &script).map(|_| ())
    })?;
    tiny.update(&applied)?;
    tiny.build(&WITH_TESTS)?;
    tiny.run_kunit(&assets)?;

    tree.update(&applied)?;
    tree.build(&AS_MODULE)?;
    tree.run_driver(project, &assets, source.series())
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

/// What the series touches, for git.
struct Repository<'a> {
    folder: PathBuf,
    workshop: &'a Workshop,
}

impl Repository<'_> {
    /// Applies the patches, and builds each in a tree, if there is one.
    fn apply(&self, patches: &Path, tree: Option<&Tree>) -> Result<()> {
        let patches = listed(patches)?;
        for patch in &patches {
            make::git(&self.folder).args(["am", "--quiet", "--whitespace=error"]).arg(patch).read()?;
            if let Some(tree) = tree {
                tree.update(self)?;
                tree.make_after(&format!("{} olddefconfig", tree.make), "prepare drivers/ptp/ samples/rust/")?;
                say(&format!("ok     builds: {}", name(patch)));
            }
        }
        say(&format!("ok     {} patches apply", patches.len()));
        Ok(())
    }

    /// The kernel's own tools: its configuration of rustfmt, and checkpatch, of a whole tree.
    fn check_style(&self, patches: &Path, whole: &Path) -> Result<()> {
        let count = listed(patches)?.len();
        let changed = make::git(&self.folder).args(["diff", "--name-only", &format!("HEAD~{count}")]).read()?;
        let sources = changed.lines().filter(|name| make::is_rust(Path::new(name)));
        make::rustfmt(&self.folder).arg("--check").args(sources).read()?;
        // Commits before it are not there to be looked up; the new files are below folders that have maintainers.
        let check = "perl scripts/checkpatch.pl --root=. --no-tree --strict --quiet \
                     --ignore UNKNOWN_COMMIT_ID,FILE_PATH_CHANGES /mnt/patches/*.patch";
        self.workshop.run(&[("kernel", whole), ("patches", patches)], &format!("cd /mnt/kernel\n{check}"))?;
        say("ok     rustfmt and checkpatch --strict");
        Ok(())
    }
}

/// A kernel's tree, kept for the next time.
struct Tree<'a> {
    folder: PathBuf,
    /// How to call `make` for it.
    make: &'a str,
    workshop: &'a Workshop,
}

impl Tree<'_> {
    /// Makes it, unless it was made of the same before.
    fn make_once(&self, of: &str, make: impl FnOnce() -> Result<()>) -> Result<()> {
        let mark = self.folder.join(".vmclock-made-of");
        if fs::read_to_string(&mark).is_ok_and(|found| found == of) {
            return Ok(());
        }
        remove_folder(&self.folder)?;
        make()?;
        fs::write(&mark, of).with_context(|| format!("cannot write {}", mark.display()))
    }

    /// Copies what a repository has and the tree has not.
    fn update(&self, repository: &Repository) -> Result<()> {
        for name in make::git(&repository.folder).args(["ls-files"]).read()?.lines() {
            let (from, to) = (repository.folder.join(name), self.folder.join(name));
            let text = fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
            // What stays the same need not be built again.
            if fs::read(&to).is_ok_and(|found| found == text) {
                continue;
            }
            let folder = to.parent().context("a file without a folder")?;
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
            fs::write(&to, text).with_context(|| format!("cannot write {}", to.display()))?;
        }
        Ok(())
    }

    /// Builds the kernel with these settings, without a warning.
    fn build(&self, settings: &[[&str; 2]]) -> Result<()> {
        let set = settings.iter().map(|[name, value]| format!("scripts/config --set-val {name} {value}\n"));
        // A setting that depends on others is gone where these are not as it wants.
        let check = settings.iter().map(|[name, value]| match *value {
            "n" => format!("if grep ^CONFIG_{name}= .config; then exit 1; fi\n"),
            _ => format!("grep -q ^CONFIG_{name}={value} .config\n"),
        });
        let (set, check): (String, String) = (set.collect(), check.collect());
        let said = self.make_after(&format!("{set}{} olddefconfig\n{check}", self.make), "bzImage modules")?;
        if let Some(warning) = said.lines().find(|line| line.contains("warning:") || line.contains("WARNING")) {
            anyhow::bail!("the kernel builds with a warning: {warning}\n{said}");
        }
        say("ok     the kernel builds with them");
        Ok(())
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
        let qemu = qemu.args(["-accel", "tcg", "-machine", "q35", "-cpu", "max,la57=off", "-m", "1G", "-nodefaults"]);
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
    fn run_driver(&self, project: &Project, assets: &Assets, series: Series) -> Result<()> {
        let module = self.folder.join("drivers/ptp/vmclock/ptp_vmclock_rust.ko");
        let pack = "cd /mnt/kernel/drivers/ptp/vmclock\nxz --check=crc32 --keep --force ptp_vmclock_rust.ko";
        self.workshop.run(&[("kernel", &self.folder)], pack)?;
        let kernel =
            Kernel { version: format!("{series}-series"), image: self.image(), driver: module.with_extension("ko.xz") };
        let harness = guest_test::with_kernel(guest_test::harness(project, assets)?, &kernel);
        harness.args(SCENARIOS.iter().flat_map(|name| ["--only", name])).run()
    }
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
