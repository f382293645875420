// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which of Debian's kernels for clouds the archive holds just now.
//!
//! They rotate every few days, and the packages of one kernel come and go one by one: its modules may be gone while
//! its image is still there, and its source may be of another version. A kernel counts only where all packages that are
//! asked for exist in one version.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result};

use crate::cache::Cache;
use crate::debian::{self, Catalogue, Freshness, Request, Tree};

/// Where kernels come from: the suite that always has the newest, and keeps some of the older ones.
pub(crate) const KERNEL_SUITE: &str = "trixie-backports";

/// A series of Linux, as `7.3` is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Series(pub(crate) u32, pub(crate) u32);

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// A kernel in the archive. The newest is the greatest.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Release {
    pub(crate) series: Series,
    /// What follows the series: of `7.3.4` that is 4.
    patches: Vec<u32>,
    /// `7.3.4+deb13-cloud-amd64`
    pub(crate) name: String,
    /// `7.3.4-1~bpo13+1`
    package_version: String,
}

impl Release {
    /// `7.3.4`
    pub(crate) fn version(&self) -> String {
        self.patches.iter().fold(self.series.to_string(), |version, patch| format!("{version}.{patch}"))
    }

    /// The kernel with this name in its packages: of which flavour, and for which architecture, as in
    /// `7.3.4+deb13-cloud-amd64`. `None` for the other flavours, for debugging symbols, and for meta packages.
    pub(crate) fn parse(name: &str, flavour: &str) -> Option<Self> {
        let (numbers, _) = name.strip_suffix(flavour)?.strip_suffix('-')?.split_once('+')?;
        let numbers = numbers.split('.').map(str::parse).collect::<Result<Vec<u32>, _>>().ok()?;
        let [first, second, patches @ ..] = &numbers[..] else { return None };
        Some(Self {
            series: Series(*first, *second),
            patches: patches.to_vec(),
            name: name.to_owned(),
            package_version: String::new(),
        })
    }

    /// A package of this kernel, from a name with `RELEASE` or `SERIES` in it.
    pub(crate) fn package(&self, pattern: &str) -> String {
        pattern.replace("RELEASE", &self.name).replace("SERIES", &self.series.to_string())
    }

    /// Brings packages of this kernel, in its version, to the cache.
    pub(crate) fn fetch(&self, cache: &Cache, what: &str, patterns: &[&str]) -> Result<Tree> {
        let packages: Vec<String> =
            patterns.iter().map(|pattern| format!("{}={}", self.package(pattern), self.package_version)).collect();
        let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
        let request = Request {
            name: &format!("linux-{}-{what}", self.series),
            suite: KERNEL_SUITE,
            alone: &packages,
            with_dependencies: &[],
            freshness: Freshness::Any,
        };
        debian::fetch(cache, &request)
    }
}

/// The kernels of the archive.
pub(crate) struct Archive {
    catalogue: Catalogue,
}

impl Archive {
    /// Does something with what the archive holds, this machine's packages and those of other architectures. If that
    /// fails, it may be that the list is of yesterday, and what it names is gone: once more with today's.
    pub(crate) fn with<T>(cache: &Cache, others: &[&str], work: impl Fn(&Self) -> Result<T>) -> Result<T> {
        let archive = Self { catalogue: Catalogue::open(cache, KERNEL_SUITE, others)? };
        work(&archive).or_else(|error| match archive.catalogue.update() {
            Ok(()) => work(&archive),
            Err(_) => Err(error),
        })
    }

    /// The newest kernel of each series of which there are all these packages in one version, the newest series first.
    /// A package is a name with `RELEASE` or `SERIES` in it; the first one begins with what tells kernels from others.
    pub(crate) fn newest(&self, flavour: &str, patterns: &[&str]) -> Result<Vec<Release>> {
        let first = patterns.first().context("no package is asked for")?;
        let prefix = first.split("RELEASE").next().unwrap_or_default();
        let names = self.catalogue.names(prefix)?;
        let releases: Vec<Release> =
            names.iter().filter_map(|name| Release::parse(name.strip_prefix(prefix)?, flavour)).collect();
        let packages: Vec<String> =
            releases.iter().flat_map(|release| patterns.iter().map(|pattern| release.package(pattern))).collect();
        Ok(newest_complete(releases, patterns, &self.catalogue.versions(&packages)?))
    }
}

fn newest_complete(releases: Vec<Release>, patterns: &[&str], versions: &[(String, String)]) -> Vec<Release> {
    let versions_of = |pattern: &str, release: &Release| -> Vec<&str> {
        let package = release.package(pattern);
        versions.iter().filter(|(name, _)| *name == package).map(|(_, version)| version.as_str()).collect()
    };
    let mut newest: BTreeMap<Series, Release> = BTreeMap::new();
    for mut release in releases {
        let mut all: Vec<Vec<&str>> = patterns.iter().map(|pattern| versions_of(pattern, &release)).collect();
        let own = all.pop().unwrap_or_default();
        // A kernel has one version, or one that is rebuilt, of which any will do.
        let Some(common) = own.into_iter().find(|version| all.iter().all(|of| of.contains(version))) else { continue };
        common.clone_into(&mut release.package_version);
        match newest.get(&release.series) {
            Some(other) if *other >= release => {}
            _ => drop(newest.insert(release.series, release)),
        }
    }
    newest.into_values().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAVOUR: &str = "cloud-amd64";

    #[test]
    fn releases_are_told_from_other_packages_and_sorted_by_number() {
        let release = |name: &str| Release::parse(name, FLAVOUR);
        let parsed = release("7.2.12+deb13-cloud-amd64").unwrap();
        assert_eq!((parsed.series, parsed.version().as_str()), (Series(7, 2), "7.2.12"));
        assert!(release("6.9.1+deb13-cloud-amd64") < release("6.18.15+deb13-cloud-amd64"));
        assert!(release("7.2.9+deb13-cloud-amd64") < release("7.2.12+deb13-cloud-amd64"));
        for other in ["cloud-amd64", "7.2.12+deb13-amd64", "7.2.12+deb13-cloud-amd64-dbg", "7.2-rc1+deb13-cloud-amd64"]
        {
            assert_eq!(release(other), None, "{other}");
        }
    }

    #[test]
    fn only_a_kernel_counts_that_is_there_as_a_whole() {
        let names = ["7.2.9+d-cloud-amd64", "7.2.12+d-cloud-amd64", "7.3.4+d-cloud-amd64", "7.3.5+d-cloud-amd64"];
        let releases = || names.iter().filter_map(|name| Release::parse(name, FLAVOUR)).collect::<Vec<_>>();
        let patterns = ["linux-binary-RELEASE", "linux-source-SERIES"];
        let mut versions: Vec<(String, String)> = Vec::new();
        let found = |versions: &[(String, String)]| {
            let found = newest_complete(releases(), &patterns, versions);
            found.iter().map(|release| (release.version(), release.package_version.clone())).collect::<Vec<_>>()
        };
        let pair = |name: &str, version: &str| (name.to_owned(), version.to_owned());
        assert_eq!(found(&versions), []);
        versions.extend(names.map(|name| pair(&format!("linux-binary-{name}"), name.split('+').next().unwrap())));
        assert_eq!(found(&versions), [], "no source");
        versions.extend(["7.2.12", "7.2.9"].map(|version| pair("linux-source-7.2", version)));
        assert_eq!(found(&versions), [pair("7.2.12", "7.2.12")]);
        // The newest one's source is not there yet.
        versions.push(pair("linux-source-7.3", "7.3.4"));
        assert_eq!(found(&versions), [pair("7.3.4", "7.3.4"), pair("7.2.12", "7.2.12")]);
        versions.retain(|(name, _)| name != "linux-binary-7.2.12+d-cloud-amd64");
        assert_eq!(found(&versions), [pair("7.3.4", "7.3.4"), pair("7.2.9", "7.2.9")]);
    }
}
