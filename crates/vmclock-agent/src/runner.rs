// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs hooks, in a process of its own: the agent can give up rights that hooks need, and a hook can hold up nothing.
//!
//! The agent has a [`Runner`], and polls it. The other end is [`serve`], one poll loop:
//!
//! - Runs are done one after the other, in the order that they were asked for. Each reads the folder anew.
//! - All hooks with the same order number run in parallel (256 at once, or as many as there are file
//!   descriptors for); the next number when the last of them has
//!   ended, failed or not.
//! - Each attempt is a session of its own in `/`, with nothing to read, and only `PATH`, `LANG` and the event's
//!   `VMCLOCK_` variables in its environment; its umask is 022. Nothing is interpreted by a shell.
//! - At its timeout the attempt's process group gets SIGTERM, and SIGKILL 2 s later or when the hook itself has ended.
//!   Processes that it left behind in time stay, but what they write from then on has no reader.
//! - The last 4 KiB of what it writes to standard output and standard error are kept.
//! - After an attempt that failed, the next one waits for 100 ms; then twice as long each time, 5 s at most.
//! - When the agent ends, hooks that run are run to their end, nothing more is started, and the runner ends.
//!   When the runner ends, hooks get SIGTERM.

mod client;
mod message;
mod process;
mod serve;
mod stage;
mod tail;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

pub use client::{Runner, MOST_RUNS};
pub use serve::serve;

/// What hooks are run for: an event, or several at once.
///
/// ```
/// use vmclock_agent::runner::HookEvent;
/// let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
/// let generation = variable("VMCLOCK_GENERATION", "7");
/// let event = HookEvent { names: vec!["restored".to_owned()], variables: vec![generation.clone()] };
/// assert!(event.check().is_ok());
/// let preload = variable("LD_PRELOAD", "/tmp/it.so");
/// assert!(HookEvent { variables: vec![generation, preload], ..event }.check().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HookEvent {
    /// Some of [`crate::hook::EVENTS`]. A hook that is for several of them runs once.
    pub names: Vec<String>,
    /// The hooks' environment: names of `A` to `Z`, `0` to `9` and `_` that begin with `VMCLOCK_`, and their values.
    pub variables: Vec<(String, String)>,
}

impl HookEvent {
    /// Whether hooks can be run for it. The error, of kind `InvalidInput`, names what is wrong.
    pub fn check(&self) -> io::Result<()> {
        let wrong = |what: String| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        for (name, value) in &self.variables {
            let rest = name.strip_prefix("VMCLOCK_").unwrap_or_default();
            let is_name = rest.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
            if rest.is_empty() || !is_name {
                return wrong(format!("{name:?} is no name of a hook's variable: write it like VMCLOCK_GENERATION"));
            }
            if value.contains('\0') {
                return wrong(format!("{name}={value:?}: a variable cannot have a NUL"));
            }
        }
        Ok(())
    }
}

/// What the runner has to say.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "kebab-case")]
pub enum Report {
    /// A hook has ended, after its last attempt.
    Hook(HookResult),
    /// A run has ended, and all its hooks have been reported.
    Finished {
        /// The run's number, as it was given to [`Runner::run`].
        id: u64,
        /// Whether all required hooks succeeded.
        succeeded: bool,
    },
    /// The runner's process has ended; no more runs end. Start another [`Runner`].
    Died,
}

/// How a hook ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HookResult {
    /// The run's number.
    pub run: u64,
    /// The hook's name, without its order number.
    pub name: String,
    /// Its order number.
    pub order: u8,
    /// Whether it is required.
    pub required: bool,
    /// How its last attempt ended.
    #[serde(flatten)]
    pub status: HookStatus,
    /// How many attempts there were; 0 for what could not be loaded.
    pub attempts: u32,
    /// From the start of the first attempt to the end of the last, in milliseconds by `CLOCK_MONOTONIC`.
    pub duration_ms: u64,
    /// The last 4 KiB of what the last attempt wrote. What is not UTF-8 is replaced.
    pub tail: String,
}

impl HookResult {
    /// Whether it succeeded.
    pub fn has_succeeded(&self) -> bool {
        self.status == HookStatus::Succeeded
    }
}

impl fmt::Display for HookStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Succeeded => f.write_str("succeeded"),
            Self::Failed { exit_code } => write!(f, "failed with exit status {exit_code}"),
            Self::Killed { signal } => write!(f, "killed by signal {signal}"),
            Self::TimedOut => f.write_str("timed out"),
            Self::CannotStart { reason } => write!(f, "cannot start: {reason}"),
        }
    }
}

/// How an attempt ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "kebab-case")]
pub enum HookStatus {
    /// With exit status 0.
    Succeeded,
    /// With another exit status.
    Failed {
        /// The exit status.
        exit_code: i32,
    },
    /// By a signal that the runner did not send.
    Killed {
        /// The signal's number.
        signal: i32,
    },
    /// By the runner's signals, at its timeout.
    TimedOut,
    /// It did not begin.
    CannotStart {
        /// Why, and what helps.
        reason: String,
    },
}

/// The hidden subcommand of the binary that is a runner.
const RUNNER: &str = "hook-runner";
/// The hidden subcommand of the binary that becomes a hook.
const STAGE: &str = "hook-exec";

/// The hidden subcommands `hook-runner` and `hook-exec`, with which a [`Runner`] and [`serve`] call their own program
/// again. Such a program's `main` calls this first, with its arguments, before it has threads; and ends with what it
/// returns, if anything.
pub fn subcommand(arguments: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let mut arguments = arguments.into_iter().skip(1);
    let name = arguments.next()?;
    if name == STAGE {
        return Some(stage::run(arguments));
    }
    if name != RUNNER {
        return None;
    }
    let (Some(program), Some(folder), None) = (arguments.next(), arguments.next(), arguments.next()) else {
        eprintln!("vmclock-agent {RUNNER}: the agent calls this by itself, with its program and the hooks' folder");
        return Some(ExitCode::from(2));
    };
    let served = io::stdin().as_fd().try_clone_to_owned();
    match served.and_then(|socket| serve(socket, Path::new(&program), Path::new(&folder))) {
        Ok(()) => Some(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("vmclock-agent {RUNNER}: {error}");
            Some(ExitCode::FAILURE)
        }
    }
}
