// SPDX-License-Identifier: MIT OR Apache-2.0
//! Opening a clock and reading it.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use vmclock::{OpenOptions, ReadError, VmClock};

use crate::cross::CrossTimestamp;
use crate::errors;
use crate::events::Events;
use crate::reading::{Epoch, Int, Reading};
use crate::snapshot::Snapshot;

/// Signals are Python's to handle, so that nothing waits longer than this without asking for them.
pub(crate) const SLICE: Duration = Duration::from_millis(50);

/// The page that is meant where none is named.
///
/// That is the environment variable VMCLOCK_PAGE if it is set and not empty; otherwise the first of /dev/vmclock0 and
/// /run/vmclock/page that exists; otherwise /dev/vmclock0.
#[pyfunction]
pub(crate) fn default_page() -> OsString {
    vmclock::default_page().into()
}

/// A duration from Python's seconds.
pub(crate) fn seconds(name: &str, value: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(value)
        .map_err(|_| PyValueError::new_err(format!("{name} is {value}: it must be a number of seconds, from 0 on")))
}

/// A clock of a virtual machine: a VMClock device, or a plain file with a page in it. Threads may share it.
///
/// `path` is `default_page()` where it is `None`. `max_wait` is how many seconds a reading waits for an update in progress
/// before it raises `BusyError`. `map=False` has the page read by system calls; `map_files=False` does so with plain files
/// only, and then no handler for SIGBUS is installed, which guards against a file that is cut short under its mapping.
///
/// Raises `OpenError`; where there is no clock `NoClockError`, which is a `FileNotFoundError`.
#[pyclass(frozen, module = "vmclock")]
pub(crate) struct Clock {
    clock: VmClock,
    /// What is closed is released with the object: others may be reading.
    closed: AtomicBool,
}

impl Clock {
    pub(crate) fn of(clock: VmClock) -> Self {
        Self { clock, closed: AtomicBool::new(false) }
    }

    #[inline]
    fn open(&self) -> PyResult<&VmClock> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(errors::closed());
        }
        Ok(&self.clock)
    }

    #[cold]
    fn error(&self, error: &ReadError) -> PyErr {
        errors::read(error, self.clock.path())
    }
}

#[pymethods]
impl Clock {
    #[new]
    #[pyo3(signature = (path=None, *, max_wait=0.1, map=true, map_files=true))]
    fn new(py: Python<'_>, path: Option<PathBuf>, max_wait: f64, map: bool, map_files: bool) -> PyResult<Self> {
        let options = OpenOptions::new().max_wait(seconds("max_wait", max_wait)?).map(map).map_files(map_files);
        let path = path.unwrap_or_else(vmclock::default_page);
        py.detach(|| options.open(path)).map(Self::of).map_err(|error| errors::open(&error))
    }

    /// The time now, with its error bounds.
    ///
    /// Two readings by one thread, or by two that wait for one another, are in order. Whether the page is still published
    /// is for `check` to find out. Raises `NoTimeError`, `BusyError`, `VanishedError`, or another `ReadError`.
    fn now(&self) -> PyResult<Reading> {
        self.open()?.now().map(Reading).map_err(|error| self.error(&error))
    }

    /// The same, cheaper, and some tens of nanoseconds early or late: for timing things, not for ordering them.
    fn now_unordered(&self) -> PyResult<Reading> {
        self.open()?.now_unordered().map(Reading).map_err(|error| self.error(&error))
    }

    /// UTC as POSIX counts it, in nanoseconds: what `time.time_ns()` would return were it right.
    ///
    /// During a leap second it repeats the second before. Raises what `now` raises, and `NoTimeError` where the page gives
    /// no UTC.
    fn now_ns(&self) -> PyResult<Int> {
        let reading = self.open()?.now().map_err(|error| self.error(&error))?;
        let utc = reading.utc_timestamp().ok_or_else(errors::no_utc)?;
        Ok(utc.nanos().into())
    }

    /// The machine's present epoch, to be compared with a later one by `is_current`.
    fn epoch(&self) -> PyResult<Epoch> {
        self.open()?.epoch().map(Epoch::from).map_err(|error| self.error(&error))
    }

    /// Whether this is still the same epoch: the machine was neither migrated nor restored nor cloned.
    fn is_current(&self, epoch: &Bound<'_, Epoch>) -> PyResult<bool> {
        self.open()?.is_current(&epoch.get().0).map_err(|error| self.error(&error))
    }

    /// The whole page at this moment, whether or not it gives a time.
    fn snapshot(&self) -> PyResult<Snapshot> {
        self.open()?.snapshot().map(Snapshot).map_err(|error| self.error(&error))
    }

    /// The page's time beside the system's clocks, all between two readings of the counter. Raises what `now` raises.
    fn cross_timestamp(&self) -> PyResult<CrossTimestamp> {
        self.open()?.cross_timestamp().map(CrossTimestamp).map_err(|error| self.error(&error))
    }

    /// Raises `VanishedError` where the page is not the published one any more. A reading does not find out.
    fn check(&self) -> PyResult<()> {
        self.open()?.check().map_err(|error| errors::vanished(&error))
    }

    /// Opens the clock at the same path with the same options once more: what to do when its page has vanished.
    fn reopen(&self, py: Python<'_>) -> PyResult<Self> {
        py.detach(|| self.clock.reopen()).map(Self::of).map_err(|error| errors::open(&error))
    }

    /// Commit-wait: returns when every clock has certainly passed `reading`, with a reading that is certainly after it.
    ///
    /// It takes about twice the maximum error; other threads go on meanwhile. Raises `DisruptedError` where the machine is
    /// in another epoch than that of `reading`, `CannotCompareError`, `WaitTimeoutError` after `timeout` seconds, and what
    /// `now` and `check` raise.
    #[pyo3(signature = (reading, timeout=10.0))]
    fn wait_until_after(&self, py: Python<'_>, reading: &Bound<'_, Reading>, timeout: f64) -> PyResult<Reading> {
        let (clock, reading) = (self.open()?, &reading.get().0);
        let mut left = seconds("timeout", timeout)?;
        loop {
            let slice = left.min(SLICE);
            left -= slice;
            match py.detach(|| clock.wait_until_after_within(reading, slice)) {
                Err(vmclock::WaitError::TimedOut { .. }) if !left.is_zero() => py.check_signals()?,
                result => return result.map(Reading).map_err(|error| errors::wait(&error, clock.path())),
            }
        }
    }

    /// What happens to the machine and its clock from now on.
    ///
    /// `refreshes`: whether refreshes of the calibration count too. `interval`: how often, in seconds, a page is polled
    /// whose device does not notify, and the path of a page that vanished.
    #[pyo3(signature = (*, refreshes=false, interval=0.01))]
    fn events<'py>(&self, py: Python<'py>, refreshes: bool, interval: f64) -> PyResult<Bound<'py, PyAny>> {
        let interval = seconds("interval", interval)?;
        let events = self.open()?.events().map(|events| events.with_refreshes(refreshes));
        let mut events = events.map_err(|error| self.error(&error))?;
        events.set_interval(interval).map_err(|error| self.error(&error))?;
        // What asyncio needs is said in Python.
        py.import("vmclock._events")?.getattr("Events")?.call1((Events::of(events),))
    }

    /// Where the clock was opened, as an absolute path; `mock` for a mock.
    #[getter]
    fn path(&self) -> &OsStr {
        self.clock.path().as_os_str()
    }

    /// Whether the page is mapped. Otherwise every reading costs system calls.
    #[getter]
    fn is_mapped(&self) -> bool {
        self.clock.is_mapped()
    }

    /// Whether the clock is closed.
    #[getter]
    fn closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// From now on methods raise `ValueError`. The page is unmapped when nothing refers to the clock any more.
    fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    fn __enter__(this: Py<Self>) -> Py<Self> {
        this
    }

    #[pyo3(signature = (*_error))]
    fn __exit__(&self, _error: &Bound<'_, pyo3::types::PyTuple>) {
        self.close();
    }

    fn __repr__(&self) -> String {
        format!("<Clock {}>", self.clock.path().display())
    }
}
