// SPDX-License-Identifier: MIT OR Apache-2.0
//! The step `python` of `cargo xtask test`: the wheel is built, installed in a fresh environment, and tested there.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};

use crate::project::{is_ci, Project};
use crate::shell::{say, Cmd};
use crate::steps::Done;

const FOLDER: &str = "crates/vmclock-python";
const REQUIREMENTS: &str = "requirements-test.txt";

/// Lints, the wheel, pytest in an environment that has nothing else, mypy on package and tests, stubs against the
/// module.
pub(crate) fn step(project: &Project) -> Result<Done> {
    let tools = match Tools::of(project) {
        Ok(tools) => tools,
        Err(error) if is_ci() => return Err(error.context("this must not be skipped where CI=true")),
        Err(error) => return Ok(Done::Skipped(format!("{error:#}"))),
    };
    let target = project.target("python");
    let manifest = project.path(FOLDER).join("Cargo.toml");
    let lint = project.cargo("clippy").arg("--manifest-path").arg(&manifest);
    lint.arg("--target-dir").arg(&target).args(["--", "-Dwarnings"]).run()?;

    let wheel = tools.wheel(&manifest, &target, "wheels", "dev")?;
    let python = install(&wheel, &tools, &target.join("installed"))?;
    project.cargo("build").args(["--quiet", "--package", "vmclock-cli"]).run()?;
    let run = || {
        let run = Cmd::new(&python).current_dir(&project.path(FOLDER)).arg("-B");
        // The tools are not in the environment of the wheel.
        run.env("PYTHONPATH", &tools.packages).env("VMCLOCK_COMMAND", project.target("debug/vmclock"))
    };
    run().args(["-m", "pytest"]).env("HYPOTHESIS_STORAGE_DIRECTORY", target.join("hypothesis")).run()?;
    let mypy = || run().args(["-m", "mypy", "--strict", "--cache-dir"]).arg(target.join("mypy"));
    mypy().args(["--package", "vmclock"]).run()?;
    mypy().arg("tests").env("MYPYPATH", "tests").run()?;
    run().args(["-m", "mypy.stubtest", "vmclock"]).run()?;
    Ok(Done::Passed)
}

/// The command that `benches/peers` measures.
pub(crate) fn peer(project: &Project) -> Result<String> {
    let tools = Tools::of(project)?;
    let target = project.target("python");
    let wheel = tools.wheel(&project.path(FOLDER).join("Cargo.toml"), &target, "release-wheels", "release")?;
    let python = install(&wheel, &tools, &target.join("released"))?;
    Ok(format!("{} {}", python.display(), project.path("benches/peers/python/rounds.py").display()))
}

/// An environment with what builds and tests the wheel. It is kept for the next run.
struct Tools {
    python: PathBuf,
    packages: String,
}

impl Tools {
    fn of(project: &Project) -> Result<Self> {
        let folder = project.target("python/tools");
        let python = folder.join("bin/python");
        let requirements = project.path(FOLDER).join(REQUIREMENTS);
        let wanted = fs::read_to_string(&requirements).context("cannot read what the tools are")?;
        let installed = folder.join(REQUIREMENTS);
        if fs::read_to_string(&installed).unwrap_or_default() != wanted {
            say(&format!("installing what {REQUIREMENTS} names"));
            let venv = Cmd::new("python3").args(["-m", "venv", "--clear"]).arg(&folder);
            venv.read_all().context("cannot make an environment; Debian's packages are python3 and python3-venv")?;
            let pip = Cmd::new(&python).args(["-m", "pip", "install", "--quiet", "--requirement"]).arg(&requirements);
            pip.read_all()?;
            // Only now is it complete.
            fs::write(&installed, wanted).with_context(|| format!("cannot write {}", installed.display()))?;
        }
        let packages = packages_of(&python)?;
        Ok(Self { python, packages })
    }

    /// Builds the wheel with a profile of cargo's, alone in its folder.
    fn wheel(&self, manifest: &Path, target: &Path, folder: &str, profile: &str) -> Result<PathBuf> {
        let folder = target.join(folder);
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        let maturin = Cmd::new(&self.python).args(["-m", "maturin", "build", "--quiet"]);
        let maturin =
            maturin.args(["--profile", profile]).arg("--manifest-path").arg(manifest).arg("--target-dir").arg(target);
        maturin.arg("--interpreter").arg(&self.python).arg("--out").arg(&folder).run()?;
        let wheels = fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        let mut wheels = wheels.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        match (wheels.next(), wheels.next()) {
            (Some(wheel), None) if wheel.to_string_lossy().contains("-abi3-") => Ok(wheel),
            found => bail!("{}: not one wheel for all Pythons (abi3): {found:?}", folder.display()),
        }
    }
}

/// Installs a wheel, and nothing else, in a fresh environment. Returns its Python.
fn install(wheel: &Path, tools: &Tools, folder: &Path) -> Result<PathBuf> {
    Cmd::new(&tools.python).args(["-m", "venv", "--clear", "--without-pip"]).arg(folder).run()?;
    let python = folder.join("bin/python");
    let pip = Cmd::new(&tools.python).args(["-m", "pip", "--python"]).arg(&python);
    pip.args(["install", "--quiet", "--no-index"]).arg(wheel).run()?;
    Ok(python)
}

/// Where a Python has its packages.
fn packages_of(python: &Path) -> Result<String> {
    let path = Cmd::new(python).args(["-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).read()?;
    Ok(path.trim_end().to_owned())
}
