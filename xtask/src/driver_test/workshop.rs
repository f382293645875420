// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where kernels and modules are built: Debian's compilers in a folder, of the release that built Debian's kernel,
//! entered by chroot. The machine's own compilers could not serve: Debian's kernel takes modules only from the very
//! compiler that built it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result};

use crate::cache::Cache;
use crate::debian::{self, Freshness, Request, Tree};
use crate::shell::Cmd;

/// The release that Debian's backported kernels are built on.
const SUITE: &str = "trixie";
/// The one with the newest compilers.
const NEWEST_SUITE: &str = "sid";

/// What a kernel's build calls, down to the shell: dependencies stop short of what every Debian system has anyway.
#[rustfmt::skip]
const TOOLS: [&str; 28] = [
    "base-files", "bash", "bc", "bindgen", "binutils", "bison", "coreutils", "cpio", "dash", "diffutils", "dwarves", "findutils", "flex", "gcc",
    "grep", "gzip", "hostname", "kmod", "libc6-dev", "libelf-dev", "libssl-dev", "make", "mawk", "perl", "python3-minimal", "sed", "tar", "xz-utils",
];
/// The compiler and C library of a machine that this one is not: the kernel takes the former, the guest's program the
/// latter.
const ARM64: [&str; 2] = ["gcc-14-aarch64-linux-gnu", "libc6-dev-arm64-cross"];
/// Their Rust is the kernel's.
const RUST: [&str; 2] = ["rust-src", "rustc"];
/// A kernel that watches its memory has to have all of it compiled by one compiler's back end, Rust's.
const CLANG: [&str; 3] = ["clang-19", "lld-19", "llvm-19"];

/// Enters a root folder, with folders of the machine in its `/mnt`, and runs a script there. All mounts end with the
/// last process in there.
const ENTER: &str = r#"
root=$1; script=$2; shift 2
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
while [ $# -gt 0 ]; do mount --bind "$2" "$root/mnt/$1"; shift 2; done
exec chroot "$root" /usr/bin/env -i HOME=/ LC_ALL=C PATH=/usr/bin:/usr/sbin \
    KBUILD_BUILD_USER=vmclock KBUILD_BUILD_HOST=vmclock KBUILD_BUILD_TIMESTAMP=@0 sh -euc "$script" 2>&1
"#;

/// A Debian system that nobody ever booted.
pub(super) struct Workshop {
    tree: Tree,
}

impl Workshop {
    /// With what Debian's kernel is built with.
    pub(super) fn fetch(cache: &Cache) -> Result<Self> {
        Self::with(cache, "kernel-tools", SUITE, &[&TOOLS[..], &RUST, &ARM64].concat())
    }

    /// The same with clang.
    pub(super) fn fetch_with_clang(cache: &Cache) -> Result<Self> {
        Self::with(cache, "kernel-clang", SUITE, &[&TOOLS[..], &RUST, &CLANG].concat())
    }

    /// With the newest compilers that Debian has, whose kernels will follow.
    pub(super) fn fetch_newest(cache: &Cache) -> Result<Self> {
        Self::with(cache, "kernel-newest", NEWEST_SUITE, &[&TOOLS[..], &RUST].concat())
    }

    fn with(cache: &Cache, name: &str, suite: &str, packages: &[&str]) -> Result<Self> {
        let request = Request { name, suite, alone: &[], with_dependencies: packages, freshness: Freshness::Any };
        let tree = debian::fetch(cache, &request)?;
        let root = tree.path("");
        // What an installation would have made.
        let awk = root.join("usr/bin/awk");
        if !awk.exists() {
            symlink("mawk", &awk).with_context(|| format!("cannot make {}", awk.display()))?;
        }
        for folder in ["dev", "proc", "mnt"] {
            fs::create_dir_all(root.join(folder))
                .with_context(|| format!("cannot make {folder} in {}", root.display()))?;
        }
        Ok(Self { tree })
    }

    /// Its files, for programs that run outside of it.
    pub(super) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Runs a script in here, with folders of the machine under these names in `/mnt`. What it prints is shown only if
    /// it fails.
    pub(super) fn run(&self, folders: &[(&str, &Path)], script: &str) -> Result<String> {
        enter(&self.tree.path(""), folders, script).context("in the folder of Debian's compilers")
    }
}

/// The same in any folder with a Debian system.
pub(crate) fn enter(root: &Path, folders: &[(&str, &Path)], script: &str) -> Result<String> {
    for (name, _) in folders {
        let place = root.join("mnt").join(name);
        fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
    }
    let mut command = Cmd::new("unshare").arg("--mount");
    if !is_root()? {
        command = command.arg("--map-root-user");
    }
    let mut command = command.args(["sh", "-euc", ENTER, "enter"]).arg(root).arg(script);
    for (name, folder) in folders {
        command = command.arg(name).arg(folder);
    }
    command.read_all().context("entering it needs root, or user namespaces")
}

/// Why this machine lets nobody into such a folder, if it does not.
pub(super) fn forbidden() -> Option<String> {
    let enter = || {
        let command = Cmd::new("unshare").arg("--mount");
        let command = if is_root()? { command } else { command.arg("--map-root-user") };
        command.args(["sh", "-euc", "mount --bind / /mnt; exec chroot / true"]).read_all()
    };
    enter().err().map(|error| format!("{error:#}"))
}

fn is_root() -> Result<bool> {
    Ok(Cmd::new("id").arg("-u").read()?.trim() == "0")
}
