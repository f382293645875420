// SPDX-License-Identifier: MIT OR Apache-2.0
//! Freezes the workload, and thaws it: the freezer of cgroup v2 (Linux 5.2).
//!
//! A frozen process does not run at all, whatever it waits for; it can be killed.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Component, Path, PathBuf};

use rustix::io::{pread, retry_on_intr, Errno};

/// Where names of cgroups begin.
const ROOT: &str = "/sys/fs/cgroup";

/// Why a cgroup cannot be frozen or thawed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// It was removed, and with it its processes: there is nothing left to freeze or to thaw.
    #[error("{}: the cgroup is no longer there", .0.display())]
    Vanished(PathBuf),
    /// It was never there.
    #[error("{}: there is no such cgroup; `systemd-cgls` shows what there is, once its service runs", .0.display())]
    Missing(PathBuf),
    /// The path leads out of the cgroups.
    #[error("{}: is no name of a cgroup: write it like system.slice/app.service, or as an absolute path", .0.display())]
    NotAName(PathBuf),
    /// The root cgroup, a cgroup of version 1, or something else.
    #[error("{}: has no cgroup.freeze: name a cgroup of version 2 below the root (Linux 5.2 or later)", .0.display())]
    NoFreezer(PathBuf),
    /// Freezing it would freeze whoever has to thaw it.
    #[error("{}: this process is in it ({}): freeze cgroups that it is not in", path.display(), own.display())]
    HoldsUs {
        /// The cgroup that was named.
        path: PathBuf,
        /// This process's.
        own: PathBuf,
    },
    /// The system refuses it.
    #[error("{}: cannot be {action}: {error}", path.display())]
    Io {
        /// The cgroup's file.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// Why it failed.
        error: io::Error,
    },
}

/// The cgroups that hold the workload.
///
/// Dropping it thaws nothing.
///
/// ```no_run
/// use vmclock_agent::cgroup::Freezer;
/// let mut freezer = Freezer::new(&["system.slice/app.service".into()])?;
/// for problem in freezer.freeze() {
///     eprintln!("{problem}");
/// }
/// // Each of `freezer.changes()` can be polled; until then:
/// assert!(freezer.is_frozen()?);
/// assert!(freezer.thaw().is_empty());
/// # Ok::<(), vmclock_agent::cgroup::CgroupError>(())
/// ```
#[derive(Debug)]
pub struct Freezer {
    cgroups: Vec<Cgroup>,
}

#[derive(Debug)]
struct Cgroup {
    path: PathBuf,
    /// Its `cgroup.events`, since it was first seen.
    events: Option<File>,
    /// It was removed since.
    is_gone: Cell<bool>,
}

impl Freezer {
    /// The freezer of these cgroups: absolute paths, or names below `/sys/fs/cgroup`. One that is not there yet, as its
    /// service may not have started, is looked for again by [`Freezer::freeze`].
    ///
    /// # Errors
    ///
    /// The first of them that is no cgroup of version 2, or that this process is in.
    pub fn new(paths: &[PathBuf]) -> Result<Self, CgroupError> {
        let cgroups = paths.iter().map(|path| Cgroup::new(path)).collect::<Result<_, _>>()?;
        Ok(Self { cgroups })
    }

    /// Asks for all of them to be frozen, with all that is in them and will be. That takes a moment: see
    /// [`Freezer::is_frozen`].
    ///
    /// Returns what failed; the others are frozen nevertheless. One that was removed and made again since is taken
    /// anew, as a restart of its service does.
    pub fn freeze(&mut self) -> Vec<CgroupError> {
        self.set(true)
    }

    /// Asks for all of them to be thawed; it is not an error if they are. A cgroup stays frozen if one above it was
    /// frozen by others.
    ///
    /// Returns what failed; the others are thawed nevertheless.
    pub fn thaw(&mut self) -> Vec<CgroupError> {
        self.set(false)
    }

    fn set(&mut self, frozen: bool) -> Vec<CgroupError> {
        let set = |cgroup: &mut Cgroup| cgroup.refresh().and_then(|()| cgroup.set(frozen));
        self.cgroups.iter_mut().filter_map(|cgroup| set(cgroup).err()).collect()
    }

    /// Whether all processes in all of them are frozen. A cgroup that is not there has none that could run.
    pub fn is_frozen(&self) -> Result<bool, CgroupError> {
        for cgroup in &self.cgroups {
            match cgroup.is_frozen() {
                Ok(true) | Err(CgroupError::Missing(_) | CgroupError::Vanished(_)) => {}
                other => return other,
            }
        }
        Ok(true)
    }

    /// Whether there is one among them that is frozen, as an agent may find it that was killed before.
    pub fn has_frozen(&self) -> bool {
        self.cgroups.iter().any(|cgroup| matches!(cgroup.is_frozen(), Ok(true)))
    }

    /// To be polled with `POLLPRI`: when one of them has it, [`Freezer::is_frozen`] may have changed, and calling that
    /// clears it. To be asked for anew after each of the other functions, as cgroups come and go.
    pub fn changes(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let there = self.cgroups.iter().filter(|cgroup| !cgroup.is_gone.get());
        there.filter_map(|cgroup| cgroup.events.as_ref().map(AsFd::as_fd))
    }

    /// Where the cgroups are.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.cgroups.iter().map(|cgroup| cgroup.path.as_path())
    }
}

impl Cgroup {
    fn new(name: &Path) -> Result<Self, CgroupError> {
        let is_name = name.is_absolute() || name.components().all(|part| matches!(part, Component::Normal(_)));
        if !is_name || name.as_os_str().is_empty() {
            return Err(CgroupError::NotAName(name.to_owned()));
        }
        let mut cgroup = Self { path: Path::new(ROOT).join(name), events: None, is_gone: Cell::new(false) };
        match cgroup.refresh() {
            Ok(()) | Err(CgroupError::Missing(_)) => Ok(cgroup),
            Err(error) => Err(error),
        }
    }

    /// Opens it, if it was not there before, or was removed since.
    fn refresh(&mut self) -> Result<(), CgroupError> {
        match self.is_frozen() {
            Err(CgroupError::Missing(_) | CgroupError::Vanished(_)) => {
                let own = fs::read_to_string("/proc/self/cgroup").ok();
                self.open(own.as_deref().and_then(own_cgroup))
            }
            result => result.map(drop),
        }
    }

    /// Opens it, if it is a cgroup that can be frozen. `own` is this process's, relative to the root.
    fn open(&mut self, own: Option<&Path>) -> Result<(), CgroupError> {
        let path = match self.path.canonicalize() {
            Ok(path) => path,
            Err(error) => return Err(self.failed(&self.path, "found", error)),
        };
        let events = File::open(path.join("cgroup.events"));
        if !path.join("cgroup.freeze").exists() {
            return Err(CgroupError::NoFreezer(path));
        }
        let events = events.map_err(|error| self.failed(&path.join("cgroup.events"), "read", error))?;
        if let Some(own) = own.map(|own| root_of(&path).join(own)).filter(|own| own.starts_with(&path)) {
            return Err(CgroupError::HoldsUs { path, own });
        }
        *self = Self { path, events: Some(events), is_gone: Cell::new(false) };
        // Whether it can be read for what it is.
        self.is_frozen().map(drop)
    }

    fn set(&self, frozen: bool) -> Result<(), CgroupError> {
        let (digit, action) = if frozen { (b"1", "frozen") } else { (b"0", "thawed") };
        let path = self.path.join("cgroup.freeze");
        let written = File::options().write(true).open(&path).and_then(|mut file| file.write_all(digit));
        written.map_err(|error| self.failed(&path, action, error))
    }

    fn is_frozen(&self) -> Result<bool, CgroupError> {
        let Some(events) = &self.events else { return Err(CgroupError::Missing(self.path.clone())) };
        let mut text = [0; 1024];
        let length = retry_on_intr(|| pread(events, &mut text, 0));
        let length = length.map_err(|errno| self.failed(&self.path.join("cgroup.events"), "read", errno.into()))?;
        let text = String::from_utf8_lossy(&text[..length]);
        match text.lines().find_map(|line| line.strip_prefix("frozen ")) {
            Some("0") => Ok(false),
            Some("1") => Ok(true),
            _ => Err(CgroupError::NoFreezer(self.path.clone())),
        }
    }

    fn failed(&self, file: &Path, action: &'static str, error: io::Error) -> CgroupError {
        // What the files of a removed cgroup say: those that are opened, and those that were open.
        let is_gone =
            [Errno::NOENT, Errno::NODEV].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()));
        match (is_gone, &self.events) {
            (true, None) => CgroupError::Missing(self.path.clone()),
            (true, Some(_)) => {
                self.is_gone.set(true);
                CgroupError::Vanished(self.path.clone())
            }
            (false, _) => CgroupError::Io { path: file.to_owned(), action, error },
        }
    }
}

/// This process's cgroup of version 2 in `/proc/self/cgroup`, relative to the root.
fn own_cgroup(text: &str) -> Option<&Path> {
    text.lines().find_map(|line| line.strip_prefix("0::/")).map(Path::new)
}

/// The root that a cgroup is below: the highest folder that is a cgroup.
fn root_of(cgroup: &Path) -> &Path {
    cgroup.ancestors().take_while(|path| path.join("cgroup.controllers").exists()).last().unwrap_or(cgroup)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that looks like a cgroup.
    fn fake(events: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let cgroup = folder.path().join("slice/app");
        fs::create_dir_all(&cgroup).unwrap();
        for path in [folder.path().to_owned(), folder.path().join("slice"), cgroup.clone()] {
            fs::write(path.join("cgroup.controllers"), "").unwrap();
        }
        fs::write(cgroup.join("cgroup.events"), events).unwrap();
        fs::write(cgroup.join("cgroup.freeze"), "0\n").unwrap();
        folder
    }

    #[test]
    fn what_is_written_and_read() {
        let root = fake("populated 1\nfrozen 0\n");
        let path = root.path().join("slice/app");
        let mut freezer = Freezer::new(std::slice::from_ref(&path)).unwrap();
        assert!(!freezer.is_frozen().unwrap());
        assert!(freezer.freeze().is_empty());
        assert_eq!(fs::read(path.join("cgroup.freeze")).unwrap()[0], b'1');
        fs::write(path.join("cgroup.events"), "populated 1\nfrozen 1\n").unwrap();
        assert!(freezer.is_frozen().unwrap());
        assert!(freezer.thaw().is_empty());
        assert_eq!(fs::read(path.join("cgroup.freeze")).unwrap()[0], b'0');
    }

    #[test]
    fn what_cannot_be_frozen() {
        let root = fake("populated 1\n");
        let error = |path: PathBuf| Freezer::new(&[path]).unwrap_err();
        assert!(matches!(error(root.path().join("slice/app")), CgroupError::NoFreezer(_)), "no line of it");
        assert!(matches!(error(root.path().join("slice")), CgroupError::NoFreezer(_)), "no file of it");
        assert!(matches!(error("a.slice/../../../tmp".into()), CgroupError::NotAName(_)));
        assert!(matches!(error(PathBuf::new()), CgroupError::NotAName(_)));
    }

    #[test]
    fn a_cgroup_may_come_later() {
        let root = fake("populated 1\nfrozen 0\n");
        let (path, elsewhere) = (root.path().join("slice/app"), root.path().join("slice/elsewhere"));
        fs::rename(&path, &elsewhere).unwrap();
        let mut freezer = Freezer::new(std::slice::from_ref(&path)).unwrap();
        assert!(freezer.is_frozen().unwrap(), "what is not there does not run");
        assert!(matches!(&freezer.freeze()[..], [CgroupError::Missing(_)]));
        assert_eq!(freezer.changes().count(), 0);
        fs::rename(&elsewhere, &path).unwrap();
        assert!(freezer.freeze().is_empty() && !freezer.is_frozen().unwrap());
        assert_eq!(freezer.changes().count(), 1);
        assert_eq!(fs::read(path.join("cgroup.freeze")).unwrap()[0], b'1');
        fs::remove_file(path.join("cgroup.freeze")).unwrap();
        assert_eq!(freezer.thaw().len(), 1);
    }

    #[test]
    fn nobody_freezes_themselves() {
        let root = fake("populated 1\nfrozen 0\n");
        let path = root.path().canonicalize().unwrap().join("slice/app");
        let open = |own| Cgroup { path: path.clone(), events: None, is_gone: Cell::new(false) }.open(own_cgroup(own));
        for own in ["0::/slice/app\n", "5:devices:/x\n0::/slice/app/below\n"] {
            let error = open(own).unwrap_err();
            assert!(matches!(error, CgroupError::HoldsUs { .. }), "{own:?}: {error}");
        }
        for others in ["0::/", "0::/slice", "0::/slice/app2", "0::/other/slice/app", "5:devices:/slice/app"] {
            assert!(open(others).is_ok(), "{others:?}");
        }
    }
}
