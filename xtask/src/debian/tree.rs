// SPDX-License-Identifier: MIT OR Apache-2.0
//! A folder with the files of unpacked packages.

use std::env::consts::ARCH;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};

use crate::cache::{write_script, write_whole};
use crate::shell::{quoted, Cmd};

/// The file beside the packages' files that lists the packages. A tree without it is none.
const LIST: &str = "packages";

/// A folder with the files of unpacked packages.
pub(crate) struct Tree {
    folder: PathBuf,
}

impl Tree {
    /// The tree in this folder, if it holds one.
    pub(crate) fn open(folder: PathBuf) -> Result<Self> {
        if !folder.join(LIST).is_file() {
            bail!("{} is no folder of unpacked packages", folder.display());
        }
        Ok(Self { folder })
    }

    /// Unpacks the packages of these names in `scratch` and moves them to `folder` in one go, so that an interrupted
    /// run never leaves half a tree.
    pub(crate) fn unpack(debs: &[PathBuf], names: &[&str], scratch: &Path, folder: PathBuf) -> Result<Self> {
        if debs.len() != names.len() {
            bail!("apt downloaded {} packages, not the {} that it had named: {debs:?}", debs.len(), names.len());
        }
        let half = scratch.join("tree");
        let root = half.join("root");
        fs::create_dir_all(&root).with_context(|| format!("cannot make the folder {}", root.display()))?;
        for deb in debs {
            Cmd::new("dpkg-deb").arg("--extract").arg(deb).arg(&root).read()?;
        }
        write_whole(&half.join(LIST), &(names.join("\n") + "\n"))?;
        match fs::rename(&half, &folder) {
            // Another process was quicker; its tree is the same.
            Err(_) if folder.join(LIST).is_file() => Ok(()),
            renamed => renamed.with_context(|| format!("cannot move {} to {}", half.display(), folder.display())),
        }?;
        Self::open(folder)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The last part of the folder's name.
    pub(crate) fn name(&self) -> Result<String> {
        let name = self.folder.file_name().and_then(OsStr::to_str);
        Ok(name.with_context(|| format!("{} has no name", self.folder.display()))?.to_owned())
    }

    /// The path of one of the packages' files: `usr/bin/rustc`.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.folder.join("root").join(relative)
    }

    /// The packages, as `name_version_architecture.deb`.
    pub(crate) fn packages(&self) -> Result<Vec<String>> {
        let list = self.folder.join(LIST);
        let text = fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Writes a script beside the tree's files that runs one of its programs (`usr/bin/rustc`) with the tree's own C
    /// library, which may be newer than the machine's, and with these arguments before the caller's.
    pub(crate) fn script(&self, program: &str, arguments: &[&OsStr]) -> Result<PathBuf> {
        let (triplet, loader) = match ARCH {
            "x86_64" => ("x86_64-linux-gnu", "ld-linux-x86-64.so.2"),
            "aarch64" => ("aarch64-linux-gnu", "ld-linux-aarch64.so.1"),
            other => bail!("what the dynamic loader is called on {other} is not known: add it where this is written"),
        };
        let libraries = self.path("usr/lib").join(triplet);
        let (loader, program) = (libraries.join(loader), self.path(program));
        let words = [loader.as_os_str(), OsStr::new("--library-path"), libraries.as_os_str(), program.as_os_str()];
        let words: Vec<String> = words.iter().chain(arguments).map(|word| quoted(word)).collect();

        let name = program.file_name().with_context(|| format!("{} has no name", program.display()))?;
        let script = self.folder.join(name);
        write_script(&script, &format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" ")))?;
        Ok(script)
    }
}
