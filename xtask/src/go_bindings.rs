// SPDX-License-Identifier: MIT OR Apache-2.0
//! The step `go` of `cargo xtask test`: the bindings for Go, with the `go` of this machine and nothing else.

use std::fs;

use anyhow::{bail, Context, Result};

use crate::project::{is_ci, Project};
use crate::shell::Cmd;
use crate::steps::Done;

const FOLDER: &str = "bindings/go";

/// Its part of `benches/peers`.
const PEERS: &str = "benches/peers/go";

/// The CPUs with assembly of their own, which `go vet` checks.
const WITH_ASSEMBLY: [&str; 2] = ["amd64", "arm64"];

/// What it must compile for as well: a big-endian CPU, and a system that is not Linux.
const OTHERS: [(&str, &str); 2] = [("linux", "s390x"), ("windows", "amd64")];

/// How many inputs the fuzzer tries: a number, not a time, so that a busy machine tries as many.
const INPUTS: &str = "20000x";

/// Format, `go vet`, tests (also with the race detector, and against the command), a bounded run of the fuzzer.
pub(crate) fn step(project: &Project) -> Result<Done> {
    if let Err(error) = Cmd::new("go").arg("version").read() {
        if is_ci() {
            return Err(error.context("this must not be skipped where CI=true"));
        }
        return Ok(Done::Skipped(format!("{error:#}; Debian's package is golang-go")));
    }
    let unformatted = project.command("gofmt").args(["-l", FOLDER, PEERS]).read()?;
    if !unformatted.is_empty() {
        bail!("gofmt would change\n{unformatted}run `gofmt -w {FOLDER} {PEERS}`");
    }
    go(project, "vet")?.current_dir(&project.path(PEERS)).arg("./...").run()?;
    for cpu in WITH_ASSEMBLY {
        go(project, "vet")?.env("GOARCH", cpu).arg("./...").run()?;
    }
    for (system, cpu) in OTHERS {
        go(project, "build")?.env("GOOS", system).env("GOARCH", cpu).arg("./...").run()?;
    }
    project.cargo("build").args(["--quiet", "--package", "vmclock-cli"]).run()?;
    test(project)?.arg("./...").run()?;
    // Its runtime is C.
    test(project)?.env("CGO_ENABLED", "1").args(["-race", "./..."]).run()?;
    test(project)?.args(["-run", "^$", "-fuzz", "FuzzPage", "-fuzztime", INPUTS, "."]).run()?;
    Ok(Done::Passed)
}

/// The command that `benches/peers` measures.
pub(crate) fn peer(project: &Project) -> Result<String> {
    let program = project.target("go/peers");
    let build = go(project, "build")?.current_dir(&project.path(PEERS));
    build.arg("-o").arg(&program).arg(".").run()?;
    Ok(program.display().to_string())
}

fn test(project: &Project) -> Result<Cmd> {
    Ok(go(project, "test")?.env("VMCLOCK_COMMAND", project.target("debug/vmclock")).arg("-count=1"))
}

/// A `go` that takes nothing from the network, and nothing from this user's settings.
fn go(project: &Project, verb: &str) -> Result<Cmd> {
    let cache = project.target("go");
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let go = Cmd::new("go").current_dir(&project.path(FOLDER)).env("GOCACHE", cache);
    Ok(go.env("GOPROXY", "off").env("GOTOOLCHAIN", "local").env("GOENV", "off").env("GOWORK", "off").arg(verb))
}
