// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting for something to happen. What asyncio needs of it is in the package's `_events.py`.

use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::clock::{seconds, Clock, SLICE};
use crate::errors;
use crate::snapshot::Snapshot;

/// One thing that happened. `str()` describes it.
#[pyclass(frozen, eq, module = "vmclock")]
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Event(vmclock::Event);

#[pymethods]
impl Event {
    /// `disrupted`, `restored`, `maintenance-soon`, `maintenance-imminent`, `maintenance-cleared`, `status`, `counter`,
    /// `time-scale` or `refreshed`.
    #[getter]
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn __str__(&self) -> String {
        self.0.to_string()
    }

    fn __repr__(&self) -> String {
        format!("<Event {}: {}>", self.0.name(), self.0)
    }
}

/// What `Events` reports. `"restored" in notice` asks for an event.
#[pyclass(frozen, module = "vmclock")]
pub(crate) struct Notice(vmclock::Notice);

#[pymethods]
impl Notice {
    /// `changed`; `vanished`: the page is gone, and its time is not to be used; `returned`: there is one again.
    #[getter]
    fn kind(&self) -> &'static str {
        match self.0 {
            vmclock::Notice::Changed(_) => "changed",
            vmclock::Notice::Vanished(_) => "vanished",
            vmclock::Notice::Returned(_) => "returned",
            _ => "other",
        }
    }

    /// What happened. Several at once are normal; none where the page vanished.
    #[getter]
    fn events(&self) -> Vec<Event> {
        self.0.iter().map(Event).collect()
    }

    /// How the page vanished: see `VanishedError`. `None` where it did not.
    #[getter]
    fn loss(&self) -> Option<&'static str> {
        match &self.0 {
            vmclock::Notice::Vanished(vanished) => Some(errors::loss(&vanished.loss)),
            _ => None,
        }
    }

    /// The page before; `None` where it vanished.
    #[getter]
    fn before(&self) -> Option<Snapshot> {
        self.0.changes().map(|changes| Snapshot(changes.before))
    }

    /// The page now; `None` where it vanished.
    #[getter]
    fn after(&self) -> Option<Snapshot> {
        self.0.changes().map(|changes| Snapshot(changes.after))
    }

    fn __contains__(&self, name: &str) -> bool {
        self.0.iter().any(|event| event.name() == name)
    }

    fn __str__(&self) -> String {
        match &self.0 {
            vmclock::Notice::Vanished(vanished) => vanished.to_string(),
            notice => notice.iter().map(|event| event.to_string()).collect::<Vec<_>>().join("; "),
        }
    }

    fn __repr__(&self) -> String {
        format!("<Notice {}: {}>", self.kind(), self.__str__())
    }
}

/// Python's reference to this is exclusive while it waits: a second thread gets a `RuntimeError`.
#[pyclass(name = "NativeEvents", module = "vmclock")]
pub(crate) struct Events {
    events: Option<vmclock::Events>,
}

impl Events {
    pub(crate) fn of(events: vmclock::Events) -> Self {
        Self { events: Some(events) }
    }

    fn open(&mut self) -> PyResult<&mut vmclock::Events> {
        self.events.as_mut().ok_or_else(|| PyValueError::new_err("these events are closed: ask the clock for new ones"))
    }
}

#[pymethods]
impl Events {
    #[pyo3(signature = (timeout=None))]
    fn wait(&mut self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<Notice>> {
        let timeout = timeout.map(|timeout| seconds("timeout", timeout)).transpose()?;
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let events = self.open()?;
        loop {
            let left = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
            let waited = py.detach(|| events.wait(Some(left.min(SLICE))));
            match waited.map_err(|error| errors::read(&error, events.clock().path()))? {
                Some(notice) => return Ok(Some(Notice(notice))),
                None if left <= SLICE => return Ok(None),
                None => py.check_signals()?,
            }
        }
    }

    #[getter]
    fn is_notified(&mut self) -> PyResult<bool> {
        Ok(self.open()?.is_notified())
    }

    #[getter]
    fn clock(&mut self) -> PyResult<Clock> {
        Ok(Clock::of(self.open()?.clock().clone()))
    }

    fn fileno(&mut self) -> PyResult<i32> {
        Ok(self.open()?.as_fd().as_raw_fd())
    }

    fn close(&mut self) {
        self.events = None;
    }
}
