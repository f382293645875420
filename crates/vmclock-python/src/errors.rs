// SPDX-License-Identifier: MIT OR Apache-2.0
//! Errors as the package's exceptions, which are classes of its `_errors.py`.

use std::fmt::Display;
use std::path::Path;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use vmclock::{Epoch, Loss, NoTime, OpenError, ParseError, ReadError, Vanished, WaitError};

use crate::reading;

/// An exception of a class, with its text and its reason. `attributes` sets more.
fn exception(
    class: &str,
    text: &dyn Display,
    reason: &str,
    attributes: impl FnOnce(&Bound<'_, PyDict>) -> PyResult<()>,
) -> PyErr {
    Python::attach(|py| {
        let make = || {
            let keywords = PyDict::new(py);
            attributes(&keywords)?;
            let class = py.import("vmclock._errors")?.getattr(class)?;
            class.call((text.to_string(), reason), Some(&keywords))
        };
        make().map_or_else(|error| error, PyErr::from_value)
    })
}

/// No more attributes.
#[allow(clippy::unnecessary_wraps)] // others fail
fn none(_: &Bound<'_, PyDict>) -> PyResult<()> {
    Ok(())
}

pub(crate) fn closed() -> PyErr {
    pyo3::exceptions::PyValueError::new_err("the clock is closed: open it again")
}

pub(crate) fn open(error: &OpenError) -> PyErr {
    let (class, reason, path) = match error {
        OpenError::NoDevice { path } => ("NoClockError", "no-device", path),
        OpenError::NoFile { path } => ("NoClockError", "no-file", path),
        OpenError::NoDriver { path, .. } => ("NoClockError", "no-driver", path),
        OpenError::Permission { path } => ("ClockPermissionError", "permission", path),
        OpenError::WrongKind { path, .. } => ("OpenError", "wrong-kind", path),
        OpenError::NotAPage { path, .. } => ("OpenError", "not-a-page", path),
        OpenError::Busy { path, .. } => ("OpenError", "busy", path),
        OpenError::Io { path, .. } => ("OpenError", "io", path),
        _ => return exception("OpenError", error, "other", |more| more.set_item("path", "")),
    };
    exception(class, error, reason, |more| more.set_item("path", path.as_os_str()))
}

pub(crate) fn no_time(error: NoTime) -> PyErr {
    let (reason, status) = match error {
        NoTime::FieldsOutsideSize { .. } => ("size", None),
        NoTime::Counter { .. } => ("counter", None),
        NoTime::Status(status) => ("status", Some(status.to_string())),
        NoTime::PeriodZero => ("period", None),
        NoTime::Shift(_) => ("shift", None),
        NoTime::TimeType(_) => ("time-type", None),
        NoTime::OutOfRange => ("out-of-range", None),
        _ => ("other", None),
    };
    exception("NoTimeError", &error, reason, |more| more.set_item("status", status))
}

pub(crate) fn not_a_page(error: &ParseError) -> PyErr {
    pyo3::exceptions::PyValueError::new_err(error.to_string())
}

pub(crate) fn read(error: &ReadError, path: &Path) -> PyErr {
    let vanished = |reason| exception("VanishedError", error, reason, |more| more.set_item("path", path.as_os_str()));
    match error {
        ReadError::NoTime(reason) => no_time(*reason),
        ReadError::Busy(busy) => {
            exception("BusyError", busy, "busy", |more| more.set_item("seq_count", busy.seq_count))
        }
        ReadError::Vanished { .. } => vanished("cut"),
        ReadError::NotAPage(_) => vanished("overwritten"),
        _ => exception("ReadError", error, "io", none),
    }
}

pub(crate) fn vanished(error: &Vanished) -> PyErr {
    let path = error.path.as_os_str();
    exception("VanishedError", error, loss(&error.loss), |more| more.set_item("path", path))
}

pub(crate) fn loss(loss: &Loss) -> &'static str {
    match loss {
        Loss::Removed => "removed",
        Loss::Replaced => "replaced",
        Loss::Cut { .. } => "cut",
        Loss::Overwritten(_) => "overwritten",
        Loss::Device => "device",
        _ => "other",
    }
}

pub(crate) fn wait(error: &WaitError, path: &Path) -> PyErr {
    match error {
        WaitError::Disrupted { from, to } => exception("DisruptedError", error, "disrupted", |more| {
            let epoch = |epoch: &Epoch| reading::Epoch::from(*epoch);
            more.set_item("before", epoch(from).into_pyobject(more.py())?)?;
            more.set_item("now", epoch(to).into_pyobject(more.py())?)
        }),
        WaitError::Read(error) => read(error, path),
        WaitError::Vanished(error) => vanished(error),
        WaitError::NoBounds => exception("CannotCompareError", error, "no-bounds", none),
        WaitError::NotComparable => exception("CannotCompareError", error, "not-comparable", none),
        WaitError::TimedOut { .. } => exception("WaitTimeoutError", error, "timed-out", none),
        _ => exception("ReadError", error, "other", none),
    }
}

#[cold]
pub(crate) fn no_utc() -> PyErr {
    let text = "the page gives no UTC: it is monotonic, or TAI-UTC is unknown to it";
    exception("NoTimeError", &text, "no-utc", |more| more.set_item("status", None::<String>))
}
