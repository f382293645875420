// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where this machine gets Debian from: the address and the keys, out of apt's own list of sources.
//!
//! No address is written down in the project: what the machine's owner chose (a mirror near by, a proxy, a frozen
//! snapshot) is used for everything else that comes from Debian too.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};

use crate::shell::Cmd;

/// A mirror of the Debian archive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Mirror {
    /// Its address, as apt takes it.
    pub(crate) address: String,
    /// Whom to believe: apt's `Signed-By`, be it a path or a whole key over many lines. `None`: all keys apt trusts.
    pub(crate) signed_by: Option<String>,
}

/// An entry of apt's sources, in either of the two ways to write one.
#[derive(Default, PartialEq, Eq, Debug)]
struct Entry {
    types: Vec<String>,
    addresses: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
    signed_by: Option<String>,
    disabled: bool,
}

impl Mirror {
    /// The mirror from which this machine gets its own Debian release.
    pub(crate) fn of_this_machine() -> Result<Self> {
        let release = this_release()?;
        let files = source_files()?;
        let mut entries = Vec::new();
        for file in &files {
            let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            entries.extend(if has_extension(file, "sources") { parse_sources(&text) } else { parse_list(&text) });
        }
        choose(&entries, &release).with_context(|| {
            format!(
                "none of apt's sources serves Debian's {release:?}, component main (looked through {files:?}): \
                 add an entry for it"
            )
        })
    }
}

/// The code name of the Debian release that this machine runs.
fn this_release() -> Result<String> {
    let path = "/etc/os-release";
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let field = |name: &str| {
        text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix('=')?.trim_matches('"').to_owned()))
    };
    match (field("ID"), field("VERSION_CODENAME")) {
        (Some(id), Some(release)) if id == "debian" => Ok(release),
        (id, _) => bail!("this machine runs {}, not a release of Debian", id.as_deref().unwrap_or("an unnamed system")),
    }
}

/// The files with apt's sources, in the order in which apt reads them.
fn source_files() -> Result<Vec<PathBuf>> {
    let ask = |what: &str| {
        let answer = Cmd::new("apt-config").args(["shell", "ANSWER", what]).read()?;
        let path = answer.trim().strip_prefix("ANSWER='").and_then(|rest| rest.strip_suffix('\''));
        path.map(PathBuf::from).with_context(|| format!("apt-config does not say where its {what} is: {answer:?}"))
    };
    let (list, parts) = (ask("Dir::Etc::SourceList/f")?, ask("Dir::Etc::SourceParts/d")?);
    let mut files: Vec<PathBuf> = fs::read_dir(parts)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| has_extension(path, "list") || has_extension(path, "sources"))
        .collect();
    files.sort();
    files.splice(0..0, list.exists().then_some(list));
    Ok(files)
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|own| own == extension)
}

/// The one-line style: `deb [signed-by=KEYRING] ADDRESS SUITE COMPONENT...`
fn parse_list(text: &str) -> Vec<Entry> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Entry> {
    let (line, _comment) = line.split_once('#').unwrap_or((line, ""));
    let (kind, rest) = line.trim().split_once(char::is_whitespace)?;
    let (options, rest) = match rest.trim_start().strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace().map(str::to_owned);
    Some(Entry {
        types: vec![kind.to_owned()],
        addresses: vec![words.next()?],
        suites: vec![words.next()?],
        components: words.collect(),
        signed_by: options.split_whitespace().find_map(|option| option.strip_prefix("signed-by=")).map(str::to_owned),
        disabled: false,
    })
}

/// The deb822 style: paragraphs of `Field: value`, where an indented line goes on with the value before.
fn parse_sources(text: &str) -> Vec<Entry> {
    let lines = text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>();
    lines.split(|line| line.trim().is_empty()).map(parse_paragraph).filter(|entry| *entry != Entry::default()).collect()
}

fn parse_paragraph(lines: &[&str]) -> Entry {
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in lines {
        match (line.starts_with([' ', '\t']), line.split_once(':'), fields.last_mut()) {
            (true, _, Some((_, value))) => *value = format!("{value}\n{line}"),
            (false, Some((name, value)), _) => fields.push((name.to_ascii_lowercase(), value.trim().to_owned())),
            _ => {}
        }
    }
    let field = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let words = |name: &str| field(name).unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    Entry {
        types: words("types"),
        addresses: words("uris"),
        suites: words("suites"),
        components: words("components"),
        signed_by: field("signed-by").map(str::to_owned),
        disabled: field("enabled").is_some_and(|enabled| enabled.eq_ignore_ascii_case("no")),
    }
}

/// The first entry that serves the release. Others may serve something of the same name: a vendor's own packages for
/// it. Those come with the vendor's key, so an entry that names Debian's keyring, or none, goes before.
fn choose(entries: &[Entry], release: &str) -> Option<Mirror> {
    let has = |words: &[String], wanted: &str| words.iter().any(|word| word == wanted);
    let serves = |entry: &&Entry| {
        !entry.disabled && has(&entry.types, "deb") && has(&entry.suites, release) && has(&entry.components, "main")
    };
    let foreign_key = |entry: &&Entry| !entry.signed_by.as_ref().is_none_or(|path| path.contains("debian-archive"));
    let entry = entries.iter().filter(serves).min_by_key(foreign_key)?;
    Some(Mirror { address: entry.addresses.first()?.clone(), signed_by: entry.signed_by.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: &str = "/k/debian-archive-keyring.gpg";

    fn mirror(address: &str, signed_by: Option<&str>) -> Mirror {
        Mirror { address: address.to_owned(), signed_by: signed_by.map(str::to_owned) }
    }

    #[test]
    fn the_one_line_style() {
        let text = "# deb http://old.invalid/debian bookworm main\n\
                    deb-src http://src.invalid/debian bookworm main\n\
                    deb http://a.invalid/security bookworm-security main\n\
                    deb [arch=amd64 signed-by=/k/debian-archive-keyring.gpg] http://b.invalid/debian bookworm contrib main # us\n";
        let entries = parse_list(text);
        assert_eq!(entries.len(), 3);
        assert_eq!(choose(&entries, "bookworm"), Some(mirror("http://b.invalid/debian", Some(KEYS))));
    }

    #[test]
    fn the_paragraph_style() {
        let text = "Types: deb\nURIs: http://a.invalid/debian\nSuites: bookworm bookworm-updates\n\
                    # a comment\nComponents: main\nSigned-By: /k/debian-archive-keyring.gpg\n\n\n\
                    Types: deb\nURIs: http://b.invalid/security\nSuites: bookworm-security\nComponents: main\n";
        let entries = parse_sources(text);
        assert_eq!(entries.len(), 2);
        assert_eq!(choose(&entries, "bookworm"), Some(mirror("http://a.invalid/debian", Some(KEYS))));
        assert_eq!(choose(&entries, "trixie"), None);
    }

    #[test]
    fn a_key_over_many_lines_is_kept_as_it_is() {
        let text = "Types: deb\nURIs: http://a.invalid/\nSuites: sid\nComponents: main\n\
                    Signed-By:\n -----BEGIN PGP-----\n .\n abc\n -----END PGP-----\n";
        let key = "\n -----BEGIN PGP-----\n .\n abc\n -----END PGP-----";
        assert_eq!(choose(&parse_sources(text), "sid"), Some(mirror("http://a.invalid/", Some(key))));
    }

    #[test]
    fn a_vendor_with_the_same_release_name_is_passed_over() {
        let text = "deb [signed-by=/k/vendor.gpg] http://vendor.invalid/ bookworm main\n\
                    deb http://debian.invalid/debian bookworm main\n";
        assert_eq!(choose(&parse_list(text), "bookworm"), Some(mirror("http://debian.invalid/debian", None)));
    }

    #[test]
    fn a_disabled_entry_and_one_without_main_do_not_serve() {
        let text = "Enabled: no\nTypes: deb\nURIs: http://a.invalid/\nSuites: sid\nComponents: main\n\n\
                    Types: deb\nURIs: http://b.invalid/\nSuites: sid\nComponents: contrib\n";
        assert_eq!(choose(&parse_sources(text), "sid"), None);
    }
}
