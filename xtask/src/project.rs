// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where things are: the clone, its target folder, its cargo.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::shell::Cmd;

/// The oldest Rust that the workspace promises to build with, as its `Cargo.toml` states it.
pub(crate) const OLDEST_RUST: &str = env!("CARGO_PKG_RUST_VERSION");

/// The clone that this program was started in.
pub(crate) struct Project {
    root: PathBuf,
    target: PathBuf,
}

impl Project {
    /// Finds the clone from where cargo found this crate.
    pub(crate) fn locate() -> Result<Self> {
        // The variable at run time, not `env!`: a clone that was moved after it was built must still find itself.
        let own = env::var_os("CARGO_MANIFEST_DIR").context(
            "CARGO_MANIFEST_DIR is not set, so where the clone is cannot be known: start this program as `cargo xtask`",
        )?;
        let own = PathBuf::from(own);
        let root = own.parent().with_context(|| format!("{} has no parent folder", own.display()))?.to_path_buf();
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir));
        Ok(Self { root, target })
    }

    /// The path of something in the clone.
    pub(crate) fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.join(relative)
    }

    /// The path of something under the target folder.
    pub(crate) fn target(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.target.join(relative)
    }

    /// A command that runs in the clone's root.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Cmd {
        Cmd::new(program.as_ref().as_os_str()).current_dir(&self.root)
    }

    /// A cargo command that runs in the clone's root.
    pub(crate) fn cargo(&self, verb: &str) -> Cmd {
        self.command("cargo").arg(verb)
    }
}

/// Whether this is a run of the continuous integration, where nothing may be skipped.
pub(crate) fn is_ci() -> bool {
    env::var_os("CI").is_some_and(|value| value == "true")
}
