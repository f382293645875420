// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine that is examined: its files, under a root that tests put elsewhere, and what cannot be a file there.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fd::AsFd;
use rustix::time::{clock_gettime_dynamic, DynamicClockId};

/// More than any file that is read here: a kernel's configuration has some 300 kB, a module list up to 1 MB.
const MAX_LEN: u64 = 16 << 20;

/// A machine to examine.
#[derive(Debug)]
pub struct Machine {
    root: PathBuf,
    /// The kernel offers a device node only for a region of at least a page.
    pub(crate) page_size: u64,
    /// Reads a PTP clock: nanoseconds since 1970 on the scale that is to be found out.
    pub(crate) ptp_nanos: fn(&File) -> io::Result<i128>,
}

impl Machine {
    /// The machine that we run on.
    pub fn this() -> Self {
        let page_size = rustix::param::page_size() as u64;
        Self { root: PathBuf::from("/"), page_size, ptp_nanos }
    }

    #[cfg(test)]
    pub(crate) fn fake(root: &Path, ptp_nanos: fn(&File) -> io::Result<i128>) -> Self {
        Self { root: root.into(), page_size: 4096, ptp_nanos }
    }

    /// Where a file of the machine is for us. All paths below are absolute ones of the machine.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Whether this is where the driver puts its device nodes; all else is some publisher's.
    pub(crate) fn is_for_device_nodes(&self, path: &Path) -> bool {
        let named = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"vmclock"));
        named && path.parent() == Some(&self.path("/dev"))
    }

    pub(crate) fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// The whole of a file, as long as that is not absurdly much.
    pub(crate) fn bytes(&self, path: &str) -> io::Result<Vec<u8>> {
        read_all(File::open(self.path(path))?)
    }

    /// The text of a file, without the line break at its end; `None` where it is absent, unreadable or empty.
    pub(crate) fn text(&self, path: &str) -> Option<String> {
        text_of(&self.bytes(path).ok()?)
    }

    /// The text of a file compressed by gzip.
    pub(crate) fn gzipped_text(&self, path: &str) -> Option<String> {
        let file = File::open(self.path(path)).ok()?;
        text_of(&read_all(flate2::read::GzDecoder::new(file)).ok()?)
    }

    /// What is in a folder, sorted; nothing where there is no folder.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// The folders in a folder, without those that are links.
    pub(crate) fn folders(&self, folder: &str) -> Vec<String> {
        let is_folder = |name: &String| {
            fs::symlink_metadata(self.path(&format!("{folder}/{name}"))).is_ok_and(|file| file.is_dir())
        };
        self.names(folder).into_iter().filter(is_folder).collect()
    }

    /// The last part of what a link leads to.
    pub(crate) fn link_name(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.path(path)).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }

    /// Whether two paths lead to the same file.
    pub(crate) fn same_file(&self, one: &str, other: &str) -> bool {
        match (fs::canonicalize(self.path(one)), fs::canonicalize(self.path(other))) {
            (Ok(one), Ok(other)) => one == other,
            _ => one == other,
        }
    }
}

fn read_all(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(MAX_LEN).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Strings of the device tree end in a zero byte.
fn text_of(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_matches(|c: char| c == '\0' || c.is_whitespace());
    (!text.is_empty()).then(|| text.to_owned())
}

fn ptp_nanos(clock: &File) -> io::Result<i128> {
    let now = clock_gettime_dynamic(DynamicClockId::Dynamic(clock.as_fd()))?;
    Ok(i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec))
}
