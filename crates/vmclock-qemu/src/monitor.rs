// SPDX-License-Identifier: MIT OR Apache-2.0
//! QEMU's monitor: the socket, and the host's counter at each message.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use serde_json::Value;
use vmclock_core::counter;
use vmclock_core::sample::Sample;
use vmclock_core::time::{Span, Utc};
use vmclock_host::kernel::KernelClock;

use crate::error::Error;
use crate::qmp::{self, Lines, Message};

/// A message, and when it was received.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) message: Message,
    /// The host's counter after it was received.
    pub(crate) at: u64,
    /// The host's counter at the time stamp of an event, rounded down; never later than `at`.
    pub(crate) emitted: u64,
}

/// Who may end a wait.
pub(crate) struct Wait<'a> {
    pub(crate) by: Instant,
    /// How long that is from the beginning, for an error.
    pub(crate) timeout: Duration,
    /// Readable after a signal.
    pub(crate) signals: BorrowedFd<'a>,
    /// Whether it ends the wait.
    pub(crate) is_interrupted: &'a mut dyn FnMut() -> bool,
}

/// A connection to QEMU's monitor.
pub(crate) struct Monitor {
    stream: UnixStream,
    lines: Lines,
    messages: VecDeque<Received>,
    is_closed: bool,
    last_id: u64,
    stamps: Stamps,
}

impl Monitor {
    /// Waits for QEMU's greeting and answers it.
    pub(crate) fn greet(stream: UnixStream, ticks_per_ms: u64, wait: &mut Wait<'_>) -> Result<Self, Error> {
        stream.set_nonblocking(true).map_err(Error::system("make QEMU's monitor socket non-blocking"))?;
        let mut monitor = Self {
            stream,
            lines: Lines::default(),
            messages: VecDeque::new(),
            is_closed: false,
            last_id: 0,
            stamps: Stamps { last: KernelClock::realtime().sample(), ticks_per_ms },
        };
        monitor.wait_for("its greeting", wait, |message| *message == Message::Greeting)?;
        monitor.run("qmp_capabilities", &Value::Null, wait)?;
        Ok(monitor)
    }

    /// Whether QEMU has closed the connection; there may be messages left.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// The next message of those that were received.
    pub(crate) fn take(&mut self) -> Option<Received> {
        self.messages.pop_front()
    }

    /// Sends a command. Gives its number, and the host's counter before. A QEMU that has ended does not take it, and
    /// that is noticed by whoever waits for the answer.
    pub(crate) fn send(&mut self, name: &str, arguments: &Value) -> (u64, u64) {
        self.last_id += 1;
        let line = qmp::line(self.last_id, name, arguments);
        let sent = counter::read_ordered();
        // With one command at a time the socket has space for it.
        self.is_closed |= self.stream.write_all(line.as_bytes()).is_err();
        (self.last_id, sent)
    }

    /// Sends a command and waits for its answer. Other messages are kept.
    pub(crate) fn run(&mut self, name: &str, arguments: &Value, wait: &mut Wait<'_>) -> Result<Value, Error> {
        let (ours, _) = self.send(name, arguments);
        let is_ours = |message: &Message| match message {
            Message::Answer { id, .. } => id.is_none_or(|id| id == ours),
            _ => false,
        };
        match self.wait_for(&format!("an answer to {name}"), wait, is_ours)? {
            Message::Answer { result: Ok(value), .. } => Ok(value),
            Message::Answer { result: Err(reason), .. } => Err(Error::Refused(refusal(name, &reason))),
            Message::Greeting | Message::Event(_) => Ok(Value::Null),
        }
    }

    fn wait_for(
        &mut self,
        what: &str,
        wait: &mut Wait<'_>,
        is_it: impl Fn(&Message) -> bool,
    ) -> Result<Message, Error> {
        loop {
            let found = self.messages.iter().position(|received| is_it(&received.message));
            if let Some(received) = found.and_then(|index| self.messages.remove(index)) {
                return Ok(received.message);
            }
            if self.is_closed {
                return Err(Error::Ended { awaited: what.into() });
            }
            let left = wait.by.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::NoAnswer { awaited: what.into(), timeout: wait.timeout });
            }
            let fds = [self.stream.as_fd(), wait.signals];
            poll_for(&fds, left)?;
            if (wait.is_interrupted)() {
                return Err(Error::Interrupted);
            }
            self.receive()?;
        }
    }

    /// Reads what has come, without waiting.
    pub(crate) fn receive(&mut self) -> Result<(), Error> {
        let mut chunk = [0; 16 << 10];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => self.is_closed = true,
                Ok(len) => {
                    let at = counter::read_ordered();
                    self.lines.push(&chunk[..len]);
                    while let Some(message) = self.lines.next()? {
                        let emitted = match &message {
                            Message::Event(event) => self.stamps.counter_at(event.stamp, at),
                            Message::Greeting | Message::Answer { .. } => at,
                        };
                        self.messages.push_back(Received { message, at, emitted });
                    }
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // As when QEMU was killed with a command unread.
                Err(_) => self.is_closed = true,
            }
            self.stamps.last = KernelClock::realtime().sample();
            return Ok(());
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Why QEMU does not do a command.
pub(crate) fn refusal(command: &str, reason: &str) -> String {
    format!("QEMU refuses {command}: {reason}")
}

/// Waits until one of these is readable, or so long.
pub(crate) fn poll_for(fds: &[BorrowedFd<'_>], left: Duration) -> Result<(), Error> {
    let seconds = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
    let timeout = Timespec { tv_sec: seconds, tv_nsec: left.subsec_nanos().into() };
    let mut fds: Vec<_> = fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(Error::system("wait for QEMU")(errno.into())),
    }
}

/// From QEMU's time stamps, which are of `CLOCK_REALTIME`, to the host's counter.
struct Stamps {
    /// Before whatever is received next.
    last: Sample<Utc>,
    ticks_per_ms: u64,
}

/// A time stamp that is older than so many nanoseconds is none.
const OLDEST: i128 = 10_000_000_000;
/// By so many nanoseconds the clock may be off its course between two samples, beyond [`RATE`], before it counts as
/// set.
const STEP: i128 = 100_000;
/// The counter's rate is known, and the clock is disciplined, within one part in so many.
const RATE: i128 = 1_000;

impl Stamps {
    /// Never later than the event was received.
    fn counter_at(&self, stamp: Option<i128>, received_at: u64) -> u64 {
        counter_at(stamp, received_at, &self.last, &KernelClock::realtime().sample(), self.ticks_per_ms)
    }
}

/// No stamp, one without a sense, and one from before the clock was set count as of ten seconds ago.
fn counter_at(stamp: Option<i128>, received_at: u64, last: &Sample<Utc>, now: &Sample<Utc>, ticks_per_ms: u64) -> u64 {
    let rate = i128::from(ticks_per_ms.max(1));
    let by_counter = i128::from(now.middle().wrapping_sub(last.middle())) * 1_000_000 / rate;
    let by_clock = now.time.since(last.time).map(Span::floor_nanos);
    let was_set = by_clock.is_none_or(|elapsed| (elapsed - by_counter).abs() > STEP + by_counter / RATE);
    let age = stamp.map(|stamp| now.time.floor_nanos() - stamp);
    let age = age.filter(|age| !was_set && (0..OLDEST).contains(age)).unwrap_or(OLDEST);
    let ticks = (age + age / RATE) * rate / 1_000_000;
    let emitted = now.middle().wrapping_sub(u64::try_from(ticks).unwrap_or_default());
    // The nearer direction: both are of the same seconds.
    if received_at.wrapping_sub(emitted) >> 63 == 0 {
        emitted
    } else {
        received_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmclock_core::time::Time;

    /// A monitor of ours, and what QEMU has of it.
    fn greeted() -> (Monitor, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        (&theirs).write_all(b"{\"QMP\": {}}\r\n{\"return\": {}, \"id\": 1}\r\n").expect("written");
        let greeted = within(Duration::from_secs(10), |wait| Monitor::greet(ours, 3_000_000, wait));
        (greeted.expect("greeted"), theirs)
    }

    fn within<T>(timeout: Duration, what: impl FnOnce(&mut Wait<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let (nobody, _signals) = UnixStream::pair().expect("a pair");
        let by = Instant::now() + timeout;
        what(&mut Wait { by, timeout, signals: nobody.as_fd(), is_interrupted: &mut || false })
    }

    fn run(monitor: &mut Monitor, name: &str) -> Result<Value, Error> {
        within(Duration::from_secs(10), |wait| monitor.run(name, &Value::Null, wait))
    }

    #[test]
    fn answers_are_found_among_events_which_keep_their_order() {
        let (mut monitor, mut qemu) = greeted();
        qemu.write_all(b"{\"event\": \"STOP\"}\r\n{\"event\": \"RESUME\"}\r\n{\"ret").expect("written");
        qemu.write_all(b"urn\": {\"running\": false}, \"id\": 2}\r\n").expect("written");
        assert_eq!(run(&mut monitor, "query-status").expect("answered")["running"], false);
        let events: Vec<_> = std::iter::from_fn(|| monitor.take()).collect();
        assert_eq!(events.len(), 2);
        assert!(format!("{:?}", events[0].message).contains("STOP"));
        assert!(events.iter().all(|received| received.at.wrapping_sub(received.emitted) >> 63 == 0));
        qemu.write_all(b"{\"error\": {\"desc\": \"no such thing\"}, \"id\": 3}\n").expect("written");
        let error = run(&mut monitor, "frob").expect_err("refused").to_string();
        assert_eq!(error, "QEMU refuses frob: no such thing");
    }

    #[test]
    fn an_end_is_noticed_whoever_waits() {
        let (mut monitor, qemu) = greeted();
        drop(qemu);
        monitor.receive().expect("the end");
        assert!(monitor.is_closed());
        assert!(matches!(run(&mut monitor, "stop"), Err(Error::Ended { .. })));
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        drop(theirs);
        let error = within(Duration::from_secs(10), |wait| Monitor::greet(ours, 1, wait)).err().expect("no greeting");
        assert!(error.to_string().contains("before it gave its greeting"), "{error}");
    }

    #[test]
    fn silence_ends_with_the_timeout_and_a_signal_ends_it_at_once() {
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        let error = within(Duration::from_millis(1), |wait| Monitor::greet(ours, 1, wait)).err().expect("silence");
        assert!(error.to_string().contains("did not give its greeting within 1ms"), "{error}");
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        let (signals, mut signal) = UnixStream::pair().expect("a pair");
        signal.write_all(b"x").expect("written");
        let day = Duration::from_secs(86_400);
        let mut wait =
            Wait { by: Instant::now() + day, timeout: day, signals: signals.as_fd(), is_interrupted: &mut || true };
        assert!(matches!(Monitor::greet(ours, 1, &mut wait), Err(Error::Interrupted)));
    }

    #[test]
    fn stamps_become_counter_values() {
        let at = |nanos: i128, counter: u64| Sample {
            before: counter,
            after: counter,
            time: Time::from_nanos(nanos).expect("in range"),
        };
        // 3 GHz, and a counter that wraps.
        let (last, now) = (at(1_000_000_000, u64::MAX - 999), at(2_000_000_000, 2_999_999_000));
        let counter_at = |stamp, received_at, now: &Sample<Utc>| counter_at(stamp, received_at, &last, now, 3_000_000);
        let stamp = Some(1_999_000_000);
        assert_eq!(counter_at(stamp, 2_999_000_000, &now), 2_996_996_000, "a millisecond and a thousandth ago");
        assert_eq!(counter_at(stamp, 2_996_000_000, &now), 2_996_000_000, "not after it was received");
        let long_ago = 2_999_999_000_u64.wrapping_sub(30_030_000_000);
        for nonsense in [Some(1_000_000_000_000_000), Some(-9_000_000_000), None] {
            assert_eq!(counter_at(nonsense, 2_999_000_000, &now), long_ago, "{nonsense:?}");
        }
        // The clock was set back, by an hour or by two milliseconds, or forward.
        for step in [-3_600_000_000_000, -2_000_000, 2_000_000] {
            let now = at(2_000_000_000 + step, 2_999_999_000);
            assert_eq!(counter_at(Some(1_999_900_000 + step), 2_999_000_000, &now), long_ago, "{step}");
        }
    }
}
