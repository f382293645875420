// SPDX-License-Identifier: MIT OR Apache-2.0
//! The series as commits: what is made of the driver's own sources, and what only the kernel needs.
//!
//! Each folder in `linux/upstream-series` is a patch, in the order of their names:
//!
//! | file | what it is |
//! |---|---|
//! | `message` | the commit's message |
//! | `sources` | lines `TARGET < SOURCE`: a file of the kernel's, made of one of ours |
//! | `files/` | new files; a line `//@ SOURCE: ITEMS` stands for items of a source of `vmclock-core` |
//! | `changes.diff` | what is different then |

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context, Result};

use crate::project::Project;
use crate::shell::Cmd;

use super::{extract, wrap};

/// Who signs.
const AUTHOR: [&str; 2] = ["The vmclock authors", "vmclock@example.org"];
/// Patches are the same whenever they are made.
const DATE: &str = "2026-11-25T00:00:00Z";

/// What our sources call things, and what they are called in the `kernel` crate.
const IN_KERNEL_CRATE: [(&str, &str); 7] = [
    ("pub(crate)", "pub"),
    ("pub(super)", "pub(crate)"),
    ("::kernel::", "$crate::"),
    ("kernel::", "crate::"),
    ("use super::raw;\n", ""),
    ("raw(dev)", "dev.as_raw()"),
    ("raw(parent)", "parent.as_raw()"),
];
/// The same for the driver, where our crate and the modules that the kernel gets are gone.
const IN_DRIVER: [(&str, &str); 12] = [
    ("vmclock_core::", "crate::"),
    ("`vmclock_core`", "`vmclock-core`"),
    ("AtomicU32", "Atomic<u32>"),
    ("AtomicU64", "Atomic<u64>"),
    ("Ordering::Relaxed", "Relaxed"),
    ("fence(Ordering::Acquire)", "dma_mb(Read)"),
    ("crate::upstream::bindings::", "crate::helpers::"),
    ("crate::upstream::timekeeping", "kernel::time::cross_timestamp"),
    ("crate::upstream::sysfs", "kernel::miscdevice::attributes"),
    ("crate::upstream::workqueue", "kernel::workqueue::cancellable"),
    ("crate::upstream::memremap", "kernel::io::memremap"),
    ("crate::upstream::", "kernel::"),
];

/// One patch to be.
struct Patch {
    folder: PathBuf,
}

/// Commits the series on top of what is committed in `tree`, a repository with the kernel's files, and writes its
/// patches to `patches`.
pub(in crate::driver_test) fn series(project: &Project, tree: &Path, patches: &Path) -> Result<()> {
    let parts = project.path("linux/upstream-series");
    let entries = fs::read_dir(&parts).with_context(|| format!("cannot list {}", parts.display()))?;
    let mut folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    let count = folders.len();
    for folder in folders {
        let patch = Patch { folder };
        patch.commit(project, tree).with_context(|| format!("in {}", patch.folder.display()))?;
    }
    let format = git(tree).args(["format-patch", "--quiet", "--zero-commit", "--no-signature", "--cover-letter"]);
    format.args(["--cover-from-description=none", &format!("-{count}"), "-o"]).arg(patches).read()?;
    let cover = patches.join("0000-cover-letter.patch");
    let template = read(&cover)?;
    let [subject, words] = split_message(&read(&parts.join("cover-letter"))?)?;
    let letter = template.replace("*** SUBJECT HERE ***", &subject).replace("*** BLURB HERE ***", words.trim_end());
    fs::write(&cover, letter).with_context(|| format!("cannot write {}", cover.display()))
}

impl Patch {
    fn commit(&self, project: &Project, tree: &Path) -> Result<()> {
        for (target, text) in self.made(project)? {
            write_formatted(tree, &target, &text)?;
        }
        let changes = self.folder.join("changes.diff");
        git(tree).args(["add", "--all", "."]).read()?;
        if changes.exists() {
            let apply = git(tree).args(["apply", "--index", "--whitespace=error"]).arg(&changes);
            apply.read().with_context(|| {
                format!(
                    "{} does not fit what is made of the sources now: with --commit-to FOLDER, a repository with the \
                     kernel's files, it stays there to be repaired",
                    changes.display()
                )
            })?;
        }
        let message = read(&self.folder.join("message"))?;
        let signed = format!("{}\n\nSigned-off-by: {} <{}>\n", message.trim_end(), AUTHOR[0], AUTHOR[1]);
        git(tree).args(["commit", "--quiet", "--message", &signed]).read().map(|_| ())
    }

    /// The files that are made of our sources, and the new ones.
    fn made(&self, project: &Project) -> Result<Vec<(PathBuf, String)>> {
        let mut made = Vec::new();
        let sources = self.folder.join("sources");
        if sources.exists() {
            for line in read(&sources)?.lines().filter(|line| !line.is_empty()) {
                let (target, source) = line.split_once(" < ").with_context(|| format!("what is `{line}`?"))?;
                let text = read(&project.path(source))?;
                made.push((PathBuf::from(target), adapted(target, &text)));
            }
        }
        let files = self.folder.join("files");
        for path in files_in(&files) {
            let target = path.strip_prefix(&files)?.to_path_buf();
            let name = target.to_string_lossy().into_owned();
            let text = expanded(project, &read(&path)?).with_context(|| format!("in {}", path.display()))?;
            made.push((target, if is_rust(&path) { adapted(&name, &text) } else { text }));
        }
        Ok(made)
    }
}

/// The names of the place that a source comes to.
fn adapted(target: &str, text: &str) -> String {
    let names = if target.starts_with("rust/") { &IN_KERNEL_CRATE[..] } else { &IN_DRIVER[..] };
    names.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// A new file with the items that it names.
fn expanded(project: &Project, text: &str) -> Result<String> {
    let mut expanded = String::new();
    for line in text.lines() {
        let Some(names) = line.strip_prefix("//@ ") else {
            wrap::add(&mut expanded, line);
            continue;
        };
        let (source, names) = names.split_once(": ").with_context(|| format!("what is `{line}`?"))?;
        let names: Vec<&str> = names.split(", ").collect();
        let source = read(&project.path(format!("crates/vmclock-core/src/{source}")))?;
        let items = extract::items(&source, &names).with_context(|| format!("for `{line}`"))?;
        // Nobody sees more of a driver than its own crate.
        for line in items.lines() {
            let words = line.trim_start();
            let indent = &line[..line.len() - words.len()];
            match words.strip_prefix("pub ") {
                Some(rest) => wrap::add(&mut expanded, &format!("{indent}pub(crate) {rest}")),
                None => wrap::add(&mut expanded, line),
            }
        }
    }
    Ok(expanded)
}

/// In the kernel's style, by its own configuration of rustfmt.
fn write_formatted(tree: &Path, target: &Path, text: &str) -> Result<()> {
    let path = tree.join(target);
    let folder = path.parent().context("a file without a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let write = |text: &str| fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()));
    write(text)?;
    if is_rust(&path) {
        // By its standard input it does not look for the file's modules.
        let rustfmt =
            Cmd::new("sh").args(["-euc", r#"exec rustfmt --edition=2021 --config-path="$1" <"$2""#, "rustfmt"]);
        write(&wrap::comments(&rustfmt.arg(tree).arg(&path).read()?))?;
    }
    Ok(())
}

/// Whether it is a source in Rust.
pub(super) fn is_rust(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rs")
}

/// rustfmt as the kernel calls it.
pub(super) fn rustfmt(tree: &Path) -> Cmd {
    Cmd::new("rustfmt").args(["--edition=2021", "--config-path"]).arg(tree).current_dir(tree)
}

/// git for a repository that is nobody's.
pub(super) fn git(tree: &Path) -> Cmd {
    let [name, address] = AUTHOR;
    let git = Cmd::new("git").args(["-c", "commit.gpgsign=false", "-c", "core.autocrlf=false"]).current_dir(tree);
    let git = git.env("GIT_AUTHOR_NAME", name).env("GIT_AUTHOR_EMAIL", address).env("GIT_AUTHOR_DATE", DATE);
    let git = git.env("GIT_COMMITTER_NAME", name).env("GIT_COMMITTER_EMAIL", address).env("GIT_COMMITTER_DATE", DATE);
    git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_DIR", tree.join(".git")).env("GIT_WORK_TREE", tree)
}

fn split_message(text: &str) -> Result<[String; 2]> {
    let (subject, words) = text.split_once("\n\n").context("a letter without a subject")?;
    ensure!(!subject.contains('\n'), "a subject of several lines");
    Ok([subject.to_owned(), words.to_owned()])
}

/// All files below a folder, if there is one.
fn files_in(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
