// SPDX-License-Identifier: MIT OR Apache-2.0
//! The oldest Rust that the workspace promises to build with, as Debian packages it, and what is checked with it.
//!
//! It is not installed: its `rustc` runs from the cache with the C library that came with it. Debian is where it comes
//! from because Debian's kernels are built with that very compiler, and because any machine that has apt has it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};

use crate::cache::Cache;
use crate::debian::{self, Freshness, Request};
use crate::project::{Project, OLDEST_RUST};
use crate::shell::{say, Cmd};
use crate::steps::Done;

/// The Debian release that has the oldest Rust.
const SUITE: &str = "trixie";

/// What our crates are checked for: the architectures whose counters the page can name.
const TARGETS: [&str; 2] = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"];

/// The crates that promise the oldest Rust. What embeds `acpi_tables` needs a newer one, which its `rust-version` says.
const PROMISING: [&str; 4] =
    ["--package=vmclock-core", "--package=vmclock", "--package=vmclock-host", "--package=vmclock-capi"];

/// Checks that the crates that promise it build with the oldest Rust, for every architecture.
pub(crate) fn check(project: &Project) -> Result<Done> {
    let rustc = match Cache::open().and_then(|cache| fetch(&cache)) {
        Ok(rustc) => rustc,
        Err(error) => return debian::skip_unless_ci(error),
    };
    for target in TARGETS {
        check_core(project, &rustc, target)?;
        check_with_cargo(project, &rustc, target, &PROMISING)?;
        check_with_cargo(project, &rustc, target, &["--package=vmclock", "--no-default-features"])?;
    }
    Ok(Done::Passed)
}

/// The path of a `rustc` of the oldest version that can be called like any other, for every architecture.
pub(crate) fn fetch(cache: &Cache) -> Result<PathBuf> {
    // The compiler is in a library; its own dependencies are needed, those of `rustc` (all of gcc) are not.
    let library = format!("libstd-rust-{OLDEST_RUST}");
    let tree = debian::fetch(
        cache,
        &Request {
            name: &format!("rust-{OLDEST_RUST}"),
            suite: SUITE,
            alone: &["rustc", "libstd-rust-dev:amd64", "libstd-rust-dev:arm64"],
            with_dependencies: &[&library],
            freshness: Freshness::Any,
        },
    )?;
    let sysroot = tree.path("usr");
    let rustc = tree.script("usr/bin/rustc", &[OsStr::new("--sysroot"), sysroot.as_os_str()])?;
    let version = Cmd::new(&rustc).arg("--version").read().context("Debian's rustc does not run on this machine")?;
    if !version.starts_with(&format!("rustc {OLDEST_RUST}.")) {
        bail!("Debian's {SUITE} has {:?}, not the Rust {OLDEST_RUST} that Cargo.toml promises", version.trim());
    }
    say(&format!("with {}", version.trim()));
    Ok(rustc)
}

/// `vmclock-core` the way a kernel builds it: one call of rustc, no cargo, no dependencies.
fn check_core(project: &Project, rustc: &Path, target: &str) -> Result<()> {
    let out = project.target("oldest-rust");
    fs::create_dir_all(&out).with_context(|| format!("cannot make the folder {}", out.display()))?;
    project
        .command(rustc)
        .args(["--edition=2021", "--crate-type=lib", "--crate-name=vmclock_core", "--emit=metadata", "-Dwarnings"])
        .args(["--check-cfg=cfg(test,loom,fuzzing,doctest)", "--check-cfg=cfg(feature,values(\"std\"))"])
        .args(["--target", target, "--out-dir"])
        .arg(out)
        .arg("crates/vmclock-core/src/lib.rs")
        .run()
}

/// Whole crates with their dependencies, by this machine's cargo. Warnings are clippy's business, with a newer Rust.
fn check_with_cargo(project: &Project, rustc: &Path, target: &str, what: &[&str]) -> Result<()> {
    let check = project.cargo("check").args(what).args(["--target", target, "--target-dir"]);
    check
        .arg(project.target("oldest-rust"))
        .env("RUSTC", rustc)
        // A wrapper would be asked about a compiler that it does not know.
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .run()
}
