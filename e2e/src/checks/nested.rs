// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cross timestamps in a guest of KVM, whose system clock may be KVM's own. The machines that tests run on offer no KVM
//! to stock kernels, so QEMU emulates a CPU with AMD's virtualization, in which a stock kernel has a real KVM.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use serde_json::Value;
use vmclock_e2e_guest::{INNER_IMAGE, INNER_INITRAMFS, MEASURE, MEASURED, MODULES};

use crate::initramfs::{self, Files};
use crate::machine::Kernel;
use crate::patience::until;
use crate::Lab;

const SAMPLES: usize = 1000;
/// How long all of it may take: two minutes on an idle machine.
const PATIENCE: Duration = Duration::from_secs(30 * 60);
const QEMU: &str = "usr/bin/qemu-system-x86_64";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
/// Where QEMU's binary looks for its loader, which is among the libraries.
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";
/// What QEMU needs of its firmware, wherever in these folders.
const FIRMWARE: [&str; 4] = ["bios-256k.bin", "kvmvapic.bin", "linuxboot_dma.bin", "linuxboot.bin"];
const FIRMWARE_FOLDERS: [&str; 2] = ["usr/share/seabios", "usr/share/qemu"];

/// One machine, switched off whatever happens.
struct Outer(Child);

impl Drop for Outer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) fn run(lab: &Lab, kernel: &Kernel, ours: &Path, root: &Path) -> Result<String> {
    let folder = lab.folder.join("nested");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let path = |name: &str| folder.join(name);
    let (driver, other) = (kernel.driver.as_deref(), Some(ours));
    let files = Files { driver, other, vmclock: None, c_program: None, agent: None, more: &[] };
    initramfs::write(&path("inner"), &lab.init, &files)?;
    // The CPU that KVM shows there says more of its registers than the kernel can save.
    let line = format!("console=ttyS0 loglevel=4 panic=-1 nokaslr noxsave {MEASURE}={SAMPLES}");
    fs::write(path("inner-line"), line)?;
    initramfs::write_any(&path("outer"), &lab.init, &outer_files(lab, kernel, root, &folder)?)?;

    let console = path("console");
    let line = format!("console=ttyS0 loglevel=4 panic=-1 nokaslr tsc_early_khz={} {MEASURE}=outer", lab.tsc_khz);
    let mut command = Command::new(&lab.qemu);
    command.args(["-accel", "tcg,thread=multi", "-machine", "q35", "-cpu", "max", "-smp", "1", "-m", "2G"]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial"]);
    command.arg(format!("file:{}", console.display())).arg("-kernel").arg(&kernel.image);
    command.arg("-initrd").arg(path("outer")).args(["-append", &line]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(path("errors"))?);
    let mut machine = Outer(command.spawn().context("cannot start QEMU")?);
    let text = || String::from_utf8_lossy(&fs::read(&console).unwrap_or_default()).into_owned();
    let ended = until("the machines have ended", PATIENCE, || Ok(machine.0.try_wait()?.is_some()));
    let text = text();
    ended.and_then(|()| judge(&text)).with_context(|| {
        let last: Vec<&str> = text.lines().rev().take(30).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        let errors = fs::read_to_string(path("errors")).unwrap_or_default();
        format!("the console:\n{}\n{errors}", last.join("\n"))
    })
}

/// What the inner machine measured, in a line.
fn judge(text: &str) -> Result<String> {
    let lines = text.lines().filter_map(|line| line.split_once(MEASURED)).map(|(_, rest)| rest.trim());
    let found: Vec<Value> = lines.filter_map(|line| serde_json::from_str(line).ok()).collect();
    ensure!(found.len() == 4, "{} of 4 measurements", found.len());
    let mut figures = Vec::new();
    for line in &found {
        let (driver, source, found) = (&line["driver"], &line["clocksource"], &line["found"]);
        if driver == "rust" {
            ensure!(found["samples"] == SAMPLES, "with {source} our driver failed: {}", found["errors"]);
            ensure!(found["apart"] == 0, "with {source} our driver was off by {} ns for certain", found["apart"]);
        }
        figures.push(format!(
            "{} with {}: {} of {SAMPLES}, median {} ns, 99% {} ns, for certain {} ns, cost {} ns{}",
            driver.as_str().unwrap_or_default(),
            source.as_str().unwrap_or_default(),
            found["samples"],
            found["median"],
            found["p99"],
            found["apart"],
            found["cost"],
            match found["errors"].as_array() {
                Some(errors) if !errors.is_empty() => format!(", errors {errors:?}"),
                _ => String::new(),
            }
        ));
    }
    Ok(figures.join("; "))
}

fn outer_files(lab: &Lab, kernel: &Kernel, root: &Path, folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let own = |name: &str| folder.join(name);
    let name = |path: &str| path.trim_start_matches('/').to_owned();
    let mut files = vec![
        ("vmclock".to_owned(), lab.vmclock.clone()),
        (name(INNER_IMAGE), kernel.image.clone()),
        (name(INNER_INITRAMFS), own("inner")),
        ("inner-line".to_owned(), own("inner-line")),
        (QEMU.to_owned(), root.join(QEMU)),
    ];
    let loader = root.join(LIBRARIES).join("ld-linux-x86-64.so.2");
    files.push((LOADER.to_owned(), loader.clone()));
    // The loader says which libraries there have to be.
    let output = Command::new(&loader)
        .arg("--library-path")
        .arg(root.join(LIBRARIES))
        .arg("--list")
        .arg(root.join(QEMU))
        .output();
    let output = output.with_context(|| format!("cannot start {}", loader.display()))?;
    ensure!(output.status.success(), "{}: {}", loader.display(), String::from_utf8_lossy(&output.stderr));
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if let Some((library, rest)) = line.trim().split_once(" => ") {
            let path = rest.split_once(" (").map_or(rest, |(path, _)| path);
            files.push((format!("{LIBRARIES}/{library}"), path.into()));
        }
    }
    for file in FIRMWARE {
        let places = FIRMWARE_FOLDERS.map(|folder| root.join(folder).join(file));
        if let Some(path) = places.into_iter().find(|path| path.exists()) {
            files.push((format!("firmware/{file}"), path));
        }
    }
    // Beside the driver that is among the kernel's modules.
    let driver = kernel.driver.as_deref().context("a kernel without a driver")?;
    let modules = driver.ancestors().nth(3).context("a driver outside of a kernel's modules")?;
    for module in MODULES {
        let folder = if module == "irqbypass" { "virt/lib" } else { "arch/x86/kvm" };
        files.push((format!("{module}.ko.xz"), modules.join(folder).join(format!("{module}.ko.xz"))));
    }
    Ok(files)
}
