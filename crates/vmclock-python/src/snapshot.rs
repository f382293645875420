// SPDX-License-Identifier: MIT OR Apache-2.0
//! One copy of a page.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use vmclock::CounterId;

use crate::errors;
use crate::reading::{Epoch, Reading};

/// One consistent copy of a page.
#[pyclass(frozen, eq, module = "vmclock")]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Snapshot(pub(crate) vmclock::Snapshot);

#[pymethods]
impl Snapshot {
    /// Decodes the page that the bytes begin with. Raises `ValueError` where they are not a page.
    #[staticmethod]
    fn from_bytes(page: &[u8]) -> PyResult<Self> {
        vmclock::Snapshot::from_prefix(page).map(Self).map_err(|error| errors::not_a_page(&error))
    }

    /// The page's structure, 112 bytes.
    #[allow(clippy::wrong_self_convention)] // Python has references only
    fn to_bytes(&self) -> [u8; 112] {
        self.0.to_bytes()
    }

    /// The time that the page gives at a value of its counter. Raises `NoTimeError`.
    ///
    /// `cpu_counter` is the counter of the CPU that is asked about, `x86-tsc` or `arm-cntvct`: this CPU's where it is
    /// `None`.
    #[pyo3(signature = (counter, cpu_counter=None))]
    fn at(&self, counter: u64, cpu_counter: Option<&str>) -> PyResult<Reading> {
        let cpu = match cpu_counter {
            None => vmclock::counter::ID,
            Some("x86-tsc") => CounterId::X86_TSC,
            Some("arm-cntvct") => CounterId::ARM_CNTVCT,
            Some(other) => {
                let text = format!("cpu_counter is {other:?}: it must be \"x86-tsc\" or \"arm-cntvct\"");
                return Err(PyValueError::new_err(text));
            }
        };
        vmclock::Reading::new(&self.0, counter, cpu).map(Reading).map_err(errors::no_time)
    }

    #[getter]
    fn size(&self) -> u32 {
        self.0.size
    }

    #[getter]
    fn counter_id(&self) -> String {
        self.0.counter_id.to_string()
    }

    #[getter]
    fn time_type(&self) -> String {
        self.0.time_type.to_string()
    }

    #[getter]
    fn seq_count(&self) -> u32 {
        self.0.seq_count
    }

    #[getter]
    fn disruption_marker(&self) -> u64 {
        self.0.disruption_marker
    }

    /// The names of the flags that are set.
    #[getter]
    fn flags(&self) -> Vec<&'static str> {
        self.0.flags.names().collect()
    }

    #[getter]
    fn status(&self) -> String {
        self.0.clock_status.to_string()
    }

    #[getter]
    fn smearing_hint(&self) -> String {
        self.0.leap_second_smearing_hint.to_string()
    }

    /// TAI-UTC in seconds at the reference time, 37 since 2017; `None` where the page has none.
    #[getter]
    fn tai_offset(&self) -> Option<i16> {
        self.0.tai_offset().map(vmclock::TaiOffset::seconds)
    }

    #[getter]
    fn leap_indicator(&self) -> String {
        self.0.leap_indicator.to_string()
    }

    /// The counter at the reference time.
    #[getter]
    fn counter_value(&self) -> u64 {
        self.0.counter_value
    }

    #[getter]
    fn generation(&self) -> Option<u64> {
        self.0.generation()
    }

    #[getter]
    fn epoch(&self) -> Epoch {
        vmclock::Epoch::of(&self.0).into()
    }

    fn __repr__(&self) -> String {
        let page = &self.0;
        format!(
            "<Snapshot {} {} seq_count={} marker={:#x}>",
            page.time_type, page.clock_status, page.seq_count, page.disruption_marker
        )
    }
}
