// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask driver-test`: the Linux driver in Rust, built for Debian's stock kernels, beside Linux's own in C, in
//! real guests. What is checked is in the crate `vmclock-e2e`; here is which kernels there are, and how the driver is
//! built for them.
//!
//! Debian's archive decides: the newest kernel that it holds of each series that the driver is written for. What else
//! it holds, and what it lacks, is said in a line. A rotation of the archive never fails this step: where no kernel is
//! left that the driver is written for, Linux's own driver is tested alone, and ours is skipped.
//!
//! On the newest series everything runs, with both drivers. On the others, with ours alone, what depends on the
//! kernel's interfaces: a guest on a host that refreshes its page, and all that the drivers do and refuse. The rest
//! (migration, snapshots, costs, arm64) is the same source on every series, and would double the time.

mod arm64;
mod kernels;
mod upstream;
mod workshop;

use anyhow::{Context, Result};

use crate::cache::Cache;
use crate::debian;
use crate::guest_test::{self, Archive, Assets, Kernel, Release, Series, FLAVOUR, KERNEL, KERNEL_SUITE};
use crate::project::Project;
use crate::shell::{say, Cmd};
use crate::steps::Done;

use self::arm64::Arm64;
use self::kernels::Source;
pub(crate) use self::upstream::{run as upstream_series, Options as UpstreamOptions};
pub(crate) use self::workshop::enter;
use self::workshop::Workshop;

/// The series that the driver is written for, as `linux/Kbuild` and `linux/dkms.conf` have them, the newest first.
const SUPPORTED: [Series; 2] = [Series(7, 3), Series(7, 2)];

/// Where the archive has none of these: the scenarios in which Linux's own driver shows what it can.
const OF_LINUX: [&str; 4] = ["live", "life", "no-notify", "stock"];

/// The scenario of a guest on arm64, which finds the clock by its device tree.
const ARM64: &str = "arm64";

/// Build the Linux driver in Rust, and compare it with Linux's own in real guests.
#[allow(clippy::struct_excessive_bools)] // they are options
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Under a kernel of our own that watches memory and locks: bind and unbind, with files open across it. Builds a
    /// kernel
    #[arg(long)]
    kasan: bool,

    /// Build it for kernels without ACPI, sleep and the KVM clock, on x86-64 and arm64, and nothing else. Prepares two
    /// trees
    #[arg(long, conflicts_with = "kasan")]
    bare: bool,

    /// Build it with the newest compilers that Debian has, those of sid, and nothing else. Prepares a tree
    #[arg(long, conflicts_with_all = ["kasan", "bare"])]
    newest_compilers: bool,

    /// Compare the drivers' cross timestamps in a guest of KVM, where the system's clock is KVM's, and nothing else. KVM
    /// runs in a machine that QEMU emulates
    #[arg(long, conflicts_with_all = ["kasan", "bare", "newest_compilers"])]
    kvm: bool,

    /// Run only the checks with this word in their names, on every series (may be given more than once).
    #[arg(long, value_name = "WORD")]
    only: Vec<String>,

    /// Only kernels of this series, such as 7.3
    #[arg(long)]
    series: Option<String>,

    /// Only download, build and print the harness's command.
    #[arg(long)]
    prepare: bool,
}

pub(crate) fn run(project: &Project, options: &Options) -> Result<()> {
    match run_or_skip(project, options, Costs::AreJudged)? {
        Done::Passed => Ok(()),
        Done::Skipped(reason) => {
            say(&format!("SKIPPED: {reason}"));
            Ok(())
        }
    }
}

/// The step of `cargo xtask test`.
pub(crate) fn step(project: &Project) -> Result<Done> {
    run_or_skip(
        project,
        &Options {
            kasan: false,
            bare: false,
            newest_compilers: false,
            kvm: false,
            only: Vec::new(),
            series: None,
            prepare: false,
        },
        Costs::AreShown,
    )
}

/// A timing on a busy machine is no test.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Costs {
    AreShown,
    AreJudged,
}

fn run_or_skip(project: &Project, options: &Options, costs: Costs) -> Result<Done> {
    if !cfg!(target_arch = "x86_64") {
        return debian::skip_unless_ci(anyhow::anyhow!("the guests are for x86-64, which this machine is not"));
    }
    // Nothing that could be installed would help.
    if let Some(reason) = workshop::forbidden() {
        return Ok(Done::Skipped(format!("the kernel's compilers need mount namespaces and chroot: {reason}")));
    }
    let fetched = Cache::open().and_then(|cache| {
        let kernels =
            Archive::with(&cache, &[arm64::ARCHITECTURE], |archive| Kernels::fetch(&cache, archive, options))?;
        let assets = Assets::fetch(&cache)?;
        Ok((cache, kernels, assets))
    });
    let (cache, kernels, assets) = match fetched {
        Ok(fetched) => fetched,
        Err(error) => return debian::skip_unless_ci(error),
    };
    for line in &kernels.remarks {
        say(&format!("note: {line}"));
    }
    if options.bare {
        return build_for_bare_kernels(&cache, project, &kernels);
    }
    if options.newest_compilers {
        return build_with_newest_compilers(&cache, project, &kernels);
    }
    let harness = guest_test::harness(project, &assets)?;
    let (harness, done) = match &kernels.ours[..] {
        [] => match &kernels.other {
            Some(kernel) if !options.kasan => of_linux(harness, kernel, options),
            _ => return Ok(Done::Skipped(nothing_supported())),
        },
        ours => (with_ours(harness, &cache, project, &kernels, ours, options, costs)?, Done::Passed),
    };
    let harness = if options.kvm { harness.arg("--nested").arg(&assets.qemu_root) } else { harness };
    if options.prepare {
        say(&harness.to_string());
        return Ok(done);
    }
    harness.run().map(|()| done)
}

/// The newest series, configured with as little as it may have.
fn build_for_bare_kernels(cache: &Cache, project: &Project, kernels: &Kernels) -> Result<Done> {
    let (Some(workshop), [(_, source), ..]) = (&kernels.workshop, &kernels.ours[..]) else {
        return Ok(Done::Skipped(nothing_supported()));
    };
    source.bare(cache, workshop)?.compile_driver(project, workshop)?;
    if let Some((_, source)) = &kernels.arm64 {
        source.bare_arm64(cache, workshop)?.compile_driver(project, workshop)?;
    }
    say("the driver builds for kernels without ACPI");
    Ok(Done::Passed)
}

/// All series, by compilers that no kernel of Debian's was built with yet.
fn build_with_newest_compilers(cache: &Cache, project: &Project, kernels: &Kernels) -> Result<Done> {
    if kernels.ours.is_empty() {
        return Ok(Done::Skipped(nothing_supported()));
    }
    let workshop = Workshop::fetch_newest(cache)?;
    let versions = workshop.run(&[], "rustc --version\nx86_64-linux-gnu-gcc --version | head -n 1")?;
    for (_, source) in &kernels.ours {
        source.by_newest(cache, &workshop)?.compile_driver_alone(project, &workshop)?;
        say(&format!("the driver for Linux {} builds with {}", source.series(), versions.trim().replace('\n', ", ")));
    }
    Ok(Done::Passed)
}

/// The kernels that the driver is written for and that the archive has with headers and source, the newest first.
pub(crate) fn supported(cache: &Cache) -> Result<Vec<Release>> {
    Archive::with(cache, &[], |archive| {
        let found = archive.newest(FLAVOUR, &Source::packages(""))?;
        Ok(found.into_iter().filter(|release| SUPPORTED.contains(&release.series)).collect())
    })
}

/// What of the archive is tested.
struct Kernels {
    /// Those that the driver is written for, the newest first.
    ours: Vec<(Kernel, Source)>,
    /// The one that is tested on arm64, if any is.
    arm64: Option<(Arm64, Source)>,
    /// Where there are none of ours, the newest that there is.
    other: Option<Kernel>,
    /// Without any of ours there is nothing to build.
    workshop: Option<Workshop>,
    /// What is to be said of the archive.
    remarks: Vec<String>,
}

impl Kernels {
    /// Chooses kernels and brings them to the cache, with what the driver is built with.
    fn fetch(cache: &Cache, archive: &Archive, options: &Options) -> Result<Self> {
        let needed = [&KERNEL[..], &Source::packages("")].concat();
        let all = archive.newest(FLAVOUR, &KERNEL)?;
        let (chosen, mut remarks) = choose(archive.newest(FLAVOUR, &needed)?, &all);
        let mut ours = Vec::new();
        let is_wanted =
            |release: &&Release| options.series.as_ref().is_none_or(|name| *name == release.series.to_string());
        for release in chosen.iter().filter(is_wanted) {
            ours.push((Kernel::fetch(cache, release)?, Source::fetch(cache, release, "")?));
        }
        let with_arm64 = options.only.is_empty() || options.only.iter().any(|word| ARM64.contains(word.as_str()));
        let mut arm64 = None;
        let on_x86_only = options.kasan || options.kvm || options.newest_compilers;
        if with_arm64 && !on_x86_only && !ours.is_empty() {
            let needed = [&[arm64::KERNEL][..], &Source::packages(arm64::ARCHITECTURE)].concat();
            let found = archive.newest(arm64::FLAVOUR, &needed)?;
            match found.into_iter().find(|release| SUPPORTED.contains(&release.series) && is_wanted(&release)) {
                Some(release) => {
                    let source = Source::fetch(cache, &release, arm64::ARCHITECTURE)?;
                    arm64 = Some((Arm64::fetch(cache, &release)?, source));
                }
                None => remarks.push(format!("{}: it is not tested on arm64", nothing_for("arm64"))),
            }
        }
        let workshop = match &ours[..] {
            [] => None,
            _ if options.kasan => Some(Workshop::fetch_with_clang(cache)?),
            _ => Some(Workshop::fetch(cache)?),
        };
        let other = match all.first() {
            Some(release) if ours.is_empty() => Some(Kernel::fetch(cache, release)?),
            _ => None,
        };
        Ok(Self { ours, arm64, other, workshop, remarks })
    }
}

/// Of the kernels that are there with all that building needs, those that the driver is written for, the newest first;
/// and what is to be said of these and of all others.
fn choose(complete: Vec<Release>, all: &[Release]) -> (Vec<Release>, Vec<String>) {
    let mut remarks = Vec::new();
    for newer in all.iter().filter(|release| SUPPORTED.iter().all(|series| *series < release.series)) {
        remarks.push(format!(
            "Debian's {KERNEL_SUITE} has Linux {}, which the driver does not support yet: add {} to linux/compat.rs",
            newer.version(),
            newer.series
        ));
    }
    let chosen: Vec<Release> = complete.into_iter().filter(|release| SUPPORTED.contains(&release.series)).collect();
    for missing in SUPPORTED.iter().filter(|series| chosen.iter().all(|release| release.series != **series)) {
        remarks.push(format!(
            "Debian's {KERNEL_SUITE} has no Linux {missing} with all its packages: the driver is not tested with it"
        ));
    }
    (chosen, remarks)
}

fn nothing_for(architecture: &str) -> String {
    let series = SUPPORTED.map(|series| series.to_string()).join(" or ");
    format!("Debian's {KERNEL_SUITE} has no Linux {series} for {architecture} with all its packages")
}

fn nothing_supported() -> String {
    format!("{}, which the driver in Rust is written for", nothing_for("x86-64"))
}

/// Linux's own driver alone.
fn of_linux(harness: Cmd, kernel: &Kernel, options: &Options) -> (Cmd, Done) {
    let harness = guest_test::with_kernel(harness, kernel);
    let words = match &options.only[..] {
        [] => OF_LINUX.map(str::to_owned).to_vec(),
        some => some.to_vec(),
    };
    (harness.args(words.iter().flat_map(|word| ["--only", word])), Done::Skipped(nothing_supported()))
}

/// Builds the driver for each of the kernels, and tells the harness of everything.
fn with_ours(
    mut harness: Cmd,
    cache: &Cache,
    project: &Project,
    kernels: &Kernels,
    ours: &[(Kernel, Source)],
    options: &Options,
    costs: Costs,
) -> Result<Cmd> {
    let workshop = kernels.workshop.as_ref().context("no compilers")?;
    if options.kasan {
        for (index, (_, source)) in ours.iter().enumerate() {
            let is_newest = index == 0;
            let watched = source.watched(cache, project, workshop)?;
            let module = watched.tree.build_driver(project, workshop)?;
            let name = watched.tree.name();
            harness = harness.args(["--kernel", name]).arg(&watched.image).arg(&watched.driver);
            harness = harness.args(["--rust-driver", name]).arg(module);
            // The patches are for the newest source.
            if is_newest {
                let fixed = watched.tree.build_fixed_c_driver(project, workshop)?;
                harness = harness.args(["--fixed-driver", name]).arg(fixed);
            }
        }
        let only = options.only.iter().flat_map(|word| ["--only", word]);
        return Ok(harness.arg("--kasan").args(only));
    }
    for (kernel, source) in ours {
        let module = source.stock(cache, workshop)?.build_driver(project, workshop)?;
        harness = guest_test::with_kernel(harness, kernel).args(["--rust-driver", &kernel.version]).arg(module);
    }
    if let Some((arm64, source)) = &kernels.arm64 {
        let module = source.arm64(cache, workshop)?.build_driver(project, workshop)?;
        harness = arm64.add_to(harness, project, workshop, &module)?;
    }
    harness = harness.args(options.only.iter().flat_map(|word| ["--only", word]));
    Ok(if costs == Costs::AreJudged { harness.arg("--strict-costs") } else { harness })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn releases(versions: &[&str]) -> Vec<Release> {
        let name = |version: &&str| format!("{version}+deb13-{FLAVOUR}");
        versions.iter().filter_map(|version| Release::parse(&name(version), FLAVOUR)).collect()
    }

    fn chosen(complete: &[&str], all: &[&str]) -> (Vec<String>, usize) {
        let (chosen, remarks) = choose(releases(complete), &releases(all));
        (chosen.iter().map(Release::version).collect(), remarks.len())
    }

    #[test]
    fn the_archive_decides_and_what_it_lacks_is_said() {
        assert_eq!(
            chosen(&["7.3.4", "7.2.12"], &["7.3.4", "7.2.12", "7.1.3"]),
            (vec!["7.3.4".into(), "7.2.12".into()], 0)
        );
        // 7.2 is dropped; 7.4 comes; both at once; and nothing that we know is left.
        assert_eq!(chosen(&["7.3.4"], &["7.3.4"]), (vec!["7.3.4".into()], 1));
        assert_eq!(chosen(&["7.4.1", "7.3.4", "7.2.1"], &["7.4.1", "7.3.4"]).1, 1);
        assert_eq!(chosen(&["7.4.1", "7.3.4"], &["7.4.1", "7.3.4"]), (vec!["7.3.4".into()], 2));
        assert_eq!(chosen(&["7.5.1"], &["7.5.1", "7.4.9"]), (vec![], 4));
    }

    #[test]
    fn everybody_names_the_same_series() {
        let project = Project::locate().unwrap();
        let read = |name: &str| fs::read_to_string(project.path(format!("linux/{name}"))).unwrap();
        let oldest_first: Vec<String> = SUPPORTED.iter().rev().map(ToString::to_string).collect();
        assert!(read("Kbuild").contains(&format!("$(filter {},", oldest_first.join(" "))));
        let minors: String = SUPPORTED.iter().rev().map(|series| series.1.to_string()).collect();
        assert!(read("dkms.conf").contains(&format!(r#"BUILD_EXCLUSIVE_KERNEL="^7\.[{minors}]\.""#)));
    }
}
