// SPDX-License-Identifier: MIT OR Apache-2.0
//! What goes to the registry: each crate builds from its own tarball, which has its README and its licences; and
//! `cargo xtask semver`, whether the API still is what it was.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context, Result};

use crate::project::Project;
use crate::steps::Done;

/// The libraries whose API is promised, each after what it depends on.
const LIBRARIES: [&str; 5] = ["vmclock-core", "vmclock", "vmclock-host", "vmclock-vmm", "vmclock-qemu"];

/// What else goes to the registry: the command, what it has inside, and the guest agent.
const OTHERS: [&str; 5] = ["vmclock-doctor", "vmclock-exporter", "vmclock-sim", "vmclock-cli", "vmclock-agent"];

/// What each tarball must have.
const FILES: [&str; 4] = ["Cargo.toml", "README.md", "LICENSE-MIT", "LICENSE-APACHE"];

/// The crates that are under a third licence too, as those of rust-vmm are.
const ALSO_BSD: [&str; 2] = ["vmclock-core", "vmclock-vmm"];

/// What an embedder of `vmclock-vmm` turns on at most that has guests on KVM and tables of rust-vmm's.
const EMBEDDERS: [&str; 5] = ["acpi", "eventfd", "fdt", "kvm", "vm-memory"];

/// How many packages that may put into its lock file, its own one among them.
const EMBEDDERS_PACKAGES: usize = 22;

/// How many packages there are without any feature: the embedder's, ours, and a keyed hash.
const LEAST_PACKAGES: usize = 4;

/// Builds every crate from its tarball, with those of the others in place of a registry.
pub(crate) fn check(project: &Project) -> Result<Done> {
    for name in LIBRARIES.iter().chain(&OTHERS) {
        let list = project.cargo("package").args(["--list", "--allow-dirty", "--package", name]).read()?;
        for file in FILES {
            ensure!(list.lines().any(|line| line == file), "the package {name} has no {file}: put it in crates/{name}");
        }
    }
    for name in ALSO_BSD {
        let list = project.cargo("package").args(["--list", "--allow-dirty", "--package", name]).read()?;
        let file = "LICENSE-BSD-3-Clause";
        ensure!(list.lines().any(|line| line == file), "the package {name} has no {file}: put it in crates/{name}");
    }
    check_lock_file(project, &[], LEAST_PACKAGES)?;
    check_lock_file(project, &EMBEDDERS, EMBEDDERS_PACKAGES)?;
    // What is about to be committed is what matters, not what was.
    let packages = LIBRARIES.iter().chain(&OTHERS).flat_map(|name| ["--package", name]);
    let package = project.cargo("package").arg("--allow-dirty").args(packages);
    package.arg("--target-dir").arg(fresh_target(project)?).env("CARGO_HOME", fresh_home(project)?).run()?;
    Ok(Done::Passed)
}

/// The packages in the lock file of a crate that depends on `vmclock-vmm` alone.
fn check_lock_file(project: &Project, features: &[&str], most: usize) -> Result<()> {
    let folder = project.target("embedder");
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    fs::create_dir_all(folder.join("src")).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    write("src/lib.rs", "")?;
    // A workspace of its own, which has nothing of ours.
    write(
        "Cargo.toml",
        &format!(
            "[package]\nname = \"embedder\"\nedition = \"2021\"\n[workspace]\n[dependencies]\n\
             vmclock-vmm = {{ path = '{}', features = {features:?} }}\n",
            project.path("crates/vmclock-vmm").display()
        ),
    )?;
    let lock = folder.join("Cargo.lock");
    let _ = fs::remove_file(&lock);
    project.cargo("generate-lockfile").arg("--manifest-path").arg(folder.join("Cargo.toml")).run()?;
    let text = fs::read_to_string(&lock).with_context(|| format!("cannot read {}", lock.display()))?;
    let packages = text.lines().filter(|line| *line == "[[package]]").count();
    ensure!(
        packages <= most,
        "an embedder of vmclock-vmm with the features {features:?} has {packages} packages in its lock file, and {most} \
         are allowed: see `cargo tree` in {}",
        folder.display()
    );
    Ok(())
}

/// A target folder that remembers others' crates, but none of ours: cargo takes a version of a registry's crate for what
/// it was when it last saw it.
fn fresh_target(project: &Project) -> Result<PathBuf> {
    let target = project.target("packages");
    let built = target.join("debug/.fingerprint");
    for entry in fs::read_dir(&built).into_iter().flatten() {
        let entry = entry.with_context(|| format!("cannot list {}", built.display()))?;
        if entry.file_name().to_string_lossy().starts_with("vmclock") {
            remove(&entry.path())?;
        }
    }
    Ok(target)
}

/// A home for cargo, for the same reason: it has what was downloaded, but nothing that was unpacked.
fn fresh_home(project: &Project) -> Result<PathBuf> {
    let user = env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    let user = env::var_os("CARGO_HOME").map(PathBuf::from).or(user).context("neither CARGO_HOME nor HOME is set")?;
    let home = project.target("packages-home");
    if home.exists() {
        remove(&home)?;
    }
    let registry = home.join("registry");
    fs::create_dir_all(&registry).with_context(|| format!("cannot make the folder {}", registry.display()))?;
    for name in ["config.toml", "registry/index", "registry/cache"] {
        let (there, here) = (user.join(name), home.join(name));
        if there.exists() {
            symlink(&there, &here).with_context(|| format!("cannot make {}", here.display()))?;
        }
    }
    Ok(home)
}

fn remove(folder: &Path) -> Result<()> {
    fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))
}

/// Compare the API of the libraries with that of an earlier revision, by cargo-semver-checks.
#[derive(clap::Args)]
pub(crate) struct Semver {
    /// The revision whose API must still be there.
    #[arg(long, value_name = "REVISION", default_value = "HEAD~1")]
    baseline: String,
}

pub(crate) fn semver(project: &Project, options: &Semver) -> Result<()> {
    project
        .cargo("semver-checks")
        .arg("--version")
        .read()
        .context("it takes cargo-semver-checks: run `cargo install cargo-semver-checks --locked`")?;
    let packages = LIBRARIES.iter().flat_map(|name| ["--package", name]);
    project.cargo("semver-checks").args(["--all-features", "--baseline-rev", &options.baseline]).args(packages).run()
}
