// SPDX-License-Identifier: MIT OR Apache-2.0
//! A Debian package in the making: a folder with its files, and what dpkg is told of it. The same files give the same
//! package, byte for byte.

use std::fs;
use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::{remove_folder, write_whole};
use crate::project::Project;
use crate::shell::Cmd;

/// What every package has beside its own parts.
const COMMON: &str = "packaging/debian";

/// The parts of a package that dpkg runs or reads; `control` each must have.
const SCRIPTS: [&str; 4] = ["preinst", "postinst", "prerm", "postrm"];
const TABLES: [&str; 2] = ["triggers", "shlibs"];

/// A package in the making.
pub(crate) struct Deb {
    name: String,
    version: String,
    architecture: String,
    root: PathBuf,
    /// Words of its parts, and what is written in their place.
    words: Vec<(&'static str, String)>,
    /// Seconds since 1970 that all its files are from at the latest.
    when: String,
}

impl Deb {
    /// An empty one, in a folder of packages, with no files but the changelog and the copyright.
    pub(crate) fn begin(project: &Project, packages: &Path, name: &str, version: &str) -> Result<Self> {
        let root = packages.join(format!("{name}_{version}"));
        remove_folder(&root)?;
        let changelog = read(&project.path(COMMON).join("changelog"))?;
        let (head, rest) = changelog.split_once('\n').context("the changelog is empty")?;
        let (_, after) = head.split_once(')').context("the changelog's first line has no version")?;
        let date = changelog.lines().find_map(|line| line.strip_prefix(" -- ")?.split_once(">  "));
        let (_, date) = date.context("the changelog's first entry has no date")?;
        let when = Cmd::new("date").args(["--utc", "+%s", "--date", date]).read()?.trim().to_owned();
        let deb = Self {
            name: name.to_owned(),
            version: version.to_owned(),
            architecture: "all".to_owned(),
            root,
            words: vec![("VERSION", version.to_owned())],
            when,
        };
        let documents = format!("usr/share/doc/{name}");
        deb.text(&format!("{documents}/changelog"), &format!("{name} ({version}){after}\n{rest}"))?;
        deb.gzip(&format!("{documents}/changelog"))?;
        deb.copy(&project.path(COMMON).join("copyright"), &format!("{documents}/copyright"), 0o644)?;
        Ok(deb)
    }

    /// The same of files that only machines like this one can use; its parts have this word for it.
    pub(crate) fn for_this_architecture(mut self) -> Result<Self> {
        let printed = Cmd::new("dpkg").arg("--print-architecture").read()?;
        printed.trim().clone_into(&mut self.architecture);
        self.words.push(("ARCHITECTURE", self.architecture.clone()));
        Ok(self)
    }

    /// Has this text in place of a word of its parts.
    #[must_use]
    pub(crate) fn with(mut self, word: &'static str, text: impl Into<String>) -> Self {
        self.words.push((word, text.into()));
        self
    }

    /// The name of the package.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where a file of the package is being made.
    pub(crate) fn path(&self, to: &str) -> PathBuf {
        self.root.join(to)
    }

    /// A file with this mode.
    pub(crate) fn copy(&self, from: &Path, to: &str, mode: u32) -> Result<()> {
        let to = self.place(to)?;
        fs::copy(from, &to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
        set_mode(&to, mode)
    }

    /// A file with this text.
    pub(crate) fn text(&self, to: &str, text: &str) -> Result<()> {
        let to = self.place(to)?;
        write_whole(&to, text)?;
        set_mode(&to, 0o644)
    }

    /// A link to something else.
    pub(crate) fn link(&self, to: &str, target: &str) -> Result<()> {
        let to = self.place(to)?;
        symlink(target, &to).with_context(|| format!("cannot make the link {}", to.display()))
    }

    /// Compresses one of its files, as manual pages are; the same text always to the same bytes.
    pub(crate) fn gzip(&self, file: &str) -> Result<()> {
        Cmd::new("gzip").args(["--best", "--no-name"]).arg(self.path(file)).read().map(|_| ())
    }

    /// A folder of its own.
    pub(crate) fn folder(&self, to: &str) -> Result<PathBuf> {
        let folder = self.path(to);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(folder)
    }

    /// Builds it of its files and of its parts, each of which the last of these folders has that has one. Everything
    /// in `etc` is the administrator's to change.
    pub(crate) fn build(self, parts: &[&Path]) -> Result<PathBuf> {
        let control = self.folder("DEBIAN")?;
        for part in ["control"].iter().chain(&SCRIPTS).chain(&TABLES) {
            let Some(path) = parts.iter().rev().map(|folder| folder.join(part)).find(|path| path.is_file()) else {
                continue;
            };
            let mut text = read(&path)?;
            for (word, instead) in &self.words {
                text = text.replace(word, instead);
            }
            if *part == "control" {
                text = format!("{}\nInstalled-Size: {}\n", text.trim_end(), self.kibibytes()?);
            }
            write_whole(&control.join(part), &text)?;
            set_mode(&control.join(part), if SCRIPTS.contains(part) { 0o755 } else { 0o644 })?;
        }
        let list = |what: &str| Cmd::new("sh").args(["-euc", what]).current_dir(&self.root).read();
        let conffiles = list("[ ! -d etc ] || find etc -type f -printf '/%p\\n' | LC_ALL=C sort")?;
        if !conffiles.is_empty() {
            write_whole(&control.join("conffiles"), &conffiles)?;
        }
        let sums = list("find . -type f ! -path './DEBIAN/*' -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 md5sum")?;
        write_whole(&control.join("md5sums"), &sums)?;
        // Whatever mask the user has.
        list("find . -type d -exec chmod 0755 {} +; chmod -R u+w,go-w,a+rX .")?;
        let package = self.root.with_file_name(format!("{}_{}_{}.deb", self.name, self.version, self.architecture));
        let build = Cmd::new("dpkg-deb").args(["--root-owner-group", "-Zxz", "--build"]).arg(&self.root);
        build.arg(&package).env("SOURCE_DATE_EPOCH", &self.when).read()?;
        Ok(package)
    }

    fn kibibytes(&self) -> Result<u64> {
        let said = Cmd::new("du").args(["--apparent-size", "--summarize", "--block-size=1K"]).arg(&self.root).read()?;
        let number = said.split_whitespace().next().context("du prints nothing")?;
        number.parse().with_context(|| format!("du prints {said:?}"))
    }

    fn place(&self, to: &str) -> Result<PathBuf> {
        let to = self.path(to);
        let folder = to.parent().with_context(|| format!("{} has no folder", to.display()))?;
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(to)
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("cannot set the mode of {}", path.display()))
}
