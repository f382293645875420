// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock-agent`: see `vmclock-agent --help`.
#![forbid(unsafe_code)]

use std::env;
use std::fmt::Write as _;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use rustix::thread::{set_capabilities, CapabilitySet, CapabilitySets};
use serde_json::Value;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::pipe;
use vmclock_agent::agent::{Agent, Signal, Signals};
use vmclock_agent::clock::Kernel;
use vmclock_agent::config::{Config, ConfigError, ControlConfig};
use vmclock_agent::control::{ask, Request};
use vmclock_agent::hook;
use vmclock_agent::runner;
use vmclock_agent::status::Status;

/// How long an answer about the agent's state may take.
const STATUS_TIMEOUT: Duration = Duration::from_secs(10);

/// The right time in the system clock of a virtual machine, from the first moment after a restore.
#[derive(Parser)]
#[command(version, after_help = "Exit status: 0; 1 failed; 2 wrong command line; 3 the agent is not ready.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the agent, until SIGTERM; SIGHUP reads the configuration again
    Run {
        #[command(flatten)]
        config: ConfigPath,
    },
    /// Check the configuration and the hooks
    Check {
        #[command(flatten)]
        config: ConfigPath,
    },
    /// Show how the agent is
    Status {
        #[command(flatten)]
        socket: Socket,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Print metrics in the text format of Prometheus
    Metrics {
        #[command(flatten)]
        socket: Socket,
    },
    /// Before a snapshot: run the hooks of the event quiesce and freeze the workload, until the machine was restored
    Quiesce {
        #[command(flatten)]
        socket: Socket,
        /// How long that may take, in seconds
        #[arg(long, default_value_t = 120)]
        timeout: u64,
    },
    /// Let the workload go on, whatever the clock is
    Thaw {
        #[command(flatten)]
        socket: Socket,
    },
}

#[derive(Args)]
struct ConfigPath {
    /// The configuration [default: /etc/vmclock/agent.toml, if there is one]
    #[arg(long)]
    config: Option<PathBuf>,
}

#[derive(Args)]
struct Socket {
    /// The agent's socket [default: /run/vmclock/agent.sock]
    #[arg(long)]
    socket: Option<PathBuf>,
}

impl Socket {
    fn ask(&self, request: Request, timeout: Duration) -> Result<Value, String> {
        ask(self.socket.as_deref().unwrap_or(&ControlConfig::default().socket), request, timeout)
    }
}

fn main() -> ExitCode {
    if let Some(status) = runner::subcommand(env::args_os()) {
        return status;
    }
    match run(&Arguments::parse().command) {
        Ok(status) => status,
        Err(error) => {
            let _ = writeln!(io::stderr(), "vmclock-agent: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<ExitCode, String> {
    match command {
        Command::Run { config } => serve(config.config.as_deref()),
        Command::Check { config } => check(config.config.as_deref()),
        Command::Status { socket, json } => status(socket, *json),
        Command::Metrics { socket } => {
            let status: Status = serde_json::from_value(socket.ask(Request::Status, STATUS_TIMEOUT)?)
                .map_err(|error| format!("the agent's answer is not understood: {error}"))?;
            print(&status.metrics())
        }
        Command::Quiesce { socket, timeout } => {
            socket.ask(Request::Quiesce, Duration::from_secs((*timeout).max(1)))?;
            print("ready\n")
        }
        Command::Thaw { socket } => {
            socket.ask(Request::Thaw, STATUS_TIMEOUT)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn serve(path: Option<&Path>) -> Result<ExitCode, String> {
    let text = |error: ConfigError| error.to_string();
    let config = Config::load(path).map_err(text)?;
    let mut signals = Pipe::new().map_err(|error| format!("cannot wait for signals: {error}"))?;
    let mut agent = Agent::new(config, path.map(Path::to_owned), Path::new("/proc/self/exe"), Kernel)?;
    if let Err(error) = vmclock_agent::run_before_others() {
        let text = format!("cannot run before other processes ({error}): it takes CAP_SYS_NICE");
        let _ = writeln!(io::stderr(), "vmclock-agent: {text}");
    }
    drop_capabilities(agent.speaks_to_chronyd()).map_err(|error| format!("cannot give up capabilities: {error}"))?;
    agent.run(&mut signals).map(|()| ExitCode::SUCCESS)
}

/// Hooks have a process of their own, which keeps what they need. All else that the agent does, it does with files that
/// are root's, and with the clock; but chronyd is spoken to in a folder of its own user.
fn drop_capabilities(speaks_to_chronyd: bool) -> io::Result<()> {
    let mut sets = rustix::thread::capabilities(None)?;
    let mut kept = CapabilitySet::SYS_TIME;
    kept.set(CapabilitySet::DAC_OVERRIDE, speaks_to_chronyd);
    sets = CapabilitySets {
        effective: sets.effective & kept,
        permitted: sets.permitted & kept,
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, sets)?)
}

fn check(path: Option<&Path>) -> Result<ExitCode, String> {
    let config = Config::load(path).map_err(|error| error.to_string())?;
    let (hooks, errors) = hook::load(&config.hooks.folder);
    let mut text = format!("the configuration is in order; {} hooks\n", hooks.len());
    for hook in &hooks {
        let _ = writeln!(text, "  {:02}-{}: {}", hook.order, hook.name, hook.settings.events.join(" "));
    }
    print(&text)?;
    if errors.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    Err(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\nvmclock-agent: "))
}

fn status(socket: &Socket, json: bool) -> Result<ExitCode, String> {
    let answer = socket.ask(Request::Status, STATUS_TIMEOUT)?;
    if json {
        print(&format!("{answer}\n"))?;
    } else {
        let status: Status = serde_json::from_value(answer.clone())
            .map_err(|error| format!("the agent's answer is not understood: {error}"))?;
        print(&status.to_string())?;
    }
    Ok(if answer["ready"] == true { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

/// Whoever does not read to the end is no failure.
fn print(text: &str) -> Result<ExitCode, String> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(format!("cannot write: {error}")),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// A pipe for each kind of signal, as what happened is all that counts.
struct Pipe {
    end: UnixStream,
    reload: UnixStream,
    /// Readable when either of them is.
    epoll: rustix::fd::OwnedFd,
}

impl Pipe {
    fn new() -> io::Result<Self> {
        use rustix::event::epoll::{add, create, CreateFlags, EventData, EventFlags};
        let pair = |signals: &[i32]| {
            let (read, write) = UnixStream::pair()?;
            read.set_nonblocking(true)?;
            for signal in signals {
                pipe::register(*signal, write.try_clone()?)?;
            }
            io::Result::Ok(read)
        };
        let (end, reload) = (pair(&[SIGTERM, SIGINT])?, pair(&[SIGHUP])?);
        let epoll = create(CreateFlags::CLOEXEC)?;
        for stream in [&end, &reload] {
            add(&epoll, stream, EventData::new_u64(0), EventFlags::IN)?;
        }
        Ok(Self { end, reload, epoll })
    }
}

impl AsFd for Pipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl Signals for Pipe {
    fn take(&mut self) -> Option<Signal> {
        let mut bytes = [0; 64];
        let mut came = |stream: &mut UnixStream| matches!(stream.read(&mut bytes), Ok(len) if len > 0);
        if came(&mut self.end) {
            return Some(Signal::End);
        }
        came(&mut self.reload).then_some(Signal::Reload)
    }
}
