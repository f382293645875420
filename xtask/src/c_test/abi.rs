// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ABI that was recorded, and what it is now, as libabigail sees them.
//!
//! Both are of a library that consists of the header's declarations with empty bodies, compiled as C: that is what
//! programs are compiled and linked with. Of our own library's debugging information, which is Rust's, most would be
//! private types and paths. That the header and the library agree, the header's own test and `check_symbols` see to.

use std::path::PathBuf;

use anyhow::{ensure, Context, Result};

use crate::c_library::{compiler, read, write, CRATE};
use crate::project::Project;
use crate::shell::{say, Cmd};

use super::Place;

/// The recorded ABI of an architecture.
fn recorded(project: &Project) -> PathBuf {
    project.path(CRATE).join(format!("abi/libvmclock.{}.xml", std::env::consts::ARCH))
}

pub(super) fn record(project: &Project, place: &Place) -> Result<()> {
    let xml = describe(project, place)?;
    let to = recorded(project);
    std::fs::copy(&xml, &to).with_context(|| format!("cannot write {}", to.display()))?;
    say(&format!("recorded in {}", to.display()));
    Ok(())
}

/// Programs that were linked with the recorded library work with this one, and what is new was recorded.
pub(super) fn compare(project: &Project, place: &Place) -> Result<()> {
    let (old, new) = (recorded(project), describe(project, place)?);
    if !old.is_file() {
        say(&format!("the ABI was recorded for other architectures only: {} is missing", old.display()));
        return Ok(());
    }
    let difference = Cmd::new("abidiff").arg(&old).arg(&new).read_all();
    difference.context(
        "the ABI is not the recorded one. If functions were added: give them a new version in libvmclock.map, then \
         `cargo xtask record-c-abi`. If anything else was changed, programs would break: they need another soname",
    )?;
    say("the ABI is as recorded");
    Ok(())
}

/// Writes libabigail's description of what the installed header declares.
fn describe(project: &Project, place: &Place) -> Result<PathBuf> {
    let header = read(&place.prefix.join("include/vmclock.h"))?;
    let (source, library) = (place.folder.join("abi.c"), place.folder.join("abi.so"));
    let bodies = with_bodies(&header);
    ensure!(bodies.matches(BODY).count() > 40, "the header's functions are not found: has its form changed?");
    write(&source, &bodies)?;
    let map = project.path(CRATE).join("libvmclock.map");
    let compile = project.command(compiler("CC", "cc")).args(["-std=c99", "-g", "-O0", "-shared", "-fPIC", "-o"]);
    let compile = compile.arg(&library).arg(&source).arg(format!("-Wl,--version-script={}", map.display()));
    compile.args(["-Wl,-soname,libvmclock.so.1", "-nostdlib"]).read()?;
    let xml = place.folder.join("abi.xml");
    let describe = Cmd::new("abidw").args(["--no-corpus-path", "--no-comp-dir-path", "--no-show-locs", "--out-file"]);
    describe.arg(&xml).arg(&library).read_all()?;
    // Where it was compiled is no part of it.
    let text = read(&xml)?.replace(&source.display().to_string(), "vmclock.h");
    write(&xml, &text)?;
    Ok(xml)
}

const BODY: &str = " { for (;;) {} }";

/// The header with a body for each declaration of a function.
fn with_bodies(header: &str) -> String {
    let mut text = String::new();
    let mut in_function = false;
    for line in header.lines() {
        in_function |= !line.starts_with([' ', '/', '#', '}']) && line.contains('(');
        match line.strip_suffix(");") {
            Some(rest) if in_function => {
                text.extend([rest, ")", BODY, "\n"]);
                in_function = false;
            }
            _ => text.extend([line, "\n"]),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_get_bodies_and_nothing_else_does() {
        let header = "struct a {\n    int b;\n};\nint f(int x,\n      int y);\n#define G(x) h((x));\nvoid g(void);\n";
        let expected = format!(
            "struct a {{\n    int b;\n}};\nint f(int x,\n      int y){BODY}\n#define G(x) h((x));\nvoid g(void){BODY}\n"
        );
        assert_eq!(with_bodies(header), expected);
    }
}
