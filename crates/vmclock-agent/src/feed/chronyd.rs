// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands for chronyd: after a disruption it has to drop what it measured.
//!
//! chronyd takes such commands over its Unix socket only, from whoever may write to it. It answers to an address of
//! ours, which has to be where it can reach it: beside its socket, as with `chronyc`. That takes the right to make
//! files there: as root with `CAP_DAC_OVERRIDE`, or as chronyd's user.
//!
//! [`Command::ResetSources`] is for when the clock was set: chronyd's measurements, in memory or under way, are of the
//! clock as it was. From chrony 4.3 on (2022) it also gives up what it was still slewing. Before that it does not, and
//! [`Command::MakeStep`] steps the clock by the rest of it: so there is no use for it after the clock was set, but to
//! end a slew at once before. Whoever sends it then measures again, and sets the clock again where it has to be.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{chmodat, fchmod, fstat, mkdirat, open, openat, unlinkat, AtFlags, Mode, OFlags};
use rustix::process::geteuid;
use vmclock_host::identity;
use vmclock_host::source::chrony::protocol::ReplyError;
use vmclock_host::source::chrony::Tracking;

pub use vmclock_host::source::chrony::protocol::Command;

/// Where Debian's, Fedora's and most other chronyds listen.
pub const DEFAULT_SOCKET: &str = "/run/chrony/chronyd.sock";
/// How long an answer may take, to the first request and to its repetition.
const TIMEOUT: Duration = Duration::from_millis(250);
const ATTEMPTS: u16 = 2;
/// How many datagrams are read at once, so that a daemon that floods us does not keep us.
const AT_ONCE: usize = 16;

/// Why chronyd did not do what it was told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChronydError {
    /// Its socket cannot be used.
    #[error("{}: cannot {doing}: {error}{}", path.display(), hint(error))]
    Io {
        /// chronyd's socket, or ours beside it.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// The system's error.
        error: io::Error,
    },
    /// No answer came.
    #[error(
        "{}: chronyd does not answer to `{command}` within {} ms: is it running?", path.display(),
        TIMEOUT.as_millis() * u128::from(ATTEMPTS)
    )]
    TimedOut {
        /// chronyd's socket.
        path: PathBuf,
        /// The command.
        command: Command,
    },
    /// It refused.
    #[error("{}: chronyd, told `{command}`, {error}", path.display())]
    Refused {
        /// chronyd's socket.
        path: PathBuf,
        /// The command.
        command: Command,
        /// Its answer.
        error: ReplyError,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => ": is chronyd running, and this its `bindcmdaddress`?",
        ErrorKind::PermissionDenied => {
            ": run as chronyd's user, or as root with CAP_DAC_OVERRIDE (which an agent that knew of chronyd at its start has)"
        }
        _ => "",
    }
}

/// A chronyd, by its Unix socket.
#[derive(Clone, Debug)]
pub struct Chronyd {
    path: PathBuf,
}

impl Default for Chronyd {
    fn default() -> Self {
        Self::new(DEFAULT_SOCKET)
    }
}

impl Chronyd {
    /// The one with this socket (`bindcmdaddress` of its configuration).
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Its socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sends the first of these commands. [`Conversation::advance`] does the rest.
    pub fn start(&self, commands: &[Command], now: Instant) -> Result<Conversation, ChronydError> {
        let failed = |doing| {
            let path = self.path.clone();
            move |error: io::Error| ChronydError::Io { path, doing, error }
        };
        let (socket, address) = Address::bind(&self.path).map_err(failed("make a socket beside it"))?;
        socket.connect(&self.path).map_err(failed("connect to it"))?;
        let conversation = Conversation {
            path: self.path.clone(),
            socket,
            _address: address,
            commands: commands.iter().copied().collect(),
            // chronyd answers to any; a number of its own tells a conversation from one before.
            sequence: std::process::id(),
            attempt: 0,
            deadline: now + TIMEOUT,
            tracking: None,
        };
        conversation.send()?;
        Ok(conversation)
    }
}

/// Commands on their way to chronyd, one after the other: poll its descriptor for input until
/// [`deadline`](Self::deadline), call [`advance`](Self::advance), and so on until that gives a result.
///
/// ```no_run
/// use std::time::Instant;
/// use rustix::event::{poll, PollFd, PollFlags, Timespec};
/// use vmclock_agent::feed::chronyd::{Chronyd, Command};
///
/// let mut conversation = Chronyd::default().start(&[Command::ResetSources, Command::MakeStep], Instant::now())?;
/// let result = loop {
///     let left = conversation.deadline().saturating_duration_since(Instant::now());
///     poll(&mut [PollFd::new(&conversation, PollFlags::IN)], Some(&Timespec::try_from(left)?))?;
///     if let Some(result) = conversation.advance(Instant::now()) {
///         break result;
///     }
/// };
/// # result?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Conversation {
    path: PathBuf,
    socket: UnixDatagram,
    _address: Address,
    /// The first is under way.
    commands: VecDeque<Command>,
    sequence: u32,
    attempt: u16,
    deadline: Instant,
    tracking: Option<Tracking>,
}

impl AsFd for Conversation {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Conversation {
    /// When to call [`advance`](Self::advance) even though nothing has come.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The answer to the last [`Command::Tracking`], if it has come.
    pub const fn tracking(&self) -> Option<Tracking> {
        self.tracking
    }

    /// Takes what has come, and sends what is next. `None`: not finished. The first error is the end of it, and what
    /// comes after is not sent.
    pub fn advance(&mut self, now: Instant) -> Option<Result<(), ChronydError>> {
        let mut reply = [0; 1024];
        for _ in 0..AT_ONCE {
            let Some(&command) = self.commands.front() else { return Some(Ok(())) };
            match self.socket.recv(&mut reply) {
                Ok(len) => match command.parse_reply(&reply[..len], self.sequence) {
                    Ok(_) => {
                        if command == Command::Tracking {
                            self.tracking = Tracking::parse(&reply[..len], self.sequence).ok();
                        }
                        self.commands.pop_front();
                        self.sequence = self.sequence.wrapping_add(1);
                        self.attempt = 0;
                        self.deadline = now + TIMEOUT;
                        if let Err(error) = self.send() {
                            return Some(Err(error));
                        }
                    }
                    // A second answer, as the first came late.
                    Err(ReplyError::ToSomethingElse) => {}
                    Err(error) => {
                        return Some(Err(ChronydError::Refused { path: self.path.clone(), command, error }));
                    }
                },
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if now < self.deadline {
                        return None;
                    }
                    self.attempt += 1;
                    if self.attempt >= ATTEMPTS {
                        return Some(Err(ChronydError::TimedOut { path: self.path.clone(), command }));
                    }
                    self.deadline = now + TIMEOUT;
                    return self.send().err().map(Err);
                }
                Err(error) => return Some(Err(self.failed("receive its answer", error))),
            }
        }
        None
    }

    /// Sends the command that is under way, if one is left.
    fn send(&self) -> Result<(), ChronydError> {
        let Some(command) = self.commands.front() else { return Ok(()) };
        match self.socket.send(&command.request(self.sequence, self.attempt)) {
            Ok(_) => Ok(()),
            // Its queue is full: as good as a datagram that was lost.
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(self.failed("send a command to it", error)),
        }
    }

    fn failed(&self, doing: &'static str, error: io::Error) -> ChronydError {
        ChronydError::Io { path: self.path.clone(), doing, error }
    }
}

/// A socket's name beside chronyd's, removed when dropped.
///
/// chronyd, which may run as another user, has to be able to write to it: anybody may. But chronyd owns the folder, and
/// must not be able to have us change the mode of anything else. So the socket is in a folder of ours, with a name that
/// cannot be guessed, in another that only we can list: whoever replaces that one does not know what to put there.
#[derive(Debug)]
struct Address {
    beside: File,
    outer: (String, File),
    inner: (String, File),
}

const SOCKET: &str = "sock";

impl Address {
    fn bind(chronyd: &Path) -> io::Result<(UnixDatagram, Self)> {
        let folder = chronyd.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let directory = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let beside = File::from(open(folder, directory | OFlags::PATH, Mode::empty())?);
        let make = |parent: &File, name: String| -> io::Result<(String, File)> {
            mkdirat(parent, &name, Mode::RWXU)?;
            let made = || -> io::Result<File> {
                let made = File::from(openat(parent, &name, directory | OFlags::NOFOLLOW, Mode::empty())?);
                if fstat(&made)?.st_uid != geteuid().as_raw() {
                    return Err(ErrorKind::PermissionDenied.into());
                }
                // For others to pass through, not to list.
                fchmod(&made, Mode::from_raw_mode(0o711))?;
                Ok(made)
            };
            match made() {
                Ok(made) => Ok((name, made)),
                Err(error) => {
                    let _ = unlinkat(parent, &name, AtFlags::REMOVEDIR);
                    Err(error)
                }
            }
        };
        let outer = make(&beside, format!("vmclock-agent.{:016x}", identity::never_used()?))?;
        let inner = match make(&outer.1, format!("{:016x}", identity::never_used()?)) {
            Ok(inner) => inner,
            Err(error) => {
                let _ = unlinkat(&beside, &outer.0, AtFlags::REMOVEDIR);
                return Err(error);
            }
        };
        let address = Self { beside, outer, inner };
        let path = folder.join(&address.outer.0).join(&address.inner.0).join(SOCKET);
        let socket = UnixDatagram::bind(path)?;
        socket.set_nonblocking(true)?;
        chmodat(&address.inner.1, SOCKET, Mode::from_raw_mode(0o666), AtFlags::empty())?;
        Ok((socket, address))
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        // What cannot be removed is an empty folder and a socket that nobody has.
        let _ = unlinkat(&self.inner.1, SOCKET, AtFlags::empty());
        let _ = unlinkat(&self.outer.1, &self.inner.0, AtFlags::REMOVEDIR);
        let _ = unlinkat(&self.beside, &self.outer.0, AtFlags::REMOVEDIR);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rustix::event::{poll, PollFd, PollFlags};
    use std::os::unix::fs::PermissionsExt;

    /// chronyd's socket, and what it was asked.
    pub(crate) struct Daemon {
        folder: tempfile::TempDir,
        socket: UnixDatagram,
    }

    impl Daemon {
        pub(crate) fn new() -> (Self, Chronyd) {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("chronyd.sock");
            let socket = UnixDatagram::bind(&path).expect("bound");
            socket.set_nonblocking(true).expect("set");
            (Self { folder, socket }, Chronyd::new(path))
        }

        pub(crate) fn asked(&self) -> Option<Asked> {
            let mut bytes = [0; 200];
            let (len, from) = self.socket.recv_from(&mut bytes).ok()?;
            assert!([28, 104].contains(&len) && bytes[..4] == [6, 1, 0, 0], "{len}");
            let sequence: [u8; 4] = bytes[8..12].try_into().expect("4");
            let mut reply = vec![0; 28];
            reply[..8].copy_from_slice(&[6, 2, 0, 0, bytes[4], bytes[5], 0, 1]);
            reply[16..20].copy_from_slice(&sequence);
            let half = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            let from = from.as_pathname().expect("a name").to_owned();
            Some(Asked { command: half(4), attempt: half(6), sequence, reply, from })
        }

        pub(crate) fn answer(&self, asked: &Asked) {
            self.socket.send_to(&asked.reply, &asked.from).expect("sent");
        }
    }

    /// A request, and the reply to it.
    pub(crate) struct Asked {
        pub(crate) command: u16,
        attempt: u16,
        sequence: [u8; 4],
        reply: Vec<u8>,
        from: PathBuf,
    }

    impl Asked {
        /// Where the question is for it, the answer is that the clock is so many seconds slow, a power of two or none, with
        /// 8 ms there and back and a dispersion of 1 ms.
        pub(crate) fn track(&mut self, slow: f64) {
            if self.command != 33 {
                return;
            }
            self.reply.resize(104, 0);
            self.reply[6..8].copy_from_slice(&[0, 5]);
            let body = &mut self.reply[28..];
            body[..4].copy_from_slice(&[192, 0, 2, 1]);
            body[25] = 2;
            for (at, seconds) in [(40, slow), (64, 0.007_812_5), (68, 0.000_976_562_5)] {
                body[at..at + 4].copy_from_slice(&coded(seconds).to_be_bytes());
            }
        }

        /// It has no reference.
        pub(crate) fn unsynchronize(&mut self) {
            self.reply[28 + 27] = 3;
        }
    }

    /// A power of two, or nothing, as chrony writes it.
    fn coded(seconds: f64) -> u32 {
        if seconds == 0.0 {
            return 0;
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let exponent = (seconds.log2() as i32 + 2) as u32;
        ((exponent & 0x7f) << 25) | (1 << 23)
    }

    #[test]
    fn commands_are_sent_one_after_the_other() {
        let (daemon, chronyd) = Daemon::new();
        let now = Instant::now();
        let mut talk = chronyd.start(&[Command::ResetSources, Command::MakeStep], now).expect("sent");
        assert!(talk.advance(now).is_none());
        let first = daemon.asked().expect("asked");
        assert_eq!((first.command, first.attempt), (66, 0));
        assert!(daemon.asked().is_none(), "one at a time");
        // The file is there for chronyd, whoever that is, and its folders are not for it to list.
        let modes: Vec<u32> = first
            .from
            .ancestors()
            .take(3)
            .map(|path| path.metadata().expect("there").permissions().mode() & 0o777)
            .collect();
        assert_eq!(modes, [0o666, 0o711, 0o711]);
        daemon.answer(&first);
        poll(&mut [PollFd::new(&talk, PollFlags::IN)], None).expect("readable");
        assert!(talk.advance(now).is_none());
        let second = daemon.asked().expect("asked");
        assert_eq!((second.command, second.attempt), (43, 0));
        assert_ne!(first.sequence, second.sequence);
        daemon.answer(&second);
        talk.advance(now).expect("finished").expect("done");
        drop(talk);
        assert_eq!(std::fs::read_dir(daemon.folder.path()).expect("read").count(), 1, "only chronyd's socket is left");
    }

    #[test]
    fn a_lost_datagram_is_repeated_and_a_late_answer_is_one() {
        let (daemon, chronyd) = Daemon::new();
        let start = Instant::now();
        let mut talk = chronyd.start(&[Command::MakeStep, Command::ResetSources], start).expect("sent");
        let late = daemon.asked().expect("asked");
        let then = talk.deadline();
        assert_eq!(then, start + TIMEOUT);
        assert!(talk.advance(then).is_none());
        let again = daemon.asked().expect("asked again");
        assert_eq!((again.command, again.attempt, again.sequence), (43, 1, late.sequence));
        daemon.answer(&late);
        daemon.answer(&again);
        assert!(talk.advance(then).is_none(), "the second answer is not one to the next command");
        let next = daemon.asked().expect("the next");
        assert_eq!((next.command, next.attempt), (66, 0));
        assert!(talk.advance(then + TIMEOUT).is_none());
        let error = talk.advance(then + 2 * TIMEOUT).expect("finished").expect_err("no answer").to_string();
        assert!(error.contains("`reset sources`") && error.contains("500 ms"), "{error}");
    }

    #[test]
    fn a_refusal_is_the_end_and_says_why() {
        let (daemon, chronyd) = Daemon::new();
        let now = Instant::now();
        let mut talk = chronyd.start(&[Command::ResetSources, Command::MakeStep], now).expect("sent");
        let mut asked = daemon.asked().expect("asked");
        asked.reply[9] = 3;
        daemon.answer(&asked);
        let error = talk.advance(now).expect("finished").expect_err("refused").to_string();
        assert!(error.contains("chrony 4.0 or later"), "{error}");
        assert!(daemon.asked().is_none(), "the second command was not sent");
    }

    #[test]
    fn without_a_daemon_it_says_so_and_leaves_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = Chronyd::new(folder.path().join("none")).start(&[Command::MakeStep], Instant::now());
        let error = error.expect_err("nobody").to_string();
        assert!(error.contains("is chronyd running"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).expect("read").count(), 0);
        let error = Chronyd::new(folder.path().join("no/such")).start(&[], Instant::now()).expect_err("no folder");
        assert!(error.to_string().contains("make a socket beside it"), "{error}");
    }

    #[test]
    fn no_commands_are_done_at_once() {
        let (_daemon, chronyd) = Daemon::new();
        let now = Instant::now();
        chronyd.start(&[], now).expect("started").advance(now).expect("finished").expect("done");
    }
}
