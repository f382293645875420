// SPDX-License-Identifier: MIT OR Apache-2.0
//! The harness of `cargo xtask guest-test`: real guests in an unmodified QEMU, where Linux's own driver reads the page
//! that `vmclock qemu` publishes.
//!
//! | module | what it is |
//! |---|---|
//! | [`checks`] | what is checked |
//! | [`apart`] | a CPU for the guest, and another for who asks it for its counter |
//! | [`arm`] | what is different of a guest on arm64, which finds the clock by its device tree |
//! | [`machine`] | a guest in QEMU; [`qmp`] and [`port`] are the ways to talk to QEMU and to the guest |
//! | [`service`] | the host's service |
//! | [`region`] | the memory that guest and host share |
//! | [`truth`] | what time it really was |
//! | [`initramfs`] | the guest's first file system |
//! | [`report`] | one line a check |
//! | [`patience`] | waiting with a deadline |
#![forbid(unsafe_code)]

mod apart;
mod arm;
mod checks;
mod initramfs;
mod machine;
mod patience;
mod port;
mod qmp;
mod region;
mod report;
mod service;
mod truth;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

use crate::arm::Arm;
use crate::machine::Kernel;
use crate::report::Report;
use crate::truth::Truth;

/// Real guests under QEMU, with Linux's own driver reading our page. `cargo xtask guest-test` calls it.
#[derive(Parser)]
struct Arguments {
    /// QEMU, as `qemu-system-x86_64`
    #[arg(long)]
    qemu: PathBuf,

    #[command(flatten)]
    tools: Tools,

    /// The `vmclock` command, built statically: it runs here and in the guests
    #[arg(long)]
    vmclock: PathBuf,

    /// A program in C that uses libvmclock, linked statically: it runs in guests on x86-64
    #[arg(long)]
    c_program: Option<PathBuf>,

    /// The guest agent, built statically: it runs in guests on x86-64
    #[arg(long)]
    agent: Option<PathBuf>,

    /// How often the agent's snapshots are restored
    #[arg(long, default_value_t = 3)]
    restores: u32,

    /// How often the agent is killed
    #[arg(long, default_value_t = 8)]
    kills: u32,

    /// How long the agent's discipline is watched, in seconds
    #[arg(long, default_value_t = 10)]
    steady_seconds: u64,

    /// The guests' first program
    #[arg(long)]
    init: PathBuf,

    /// A kernel: what it is called, its image, its driver (`ptp_vmclock.ko.xz`); may be given more than once
    #[arg(long = "kernel", num_args = 3, required = true, value_names = ["VERSION", "IMAGE", "DRIVER"])]
    kernels: Vec<String>,

    /// Our own driver in Rust for one of the kernels: scenarios with it too, and the two compared; all of them on the
    /// first of these kernels, a few on the others
    #[arg(long = "rust-driver", num_args = 2, value_names = ["VERSION", "DRIVER"])]
    rust_drivers: Vec<String>,

    /// Linux's own driver for one of the kernels that watch memory, with our patches
    #[arg(long = "fixed-driver", num_args = 2, value_names = ["VERSION", "DRIVER"])]
    fixed_drivers: Vec<String>,

    /// The kernel watches memory and locks: bind and unbind the drivers under load, and nothing else
    #[arg(long, requires = "rust_drivers")]
    kasan: bool,

    /// Compare the drivers' cross timestamps in a guest of KVM, and nothing else. KVM runs in a machine that QEMU emulates:
    /// the folder is a root with QEMU, its libraries and its firmware
    #[arg(long, requires = "rust_drivers")]
    nested: Option<PathBuf>,

    /// Fail if our driver costs too much; a busy machine may say so where it is not true
    #[arg(long, requires = "rust_drivers")]
    strict_costs: bool,

    #[command(flatten)]
    arm: Option<Arm>,

    /// Only the scenarios with this word in their names (may be given more than once)
    #[arg(long)]
    only: Vec<String>,

    /// Keep the machines' files in this folder
    #[arg(long)]
    folder: Option<PathBuf>,
}

/// Programs that checks of the host's side need.
#[derive(clap::Args)]
pub(crate) struct Tools {
    /// The disassembler of ACPI tables
    #[arg(long)]
    pub(crate) iasl: PathBuf,

    /// The NTP daemon of chrony
    #[arg(long)]
    pub(crate) chronyd: PathBuf,

    /// The daemon of ntpd-rs
    #[arg(long)]
    pub(crate) ntp_daemon: PathBuf,

    /// The agent's example that feeds a daemon from a page
    #[arg(long)]
    pub(crate) feed: PathBuf,
}

/// What all checks share.
pub(crate) struct Lab {
    pub(crate) qemu: PathBuf,
    pub(crate) vmclock: PathBuf,
    pub(crate) c_program: Option<PathBuf>,
    pub(crate) agent: Option<PathBuf>,
    /// How often the agent's snapshots are restored.
    pub(crate) restores: u32,
    /// How often it is killed.
    pub(crate) kills: u32,
    /// How long its discipline is watched.
    pub(crate) steady_seconds: u64,
    pub(crate) init: PathBuf,
    pub(crate) folder: PathBuf,
    pub(crate) tsc_khz: u64,
    pub(crate) truth: Truth,
    /// Ticks of the counter in a second.
    pub(crate) ticks_per_second: f64,
    /// Whether costs are judged.
    pub(crate) strict_costs: bool,
}

impl Lab {
    /// Ticks as nanoseconds, rounded up, where there are but few of them.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
    pub(crate) fn nanos(&self, ticks: u64) -> i128 {
        (ticks as f64 * 1e9 / self.ticks_per_second).ceil() as i128
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("vmclock-e2e: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<bool> {
    let scratch = tempfile::Builder::new().prefix("vmclock-e2e-").tempdir().context("cannot make a folder")?;
    let folder = arguments.folder.unwrap_or_else(|| scratch.path().to_owned());
    // TAI - UTC has been 37 s since 2017; the page's own offset is checked against it.
    let truth = Truth::start(checks::TAI_MINUS_UTC);
    let ticks_per_second = truth.ticks_per_second()?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a positive number of kHz
    let tsc_khz = (ticks_per_second / 1e3).round() as u64;
    let lab = Lab {
        qemu: arguments.qemu,
        vmclock: arguments.vmclock,
        c_program: arguments.c_program,
        agent: arguments.agent,
        restores: arguments.restores,
        kills: arguments.kills,
        steady_seconds: arguments.steady_seconds,
        init: arguments.init,
        folder,
        tsc_khz,
        truth,
        ticks_per_second,
        strict_costs: arguments.strict_costs,
    };
    let kernels: Vec<Kernel> = arguments.kernels.chunks_exact(3).map(kernel).collect();
    let mut report = Report::default();
    let ours = with_ours(&kernels, &arguments.rust_drivers)?;
    match &ours[..] {
        [] => checks::run(&lab, &kernels, &arguments.tools, &arguments.only, &mut report),
        ours if arguments.kasan => {
            let fixed = with_ours(&kernels, &arguments.fixed_drivers)?;
            checks::run_watched(&lab, ours, &fixed, &arguments.only, &mut report);
        }
        kernels if arguments.nested.is_some() => {
            let root = arguments.nested.unwrap_or_default();
            checks::run_nested(&lab, kernels, &root, &mut report);
        }
        kernels => {
            checks::run_side_by_side(&lab, kernels, arguments.arm.as_ref(), &arguments.only, &mut report);
        }
    }
    Ok(report.finish())
}

/// The kernels that there is a driver of ours for, with it.
fn with_ours(kernels: &[Kernel], drivers: &[String]) -> Result<Vec<(Kernel, PathBuf)>> {
    let with_ours = |words: &[String]| {
        let [version, driver] = words else { unreachable!("clap counts them") };
        let kernel = kernels.iter().find(|kernel| kernel.version == *version);
        Ok((kernel.with_context(|| format!("no kernel {version} for the driver {driver}"))?.clone(), driver.into()))
    };
    drivers.chunks_exact(2).map(with_ours).collect()
}

fn kernel(words: &[String]) -> Kernel {
    let [version, image, driver] = words else { unreachable!("clap counts them") };
    Kernel {
        version: version.clone(),
        image: image.into(),
        driver: Some(driver.into()),
        other: None,
        warns: false,
        files: Vec::new(),
    }
}
