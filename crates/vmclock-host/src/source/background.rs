// SPDX-License-Identifier: MIT OR Apache-2.0
//! A source that may take long, measured in a thread of its own.
//!
//! The thread is detached: a source that is stuck in the kernel delays neither its publisher nor the end of the
//! process.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::event::{eventfd, EventfdFlags};

use super::{Measure, Measurement, Source, SourceError};

type Outcome = Result<Measurement, SourceError>;

/// A source that is measured in the background.
///
/// A measurement that is not fetched before the next one is started is dropped. One that takes longer than the interval
/// between two starts is handed out when it is there: it was begun at an earlier start, which its stamp shows.
///
/// ```
/// use vmclock_host::source::background::Background;
/// use vmclock_host::source::kernel::{KernelSource, Trust};
/// use vmclock_host::source::Source;
///
/// let mut source = Background::new(KernelSource::new(Trust::HostClock))?;
/// source.start();
/// let measurement = loop {
///     match source.result() {
///         Some(result) => break result?,
///         None => std::thread::yield_now(), // or wait until `ready()` is readable
///     }
/// };
/// assert_eq!(measurement.max_error, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Background {
    name: String,
    clock: String,
    is_tai: bool,
    shared: Arc<Shared>,
}

/// What the source and its thread have in common.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Readable exactly while the state is `Done`.
    ready: OwnedFd,
}

#[derive(Debug)]
enum State {
    Idle,
    Requested,
    UnderWay,
    Done(Outcome),
    /// Its owner is gone.
    Closed,
}

impl Background {
    /// Starts the thread, which waits until it is to measure. An error where the system gives no thread or no file
    /// descriptor.
    pub fn new(mut source: impl Measure) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::Idle),
            changed: Condvar::new(),
            ready: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        });
        let (name, clock, is_tai) = (source.name().to_owned(), source.clock(), source.is_tai());
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new().name("vmclock-source".into()).spawn(move || theirs.serve(&mut source))?;
        Ok(Self { name, clock, is_tai, shared })
    }
}

impl Source for Background {
    fn name(&self) -> &str {
        &self.name
    }

    fn clock(&self) -> String {
        self.clock.clone()
    }

    fn is_tai(&self) -> bool {
        self.is_tai
    }

    fn start(&mut self) {
        let mut state = self.shared.lock();
        if matches!(*state, State::Idle | State::Done(_)) {
            self.shared.set(&mut state, State::Requested);
        }
    }

    fn result(&mut self) -> Option<Outcome> {
        let mut state = self.shared.lock();
        if !matches!(*state, State::Done(_)) {
            return None;
        }
        match self.shared.set(&mut state, State::Idle) {
            State::Done(outcome) => Some(outcome),
            _ => None,
        }
    }

    fn ready(&self) -> Option<BorrowedFd<'_>> {
        Some(self.shared.ready.as_fd())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // The thread ends as soon as it is not stuck.
        self.shared.set(&mut self.shared.lock(), State::Closed);
    }
}

impl Shared {
    /// Held for a few instructions at a time, never while measuring.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and with it whether the file descriptor is readable. Gives the state before.
    fn set(&self, state: &mut State, next: State) -> State {
        let (was, is) = (matches!(state, State::Done(_)), matches!(next, State::Done(_)));
        // Neither can fail or block: the counter is 1 where there is a result, and 0 where not.
        if is && !was {
            let _ = rustix::io::write(&self.ready, &1_u64.to_ne_bytes());
        } else if was && !is {
            let _ = rustix::io::read(&self.ready, &mut [0; 8]);
        }
        self.changed.notify_one();
        std::mem::replace(state, next)
    }

    /// The thread: measures as often as that is requested.
    fn serve(&self, source: &mut impl Measure) {
        loop {
            let waits = |state: &mut State| matches!(state, State::Idle | State::Done(_));
            let mut state = self.changed.wait_while(self.lock(), waits).unwrap_or_else(PoisonError::into_inner);
            if matches!(*state, State::Closed) {
                return;
            }
            self.set(&mut state, State::UnderWay);
            drop(state);
            let outcome = measured(source);
            let mut state = self.lock();
            if matches!(*state, State::Closed) {
                return;
            }
            self.set(&mut state, State::Done(outcome));
        }
    }
}

/// A measurement; a source that panics is one that gives no time.
fn measured(source: &mut impl Measure) -> Outcome {
    let name = source.name().to_owned();
    // What a panic leaves half changed is the source's own, and its next measurement begins anew.
    catch_unwind(AssertUnwindSafe(|| source.measure())).unwrap_or_else(|_| {
        let reason = "its measurement panicked: this is a bug in vmclock; please report it".to_owned();
        Err(SourceError::NoTime { name, reason })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{LeapNotice, Stamp};
    use rustix::event::{poll, PollFd, PollFlags, Timespec};
    use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender, TryRecvError};
    use std::time::Duration;
    use vmclock_core::sample::Sample;
    use vmclock_core::time::Time;

    /// What takes longer never happens.
    const FOREVER: Duration = Duration::from_secs(30);

    /// What a scripted source does next.
    enum Step {
        /// Measures this counter value.
        Measure(u64),
        Fail,
        Panic,
    }

    /// A source that does what the test sends it, when the test sends it.
    struct Scripted {
        begun: Sender<()>,
        steps: Receiver<Step>,
        /// Gone when the source is dropped.
        _alive: Sender<()>,
    }

    impl Measure for Scripted {
        fn name(&self) -> &'static str {
            "scripted"
        }

        fn clock(&self) -> String {
            "script".into()
        }

        fn is_tai(&self) -> bool {
            true
        }

        fn measure(&mut self) -> Outcome {
            self.begun.send(()).expect("the test listens");
            match self.steps.recv().expect("the test is not over") {
                Step::Measure(counter) => Ok(Measurement {
                    stamp: Stamp::Tai(Sample { before: counter, time: Time::from_parts(0, 0), after: counter }),
                    max_error: 0,
                    estimated_error: 0,
                    synchronized: true,
                    leap: LeapNotice::default(),
                    era: 0,
                    steering: None,
                }),
                Step::Fail => Err(SourceError::Timeout { name: "scripted".into(), milliseconds: 1 }),
                Step::Panic => panic!("as scripted"),
            }
        }
    }

    struct Test {
        source: Background,
        begun: Receiver<()>,
        steps: Sender<Step>,
        alive: Receiver<()>,
    }

    impl Test {
        fn new() -> Self {
            let ((begins, begun), (steps, next), (lives, alive)) = (channel(), channel(), channel());
            let source = Background::new(Scripted { begun: begins, steps: next, _alive: lives }).expect("a thread");
            Self { source, begun, steps, alive }
        }

        /// Starts a measurement, and waits until the source is asked.
        fn start(&mut self) {
            self.source.start();
            self.begun.recv_timeout(FOREVER).expect("it measures");
        }

        fn step(&self, step: Step) {
            self.steps.send(step).expect("the source is there");
        }

        fn is_ready_within(&self, time: Duration) -> bool {
            let ready = self.source.ready().expect("a descriptor");
            let timeout = Timespec::try_from(time).expect("in range");
            poll(&mut [PollFd::new(&ready, PollFlags::IN)], Some(&timeout)).expect("polled") == 1
        }

        fn is_ready_now(&self) -> bool {
            self.is_ready_within(Duration::ZERO)
        }

        /// The counter that was measured, once that is done.
        fn counter(&mut self) -> Result<u64, SourceError> {
            assert!(self.is_ready_within(FOREVER));
            let result = self.source.result().expect("it is ready").map(|measurement| measurement.stamp.middle());
            assert!(!self.is_ready_now() && self.source.result().is_none(), "a result is handed out once");
            result
        }
    }

    /// Whether the thread has ended, or ends now.
    fn ended(alive: &Receiver<()>) -> bool {
        alive.recv_timeout(FOREVER) == Err(RecvTimeoutError::Disconnected)
    }

    #[test]
    fn a_result_is_there_when_the_descriptor_is_readable() {
        let mut test = Test::new();
        assert_eq!(
            (test.source.name(), test.source.clock(), test.source.is_tai()),
            ("scripted", "script".into(), true)
        );
        assert!(test.source.result().is_none() && !test.is_ready_now(), "nothing was started");
        for counter in 1..100 {
            test.start();
            assert!(test.source.result().is_none() && !test.is_ready_now(), "under way");
            test.step(Step::Measure(counter));
            assert_eq!(test.counter().expect("measured"), counter);
        }
        test.start();
        test.step(Step::Fail);
        assert!(matches!(test.counter(), Err(SourceError::Timeout { .. })));
    }

    #[test]
    fn a_slow_measurement_is_not_started_twice() {
        let mut test = Test::new();
        test.start();
        test.source.start();
        test.source.start();
        test.step(Step::Measure(1));
        assert_eq!(test.counter().expect("measured"), 1);
        test.start();
        test.step(Step::Measure(2));
        assert_eq!(test.counter().expect("measured"), 2);
        // When the thread has ended nothing more can begin: there were two measurements.
        let Test { source, begun, alive, .. } = test;
        drop(source);
        assert!(ended(&alive));
        assert!(begun.try_recv().is_err());
    }

    #[test]
    fn a_result_that_was_not_fetched_is_dropped_at_the_next_start() {
        let mut test = Test::new();
        test.start();
        test.step(Step::Measure(1));
        assert!(test.is_ready_within(FOREVER));
        test.start();
        assert!(test.source.result().is_none() && !test.is_ready_now(), "the first is not the second's result");
        test.step(Step::Measure(2));
        assert_eq!(test.counter().expect("measured"), 2);
    }

    #[test]
    fn a_source_that_is_stuck_keeps_nobody() {
        let mut test = Test::new();
        test.start();
        assert!(test.source.result().is_none());
        let Test { source, alive, steps, .. } = test;
        drop(source); // returns
        assert!(alive.try_recv() == Err(TryRecvError::Empty), "still stuck");
        // When it is not stuck any more its thread ends, and it is dropped.
        steps.send(Step::Measure(1)).expect("the source is there");
        assert!(ended(&alive));
    }

    #[test]
    fn a_source_that_waits_ends_with_its_owner() {
        let Test { source, alive, .. } = Test::new();
        drop(source);
        assert!(ended(&alive));
    }

    #[test]
    fn a_source_that_panics_gives_no_time() {
        let mut test = Test::new();
        test.start();
        test.step(Step::Panic);
        let error = test.counter().expect_err("no time").to_string();
        assert!(error.contains("scripted: its measurement panicked"), "{error}");
        test.start();
        test.step(Step::Measure(2));
        assert_eq!(test.counter().expect("measured again"), 2);
    }
}
