// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask bench`: what a reading costs, and what it costs with others.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::c_library::{self, compiler};
use crate::project::Project;

/// Measure what a reading of the clock costs, then the same beside other libraries.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Leave out the comparison with other libraries.
    #[arg(long)]
    no_peers: bool,

    /// Arguments for `vmclock bench`.
    #[arg(last = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(project: &Project, options: &Options) -> Result<()> {
    let ours = project.cargo("run").args(["--release", "--package", "vmclock-cli", "--", "bench"]);
    ours.args(&options.arguments).run()?;
    if !options.no_peers {
        let c = loops_in_c(project)?;
        let peers = project.cargo("run").args(["--release", "--manifest-path", "benches/peers/Cargo.toml", "--"]);
        peers.arg("--c").arg(c).run()?;
    }
    Ok(())
}

/// Loops in C that call libvmclock as installed, as a library of their own.
fn loops_in_c(project: &Project) -> Result<PathBuf> {
    let folder = project.target("c-bench");
    let prefix = folder.join("usr");
    std::fs::create_dir_all(&prefix).with_context(|| format!("cannot make the folder {}", prefix.display()))?;
    c_library::install(project, &c_library::Options::at(prefix.clone()))?;
    let (library, lib) = (folder.join("rounds.so"), prefix.join("lib"));
    let compile = project.command(compiler("CC", "cc")).args(["-std=c99", "-O2", "-shared", "-fPIC", "-o"]);
    let compile = compile.arg(&library).arg(project.path("benches/peers/c/rounds.c"));
    let compile = compile.arg("-I").arg(prefix.join("include")).arg("-L").arg(&lib);
    compile.arg("-lvmclock").arg(format!("-Wl,-rpath,{}", lib.display())).run()?;
    Ok(library)
}
