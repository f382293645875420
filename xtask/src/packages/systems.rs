// SPDX-License-Identifier: MIT OR Apache-2.0
//! The packages in clean Debian systems, that nobody booted: installed, used, upgraded, removed.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::cache::Cache;
use crate::debian;
use crate::driver_test::enter;
use crate::shell::say;

/// The releases that the packages are for.
const SUITES: [&str; 2] = ["bookworm", "trixie"];

/// What the packages depend on and recommend, and what tries them. dkms has a test of its own: it compiles kernels.
#[rustfmt::skip]
const PACKAGES: [&str; 13] = [
    "bash-completion", "ca-certificates", "gcc", "init-system-helpers", "libc6-dev", "lintian", "mandoc", "pkgconf", "procps", "python3",
    "systemd", "tzdata", "udev",
];

/// What is done in a system, where `/mnt/packages` and `/mnt/next` have the packages. Each line that begins with `=` is
/// a result.
const SCRIPT: &str = include_str!("try");

pub(super) fn test(packages: &[PathBuf], next: &[PathBuf]) -> Result<()> {
    let cache = Cache::open()?;
    let folder = |files: &[PathBuf]| -> Result<PathBuf> {
        Ok(files.first().and_then(|file| file.parent()).context("no packages")?.to_path_buf())
    };
    let (packages, next) = (folder(packages)?, folder(next)?);
    SUITES.iter().try_for_each(|suite| try_in(&cache, suite, &packages, &next))
}

fn try_in(cache: &Cache, suite: &str, packages: &Path, next: &Path) -> Result<()> {
    let start = Instant::now();
    let scratch = cache.scratch()?;
    let root = scratch.path().join("root");
    debian::make_system(cache, &[suite], &PACKAGES.map(str::to_owned), &root)?;
    say(&format!("made a clean Debian {suite} in {:.0} s", start.elapsed().as_secs_f64()));
    let start = Instant::now();
    let said = enter(&root, &[("packages", packages), ("next", next)], SCRIPT)?;
    for line in said.lines().filter_map(|line| line.strip_prefix("= ")) {
        say(&format!("ok     {suite} {line}"));
    }
    say(&format!("ok     {suite} all of it in {:.0} s", start.elapsed().as_secs_f64()));
    Ok(())
}
