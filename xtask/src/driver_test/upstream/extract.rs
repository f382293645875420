// SPDX-License-Identifier: MIT OR Apache-2.0
//! Items of a Rust source, as text. The source is formatted by rustfmt: an item begins and ends in the column of the
//! block that it is in.

use anyhow::{ensure, Result};

use super::wrap::add;

/// One item, with its documentation and attributes.
struct Item<'a> {
    lines: Vec<&'a str>,
    /// Which of them is the first that is neither documentation nor attribute.
    first: usize,
}

/// The items of these names in their order in the source: `name`, `Type::method`, `Type::*`, `name!` for a macro and
/// its uses, `Trait for Type`, or `*` for all. Tests and imports are never among them, nor examples in documentation.
pub(super) fn items(source: &str, names: &[&str]) -> Result<String> {
    let lines: Vec<&str> = source.lines().collect();
    let mut used = vec![false; names.len()];
    let mut wanted = |name: &str| {
        let mut found = false;
        for (pattern, used) in names.iter().zip(&mut used) {
            if matches(pattern, name) {
                (found, *used) = (true, true);
            }
        }
        found
    };
    let mut text = String::new();
    for item in split(&lines, "") {
        if item.is_for_others() {
            continue;
        }
        let Some(name) = item.name() else { continue };
        let is_of_type = item.head().starts_with("impl") && !name.contains(" for ");
        if !is_of_type {
            if wanted(&name) {
                item.write(&mut text);
            }
            continue;
        }
        let body = item.body();
        let members = split(body, "    ").into_iter().filter(|member| !member.is_for_others());
        let kept: Vec<_> =
            members.filter(|member| member.name().is_some_and(|member| wanted(&format!("{name}::{member}")))).collect();
        if !kept.is_empty() {
            add(&mut text, item.head());
            for (index, member) in kept.iter().enumerate() {
                text.push_str(if index == 0 { "" } else { "\n" });
                member.write_lines(&mut text);
            }
            text.push_str("}\n\n");
        }
    }
    let unused: Vec<_> = names.iter().zip(used).filter(|(_, used)| !used).map(|(name, _)| *name).collect();
    ensure!(unused.is_empty(), "no item is called {}", unused.join(", "));
    Ok(text)
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => pattern == name,
    }
}

/// The items in lines of this indentation.
fn split<'a>(lines: &[&'a str], indent: &str) -> Vec<Item<'a>> {
    let mut items = Vec::new();
    let mut rest = lines.iter().copied().peekable();
    while rest.peek().is_some() {
        let mut item = Item { lines: Vec::new(), first: 0 };
        let mut is_open = false;
        for line in rest.by_ref() {
            let Some(text) = line.strip_prefix(indent) else {
                if line.is_empty() && !is_open {
                    // What stands alone is no item.
                    item = Item { lines: Vec::new(), first: 0 };
                } else {
                    item.lines.push(line);
                }
                continue;
            };
            if text.is_empty() && !is_open {
                item = Item { lines: Vec::new(), first: 0 };
                continue;
            }
            item.lines.push(line);
            if !is_open {
                if text.starts_with("//") || text.starts_with("#[") || text.starts_with("#!") {
                    continue;
                }
                item.first = item.lines.len() - 1;
                is_open = true;
                if text.ends_with(';') || text.ends_with('}') || text.ends_with("},") {
                    break;
                }
            } else if text.starts_with('}') || text == ");" || text == "];" {
                break;
            }
        }
        if is_open {
            items.push(item);
        }
    }
    items
}

impl<'a> Item<'a> {
    /// The line that says what it is.
    fn head(&self) -> &'a str {
        self.lines[self.first].trim_start()
    }

    fn body(&self) -> &[&'a str] {
        &self.lines[self.first + 1..self.lines.len() - 1]
    }

    /// Whether it is compiled for tests, the model checker or programs only.
    fn is_for_others(&self) -> bool {
        let others = ["#[cfg(test)]", "#[cfg(loom)]", "#[cfg(feature", "#[cfg(doctest)]"];
        let attributes = &self.lines[..self.first];
        attributes.iter().any(|line| others.iter().any(|other| line.trim_start().starts_with(other)))
    }

    fn name(&self) -> Option<String> {
        let head = self.head();
        if let Some(rest) = head.strip_prefix("impl") {
            return Some(implemented(rest));
        }
        let mut words = head.split_whitespace().filter(|word| !word.starts_with("pub"));
        loop {
            let word = words.next()?;
            let up_to = |word: &str| -> String {
                word.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
            };
            match word {
                "unsafe" | "extern" | "\"C\"" => {}
                "const" => {
                    let next = words.next()?;
                    if next != "fn" && next != "unsafe" {
                        return Some(up_to(next));
                    }
                    let next = if next == "unsafe" { words.nth(1)? } else { words.next()? };
                    return Some(up_to(next));
                }
                "fn" | "struct" | "enum" | "trait" | "type" | "static" => return Some(up_to(words.next()?)),
                "macro_rules!" => return Some(format!("{}!", up_to(words.next()?))),
                "use" | "mod" => return None,
                word => return word.split_once('!').map(|(name, _)| format!("{name}!")),
            }
        }
    }

    fn write(&self, text: &mut String) {
        self.write_lines(text);
        text.push('\n');
    }

    fn write_lines(&self, text: &mut String) {
        let mut is_example = false;
        let mut kept: Vec<&str> = Vec::new();
        for line in &self.lines {
            let trimmed = line.trim_start();
            if trimmed.starts_with("/// ```") {
                is_example = !is_example;
                // The empty line before it goes too.
                if is_example && kept.last().is_some_and(|last| last.trim() == "///") {
                    kept.pop();
                }
                continue;
            }
            let is_of_others = trimmed == "#[cfg(not(loom))]" || trimmed == "#[doc(hidden)]";
            if !is_example && !is_of_others && !trimmed.starts_with("#[allow(clippy::") {
                kept.push(line);
            }
        }
        for line in kept {
            add(text, line);
        }
    }
}

/// What is implemented, and for what: without generics of the implementation itself.
fn implemented(rest: &str) -> String {
    let mut depth = 0usize;
    let mut rest = rest;
    if rest.starts_with('<') {
        let end = rest.char_indices().find_map(|(index, letter)| {
            match letter {
                '<' => depth += 1,
                '>' => depth -= 1,
                _ => {}
            }
            (depth == 0).then_some(index + 1)
        });
        rest = &rest[end.unwrap_or(0)..];
    }
    let name = rest.trim().trim_end_matches("{}").trim_end_matches('{').trim();
    match name.split_once(" for ") {
        Some(_) => name.to_owned(),
        None => name.split('<').next().unwrap_or(name).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "\
//! A module.

use core::fmt;

/// A number.
///
/// ```
/// let example = 1;
/// ```
#[derive(Debug)]
pub struct Number(u8);

impl<'a> Number<'a> {
    /// One.
    pub const ONE: Self = Self(1);

    /// None of them.
    #[cfg(loom)]
    fn new() -> Self {
        Self(2)
    }

    #[inline]
    pub const fn new(
        value: u8,
    ) -> Self {
        Self(value)
    }

    fn rest() {}
}

impl fmt::Display for Number {
    fn fmt(&self) {}
}

#[cfg(test)]
mod tests {
    struct Number;
}
";

    #[test]
    fn what_is_named_is_kept() {
        let text = items(SOURCE, &["Number", "Number::new"]).unwrap();
        assert_eq!(
            text,
            "/// A number.\n#[derive(Debug)]\npub struct Number(u8);\n\nimpl<'a> Number<'a> {\n    #[inline]\n    \
             pub const fn new(\n        value: u8,\n    ) -> Self {\n        Self(value)\n    }\n}\n\n"
        );
        assert!(items(SOURCE, &["fmt::Display for Number"]).unwrap().contains("fn fmt"));
        assert!(items(SOURCE, &["Number::*"]).unwrap().contains("fn rest() {}\n}"));
    }

    #[test]
    fn a_name_that_is_not_there_is_said() {
        assert!(items(SOURCE, &["Nothing"]).unwrap_err().to_string().contains("Nothing"));
    }
}
