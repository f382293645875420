// SPDX-License-Identifier: MIT OR Apache-2.0
//! The manual pages, made of the header: its comments are their text, vmclock(3) is its beginning and its types.
//!
//! The header is cbindgen's and always of one form: a comment, then what it is about, then an empty line. Comments know
//! paragraphs, `code`, indented examples, and headings in capitals.

use std::fmt::Write;

use anyhow::{ensure, Context, Result};

/// The comment before something, and the lines of that.
struct Item<'a> {
    comment: Vec<&'a str>,
    code: Vec<&'a str>,
}

/// Every page, as its name and its text.
pub(super) fn pages(header: &str, version: &str) -> Result<Vec<(String, String)>> {
    let items = items(header);
    let functions: Vec<(&str, &Item)> =
        items.iter().filter_map(|item| Some((function(item.code.first()?)?, item))).collect();
    ensure!(functions.len() > 40, "only {} functions are found in the header: has its form changed?", functions.len());
    let (overview, rest) = items.split_first().context("the header is empty")?;
    let mut pages = vec![("vmclock".to_owned(), main_page(overview, rest, &functions, version)?)];
    for (name, item) in &functions {
        pages.push(((*name).to_owned(), function_page(name, item, version)?));
    }
    Ok(pages)
}

fn items(header: &str) -> Vec<Item<'_>> {
    let mut items = Vec::new();
    let mut lines = header.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(start) = line.strip_prefix("/**") else { continue };
        let comment = comment(start, &mut lines);
        let code = std::iter::from_fn(|| lines.next_if(|line| !line.is_empty())).collect();
        items.push(Item { comment, code });
    }
    items
}

/// The text of a comment whose first line, behind `/**`, is `start`; the others are taken from `lines`.
fn comment<'a>(start: &'a str, lines: &mut impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    if let Some(only) = start.strip_suffix("*/") {
        return vec![only.trim()];
    }
    let inside = lines.map(str::trim_start).take_while(|line| *line != "*/");
    inside.map(|line| line.strip_prefix("* ").unwrap_or_default()).collect()
}

/// The name of the function that a line begins to declare.
fn function(line: &str) -> Option<&str> {
    let before = line.split_once('(').filter(|_| !line.starts_with('#'))?.0;
    before.rsplit([' ', '*']).next()
}

fn function_page(name: &str, item: &Item, version: &str) -> Result<String> {
    let first = first_sentence(&item.comment)?;
    let mut page = head(name, &first, version);
    page += &code(&[&["#include <vmclock.h>", ""], &item.code[..]].concat());
    page += "\n.SH DESCRIPTION\n";
    page += &paragraphs(&item.comment);
    page += "\n.SH SEE ALSO\n.BR vmclock (3)\n";
    Ok(page)
}

fn main_page(overview: &Item, items: &[Item], functions: &[(&str, &Item)], version: &str) -> Result<String> {
    let first = overview.comment.first().context("the header has no description")?;
    let about = first.split_once(": ").context("the header's first line has no colon")?.1;
    let mut page = head("vmclock", about, version);
    page += &code(&["#include <vmclock.h>", "", "cc program.c $(pkg-config --cflags --libs libvmclock)"]);
    page += "\n.SH DESCRIPTION\n";
    page += &paragraphs(overview.comment.get(2..).unwrap_or_default());
    page += "\n.SH FUNCTIONS\n";
    for (name, item) in functions {
        write!(page, ".TP\n.BR {name} (3)\n{}\n", line(&first_sentence(&item.comment)?))?;
    }
    page += ".SH TYPES\n";
    for item in items {
        if let [first, members @ .., "};"] = &item.code[..] {
            let name = first.trim_end_matches(" {");
            write!(page, ".SS {name}\n{}\n", paragraphs(&item.comment).trim_end())?;
            page += &fields(members);
        } else if let Some([_, name, value]) =
            item.code.first().map(|code| code.splitn(3, ' ').collect::<Vec<_>>()).as_deref()
        {
            if name.starts_with("VMCLOCK_") && !name.contains('(') {
                write!(page, ".SS {name} = {value}\n{}\n", paragraphs(&item.comment).trim_end())?;
            }
        }
    }
    Ok(page)
}

/// The members of a structure or an enumeration.
fn fields(members: &[&str]) -> String {
    let mut text = String::new();
    let mut lines = members.iter().copied();
    let mut about = Vec::new();
    while let Some(member) = lines.next() {
        if let Some(start) = member.trim_start().strip_prefix("/**") {
            about = comment(start, &mut lines);
        } else {
            let member = member.trim().trim_end_matches([',', ';']);
            let _ = write!(text, ".TP\n.B {}\n{}\n", escaped(member), paragraphs(&about).trim_end());
            about.clear();
        }
    }
    text
}

/// What every page begins with.
fn head(name: &str, about: &str, version: &str) -> String {
    let title = name.to_uppercase();
    let about = escaped(&about.replace('`', "")).trim_end_matches('.').to_owned();
    format!(
        ".TH {title} 3 \"\" \"libvmclock {version}\" \"libvmclock\"\n.nh\n.SH NAME\n{name} \\- {about}\n.SH SYNOPSIS\n"
    )
}

fn code(lines: &[&str]) -> String {
    let lines: Vec<String> = lines.iter().map(|line| guarded(&escaped(line))).collect();
    format!(".nf\n.B\n{}\n.fi\n", lines.join("\n.B\n").replace("\n.B\n\n", "\n\n"))
}

/// What a comment says in one line: its first sentence, without particulars.
fn first_sentence(comment: &[&str]) -> Result<String> {
    let paragraph: Vec<&str> = comment.iter().copied().take_while(|line| !line.is_empty()).collect();
    let text = paragraph.join(" ");
    // What follows a colon or a semicolon are particulars.
    let ends = [". ", ": ", "; "].iter().filter_map(|end| text.find(end));
    let end = ends.min().unwrap_or(text.trim_end_matches('.').len());
    let sentence = text.get(..end).context("a function has no description")?;
    ensure!(!sentence.is_empty(), "a function has no description");
    Ok(sentence.to_owned())
}

/// Paragraphs, headings and examples.
fn paragraphs(comment: &[&str]) -> String {
    let mut text = String::new();
    // None is begun at the start, nor after a heading.
    let mut begin = "";
    for block in comment.split(|line| line.is_empty()) {
        match block {
            [] => continue,
            [heading] if heading.chars().all(|c| c.is_ascii_uppercase() || c == ' ') => {
                let _ = writeln!(text, ".SH {heading}");
                begin = "";
                continue;
            }
            [first, ..] if first.starts_with("    ") => {
                let lines: Vec<String> =
                    block.iter().map(|line| guarded(&escaped(line.strip_prefix("    ").unwrap_or(line)))).collect();
                let _ = write!(text, "{begin}.RS 4\n.nf\n{}\n.fi\n.RE\n", lines.join("\n"));
            }
            lines => {
                let _ = writeln!(text, "{begin}{}", line(&lines.join(" ")));
            }
        }
        begin = ".PP\n";
    }
    text
}

/// Text with its `code` in bold.
fn line(text: &str) -> String {
    let parts = text.split('`').enumerate();
    let text: String = parts
        .map(|(index, part)| if index % 2 == 1 { format!(r"\fB{}\fP", escaped(part)) } else { escaped(part) })
        .collect();
    guarded(&text)
}

fn escaped(text: &str) -> String {
    text.replace('\\', r"\e").replace('-', r"\-")
}

/// What begins with a point or an apostrophe would be a request.
fn guarded(line: &str) -> String {
    if line.starts_with(['.', '\'']) {
        format!(r"\&{line}")
    } else {
        line.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "/**\n * lib: what it is.\n *\n * It does.\n *\n * UNITS\n *\n * Seconds.\n */\n\n\
        /** Does `x`. Or \\not. */\nint vmclock_do(int x,\n               int y);\n\n\
        /** A thing. */\nstruct thing {\n    /** Its size. */\n    int size;\n};\n";

    #[test]
    fn a_function_has_its_prototype_and_its_text() {
        let items = items(HEADER);
        assert_eq!(items.len(), 3);
        let name = function(items[1].code[0]).unwrap();
        let page = function_page(name, &items[1], "1").unwrap();
        assert!(page.contains("vmclock_do \\- Does x\n"), "{page}");
        assert!(page.contains("int vmclock_do(int x,\n.B\n               int y);\n"), "{page}");
        assert!(page.contains("Does \\fBx\\fP. Or \\enot."), "{page}");
    }

    #[test]
    fn the_main_page_has_sections_functions_and_types() {
        let items = items(HEADER);
        let functions = [("vmclock_do", &items[1])];
        let page = main_page(&items[0], &items[1..], &functions, "1").unwrap();
        for part in [
            ".SH UNITS\nSeconds.\n",
            ".BR vmclock_do (3)\nDoes",
            ".SS struct thing\nA thing.",
            ".B int size\nIts size.",
        ] {
            assert!(page.contains(part), "{part:?} in {page}");
        }
    }
}
