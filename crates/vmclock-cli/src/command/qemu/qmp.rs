// SPDX-License-Identifier: MIT OR Apache-2.0
//! QEMU's monitor: JSON lines over a socket of our own.
//!
//! Done by hand, as what matters here is what general clients hide: the host's counter when a command was sent and when its
//! answer came, the moment at which QEMU says that an event happened, and a bounded wait for everything.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use serde_json::{json, Value};
use vmclock_core::counter;
use vmclock_core::time::Span;
use vmclock_host::kernel::KernelClock;
use vmclock_host::sample::Sample;

/// How long QEMU may take to answer. It answers nothing while it saves or loads a snapshot.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest line. A QEMU that was taken over by its guest may send what it likes.
const LONGEST: usize = 4 << 20;

/// What QEMU says that happened.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Event {
    pub(super) name: String,
    pub(super) data: Value,
    /// The host's counter at the moment of QEMU's own time stamp, which is rounded down to a microsecond.
    pub(super) emitted: u64,
}

/// A command's answer, and the host's counter around it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) value: Value,
    pub(super) sent: u64,
    pub(super) received: u64,
}

pub(super) struct Qmp {
    stream: UnixStream,
    bytes: Vec<u8>,
    events: VecDeque<Event>,
    answers: VecDeque<(u64, Value)>,
    ended: bool,
    last_id: u64,
    stamps: Stamps,
}

impl Qmp {
    /// Waits for QEMU's greeting and answers it.
    pub(super) fn new(stream: UnixStream) -> anyhow::Result<Self> {
        stream.set_nonblocking(true).context("cannot make QEMU's monitor socket non-blocking")?;
        let mut qmp = Self {
            stream,
            bytes: Vec::new(),
            events: VecDeque::new(),
            answers: VecDeque::new(),
            ended: false,
            last_id: 0,
            stamps: Stamps::new(),
        };
        qmp.answer_by("its greeting", Instant::now() + PATIENCE, |value| value.get("QMP").is_some())?;
        qmp.command("qmp_capabilities", Value::Null)?;
        Ok(qmp)
    }

    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Whether QEMU has closed the connection.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    pub(super) fn take_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Takes the events of these names, wherever they are in the queue.
    pub(super) fn take_events(&mut self, names: &[&str]) -> Vec<Event> {
        let (taken, left) = self.events.drain(..).partition(|event| names.contains(&event.name.as_str()));
        self.events = left;
        Vec::from_iter::<VecDeque<_>>(taken)
    }

    /// Puts events back in front of the queue, as if they had not been taken.
    pub(super) fn put_back(&mut self, events: Vec<Event>) {
        events.into_iter().rev().for_each(|event| self.events.push_front(event));
    }

    /// How far the host's counter goes in so many nanoseconds.
    pub(super) fn ticks_in(&self, nanos: u64) -> u64 {
        self.stamps.ticks_in(nanos)
    }

    pub(super) fn has_event(&self, name: &str) -> bool {
        self.events.iter().any(|event| event.name == name)
    }

    /// Sends a command and waits for its answer; events that come meanwhile are kept.
    pub(super) fn command(&mut self, name: &str, arguments: Value) -> anyhow::Result<Answer> {
        self.last_id += 1;
        let id = self.last_id;
        let mut request = json!({"execute": name, "id": id});
        if !arguments.is_null() {
            request["arguments"] = arguments;
        }
        let line = format!("{request}\n");
        let sent = counter::read_ordered();
        if let Err(error) = self.stream.write_all(line.as_bytes()) {
            self.ended |= error.kind() == io::ErrorKind::BrokenPipe;
            return Err(error).with_context(|| format!("QEMU's monitor does not take the command {name}"));
        }
        let by = Instant::now() + PATIENCE;
        let (received, value) = self.answer_by(&format!("an answer to {name}"), by, |value| value["id"] == id)?;
        if let Some(error) = value.get("error") {
            bail!("QEMU refuses {name}: {}", error["desc"].as_str().unwrap_or("without a reason"));
        }
        Ok(Answer { value: value["return"].clone(), sent, received })
    }

    fn answer_by(&mut self, what: &str, by: Instant, is_it: impl Fn(&Value) -> bool) -> anyhow::Result<(u64, Value)> {
        loop {
            if let Some(index) = self.answers.iter().position(|(_, value)| is_it(value)) {
                return Ok(self.answers.remove(index).unwrap_or_default());
            }
            ensure!(!self.ended, "QEMU ended before it gave {what}; see what it said itself");
            let left = by.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "QEMU's monitor did not give {what} within {PATIENCE:?}: is QEMU stopped?");
            let timeout = Timespec { tv_sec: i64::try_from(left.as_secs())?, tv_nsec: left.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&self.stream, PollFlags::IN)], Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => self.receive()?,
                Err(errno) => return Err(errno).context("cannot wait for QEMU's monitor"),
            }
        }
    }

    /// Reads what has come, without waiting.
    pub(super) fn receive(&mut self) -> anyhow::Result<()> {
        let mut chunk = [0; 16 << 10];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => self.ended = true,
                Ok(len) => {
                    let arrived = counter::read_ordered();
                    self.bytes.extend_from_slice(&chunk[..len]);
                    self.split_lines(arrived)?;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // As when QEMU was killed with a command unread.
                Err(_) => self.ended = true,
            }
            return Ok(());
        }
    }

    fn split_lines(&mut self, arrived: u64) -> anyhow::Result<()> {
        while let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.bytes.drain(..=end).collect();
            let value: Value = serde_json::from_slice(&line).with_context(|| {
                format!("QEMU's monitor said {:?}, which is not JSON", String::from_utf8_lossy(&line))
            })?;
            match value["event"].as_str() {
                Some(name) => {
                    let emitted = self.stamps.counter_at(&value["timestamp"], arrived);
                    self.events.push_back(Event { name: name.into(), data: value["data"].clone(), emitted });
                }
                None => self.answers.push_back((arrived, value)),
            }
        }
        ensure!(self.bytes.len() <= LONGEST, "QEMU's monitor sends a line of more than {LONGEST} bytes");
        Ok(())
    }
}

/// From QEMU's time stamps, which are of `CLOCK_REALTIME`, to the host's counter.
struct Stamps {
    first: Sample,
}

impl Stamps {
    fn new() -> Self {
        Self { first: KernelClock::realtime_plus(0).sample() }
    }

    /// Never later than the stamp's arrival. A stamp without a sense, or one from before the clock was set, counts as of
    /// ten seconds ago.
    fn counter_at(&self, stamp: &Value, arrived: u64) -> u64 {
        counter_at(stamp, arrived, &self.first, &KernelClock::realtime_plus(0).sample())
    }

    fn ticks_in(&self, nanos: u64) -> u64 {
        ticks_in(nanos.into(), &self.first, &KernelClock::realtime_plus(0).sample())
    }
}

/// At the rate between two samples.
fn ticks_in(nanos: i128, first: &Sample, now: &Sample) -> u64 {
    let ticks = i128::from(now.middle().wrapping_sub(first.middle()));
    let elapsed = now.time.since(first.time).map_or(0, Span::floor_nanos).max(1);
    u64::try_from(nanos * ticks / elapsed).unwrap_or_default()
}

fn counter_at(stamp: &Value, arrived: u64, first: &Sample, now: &Sample) -> u64 {
    const LONG_AGO: i128 = 10_000_000_000;
    let age = || {
        let whole = i128::from(stamp["seconds"].as_i64()?) * 1_000_000_000;
        let at = whole + i128::from(stamp["microseconds"].as_i64()?) * 1_000;
        Some(now.time.floor_nanos() - at)
    };
    let age = age().filter(|age| (0..LONG_AGO).contains(age)).unwrap_or(LONG_AGO);
    let emitted = now.middle().wrapping_sub(ticks_in(age, first, now));
    // The nearer direction: both are of the same second.
    if arrived.wrapping_sub(emitted) >> 63 == 0 {
        emitted
    } else {
        arrived
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmclock_core::time::Time;

    fn pair() -> (Qmp, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let script = b"{\"QMP\": {}}\r\n{\"return\": {}, \"id\": 1}\r\n";
        (&theirs).write_all(script).expect("written");
        (Qmp::new(ours).expect("greeted"), theirs)
    }

    #[test]
    fn answers_and_events_are_told_apart() {
        let (mut qmp, mut qemu) = pair();
        qemu.write_all(b"{\"event\": \"STOP\", \"timestamp\": {\"seconds\": 1, \"microseconds\": 2}}\r\n{\"ret")
            .expect("written");
        qemu.write_all(b"urn\": {\"running\": false}, \"id\": 2}\r\n").expect("written");
        let answer = qmp.command("query-status", Value::Null).expect("answered");
        assert_eq!(answer.value["running"], false);
        assert!(qmp.has_event("STOP"));
        assert_eq!(qmp.take_events(&["STOP"]).len(), 1);
        assert_eq!(qmp.take_event(), None);
        qemu.write_all(b"{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such thing\"}, \"id\": 3}\n")
            .expect("written");
        let error = qmp.command("frob", Value::Null).expect_err("refused");
        assert_eq!(error.to_string(), "QEMU refuses frob: no such thing");
    }

    #[test]
    fn an_end_is_noticed_and_nonsense_is_an_error() {
        let (mut qmp, mut qemu) = pair();
        qemu.write_all(b"hello\n").expect("written");
        assert!(qmp.receive().expect_err("not JSON").to_string().contains("hello"));
        drop(qemu);
        qmp.receive().expect("the end");
        assert!(qmp.ended());
        assert!(qmp.command("stop", Value::Null).is_err());
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        drop(theirs);
        assert!(Qmp::new(ours).is_err_and(|error| error.to_string().contains("QEMU ended before")));
    }

    #[test]
    fn stamps_become_counter_values() {
        let at = |nanos: i128, counter: u64| Sample {
            before: counter,
            after: counter,
            time: Time::from_nanos(nanos).expect("in range"),
        };
        let (first, now) = (at(1_000_000_000, u64::MAX - 999), at(2_000_000_000, 2_999_999_000));
        let stamp = json!({"seconds": 1, "microseconds": 999_000});
        assert_eq!(counter_at(&stamp, 2_999_000_000, &first, &now), 2_996_999_000, "3 GHz, a millisecond ago");
        assert_eq!(counter_at(&stamp, 2_996_000_000, &first, &now), 2_996_000_000, "not after it came");
        let long_ago = 2_999_999_000_u64.wrapping_sub(30_000_000_000);
        for nonsense in [json!({"seconds": 1_000_000, "microseconds": 0}), json!({"seconds": -5}), Value::Null] {
            assert_eq!(counter_at(&nonsense, 2_999_000_000, &first, &now), long_ago, "{nonsense}");
        }
    }
}
