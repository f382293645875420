// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's first file system: an uncompressed cpio archive of the "newc" kind (Linux's
//! Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const DEVICE: u32 = 0o020_600;

/// What a guest may or may not need: a driver, where the kernel has none built in; one more; the `vmclock` command;
/// a program in C; the guest agent.
pub(crate) struct Files<'a> {
    pub(crate) driver: Option<&'a Path>,
    pub(crate) other: Option<&'a Path>,
    pub(crate) vmclock: Option<&'a Path>,
    pub(crate) c_program: Option<&'a Path>,
    pub(crate) agent: Option<&'a Path>,
    /// Others, with their names.
    pub(crate) more: &'a [(String, PathBuf)],
}

/// Writes an archive with our init and these files.
pub(crate) fn write(archive: &Path, init: &Path, files: &Files) -> Result<()> {
    let mut cpio = Cpio::default();
    for folder in ["dev", "proc", "sys", "tmp", "daemon", "lib64"] {
        cpio.add(folder, FOLDER, (0, 0), &[])?;
    }
    // Without it the kernel gives its first process no output.
    cpio.add("dev/console", DEVICE, (5, 1), &[])?;
    let named = [
        ("init", Some(init)),
        ("ptp_vmclock.ko.xz", files.driver),
        ("vmclock", files.vmclock),
        ("c-program", files.c_program),
        ("vmclock-agent", files.agent),
        ("ptp_vmclock_rust.ko.xz", files.other),
    ];
    let more = files.more.iter().map(|(name, path)| (name.as_str(), Some(path.as_path())));
    for (name, path) in named.into_iter().chain(more).filter_map(|(name, path)| Some((name, path?))) {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        cpio.add(name, PROGRAM, (0, 0), &bytes)?;
    }
    cpio.add("TRAILER!!!", 0, (0, 0), &[])?;
    fs::write(archive, cpio.bytes).with_context(|| format!("cannot write {}", archive.display()))
}

/// Writes an archive with our init and whatever files under whatever names.
pub(crate) fn write_any(archive: &Path, init: &Path, files: &[(String, PathBuf)]) -> Result<()> {
    let mut cpio = Cpio::default();
    let mut folders = BTreeSet::from(["dev", "proc", "sys", "tmp"].map(str::to_owned));
    for (name, _) in files {
        let ancestors = Path::new(name).ancestors().skip(1).filter_map(Path::to_str);
        folders.extend(ancestors.filter(|folder| !folder.is_empty()).map(str::to_owned));
    }
    // Sorted: each after those that it is in.
    for folder in &folders {
        cpio.add(folder, FOLDER, (0, 0), &[])?;
    }
    cpio.add("dev/console", DEVICE, (5, 1), &[])?;
    let own = [("init".to_owned(), init.to_owned())];
    for (name, path) in own.iter().chain(files) {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        cpio.add(name, PROGRAM, (0, 0), &bytes)?;
    }
    cpio.add("TRAILER!!!", 0, (0, 0), &[])?;
    fs::write(archive, cpio.bytes).with_context(|| format!("cannot write {}", archive.display()))
}

#[derive(Default)]
struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
}

impl Cpio {
    fn add(&mut self, name: &str, mode: u32, (major, minor): (u32, u32), contents: &[u8]) -> Result<()> {
        self.entries += 1;
        let len = u32::try_from(contents.len()).with_context(|| format!("{name} is too large for an initramfs"))?;
        let name_len = u32::try_from(name.len() + 1)?;
        // Inode, mode, user, group, links, time, length, device (2), device that this is (2), name's length, checksum.
        let header = [self.entries, mode, 0, 0, 1, 0, len, 0, 0, major, minor, name_len, 0];
        self.bytes.extend(b"070701");
        for field in header {
            self.bytes.extend(format!("{field:08x}").into_bytes());
        }
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(contents);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_begins_at_a_multiple_of_four() {
        let mut cpio = Cpio::default();
        cpio.add("init", PROGRAM, (0, 0), b"12345").unwrap();
        // 110 bytes of header and 5 of name, padded; then 5 of contents, padded.
        assert_eq!(cpio.bytes.len(), 116 + 8);
        assert!(cpio.bytes.starts_with(b"07070100000001000081ed"));
        assert_eq!(&cpio.bytes[116..], b"12345\0\0\0");
    }
}
