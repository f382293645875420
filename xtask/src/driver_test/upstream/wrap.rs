// SPDX-License-Identifier: MIT OR Apache-2.0
//! Comments of at most 100 columns, as the kernel has them. rustfmt leaves comments as they are.

/// The longest line that the kernel's style allows for.
const COLUMNS: usize = 100;

/// Breaks paragraphs of comments with a line that is too long. Tables, lists and what begins with more than one blank
/// stay as they are.
pub(super) fn comments(source: &str) -> String {
    let lines: Vec<&str> = source.lines().collect();
    let mut text = String::new();
    let mut rest = &lines[..];
    while let [line, after @ ..] = rest {
        let Some((marker, _)) = comment(line) else {
            add(&mut text, line);
            rest = after;
            continue;
        };
        let is_same = |line: &&&str| comment(line).is_some_and(|(other, _)| other == marker);
        let len = 1 + after.iter().take_while(is_same).count();
        let (paragraph, after) = rest.split_at(len);
        write(&mut text, marker, paragraph);
        rest = after;
    }
    text
}

fn write(text: &mut String, marker: &str, paragraph: &[&str]) {
    if paragraph.iter().all(|line| line.chars().count() <= COLUMNS) {
        for line in paragraph {
            add(text, line);
        }
        return;
    }
    let words = paragraph.iter().filter_map(|line| comment(line)).flat_map(|(_, words)| words.split_whitespace());
    let mut line = marker.to_owned();
    for word in words {
        if line.chars().count() + 1 + word.chars().count() > COLUMNS && line.len() > marker.len() {
            add(text, &line);
            marker.clone_into(&mut line);
        }
        line.push(' ');
        line.push_str(word);
    }
    add(text, &line);
}

pub(super) fn add(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

/// A line of a paragraph: indentation and marker, and its words.
fn comment(line: &str) -> Option<(&str, &str)> {
    let trimmed = line.trim_start();
    let marker = ["///", "//!", "//"].into_iter().find(|marker| trimmed.starts_with(marker))?;
    let end = line.len() - trimmed.len() + marker.len();
    let (marker, words) = line.split_at(end);
    let words = words.strip_prefix(' ')?;
    let is_plain = !words.starts_with([' ', '|', '-', '*', '#', '@']) && !words.starts_with("```");
    (is_plain && !words.starts_with("SPDX-")).then_some((marker, words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paragraph_that_is_too_wide_is_broken_anew() {
        let (long, word) = ("a ".repeat(48), "word ".repeat(3));
        let source = format!("fn x() {{\n    // {long}\n    // {word}\n    //\n    // short\n}}\n");
        let wrapped = comments(&source);
        assert!(wrapped.lines().all(|line| line.len() <= COLUMNS), "{wrapped}");
        assert_eq!(wrapped.split_whitespace().filter(|word| *word == "word").count(), 3);
        assert!(wrapped.ends_with("    //\n    // short\n}\n"));
        assert_eq!(comments(&wrapped), wrapped);
        let table = format!("//! | {long} | {word} |\n");
        assert_eq!(comments(&table), table);
    }
}
