// SPDX-License-Identifier: MIT OR Apache-2.0
//! The settings beside a hook.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use toml::de::{DeTable, DeValue};

use super::{account, duration, trusted, Account, EVENTS};

/// How a hook is run, and for what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// For which events; some of [`EVENTS`].
    pub events: Vec<&'static str>,
    /// How long an attempt may take, up to 24 h.
    pub timeout: Duration,
    /// How many more attempts there are after one that failed, up to 100.
    pub retries: u32,
    /// Who it runs as, where that is not the hook runner's own user.
    pub user: Option<Account>,
    /// Whether what waits for the run needs it to succeed.
    pub required: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { events: vec!["restored"], timeout: Duration::from_secs(30), retries: 0, user: None, required: false }
    }
}

/// A file of settings that cannot be used.
pub(super) struct Wrong {
    pub(super) path: PathBuf,
    pub(super) line: Option<usize>,
    pub(super) problem: String,
    /// For which events the hook is; all of them where that is not certain.
    pub(super) events: Vec<&'static str>,
    /// Whether the hook is required; true where that is not certain.
    pub(super) required: bool,
}

/// What is wrong in a text, and where, in bytes.
#[derive(PartialEq, Eq, Debug)]
struct Problem {
    place: usize,
    text: String,
    /// What else there is, if that is certain.
    rest: Option<Settings>,
}

/// More than this is not a file of settings.
const LARGEST: u64 = 64 * 1024;
const MOST_RETRIES: u32 = 100;

/// The settings in a file; the defaults where there is none.
pub(super) fn read(path: &Path) -> Result<Settings, Wrong> {
    let wrong = |line, problem, rest: Option<Settings>| {
        let (events, required) = rest.map_or((EVENTS.to_vec(), true), |rest| (rest.events, rest.required));
        Wrong { path: path.to_owned(), line, problem, events, required }
    };
    match text(path) {
        Ok(Some(text)) => {
            parse(&text).map_err(|problem| wrong(Some(line(&text, problem.place)), problem.text, problem.rest))
        }
        Ok(None) => Ok(Settings::default()),
        Err(problem) => Err(wrong(None, problem, None)),
    }
}

/// The line, counted from 1, of a place in bytes; which need not be the first of a character.
fn line(text: &str, place: usize) -> usize {
    text.as_bytes().get(..place).unwrap_or_default().split(|&byte| byte == b'\n').count()
}

fn text(path: &Path) -> Result<Option<String>, String> {
    let cannot = |error: io::Error| format!("cannot be read: {error}");
    // Without waiting for a writer, should it be a pipe.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = match File::options().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(cannot)?,
    };
    let metadata = file.metadata().map_err(cannot)?;
    if !metadata.is_file() {
        return Err("is not a file: put settings there, or remove it".to_owned());
    }
    trusted(&metadata)?;
    let mut text = String::new();
    file.take(LARGEST + 1).read_to_string(&mut text).map_err(cannot)?;
    if text.len() as u64 > LARGEST {
        return Err(format!("has more than {LARGEST} bytes: it is no file of settings"));
    }
    Ok(Some(text))
}

fn parse(text: &str) -> Result<Settings, Problem> {
    let table = DeTable::parse(text).map_err(|error| {
        let place = error.span().map_or(0, |span| span.start);
        Problem { place, text: format!("is not TOML: {}", error.message()), rest: None }
    })?;
    let mut settings = Settings::default();
    let mut problem = None;
    let mut is_certain = true;
    for (key, value) in table.get_ref() {
        let (place, name) = (key.span().start, key.get_ref().as_ref());
        if let Err(text) = settings.set(name, value.get_ref()) {
            // A key that is not known may be a misspelt one.
            is_certain &= ["timeout", "retries", "user"].contains(&name);
            problem.get_or_insert((place, format!("{name}: {text}")));
        }
    }
    match problem {
        None => Ok(settings),
        Some((place, text)) => Err(Problem { place, text, rest: is_certain.then_some(settings) }),
    }
}

impl Settings {
    fn set(&mut self, key: &str, value: &DeValue<'_>) -> Result<(), String> {
        let is = value.type_str();
        match key {
            "events" => {
                let array = value.as_array().ok_or_else(|| format!("is of type {is}: write [\"restored\"]"))?;
                self.events = array.iter().map(|event| known_event(event.get_ref())).collect::<Result<_, _>>()?;
                if self.events.is_empty() {
                    return Err("is empty: name an event, or remove the hook".to_owned());
                }
            }
            "timeout" => {
                let text = value.as_str().ok_or_else(|| format!("is of type {is}: write \"30s\""))?;
                self.timeout = duration::parse(text)?;
            }
            "retries" => {
                let number = value.as_integer().filter(|number| number.radix() == 10);
                let number = number.and_then(|number| number.as_str().parse().ok());
                self.retries = number
                    .filter(|&retries| retries <= MOST_RETRIES)
                    .ok_or_else(|| format!("has to be a whole number from 0 to {MOST_RETRIES}"))?;
            }
            "user" => {
                let number = value.as_integer().map(toml::de::DeInteger::as_str);
                let user = value.as_str().or(number);
                let user = user.ok_or_else(|| format!("is of type {is}: write a name or a uid"))?;
                self.user = Some(account::find(user)?);
            }
            "required" => {
                self.required = value.as_bool().ok_or_else(|| format!("is of type {is}: write true or false"))?;
            }
            _ => return Err("is not known; the keys are events, timeout, retries, user and required".to_owned()),
        }
        Ok(())
    }
}

fn known_event(value: &DeValue<'_>) -> Result<&'static str, String> {
    let name = value.as_str().ok_or_else(|| format!("has a value of type {}: write names", value.type_str()))?;
    let known = EVENTS.into_iter().find(|known| *known == name);
    known.ok_or_else(|| format!("{name:?} is no event; the events are {}", EVENTS.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn all_keys() {
        let text = "events = ['quiesce', \"thawed\"]\ntimeout = '2min'\nretries = 3\nuser = '7:8'\nrequired = true\n";
        let expected = Settings {
            events: vec!["quiesce", "thawed"],
            timeout: Duration::from_secs(120),
            retries: 3,
            user: Some(Account { uid: 7, gid: 8, groups: vec![] }),
            required: true,
        };
        assert_eq!(parse(text), Ok(expected));
    }

    #[test]
    fn errors_name_line_and_key() {
        let cases = [
            ("\n\nevents = ['restored', 'restord']", 3, "events: \"restord\" is no event"),
            ("events = []", 1, "events: is empty"),
            ("events = 'restored'", 1, "events: is of type string"),
            ("# ü\ntimeout = 30", 2, "timeout: is of type integer"),
            ("timeout = '30'", 1, "timeout: \"30\" is no duration"),
            ("retries = -1", 1, "retries: has to be a whole number from 0 to 100"),
            ("retries = 101", 1, "retries: has to be"),
            ("retries = 0x10", 1, "retries: has to be"),
            ("user = 'no such user'", 1, "user: "),
            ("required = 'yes'", 1, "required: is of type string"),
            ("required = true\nwanted = 1", 2, "wanted: is not known"),
            ("required = true\nrequired = true", 2, "is not TOML: "),
            ("[section]", 1, "section: is not known"),
            ("timeout = ", 1, "is not TOML: "),
        ];
        for (text, line, problem) in cases {
            let found = parse(text).unwrap_err();
            assert_eq!(super::line(text, found.place), line, "{text:?}");
            assert!(found.text.starts_with(problem), "{text:?}: {found:?}");
        }
    }

    #[test]
    fn what_is_certain_in_spite_of_an_error() {
        let rest = |text| parse(text).unwrap_err().rest.map(|rest| (rest.events, rest.required));
        let certain = Some((vec!["quiesce"], true));
        assert_eq!(rest("timeout = 1\nevents = ['quiesce']\nrequired = true"), certain);
        assert_eq!(rest("events = ['quiesce']\nuser = 'no such user'\nrequired = true"), certain);
        assert_eq!(rest("timeout = 1"), Some((vec!["restored"], false)));
        for uncertain in ["require = true", "timeout = 1\nevents = ['x']", "required = 1", "timeout"] {
            assert_eq!(rest(uncertain), None, "{uncertain}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "(?s)((events|timeout|retries|user|required) ?= ?)?[\\[\\]'\"0-9a-z=\n.ü_-]{0,20}") {
            let _ = parse(&text);
        }
    }
}
