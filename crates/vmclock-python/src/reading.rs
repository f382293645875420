// SPDX-License-Identifier: MIT OR Apache-2.0
//! Readings and epochs.

use std::fmt::Write as _;

use pyo3::exceptions::{PyOverflowError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;
use vmclock::{Certainty, Interval, Scale, Smearing, UtcTime};

const NANOS_PER_SEC: i128 = 1_000_000_000;

/// An `int`. Those of 64 bits, as all nanoseconds of 1678 to 2262, are made faster.
#[derive(IntoPyObject)]
pub(crate) enum Int {
    Short(i64),
    Long(i128),
}

impl From<i128> for Int {
    #[inline]
    fn from(number: i128) -> Self {
        i64::try_from(number).map_or(Self::Long(number), Self::Short)
    }
}

/// Marker and generation: while they stay the same, the machine was neither migrated nor restored nor cloned.
#[pyclass(frozen, eq, hash, module = "vmclock")]
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Epoch(pub(crate) vmclock::Epoch);

impl From<vmclock::Epoch> for Epoch {
    fn from(epoch: vmclock::Epoch) -> Self {
        Self(epoch)
    }
}

#[pymethods]
impl Epoch {
    #[getter]
    fn disruption_marker(&self) -> u64 {
        self.0.disruption_marker
    }

    /// `None` where the page has none.
    #[getter]
    fn generation(&self) -> Option<u64> {
        self.0.generation
    }

    fn __repr__(&self) -> String {
        let generation = self.0.generation.map_or_else(|| "None".into(), |generation| format!("{generation:#x}"));
        format!("<Epoch marker={:#x} generation={generation}>", self.0.disruption_marker)
    }
}

/// The time at one value of the counter, with its error bounds. A value: it does not change.
#[pyclass(frozen, eq, module = "vmclock")]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reading(pub(crate) vmclock::Reading);

#[pymethods]
impl Reading {
    /// An aware datetime in UTC, rounded down to microseconds; `None` where the page gives no UTC.
    ///
    /// A datetime has no 23:59:60: in a leap second this is 23:59:59 once more, with `fold` = 1; `leap_second` and
    /// `isoformat` tell the two apart. Raises `OverflowError` beyond the year 9999.
    #[getter]
    fn utc<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.0.utc().map(|utc| datetime(py, &utc)).transpose()
    }

    /// UTC as POSIX counts it, in nanoseconds, rounded down; `None` where the page gives no UTC.
    #[getter]
    fn utc_ns(&self) -> Option<Int> {
        self.0.utc_timestamp().map(|utc| utc.nanos().into())
    }

    /// Whether this is inside 23:59:60; `None` where the page gives no UTC.
    #[getter]
    fn leap_second(&self) -> Option<bool> {
        self.0.utc().map(|utc| utc.leap_second)
    }

    /// Nanoseconds since 1970-01-01 00:00:00 TAI, rounded down; `None` where TAI is not known.
    #[getter]
    fn tai_ns(&self) -> Option<Int> {
        self.0.tai().map(|tai| tai.floor_nanos().into())
    }

    /// (earliest, latest) in TAI: true time is between them; `None` where the page states no maximum error.
    #[getter]
    fn tai_bounds_ns(&self) -> Option<(Int, Int)> {
        self.0.tai_interval().map(ends)
    }

    /// Nanoseconds on the page's own scale, rounded down.
    #[getter]
    fn time_ns(&self) -> Int {
        self.0.time().floor_nanos().into()
    }

    /// The exact time on the page's own scale, in 2^-64 s.
    #[getter]
    fn time_raw(&self) -> i128 {
        self.0.time().raw()
    }

    /// (earliest, latest) on the page's own scale; `None` where the page states no maximum error.
    #[getter]
    fn bounds_ns(&self) -> Option<(Int, Int)> {
        self.0.interval().map(ends)
    }

    /// The maximum error in ± nanoseconds, rounded up; `None` where the page states none.
    #[getter]
    fn max_error_ns(&self) -> Option<u128> {
        self.0.max_error_nanos()
    }

    /// The page's own scale: `utc`, `tai` or `monotonic`.
    #[getter]
    fn time_type(&self) -> String {
        self.0.time_type().to_string()
    }

    /// `synchronized` or `free-running`: the others give no time.
    #[getter]
    fn status(&self) -> String {
        self.0.status().to_string()
    }

    /// Marker and generation at this reading.
    #[getter]
    fn epoch(&self) -> Epoch {
        self.0.epoch().into()
    }

    /// The value of the CPU's counter at this reading.
    #[getter]
    fn counter(&self) -> u64 {
        self.0.counter()
    }

    /// How the page would like the clock to be smeared: `strict` (not at all), `noon-linear` or `utc-sls`.
    #[getter]
    fn smearing_hint(&self) -> String {
        self.0.smearing_hint().to_string()
    }

    /// UTC smeared around leap seconds, in nanoseconds, rounded down; `None` where the page gives no UTC.
    ///
    /// `smearing` is `noon-linear` (from the noon before the leap second to the noon after it) or `utc-sls` (over the last
    /// 1000 seconds of the leap day). Where it is `None`, it is as the page hints, and where that hints at none, so is the
    /// result. No second repeats and none is missing. Raises `ValueError` for another `smearing`.
    #[pyo3(signature = (smearing=None))]
    fn smeared_utc_ns(&self, smearing: Option<&str>) -> PyResult<Option<Int>> {
        let smeared = match smearing {
            None => self.0.smeared_utc_by_hint(),
            Some("noon-linear") => self.0.smeared_utc(Smearing::NoonLinear),
            Some("utc-sls") => self.0.smeared_utc(Smearing::UtcSls),
            Some(other) => {
                let text = format!("smearing is {other:?}: it must be \"noon-linear\", \"utc-sls\" or None");
                return Err(PyValueError::new_err(text));
            }
        };
        Ok(smeared.map(|smeared| smeared.floor_nanos().into()))
    }

    /// Whether this was taken before `other`, by true time; `None` where the bounds overlap or are not known.
    fn is_before(&self, other: &Bound<'_, Self>) -> Option<bool> {
        match self.0.is_before(&other.get().0) {
            Certainty::Yes => Some(true),
            Certainty::No => Some(false),
            Certainty::CannotTell => None,
        }
    }

    /// Whether this was certainly taken before `other`. `False` is no answer: it may have been.
    fn certainly_before(&self, other: &Bound<'_, Self>) -> bool {
        self.0.certainly_before(&other.get().0)
    }

    /// Whether this was certainly taken after `other`. `False` is no answer: it may have been.
    fn certainly_after(&self, other: &Bound<'_, Self>) -> bool {
        self.0.certainly_after(&other.get().0)
    }

    /// UTC as RFC 3339 has it, with nanoseconds, and with `:60` in a leap second; `None` where there is no UTC.
    fn isoformat(&self, py: Python<'_>) -> PyResult<Option<String>> {
        self.0.utc().map(|utc| isoformat(py, &utc)).transpose()
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        // A repr never fails: what has no UTC, or lies beyond the year 9999, has a number.
        let mut text = String::from("<Reading ");
        match self.isoformat(py) {
            Ok(Some(utc)) => text.push_str(&utc),
            _ => {
                let _ = write!(text, "{} {} ns", self.0.time_type(), self.0.time().floor_nanos());
            }
        }
        let _ = match self.0.max_error_nanos() {
            Some(error) => write!(text, " ± {error} ns"),
            None => write!(text, " without error bounds"),
        };
        let _ = write!(text, " {}>", self.0.status());
        text
    }
}

fn ends<S: Scale>(interval: Interval<S>) -> (Int, Int) {
    (interval.earliest.nanos().into(), interval.latest.nanos().into())
}

/// An aware datetime, rounded down to microseconds. In a leap second it is 23:59:59 once more, with `fold` = 1.
fn datetime<'py>(py: Python<'py>, utc: &UtcTime) -> PyResult<Bound<'py, PyAny>> {
    static EPOCH: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    static DELTA: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let epoch = EPOCH.get_or_try_init(py, || {
        let module = py.import("datetime")?;
        let zone = module.getattr("timezone")?.getattr("utc")?;
        module.getattr("datetime")?.call1((1970, 1, 1, 0, 0, 0, 0, zone)).map(Bound::unbind)
    })?;
    let delta = DELTA.get_or_try_init(py, || py.import("datetime")?.getattr("timedelta").map(Bound::unbind))?;
    let seconds = utc.time.seconds();
    let since =
        delta.bind(py).call1((0, seconds, utc.time.subsec_nanos() / 1000)).and_then(|since| epoch.bind(py).add(since));
    let time = since.map_err(|_| {
        PyOverflowError::new_err(format!("{seconds} s since 1970 are beyond what a datetime can hold: take utc_ns"))
    })?;
    if !utc.leap_second {
        return Ok(time);
    }
    let fold = PyDict::new(py);
    fold.set_item("fold", 1)?;
    time.call_method("replace", (), Some(&fold))
}

/// RFC 3339 with nine decimals, and with :60 in a leap second.
fn isoformat(py: Python<'_>, utc: &UtcTime) -> PyResult<String> {
    let text: String = datetime(py, utc)?.call_method1("strftime", ("%m-%dT%H:%M",))?.extract()?;
    // `strftime` does not fill up the years before 1000.
    let year: i32 = datetime(py, utc)?.getattr("year")?.extract()?;
    let second = if utc.leap_second { 60 } else { utc.time.seconds().rem_euclid(60) };
    Ok(format!("{year:04}-{text}:{second:02}.{:09}Z", utc.time.floor_nanos().rem_euclid(NANOS_PER_SEC)))
}
