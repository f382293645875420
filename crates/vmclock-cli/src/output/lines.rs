// SPDX-License-Identifier: MIT OR Apache-2.0
//! The only place that writes to standard output and standard error, in two ways.
//!
//! A command that prints a result and ends uses `print`: it waits for its reader, and reports what went wrong. A
//! command with a duty (a publisher, a watcher that runs hooks) uses `log`: neither a reader that went away, nor one
//! that does not read, nor a full disk may end that duty or hold it up. What cannot be written at once is dropped.

use std::fmt::Display;
use std::io::{stderr, stdout};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::{retry_on_intr, write, Errno};
use serde::Serialize;
use serde_json::{json, Value};

use super::json::complete;

/// Whether what goes to standard error are objects, too.
static ERRORS_AS_JSON: AtomicBool = AtomicBool::new(false);

/// A pipe that is writable takes so many bytes without blocking: `PIPE_BUF` of Linux.
const CHUNK: usize = 4096;

/// Nobody reads standard output any more, as in `vmclock bench | head -1`: an ordinary end, and nothing to report.
#[derive(Debug)]
pub(crate) struct ReaderGone;

impl Display for ReaderGone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("standard output has no reader any more")
    }
}

impl std::error::Error for ReaderGone {}

/// What became of a line that was logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Delivery {
    Written,
    /// Not written, or not all of it: the disk is full, or the reader too slow.
    Dropped,
    /// Neither this line nor any other will be read.
    ReaderGone,
}

/// Prints one line of JSON.
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&json_line(serde_json::to_value(value)?))
}

/// Prints text as it is, at once: another process may read it while this one continues. The error is [`ReaderGone`], or
/// says why it could not be written.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    print_bytes(text.as_bytes())
}

/// The same where it need not be text, as with paths.
pub(crate) fn print_bytes(bytes: &[u8]) -> anyhow::Result<()> {
    match write_all(stdout(), bytes, None).1 {
        Ok(()) => Ok(()),
        Err(Errno::PIPE) => Err(ReaderGone.into()),
        Err(errno) => Err(errno).context("cannot write to standard output"),
    }
}

/// From now on errors are objects, each on a line: `{"error": ..}`, with `exit_status` where the command ends by it.
pub(crate) fn errors_as_json() {
    ERRORS_AS_JSON.store(true, Ordering::Relaxed);
}

/// Prints why a command fails with this exit status, on standard error. If that cannot be written, the status remains.
pub(crate) fn print_error(error: impl Display, exit_status: u8) {
    let _ = write_all(stderr(), error_line(error, Some(exit_status)).as_bytes(), None);
}

fn error_line(error: impl Display, exit_status: Option<u8>) -> String {
    if !ERRORS_AS_JSON.load(Ordering::Relaxed) {
        return format!("vmclock: {error}\n");
    }
    let mut object = json!({"error": error.to_string()});
    if let Some(status) = exit_status {
        object["exit_status"] = status.into();
    }
    json_line(object)
}

/// One line of JSON, complete.
pub(crate) fn json_line(mut value: Value) -> String {
    complete(&mut value);
    format!("{value}\n")
}

/// Writes a line, which needs its line feed, to standard output, or drops it.
pub(crate) fn log(line: &str) -> Delivery {
    log_within(line, Duration::ZERO)
}

/// The same with one line of JSON.
pub(crate) fn log_json(value: Value) -> Delivery {
    log(&json_line(value))
}

/// The same, waiting so long for a reader that is slow.
pub(crate) fn log_within(line: &str, wait: Duration) -> Delivery {
    /// Whether the last line was written only in part.
    static IS_CUT: AtomicBool = AtomicBool::new(false);
    /// Whether it was reported that lines are dropped.
    static IS_REPORTED: AtomicBool = AtomicBool::new(false);

    match write_line(stdout(), line, wait, &IS_CUT) {
        Ok(()) => {
            IS_REPORTED.store(false, Ordering::Relaxed);
            Delivery::Written
        }
        Err(Errno::PIPE) => Delivery::ReaderGone,
        Err(errno) => {
            if !IS_REPORTED.swap(true, Ordering::Relaxed) {
                let why = if errno == Errno::AGAIN { "its reader is too slow".into() } else { errno.to_string() };
                log_error(format_args!("cannot write to standard output: {why}: lines are dropped meanwhile"));
            }
            Delivery::Dropped
        }
    }
}

/// Writes a line to standard error, as `vmclock: LINE` or an object, or drops it.
pub(crate) fn log_error(line: impl Display) -> Delivery {
    static IS_CUT: AtomicBool = AtomicBool::new(false);
    match write_line(stderr(), &error_line(line, None), Duration::ZERO, &IS_CUT) {
        Ok(()) => Delivery::Written,
        Err(Errno::PIPE) => Delivery::ReaderGone,
        Err(_) => Delivery::Dropped,
    }
}

/// Whether somebody may still read what is written here. A child that writes where nobody reads is killed by `SIGPIPE`.
pub(crate) fn has_reader(stream: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&stream, PollFlags::OUT)];
    let polled = retry_on_intr(|| poll(&mut fds, Some(&Timespec::default())));
    polled.is_err() || !fds[0].revents().contains(PollFlags::ERR)
}

/// Writes a line. After one that was cut it begins with a line feed, so that only the cut one is lost.
fn write_line(stream: impl AsFd, line: &str, wait: Duration, is_cut: &AtomicBool) -> rustix::io::Result<()> {
    let after_cut = format!("\n{line}");
    let line = if is_cut.load(Ordering::Relaxed) { &after_cut } else { line };
    let (written, result) = write_all(stream, line.as_bytes(), Some(wait));
    if let Some(last) = written.checked_sub(1).and_then(|last| line.as_bytes().get(last)) {
        is_cut.store(*last != b'\n', Ordering::Relaxed);
    }
    result
}

/// Writes all of it, waiting for the reader no longer than `limit` says: `AGAIN` then. Returns how many bytes were
/// written.
fn write_all(stream: impl AsFd, bytes: &[u8], limit: Option<Duration>) -> (usize, rustix::io::Result<()>) {
    let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    let mut rest = bytes;
    while let Some(chunk) = rest.chunks(CHUNK).next() {
        let written = wait_for_reader(&stream, deadline).and_then(|()| retry_on_intr(|| write(&stream, chunk)));
        match written {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            // Another process may have been faster.
            Err(Errno::AGAIN) if deadline.is_none_or(|deadline| Instant::now() < deadline) => {}
            Err(errno) => return (bytes.len() - rest.len(), Err(errno)),
        }
    }
    (bytes.len(), Ok(()))
}

/// Waits until it can be written without blocking; `AGAIN` if it cannot when time is up.
fn wait_for_reader(stream: impl AsFd, deadline: Option<Instant>) -> rustix::io::Result<()> {
    let mut fds = [PollFd::new(&stream, PollFlags::OUT)];
    let ready = retry_on_intr(|| {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        poll(&mut fds, left.and_then(|left| Timespec::try_from(left).ok()).as_ref())
    })?;
    if ready == 0 {
        Err(Errno::AGAIN)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{pipe, Read};
    use std::os::unix::fs::FileExt;

    const LINE: &str = "0123456789\n";

    fn full_disk() -> File {
        File::options().write(true).open("/dev/full").expect("Linux has it")
    }

    #[test]
    fn a_full_disk_is_an_error_and_a_closed_pipe_another() {
        assert_eq!(write_all(full_disk(), b"x", None), (0, Err(Errno::NOSPC)));
        assert!(has_reader(full_disk()));
        let (reader, writer) = pipe().expect("a pipe");
        assert!(has_reader(&writer));
        drop(reader);
        assert!(!has_reader(&writer));
        for limit in [None, Some(Duration::ZERO)] {
            assert_eq!(write_all(&writer, b"x", limit), (0, Err(Errno::PIPE)));
        }
    }

    #[test]
    fn a_reader_that_does_not_read_holds_nobody_up() {
        let (mut reader, writer) = pipe().expect("a pipe");
        let is_cut = AtomicBool::new(false);
        let mut lines = 0;
        // The pipe is full at some time, whatever its size.
        while write_line(&writer, LINE, Duration::ZERO, &is_cut).is_ok() {
            lines += 1;
        }
        assert_eq!(write_line(&writer, LINE, Duration::ZERO, &is_cut), Err(Errno::AGAIN));
        assert!(lines > 100, "only {lines}");
        // Also where a line is larger than all that fits.
        let long = format!("{}\n", "x".repeat(1 << 21));
        let (_other, full) = pipe().expect("a pipe");
        let (written, result) = write_all(&full, long.as_bytes(), Some(Duration::ZERO));
        assert!(result == Err(Errno::AGAIN) && written > 0 && written < long.len(), "{written}: {result:?}");
        // It reads again: whole lines.
        drop(std::thread::spawn(move || write_line(writer, LINE, Duration::from_secs(3600), &is_cut)));
        let mut all = String::new();
        reader.read_to_string(&mut all).expect("text");
        assert_eq!(all, LINE.repeat(lines + 1));
    }

    #[test]
    fn a_line_that_was_cut_spoils_no_other() {
        let file = tempfile::tempfile().expect("a file");
        let is_cut = AtomicBool::new(false);
        write_line(&file, LINE, Duration::ZERO, &is_cut).expect("written");
        // Of the next the disk takes four bytes.
        write(&file, &LINE.as_bytes()[..4]).expect("written");
        is_cut.store(true, Ordering::Relaxed);
        write_line(&file, LINE, Duration::ZERO, &is_cut).expect("written");
        write_line(&file, LINE, Duration::ZERO, &is_cut).expect("written");
        let mut bytes = [0; 64];
        let len = file.read_at(&mut bytes, 0).expect("readable");
        assert_eq!(std::str::from_utf8(&bytes[..len]), Ok(format!("{LINE}0123\n{LINE}{LINE}").as_str()));
    }

    #[test]
    fn a_cut_line_is_remembered() {
        let (mut reader, writer) = pipe().expect("a pipe");
        let is_cut = AtomicBool::new(false);
        let long = format!("{}\n", "x".repeat(1 << 21));
        assert_eq!(write_line(&writer, &long, Duration::ZERO, &is_cut), Err(Errno::AGAIN));
        assert!(is_cut.load(Ordering::Relaxed));
        // Dropped as a whole: it is still the same line that is cut.
        assert_eq!(write_line(&writer, LINE, Duration::ZERO, &is_cut), Err(Errno::AGAIN));
        assert!(is_cut.load(Ordering::Relaxed));
        reader.read_exact(&mut [0; CHUNK]).expect("readable");
        write_line(&writer, LINE, Duration::ZERO, &is_cut).expect("there is space again");
        assert!(!is_cut.load(Ordering::Relaxed));
    }
}
