// SPDX-License-Identifier: MIT OR Apache-2.0
//! Subscribes to the service's events, and again whenever the connection ends.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use vmclock_host::service::client::{Client, ClientError};

use crate::tally::Tally;
use crate::{locked, spawn, ExporterError, Log, Report};

/// How long it waits before it tries again.
const PAUSE: Duration = Duration::from_secs(1);

/// A thread that follows the events.
pub(crate) struct Follower {
    end: Arc<End>,
    thread: JoinHandle<()>,
}

impl Follower {
    pub(crate) fn start(socket: PathBuf, tally: Arc<Mutex<Tally>>, log: Log) -> Result<Self, ExporterError> {
        let end = Arc::new(End::default());
        let of_thread = end.clone();
        let thread = spawn("follow the service's events", move || {
            while !of_thread.is_over() {
                // Why the service cannot be reached is the poller's to report.
                let _ = follow(&socket, &tally, &of_thread, &log);
                of_thread.pause();
            }
        })?;
        Ok(Self { end, thread })
    }

    /// Returns when the thread has ended.
    pub(crate) fn stop(self) {
        self.end.come();
        let _ = self.thread.join();
    }
}

/// Follows them until the connection ends.
fn follow(socket: &Path, tally: &Mutex<Tally>, end: &End, log: &Log) -> Result<(), ClientError> {
    let mut client = Client::connect(socket)?;
    client.subscribe()?;
    client.set_timeout(None)?;
    end.watch(client.fd().try_clone_to_owned().ok().map(UnixStream::from));
    if locked(tally).begin() {
        log(&Report::Gap);
    }
    while !end.is_over() {
        let event = client.next_event()?;
        locked(tally).note(&event);
    }
    Ok(())
}

/// Tells the thread to end, whatever it waits for.
#[derive(Default)]
struct End {
    state: Mutex<EndState>,
    changed: Condvar,
}

#[derive(Default)]
struct EndState {
    is_over: bool,
    /// The connection that the thread reads.
    stream: Option<UnixStream>,
}

impl End {
    fn is_over(&self) -> bool {
        locked(&self.state).is_over
    }

    fn watch(&self, stream: Option<UnixStream>) {
        locked(&self.state).stream = stream;
    }

    fn pause(&self) {
        let mut state = locked(&self.state);
        state.stream = None;
        let waited = self.changed.wait_timeout_while(state, PAUSE, |state| !state.is_over);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn come(&self) {
        let mut state = locked(&self.state);
        state.is_over = true;
        if let Some(stream) = &state.stream {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.changed.notify_all();
    }
}
