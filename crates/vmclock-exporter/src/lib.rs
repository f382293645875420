// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the host's service says of its clock, its sources and its guests, over HTTP.
//!
//! An [`Exporter`] is a client of the service's control socket, and needs no other rights. It gives metrics to
//! Prometheus, JSON to programs, and a page that draws the last hour to people: `docs/exporter.md` lists all of it.
//!
//! | module | what it is |
//! |---|---|
//! | `poller` | asks the service, for the history and when somebody wants a document that is older than a second |
//! | `follower` | subscribes to the service's events |
//! | `history` | offsets and bounds of the last hour |
//! | `tally` | how often each event came, and the last ones |
//! | `metrics`, `status` | the documents: for Prometheus, and as JSON |
//! | `page` | the page for people |
//! | `server` | HTTP, bounded in time, memory and connections |
//!
//! Two threads wait for the service, one for clients. A service that hangs delays no client by more than 5 s, and a
//! client that hangs delays nobody.
#![forbid(unsafe_code)]

mod follower;
mod history;
mod metrics;
mod page;
mod poller;
#[cfg(test)]
mod samples;
mod server;
mod status;
mod tally;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{mpsc, Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::Notify;

use follower::Follower;
use poller::Poller;
use tally::Tally;

/// What is exported, and where.
///
/// ```
/// use vmclock_exporter::Options;
/// let options = Options::of("/run/vmclock/page.control");
/// assert!(options.listen.ip().is_loopback());
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Options {
    /// The service's socket.
    pub socket: PathBuf,
    /// Where to listen: 127.0.0.1:9977 unless something else is stated.
    pub listen: SocketAddr,
    /// With more guests than this there are no metrics for each guest, only for all.
    pub most_guests: usize,
    /// How often the service is asked for the history of the last hour: 1 s to 1 min.
    pub interval: Duration,
}

impl Options {
    /// Those that are used where nothing else is stated.
    pub fn of(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 9977)),
            most_guests: 1_000,
            interval: Duration::from_secs(5),
        }
    }
}

/// Why nothing can be exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExporterError {
    /// The address cannot be listened at.
    #[error("cannot listen at {address}: {error}; name another address with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        error: io::Error,
    },
    /// The interval is not one of 1 s to 1 min.
    #[error("{interval:?} is no interval for the history: state 1 s to 60 s")]
    Interval {
        /// The interval.
        interval: Duration,
    },
    /// The system refused something else.
    #[error("cannot {doing}: {error}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The system's error.
        error: io::Error,
    },
}

/// What somebody who runs an exporter may want to log.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Report {
    /// The service does not answer, or for another reason than before.
    Unreachable {
        /// Why.
        reason: String,
    },
    /// It answers again.
    Reachable,
    /// Events of the service were missed: counters may be too low.
    Gap,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable { reason } => f.write_str(reason),
            Self::Reachable => f.write_str("the service answers again"),
            Self::Gap => f.write_str("the service's events are followed again; those in between were not counted"),
        }
    }
}

/// Called with each report, by several threads.
type Log = Arc<dyn Fn(&Report) + Send + Sync>;

/// Ends an [`Exporter`] from another thread.
#[derive(Clone, Debug)]
pub struct Stopper(Arc<Notify>);

impl Stopper {
    /// The exporter's [`serve`](Exporter::serve) returns soon, also if it was not called yet.
    pub fn stop(&self) {
        self.0.notify_one();
    }
}

/// An HTTP server of what a service says.
///
/// ```no_run
/// use vmclock_exporter::{Exporter, Options};
/// let exporter = Exporter::listen(Options::of("/run/vmclock/page.control"))?;
/// println!("http://{}/metrics", exporter.address());
/// exporter.serve(|report| eprintln!("{report}"))?;
/// # Ok::<(), vmclock_exporter::ExporterError>(())
/// ```
#[derive(Debug)]
pub struct Exporter {
    options: Options,
    listener: TcpListener,
    address: SocketAddr,
    stop: Arc<Notify>,
}

impl Exporter {
    /// Listens. The service need not run yet.
    pub fn listen(options: Options) -> Result<Self, ExporterError> {
        let (address, interval) = (options.listen, options.interval);
        if !(Duration::from_secs(1)..=Duration::from_secs(60)).contains(&interval) {
            return Err(ExporterError::Interval { interval });
        }
        let failed = |error| ExporterError::Listen { address, error };
        let listener = TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { options, listener, address, stop: Arc::new(Notify::new()) })
    }

    /// Where it listens, with the port that the system chose where 0 was asked for.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What ends it.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.stop.clone())
    }

    /// Serves until it is [stopped](Self::stopper). All threads have ended then.
    pub fn serve(self, log: impl Fn(&Report) + Send + Sync + 'static) -> Result<(), ExporterError> {
        let Self { options, listener, address, stop } = self;
        let log: Log = Arc::new(log);
        let tally = Arc::new(Mutex::new(Tally::default()));
        let follower = Follower::start(options.socket.clone(), tally.clone(), log.clone())?;
        let (wishes, wanted) = mpsc::channel();
        let poller = Poller::new(options, tally, log);
        let dropped = poller.dropped();
        let poller = spawn("poll the service", move || poller.run(&wanted))?;
        let served = server::serve(listener, address, wishes, dropped, &stop);
        follower.stop();
        // It ends as nobody can wish for a document any more.
        let _ = poller.join();
        served
    }
}

fn spawn(doing: &'static str, run: impl FnOnce() + Send + 'static) -> Result<thread::JoinHandle<()>, ExporterError> {
    thread::Builder::new().spawn(run).map_err(|error| ExporterError::Io { doing, error })
}

/// What a panic left is still a list of numbers.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
