// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask guest-test`: real guests in an unmodified QEMU, where Linux's own driver reads the page that
//! `vmclock qemu` publishes. What is checked is in the crate `vmclock-e2e`; here is what it needs.

mod archive;
mod assets;

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::c_library::{self, compiler, CRATE};
use crate::cache::Cache;
use crate::debian;
use crate::project::Project;
use crate::shell::{say, Cmd};
use crate::steps::Done;

pub(crate) use self::archive::{Archive, Release, Series, KERNEL_SUITE};
pub(crate) use self::assets::{Assets, Kernel, FLAVOUR, KERNEL, QEMU_SUITE};

/// What the guest's programs are built for: they run where no C library is.
const TARGET: &str = "x86_64-unknown-linux-gnu";
const STATIC: &str = "-C target-feature=+crt-static";

/// Run real guests under QEMU, with Linux's own driver reading our page.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Run only the checks with this word in their names (may be given more than once).
    #[arg(long, value_name = "WORD")]
    only: Vec<String>,

    /// On the newest kernel of each series that the archive holds, not only on the newest of each generation.
    #[arg(long)]
    every_kernel: bool,

    /// How often the agent's snapshots are restored.
    #[arg(long, value_name = "N")]
    restores: Option<u32>,

    /// How often the agent is killed.
    #[arg(long, value_name = "N")]
    kills: Option<u32>,

    /// How long the agent's discipline is watched.
    #[arg(long, value_name = "SECONDS")]
    steady_seconds: Option<u64>,

    /// Only download, build and print the harness's command.
    #[arg(long)]
    prepare: bool,
}

pub(crate) fn run(project: &Project, options: &Options) -> Result<()> {
    match run_or_skip(project, options)? {
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
            only: Vec::new(),
            every_kernel: false,
            restores: None,
            kills: None,
            steady_seconds: None,
            prepare: false,
        },
    )
}

fn run_or_skip(project: &Project, options: &Options) -> Result<Done> {
    if !cfg!(target_arch = "x86_64") {
        // Under TCG the guest's counter is the host's only where both are x86-64.
        return debian::skip_unless_ci(anyhow::anyhow!("the guests are for x86-64, which this machine is not"));
    }
    let fetch_kernels = if options.every_kernel { assets::fetch_every_kernel } else { assets::fetch_kernels };
    let fetched = Cache::open().and_then(|cache| Ok((Assets::fetch(&cache)?, fetch_kernels(&cache)?)));
    let (assets, kernels) = match fetched {
        Ok(fetched) => fetched,
        Err(error) => return debian::skip_unless_ci(error),
    };
    // Nobody here can do anything about that, so it is no failure anywhere.
    if kernels.is_empty() {
        return Ok(Done::Skipped(format!("Debian's {KERNEL_SUITE} has no kernel with Linux's driver just now")));
    }
    let mut harness = harness(project, &assets)?;
    for kernel in &kernels {
        harness = with_kernel(harness, kernel);
    }
    let number = |name: &str, number: Option<u64>| number.map(|number| format!("--{name}={number}"));
    let harness = harness
        .args(number("restores", options.restores.map(Into::into)))
        .args(number("kills", options.kills.map(Into::into)))
        .args(number("steady-seconds", options.steady_seconds));
    let harness = harness.args(options.only.iter().flat_map(|word| ["--only", word]));
    if options.prepare {
        say(&harness.to_string());
        return Ok(Done::Passed);
    }
    harness.run().map(|()| Done::Passed)
}

/// Tells the harness of a kernel.
pub(crate) fn with_kernel(harness: Cmd, kernel: &Kernel) -> Cmd {
    harness.args(["--kernel", &kernel.version]).arg(&kernel.image).arg(&kernel.driver)
}

/// Builds the harness, the guest's programs and the command that both sides use, all of them static so that one build
/// does, and gives the harness's command, without a kernel.
pub(crate) fn harness(project: &Project, assets: &Assets) -> Result<Cmd> {
    let target = project.target("guest");
    let packages = ["--package=vmclock-e2e", "--package=vmclock-e2e-guest", "--package=vmclock-cli"];
    let feed = ["--package=vmclock-agent", "--bins", "--example=feed"];
    for wanted in [&packages[..], &feed] {
        let build = project.cargo("build").args(["--release", "--target", TARGET]).args(wanted).arg("--target-dir");
        build.arg(&target).env("RUSTFLAGS", STATIC).run()?;
    }

    let c_program = build_c_program(project)?;
    let built = |name: &str| target.join(TARGET).join("release").join(name);
    let mut harness = project.command(built("vmclock-e2e")).arg("--vmclock").arg(built("vmclock"));
    harness = harness.arg("--c-program").arg(c_program).arg("--init").arg(built("vmclock-e2e-guest"));
    harness = harness.arg("--agent").arg(built("vmclock-agent"));
    harness = harness.arg("--qemu").arg(&assets.qemu).arg("--iasl").arg(&assets.iasl);
    Ok(harness
        .arg("--chronyd")
        .arg(&assets.chronyd)
        .arg("--ntp-daemon")
        .arg(&assets.ntp_daemon)
        .arg("--feed")
        .arg(built("examples/feed")))
}

/// The `vmclock` command, built statically: it runs wherever there is a kernel.
pub(crate) fn static_command(project: &Project) -> Result<PathBuf> {
    let target = project.target("guest");
    let build = project.cargo("build").args(["--release", "--target", TARGET, "--package=vmclock-cli", "--target-dir"]);
    build.arg(&target).env("RUSTFLAGS", STATIC).run()?;
    Ok(target.join(TARGET).join("release/vmclock"))
}

/// A program in C that uses libvmclock and runs where no library is.
fn build_c_program(project: &Project) -> Result<PathBuf> {
    let folder = project.target("guest-c");
    let prefix = folder.join("usr");
    std::fs::create_dir_all(&prefix).with_context(|| format!("cannot make the folder {}", prefix.display()))?;
    c_library::install(project, &c_library::Options::at(prefix.clone()))?;
    let program = folder.join("guest");
    let compile = project.command(compiler("CC", "cc")).args(["-std=c99", "-O2", "-static", "-o"]).arg(&program);
    let compile = compile.arg("-I").arg(prefix.join("include")).arg(project.path(CRATE).join("tests/c/guest.c"));
    compile.arg(prefix.join("lib/libvmclock.a")).read()?;
    Ok(program)
}
