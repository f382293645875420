// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a hook is, and where it comes from.
//!
//! A hook is an executable `NN-name` in a folder such as `/etc/vmclock/agent.d/`: NN is its order number, 00 to 99; its
//! name has ASCII letters, digits, `-` and `_`. Beside it may be `NN-name.toml`, with any of these keys:
//!
//! ```toml
//! events = ["restored"]   # for which events it runs; one or more of hook::EVENTS
//! timeout = "30s"         # for each attempt; ms, s, min or h, up to 24h
//! retries = 0             # how many more attempts there are after one that failed; up to 100
//! user = "postgres"       # a name or uid of /etc/passwd, or "uid:gid"; without it, the hook runner's own user
//! required = false        # whether what waits for the run (a held workload) needs it to succeed
//! ```
//!
//! Whoever can change a hook runs programs with the hook runner's rights. So the folder and all files in it have to
//! belong to root or to the user that loads them, and nobody else may write to them. Hidden files and `README` are
//! passed over.

mod account;
mod duration;
mod settings;

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::process::{getegid, geteuid};

pub use account::Account;
pub use settings::Settings;

/// The events that hooks can be for: some of [`vmclock_core::event::Event::name`], and the agent's own.
///
/// | event | when |
/// |---|---|
/// | `restored`, `disrupted` | after that, once the system clock is right, before the workload is thawed |
/// | `maintenance-soon`, `-imminent`, `-cleared` | a disruption is announced within a day, within an hour, or none |
/// | `quiesce` | before a snapshot, before the workload is frozen |
/// | `thawed` | the workload runs again |
pub const EVENTS: [&str; 7] =
    ["restored", "disrupted", "maintenance-soon", "maintenance-imminent", "maintenance-cleared", "quiesce", "thawed"];

/// An executable that is run for events.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hook {
    /// Its file's name without the order number.
    pub name: String,
    /// Hooks with the same number, 0 to 99, run in parallel; before those with a higher one.
    pub order: u8,
    /// The executable.
    pub path: PathBuf,
    /// How it is run, and for what.
    pub settings: Settings,
}

/// Why a file, or the folder, is no hook that can be run.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}{}: {problem}", path.display(), line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct HookError {
    /// The file or folder.
    pub path: PathBuf,
    /// The line in it, counted from 1, where it is about one.
    pub line: Option<usize>,
    /// What is wrong and what helps.
    pub problem: String,
    /// The hook's name; the file's where it is none of a hook.
    pub name: String,
    /// The hook's order number; 0 for what is no hook.
    pub order: u8,
    /// For which events the hook is; all of them where its settings cannot be read, none for a file that is no hook.
    pub events: Vec<&'static str>,
    /// Whether the hook is required; true where that cannot be known.
    pub required: bool,
}

/// The hooks of a folder, by order number and name; and what in it cannot be run. A folder that does not exist has none
/// of both.
///
/// ```
/// # use std::os::unix::fs::PermissionsExt;
/// # let folder = tempfile::tempdir()?;
/// let executable = folder.path().join("10-machine-id");
/// std::fs::write(&executable, "#!/bin/sh\n")?;
/// std::fs::set_permissions(&executable, std::fs::Permissions::from_mode(0o755))?;
/// std::fs::write(folder.path().join("10-machine-id.toml"), "timeout = \"5s\"\n")?;
///
/// let (hooks, errors) = vmclock_agent::hook::load(folder.path());
/// assert_eq!((hooks[0].order, hooks[0].name.as_str()), (10, "machine-id"));
/// assert_eq!(hooks[0].settings.timeout.as_secs(), 5);
/// assert!(errors.is_empty());
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn load(folder: &Path) -> (Vec<Hook>, Vec<HookError>) {
    let files = match files(folder) {
        Ok(files) => files,
        Err(problem) => return (Vec::new(), vec![HookError::about_folder(folder, problem)]),
    };
    let mut errors = Vec::new();
    let mut found = BTreeSet::new();
    for file in files {
        match order_and_name(file.strip_suffix(".toml").unwrap_or(&file)) {
            Some((order, name)) => {
                found.insert((order, name.to_owned()));
            }
            None => errors.push(HookError::about_stranger(folder, file)),
        }
    }
    let mut hooks = Vec::new();
    for (order, name) in found {
        match load_one(folder, order, name) {
            Ok(hook) => hooks.push(hook),
            Err(error) => errors.push(error),
        }
    }
    (hooks, errors)
}

impl HookError {
    /// Whether a hook that cannot be run was to be run for this event.
    pub fn concerns(&self, event: &str) -> bool {
        self.events.contains(&event)
    }

    fn about_folder(folder: &Path, problem: String) -> Self {
        let name = folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned();
        Self { path: folder.into(), line: None, problem, name, order: 0, events: EVENTS.to_vec(), required: true }
    }

    fn about_stranger(folder: &Path, file: String) -> Self {
        let problem = "is no hook's name: call it NN-name, with two digits, and a name of ASCII letters, digits, '-' \
                       and '_'; or remove it"
            .to_owned();
        let path = folder.join(&file);
        Self { path, line: None, problem, name: file, order: 0, events: Vec::new(), required: false }
    }
}

/// The names of the files in a folder that only root and we can write to, without those that are hidden.
fn files(folder: &Path) -> Result<Vec<String>, String> {
    let cannot = |error| format!("the hooks' folder cannot be read: {error}");
    match fs::metadata(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(cannot(error)),
        Ok(metadata) => trusted(&metadata)?,
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(cannot)? {
        let name = entry.map_err(cannot)?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && name != "README" {
            files.push(name);
        }
    }
    Ok(files)
}

/// `NN-name`.
fn order_and_name(file: &str) -> Option<(u8, &str)> {
    let (order, name) = file.split_once('-')?;
    let is_order = order.len() == 2 && order.bytes().all(|byte| byte.is_ascii_digit());
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if is_order && is_name {
        Some((order.parse().ok()?, name))
    } else {
        None
    }
}

fn load_one(folder: &Path, order: u8, name: String) -> Result<Hook, HookError> {
    let path = folder.join(format!("{order:02}-{name}"));
    let settings = match settings::read(&folder.join(format!("{order:02}-{name}.toml"))) {
        Ok(settings) => settings,
        Err(settings::Wrong { path, line, problem, events, required }) => {
            return Err(HookError { path, line, problem, name, order, events, required })
        }
    };
    match executable(&path) {
        Ok(()) => Ok(Hook { name, order, path, settings }),
        Err(problem) => {
            let (events, required) = (settings.events, settings.required);
            Err(HookError { path, line: None, problem, name, order, events, required })
        }
    }
}

fn executable(path: &Path) -> Result<(), String> {
    let metadata = fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "is not there, but its settings are: add it, or remove them".to_owned(),
        _ => format!("cannot be examined: {error}"),
    })?;
    if !metadata.is_file() {
        return Err("is not a file: put an executable there, or remove it".to_owned());
    }
    if metadata.len() == 0 {
        // Which would succeed, as an empty script.
        return Err("is empty: put an executable there, or remove it".to_owned());
    }
    trusted(&metadata)?;
    if metadata.permissions().mode() & 0o111 == 0 {
        return Err("is not executable: chmod +x it, or remove it".to_owned());
    }
    Ok(())
}

/// Whether nobody can change it but root and we.
fn trusted(metadata: &Metadata) -> Result<(), String> {
    let (owner, group) = (metadata.uid(), metadata.gid());
    let (us, our_group) = (geteuid().as_raw(), getegid().as_raw());
    if ![0, us].contains(&owner) {
        let others = if us == 0 { String::new() } else { format!(" nor to uid {us}") };
        return Err(format!("belongs to uid {owner}, not to root{others}: chown it, or remove it"));
    }
    let mode = metadata.permissions().mode();
    if mode & 0o002 != 0 {
        return Err(format!("everyone can write to it (mode {:04o}): chmod o-w it, or remove it", mode & 0o7777));
    }
    if mode & 0o020 != 0 && ![0, our_group].contains(&group) {
        return Err(format!("the group {group} can write to it (mode {:04o}): chmod g-w it", mode & 0o7777));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const SCRIPT: &str = "#!/bin/sh\n";

    fn folder(files: &[(&str, u32, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, mode, text) in files {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
        }
        folder
    }

    #[test]
    fn every_disruption_and_announcement_can_have_hooks() {
        use vmclock_core::event::{Event, Maintenance};
        let maintenance = |to| Event::Maintenance { from: Maintenance::None, to };
        let events = [
            Event::Disrupted { from: 1, to: 2 },
            Event::Restored { from: 1, to: 2 },
            maintenance(Maintenance::None),
            maintenance(Maintenance::Soon),
            maintenance(Maintenance::Imminent),
        ];
        for event in events {
            assert!(EVENTS.contains(&event.name()), "{event}");
        }
    }

    #[test]
    fn hooks_are_sorted_and_have_defaults() {
        let folder = folder(&[
            ("20-b", 0o755, SCRIPT),
            ("20-a", 0o700, SCRIPT),
            ("05-z_9-x", 0o755, SCRIPT),
            (".hidden", 0o644, ""),
            ("README", 0o644, ""),
        ]);
        let (hooks, errors) = load(folder.path());
        assert_eq!(errors, []);
        let names: Vec<_> = hooks.iter().map(|hook| (hook.order, hook.name.as_str())).collect();
        assert_eq!(names, [(5, "z_9-x"), (20, "a"), (20, "b")]);
        assert_eq!(
            hooks[0].settings,
            Settings {
                events: vec!["restored"],
                timeout: Duration::from_secs(30),
                retries: 0,
                user: None,
                required: false
            }
        );
    }

    #[test]
    fn no_folder_has_no_hooks() {
        assert_eq!(load(Path::new("/nonexistent/agent.d")), (vec![], vec![]));
    }

    #[test]
    fn what_is_wrong_is_said_and_stops_no_other() {
        let folder = folder(&[
            ("10-writable", 0o757, SCRIPT),
            ("20-plain", 0o644, SCRIPT),
            ("20-plain.toml", 0o644, "events = ['thawed']"),
            ("30-gone.toml", 0o644, "required = true"),
            ("40-settings", 0o755, SCRIPT),
            ("40-settings.toml", 0o644, "\nretrys = 1"),
            ("41-user", 0o755, SCRIPT),
            ("41-user.toml", 0o644, "user = 'no such user'"),
            ("50-open-settings", 0o755, SCRIPT),
            ("50-open-settings.toml", 0o666, ""),
            ("70-empty", 0o755, ""),
            ("9-short", 0o755, ""),
            ("90-good", 0o755, SCRIPT),
        ]);
        fs::create_dir(folder.path().join("60-folder")).unwrap();
        let (hooks, errors) = load(folder.path());
        assert_eq!(hooks.iter().map(|hook| hook.name.as_str()).collect::<Vec<_>>(), ["good"]);
        let of = |name: &str| errors.iter().find(|error| error.name == name).unwrap();
        assert!(of("writable").problem.starts_with("everyone can write to it (mode 0757)"), "{errors:?}");
        assert!(!of("writable").required);
        assert!(of("plain").to_string().ends_with("20-plain: is not executable: chmod +x it, or remove it"));
        assert!(of("plain").concerns("thawed") && !of("plain").concerns("restored"));
        assert!(of("gone").required && of("gone").problem.starts_with("is not there"));
        assert!(of("settings").to_string().contains("40-settings.toml:2: retrys: "), "{}", of("settings"));
        assert!(of("settings").required && of("settings").concerns("quiesce"), "what it asks for cannot be known");
        assert!(!of("user").required && of("user").concerns("restored") && !of("user").concerns("quiesce"));
        assert!(of("open-settings").problem.starts_with("everyone can write"));
        assert!(of("folder").problem.starts_with("is not a file"));
        assert!(of("9-short").problem.starts_with("is no hook's name") && !of("9-short").concerns("restored"));
        assert!(of("empty").problem.starts_with("is empty"));
        assert_eq!(errors.len(), 9, "{errors:?}");
    }

    #[test]
    fn a_folder_that_others_can_write_to_is_refused() {
        let folder = folder(&[("10-good", 0o755, SCRIPT)]);
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let (hooks, errors) = load(folder.path());
        assert!(hooks.is_empty() && errors.len() == 1);
        assert!(errors[0].required && errors[0].concerns("restored") && errors[0].path == folder.path());
    }

    #[test]
    fn a_pipe_for_settings_does_not_hold_anything_up() {
        let folder = folder(&[("10-piped", 0o755, SCRIPT)]);
        rustix::fs::mkfifoat(rustix::fs::CWD, folder.path().join("10-piped.toml"), 0o644.into()).unwrap();
        let (hooks, errors) = load(folder.path());
        assert!(hooks.is_empty());
        assert_eq!(errors[0].problem, "is not a file: put settings there, or remove it");
    }
}
