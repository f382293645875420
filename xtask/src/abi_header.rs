// SPDX-License-Identifier: MIT OR Apache-2.0
//! Linux's own header of the page, `linux/vmclock-abi.h`, as Debian packages it.

use std::path::PathBuf;

use anyhow::{bail, Result};

use crate::cache::Cache;
use crate::debian::{self, Freshness, Request};

/// The variable that tells `vmclock-core`'s test where to find the header.
pub(crate) const VARIABLE: &str = "VMCLOCK_ABI_INCLUDE";

/// The newest kernel that Debian has built for a stable release: when its header grows a field, we learn of it.
const HEADERS: Request = Request {
    name: "linux-headers",
    suite: "trixie-backports",
    alone: &["linux-libc-dev"],
    with_dependencies: &[],
    freshness: Freshness::Daily,
};

/// The folder to give to a C compiler with `-I`.
pub(crate) fn include_folder() -> Result<PathBuf> {
    let tree = debian::fetch(&Cache::open()?, &HEADERS)?;
    let folder = tree.path("usr/include");
    let header = folder.join("linux/vmclock-abi.h");
    if !header.is_file() {
        bail!("{} is not in Debian's {:?}: look where its packages have it now", header.display(), tree.packages()?);
    }
    Ok(folder)
}
