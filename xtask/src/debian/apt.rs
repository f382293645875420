// SPDX-License-Identifier: MIT OR Apache-2.0
//! An apt of our own: its own list of sources, its own idea of what is installed (nothing), its own folders.
//! How to reach the network (a proxy, say) is still the machine's configuration, which apt reads before ours.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{bail, Context, Result};

use crate::cache::{is_younger, write_whole, Cache};
use crate::shell::Cmd;

use super::mirror::Mirror;
use super::Request;

/// An apt for the releases and architectures of one request.
pub(crate) struct Apt {
    folder: PathBuf,
    /// What every process that uses this cache holds while its apt runs.
    lock: PathBuf,
}

/// A package as the archive's list names it.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Package {
    /// `name_version_architecture.deb`
    pub(crate) file: String,
    pub(crate) bytes: u64,
}

impl Apt {
    /// Writes the configuration for a request; nothing is fetched yet.
    pub(crate) fn set_up(cache: &Cache, mirror: &Mirror, request: &Request) -> Result<Self> {
        Self::set_up_for(cache, mirror, &suites(request), &architectures(request)?)
    }

    /// The same for the lists of one release, of this machine's architecture and others.
    pub(crate) fn set_up_lists(cache: &Cache, mirror: &Mirror, suite: &str, others: &[&str]) -> Result<Self> {
        Self::set_up_for(cache, mirror, &[suite], &with_own(others.iter().copied())?)
    }

    /// The same for releases, of which the first goes before the others, and architectures.
    fn set_up_for(cache: &Cache, mirror: &Mirror, suites: &[&str], architectures: &[String]) -> Result<Self> {
        let folder = cache.path("apt").join(format!("{}-{}", suites.join("+"), architectures.join("+")));
        for part in ["lists/partial", "cache/archives/partial", "empty"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).with_context(|| format!("cannot make the folder {}", part.display()))?;
        }
        write_whole(&folder.join("status"), "")?;
        write_whole(&folder.join("debian.sources"), &sources(mirror, suites, architectures))?;
        write_whole(&folder.join("preferences"), &preferences(suites.first().context("no release")?))?;
        write_whole(&folder.join("apt.conf"), &configuration(&folder, architectures))?;
        Ok(Self { folder, lock: cache.path("lock") })
    }

    /// Fetches the lists of packages anew, unless that was done within the last `age`. Says whether it was done now.
    pub(crate) fn update_unless_younger(&self, age: Duration) -> Result<bool> {
        let stamp = self.folder.join("updated");
        if is_younger(&stamp, age) {
            return Ok(false);
        }
        self.apt_get("update").arg("-qq").read()?;
        File::create(&stamp).with_context(|| format!("cannot write {}", stamp.display()))?;
        Ok(true)
    }

    /// The names of all packages that begin like this, out of the lists as they were last fetched.
    pub(crate) fn names(&self, prefix: &str) -> Result<Vec<String>> {
        Ok(self.apt_cache("pkgnames").arg(prefix).read()?.lines().map(str::to_owned).collect())
    }

    /// Every version of these packages (`name` or `name:architecture`) that the same lists have, as name and version.
    pub(crate) fn versions(&self, packages: &[String]) -> Result<Vec<(String, String)>> {
        // Without a name it would refuse to work; of what does not exist it says nothing.
        if packages.is_empty() {
            return Ok(Vec::new());
        }
        self.apt_cache("madison").args(packages).read()?.lines().map(parse_version).collect()
    }

    /// The newest packages that answer the request.
    pub(crate) fn resolve(&self, request: &Request) -> Result<Vec<Package>> {
        let mut lines = String::new();
        for command in self.downloads(request) {
            lines += &command.arg("--print-uris").read()?;
        }
        let mut packages = lines.lines().map(parse_package).collect::<Result<Vec<_>>>()?;
        // apt's own order is not fixed, and a package may be asked for in both ways.
        packages.sort_by(|one, other| one.file.cmp(&other.file));
        packages.dedup();
        Ok(packages)
    }

    /// Downloads the packages that [`resolve`](Self::resolve) names into an empty folder, and gives their paths.
    pub(crate) fn download(&self, request: &Request, folder: &Path) -> Result<Vec<PathBuf>> {
        let partial = folder.join("partial");
        fs::create_dir(&partial).with_context(|| format!("cannot make the folder {}", partial.display()))?;
        for command in self.downloads(request) {
            let archives = format!("Dir::Cache::Archives={}/", folder.display());
            command.args(["-o", &archives]).current_dir(folder).read()?;
        }
        let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let mut debs: Vec<_> = paths.filter(|path| path.extension() == Some(OsStr::new("deb"))).collect();
        debs.sort();
        Ok(debs)
    }

    /// The one or two commands that download what the request asks for.
    fn downloads(&self, request: &Request) -> Vec<Cmd> {
        let mut commands = Vec::new();
        if !request.alone.is_empty() {
            commands.push(self.apt_get("download").arg("-qq").args(request.alone));
        }
        if !request.with_dependencies.is_empty() {
            let options = ["-qq", "--yes", "--download-only", "--no-install-recommends"];
            commands.push(self.apt_get("install").args(options).args(request.with_dependencies));
        }
        commands
    }

    fn apt_get(&self, verb: &str) -> Cmd {
        self.tool("apt-get", verb)
    }

    fn apt_cache(&self, verb: &str) -> Cmd {
        self.tool("apt-cache", verb)
    }

    fn tool(&self, program: &str, verb: &str) -> Cmd {
        // apt locks its lists itself but does not wait for another; flock does.
        let configuration = self.folder.join("apt.conf");
        Cmd::new("flock").arg(&self.lock).args([program, "--config-file"]).arg(configuration).arg(verb)
    }
}

/// The request's release, and the one that it stands on where dependencies may be found only there.
fn suites<'a>(request: &Request<'a>) -> Vec<&'a str> {
    let base = request.suite.strip_suffix("-backports").filter(|_| !request.with_dependencies.is_empty());
    [Some(request.suite), base].into_iter().flatten().collect()
}

/// The machine's own architecture, and those that the request names.
fn architectures(request: &Request) -> Result<Vec<String>> {
    // `name:architecture=version`, whose version may have a colon too.
    let names = request.alone.iter().filter_map(|package| package.split('=').next());
    with_own(names.filter_map(|name| Some(name.split_once(':')?.1)))
}

/// The machine's own architecture, and these.
fn with_own<'a>(others: impl Iterator<Item = &'a str>) -> Result<Vec<String>> {
    let own = Cmd::new("dpkg").arg("--print-architecture").read()?;
    let mut architectures = vec![own.trim().to_owned()];
    for named in others {
        if architectures.iter().all(|known| known != named) {
            architectures.push(named.to_owned());
        }
    }
    Ok(architectures)
}

fn sources(mirror: &Mirror, suites: &[&str], architectures: &[String]) -> String {
    let signed_by = mirror.signed_by.as_ref().map(|keys| format!("Signed-By: {keys}\n")).unwrap_or_default();
    format!(
        "Types: deb\nURIs: {}\nSuites: {}\nComponents: main\nArchitectures: {}\nTargets: Packages\n{signed_by}",
        mirror.address,
        suites.join(" "),
        architectures.join(" ")
    )
}

/// The release asked for goes before the one it stands on; apt alone would rank backports last.
fn preferences(suite: &str) -> String {
    format!("Package: *\nPin: release n={suite}\nPin-Priority: 990\n")
}

fn configuration(folder: &Path, architectures: &[String]) -> String {
    let folder = folder.display();
    format!(
        r#"// Everything of ours, nothing of the machine's.
Dir::State "{folder}";
Dir::State::Lists "{folder}/lists";
Dir::State::Status "{folder}/status";
Dir::Cache "{folder}/cache";
Dir::Etc::SourceList "{folder}/debian.sources";
Dir::Etc::SourceParts "{folder}/empty";
Dir::Etc::Preferences "{folder}/preferences";
Dir::Etc::PreferencesParts "{folder}/empty";
APT::Architectures {{ "{architectures}"; }};
#clear APT::Default-Release;
#clear APT::Update;

// A list that could not be fetched or verified is an error, not a warning, whatever the machine allows.
APT::Update::Error-Mode "any";
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";

// Where root runs this, apt would download as a user that cannot enter root's cache folder.
APT::Sandbox::User "root";

Acquire::Languages "none";
Acquire::Retries "3";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
"#,
        architectures = architectures.join("\"; \"")
    )
}

/// A line of `--print-uris`: `'ADDRESS' FILE BYTES HASH`.
fn parse_package(line: &str) -> Result<Package> {
    match line.split_whitespace().collect::<Vec<_>>()[..] {
        [_, file, bytes, ..] => {
            let bytes = bytes.parse().with_context(|| format!("apt gives {bytes:?} as the size of {file}"))?;
            Ok(Package { file: file.to_owned(), bytes })
        }
        _ => bail!("apt prints a line that is no package: {line:?}"),
    }
}

/// A line of `apt-cache madison`: `NAME | VERSION | WHERE FROM`.
fn parse_version(line: &str) -> Result<(String, String)> {
    match line.split('|').map(str::trim).collect::<Vec<_>>()[..] {
        [name, version, _] => Ok((name.to_owned(), version.to_owned())),
        _ => bail!("apt prints a line that is no package's version: {line:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Freshness;
    use super::*;

    fn request<'a>(suite: &'a str, alone: &'a [&'a str], with_dependencies: &'a [&'a str]) -> Request<'a> {
        Request { name: "test", suite, alone, with_dependencies, freshness: Freshness::Any }
    }

    #[test]
    fn dependencies_of_backports_may_come_from_the_release_below() {
        assert_eq!(suites(&request("trixie-backports", &[], &["qemu"])), ["trixie-backports", "trixie"]);
        assert_eq!(suites(&request("trixie-backports", &["linux-libc-dev"], &[])), ["trixie-backports"]);
        assert_eq!(suites(&request("sid", &[], &["qemu"])), ["sid"]);
    }

    #[test]
    fn a_version_says_nothing_of_the_architecture() {
        let of = |package| architectures(&request("sid", &[package], &[])).unwrap();
        assert_eq!(of("linux-source-7.2=1:7.2.12-1").len(), 1);
        assert_eq!(of("linux-headers-7.2:s390x=1:7.2.12-1").last().map(String::as_str), Some("s390x"));
    }

    #[test]
    fn a_line_of_apt() {
        let line = "'http://a.invalid/pool/z_1%3a2_amd64.deb' z_1%3a2_amd64.deb 88892 SHA256:00ff";
        assert_eq!(parse_package(line).unwrap(), Package { file: "z_1%3a2_amd64.deb".to_owned(), bytes: 88892 });
        for bad in ["", "'http://a.invalid/z.deb' z.deb many SHA256:00"] {
            assert!(parse_package(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_line_of_madison() {
        let line = " linux-headers-7.3:arm64 | 1:7.3.4-1~bpo13+1 | http://a.invalid/debian sid/main arm64 Packages";
        let expected = ("linux-headers-7.3:arm64".to_owned(), "1:7.3.4-1~bpo13+1".to_owned());
        assert_eq!(parse_version(line).unwrap(), expected);
        assert!(parse_version("N: nothing").is_err());
    }

    #[test]
    fn a_key_over_many_lines_reaches_the_sources() {
        let mirror = Mirror { address: "http://a.invalid/".to_owned(), signed_by: Some("\n -----BEGIN".to_owned()) };
        let text = sources(&mirror, &["sid"], &["amd64".to_owned()]);
        assert!(text.ends_with("Signed-By: \n -----BEGIN\n"), "{text}");
    }
}
