// SPDX-License-Identifier: MIT OR Apache-2.0
//! Running a command: printed as a shell would take it, and explained when it fails.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{bail, Context, Result};

/// Prints a line, or not, where nobody listens any more (`cargo xtask test | head`): the work goes on all the same.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// A command to run, which can be printed.
pub(crate) struct Cmd {
    command: Command,
    /// Variables that this program sets, in the order given: `Command` keeps them sorted and mixed with removals.
    variables: Vec<(OsString, OsString)>,
}

impl Cmd {
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        Self { command, variables: Vec::new() }
    }

    #[must_use]
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    #[must_use]
    pub(crate) fn args<I: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = I>) -> Self {
        self.command.args(args);
        self
    }

    #[must_use]
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, &value);
        self.variables.push((name.into(), value.as_ref().into()));
        self
    }

    #[must_use]
    pub(crate) fn env_remove(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    #[must_use]
    pub(crate) fn current_dir(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Prints the command and runs it with this program's own output.
    pub(crate) fn run(mut self) -> Result<()> {
        say(&format!("$ {self}"));
        let status = self.command.status().with_context(|| self.cannot_start())?;
        if !status.success() {
            bail!("`{self}` failed: {status}");
        }
        Ok(())
    }

    /// Runs the command without a word and gives what it printed. Where it fails, the error says what it complained of.
    pub(crate) fn read(mut self) -> Result<String> {
        let Output { status, stdout, stderr } = self.command.output().with_context(|| self.cannot_start())?;
        if !status.success() {
            bail!("`{self}` failed: {status}\n{}", String::from_utf8_lossy(&stderr).trim_end());
        }
        String::from_utf8(stdout).with_context(|| format!("`{self}` printed something that is not UTF-8"))
    }

    /// The same for a command that says all it has to say on its standard output, complaints too.
    pub(crate) fn read_all(mut self) -> Result<String> {
        let Output { status, stdout, stderr } = self.command.output().with_context(|| self.cannot_start())?;
        let said = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
        if !status.success() {
            bail!("{} failed: {status}\n{}", self.command.get_program().to_string_lossy(), said.trim_end());
        }
        Ok(said)
    }

    fn cannot_start(&self) -> String {
        format!("cannot start {}: is it installed?", self.command.get_program().to_string_lossy())
    }
}

impl fmt::Display for Cmd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.variables {
            write!(f, "{}={} ", name.to_string_lossy(), quoted(value))?;
        }
        write!(f, "{}", quoted(self.command.get_program()))?;
        self.command.get_args().try_for_each(|arg| write!(f, " {}", quoted(arg)))
    }
}

/// A word as a POSIX shell has to be given it.
pub(crate) fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_prints_as_a_shell_takes_it() {
        let command = Cmd::new("cargo").arg("doc").env("RUSTDOCFLAGS", "--cfg x").args(["it's", ""]);
        assert_eq!(command.to_string(), r"RUSTDOCFLAGS='--cfg x' cargo doc 'it'\''s' ''");
    }

    #[test]
    fn a_failure_names_the_command_and_its_complaint() {
        let error = Cmd::new("sh").args(["-c", "echo no such moon >&2; exit 3"]).read().unwrap_err().to_string();
        assert!(
            error.contains("sh -c") && error.contains("exit status: 3") && error.contains("no such moon"),
            "{error}"
        );
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Cmd::new("no-such-program").read().unwrap_err();
        assert!(error.to_string().contains("no-such-program"), "{error}");
    }
}
