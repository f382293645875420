// SPDX-License-Identifier: MIT OR Apache-2.0
//! Running the built command, and publishers that end with the test.
#![allow(dead_code, unreachable_pub)] // each test binary uses some of it

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{kill_process, Pid, Signal};
use serde_json::Value;

pub mod schema;

/// More than anything should take, also on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(30);

pub fn vmclock() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmclock"));
    command.stdin(Stdio::null());
    command
}

/// Runs the command to its end.
pub fn run(args: &[&str]) -> Output {
    vmclock().args(args).output().expect("the command can be run")
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("output is UTF-8")
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("errors are UTF-8")
}

/// Runs it with these arguments, which ask for JSON, and expects success and one line.
pub fn json(args: &[&str]) -> Value {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    let line = serde_json::from_str(&stdout(&output));
    let line = line.unwrap_or_else(|error| panic!("{args:?}: {error}: {}", stdout(&output)));
    schema::check(&args.iter().map(ToString::to_string).collect::<Vec<_>>(), &line);
    line
}

/// Waits until something is so.
pub fn wait_for<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        std::thread::yield_now();
    }
}

/// A child whose lines are read as they come, and which is killed when the test is over.
pub struct Lines {
    /// Of the command.
    arguments: Vec<String>,
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Lines {
    pub fn of(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the command can be run");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let arguments = command.get_args().map(|argument| argument.to_string_lossy().into_owned()).collect();
        Self { arguments, child, output }
    }

    /// The next line, or `None` at the end.
    pub fn next(&mut self) -> Option<String> {
        let mut line = String::new();
        let len = self.output.read_line(&mut line).expect("readable");
        (len > 0).then(|| line.trim_end().to_owned())
    }

    /// Lines as JSON, up to and including the first that fits.
    pub fn until(&mut self, fits: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut seen = Vec::new();
        loop {
            let line = self.next().unwrap_or_else(|| panic!("ended before what was expected; it said {seen:?}"));
            let value: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
            schema::check(&self.arguments, &value);
            let done = fits(&value);
            seen.push(value);
            if done {
                return seen;
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a child has a number");
        kill_process(pid, signal).expect("it is ours");
    }

    /// Stops reading, and waits for the end; the exit status.
    pub fn close_and_wait(mut self) -> Option<i32> {
        let nobody = Command::new("true").stdout(Stdio::piped()).spawn().expect("run").stdout.take().expect("piped");
        drop(std::mem::replace(&mut self.output, BufReader::new(nobody)));
        self.wait()
    }

    /// Waits for the end; the exit status.
    pub fn wait(&mut self) -> Option<i32> {
        self.child.wait().expect("it is ours").code()
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `vmclock serve` with a page in a folder of its own.
pub struct Publisher {
    pub lines: Lines,
    /// What it said until it had published a time.
    pub said: Vec<Value>,
    folder: PathBuf,
    own_folder: Option<tempfile::TempDir>,
}

impl Publisher {
    /// With this machine's clock as the truth, and a stated TAI offset, so that no test depends on the machine's own.
    pub fn start() -> Self {
        Self::with(&["--reference", "host-clock", "--tai-offset", "-37"])
    }

    pub fn with(args: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut publisher = Self::in_folder(folder.path(), args);
        publisher.own_folder = Some(folder);
        publisher
    }

    pub fn in_folder(folder: &Path, args: &[&str]) -> Self {
        let page = folder.join("page");
        let mut lines = Lines::of(vmclock().args(["serve", "--json", "--page"]).arg(&page).args(args));
        let said = lines.until(|line| line["event"] == "refreshed");
        Self { lines, said, folder: folder.into(), own_folder: None }
    }

    pub fn page(&self) -> PathBuf {
        self.folder.join("page")
    }

    /// The page's path, as an argument.
    pub fn path(&self) -> String {
        self.page().to_str().expect("temporary folders have plain names").to_owned()
    }

    /// What `vmclock show --json` says of the page.
    pub fn show(&self) -> Value {
        json(&["show", "--json", "--page", &self.path()])
    }

    pub fn send(&self, signal: &[&str]) -> Value {
        json(&[&["signal"], signal, &["--json", "--page", &self.path()]].concat())
    }

    pub fn said(&self, event: &str) -> bool {
        self.said.iter().any(|line| line["event"] == event)
    }
}
