// SPDX-License-Identifier: MIT OR Apache-2.0
//! The folder for what is downloaded. It is outside the clone, so that every clone of a machine shares it, and
//! `cargo clean` does not cost a download.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{bail, Context, Result};

/// How the names of temporary folders begin.
const SCRATCH: &str = "scratch-";

/// How long what was downloaded counts as new, and the longest that a download can take.
pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a folder is kept that nobody uses.
const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The folder for what is downloaded.
pub(crate) struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// `$VMCLOCK_CACHE`, else `vmclock` in `$XDG_CACHE_HOME`, else `vmclock` in `~/.cache`.
    pub(crate) fn open() -> Result<Self> {
        let folder = folder_from(|name| env::var_os(name))?;
        fs::create_dir_all(&folder).with_context(|| {
            format!("cannot make the cache folder {}: set VMCLOCK_CACHE to another", folder.display())
        })?;
        Ok(Self { folder })
    }

    /// The path of something in the cache.
    pub(crate) fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.folder.join(relative)
    }

    /// A new empty folder in the cache, which goes away with the value that it is given in.
    pub(crate) fn scratch(&self) -> Result<Scratch> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        self.sweep();
        let name = format!("{SCRATCH}{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = self.path(name);
        // A killed process of the same number may have left one.
        remove_folder(&folder)?;
        fs::create_dir(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        Ok(Scratch { folder })
    }

    /// Removes the folders in one of the cache's own that nobody has [used](mark_used) for a week, but for one that was
    /// just made. What cannot be removed costs space, not correctness.
    pub(crate) fn forget_unused(&self, within: &str, new: &Path) {
        let entries = fs::read_dir(self.path(within)).into_iter().flatten().flatten();
        let folders = entries.map(|entry| entry.path()).filter(|path| path.is_dir() && path != new);
        for folder in folders.filter(|folder| !is_younger(folder, WEEK)) {
            let _ = fs::remove_dir_all(folder);
        }
    }

    /// Removes what killed processes have left. What cannot be removed costs space, not correctness.
    fn sweep(&self) {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let left = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(SCRATCH));
        for folder in left.map(|entry| entry.path()).filter(|folder| !is_younger(folder, DAY)) {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// A folder that goes away with this value.
pub(crate) struct Scratch {
    folder: PathBuf,
}

impl Scratch {
    pub(crate) fn path(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays behind is swept up a day later.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Notes that a folder of the cache is used, so that it is kept. A cache that is not ours to write needs no note.
pub(crate) fn mark_used(folder: &Path) {
    let _ = File::open(folder).and_then(|folder| folder.set_modified(SystemTime::now()));
}

/// Removes a folder where there is one.
pub(crate) fn remove_folder(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove the folder {}", folder.display()))?;
    }
    Ok(())
}

/// Writes a file so that nobody ever sees half of it.
pub(crate) fn write_whole(path: &Path, text: &str) -> Result<()> {
    write_with_mode(path, text, 0o644)
}

/// The same for a script, which can be run as soon as it can be seen.
pub(crate) fn write_script(path: &Path, text: &str) -> Result<()> {
    write_with_mode(path, text, 0o755)
}

fn write_with_mode(path: &Path, text: &str, mode: u32) -> Result<()> {
    let part = path.with_extension(format!("part-{}", process::id()));
    fs::write(&part, text)
        .and_then(|()| fs::set_permissions(&part, fs::Permissions::from_mode(mode)))
        .and_then(|()| fs::rename(&part, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Whether the file exists and was written within the last `age`.
pub(crate) fn is_younger(path: &Path, age: Duration) -> bool {
    let written = fs::metadata(path).and_then(|metadata| metadata.modified());
    // A file from the future says that the clock was set back: nothing is known of its age then.
    written.is_ok_and(|written| SystemTime::now().duration_since(written).is_ok_and(|passed| passed < age))
}

fn folder_from(variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf> {
    let set = |name| variable(name).map(PathBuf::from).filter(|path| !path.as_os_str().is_empty());
    let folder = if let Some(folder) = set("VMCLOCK_CACHE") {
        folder
    } else if let Some(caches) = set("XDG_CACHE_HOME").filter(|path| path.is_absolute()) {
        // The XDG specification tells programs to ignore a relative path here.
        caches.join("vmclock")
    } else if let Some(home) = set("HOME") {
        home.join(".cache/vmclock")
    } else {
        bail!("there is no place for downloads, as HOME is not set: set VMCLOCK_CACHE to a folder");
    };
    if !folder.is_absolute() {
        bail!("the cache folder {} is not an absolute path: set VMCLOCK_CACHE to one", folder.display());
    }
    // apt's configuration knows no escape for a quote, and ld.so's none for the colon between folders.
    if folder.to_str().is_none_or(|path| path.contains(['"', '\'', ':', '\n'])) {
        bail!(
            "the cache folder {} has a quote, a colon or a line break in its name, or is not UTF-8: \
             set VMCLOCK_CACHE to another",
            folder.display()
        );
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(variables: &[(&str, &str)]) -> Result<PathBuf> {
        folder_from(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn the_most_specific_variable_wins() {
        let all = [("VMCLOCK_CACHE", "/a"), ("XDG_CACHE_HOME", "/b"), ("HOME", "/c")];
        assert_eq!(folder(&all).unwrap(), Path::new("/a"));
        assert_eq!(folder(&all[1..]).unwrap(), Path::new("/b/vmclock"));
        assert_eq!(folder(&all[2..]).unwrap(), Path::new("/c/.cache/vmclock"));
        assert_eq!(folder(&[("VMCLOCK_CACHE", ""), ("HOME", "/c")]).unwrap(), Path::new("/c/.cache/vmclock"));
    }

    #[test]
    fn a_folder_that_cannot_serve_is_refused_with_the_variable_to_set() {
        for variables in [&[][..], &[("VMCLOCK_CACHE", "relative")], &[("VMCLOCK_CACHE", "/with:colon")]] {
            let error = folder(variables).unwrap_err().to_string();
            assert!(error.contains("set VMCLOCK_CACHE"), "{error}");
        }
    }

    #[test]
    fn a_folder_is_kept_for_as_long_as_it_is_used() {
        let cache = Cache { folder: env::temp_dir().join(format!("vmclock-cache-{}", process::id())) };
        let [used, unused, new] = ["used", "unused", "new"].map(|name| cache.path("trees").join(name));
        for folder in [&used, &unused, &new] {
            fs::create_dir_all(folder).unwrap();
            File::open(folder).unwrap().set_modified(SystemTime::now() - 2 * WEEK).unwrap();
        }
        mark_used(&used);
        cache.forget_unused("trees", &new);
        assert_eq!([&used, &unused, &new].map(|folder| folder.is_dir()), [true, false, true]);
        remove_folder(&cache.folder).unwrap();
    }

    #[test]
    fn a_missing_file_is_not_young() {
        assert!(!is_younger(Path::new("/no/such/file"), Duration::MAX));
    }
}
