// SPDX-License-Identifier: MIT OR Apache-2.0
//! The header is what the source says, and the linker's list of symbols has all of its functions.
//!
//! After a change: `VMCLOCK_WRITE_HEADER=1 cargo test --package vmclock-capi --test header`, and read the difference.

use std::fs;
use std::path::PathBuf;

use cbindgen::{Builder, Config};

/// How long lines are.
const LINE: usize = 120;

/// In the order in which the header has them.
const SOURCES: [&str; 7] = ["error", "time", "state", "clock", "reading", "events", "stored"];

fn own(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    let path = own(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What cbindgen makes of the source, with comments of one line in one line.
fn generate() -> String {
    let config = Config::from_file(own("cbindgen.toml")).expect("the configuration is in order");
    let builder = SOURCES
        .iter()
        .fold(Builder::new().with_config(config), |builder, name| builder.with_src(own(&format!("src/{name}.rs"))));
    let mut bytes = Vec::new();
    builder.generate().expect("cbindgen understands the source").write(&mut bytes);
    let text = String::from_utf8(bytes).expect("the source is UTF-8");

    let mut lines: Vec<&str> = text.lines().collect();
    let mut compact: Vec<String> = Vec::new();
    while !lines.is_empty() {
        let (line, used) = match &lines[..] {
            [open, only, close, ..]
                if open.trim() == "/**" && close.trim() == "*/" && only.len() + "* */".len() <= LINE =>
            {
                let indent = &open[..open.len() - open.trim_start().len()];
                (format!("{indent}/** {} */", only.trim().trim_start_matches("* ")), 3)
            }
            [line, ..] => ((*line).to_owned(), 1),
            [] => unreachable!("not empty"),
        };
        lines.drain(..used);
        compact.push(line.trim_end().to_owned());
    }
    compact.join("\n") + "\n"
}

#[test]
fn the_header_is_what_the_source_says() {
    let generated = generate();
    if std::env::var_os("VMCLOCK_WRITE_HEADER").is_some() {
        fs::write(own("include/vmclock.h"), &generated).expect("written");
    }
    let committed = read("include/vmclock.h");
    let differ = committed.lines().zip(generated.lines()).find(|(old, new)| old != new);
    assert!(
        committed == generated,
        "include/vmclock.h is not what the source says, first in {differ:?}; to make it anew: \
         VMCLOCK_WRITE_HEADER=1 cargo test --package vmclock-capi --test header"
    );
    for line in generated.lines() {
        assert!(line.chars().count() <= LINE, "too long: {line}");
    }
}

/// The names that the header declares as functions.
fn declared() -> Vec<String> {
    let header = read("include/vmclock.h");
    let mut names: Vec<String> = header
        .lines()
        .filter(|line| !line.starts_with([' ', '/', '#']) && !line.starts_with("enum vmclock_result {"))
        .filter_map(|line| line.split_once('('))
        .filter_map(|(before, _)| before.rsplit([' ', '*']).next())
        .map(str::to_owned)
        .collect();
    names.sort();
    names
}

#[test]
fn every_function_has_a_version_and_every_version_a_function() {
    let map = read("libvmclock.map");
    let mut listed: Vec<String> =
        map.lines().filter_map(|line| line.trim().strip_suffix(';')).map(str::to_owned).collect();
    listed.retain(|name| name.starts_with("vmclock_"));
    listed.sort();
    assert_eq!(listed, declared(), "libvmclock.map and include/vmclock.h");
    assert!(listed.len() > 40, "only {} functions: the test tests nothing", listed.len());
}
