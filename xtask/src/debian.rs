// SPDX-License-Identifier: MIT OR Apache-2.0
//! Debian's packages as folders: verified by apt against the archive's keys, unpacked, not installed.
//!
//! A [`Request`] says which packages of which release; [`fetch`] answers with a [`Tree`], a folder in the cache with
//! the packages' files in it, complete or not there at all. The machine's own packages are neither used nor changed.

mod apt;
mod mirror;
mod tree;

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cache::{is_younger, mark_used, write_whole, Cache, DAY};
use crate::project::is_ci;
use crate::shell::{say, Cmd};
use crate::steps::Done;

use self::apt::Apt;
use self::mirror::Mirror;
pub(crate) use self::tree::Tree;

/// Packages of one Debian release, wanted together in one folder.
#[derive(Hash)]
pub(crate) struct Request<'a> {
    /// What the folder is called, and the request in messages.
    pub(crate) name: &'a str,
    /// The release by its code name: `trixie`, `trixie-backports`, `sid`.
    pub(crate) suite: &'a str,
    /// Packages without what they depend on; `name:arch` is one of a foreign architecture, `name=version` a certain
    /// one.
    pub(crate) alone: &'a [&'a str],
    /// Packages with all that they depend on, down to the C library.
    pub(crate) with_dependencies: &'a [&'a str],
    pub(crate) freshness: Freshness,
}

/// Which version will do.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Freshness {
    /// Any that was ever fetched: the release no longer changes in what matters.
    Any,
    /// The newest as of today. Where the archive cannot be reached, the newest that was ever fetched.
    Daily,
}

/// Gives the packages as a folder. Nothing is asked of the network while what is there is fresh enough.
pub(crate) fn fetch(cache: &Cache, request: &Request) -> Result<Tree> {
    let answers = cache.path("debian");
    fs::create_dir_all(&answers).with_context(|| format!("cannot make the folder {}", answers.display()))?;
    // The answer to this very request: a file that holds the name of the tree.
    let answer = answers.join(format!("{}-{:016x}.answer", request.name, hash(request)));
    let kept = fs::read_to_string(&answer).ok().and_then(|tree| Tree::open(answers.join(tree)).ok());
    let fetched = match kept {
        Some(tree) if request.freshness == Freshness::Any || is_younger(&answer, DAY) => Ok(tree),
        Some(tree) => fetch_newest(cache, request, &answer).or_else(|error| {
            say(&format!(
                "note: keeping {} as it was fetched before, as there was no asking again: {error:#}",
                request.name
            ));
            Ok(tree)
        }),
        None => fetch_newest(cache, request, &answer),
    };
    let tree = fetched.with_context(|| format!("cannot fetch {} from Debian's {}", request.name, request.suite))?;
    mark_used(tree.folder());
    Ok(tree)
}

/// A release's list of packages, for those whose names have a version in them.
pub(crate) struct Catalogue {
    apt: Apt,
}

impl Catalogue {
    /// The list of today, of this machine's architecture and others. Where the archive cannot be reached, that of the
    /// last time that it could.
    pub(crate) fn open(cache: &Cache, suite: &str, others: &[&str]) -> Result<Self> {
        let apt = Apt::set_up_lists(cache, &Mirror::of_this_machine()?, suite, others)?;
        let updated = apt.update_unless_younger(DAY);
        // Any release has more than these; an empty list is none.
        match updated {
            Err(error) if apt.names("linux")?.is_empty() => Err(error),
            _ => Ok(Self { apt }),
        }
    }

    /// Fetches the list anew.
    pub(crate) fn update(&self) -> Result<()> {
        self.apt.update_unless_younger(Duration::ZERO).map(|_| ())
    }

    /// The names of the packages that begin like this.
    pub(crate) fn names(&self, prefix: &str) -> Result<Vec<String>> {
        self.apt.names(prefix)
    }

    /// Every version of these packages (`name` or `name:architecture`), as name and version.
    pub(crate) fn versions(&self, packages: &[String]) -> Result<Vec<(String, String)>> {
        self.apt.versions(packages)
    }
}

/// What a step answers that needs Debian's packages and could not have them: nothing may be skipped in CI.
pub(crate) fn skip_unless_ci(error: anyhow::Error) -> Result<Done> {
    if is_ci() {
        Err(error.context("this must not be skipped where CI=true"))
    } else {
        Ok(Done::Skipped(format!("{error:#}")))
    }
}

/// A Debian system that nobody ever booted, with these packages and what they depend on: of the first of these releases,
/// or of the others too where that is a release that they stand on.
pub(crate) fn make_system(cache: &Cache, suites: &[&str], include: &[String], root: &Path) -> Result<()> {
    let request = Request {
        name: "mmdebstrap",
        suite: "trixie",
        alone: &["mmdebstrap"],
        with_dependencies: &[],
        freshness: Freshness::Any,
    };
    let tool = fetch(cache, &request)?;
    let Mirror { address, signed_by } = Mirror::of_this_machine()?;
    let keys = signed_by.map(|keys| format!("[signed-by={keys}] ")).unwrap_or_default();
    Cmd::new("perl")
        .arg(tool.path("usr/bin/mmdebstrap"))
        .args(["--quiet", "--mode=root", "--variant=apt", "--aptopt=Apt::Install-Recommends \"false\""])
        .arg(format!("--include={}", include.join(",")))
        .args(suites.first())
        .arg(root)
        .args(suites.iter().map(|suite| format!("deb {keys}{address} {suite} main")))
        .read_all()
        .map(|_| ())
}

fn fetch_newest(cache: &Cache, request: &Request, answer: &Path) -> Result<Tree> {
    let apt = Apt::set_up(cache, &Mirror::of_this_machine()?, request)?;
    let just_updated = apt.update_unless_younger(DAY)?;
    let tree = bring(cache, &apt, request).or_else(|error| {
        if just_updated {
            return Err(error);
        }
        // Packages that a newer version replaced are gone from the archive: ask for today's list, and once more.
        apt.update_unless_younger(Duration::ZERO)?;
        bring(cache, &apt, request)
    })?;
    write_whole(answer, &tree.name()?)?;
    // Trees are large, and some are replaced every few days. Another clone of the project may still use an old one.
    cache.forget_unused("debian", tree.folder());
    Ok(tree)
}

/// Makes the tree of the newest packages, unless it is there already.
fn bring(cache: &Cache, apt: &Apt, request: &Request) -> Result<Tree> {
    let packages = apt.resolve(request)?;
    let files: Vec<&str> = packages.iter().map(|package| package.file.as_str()).collect();
    let folder = cache.path("debian").join(format!("{}-{:016x}", request.name, hash(&files)));
    if let Ok(tree) = Tree::open(folder.clone()) {
        return Ok(tree);
    }
    let megabytes = packages.iter().map(|package| package.bytes).sum::<u64>().div_ceil(1_000_000);
    say(&format!(
        "fetching {} from Debian's {}: {megabytes} MB, packages: {}",
        request.name,
        request.suite,
        files.len()
    ));
    let scratch = cache.scratch()?;
    let debs = apt.download(request, scratch.path())?;
    Tree::unpack(&debs, &files, scratch.path(), folder)
}

/// A short name for a value. Another version of Rust may choose another, which costs one more download.
pub(crate) fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
