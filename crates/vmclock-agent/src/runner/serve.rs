// SPDX-License-Identifier: MIT OR Apache-2.0
//! The runner's process: what is started when, and the poll loop.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::path::{absolute, Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{getrlimit, Resource};

use super::message::{receive_message, send_message, Received, Request, LARGEST};
use super::process::Process;
use super::{HookEvent, HookResult, HookStatus, Report};
use crate::hook::{self, Hook, HookError};

/// So many hooks run at once, if there are file descriptors for them.
const MOST_AT_ONCE: u64 = 256;
/// A hook has three: of its process, its output, and why it could not start.
const FILES_EACH: u64 = 3;
/// For the socket, for hooks and settings while they are loaded, and while a hook is started.
const OTHER_FILES: u64 = 32;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Is the other end of a [`super::Runner`]: runs the hooks of a folder until the agent closes its end of the socket
/// (`SOCK_SEQPACKET`), and then until those that run have ended. `program` is called with `hook-exec` for each of them;
/// its `main` has to call [`super::subcommand`]. To be called in a process without other threads or children.
///
/// # Errors
///
/// The socket is none, or something else than an agent writes to it.
pub fn serve(socket: OwnedFd, program: &Path, folder: &Path) -> io::Result<()> {
    let mut server = Server {
        socket,
        program: absolute(program)?,
        folder: absolute(folder)?,
        agent: Agent::Present,
        queue: VecDeque::new(),
        run: None,
        reports: VecDeque::new(),
        abandoned: Vec::new(),
        buffer: vec![0; LARGEST],
    };
    loop {
        server.advance(Instant::now());
        server.send_reports();
        if let (Agent::Gone(_), None) = (&server.agent, &server.run) {
            let Agent::Gone(result) = mem::replace(&mut server.agent, Agent::Present) else { return Ok(()) };
            return result;
        }
        server.wait()?;
    }
}

struct Server {
    socket: OwnedFd,
    program: PathBuf,
    folder: PathBuf,
    agent: Agent,
    queue: VecDeque<Request>,
    run: Option<Run>,
    /// What the agent has not yet had room for.
    reports: VecDeque<Report>,
    /// Processes that could not be killed.
    abandoned: Vec<Child>,
    buffer: Vec<u8>,
}

enum Agent {
    Present,
    /// With what [`serve`] is to return.
    Gone(io::Result<()>),
}

fn most_at_once() -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let most = (files.saturating_sub(OTHER_FILES) / FILES_EACH).clamp(1, MOST_AT_ONCE);
    usize::try_from(most).unwrap_or(1)
}

/// All hooks for one event.
struct Run {
    id: u64,
    event: HookEvent,
    /// Those that wait for their first attempt or for the next one, by order number.
    waiting: VecDeque<Job>,
    running: Vec<(Job, Process)>,
    succeeded: bool,
    most_at_once: usize,
}

/// One hook's part in a run.
struct Job {
    hook: Hook,
    attempts: u32,
    /// When the first attempt began.
    began: Instant,
    /// When the next attempt may begin.
    not_before: Instant,
}

impl Server {
    /// Starts all that may be started now.
    fn advance(&mut self, now: Instant) {
        self.abandoned.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        if let Agent::Gone(_) = self.agent {
            self.queue.clear();
            if let Some(run) = &mut self.run {
                run.waiting.clear();
            }
        }
        loop {
            if let Some(run) = &mut self.run {
                run.start_hooks(&self.program, now, &mut self.reports);
                if !run.is_finished() {
                    return;
                }
                self.reports.push_back(Report::Finished { id: run.id, succeeded: run.succeeded });
                self.run = None;
            }
            match self.queue.pop_front() {
                Some(request) => self.run = Some(Run::new(request, &self.folder, now, &mut self.reports)),
                None => return,
            }
        }
    }

    fn send_reports(&mut self) {
        while let Some(report) = self.reports.front() {
            match send_message(&self.socket, report) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Sent, or the agent is gone, which reading from it tells.
                _ => self.reports.pop_front(),
            };
        }
    }

    /// Waits for the next thing to happen, and does what it asks for.
    fn wait(&mut self) -> io::Result<()> {
        let happened = self.poll()?;
        let now = Instant::now();
        if let Some(run) = &mut self.run {
            run.take_care(&happened.hooks, now, &mut self.reports, &mut self.abandoned);
        }
        if happened.readable {
            self.receive();
        }
        Ok(())
    }

    fn poll(&self) -> io::Result<Happened> {
        let present = matches!(self.agent, Agent::Present);
        let running = self.run.as_ref().map_or(&[][..], |run| &run.running);
        let mut fds = Vec::with_capacity(1 + 2 * running.len());
        if present {
            let room = if self.reports.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            fds.push(PollFd::new(&self.socket, PollFlags::IN | room));
        }
        for (_, process) in running {
            fds.push(PollFd::from_borrowed_fd(process.end(), PollFlags::IN));
            if let Some(output) = process.output() {
                fds.push(PollFd::from_borrowed_fd(output, PollFlags::IN));
            }
        }
        let left = self.run.as_ref().and_then(Run::deadline);
        let left = left.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        // A deadline is a day ahead at most, which a Timespec can hold.
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut fds, left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let readable = present && fds[0].revents().intersects(!PollFlags::OUT);
        if present {
            ready.next();
        }
        let hooks = running.iter().map(|(_, process)| {
            let ended = ready.next().unwrap_or_default();
            let has_written = process.output().is_some() && ready.next().unwrap_or_default();
            HookHappened { ended, has_written }
        });
        Ok(Happened { readable, hooks: hooks.collect() })
    }

    fn receive(&mut self) {
        loop {
            let received = receive_message::<Request>(&self.socket, &mut self.buffer);
            let checked = received.and_then(|received| match received {
                Received::Message(request) => request.event.check().map(|()| Received::Message(request)),
                other => Ok(other),
            });
            let result = match checked {
                Ok(Received::Message(request)) => {
                    self.queue.push_back(request);
                    continue;
                }
                Ok(Received::Nothing) => return,
                Ok(Received::End) => Ok(()),
                Err(error) => Err(error),
            };
            self.agent = Agent::Gone(result);
            return;
        }
    }
}

/// What a poll found.
struct Happened {
    /// The socket has something to read, or its end.
    readable: bool,
    /// For each hook that runs.
    hooks: Vec<HookHappened>,
}

struct HookHappened {
    ended: bool,
    has_written: bool,
}

impl Run {
    fn new(request: Request, folder: &Path, now: Instant, reports: &mut VecDeque<Report>) -> Self {
        let Request { id, event } = request;
        let (hooks, errors) = hook::load(folder);
        let mut succeeded = true;
        for error in errors.iter().filter(|error| event.names.iter().any(|name| error.concerns(name))) {
            succeeded &= !error.required;
            reports.push_back(Report::Hook(not_loaded(id, error)));
        }
        let wanted = hooks
            .into_iter()
            .filter(|hook| event.names.iter().any(|name| hook.settings.events.contains(&name.as_str())));
        let waiting = wanted.map(|hook| Job { hook, attempts: 0, began: now, not_before: now }).collect();
        Self { id, event, waiting, running: Vec::new(), succeeded, most_at_once: most_at_once() }
    }

    fn is_finished(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// The order number whose turn it is.
    fn turn(&self) -> Option<u8> {
        self.waiting.iter().chain(self.running.iter().map(|(job, _)| job)).map(|job| job.hook.order).min()
    }

    fn start_hooks(&mut self, program: &Path, now: Instant, reports: &mut VecDeque<Report>) {
        while self.running.len() < self.most_at_once {
            let Some(turn) = self.turn() else { return };
            let next = self.waiting.iter().position(|job| job.hook.order == turn && job.not_before <= now);
            let Some(mut job) = next.and_then(|next| self.waiting.remove(next)) else { return };
            if job.attempts == 0 {
                job.began = now;
            }
            job.attempts += 1;
            match Process::start(program, &job.hook, &self.event) {
                Ok(process) => self.running.push((job, process)),
                Err(reason) => self.ended(job, HookStatus::CannotStart { reason }, String::new(), reports),
            }
        }
    }

    /// Reads what hooks have written, and sees to those that have ended or whose time is over.
    fn take_care(
        &mut self,
        happened: &[HookHappened],
        now: Instant,
        reports: &mut VecDeque<Report>,
        abandoned: &mut Vec<Child>,
    ) {
        let mut still_running = Vec::with_capacity(self.running.len());
        for ((job, mut process), happened) in mem::take(&mut self.running).into_iter().zip(happened) {
            if happened.has_written {
                process.read_output();
            }
            if happened.ended || (now >= process.deadline() && process.expired(now)) {
                let (status, tail, alive) = process.finish();
                abandoned.extend(alive);
                self.ended(job, status, tail, reports);
            } else {
                still_running.push((job, process));
            }
        }
        self.running = still_running;
    }

    /// An attempt has ended: the hook has another, or is reported.
    fn ended(&mut self, mut job: Job, status: HookStatus, tail: String, reports: &mut VecDeque<Report>) {
        let now = Instant::now();
        let succeeded = status == HookStatus::Succeeded;
        if !succeeded && job.attempts <= job.hook.settings.retries {
            let doubled = FIRST_PAUSE.saturating_mul(1 << (job.attempts - 1).min(16));
            job.not_before = now + doubled.min(LONGEST_PAUSE);
            self.waiting.push_back(job);
            return;
        }
        let Job { hook, attempts, began, .. } = job;
        self.succeeded &= succeeded || !hook.settings.required;
        reports.push_back(Report::Hook(HookResult {
            run: self.id,
            name: hook.name,
            order: hook.order,
            required: hook.settings.required,
            status,
            attempts,
            duration_ms: u64::try_from(now.saturating_duration_since(began).as_millis()).unwrap_or(u64::MAX),
            tail,
        }));
    }

    /// When something is to be done even if nothing happens.
    fn deadline(&self) -> Option<Instant> {
        let turn = self.turn()?;
        let pauses = self.waiting.iter().filter(|job| job.hook.order == turn && self.running.len() < self.most_at_once);
        let pauses = pauses.map(|job| job.not_before);
        self.running.iter().map(|(_, process)| process.deadline()).chain(pauses).min()
    }
}

fn not_loaded(run: u64, error: &HookError) -> HookResult {
    HookResult {
        run,
        name: error.name.clone(),
        order: error.order,
        required: error.required,
        status: HookStatus::CannotStart { reason: error.to_string() },
        attempts: 0,
        duration_ms: 0,
        tail: String::new(),
    }
}
